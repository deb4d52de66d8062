"""One learner's runs against another's, beyond means: who wins how often, and what share of runs reaches a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite, sqrt

import numpy as np
from scipy import special

from toolkit.stats.bootstrap import hierarchical_error
from toolkit.stats.estimate import Array, Estimate, cube, proportion
from toolkit.stats.means import standard_error


def probability_of_improvement(a: Array, b: Array, *, rng: np.random.Generator, level: float = 0.95) -> Estimate:
    """P(a run of `a` scores above a run of `b`), ties counting half, averaged over tasks (arXiv:2108.13264).

    `a` and `b` are (draws, seeds, tasks), paired on draws; the interval is that of a share. When every draw agrees the
    bootstrap sees no variance; then the bound is that of D successes in D trials, (tail)^(1/D).
    """
    return improvement(a, b, rng=rng, level=level)[0]


def improvement(a: Array, b: Array, *, rng: np.random.Generator, level: float = 0.95) -> tuple[Estimate, float]:
    """`probability_of_improvement`, and the two-sided p value of its being a half; 1 when nothing can be said.

    The p value is that of Wilson's score test, so it is below 1 - level where the interval leaves out a half. For
    many pairs of learners correct the p values together, by `holm`.
    """

    def above(x: Array, y: Array) -> Array:
        left, right = x[:, :, None], y[:, None]
        won = np.count_nonzero(left > right, (1, 2, 3)) + np.count_nonzero(left >= right, (1, 2, 3))
        return won / (2 * x[0].size * x.shape[1])

    value, error, degrees = hierarchical_error(a, b, statistic=above, rng=rng, resamples=2000)
    found = proportion(value, error, degrees, level=level, n=len(a))
    if not isfinite(error) or value == 0.5:
        return found, 1.0
    if error == 0:  # every draw agrees: a sign test
        return found, 2 * 0.5 ** len(a)
    of_a_half = error * sqrt(0.25 / (value * (1 - value)))  # the same effective size, at the half that is doubted
    return found, float(2 * special.stdtr(degrees, -abs(value - 0.5) / of_a_half))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p values corrected for their number (Holm 1979): the chance of any false one below alpha is at most alpha.

    In the order given. Raises ValueError for a value outside [0, 1].
    """
    if wrong := {name: value for name, value in p.items() if not 0 <= value <= 1}:
        raise ValueError(f"p values lie in [0, 1], got {wrong}")
    corrected, least = dict(p), 0.0
    for rank, name in enumerate(sorted(p, key=lambda n: p[n])):
        least = max(least, min(1.0, (len(p) - rank) * p[name]))
        corrected[name] = least
    return corrected


def performance_profile(values: Array, thresholds: Sequence[float] | Array, *, level: float = 0.95) -> list[Estimate]:
    """Share of runs that score above each threshold, mean over tasks (arXiv:2108.13264), with a band.

    `values` are (draws, seeds, tasks). The band is pointwise: the interval of a share, from the draws' own.
    """
    scores = cube(values)
    found = []
    for threshold in thresholds:
        shares = (scores > threshold).mean(1)  # (D, T)
        error, degrees = standard_error(shares.T)
        found.append(proportion(float(shares.mean()), error, degrees, level=level, n=len(scores)))
    return found
