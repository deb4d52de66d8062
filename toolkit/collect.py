"""Rolling out behaviours: the coverage dial, one episode, and a seeded stream of episodes.

Episode i of a stream depends on the stream's arguments and on i alone, so workers may share the indices out
among them in any way and get the same episodes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from toolkit import registry
from toolkit.core import Array, Episode, child_seed
from toolkit.engines.local import TaskFailed, interrupt_flag, map_tasks, only_one
from toolkit.envs import Behaviour, Split, Suite, check_split
from toolkit.envs._measure import random_policy
from toolkit.store import ReplayStore, Schema
from toolkit.store.backend import backend
from toolkit.store.maintain import vacant

BLOCK = 10
"""Mean length, in steps, of the blocks in which the expert or the random policy acts."""
COMMIT_SECONDS = 30.0
SHARE = 10
"""Episodes a worker process makes at a time."""


class NamedBehaviour(Behaviour, Protocol):
    """A behaviour with the name that stands in the episode's behaviour column."""

    name: str


class Mixture:
    """Expert and random policy in turns; see `behaviour_policy`. `acting` tells who chose the last action."""

    def __init__(
        self,
        expert: Behaviour,
        random: Behaviour,
        space: gym.Space,
        *,
        coverage: float,
        noise: float,
        rng: np.random.Generator,
    ) -> None:
        self.expert, self.random, self.space = expert, random, space
        self.coverage, self.noise, self.rng = coverage, noise, rng
        self.name = behaviour_name(coverage, noise)
        self.acting = ""  # "expert" or "random" once there was an action
        self._left = 0  # steps left of the present block

    def __call__(self, obs: dict[str, Array]) -> Array:
        """obs key -> (D,); an action (A,) float32 within the limits, or an integer."""
        if self._left == 0:
            self._left = int(self.rng.geometric(1 / BLOCK))
            self.acting = "random" if self.rng.random() < self.coverage else "expert"
        self._left -= 1
        if self.acting == "random":
            return self.random(obs)
        action = self.expert(obs)
        if self.noise == 0:
            return action
        assert isinstance(self.space, spaces.Box)
        low, high = self.space.low, self.space.high
        error = self.noise * (high - low) / 2 * self.rng.standard_normal(low.shape)
        return np.clip(action + error, low, high).astype(np.float32)


def behaviour_name(coverage: float, noise: float) -> str:
    """ "expert", "random" or "mixed-0.30", and "-noise-0.10" where there is an expert whose actions are noisy."""
    if coverage == 1:
        return "random"
    name = "expert" if coverage == 0 else f"mixed-{coverage:.2f}"
    return f"{name}-noise-{noise:.2f}" if noise else name


def behaviour_policy(
    suite: Suite, env: gym.Env, context: Array, *, coverage: float, noise: float, rng: np.random.Generator
) -> Mixture:
    """A behaviour for one episode in `context`: how much of it is random, and how noisy the rest.

    Time is cut into blocks of geometric length, 10 steps in the mean. In each block the random policy acts with
    probability `coverage` and else the expert, so `coverage` is the expected share of random steps at every
    moment of an episode. `noise` is the standard deviation of the Gaussian noise on the expert's actions, as a
    share of half the action range; noisy actions are clipped to the limits. Coverage 0 and noise 0 is the expert
    exactly, coverage 1 the random policy.

    Raises ValueError for a coverage outside [0, 1], a negative noise, or noise on discrete actions.
    """
    _check_dial(coverage, noise)
    if noise > 0 and not isinstance(env.action_space, spaces.Box):
        kind = type(env.action_space).__name__
        raise ValueError(f"noise is {noise:g} but the actions of suite {suite.name!r} are {kind}; expected noise 0")
    expert, random = suite.expert(context, rng=rng), random_policy(env.action_space, rng=rng)
    return Mixture(expert, random, env.action_space, coverage=coverage, noise=noise, rng=rng)


def rollout(suite: Suite, env: gym.Env, context: Array, behaviour: NamedBehaviour, *, env_seed: int) -> Episode:
    """Play one episode of `env`, an environment of `suite`, from a reset with `env_seed` and `context`.

    Observations are float32 (T+1, ...) by key, actions float32 (T, A) or int64 (T,), rewards float32 (T,). The
    columns are behaviour (str), context (list of float), task (str), seed (int) and success (bool, of the last
    step). `terminated` is False where the time limit ended the episode.
    """
    obs, _ = env.reset(seed=env_seed, options={"context": context})
    seen: dict[str, list[Array]] = {key: [obs[key]] for key in suite.roles}
    actions: list[Any] = []
    rewards: list[float] = []
    terminated = truncated = success = False
    while not (terminated or truncated):
        action = behaviour(obs)
        obs, reward, terminated, truncated, info = env.step(action)
        for key, values in seen.items():
            values.append(obs[key])
        actions.append(action)
        rewards.append(float(reward))
        success = bool(info["success"])
    return Episode(
        obs={key: np.asarray(values, np.float32) for key, values in seen.items()},
        action=np.asarray(actions, np.int64 if isinstance(env.action_space, spaces.Discrete) else np.float32),
        reward=np.asarray(rewards, np.float32),
        terminated=bool(terminated),
        columns={
            "behaviour": behaviour.name,
            "context": np.asarray(context, np.float64).tolist(),
            "task": suite.name,
            "seed": int(env_seed),
            "success": success,
        },
    )


def stream(
    suite_name: str,
    *,
    episodes: int,
    contexts: int,
    coverage: float,
    noise: float,
    seed: int,
    split: Split = "train",
    start: int = 0,
    stop: int | None = None,
) -> Iterator[Episode]:
    """Episodes `start` to `stop` (not included; None is all) of a stream of `episodes`, in order.

    Episode i plays the context i modulo `contexts` of the split's first `contexts`, drawn by `seed`, with the
    behaviour of `behaviour_policy` and its own seed: it is a pure function of the other arguments and i, whatever
    the range it is asked for in. The number of episodes only limits the range.

    Raises ValueError, at the call, for an unknown suite or split or a number that does not fit.
    """
    suite = registry.suite(suite_name)
    check_split(split)
    for name, count in (("episodes", episodes), ("contexts", contexts)):
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    _check_dial(coverage, noise)
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    end = episodes if stop is None else stop
    if not 0 <= start <= end <= episodes:
        raise ValueError(f"start {start} and stop {end} do not fit; expected 0 <= start <= stop <= {episodes} episodes")

    def play() -> Iterator[Episode]:
        vectors = suite.contexts(split, min(contexts, episodes), seed=seed)  # the first ones are all there are
        env = suite.make()
        try:
            for index in range(start, end):
                own = child_seed(seed, "episode", index)
                context = vectors[index % contexts]
                rng = np.random.default_rng(child_seed(own, "behaviour"))
                behaviour = behaviour_policy(suite, env, context, coverage=coverage, noise=noise, rng=rng)
                yield rollout(suite, env, context, behaviour, env_seed=own)
        finally:
            env.close()

    return play()


def _check_dial(coverage: float, noise: float) -> None:
    """Raise ValueError unless coverage lies in [0, 1] and noise is finite and at least 0."""
    if not 0 <= coverage <= 1:
        raise ValueError(f"coverage must lie in [0, 1], got {coverage}")
    if not 0 <= noise < float("inf"):
        raise ValueError(f"noise must be finite and at least 0, got {noise}")


def collect(
    suite_name: str,
    *,
    out: str | Path,
    episodes: int,
    contexts: int = 16,
    coverage: float = 0.3,
    noise: float = 0.0,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> ReplayStore:
    """Roll out `episodes` training episodes (see `stream`) into the store `out`, and return it.

    Continues an interrupted collection, and extends a finished one to more episodes; episodes stand in the order
    of the stream whatever the number of `workers` processes. Work is committed twice a minute, at the end, and
    when Ctrl-C stops it.

    Raises ValueError, before anything is written, for arguments that do not fit, or if `out` is a store of
    another collection or holds more episodes already, and BlockingIOError if another process collects into it: at a
    URL, where there are no locks, when that process commits first.
    """
    settings = {"contexts": contexts, "coverage": coverage, "noise": noise, "seed": seed, "split": "train"}
    stream(suite_name, episodes=episodes, **settings)  # type: ignore[arg-type]  # checks the arguments
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    suite, place = registry.suite(suite_name), backend(out)
    made_by = {"suite": suite_name, "collect": settings}
    if vacant(place):
        env = suite.make()
        ReplayStore.create(
            place,
            Schema.from_spaces(
                observation=env.observation_space,
                action=env.action_space,
                roles=suite.roles,
                context_names=suite.context_names,
                environment=made_by,
            ),
        )
        env.close()
    store = ReplayStore.open(place)
    if store.schema.environment != made_by:
        raise ValueError(
            f"{out} was made by {store.schema.environment}, not by {made_by}: give the same flags to continue it, "
            "or another --out"
        )
    if len(store) == episodes:
        return store
    with only_one(place.local) if place.local is not None else nullcontext():
        store = ReplayStore.open(place)  # another process may have committed before this one had the lock
        if len(store) > episodes:
            raise ValueError(
                f"{out} holds {len(store)} episodes already, more than the {episodes} asked for: use a view"
            )
        made = _ordered(suite_name, {"episodes": episodes, **settings}, len(store), episodes, workers)
        _append(store, made, progress)
    return ReplayStore.open(place)


def _append(store: ReplayStore, made: Iterator[Episode], progress: Callable[[int], None] | None) -> None:
    """Append and commit what is `made`. An interrupt waits for the episode being written, and commits."""
    writer, last_commit = store.writer(), time.monotonic()

    def commit() -> None:
        try:
            writer.commit(rebase=store.backend.local is not None)
        except FileExistsError:
            raise BlockingIOError(f"{store.path}: another process committed to it meanwhile; run it again") from None

    try:
        for done, episode in enumerate(made, len(store) + 1):
            with interrupt_flag() as interrupted:
                writer.append(episode)
                if time.monotonic() - last_commit > COMMIT_SECONDS:
                    commit()
                    last_commit = time.monotonic()
            if interrupted.is_set():
                raise KeyboardInterrupt
            if progress is not None:
                progress(done)
    except (KeyboardInterrupt, TaskFailed):
        with interrupt_flag():
            commit()
        raise
    commit()


def _ordered(suite_name: str, arguments: dict[str, Any], start: int, stop: int, workers: int) -> Iterator[Episode]:
    """Episodes start to stop in order, made here or shared out among processes."""
    if workers == 1 or stop - start <= SHARE:
        yield from stream(suite_name, start=start, stop=stop, **arguments)
        return
    edges = [*range(start, stop, SHARE), stop]
    tasks = [(_share, (suite_name, arguments, a, b)) for a, b in pairwise(edges)]
    early: dict[int, list[Episode]] = {}
    following = 0
    for index, result in map_tasks(tasks, slots=workers):
        if isinstance(result, TaskFailed):
            raise TaskFailed(f"a worker failed: {str(result).strip().splitlines()[-1]}") from result
        early[index] = result
        while following in early:
            yield from early.pop(following)
            following += 1


def _share(suite_name: str, arguments: dict[str, Any], start: int, stop: int) -> list[Episode]:
    return list(stream(suite_name, start=start, stop=stop, **arguments))
