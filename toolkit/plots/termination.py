"""Whether episodes end as often as a model says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from toolkit.plots import COLOURS, Figure, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from toolkit.diagnose import Diagnosis


def rows(records: Sequence[Diagnosis]) -> list[Row]:
    """One row a bin of predicted probability. Raises ValueError if nothing ends, or is said to."""
    found = [{"run": r.run, "suite": r.suite, "held_out": r.held_out, **row} for r in records for row in r.termination]
    if not found:
        raise ValueError("no held-out episode terminates, and the model says so")
    return found


def draw(axes: Sequence[Axes], rows: list[Row]) -> None:
    """Observed against predicted frequency, with the number of steps beside each point."""
    ax = axes[0]
    ax.plot([0, 1], [0, 1], color="#555555", ls="--", lw=1.2, label="as promised")
    reach = min(1.0, 1.2 * max(value for r in rows for value in (r["predicted"], r["high"])))
    named = 2.0
    for r in sorted(rows, key=lambda r: -r["predicted"]):
        ax.plot([r["predicted"]] * 2, [r["low"], r["high"]], color=COLOURS[0], lw=2, alpha=0.5)
        ax.plot([r["predicted"]], [r["observed"]], "o", color=COLOURS[0], ms=5.5)
        if named - r["predicted"] > 0.035 * reach:  # where there is room
            place = (r["predicted"], r["high"])
            ax.annotate(f"{r['steps']:,}", place, (0, 4), textcoords="offset points", size=7, ha="center")
            named = r["predicted"]
    ax.set_xlim(-0.03 * reach, 1.03 * reach)
    ax.set_ylim(-0.03 * reach, 1.08 * reach)
    ax.set_xlabel("predicted probability that the step ends the episode")
    ax.set_ylabel("observed share of steps")
    total, first = sum(r["steps"] for r in rows), rows[0]
    ax.set_title(
        f"Termination, {first['suite']}; Brier {first['brier']:.2g} (mean rate: {first['brier_of_mean_rate']:.2g}), "
        f"ECE {first['ece']:.2g}\nn = {first['ends']} ends in {total:,} steps, {first['held_out']}",
        loc="left",
    )
    ax.legend(loc="upper left")


MODEL_FIGURE = Figure(
    name="termination",
    caption="How often steps end an episode where the model gives a probability for it; bins hold equal shares of "
    "expected and real ends, numbers are their steps, where there is room, and bars are Wilson 95% intervals.",
    rows=rows,
    draw=draw,
    size=lambda rows: (5.8, 4.2),
)
