"""Does a proxy know which model is good? Rank agreement with return inside one cell, and what trusting it loses.

A cell is one learner on one kind of data. Ranks are never pooled over cells, nor over the independent draws of the data
in one: a proxy that only tells easy data from hard ones would look as if it told good models from bad ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite

import numpy as np
from scipy.stats import kendalltau

from toolkit import stats
from toolkit.stats import Array, Estimate
from toolkit.tables import Row

Place = tuple[str, str, str]  # learner, dataset, proxy


@dataclass(frozen=True)
class Agreement:
    """One proxy in one cell. NaN where all values or all returns are equal."""

    tau: Estimate  # Kendall's tau-b, mean over draws; its interval leaves out one cluster at a time
    regret: Estimate  # return of a run's best checkpoint minus that of the one its proxy prefers
    models: int
    clusters: int  # dataset draws, or the seeds of the only draw

    @property
    def ranked(self) -> bool:
        """Whether there is an order to agree with: neither all values nor all returns are equal."""
        return isfinite(self.tau.value)


def places(table: Sequence[Row]) -> dict[Place, list[Row]]:
    """Rows with a value by learner, dataset and proxy; none where the proxy is undefined for every model.

    Learners in order of name, datasets and proxies as they first come.
    """
    data, proxies = (list(dict.fromkeys(r[key] for r in table)) for key in ("dataset", "proxy"))
    found: dict[Place, list[Row]] = {}
    for r in table:
        found.setdefault((r["learner"], r["dataset"], r["proxy"]), []).extend([r] if r["value"] is not None else [])
    return {p: found[p] for p in sorted(found, key=lambda p: (p[0], data.index(p[1]), proxies.index(p[2])))}


def agreement_of(rows: Sequence[Row]) -> Agreement:
    """`agreement` of the models of one place."""
    return agreement(*([r[key] for r in rows] for key in ("value", "return", "draw", "seed")))


def agreement(value: Sequence[float], returns: Sequence[float], draw: Sequence[int], seed: Sequence[int]) -> Agreement:
    """How the ranks of n models by proxy and by return agree; a greater `value` should mean a better model.

    Models of one draw share its data and are one cluster; ranks are compared inside it. Where no draw has two models,
    those of all draws are compared. Raises ValueError for fewer than two models.
    """
    x, y = np.asarray(value, np.float64), np.asarray(returns, np.float64)
    if len(x) < 2:
        raise ValueError(f"rank agreement needs two models or more, got {len(x)}")
    places = list(zip(draw, seed, strict=True))
    unit = [d for d, _ in places] if len(set(draw)) > 1 else [s for _, s in places]
    names, member = np.unique(unit, return_inverse=True)

    def rank(kept: Array) -> float:
        inside = np.isin(member, kept)
        draws = [np.flatnonzero(inside & (np.asarray(draw) == d)) for d in sorted(set(draw))]
        compared = [own for own in draws if len(own) > 1] or [np.flatnonzero(inside)]
        taus = [float(kendalltau(x[own], y[own]).statistic) for own in compared if len(own) > 1]
        known = [tau for tau in taus if isfinite(tau)]
        return float(np.mean(known)) if known else float("nan")

    tau = stats.jackknife(rank, len(names))
    if tau.high - tau.low < 1e-9 and abs(tau.value) < 1 - 1e-9:  # few models have few taus: no spread proves nothing
        tau = Estimate(tau.value, -inf, inf, tau.level, tau.n)
    tau = tau.within(-1.0, 1.0)
    lost: dict[int, list[float]] = {}
    for place in sorted(set(places)):
        own = [i for i, other in enumerate(places) if other == place]
        lost.setdefault(unit[own[0]], []).append(float(y[own].max() - y[own[int(x[own].argmax())]]))
    regret = stats.student_interval([[float(np.mean(each)) for each in lost.values()]])
    return Agreement(tau, regret, len(x), len(names))
