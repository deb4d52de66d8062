"""Laws of the statistics: exact where a formula exists, covering where only simulation can tell."""

from __future__ import annotations

import json
import time
from math import inf
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as reference

from toolkit import stats


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("n", [4, 8, 20, 100])
def test_iqm_equals_the_trimmed_mean_where_a_quarter_is_whole(rng, n):
    values = rng.normal(size=(5, n))
    np.testing.assert_allclose(stats.iqm(values), reference.trim_mean(values, 0.25, axis=1))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 7, 9, 10])
def test_iqm_averages_exactly_the_middle_half(rng, n):
    values = rng.normal(size=n)
    fourfold = np.repeat(values, 4)  # every value four times: now a quarter is whole
    assert stats.iqm(values) == pytest.approx(reference.trim_mean(fourfold, 0.25))


def test_iqm_ignores_outliers_and_refuses_emptiness():
    assert stats.iqm(np.array([0.4, 0.5, 0.6, 1e9, 0.5, 0.5, 0.5, -1e9])) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no values"):
        stats.iqm(np.zeros((3, 0)))


def test_fifty_thousand_resamples_take_under_a_second(rng):
    scores = rng.normal(size=(20, 10))
    start = time.process_time()
    stats.interquartile_mean(scores, rng=rng, resamples=50_000)
    assert time.process_time() - start < 1.0


def test_stratified_interval_covers_and_keeps_tasks_apart(rng):
    tasks = np.arange(10) * 100.0  # a difference between tasks is not uncertainty
    hits = 0
    for _ in range(200):
        e = stats.stratified_bootstrap(
            tasks + rng.normal(size=(20, 10)), lambda x: x.mean((1, 2)), rng=rng, resamples=300
        )
        hits += e.low <= tasks.mean() <= e.high
        assert e.high - e.low < 1
    assert hits / 200 >= 0.88


def test_same_generator_same_interval():
    scores = np.random.default_rng(1).normal(size=(5, 3))
    first, second = (stats.interquartile_mean(scores, rng=np.random.default_rng(7), resamples=500) for _ in range(2))
    assert first == second


def clustered(rng, draws, seeds, tasks=1):
    """Zero-mean scores with as much variance between draws as between seeds."""
    return rng.normal(0, 0.1, (draws, 1, tasks)) + rng.normal(0, 0.1, (draws, seeds, tasks))


@pytest.mark.parametrize(("draws", "seeds", "tasks"), [(3, 2, 1), (2, 2, 1), (3, 2, 4), (5, 1, 1)])
def test_mean_interval_covers_with_few_draws(rng, draws, seeds, tasks):
    found = [stats.nested_interval(clustered(rng, draws, seeds, tasks)) for _ in range(1500)]
    assert 0.93 <= np.mean([e.low <= 0 <= e.high for e in found]) <= 0.985


def test_hierarchical_iqm_covers_with_three_draws_of_two_seeds(rng):
    found = [
        stats.hierarchical_bootstrap(clustered(rng, 3, 2), statistic=pooled, rng=rng, resamples=400) for _ in range(300)
    ]
    assert np.mean([e.low <= 0 <= e.high for e in found]) >= 0.9


def pooled(scores):
    return stats.iqm(scores.reshape(len(scores), -1))


def test_pooling_runs_as_if_independent_would_not_cover(rng):
    """Why the draw is the unit: the naive interval over the same numbers fails this suite's own bar."""
    hits = 0
    for _ in range(1000):
        e = stats.student_interval([clustered(rng, 3, 8).ravel()])
        hits += e.low <= 0 <= e.high
    assert hits / 1000 < 0.8


def test_one_draw_has_no_bound(rng):
    values = rng.normal(size=(1, 5))
    bootstrapped = stats.hierarchical_iqm(values, rng=rng)
    for e in (stats.nested_interval(values), bootstrapped, stats.paired_difference(values, values)):
        assert (e.low, e.high) == (-inf, inf)
        assert not e.bounded
    assert not stats.tost(values, values).equivalent


def test_two_equal_tasks_have_satterthwaite_degrees_of_freedom():
    e = stats.student_interval([[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]])
    assert e.value == 6
    assert e.high - e.value == pytest.approx(reference.t.ppf(0.975, 4) * np.sqrt(1 / 3 / 2))


def test_what_a_draw_does_to_both_learners_cancels(rng):
    shared = rng.normal(0, 5, (4, 1))
    a, b = shared + rng.normal(0, 0.01, (4, 3)), shared + 0.5 + rng.normal(0, 0.01, (4, 3))
    e = stats.paired_difference(a, b)
    assert e.low < -0.5 < e.high
    assert e.high - e.low < 0.1
    with pytest.raises(ValueError, match="cannot be paired"):
        stats.paired_difference(a, b[:, :2])


@pytest.mark.parametrize("shift", [0.0, 0.03, 0.3])
def test_tost_equals_two_one_sided_t_tests(rng, shift):
    a, b = rng.normal(0.5, 0.05, (6, 2)), rng.normal(0.5 + shift, 0.05, (6, 2))
    difference = (a - b).mean(1)
    lower = reference.ttest_1samp(difference, -0.1, alternative="greater").pvalue
    upper = reference.ttest_1samp(difference, 0.1, alternative="less").pvalue
    found = stats.tost(a, b)
    assert found.p == pytest.approx(max(lower, upper))
    assert found.equivalent == (max(lower, upper) < 0.05)
    interval = reference.ttest_1samp(difference, 0).confidence_interval(0.90)
    assert (found.difference.low, found.difference.high) == pytest.approx((interval.low, interval.high))


def test_spread_of_nine_identical_learners_is_about_zero(rng):
    runs = [rng.normal(0, 0.3, (1, 3, 1)) + rng.normal(0, 0.1, (9, 3, 1)) for _ in range(3000)]
    squares = np.array([stats.paired_spread(x) for x in runs])
    assert abs(squares.mean()) < 3e-4  # the uncorrected variance is 0.1**2 / 3 = 33e-4
    assert np.mean([np.var(x.mean(1), ddof=1) for x in runs]) > 30e-4


def test_spread_of_different_learners_is_theirs(rng):
    truth = np.array([0.0, 0.3, 0.6])[:, None, None]
    squares = [stats.paired_spread(truth + rng.normal(0, 0.1, (3, 4, 1))) for _ in range(2000)]
    assert np.mean(squares) == pytest.approx(0.09, abs=0.003)
    assert stats.noise_corrected_spread(np.array([0.0, 0.6]), np.array([0.1, 0.3])) == pytest.approx(0.18 - 0.05)
    assert stats.signed_root(-0.04) == pytest.approx(-0.2)


def test_slope_interval_covers_the_true_slope(rng):
    low, high = np.array([0.0, 0.0, -0.4]), np.array([0.0, 0.0, -0.8])
    x = np.array([3.0, 4.0])
    true = (0.8 - 0.4) / np.sqrt(3)
    hits = 0
    for _ in range(400):
        cells = [t[:, None, None] + rng.normal(0, 0.05, (3, 4, 1)) for t in (low, high)]

        def slope(kept, cells=cells):
            return stats.line(x, np.array([stats.signed_root(stats.paired_spread(c[:, kept])) for c in cells]))[1]

        e = stats.jackknife(slope, 4)
        hits += e.low <= true <= e.high
    assert hits / 400 >= 0.9
    assert not stats.jackknife(slope, 2).bounded


def test_line_needs_two_places():
    assert stats.line(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 5.0])) == pytest.approx((-1.0, 2.0))
    with pytest.raises(ValueError, match="two different places"):
        stats.line(np.array([1.0, 1.0]), np.array([0.0, 1.0]))


def test_regret_bound_rarely_accuses_equals_and_finds_the_worse(rng):
    false = sum(any(e.low > 0 for e in stats.regret(rng.normal(0.5, 0.1, (4, 5, 2, 1)))) for _ in range(400))
    assert false / 400 <= 0.08
    scores = np.array([0.8, 0.8, 0.3])[:, None, None, None] + rng.normal(0, 0.05, (3, 6, 2, 1))
    found = stats.regret(scores)
    assert found[2].low > 0.2
    assert found[2].low < 0.5 < found[2].high
    assert all(e.low == 0 for e in found[:2])


def test_probability_of_improvement_is_a_half_for_ties_and_one_for_dominance(rng):
    a = rng.normal(size=(3, 2, 2))
    sure = stats.probability_of_improvement(a + 100, a, rng=rng)
    assert (sure.value, sure.high) == (1, 1)
    assert sure.low == pytest.approx(0.025 ** (1 / 3))  # three draws that agree are not certainty
    assert stats.probability_of_improvement(np.ones((3, 2)), np.ones((3, 2)), rng=rng).value == 0.5


def test_improvement_has_a_p_value_and_many_are_corrected_together(rng):
    a, b = rng.normal(0.5, 0.1, (8, 2, 2)), rng.normal(0.5, 0.1, (8, 2, 2))
    same, better = stats.improvement(a, b, rng=rng)[1], stats.improvement(a + 0.15, b, rng=rng)[1]
    assert better < 0.02 < same
    assert stats.improvement(a + 9, b, rng=rng)[1] == 2 * 0.5**8  # every draw agrees: a sign test
    assert stats.improvement(a[:1], b[:1], rng=rng)[1] == 1  # one draw says nothing
    assert stats.holm({"x": 0.01, "y": 0.04, "z": 0.03}) == pytest.approx({"x": 0.03, "y": 0.06, "z": 0.06})
    assert stats.holm({"x": 0.9, "y": 0.8}) == {"x": 1.0, "y": 1.0}
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        stats.holm({"x": 1.5})


def test_p_value_is_small_just_where_the_interval_leaves_out_a_half(rng):
    for shift in np.linspace(0, 0.3, 25):
        a, b = rng.normal(0.5 + shift, 0.1, (5, 2)), rng.normal(0.5, 0.1, (5, 2))
        found, p = stats.improvement(a, b, rng=rng)
        assert (p < 0.05) == (not found.low <= 0.5 <= found.high), (shift, found, p)


def test_p_values_of_equals_are_small_as_rarely_as_they_say(rng):
    p = [
        stats.improvement(*clustered(rng, 16, 1).reshape(2, 8, 1), rng=np.random.default_rng(i))[1] for i in range(300)
    ]
    assert np.mean(np.array(p) < 0.05) <= 0.08


def test_profile_is_the_share_of_runs_above_and_its_band_covers(rng):
    assert [e.value for e in stats.performance_profile(np.array([[0.1, 0.5], [0.6, 0.9]]), [0.0, 0.5, 1.0])] == [
        1,
        0.5,
        0,
    ]
    never = stats.performance_profile(np.full((3, 2), 0.4), [0.5])[0]
    assert (never.low, never.high) == (0, pytest.approx(1 - 0.025 ** (1 / 3)))  # agreement of three is no certainty
    assert not stats.performance_profile(np.ones((1, 3)), [0.5])[0].bounded
    true = reference.norm.sf(0.05, scale=np.sqrt(0.02))
    bands = [stats.performance_profile(clustered(rng, 10, 2), [0.05])[0] for _ in range(400)]
    assert 0.92 <= np.mean([e.low <= true <= e.high for e in bands]) <= 0.985


RLIABLE = json.loads((Path(__file__).parent / "rliable_numbers.json").read_text())  # see rliable_numbers.py


@pytest.mark.parametrize("table", RLIABLE["tables"])
def test_estimates_and_intervals_are_those_of_rliable(rng, table):
    peer = RLIABLE["tables"][table]
    x, y = np.array(peer["x"]), np.array(peer["y"])
    statistics = {
        "iqm": lambda s: stats.iqm(s.reshape(len(s), -1)),
        "mean": lambda s: s.mean((1, 2)),
        "median": lambda s: np.median(s.mean(1), axis=-1),
    }
    for name, statistic in statistics.items():
        value, low, high = peer[name]
        ours = stats.stratified_bootstrap(x, statistic, rng=rng, resamples=RLIABLE["reps"])
        assert ours.value == pytest.approx(value)
        # An end is a quantile of 50,000 resamples: its own error is 0.003 of the width, on both sides.
        near = 0.02 * (high - low) if table != "ties" else 1 / 60 + 1e-9  # one step of a lattice
        assert (ours.low, ours.high) == pytest.approx((low, high), abs=near)
    assert stats.interquartile_mean(x, rng=rng, resamples=100).value == pytest.approx(peer["iqm"][0])
    profile = stats.performance_profile(x[:, None], RLIABLE["thresholds"])
    assert [e.value for e in profile] == pytest.approx(peer["profile"])
    # rliable leaves runs as they are; ours calls them draws of one seed.
    ours = stats.probability_of_improvement(x[:, None], y[:, None], rng=rng)
    assert ours.value == pytest.approx(peer["improvement"])


def test_runs_needed_reach_the_power_they_promise(rng):
    n = int(stats.draws_for_equivalence(0.1 * np.sqrt(2)))
    assert 17 <= n <= 20  # about 17 in the design, by the normal approximation
    passed = np.mean(
        [stats.tost(rng.normal(0, 0.1, (n, 1)), rng.normal(0, 0.1, (n, 1))).equivalent for _ in range(1500)]
    )
    assert 0.77 <= passed <= 0.85
    m = int(stats.draws_for_bound(0.2, 0.1))
    cleared = np.mean([stats.nested_interval(rng.normal(0.1, 0.2, (m, 1))).low > 0 for _ in range(1500)])
    assert 0.77 <= cleared <= 0.85
    both = [stats.Bar(0.2, 0.1), stats.Bar(0.2, 0.1)]
    assert stats.power(both, m) == pytest.approx(stats.power(both[:1], m) ** 2)
    assert stats.draws_needed(both) > m  # two tests must both pass


def test_power_with_many_tasks_is_that_of_their_pooled_degrees_of_freedom(rng):
    bar = stats.Bar(0.2 / np.sqrt(4), 0.1, strata=4)  # four tasks, each with 0.2
    found = [stats.nested_interval(rng.normal(0.1, 0.2, (5, 1, 4))).low > 0 for _ in range(1500)]
    assert np.mean(found) == pytest.approx(bar.power(5), abs=0.05)


def test_runs_for_equivalence_grow_with_the_effect_without_a_jump():
    """A true difference of almost nothing needs as many draws as none; both margins have to be cleared."""
    needed = [stats.draws_for_equivalence(0.1, effect=e) for e in (0.0, 1e-9, 0.01, 0.03, 0.06, 0.09)]
    assert needed[0] == needed[1]
    assert needed == sorted(needed)
    assert stats.draws_for_equivalence(0.1, effect=-0.06) == needed[4]
    assert stats.draws_for_equivalence(0.0, effect=0.06) == 2


def test_no_number_of_runs_makes_unequal_equal():
    assert stats.draws_for_equivalence(0.1, effect=0.1) == inf
    assert stats.draws_for_bound(0.1, 0.0) == inf
    assert stats.draws_for_bound(0.0, 0.1) == 2
