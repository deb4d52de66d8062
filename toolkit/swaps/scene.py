"""What all swaps share, and the swap of nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from toolkit.core import Array, Learner, Policy
from toolkit.envs import Suite
from toolkit.envs._simulator import Played
from toolkit.envs._vector import VectorEnvironment
from toolkit.records import Record
from toolkit.stage import Watched
from toolkit.store.schema import Schema


@dataclass(frozen=True)
class Scene:
    """What all swaps of one run share."""

    learner: Learner
    suite: Suite
    schema: Schema
    seed: int  # of the swaps' own draws; the same for every learner that is compared
    candidates: int  # actions a critic chooses among, where they are not choices
    near: Callable[[Array, int], Array]  # obs (k, O), count -> packed actions (k, count, A) of the data nearest there


class Swap(Protocol):
    """One arm: who acts in the learner's place."""

    errors: dict[int, list[float]]
    """Episode -> how far the learner's action was from the expert's at each step; empty where it was not compared."""

    def __call__(self, policy: Policy, rows: int) -> tuple[Policy, VectorEnvironment]:
        """See `toolkit.evaluate.Stage`."""

    def settle(self, records: Sequence[Record]) -> list[Record]:
        """The records of what was acted, with the returns that the arm stands for."""


class Plain:
    """Nothing is swapped: the learner's policy in the suite's own environments, as it is evaluated."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.errors: dict[int, list[float]] = {}

    def __call__(self, policy: Policy, rows: int) -> tuple[Policy, VectorEnvironment]:
        return policy, self.scene.suite.batch(rows)

    def settle(self, records: Sequence[Record]) -> list[Record]:
        return list(records)


class Simulated(Plain):
    """In the suite's simulator instead, where actions can also be tried and taken back."""

    def staged(self, rows: int) -> tuple[Watched, Played]:
        """Environments to act in, and what knows their states; `self.trial` is for what is only tried."""
        trial = self.scene.suite.simulator()
        assert trial is not None  # `offered` has asked
        self.trial = trial
        played = Played(trial, rows)
        return Watched(played), played

    def settle(self, records: Sequence[Record]) -> list[Record]:
        self.trial.close()
        return list(records)
