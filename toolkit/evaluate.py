"""The one evaluation loop: N environments together, one raw record an episode."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from toolkit import registry
from toolkit.configure import load_learner, open_data
from toolkit.core import Array, Learner, Policy, Step, child_seed
from toolkit.envs import Suite
from toolkit.records import Record, RunConfig, read_config, verify_done
from toolkit.store import ReplayStore
from toolkit.store.schema import Schema

ROWS = 64  # environments stepped together


@dataclass(frozen=True)
class Outcome:
    """One evaluation episode as it happened."""

    episode_return: float  # undiscounted
    length: int
    success: bool


def rollouts(
    policy: Policy, suite: Suite, schema: Schema, contexts: Array, env_seeds: Sequence[int], *, rows: int = ROWS
) -> tuple[list[Outcome], float]:
    """Act one episode in each context (n, C) with the seed beside it; also the seconds spent inside `policy.act`.

    Episodes run `rows` at a time; a row that ends takes the next episode, with `Step.first` set, so nothing
    resets behind the policy's back. Rows left over at the end repeat their last observation and are ignored.
    """
    total, n = len(contexts), min(rows, len(contexts))
    envs = [suite.make() for _ in range(n)]
    outcomes: list[Outcome | None] = [None] * total
    obs = np.zeros((n, schema.obs_dim), np.float32)
    seen = {name: np.zeros((n, *shape), np.uint8) for name, shape in schema.images.items()}
    reward, first = np.zeros(n, np.float32), np.ones(n, bool)
    returns, lengths, episode = np.zeros(n), np.zeros(n, int), np.arange(n)
    running, upcoming, acting = np.ones(n, bool), n, 0.0

    def show(row: int, raw: Any) -> None:
        obs[row] = schema.flatten(raw)
        for name, picture in schema.pictures(raw).items():
            seen[name][row] = picture

    def start(row: int) -> None:
        i = int(episode[row])
        raw, _ = envs[row].reset(seed=int(env_seeds[i]), options={"context": contexts[i]})
        show(row, raw)
        reward[row], first[row] = 0.0, True
        returns[row], lengths[row] = 0.0, 0

    try:
        for index in range(n):
            start(index)
        while running.any():
            began = time.perf_counter()
            images = {name: values.copy() for name, values in seen.items()} or None
            actions = policy.act(Step(obs.copy(), reward.copy(), first.copy(), images))
            acting += time.perf_counter() - began
            first[:] = False
            for row in np.flatnonzero(running).tolist():
                raw, r, terminated, truncated, info = envs[row].step(schema.action.executable(actions[row]))
                show(row, raw)
                reward[row] = r
                returns[row] += float(r)
                lengths[row] += 1
                if terminated or truncated:
                    done = Outcome(float(returns[row]), int(lengths[row]), bool(info.get("success", False)))
                    outcomes[int(episode[row])] = done
                    running[row] = upcoming < total
                    if running[row]:
                        episode[row], upcoming = upcoming, upcoming + 1
                        start(row)
    finally:
        for env in envs:
            env.close()
    return [outcome for outcome in outcomes if outcome is not None], acting


def evaluate_learner(config: RunConfig, learner: Learner, store: ReplayStore) -> list[Record]:
    """Act on every split of the configuration, all episodes together, and return their records."""
    if not config.episodes or not config.splits:
        return []
    suite, n = registry.suite(config.suite), config.episodes
    contexts, seeds, where = [], [], []
    for split in config.splits:
        contexts.append(_contexts(config, store, split))
        seeds += [child_seed(config.seed, "evaluate", split, i) % 2**31 for i in range(n)]
        where += [(split, i) for i in range(n)]
    policy = learner.policy(seed=child_seed(config.seed, "policy", config.learner))
    all_contexts = np.concatenate(contexts)
    outcomes, _ = rollouts(policy, suite, store.schema, all_contexts, seeds)
    behaviour = float(store.episodes["return"].mean())
    family = registry.learner(config.learner).family
    records = []
    for (split, i), context, seed, outcome in zip(where, all_contexts, seeds, outcomes, strict=True):
        reference = suite.references["train" if split == "seen" else split]
        records.append(
            Record(
                run=config.identity,
                learner=config.learner,
                family=family,
                suite=config.suite,
                seed=config.seed,
                step=config.steps,
                split=split,
                episode=i,
                context=[float(x) for x in context],
                env_seed=seed,
                episode_return=outcome.episode_return,
                length=outcome.length,
                success=outcome.success,
                random=reference.random,
                expert=reference.expert,
                behaviour=behaviour,
                tags=config.tags,
            )
        )
    return records


def _contexts(config: RunConfig, store: ReplayStore, split: str) -> np.ndarray:
    """(episodes, C): contexts of the training data for "seen", else of the suite's held-out stream."""
    if split == "seen":
        known = np.unique(store.episodes["context"], axis=0)
        order = np.random.default_rng(child_seed(config.seed, "seen")).permutation(len(known))
        return known[order[np.arange(config.episodes) % len(known)]]
    return registry.suite(config.suite).contexts(split, config.episodes, seed=child_seed(config.seed, split))  # type: ignore[arg-type]


def evaluate(
    folder: str | Path,
    *,
    episodes: int | None = None,
    splits: Sequence[str] | None = None,
    seed: int | None = None,
) -> list[Record]:
    """Evaluate a trained run again, by default exactly as it was; other episodes, splits or seed as given.

    Raises ValueError if the folder is not a run, has not been trained to its last step, or nothing is asked for.
    """
    saved = read_config(folder)
    if not (Path(folder) / "DONE").exists():
        raise ValueError(f"{folder} is not finished; give the command that began it again, and it continues")
    verify_done(Path(folder), saved)
    config, learner, _ = load_learner(folder)
    store = open_data(config.store, config.commit, config.view)
    asked = replace(
        config,
        episodes=config.episodes if episodes is None else episodes,
        splits=tuple(config.splits if splits is None else splits),
    )
    if seed is not None:
        asked = replace(asked, seed=seed)
    if not asked.episodes or not asked.splits:
        raise ValueError(f"{folder}: nothing to evaluate; name at least 1 episode and one split")
    torch.set_num_threads(config.threads)
    records = evaluate_learner(asked, learner, store)
    return [replace(record, run=config.identity, seed=config.seed) for record in records]
