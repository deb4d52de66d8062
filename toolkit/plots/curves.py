"""Learning curves: the score where runs were evaluated on the way, and what each learner logs about its training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.plots import COLOURS, Figure, Row, counts, look
from toolkit.plots._chosen import check_readable, decisive, loaded
from toolkit.records import Record, read_metrics
from toolkit.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCORE = "score"
LOSSES = ("loss", "nll")  # how the logged numbers that a learner brings down are called


def rows(folders: Sequence[Path]) -> list[Row]:
    """One row a learner, logged number and step: median and quartiles over the runs on the largest, most diverse data.

    The score is there if runs were evaluated at several steps. Of a learner that logs losses only these are shown.
    Raises ValueError if no run has logged anything, or for too many learners.
    """
    records, own = loaded(folders)
    runs, split, where = decisive(records)
    check_readable("curves", len({r.learner for r in runs}))
    values: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    _score(records, runs, split, values)
    for run in runs:
        lines = read_metrics(own[run.run])
        names = sorted({name for line in lines for name in line} - {"step", "seconds"})
        for name in [n for n in names if n.endswith(LOSSES)] or names:
            for line in lines:
                values[run.learner, name, line["step"]].append(line[name])
    if not values:
        raise ValueError("curves needs runs that logged something; their metrics.jsonl are empty")
    draws = {name: len({r.draw for r in runs if r.learner == name}) for name in {r.learner for r in runs}}
    return [
        {
            "learner": learner, "metric": metric, "step": step, "data": where,
            "split": split if metric == SCORE else "",
            "value": float(np.median(found)), "low": float(np.quantile(found, 0.25)),
            "high": float(np.quantile(found, 0.75)), "runs": len(found), "draws": draws[learner],
        }
        for (learner, metric, step), found in sorted(values.items(), key=lambda item: (item[0][1] != SCORE, item[0]))
    ]  # fmt: skip


def _score(records: Sequence[Record], runs: Sequence[Run], split: str, values: dict[tuple, list[float]]) -> None:
    """Add each run's mean score at each step, if any run has two."""
    learner = {r.run: r.learner for r in runs}
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for r in records:
        if r.run in learner and r.split == split:
            found[r.run, r.step].append(r.score)
    if len(found) > len(learner):
        for (run, step), scores in found.items():
            values[learner[run], SCORE, step].append(float(np.mean(scores)))


def _panels(rows: list[Row]) -> list[tuple[str, str]]:
    """(learner, metric) of each panel; all learners share that of the score."""
    return list(dict.fromkeys(("", SCORE) if r["metric"] == SCORE else (r["learner"], r["metric"]) for r in rows))


def draw(axes: Sequence[Axes], rows: list[Row]) -> None:
    """A line is the median of the runs, a band their middle half."""
    looks = look([r["learner"] for r in rows])
    for ax, (only, metric) in zip(axes, _panels(rows), strict=True):
        for learner in sorted(looks) if metric == SCORE else [only]:
            line = [r for r in rows if (r["learner"], r["metric"]) == (learner, metric)]
            colour, marker = looks[learner] if metric == SCORE else (COLOURS[0], "")
            steps = [r["step"] for r in line]
            ax.fill_between(steps, [r["low"] for r in line], [r["high"] for r in line], color=colour, alpha=0.25, lw=0)
            ax.plot(steps, [r["value"] for r in line], color=colour, marker=marker, ms=4, lw=1.4, label=learner)
        title = f"score, {rows[0]['split']} contexts" if metric == SCORE else f"{only}: {metric.replace('_', ' ')}"
        ax.set_title(title, loc="left", fontsize=9)
        ax.locator_params(axis="x", nbins=4)
        if ax.get_subplotspec().is_last_row():  # type: ignore[union-attr]
            ax.set_xlabel("gradient steps")
    text = f"Training on {rows[0]['data']}\n{counts(rows, 'line')}"
    figure = axes[0].figure
    figure.suptitle(text, x=0.01, ha="left", fontsize=10)  # type: ignore[union-attr]
    if rows[0]["metric"] == SCORE:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(len(looks), 6))  # type: ignore[union-attr, call-arg]


FIGURE = Figure(
    name="curves",
    caption="What was logged while learners trained on the largest, most diverse data: the median over runs, and their "
    "middle half as a band. Losses of different learners are different quantities and do not compare; a curve that "
    "still falls at its end says that this learner was stopped early. nll: negative log-likelihood, in nats.",
    rows=rows,
    draw=draw,
    panels=lambda rows: len(_panels(rows)),
    size=lambda rows: (2.6, 1.9) if len(_panels(rows)) > 1 else (4.6, 3.0),
    shared=False,
    reads="folders",
)
