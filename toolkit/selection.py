"""What is a proxy worth in labels? Choosing a model with k of them acted out, by what picks those k.

Models of one learner trained on one draw of a dataset are a group, among which one has to be chosen. A label is a
model's score. The best labelled one is taken, and what is lost is the group's best score less that. The k labelled are
drawn at random, or are the k that a proxy likes best: with k = 1 a model is chosen at random, or by the proxy alone.

A fitted proxy adds up ranks by all proxies, each weighted by its mean Kendall's tau on the learner's other datasets:
so it is fitted on some cells and judged on another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from scipy.stats import kendalltau, rankdata

from toolkit import stats
from toolkit.stats import Array, Estimate
from toolkit.tables import Row

RANDOM, FITTED = "at random", "all, fitted elsewhere"
MOST = 8  # labels that are tried


@dataclass(frozen=True)
class Group:
    """n models of one learner and one draw of a dataset."""

    learner: str
    dataset: str
    draw: int
    score: Array  # (n,)
    values: dict[str, Array]  # proxy -> (n,), -inf where it is undefined for this model alone


@dataclass(frozen=True)
class Choice:
    """What is lost by one way of choosing, over all groups of a learner."""

    learner: str
    by: str  # RANDOM, FITTED, or a proxy
    labels: int
    lost: Estimate  # in score; the interval is over draws
    groups: int
    models: int  # in the smallest group
    datasets: int


def groups(table: Sequence[Row]) -> list[Group]:
    """Groups of two models or more, from rows of proxies_of_runs.csv. Raises ValueError for a model told twice."""
    found: dict[tuple[str, str, int], dict[tuple[int, str], dict[str, Row]]] = defaultdict(lambda: defaultdict(dict))
    for r in table:
        model = found[r["learner"], r["dataset"], r["draw"]][r["seed"], r["checkpoint"]]
        if r["proxy"] in model:
            raise ValueError(
                f"{r['proxy']} of {r['learner']} on {r['dataset']}, draw {r['draw']}, seed {r['seed']}, checkpoint "
                f"{r['checkpoint']} is there twice; tell the models apart in the column checkpoint"
            )
        model[r["proxy"]] = r
    return [_group(*place, list(models.values())) for place, models in found.items() if len(models) > 1]


def _group(learner: str, dataset: str, draw: int, models: list[dict[str, Row]]) -> Group:
    names = list(dict.fromkeys(name for one in models for name, r in one.items() if r["value"] is not None))
    values = {
        name: np.array([-np.inf if name not in m or m[name]["value"] is None else m[name]["value"] for m in models])
        for name in names
    }
    return Group(learner, dataset, draw, np.array([next(iter(m.values()))["score"] for m in models]), values)


def expected_best(known: float, scores: Array, count: int) -> float:
    """Expectation of the greatest of `known` and of `count` of `scores` (n,), drawn without replacement."""
    if count == 0:
        return known
    ways = [comb(i, count - 1) for i in range(len(scores))]  # in which the i-th of them in order is the greatest
    chance = np.array(ways, np.float64) / comb(len(scores), count)
    return float(chance @ np.maximum(np.sort(scores), known))


def lost(scores: Array, values: Array | None = None) -> Array:
    """(n,) what is expected to be lost with 1 to n labels: of random models, or of those with the greatest `values`.

    Models of equal value are labelled in random order, so a constant proxy is worth as much as none.
    """
    like = np.zeros(len(scores)) if values is None else values
    found = []
    for count in range(1, len(scores) + 1):
        last = np.sort(like)[::-1][count - 1]  # the least value among those that are labelled
        sure, tied = scores[like > last], scores[like == last]
        best = expected_best(sure.max() if len(sure) else -np.inf, tied, count - len(sure))
        found.append(scores.max() - best)
    return np.array(found)


def fitted(group: Group, others: Sequence[Group]) -> Array | None:
    """(n,) values of the fitted proxy on a group; None if there are no other datasets of its learner."""
    taus: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for other in others:
        if other.learner == group.learner and other.dataset != group.dataset:
            for name, values in other.values.items():
                taus[name][other.dataset].append(np.nan_to_num(kendalltau(values, other.score).statistic))
    known = [name for name in group.values if name in taus]
    if not known:
        return None
    weight = {name: np.mean([np.mean(each) for each in taus[name].values()]) for name in known}
    ranks = {name: rankdata(group.values[name]) / len(group.score) for name in known}
    return np.round(sum(weight[name] * ranks[name] for name in known), 12)  # equal sums stay equal


def choices(table: Sequence[Row], *, most: int = MOST) -> list[Choice]:
    """Every way of choosing with 1 to `most` labels, by learner. Raises ValueError if no group has two models."""
    every = groups(table)
    if not every:
        raise ValueError(
            "choosing needs two models or more of one learner and draw; keep some on the way (--evaluate-every), or "
            "train more seeds"
        )
    found: list[Choice] = []
    for learner in sorted({g.learner for g in every}):
        own = [g for g in every if g.learner == learner]
        least = min(len(g.score) for g in own)
        ways: dict[str, list[tuple[Group, Array]]] = {RANDOM: [(g, lost(g.score)) for g in own]}
        for name in dict.fromkeys(name for g in own for name in g.values):
            if all(name in g.values for g in own):
                ways[name] = [(g, lost(g.score, g.values[name])) for g in own]
        combined = [(g, fitted(g, own)) for g in own]
        if all(values is not None for _, values in combined):
            ways[FITTED] = [(g, lost(g.score, values)) for g, values in combined]
        for by, curves in ways.items():
            for k in range(min(most, least)):
                estimate = _over_draws([(g, float(curve[k])) for g, curve in curves])
                count = len({g.dataset for g in own})
                found.append(Choice(learner, by, k + 1, estimate, len(own), least, count))
    return found


def _over_draws(each: Sequence[tuple[Group, float]]) -> Estimate:
    """Mean over datasets of the mean over their draws; the interval takes draws of all datasets as its units."""
    draws: Mapping[int, list[float]] = defaultdict(list)
    for group, value in each:
        draws[group.draw].append(value)
    return stats.student_interval([[float(np.mean(own)) for own in draws.values()]])
