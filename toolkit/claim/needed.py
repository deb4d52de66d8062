"""How many dataset draws would decide the claim, if what was measured is the truth: with a chance of 80% or more.

A decision is a set of one-sided tests that must all pass (`toolkit.stats.power`). Arrays are scores in the top cell:
(families, draws, seeds, suites), the behaviour's without the first axis. Infinite means that more of the same would not
do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from math import inf, sqrt

from toolkit import stats
from toolkit.claim.findings import CEILING, ENOUGH, FLOOR, MARGIN, REGRET, SHARE, Reading, Slope
from toolkit.stats import Array, Bar


def draws(routes: Sequence[Sequence[Bar]]) -> float:
    """The fewest dataset draws by which one of the routes decides, never below the least the design asks for."""
    return max(float(ENOUGH), min((stats.draws_needed(bars) for bars in routes), default=inf))


def to_support(reading: Reading, scores: Array, behaviour: Array) -> list[Bar]:
    """What one reading's support must show: its test, and the level condition."""
    shown = _weak(scores, behaviour) if reading == "weak" else _strong(scores)
    return shown + _level(scores)


def to_refute(reading: Reading, scores: Array, behaviour: Array, slopes: Sequence[Slope]) -> list[list[Bar]]:
    """One route for every family and rival: regret over 0.2, failing (weak reading), a spread that stays.

    None where no axis was varied along which the spread could be seen to stay.
    """
    stays = [_stays(slope) for slope in slopes]
    strict = 0.025 / max(len(scores) * (len(scores) - 1) // 2, 1)
    routes = []
    for own in scores:
        margins = [own, own - behaviour] if reading == "weak" else []
        fails = [[_bar(-m, -MARGIN)] for m in margins] or [[]]
        trails = [_bar(rival - own, REGRET, strict) for rival in scores if rival is not own]
        routes += [[trail, *fail, *stays] for trail in trails for fail in fails]
    return routes if stays else []


def _weak(scores: Array, behaviour: Array) -> list[Bar]:
    return [_bar(margin, MARGIN) for x in scores for margin in (x, x - behaviour)]


def _strong(scores: Array) -> list[Bar]:
    best = max(float(x.mean()) for x in scores)
    alike = []
    for x, y in combinations(scores, 2):
        bar = _bar(x - y, 0.0)
        alike.append(stats.equivalence_bar(bar.sd, effect=bar.room, margin=MARGIN, strata=bar.strata))
    return [_bar(x, SHARE * best) for x in scores] + alike


def _level(scores: Array) -> list[Bar]:
    best = max(scores, key=lambda x: float(x.mean()))
    return [replace(_bar(best, FLOOR), back=CEILING - float(best.mean()))]


def _bar(values: Array, threshold: float, alpha: float = 0.025) -> Bar:
    """That the mean of (draws, seeds, tasks) lies above a threshold, from its spread between draws."""
    error, degrees = stats.standard_error(values.mean(1).T)
    count = len(values)
    return Bar(error * sqrt(count), float(values.mean()) - threshold, alpha, max(degrees, 1.0) / max(count - 1, 1))


def _stays(slope: Slope) -> Bar:
    """That the spread's line stays above the margin."""
    if slope.ahead is None:
        return Bar(inf, 0.0)
    room, count = slope.ahead.value - MARGIN, slope.ahead.n
    if not slope.ahead.bounded:  # two draws: how it varies is not known
        return Bar(0.0, room)
    error = (slope.ahead.high - slope.ahead.low) / 2 / stats.student(slope.ahead.level, count - 1)
    return Bar(error * sqrt(count), room)
