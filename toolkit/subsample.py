"""Equal samples of stores, and the coordinate system they are compared in. Letters in shapes: n steps, E episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from toolkit import registry
from toolkit.core import Array, child_seed

if TYPE_CHECKING:
    from toolkit.store import ReplayStore

COORDINATE_BINS = 16  # of each task coordinate, for state-action bins
ACTION_BINS = 8  # of each action number
CONTEXTS = 1000  # training contexts of a suite behind the range of each context number


@dataclass(frozen=True)
class Sample:
    """Steps of one store: n of them, from E episodes."""

    store: ReplayStore
    states: Array  # (n, O)
    points: Array  # (n, D)
    actions: Array  # (n, A) float32, or (n,) the numbers of choices
    episode: Array  # (n,) 0 .. E-1
    chosen: Array  # (E,) positions in the store


@dataclass(frozen=True)
class Frame:
    """The coordinate system in which stores are compared."""

    names: tuple[str, ...]
    extent: Array  # (2, D)
    mean: Array  # (O,) of all samples pooled
    std: Array  # (O,) 1 where the number is constant
    limits: Array  # (2, A) least and greatest action: the schema's limits, or what was seen where there are none
    context_range: Array  # (C,)


def common_suite(stores: Sequence[ReplayStore]) -> str:
    """The suite of all stores, '' for none. Raises ValueError if they differ, or their spaces do."""
    first = stores[0].schema
    for store in stores:
        one, two = (s.environment.get("suite", "") for s in (first, store.schema))
        if one != two:
            raise ValueError(
                f"{store.path} is of suite {two or 'none'!r}, {stores[0].path} of {one or 'none'!r}: "
                "descriptors compare stores of one suite; measure the others in a call of their own"
            )
        spaces = [([k.size for k in s.observations], s.action, s.discrete) for s in (first, store.schema)]
        if spaces[0] != spaces[1]:
            raise ValueError(f"{store.path} has other observations or actions than {stores[0].path}")
    name = str(first.environment.get("suite", ""))
    return name if name in registry.suites() else ""


def draw(store: ReplayStore, size: int, seed: int) -> Sample:
    """Whole episodes of a store or view in seeded random order, until there are `size` steps; the last one is cut.

    Raises ValueError if it holds fewer steps, or they are all of one episode.
    """
    if len(store) == 0:
        raise ValueError(f"{store.path} holds no episodes yet; append some and commit")
    if store.schema.obs_dim == 0:
        raise ValueError(f"{store.path} has images only; descriptors need numbers in the observation")
    if size < 1:
        raise ValueError(f"sample must be at least 1 transition, got {size}")
    if store.transitions < size:
        raise ValueError(
            f"{store.path} holds {store.transitions} transitions, fewer than the {size} of the sample; all stores need "
            f"as many: ask for at most {store.transitions}"
        )
    order = np.random.default_rng(child_seed(seed, "coverage", "episodes")).permutation(len(store))
    until = np.cumsum(store.episodes["length"][order])
    chosen = order[: int(np.searchsorted(until, size)) + 1]
    if len(chosen) < 2:
        raise ValueError(
            f"{size} transitions of {store.path} are one episode; a sample needs two or more: ask for more than "
            f"{int(store.episodes['length'][order[0]])}"
        )
    name = str(store.schema.environment.get("suite", ""))
    suite = registry.suites().get(name)
    states, points, actions, episode, left = [], [], [], [], size
    for number, index in enumerate(chosen.tolist()):
        found = store.episode(index)
        keep = min(len(found), left)
        obs = {key: values[:keep] for key, values in found.observations().items()}
        states.append(store.schema.flatten(obs))
        try:
            points.append(np.asarray(suite.coordinates(obs), np.float64) if suite else np.zeros((keep, 0)))
        except (KeyError, ValueError, IndexError) as error:
            raise ValueError(
                f"{store.path} says it is of suite {name!r}, but has the observations "
                f"{', '.join(obs)}, in which that finds no coordinates ({type(error).__name__}: {error})"
            ) from None
        packed = store.schema.action.pack(found.action[:keep])
        actions.append(packed.argmax(-1) if store.schema.discrete else packed)
        episode.append(np.full(keep, number))
        left -= keep
    columns = [np.concatenate(part) for part in (states, points, actions, episode)]
    return Sample(store, columns[0], columns[1], columns[2], columns[3], chosen)


def make_frame(name: str, samples: Sequence[Sample]) -> Frame:
    """The frame of samples of suite `name`; '' describes states by their observations, standardised all together."""
    schema = samples[0].store.schema
    states = np.concatenate([s.states for s in samples]).astype(np.float64)
    mean, std = states.mean(0), states.std(0)
    std[std < 1e-9 * np.maximum(1.0, np.abs(mean))] = 1.0
    contexts = np.concatenate([s.store.episodes["context"][s.chosen] for s in samples])
    if name:
        suite = registry.suite(name)
        points = np.concatenate([s.points for s in samples])
        names = suite.coordinate_names or tuple(f"coordinate {i}" for i in range(points.shape[1]))
        if schema.context_names == suite.context_names:
            contexts = suite.contexts("train", CONTEXTS, seed=0)
    else:
        points = (states - mean) / std
        names = tuple(f"standardised {key.name} {i}" for key in schema.observations for i in range(key.size))
    extent = np.stack([points.min(0), points.max(0)])
    if name and suite.extent:
        extent = np.array(suite.extent).T
    extent[1] = np.where(extent[1] > extent[0], extent[1], extent[0] + 1.0)  # a coordinate that never changes
    actions = np.concatenate([s.actions for s in samples]).reshape(len(states), -1)
    limits = [
        [found if stated is None else stated for stated, found in zip(end, seen, strict=False)]
        for end, seen in ((schema.action.low, actions.min(0)), (schema.action.high, actions.max(0)))
    ]
    return Frame(names, extent, mean, std, np.asarray(limits, np.float64), np.ptp(contexts, axis=0))


def points_of(sample: Sample, frame: Frame) -> Array:
    """(n, D) what states are described by: task coordinates, or standardised observations."""
    return sample.points if sample.points.shape[1] else (sample.states - frame.mean) / frame.std


def bins(sample: Sample, frame: Frame) -> Array:
    """(n, D + A) integer bins of states and actions."""

    def place(values: Array, ends: Array, count: int) -> Array:
        share = (values - ends[0]) / np.where(ends[1] > ends[0], ends[1] - ends[0], 1.0)
        return np.clip((share * count).astype(np.int64), 0, count - 1)

    states = place(points_of(sample, frame), frame.extent, COORDINATE_BINS)
    if sample.store.schema.discrete:
        return np.column_stack([states, sample.actions])
    return np.column_stack([states, place(sample.actions, frame.limits, ACTION_BINS)])


def grid(sample: Sample, frame: Frame) -> float:
    """How many bins there are."""
    schema = sample.store.schema
    actions = schema.action_dim if schema.discrete else float(ACTION_BINS) ** schema.action_dim
    return float(COORDINATE_BINS) ** len(frame.names) * actions
