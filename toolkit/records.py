"""A run's folder, written and read. No torch here: figures and reports read thousands of runs.

RUN/ holds config.json (complete; running from it repeats the run), state.json, metrics.jsonl,
episodes.jsonl, checkpoint/ and DONE. Metrics append line by line; everything else is replaced by rename.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

EVALUATION_SPLITS = ("seen", "interpolated", "extrapolated")


@dataclass(frozen=True)
class Record:
    """One evaluation episode, carrying its own identity; one line of episodes.jsonl."""

    run: str  # the run's id
    learner: str
    family: str
    suite: str
    seed: int  # the training seed
    step: int  # gradient steps taken when it was evaluated
    split: str  # "seen" (contexts of the training data), "interpolated" or "extrapolated"
    episode: int  # index within this evaluation; equal indices share context and env_seed across learners
    context: list[float]
    env_seed: int
    episode_return: float  # raw, undiscounted
    length: int
    success: bool
    random: float  # reference returns of this suite and split
    expert: float
    behaviour: float  # mean return of the training data's episodes
    tags: dict[str, Any] = field(default_factory=dict)  # factors of the study: draw, size, contexts, coverage

    @property
    def score(self) -> float:
        """(return - random) / (expert - random); 0 acts at random, 1 as the scripted expert."""
        return (self.episode_return - self.random) / (self.expert - self.random)

    @property
    def behaviour_score(self) -> float:
        """The training data's mean return on the same scale."""
        return (self.behaviour - self.random) / (self.expert - self.random)


def to_line(record: Record) -> str:
    """One line of episodes.jsonl, without its newline."""
    return json.dumps(dataclasses.asdict(record), sort_keys=True, allow_nan=False)


def load(*paths: str | Path) -> list[Record]:
    """Records of every finished run at or below `paths`, in order of folder name.

    Raises FileNotFoundError if a path does not exist, ValueError if a line cannot be read or there are no records.
    """
    records: list[Record] = []
    for folder in run_folders(*paths):
        file = folder / "episodes.jsonl"
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            try:
                records.append(Record(**json.loads(line)))
            except (json.JSONDecodeError, TypeError) as error:
                raise ValueError(
                    f"{file}:{number}: not an evaluation record ({error}); evaluate the run again"
                ) from None
    if not records:
        where = ", ".join(map(str, paths))
        raise ValueError(f"no finished runs under {where}; a finished run has the files DONE and episodes.jsonl")
    return records


def run_folders(*paths: str | Path) -> list[Path]:
    """Folders of finished runs (they hold DONE) at or below `paths`, sorted. Raises FileNotFoundError."""
    found: set[Path] = set()
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; give the folder of a run, or one that holds runs")
        found.update(done.parent for done in [path / "DONE", *path.rglob("DONE")] if done.exists())
    return sorted(found)


@dataclass(frozen=True)
class RunConfig:
    """Everything a run depends on; running from it repeats the run. JSON-able."""

    learner: str  # a name of the registry
    options: dict[str, Any]  # every field of the learner's configuration
    store: str  # path; not part of the identity, the data's fingerprint is
    commit: int
    view: str | None  # a saved view, or None for the whole commit
    fingerprint: str  # of the commit and the episodes chosen
    suite: str
    steps: int
    batch_size: int
    seed: int
    episodes: int  # evaluation episodes on each split
    splits: tuple[str, ...]  # of "seen", "interpolated", "extrapolated"
    device: str = "cpu"
    threads: int = 1
    tags: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch_size", 1), ("seed", 0), ("episodes", 0), ("threads", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if wrong := [split for split in self.splits if split not in EVALUATION_SPLITS]:
            raise ValueError(f"unknown split {wrong[0]!r}; expected one of {', '.join(EVALUATION_SPLITS)}")

    @property
    def identity(self) -> str:
        """12 hex digits: the hash of all that decides the result. Where the store lies does not; threads may."""
        body = {k: v for k, v in self.to_json().items() if k != "store"}
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return sha256(text.encode()).hexdigest()[:12]

    @property
    def folder_name(self) -> str:
        """LEARNER-seedN-ID."""
        return f"{self.learner.replace('/', '_')}-seed{self.seed}-{self.identity}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `from_json` gives back an equal RunConfig."""
        return json.loads(json.dumps(dataclasses.asdict(self), allow_nan=False))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunConfig:
        """Inverse of `to_json`. Raises TypeError if a field is missing or unknown."""
        return cls(**{**data, "splits": tuple(data["splits"])})


def replace_text(path: Path, text: str) -> None:
    """Write a file whole: to a temporary name, flushed, then renamed over `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def replace_json(path: Path, value: Any) -> None:
    """`replace_text` of indented JSON."""
    replace_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_config(folder: str | Path) -> RunConfig:
    """A run's config.json. Raises ValueError if the folder is not a run or the file is damaged."""
    path = Path(folder) / "config.json"
    try:
        return RunConfig.from_json(json.loads(path.read_text()))
    except FileNotFoundError:
        raise ValueError(f"{folder} is not a run: it has no config.json") from None
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: not a run's configuration ({error})") from None


def write_records(folder: Path, records: Iterable[Record]) -> None:
    """Write episodes.jsonl whole."""
    replace_text(folder / "episodes.jsonl", "".join(to_line(record) + "\n" for record in records))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl; a last line cut by a crash is left out."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found: list[dict[str, Any]] = []
    for number, line in enumerate(lines):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            if number != len(lines) - 1:
                raise ValueError(f"{path}:{number + 1}: not JSON; the file is damaged") from None
    return found


def mean_scores(records: Sequence[Record]) -> dict[tuple[str, str], tuple[float, int]]:
    """(learner, split) -> mean score and number of runs, each run weighing the same."""
    runs: dict[tuple[str, str, str], list[float]] = {}
    for record in records:
        runs.setdefault((record.learner, record.split, record.run), []).append(record.score)
    table: dict[tuple[str, str], list[float]] = {}
    for (learner, split, _), scores in runs.items():
        table.setdefault((learner, split), []).append(sum(scores) / len(scores))
    return {key: (sum(means) / len(means), len(means)) for key, means in sorted(table.items())}
