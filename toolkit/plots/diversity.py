"""Descriptors of data, one panel each, one line a store: how much of what kind of diversity it has."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING

from toolkit.coverage import Coverage
from toolkit.plots import COLOURS, Figure, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = {  # panel -> the descriptors in it, with what each is called
    "share of state-action bins (SACo)": {"saco": "SACo"},
    "relative return (TQ)": {"tq": "TQ"},
    "entropy of states [bits]": {"state_entropy": "H(s)"},
    "entropy of actions [bits]": {
        "behaviour_entropy": "given the state",
        "behaviour_entropy_within": "and the episode",
    },
    "entropy of contexts [bits]": {"context_entropy": "H(c)"},
}


def rows(records: Sequence[Coverage]) -> list[Row]:
    """One row a store and descriptor that it has."""
    return [
        {
            "store": f"{r.store}", "panel": panel, "descriptor": name, "label": label, "value": e.value,
            "low": e.low, "high": e.high, "transitions": r.transitions, "episodes": r.episodes, "against": r.against,
        }
        for panel, names in PANELS.items() for name, label in names.items() for r in records
        if (e := getattr(r, name)) is not None
    ]  # fmt: skip


def draw(axes: Sequence[Axes], rows: list[Row]) -> None:
    """Stores from top to bottom in the order given; a filled point, or a second open one below it."""
    stores = list(dict.fromkeys(r["store"] for r in rows))
    for ax, panel in zip(axes, _panels(rows), strict=True):
        own = [r for r in rows if r["panel"] == panel]
        labels = list(dict.fromkeys(r["label"] for r in own))
        for number, label in enumerate(labels):
            for r in (r for r in own if r["label"] == label):
                place = stores.index(r["store"]) + (0.0 if len(labels) == 1 else 0.3 * number - 0.15)
                if isfinite(r["low"]):
                    ax.plot([r["low"], r["high"]], [place, place], color=COLOURS[number], lw=1.6, alpha=0.7)
                face = ("white", COLOURS[number])[number == 0]
                first = r is next(q for q in own if q["label"] == label)
                ax.plot(
                    [r["value"]], [place], "os"[number], color=COLOURS[number], mfc=face, mew=1.3, ms=5.5,
                    label=label if first and len(labels) > 1 else None,
                )  # fmt: skip
        left = ax.get_subplotspec().is_first_col()  # type: ignore[union-attr]
        ax.set_yticks(range(len(stores)), stores if left else [""] * len(stores))
        ax.set_ylim(len(stores) - 0.5, -0.5)
        ax.set_xlabel(panel)
        shown = [0.0, *(r[end] for r in own for end in ("value", "low", "high") if isfinite(r[end]))]
        margin = 0.05 * (max(shown) - min(shown) or 1.0)
        ax.set_xlim(min(shown) - margin, max(shown) + margin)
        if len(labels) > 1:
            ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, borderaxespad=0.2, handlelength=1.0)
    episodes = sorted({r["episodes"] for r in rows})
    span = f"{episodes[0]}" if len(episodes) == 1 else f"{episodes[0]} to {episodes[-1]}"
    text = f"n = {rows[0]['transitions']:,} transitions of {span} episodes of each; SACo against {rows[0]['against']}"
    axes[0].figure.suptitle(text, x=0.01, ha="left", fontsize=10)  # type: ignore[union-attr]


def _panels(rows: list[Row]) -> list[str]:
    return [panel for panel in PANELS if any(r["panel"] == panel for r in rows)]


DATA_FIGURE = Figure(
    name="diversity",
    caption="What stores hold, measured on equally many transitions of each: the share of state-action bins they "
    "reach, their mean return between random and expert, and entropies of states, actions and contexts. Lines are "
    "95% intervals over episodes.",
    rows=rows,
    draw=draw,
    panels=lambda rows: len(_panels(rows)),
    size=lambda rows: (3.4, 1.2 + 0.26 * len({r["store"] for r in rows})),
    shared=False,
)
