"""Bins of the store's resolution, and the code length of a number by its frequency alone."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf, isfinite

import numpy as np

from toolkit.core import Array

TAIL = 0.01  # share of a marginal that is spread over all the bins, seen in training or not
FINEST = 1024  # cells of a marginal at most


@dataclass(frozen=True)
class Bins:
    """Bins (k width, (k + 1) width] from `low` on, or from zero where there is no limit.

    The bins at a limit hold all that lies beyond it. Raises ValueError for a width that is not positive.
    """

    width: float
    low: float = -inf
    high: float = inf

    def __post_init__(self) -> None:
        if not 0 < self.width < inf:
            raise ValueError(f"bins need a finite width above 0, got {self.width}")

    @property
    def origin(self) -> float:
        """Where bin 0 begins."""
        return self.low if isfinite(self.low) else 0.0

    @property
    def last(self) -> float:
        """The number of the last bin, infinite without an upper limit."""
        return max(0, ceil((self.high - self.origin) / self.width - 1e-6) - 1) if isfinite(self.high) else inf

    def index(self, values: Array) -> Array:
        """(n,) raw -> bin numbers (n,) int64, within the limits."""
        found = np.floor((np.asarray(values, np.float64) - self.origin) / self.width)
        return np.clip(found, 0 if isfinite(self.low) else -inf, self.last).astype(np.int64)

    def edges(self, index: Array) -> tuple[Array, Array]:
        """Lower and upper edges (n,) float64 of bins (n,); infinite at a limit."""
        low, high = (self.origin + (index + step) * self.width for step in (0, 1))
        low = np.where((index == 0) & isfinite(self.low), -inf, low)
        return low, np.where(index == self.last, inf, high)


@dataclass(frozen=True)
class Marginal:
    """The distribution of one number's bin, coded without looking at anything else.

    A histogram, uniform within a cell; one hundredth is left to a Cauchy distribution over all bins.
    """

    cuts: Array  # (c + 1,) int64, cell i holds bins cuts[i] to cuts[i + 1] - 1
    mass: Array  # (c,) of the cells
    centre: float
    scale: float

    @classmethod
    def fit(cls, index: Array, group: Array) -> Marginal:
        """From bins (n,) int64 and the episodes (n,) they come from, n >= 1.

        The number of cells, a power of two, is the one that codes half of the episodes best when fitted to the others.
        """
        sizes = [2**k for k in range(FINEST.bit_length()) if 2**k <= max(1, len(index) // 4)]
        half = np.searchsorted(np.unique(group), group) % 2 == 0
        if half.all():  # one episode
            half = np.arange(len(index)) % 2 == 0
        if half.all():  # one value
            return histogram(index, 1)
        codes = [np.mean([histogram(index[a], c).bits(index[~a]).mean() for a in (half, ~half)]) for c in sizes]
        return histogram(index, sizes[int(np.argmin(codes))])

    def bits(self, index: Array) -> Array:
        """Code lengths (n,) of bins (n,), in bits; always finite."""
        cell = np.searchsorted(self.cuts, index, side="right") - 1
        inside = (cell >= 0) & (cell < len(self.mass))
        cell = np.clip(cell, 0, len(self.mass) - 1)
        dense = np.where(inside, self.mass[cell] / np.diff(self.cuts)[cell], 0.0)
        low, wide = (index - self.centre) / self.scale, 1 / self.scale
        tail = np.arctan2(wide, 1 + low * (low + wide)) / np.pi  # Cauchy mass from low to low + wide
        return -np.log2((1 - TAIL) * dense + TAIL * tail)


def histogram(index: Array, cells: int) -> Marginal:
    """About `cells` cells of equally many of the bins (n,); a bin that many share is a cell of its own."""
    cuts = np.sort(index)[np.arange(cells) * len(index) // cells]
    shared = cuts[1:][cuts[1:] == cuts[:-1]]
    cuts = np.unique(np.concatenate([cuts, shared + 1, [index.max() + 1]]))
    counts = np.bincount(np.searchsorted(cuts, index, side="right") - 1, minlength=len(cuts) - 1)
    mass = (counts + 0.5) / (len(index) + 0.5 * len(counts))
    return Marginal(cuts, mass, float(index.mean()), float(index.std()) + 1)


def choice_bits(training: Array, held_out: Array, choices: int) -> Array:
    """Code lengths (n,) in bits of integers `held_out` (n,), by their frequency in `training`, plus one half."""
    counts = np.bincount(training, minlength=choices) + 0.5
    return -np.log2(counts / counts.sum())[held_out]
