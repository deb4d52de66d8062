"""Laws of a study: planned before it runs, continued after an interruption, refused when the plan changes."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from toolkit import cli, registry, study_distance, train
from toolkit.claim import verdict_table
from toolkit.configure import learner_config
from toolkit.design import Design, Task, Tuning
from toolkit.engines.local import TaskFailed, map_tasks
from toolkit.records import EVALUATION_SPLITS, load, read_config, run_folders
from toolkit.store import ReplayStore
from toolkit.study import RunsFailed, claim, conclude
from toolkit.tables import DISTANCES
from toolkit.tiers import SMOKE, TIERS

TINY = replace(
    SMOKE,
    name="tiny",
    sizes=(400, 800),
    contexts=(1, 2),
    coverages=(0.2,),
    draws=2,
    steps=5,
    batch_size=16,
    episodes=1,
    distance_episodes=1,
    learners={"iql": {"hidden": (8,)}, "bc": {"hidden": (8,)}},
    held_out=400,
    snapshots=1,
    fqe_steps=3,
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
    assert "Episodes that went farther from the training data scored lower with" in page
    assert "inconclusive" in verdict_table(result.analysis)
    assert {p.suffix for p in (out / "report" / "figures").iterdir()} == {".png", ".svg", ".csv"}
    assert len(run_folders(out)) == TINY.runs == 16
    assert set(json.loads((out / "timings.json").read_text())) == {
        "collect",
        "train and evaluate",
        "measure",
        "distance to the data",
        "analyse and report",
    }
    figures = {path.name for path in (out / "report" / "figures").iterdir()}
    assert {"comparison.csv", "scaling.csv", "seen_unseen.csv"} <= figures


def test_the_runs_in_the_top_cell_are_watched_and_a_missing_one_is_named(done, tmp_path):
    out, _ = done
    copy = shutil.copytree(out, tmp_path / "claim")
    configs = [read_config(folder) for folder in run_folders(copy / "runs")]
    (table,) = study_distance.tables(TINY, configs, copy, partial=False)
    rows = DISTANCES.read(table)
    assert {(r["learner"], r["draw"], r["split"]) for r in rows} == {
        (learner, draw, split) for learner in TINY.learners for draw in range(2) for split in EVALUATION_SPLITS
    }
    gone = study_distance.watched(TINY, configs)[0]
    shutil.rmtree(copy / "runs" / gone.folder_name / "distances")
    with pytest.raises(ValueError, match=f"runs were not watched.*{gone.folder_name}"):
        study_distance.tables(TINY, configs, copy, partial=False)
    (table,) = study_distance.tables(TINY, configs, copy, partial=True)
    assert len(DISTANCES.read(table)) == len(rows) - 3
    assert study_distance.tables(replace(TINY, distance_episodes=0), configs, copy, partial=False) == []


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


def test_held_out_episodes_are_collected_alike_before_training_and_nobody_trains_on_them(done):
    out, _ = done
    first = min(path.stat().st_mtime_ns for path in out.glob("runs/*/config.json"))
    for dataset in TINY.datasets():
        own, beside = (ReplayStore.open(out / folder / dataset.name) for folder in ("data", "held-out"))
        assert beside.transitions == 400
        assert not {bytes(u) for u in own.episodes["uid"]} & {bytes(u) for u in beside.episodes["uid"]}
        made = [dict(store.schema.environment["collect"]) for store in (own, beside)]
        assert made[0].pop("seed") != made[1].pop("seed")
        assert made[0] == made[1]
        assert (out / "held-out" / dataset.name / "views" / "n2.json").stat().st_mtime_ns < first


def test_bits_are_of_every_run_and_proxies_of_what_the_outer_cells_kept(done):
    out, result = done
    with (out / "bits_of_runs.csv").open() as file:
        bits = list(csv.DictReader(file))
    configs = {read_config(path).identity: read_config(path) for path in run_folders(out)}
    assert {r["run"] for r in bits} == set(configs)
    assert len(bits) == 2 * len(configs)
    with (out / "proxies_of_runs.csv").open() as file:
        proxies = list(csv.DictReader(file))
    kept = {name for name, config in configs.items() if config.evaluate_every}
    ends = {(400, 1), (800, 2)}
    assert kept == {n for n, c in configs.items() if (c.tags["size"], c.tags["contexts"]) in ends}
    assert {(r["run"], r["step"]) for r in proxies} == {(name, step) for name in kept for step in "35"}
    final = {(r["run"], r["proxy"]): r["value"] for r in proxies if r["step"] == "5"}
    for r in bits:
        assert final.get((r["run"], f"{r['what']} bits"), r["explained"]) == r["explained"]
    page = result.report.read_text()
    for name in ("bits", "proxies", "selection"):
        assert f", {name}.</strong>" in page
    assert "Over cells of learner and dataset, action bits" in page


def test_a_report_without_the_measures_of_its_runs_is_refused_and_foreign_rows_are_left_out(copy):
    table = copy / "bits_of_runs.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, lines[-1].replace(lines[-1].split(",")[5], "0123456789ab")]) + "\n")
    conclude(copy)
    assert (copy / "report" / "bits_of_runs.csv").read_text().splitlines() == lines
    table.write_text("\n".join(lines[:-2]) + "\n")
    with pytest.raises(ValueError, match=r"bits_of_runs\.csv lacks runs"):
        conclude(copy)


def test_a_plan_saved_before_there_were_held_out_data_still_says_what_it_said():
    saved = json.loads((Path(__file__).parent.parent / "docs" / "smoke" / "design.json").read_text())
    saved.pop("amendments")
    for name in ("held_out", "snapshots", "fqe_steps", "distance_episodes"):
        saved.pop(name, None)
    plain = replace(SMOKE, held_out=0, snapshots=0, fqe_steps=0, distance_episodes=0)
    assert Design.from_json(saved | {"hash": plain.hash}).hash == plain.hash
    assert len({plain.hash, replace(plain, held_out=1).hash, replace(plain, distance_episodes=1).hash}) == 3


def test_doing_it_again_repeats_nothing_and_says_the_same(done):
    out, first = done
    before = {path: (path / "DONE").stat().st_mtime_ns for path in run_folders(out)}
    again = claim(TINY, out=out, slots=2, command="packmule claim")
    assert {path: (path / "DONE").stat().st_mtime_ns for path in run_folders(out)} == before
    assert again.analysis.to_json() == first.analysis.to_json()


def test_another_design_in_the_same_folder_is_refused(done):
    out, _ = done
    with pytest.raises(ValueError, match=r"steps: 5 -> 6.*--amend"):
        claim(replace(TINY, steps=6), out=out)


def test_a_failing_run_is_reported_and_the_others_are_kept(tmp_path, monkeypatch, capsys):
    broken = replace(
        TINY, contexts=(1,), sizes=(400,), draws=1, snapshots=0, learners={"bc": {"lr": 1e30}, "iql": {"hidden": (8,)}}
    )
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
        ({"distance_episodes": -1}, "distance_episodes must not be negative"),
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


@pytest.fixture
def copy(done, tmp_path):
    """The finished study, to be spoiled."""
    return Path(shutil.copytree(done[0], tmp_path / "claim"))


def run_of(study: Path, learner: str) -> Path:
    return sorted((study / "runs").glob(f"{learner}-*"))[0]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_missing_run_is_named_and_partial_reports_say_so(copy, capsys):
    gone = run_of(copy, "iql")
    draw = json.loads((gone / "config.json").read_text())["tags"]["draw"]
    shutil.rmtree(gone)
    named = rf"1 of 16 runs are missing .*iql on .*, pendulum, draw {draw}, seed {1000 * draw}"
    with pytest.raises(ValueError, match=named):
        conclude(copy)
    assert cli.main(["report", str(copy)]) == 2
    assert "--partial reports on the rest" in capsys.readouterr().err
    assert cli.main(["report", str(copy), "--partial"]) == 0
    found = conclude(copy, partial=True)
    assert "PARTIAL: 8 of the 16 runs of the design" in found.report.read_text()
    assert found.analysis.draws == 1


def test_an_edited_configuration_is_named(copy):
    edit(run_of(copy, "bc") / "config.json", '"steps": 5', '"steps": 6')
    with pytest.raises(ValueError, match=r"changed after they ended: .*bc-.*config.json and DONE name different runs"):
        conclude(copy)
    with pytest.raises(ValueError, match="DONE name different runs"):
        claim(TINY, out=copy)
    with pytest.raises(ValueError, match="DONE name different runs"):  # nor does --partial let it pass
        conclude(copy, partial=True)


def test_edited_evaluations_are_named(copy):
    edit(run_of(copy, "bc") / "episodes.jsonl", '"length": 200', '"length": 100')
    with pytest.raises(ValueError, match=r"bc-.*episodes\.jsonl is not what DONE says it was"):
        conclude(copy)


def test_a_run_with_another_budget_is_named(copy):
    config = replace(read_config(run_of(copy, "bc")), steps=3)
    train.run(config, copy / "runs")
    with pytest.raises(ValueError, match=r"not of this design: bc-seed\d+-\w+ \(steps: 5 -> 3\)"):
        conclude(copy)


def test_an_edited_plan_is_named(copy):
    edit(copy / "design.json", '"steps": 5', '"steps": 3')
    with pytest.raises(ValueError, match=r"design\.json: the plan's hash is \w+, but it says \w+: it was edited"):
        conclude(copy)


@pytest.mark.parametrize("amendments", [3, [{"why": "x"}]])
def test_edited_amendments_are_named_and_nothing_is_written(copy, amendments):
    body = json.loads((copy / "design.json").read_text()) | {"amendments": amendments}
    (copy / "design.json").write_text(json.dumps(body))
    before = (copy / "timings.json").read_bytes()
    with pytest.raises(ValueError, match=r"amendments are not those that --amend writes: .* bring the file back"):
        conclude(copy)
    assert (copy / "timings.json").read_bytes() == before


def test_a_refused_report_changes_no_time(copy):
    shutil.rmtree(run_of(copy, "bc"))
    before = (copy / "timings.json").read_bytes()
    with pytest.raises(ValueError, match="runs are missing"):
        conclude(copy)
    assert (copy / "timings.json").read_bytes() == before


def test_a_missing_dataset_is_named(copy):
    name = next(TINY.datasets()).name
    shutil.rmtree(copy / "data" / name)
    with pytest.raises(ValueError, match=rf"datasets are missing .*{name}"):
        conclude(copy)


def test_a_plan_changed_with_a_reason_is_told(copy):
    shorter = replace(TINY, sizes=(800,))
    found = claim(shorter, out=copy, amend="small data taught nothing")
    assert "small data taught nothing (sizes: [400, 800] -&gt; [800])" in found.report.read_text()
    assert found.analysis.runs == 8
    assert conclude(copy).analysis.to_json() == found.analysis.to_json()


def test_same_seed_same_report_apart_from_times(done, tmp_path):
    again = claim(TINY, out=tmp_path / "elsewhere", slots=1, command="packmule claim")
    assert untimed(again.report) == untimed(done[1].report)
    for path in sorted((done[0] / "report" / "figures").glob("*.csv")):
        if path.stem == "pareto":  # of times
            continue
        assert (tmp_path / "elsewhere" / "report" / "figures" / path.name).read_bytes() == path.read_bytes()


def untimed(page: Path) -> str:
    """The page without its section on time, the figure of times, and what the threats say of the time of an action."""
    found = page.read_text()
    for part in (
        r"<section[^>]*><h2>Time</h2>.*?</section>",
        r"<figure>(?:(?!</figure>).)*?, pareto\.</strong>.*?</figure>",
        r"<dt[^>]*>Inference compute</dt>.*?</dd>",
    ):
        found, count = re.subn(part, "", found, flags=re.DOTALL)
        assert count == 1, part
    return found


MANY = replace(
    TINY,
    name="many",
    tasks=(Task("pendulum"), Task("reacher", reward_scale=2.0)),
    contexts=(2,),
    draws=1,
    grid="star",
    qualities=(1.0, 0.5),
    arms=("updates", "compute"),
    costs={"iql": 3.0, "bc": 1.0},
    tuning=Tuning("pointmaze", {"iql": [{"lr": 1e-3}, {"lr": 1e-9}], "bc": [{"lr": 1e-9}, {"lr": 1e-3}]}, seeds=1),
)


def test_tasks_qualities_budgets_and_tuning_in_pieces(tmp_path):
    out = tmp_path / "many"
    assert claim(MANY, out=out, only=["reacher"]) is None
    assert {config.suite for config in map(read_config, run_folders(out / "runs"))} == {"reacher"}
    with pytest.raises(ValueError, match=r"datasets are missing .*pendulum/draw0"):
        conclude(out)
    assert conclude(out, partial=True).analysis.suites == ["reacher"]
    found = claim(MANY, out=out)
    assert found.analysis.suites == ["pendulum", "reacher"]
    others = {"quality 0.5, equal updates", "quality 1, equal compute", "pendulum alone", "reacher alone"}
    assert set(found.elsewhere) == others
    configs = [read_config(folder) for folder in run_folders(out / "runs")]
    assert len(configs) == MANY.runs == 2 * 2 * (2 + 2 + 2)
    compute = {config.learner: config.steps for config in configs if config.tags.get("arm") == "compute"}
    assert compute == {"iql": 3, "bc": 10}  # five steps of 2 ms on average
    chosen = {name: one["chosen"] for name, one in json.loads((out / "tuning" / "choice.json").read_text()).items()}
    assert {config.options["lr"] for config in configs if config.learner == "iql"} == {chosen["iql"]["lr"]}
    assert {c.options["reward_scale"] for c in configs if c.learner == "iql" and c.suite == "reacher"} == {2.0}
    page = found.report.read_text()
    assert "The same question under other conditions" in page
    assert all(name in page for name in others)


def test_equal_compute_costs_as_much_as_equal_updates():
    steps = {name: MANY.steps_of(name, "compute") for name in MANY.learners}
    assert sum(steps[name] * MANY.costs[name] for name in steps) == pytest.approx(5 * 4.0, rel=0.1)


def test_unequal_tuning_or_on_a_task_that_is_tested_is_refused():
    with pytest.raises(ValueError, match="as many configurations"):
        replace(MANY, tuning=Tuning("pointmaze", {"iql": [{}, {}], "bc": [{}]}, seeds=1))
    with pytest.raises(ValueError, match="tuning is on reacher, which is also tested on"):
        replace(MANY, tuning=Tuning("reacher", {"iql": [{}], "bc": [{}]}, seeds=1))


@pytest.mark.parametrize("tier", list(TIERS))
def test_every_tier_makes_sense_and_survives_its_file(tier):
    design = TIERS[tier]
    assert Design.from_json(json.loads(json.dumps(design.to_json()))).hash == design.hash
    for learner, given in design.learners.items():
        for tried in design.tuning.grid[learner] if design.tuning else [{}]:
            learner_config(learner, {**given, **tried})
    for task in design.tasks:
        assert task.weaker in registry.suite(task.suite).behaviours


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
