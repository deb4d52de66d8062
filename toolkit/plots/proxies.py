"""Proxies against return: each model of a cell, and how far the ranks agree, one panel a learner and proxy."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from statistics import median
from typing import TYPE_CHECKING

from scipy.stats import rankdata

from toolkit.plots import COLOURS, FEW, MARKERS, Figure, Row, span, suite_of
from toolkit.proxies import agreement_of, places
from toolkit.tables import PROXIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MANY = 6  # datasets whose models can still be told apart


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


def _many(rows: list[Row]) -> bool:
    """Whether there are too many datasets to show the models of each."""
    return len({r["dataset"] for r in rows}) > MANY


def _panels(rows: list[Row]) -> list[tuple[str, str]]:
    """(proxy, learner) of each panel; of many datasets all proxies of a learner together."""
    proxies = list(dict.fromkeys(r["proxy"] for r in rows))
    found = {("" if _many(rows) else r["proxy"], r["learner"]) for r in rows}
    return sorted(found, key=lambda panel: (panel[1], panel[0] and proxies.index(panel[0])))


def draw(axes: Sequence[Axes], rows: list[Row]) -> None:
    """Models, told apart by dataset, with their taus under each panel; of many datasets the taus alone."""
    for ax, (proxy, learner) in zip(axes, _panels(rows), strict=True):
        if proxy:
            _models(ax, rows, proxy, learner)
        else:
            _taus(ax, rows, learner)
        ax.set_title(f"{learner}: {proxy}" if proxy else learner, loc="left")
    taus = [r for r in rows if r["kind"] == "tau"]
    runs = [r["runs"] for r in taus]
    few = f", fewer than {FEW}" if min(runs) < FEW else ""
    text = f"Proxies and return, n = {span(r['models'] for r in taus)} models of {span(runs)} runs a dataset{few}"
    axes[0].figure.suptitle(text, x=0.01, ha="left", fontsize=10)  # type: ignore[union-attr]


def _models(ax: Axes, rows: list[Row], proxy: str, learner: str) -> None:
    data = list(dict.fromkeys(r["dataset"] for r in rows))
    own = [r for r in rows if (r["proxy"], r["learner"]) == (proxy, learner)]
    ranked = len({suite_of(name) for name in data}) > 1  # returns of several suites have no common scale
    for r in (r for r in own if r["kind"] == "tau"):
        models = [m for m in own if m["kind"] == "model" and m["dataset"] == r["dataset"]]
        i = data.index(r["dataset"])
        x, y = ([m[key] for m in models] for key in ("value", "return"))
        if ranked:
            x, y = (list(rankdata(values)) for values in (x, y))
        ends = f" [{r['low']:z.2f}, {r['high']:z.2f}]" if isfinite(r["low"]) else ""
        tau = f"τ = {r['value']:z.2f}{ends}" if isfinite(r["value"]) else "τ n/a, all alike"
        ax.plot(
            x, y, MARKERS[i % 8], color=COLOURS[i % 8],
            ms=4.5, mfc="none" if i % 2 else COLOURS[i % 8], mew=1.0, alpha=0.8,
            label=f"{r['dataset']}\n{tau}, lost {r['regret']:.3g}",
        )  # fmt: skip
    ax.set_xlabel("place by the proxy, right should be better" if ranked else "right should be better")
    if ax.get_subplotspec().is_first_col():  # type: ignore[union-attr]
        ax.set_ylabel("place by return" if ranked else "return")
    ax.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.24), handlelength=0.6, borderaxespad=0.0, fontsize=8)
    ax.locator_params(nbins=5)


def _taus(ax: Axes, rows: list[Row], learner: str) -> None:
    every = list(dict.fromkeys(r["proxy"] for r in rows))
    taus = [r for r in rows if r["kind"] == "tau" and r["learner"] == learner]
    proxies = [name for name in every if any(r["proxy"] == name for r in taus)]
    for line, proxy in enumerate(proxies):
        own = [r for r in taus if r["proxy"] == proxy and isfinite(r["value"])]
        colour = COLOURS[every.index(proxy) % 8]
        for place, r in enumerate(own):
            y = line + 0.7 * ((place + 0.5) / len(own) - 0.5)
            sure = isfinite(r["low"]) and not r["low"] <= 0 <= r["high"]
            if isfinite(r["low"]):
                ax.plot([r["low"], r["high"]], [y, y], color=colour, lw=0.9, alpha=0.5)
            ax.plot([r["value"]], [y], "o", color=colour, ms=4, mfc=colour if sure else "white", mew=1.0)
        if own:
            middle = median(r["value"] for r in own)
            ax.plot([middle, middle], [line - 0.42, line + 0.42], color="black", lw=1.6)
    ax.axvline(0, color="#555555", lw=0.8)
    ax.set_xlim(-1.05, 1.05)
    ax.set_ylim(len(proxies) - 0.5, -0.5)
    ax.set_yticks(range(len(proxies)), proxies)
    ax.set_xlabel("Kendall's τ with return")


def finding(rows: Sequence[dict[str, str]]) -> str:
    """What the taus say, proxy by proxy."""
    told = []
    for proxy in dict.fromkeys(r["proxy"] for r in rows):
        taus = [r for r in rows if (r["proxy"], r["kind"]) == (proxy, "tau")]
        known = [r for r in taus if isfinite(float(r["value"]))]
        if not known:
            continue
        middle = median(float(r["value"]) for r in known)
        sure = sum(isfinite(float(r["low"])) and float(r["low"]) > 0 for r in known)
        told.append(f"{proxy}: median τ {middle:z.2f}, surely above zero in {sure} of {len(known)}")
    return f"Over cells of learner and dataset, {'; '.join(told)}." if told else ""


FIGURE = Figure(
    name="proxies",
    caption="Every trained model by a number that needs no acting, and by its return, told apart by dataset (suite / "
    "transitions / contexts / coverage); of several suites by its places among its dataset's models, 1 the lowest. "
    "Kendall's τ compares ranks inside one draw of one dataset, never across, and is the mean over draws (where no "
    "draw has two models, over all): 1 is the same order, 0 none, below zero the wrong one. Its 95% interval leaves "
    "out one draw at a time (none with fewer than three). Lost is the return given "
    "up by letting the proxy choose a run's checkpoint. Of many datasets the τ of each is a point, filled where its "
    "interval leaves out zero, and a black line is their median.",
    rows=rows,
    draw=draw,
    panels=lambda rows: len(_panels(rows)),
    size=lambda rows: (3.5, 2.9 + 0.31 * (len({r["dataset"] for r in rows}) if not _many(rows) else 0)),
    shared=False,
    reads=PROXIES,
    finding=finding,
)
