"""How likely one learner beats another: a matrix of probabilities, the ones that are sure marked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from toolkit import stats
from toolkit.plots import Figure, Row, counts
from toolkit.plots._chosen import check_readable, contexts_of, decisive, paired
from toolkit.records import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ALPHA = 0.05


def rows(records: Sequence[Record]) -> list[Row]:
    """Two rows a pair of learners: P(a run of the first scores above one of the second), its p value after Holm.

    On the largest, most diverse data. Raises ValueError if there is one learner, or too many, or if they do not have
    equally many runs on equal draws.
    """
    runs, split, where = decisive(records)
    arrays = paired(runs, split)
    if len(arrays) < 2:
        raise ValueError(f"improvement compares learners; there is only {next(iter(arrays))}")
    check_readable("improvement", len(arrays))
    rng = np.random.default_rng(0)
    pairs = {f"{a} > {b}": (a, b) for a, b in combinations(arrays, 2)}
    found = {key: stats.improvement(arrays[a], arrays[b], rng=rng) for key, (a, b) in pairs.items()}
    corrected = stats.holm({key: p for key, (_, p) in found.items()})
    rows: list[Row] = []
    for key, (a, b) in pairs.items():
        e, p = found[key]
        base = {"split": split, "data": where, "p": p, "p_holm": corrected[key], "sure": corrected[key] < ALPHA}
        size = {"runs": arrays[a].size, "draws": len({r.draw for r in runs})}
        rows.append({"first": a, "second": b, "value": e.value, "low": e.low, "high": e.high, **base, **size})
        ends = {"value": 1 - e.value, "low": 1 - e.high, "high": 1 - e.low}
        rows.append({"first": b, "second": a, **ends, **base, **size})
    return rows


def draw(axes: Sequence[Axes], rows: list[Row]) -> None:
    """Line against column; the diagonal is left empty."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    ax = axes[0]
    names = sorted({r["first"] for r in rows})
    table = np.full((len(names), len(names)), np.nan)
    for r in rows:
        table[names.index(r["first"]), names.index(r["second"])] = r["value"]
    pale = ListedColormap(colormaps["Blues"](np.linspace(0, 0.6, 256)))  # black text is read on all of it
    ax.imshow(table, cmap=pale, vmin=0, vmax=1, aspect="auto")
    for r in rows:
        x, y = names.index(r["second"]), names.index(r["first"])
        ax.text(
            x, y, f"{r['value']:.2f}{'*' if r['sure'] else ''}", ha="center", va="center",
            weight="bold" if r["sure"] else None,
        )  # fmt: skip
    ax.set_xticks(range(len(names)), names, rotation=0 if len("".join(names)) < 40 else 90)
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.set_ylabel("chance that this one …")
    ax.set_xlabel("… scores above this one")
    ax.set_title(
        f"{contexts_of(rows[0]['split'])}\n{rows[0]['data']}\n{counts(rows, 'learner')}\n"
        f"bold*: sure at {1 - ALPHA:.0%} after correction for all pairs",
        loc="left", fontsize=9,
    )  # fmt: skip


FIGURE = Figure(
    name="improvement",
    caption="Probability that a run of the learner at the left scores above a run of the one below, ties counting "
    "half, on the largest, most diverse data; 0.5 is a draw. Bold with a star: not a draw with 95% confidence, "
    "corrected by Holm for the number of pairs. It says how often, not by how much.",
    rows=rows,
    draw=draw,
    size=lambda rows: (
        max(4.6, 1.4 + 0.62 * len({r["first"] for r in rows})),
        2.1 + 0.36 * len({r["first"] for r in rows}),
    ),
)
