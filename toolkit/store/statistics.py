"""Mergeable moments: count, mean, sum of squared deviations, least and greatest value of each dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolkit.core import Array, Moments
from toolkit.store.files import StoreError


@dataclass(frozen=True)
class Running:
    """Moments that merge exactly up to rounding (Chan, Golub and LeVeque 1983); float64 arrays (D,)."""

    count: int
    mean: Array
    m2: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, values: Array) -> Running:
        """Moments over axis 0 of `values` (n, D); n = 0 gives the neutral element."""
        wide = np.asarray(values, np.float64)
        if len(wide) == 0:
            zero = np.zeros(wide.shape[1])
            return cls(0, zero, zero, zero + np.inf, zero - np.inf)
        mean = wide.mean(0)
        return cls(len(wide), mean, ((wide - mean) ** 2).sum(0), wide.min(0), wide.max(0))

    def merge(self, other: Running) -> Running:
        """The moments of both sets of values together."""
        if 0 in (self.count, other.count):
            return other if self.count == 0 else self
        count = self.count + other.count
        gap = other.mean - self.mean
        return Running(
            count,
            self.mean + gap * (other.count / count),
            self.m2 + other.m2 + gap**2 * (self.count * other.count / count),
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
        )

    def moments(self) -> Moments:
        """As `Moments` float32. Raises ValueError when nothing was counted."""
        if self.count == 0:
            raise ValueError("no transitions to take statistics of")
        parts = (self.mean, np.sqrt(self.m2 / self.count), self.low, self.high)
        return Moments(*(np.asarray(part, np.float32) for part in parts))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        arrays = {name: getattr(self, name).tolist() for name in ("mean", "m2", "low", "high")}
        return {"count": self.count, **arrays}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Running:
        """Inverse of `to_json`."""
        return cls(data["count"], *(np.asarray(data[name], np.float64) for name in ("mean", "m2", "low", "high")))


def merged(segments: Sequence[Mapping[str, Any]], obs_dim: int, action_dim: int, path: object) -> dict[str, Running]:
    """The statistics that a commit's segments state, of all of them together; see `transition_statistics`.

    Raises StoreError naming `path` and the segment if one states other numbers than these dimensions have.
    """
    sizes = {"obs": obs_dim, "delta": obs_dim, "action": action_dim, "reward": 1}
    total = {name: Running.of(np.zeros((0, size))) for name, size in sizes.items()}
    for segment in segments:
        try:
            stated = {name: Running.from_json(segment["statistics"][name]) for name in sizes}
            for name, size in sizes.items():
                arrays = [getattr(stated[name], part) for part in ("mean", "m2", "low", "high")]
                if type(stated[name].count) is not int or any(array.shape != (size,) for array in arrays):
                    raise ValueError(f"{name} is not of {size} numbers")
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{path}: the statistics of segment {segment['id']} cannot be read ({type(error).__name__}: {error})"
            ) from None
        total = {name: total[name].merge(stated[name]) for name in sizes}
    return total


def transition_statistics(rows: Array, final: Array, obs_dim: int, action_dim: int) -> dict[str, Running]:
    """Statistics of packed rows (R, W) whose episodes end at the rows where `final` (R,) is set.

    "obs", "action" and "reward" leave final rows out; "delta" is next observation minus observation.
    """
    steps = np.flatnonzero(~final)
    return {
        "obs": Running.of(rows[steps, :obs_dim]),
        "delta": Running.of(rows[steps + 1, :obs_dim] - rows[steps, :obs_dim]),
        "action": Running.of(rows[steps, obs_dim : obs_dim + action_dim]),
        "reward": Running.of(rows[steps, -2:-1]),
    }
