"""The one evaluation loop: N environments together, one raw record an episode."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from toolkit import registry
from toolkit.configure import load_learner, open_data
from toolkit.core import Array, Learner, Policy, Step, child_seed
from toolkit.envs import Suite
from toolkit.envs._vector import Singles, VectorEnvironment
from toolkit.records import Record, RunConfig, read_config, verify_done
from toolkit.rollouts import BEHAVIOUR
from toolkit.store import Mixture, ReplayStore
from toolkit.store.schema import Schema
from toolkit.video import filming, need_video

ROWS = 64  # environments stepped together
Stage = Callable[[Policy, int], tuple[Policy, VectorEnvironment]]
"""(policy, rows) -> what acts in its place, and so many environments for it, which start episodes in order."""


@dataclass(frozen=True)
class Outcome:
    """One evaluation episode as it happened."""

    episode_return: float  # undiscounted
    length: int
    success: bool


@dataclass(frozen=True)
class Pace:
    """What acting cost: seconds inside `policy.act`, its calls, and the rows that each call acted for."""

    seconds: float
    calls: int
    rows: int

    @property
    def milliseconds(self) -> float:
        """Of one call."""
        return 1e3 * self.seconds / max(self.calls, 1)

    def __str__(self) -> str:
        together = f"{self.rows} environments together" if self.rows > 1 else "1 environment"
        return f"{self.milliseconds:.3g} ms a step, {together}"


def rollouts(
    policy: Policy,
    suite: Suite,
    schema: Schema,
    contexts: Array,
    env_seeds: Sequence[int],
    *,
    rows: int = ROWS,
    envs: VectorEnvironment | None = None,
) -> tuple[list[Outcome], Pace]:
    """Act one episode in each context (n, C) with the seed beside it; also what acting cost.

    Episodes run `rows` at a time, in the suite's own batch or in the given `envs`; a row that ends takes the next
    episode, with `Step.first` set, so nothing resets behind the policy's back. Rows left over at the end repeat
    their last observation and are ignored.
    """
    total = len(contexts)
    made = suite.batch(min(rows, total)) if envs is None else envs
    n = made.rows
    outcomes: list[Outcome | None] = [None] * total
    obs = np.zeros((n, schema.obs_dim), np.float32)
    seen = {name: np.zeros((n, *shape), np.uint8) for name, shape in schema.images.items()}
    reward, first = np.zeros(n, np.float32), np.ones(n, bool)
    returns, lengths, episode = np.zeros(n), np.zeros(n, int), np.zeros(n, int)
    running, upcoming, acting, calls = np.zeros(n, bool), 0, 0.0, 0

    def show(rows: Array, raw: Any) -> None:
        obs[rows] = schema.flatten(raw)
        for name, pictures in schema.pictures(raw).items():
            seen[name][rows] = pictures

    def start(rows: Array) -> None:
        """Give each row the next episode; those for which there is none left stop running."""
        nonlocal upcoming
        running[rows] = False
        rows = rows[: total - upcoming]
        if len(rows) == 0:
            return
        chosen = np.arange(upcoming, upcoming + len(rows))
        upcoming += len(rows)
        episode[rows], running[rows] = chosen, True
        show(rows, made.reset(rows, contexts[chosen], [int(env_seeds[i]) for i in chosen.tolist()]))
        reward[rows], first[rows] = 0.0, True
        returns[rows], lengths[rows] = 0.0, 0

    try:
        start(np.arange(n))
        while running.any():
            began = time.perf_counter()
            images = {name: values.copy() for name, values in seen.items()} or None
            actions = policy.act(Step(obs.copy(), reward.copy(), first.copy(), images))
            acting += time.perf_counter() - began
            calls += 1
            first[:] = False
            playing = np.flatnonzero(running)
            moves = made.step(playing, executable(schema, actions[playing]))
            show(playing, moves.obs)
            reward[playing] = moves.reward
            returns[playing] += moves.reward
            lengths[playing] += 1
            for i in np.flatnonzero(moves.over).tolist():
                row = playing[i]
                done = Outcome(float(returns[row]), int(lengths[row]), bool(moves.success[i]))
                outcomes[int(episode[row])] = done
            start(playing[moves.over])
    finally:
        if envs is None:
            made.close()
    return [outcome for outcome in outcomes if outcome is not None], Pace(acting, calls, n)


def executable(schema: Schema, actions: Array) -> Array:
    """Actions (k, A), or the numbers of k choices, as environments take them. Raises ValueError for others."""
    if schema.action.one_hot or not np.isfinite(actions).all():
        return np.stack([np.asarray(schema.action.executable(action)) for action in actions])  # raises for the first
    return np.asarray(actions, np.float32).reshape(len(actions), *schema.action.shape)


def evaluate_learner(
    config: RunConfig,
    learner: Learner,
    store: ReplayStore | Mixture,
    *,
    step: int | None = None,
    stage: Stage | None = None,
) -> tuple[list[Record], Pace]:
    """Act on every split of the configuration, all episodes together; their records, and what acting cost.

    `step` is the number of steps the learner has taken, by default all of them. A `stage` watches or changes who acts;
    contexts and seeds are the same.
    """
    if not config.episodes or not config.splits:
        return [], Pace(0.0, 0, 0)
    suite, n = registry.suite(config.suite), config.episodes
    contexts, seeds, where = [], [], []
    for split in config.splits:
        contexts.append(_contexts(config, store, split))
        seeds += [_env_seed(config, split, i) for i in range(n)]
        where += [(split, i) for i in range(n)]
    policy = learner.policy(seed=child_seed(config.seed, "policy", config.learner))
    all_contexts = np.concatenate(contexts)
    envs = None
    if stage is not None:
        policy, envs = stage(policy, min(ROWS, len(all_contexts)))
    try:
        outcomes, pace = rollouts(policy, suite, store.schema, all_contexts, seeds, envs=envs)
    finally:
        if envs is not None:
            envs.close()
    recorded = store.episodes["behaviour"] != BEHAVIOUR  # the sum of a rollout's rewards is no return
    behaviour = float(store.episodes["return"][recorded if recorded.any() else ...].mean())
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
                step=config.steps if step is None else step,
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
    return records, pace


def _env_seed(config: RunConfig, split: str, episode: int) -> int:
    return child_seed(config.seed, "evaluate", split, episode) % 2**31


def _contexts(config: RunConfig, store: ReplayStore | Mixture, split: str) -> np.ndarray:
    """(episodes, C): contexts of the training data for "seen", else of the suite's held-out stream.

    Where the data do not tell their contexts (imported ones do not), "seen" are others of the suite's training range.
    """
    suite = registry.suite(config.suite)
    if split == "seen":
        known = np.unique(store.episodes["context"], axis=0)
        if known.shape[1] != len(suite.context_names):
            return suite.contexts("train", config.episodes, seed=child_seed(config.seed, split))
        order = np.random.default_rng(child_seed(config.seed, "seen")).permutation(len(known))
        return known[order[np.arange(config.episodes) % len(known)]]
    return suite.contexts(split, config.episodes, seed=child_seed(config.seed, split))  # type: ignore[arg-type]


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
    return evaluate_timed(folder, episodes=episodes, splits=splits, seed=seed)[0]


def evaluate_timed(
    folder: str | Path,
    *,
    episodes: int | None = None,
    splits: Sequence[str] | None = None,
    seed: int | None = None,
) -> tuple[list[Record], Pace]:
    """What `evaluate` returns, and what acting cost."""
    saved, asked, learner, store = again(folder, episodes, splits, seed)
    records, pace = evaluate_learner(asked, learner, store)
    return [replace(record, run=saved.identity, seed=saved.seed) for record in records], pace


def film(
    folder: str | Path,
    count: int,
    *,
    episodes: int | None = None,
    splits: Sequence[str] | None = None,
    seed: int | None = None,
) -> list[Path]:
    """Film the first `count` episodes of each split that `evaluate` would play with these arguments; their paths.

    Each is played again alone, with a fresh policy: one that draws random numbers, as a planner does, may act
    otherwise than among the others. The files are RUN/videos/SPLIT-NUMBER.mp4. Raises ValueError as `evaluate` does,
    and ImportError if films cannot be made here.
    """
    if count < 1:
        raise ValueError(f"video must be at least 1 episode to film, or 0 for none; got {count}")
    need_video()
    _, asked, learner, store = again(folder, episodes, splits, seed)
    suite, paths = registry.suite(asked.suite), []
    env = suite.make(render=True)
    for split in asked.splits:
        for i, context in enumerate(_contexts(asked, store, split)[:count]):
            path = Path(folder) / "videos" / f"{split}-{i:03d}.mp4"
            policy = learner.policy(seed=child_seed(asked.seed, "policy", asked.learner))
            with filming(env, path, f"{asked.suite} {split} {i}   {asked.learner}") as camera:
                rollouts(
                    policy, suite, store.schema, context[None], [_env_seed(asked, split, i)], envs=Singles([camera])
                )
            paths.append(path)
    env.close()
    return paths


def again(
    folder: str | Path, episodes: int | None, splits: Sequence[str] | None, seed: int | None
) -> tuple[RunConfig, RunConfig, Learner, ReplayStore | Mixture]:
    """A finished run's configuration, the same with what is asked for instead, its learner and its data.

    Raises ValueError as `evaluate` does.
    """
    saved = read_config(folder)
    if not (Path(folder) / "DONE").exists():
        raise ValueError(f"{folder} is not finished; give the command that began it again, and it continues")
    verify_done(Path(folder), saved)
    if saved.relabel is not None:
        raise ValueError(
            f"{folder} learned the task of relabel {saved.relabel!r}; evaluation scores the environment's own task, "
            "which says nothing about it"
        )
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
    return config, asked, learner, store
