"""Laws of the Slurm engine, beside a real slurmctld and two slurmds: run it by tests/slurm.sh (make slurm)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sweeping import bits, finished_once, grid, wait_until

from toolkit.collect import collect
from toolkit.engines import TaskFailed
from toolkit.engines.local import Local
from toolkit.engines.slurm import Slurm
from toolkit.lease import holder
from toolkit.status import begun
from toolkit.sweep import sweep

pytestmark = pytest.mark.skipif("PACKMULE_SLURM" not in os.environ, reason="needs a Slurm: make slurm starts one")
RUNS = int(os.environ.get("PACKMULE_ENGINE_RUNS", "4"))
KILLS = int(os.environ.get("PACKMULE_ENGINE_KILLS", "1"))


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("slurm") / "p.zarr"
    collect("pendulum", out=path, episodes=6, contexts=3, coverage=0.5, seed=0)
    return path


def start(store: Path, out: Path, *flags: str, runs: int = RUNS, steps: int = 6) -> subprocess.Popen:
    argv = ["sweep", "--learners", "bc", "iql", "--stores", str(store), "--steps", str(steps), "--episodes", "1"]
    argv += ["--batch-size", "8", "--axis", "learner.hidden=8", "--device", "cpu", "--out", str(out)]
    argv += ["--seeds", *map(str, range(runs // 2)), "--engine", "slurm", "--slurm", "timeout_min=10", *flags]
    program = "import sys; from toolkit.cli import main; sys.exit(main(sys.argv[1:]))"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", program, *argv], text=True, **pipes)


def finished(driver: subprocess.Popen) -> str:
    out, err = driver.communicate(timeout=3600)
    assert driver.returncode == 0, out + err
    return err


def answer(how: str) -> str:
    if how == "raise":
        raise ValueError("on purpose")
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{how} {os.environ['SLURMD_NODENAME']}"


def test_tasks_run_on_both_nodes_and_one_that_dies_is_noticed(tmp_path, monkeypatch):
    here = [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(":")]
    monkeypatch.setenv("PYTHONPATH", ":".join(here))  # tasks import this file
    engine = Slurm(tmp_path, parameters={"timeout_min": 5})
    results = dict(engine.map([(answer, (how,)) for how in ("a", "raise", "die", "b", "c", "d")]))
    assert "on purpose" in str(results[1])
    assert isinstance(results[2], TaskFailed)
    assert "left no result" in str(results[2])
    assert {results[i].split()[1] for i in (0, 3, 4, 5)} == {"n1", "n2"}


def test_two_nodes_give_the_runs_of_one_machine_bit_for_bit(store, tmp_path):
    finished(start(store, tmp_path / "slurm"))
    sweep(grid(store, seeds=RUNS // 2).runs(), tmp_path / "local", engine=Local(2))
    names = [path.name for path in begun(tmp_path / "local")]
    assert [path.name for path in begun(tmp_path / "slurm")] == names
    assert len(names) == RUNS
    for name in names:
        assert bits(tmp_path / "slurm" / name) == bits(tmp_path / "local" / name), name
    finished_once(tmp_path / "slurm", RUNS)


def holders(out: Path) -> list[int]:
    running = [path for path in begun(out) if not (path / "DONE").exists()] if out.exists() else []
    return [int(who["pid"]) for path in running if (who := holder(path))]


@pytest.mark.parametrize("what", ["worker", "driver"])
def test_kills_lose_no_run_and_repeat_none(store, tmp_path, what):
    out, runs = tmp_path / "runs", 2 * KILLS + 4
    flags, settings = ("--retries", str(KILLS)), {"runs": runs, "steps": 1000}
    driver = start(store, out, *flags, **settings)
    for _ in range(KILLS):
        wait_until(lambda: holders(out) or driver.poll() is not None, 300)  # noqa: B023
        done = {path: path.stat().st_mtime_ns for path in out.glob("*/DONE")}
        assert len(done) < runs, "it ended before the kills did"
        if what == "worker":
            for pid in holders(out)[:1]:
                os.kill(pid, signal.SIGKILL)
        else:
            driver.kill()
            driver.communicate()
            driver = start(store, out, *flags, **settings)
        time.sleep(1)
        assert all(path.stat().st_mtime_ns == at for path, at in done.items())
    finished(driver)
    assert all(path.stat().st_mtime_ns == at for path, at in done.items())
    finished_once(out, runs)


def test_an_interrupted_sweep_takes_its_tasks_along(store, tmp_path):
    out = tmp_path / "runs"
    driver = start(store, out, steps=10**6)
    wait_until(lambda: holders(out) or driver.poll() is not None, 300)
    driver.send_signal(signal.SIGINT)
    err = driver.communicate(timeout=60)[1]
    assert driver.returncode == 130
    assert "the same command continues" in err
    asked = ["squeue", "--me", "--noheader"]
    wait_until(lambda: not subprocess.run(asked, capture_output=True, check=True).stdout, 60)
    assert not subprocess.run(asked, capture_output=True, check=True).stdout
