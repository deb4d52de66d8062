"""How much score each swap of `toolkit.bottlenecks` recovers: paired differences over runs, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from toolkit import stats
from toolkit.stats import Estimate
from toolkit.tables import Row, distinct

ARMS = {  # in the order they are acted and drawn
    "own": "as trained",
    "dynamics": "plans with the true dynamics",
    "critic": "best candidate by its critic",
    "value": "best candidate by true value",
    "states": "without drifting from the expert's states",
    "expert-0.25": "expert's action on 25% of steps",
    "expert-0.5": "expert's action on 50% of steps",
    "expert-1": "expert's action on all steps",
}
BASES = {"value": "critic"}  # what an arm is also compared with, besides `own`


def recovered(table: Sequence[Row]) -> list[Row]:
    """One row a learner, dataset, split and arm: the mean score, and its paired difference to the learner as trained.

    Differences are taken run by run, then averaged; intervals are Student's over draws, or over seeds of the only
    draw, and infinite with one. `error` is the mean distance between the learner's action and the expert's at the
    states of the arm: those that the learner visits in `own`, those that the expert visits in `states`. `more` is the
    difference to the arm named in `BASES`. Arms that are n/a have the reason in `why` and no numbers. Raises
    ValueError if a run has an arm twice, or some runs lack one that others have.
    """
    found: list[Row] = []
    for dataset, learner, split in sorted({(r["dataset"], r["learner"], r["split"]) for r in table}):
        own = [r for r in table if (r["learner"], r["dataset"], r["split"]) == (learner, dataset, split)]
        base = {"learner": learner, "dataset": dataset, "suite": own[0]["suite"], "split": split}
        scores = {arm: _scores(own, arm) for arm in ARMS}
        if any(set(each) != set(scores["own"]) for each in scores.values() if each):
            raise ValueError(f"{learner} on {dataset}: some runs have arms that others lack; measure all of them")
        for arm, each in scores.items():
            rows = [r for r in own if r["arm"] == arm]
            if not rows:
                continue
            size = {"runs": len(rows), "draws": len(distinct(rows, "draw")), "episodes": rows[0]["episodes"]}
            row = {**base, "arm": arm, "why": rows[0]["why"], **size}
            row |= _ends("score", _mean(each)) | _ends("recovered", _mean(each, scores["own"]))
            other = scores.get(BASES.get(arm, ""), {})
            row |= _ends("more", _mean(each, other) if other else None)
            errors = {(r["draw"], r["seed"]): r["error"] for r in rows if r["error"] is not None}
            row |= _ends("error", _mean(errors))
            found.append(row)
    return found


def _scores(rows: Sequence[Row], arm: str) -> dict[tuple[int, int], float]:
    """(draw, seed) -> score."""
    own = [r for r in rows if r["arm"] == arm and r["score"] is not None]
    found = {(r["draw"], r["seed"]): r["score"] for r in own}
    if len(found) < len(own):
        raise ValueError(
            f"{own[0]['learner']} on {own[0]['dataset']} has {len(own)} results of arm {arm} for {len(found)} draws "
            "and seeds; give each run once"
        )
    return found


def _mean(scores: dict[tuple[int, int], float], less: dict[tuple[int, int], float] | None = None) -> Estimate | None:
    """Mean over draws of means over seeds."""
    if not scores:
        return None
    values = {place: score - (less[place] if less else 0.0) for place, score in scores.items()}
    draws = sorted({draw for draw, _ in values})
    if len(draws) == 1:
        return stats.student_interval([list(values.values())])
    means = [float(np.mean([value for (d, _), value in values.items() if d == draw])) for draw in draws]
    return stats.student_interval([means])


def _ends(name: str, found: Estimate | None) -> dict[str, Any]:
    parts = (None, None, None) if found is None else (found.value, found.low, found.high)
    return dict(zip((name, f"{name}_low", f"{name}_high"), parts, strict=True))
