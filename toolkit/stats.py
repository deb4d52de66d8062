"""Estimates that say how sure they are: IQM, clustered intervals, equivalence, spread, runs still needed.

NumPy and SciPy only; nothing of ours is imported and no randomness is hidden: a resampling function
takes its generator. Letters in shapes: F families (or learners), D dataset draws, S training seeds
within a draw, T tasks, R = D * S runs.

**Few clusters.** Runs that share a draw of the data are not independent, and studies have two to five
draws. A percentile bootstrap of three clusters covers about 75% where it claims 95%. So the unit is the
draw, and the reference distribution is Student's: intervals of means are t intervals on draw means
(noise of seeds is inside them, whatever S), tasks are strata, and the degrees of freedom are
Satterthwaite's. Statistics that are not means take their standard error from the hierarchical bootstrap, corrected
for its small-sample bias, and Student's quantile with it (Hesterberg, arXiv:1411.5279). With one draw nothing is known
about other draws: the interval is infinite, never absent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, inf, isfinite, sqrt

import numpy as np
from scipy import stats as distributions

Array = np.ndarray
Statistic = Callable[..., Array]  # one or more arrays (B, R, T) -> (B,)
CHUNK = 2**20  # numbers resampled at once; keeps a bootstrap of any length within some 30 MB


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


# --- location -------------------------------------------------------------------------------------


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
    arrays = [_cube(v) for v in values]
    draws, seeds, tasks = arrays[0].shape
    if any(a.shape != arrays[0].shape for a in arrays):
        raise ValueError(f"paired arrays have shapes {[a.shape for a in arrays]}; expected equal ones")
    flat = [a.reshape(1, draws * seeds, tasks) for a in arrays]
    value = float(statistic(*flat)[0])
    if draws == 1:
        return Estimate(value, -inf, inf, level, 1)
    task = np.arange(tasks)
    found = []
    for count in _chunks(resamples, arrays[0].size):
        draw = rng.integers(0, draws, (count, draws, 1, tasks))
        seed = rng.integers(0, seeds, (count, draws, seeds, tasks))
        found.append(statistic(*(a[draw, seed, task].reshape(count, draws * seeds, tasks) for a in arrays)))
    mean = arrays[0] if len(arrays) == 1 else arrays[0] - arrays[1]
    degrees = standard_error(mean.mean(1).T)[1]
    error = float(np.concatenate(found).std(ddof=1)) * sqrt(draws / (draws - 1))
    half = student(level, degrees) * error
    return Estimate(value, value - half, value + half, level, draws)


def hierarchical_iqm(values: Array, *, rng: np.random.Generator, level: float = 0.95) -> Estimate:
    """IQM over all runs and tasks of `values` (draws, seeds, tasks), by `hierarchical_bootstrap`."""
    return hierarchical_bootstrap(values, statistic=_pooled_iqm, rng=rng, level=level)


def probability_of_improvement(a: Array, b: Array, *, rng: np.random.Generator, level: float = 0.95) -> Estimate:
    """P(a run of `a` scores above a run of `b`), ties counting half, averaged over tasks (arXiv:2108.13264).

    `a` and `b` are (draws, seeds, tasks), paired on draws; the interval is cut to [0, 1]. When every draw agrees the
    bootstrap sees no variance; then the bound is that of D successes in D trials, (tail)^(1/D).
    """

    def above(x: Array, y: Array) -> Array:
        return (0.5 + 0.5 * np.sign(x[:, :, None] - y[:, None])).mean((1, 2, 3))

    found = hierarchical_bootstrap(a, b, statistic=above, rng=rng, level=level, resamples=2000)
    if not found.bounded:
        return found
    if found.low == found.high:
        shrink = ((1 - level) / 2) ** (1 / found.n)
        return Estimate(found.value, found.value * shrink, 1 - (1 - found.value) * shrink, level, found.n)
    return Estimate(found.value, max(found.low, 0.0), min(found.high, 1.0), level, found.n)


# --- means and differences of few clusters ----------------------------------------------------------


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
    count = min(c.size for c in columns)
    if not isfinite(error):
        return Estimate(value, -inf, inf, level, count)
    half = student(level, degrees) * error
    return Estimate(value, value - half, value + half, level, count)


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
    return student_interval(_cube(values).mean(1).T, level=level)


def paired_difference(a: Array, b: Array, *, level: float = 0.95) -> Estimate:
    """Mean of a - b, both (draws, seeds, tasks) and paired on draw, seed and task.

    What a draw does to both cancels. Raises ValueError if the shapes differ.
    """
    a, b = _cube(a), _cube(b)
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
    error, degrees = standard_error((_cube(a) - _cube(b)).mean(1).T)
    if not isfinite(error):
        return Equivalence(difference, margin, 1.0)
    room = margin - abs(difference.value)
    if error == 0:
        return Equivalence(difference, margin, 0.0 if room > 0 else 1.0)
    return Equivalence(difference, margin, float(distributions.t.sf(room / error, degrees)))


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


# --- spread ------------------------------------------------------------------------------------------


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
    half = student(level, draws - 1) * error
    return Estimate(value, value - half, value + half, level, draws)


# --- how many more -----------------------------------------------------------------------------------


def draws_for_equivalence(
    sd: float, *, effect: float = 0.0, margin: float = 0.1, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Draws at which TOST passes with `power`, if paired draw differences have this `sd` and mean `effect`.

    Infinite when |effect| >= margin: more of the same never makes unequal things equal.
    """
    near, far = margin - abs(effect), margin + abs(effect)
    if not near > 0 or not isfinite(sd):
        return inf
    n = _draws(sd, near, alpha, 1 - power)  # a lower bound: the far margin has to be cleared as well
    while sd > 0 and sum(_clears(sd, room, alpha, n) for room in (near, far)) - 1 < power:
        n += max(1, n // 100)
    return n


def draws_for_bound(sd: float, gap: float, *, level: float = 0.95, power: float = 0.8) -> float:
    """Draws at which the lower end of the `level` interval clears a threshold lying `gap` below the mean, with `power`.

    Infinite when gap <= 0: the mean is on the wrong side.
    """
    return _draws(sd, gap, (1 - level) / 2, 1 - power)


def _clears(sd: float, room: float, alpha: float, n: float) -> float:
    """Chance that a mean of n draws lies further from a margin `room` away than its one-sided bound."""
    return float(distributions.t.cdf(room * sqrt(n) / sd - distributions.t.isf(alpha, n - 1), n - 1))


def _draws(sd: float, gap: float, alpha: float, beta: float) -> float:
    """Least n >= 2 with (t_alpha + t_beta) sd / sqrt(n) <= gap, Student's quantiles at n - 1."""
    if not gap > 0 or not isfinite(sd):
        return inf
    normal = distributions.norm.isf(alpha) + distributions.norm.isf(beta)
    n = max(2, ceil((normal * sd / gap) ** 2))  # a lower bound, as Student's quantiles are larger
    while (distributions.t.isf(alpha, n - 1) + distributions.t.isf(beta, n - 1)) * sd > gap * sqrt(n):
        n = n + max(1, n // 100)
    return float(n)


# --- small parts -------------------------------------------------------------------------------------


def _cube(values: Array) -> Array:
    """(draws, seeds) or (draws, seeds, tasks) -> (draws, seeds, tasks) float64, with at least one of each."""
    array = np.asarray(values, np.float64)
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.size == 0:
        raise ValueError(
            f"values have shape {np.shape(values)}; expected (draws, seeds, tasks) with at least one of each"
        )
    return array


def student(level: float, degrees: float) -> float:
    """Student's two-sided quantile: 4.30 for level 0.95 and 2 degrees of freedom."""
    return float(distributions.t.isf((1 - level) / 2, degrees))


def _pooled_iqm(scores: Array) -> Array:
    return iqm(scores.reshape(len(scores), -1))


def _chunks(resamples: int, size: int) -> list[int]:
    """How many resamples to hold at once, chunk by chunk."""
    each = max(1, CHUNK // size)
    return [min(each, resamples - start) for start in range(0, resamples, each)]
