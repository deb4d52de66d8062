"""Whether what a model holds likely is as likely: shares of its intervals that hold, and where the truth falls."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, sqrt
from typing import TYPE_CHECKING

from toolkit.plots import COLOURS, Figure, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from toolkit.diagnose import Diagnosis


def rows(records: Sequence[Diagnosis]) -> list[Row]:
    """One row a number and bin of its ranks ("pit"), and one a number and level ("coverage")."""
    return [{"run": r.run, "suite": r.suite, "held_out": r.held_out, **row} for r in records for row in r.calibration]


def draw(axes: Sequence[Axes], rows: list[Row]) -> None:
    """Left, coverage of central intervals of every number; right, one grey line a number and their mean."""
    left, right = axes
    covered = [r for r in rows if r["kind"] == "coverage"]
    names = list(dict.fromkeys(r["name"] for r in covered))
    levels = sorted({r["level"] for r in covered})
    for i, level in enumerate(levels):
        own = [r for r in covered if r["level"] == level]
        left.axvline(level, color=COLOURS[i], lw=1.2, ls="--")
        for r in own:
            place = names.index(r["name"]) + 0.22 * (i - 1)
            if isfinite(r["low"]):
                left.plot([r["low"], r["high"]], [place, place], color=COLOURS[i], lw=2, alpha=0.45)
            first = r is own[0]
            left.plot(
                [r["covered"]], [place], "os^"[i], color=COLOURS[i], ms=5, label=f"{level:.0%}" if first else None
            )
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.4, -0.6)
    left.set_xlim(0, 1.02)
    left.grid(axis="y", visible=False)
    left.set_xlabel("share of steps inside the interval\n(dashed: as promised)")
    left.legend(title="interval", loc="lower left")
    left.set_title(f"Coverage, {rows[0]['suite']}\nn = {rows[0]['steps']} steps", loc="left")
    ranks = [r for r in rows if r["kind"] == "pit"]
    bins = 1 + max(r["bin"] for r in ranks)
    edges = [b / bins for b in range(bins + 1)]
    every = [[r["share"] * bins for r in ranks if r["name"] == name] for name in names]
    for shares in every:
        right.stairs(shares, edges, baseline=None, color="#999999", lw=0.8, alpha=0.7)
    mean = [sum(s) / len(s) for s in zip(*every, strict=True)]
    right.stairs(mean, edges, baseline=None, color=COLOURS[0], lw=2.2, label="mean")
    noise = 2 * sqrt(bins / rows[0]["steps"])
    right.axhspan(1 - noise, 1 + noise, color=COLOURS[4], alpha=0.3, lw=0, zorder=0, label="95% of bins by chance")
    right.plot([], [], color="#999999", lw=0.8, label="one number")
    right.set_xlim(0, 1)
    right.set_ylim(0, 1.05 * max(2.0, max(map(max, every))))
    right.set_xlabel("rank of what came among the model's samples")
    right.set_ylabel("density (1: as often as it should)")
    right.set_title(f"Probability integral transform\n{rows[0]['held_out']}", loc="left")
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, handlelength=1.6, columnspacing=1.2)


MODEL_FIGURE = Figure(
    name="calibration",
    caption="Left: how often the model's central 50, 90 and 95% intervals hold what came next, each number of the "
    "observation and the reward; bars are 95% intervals over episodes. Right: the rank of what came among samples of "
    "the model: flat if calibrated, a hump where it is too unsure, a valley where it is too sure.",
    rows=rows,
    draw=draw,
    panels=lambda rows: 2,
    size=lambda rows: (4.4, max(3.4, 1.6 + 0.28 * len({r["name"] for r in rows}))),
    shared=False,
)
