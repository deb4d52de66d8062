"""Do families of learners come together? The spread between them along each axis, the other two at their top."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING

from toolkit import stats
from toolkit.claim.balance import Balanced, balanced
from toolkit.claim.findings import CEILING, FLOOR, MARGIN
from toolkit.plots import COLOURS, Figure, Row, counts
from toolkit.records import Record
from toolkit.runs import AXES, UNSEEN, Cell, extreme_cells, level

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = {"size": "transitions in the data", "contexts": "contexts", "coverage": "coverage (share of random steps)"}


def rows(records: Sequence[Record]) -> list[Row]:
    """One row a level of an axis: noise-corrected spread with its jackknife interval, the best family, the level test.

    Raises ValueError if the runs are not a balanced design, have one family or draw, or no axis has two levels.
    """
    study = balanced(records)
    if len(study.families) < 2 or len(study.draws) < 2:
        raise ValueError(
            f"convergence needs two families and two draws of the data or more; there are {len(study.families)} and "
            f"{len(study.draws)}"
        )
    top = extreme_cells(study.cells)[1]
    found: list[Row] = []
    for i, axis in enumerate(AXES):
        walk = [c for c in study.cells if all(c[j] == top[j] for j in range(3) if j != i)]
        if len(walk) > 1:
            found += [{"axis": axis, "level": c[i], "others": _others(top, i), **_spread(study, c)} for c in walk]
    if not found:
        raise ValueError("convergence needs an axis with two levels or more, the other two at their top")
    return found


def _others(top: Cell, axis: int) -> str:
    return ", ".join(level(name, value) for i, (name, value) in enumerate(zip(AXES, top, strict=True)) if i != axis)


def _spread(study: Balanced, cell: Cell) -> Row:
    means = study.all_families(cell, UNSEEN).mean(2)  # (F, D, T)
    e = stats.jackknife(lambda kept: stats.signed_root(stats.paired_spread(means[:, kept])), len(study.draws))
    best = float(means.mean((1, 2)).max())
    each = sum(len(names) for names in study.families.values()) * sum(map(len, study.seeds.values()))
    return {
        "spread": e.value, "low": e.low, "high": e.high, "best": best, "counts": FLOOR <= best < CEILING,
        "runs": each * len(study.suites), "draws": len(study.draws), "families": len(study.families),
    }  # fmt: skip


def draw(axes: Sequence[Axes], rows: list[Row]) -> None:
    """One panel an axis; filled levels count for the claim, open ones are at floor or ceiling."""
    values = [r[key] for r in rows for key in ("spread", "best")] + [0.0, 1.0]
    for ax, axis in zip(axes, dict.fromkeys(r["axis"] for r in rows), strict=True):
        own = [r for r in rows if r["axis"] == axis]
        places = [r["level"] for r in own]
        ax.axhline(0, color="#555555", lw=0.8)
        ax.axhline(MARGIN, color="#555555", ls="--", lw=1.2)
        ax.plot(places, [r["spread"] for r in own], color=COLOURS[0], lw=1.2, alpha=0.6)
        ax.plot(places, [r["best"] for r in own], color=COLOURS[1], lw=1.0, ls=":", marker="s", ms=4.5)
        for r in own:
            if isfinite(r["low"]):
                ax.plot([r["level"]] * 2, [r["low"], r["high"]], color=COLOURS[0], lw=1.4, marker="_", ms=9)
            face = COLOURS[0] if r["counts"] else "white"
            ax.plot([r["level"]], [r["spread"]], "o", color=COLOURS[0], mfc=face, mew=1.4, ms=5.5)
        if axis != "coverage":
            ax.set_xscale("log")
        ax.set_xticks(places, [f"{p:,g}" if p < 1e6 else f"{p / 1e6:g}M" for p in places])
        ax.set_xticks([], minor=True)
        ax.margins(x=0.15)
        ax.set_xlabel(NAMES[axis])
        ax.set_title(own[0]["others"].replace(", ", "\n"), loc="left", fontsize=9)
        if ax.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            ax.set_ylabel("score")
        ax.set_ylim(min(values) - 0.1, max(values) + 0.1)
    figure = axes[0].figure
    figure.suptitle(  # type: ignore[union-attr]
        f"Spread between {rows[0]['families']} families, unseen contexts\n{counts(rows, 'point')}", x=0.01, ha="left",
        fontsize=10,
    )  # fmt: skip
    grey = {"color": COLOURS[0], "marker": "o", "ms": 5.5, "mew": 1.4}
    axes[0].plot([], [], **grey, ls="-", lw=1.2, label="spread, 95% interval")  # type: ignore[arg-type]
    axes[0].plot([], [], **grey, ls="", mfc="white", label=f"best under {FLOOR} or over {CEILING}: does not count")  # type: ignore[arg-type]
    axes[0].plot([], [], color=COLOURS[1], ls=":", marker="s", ms=4.5, label="the best family's score")
    axes[0].plot([], [], color="#555555", ls="--", lw=1.2, label=f"{MARGIN}: alike for practice")
    figure.legend(loc="outside lower center", ncols=2)  # type: ignore[union-attr, call-arg]


FIGURE = Figure(
    name="convergence",
    caption="How far apart the families' mean scores lie (standard deviation, less what noise alone would cause) as "
    "one axis grows and the other two stay at their greatest. Below zero they lie closer than noise would put equal "
    "ones. Vertical lines are 95% jackknife intervals over dataset draws (none with two); one that meets the frame "
    "goes on beyond it. A spread that shrinks because the best family falls is collapse, not convergence.",
    rows=rows,
    draw=draw,
    panels=lambda rows: len({r["axis"] for r in rows}),
    size=lambda rows: (3.0 if len({r["axis"] for r in rows}) > 1 else 5.0, 3.9),
    shared=False,
)
