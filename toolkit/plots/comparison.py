"""Learners compared on the largest, most diverse data: mean and IQM with intervals, every run, the behaviour."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from toolkit import stats
from toolkit.plots import Figure, Row, counts, look
from toolkit.plots._chosen import contexts_of, decisive
from toolkit.records import Record
from toolkit.runs import Run, estimate_runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def rows(records: Sequence[Record]) -> list[Row]:
    """One row a mean, IQM, run and behaviour; `kind` says which. Tagged records are cut to their top cell."""
    runs, split, where = decisive(records)
    found: list[Row] = []
    for name in sorted({r.learner for r in runs}):
        group = [r for r in runs if r.learner == name]
        scores = [r.scores[split] for r in group]
        mean, over = estimate_runs(group, scores)
        base = {"split": split, "data": where, "learner": name}
        size = {"runs": len(group), "draws": len({r.draw for r in group}), "interval_over": over}
        found.append({**base, "kind": "mean", "value": mean.value, "low": mean.low, "high": mean.high, **size})
        found.append({**base, "kind": "iqm", "value": float(stats.iqm(np.array(scores))), **size})
        found += [
            {**base, "kind": "run", "value": r.scores[split], "suite": r.suite, "draw": r.draw, "seed": r.seed}
            for r in group
        ]
    found.append({"split": split, "data": where, "kind": "behaviour", "value": _behaviour(runs, split)})
    return found


def _behaviour(runs: Sequence[Run], split: str) -> float:
    return estimate_runs(runs, [r.behaviour[split] for r in runs])[0].value


def draw(axes: Sequence[Axes], rows: list[Row]) -> None:
    """One line a learner, the best mean on top."""
    ax = axes[0]
    means = sorted((r for r in rows if r["kind"] == "mean"), key=lambda r: (r["value"], r["learner"]))
    looks = look([r["learner"] for r in means])
    shown = [r["value"] for r in rows] + [0.0, 1.0]
    left, right = min(shown) - 0.08, max(shown) + 0.08
    ax.set_xlim(left, right)
    behaviour = next(r["value"] for r in rows if r["kind"] == "behaviour")
    ax.axvline(behaviour, color="#555555", ls="--", lw=1.2, label="behaviour (mean of the data)")
    for place, row in enumerate(means):
        colour, marker = looks[row["learner"]]
        if isfinite(row["low"]):
            ax.plot([row["low"], row["high"]], [place, place], color=colour, lw=7, alpha=0.3, solid_capstyle="butt")
            for end, beyond, arrow in ((0, row["low"] < left, "<"), (1, row["high"] > right, ">")):
                if beyond:
                    side = ax.get_yaxis_transform()  # x in shares of the frame
                    ax.plot([end], [place], arrow, transform=side, color="black", ms=4, clip_on=False)
        own = [r for r in rows if r.get("learner") == row["learner"]]
        dots = [r["value"] for r in own if r["kind"] == "run"]
        spread = np.linspace(-0.24, -0.14, len(dots)) if len(dots) > 1 else [-0.2]
        ax.plot(dots, place + np.asarray(spread), ".", color=colour, ms=4.5, alpha=0.75)
        iqm = next(r["value"] for r in own if r["kind"] == "iqm")
        ax.plot([row["value"]], [place], marker, color=colour, ms=8, mec="white", mew=0.8)
        ax.plot([iqm], [place], "|", color="black", ms=15, mew=1.6)
    keys = [("o", 8, "mean, with 95% interval"), ("|", 12, "interquartile mean"), (".", 5, "one run")]
    for marker, size, label in keys:
        colour = "black" if marker == "|" else "#888888"
        ax.plot([], [], marker, color=colour, ms=size, mew=1.6 if marker == "|" else 0, ls="", label=label)
    ax.set_yticks(range(len(means)), [r["learner"] for r in means])
    ax.set_ylim(-0.6, len(means) - 0.4)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("score (0 random, 1 scripted expert)")
    ax.set_title(f"{contexts_of(means[0]['split'])}; {means[0]['data']}\n{counts(means, 'learner')}", loc="left")
    ax.figure.legend(loc="outside lower center", ncols=2)  # type: ignore[union-attr, call-arg]


FIGURE = Figure(
    name="comparison",
    caption="Score of each learner on the largest, most diverse data. Bars are 95% Student intervals over dataset "
    "draws (over seeds if there is one draw; none if there is one run); an arrow marks a bar that goes on beyond the "
    "frame. The dashed line is the policy that collected the data.",
    rows=rows,
    draw=draw,
    size=lambda rows: (6.6, 1.9 + 0.48 * sum(r["kind"] == "mean" for r in rows)),
)
