"""A value with its interval."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite, sqrt

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

    def within(self, least: float, most: float) -> Estimate:
        """The same with finite ends cut to what the value can be; a correlation lies in [-1, 1]."""
        if not self.bounded:
            return self
        return Estimate(self.value, max(self.low, least), min(self.high, most), self.level, self.n)

    def __str__(self) -> str:
        ends = f"{self.low:z.2f}, {self.high:z.2f}" if self.bounded else "interval n/a"
        return f"{self.value:z.2f} [{ends}]"


def interval(value: float, error: float, degrees: float, *, level: float, n: int) -> Estimate:
    """Student's interval around `value`; an infinite standard error gives an infinite one."""
    half = student(level, degrees) * error if isfinite(error) else inf
    return Estimate(value, value - half, value + half, level, n)


def proportion(value: float, error: float, degrees: float, *, level: float, n: int) -> Estimate:
    """A share's interval: Wilson's, with the sample size that the standard error amounts to and Student's quantile.

    Near 0 and 1 a symmetric interval covers too rarely. When all n units agree they show no variance; then the bound is
    that of n successes in n trials, (tail)^(1/n).
    """
    if not isfinite(error):
        return Estimate(value, -inf, inf, level, n)
    if error == 0:
        shrink = ((1 - level) / 2) ** (1 / n)
        return Estimate(value, value * shrink, 1 - (1 - value) * shrink, level, n)
    quantile, variance = student(level, degrees), value * (1 - value)
    ease = quantile**2 * error**2 / variance  # quantile^2 / effective size
    middle = (value + ease / 2) / (1 + ease)
    half = sqrt(ease * variance + ease**2 / 4) / (1 + ease)
    return Estimate(value, middle - half, middle + half, level, n)


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
