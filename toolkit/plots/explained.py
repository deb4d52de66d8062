"""How many bits of what comes next are explained, by how much is known."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING

from toolkit.plots import COLOURS, Figure, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from toolkit.diagnose import Diagnosis

WORDS = {
    "persistence": "persistence\n(the state)",
    "linear": "linear model\n(state, action)",
    "model": "{learner}\n(state, action)",
}


def rows(records: Sequence[Diagnosis]) -> list[Row]:
    """One row a way of knowing. Raises ValueError if the model has no probabilities."""
    found = [{"run": r.run, "suite": r.suite, "learner": r.learner, "held_out": r.held_out, **row}
             for r in records for row in r.bits]  # fmt: skip
    if not any(row["known"] == "model" for row in found):
        raise ValueError("the model gives no probabilities, so it has no code length")
    return found


def draw(axes: Sequence[Axes], rows: list[Row]) -> None:
    """A bar for each way of knowing; the marginal explains nothing by definition."""
    ax = axes[0]
    for place, known in enumerate(WORDS):
        row = next(r for r in rows if r["known"] == known)
        bound = " (a bound)" if row["exactness"] == "bound" else ""
        ax.barh(place, row["explained"], height=0.6, color=COLOURS[place], alpha=0.8)
        if row["low"] is not None and isfinite(row["low"]):
            ax.plot([row["low"], row["high"]], [place, place], color="black", lw=1.4)
        at = max(row["explained"], row["high"] if row["high"] is not None and isfinite(row["high"]) else 0.0, 0.0)
        ax.annotate(
            f"{row['explained']:.1f}{bound}", (at, place), (5, 0), textcoords="offset points", va="center", size=8.5
        )
    ax.axvline(0, color="#555555", lw=1)
    ax.set_yticks(range(len(WORDS)), [words.format(learner=rows[0]["learner"]) for words in WORDS.values()])
    ax.set_ylim(len(WORDS) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    left, right = ax.get_xlim()
    ax.set_xlim(left, right + 0.12 * (right - left))
    ax.set_xlabel(f"bits explained a transition, of {rows[0]['marginal']:.1f} at the store's resolution")
    first = rows[0]
    ax.set_title(
        f"Next observation, reward and end, {first['suite']}\nn = {first['steps']} steps, {first['held_out']}",
        loc="left",
    )


MODEL_FIGURE = Figure(
    name="explained",
    caption="Code length of the next observation, the reward and the end by their frequencies in the training data, "
    "less that of the change by its frequencies, of a linear model, and of the run's model; the resolution cancels. "
    "Lines are 95% intervals over episodes.",
    rows=rows,
    draw=draw,
    size=lambda rows: (5.8, 2.9),
)
