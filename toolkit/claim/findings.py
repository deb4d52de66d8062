"""What a test of the claim found, as plain data; and the margins, fixed before any run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Literal

from toolkit.runs import Cell
from toolkit.stats import Estimate

Reading = Literal["weak", "strong"]
Outcome = Literal["supported", "refuted", "inconclusive"]

MARGIN = 0.1  # works above random and behaviour by this; TOST's margin; the spread a slope must not reach
SHARE = 0.8  # of the best family's score, for the strong reading
REGRET = 0.2
ENOUGH = 3  # dataset draws below which nothing is decided
FLOOR, CEILING = 0.5, 0.95  # the level condition on the best family's score


@dataclass(frozen=True)
class Pair:
    """Two families compared in the top cell; the difference is first minus second, with a 90% interval."""

    first: str
    second: str
    difference: Estimate
    p: float
    equivalent: bool


@dataclass(frozen=True)
class Spread:
    """How far the families' scores lie apart in one cell: signed root of the noise-corrected variance."""

    cell: Cell
    spread: float  # NaN with one draw; below zero if the families lie closer than their noise would put equal ones
    best: float
    counts: bool  # the level condition: best in [0.5, 0.95)


@dataclass(frozen=True)
class Slope:
    """Spread along one axis. `ahead` is the line's value at `at`, ten times the top level (coverage ends at 1)."""

    axis: str
    levels: list[float]  # that count
    per: str  # what the slope is per: "tenfold" (size, contexts) or "unit" (coverage)
    slope: Estimate | None  # None when it cannot be computed; `reason` says why
    ahead: Estimate | None
    at: float
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What can be said of one reading along one axis, or overall."""

    reading: Reading
    axis: str  # size, contexts, coverage or overall
    outcome: Outcome
    summary: str  # why, in one sentence
    details: list[str]  # the numbers behind it and what would decide it, a sentence each
    numbers: dict[str, float]
    draws_needed: float | None  # that would decide it; infinite if more of the same cannot, None if unknown or decided

    @property
    def reason(self) -> str:
        """Summary and details in one text."""
        return " ".join([self.summary, *self.details])


@dataclass(frozen=True)
class Direction:
    """One learner on unseen contexts: small and narrow data against large and diverse data."""

    learner: str
    low: Cell
    high: Cell
    start: Estimate
    end: Estimate
    difference: Estimate
    up: int  # of the `pairs` of runs equal in draw, seed and suite, how many score more on the large, diverse data
    pairs: int


@dataclass(frozen=True)
class Analysis:
    """Everything the report states. Estimates are of the top cell on interpolated contexts unless named otherwise."""

    seed: int
    suites: list[str]
    cells: list[Cell]
    bottom: Cell
    top: Cell
    draws: int
    seeds: int
    runs: int
    episodes: int  # a run, on the deciding split
    families: dict[str, list[str]]  # family -> the learners pooled in it
    apart: list[str]  # learners reported beside their family
    family_scores: dict[str, Estimate]
    learner_scores: dict[str, Estimate]
    learner_iqm: dict[str, Estimate]
    behaviour: Estimate
    over_behaviour: dict[str, Estimate]  # family score minus the behaviour's, paired on draw
    works_weak: dict[str, bool]
    works_strong: dict[str, bool]
    pairs: list[Pair]
    regret: dict[str, Estimate]
    improvement: dict[str, Estimate]  # "a > b" -> probability of improvement
    improvement_p: dict[str, float]  # that it is a half, two-sided, corrected together (Holm)
    spreads: list[Spread]
    slopes: list[Slope]
    extrapolated: dict[str, Estimate]  # learner -> score, empty if not evaluated
    seen_gap: dict[str, Estimate]  # learner -> seen minus interpolated, empty if not evaluated
    direction: list[Direction]
    verdicts: list[Verdict]

    def verdict(self, reading: Reading, axis: str = "overall") -> Verdict:
        """The verdict on one reading along one axis. Raises KeyError if there is none."""
        for verdict in self.verdicts:
            if (verdict.reading, verdict.axis) == (reading, axis):
                return verdict
        raise KeyError(f"no verdict on the {reading} reading along {axis!r}")

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers; infinite and undefined numbers become None."""
        return _plain(asdict(self))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not isfinite(value) else value
