"""Training runs as a table: from evaluation records to one row a run, and the cells of a design they stand in.

A run is one (learner, cell, draw, seed, suite) at its last step; its score on a split is the mean over episodes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite

import numpy as np

from toolkit import stats
from toolkit.records import Record
from toolkit.stats import Estimate

Cell = tuple[float, float, float]  # size in transitions, contexts, coverage

AXES = ("size", "contexts", "coverage")
UNSEEN = "interpolated"  # contexts inside the range of training, never trained on: these decide


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
    step: int  # the last evaluated one
    scores: dict[str, float]  # split -> mean score
    behaviour: dict[str, float]  # split -> the training data's mean score on that split's scale
    references: dict[str, tuple[float, float]]  # split -> returns that score 0 (random) and 1 (expert)
    episodes: dict[str, int]  # split -> evaluation episodes

    @property
    def place(self) -> str:
        """'iql on 2,000 transitions, 2 contexts, coverage 0.1, pointmaze, draw 2, seed 2001'."""
        where = f" on {describe(self.cell)}" if self.cell else ""
        return f"{self.learner}{where}, {self.suite}, draw {self.draw}, seed {self.seed}"


class Evaluated(tuple[Record, ...]):
    """Evaluation records whose table of runs is made once, however many figures ask for it."""

    @cached_property
    def table(self) -> tuple[Run, ...]:
        """What `run_table` returns of them."""
        return tuple(run_table(iter(self)))


def run_table(records: Iterable[Record]) -> list[Run]:
    """Runs, sorted by learner, cell, suite, draw and seed. Earlier evaluations of a run are left out.

    Raises ValueError if there are no records, references leave a score undefined, a return is not finite, or two
    runs claim one place.
    """
    if isinstance(records, Evaluated):
        return list(records.table)
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
                f"runs {places[place].run!r} and {name!r} are both {run.place}; keep one, or tag their difference "
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
    references: dict[str, tuple[float, float]] = {}
    episodes: dict[str, int] = {}
    for split in sorted({r.split for r in final}):
        group = [r for r in final if r.split == split]
        scales = sorted({(r.random, r.expert) for r in group})
        low, high = references[split] = scales[0]
        if len(scales) > 1 or not (isfinite(low) and isfinite(high) and low < high):
            raise ValueError(
                f"run {name!r} ({first.suite}, {split}) has the references (random, expert) {scales}; a score needs "
                "one pair of finite returns, the expert's above the random policy's"
            )
        scores[split] = float(np.mean([r.score for r in group]))
        behaviour[split] = float(np.mean([r.behaviour_score for r in group]))
        episodes[split] = len(group)
        if not (isfinite(scores[split]) and isfinite(behaviour[split])):
            raise ValueError(f"run {name!r} ({first.learner}) has a return on {split} contexts that is not finite")
    cell = tuple(float(first.tags[a]) for a in AXES) if all(a in first.tags for a in AXES) else None
    return Run(
        run=name, learner=first.learner, family=first.family, suite=first.suite, cell=cell,  # type: ignore[arg-type]
        draw=int(first.tags.get("draw", 0)), seed=first.seed, step=last, scores=scores, behaviour=behaviour,
        references=references, episodes=episodes,
    )  # fmt: skip


def describe(cell: Cell) -> str:
    """'20,000 transitions, 16 contexts, coverage 0.3'."""
    return ", ".join(level(axis, value) for axis, value in zip(AXES, cell, strict=True))


def level(axis: str, value: float) -> str:
    """'160,000 transitions', '1 context' or 'coverage 0.3'."""
    if axis == "coverage":
        return f"coverage {value:g}"
    noun = {"size": "transition", "contexts": "context"}[axis]
    return f"{value:,.0f} {noun}{'s' * (value != 1)}"


def extreme_cells(cells: Iterable[Cell]) -> tuple[Cell, Cell]:
    """The smallest, narrowest cell and the top one (greatest of every factor).

    Raises ValueError if no cell is greatest in every factor. A design without the corner of all least
    factors gives the cell with the lowest ranks, size and contexts before coverage.
    """
    cells = sorted(set(cells))
    levels = [sorted({c[i] for c in cells}) for i in range(3)]
    top: Cell = (levels[0][-1], levels[1][-1], levels[2][-1])
    if top not in cells:
        raise ValueError(f"no run has the top cell ({describe(top)}); the verdict is read there")
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
