"""Playing episodes: one, several rows at once, or a seeded stream of them.

Episode i of a stream depends on the stream's arguments and on i alone, so workers may share the indices out
among them in any way and get the same episodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from toolkit import registry
from toolkit.behaviours import NamedBehaviour, behaviour_policy
from toolkit.core import Array, Episode, child_seed
from toolkit.dials import Dials, drawn
from toolkit.envs import Split, Suite, check_split
from toolkit.envs._vector import Moves, Singles, VectorEnvironment

MOST = 10_000_000
"""Episodes of one stream; more are several streams, of several seeds."""


@dataclass(frozen=True)
class Job:
    """One episode to be played."""

    index: int
    context: Array  # (C,)
    behaviour: NamedBehaviour
    seed: int  # of the environment


@dataclass
class _Take:
    """An episode being played: what has been seen and done so far."""

    job: Job
    now: dict[str, Array]  # the newest observation
    seen: dict[str, list[Array]]
    actions: list[Array] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)

    def act(self) -> Array:
        self.actions.append(np.asarray(self.job.behaviour(self.now)))
        return self.actions[-1]

    def show(self, obs: dict[str, Array], row: int) -> None:
        self.now = {key: obs[key][row] for key in self.seen}
        for key, values in self.seen.items():
            values.append(self.now[key])

    def episode(self, suite: Suite, moves: Moves, row: int) -> Episode:
        discrete = isinstance(suite.action_space, spaces.Discrete)
        return Episode(
            obs={key: _kept(np.asarray(values)) for key, values in self.seen.items()},
            action=np.asarray(self.actions, np.int64 if discrete else np.float32),
            reward=np.asarray(self.rewards, np.float32),
            terminated=bool(moves.terminated[row]),
            columns={
                "behaviour": self.job.behaviour.name,
                "context": np.asarray(self.job.context, np.float64).tolist(),
                "task": suite.task(self.job.context),
                "seed": int(self.job.seed),
                "success": bool(moves.success[row]),
            },
        )


def _kept(values: Array) -> Array:
    """As the store keeps it: float32, or as it is where it is not a float."""
    return values.astype(np.float32) if values.dtype.kind == "f" else values


def played(suite: Suite, envs: VectorEnvironment, jobs: Iterable[Job]) -> Iterator[tuple[int, Episode]]:
    """Play every job in the rows of `envs`; (index, episode) as they end. A row that ends takes the next job."""
    waiting, takes = iter(jobs), dict[int, _Take]()

    def start(rows: Iterable[int]) -> None:
        begun = list(zip(rows, waiting, strict=False))
        if not begun:
            return
        contexts, seeds = np.stack([job.context for _, job in begun]), [job.seed for _, job in begun]
        obs = envs.reset(np.array([row for row, _ in begun]), contexts, seeds)
        for i, (row, job) in enumerate(begun):
            takes[row] = _Take(job, {}, {key: [] for key in suite.roles})
            takes[row].show(obs, i)

    start(range(envs.rows))
    while takes:
        rows = np.array(sorted(takes))
        moves = envs.step(rows, np.stack([takes[row].act() for row in rows.tolist()]))
        for i, (row, reward) in enumerate(zip(rows.tolist(), moves.reward.tolist(), strict=True)):
            takes[row].rewards.append(reward)
            takes[row].show(moves.obs, i)
        if moves.over.any():
            ended = np.flatnonzero(moves.over).tolist()
            for i in ended:
                take = takes.pop(int(rows[i]))
                yield take.job.index, take.episode(suite, moves, i)
            start(rows[ended].tolist())


def rollout(suite: Suite, env: gym.Env, context: Array, behaviour: NamedBehaviour, *, env_seed: int) -> Episode:
    """Play one episode of `env`, an environment of `suite`, from a reset with `env_seed` and `context`.

    Observations are float32 (T+1, ...) by key, or as they are where they are not floats; actions float32 (T, A) or
    int64 (T,), rewards float32 (T,). The columns are behaviour (str), context (list of float), task (str), seed (int)
    and success (bool, of the last step). `terminated` is False where the time limit ended the episode.
    """
    ((_, episode),) = played(suite, Singles([env]), [Job(0, context, behaviour, env_seed)])
    return episode


def stream(
    suite_name: str,
    *,
    episodes: int,
    seed: int,
    split: Split = "train",
    start: int = 0,
    stop: int | None = None,
    envs: VectorEnvironment | None = None,
    **dials: Any,
) -> Iterator[Episode]:
    """Episodes `start` to `stop` (not included; None is all) of a stream of `episodes`, in order.

    `dials` are the fields of `Dials`. Episode i plays the context i modulo `contexts` of the split's first
    `contexts`, drawn by `seed` (see `drawn`), with the behaviour of `behaviour_policy` and its own seed: it is a
    pure function of the other arguments and i, whatever the range it is asked for in. The number of episodes only
    limits the range. It is played in `envs`, or in environments that are made for it and closed at its end.

    Raises ValueError, at the call, for an unknown suite or split or a number that does not fit.
    """
    suite, chosen = registry.suite(suite_name), Dials(**dials)
    check_split(split)
    check_range(episodes, seed)
    end = episodes if stop is None else stop
    if not 0 <= start <= end <= episodes:
        raise ValueError(f"start {start} and stop {end} do not fit; expected 0 <= start <= stop <= {episodes} episodes")

    def play() -> Iterator[Episode]:
        jobs = jobs_of(suite, chosen, range(start, end), episodes=episodes, seed=seed, split=split)
        rows = suite.batch(max(1, min(suite.together, end - start))) if envs is None else envs
        early: dict[int, Episode] = {}
        following = start
        try:
            for index, episode in played(suite, rows, jobs):
                early[index] = episode
                while following in early:
                    yield early.pop(following)
                    following += 1
        finally:
            if envs is None:
                rows.close()

    return play()


def jobs_of(
    suite: Suite, dials: Dials, indices: Sequence[int], *, episodes: int, seed: int, split: Split = "train"
) -> Iterator[Job]:
    """The episodes `indices` of a stream of `episodes`, to be played; see `stream`."""
    # contexts that no episode reaches are not drawn
    contexts = drawn(suite, split, min(dials.contexts, episodes), seed=seed, share=dials.context_range)
    for index in indices:
        own, context = child_seed(seed, "episode", index), contexts[index % dials.contexts]
        rng = np.random.default_rng(child_seed(own, "behaviour"))
        lot = np.random.default_rng(child_seed(own, "quality")).random()
        base = "expert" if dials.weaker is None or lot < dials.quality else dials.weaker
        yield Job(index, context, behaviour_policy(suite, context, dials, base=base, rng=rng), own)


def check_range(episodes: int, seed: int) -> None:
    """Raise ValueError unless episodes lie between 1 and MOST and the seed is not negative."""
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}")
    if episodes > MOST:
        raise ValueError(f"episodes must be at most {MOST:,}, got {episodes}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
