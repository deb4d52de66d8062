"""How a model's error grows with the steps it is left alone, beside nothing changing and a linear model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from toolkit.plots import Figure, Row, look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from toolkit.diagnose import Diagnosis


def rows(records: Sequence[Diagnosis]) -> list[Row]:
    """One row a model and horizon."""
    return [{"run": r.run, "suite": r.suite, "held_out": r.held_out, **row} for r in records for row in r.compounding]


def draw(axes: Sequence[Axes], rows: list[Row]) -> None:
    """One line a model, the band its interval."""
    ax = axes[0]
    looks = look([r["model"] for r in rows])
    for name, (colour, marker) in looks.items():
        own = [r for r in rows if r["model"] == name]
        x, y = [r["horizon"] for r in own], [r["rmse"] for r in own]
        ax.fill_between(x, [r["low"] for r in own], [r["high"] for r in own], color=colour, alpha=0.2, lw=0)
        ax.plot(x, y, color=colour, marker=marker, markevery=max(1, len(x) // 8), ms=4.5, lw=1.6, label=name)
    worst = max(r["rmse"] for r in rows)
    ax.set_ylim(0, 1.15 * min(worst, max(3.0, *(r["rmse"] for r in rows if r["model"] != "linear"))))
    ax.set_xlabel("steps without looking, under the recorded actions")
    ax.set_ylabel("root mean square error\n[standard deviations of the data]")
    ax.set_title(
        f"Compounding error, {rows[0]['suite']}\nn = {rows[0]['starts']} starts, {rows[0]['held_out']}", loc="left"
    )
    ax.legend(loc="best")


MODEL_FIGURE = Figure(
    name="compounding",
    caption="Error of the states a model expects after so many steps of recorded actions, without looking again, in "
    "standard deviations of each number, beside a linear model and a world that stands still. Bands are 95% intervals "
    "over episodes; a line may leave the frame.",
    rows=rows,
    draw=draw,
    size=lambda rows: (5.4, 3.6),
)
