"""Data that a model was not trained on, and data that it was, as transitions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from toolkit.baselines import Transitions
from toolkit.configure import open_data
from toolkit.core import Dynamics, Episode, child_seed
from toolkit.episodes import stream
from toolkit.feed import in_numbers
from toolkit.given import check_shape
from toolkit.records import RunConfig
from toolkit.store import Mixture, ReplayStore, Schema

TRAIN_ROWS = 50_000  # transitions that baselines are fitted on


def held_out(
    folder: str | Path,
    run: RunConfig,
    model: Dynamics,
    data: ReplayStore | Mixture,
    *,
    on: str | Path | None,
    episodes: int,
    seed: int,
    tick: Callable[[], None] = lambda: None,
) -> tuple[str, list[Transitions]]:
    """What is held out, in words, and its episodes; `tick` is called after each. Raises ValueError if there is none."""
    what, made = held_out_episodes(folder, run, model, data, on=on, episodes=episodes, seed=seed)
    found = []
    for number, episode in enumerate(made):
        found.append(transitions(data.schema, episode, number))
        tick()
    return what, found


def held_out_episodes(
    folder: str | Path,
    run: RunConfig,
    model: Dynamics,
    data: ReplayStore | Mixture,
    *,
    on: str | Path | None,
    episodes: int,
    seed: int,
) -> tuple[str, Iterator[Episode]]:
    """As `held_out`, the episodes as they were recorded, one after the other."""
    schema = data.schema
    if on is not None:
        other = open_data(on, None, None)
        check_shape(folder, other.spec, str(other.path))
        chosen = np.random.default_rng(seed).permutation(len(other))[:episodes].tolist()
        return f"{len(chosen)} episodes of {on}", (other.episode(i) for i in sorted(chosen))
    if "collect" in schema.environment and run.relabel is None and isinstance(data, ReplayStore):
        dials = {k: v for k, v in schema.environment["collect"].items() if k not in ("seed", "split")}
        own = child_seed(seed, "diagnose", "episodes")
        made = stream(run.suite, episodes=episodes, seed=own, **dials)
        return f"{episodes} fresh episodes of the data's behaviour", made
    unseen = model.unseen(len(data))[:episodes].tolist()
    if not unseen:
        raise ValueError(f"nothing is held out of {data.path}: name a store of other episodes with --on")
    return f"{len(unseen)} training episodes that gave no gradient", (data.episode(i) for i in unseen)


def transitions(schema: Schema, episode: Episode, number: int) -> Transitions:
    """An episode's T transitions, as a Batch holds them."""
    obs, action = in_numbers(schema, episode)
    ended = torch.zeros(len(episode), dtype=torch.bool)
    ended[-1] = bool(episode.terminated)
    reward = torch.from_numpy(np.asarray(episode.reward, np.float32))
    return Transitions(obs[:-1], action, obs[1:], reward, ended, np.full(len(episode), number))


def training(data: ReplayStore | Mixture, model: Dynamics, seed: int) -> Transitions:
    """Up to TRAIN_ROWS transitions of the training data, without episodes that gave no gradient."""
    count = min(TRAIN_ROWS, data.transitions)
    batch = data.sampler(batch_size=count, seed=child_seed(seed, "diagnose", "train")).next()
    parts = (batch.obs[:, 0], batch.action[:, 0], batch.obs[:, 1], batch.reward[:, 0], batch.terminated[:, 0])
    every = Transitions(*parts, batch.episode.numpy())
    return every.take(~np.isin(every.episode, model.unseen(len(data))))
