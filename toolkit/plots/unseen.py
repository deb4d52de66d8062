"""What is lost on contexts the data never showed: seen against unseen score, per learner and dataset."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from toolkit.plots import Figure, Row, counts, look
from toolkit.plots._chosen import check_readable, data_label
from toolkit.records import Record
from toolkit.runs import UNSEEN, Run, estimate_runs, run_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SPLITS = (UNSEEN, "extrapolated")


def rows(records: Sequence[Record]) -> list[Row]:
    """One row a learner, dataset and unseen split: both scores and the gap seen - unseen, paired by run.

    Raises ValueError if no run was evaluated on seen and unseen contexts, or learners are too many to be told apart.
    """
    runs = run_table(records)
    check_readable("seen_unseen", len({r.learner for r in runs}))
    several = len({r.suite for r in runs}) > 1
    groups: dict[tuple, list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.learner, run.cell or (), run.suite].append(run)
    found = []
    for (learner, _, _), own in sorted(groups.items(), key=lambda item: item[0]):
        for split in SPLITS:
            group = [r for r in own if {"seen", split} <= set(r.scores)]
            if group:
                found.append({"learner": learner, "data": data_label(group[0], several), **_gap(group, split)})
    if not found:
        raise ValueError("seen_unseen needs runs evaluated on seen and on interpolated or extrapolated contexts")
    return found


def _gap(group: Sequence[Run], split: str) -> Row:
    seen, unseen = [r.scores["seen"] for r in group], [r.scores[split] for r in group]
    gap, over = estimate_runs(group, [a - b for a, b in zip(seen, unseen, strict=True)])
    return {
        "split": split, "seen": estimate_runs(group, seen)[0].value, "unseen": estimate_runs(group, unseen)[0].value,
        "gap": gap.value, "gap_low": gap.low, "gap_high": gap.high,
        "runs": len(group), "draws": len({r.draw for r in group}), "interval_over": over,
    }  # fmt: skip


def draw(axes: Sequence[Axes], rows: list[Row]) -> None:
    """One panel a learner; a line joins the seen score (filled) to the interpolated one (open) of the same data."""
    data = list(dict.fromkeys(r["data"] for r in rows))
    looks = look([r["learner"] for r in rows])
    for ax, learner in zip(axes, sorted(looks), strict=True):
        colour, _ = looks[learner]
        for row in (r for r in rows if r["learner"] == learner):
            place = data.index(row["data"])
            near = row["split"] == SPLITS[0]
            ax.plot([row["seen"], row["unseen"]], [place, place], color=colour, lw=1.4 if near else 0.7, alpha=0.7)
            ax.plot([row["seen"]], [place], "o", color=colour, ms=6)
            style = {"marker": "o", "mfc": "white"} if near else {"marker": "x"}
            ax.plot([row["unseen"]], [place], color=colour, ms=6, mew=1.4, **style)  # type: ignore[arg-type]
            if near:
                text = f"{row['gap']:+.2f}"
                ax.annotate(text, (1.0, place), xycoords=("axes fraction", "data"), ha="right", va="center", fontsize=8)
        ax.set_title(f"{learner}", loc="left")
        ax.set_xlabel("score")
        ax.grid(axis="y", visible=False)
        ax.set_yticks(range(len(data)), data)
        ax.set_ylim(len(data) - 0.4, -0.6)
        if ax.get_subplotspec().is_first_col() and "/" in data[0]:  # type: ignore[union-attr]
            ax.set_ylabel("transitions / contexts / coverage")
    values = [r[key] for r in rows for key in ("seen", "unseen")] + [0.0, 1.0]
    low, high = min(values), max(values)
    axes[0].set_xlim(low - 0.06, high + 0.34 * (high - low))  # room for the gaps, written at the right
    figure = axes[0].figure
    figure.suptitle(f"Seen and unseen contexts, {counts(rows, 'point')}", x=0.01, ha="left", fontsize=10)  # type: ignore[union-attr]
    keys = [({"marker": "o"}, "seen"), ({"marker": "o", "mfc": "white"}, "interpolated")]
    if any(r["split"] == SPLITS[1] for r in rows):
        keys.append(({"marker": "x"}, "extrapolated"))
    for style, label in keys:
        axes[0].plot([], [], color="#555555", ls="", ms=6, mew=1.4, label=label, **style)  # type: ignore[arg-type]
    axes[0].plot([], [], ls="", label="at right: seen minus interpolated")
    figure.legend(loc="outside lower center", ncols=2 if len(axes) == 1 else len(keys) + 1)  # type: ignore[union-attr, call-arg]


FIGURE = Figure(
    name="seen_unseen",
    caption="Score on the contexts of the training data (filled), between them (open) and, where evaluated, outside "
    "their range (cross), one line a dataset: its transitions, contexts and coverage (share of random steps). The "
    "number is seen minus interpolated, what is lost on new contexts; the table gives its interval.",
    rows=rows,
    draw=draw,
    panels=lambda rows: len({r["learner"] for r in rows}),
    size=lambda rows: (
        3.0 if len({r["learner"] for r in rows}) > 1 else 6.0,
        1.5 + 0.26 * len({r["data"] for r in rows}),
    ),
)
