"""What a study will cost is told before it begins, and telling it leaves nothing behind."""

from __future__ import annotations

import tempfile
from dataclasses import replace

import pytest

from toolkit import cli, hours, study
from toolkit.design import Task
from toolkit.hours import Prices
from toolkit.tiers import SMOKE, STANDARD

COSTS = dict.fromkeys(STANDARD.learners, 2.0)
FIT = {"bc": 4.0, "iql": 3.0}  # the others have no policy that can be fitted
PRICE = Prices(1e-4, dict.fromkeys(STANDARD.learners, 0.002), dict.fromkeys(STANDARD.learners, 0.01))


def test_the_bill_counts_every_run_and_every_transition():
    design = replace(STANDARD, costs=COSTS)
    bills = [hours.bill(design, task, PRICE) for task in design.tasks]
    assert sum(bill.runs for bill in bills) == design.runs
    datasets = list(design.datasets())
    usual = sum(dataset.quality == 1 for dataset in datasets)
    collected = sum(max(dataset.sizes) for dataset in datasets) + usual * design.held_out
    assert sum(bill.transitions for bill in bills) == collected
    # with equal prices an arm of equal compute costs what equal updates cost
    assert bills[0].train == pytest.approx(bills[0].runs * design.steps * 0.002 / 3600)


def test_models_kept_on_the_way_are_evaluated_and_measured_and_nothing_else_costs_more():
    kept, not_kept = (
        hours.bill(replace(STANDARD, costs=COSTS, snapshots=n), STANDARD.tasks[0], replace(PRICE, fit=FIT))
        for n in (3, 0)
    )
    runs = 2 * STANDARD.draws * len(STANDARD.learners)  # in the least and the top cell
    once = not_kept.evaluate / not_kept.runs
    assert kept.evaluate - not_kept.evaluate == pytest.approx(3 * runs * once)
    assert kept.measure == pytest.approx(2 * STANDARD.draws * 4 * 7.0 / 3600)
    assert not_kept.measure == 0
    assert (kept.collect, kept.train, kept.runs) == (not_kept.collect, not_kept.train, not_kept.runs)


def test_twice_the_draws_cost_twice_as_much():
    one, two = (hours.bill(replace(STANDARD, costs=COSTS, draws=d), STANDARD.tasks[0], PRICE) for d in (5, 10))
    for phase in ("collect", "train", "evaluate"):
        assert getattr(two, phase) == pytest.approx(2 * getattr(one, phase))


def test_a_dry_run_prints_plan_and_hours_and_writes_nothing(tmp_path, monkeypatch, capsys):
    design = replace(
        SMOKE, tasks=(Task("pendulum"), Task("reacher")), learners={"iql": {}, "bc": {}}, arms=("updates", "compute")
    )
    monkeypatch.setitem(study.TIERS, "smoke", design)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    out = tmp_path / "claim"
    assert cli.main(["claim", "--dry-run", "--only", "pendulum", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    for words in ("design smoke", "pendulum", "core hours", "steps at equal compute", "iql"):
        assert words in told
    assert "reacher " not in told.split("\n\n", 1)[1]
    assert not out.exists()
    assert not list(tmp_path.rglob("*.zarr"))
    assert cli.main(["claim", "--dry-run", "--only", "pendulm", "--out", str(out)]) == 2
    assert "did you mean 'pendulum'" in capsys.readouterr().err
