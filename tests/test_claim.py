"""The verdict on studies whose truth is known."""

from __future__ import annotations

import dataclasses
import json

import pytest
from fake_records import FAMILIES, GRID, TOP, fake_records

from toolkit.claim import analyse, words
from toolkit.claim import analysis as claim
from toolkit.runs import AXES


def gap(learner, cell):
    """Offline RL always trails by 0.5."""
    return 0.8 - 0.5 * (FAMILIES[learner] == "offline_rl")


def closing(learner, cell):
    """mpc trails by 0.4 on small data and by nothing on large."""
    return 0.8 - 0.4 * (learner == "mpc" and cell[0] == GRID[0][0])


def test_equal_and_good_with_many_draws_is_supported():
    found = analyse(fake_records(draws=12), seed=0)
    for axis in ("overall", *AXES):
        assert found.verdict("strong", axis).outcome == "supported"
        assert found.verdict("weak", axis).outcome == "supported"
    assert all(p.equivalent for p in found.pairs)
    assert abs(found.spreads[-1].spread) < 0.05


def test_convergence_along_one_axis_is_seen_there_and_only_there():
    found = analyse(fake_records(closing, draws=10), seed=0)
    slopes = {s.axis: s.slope for s in found.slopes}
    assert slopes["size"].high < -0.1
    assert slopes["contexts"].low < 0 < slopes["contexts"].high
    assert "falls along size" in found.verdict("strong", "size").reason


def test_one_family_far_worse_with_enough_runs_is_refuted():
    found = analyse(fake_records(gap, draws=8), seed=0)
    assert found.verdict("strong").outcome == "refuted"
    assert found.verdict("weak").outcome == "refuted"  # 0.3 is what the behaviour scores
    assert "offline_rl" in found.verdict("strong").reason
    assert found.regret["offline_rl"].low > 0.2


def test_a_worse_family_that_works_refutes_only_the_strong_reading():
    found = analyse(fake_records(lambda n, c: 0.9 - 0.4 * (n == "mpc"), draws=10, behaviour=0.1), seed=0)
    assert found.verdict("strong").outcome == "refuted"
    assert found.verdict("weak").outcome == "supported"


def test_regret_alone_does_not_refute_that_a_family_does_something_reasonable():
    """mpc trails by 0.45 yet may well be 0.1 above the behaviour: the weak reading stays open."""
    found = analyse(fake_records(lambda n, c: 0.9 - 0.45 * (n == "mpc"), draws=8, behaviour=0.35), seed=0)
    assert found.verdict("strong").outcome == "refuted"
    assert found.verdict("weak").outcome == "inconclusive"


def test_a_gap_that_is_closing_is_not_refuted():
    def truth(learner, cell):
        return 0.85 - (0.4 if cell[0] > 2_000 else 0.75) * (learner == "mpc")

    cells = [(n, 16, 0.5) for n in (2_000, 20_000)]
    found = analyse(fake_records(truth, cells=cells, draws=10), seed=0)
    assert found.regret["model_based"].low > 0.2
    verdict = found.verdict("strong", "size")
    assert verdict.outcome == "inconclusive"
    assert "might still close with more data" in verdict.reason


def test_failing_alike_is_not_support():
    found = analyse(fake_records(lambda n, c: 0.25, draws=12, behaviour=0.05), seed=0)
    assert all(found.works_weak.values())
    assert all(p.equivalent for p in found.pairs)
    assert {v.outcome for v in found.verdicts} == {"inconclusive"}
    assert "agreement among failures" in found.verdict("strong").reason
    assert not any(s.counts for s in found.spreads)


def test_at_the_ceiling_nothing_is_supported():
    found = analyse(fake_records(lambda n, c: 0.99, draws=12), seed=0)
    assert {v.outcome for v in found.verdicts} == {"inconclusive"}
    assert "ceiling" in found.verdict("weak").reason


def test_two_noisy_draws_decide_nothing_and_say_how_many_would():
    records = fake_records(lambda n, c: 0.7 - 0.3 * (n == "mpc"), draws=2, draw_sd=0.1, seed_sd=0.15)
    found = analyse(records, seed=0)
    assert {v.outcome for v in found.verdicts} == {"inconclusive"}
    assert all(v.draws_needed is not None and v.draws_needed > 2 for v in found.verdicts)


def test_two_draws_decide_nothing_however_clear():
    for truth in (gap, lambda n, c: 0.8):
        found = analyse(fake_records(truth, draws=2, seed_sd=1e-6, draw_sd=0), seed=0)
        assert {v.outcome for v in found.verdicts} == {"inconclusive"}
        assert "2 dataset draws cannot decide" in found.verdict("strong").reason
        assert found.verdict("strong").draws_needed == 3


def test_more_runs_are_never_promised_when_the_truth_lies_between_the_margins():
    found = analyse(fake_records(lambda n, c: 0.8 - 0.15 * (n == "mpc"), draws=12, seed_sd=0.01), seed=0)
    assert found.verdict("strong").outcome == "inconclusive"
    assert found.verdict("strong").draws_needed == float("inf")
    assert "would not decide" in found.verdict("strong").reason
    assert "support needs every two families within 0.1" in found.verdict("strong").reason
    assert "refutation needs a family over 0.2 behind the best" in found.verdict("strong").reason


@pytest.mark.parametrize(("draws", "seeds"), [(1, 1), (1, 4), (2, 1), (3, 1)])
def test_few_runs_never_crash(draws, seeds):
    found = analyse(fake_records(draws=draws, seeds=seeds), seed=0)
    text = words.verdict_table(found)
    json.dumps(found.to_json(), allow_nan=False)
    if draws == 1:
        assert {v.outcome for v in found.verdicts} == {"inconclusive"}
        assert "one draw" in text
        assert "n/a" in text


def test_same_seed_same_analysis_in_any_order_of_records():
    records = fake_records()
    assert analyse(records, seed=3).to_json() == analyse(records[::-1], seed=3).to_json()


def test_only_the_last_step_counts():
    records = fake_records(draws=2)
    early = [dataclasses.replace(r, step=10, episode_return=-999.0) for r in records]
    assert analyse(early + records, seed=0) == analyse(records, seed=0)


def test_missing_runs_are_named():
    records = [
        r
        for r in fake_records()
        if not (r.learner == "iql" and r.seed == 2001 and r.tags["draw"] == 2 and r.tags["size"] == 2_000)
    ]
    with pytest.raises(
        ValueError,
        match=r"iql on 2,000 transitions, 2 contexts, coverage 0.1, pointmaze, draw 2, seed 2001",
    ):
        analyse(records, seed=0)


def test_missing_episodes_tags_and_splits_are_named():
    records = fake_records(draws=2)
    with pytest.raises(ValueError, match="no evaluation records"):
        analyse([], seed=0)
    with pytest.raises(ValueError, match="runs are missing: draw 1 has 1 seeds of 2"):
        analyse([r for r in records if r.seed != 1001], seed=0)
    with pytest.raises(ValueError, match=r"interpolated contexts are missing: .*: 2 of 3"):
        analyse([r for r in records if r is not records[-1]], seed=0)
    with pytest.raises(ValueError, match="lacks tags"):
        analyse(fake_records(tagged=False, cells=[TOP], draws=1), seed=0)
    with pytest.raises(ValueError, match="no interpolated evaluation"):
        analyse(fake_records(splits=["seen"]), seed=0)
    with pytest.raises(ValueError, match="no run has the top cell"):
        analyse(fake_records(cells=[GRID[0], (20_000, 2, 0.1), (2_000, 16, 0.5)]), seed=0)


def test_scores_at_different_steps_or_on_different_scales_are_not_compared():
    records = fake_records(draws=2)

    def changed(**fields):
        return [dataclasses.replace(r, **fields) if r.run == records[0].run else r for r in records]

    with pytest.raises(ValueError, match=r"ended at different steps: bc .*: step 500 of 1000"):
        analyse(changed(step=500), seed=0)
    with pytest.raises(ValueError, match=r"different references \(random, expert\): pointmaze interpolated"):
        analyse(changed(random=-40.0), seed=0)
    with pytest.raises(ValueError, match=r"references .* the expert's above the random policy's"):
        analyse(changed(random=150.0, expert=-50.0), seed=0)
    with pytest.raises(ValueError, match="references"):
        analyse(changed(expert=float("inf")), seed=0)
    with pytest.raises(ValueError, match="not finite"):
        analyse(changed(behaviour=float("nan")), seed=0)
    mpc = [dataclasses.replace(r, step=700) if r.learner == "mpc" else r for r in records]
    assert len(analyse(mpc, seed=0).families) == 3  # an arm of equal compute: learners may differ in steps


def test_two_suites_are_pooled_as_strata():
    """A difference between suites is not uncertainty, and the draws of both count towards the degrees of freedom."""
    one = fake_records(draws=3, seed_sd=0.05)
    two = [
        dataclasses.replace(r, suite="pendulum", run="p" + r.run, episode_return=r.episode_return + 20)
        for r in fake_records(draws=3, seed_sd=0.05, seed=1)
    ]
    found = analyse(one + two, seed=0)
    assert found.suites == ["pendulum", "pointmaze"]
    assert found.family_scores["supervised"].value == pytest.approx(0.75, abs=0.06)
    apart = [analyse(x, seed=0).family_scores["supervised"] for x in (one, two)]
    assert found.family_scores["supervised"].value == pytest.approx(sum(e.value for e in apart) / 2)
    widths = [e.high - e.low for e in [found.family_scores["supervised"], *apart]]
    assert widths[0] < max(widths[1:])
    with pytest.raises(ValueError, match=r"runs are missing: bc on .*, pendulum"):
        analyse(one + [r for r in two if r.run != two[0].run], seed=0)


def test_two_runs_in_one_place_are_named():
    records = fake_records(draws=1)
    twins = [dataclasses.replace(r, run="twin") for r in records if r.run == records[0].run]
    with pytest.raises(ValueError, match="twin"):
        analyse(records + twins, seed=0)


def test_plain_cloning_is_apart_once_its_family_has_a_fairer_form():
    fair = [dataclasses.replace(r, family="supervised") if r.learner == "mpc" else r for r in fake_records()]
    found = analyse(fair, seed=0)
    assert found.families["supervised"] == ["mpc"]
    assert found.apart == ["bc"]
    assert "bc" in found.learner_scores
    assert analyse(fake_records(), seed=0).families["supervised"] == ["bc"]


def test_one_family_cannot_test_the_claim():
    found = analyse(fake_records(learners=["cql", "iql"], draws=6), seed=0)
    assert {v.outcome for v in found.verdicts} == {"inconclusive"}
    assert "Only one family" in found.verdict("weak").reason


def test_direction_compares_small_and_narrow_with_large_and_diverse():
    records = fake_records(lambda n, c: 0.4 + 0.3 * (c == TOP) * (n != "bc"), draws=6)
    found = {d.learner: d for d in claim.direction(records)}
    assert (found["iql"].low, found["iql"].high) == (GRID[0], TOP)
    assert found["iql"].difference.low > 0.15
    assert found["iql"].up == found["iql"].pairs == 12
    assert found["bc"].difference.low < 0 < found["bc"].difference.high
    assert claim.direction(fake_records(cells=[TOP])) == []


def test_an_axis_with_one_level_is_left_open_and_a_star_design_will_do():
    star = [(2_000, 16, 0.5), (20_000, 2, 0.5), TOP]
    found = analyse(fake_records(cells=star, draws=10), seed=0)
    assert found.verdict("strong", "size").outcome == "supported"
    assert "one level" in found.verdict("strong", "coverage").reason


def test_without_a_varied_axis_no_number_of_draws_is_promised():
    """Refutation needs a slope, so one cell can never refute, however clear the gap."""
    found = analyse(fake_records(gap, cells=[TOP], draws=8), seed=0)
    assert found.regret["offline_rl"].low > 0.2
    assert found.verdict("strong").outcome == "inconclusive"
    assert found.verdict("strong").draws_needed == float("inf")
    assert "none was varied" in found.verdict("strong").reason


def test_the_slope_is_on_log_size_log_contexts_and_coverage_itself():
    """mpc trails by 0.4 on the least coverage: three families 0, 0, -0.4 lie sqrt(0.16 / 3) apart."""
    cells = [(20_000, 16, a) for a in (0.1, 0.5)]
    records = fake_records(lambda n, c: 0.8 - 0.4 * (n == "mpc" and c[2] == 0.1), cells=cells, seed_sd=1e-9)
    slope = next(s for s in analyse(records, seed=0).slopes if s.axis == "coverage")
    assert (slope.per, slope.at) == ("unit", 1.0)
    assert slope.slope.value == pytest.approx(-((0.16 / 3) ** 0.5) / 0.4, abs=1e-6)
    cells = [(n, 16, 0.5) for n in (200, 20_000)]
    records = fake_records(lambda n, c: 0.8 - 0.4 * (n == "mpc" and c[0] == 200), cells=cells, seed_sd=1e-9)
    slope = next(s for s in analyse(records, seed=0).slopes if s.axis == "size")
    assert (slope.per, slope.at) == ("tenfold", 200_000)
    assert slope.slope.value == pytest.approx(-((0.16 / 3) ** 0.5) / 2, abs=1e-6)


def test_coverage_zero_is_walked_on_a_linear_scale():
    cells = [(20_000, 16, a) for a in (0.0, 0.5)]
    slope = next(s for s in analyse(fake_records(cells=cells, draws=4), seed=0).slopes if s.axis == "coverage")
    assert (slope.per, slope.at) == ("unit", 1.0)
    assert slope.slope is not None


def test_table_is_aligned_and_names_range_and_runs():
    text = words.verdict_table(analyse(fake_records(), seed=0))
    lines = text.splitlines()
    assert lines[0].index("weak reading") == lines[2].index("supported")
    assert "within this range" in text
    assert "3 dataset draws with 2 seeds each" in text
    assert "fewer than ten" in text
    assert "unsupervised techniques; none was run" in text
