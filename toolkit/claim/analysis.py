"""The claim, tested: from evaluation records to the numbers a verdict rests on.

> Once you have a large, diverse dataset, almost any mix of learning techniques (supervised, unsupervised,
> offline RL, model-based) should all work. (E. Jang, 2022)

Weak reading: every family does something reasonable. Strong: the choice of technique does not matter.
Everything here is fixed before a run and pure: records in, numbers out (`toolkit.claim.verdict` decides,
`toolkit.claim.words` tells). Choices made:

- A family's score is the mean over its learners: no learner is picked after the fact. Plain behaviour
  cloning stands for its family only if nothing fairer in that family was run; else it is reported apart.
- Tests use interpolated contexts, never seen in training. Extrapolated ones are reported, and do not decide.
- "Lower 95% bound" is the lower end of the two-sided 95% interval on draw means (see `toolkit.stats`).
- A family that passes the weak test, or might yet, cannot refute the weak reading by its regret alone:
  its margin over random and behaviour must also lie wholly below 0.1.
- Fewer than three draws decide nothing. One seed on each draw will do: a draw's mean carries its seeds' noise.
- An axis is walked with the other factors at their top: log size, log contexts, coverage as it is. Cells that fail the
  level condition do not count for its slope.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from math import log10
from typing import Any

import numpy as np

from toolkit import stats
from toolkit.claim.balance import Balanced, balanced
from toolkit.claim.findings import CEILING, FLOOR, MARGIN, SHARE, Analysis, Direction, Pair, Slope, Spread
from toolkit.claim.verdict import decide
from toolkit.records import Record
from toolkit.runs import AXES, UNSEEN, Cell, extreme_cells
from toolkit.stats import Array


def analyse(records: Iterable[Record], *, seed: int) -> Analysis:
    """Test the claim on a balanced set of runs; the same records and seed give the same analysis.

    Every record carries the tags draw, size, contexts and coverage. The cells need not form a full grid, but each
    holds every learner, suite, draw and (the draw's) seed, and one cell is greatest in every factor.
    Raises ValueError naming what is missing. Few draws never crash: intervals are infinite and the verdict is open.
    """
    study = balanced(records)
    rng = np.random.default_rng(seed)
    bottom, top = extreme_cells(study.cells)
    names = list(study.families)
    scores = study.all_families(top, UNSEEN)  # (F, D, S, T)
    own = {name: stats.nested_interval(x) for name, x in zip(names, scores, strict=True)}
    behaviour = study.array(study.learners[0], top, UNSEEN, behaviour=True)
    over = {name: stats.paired_difference(x, behaviour) for name, x in zip(names, scores, strict=True)}
    best = max(e.value for e in own.values())
    by_learner = {name: study.array(name, top, UNSEEN) for name in study.learners}
    learner_iqm = {name: stats.hierarchical_iqm(x, rng=rng) for name, x in by_learner.items()}
    improvement = {
        f"{a} > {b}": stats.improvement(by_learner[a], by_learner[b], rng=rng)
        for a, b in combinations(study.learners, 2)
    }
    splits = study.runs[0].scores
    partial: dict[str, Any] = dict(
        seed=seed,
        suites=study.suites,
        cells=study.cells,
        bottom=bottom,
        top=top,
        draws=len(study.draws),
        seeds=len(study.seeds[study.draws[0]]),
        runs=len(study.runs),
        episodes=study.runs[0].episodes[UNSEEN],
        families=study.families,
        apart=[n for n in study.learners if not any(n in members for members in study.families.values())],
        family_scores=own,
        learner_scores={name: stats.nested_interval(x) for name, x in by_learner.items()},
        learner_iqm=learner_iqm,
        behaviour=stats.nested_interval(behaviour),
        over_behaviour=over,
        works_weak={n: own[n].low >= MARGIN and over[n].low >= MARGIN for n in names},
        works_strong={n: own[n].low >= SHARE * best for n in names},
        pairs=_pairs(names, scores),
        regret=dict(zip(names, stats.regret(scores), strict=True)),
        improvement={pair: estimate for pair, (estimate, _) in improvement.items()},
        improvement_p=stats.holm({pair: p for pair, (_, p) in improvement.items()}),
        spreads=[_spread(study, cell) for cell in study.cells],
        slopes=[slope_along(study, axis, top) for axis in AXES],
        extrapolated={
            name: stats.nested_interval(study.array(name, top, "extrapolated"))
            for name in study.learners
            if "extrapolated" in splits
        },
        seen_gap={
            name: stats.paired_difference(study.array(name, top, "seen"), x)
            for name, x in by_learner.items()
            if "seen" in splits
        },
        direction=_direction(study),
    )
    return Analysis(**partial, verdicts=decide(Analysis(**partial, verdicts=[]), scores, behaviour))


def direction(records: Iterable[Record]) -> list[Direction]:
    """Each learner's unseen-context score on the smallest, narrowest data against the largest, most diverse.

    Paired on draw and seed. Empty if there is one cell. Raises ValueError as `analyse` does.
    """
    return _direction(balanced(records))


def _direction(study: Balanced) -> list[Direction]:
    low, high = extreme_cells(study.cells)
    if low == high:
        return []
    found = []
    for learner in study.learners:
        start, end = study.array(learner, low, UNSEEN), study.array(learner, high, UNSEEN)
        difference = stats.paired_difference(end, start)
        up = int((end > start).sum())
        ends = stats.nested_interval(start), stats.nested_interval(end)
        found.append(Direction(learner, low, high, *ends, difference, up, end.size))
    return found


def _pairs(names: list[str], scores: Array) -> list[Pair]:
    found = []
    for i, j in combinations(range(len(names)), 2):
        test = stats.tost(scores[i], scores[j], margin=MARGIN)
        found.append(Pair(names[i], names[j], test.difference, test.p, test.equivalent))
    return found


def _spread(study: Balanced, cell: Cell) -> Spread:
    means = study.all_families(cell, UNSEEN).mean(2)  # (F, D, T)
    best = float(means.mean((1, 2)).max())
    return Spread(cell, stats.signed_root(stats.paired_spread(means)), best, FLOOR <= best < CEILING)


def slope_along(study: Balanced, axis: str, top: Cell) -> Slope:
    """The spread between families along one axis, the other factors at their top."""
    i = AXES.index(axis)
    walk = [c for c in study.cells if all(c[j] == top[j] for j in range(3) if j != i)]
    counting = [c for c in walk if _spread(study, c).counts]
    levels = [c[i] for c in counting]
    at = min(10 * top[i] or 1.0, 1.0) if axis == "coverage" and top[i] <= 1 else 10 * top[i]
    per = "unit" if axis == "coverage" else "tenfold"

    def none(reason: str) -> Slope:
        return Slope(axis, levels, per, None, None, at, reason)

    if len(walk) < 2:
        return none(f"{axis} was not varied with the other factors at their top")
    if len(counting) < 2:
        return none(
            f"only {len(counting)} of {len(walk)} cells along {axis} has a best family between {FLOOR} and {CEILING}; "
            "a slope needs two"
        )
    if len(study.families) < 2 or len(study.draws) < 2:
        return none("noise-corrected spread needs two families and two dataset draws or more")
    x = np.array(levels if axis == "coverage" else np.log10(levels))
    target = at if axis == "coverage" else log10(at)
    means = [study.all_families(c, UNSEEN).mean(2) for c in counting]  # each (F, D, T)

    def fit(kept: Array) -> tuple[float, float]:
        return stats.line(x, np.array([stats.signed_root(stats.paired_spread(m[:, kept])) for m in means]))

    def ahead(kept: Array) -> float:
        intercept, slope = fit(kept)
        return intercept + slope * target

    count = len(study.draws)
    reason = "" if count > 2 else "an interval of the slope needs three dataset draws or more"
    steep, far = stats.jackknife(lambda kept: fit(kept)[1], count), stats.jackknife(ahead, count)
    return Slope(axis, levels, per, steep, far, at, reason)
