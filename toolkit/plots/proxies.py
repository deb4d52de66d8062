"""Proxies against return: each model of a cell, and how far the ranks agree, one panel a learner and proxy."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from statistics import median
from typing import TYPE_CHECKING

from toolkit.plots import COLOURS, FEW, MARKERS, Figure, Row, span
from toolkit.proxies import agreement_of, places
from toolkit.tables import PROXIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def rows(table: Sequence[Row]) -> list[Row]:
    """One row a model ("model"), and one a learner, dataset and proxy with Kendall's tau ("tau") and the regret.

    Proxies without a value, and cells with one model, are left out. Raises ValueError if nothing is left.
    """
    found: list[Row] = []
    for (learner, dataset, proxy), own in places(table).items():
        if len(own) < 2:
            continue
        base = {"learner": learner, "proxy": proxy, "dataset": dataset}
        a = agreement_of(own)
        found.append(
            {
                **base, "kind": "tau", "value": a.tau.value, "low": a.tau.low, "high": a.tau.high,
                "regret": a.regret.value, "regret_low": a.regret.low, "regret_high": a.regret.high,
                "models": a.models, "clusters": a.clusters, "runs": len({(r["draw"], r["seed"]) for r in own}),
            }
        )  # fmt: skip
        found += [
            {**base, "kind": "model", "value": r["value"], "return": r["return"], "draw": r["draw"], "seed": r["seed"],
             "checkpoint": r["checkpoint"]}
            for r in own
        ]  # fmt: skip
    if not found:
        raise ValueError("proxies needs two models or more of one learner and dataset; each has one")
    return found


def _panels(rows: list[Row]) -> list[tuple[str, str]]:
    return sorted({(r["proxy"], r["learner"]) for r in rows})


def draw(axes: Sequence[Axes], rows: list[Row]) -> None:
    """Colour and shape tell datasets; under each panel stand their taus."""
    data = list(dict.fromkeys(r["dataset"] for r in rows))
    for ax, (proxy, learner) in zip(axes, _panels(rows), strict=True):
        own = [r for r in rows if (r["proxy"], r["learner"]) == (proxy, learner)]
        for r in (r for r in own if r["kind"] == "tau"):
            models = [m for m in own if m["kind"] == "model" and m["dataset"] == r["dataset"]]
            i = data.index(r["dataset"])
            ends = f" [{r['low']:z.2f}, {r['high']:z.2f}]" if isfinite(r["low"]) else ""
            tau = f"τ = {r['value']:z.2f}{ends}" if isfinite(r["value"]) else "τ n/a, all alike"
            ax.plot(
                [m["value"] for m in models], [m["return"] for m in models], MARKERS[i % 8], color=COLOURS[i % 8],
                ms=4.5, mfc="none" if i % 2 else COLOURS[i % 8], mew=1.0, alpha=0.8,
                label=f"{r['dataset']}: {tau}, lost {r['regret']:.3g}",
            )  # fmt: skip
        ax.set_title(f"{learner}: {proxy}", loc="left")
        ax.set_xlabel("right should be better")
        if ax.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            ax.set_ylabel("return")
        ax.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.24), handlelength=0.6, borderaxespad=0.0, fontsize=8)
        ax.locator_params(nbins=5)
    taus = [r for r in rows if r["kind"] == "tau"]
    runs = [r["runs"] for r in taus]
    few = f", fewer than {FEW}" if min(runs) < FEW else ""
    text = f"Proxies and return, n = {span(r['models'] for r in taus)} models of {span(runs)} runs a dataset{few}"
    axes[0].figure.suptitle(text, x=0.01, ha="left", fontsize=10)  # type: ignore[union-attr]


def finding(rows: Sequence[dict[str, str]]) -> str:
    """What the taus say, proxy by proxy."""
    told = []
    for proxy in dict.fromkeys(r["proxy"] for r in rows):
        taus = [r for r in rows if (r["proxy"], r["kind"]) == (proxy, "tau")]
        known = [r for r in taus if isfinite(float(r["value"]))]
        if not known:
            continue
        middle, lost = (median(float(r[key]) for r in known) for key in ("value", "regret"))
        sure = sum(isfinite(float(r["low"])) and float(r["low"]) > 0 for r in known)
        told.append(f"{proxy}: median τ {middle:z.2f}, surely above zero in {sure} of {len(known)}, lost {lost:.3g}")
    return "Over cells of learner and dataset, " + "; ".join(told) + " (median return)." if told else ""


FIGURE = Figure(
    name="proxies",
    caption="Every trained model by a number that needs no acting, and by its return, told apart by dataset. Kendall's "
    "τ compares ranks inside one dataset and learner, never across: 1 is the same order, 0 none, below zero the "
    "wrong one. Its 95% interval leaves out one draw of the data at a time (none with fewer than three). Lost is "
    "the return given up by letting the proxy choose a run's checkpoint.",
    rows=rows,
    draw=draw,
    panels=lambda rows: len(_panels(rows)),
    size=lambda rows: (3.5, 2.9 + 0.16 * len({r["dataset"] for r in rows})),
    shared=False,
    reads=PROXIES,
    finding=finding,
)
