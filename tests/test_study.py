"""Laws of a study: planned before it runs, continued after an interruption, refused when the plan changes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from toolkit.claim import verdict_table
from toolkit.design import SMOKE, Design
from toolkit.engines.local import TaskFailed, map_tasks
from toolkit.records import load, run_folders
from toolkit.store import ReplayStore
from toolkit.study import RunsFailed, claim

TINY = replace(
    SMOKE,
    name="tiny",
    sizes=(2, 4),
    contexts=(1, 2),
    coverages=(0.2,),
    draws=2,
    steps=5,
    batch_size=16,
    episodes=1,
    learners={"iql": {"hidden": (8,)}, "bc": {"hidden": (8,)}},
)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "claim"
    return out, claim(TINY, out=out, slots=2, command="packmule claim")


def test_a_study_ends_in_a_report_and_a_verdict(done):
    out, result = done
    page = result.report.read_text()
    assert TINY.hash in page
    assert "inconclusive" in page
    assert "inconclusive" in verdict_table(result.analysis)
    assert {p.suffix for p in (out / "report" / "figures").iterdir()} == {".png", ".svg", ".csv"}
    assert len(run_folders(out)) == TINY.runs == 16
    assert set(json.loads((out / "timings.json").read_text())) == {
        "collect",
        "train and evaluate",
        "analyse and report",
    }
    figures = {path.name for path in (out / "report" / "figures").iterdir()}
    assert {"comparison.csv", "scaling.csv", "seen_unseen.csv"} <= figures


def test_smaller_data_are_inside_larger_and_hold_every_context(done):
    out, _ = done
    for dataset in TINY.datasets():
        store = ReplayStore.open(out / "data" / dataset.name)
        small, large = store.view("n2"), store.view("n4")
        assert {bytes(u) for u in small.episodes["uid"]} < {bytes(u) for u in large.episodes["uid"]}
        for view in (small, large):
            assert len(np.unique(view.episodes["context"], axis=0)) == dataset.contexts


def test_draws_are_independent_and_learners_are_paired(done):
    out, _ = done
    records = load(out / "runs")
    contexts = {(r.learner, r.tags["draw"], r.split): r.context for r in records if r.tags["size"] == 400}
    assert contexts["bc", 0, "interpolated"] == contexts["iql", 0, "interpolated"]
    assert contexts["bc", 0, "interpolated"] != contexts["bc", 1, "interpolated"]
    assert {r.tags["size"] for r in records} == {400, 800}


def test_doing_it_again_repeats_nothing_and_says_the_same(done):
    out, first = done
    before = {path: (path / "DONE").stat().st_mtime_ns for path in run_folders(out)}
    again = claim(TINY, out=out, slots=2, command="packmule claim")
    assert {path: (path / "DONE").stat().st_mtime_ns for path in run_folders(out)} == before
    assert again.analysis.to_json() == first.analysis.to_json()


def test_another_design_in_the_same_folder_is_refused(done):
    out, _ = done
    with pytest.raises(ValueError, match="steps: 5 -> 6"):
        claim(replace(TINY, steps=6), out=out)


def test_a_failing_run_is_reported_and_the_others_are_kept(tmp_path, monkeypatch, capsys):
    broken = replace(TINY, contexts=(1,), sizes=(2,), draws=1, learners={"bc": {"lr": 1e30}, "iql": {"hidden": (8,)}})
    with pytest.raises(RunsFailed, match="1 of 2 failed"):
        claim(broken, out=tmp_path / "c", slots=1)
    assert "not finite" in capsys.readouterr().err
    assert len(run_folders(tmp_path / "c")) == 1


def test_an_interrupted_study_continues(tmp_path):
    program = (
        "from pathlib import Path; import sys; sys.path.insert(0, sys.argv[2])\n"
        "from dataclasses import replace; from test_study import TINY; from toolkit import cli, study\n"
        "study.TIERS['smoke'] = replace(TINY, steps=400)\n"
        "if __name__ == '__main__': sys.exit(cli.main(['claim', '--out', sys.argv[1], '--slots', '2']))\n"
    )
    script = tmp_path / "interrupted.py"
    script.write_text(program)
    argv = [sys.executable, str(script), str(tmp_path / "c"), str(Path(__file__).parent)]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 300
    while not list((tmp_path / "c").glob("runs/*/DONE")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the driver and its workers
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "the same command continues" in errors
    assert "Traceback" not in errors
    finished = len(run_folders(tmp_path / "c"))
    assert 0 < finished < 16
    whole = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    assert whole.returncode == 0, whole.stderr
    assert "Report:" in whole.stdout
    assert len(run_folders(tmp_path / "c")) == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": ()}, "sizes must name each level once"),
        ({"contexts": (2, 2)}, "contexts must name each level once"),
        ({"contexts": (2, 50)}, "50 contexts do not fit in 2 episodes"),
        ({"draws": 0}, "draws must be at least 1"),
    ],
)
def test_a_design_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


def test_any_change_of_the_plan_changes_its_hash():
    assert len({TINY.hash, SMOKE.hash, replace(TINY, noise=0.2).hash, replace(TINY, episodes=2).hash}) == 4
    assert isinstance(TINY, Design)


def crash(how: str) -> str:
    if how == "die":
        os._exit(7)
    if how == "raise":
        raise ValueError("on purpose")
    return how


def linger(path: str) -> None:
    Path(path).touch()
    time.sleep(600)


def test_workers_stop_when_the_driver_is_killed(tmp_path):
    script = tmp_path / "driver.py"
    script.write_text(
        "import os, sys; sys.path.insert(0, sys.argv[2]); from test_study import linger, map_tasks\n"
        "if __name__ == '__main__': list(map_tasks([(linger, (sys.argv[1],))], slots=1))\n"
    )
    argv = [sys.executable, str(script), str(tmp_path / "began"), str(Path(__file__).parent)]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (tmp_path / "began").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    assert process.communicate(timeout=20)[1] == "", "the worker holds standard error until it ends"


@pytest.mark.parametrize("text", ["", "[1]", "[" * 100_000])
def test_a_damaged_file_of_a_study_is_named(tmp_path, text):
    (tmp_path / "design.json").write_text(text)
    with pytest.raises(ValueError, match=r"design\.json"):
        claim(TINY, out=tmp_path)


def test_a_task_that_crashes_touches_no_other():
    tasks = [(crash, (how,)) for how in ("a", "die", "b", "raise", "c", "d")]
    results = dict(map_tasks(tasks, slots=2))
    assert [results[i] for i in (0, 2, 4, 5)] == ["a", "b", "c", "d"]
    assert isinstance(results[1], TaskFailed)
    assert "exit code 7" in str(results[1])
    assert "on purpose" in str(results[3])
