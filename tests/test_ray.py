"""Laws of the Ray engine, on two raylets of this machine: the same runs, bit for bit, and nothing lost to a kill."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sweeping import bits, finished_once, grid, wait_until

from toolkit.collect import collect
from toolkit.engines.local import Local
from toolkit.lease import holder
from toolkit.status import begun
from toolkit.sweep import sweep

pytest.importorskip("ray")
RUNS = int(os.environ.get("PACKMULE_ENGINE_RUNS", "4"))
KILLS = int(os.environ.get("PACKMULE_ENGINE_KILLS", "0"))  # of each kind; they take minutes
LOOPBACK = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


class Nodes:
    """The cluster of ray_cluster.py."""

    def __init__(self) -> None:
        argv = [sys.executable, str(Path(__file__).with_name("ray_cluster.py"))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(argv, text=True, **pipes)
        self.address = self.process.stdout.readline().strip()

    def kill_one(self) -> None:
        self.process.stdin.write("kill\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline().strip() == "killed"

    def stop(self) -> None:
        self.process.communicate(timeout=60)  # closes its input, which ends it


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    started = Nodes()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("ray") / "p.zarr"
    collect("pendulum", out=path, episodes=6, contexts=3, coverage=0.5, seed=0)
    return path


def start(store: Path, out: Path, nodes: Nodes, *flags: str, runs: int = RUNS, steps: int = 6) -> subprocess.Popen:
    argv = ["sweep", "--learners", "bc", "iql", "--stores", str(store), "--steps", str(steps), "--episodes", "1"]
    argv += ["--batch-size", "8", "--axis", "learner.hidden=8", "--device", "cpu", "--out", str(out)]
    argv += ["--seeds", *map(str, range(runs // 2)), "--engine", "ray", "--address", nodes.address, *flags]
    program = "import sys; from toolkit.cli import main; sys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, **LOOPBACK}
    return subprocess.Popen(
        [sys.executable, "-c", program, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finished(driver: subprocess.Popen) -> str:
    out, err = driver.communicate(timeout=1800)
    assert driver.returncode == 0, out + err
    return err


def test_two_nodes_give_the_runs_of_one_machine_bit_for_bit(store, nodes, tmp_path):
    finished(start(store, tmp_path / "ray", nodes))
    sweep(grid(store, seeds=RUNS // 2).runs(), tmp_path / "local", engine=Local(2))
    names = [path.name for path in begun(tmp_path / "local")]
    assert [path.name for path in begun(tmp_path / "ray")] == names
    assert len(names) == RUNS
    for name in names:
        assert bits(tmp_path / "ray" / name) == bits(tmp_path / "local" / name), name
    finished_once(tmp_path / "ray", RUNS)


def holders(out: Path) -> list[int]:
    running = [path for path in begun(out) if not (path / "DONE").exists()] if out.exists() else []
    return [int(who["pid"]) for path in running if (who := holder(path))]


@pytest.mark.skipif(not KILLS, reason="make ray kills workers, nodes and drivers, which takes minutes")
@pytest.mark.parametrize("what", ["worker", "node", "driver"])
def test_kills_lose_no_run_and_repeat_none(store, nodes, tmp_path, what):
    rng, out, runs = random.Random(0), tmp_path / "runs", 4 * KILLS
    flags, settings = ("--retries", str(2 * KILLS)), {"runs": runs, "steps": 1000}
    driver = start(store, out, nodes, *flags, **settings)
    for _ in range(KILLS):
        wait_until(lambda: holders(out) or driver.poll() is not None, 300)  # noqa: B023
        time.sleep(rng.uniform(0.2, 1.5))
        done = {path: path.stat().st_mtime_ns for path in out.glob("*/DONE")}
        assert len(done) < runs, "it ended before the kills did"
        if what == "node":
            nodes.kill_one()
        elif what == "worker":
            for pid in holders(out)[:1]:
                os.kill(pid, signal.SIGKILL)
        else:
            driver.kill()
            driver.communicate()
            driver = start(store, out, nodes, *flags, **settings)
        assert all(path.stat().st_mtime_ns == at for path, at in done.items())
        seen = len(done)
        wait_until(lambda: len(list(out.glob("*/DONE"))) > seen or driver.poll() is not None, 300)  # noqa: B023
    finished(driver)
    assert all(path.stat().st_mtime_ns == at for path, at in done.items())
    finished_once(out, runs)
