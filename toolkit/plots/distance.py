"""Return against distance to the data: every episode's score by how far from the training states it went."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from statistics import fmean
from typing import TYPE_CHECKING

from toolkit.distance import SPLITS, ranked, sentence
from toolkit.plots import COLOURS, Figure, Row, counts
from toolkit.tables import DISTANCES, distinct

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = 12  # of a learner and suite; with more of them all suites of a learner share one
POINTS = 150  # drawn in a panel and split, at most
LOOKS = {"seen": ("o", COLOURS[0]), "interpolated": ("^", COLOURS[4]), "extrapolated": ("x", COLOURS[1])}


def rows(table: Sequence[Row]) -> list[Row]:
    """One row a learner and suite with the rank correlations ("rank"); of those drawn, means a split and episodes.

    Of more than POINTS episodes every so many are kept to be drawn; correlations and means are of all.
    """
    ranks = ranked(table)
    one = [r for r in ranks if r["suite"] != "all"]
    together = len(one) > PANELS
    shown = [r for r in ranks if r["suite"] == "all"] if together else one
    found: list[Row] = [{"kind": "rank", **rank, "neighbours": table[0]["neighbours"]} for rank in ranks]
    for rank in shown:
        base = {"learner": rank["learner"], "suite": rank["suite"]}
        own = [r for r in table if r["learner"] == rank["learner"] and (together or r["suite"] == rank["suite"])]
        for split in [s for s in SPLITS if s in distinct(own, "split")]:
            some = [r for r in own if r["split"] == split]
            mean = {key: fmean(r[key] for r in some) for key in ("distance", "score")}
            found.append({"kind": "mean", **base, "split": split, **mean, "episodes": len(some)})
            for r in some[:: -(-len(some) // POINTS)]:
                point = {key: r[key] for key in ("split", "draw", "seed", "episode", "distance", "score")}
                found.append({"kind": "episode", **base, **point})
    return found


def _panels(rows: list[Row]) -> list[tuple[str, str]]:
    return sorted({(r["suite"], r["learner"]) for r in rows if r["kind"] == "mean"})


def draw(axes: Sequence[Axes], rows: list[Row]) -> None:
    """Small marks are episodes, large ones the means of each kind of contexts; suites have their own scales."""
    panels = _panels(rows)
    for ax, (suite, learner) in zip(axes, panels, strict=True):
        own = [r for r in rows if (r["suite"], r["learner"]) == (suite, learner)]
        for split, (marker, colour) in LOOKS.items():
            points = [r for r in own if r["kind"] == "episode" and r["split"] == split]
            if not points:
                continue
            x, y = ([r[key] for r in points] for key in ("distance", "score"))
            ax.plot(x, y, marker, color=colour, ms=4, mfc="none", mew=0.9, alpha=0.55)
            mean = next(r for r in own if r["kind"] == "mean" and r["split"] == split)
            heavy = {"mec": "black", "mew": 1.0} if marker != "x" else {"mew": 3.0}
            ax.plot([mean["distance"]], [mean["score"]], marker, color=colour, ms=10, zorder=4, **heavy)  # type: ignore[arg-type]
        rank = next(r for r in own if r["kind"] == "rank")
        ax.set_title(
            f"{learner}, {suite}\nτ = {_told(rank, 'tau')}\nwithin a split: τ = {_told(rank, 'within')}",
            loc="left", fontsize=8.5,
        )  # fmt: skip
        spread = [r["score"] for r in rows if r["kind"] == "episode" and r["suite"] == suite]
        room = 0.05 * (max(spread) - min(spread) or 1.0)
        ax.set_ylim(min(spread) - room, max(spread) + room)
        far = max(r["distance"] for r in rows if r["kind"] == "episode" and r["suite"] == suite)
        ax.set_xlim(-0.03 * far, 1.05 * far or 1.0)
        ax.set_xlabel("mean distance to the data [share of range]")
        if ax.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            ax.set_ylabel("score of an episode")
        ax.locator_params(nbins=5)
    ranks = [r for r in rows if r["kind"] == "rank" and (r["suite"], r["learner"]) in panels]
    figure = axes[0].figure
    figure.suptitle(f"Score by distance to the data, {counts(ranks, 'panel')}", x=0.01, ha="left", fontsize=10)  # type: ignore[union-attr]
    for split in [s for s in LOOKS if any(r.get("split") == s for r in rows)]:
        marker, colour = LOOKS[split]
        axes[0].plot([], [], marker, color=colour, ms=5, mew=1.4, mfc="none", label=f"{split} contexts")
    axes[0].plot([], [], "o", color="#777777", ms=10, mec="black", label="large: their means")
    figure.legend(loc="outside lower center", ncols=4 if len(axes) == 3 or len(axes) > 4 else 2)  # type: ignore[union-attr, call-arg]


def _told(row: Row, name: str) -> str:
    if row[name] is None:
        return "n/a"
    ends = f" [{row[f'{name}_low']:z.2f}, {row[f'{name}_high']:z.2f}]" if isfinite(row[f"{name}_low"]) else ""
    return f"{row[name]:z.2f}{ends}"


FIGURE = Figure(
    name="distance",
    caption="Every evaluation episode by the mean distance of the states it visited to the training data (to the third "
    "nearest training state unless the table says otherwise, in task coordinates, each in shares of its range) and its "
    "score. τ is Kendall's rank correlation inside a run, mean over runs with the 95% Student interval over dataset "
    "draws; below zero, episodes that went farther did worse. Within a split leaves out that extrapolated contexts "
    "are harder and farther at once. Neither shows a cause: where success means resting at a place that the data fill, "
    "good episodes are near by themselves. Task coordinates show neither goals nor hidden dynamics.",
    rows=rows,
    draw=draw,
    panels=lambda rows: len(_panels(rows)),
    size=lambda rows: (3.2, 2.9) if len(_panels(rows)) > 1 else (4.6, 3.6),
    shared=False,
    reads=DISTANCES,
    finding=lambda rows: sentence([r for r in rows if r["kind"] == "rank"]),
)
