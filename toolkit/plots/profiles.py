"""Performance profiles: what share of a learner's runs score above each level, on the largest, most diverse data."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from toolkit import stats
from toolkit.plots import Figure, Row, counts, look
from toolkit.plots._chosen import check_readable, contexts_of, decisive, paired
from toolkit.records import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEP = 0.02  # of the score


def rows(records: Sequence[Record]) -> list[Row]:
    """One row a learner and level: share of runs above it with a pointwise 95% band (arXiv:2108.13264).

    Raises ValueError if there are too many learners, or they do not have equally many runs on equal draws.
    """
    runs, split, where = decisive(records)
    arrays = paired(runs, split)
    check_readable("profiles", len(arrays))
    scores = np.concatenate([a.ravel() for a in arrays.values()])
    first, last = np.floor(min(scores.min(), 0.0) / STEP), np.ceil(max(scores.max(), 1.0) / STEP)
    levels = [round(STEP * i, 6) for i in range(int(first) - 1, int(last) + 1)]
    size = {name: {"runs": a.size, "draws": len({r.draw for r in runs})} for name, a in arrays.items()}
    return [
        {"learner": name, "level": at, "split": split, "data": where, "value": e.value, "low": e.low, "high": e.high}
        | size[name]
        for name, a in arrays.items()
        for at, e in zip(levels, stats.performance_profile(a, levels), strict=True)
    ]


def draw(axes: Sequence[Axes], rows: list[Row]) -> None:
    """One panel a learner, its line and band before the other learners' lines in grey; higher is better everywhere."""
    looks = look([r["learner"] for r in rows])
    lines = {name: [r for r in rows if r["learner"] == name] for name in looks}
    for ax, (name, own) in zip(axes, lines.items(), strict=True):
        x = [r["level"] for r in own]
        for other in lines.values():
            ax.step(x, [r["value"] for r in other], where="post", color="#999999", lw=0.7)
        if all(isfinite(r["low"]) for r in own):
            low, high = ([r[end] for r in own] for end in ("low", "high"))
            ax.fill_between(x, low, high, step="post", color=looks[name][0], alpha=0.22, lw=0)
        ax.step(x, [r["value"] for r in own], where="post", color=looks[name][0], lw=2.0)
        ax.set_title(name, loc="left")
        ax.set_xlabel("score")
        if ax.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            ax.set_ylabel("share of runs above it")
    axes[0].set_ylim(-0.02, 1.02)
    axes[0].set_xlim(min(r["level"] for r in rows), max(r["level"] for r in rows))
    text = f"{contexts_of(rows[0]['split'])}; {rows[0]['data']}\n{counts(rows, 'learner')}; in grey the other learners"
    axes[0].figure.suptitle(text, x=0.01, ha="left", fontsize=10)  # type: ignore[union-attr]


FIGURE = Figure(
    name="profiles",
    caption="Share of each learner's runs that score more than a level, on the largest, most diverse data. A line that "
    "lies above another everywhere belongs to the better learner; lines that cross mean that the order depends on "
    "whether one asks for safety or for brilliance. Bands are 95%, level by level, over dataset draws.",
    rows=rows,
    draw=draw,
    panels=lambda rows: len({r["learner"] for r in rows}),
    size=lambda rows: (2.9, 2.4) if len({r["learner"] for r in rows}) > 1 else (6.2, 3.8),
)
