"""What was found, in words: sentences for the page and the terminal, and the verdict as a table of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from toolkit import stats
from toolkit.claim.findings import Analysis, Reading, Slope
from toolkit.core import Family
from toolkit.runs import AXES, describe, level
from toolkit.text import aligned

READINGS: dict[Reading, str] = {
    "weak": "every family does something reasonable",
    "strong": "the choice of technique does not matter",
}


def scope(a: Analysis) -> str:
    """The range a verdict holds within, and how much stands behind it."""
    spans = []
    for i, axis in enumerate(AXES):
        levels = sorted({c[i] for c in a.cells})
        first = f"{levels[0]:g}" if axis == "coverage" else f"{levels[0]:,.0f}"
        last = level(axis, levels[-1]).removeprefix("coverage ")
        span = f"{first} to {last}" if len(levels) > 1 else last
        spans.append(f"coverage {span}" if axis == "coverage" else span)
    return (
        f"{', '.join([*a.suites, *spans])}; {a.draws} dataset draw{'s' * (a.draws != 1)} with {a.seeds} "
        f"seed{'s' * (a.seeds != 1)} each, {a.episodes} episodes a run, {a.runs} runs"
    )


def moved(a: Analysis) -> str:
    """How many learners gain from large and diverse data, in one sentence; empty if there is one cell."""
    if not a.direction:
        return ""
    gains = sum(d.difference.value > 0 for d in a.direction)
    sure = sum(d.difference.low > 0 for d in a.direction)
    return (
        f"On unseen contexts, large and diverse data beat small and narrow data for {gains} of {len(a.direction)} "
        f"learners by their mean score ({sure} of {len(a.direction)} with 95% confidence)."
    )


def width(a: Analysis) -> str:
    """Why the intervals are as wide as they are."""
    if a.draws < 2:
        return "There is one dataset draw, so no interval can be given."
    factor = stats.student(0.95, a.draws - 1)
    if a.draws >= 10:
        return f"Intervals are 95%, from {a.draws} dataset draws."
    return (
        f"Intervals are 95% and rest on {a.draws} dataset draws: with so few, Student's factor is {factor:.1f} where "
        "many draws would have 2.0, so an interval can be wider than the scale of 0 to 1. That says how little "
        f"{a.draws} draws can tell, not that such scores occur."
    )


def context(a: Analysis) -> list[str]:
    """The range, who stands for each family, and what is lacking; a sentence an item."""
    found = [f"This range: {scope(a)}."]
    pooled = "; ".join(f"{f} = {' + '.join(names)}" for f, names in a.families.items())
    apart = f"; {', '.join(a.apart)} is reported apart" if a.apart else ""
    found.append(f"Families (mean over learners): {pooled}{apart}.")
    absent = [f for f in get_args(Family) if f not in a.families]
    if absent:
        found.append(f"The claim also speaks of {' and '.join(absent)} techniques; none was run.")
    if a.draws * a.seeds < 10:
        found.append(
            f"Each learner has {a.draws * a.seeds} runs on each kind of data, fewer than ten: intervals are wide."
        )
    return found


def verdict_table(a: Analysis) -> str:
    """For a terminal: the two verdicts in a sentence each, both readings along each axis, the families, the details."""
    slopes = {s.axis: s for s in a.slopes}
    rows = [("", "weak reading", "strong reading", "slope of the spread", "spread ahead")]
    for axis in ("overall", *AXES):
        s = slopes.get(axis)
        rows.append((axis, a.verdict("weak", axis).outcome, a.verdict("strong", axis).outcome, steep(s), ahead(s)))
    families = [("family", "score", "over behaviour", "regret", "works (weak, strong)")]
    for name in a.families:
        works = f"{_yes(a.works_weak[name])}, {_yes(a.works_strong[name])}"
        families.append((name, str(a.family_scores[name]), str(a.over_behaviour[name]), str(a.regret[name]), works))
    moves = [("learner", "small and narrow", "large and diverse", "difference", "runs that rise")]
    moves += [(d.learner, str(d.start), str(d.end), str(d.difference), f"{d.up} of {d.pairs}") for d in a.direction]
    parts = [aligned(rows), f"Contexts unseen in training, {describe(a.top)}; [95% intervals]:", _ruled(families)]
    if a.direction:
        parts += [moved(a), f"From {describe(a.bottom)} to {describe(a.top)}:", _ruled(moves)]
    for reading, meaning in READINGS.items():
        v = a.verdict(reading)
        head = f"That {meaning} ({reading} reading) is {v.outcome.upper()} within this range. {v.summary}"
        parts.append("\n".join([head, *(f"  - {detail}" for detail in v.details)]))
    return "\n\n".join([*parts, *context(a)]) + "\n"


def elsewhere(found: Mapping[str, Analysis]) -> list[tuple[str, ...]]:
    """The same question under other conditions, for a table; the first row is its heading."""
    rows: list[tuple[str, ...]] = [("condition", "runs", "families' scores", "greatest regret", "weak", "strong")]
    for name, a in found.items():
        worst = max(a.regret, key=lambda n: a.regret[n].value)
        scores = "; ".join(f"{family} {a.family_scores[family]}" for family in a.families)
        verdicts = (a.verdict("weak").outcome, a.verdict("strong").outcome)
        rows.append((name, f"{a.runs:,}", scores, f"{worst} {a.regret[worst]}", *verdicts))
    return rows


def steep(s: Slope | None) -> str:
    """The slope of the spread along an axis, for a table; empty for none."""
    return "" if s is None else (f"{s.slope} per {s.per}" if s.slope else "n/a")


def ahead(s: Slope | None) -> str:
    """Where the spread's line stands ahead, for a table; empty for none."""
    return "" if s is None else (f"{s.ahead} at {level(s.axis, s.at)}" if s.ahead else "n/a")


def _ruled(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as columns, with a rule under the first, which is the heading."""
    rule = ["-" * max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return aligned([rows[0], rule, *rows[1:]])


def _yes(value: bool) -> str:
    return "yes" if value else "not shown"
