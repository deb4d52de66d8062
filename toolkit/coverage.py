"""How diverse is a store? Descriptors at one sample size, with intervals over episodes.

Coverage grows with the number of transitions, so every store is measured on equally many: whole episodes in seeded
random order until there are `sample` transitions, the last one cut. Only these are read, one at a time, so a
store may be larger than memory. NumPy and SciPy only. Intervals resample the sampled episodes (`cluster_interval`):
they speak of other episodes in the same contexts, not of other contexts.

Diversity has two axes, never merged (contexts and coverage), and one descriptor cannot tell them apart:

- `behaviour_entropy` is H(a|s): how uncertain the action is for one who sees the state. It grows with noise, and
  also with contexts where these are hidden from the state and known to the behaviour: two goals make two
  actions right in one place. H(a|s) = H(a|s, c) + I(a; c|s). States are compared across episodes.
- `behaviour_entropy_within` is H(a|s, e), e the episode: within one episode the context stands still, so it is
  H(a|s, c) wherever all episodes of a context follow one behaviour, as in `toolkit.collect`, and else below it
  by what the episode tells of its behaviour. It is the dial of noise and random actions; contexts do not turn it. Each
  episode is compared with itself alone, so its bias does not depend on how many episodes share a context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from toolkit import registry
from toolkit.core import Array, child_seed
from toolkit.entropy import CHUNK, action_terms, choice_terms, cluster_interval, mean_interval, state_terms
from toolkit.stats import Estimate
from toolkit.subsample import Frame, Sample, bins, common_suite, draw, grid, make_frame, points_of

if TYPE_CHECKING:
    from toolkit.store import ReplayStore

SAMPLE = 10_000  # transitions, unless a store has fewer
FINE_BINS = 256  # of each task coordinate, for the entropy of states


@dataclass(frozen=True)
class Coverage:
    """What one store or view holds, measured on `transitions` of its `held` ones."""

    store: str
    suite: str  # "" where the store names none
    coordinates: tuple[str, ...]  # what states are described by
    transitions: int
    episodes: int  # sampled, the last one perhaps in part
    held: int
    occupied: int  # state-action bins
    against: str  # what `saco` is a share of
    saco: Estimate
    tq: Estimate | None  # None without reference returns
    state_entropy: Estimate  # bits
    behaviour_entropy: Estimate  # bits, H(a|s)
    behaviour_entropy_within: Estimate | None  # bits, H(a|s, e); None if all episodes are too short
    contexts: int  # distinct ones in the sample
    context_entropy: Estimate  # bits, of the context of a random sampled step
    context_spread: dict[str, Estimate]  # name of a context number -> standard deviation / range
    points: Array = field(repr=False, compare=False)  # (n, D) task coordinates
    extent: tuple[tuple[float, float], ...] = ()  # least and greatest of each coordinate

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, without the points; infinite interval ends are None."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {k: plain(v) for k, v in value.items()}
            return None if isinstance(value, float) and not np.isfinite(value) else value

        return plain({k: v for k, v in asdict(self).items() if k != "points"})


@dataclass(frozen=True)
class _Whole:
    """What SACo is a share of."""

    name: str
    bins: float
    most: float  # 1 where no store can have more


def coverage(
    stores: Sequence[ReplayStore], *, sample: int | None = None, seed: int, reference: ReplayStore | None = None
) -> list[Coverage]:
    """Descriptors of stores or views that share a suite (or, without suites, their observations), in their order.

    `sample` is the number of transitions of each; None takes 10,000 or what the smallest store holds.

    - **SACo** (Schweighofer et al., arXiv:2111.04714) is the normalised number of unique state-action pairs. The same
      here: a count over the count in a reference of the same size. Different here: states and actions are continuous,
      so a pair is a bin, 16 a task coordinate and 8 an action number (a discrete choice is its own); and the reference
      is whatever store is given, or without one all bins that any of the stores occupies, or for a single store the
      whole grid.
    - **TQ** (same paper) is the normalised mean return of episodes. Here 0 is the random policy and 1 the scripted
      expert: the suite's measured references on training contexts.
    - **State entropy** in bits, of task coordinates in 256 bins over their extent: 8 bits a coordinate at most.
      Stores without a suite are described by their observations, standardised with the moments of all together.
    - **Behaviour entropy** in bits at the resolution of the store's schema; see the module.
    - **Contexts**: distinct ones, the entropy of which one a step is of (log2 of their number if they are equally
      frequent), and the standard deviation of each number in units of its range in the suite (uniform: 0.29).

    Raises ValueError if stores cannot be compared, one has fewer than `sample` transitions, or fewer than two episodes.
    """
    if not stores:
        raise ValueError("nothing to measure: name at least one store")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    everything = [*stores, *([] if reference is None else [reference])]
    labels = _labels(everything)
    suite = common_suite(everything)
    size = min([SAMPLE, *(s.transitions for s in everything if len(s))]) if sample is None else sample
    samples = [draw(store, size, seed) for store in everything]
    frame = make_frame(suite, samples)
    pairs = [bins(s, frame) for s in samples]
    if reference is not None:
        whole = _Whole(f"the bins of {labels[-1]}", float(len(np.unique(pairs[-1], axis=0))), np.inf)
    elif len(stores) > 1:
        whole = _Whole("the bins of all stores here", float(len(np.unique(np.concatenate(pairs), axis=0))), 1.0)
    else:
        whole = _Whole("the whole grid", grid(samples[0], frame), 1.0)
    return [
        _measure(label, s, own, frame, suite, whole, np.random.default_rng(child_seed(seed, "coverage")))
        for label, s, own, _ in zip(labels, samples, pairs, stores, strict=False)
    ]


def _labels(stores: Sequence[ReplayStore]) -> list[str]:
    """What each is called: its folder's name, or where two would be called alike, its path, numbered if need be."""
    labels = [Path(store.path).name.removesuffix(".zarr") for store in stores]
    if len(set(labels)) < len(labels):
        labels = [str(store.path) for store in stores]
    return [f"{x} ({labels[: i + 1].count(x)})" if labels.count(x) > 1 else x for i, x in enumerate(labels)]


def _measure(
    label: str, sample: Sample, pairs: Array, frame: Frame, suite: str, whole: _Whole, rng: np.random.Generator
) -> Coverage:
    store, episode, count = sample.store, sample.episode, len(sample.chosen)
    points = points_of(sample, frame)
    distinct, place = np.unique(pairs, axis=0, return_inverse=True)
    seen = sparse.csr_matrix((np.ones(len(place)), (episode, place.ravel())), shape=(count, len(distinct)))
    saco = cluster_interval(lambda w: _occupied(w, seen) / whole.bins, count, rng=rng)
    table = store.episodes.take(sample.chosen)
    references = registry.suite(suite).references.get("train") if suite else None
    tq = None
    if references is not None and store.labels is None:  # the references are of the recorded task
        scores = (table["return"] - references.random) / (references.expert - references.random)
        tq = cluster_interval(lambda w: w @ scores / w.sum(1), count, rng=rng)
    width = (frame.extent[1] - frame.extent[0]) / FINE_BINS
    state = mean_interval(state_terms(points, width=width, bounds=frame.extent, rng=rng), episode, rng=rng)
    behaviour, inside = (mean_interval(_behaviour(sample, frame, w, rng), episode, rng=rng) for w in (False, True))
    assert state is not None
    assert behaviour is not None
    steps = np.bincount(episode)
    contexts, which = np.unique(table["context"], axis=0, return_inverse=True)
    context = sparse.csr_matrix((steps, (np.arange(count), which.ravel())), shape=(count, len(contexts)))
    return Coverage(
        store=label,
        suite=suite,
        coordinates=frame.names,
        transitions=len(episode),
        episodes=count,
        held=store.transitions,
        occupied=seen.shape[1],
        against=whole.name,
        saco=replace(saco, low=max(saco.low, 0.0), high=min(saco.high, whole.most)),
        tq=tq,
        state_entropy=state,
        behaviour_entropy=behaviour,
        behaviour_entropy_within=inside,
        contexts=len(contexts),
        context_entropy=cluster_interval(lambda w: _entropy(w @ context), count, rng=rng),
        context_spread=_spread(store, table["context"], frame.context_range, steps, rng),
        points=points,
        extent=tuple((float(low), float(high)) for low, high in frame.extent.T),
    )


def _behaviour(sample: Sample, frame: Frame, within: bool, rng: np.random.Generator) -> Array:
    schema, states = sample.store.schema, (sample.states - frame.mean) / frame.std
    if schema.discrete:
        return choice_terms(sample.actions, states, sample.episode, within=within)
    widths = np.asarray(schema.action.resolution)  # 0 where an action number cannot vary: one bin
    return action_terms(
        sample.actions.astype(np.float64), states, sample.episode, width=np.where(widths > 0, widths, 1.0),
        bounds=frame.limits, within=within, rng=rng,
    )  # fmt: skip


def _spread(
    store: ReplayStore, contexts: Array, ranges: Array, steps: Array, rng: np.random.Generator
) -> dict[str, Estimate]:
    found = {}
    for name, values, span in zip(store.schema.context_names, contexts.T, ranges, strict=True):
        centred = (values - values.mean()) / (span or 1.0)

        def deviation(w: Array, centred: Array = centred) -> Array:
            mass = w * steps
            mean = mass @ centred / mass.sum(1)
            return np.sqrt(np.maximum(mass @ centred**2 / mass.sum(1) - mean**2, 0.0))

        found[name] = cluster_interval(deviation, len(steps), rng=rng)
    return found


def _occupied(weights: Array, seen: sparse.csr_matrix) -> Array:
    """Columns (B,) that are not empty in the rows of `seen` (E, U) with a weight above 0, a few (B, E) at a time."""
    each = max(1, CHUNK // seen.shape[1])
    parts = [(weights[i : i + each] > 0) @ seen for i in range(0, len(weights), each)]
    return np.concatenate([(part > 0).sum(1) for part in parts])


def _entropy(weights: Array) -> Array:
    """Bits (B,) of the distributions proportional to weights (B, C)."""
    share = weights / weights.sum(1, keepdims=True)
    return -(share * np.log2(np.where(share > 0, share, 1.0))).sum(1)
