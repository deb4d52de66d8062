"""Deciding the claim: supported, refuted, or open, with why, and with how many dataset draws would decide it.

**Supported** if the reading's test passes in the top cell and the level condition is shown there, by the interval of
the best family's score: a point estimate within the range would let luck pass for a level. **Refuted** if some family's
regret has a lower 95% bound over 0.2 there (for the weak reading the family must also be shown not to work) and the
spread's line stays above 0.1 up to ten times the data, along every axis asked about. Else **inconclusive**.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, nan
from typing import get_args

from toolkit.claim import needed as need
from toolkit.claim.findings import (
    CEILING,
    ENOUGH,
    FLOOR,
    MARGIN,
    REGRET,
    SHARE,
    Analysis,
    Outcome,
    Reading,
    Slope,
    Verdict,
)
from toolkit.runs import AXES, level
from toolkit.stats import Array, Estimate


def decide(a: Analysis, scores: Array, behaviour: Array) -> list[Verdict]:
    """Both readings, overall and along each axis.

    `scores` (families, draws, seeds, suites) and `behaviour` (draws, seeds, suites) are those of the top cell.
    """
    found = []
    for reading in get_args(Reading):
        support = need.to_support(reading, scores, behaviour)
        for axis in ("overall", *AXES):
            slopes = [s for s in a.slopes if axis in ("overall", s.axis) and _varied(a, s.axis)]
            needed = need.draws([support, *need.to_refute(reading, scores, behaviour, slopes)])
            found.append(_verdict(a, reading, axis, slopes, max(needed, a.draws + 1.0)))
    return found


def _varied(a: Analysis, axis: str) -> bool:
    return len({c[AXES.index(axis)] for c in a.cells}) > 1


def _verdict(a: Analysis, reading: Reading, axis: str, slopes: Sequence[Slope], needed: float) -> Verdict:
    worst = max(a.regret, key=lambda n: (a.regret[n].low, a.regret[n].value))
    numbers = {"best_score": _best(a), "greatest_regret": a.regret[worst].value, "regret_low": a.regret[worst].low}
    numbers["widest_difference"] = max((abs(p.difference.value) for p in a.pairs), default=nan)
    if len(slopes) == 1 and slopes[0].slope and slopes[0].ahead:
        numbers |= {"slope": slopes[0].slope.value, "spread_ahead_low": slopes[0].ahead.low}

    def give(outcome: Outcome, summary: str, *details: str, needed: float | None = None) -> Verdict:
        return Verdict(reading, axis, outcome, summary, list(details), numbers, needed)

    if axis != "overall" and not slopes:
        return give("inconclusive", f"{axis.capitalize()} had one level, so nothing can be said along it.")
    if len(a.families) < 2:
        return give("inconclusive", "Only one family was run; the claim compares families.")
    if a.draws < 2:
        return give(
            "inconclusive",
            "There is one draw of the dataset, so no interval can say how another would turn out; run three or more.",
        )
    failing = _failing(a, reading)
    if a.draws >= ENOUGH and not failing and _counts(a):
        return give("supported", _praise(a, reading), *_trend(slopes))
    guilty = [n for n in a.families if a.regret[n].low > REGRET and (reading == "strong" or _fails(a, n))]
    blocked = [s for s in slopes if s.ahead is None or not s.ahead.low > MARGIN]
    if a.draws >= ENOUGH and guilty and slopes and not blocked:
        name = max(guilty, key=lambda n: a.regret[n].low)
        lows = ", ".join(f"{s.ahead.low:z.2f} at {level(s.axis, s.at)}" for s in slopes if s.ahead)
        return give(
            "refuted",
            f"{name} falls short of the best family by {a.regret[name]}, more than {REGRET} with 95% confidence, and "
            "the gap is not closing.",
            f"The spread between families is not on its way below {MARGIN} within ten times the data (lower bounds: "
            f"{lows}).",
        )
    return give(
        "inconclusive",
        _undecided(a, reading, failing, guilty),
        *_level(a),
        *_shortfalls(failing),
        *_closing(guilty, slopes, blocked),
        _outlook(a, reading, needed, slopes),
        needed=needed,
    )


def _best(a: Analysis) -> float:
    return _top(a).value


def _top(a: Analysis) -> Estimate:
    return max(a.family_scores.values(), key=lambda e: e.value)


def _counts(a: Analysis) -> bool:
    """The level condition, shown: the best family's interval lies between floor and ceiling."""
    return _top(a).low >= FLOOR and _top(a).high < CEILING


def _fails(a: Analysis, name: str) -> bool:
    """Whether a family is shown not to work even weakly."""
    return min(a.family_scores[name].high, a.over_behaviour[name].high) < MARGIN


def _failing(a: Analysis, reading: Reading) -> list[str]:
    """The tests of one reading that did not pass, in words."""
    if reading == "weak":
        return [
            f"that {n} ({a.family_scores[n]}) exceeds random by {MARGIN}"
            if a.family_scores[n].low < MARGIN
            else f"that {n} exceeds the behaviour by {MARGIN} (difference {a.over_behaviour[n]})"
            for n, passed in a.works_weak.items()
            if not passed
        ]
    return [
        f"that {n} ({a.family_scores[n]}) reaches {SHARE:.0%} of the best ({_best(a):.2f})"
        for n, passed in a.works_strong.items()
        if not passed
    ] + [
        f"that {p.first} and {p.second} differ by less than {MARGIN} ({p.difference}, 90%)"
        for p in a.pairs
        if not p.equivalent
    ]


# --- why, in words -------------------------------------------------------------------------------------


def _praise(a: Analysis, reading: Reading) -> str:
    if reading == "weak":
        low = min(min(a.family_scores[n].low, a.over_behaviour[n].low) for n in a.families)
        return (
            f"Every family exceeds random and the behaviour by {low:.2f} or more (lower 95% bound; {MARGIN} was asked)."
        )
    wide = max(max(abs(p.difference.low), abs(p.difference.high)) for p in a.pairs)
    return (
        f"Every family reaches {SHARE:.0%} of the best, and no two differ by more than {wide:.2f} (90% intervals; "
        f"{MARGIN} was asked)."
    )


def _trend(slopes: Sequence[Slope]) -> list[str]:
    words = []
    for s in slopes:
        if s.slope is None or not s.slope.bounded:
            words.append(f"Whether {s.axis} brought this about is not known: {s.reason}.")
        elif s.slope.high < 0:
            words.append(f"The spread falls along {s.axis}, {s.slope} for each {s.per}.")
        else:
            words.append(f"The spread is not shown to fall along {s.axis} ({s.slope} for each {s.per}).")
    return words


def _undecided(a: Analysis, reading: Reading, failing: list[str], guilty: list[str]) -> str:
    if a.draws < ENOUGH:
        return f"{a.draws} dataset draws cannot decide it; the design asks for {ENOUGH} or more."
    if guilty:
        return f"{', '.join(guilty)} trails the best family by over {REGRET}, but more data might still close the gap."
    if not failing:
        return f"The test passes, but not at a level shown to count: the best family scores {_top(a)}."
    if reading == "weak":
        return (
            f"{sum(a.works_weak.values())} of {len(a.families)} families are shown to exceed random and the "
            f"behaviour by {MARGIN}; none is shown both to fail and to trail the best by over {REGRET}."
        )
    alike = sum(p.equivalent for p in a.pairs)
    if alike == len(a.pairs):
        return (
            f"Not every family is shown to reach {SHARE:.0%} of the best; none is shown to trail it by over {REGRET}."
        )
    return (
        f"{alike} of {len(a.pairs)} pairs of families are shown to score alike, within {MARGIN}; no family is shown to "
        f"trail the best by over {REGRET}."
    )


def _level(a: Analysis) -> list[str]:
    best = _best(a)
    if best < FLOOR:
        return [
            f"The best family scores {best:.2f}, below {FLOOR}: agreement among failures is not convergence; give the "
            "learners more data or training, or an easier task."
        ]
    if best >= CEILING:
        return [
            f"The best family scores {best:.2f}, at the ceiling ({CEILING}) where techniques cannot be told apart; "
            "a harder task is needed."
        ]
    if not _counts(a):
        return [
            f"The best family scores {_top(a)}: not shown to lie between {FLOOR} and {CEILING}, where agreement counts."
        ]
    return []


def _shortfalls(failing: list[str]) -> list[str]:
    more = f"; and {len(failing) - 3} more" if len(failing) > 3 else ""
    return [f"Not shown: {'; '.join(failing[:3])}{more}."] if failing else []


def _closing(guilty: list[str], slopes: Sequence[Slope], blocked: Sequence[Slope]) -> list[str]:
    if not guilty:
        return []
    why = [
        s.reason or f"along {s.axis} the line may fall to {s.ahead.low:z.2f} at {level(s.axis, s.at)}"  # type: ignore[union-attr]
        for s in blocked
    ]
    if not slopes:
        why = ["no axis was varied"]
    return [f"The gap of {', '.join(guilty)} might still close with more data: {'; '.join(why)}."] if why else []


def _outlook(a: Analysis, reading: Reading, needed: float, slopes: Sequence[Slope]) -> str:
    """How many draws would decide it, or why no number would."""
    if not isfinite(needed):
        return (
            "If these values are the true ones, more runs of the same kind would not decide it: "
            f"{_no_support(a, reading)}; {_no_refutation(a, reading, slopes)}."
        )
    if needed > 1000:
        return "At these values it would take over 1,000 dataset draws: a difference so near a margin stays open."
    seeds = f"{a.seeds} seed{'s' * (a.seeds != 1)} each"
    rough = ", a rough figure with so few draws" if a.draws < 5 else ""
    return (
        f"At these values about {needed:,.0f} dataset draws with {seeds} would decide it with 80% probability "
        f"({needed * a.seeds:,.0f} runs a learner and cell; there are {a.draws * a.seeds}){rough}."
    )


def _no_support(a: Analysis, reading: Reading) -> str:
    best = _best(a)
    if not FLOOR <= best < CEILING:
        return f"support needs a best family between {FLOOR} and {CEILING}, and it is at {best:.2f}"
    if reading == "weak":
        margins = {n: min(a.family_scores[n].value, a.over_behaviour[n].value) for n in a.families}
        name = min(margins, key=lambda n: margins[n])
        rival = "random" if a.family_scores[name].value < a.over_behaviour[name].value else "the behaviour"
        return f"support needs every family {MARGIN} above {rival}, and {name} is at {margins[name]:+z.2f}"
    low = min(a.family_scores, key=lambda n: a.family_scores[n].value)
    if a.family_scores[low].value <= SHARE * best:
        share = a.family_scores[low].value / best
        return f"support needs every family at {SHARE:.0%} of the best, and {low} is at {share:.0%}"
    wide = max(a.pairs, key=lambda p: abs(p.difference.value))
    return (
        f"support needs every two families within {MARGIN}, and {wide.first} and {wide.second} are "
        f"{abs(wide.difference.value):.2f} apart"
    )


def _no_refutation(a: Analysis, reading: Reading, slopes: Sequence[Slope]) -> str:
    name = max(a.regret, key=lambda n: a.regret[n].value)
    if a.regret[name].value <= REGRET:
        return (
            f"refutation needs a family over {REGRET} behind the best, and none is more than {a.regret[name].value:.2f}"
        )
    if not slopes:
        return "refutation needs an axis along which the gap is seen not to close, and none was varied"
    for s in slopes:
        if s.ahead is None:
            return f"refutation needs the spread's line along {s.axis}, and {s.reason}"
        if s.ahead.value <= MARGIN:
            return (
                f"refutation needs a spread that stays over {MARGIN}, and along {s.axis} its line reaches "
                f"{s.ahead.value:z.2f} at {level(s.axis, s.at)}"
            )
    return f"refutation needs a family that fails and is over {REGRET} behind the best, and there is none"
