"""A complete, balanced set of runs as arrays. What is missing is named; nothing is filled in or left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from toolkit.records import Record
from toolkit.runs import AXES, UNSEEN, Cell, Run, describe, run_table
from toolkit.stats import Array

APART = ("bc",)  # plain behaviour cloning converges to the behaviour policy by definition


@dataclass(frozen=True)
class Balanced:
    """Every learner in every cell, suite and draw, with as many seeds on each: arrays (draws, seeds, suites)."""

    runs: list[Run]
    learners: list[str]
    cells: list[Cell]
    suites: list[str]
    draws: list[int]
    seeds: dict[int, list[int]]  # draw -> its training seeds, as many for each
    families: dict[str, list[str]]  # family -> the learners pooled in it
    table: dict[tuple, Run]

    def array(self, learner: str, cell: Cell, split: str, *, behaviour: bool = False) -> Array:
        """Scores of one learner (or of its data's behaviour) in one cell: (D, S, T)."""

        def one(run: Run) -> float:
            return (run.behaviour if behaviour else run.scores)[split]

        places = [
            [[one(self.table[learner, cell, t, d, s]) for t in self.suites] for s in self.seeds[d]] for d in self.draws
        ]
        return np.array(places, np.float64)

    def family(self, name: str, cell: Cell, split: str) -> Array:
        """Mean score of a family's learners: (D, S, T)."""
        return np.mean([self.array(learner, cell, split) for learner in self.families[name]], axis=0)

    def all_families(self, cell: Cell, split: str) -> Array:
        """(F, D, S, T), in the order of `families`."""
        return np.stack([self.family(name, cell, split) for name in self.families])


def balanced(records: Iterable[Record]) -> Balanced:
    """The runs of `records`, checked. Raises ValueError naming what is missing or does not fit together."""
    runs = run_table(records)
    untagged = [r for r in runs if r.cell is None]
    if untagged:
        raise ValueError(f"run {untagged[0].run!r} lacks tags; the claim needs draw, {', '.join(AXES)} on every record")
    cells = sorted({r.cell for r in runs if r.cell})
    _complain("size and contexts must be positive", [describe(c) for c in cells if min(c[:2]) <= 0])
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
    _complain_of_evaluations(runs)
    kinds: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        kinds[run.learner].add(run.family)
    mixed = [f"{name} is {' and '.join(sorted(found))}" for name, found in kinds.items() if len(found) > 1]
    _complain("a learner belongs to one family", mixed)
    members: dict[str, list[str]] = defaultdict(list)
    for name in learners:
        members[next(iter(kinds[name]))].append(name)
    fair = {f: [n for n in names if n not in APART] or names for f, names in sorted(members.items())}
    return Balanced(runs, learners, cells, suites, draws, seeds, fair, table)


def _complain_of_evaluations(runs: Sequence[Run]) -> None:
    """Scores compare only at one final step a learner, on one scale, over equally many episodes."""
    splits = sorted({s for r in runs for s in r.scores})
    if UNSEEN not in splits:
        raise ValueError(f"no {UNSEEN} evaluation among {splits}; the claim is about contexts never seen in training")
    for split in splits:
        due = max(r.episodes.get(split, 0) for r in runs)
        short = [f"{r.place}: {r.episodes.get(split, 0)} of {due}" for r in runs if r.episodes.get(split, 0) != due]
        _complain(f"evaluation episodes on {split} contexts are missing", short)
    ends: dict[str, set[int]] = defaultdict(set)
    scales: dict[tuple[str, str], set[tuple[float, float]]] = defaultdict(set)
    for run in runs:
        ends[run.learner].add(run.step)
        for split, pair in run.references.items():
            scales[run.suite, split].add(pair)
    early = [f"{r.place}: step {r.step} of {max(ends[r.learner])}" for r in runs if r.step != max(ends[r.learner])]
    _complain("runs of one learner ended at different steps", early)
    odd = [f"{suite} {split}: {sorted(found)}" for (suite, split), found in scales.items() if len(found) > 1]
    _complain("runs were scored by different references (random, expert)", odd)


def _complain(what: str, items: Sequence[str]) -> None:
    if items:
        more = f"; and {len(items) - 5} more" if len(items) > 5 else ""
        raise ValueError(f"{what}: {'; '.join(items[:5])}{more}")
