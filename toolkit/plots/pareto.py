"""What a score costs: against seconds of training, milliseconds an action, and both together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.plots import Figure, Row, counts, look
from toolkit.plots._chosen import contexts_of, decisive, loaded
from toolkit.records import read_metrics, read_object
from toolkit.runs import estimate_runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ACTIONS = 100_000  # acted out in the panel of both
COSTS = {
    "training": "training [s]",
    "acting": "an action [ms]",
    "both": f"training and {ACTIONS:,} actions [s]",
}


def rows(folders: Sequence[Path]) -> list[Row]:
    """One row a learner and cost: mean score with interval, mean cost, and whether no cheaper learner scores more.

    On the largest, most diverse data. Raises ValueError naming a run that lacks its times.
    """
    records, own = loaded(folders)
    runs, split, where = decisive(records)
    found: list[Row] = []
    for name in sorted({r.learner for r in runs}):
        group = [r for r in runs if r.learner == name]
        score, over = estimate_runs(group, [r.scores[split] for r in group])
        times = np.array([_times(own[r.run]) for r in group])  # (runs, 2)
        cost = dict(zip(("training", "acting"), times.mean(0).tolist(), strict=True))
        cost["both"] = cost["training"] + ACTIONS * cost["acting"] / 1000
        for panel, value in cost.items():
            found.append(
                {
                    "panel": panel, "learner": name, "family": group[0].family, "cost": value, "split": split,
                    "data": where, "value": score.value, "low": score.low, "high": score.high, "runs": len(group),
                    "draws": len({r.draw for r in group}), "interval_over": over,
                }
            )  # fmt: skip
    for row in found:
        rivals = [r for r in found if r["panel"] == row["panel"] and r is not row]
        row["front"] = not any(r["cost"] <= row["cost"] and r["value"] >= row["value"] for r in rivals)
    return found


def _times(folder: Path) -> tuple[float, float]:
    """Seconds of training, and milliseconds an action."""
    lines, file = read_metrics(folder), folder / "acting.json"
    acting = read_object(file) if file.exists() else {}
    if not lines or not acting.get("actions"):
        raise ValueError(f"{folder} does not tell how long it trained and acted; it was made before that was kept")
    return lines[-1]["seconds"], 1000 * acting["seconds"] / acting["actions"]


def draw(axes: Sequence[Axes], rows: list[Row]) -> None:
    """A line joins learners that no cheaper one beats; the others are open points."""
    from matplotlib.ticker import LogLocator

    looks = look([r["learner"] for r in rows])
    for name, (colour, marker) in looks.items():
        axes[0].plot([], [], marker, color=colour, ms=7, label=name)
    for ax, panel in zip(axes, COSTS, strict=True):
        own = sorted((r for r in rows if r["panel"] == panel), key=lambda r: r["cost"])
        front = [r for r in own if r["front"]]
        ax.step([r["cost"] for r in front], [r["value"] for r in front], where="post", color="#555555", lw=1.1)
        for r in own:
            colour, marker = looks[r["learner"]]
            ax.plot([r["cost"]] * 2, [r["low"], r["high"]], color=colour, lw=1.4, alpha=0.6)
            face = colour if r["front"] else "white"
            ax.plot([r["cost"]], [r["value"]], marker, color=colour, mfc=face, ms=7, mew=1.4)
        ax.set_xscale("log")
        ax.set_xlim(own[0]["cost"] / 2, own[-1]["cost"] * 2)
        decades = own[-1]["cost"] / own[0]["cost"] > 30
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0,) if decades else (1.0, 2.0, 5.0)))
        ax.xaxis.set_major_formatter("{x:,g}")
        ax.xaxis.set_minor_formatter("")
        ax.set_xlabel(COSTS[panel])
        ax.set_ylim(min(r["value"] for r in rows) - 0.15, max(1.0, *(r["value"] for r in rows)) + 0.1)
        if ax.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            ax.set_ylabel("score (0 random, 1 expert)")
    figure = axes[0].figure
    text = f"{contexts_of(rows[0]['split'])}; {rows[0]['data']}\n{counts(rows, 'learner')}"
    figure.suptitle(text, x=0.01, ha="left", fontsize=10)  # type: ignore[union-attr]
    figure.legend(loc="outside lower center", ncols=min(len(looks), 6))  # type: ignore[union-attr, call-arg]


FIGURE = Figure(
    name="pareto",
    caption="What each learner's score costs on the largest, most diverse data: seconds of training, milliseconds for "
    "an action (a planner's search is in it; many environments act together), and training plus "
    f"{ACTIONS:,} actions. Filled points on the line are those that no cheaper learner beats by its mean. Vertical "
    "lines are 95% intervals; one that meets the frame goes on beyond it. Times are wall clock on the machine of the "
    "study, with other work beside it.",
    rows=rows,
    draw=draw,
    panels=lambda rows: len(COSTS),
    size=lambda rows: (3.0, 3.4),
    shared=False,
    reads="folders",
)
