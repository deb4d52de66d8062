"""Laws of the distance to the data: none at home, more the farther away; and of its rank correlation with score."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolkit import cli, plots, registry
from toolkit.collect import collect
from toolkit.distance import SPLITS, Known, ranked, sentence
from toolkit.evaluate import evaluate
from toolkit.store import ReplayStore
from toolkit.train import train
from toolkit.visits import distances, training_points


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("distance")
    collect("pendulum", out=root / "p.zarr", episodes=6, contexts=3, coverage=0.3, seed=0)
    collect("pointmaze", out=root / "m.zarr", episodes=2, contexts=2, coverage=0.3, seed=0)
    options = {"hidden": (16, 16)}
    return train("bc", store=root / "p.zarr", options=options, steps=20, episodes=3, out=root / "runs")


def test_the_data_are_at_home_and_a_shift_leads_away(run: Path) -> None:
    suite = registry.suite("pendulum")
    points = training_points(ReplayStore.open(run.parent.parent / "p.zarr"), suite, seed=0)
    assert len(points) == 6 * 201
    assert Known(points, suite.extent, neighbours=1).distance(points).max() == 0
    known = Known(points, suite.extent)
    away = [known.distance(points + np.array([0, shift])).mean() for shift in (0.0, 1.0, 4.0, 16.0)]
    assert away[0] < 0.01
    assert away == sorted(away)
    assert away[3] > 30 * away[0]


def test_a_distance_is_a_share_of_the_range_to_the_neighbour_asked_for() -> None:
    points = np.array([[0.0, 0.0], [1.0, 0.0], [10.0, 200.0]])
    assert Known(points, [(0, 10), (0, 400)], neighbours=1).distance([[3.0, 0.0]]).tolist() == pytest.approx([0.2])
    assert Known(points, [(0, 10), (0, 400)], neighbours=2).distance([[3.0, 0.0]]).tolist() == pytest.approx([0.3])
    assert Known(points, neighbours=1).distance([[10.0, 100.0]]).tolist() == pytest.approx([0.5])  # the data's range
    assert Known(np.zeros((3, 1)), neighbours=1).distance([[2.0]]).tolist() == [2.0]  # no range: as it is


@pytest.mark.parametrize(("count", "message"), [(0, "neighbours must be at least 1"), (4, "fewer than 4 neighbours")])
def test_neighbours_that_cannot_be_are_refused(count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Known(np.zeros((3, 2)), neighbours=count)


def test_watching_changes_no_episode_and_sees_every_state(run: Path) -> None:
    rows = distances(run)
    records = evaluate(run, splits=SPLITS)
    told = [(r.split, r.episode, r.episode_return, r.score) for r in records]
    assert [(r["split"], r["episode"], r["return"], r["score"]) for r in rows] == told
    assert all(0 < r["distance"] <= r["farthest"] < 1 for r in rows)


def test_a_policy_stays_nearer_to_its_own_data_than_to_a_few_others(run: Path) -> None:
    """Distances to other data than the run's own, in the same coordinates."""
    collect("pendulum", out=run.parent.parent / "few.zarr", episodes=2, contexts=1, coverage=0.0, seed=9)
    own, other = (distances(run, episodes=3, store=s) for s in (None, run.parent.parent / "few.zarr"))
    assert [r["return"] for r in own] == [r["return"] for r in other]
    assert np.mean([r["distance"] for r in own]) < np.mean([r["distance"] for r in other])


def test_data_of_another_suite_are_refused(run: Path) -> None:
    with pytest.raises(ValueError, match=r"is of suite 'pointmaze', .* of 'pendulum'"):
        distances(run, store=run.parent.parent / "m.zarr")


def test_what_was_measured_is_kept_for_the_same_question_only(run: Path) -> None:
    rows = distances(run, episodes=2)
    (path,) = (p for p in (run / "distances").iterdir() if len(json.loads(p.read_text())["rows"]) == len(rows))
    body = json.loads(path.read_text())
    body["rows"][0]["score"] = 123.0
    path.write_text(json.dumps(body))
    assert distances(run, episodes=2)[0]["score"] == 123.0
    assert distances(run, episodes=2, neighbours=2)[0]["score"] != 123.0
    path.unlink()
    assert distances(run, episodes=2) == rows


def table(score: Any, *, draws: int = 3, learner: str = "bc", suite: str = "pendulum") -> list[dict[str, Any]]:
    """Ten episodes a split and draw at distances 0, 1, ...; each split lies 10 farther than the one before."""
    return [
        {
            "learner": learner, "dataset": "d", "draw": draw, "seed": draw, "suite": suite, "split": split,
            "episode": i, "distance": 10.0 * k + i, "farthest": 99.0, "score": score(k, i), "return": 0.0,
            "neighbours": 3,
        }
        for draw in range(draws) for k, split in enumerate(SPLITS) for i in range(10)
    ]  # fmt: skip


def test_ranks_are_compared_inside_a_run_and_inside_a_split() -> None:
    (falls,) = ranked(table(lambda k, i: -10 * k - i))
    assert (falls["tau"], falls["within"]) == pytest.approx((-1, -1))
    assert (falls["runs"], falls["draws"]) == (3, 3)
    (simpson,) = ranked(table(lambda k, i: -100 * k + i))  # splits fall, and inside each the score rises
    assert simpson["tau"] < -0.3
    assert simpson["within"] == pytest.approx(1)
    assert "none" in sentence([falls | {"tau_high": 0.5, "within_high": 0.1}])
    assert "(bc)" in sentence([falls])


def test_equal_scores_have_no_rank() -> None:
    (row,) = ranked(table(lambda k, i: 1.0))
    assert row["tau"] is None
    assert row["within"] is None
    assert "0 of 1 learners" in sentence([row])


def test_suites_are_averaged_not_pooled() -> None:
    both = table(lambda k, i: -10 * k - i) + table(lambda k, i: 1000 + 10 * k + i, suite="pointmaze")
    rows = {r["suite"]: r for r in ranked(both)}
    assert [rows[name]["tau"] for name in ("pendulum", "pointmaze", "all")] == pytest.approx([-1, 1, 0])


def test_the_figure_thins_points_but_no_number() -> None:
    figure = registry.figures()["distance"]
    many = table(lambda k, i: -10 * k - i, draws=40)
    rows = figure.rows(many)
    assert sum(r["kind"] == "episode" for r in rows) < len(many) / 2
    assert {r["episodes"] for r in rows if r["kind"] == "mean"} == {400}
    assert next(r["tau"] for r in rows if r["kind"] == "rank") == ranked(many)[0]["tau"]


def test_the_command_tells_and_draws(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["distance", str(run), "--episodes", "2", "--out", str(tmp_path / "f")]) == 0
    out = capsys.readouterr().out
    assert "Episodes that went farther from the training data" in out
    assert (tmp_path / "f" / "distance.png").stat().st_size > 10_000
    again = plots.plot([tmp_path / "f"], ["distance"], tmp_path / "g")
    assert again[2].read_bytes() == (tmp_path / "f" / "distance.csv").read_bytes()


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--neighbours", "0"], "--neighbours must be at least 1"), (["--episodes", "0"], "nothing to evaluate")],
)
def test_wrong_input_is_an_error(run: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str) -> None:
    assert cli.main(["distance", str(run), *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["distance", "bottlenecks", "fqe", "eval --video 1"])
def test_every_run_is_checked_before_the_first_acts_or_is_fitted(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    good, bad = tmp_path / "a", tmp_path / "b"
    for copy in (good, bad):
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("distances"))
    (bad / "spec.json").unlink()
    before = sorted(good.rglob("*"))
    assert cli.main([*command.split(), str(good), str(bad)]) == 2
    out, err = capsys.readouterr()
    assert f"{bad} has no spec.json" in err
    assert "%" not in err, "progress was shown"
    assert out == ""
    assert sorted(good.rglob("*")) == before
