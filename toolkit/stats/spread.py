"""How far families lie apart beyond their noise, and how that changes along a factor."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, sqrt

import numpy as np

from toolkit.stats.estimate import Array, Estimate, interval


def noise_corrected_spread(means: Array, standard_errors: Array) -> float:
    """sigma_A^2 = variance over families of their means (n - 1 in the denominator) - mean squared standard error.

    Unbiased for independent errors, hence it can be negative. Raises ValueError for fewer than two families.
    """
    means, errors = np.asarray(means, np.float64), np.asarray(standard_errors, np.float64)
    if means.shape != errors.shape or means.size < 2:
        raise ValueError(f"spread needs two families or more with one error each; got {means.shape} and {errors.shape}")
    return float(means.var(ddof=1) - np.square(errors).mean())


def paired_spread(scores: Array) -> float:
    """`noise_corrected_spread` of (families, draws, tasks) draw means, paired on draw.

    What a draw does to every family alike moves no mean apart, so each draw is first centred over families; errors of
    centred scores are too small by sqrt((F - 1) / F), which is undone. NaN with one draw or one family.
    """
    families, draws, tasks = scores.shape
    if families < 2 or draws < 2:
        return float("nan")
    centred = scores - scores.mean(0)
    squares = centred.var(1, ddof=1).sum(-1) / draws / tasks**2  # of each family's mean over tasks
    return noise_corrected_spread(centred.mean((1, 2)), np.sqrt(squares * families / (families - 1)))


def signed_root(square: float) -> float:
    """sqrt that keeps the sign: a noise-corrected variance below zero becomes a spread below zero, not a hole."""
    return float(np.sign(square) * np.sqrt(abs(square)))


def line(x: Array, y: Array) -> tuple[float, float]:
    """Least-squares (intercept, slope) of y on x. Raises ValueError unless x has two different values."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.size < 2 or np.ptp(x) == 0:
        raise ValueError(f"a slope needs two different places, got {x.tolist()}")
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / np.square(x - x.mean()).sum())
    return float(y.mean() - slope * x.mean()), slope


def jackknife(statistic: Callable[[Array], float], draws: int, *, level: float = 0.95) -> Estimate:
    """`statistic` of kept draw indices (a 1-d integer array), with the delete-one-draw jackknife's Student interval.

    For statistics that are themselves corrected for noise, which a bootstrap would inflate again.
    Fewer than three draws give an infinite interval: two leave one, and one has no spread.
    """
    every = np.arange(draws)
    value = statistic(every)
    if draws < 3:
        return Estimate(value, -inf, inf, level, draws)
    left_out = np.array([statistic(np.delete(every, d)) for d in every])
    error = sqrt((draws - 1) / draws * float(np.square(left_out - left_out.mean()).sum()))
    return interval(value, error, draws - 1, level=level, n=draws)
