"""Choosing with labels: what is lost is what every possible choice loses on average, and a good proxy saves labels."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest

from toolkit.selection import FITTED, RANDOM, choices, expected_best, groups, lost


def table(proxies, *, learners=("iql",), datasets=("d", "e"), draws=3, models=6, seed=0):
    """Rows of models of random scores; `proxies` maps a name to a function of (score, rng, dataset)."""
    rng = np.random.default_rng(seed)
    rows = []
    for learner in learners:
        for dataset in datasets:
            for draw in range(draws):
                for step in range(models):
                    score = float(rng.normal())
                    base = {"learner": learner, "dataset": dataset, "draw": draw, "seed": draw, "checkpoint": f"{step}"}
                    base |= {"return": 100 * score, "score": score}
                    rows += [{**base, "proxy": n, "value": value(score, rng, dataset)} for n, value in proxies.items()]
    return rows


def curve(found, by):
    return [c.lost.value for c in found if c.by == by]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_expected_best_is_the_mean_over_all_draws(count):
    scores = np.array([0.3, -1.0, 0.7, 0.7, 0.1])
    every = [max(0.0, *(scores[i] for i in chosen)) for chosen in combinations(range(5), count)]
    assert expected_best(0.0, scores, count) == pytest.approx(np.mean(every))


def test_the_score_itself_loses_nothing_and_a_constant_is_worth_as_much_as_chance():
    scores = np.random.default_rng(0).normal(size=7)
    assert lost(scores, scores) == pytest.approx(np.zeros(7))
    assert lost(scores, np.ones(7)) == pytest.approx(lost(scores))
    assert lost(scores, -scores)[0] == pytest.approx(np.ptp(scores))


def test_ties_are_labelled_in_random_order():
    scores, values = np.array([1.0, 0.0, 3.0, 2.0]), np.array([5.0, 1.0, 1.0, 1.0])
    assert lost(scores, values)[:2] == pytest.approx([2.0, 3 - np.mean([1, 3, 2])])


def test_more_labels_never_lose_more_and_all_lose_nothing():
    found = choices(table({"noise": lambda score, rng, _: rng.normal(), "good": lambda score, rng, _: score}), most=9)
    for by in (RANDOM, "noise", "good", FITTED):
        losses = curve(found, by)
        assert len(losses) == 6
        assert all(a >= b - 1e-12 for a, b in pairwise(losses))
        assert losses[-1] == pytest.approx(0)
    assert curve(found, "good") == pytest.approx([0] * 6)


def test_what_was_fitted_on_other_datasets_turns_a_misleading_proxy_round():
    found = choices(table({"upside down": lambda score, rng, _: -score}))
    assert curve(found, "upside down")[0] > curve(found, RANDOM)[0]
    assert curve(found, FITTED)[0] == pytest.approx(0)


def test_a_fit_does_not_see_the_dataset_it_is_judged_on():
    """A proxy that is right on one dataset and wrong on the other misleads whoever trusts the other one."""
    turned = {"d": 1, "e": -1}
    found = choices(table({"fickle": lambda score, rng, dataset: turned[dataset] * score}))
    assert curve(found, FITTED)[0] > curve(found, RANDOM)[0]


def test_one_dataset_gives_nothing_to_fit_on():
    found = choices(table({"good": lambda score, rng, _: score}, datasets=("d",)))
    assert {c.by for c in found} == {RANDOM, "good"}


def test_a_proxy_that_is_undefined_for_a_learner_is_left_out_and_for_one_model_ranks_it_last():
    rows = table({"good": lambda score, rng, _: score, "none": lambda *_: None}, datasets=("d",), draws=1)
    best = max(rows, key=lambda r: r["score"])
    best["value"] = None
    found = choices(rows)
    assert {c.by for c in found} == {RANDOM, "good"}
    scores = sorted({r["score"] for r in rows})
    assert curve(found, "good")[0] == pytest.approx(scores[-1] - scores[-2])


def test_draws_are_the_units_and_one_gives_no_interval():
    three = choices(table({"noise": lambda score, rng, _: rng.normal()}))
    assert all(c.lost.bounded and c.lost.n == 3 for c in three)
    one = choices(table({"noise": lambda score, rng, _: rng.normal()}, draws=1))
    assert not any(c.lost.bounded for c in one)


def test_models_told_twice_or_alone_are_refused():
    rows = table({"good": lambda score, rng, _: score})
    with pytest.raises(ValueError, match=r"good of iql on d, draw 0, seed 0, checkpoint 0 is there twice"):
        groups([*rows, rows[0]])
    with pytest.raises(ValueError, match="two models or more"):
        choices(table({"good": lambda score, rng, _: score}, models=1))
