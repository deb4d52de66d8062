"""Means and differences of few clusters, with Student's intervals; equivalence and regret."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite, sqrt

import numpy as np
from scipy import special

from toolkit.stats.estimate import Array, Estimate, cube, interval


def student_interval(strata: Sequence[Sequence[float]] | Array, *, level: float = 0.95) -> Estimate:
    """Mean over strata (tasks) of the mean over units (draws), with Student's interval.

    `strata` holds one sequence of independent values for each task; lengths may differ. The variance of the
    mean is the sum of the tasks' own, the degrees of freedom Satterthwaite's (n - 1 for one task). A task with one
    value has no variance to estimate: the interval is infinite.
    """
    columns = [np.asarray(s, np.float64) for s in strata]
    if not columns or any(c.size == 0 for c in columns):
        raise ValueError("an interval needs at least one value in every task; got an empty one")
    value = float(np.mean([c.mean() for c in columns]))
    error, degrees = standard_error(columns)
    return interval(value, error, degrees, level=level, n=min(c.size for c in columns))


def standard_error(columns: Sequence[Array] | Array) -> tuple[float, float]:
    """Standard error of the mean over tasks of the mean over units, and Satterthwaite's degrees of freedom.

    `columns` holds the independent values of each task. (inf, 0) if a task has only one.
    """
    if any(len(c) < 2 for c in columns):
        return inf, 0.0
    parts = np.array([c.var(ddof=1) / len(c) for c in columns])
    spare = np.array([len(c) - 1 for c in columns], np.float64)
    total = parts.sum()
    degrees = total**2 / (parts**2 / spare).sum() if total > 0 else spare.min()
    return sqrt(total) / len(columns), float(degrees)


def nested_interval(values: Array, *, level: float = 0.95) -> Estimate:
    """Mean of `values` (draws, seeds, tasks) with Student's interval on the draw means; see `student_interval`."""
    return student_interval(cube(values).mean(1).T, level=level)


def paired_difference(a: Array, b: Array, *, level: float = 0.95) -> Estimate:
    """Mean of a - b, both (draws, seeds, tasks) and paired on draw, seed and task.

    What a draw does to both cancels. Raises ValueError if the shapes differ.
    """
    a, b = cube(a), cube(b)
    if a.shape != b.shape:
        raise ValueError(f"arrays of shapes {a.shape} and {b.shape} cannot be paired; expected equal shapes")
    return nested_interval(a - b, level=level)


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests: equivalent when the (1 - 2 alpha) interval lies strictly within +-margin."""

    difference: Estimate
    margin: float
    p: float  # the larger of the two one-sided p values; 1 when nothing can be said

    @property
    def equivalent(self) -> bool:
        """Whether both one-sided tests reject."""
        return -self.margin < self.difference.low and self.difference.high < self.margin


def tost(a: Array, b: Array, *, margin: float = 0.1, alpha: float = 0.05) -> Equivalence:
    """Two one-sided paired t tests of |mean(a - b)| < margin; arrays as in `paired_difference`."""
    difference = paired_difference(a, b, level=1 - 2 * alpha)
    error, degrees = standard_error((cube(a) - cube(b)).mean(1).T)
    if not isfinite(error):
        return Equivalence(difference, margin, 1.0)
    room = margin - abs(difference.value)
    if error == 0:
        return Equivalence(difference, margin, 0.0 if room > 0 else 1.0)
    return Equivalence(difference, margin, float(special.stdtr(degrees, -room / error)))


def regret(scores: Array, *, level: float = 0.95) -> list[Estimate]:
    """How far each of F families lies below the best: (families, draws, seeds, tasks) -> F estimates.

    The best is not picked from the data and then believed: a bound is the largest over all rivals of the
    paired difference's bound, at a level corrected for the F (F - 1) / 2 pairs (Bonferroni), so that the chance of
    any false lower bound above the truth stays below 1 - level. A family has no regret against itself, so `low` >= 0.
    """
    families = len(scores)
    strict = 1 - (1 - level) / max(families * (families - 1) // 2, 1)
    found = []
    for own in scores:
        pairs = [paired_difference(rival, own, level=strict) for rival in scores if rival is not own]
        rivals = [Estimate(0.0, 0.0, 0.0, level, len(own)), *pairs]
        value, low, high = (max(getattr(e, end) for e in rivals) for end in ("value", "low", "high"))
        found.append(Estimate(value, low, high, level, len(own)))
    return found
