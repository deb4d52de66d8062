"""Phases of long work that tell how far they are, without the pure functions inside knowing of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Generator, Tensor

from toolkit.core import Array, Dynamics, Imagined, Policy, Step

Progress = Callable[[str, int, int], None]  # what, done, total


class Phase:
    """Counts what is done of about `total` and tells `progress`, None for nobody; begins with nothing done."""

    def __init__(self, progress: Progress | None, what: str, total: int) -> None:
        self.progress, self.what, self.total, self.done = progress, what, max(1, total), -1
        self.tick()

    def tick(self) -> None:
        """One more is done."""
        self.done += 1
        if self.progress is not None:
            self.progress(self.what, min(self.done, self.total), self.total)

    def model(self, model: Dynamics) -> Dynamics:
        """The model, counted once every time it is asked."""
        return _Model(model, self.tick)

    def policy(self, policy: Policy) -> Policy:
        """The policy, counted once every time it acts."""
        return _Policy(policy, self.tick)


@dataclass(frozen=True)
class _Model:
    own: Dynamics
    tick: Callable[[], None]

    def imagine(self, obs: Tensor, action: Tensor, *, generator: Generator | None = None) -> Imagined:
        found = self.own.imagine(obs, action, generator=generator)
        self.tick()
        return found

    def unseen(self, episodes: int) -> Array:
        return self.own.unseen(episodes)


@dataclass(frozen=True)
class _Policy:
    own: Policy
    tick: Callable[[], None]

    def act(self, step: Step) -> Array:
        found = self.own.act(step)
        self.tick()
        return found
