"""How many dataset draws would decide the claim, if what was measured is the truth: 80% power for each test.

Arrays are scores in the top cell: (families, draws, seeds, suites), the behaviour's without the first axis. Infinite
means that more of the same would not do.
"""

from __future__ import annotations

from itertools import combinations
from math import inf, sqrt

from toolkit import stats
from toolkit.claim.findings import ENOUGH, MARGIN, REGRET, SHARE, Slope
from toolkit.stats import Array


def _deviation(values: Array) -> float:
    """Standard deviation a draw, from the standard error of (draws, seeds, tasks)."""
    return stats.standard_error(values.mean(1).T)[0] * sqrt(len(values))


def for_weak_support(scores: Array, behaviour: Array) -> float:
    """Draws to show that every family exceeds random and the behaviour by the margin."""
    margins = [m for x in scores for m in (x, x - behaviour)]
    return max(stats.draws_for_bound(_deviation(m), float(m.mean()) - MARGIN) for m in margins)


def for_strong_support(scores: Array) -> float:
    """Draws to show that every family comes near the best and every two are equivalent."""
    best = max(float(x.mean()) for x in scores)
    reach = [stats.draws_for_bound(_deviation(x), float(x.mean()) - SHARE * best) for x in scores]
    equal = [
        stats.draws_for_equivalence(_deviation(x - y), effect=float((x - y).mean()), margin=MARGIN)
        for x, y in combinations(scores, 2)
    ]
    return max([*reach, *equal])


def for_refutation(scores: Array, behaviour: Array | None) -> float:
    """Draws to show one family's regret over 0.2, and with `behaviour` also that it does not work weakly."""
    strict = 1 - 0.05 / max(len(scores) * (len(scores) - 1) // 2, 1)
    found = [inf]
    for own in scores:
        trails = [
            stats.draws_for_bound(_deviation(x - own), float((x - own).mean()) - REGRET, level=strict) for x in scores
        ]
        margins = [] if behaviour is None else [own, own - behaviour]
        fails = [stats.draws_for_bound(_deviation(m), MARGIN - float(m.mean())) for m in margins]
        found.append(max([float(ENOUGH), min(trails), min(fails, default=0.0)]))
    return min(found)


def for_slope(slope: Slope) -> float:
    """Draws to show that the spread's line stays above the margin."""
    if slope.ahead is None or not slope.ahead.bounded:
        return inf if slope.ahead is None else float(ENOUGH)
    gap = slope.ahead.value - MARGIN
    error = (slope.ahead.high - slope.ahead.low) / 2 / stats.student(slope.ahead.level, slope.ahead.n - 1)
    return stats.draws_for_bound(error * sqrt(slope.ahead.n), gap)
