"""What a policy earns inside the model against what it earns outside."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING

from toolkit.plots import COLOURS, Figure, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from toolkit.diagnose import Diagnosis


def rows(records: Sequence[Diagnosis]) -> list[Row]:
    """One row an episode, with the mean optimism beside. Raises ValueError if the run could not act."""
    found = [
        {"run": r.run, "suite": r.suite, "learner": r.learner, **row}
        | {f"mean_{k}": v for k, v in (r.mean_optimism or {}).items()}
        for r in records
        for row in r.optimism
    ]
    if not found:
        raise ValueError("the run has no suite to act in")
    return found


def draw(axes: Sequence[Axes], rows: list[Row]) -> None:
    """Imagined against realised return, an episode each; above the diagonal the model promises too much."""
    ax = axes[0]
    ends = [value for r in rows for value in (r["imagined"], r["realised"])]
    margin = 0.06 * (max(ends) - min(ends) or 1.0)
    low, high = min(ends) - margin, max(ends) + margin
    ax.plot([low, high], [low, high], color="#555555", ls="--", lw=1.2, label="as promised")
    realised, imagined = [r["realised"] for r in rows], [r["imagined"] for r in rows]
    ax.plot(realised, imagined, "o", color=COLOURS[0], ms=5, alpha=0.75, label="one episode")
    ax.set_xlim(low, high)
    ax.set_ylim(low, high)
    ax.set_box_aspect(1)
    ax.set_xlabel("realised return")
    ax.set_ylabel("imagined return")
    first = rows[0]
    span = f" [{first['mean_low']:.1f}, {first['mean_high']:.1f}]" if isfinite(first["mean_low"]) else ""
    ax.set_title(
        f"{first['learner']} inside its model and outside, {first['suite']}\n"
        f"mean difference {first['mean_value']:+.1f}{span}\n"
        f"n = {len(rows)} episodes in unseen contexts",
        loc="left",
    )
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)


MODEL_FIGURE = Figure(
    name="optimism",
    caption="The undiscounted return of the policy acting inside the model against its return in the environment, from "
    "the same first observations. The model's states are drawn as it believes they fall, and rewards count by the "
    "probability of having survived. In the title the mean difference, with its 95% interval over episodes.",
    rows=rows,
    draw=draw,
    size=lambda rows: (4.8, 4.9),
)
