"""The interquartile mean, and intervals by resampling."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, sqrt

import numpy as np

from toolkit.stats.estimate import Array, Estimate, cube, interval
from toolkit.stats.means import standard_error

Statistic = Callable[..., Array]  # one or more arrays (B, R, T) -> (B,)
CHUNK = 2**20  # numbers resampled at once; keeps a bootstrap of any length within some 30 MB


def iqm(values: Array, axis: int = -1) -> Array:
    """Interquartile mean along `axis`: the mean of the middle half (arXiv:2108.13264).

    Where a quarter of n is not whole, the two values on the border count by the fraction of them that
    lies inside, so exactly half the mass is averaged. rliable instead cuts int(n / 4) values from each end
    (scipy.stats.trim_mean(proportiontocut=0.25)); the two agree when n is a multiple of 4.
    """
    moved = np.moveaxis(np.asarray(values, np.float64), axis, -1)
    n = moved.shape[-1]
    if n == 0:
        raise ValueError("the interquartile mean of no values is undefined; pass at least one")
    edges = np.arange(n)
    weight = np.clip(np.minimum(edges + 1, 0.75 * n) - np.maximum(edges, 0.25 * n), 0, None)
    keep = weight > 0
    return np.sort(moved, axis=-1)[..., keep] @ (weight[keep] / weight.sum())


def interquartile_mean(
    scores: Array, *, rng: np.random.Generator, resamples: int = 50_000, level: float = 0.95
) -> Estimate:
    """IQM of all entries of `scores` (runs, tasks) with a stratified percentile bootstrap interval.

    Runs are resampled within each task (arXiv:2108.13264). The runs must be independent: for runs that
    share dataset draws use `hierarchical_bootstrap`. Raises ValueError if `scores` is not 2-d.
    """
    return stratified_bootstrap(scores, _pooled_iqm, rng=rng, resamples=resamples, level=level)


def stratified_bootstrap(
    scores: Array, statistic: Statistic, *, rng: np.random.Generator, resamples: int = 50_000, level: float = 0.95
) -> Estimate:
    """`statistic` of (runs, tasks) with the percentile interval of runs resampled within tasks.

    `statistic` maps (B, runs, tasks) to (B,). One run gives an infinite interval.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or scores.size == 0:
        raise ValueError(f"scores have shape {scores.shape}; expected (runs, tasks) with at least one of each")
    runs, tasks = scores.shape
    value = float(statistic(scores[None])[0])
    if runs == 1:
        return Estimate(value, -inf, inf, level, 1)
    rows = scores.ravel()  # flat index run * tasks + task
    offset = np.arange(tasks, dtype=np.int32)
    found = []
    for count in _chunks(resamples, scores.size):
        index = rng.integers(0, runs, (count, runs, tasks), dtype=np.int32)
        found.append(statistic(rows.take(index * np.int32(tasks) + offset)))
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(found), [tail, 1 - tail])
    return Estimate(value, float(low), float(high), level, runs)


def hierarchical_bootstrap(
    *values: Array, statistic: Statistic, rng: np.random.Generator, resamples: int = 4000, level: float = 0.95
) -> Estimate:
    """`statistic` of runs nested in dataset draws: draws are resampled, then seeds within a draw, in each task.

    Every array is (draws, seeds, tasks); several arrays are paired and share one resampling.
    `statistic` maps one (B, runs, tasks) array each to (B,). The interval is Student's, with the bootstrap's standard
    error times sqrt(D / (D - 1)): quantiles of two or three resampled draws are lopsided and far too narrow. One
    draw gives an infinite interval.
    """
    value, error, degrees = hierarchical_error(*values, statistic=statistic, rng=rng, resamples=resamples)
    return interval(value, error, degrees, level=level, n=len(values[0]))


def hierarchical_error(
    *values: Array, statistic: Statistic, rng: np.random.Generator, resamples: int = 4000
) -> tuple[float, float, float]:
    """Value, standard error and degrees of freedom behind `hierarchical_bootstrap`; (value, inf, 0) for one draw."""
    arrays = [cube(v) for v in values]
    draws, seeds, tasks = arrays[0].shape
    if any(a.shape != arrays[0].shape for a in arrays):
        raise ValueError(f"paired arrays have shapes {[a.shape for a in arrays]}; expected equal ones")
    flat = [a.reshape(1, draws * seeds, tasks) for a in arrays]
    value = float(statistic(*flat)[0])
    if draws == 1:
        return value, inf, 0.0
    task = np.arange(tasks)
    found = []
    for count in _chunks(resamples, arrays[0].size):
        draw = rng.integers(0, draws, (count, draws, 1, tasks))
        seed = rng.integers(0, seeds, (count, draws, seeds, tasks))
        found.append(statistic(*(a[draw, seed, task].reshape(count, draws * seeds, tasks) for a in arrays)))
    mean = arrays[0] if len(arrays) == 1 else arrays[0] - arrays[1]
    error = float(np.concatenate(found).std(ddof=1)) * sqrt(draws / (draws - 1))
    return value, error, standard_error(mean.mean(1).T)[1]


def hierarchical_iqm(values: Array, *, rng: np.random.Generator, level: float = 0.95) -> Estimate:
    """IQM over all runs and tasks of `values` (draws, seeds, tasks), by `hierarchical_bootstrap`."""
    return hierarchical_bootstrap(values, statistic=_pooled_iqm, rng=rng, level=level)


def _pooled_iqm(scores: Array) -> Array:
    return iqm(scores.reshape(len(scores), -1))


def _chunks(resamples: int, size: int) -> list[int]:
    """How many resamples to hold at once, chunk by chunk."""
    each = max(1, CHUNK // size)
    return [min(each, resamples - start) for start in range(0, resamples, each)]
