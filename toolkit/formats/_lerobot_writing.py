"""LeRobot's data sets of version 3.0, as they are written. See `lerobot`."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.core import Array, Episode
from toolkit.formats._lerobot import COUNTERS, FLAGS, Feature
from toolkit.formats._parquet import encoded, listed
from toolkit.formats._writing import left_behind
from toolkit.store import ReplayStore
from toolkit.store.statistics import Running

GROUP = 1000  # frames, about, of a row group written
FILE = 100_000_000  # bytes, about, of a data file written
FILES = 1000  # in a folder
FPS = 1  # a store does not know how long a step takes
SAMPLED = 50  # pictures of each episode, about, in the statistics


def described(store: ReplayStore) -> tuple[dict[str, str], dict[str, Feature], list[str]]:
    """Key -> column of the observations and extras, the features, and what is lost. Raises ValueError; see `write`."""
    schema, success = store.schema, store.episodes["success"]
    if schema.action.space != "box":
        raise ValueError("a LeRobot data set holds continuous actions as read here; this store has choices")
    names: dict[str, str] = {}
    features: dict[str, Feature] = {}

    def add(key: str, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        if name in features:
            raise ValueError(f"two keys would both be written as {name!r}, {key!r} is one; rename one")
        names[key], features[name] = name, Feature(dtype, shape or (1,))

    for one in schema.observations:
        if one.role == "image" and (one.shape[-1] not in (1, 3, 4) or importlib.util.find_spec("PIL") is None):
            raise ValueError(
                f"image {one.name!r} of shape {one.shape} cannot be written: pictures have 1, 3 or 4 channels, and "
                "writing them needs pillow (pip install pillow)"
            )
        name = one.name.replace("/", ".")
        if not name.startswith("observation."):
            name = "state" if name == "observation" else f"images.{name}" if one.role == "image" else name
            name = f"observation.{name}"
        add(f"obs/{one.name}", name, "image" if one.role == "image" else one.dtype, one.shape)
    add("action", "action", schema.action.dtype, schema.action.shape)
    add("reward", "next.reward", "float32", ())
    kept = ("task", "success") if (success >= 0).all() else ("task",)
    for flag in FLAGS[: 3 if "success" in kept else 2]:
        add(flag, flag, "bool", ())
    for counter in COUNTERS:
        add(counter, counter, "float32" if counter == "timestamp" else "int64", ())
    lost = ["the observation after an episode's last action", *left_behind(store, kept)]
    lost.append(f"the time a step takes (fps {FPS} stands for it)")
    for key, extra in schema.info.items():
        name = key.replace("/", ".")
        if name in features or name == "task" or name.split(".")[0] in ("observation", "next", "action"):
            lost.append(f"info {key}, whose name means something else there")
        else:
            add(f"info/{key}", name, extra.dtype, extra.shape)
    if changed := [one.name for one in schema.observations if names[f"obs/{one.name}"] != one.name]:
        lost.append(f"names of observations ({', '.join(changed)})")
    return names, features, lost


def frames_of(
    episode: Episode, names: Mapping[str, str], features: Mapping[str, Feature], task: int
) -> dict[str, Array]:
    """Columns of an episode's frames, (T, ...) each, but `episode_index` and `index`."""
    steps = len(episode)
    last = np.arange(steps) == steps - 1
    found: dict[str, Array] = {f"obs/{key}": rows[:-1] for key, rows in episode.observations().items()}
    found |= {f"info/{key}": rows for key, rows in episode.info.items()}
    found |= {"action": episode.action, "reward": episode.reward}
    found |= {"next.done": last, "next.truncated": last & (not episode.terminated)}
    found["next.success"] = last & bool(episode.columns.get("success"))
    found |= {"frame_index": np.arange(steps), "timestamp": (np.arange(steps) / FPS).astype(np.float32)}
    found["task_index"] = np.full(steps, task)
    return {
        names[key]: np.asarray(rows).reshape(steps, *features[names[key]].shape)
        for key, rows in found.items()
        if key in names
    }


class Written:
    """A folder of version 3.0 while it is written."""

    def __init__(self, folder: Path, features: Mapping[str, Feature]) -> None:
        self._folder, self._features = folder, features
        self._episodes: list[dict[str, Any]] = []
        self._statistics: dict[str, Running] = {}
        self._waiting: list[Any] = []
        self._writer: Any = None
        self._file = -1
        self._total = 0
        (folder / "meta" / "episodes" / "chunk-000").mkdir(parents=True)

    def add(self, frames: dict[str, Array], episode: Episode) -> None:
        """The next episode."""
        import pyarrow as pa

        steps, number = len(episode), len(self._episodes)
        frames |= {"episode_index": np.full((steps, 1), number), "index": self._total + np.arange(steps)[:, None]}
        columns = {}
        for name, feature in self._features.items():
            image, values = feature.dtype == "image", frames[name]
            columns[name] = encoded(values) if image else listed(values[:, 0] if feature.shape == (1,) else values)
            some = values[:: max(1, steps // SAMPLED)] / 255 if image else values
            flat = some.reshape(-1, values.shape[-1]) if image else some.reshape(steps, -1)
            running = Running.of(flat)
            self._statistics[name] = self._statistics[name].merge(running) if number else running
        if self._writer is None:
            self._open(pa.table(columns).schema)
        self._waiting.append(pa.table(columns))
        place = {"data/chunk_index": self._file // FILES, "data/file_index": self._file % FILES}
        self._episodes.append(
            {"episode_index": number, "tasks": frames["task_index"][:1, 0].tolist(), "length": steps, **place}
            | {"dataset_from_index": self._total, "dataset_to_index": self._total + steps}
            | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        )
        self._total += steps
        if sum(map(len, self._waiting)) >= GROUP:
            self._flush()

    def close(self, tasks: Sequence[str]) -> None:
        """Finish the data, and write what is said of them."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._flush(last=True)
        meta = self._folder / "meta"
        told = [one | {"tasks": [tasks[number] for number in one["tasks"]]} for one in self._episodes]
        pq.write_table(pa.Table.from_pylist(told), meta / "episodes" / "chunk-000" / "file-000.parquet")
        index = "__index_level_0__"  # pandas shall take the texts for the rows' names, as LeRobot does
        types = {"task_index": ("int64", "int64"), index: ("unicode", "object")}
        described = {
            "index_columns": [index],
            "column_indexes": [],
            "columns": [
                {"name": None if name == index else name, "field_name": name, "metadata": None}
                | {"pandas_type": kind, "numpy_type": held}
                for name, (kind, held) in types.items()
            ],
        }
        table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), index: pa.array(tasks, pa.string())})
        pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(described)}), meta / "tasks.parquet")
        info = {
            "codebase_version": "v3.0", "robot_type": None, "total_episodes": len(told), "total_frames": self._total,
            "total_tasks": len(tasks), "chunks_size": FILES, "data_files_size_in_mb": FILE // 1_000_000,
            "video_files_size_in_mb": 200, "fps": FPS, "splits": {"train": f"0:{len(told)}"},
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet", "video_path": None,
            "features": {
                name: {
                    "dtype": one.dtype,
                    "shape": list(one.shape),
                    "names": ["height", "width", "channels"] if one.dtype == "image" else None,
                }
                for name, one in self._features.items()
            },
        }  # fmt: skip
        (meta / "info.json").write_text(json.dumps(info, indent=4), encoding="utf-8")
        (meta / "stats.json").write_text(json.dumps(self._stated(), indent=4), encoding="utf-8")

    def _stated(self) -> dict[str, dict[str, Any]]:
        told = {}
        for name, running in self._statistics.items():
            shape = (-1, 1, 1) if self._features[name].dtype == "image" else self._features[name].shape
            values = {"min": running.low, "max": running.high, "mean": running.mean}
            values["std"] = np.sqrt(running.m2 / running.count)
            told[name] = {part: value.reshape(shape).tolist() for part, value in values.items()}
            told[name]["count"] = [running.count if shape != (-1, 1, 1) else self._total]
        return told

    def _open(self, schema: Any) -> None:
        import pyarrow.parquet as pq

        self._file += 1
        path = self._folder / "data" / f"chunk-{self._file // FILES:03d}" / f"file-{self._file % FILES:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer, self._path = pq.ParquetWriter(path, schema), path

    def _flush(self, last: bool = False) -> None:
        """Write the frames that wait as one row group, and begin another file where this one is large."""
        import pyarrow as pa

        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting))
            self._waiting.clear()
        if self._writer is not None and (last or self._path.stat().st_size >= FILE):
            self._writer.close()
            self._writer = None
