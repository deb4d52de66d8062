"""Score on unseen contexts against the size of the data, one panel a learner, one line a level of diversity."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING

from toolkit.plots import COLOURS, MARKERS, Figure, Row, counts
from toolkit.records import Record
from toolkit.runs import AXES, UNSEEN, estimate_runs, level, run_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def rows(records: Sequence[Record]) -> list[Row]:
    """One row a learner and cell. Raises ValueError if a factor's tag or the unseen split is missing."""
    missing = sorted({a for r in records for a in AXES if a not in r.tags})
    if missing:
        raise ValueError(f"scaling needs the tags {', '.join(AXES)} on every record; missing: {', '.join(missing)}")
    runs = [r for r in run_table(records) if UNSEEN in r.scores]
    if not runs:
        raise ValueError(f"scaling needs an evaluation on {UNSEEN} contexts; there is none")
    found = []
    for learner, cell in sorted({(r.learner, r.cell) for r in runs if r.cell}):
        group = [r for r in runs if (r.learner, r.cell) == (learner, cell)]
        e, over = estimate_runs(group, [r.scores[UNSEEN] for r in group])
        found.append(
            {
                "learner": learner, "size": cell[0], "contexts": cell[1], "coverage": cell[2], "split": UNSEEN,
                "value": e.value, "low": e.low, "high": e.high, "runs": len(group),
                "draws": len({r.draw for r in group}), "interval_over": over,
            }
        )  # fmt: skip
    return found


def draw(axes: Sequence[Axes], rows: list[Row]) -> None:
    """Colour and filling tell contexts, dashes and shape coverage; sideways shifts keep intervals apart."""
    contexts, coverages = (sorted({r[key] for r in rows}) for key in ("contexts", "coverage"))
    sizes = sorted({r["size"] for r in rows})
    levels = sorted({(r["contexts"], r["coverage"]) for r in rows})
    step = (sizes[-1] / sizes[0]) ** (0.035) if len(sizes) > 1 else 1.03
    for ax, learner in zip(axes, sorted({r["learner"] for r in rows}), strict=True):
        for i, (many, coverage) in enumerate(levels):
            line = [r for r in rows if (r["learner"], r["contexts"], r["coverage"]) == (learner, many, coverage)]
            place_of, dash_of = contexts.index(many), coverages.index(coverage)
            colour, face = COLOURS[place_of % 8], ("white", COLOURS[place_of % 8])[place_of % 2]
            dash = ("-", (0, (5, 2)), (0, (1.5, 1.5)))[dash_of % 3]
            marker = MARKERS[(dash_of + 2 * (place_of // 2)) % 8]
            x = [r["size"] * step ** (i - (len(levels) - 1) / 2) for r in line]
            ax.plot(
                x, [r["value"] for r in line], color=colour, ls=dash, marker=marker, ms=5.5, mfc=face, mew=1.3,
                label=f"{level('contexts', many)}, coverage {coverage:g}" if ax is axes[0] else None,
            )  # fmt: skip
            for place, r in zip(x, line, strict=True):
                if isfinite(r["low"]):
                    ax.plot([place, place], [r["low"], r["high"]], color=colour, lw=1.0, alpha=0.6)
        ax.set_title(learner, loc="left")
        ax.set_xscale("log")
        ax.set_xticks(sizes, [_short(s) for s in sizes])
        ax.set_xticks([], minor=True)
        ax.set_xlabel("transitions in the data")
    values = [r["value"] for r in rows] + [0.0, 1.0]
    axes[0].set_ylim(min(values) - 0.1, max(values) + 0.1)
    margin = step ** (len(levels) + 1)
    axes[0].set_xlim(sizes[0] / margin, sizes[-1] * margin)
    for ax in axes:
        if ax.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            ax.set_ylabel("score (0 random, 1 expert)")
    figure = axes[0].figure
    figure.suptitle(f"Unseen ({rows[0]['split']}) contexts, {counts(rows, 'point')}", x=0.01, ha="left", fontsize=10)  # type: ignore[union-attr]
    columns = 2 if axes[0].get_subplotspec().get_gridspec().ncols < 3 else 4  # type: ignore[union-attr]
    figure.legend(loc="outside lower center", ncols=columns)  # type: ignore[union-attr, call-arg]


def _short(size: float) -> str:
    """2000 -> '2k', 1500000 -> '1.5M'."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{size / unit:g}{letter}"
    return f"{size:g}"


FIGURE = Figure(
    name="scaling",
    caption="Score on contexts never seen in training as the data grow, one panel a learner; for each number of "
    "contexts (colour, and open or filled points) and coverage (dashes, and the points' shape). Vertical lines are 95% "
    "Student intervals over dataset draws; one that meets the frame goes on beyond it. Points are set apart sideways "
    "only to be told apart.",
    rows=rows,
    draw=draw,
    panels=lambda rows: len({r["learner"] for r in rows}),
    size=lambda rows: (3.0 if len({r["learner"] for r in rows}) > 1 else 5.5, 2.9),
)
