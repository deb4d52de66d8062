"""What a proxy is worth in labels: score lost by choosing with k labelled models, one panel a learner."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING

from toolkit.plots import COLOURS, MARKERS, Figure, Row, counts
from toolkit.selection import FITTED, RANDOM, choices
from toolkit.tables import PROXIES, distinct

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOOK = {RANDOM: ("#777777", "o", "--"), FITTED: ("#000000", "*", "-")}


def rows(table: Sequence[Row]) -> list[Row]:
    """One row a learner, way of choosing and number of labels."""
    draws = {name: len({r["draw"] for r in table if r["learner"] == name}) for name in distinct(table, "learner")}
    runs = {n: len({(r["dataset"], r["draw"], r["seed"]) for r in table if r["learner"] == n}) for n in draws}
    return [
        {
            "learner": c.learner, "chosen": c.by, "labels": c.labels, "lost": c.lost.value, "low": c.lost.low,
            "high": c.lost.high, "models": c.models, "groups": c.groups, "datasets": c.datasets,
            "draws": draws[c.learner], "runs": runs[c.learner],
        }
        for c in choices(table)
    ]  # fmt: skip


def draw(axes: Sequence[Axes], rows: list[Row]) -> None:
    """A line a way of choosing; intervals where there are draws to take them over."""
    proxies = [name for name in dict.fromkeys(r["chosen"] for r in rows) if name not in LOOK]
    looks = {name: (COLOURS[i % 6], MARKERS[1 + i % 6], "-") for i, name in enumerate(proxies)} | LOOK
    names = [name for name in (RANDOM, *proxies, FITTED) if any(r["chosen"] == name for r in rows)]
    for ax, learner in zip(axes, distinct(rows, "learner"), strict=True):
        own = [r for r in rows if r["learner"] == learner]
        for place, name in enumerate(names):
            line = [r for r in own if r["chosen"] == name]
            colour, marker, style = looks[name]
            aside = 0.09 * (place - (len(names) - 1) / 2)
            x = [r["labels"] + aside for r in line]
            ax.plot(x, [r["lost"] for r in line], style, marker=marker, color=colour, ms=4.5, lw=1.2)
            for at, r in zip(x, line, strict=True):
                if isfinite(r["low"]):
                    ax.plot([at, at], [max(r["low"], 0.0), r["high"]], color=colour, lw=0.9, alpha=0.45)
        ax.set_title(f"{learner}: {own[0]['groups']} choices among {own[0]['models']} models", loc="left", fontsize=9)
        ax.set_xlabel("models labelled with their return")
        ax.set_xticks(distinct(own, "labels"))
        ax.set_ylim(0, 1.15 * max(max(r["lost"] for r in own), 1e-3))
        if ax.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            ax.set_ylabel("score lost")
    for name in names:
        colour, marker, style = looks[name]
        axes[0].plot([], [], style, marker=marker, color=colour, ms=4.5, label=name if name == RANDOM else f"by {name}")
    figure = axes[0].figure
    figure.suptitle(f"Choosing a model, {counts(rows, 'learner')}", x=0.01, ha="left", fontsize=10)  # type: ignore[union-attr]
    figure.legend(loc="outside lower center", ncols=3, title="which models are labelled first")  # type: ignore[union-attr, call-arg]


def finding(rows: Sequence[dict[str, str]]) -> str:
    """Choosing with one label, learner by learner: at random and by each proxy, and what that is worth in labels."""
    told = []
    for learner in sorted({r["learner"] for r in rows}):
        own = [r for r in rows if r["learner"] == learner]
        chance = [float(r["lost"]) for r in own if r["chosen"] == RANDOM]
        alone = {r["chosen"]: float(r["lost"]) for r in own if r["labels"] == "1" and r["chosen"] != RANDOM}
        listed = (f"{name} {loss:.2f} ({sum(one >= loss for one in chance)})" for name, loss in alone.items())
        told.append(f"{learner}: at random {chance[0]:.2f}, {', '.join(listed)}")
    return (
        "Score lost by choosing one model without a label, and in brackets how many models labelled at random lose as "
        f"much or more (0: worse than chance). {'; '.join(told)}."
    )


FIGURE = Figure(
    name="selection",
    caption="What is lost, in score, by choosing among the models of one learner on one draw of its data, when k of "
    "them are labelled with their return and the best of those is taken. The k are drawn at random, or are those a "
    "proxy likes best: at 1 the proxy chooses alone, beside random choice. All, fitted elsewhere: ranks by all "
    "proxies, weighted by their mean τ on the learner's other datasets. Labels are the evaluations that judge, so all "
    "lines end at zero. Vertical lines are 95% Student intervals over draws.",
    rows=rows,
    draw=draw,
    panels=lambda rows: len(distinct(rows, "learner")),
    size=lambda rows: (3.3, 3.0),
    shared=False,
    reads=PROXIES,
    finding=finding,
)
