"""Index arithmetic and the packed-row gather. No zarr and no copy of the next observation.

Rows are packed [observation | action | reward | terminated] float32. An episode of T steps owns T+1
consecutive rows, so a window of L steps is L+1 consecutive rows: one `index_select` on a strided view
fetches it as one contiguous block, and every field of a Batch is a slice of that block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolkit.core import Array, Batch

BLOCK_FLOATS = 1 << 18  # a block of batches is gathered at once: large enough to amortise, small enough for the cache


@dataclass(frozen=True)
class Packed:
    """Packed rows of a store. `rows` holds `spare` zero rows at its end, so late windows stay inside."""

    rows: Tensor  # (R + spare, W) float32, W = obs_dim + action_dim + 2
    obs_dim: int
    action_dim: int
    goal_dim: int
    spare: int

    def with_spare(self, spare: int) -> Packed:
        """The same rows with at least `spare` zero rows behind them (a copy only if there are fewer)."""
        if spare <= self.spare:
            return self
        more = torch.zeros(spare - self.spare, self.rows.shape[1])
        return Packed(torch.cat([self.rows, more]), self.obs_dim, self.action_dim, self.goal_dim, spare)


class EpisodeIndex:
    """Maps a transition's number to its row at a few bytes an episode, none a transition.

    Transition u (0 <= u < total) of the chosen episodes lies in episode `locate(u)[0]` (its position
    among the chosen) at row `locate(u)[1]`. A guide table replaces the binary search.
    """

    def __init__(self, starts: Array, lengths: Array) -> None:
        """`starts` (E,): each episode's first row; `lengths` (E,): its steps, all at least 1."""
        if len(starts) == 0:
            raise ValueError("no episodes to sample from; the store or view is empty")
        self.ends = np.cumsum(lengths, dtype=np.int64)
        self.total = int(self.ends[-1])
        self.lengths = np.asarray(lengths, np.int64)
        self.offsets = np.asarray(starts, np.int64) - (self.ends - self.lengths)
        self.shift = max(0, int(np.log2(self.total / len(starts))))
        edges = np.arange(0, self.total, 1 << self.shift)
        self.guide = np.searchsorted(self.ends, edges, side="right")

    def locate(self, transition: Array) -> tuple[Array, Array]:
        """(n,) int64 transition numbers -> episode positions (n,) and rows (n,)."""
        episode = self.guide[transition >> self.shift]
        while (late := transition >= self.ends[episode]).any():
            episode = episode + late
        return episode, transition + self.offsets[episode]


class Sampler:
    """An endless stream of batches, uniform over transitions with replacement.

    A window may start at any step of an episode; steps past the episode's end are zero and not valid.
    `state` is JSON-able: assigning it to a sampler with equal arguments continues the stream bit for bit.
    """

    def __init__(
        self, packed: Packed, index: EpisodeIndex, *, window: int, batch_size: int, seed: int, device: str = "cpu"
    ) -> None:
        if window < 1 or batch_size < 1:
            raise ValueError(f"window and batch_size must be at least 1, got {window} and {batch_size}")
        packed = packed.with_spare(window)
        self.window, self.batch_size, self.device = window, batch_size, torch.device(device)
        self._packed, self._index = packed, index
        width = packed.rows.shape[1]
        rows = packed.rows.to(self.device)
        self._windows = rows.as_strided((len(rows) - window, (window + 1) * width), (width, 1))
        self._per_block = max(1, BLOCK_FLOATS // (batch_size * (window + 1) * width))
        self._always = torch.ones(batch_size, 1, dtype=torch.bool, device=self.device)
        self._rng = np.random.default_rng(seed)
        self._block_start = self._rng.bit_generator.state
        self._served = 0
        self._batches: list[Batch] = []

    def next(self) -> Batch:
        """The next batch; see `Batch` for shapes. Its tensors may share memory with other batches'."""
        if self._served == len(self._batches):
            self._block_start = self._rng.bit_generator.state
            self._batches = self._gather()
            self._served = 0
        batch = self._batches[self._served]
        self._served += 1
        return batch

    @property
    def state(self) -> dict[str, Any]:
        """Where the stream stands: JSON-able, independent of block boundaries in memory."""
        return {"generator": self._block_start, "served": self._served, "window": self.window, "batch": self.batch_size}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        if (state["window"], state["batch"]) != (self.window, self.batch_size):
            raise ValueError(
                f"sampler state is for window {state['window']} and batch size {state['batch']}, "
                f"this sampler has {self.window} and {self.batch_size}: build it with the saved run's settings"
            )
        self._rng.bit_generator.state = state["generator"]
        self._block_start, self._served = state["generator"], 0
        self._batches = []
        if state["served"]:
            self._batches = self._gather()
            self._served = state["served"]

    def _gather(self) -> list[Batch]:
        blocks, size, window = self._per_block, self.batch_size, self.window
        draws = self._rng.integers(0, self._index.total, blocks * size)
        episode, row = self._index.locate(draws)
        flat = self._windows.index_select(0, torch.from_numpy(row).to(self.device))
        if window == 1:
            valid = [self._always] * blocks
        else:
            left = torch.from_numpy(self._index.ends[episode] - draws).to(self.device)  # steps until the episode ends
            flat = flat.view(blocks * size, window + 1, -1)
            flat[torch.arange(window + 1, device=self.device) > left[:, None]] = 0.0
            valid = list(
                (torch.arange(window, device=self.device) < left[:, None]).view(blocks, size, window).unbind(0)
            )
        block = flat.view(blocks, size, window + 1, -1)
        steps, obs_dim = block[:, :, :window], self._packed.obs_dim
        fields = (
            block[..., :obs_dim],
            steps[..., obs_dim:-2],
            steps[..., -2],
            steps[..., -1] > 0.5,
            torch.from_numpy(episode).to(self.device).view(blocks, size),
        )
        columns = zip(*(field.unbind(0) for field in fields), valid, strict=True)
        goal_dim = self._packed.goal_dim
        return [
            Batch(obs, action, reward, terminated, ok, number, obs[..., -goal_dim:] if goal_dim else None)
            for obs, action, reward, terminated, number, ok in columns
        ]
