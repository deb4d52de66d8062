"""Packed rows, and the index that finds a transition among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from toolkit.core import Array

SPARE = 256  # zero rows behind the last episode, so that late windows stay inside


@dataclass(frozen=True)
class Packed:
    """Packed rows [observation | action | reward | terminated], with `spare` zero rows at their end.

    Images stand beside them, row for row, and are gathered by the same row numbers.
    """

    rows: Tensor  # (R + spare, W) float32, W = obs_dim + action_dim + 2; read-only
    obs_dim: int
    action_dim: int
    goal_dim: int
    spare: int
    images: Mapping[str, Tensor] = field(default_factory=dict)  # key -> (R + spare, H, W, C) uint8; read-only

    @property
    def image_bytes(self) -> int:
        """Bytes of one row's images."""
        return sum(values[0].numel() for values in self.images.values())


class EpisodeIndex:
    """Maps a transition's number to its row at a few bytes an episode, none a transition.

    Transition u (0 <= u < total) of the chosen episodes lies in episode `locate(u)[0]` (its position
    among the chosen) at row `locate(u)[1]`. A guide table replaces the binary search.
    """

    def __init__(self, starts: Array, lengths: Array) -> None:
        """`starts` (E,): each episode's first row; `lengths` (E,): its steps, all at least 1."""
        if len(starts) == 0:
            raise ValueError("no episodes to sample from; the store or view is empty")
        ends = np.cumsum(lengths, dtype=np.int64)
        self.total = int(ends[-1])
        self.lengths = np.asarray(lengths)
        self.offsets = _narrow(np.asarray(starts, np.int64) - (ends - self.lengths))
        self.each = int(lengths[0]) if (np.asarray(lengths) == lengths[0]).all() else 0  # steps, if all have as many
        self.shift = max(0, int(np.log2(self.total / len(starts))))
        edges = np.arange(0, self.total, 1 << self.shift)
        self.guide = _narrow(np.searchsorted(ends, edges, side="right"))
        self.ends = _narrow(ends)

    def locate(self, transition: Array) -> tuple[Array, Array]:
        """(n,) int64 transition numbers -> episode positions (n,) and rows (n,)."""
        if self.each:
            episode = transition // self.each
            return episode, transition + self.offsets.take(episode, mode="clip")
        episode = self.guide.take(transition >> self.shift, mode="clip")  # never clips; spares a check
        while (late := transition >= self.ends.take(episode, mode="clip")).any():
            episode = episode + late
        return episode, transition + self.offsets.take(episode, mode="clip")


def _narrow(values: Array) -> Array:
    """`values` (n,) int64 as int32 where they fit: half the memory, and more of it in the cache."""
    return values.astype(np.int32) if max(-int(values.min()), int(values.max())) < 1 << 31 else values


def returns_to_go(reward: Array, starts: Array, lengths: Array, discount: float, group: int = 1 << 20) -> Array:
    """Discounted sum of rewards from each row of the given episodes to its end; (R,) rewards -> (R,) float32.

    Sums double in length each pass (float64, log2 of the longest episode passes), over `group` rows at a time.
    Rows of other episodes, and final rows, are 0.
    """
    result = np.zeros(len(reward), np.float32)
    ends = np.cumsum(lengths)
    first = 0
    while first < len(starts):
        last = max(first + 1, int(np.searchsorted(ends, (ends[first - 1] if first else 0) + group, side="right")))
        size = lengths[first:last]
        left = np.repeat(np.cumsum(size), size) - np.arange(size.sum())  # steps until the episode ends
        row = np.repeat(starts[first:last] + size, size) - left
        total, reach = reward[row].astype(np.float64), 1
        while reach < size.max():
            further = np.where(left[:-reach] > reach, total[reach:], 0.0)
            total[:-reach] += discount**reach * further
            reach *= 2
        result[row] = total
        first = last
    return result
