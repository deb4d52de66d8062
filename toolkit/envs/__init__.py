"""Suites: one file each. A suite makes environments, samples contexts and supplies behaviours.

A context is a vector that fixes everything an episode varies in: start, goal and dynamics. Training
and held-out contexts never coincide: each suite keeps part of its range back (see `contexts`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, get_args

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from toolkit.core import Array

if TYPE_CHECKING:
    from toolkit.envs._simulator import Simulator
    from toolkit.envs._vector import VectorEnvironment

Split = Literal["train", "interpolated", "extrapolated"]
SPLITS: tuple[str, ...] = get_args(Split)


@dataclass(frozen=True)
class Reference:
    """Mean returns that normalise scores on one split of contexts: 0 is `random`, 1 is `expert`."""

    random: float
    expert: float


@dataclass(frozen=True)
class Task:
    """Another task in the world of a suite, for recorded data to be labelled anew by `toolkit.store.relabel`.

    `reward` and `terminated` take (obs, action, next obs, info) of T steps, arrays (T, ...) by key, to (T,); `goal`
    takes obs (T+1, ...) by key of an episode to its goal by key. All are pure. Without `terminated` episodes end as
    recorded.
    """

    about: str  # one line
    reward: Callable[[Mapping[str, Array], Array, Mapping[str, Array], Mapping[str, Array]], Array]
    terminated: Callable[[Mapping[str, Array], Array, Mapping[str, Array], Mapping[str, Array]], Array] | None = None
    goal: Callable[[Mapping[str, Array]], Mapping[str, Array]] | None = None


class Behaviour(Protocol):
    """A behaviour policy for one environment; may hold state within an episode."""

    def __call__(self, obs: dict[str, Array]) -> Array:
        """obs key -> (D,) of one environment; returns an action (A,) float32 inside the limits, or an integer."""


class Suite(ABC):
    """One family of tasks. Creating a Suite imports no simulator; `make` does."""

    name: ClassVar[str]
    context_names: ClassVar[tuple[str, ...]]  # what each number of a context means, with its unit
    roles: ClassVar[dict[str, str]]  # observation key -> "observation" or "goal"
    max_steps: ClassVar[int]
    references: ClassVar[dict[str, Reference]]  # split -> measured by `python -m toolkit.envs.<module>`
    requires: ClassVar[tuple[str, ...]]  # modules to import; `extra` installs them
    extra: ClassVar[str | None] = None
    behaviours: ClassVar[tuple[str, ...]] = ("expert", "random")  # names that `behaviour` knows
    family: ClassVar[str | None] = None  # shared by suites whose names begin with it
    reference_episodes: ClassVar[int] = 200  # behind each recorded reference
    together: ClassVar[int] = 1  # rows of `batch` one process steps when collecting; more only where that is faster

    @abstractmethod
    def make(self, *, render: bool = False) -> gym.Env:
        """A new environment with Dict observations, whose keys are those of `roles`, and a time limit.

        `reset(seed=..., options={"context": vector})` starts an episode in that context and may be called
        with a different context each time; step results carry info["success"] (bool). With `render`, its
        `render()` draws the present state as (height, width, 3) uint8, and nothing else changes.
        Raises ImportError saying what to install if a requirement is missing, also one of drawing.
        """

    @abstractmethod
    def contexts(self, split: Split, n: int, *, seed: int) -> Array:
        """The first n contexts (n, C) float64 of an endless seeded stream; n = 10 is a prefix of n = 20.

        "train" and "interpolated" share ranges but never a region; "extrapolated" lies outside both.
        """

    @abstractmethod
    def expert(self, context: Array, *, rng: np.random.Generator) -> Behaviour:
        """The scripted expert for one episode in `context`. It may use the context (it is privileged)."""

    def behaviour(self, name: str, context: Array, *, rng: np.random.Generator) -> Behaviour:
        """The behaviour called `name`, one of `behaviours`, for one episode in `context`.

        A suite with more of them than expert and random overrides this for those, and leaves the rest to it.
        Raises ValueError for another name.
        """
        if name == "expert":
            return self.expert(context, rng=rng)
        if name == "random":
            return random_policy(self.action_space, rng=rng)
        raise ValueError(f"suite {self.name!r} has no behaviour {name!r}; expected one of {', '.join(self.behaviours)}")

    def task(self, context: Array) -> str:
        """What an episode in `context` is about, for its column `task`: the suite's name, unless it has many tasks."""
        return self.name

    def batch(self, rows: int) -> VectorEnvironment:
        """`rows` environments stepped together. A suite that steps its simulator directly overrides this.

        Whatever it is made of, each row plays exactly the episode that `make` would play.
        """
        from toolkit.envs._vector import Singles

        return Singles([self.make() for _ in range(rows)])

    def simulator(self) -> Simulator | None:
        """The suite's dynamics from any state, for trying actions and taking them back; None where that cannot be."""
        return None

    def pose(self, env: gym.Env, obs: Mapping[str, Array]) -> None:
        """Put an environment of `make` where an observation, key -> (D,), says that things are, so that it draws that.

        What no observation tells stays as it was. A suite whose observations do not tell where everything is that can
        be seen leaves this out.
        """
        raise NotImplementedError(f"suite {self.name!r} cannot be put where an observation says")

    @cached_property
    def action_space(self) -> gym.Space:
        """The action space of every environment of this suite. The first use makes one to look at it."""
        env = self.make()
        env.close()
        return env.action_space

    @abstractmethod
    def coordinates(self, obs: dict[str, Array]) -> Array:
        """Task coordinates (n, D) of observations (n, ...): the low-dimensional picture of where it went."""

    # What descriptors and pictures of data may use; a suite may leave it out.
    coordinate_names: ClassVar[tuple[str, ...]] = ()  # what each coordinate means, with its unit
    extent: ClassVar[tuple[tuple[float, float], ...]] = ()  # least and greatest of each; () where nothing bounds them
    walls: ClassVar[tuple[tuple[float, float, float, float], ...]] = ()  # of a plane: x, y, width, height of each
    tasks: ClassVar[Mapping[str, Task]] = {}  # others in the same world, by name
    recorded: ClassVar[str | None] = None  # which of them is the suite's own, if it is stated there; uses no info


def check_split(split: str) -> None:
    """Raise ValueError if `split` is not one of SPLITS."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; expected one of {', '.join(SPLITS)}")


def context_array(context: Sequence[float] | Array, names: Sequence[str]) -> Array:
    """`context` as (C,) float64. Raises ValueError if its length is not that of `names` or a number is not finite."""
    array = np.asarray(context, np.float64)
    if array.shape != (len(names),) or not np.isfinite(array).all():
        raise ValueError(
            f"context {array.tolist()} does not fit; expected {len(names)} finite numbers: {', '.join(names)}"
        )
    return array


def random_policy(space: gym.Space, *, rng: np.random.Generator) -> Behaviour:
    """Uniform over an action box (A,) float32, or over the integers of a discrete space.

    Raises TypeError for other spaces and ValueError for a box without finite limits.
    """
    if isinstance(space, spaces.Discrete):
        first, count = int(space.start), int(space.n)
        return lambda obs: np.asarray(rng.integers(first, first + count))
    if not isinstance(space, spaces.Box):
        raise TypeError(f"action space is {type(space).__name__}; expected Box or Discrete")
    low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError(f"action limits are {low.tolist()} to {high.tolist()}; a uniform policy needs finite limits")
    return lambda obs: low + (high - low) * rng.random(low.shape, np.float32)
