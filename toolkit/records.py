"""A run's folder, written and read. No torch here: figures and reports read thousands of runs.

RUN/ holds config.json (complete; running from it repeats the run), state.json, metrics.jsonl, acting.json (what acting
took), episodes.jsonl, checkpoint/ and DONE. Metrics append line by line; everything else is replaced by rename.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from hashlib import sha256
from math import isfinite
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

TIERS = ("auto", "memory", "mapped", "streaming")
EVALUATION_SPLITS = ("seen", "interpolated", "extrapolated")


class DamagedFile(ValueError):
    """A file of a run that does not hold what was written to it."""


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
        records += final_records(folder)
    if not records:
        where = ", ".join(map(str, paths))
        raise ValueError(f"no finished runs under {where}; a finished run has the files DONE and episodes.jsonl")
    return records


def final_records(folder: Path) -> list[Record]:
    """The evaluation records of a finished run. Raises ValueError if they are damaged, or not those DONE speaks of."""
    found = read_records(folder / "episodes.jsonl")
    stated = (folder / "DONE").read_bytes().split()[1:]
    if stated and stated != [_content(folder).encode()]:
        raise ValueError(f"{folder}: episodes.jsonl is not what DONE says it was; one of them is damaged")
    return found


T = TypeVar("T")
_KINDS: dict[str, Any] = {
    "str": str,
    "str | None": (str, NoneType),
    "int | None": (int, NoneType),
    "int": int,
    "float": (int, float),
    "bool": bool,
    "list[float]": list,
    "tuple[str, ...]": tuple,
    "dict[str, Any]": dict,
}


@cache
def _fields(kind: type) -> tuple[tuple[str, str, Any], ...]:
    """Name, type as written and types as checked, of each field of a dataclass."""
    return tuple((item.name, str(item.type), _KINDS[str(item.type)]) for item in dataclasses.fields(kind))


_SEEN: set[tuple[type, ...]] = set()  # a dataclass and the types of its fields, found to be right


def _checked(value: T) -> T:
    """`value`, a dataclass that was read. Raises TypeError for a field of another type, or a number not finite."""
    body = vars(value)
    types = (type(value), *map(type, body.values()))
    if types in _SEEN and all(map(isfinite, (found for found in body.values() if type(found) is float))):
        return value
    for name, expected, kinds in _fields(type(value)):  # type: ignore[arg-type]
        found = body[name]
        if not isinstance(found, kinds) or (isinstance(found, float) and not isfinite(found)):
            raise TypeError(f"{name} is {found!r}; expected {expected}")
    _SEEN.add(types)
    return value


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
    commit: int | None  # None for a mixture, whose file pins its parts
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
    relabel: str | None = None  # what labelled the data anew, or None as recorded
    tier: str = "auto"  # where batches come from; "streaming" is another stream than the others, which are one
    evaluate_every: int = 0  # steps between evaluations on the way, each with a snapshot; 0: only at the end
    compiled: bool = False  # whether the update is; its rounding differs
    given: dict[str, Any] = field(default_factory=dict)  # option -> path of a run it names; not part of the identity

    def __post_init__(self) -> None:
        counts = {"steps": 1, "batch_size": 1, "seed": 0, "episodes": 0, "threads": 1, "evaluate_every": 0}
        for name, least in counts.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name, most in (("batch_size", 1 << 24), ("episodes", 1 << 24), ("threads", 1 << 10)):
            if getattr(self, name) > most:
                raise ValueError(f"{name} must be at most {most}, got {getattr(self, name)}")
        if self.tier not in TIERS:
            raise ValueError(f"tier {self.tier!r} is unknown; expected one of {', '.join(TIERS)}")
        if self.evaluate_every and not (self.episodes and self.splits):
            raise ValueError(
                f"evaluate_every is {self.evaluate_every}, with {self.episodes} episodes on {len(self.splits)} splits: "
                "nothing would be evaluated; give at least one episode and split"
            )
        if len(set(self.splits)) != len(self.splits):
            raise ValueError(f"each split once, got {', '.join(self.splits)}")
        if wrong := [split for split in self.splits if split not in EVALUATION_SPLITS]:
            raise ValueError(f"unknown split {wrong[0]!r}; expected one of {', '.join(EVALUATION_SPLITS)}")

    @cached_property
    def identity(self) -> str:
        """12 hex digits: the hash of all that decides the result. Where the store lies does not; threads may."""
        absent = (("relabel", None), ("evaluate_every", 0), ("compiled", False))
        left_out = ("store", "given")
        body = {k: v for k, v in self.to_json().items() if k not in left_out and (k, v) not in absent}
        if self.tier != "streaming":
            del body["tier"]
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
        """Inverse of `to_json`. Raises KeyError, TypeError or ValueError if a field is missing, unknown or wrong."""
        return _checked(cls(**{**data, "splits": tuple(data["splits"])}))


def replace_text(path: Path, text: str, *, create_only: bool = False) -> None:
    """`replace_bytes` of text in UTF-8."""
    replace_bytes(path, text.encode(), create_only=create_only)


def replace_bytes(path: Path, data: bytes, *, create_only: bool = False) -> None:
    """Write a file whole: to a temporary name, flushed, then renamed over `path`.

    Raises FileExistsError if `create_only` and it is there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with naming(path), temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if create_only:
            os.link(temporary, path)
        else:
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError that does not say where it happened, as of a full disk, name `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, f"{error.strerror} while writing", str(path)) from error
        raise


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises FileNotFoundError, and ValueError naming the file if it is damaged."""
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not readable JSON ({error}); the file is damaged") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: holds a {type(found).__name__}, expected a JSON object; the file is damaged")
    return found


def replace_json(path: Path, value: Any) -> None:
    """`replace_text` of indented JSON."""
    replace_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_config(folder: str | Path) -> RunConfig:
    """A run's config.json. Raises ValueError if the folder is not a run or the file is damaged."""
    path = Path(folder) / "config.json"
    try:
        body = read_object(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder} is not a run: it has no config.json") from None
    try:
        return RunConfig.from_json(body)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: not a run's configuration ({error}); the file is damaged") from None


def read_saved_spec(folder: str | Path) -> dict[str, Any]:
    """A run's spec.json: what its learner was built for ("spec"), and the schema of its data ("schema").

    Raises ValueError if it is missing or no such file; whether its digest is right, `checkpoint.read_spec` looks.
    """
    path = Path(folder) / "spec.json"
    try:
        saved = read_object(path)
    except FileNotFoundError:
        raise ValueError(
            f"{folder} has no spec.json, which says what data its learner was built for: copy it from where the run "
            "came from, or train it again"
        ) from None
    if not all(isinstance(saved.get(part), dict) for part in ("spec", "schema")):
        raise ValueError(f"{path}: not what a run's learner was built for; the file is damaged")
    return saved


def write_records(folder: Path, records: Iterable[Record], name: str = "episodes.jsonl") -> None:
    """Write episodes.jsonl, or the file `name`, whole."""
    replace_text(folder / name, "".join(to_line(record) + "\n" for record in records))


def read_records(path: Path) -> list[Record]:
    """The records in a file. Raises ValueError naming the line that is not one, or the file if it is not there."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        raise ValueError(
            f"{path} is missing, which holds what its evaluation gave: copy it from where the run came from, or delete "
            "DONE and give the command that began the run again"
        ) from None
    try:  # all at once is twice as fast as line by line
        together = json.loads(b"[" + b",".join(lines) + b"]")
        if len(together) == len(lines):
            return [_checked(Record(**found)) for found in together]
    except (ValueError, TypeError, RecursionError):
        pass
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(_checked(Record(**json.loads(line))))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{path}:{number}: not an evaluation record ({error}); the file is damaged") from None
    return records


def last(records: Iterable[Record]) -> list[Record]:
    """Those of every run's last evaluated step."""
    found = list(records)
    steps: dict[str, int] = {}
    for record in found:
        steps[record.run] = max(record.step, steps.get(record.run, 0))
    return [record for record in found if record.step == steps[record.run]]


def mark_done(folder: Path, config: RunConfig) -> None:
    """Write DONE, the last file of a run: its identity, and the SHA-256 of its evaluation records.

    Raises FileExistsError if the run is done already.
    """
    replace_text(folder / "DONE", f"{config.identity}\n{_content(folder)}\n", create_only=True)


def done_run(folder: Path) -> str:
    """The run that DONE names, as records do. Raises ValueError if it names none."""
    words = (folder / "DONE").read_bytes().split()
    if not words:
        raise ValueError(f"{folder / 'DONE'} is empty, and should name the run; the file is damaged")
    return words[0].decode(errors="replace")


def check_finished(folder: Path) -> None:
    """Raise ValueError if the run has not finished."""
    if not (folder / "DONE").exists():
        raise ValueError(f"{folder} is not a finished run: it has no DONE; the command that began it continues it")


def verify_done(folder: Path, config: RunConfig) -> None:
    """Raise ValueError if the run has not finished, or `config`, read from it, is not the one that was carried out."""
    check_finished(folder)
    if (folder / "DONE").read_bytes().split()[:1] != [config.identity.encode()]:
        raise ValueError(f"{folder}: config.json and DONE name different runs; one of them is damaged")


def _content(folder: Path) -> str:
    return sha256((folder / "episodes.jsonl").read_bytes()).hexdigest()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl; a last line cut by a crash is left out."""
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    found: list[dict[str, Any]] = []
    for number, line in enumerate(lines):
        try:
            values = json.loads(line)
            found.append({**values, "step": int(values["step"])})
        except (ValueError, TypeError, KeyError):
            if number != len(lines) - 1:
                raise DamagedFile(f"{path}:{number + 1}: not a line of metrics; the file is damaged") from None
    return found


def mean_scores(records: Sequence[Record]) -> dict[tuple[str, str], tuple[float, int]]:
    """(learner, split) -> mean score at the last step and number of runs, each run weighing the same."""
    runs: dict[tuple[str, str, str], list[float]] = {}
    for record in last(records):
        runs.setdefault((record.learner, record.split, record.run), []).append(record.score)
    table: dict[tuple[str, str], list[float]] = {}
    for (learner, split, _), scores in runs.items():
        table.setdefault((learner, split), []).append(sum(scores) / len(scores))
    return {key: (sum(means) / len(means), len(means)) for key, means in sorted(table.items())}
