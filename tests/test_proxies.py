"""Rank agreement of proxies with return is taken inside a cell, with clusters as units."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.proxies import agreement


def models(draws=4, each=6, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    draw = np.repeat(np.arange(draws), each)
    returns = rng.normal(0, 1, draws * each) + 2 * draw
    return returns + rng.normal(0, noise, len(returns)) if noise else returns, returns, draw, 1000 * draw


def test_the_return_itself_agrees_and_loses_nothing():
    value, returns, draw, seed = models()
    found = agreement(value, returns, draw, seed)
    assert (found.tau.value, found.tau.low, found.tau.high) == pytest.approx((1, 1, 1))
    assert found.regret.value == 0
    assert (found.models, found.clusters) == (24, 4)


def test_the_opposite_order_is_minus_one_and_loses_the_range():
    value, returns, draw, seed = models()
    found = agreement(-value, returns, draw, seed)
    assert found.tau.value == pytest.approx(-1)
    spans = [np.ptp(returns[draw == d]) for d in range(4)]
    assert found.regret.value == pytest.approx(np.mean(spans))


def test_noise_widens_the_interval_and_it_stays_inside_its_range():
    found = agreement(*models(noise=2.0))
    assert -1 <= found.tau.low < found.tau.value < found.tau.high <= 1


def test_seeds_are_the_clusters_of_a_single_draw_and_two_give_no_interval():
    value, returns, _, seed = models(draws=3)
    assert agreement(value, returns, [0] * 18, seed).clusters == 3
    value, returns, draw, seed = models(draws=2)
    assert not agreement(value, returns, draw, seed).tau.bounded


def test_a_proxy_that_only_tells_draws_apart_does_not_agree():
    rng = np.random.default_rng(0)
    draw = np.repeat(np.arange(6), 10)
    returns, value = 100.0 * draw + rng.normal(size=60), 100.0 * draw + rng.normal(size=60)
    found = agreement(value, returns, draw, draw)
    assert found.tau.low < 0 < found.tau.high
    assert abs(found.tau.value) < 0.25


def test_draws_of_one_model_are_compared_with_each_other():
    returns = np.arange(5.0)
    assert agreement(returns, returns, range(5), range(5)).tau.value == pytest.approx(1)
    assert agreement(-returns, returns, range(5), range(5)).tau.value == pytest.approx(-1)


def test_a_constant_proxy_has_no_tau():
    found = agreement([1.0] * 6, list(range(6)), [0, 0, 1, 1, 2, 2], [0] * 6)
    assert not found.ranked


def test_draws_that_happen_to_agree_on_a_tau_are_no_certainty():
    value, returns = [0, 1, 2, 3] * 3, [0, 1, 3, 2] * 3
    found = agreement(value, returns, np.repeat(range(3), 4), np.repeat(range(3), 4))
    assert found.tau.value == pytest.approx(2 / 3)
    assert not found.tau.bounded


def test_one_model_has_no_rank():
    with pytest.raises(ValueError, match="two models or more, got 1"):
        agreement([1.0], [1.0], [0], [0])
