"""Nearest-neighbour entropies in bits at a resolution, one term a point, and how sure their means are.

NumPy and SciPy only; randomness is an argument. Letters in shapes: n points, D numbers of a point, A of an action.

**At a resolution.** Densities are the wrong thing to measure here: a noise-free policy, an action clipped at its limit
or a pendulum at rest has mass in points, where a density is infinite. So every number counts by the bin it falls into.
A binned number plus uniform noise of one bin's width has a bounded density, and its differential entropy less the
log of the width is the entropy of the bin exactly; that density is what neighbours estimate. Repeated points need no
special case.

**Terms.** Each estimate is a mean of one term a point, minus log2 of the density estimated there from other points
(Kozachenko and Leonenko, 1987), so means over episodes, weights and intervals are means of terms.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import digamma

from toolkit.core import Array
from toolkit.stats import Estimate, student

NEAREST = 3  # the neighbour whose distance tells the density of states
NEIGHBOURS = 16  # nearest states whose actions stand for the actions in one state
RESAMPLES = 1000
FIRST_LOOK = 64  # neighbours asked for before it is known how many of them count
CHUNK = 2**22  # numbers compared at once


def state_terms(points: Array, *, width: Array, bounds: Array, rng: np.random.Generator) -> Array:
    """Terms (n,) whose mean estimates the entropy, in bits, of `points` (n, D) in bins of `width` (D,).

    `bounds` (2, D) are the least and greatest a point can be: the box around a point, as far as its NEAREST-th
    neighbour in the max-norm, counts no volume outside them. Steps that follow each other are near each other, so
    what is measured is the sample as it is, not the process behind it, and depends on the number of points.

    Raises ValueError if there are no more points than NEAREST.
    """
    if len(points) <= NEAREST:
        raise ValueError(f"{len(points)} points are too few for an entropy; take a sample of more than {NEAREST}")
    spread = _spread(points, width, rng)
    scaled = spread / width
    radius = cKDTree(scaled).query(scaled, NEAREST + 1, p=np.inf)[0][:, -1]
    return (digamma(len(points)) - digamma(NEAREST)) / np.log(2) + _log_volume(spread, radius, width, bounds)


def action_terms(
    actions: Array, states: Array, groups: Array, *, width: Array, bounds: Array, within: bool, rng: np.random.Generator
) -> Array:
    """Terms whose mean estimates H(a|s) in bits, for actions (n, A) in bins of `width` (A,) given states (n, D).

    The actions taken in one state are those of its NEIGHBOURS nearest states (max-norm, so scale `states` first): of
    other episodes, or with `within` of its own episode only. The density there is estimated from the nearest of these
    actions; its box counts no volume outside `bounds` (2, A). With `within`, episodes of at most NEIGHBOURS steps
    have NaN.

    What a policy changes between neighbouring states counts as randomness. Measured with 500, 2,000 and 10,000
    points on three uniform state numbers and actions of 256 bins (`python tests/test_coverage.py`): noise is met
    within 0.2 bits at every size (Gaussian 5.73, wide and clipped at its limits 7.77, uniform 8.00 and in four numbers
    32.00, a random action in 30% of steps and else a limit 3.27), a noise-free step from one limit to the other is
    seen as 0.35, 0.08 and 0.05 bits, but a noise-free slope over the whole range as 5.1, 4.6 and 3.8: compare only
    equal numbers of points, and trust differences, not a distance from zero.
    """
    spread = _spread(actions, width, rng)
    index = _within(states, groups, NEIGHBOURS) if within else _neighbours(states, groups, NEIGHBOURS)
    terms = np.full(len(actions), np.nan)
    known = np.flatnonzero(index[:, 0] >= 0)
    for part in np.array_split(known, max(1, len(known) * NEIGHBOURS * actions.shape[1] // CHUNK)):
        gap = (np.abs(spread[index[part]] - spread[part, None]) / width).max(2).min(1)
        terms[part] = _log_volume(spread[part], gap, width, bounds)
    return terms + (digamma(NEIGHBOURS + 1) - digamma(1)) / np.log(2)


def choice_terms(choices: Array, states: Array, groups: Array, *, within: bool) -> Array:
    """As `action_terms`, for integer choices (n,): Grassberger's discrete entropy (2003) in the neighbourhood.

    A term is digamma(NEIGHBOURS + 1) - digamma(1 + neighbours that chose the same), in bits.
    """
    index = _within(states, groups, NEIGHBOURS) if within else _neighbours(states, groups, NEIGHBOURS)
    same = (choices[index] == choices[:, None]).sum(1)
    terms = (digamma(NEIGHBOURS + 1) - digamma(1 + same)) / np.log(2)
    return np.where(index[:, 0] >= 0, terms, np.nan)


def cluster_interval(
    statistic: Callable[[Array], Array], clusters: int, *, rng: np.random.Generator, level: float = 0.95
) -> Estimate:
    """`statistic` with an interval over `clusters` (episodes), by resampling them.

    `statistic` maps weights (B, clusters), how often each counts, to (B,). The interval is Student's with the
    bootstrap's standard error around the value, as in `toolkit.stats.hierarchical_bootstrap`: quantiles would not do,
    since a resample repeats episodes and so, say, occupies fewer bins. One cluster gives an infinite interval.
    """
    value = float(statistic(np.ones((1, clusters)))[0])
    if clusters == 1:
        return Estimate(value, -np.inf, np.inf, level, 1)
    each = max(1, CHUNK // clusters)
    found = [
        statistic(rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=min(each, RESAMPLES - start)))
        for start in range(0, RESAMPLES, each)
    ]
    error = float(np.concatenate(found).std(ddof=1)) * np.sqrt(clusters / (clusters - 1))
    half = student(level, clusters - 1) * error
    return Estimate(value, value - half, value + half, level, clusters)


def mean_interval(terms: Array, groups: Array, *, rng: np.random.Generator, level: float = 0.95) -> Estimate | None:
    """Mean of `terms` (n,) that are not NaN, with the interval over their episodes `groups` (n,); None without any."""
    known = ~np.isnan(terms)
    if not known.any():
        return None
    _, place = np.unique(groups[known], return_inverse=True)
    totals, counts = np.bincount(place, terms[known]), np.bincount(place)
    return cluster_interval(lambda w: (w @ totals) / (w @ counts), len(totals), rng=rng, level=level)


def _spread(values: Array, width: Array, rng: np.random.Generator) -> Array:
    """Each number moved to a uniformly random place in its bin; bins are centred on multiples of their width."""
    return (np.round(values / width) + rng.random(values.shape) - 0.5) * width


def _log_volume(centre: Array, radius: Array, width: Array, bounds: Array) -> Array:
    """log2 of the volume in bins (n,) of boxes of `radius` (n,) bins around `centre` (n, D), cut at `bounds` (2, D)."""
    reach = radius[:, None] * width
    low = np.maximum(centre - reach, np.minimum(bounds[0] - width / 2, centre))
    high = np.minimum(centre + reach, np.maximum(bounds[1] + width / 2, centre))
    return np.log2((high - low) / width).sum(1)


def _neighbours(points: Array, groups: Array, count: int) -> Array:
    """(n, count) indices of the nearest points in the max-norm that are of another group.

    Raises ValueError if some point has fewer than `count` such points.
    """
    total = len(points)
    if total - np.bincount(groups).max() < count:
        raise ValueError(
            f"{total} steps of {len(np.unique(groups))} episodes are too few: each needs {count} neighbours in other "
            "episodes; take a larger sample, of several episodes"
        )
    tree, found = cKDTree(points), np.empty((total, count), np.int64)
    todo, look = np.arange(total), FIRST_LOOK
    while len(todo):
        look = min(look, total)
        late = []
        for part in np.array_split(todo, max(1, len(todo) * look // CHUNK)):
            index = tree.query(points[part], look, p=np.inf)[1].reshape(len(part), look)
            other = groups[index] != groups[part, None]
            done = other.sum(1) >= count
            order = np.argsort(~other[done], axis=1, kind="stable")[:, :count]
            found[part[done]] = np.take_along_axis(index[done], order, 1)
            late.append(part[~done])
        todo, look = np.concatenate(late), look * 4
    return found


def _within(points: Array, groups: Array, count: int) -> Array:
    """(n, count) indices of the nearest other points of the own group; -1 where the group has too few."""
    found = np.full((len(points), count), -1, np.int64)
    for group in np.unique(groups):
        own = np.flatnonzero(groups == group)
        if len(own) > count:
            index = cKDTree(points[own]).query(points[own], count + 1, p=np.inf)[1]
            other = index != np.arange(len(own))[:, None]
            order = np.argsort(~other, axis=1, kind="stable")[:, :count]  # the point itself, if it is there, goes last
            found[own] = own[np.take_along_axis(index, order, 1)]
    return found
