"""The claim, tested: from evaluation records to a verdict, for each reading and each axis of diversity.

> Once you have a large, diverse dataset, almost any mix of learning techniques (supervised, unsupervised,
> offline RL, model-based) should all work. (E. Jang, 2022)

Weak reading: every family does something reasonable. Strong: the choice of technique does not matter.
Everything here is fixed before a run and pure: records in, numbers and sentences out. Choices made:

- A run is one (learner, cell, draw, seed, suite) at its last step; its score on a split is the mean over episodes.
- A family's score is the mean over its learners: no learner is picked after the fact. Plain behaviour
  cloning stands for its family only if nothing fairer in that family was run; else it is reported apart.
- Tests use interpolated contexts, never seen in training. Extrapolated ones are reported, and do not decide.
- "Lower 95% bound" is the lower end of the two-sided 95% interval on draw means (see `toolkit.stats`).
- A family that passes the weak test, or might yet, cannot refute the weak reading by its regret alone:
  its margin over random and behaviour must also lie wholly below 0.1.
- Fewer than three draws decide nothing. One seed on each draw will do: a draw's mean carries its seeds' noise.
- An axis is walked with the other factors at their top. Cells that fail the level condition do not count for its slope.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, product
from math import inf, isfinite, log10, nan, sqrt
from typing import Any, Literal, get_args

import numpy as np

from toolkit import stats
from toolkit.core import Family
from toolkit.records import Record
from toolkit.stats import Array, Estimate
from toolkit.text import aligned

Reading = Literal["weak", "strong"]
Outcome = Literal["supported", "refuted", "inconclusive"]
Cell = tuple[float, float, float]  # size in transitions, contexts, coverage

AXES = ("size", "contexts", "coverage")
SYMBOLS = {"size": "N", "contexts": "C", "coverage": "A"}
DECIDING = "interpolated"
MARGIN = 0.1  # works above random and behaviour by this; TOST's margin; the spread a slope must not reach
SHARE = 0.8  # of the best family's score, for the strong reading
REGRET = 0.2
ENOUGH = 3  # dataset draws below which nothing is decided
FLOOR, CEILING = 0.5, 0.95  # the level condition on the best family's score
APART = ("bc",)  # plain behaviour cloning converges to the behaviour policy by definition


# --- runs ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One training run at its last evaluated step; scores are means over evaluation episodes."""

    run: str
    learner: str
    family: str
    suite: str
    cell: Cell | None  # None if the records lack a factor
    draw: int  # 0 if the records have no such tag
    seed: int
    scores: dict[str, float]  # split -> mean score
    behaviour: dict[str, float]  # split -> the training data's mean score on that split's scale
    episodes: dict[str, int]  # split -> evaluation episodes


def run_table(records: Iterable[Record]) -> list[Run]:
    """Runs, sorted by learner, cell, suite, draw and seed. Earlier evaluations of a run are left out.

    Raises ValueError if there are no records, references leave a score undefined, or two runs claim one place.
    """
    grouped: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        grouped[record.run].append(record)
    if not grouped:
        raise ValueError("no evaluation records; train and evaluate at least one run first")
    places: dict[tuple, Run] = {}
    for name, found in grouped.items():
        run = _run(name, found)
        place = (run.learner, run.cell or (), run.suite, run.draw, run.seed)
        if place in places:
            raise ValueError(
                f"runs {places[place].run!r} and {name!r} are both {_place(run)}; keep one, or tag their difference "
                f"with the factors draw, {', '.join(AXES)}"
            )
        places[place] = run
    return [places[place] for place in sorted(places)]


def _run(name: str, records: Sequence[Record]) -> Run:
    last = max(r.step for r in records)
    final = sorted((r for r in records if r.step == last), key=lambda r: (r.split, r.episode))
    first = final[0]
    scores: dict[str, float] = {}
    behaviour: dict[str, float] = {}
    episodes: dict[str, int] = {}
    for split in sorted({r.split for r in final}):
        group = [r for r in final if r.split == split]
        if any(r.expert == r.random for r in group):
            raise ValueError(f"{first.suite} {split}: random and expert references are equal, so no score is defined")
        scores[split] = float(np.mean([r.score for r in group]))
        behaviour[split] = float(np.mean([r.behaviour_score for r in group]))
        episodes[split] = len(group)
        if not isfinite(scores[split]):
            raise ValueError(f"run {name!r} ({first.learner}) has a return on {split} contexts that is not finite")
    cell = tuple(float(first.tags[a]) for a in AXES) if all(a in first.tags for a in AXES) else None
    return Run(
        run=name, learner=first.learner, family=first.family, suite=first.suite, cell=cell,  # type: ignore[arg-type]
        draw=int(first.tags.get("draw", 0)), seed=first.seed, scores=scores, behaviour=behaviour, episodes=episodes,
    )  # fmt: skip


def _place(run: Run) -> str:
    where = f" on {describe(run.cell)}" if run.cell else ""
    return f"{run.learner}{where}, {run.suite}, draw {run.draw}, seed {run.seed}"


def describe(cell: Cell) -> str:
    """'N 20,000, C 16, A 0.3'."""
    return f"N {cell[0]:,.0f}, C {cell[1]:,.0f}, A {cell[2]:g}"


def extreme_cells(cells: Iterable[Cell]) -> tuple[Cell, Cell]:
    """The smallest, narrowest cell and the top one (greatest of every factor).

    Raises ValueError if no cell is greatest in every factor. A design without the corner of all least
    factors gives the cell with the lowest ranks, size and contexts before coverage.
    """
    cells = sorted(set(cells))
    levels = [sorted({c[i] for c in cells}) for i in range(3)]
    top: Cell = (levels[0][-1], levels[1][-1], levels[2][-1])
    if top not in cells:
        raise ValueError(f"no run has the top cell {describe(top)}; the verdict is read there")
    ranks = {c: [levels[i].index(c[i]) for i in range(3)] for c in cells}
    return min(cells, key=lambda c: (ranks[c][0] + ranks[c][1], ranks[c][2], ranks[c])), top


def estimate_runs(runs: Sequence[Run], values: Sequence[float], *, level: float = 0.95) -> tuple[Estimate, str]:
    """Mean of one value a run, its interval, and over what: 'draws', else 'seeds' of the only draw, else 'nothing'.

    Suites are strata. Runs need not be balanced, so this serves any folder of runs.
    """
    nested: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run, value in zip(runs, values, strict=True):
        nested[run.suite][run.draw].append(value)
    means = [[float(np.mean(v)) for v in by_draw.values()] for by_draw in nested.values()]
    if all(len(m) > 1 for m in means):
        return stats.student_interval(means, level=level), "draws"
    single = [next(iter(by_draw.values())) for by_draw in nested.values()]
    if all(len(m) == 1 for m in means) and all(len(s) > 1 for s in single):
        return stats.student_interval(single, level=level), "seeds"
    return stats.student_interval(means, level=level), "nothing"


# --- results -------------------------------------------------------------------------------------------


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
    spread: float  # NaN with one draw
    best: float
    counts: bool  # the level condition: best in [0.5, 0.95)


@dataclass(frozen=True)
class Slope:
    """Spread along one axis. `ahead` is the line's value at `at`, ten times the top level (coverage ends at 1)."""

    axis: str
    levels: list[float]  # that count
    per: str  # what the slope is per: "tenfold" or "unit"
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
    reason: str  # one or two sentences
    numbers: dict[str, float]
    draws_needed: float | None  # that would decide it; infinite if more of the same cannot, None if unknown or decided


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


# --- the analysis --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Study:
    """Balanced runs as arrays: (learner, cell, split) -> (draws, seeds, suites)."""

    runs: list[Run]
    learners: list[str]
    cells: list[Cell]
    suites: list[str]
    draws: list[int]
    seeds: dict[int, list[int]]  # draw -> its training seeds, as many for each
    families: dict[str, list[str]]
    table: dict[tuple, Run]

    def array(self, learner: str, cell: Cell, split: str, *, behaviour: bool = False) -> Array:
        def one(run: Run) -> float:
            return (run.behaviour if behaviour else run.scores)[split]

        places = [
            [[one(self.table[learner, cell, t, d, s]) for t in self.suites] for s in self.seeds[d]] for d in self.draws
        ]
        return np.array(places, np.float64)

    def family(self, name: str, cell: Cell, split: str) -> Array:
        return np.mean([self.array(learner, cell, split) for learner in self.families[name]], axis=0)

    def all_families(self, cell: Cell, split: str) -> Array:
        return np.stack([self.family(name, cell, split) for name in self.families])


def _study(records: Iterable[Record]) -> _Study:
    """Check that the set of runs is complete. Raises ValueError naming what is missing."""
    runs = run_table(records)
    untagged = [r for r in runs if r.cell is None]
    if untagged:
        raise ValueError(f"run {untagged[0].run!r} lacks tags; the claim needs draw, {', '.join(AXES)} on every record")
    cells = sorted({r.cell for r in runs if r.cell})
    learners, suites = sorted({r.learner for r in runs}), sorted({r.suite for r in runs})
    draws = sorted({r.draw for r in runs})
    seeds = {draw: sorted({r.seed for r in runs if r.draw == draw}) for draw in draws}  # they may differ between draws
    table = {(r.learner, r.cell, r.suite, r.draw, r.seed): r for r in runs}
    missing = [
        f"{name} on {describe(cell)}, {suite}, draw {draw}, seed {seed}"
        for name, cell, suite, draw in product(learners, cells, suites, draws)
        for seed in seeds[draw]
        if (name, cell, suite, draw, seed) not in table
    ]
    _complain("runs are missing", missing)
    due = max(len(s) for s in seeds.values())
    short = [f"draw {draw} has {len(s)} seeds of {due}" for draw, s in seeds.items() if len(s) < due]
    _complain("runs are missing", short)
    splits = sorted({s for r in runs for s in r.scores})
    if DECIDING not in splits:
        raise ValueError(f"no {DECIDING} evaluation among {splits}; the claim is about contexts never seen in training")
    for split in splits:
        due = max(r.episodes.get(split, 0) for r in runs)
        short = [f"{_place(r)}: {r.episodes.get(split, 0)} of {due}" for r in runs if r.episodes.get(split, 0) != due]
        _complain(f"evaluation episodes on {split} contexts are missing", short)
    kinds: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        kinds[run.learner].add(run.family)
    mixed = [f"{name} is {' and '.join(sorted(found))}" for name, found in kinds.items() if len(found) > 1]
    _complain("a learner belongs to one family", mixed)
    members: dict[str, list[str]] = defaultdict(list)
    for name in learners:
        members[next(iter(kinds[name]))].append(name)
    fair = {f: [n for n in names if n not in APART] or names for f, names in sorted(members.items())}
    return _Study(runs, learners, cells, suites, draws, seeds, fair, table)


def _complain(what: str, items: Sequence[str]) -> None:
    if items:
        more = f"; and {len(items) - 5} more" if len(items) > 5 else ""
        raise ValueError(f"{what}: {'; '.join(items[:5])}{more}")


def direction(records: Iterable[Record]) -> list[Direction]:
    """Each learner's unseen-context score on the smallest, narrowest data against the largest, most diverse.

    Paired on draw and seed. Empty if there is one cell. Raises ValueError as `analyse` does.
    """
    return _direction(_study(records))


def _direction(study: _Study) -> list[Direction]:
    low, high = extreme_cells(study.cells)
    if low == high:
        return []
    found = []
    for learner in study.learners:
        start, end = study.array(learner, low, DECIDING), study.array(learner, high, DECIDING)
        difference = stats.paired_difference(end, start)
        up = int((end > start).sum())
        ends = stats.nested_interval(start), stats.nested_interval(end)
        found.append(Direction(learner, low, high, *ends, difference, up, end.size))
    return found


def analyse(records: Iterable[Record], *, seed: int) -> Analysis:
    """Test the claim on a balanced set of runs; the same records and seed give the same analysis.

    Every record carries the tags draw, size, contexts and coverage. The cells need not form a full grid, but each
    holds every learner, suite, draw and (the draw's) seed, and one cell is greatest in every factor.
    Raises ValueError naming what is missing. Few draws never crash: intervals are infinite and the verdict is open.
    """
    study = _study(records)
    rng = np.random.default_rng(seed)
    bottom, top = extreme_cells(study.cells)
    names = list(study.families)
    scores = study.all_families(top, DECIDING)  # (F, D, S, T)
    own = {name: stats.nested_interval(x) for name, x in zip(names, scores, strict=True)}
    behaviour = study.array(study.learners[0], top, DECIDING, behaviour=True)
    over = {name: stats.paired_difference(x, behaviour) for name, x in zip(names, scores, strict=True)}
    best = max(e.value for e in own.values())
    pairs = []
    for i, j in combinations(range(len(names)), 2):
        test = stats.tost(scores[i], scores[j], margin=MARGIN)
        pairs.append(Pair(names[i], names[j], test.difference, test.p, test.equivalent))
    by_learner = {name: study.array(name, top, DECIDING) for name in study.learners}
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
        episodes=study.runs[0].episodes[DECIDING],
        families=study.families,
        apart=[n for n in study.learners if not any(n in members for members in study.families.values())],
        family_scores=own,
        learner_scores={name: stats.nested_interval(x) for name, x in by_learner.items()},
        learner_iqm={name: stats.hierarchical_iqm(x, rng=rng) for name, x in by_learner.items()},
        behaviour=stats.nested_interval(behaviour),
        over_behaviour=over,
        works_weak={n: own[n].low >= MARGIN and over[n].low >= MARGIN for n in names},
        works_strong={n: own[n].low >= SHARE * best for n in names},
        pairs=pairs,
        regret=dict(zip(names, stats.regret(scores), strict=True)),
        improvement={
            f"{a} > {b}": stats.probability_of_improvement(by_learner[a], by_learner[b], rng=rng)
            for a, b in combinations(study.learners, 2)
        },
        spreads=[_spread(study, cell) for cell in study.cells],
        slopes=[_slope(study, axis, top) for axis in AXES],
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
    draft = Analysis(**partial, verdicts=[])
    needs = {"weak": _needed_weak(scores, behaviour), "strong": _needed_strong(scores)}
    refute = {"weak": _needed_refuted(scores, behaviour), "strong": _needed_refuted(scores, None)}
    verdicts = [
        _verdict(draft, reading, axis, support=needs[reading], refute=refute[reading])
        for reading in ("weak", "strong")
        for axis in ("overall", *AXES)
    ]
    return Analysis(**partial, verdicts=verdicts)


def _spread(study: _Study, cell: Cell) -> Spread:
    means = study.all_families(cell, DECIDING).mean(2)  # (F, D, T)
    best = float(means.mean((1, 2)).max())
    return Spread(cell, stats.signed_root(stats.paired_spread(means)), best, FLOOR <= best < CEILING)


def _slope(study: _Study, axis: str, top: Cell) -> Slope:
    i = AXES.index(axis)
    walk = [c for c in study.cells if all(c[j] == top[j] for j in range(3) if j != i)]
    counting = [c for c in walk if _spread(study, c).counts]
    levels = [c[i] for c in counting]
    logarithmic = all(c[i] > 0 for c in walk)
    at = 10 * top[i]
    if axis == "coverage" and top[i] <= 1:
        at = min(at, 1.0) if logarithmic else 1.0
    per = "tenfold" if logarithmic else "unit"

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
    x = np.array([log10(v) if logarithmic else v for v in levels])
    target = log10(at) if logarithmic else at
    means = [study.all_families(c, DECIDING).mean(2) for c in counting]  # each (F, D, T)

    def fit(kept: Array) -> tuple[float, float]:
        return stats.line(x, np.array([stats.signed_root(stats.paired_spread(m[:, kept])) for m in means]))

    def ahead(kept: Array) -> float:
        intercept, slope = fit(kept)
        return intercept + slope * target

    count = len(study.draws)
    reason = "" if count > 2 else "an interval of the slope needs three dataset draws or more"
    steep, far = stats.jackknife(lambda kept: fit(kept)[1], count), stats.jackknife(ahead, count)
    return Slope(axis, levels, per, steep, far, at, reason)


# --- the verdict ---------------------------------------------------------------------------------------


def _verdict(a: Analysis, reading: Reading, axis: str, *, support: float, refute: float) -> Verdict:
    """claim.md's rule: supported, else refuted, else inconclusive with what would decide it."""
    best = max(a.family_scores, key=lambda n: a.family_scores[n].value)
    level = a.family_scores[best].value
    slopes = [s for s in a.slopes if axis in ("overall", s.axis) and len({c[AXES.index(s.axis)] for c in a.cells}) > 1]
    worst = max(a.regret, key=lambda n: (a.regret[n].low, a.regret[n].value))
    numbers = {"best_score": level, "greatest_regret": a.regret[worst].value, "regret_low": a.regret[worst].low}
    numbers["widest_difference"] = max((abs(p.difference.value) for p in a.pairs), default=nan)
    if len(slopes) == 1 and slopes[0].slope and slopes[0].ahead:
        numbers |= {"slope": slopes[0].slope.value, "spread_ahead_low": slopes[0].ahead.low}

    def give(outcome: Outcome, reason: str, needed: float | None = None) -> Verdict:
        return Verdict(reading, axis, outcome, reason, numbers, needed)

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
    if a.draws >= ENOUGH and not failing and FLOOR <= level < CEILING:
        return give("supported", _praise(a, reading) + _trend(slopes))
    guilty = [n for n in a.families if a.regret[n].low > REGRET and (reading == "strong" or _fails(a, n))]
    if a.draws >= ENOUGH and guilty and slopes and all(s.ahead is not None and s.ahead.low > MARGIN for s in slopes):
        name = max(guilty, key=lambda n: a.regret[n].low)
        lows = ", ".join(f"{s.ahead.low:.2f} at {SYMBOLS[s.axis]} {s.at:,g}" for s in slopes if s.ahead)
        return give(
            "refuted",
            f"{name} falls short of the best family by {a.regret[name]}, more than {REGRET} with 95% confidence, and "
            f"the spread is not on its way below {MARGIN} within ten times the data (lower bounds: {lows}).",
        )
    return _open(give, a, reading, failing, guilty, slopes, support, refute)


def _open(
    give: Any, a: Analysis, reading: Reading, failing: list[str], guilty: list[str], slopes: list[Slope],
    support: float, refute: float,
) -> Verdict:  # fmt: skip
    best = max(e.value for e in a.family_scores.values())
    parts = []
    if a.draws < ENOUGH:
        parts.append(f"{a.draws} dataset draws cannot decide it; the design asks for {ENOUGH} or more.")
    if best < FLOOR:
        parts.append(
            f"The best family scores {best:.2f}, below {FLOOR}: agreement among failures is not convergence; give the "
            "learners more data or training, or an easier task."
        )
    if best >= CEILING:
        parts.append(
            f"The best family scores {best:.2f}, at the ceiling ({CEILING}) where techniques cannot be told apart; "
            "a harder task is needed."
        )
    if failing:
        parts.append(
            f"Not shown: {'; '.join(failing[:3])}{f'; and {len(failing) - 3} more' if len(failing) > 3 else ''}."
        )
    if guilty:
        blocked = [s for s in slopes if s.ahead is None or not s.ahead.low > MARGIN]
        why = "; ".join(
            s.reason or f"along {s.axis} the line may fall to {s.ahead.low:.2f} at {SYMBOLS[s.axis]} {s.at:,g}"  # type: ignore[union-attr]
            for s in blocked
        )
        why = why or "no axis was varied"
        parts.append(f"{', '.join(guilty)} trails by over {REGRET}, but more data might still close it: {why}.")
        refute = max([a.draws + 1.0, 3.0, *(_needed_slope(s) for s in blocked)])
    elif slopes:
        refute = max([refute, *(_needed_slope(s) for s in slopes)])
    within = support if FLOOR <= best < CEILING else inf
    needed = max(min(within, refute), a.draws + 1.0)
    if needed > 1000 and isfinite(needed):
        parts.append(
            "At these values it would take over 1,000 dataset draws: a difference so near a margin stays open."
        )
    elif isfinite(needed):
        seeds = f"{a.seeds} seed{'s' * (a.seeds != 1)} each"
        rough = ", a rough figure with so few draws" if a.draws < 5 else ""
        parts.append(
            f"At these values about {needed:,.0f} dataset draws with {seeds} would decide it ({needed * a.seeds:,.0f} "
            f"runs a learner and cell; there are {a.draws * a.seeds}){rough}."
        )
    else:
        parts.append("If these values are the true ones, more runs of the same kind would not decide it.")
    return give("inconclusive", " ".join(parts), needed)


def _fails(a: Analysis, name: str) -> bool:
    """Whether a family is shown not to work even weakly."""
    return min(a.family_scores[name].high, a.over_behaviour[name].high) < MARGIN


def _failing(a: Analysis, reading: Reading) -> list[str]:
    """The tests of one reading that did not pass, in words."""
    best = max(e.value for e in a.family_scores.values())
    if reading == "weak":
        return [
            f"that {n} ({a.family_scores[n]}) exceeds random by {MARGIN}"
            if a.family_scores[n].low < MARGIN
            else f"that {n} exceeds the behaviour by {MARGIN} (difference {a.over_behaviour[n]})"
            for n, passed in a.works_weak.items()
            if not passed
        ]
    return [
        f"that {n} ({a.family_scores[n]}) reaches {SHARE:.0%} of the best ({best:.2f})"
        for n, passed in a.works_strong.items()
        if not passed
    ] + [
        f"that {p.first} and {p.second} differ by less than {MARGIN} ({p.difference}, 90%)"
        for p in a.pairs
        if not p.equivalent
    ]


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


def _trend(slopes: Sequence[Slope]) -> str:
    words = []
    for s in slopes:
        if s.slope is None or not s.slope.bounded:
            words.append(f" Whether {s.axis} brought this about is not known: {s.reason}.")
        elif s.slope.high < 0:
            words.append(f" The spread falls along {s.axis}, {s.slope} for each {s.per}.")
        else:
            words.append(f" The spread is not shown to fall along {s.axis} ({s.slope} for each {s.per}).")
    return "".join(words)


def _deviation(values: Array) -> float:
    """Standard deviation a draw, from the standard error of (draws, seeds, tasks)."""
    return stats.standard_error(values.mean(1).T)[0] * sqrt(len(values))


def _needed_weak(scores: Array, behaviour: Array) -> float:
    margins = [m for x in scores for m in (x, x - behaviour)]
    return max(stats.draws_for_bound(_deviation(m), float(m.mean()) - MARGIN) for m in margins)


def _needed_strong(scores: Array) -> float:
    best = max(float(x.mean()) for x in scores)
    reach = [stats.draws_for_bound(_deviation(x), float(x.mean()) - SHARE * best) for x in scores]
    equal = [
        stats.draws_for_equivalence(_deviation(x - y), effect=float((x - y).mean()), margin=MARGIN)
        for x, y in combinations(scores, 2)
    ]
    return max([*reach, *equal])


def _needed_refuted(scores: Array, behaviour: Array | None) -> float:
    """Draws to show one family's regret over 0.2, and with `behaviour` also that it does not work weakly."""
    strict = 1 - 0.05 / max(len(scores) * (len(scores) - 1) // 2, 1)
    found = [inf]
    for own in scores:
        trails = [
            stats.draws_for_bound(_deviation(x - own), float((x - own).mean()) - REGRET, level=strict) for x in scores
        ]
        margins = [] if behaviour is None else [own, own - behaviour]
        fails = [stats.draws_for_bound(_deviation(m), MARGIN - float(m.mean())) for m in margins]
        found.append(max([3.0, min(trails), min(fails, default=0.0)]))
    return min(found)


def _needed_slope(slope: Slope) -> float:
    if slope.ahead is None or not slope.ahead.bounded:
        return inf if slope.ahead is None else 3.0
    gap = slope.ahead.value - MARGIN
    error = (slope.ahead.high - slope.ahead.low) / 2 / stats.student(slope.ahead.level, slope.ahead.n - 1)
    return stats.draws_for_bound(error * sqrt(slope.ahead.n), gap)


# --- words ---------------------------------------------------------------------------------------------


def scope(a: Analysis) -> str:
    """The range a verdict holds within, and how much stands behind it."""
    spans = []
    for i, axis in enumerate(AXES):
        levels = sorted({c[i] for c in a.cells})
        ends = f"{levels[0]:,g} to {levels[-1]:,g}" if len(levels) > 1 else f"{levels[0]:,g}"
        spans.append(f"{axis} {ends}")
    return (
        f"{', '.join(a.suites)}: {', '.join(spans)}; {a.draws} dataset draw{'s' * (a.draws != 1)} with {a.seeds} "
        f"seed{'s' * (a.seeds != 1)} each, {a.episodes} episodes a run, {a.runs} runs"
    )


def sentences(a: Analysis) -> list[str]:
    """The overall verdicts and what they rest on, in plain words, one sentence or two an item."""
    meaning = {"weak": "every family does something reasonable", "strong": "the choice of technique does not matter"}
    found = []
    for reading in ("weak", "strong"):
        v = a.verdict(reading)  # type: ignore[arg-type]
        found.append(
            f"That {meaning[reading]} ({reading} reading) is {v.outcome.upper()} within this range. {v.reason}"
        )
    found.append(f"This range: {scope(a)}.")
    pooled = "; ".join(f"{f} = {' + '.join(names)}" for f, names in a.families.items())
    apart = f"; {', '.join(a.apart)} is reported apart" if a.apart else ""
    found.append(f"Families (mean over learners): {pooled}{apart}.")
    absent = [f for f in get_args(Family) if f not in a.families]
    if absent:
        found.append(f"The claim also speaks of {' and '.join(absent)} techniques; none was run.")
    if a.draws * a.seeds < 10:
        found.append(f"Runs a learner and cell: {a.draws * a.seeds}, fewer than ten; intervals are wide.")
    return found


def verdict_table(a: Analysis) -> str:
    """Both readings along each axis, aligned for a terminal, then each family in the top cell, then the reasons."""
    slopes = {s.axis: s for s in a.slopes}
    rows = [("", "weak reading", "strong reading", "spread's slope", "spread ahead")]
    for axis in ("overall", *AXES):
        s = slopes.get(axis)
        steep = f"{s.slope} per {s.per}" if s and s.slope else ("" if s is None else "n/a")
        ahead = f"{s.ahead} at {SYMBOLS[axis]} {s.at:,g}" if s and s.ahead else ("" if s is None else "n/a")
        rows.append((axis, a.verdict("weak", axis).outcome, a.verdict("strong", axis).outcome, steep, ahead))
    families = [("family", "score", "over behaviour", "regret", "works (weak, strong)")]
    for name in a.families:
        works = f"{_yes(a.works_weak[name])}, {_yes(a.works_strong[name])}"
        families.append((name, str(a.family_scores[name]), str(a.over_behaviour[name]), str(a.regret[name]), works))
    parts = [
        aligned(rows),
        f"Top cell ({describe(a.top)}), contexts unseen in training, 95% intervals:",
        _ruled(families),
    ]
    moves = [("learner", "small and narrow", "large and diverse", "difference", "runs that rise")]
    moves += [(d.learner, str(d.start), str(d.end), str(d.difference), f"{d.up} of {d.pairs}") for d in a.direction]
    if a.direction:
        parts += [f"From {describe(a.bottom)} to {describe(a.top)}:", _ruled(moves)]
    return "\n\n".join([*parts, *sentences(a)]) + "\n"


def _ruled(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as columns, with a rule under the first, which is the heading."""
    rule = ["-" * max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return aligned([rows[0], rule, *rows[1:]])


def _yes(value: bool) -> str:
    return "yes" if value else "no"
