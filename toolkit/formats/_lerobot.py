"""What a LeRobot data set says of itself: its features, its episodes and where their rows are. See `lerobot`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.core import Array
from toolkit.formats._folders import json_file, no_links
from toolkit.formats._parquet import Rows, numbers, texts

VERSIONS = re.compile(r"v(2\.[01]|3\.[0-9]{1,3})")
PLACE = re.compile(r"\{(\w+)(?::0?([0-9]))?d?\}")  # a number in a pattern of paths
FLAGS = ("next.done", "next.truncated", "next.success")
COUNTERS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
EPISODES = ("data/chunk_index", "data/file_index", "episode_index", "length")  # columns of version 3


@dataclass(frozen=True)
class Feature:
    """One column: what it holds and its shape."""

    dtype: str  # a NumPy type, "image", "video" or "string"
    shape: tuple[int, ...]

    @property
    def number(self) -> bool:
        """Whether it holds numbers."""
        return self.dtype not in ("image", "video", "string")


@dataclass(frozen=True)
class Placed:
    """Where one episode lies, and what its columns of counters and flags say."""

    number: int
    path: Path
    start: int
    steps: int
    task: str | None  # None: several, or not known
    terminated: bool


class Layout:
    """A folder's own account, checked against its rows. Raises ValueError naming the file that is wrong."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder; expected one with meta/info.json")
        no_links(folder)
        self.folder = folder
        self._info = json_file(folder / "meta" / "info.json")
        version = self._info.get("codebase_version") if isinstance(self._info, dict) else None
        if not isinstance(version, str) or not VERSIONS.fullmatch(version):
            raise ValueError(f"{folder} is of version {version!r}; expected v2.0, v2.1 or v3.x of LeRobot's data sets")
        self.newer = version.startswith("v3")
        self.features = {name: _feature(folder, name, told) for name, told in self._features().items()}
        self.stated = all(f"next.{flag}" in self.features for flag in ("done", "truncated"))  # how episodes ended
        self._tasks = self._named_tasks()
        self.episodes = list(self._placed(self._announced()))

    def _features(self) -> Mapping[str, Any]:
        features = self._info.get("features")
        if not isinstance(features, dict):
            raise ValueError(f"{self.folder}/meta/info.json has no features")
        return features

    def _announced(self) -> dict[Path, dict[int, int]]:
        """File -> its episodes and their lengths, in order."""
        found: dict[Path, dict[int, int]] = {}
        for one in sorted(self._episodes(), key=lambda told: told["episode_index"]):
            path = self._path(one)
            if found.setdefault(path, {}).setdefault(one["episode_index"], one["length"]) != one["length"]:
                raise ValueError(f"{self.folder}: episode {one['episode_index']} is announced twice")
        return found

    def _episodes(self) -> Iterator[dict[str, int]]:
        if not self.newer:
            for told in _lines(self.folder / "meta" / "episodes.jsonl"):
                yield _whole(self.folder, told, ("episode_index", "length"))
            return
        for path in sorted((self.folder / "meta" / "episodes").glob("*/*.parquet")):
            rows = Rows(path)
            for told in rows.table(EPISODES).to_pylist():
                yield _whole(path, told, EPISODES)
            rows.close()

    def _path(self, episode: Mapping[str, int]) -> Path:
        """The file of an episode. Raises ValueError if the pattern is odd or leads out of the folder."""
        pattern = self._info.get("data_path")
        size = self._info.get("chunks_size", 1000)
        if not isinstance(pattern, str) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{self.folder}/meta/info.json has no data_path, or an odd chunks_size {size!r}")
        values = {
            "episode_index": episode["episode_index"],
            "episode_chunk": episode["episode_index"] // size,
            "chunk_index": episode.get("data/chunk_index"),
            "file_index": episode.get("data/file_index"),
        }

        def number(match: re.Match[str]) -> str:
            value = values.get(match[1])
            if value is None:
                raise ValueError(f"{self.folder}: data_path {pattern!r} asks for {match[1]!r}, which is not known")
            return f"{value:0{int(match[2] or 0)}d}"

        parts = PLACE.sub(number, pattern).split("/")
        if any(not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", part) for part in parts):
            raise ValueError(f"{self.folder}: data_path {pattern!r} is no path inside the folder")
        return self.folder.joinpath(*parts)

    def _named_tasks(self) -> dict[int, str]:
        """Number -> text of the tasks; none where the file is not there."""
        if not self.newer:
            path = self.folder / "meta" / "tasks.jsonl"
            told = list(_lines(path)) if path.exists() else []
            return {one["task_index"]: str(one["task"]) for one in told if isinstance(one.get("task_index"), int)}
        path = self.folder / "meta" / "tasks.parquet"
        if not path.exists():
            return {}
        rows = Rows(path)
        table = rows.table(rows.names)
        rows.close()
        named = [found for name in rows.names if (found := texts(table.column(name))) is not None]
        if len(named) != 1 or "task_index" not in rows.names:
            raise ValueError(f"{path} has columns {', '.join(rows.names)}; expected task_index and one of texts")
        return dict(zip(numbers(table.column("task_index"), (), path).tolist(), named[0], strict=True))

    def _placed(self, announced: Mapping[Path, Mapping[int, int]]) -> Iterator[Placed]:
        """Episodes in order of file and there as announced. Raises ValueError if rows are missing, or out of order."""
        wanted = ["episode_index", "frame_index"]
        wanted += ["task_index"] if "task_index" in self.features else []
        wanted += ["next.done", "next.truncated"] if self.stated else []
        for path, episodes in announced.items():
            rows = Rows(path)
            table = rows.table(wanted)
            rows.close()
            column = {name: numbers(table.column(name), (), path / name) for name in wanted}
            episode = column["episode_index"]
            starts = np.flatnonzero(np.diff(episode, prepend=-1)) if len(episode) else np.zeros(0, np.int64)
            stops = np.append(starts[1:], len(episode))
            there = {int(episode[a]): (int(a), int(b)) for a, b in zip(starts, stops, strict=True)}
            if len(there) != len(starts) or (unknown := sorted({*there} - {*episodes})):
                told = "an episode in two places" if len(there) != len(starts) else f"rows of episodes {unknown[:5]}"
                raise ValueError(f"{path} has {told}, which meta does not announce")
            for number, steps in episodes.items():
                start, stop = there.get(number, (0, 0))
                if stop - start != steps or (column["frame_index"][start:stop] != np.arange(steps)).any():
                    raise ValueError(
                        f"{path}: episode {number} has {stop - start} rows; expected frames 0 to {steps - 1}"
                    )
                part = slice(start, stop)
                yield Placed(number, path, start, steps, self._task(column, part), self._terminated(column, part))

    def _task(self, column: Mapping[str, Array], part: slice) -> str | None:
        numbered = set(column["task_index"][part].tolist()) if "task_index" in column else set()
        return self._tasks.get(numbered.pop()) if len(numbered) == 1 else None

    def _terminated(self, column: Mapping[str, Array], part: slice) -> bool:
        if not self.stated or part.stop == part.start:
            return False
        return bool(column["next.done"][part][-1]) and not column["next.truncated"][part][-1]


def _feature(folder: Path, name: str, told: Any) -> Feature:
    try:
        dtype, shape = str(told["dtype"]), tuple(int(n) for n in told.get("shape") or ())
        if dtype not in ("image", "video", "string") and np.dtype(dtype).kind not in "fiub":
            raise ValueError("not numbers")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{folder}/meta/info.json: feature {name!r} is {told!r} ({error!r})") from None
    return Feature(dtype, shape)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines. Raises ValueError naming the line that is none."""
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from None
    for number, line in enumerate(content.split("\n"), 1):
        try:
            told = json.loads(line) if line.strip() else {}
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}, is no JSON ({error})") from None
        if not isinstance(told, dict):
            raise ValueError(f"{path}, line {number}, is {line[:40]!r}; expected an object")
        if told:
            yield told


def _whole(where: Path, told: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, int]:
    """The named whole numbers of what is told of an episode. Raises ValueError naming one that is none."""
    for name in names:
        value = told.get(name)
        if type(value) is not int or not 0 <= value < 1 << 62:
            raise ValueError(f"{where}: an episode has {name} {value!r}; expected a whole number")
    return {name: told[name] for name in names}
