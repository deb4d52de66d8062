"""How far from the training data a policy went, and whether it did worse the farther it went. NumPy and SciPy only.

The distance of a state is that to the NEIGHBOURS-th nearest of the training states, in task coordinates, each divided
by its range: the suite's where it states one, else the data's. So 0.1 is a tenth of the range, and datasets of one
suite compare. Task coordinates are what `Suite.coordinates` says: places and angles, neither goals nor hidden
dynamics, so a policy may fail near the data too. A coordinate that turns, as an angle, is cut where its range is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import kendalltau

from toolkit import stats
from toolkit.core import Array
from toolkit.stats import Estimate
from toolkit.tables import Row, distinct

NEIGHBOURS = 3
SPLITS = ("seen", "interpolated", "extrapolated")


class Known:
    """Training states to measure distances to."""

    def __init__(
        self, points: Array, extent: Sequence[tuple[float, float]] = (), *, neighbours: int = NEIGHBOURS
    ) -> None:
        """`points` (n, D) task coordinates, `extent` their ranges, those of the points if empty.

        Raises ValueError if there are fewer points than `neighbours`, or neighbours is below 1.
        """
        if neighbours < 1:
            raise ValueError(f"neighbours must be at least 1, got {neighbours}")
        points = np.asarray(points, np.float64)
        if len(points) < neighbours:
            raise ValueError(f"{len(points)} training states are fewer than {neighbours} neighbours; ask for fewer")
        ranges = np.array([high - low for low, high in extent]) if extent else np.ptp(points, axis=0)
        self.unit = np.where(ranges > 0, ranges, 1.0)
        self.neighbours, self.tree = neighbours, cKDTree(points / self.unit)

    def distance(self, points: Array) -> Array:
        """(m, D) -> (m,), in shares of the range."""
        found = self.tree.query(np.asarray(points, np.float64) / self.unit, [self.neighbours])[0]
        return found[:, 0]


def ranked(table: Sequence[Row]) -> list[Row]:
    """One row a learner and suite: Kendall's tau between the distance and the score of episodes.

    Ranks are compared inside one run: over all its episodes (`tau`), and over those of one split, averaged
    (`within`), so that contexts which are harder and farther at once do not count. Both are means over runs with
    Student's interval over draws, or over seeds of the only draw. Rows of `toolkit.tables.DISTANCES`; a run whose
    scores or distances are all equal has no ranks and is left out. Of several suites there is one more row, their
    mean: suite "all".
    """
    found = []
    for learner in distinct(table, "learner"):
        own = [r for r in table if r["learner"] == learner]
        suites = distinct(own, "suite")
        for chosen in [*([s] for s in suites), *([suites] if len(suites) > 1 else [])]:
            rows = [r for r in own if r["suite"] in chosen]
            whole = _taus(rows, lambda run: [run])
            inside = _taus(rows, lambda run: [[r for r in run if r["split"] == s] for s in distinct(run, "split")])
            size = {
                "runs": len(_runs(rows)),
                "draws": len({(r["dataset"], r["draw"]) for r in rows}),
                "episodes": len(rows),
            }
            row = {"learner": learner, "suite": chosen[0] if len(chosen) == 1 else "all"}
            found.append({**row, **_ends("tau", whole), **_ends("within", inside), **size})
    return found


def _runs(rows: Sequence[Row]) -> list[list[Row]]:
    grouped: dict[tuple, list[Row]] = {}
    for row in rows:
        grouped.setdefault((row["dataset"], row["draw"], row["seed"]), []).append(row)
    return list(grouped.values())


def _taus(rows: Sequence[Row], parts: Any) -> Estimate | None:
    """Mean over suites of the mean over draws of the mean tau of a run's parts; None if no run has one."""
    nested: dict[str, dict[int, list[float]]] = {}
    for run in _runs(rows):
        each = [tau(part) for part in parts(run)]
        known = [value for value in each if value is not None]
        if known:
            nested.setdefault(run[0]["suite"], {}).setdefault(run[0]["draw"], []).append(float(np.mean(known)))
    if not nested:
        return None
    if all(len(draws) == 1 for draws in nested.values()):
        means = [next(iter(draws.values())) for draws in nested.values()]
    else:
        means = [[float(np.mean(v)) for v in draws.values()] for draws in nested.values()]
    return stats.student_interval(means).within(-1.0, 1.0)


def tau(rows: Sequence[Row]) -> float | None:
    """Kendall's tau-b of distance and score over episodes; None if either does not vary."""
    if len(rows) < 2:
        return None
    value = float(kendalltau([r["distance"] for r in rows], [r["score"] for r in rows]).statistic)
    return value if np.isfinite(value) else None


def _ends(name: str, found: Estimate | None) -> dict[str, Any]:
    parts = (None, None, None) if found is None else (found.value, found.low, found.high)
    return dict(zip((name, f"{name}_low", f"{name}_high"), parts, strict=True))


def sentence(found: Sequence[Row]) -> str:
    """What `ranked` found, in one sentence; numbers may be text, as they are in a CSV."""

    def below(name: str) -> list[str]:
        ends = {r["learner"]: r[f"{name}_high"] for r in chosen if r[name] not in (None, "")}
        return [learner for learner, high in ends.items() if float(high) < 0]

    suites = {r["suite"] for r in found}
    chosen = [r for r in found if r["suite"] == "all"] if "all" in suites else list(found)
    lower = [r["learner"] for r in chosen if r["tau"] not in (None, "") and float(r["tau"]) < 0]
    sure, inside = below("tau"), below("within")
    return (
        f"Episodes that went farther from the training data scored lower with {len(lower)} of {len(chosen)} learners"
        f"{f' ({_and(lower)})' if lower else ''}; the 95% interval of the rank correlation lies below zero for "
        f"{_and(sure) or 'none'}, and within a split for {_and(inside) or 'none'}."
    )


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
