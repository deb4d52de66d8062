"""What a learner may ask of its windows besides their length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from torch import Tensor

from toolkit.core import Array, Moments, Spec


@dataclass(frozen=True)
class Relabel:
    """Hindsight goals (arXiv:1707.01495): a share of windows is shown with a goal its own episode reached later.

    The goal numbers (the last G of O) become the achieved goal at a later row of the episode, one for the whole
    window: any row after the window's first, equally likely ("future"), or the episode's last row ("final").
    Rewards of those windows become `reward(achieved, goal)` of the observation each step led to; so do their
    `terminated` flags where that function is given, else they stay as stored. Stored flags that mean "the old
    goal was reached" are wrong for the new one: give `terminated`.
    """

    achieved: tuple[int, ...]  # goal number i is observation number achieved[i]
    reward: Callable[[Tensor, Tensor], Tensor]  # pure; achieved (..., G), goal (..., G) -> (...)
    terminated: Callable[[Tensor, Tensor], Tensor] | None = None  # pure; as `reward`, to bool
    strategy: Literal["future", "final"] = "future"
    share: float = 0.8
    """The paper's k = 4 hindsight goals for each original one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "achieved", tuple(int(i) for i in self.achieved))
        if self.strategy not in ("future", "final"):
            raise ValueError(f"relabel strategy {self.strategy!r} is unknown; expected 'future' or 'final'")
        if not 0 <= self.share <= 1:
            raise ValueError(f"relabel share must lie in [0, 1], got {self.share}")


@dataclass(frozen=True)
class Options:
    """How a drawn transition becomes a window. Raises ValueError where two options contradict each other."""

    window: int = 1
    next_action: bool = False
    """Also give the action that followed each step; see Batch.next_valid for the rows that have none."""
    n_step: int = 1
    """Sum up to this many rewards; the next observation is that many steps on, or where the episode ends."""
    discount: float | None = None
    """Of the n-step sums and the returns; needed by both, and exposed as Batch.discount."""
    returns_to_go: bool = False
    """Also give the discounted sum of rewards from each step to the end of its episode."""
    frame_stack: int = 1
    """Observations become this many consecutive ones, oldest first; an episode's first row stands in for earlier."""
    relabel: Relabel | None = None

    def __post_init__(self) -> None:
        for name in ("window", "n_step", "frame_stack"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.n_step > 1 and self.window > 1:
            raise ValueError(
                f"n_step={self.n_step} and window={self.window}: the observation after a step of a window is the next "
                "row, so n-step returns need window=1"
            )
        if self.discount is None and (self.n_step > 1 or self.returns_to_go):
            raise ValueError(f"{'n_step' if self.n_step > 1 else 'returns_to_go'} needs a discount; pass discount=")
        if self.discount is not None and not 0 <= self.discount <= 1:
            raise ValueError(f"discount must lie in [0, 1], got {self.discount}")
        if self.returns_to_go and self.relabel is not None:
            raise ValueError("returns_to_go and relabel: the return of a relabelled episode is not stored; choose one")

    @property
    def span(self) -> int:
        """Steps that are read from a window's first row on."""
        return max(self.window, self.n_step)

    def check(self, obs_dim: int, goal_dim: int) -> None:
        """Raise ValueError if the data cannot serve these options."""
        if self.relabel is None:
            return
        if goal_dim == 0:
            raise ValueError("relabel was asked of data without goals; the schema needs a key with the role 'goal'")
        achieved = self.relabel.achieved
        if len(achieved) != goal_dim or min(achieved) < 0 or max(achieved) >= obs_dim - goal_dim:
            raise ValueError(
                f"relabel.achieved is {list(achieved)}; expected {goal_dim} numbers "
                f"from 0 to {obs_dim - goal_dim - 1}, the observation numbers that hold the achieved goal"
            )

    def to_json(self) -> dict[str, Any]:
        """What differs from the defaults, as plain JSON (functions by name), to compare a saved stream's options."""
        found: dict[str, Any] = {}
        for name, default in vars(Options()).items():
            if (value := getattr(self, name)) != default:
                found[name] = value
        if self.relabel is not None:
            plain = {**vars(self.relabel), "achieved": list(self.relabel.achieved)}
            found["relabel"] = {k: getattr(v, "__name__", "function") if callable(v) else v for k, v in plain.items()}
        return found


def stacked_spec(spec: Spec, frames: int) -> Spec:
    """The spec a learner of `frame_stack=frames` is built from: every observation number and channel `frames` times."""

    def tiled(values: Array) -> Array:
        return np.tile(values, frames)

    def moments(of: Moments) -> Moments:
        return Moments(tiled(of.mean), tiled(of.std), tiled(of.low), tiled(of.high))

    return replace(
        spec,
        images={name: (*shape[:2], shape[2] * frames) for name, shape in spec.images.items()},
        obs_dim=spec.obs_dim * frames,
        obs=moments(spec.obs),
        delta=moments(spec.delta),
        obs_resolution=tiled(spec.obs_resolution),
    )
