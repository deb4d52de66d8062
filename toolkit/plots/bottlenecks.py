"""What goes wrong where: the score with one part swapped for the ideal one, one panel a learner and dataset."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING

from toolkit.plots import Figure, Row, counts, look, span
from toolkit.plots._chosen import PREFERRED, contexts_of
from toolkit.recovered import ARMS, recovered
from toolkit.tables import BOTTLENECKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ENDS = ("recovered_low", "recovered_high")


def rows(table: Sequence[Row]) -> list[Row]:
    """One row a learner, dataset and arm, of one split: interpolated contexts if any run was measured there.

    Raises ValueError if runs cannot be paired.
    """
    splits = {row["split"] for row in table}
    split = next((name for name in PREFERRED if name in splits), min(splits))
    return recovered([row for row in table if row["split"] == split])


def _panels(rows: list[Row]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((r["dataset"], r["learner"]) for r in sorted(rows, key=lambda r: r["dataset"])))


def _arms(rows: list[Row]) -> list[str]:
    return [arm for arm in ARMS if any(r["arm"] == arm for r in rows)]


def draw(axes: Sequence[Axes], rows: list[Row]) -> None:
    """A dashed line is the learner as trained; a bar leads from there to the score with the swap."""
    looks, arms = look([r["learner"] for r in rows]), _arms(rows)
    gains = [(r["score"], r["recovered"] - r[key]) for r in rows if r["score"] is not None for key in ENDS]
    ends = [score - off if isfinite(off) else score for score, off in gains]
    left, right = (edge([*ends, 0.0, 1.0]) for edge in (min, max))
    left, right = max(left, -0.5) - 0.05, min(right, 1.5) + 0.05  # what goes on beyond is cut, and told in numbers
    room = 0.66 * (right - left)
    for ax, (dataset, learner) in zip(axes, _panels(rows), strict=True):
        own = {r["arm"]: r for r in rows if (r["dataset"], r["learner"]) == (dataset, learner)}
        colour, marker = looks[learner]
        base = own["own"]["score"]
        ax.axvline(base, color="#555555", ls="--", lw=1.1)
        for place, arm in enumerate(arms):
            row = own.get(arm)
            if row is None or row["score"] is None:
                ax.annotate("n/a", (1, place), xycoords=("axes fraction", "data"), color="#777777", size=8,
                            ha="right", va="center")  # fmt: skip
                continue
            low, high = (base + row[key] if isfinite(row[key]) else None for key in ENDS)
            ax.plot([base, row["score"]], [place, place], color=colour, lw=4.5, alpha=0.35, solid_capstyle="butt")
            if arm != "own" and low is not None and high is not None:
                ax.plot([max(low, left), min(high, right)], [place, place], color="black", lw=1.0)
            ax.plot([row["score"]], [place], marker, color=colour, ms=6, mec="white", mew=0.7)
            text = f"{row['score']:z.2f}"
            if arm != "own":
                text = f"{row['recovered']:+.2f}"
                if low is not None:
                    text += f" [{row['recovered_low']:z.2f}, {row['recovered_high']:z.2f}]"
            ax.annotate(text, (1, place), xycoords=("axes fraction", "data"), size=7.5, ha="right", va="center")
        errors = [own[arm]["error"] if arm in own else None for arm in ("own", "states")]
        here, there = ("n/a" if error is None else f"{error:.2f}" for error in errors)
        said = f"action error {here}, at the expert's states {there}"
        ax.set_title(f"{learner}, {dataset}\n{said}", loc="left", fontsize=8)
        ax.set_yticks(range(len(arms)), [ARMS[arm] for arm in arms])
        ax.set_ylim(len(arms) - 0.5, -0.5)
        ax.set_xlim(left, right + room)
        ax.set_xticks([tick for tick in (0.0, 0.5, 1.0) if left <= tick <= right])
        ax.grid(axis="y", visible=False)
        ax.set_xlabel("score")
    own_rows = [r for r in rows if r["arm"] == "own"]
    size = f"{counts(own_rows, 'panel')}, {span(r['episodes'] for r in own_rows)} episodes each"
    title = f"{contexts_of(own_rows[0]['split'])}; {size}"
    axes[0].figure.suptitle(title, x=0.01, ha="left", fontsize=10)  # type: ignore[union-attr]


def finding(rows: Sequence[dict[str, str]]) -> str:
    """Which swaps surely recover something, from the figure's CSV."""
    told = []
    for place in dict.fromkeys((r["dataset"], r["learner"]) for r in rows):
        own = [r for r in rows if (r["dataset"], r["learner"]) == place and r["recovered_low"] and r["arm"] != "own"]
        sure = [f"{ARMS[r['arm']]} {float(r['recovered']):+.2f}" for r in own if float(r["recovered_low"]) > 0]
        told.append(f"{place[1]} on {place[0]}: {', '.join(sure) or 'none'}")
    return f"What recovers score, with a 95% interval above zero. {'; '.join(told)}."


FIGURE = Figure(
    name="bottlenecks",
    caption="The score of a learner as trained (dashed line) and with one part swapped for the ideal one, acted in "
    "the same contexts from the same seeds. At right is what the swap recovers; black lines and brackets are 95% "
    "Student intervals of this difference, paired by run, over dataset draws (none with one). Best candidate: at every "
    "step the best of the policy's own action and of actions that the data show near there, by the learner's critic or "
    "by what the simulator pays until the end. Without drifting: as if the learner's actions cost, where it goes, what "
    "they cost at the states the expert visits; what is missing from there to the expert is bad choice of actions, "
    "what it gains over the learner is due to drifting away (all of it, where the expert makes good any single "
    "mistake). Action error: root mean square distance to the expert's action, in half ranges (of choices, the share "
    "that differs), at the states that the learner visits and at those of the expert. n/a: the learner has no such "
    "part; the table says why.",
    rows=rows,
    draw=draw,
    panels=lambda rows: len(_panels(rows)),
    size=lambda rows: (3.5 if len(_panels(rows)) > 1 else 5.6, 1.2 + 0.26 * len(_arms(rows))),
    reads=BOTTLENECKS,
    finding=finding,
)
