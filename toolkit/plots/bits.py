"""How much of what happens is modelled: bits explained a transition, against the size of the data and return."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from toolkit import stats
from toolkit.plots import Figure, Row, counts, look, suite_of
from toolkit.tables import BITS, distinct

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELS = 4  # numbers of points below the frame that a panel has room for
WHAT = {"action": "action given observation", "transition": "next observation, reward, end"}
AGAINST = {"size": "transitions in the data", "return": "return"}


def rows(table: Sequence[Row]) -> list[Row]:
    """One row a learner, dataset and thing modelled: means over runs, and the interval of the bits over draws.

    Undefined bits stay empty. Raises ValueError if nothing is defined, or a cell mixes exact values with bounds.
    """
    found: list[Row] = []
    for what, learner, dataset in sorted({(r["what"], r["learner"], r["dataset"]) for r in table}):
        own = [r for r in table if (r["what"], r["learner"], r["dataset"]) == (what, learner, dataset)]
        kinds = distinct(own, "exactness")
        if len(kinds) > 1 or what not in WHAT or kinds[0] not in ("exact", "bound", "none"):
            raise ValueError(
                f"bits of {learner} on {dataset} are {' and '.join(kinds)} of {what!r}; expected exact, bound or none, "
                f"one of them, of {' or '.join(WHAT)}"
            )
        if kinds[0] == "none":
            e = None
        else:
            draws = distinct(own, "draw")
            key = "draw" if len(draws) > 1 else "seed"
            e = stats.student_interval([[_mean(own, "explained", key, unit) for unit in distinct(own, key)]])
        found.append(
            {
                "what": what, "learner": learner, "dataset": dataset, "exactness": kinds[0],
                "explained": e and e.value, "low": e and e.low, "high": e and e.high,
                "marginal": _mean(own, "marginal"), "size": _mean(own, "size"), "return": _mean(own, "return"),
                "runs": len(own), "draws": len(distinct(own, "draw")),
            }
        )  # fmt: skip
    if all(r["exactness"] == "none" for r in found):
        raise ValueError("bits has nothing to draw: no learner here has probabilities")
    return found


def _mean(rows: Sequence[Row], key: str, within: str = "", unit: int = 0) -> float:
    """Mean of a column over its cells that are not empty, of one draw or seed if asked."""
    found = [r[key] for r in rows if r[key] is not None and (not within or r[within] == unit)]
    return float(np.mean(found)) if found else float("nan")


def _number(bits: float) -> str:
    return f"{bits:,.0f}".replace("-", "\N{MINUS SIGN}")


def _panels(rows: list[Row]) -> list[tuple[str, str, str]]:
    """(what, against, suite) of each panel; what no learner has bits for is left out.

    Returns of several suites have no common scale, and their bits no common size: then each has panels against size.
    """
    told = [what for what in WHAT if any(r["what"] == what and r["exactness"] != "none" for r in rows)]
    suites = sorted({suite_of(r["dataset"]) for r in rows})
    return [(what, key, suite) for what in told for suite in suites for key in [*AGAINST][: 1 if suites[1:] else 2]]


def draw(axes: Sequence[Axes], rows: list[Row]) -> None:
    """Exact values are filled, bounds open with an arrow; a grey dash is what there is to explain."""
    looks = look([r["learner"] for r in rows])
    names = sorted(looks)
    several = len({suite_of(r["dataset"]) for r in rows}) > 1
    for ax, (what, key, suite) in zip(axes, _panels(rows), strict=True):
        own = [r for r in rows if r["what"] == what and suite_of(r["dataset"]) == suite]
        told = [r for r in own if r["exactness"] != "none"]
        floor = -max((r["marginal"] for r in told), default=0.0)  # a code twice as long as without a model
        below = [r["explained"] for r in told if r["explained"] < floor]
        for r in told:
            colour, marker = looks[r["learner"]]
            x, y = r[key], max(r["explained"], floor)
            if key == "size":  # points of one size stand side by side
                beside = [other for other in told if other["size"] == r["size"]]
                x *= 1.5 ** ((beside.index(r) + 0.5) / len(beside) - 0.5)
                ax.plot([x], [r["marginal"]], "_", color="#777777", ms=8)
            if isfinite(r["low"]):
                ax.plot([x, x], [r["low"], r["high"]], color=colour, lw=1.2, alpha=0.7)
            if y > r["explained"] and len(below) <= LABELS:
                ax.annotate(_number(r["explained"]), (x, y), xytext=(5, 8), textcoords="offset points", fontsize=7,
                            color=colour, rotation=90, ha="center", va="bottom")  # fmt: skip
            exact = r["exactness"] == "exact"
            if not exact:
                ax.annotate("", (x, y), xytext=(0, 13), textcoords="offset points",
                            arrowprops={"arrowstyle": "<-", "color": colour, "lw": 1.0})  # fmt: skip
            ax.plot([x], [y], marker, color=colour, mfc=colour if exact else "white", mew=1.3, ms=6)
        absent = [n for n in names if all(r["exactness"] == "none" for r in own if r["learner"] == n)]
        title = f"{suite}: {what}" if several else WHAT[what] + (f"\nn/a: {', '.join(absent)}" if absent else "")
        ax.set_title(title, loc="left", fontsize=9)
        if len(below) > LABELS:
            ax.axhline(floor, color="#999999", lw=0.8, ls=":", zorder=0)
            lower = f"{len(below)} points lie lower: {_number(max(below))} to {_number(min(below))}"
            ax.annotate(lower, (0.02, floor), xycoords=("axes fraction", "data"), xytext=(0, -6),
                        textcoords="offset points", fontsize=7, va="top")  # fmt: skip
        ax.axhline(0, color="#555555", lw=0.8)
        ax.margins(0.12)
        most = "marginal" if key == "size" else "explained"
        ends = [0.0, *(max(value, floor) for r in told for value in (r["explained"], r[most]))]
        room = 0.2 * (max(ends) - min(ends))
        ax.set_ylim(min(ends) - room, max(ends) + room)
        ax.set_xlabel(AGAINST[key])
        if key == "size":
            sizes = distinct(own, "size")
            ax.set_xscale("log")
            ax.set_xlim(sizes[0] / 1.7, sizes[-1] * 1.7)
            ax.set_xticks(sizes, [f"{s:,.0f}" for s in sizes])
            ax.set_xticks([], minor=True)
            ax.set_ylabel("bits explained a transition")
    figure = axes[0].figure
    without = [n for n in names if all(r["exactness"] == "none" for r in rows if r["learner"] == n)] if several else []
    nobody = f"; n/a: {', '.join(without)}" if without else ""
    figure.suptitle(
        f"Bits explained, held-out episodes\n{counts(rows, 'point')}{nobody}", x=0.01, ha="left", fontsize=10
    )  # type: ignore[union-attr]
    for name in (n for n in names if any(r["learner"] == n and r["exactness"] != "none" for r in rows)):
        axes[0].plot([], [], looks[name][1], color=looks[name][0], ms=6, label=name)
    axes[0].plot([], [], "_", color="#777777", ms=8, label="all there is to explain")
    if any(r["exactness"] == "bound" for r in rows):
        axes[0].plot([], [], "o", color="#555555", mfc="white", mew=1.3, label="open, arrow: a bound, maybe more")
    figure.legend(loc="outside lower center", ncols=3)  # type: ignore[union-attr, call-arg]


def finding(rows: Sequence[dict[str, str]]) -> str:
    """In how many cells bits are surely explained, and who explains most and least."""
    told = []
    for what, words in WHAT.items():
        own = [r for r in rows if r["what"] == what and r["explained"]]
        if not own:
            continue
        sure = sum(isfinite(float(r["low"])) and float(r["low"]) > 0 for r in own)
        most, least = (edge(own, key=lambda r: float(r["explained"])) for edge in (max, min))
        ends = (
            f"{float(r['explained']):z.2f} of {float(r['marginal']):.2f} bits by {r['learner']} on {r['dataset']}"
            for r in (most, least)
        )
        told.append(
            f"{words[0].upper()}{words[1:]}: surely explained in {sure} of {len(own)} cells of learner and dataset, "
            f"from {' down to '.join(ends)}."
        )
    return " ".join(told)


FIGURE = Figure(
    name="bits",
    caption="Bits explained a transition of held-out episodes: the code length without a model, less that with it, "
    "whose bins cancel. Grey dashes are the code length without a model, all there is to explain. Filled points are "
    "exact, open ones with an arrow bounds from below, which do not rank beside exact ones; n/a: a learner without "
    "probabilities. Below zero a model misleads. Vertical lines are 95% Student intervals over dataset draws; one that "
    "meets the frame goes on beyond it, and a point with a number lies that far below it; of more than four on a "
    "dotted line the ends are told.",
    rows=rows,
    draw=draw,
    panels=lambda rows: len(_panels(rows)),
    size=lambda rows: (3.3, 3.2),
    shared=False,
    reads=BITS,
    finding=finding,
)
