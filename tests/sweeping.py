"""Short sweeps, and what must be true of them whatever engine carried them out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolkit.grid import Axis, Grid
from toolkit.records import read_metrics


def grid(store: Path, *, learners: tuple[str, ...] = ("bc", "iql"), seeds: int = 1, steps: int = 6) -> Grid:
    """Small networks, few steps, one evaluation episode a split."""
    settings = {"steps": steps, "batch_size": 8, "episodes": 1, "device": "cpu"}
    return Grid(learners, [str(store)], range(seeds), axes=[Axis.parse("learner.hidden=8")], settings=settings)


def bits(folder: Path) -> list[Any]:
    """Everything of a run that may not depend on where it was carried out: all but how long it took."""
    metrics = [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(folder)]
    weights = sorted(path.name for path in (folder / "checkpoint").glob("*.safetensors"))  # named by content
    config = {k: v for k, v in json.loads((folder / "config.json").read_text()).items() if k != "store"}
    return [config, metrics, weights, (folder / "episodes.jsonl").read_text(), (folder / "DONE").read_text()]


def finished_once(out: Path, runs: int) -> None:
    """Every run is done, and its log says so once."""
    done = sorted(out.glob("*/DONE"))
    assert len(done) == runs, f"{runs - len(done)} of {runs} were lost"
    for path in done:
        lines = (path.parent / "log.txt").read_text().splitlines()
        assert lines.count("done") <= 1, f"{path.parent.name} was done {lines.count('done')} times"


def wait_until(condition: Callable[[], Any], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
