"""Laws of a sweep: typed before it starts, nothing lost, nothing done twice, and what breaks touches no other."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from sweeping import bits, finished_once, grid, wait_until

from toolkit.cli import main
from toolkit.collect import collect
from toolkit.cost import shorter_tail
from toolkit.engines.local import Local, map_tasks
from toolkit.grid import Axis, Grid
from toolkit.lease import LeaseLost, hold, holder
from toolkit.status import begun, run_state, states
from toolkit.store import ReplayStore
from toolkit.sweep import sweep
from toolkit.train import run

KILLS = int(os.environ.get("PACKMULE_SWEEP_KILLS", "1"))  # of each kind; make kills has ten
RUNS = 2 * (KILLS + 2)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "p.zarr"
    collect("pendulum", out=path, episodes=6, contexts=3, coverage=0.5, seed=0).save_view(
        "half", ReplayStore.open(path).view([0, 1, 2])
    )
    return path


@pytest.fixture(scope="module")
def done(store, tmp_path_factory) -> Path:
    """A finished sweep of six short runs."""
    out = tmp_path_factory.mktemp("done") / "runs"
    assert sweep(grid(store, seeds=3).runs(), out, engine=Local(2)).done == 6
    return out


def test_a_grid_is_every_combination_once(store):
    axes = [Axis.parse("learner.lr=1e-3,3e-4"), Axis.parse("iql.hidden=8 8,16"), Axis.parse("batch_size=16,32")]
    runs = Grid(["bc", "iql"], [str(store), f"{store}@half"], [0, 1], axes=axes, settings={"steps": 5}).runs()
    assert len({config.identity for config in runs}) == len(runs) == 2 * 2 * 2 * (2 + 4)
    found = {(c.learner, c.options["lr"], tuple(c.options["hidden"]), c.batch_size, c.view, c.seed) for c in runs}
    assert ("iql", 1e-3, (8, 8), 16, None, 0) in found
    assert ("bc", 3e-4, (256, 256), 32, "half", 1) in found


def test_an_option_that_changes_nothing_is_one_run(store):
    runs = Grid(["bc"], [str(store)], [0], axes=[Axis.parse("learner.lr=1e-3,0.001")], settings={"steps": 5}).runs()
    assert len(runs) == 1


def test_a_sweeps_run_is_that_of_train(store, tmp_path, done, capsys):
    argv = ["train", "bc", "--store", str(store), "--steps", "6", "--batch-size", "8", "--episodes", "1"]
    assert main([*argv, "--learner.hidden", "8", "--device", "cpu", "--out", str(tmp_path)]) == 0
    (folder,) = begun(tmp_path)
    assert bits(folder) == bits(done / folder.name)


SWEEP = ["sweep", "--learners", "bc", "iql", "--stores", "STORE", "--steps", "5", "--episodes", "1"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--axis", "learner.lrr=1"], "matches no run (did you mean 'lr'?)"),
        (["--axis", "iql.samples=3"], "axis iql.samples matches no run"),
        (["--axis", "cql.lr=3"], "unknown learner of the axis 'cql'"),
        (["--axis", "lr=3"], "did you mean 'learner.lr'?"),
        (["--axis", "learner.lr=fast"], "'fast' is not of type float"),
        (["--axis", "learner.lr=1e-3,,"], "must be NAME=VALUE,VALUE"),
        (["--axis", "learner.lr=1,1"], "names a level twice"),
        (["--axis", "iql.expectile=2"], "axis iql.expectile (iql): expectile must lie in (0, 1), got 2"),
        (["--axis", "learner.hidden=3x"], "axis learner.hidden (bc): '3x' is not of type tuple[int, ...]"),
        (["--axis", "steps=0"], "steps must be at least 1, got 0"),
        (["--seeds", "1", "1"], "seeds must name each once"),
        (["--seeds"], ""),
        (["--seeds", "one"], "one"),
        (["--learners", "iqk"], "did you mean 'iql'"),
        (["--views", "none"], "has no view 'none'"),
        (["--stores", "nowhere.zarr"], "no store at nowhere.zarr"),
        (["--retries", "-1"], "retries must be at least 0, got -1"),
        (["--slots", "0"], "slots must be at least 1, got 0"),
        (["--out", "s3:///runs"], "names no bucket"),
        (["--address", "127.0.0.1:6379"], "--address is of --engine ray"),
        (["--slurm", "mem_gb=2"], "--slurm is of --engine slurm"),
        (["--preset", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_wrong_input_is_one_clear_error_and_nothing_is_written(store, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    try:
        code = main([*(str(store) if flag == "STORE" else flag for flag in SWEEP), *flags])
    except SystemExit as stop:
        code = int(stop.code or 0)
    err = capsys.readouterr().err
    assert code == 2
    assert message in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learner: [bc]", "unknown flag 'learner' (did you mean 'learners'?)"),
        ("- bc", "must map flags to values"),
        ("axes: [1]", "must map flags to values"),
        ("learners: !!python/object/apply:os.system ['touch hacked']", "cannot be read"),
        ("seeds: {a: 1}", "is no number, text or list"),
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("batch_size: many", "many"),
        ("axes: {learner.lr: [fast]}", "'fast' is not of type float"),
    ],
)
def test_a_wrong_preset_is_one_clear_error_and_nothing_is_run(store, tmp_path, monkeypatch, capsys, text, message):
    monkeypatch.chdir(tmp_path)
    Path("preset.yaml").write_text(text)
    try:
        code = main([*(str(store) if flag == "STORE" else flag for flag in SWEEP), "--preset", "preset.yaml"])
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert [path.name for path in tmp_path.iterdir()] == ["preset.yaml"]


@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_a_preset_gives_the_runs_of_the_same_flags(store, tmp_path, capsys, ending):
    body = {
        "learners": ["bc", "iql"],
        "stores": str(store),
        "steps": 5,
        "episodes": 1,
        "axes": {"learner.lr": [1e-3, 3e-4], "iql.hidden": [[8, 8], 16]},
    }
    preset, out = tmp_path / f"p.{ending}", ["--out", str(tmp_path / "runs"), "--dry-run"]
    preset.write_text(json.dumps(body))
    assert main(["sweep", "--preset", str(preset), "--seeds", "0", "1", *out]) == 0
    one = capsys.readouterr().out
    axes = ["--axis", "learner.lr=1e-3,3e-4", "--axis", "iql.hidden=8 8,16"]
    assert main([*(str(store) if f == "STORE" else f for f in SWEEP), "--seeds", "0", "1", *axes, *out]) == 0
    other = capsys.readouterr().out
    names = [[line.split()[0] for line in text.splitlines()] for text in (one, other)]
    assert names[0] == names[1]
    assert "12 runs: 12 new; about" in one
    assert not (tmp_path / "runs").exists()


def test_doing_it_again_repeats_nothing_and_more_seeds_add_only_those(store, done, capsys):
    before = {path: (path / "DONE").stat().st_mtime_ns for path in begun(done)}
    again = sweep(grid(store, seeds=3).runs(), done, engine=Local(2))
    assert (again.done, again.skipped, again.failed) == (0, 6, {})
    assert {path: (path / "DONE").stat().st_mtime_ns for path in begun(done)} == before
    flags = ["--steps", "6", "--batch-size", "8", "--axis", "learner.hidden=8", "--device", "cpu", "--out", str(done)]
    seeds = ["--seeds", "0", "1", "2", "3"]
    assert main([*(str(store) if f == "STORE" else f for f in SWEEP), *flags, *seeds, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "8 runs: 6 done, 2 new; about" in out
    assert "by finished runs" in out


def test_a_failing_run_is_tried_again_shown_with_its_log_and_touches_no_other(store, tmp_path, capsys):
    good = grid(store, seeds=2).runs()
    bad = replace(good[0], options={**good[0].options, "lr": 1e30}, steps=50)
    outcome = sweep([bad, *good], tmp_path, engine=Local(2), retries=2)
    err = capsys.readouterr().err
    assert outcome.done == 4
    assert list(outcome.failed) == [bad.folder_name]
    assert err.count("will be tried again") == 2
    assert err.count("given up") == 1
    assert "is not finite at step 50; lower the learning rate" in err
    assert "Traceback" in (tmp_path / bad.folder_name / "log.txt").read_text()
    found = {one.folder.name: one.state for one in states(tmp_path)}
    assert found.pop(bad.folder_name) == "failed"
    assert set(found.values()) == {"done"}


def die(how: str) -> str:
    if how == "memory":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        return str(len(bytearray(1 << 34)))
    if how == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "exit":
        os._exit(3)
    return f"{how} {os.getpid()}"


def test_each_task_has_a_process_of_its_own_and_one_that_dies_takes_no_other_with_it():
    hows = ["a", "memory", "b", "segfault", "c", "exit", "d"]
    results = dict(map_tasks([(die, (how,)) for how in hows], slots=2, fresh=True))
    assert "MemoryError" in str(results[1])
    assert "signal 11" in str(results[3])
    assert "exit code 3" in str(results[5])
    alive = [results[i].split() for i in (0, 2, 4, 6)]
    assert [how for how, _ in alive] == ["a", "b", "c", "d"]
    assert len({pid for _, pid in alive}) == 4


def of_script(tmp_path: Path, text: str) -> str:
    """What a script prints."""
    script = tmp_path / "script.py"
    script.write_text("from toolkit.engines.local import map_tasks\nprint('began')\n" + text)
    argv = [sys.executable, str(script)]
    return subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True, timeout=300).stdout


def test_a_script_without_a_guard_is_not_begun_again_by_its_workers(tmp_path):
    said = of_script(tmp_path, "print(sorted(map_tasks([(abs, (-1,)), (abs, (-2,))], slots=2)))\n")
    assert said == "began\n[(0, 1), (1, 2)]\n"


def test_workers_know_what_a_script_defines(tmp_path):
    text = "def double(x): return 2 * x\nif __name__ == '__main__': print(list(map_tasks([(double, (4,))], slots=1)))\n"
    assert of_script(tmp_path, text).endswith("[(0, 8)]\n")


def start(store: Path, out: Path, *flags: str) -> subprocess.Popen:
    argv = [*(str(store) if flag == "STORE" else flag for flag in SWEEP)]
    argv += ["--steps", "300", "--batch-size", "8", "--axis", "learner.hidden=8", "--device", "cpu"]
    argv += ["--seeds", *map(str, range(RUNS // 2)), "--out", str(out), "--slots", "2", *flags]
    program = "import sys; from toolkit.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen([sys.executable, "-c", program, *argv], stderr=subprocess.PIPE, text=True)


def test_killed_workers_lose_no_run_and_repeat_none(store, tmp_path):
    rng, out, killed = random.Random(0), tmp_path / "runs", 0
    driver = start(store, out, "--retries", str(KILLS))
    while killed < KILLS and driver.poll() is None:
        done = {path: path.stat().st_mtime_ns for path in out.glob("*/DONE")}
        killed += kill_one(out, driver, rng)
        assert all(path.stat().st_mtime_ns == at for path, at in done.items())
    err = driver.communicate(timeout=600)[1]
    assert driver.returncode == 0, err
    assert killed == KILLS
    assert "the process was killed (signal 9)" in err
    finished_once(out, RUNS)


def test_a_killed_driver_loses_no_run_and_repeats_none(store, tmp_path):
    out = tmp_path / "runs"
    for kill in range(KILLS):
        driver = start(store, out)
        await_next(out, driver)
        done = {path: path.stat().st_mtime_ns for path in out.glob("*/DONE")}
        driver.kill()
        driver.communicate()
        assert all(path.stat().st_mtime_ns == at for path, at in done.items()), kill
    driver = start(store, out)
    err = driver.communicate(timeout=600)[1]
    assert driver.returncode == 0, err
    assert all(path.stat().st_mtime_ns == at for path, at in done.items())
    finished_once(out, RUNS)


def await_next(out: Path, driver: subprocess.Popen) -> None:
    """Wait until one more run is done."""
    before = len(list(out.glob("*/DONE")))
    wait_until(lambda: len(list(out.glob("*/DONE"))) > before or driver.poll() is not None, 120)


def kill_one(out: Path, driver: subprocess.Popen, rng: random.Random) -> bool:
    """SIGKILL a process that holds a run; whether there was one."""

    def holders() -> list[int]:
        running = [path for path in begun(out) if not (path / "DONE").exists()] if out.exists() else []
        return [int(who["pid"]) for path in running if (who := holder(path))]

    wait_until(lambda: holders() or driver.poll() is not None, 120)
    time.sleep(rng.uniform(0, 0.3))
    found = holders()
    if not found:
        return False
    with suppress(ProcessLookupError):  # it has just ended by itself
        os.kill(found[0], signal.SIGKILL)
        wait_until(lambda: found[0] not in holders(), 60)
        return True
    return False


def test_two_sweeps_at_once_share_the_work(store, tmp_path):
    out = tmp_path / "runs"
    drivers = [start(store, out) for _ in range(2)]
    for driver in drivers:
        err = driver.communicate(timeout=300)[1]
        assert driver.returncode == 0, err
    finished_once(out, RUNS)


def test_a_lease_is_held_by_one_and_free_when_its_holder_is_done_or_dead(tmp_path):
    with hold(tmp_path):
        assert holder(tmp_path)["pid"] == os.getpid()
        with pytest.raises(BlockingIOError, match=f"process {os.getpid()}"), hold(tmp_path):
            pass
    assert holder(tmp_path) is None
    program = "import os, sys; from pathlib import Path; from toolkit.lease import _take; _take(Path(sys.argv[1]), 60)"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    with hold(tmp_path) as lease:
        assert lease.number == 3
    assert len(list(tmp_path.iterdir())) == 1


def test_a_silent_holder_is_replaced_and_its_late_result_refused(store, tmp_path):
    config = replace(grid(store).runs()[0], steps=10**9)
    folder = tmp_path / config.folder_name
    program = (
        "import json, sys; from toolkit import train; from toolkit.records import RunConfig\n"
        "train.SAVE_SECONDS = 0.2\n"
        "train.run(RunConfig.from_json(json.loads(sys.argv[1])), sys.argv[2])"
    )
    argv = [sys.executable, "-c", program, json.dumps(config.to_json()), str(tmp_path)]
    silent = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: (folder / "checkpoint" / "checkpoint.json").exists(), 60)
    os.kill(silent.pid, signal.SIGSTOP)
    time.sleep(1.2)
    with hold(folder, stale=1.0):
        saved = (folder / "checkpoint" / "checkpoint.json").read_bytes()
        os.kill(silent.pid, signal.SIGCONT)
        err = silent.communicate(timeout=60)[1]
        assert (folder / "checkpoint" / "checkpoint.json").read_bytes() == saved
    assert LeaseLost.__name__ in err
    assert not (folder / "DONE").exists()


def test_a_second_result_of_one_run_is_refused(store, tmp_path):
    from toolkit.records import mark_done, read_config

    folder = run(grid(store).runs()[0], tmp_path)
    with pytest.raises(FileExistsError):
        mark_done(folder, read_config(folder))


def test_status_tells_of_a_run_what_its_folder_holds(done, capsys):
    one = run_state(begun(done)[0])
    assert (one.state, one.step, one.steps, one.left) == ("done", 6, 6, 0.0)
    records = [json.loads(line) for line in (one.folder / "episodes.jsonl").read_text().splitlines()]
    chosen = [r for r in records if r["split"] == "interpolated"]
    scores = [(r["episode_return"] - r["random"]) / (r["expert"] - r["random"]) for r in chosen]
    assert one.score == pytest.approx(sum(scores) / len(scores), abs=1e-6)
    assert main(["status", str(done)]) == 0
    out = capsys.readouterr().out
    assert "6 runs: 6 done" in out
    assert f"{one.score:.3f}" in out
    assert main(["status", str(done), "--json"]) == 0
    assert len([json.loads(line) for line in capsys.readouterr().out.splitlines()]) == 6


def test_the_last_runs_start_longest_first_once_finished_ones_say_how_long(store, tmp_path):
    runs = grid(store, seeds=4).runs()
    assert shorter_tail(runs, tmp_path, 1) == runs  # nothing is known
    sweep(runs[:1], tmp_path, engine=Local(1))
    assert shorter_tail(runs, tmp_path, 1) == runs  # of one learner only
    sweep(runs[:2], tmp_path, engine=Local(1))
    for config, seconds in zip(runs[:2], (1.0, 100.0), strict=True):
        path = tmp_path / config.folder_name / "state.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": seconds}))
    bc, iql = runs[::2], runs[1::2]
    assert shorter_tail(runs, tmp_path, 1) == [*runs[:6], iql[3], bc[3]]
    assert shorter_tail(runs, tmp_path, 2) == [*runs[:4], iql[2], iql[3], bc[2], bc[3]]
    assert shorter_tail(runs, tmp_path, 9) == [*runs[:2], *iql[1:], *bc[1:]]
    argv = ["sweep", "--learners", "bc", "iql", "--stores", str(store), "--seeds", "0", "1", "--steps", "6"]
    argv += ["--slots", "1", "--batch-size", "8", "--episodes", "1", "--device", "cpu", "--axis", "learner.hidden=8"]
    assert main([*argv, "--out", str(tmp_path)]) == 0
    ended = sorted(begun(tmp_path), key=lambda folder: (folder / "DONE").stat().st_mtime_ns)
    assert [folder.name for folder in ended] == [run.folder_name for run in (*runs[:2], runs[3], runs[2])]
