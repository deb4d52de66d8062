"""A value with its interval."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite

import numpy as np
from scipy import special

Array = np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A value with an interval; `low` and `high` are infinite when the data cannot bound it."""

    value: float
    low: float
    high: float
    level: float  # two-sided, 0.95 unless said otherwise
    n: int  # independent units behind the interval: dataset draws, or runs

    @property
    def bounded(self) -> bool:
        """Whether both ends are finite."""
        return isfinite(self.low) and isfinite(self.high)

    def __str__(self) -> str:
        ends = f"{self.low:z.2f}, {self.high:z.2f}" if self.bounded else "interval n/a"
        return f"{self.value:z.2f} [{ends}]"


def interval(value: float, error: float, degrees: float, *, level: float, n: int) -> Estimate:
    """Student's interval around `value`; an infinite standard error gives an infinite one."""
    half = student(level, degrees) * error if isfinite(error) else inf
    return Estimate(value, value - half, value + half, level, n)


def proportion(value: float, error: float, degrees: float, *, level: float, n: int) -> Estimate:
    """`interval`, cut to [0, 1]. When all n units agree they show no variance; then the bound is that of n successes in
    n trials, (tail)^(1/n)."""
    found = interval(value, error, degrees, level=level, n=n)
    if not found.bounded:
        return found
    if error == 0:
        shrink = ((1 - level) / 2) ** (1 / n)
        return Estimate(value, value * shrink, 1 - (1 - value) * shrink, level, n)
    return Estimate(value, max(found.low, 0.0), min(found.high, 1.0), level, n)


def student(level: float, degrees: float) -> float:
    """Student's two-sided quantile: 4.30 for level 0.95 and 2 degrees of freedom."""
    return -float(special.stdtrit(degrees, (1 - level) / 2))


def cube(values: Array) -> Array:
    """(draws, seeds) or (draws, seeds, tasks) -> (draws, seeds, tasks) float64, with at least one of each."""
    array = np.asarray(values, np.float64)
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.size == 0:
        raise ValueError(
            f"values have shape {np.shape(values)}; expected (draws, seeds, tasks) with at least one of each"
        )
    return array
