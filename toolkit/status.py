"""How far runs are, read from their folders: no engine needs to be asked. No torch here."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from toolkit.lease import holder
from toolkit.progress import duration
from toolkit.records import read_object
from toolkit.text import aligned

State = Literal["done", "running", "failed", "stopped"]
PREFERRED = ("interpolated", "seen", "extrapolated")  # the split whose score is shown
LINE_BYTES = 1 << 16  # the last line of metrics.jsonl is shorter


@dataclass(frozen=True)
class RunState:
    """One run as its folder tells it."""

    folder: Path
    config: dict[str, Any]  # config.json
    state: State
    step: int  # gradient steps taken, as last logged or saved
    seconds: float | None  # spent on them
    evaluation_seconds: float | None
    scores: dict[str, float]  # split -> mean score, once it is done
    message: str  # how it failed

    @property
    def steps(self) -> int:
        """Gradient steps in all."""
        return self.config["steps"]

    @property
    def left(self) -> float | None:
        """Seconds of training left, at the pace so far."""
        if self.state == "done":
            return 0.0
        return self.seconds / self.step * (self.steps - self.step) if self.step and self.seconds else None

    @property
    def score(self) -> float | None:
        """Mean score on the first of the splits interpolated, seen and extrapolated that there is."""
        return next((self.scores[split] for split in PREFERRED if split in self.scores), None)


def run_state(folder: Path) -> RunState:
    """How far one run is. Raises ValueError if the folder is no run, or a file of it is damaged."""
    try:
        config = read_object(folder / "config.json")
    except FileNotFoundError:
        raise ValueError(f"{folder} is not a run: it has no config.json") from None
    if type(config.get("steps")) is not int:
        raise ValueError(f"{folder / 'config.json'} states no number of steps; the file is damaged")
    done = (folder / "DONE").exists()
    saved = _checked(_object(folder / "state.json"), folder / "state.json")
    state: State = "done"
    message = ""
    if not done:
        saved |= _checked(last_metrics(folder), folder / "metrics.jsonl")
        failure = _object(folder / "failure.json")
        message = str(failure.get("message", ""))
        busy = holder(folder, now=time.time()) is not None
        state = "running" if busy else "failed" if failure else "stopped"
    return RunState(
        folder, config, state, saved.get("step", 0), saved.get("seconds"), saved.get("evaluation_seconds"),
        saved.get("scores", {}) if done else {}, message,
    )  # fmt: skip


def states(*paths: str | Path) -> list[RunState]:
    """Every run at or below `paths`, begun or done, sorted by folder. Raises FileNotFoundError, ValueError if none."""
    found = [run_state(folder) for folder in begun(*paths)]
    if not found:
        raise ValueError(f"no runs under {', '.join(map(str, paths))}")
    return found


def begun(*paths: str | Path) -> list[Path]:
    """Folders of runs, finished or not (they hold config.json), at or below `paths`, sorted."""
    found: set[Path] = set()
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; give the folder of a run, or one that holds runs")
        found.update(_below(path) if path.is_dir() else ())  # a table beside runs is none of them
    return sorted(found)


def _below(path: Path) -> Iterator[Path]:
    with os.scandir(path) as entries:
        inside = list(entries)
    if any(entry.name == "config.json" for entry in inside):
        yield path
        return
    for entry in inside:
        if entry.is_dir(follow_symlinks=False):
            yield from _below(path / entry.name)


def _object(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except FileNotFoundError:
        return {}


def _checked(saved: dict[str, Any], path: Path) -> dict[str, Any]:
    """What `path` says of a run's progress. Raises ValueError naming it if that is not in numbers."""
    scores = saved.get("scores", {})
    numbers = [saved.get(name) or 0 for name in ("step", "seconds", "evaluation_seconds")]
    if not isinstance(scores, dict) or not all(type(each) in (int, float) for each in [*numbers, *scores.values()]):
        raise ValueError(f"{path}: step, seconds and scores are not numbers; the file is damaged")
    return saved


def last_metrics(folder: Path) -> dict[str, Any]:
    """The last whole line of metrics.jsonl, or {}."""
    try:
        with (folder / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LINE_BYTES))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return {}
    for line in reversed(lines[-2:]):
        with suppress(ValueError):  # being written
            if isinstance(found := json.loads(line), dict):
                return found
    return {}


def table(found: list[RunState]) -> str:
    """One row a run: progress, score and time left; below, how many are in each state."""
    rows = [["run", "state", "steps", "ms/step", "score", "left"]]
    for one in found:
        pace = f"{1000 * one.seconds / one.step:.2f}" if one.seconds and one.step else ""
        score = "" if one.score is None else f"{one.score:.3f}"
        left = duration(one.left) if one.state == "running" and one.left is not None else ""
        rows.append([one.folder.name, one.state, f"{one.step}/{one.steps}", pace, score, left])
    return f"{aligned(rows)}\n{summary(found)}"


def summary(found: list[RunState]) -> str:
    """'60 runs: 40 done, 2 running, 1 failed, 17 stopped'."""
    counts = {state: sum(one.state == state for one in found) for state in ("done", "running", "failed", "stopped")}
    return f"{len(found)} runs: " + ", ".join(f"{count} {state}" for state, count in counts.items() if count)
