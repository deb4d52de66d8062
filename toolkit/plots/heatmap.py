"""Learners by datasets: every mean score in one table, the ones that cannot be told from the best framed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from toolkit import stats
from toolkit.plots import Figure, Row, counts
from toolkit.plots._chosen import contexts_of, data_label, paired, preferred
from toolkit.records import Record
from toolkit.runs import estimate_runs, run_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def rows(records: Sequence[Record]) -> list[Row]:
    """One row a learner and dataset: mean score with interval, and whether it is the best or as good for all we know.

    `tied`: the 95% interval of the regret against the best, corrected for all pairs of learners (`stats.regret`),
    begins at zero. Raises ValueError if there is one learner, or learners were not run on equal draws of a dataset.
    """
    runs = run_table(records)
    split = preferred(runs)
    runs = [r for r in runs if split in r.scores]
    learners = sorted({r.learner for r in runs})
    if len(learners) < 2:
        raise ValueError(f"heatmap compares learners; there is only {learners[0]}")
    several = len({r.suite for r in runs}) > 1
    found: list[Row] = []
    for suite, cell in sorted({(r.suite, r.cell or ()) for r in runs}):
        group = [r for r in runs if (r.suite, r.cell or ()) == (suite, cell)]
        arrays = paired(group, split)
        regrets = stats.regret(np.stack(list(arrays.values())))
        best = max(arrays, key=lambda n: float(arrays[n].mean()))
        for name, regret in zip(arrays, regrets, strict=True):
            own = [r for r in group if r.learner == name]
            mean, over = estimate_runs(own, [r.scores[split] for r in own])
            found.append(
                {
                    "learner": name, "data": data_label(own[0], several), "split": split, "value": mean.value,
                    "low": mean.low, "high": mean.high, "best": name == best, "tied": not regret.low > 0,
                    "regret": regret.value, "regret_low": regret.low, "regret_high": regret.high, "runs": len(own),
                    "draws": len({r.draw for r in own}), "interval_over": over,
                }
            )  # fmt: skip
    return found


def draw(axes: Sequence[Axes], rows: list[Row]) -> None:
    """One line a learner, one column a dataset; darker is better."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Rectangle

    ax = axes[0]
    data = list(dict.fromkeys(r["data"] for r in rows))
    learners = sorted({r["learner"] for r in rows})
    table = np.full((len(learners), len(data)), np.nan)
    for r in rows:
        table[learners.index(r["learner"]), data.index(r["data"])] = r["value"]
    pale = ListedColormap(colormaps["Blues"](np.linspace(0, 0.6, 256)))  # black text is read on all of it
    shown = ax.imshow(table, cmap=pale, vmin=0, vmax=1, aspect="auto")
    for r in rows:
        x, y = data.index(r["data"]), learners.index(r["learner"])
        ax.text(x, y, f"{r['value']:z.2f}", ha="center", va="center", weight="bold" if r["best"] else None)
        if r["tied"]:
            style = "-" if r["best"] else (0, (2, 1.5))
            ax.add_patch(Rectangle((x - 0.44, y - 0.42), 0.88, 0.84, fill=False, ec="black", lw=1.1, ls=style))
    ax.set_xticks(range(len(data)), [text.replace(" / ", "\n") for text in data])
    ax.set_yticks(range(len(learners)), learners)
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    if "/" in data[0]:
        ax.set_xlabel("transitions, contexts, coverage")
    bar = ax.figure.colorbar(shown, ax=ax, extend="both", aspect=14, pad=0.02)
    bar.set_label("score")
    ax.set_title(
        f"{contexts_of(rows[0]['split'])}\n{counts(rows, 'cell')}\nbold: best; framed: cannot be told from the best",
        loc="left",
    )


FIGURE = Figure(
    name="heatmap",
    caption="Mean score of each learner on each dataset. The best of a dataset is bold, in a whole frame; a dashed "
    "frame marks learners that cannot be told from it (95%, corrected for all pairs). No frame: shown to be worse.",
    rows=rows,
    draw=draw,
    size=lambda rows: (
        max(4.4, 2.2 + 0.62 * len({r["data"] for r in rows})),
        2.05 + 0.36 * len({r["learner"] for r in rows}),
    ),
)
