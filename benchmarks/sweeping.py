"""What a sweep costs beside the runs themselves: `python benchmarks/sweeping.py overhead|slots|many`.

overhead: no-op tasks through an engine beside bare subprocesses that start Python, and that import what a run needs.
slots: one sweep with one slot and with two. many: a simulated sweep of 10,000 runs: expansion, dry run, status, report.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from toolkit.collect import collect
from toolkit.engines.local import Local, map_tasks
from toolkit.grid import Axis, Grid
from toolkit.records import Record, RunConfig, mark_done, write_records


def overhead(tasks: int) -> None:
    calls = [(abs, (i,)) for i in range(tasks)]
    for name, program in (("bare python", "pass"), ("python that imports torch", "import torch")):
        count = tasks if program == "pass" else max(1, tasks // 10)
        with timed(name, count):
            for _ in range(count):
                subprocess.run([sys.executable, "-c", program], check=True)
    next(iter(map_tasks(calls[:1], slots=1)))  # the server starts
    for count in (1, 2):
        with timed(f"local, slots: {count}", tasks):
            assert len(list(Local(count).map(calls))) == tasks
    try:
        from toolkit.engines.ray import Ray
    except ImportError:
        return
    engine = Ray(slots=1)
    import ray

    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    list(engine.map(calls[:4]))
    with timed("Ray, slots: 1, started", tasks, core=False):  # its processes are not ours
        assert len(list(engine.map(calls))) == tasks
    ray.shutdown()


@contextmanager
def timed(name: str, count: int, *, core: bool = True) -> Iterator[None]:
    before, began = spent(), time.perf_counter()
    yield
    wall, of_a_core = 1000 * (time.perf_counter() - began) / count, 1000 * (spent() - before) / count
    print(f"{name}: {wall:.1f} ms each" + (f", {of_a_core:.1f} ms of a core" if core else ""), flush=True)


def spent() -> float:
    """Seconds of a core, by this process, its ended children, the server of workers and those that it has forked."""
    times = os.times()
    total = times.user + times.system + times.children_user + times.children_system
    if (server := forkserver._forkserver._forkserver_pid) is not None:
        fields = Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


def slots(folder: Path, runs: int, steps: int) -> None:
    from toolkit.sweep import sweep

    store = folder / "p.zarr"
    collect("pendulum", out=store, episodes=20, contexts=4, coverage=0.3, seed=0)
    settings = {"steps": steps, "episodes": 2, "device": "cpu"}
    configs = Grid(["bc"], [str(store)], range(runs), settings=settings).runs()
    next(iter(map_tasks([(abs, (0,))], slots=1)))
    seconds = {}
    for count in (1, 2):
        began = time.perf_counter()
        sweep(configs, folder / f"slots{count}", engine=Local(count))
        seconds[count] = time.perf_counter() - began
    print(f"{runs} runs: one slot {seconds[1]:.1f} s, two {seconds[2]:.1f} s, ratio {seconds[1] / seconds[2]:.2f}")


def many(folder: Path, runs: int) -> None:
    """`runs` finished ones of made-up scores, four learners, and what the commands take for them."""
    store = folder / "p.zarr"
    collect("pendulum", out=store, episodes=20, contexts=4, coverage=0.3, seed=0)
    levels = ",".join(f"{i}e-6" for i in range(1, 26))
    grid = ["--learners", "bc", "iql", "td3bc", "awac", "--stores", str(store), "--axis", f"learner.lr={levels}"]
    seeds = ["--seeds", *map(str, range(runs // 100))]
    out = folder / "runs"
    command("expansion and dry run", "sweep", *grid, *seeds, "--out", str(out), "--dry-run")
    axes = [Axis.parse(f"learner.lr={levels}")]
    settings = {"steps": 10_000, "device": "cpu"}
    began = time.perf_counter()
    configs = Grid(grid[1:5], [str(store)], range(runs // 100), axes=axes, settings=settings).runs()
    print(f"expansion alone: {len(configs)} runs, {time.perf_counter() - began:.1f} s", flush=True)
    for config in configs:
        pretend(out / config.folder_name, config)
    command("dry run, all done", "sweep", *grid, *seeds, "--device", "cpu", "--out", str(out), "--dry-run")
    command("status", "status", str(out))
    command("plot", "plot", str(out), "--out", str(folder / "figures"))
    command("report", "report", str(out), "--out", str(folder / "report"))


def pretend(folder: Path, config: RunConfig) -> None:
    if (folder / "DONE").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config.to_json()))
    done = {"step": config.steps, "steps": config.steps, "seconds": 10.0, "evaluation_seconds": 1.0}
    (folder / "state.json").write_text(json.dumps(done | {"scores": {"seen": 0.5, "interpolated": 0.4}}))
    (folder / "metrics.jsonl").write_text('{"step": 10000, "seconds": 10.0, "loss": 0.1}\n')
    records = [
        Record(
            run=config.identity, learner=config.learner, family="offline_rl", suite="pendulum", seed=config.seed,
            step=config.steps, split=split, episode=i, context=[0.1, 0.2], env_seed=i, length=200, success=False,
            episode_return=-1000.0 + 7 * (config.seed % 10) + i, random=-1200.0, expert=-200.0, behaviour=-500.0,
        )
        for split in config.splits
        for i in range(config.episodes)
    ]  # fmt: skip
    write_records(folder, records)
    mark_done(folder, config)


def command(what: str, *argv: str) -> None:
    """Run a command by itself and say what it took: seconds, and the most memory it held."""
    program = (
        "import sys, resource; from toolkit.cli import main; code = main(sys.argv[1:])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr); sys.exit(code)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program, *argv], capture_output=True, text=True, check=False)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    memory = done.stderr.split()[-1] if done.returncode == 0 else done.stderr[-300:]
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
    print(f"{what}: {wall:.1f} s ({spent:.1f} s of a core), {memory} MiB; {last}", flush=True)


def main(
    what: Positional[Literal["overhead", "slots", "many"]],
    tasks: int = 200,
    runs: int | None = None,
    steps: int = 2000,
    folder: Annotated[Path | None, tyro.conf.arg(help="a temporary one by default")] = None,
) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        if what == "overhead":
            overhead(tasks)
        elif what == "slots":
            slots(place, runs or 8, steps)
        else:
            many(place, runs or 10_000)


if __name__ == "__main__":
    tyro.cli(main)
