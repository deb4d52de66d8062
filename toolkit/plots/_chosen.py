"""Which runs a figure is about, what their data are called, and arrays of them that are paired on draws."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.plots import Folders
from toolkit.records import Record, done_run, load
from toolkit.runs import Run, describe, extreme_cells, run_table
from toolkit.stats import Array

MOST = 30  # learners in a figure that gives each a panel, or a line and a column
PREFERRED = ("interpolated", "seen", "extrapolated")


def decisive(records: Sequence[Record]) -> tuple[list[Run], str, str]:
    """Runs on the largest, most diverse data (on all, if they lack tags), their split, and what data these are.

    The split is interpolated contexts where there are any.
    """
    runs = run_table(records)
    where = "all data"
    if all(r.cell for r in runs):
        top = extreme_cells(r.cell for r in runs if r.cell)[1]
        runs = [r for r in runs if r.cell == top]
        where = describe(top)
    split = preferred(runs)
    return [r for r in runs if split in r.scores], split, where


def preferred(runs: Sequence[Run]) -> str:
    """Interpolated contexts if any run was evaluated there, else seen, else extrapolated ones."""
    splits = {s for r in runs for s in r.scores}
    return next((s for s in PREFERRED if s in splits), min(splits))


def contexts_of(split: str) -> str:
    """'Seen contexts', 'Unseen (interpolated) contexts'."""
    return "Seen contexts" if split == "seen" else f"Unseen ({split}) contexts"


def data_label(run: Run, several: bool) -> str:
    """'2,000 / 1 / 0.05', with the suite before it if there are `several` or the run has no tags."""
    parts = [run.suite] if several or not run.cell else []
    if run.cell:
        parts += [f"{run.cell[0]:,.0f}", f"{run.cell[1]:,.0f}", f"{run.cell[2]:g}"]
    return " / ".join(parts)


def paired(runs: Sequence[Run], split: str) -> dict[str, Array]:
    """Learner -> scores (units, seeds, suites), paired on the draws and suites that all learners share.

    With one draw its seeds are the units. Raises ValueError if the learners share none, or have unlike many seeds.
    """
    learners, suites = sorted({r.learner for r in runs}), sorted({r.suite for r in runs})
    scores = {(r.learner, r.suite, r.draw, r.seed): r.scores[split] for r in runs}
    draws = sorted({r.draw for r in runs})
    found_seeds: dict[tuple[str, str, Any], list[int]] = defaultdict(list)
    for name, suite, draw, seed in sorted(scores):
        found_seeds[name, suite, draw].append(seed)

    def seeds(learner: str, suite: str, draw: Any) -> list[int]:
        return found_seeds.get((learner, suite, draw), [])

    shared = [d for d in draws if all(seeds(n, t, d) for n in learners for t in suites)]
    counts = {len(seeds(n, t, d)) for n in learners for t in suites for d in shared}
    if len(counts) != 1:
        found = f"{sorted(counts)} seeds" if shared else "no draw of the data in common"
        raise ValueError(f"{', '.join(learners)} have {found}; comparing them needs equally many runs on equal draws")

    def array(name: str) -> Array:
        cube = np.array([[[scores[name, t, d, s] for s in seeds(name, t, d)] for t in suites] for d in shared])
        return cube.swapaxes(1, 2) if len(shared) > 1 else cube[0].T[:, None]

    return {name: array(name) for name in learners}


def check_readable(figure: str, learners: int) -> None:
    """Raises ValueError if so many learners, each with a panel or a line of its own, could not be told apart."""
    if learners > MOST:
        raise ValueError(
            f"{figure} shows at most {MOST} learners, to be readable; there are {learners}: plot some of the runs"
        )


def loaded(folders: Sequence[Path]) -> tuple[list[Record], dict[str, Path]]:
    """Records of finished runs, as their caller named them, and which folder each run's are from."""
    records = folders.records if isinstance(folders, Folders) else load(*folders)
    return list(records), {done_run(folder): folder for folder in folders}
