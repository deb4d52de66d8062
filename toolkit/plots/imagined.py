"""Real states beside where the model goes under the same actions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from toolkit.plots import COLOURS, Figure, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from toolkit.diagnose import Diagnosis

MOST = 12  # numbers of the observation that are drawn; the CSV has all


def rows(records: Sequence[Diagnosis]) -> list[Row]:
    """One row a window, number and step."""
    return [{"run": r.run, "suite": r.suite, "held_out": r.held_out, **row} for r in records for row in r.traces]


def draw(axes: Sequence[Axes], rows: list[Row]) -> None:
    """A panel for each number: a window in each colour, real drawn full, imagined dashed with a band."""
    numbers = _numbers(rows)
    for ax, number in zip(axes, numbers, strict=True):
        for window in sorted({r["window"] for r in rows}):
            own = [r for r in rows if (r["window"], r["number"]) == (window, number)]
            later, colour = own[1:], COLOURS[window % len(COLOURS)]
            steps = [r["step"] for r in later]
            ax.fill_between(steps, [r["low"] for r in later], [r["high"] for r in later], color=colour, alpha=0.2, lw=0)
            ax.plot(steps, [r["mean"] for r in later], color=colour, ls="--", lw=1.4)
            ax.plot([r["step"] for r in own], [r["real"] for r in own], color=colour, lw=1.4)
        ax.set_title(own[0]["name"], loc="left")
        ax.set_xlabel("step")
    figure = axes[0].figure
    for style, label in (("-", "real"), ("--", "imagined, mean and 90% of samples")):
        axes[0].plot([], [], color="#555555", ls=style, lw=1.4, label=label)
    figure.legend(loc="outside lower center", ncols=2)  # type: ignore[union-attr, call-arg]
    windows, left = len({r["window"] for r in rows}), len({r["number"] for r in rows}) - len(numbers)
    more = f"; {left} more numbers in the CSV" if left else ""
    text = f"Real and imagined, {rows[0]['suite']}: n = {windows} windows (one a colour), {rows[0]['held_out']}{more}"
    figure.suptitle(text, x=0.01, ha="left", fontsize=10)  # type: ignore[union-attr]


def _numbers(rows: list[Row]) -> list[int]:
    return sorted({r["number"] for r in rows})[:MOST]


MODEL_FIGURE = Figure(
    name="imagined",
    caption="Each number of the observation as it went, and where the model goes from the same state under the same "
    "actions without looking again: mean and central 90% of samples. Windows are held out.",
    rows=rows,
    draw=draw,
    panels=lambda rows: len(_numbers(rows)),
    size=lambda rows: (3.3, 2.3),
    shared=False,
)
