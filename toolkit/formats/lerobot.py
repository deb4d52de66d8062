"""LeRobot's data sets on disk, versions 2 and 3: Parquet files of frames, and what they say of themselves in `meta`.

A frame has an observation, the action taken there and perhaps `next.reward`, so an episode of T frames lacks the
observation after its last action. `next.done` is set at the last frame of every episode whatever ended it, so an
episode counts as terminated only where `next.truncated` is there too and is not set. Pictures inside the Parquet files
are decoded; videos are left out.

Version 3.0 is written, without videos. Rewards, ends and success become `next.reward`, `next.done`, `next.truncated`
and `next.success`; the statistics are those of the frames, of pictures some of each episode, without quantiles.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from toolkit.core import Array
from toolkit.formats import Format, Reading, Recording, Source
from toolkit.formats._ends import without_final
from toolkit.formats._lerobot import COUNTERS, FLAGS, Feature, Layout, Placed
from toolkit.formats._lerobot_writing import Written, described, frames_of
from toolkit.formats._parquet import Rows, numbers, pictures
from toolkit.formats._spaces import acted, chosen_keys, observed
from toolkit.store import ReplayStore
from toolkit.store.keys import INFO_TYPES, PART, InfoKey
from toolkit.store.schema import Schema


class LeRobot(Format):
    name = "lerobot"
    about = "LeRobot data sets v2 and v3 (a folder with meta/info.json and Parquet files)"
    requires = ("pyarrow",)
    extra = "lerobot"
    final_observation = False

    def read(self, source: Path, reading: Reading) -> Source:
        """See `Format.read`. The last frame of an episode is treated as `toolkit.formats._ends` says."""
        if not source.exists():
            raise FileNotFoundError(f"{source} is not there")
        layout = Layout(source)
        episodes, features = layout.episodes, layout.features
        acting = features.get("action")
        if acting is None or not acting.number or np.dtype(acting.dtype).kind != "f":
            raise ValueError(
                f"{source} has {'no' if acting is None else acting.dtype} action; expected a feature 'action' of "
                "floats: how many choices there are a data set does not say"
            )
        keys, notes = _chosen(source, features, reading)
        lengths = np.asarray([one.steps for one in episodes], np.int64)
        ends = without_final(lengths, np.asarray([one.terminated for one in episodes], bool), reading.final)
        extras, odd = _extras(features)
        shapes = _shapes(episodes, features, keys)
        actions, limits = acted(acting.shape, _actions(episodes, acting), reading)
        seen: dict[str, spaces.Space] = {
            key: observed(shapes[key], np.dtype(np.uint8 if not features[key].number else features[key].dtype))
            for key in keys
        }
        schema = Schema.from_spaces(observation=spaces.Dict(seen), action=actions, info=extras)
        rewarded = "next.reward" in features
        if not layout.stated:
            notes.append("every episode is taken as truncated: next.done alone does not say what ended one")
        if not rewarded:
            notes.append("every reward is 0: the source has no next.reward")
        if unknown := sum(one.task is None for one in episodes):
            notes.append(f"{unknown} episodes have no task, or several, and are left without one")
        if odd:
            notes.append(f"{', '.join(odd)} were left out")
        columns = ["action", *keys, *extras, *(name for name in ("next.reward", *FLAGS) if name in features)]

        def recordings(first: int) -> Iterator[Recording]:
            rows: Rows | None = None
            try:
                for number in ends.kept[first:].tolist():
                    one, steps = episodes[number], int(ends.steps[number])
                    if rows is None or rows.path != one.path:
                        if rows is not None:
                            rows.close()
                        rows = Rows(one.path)
                    table, where = rows.table(columns, one.start, one.start + one.steps), f"episode {one.number}"
                    found = {
                        name: _values(
                            table.column(name), features[name], shapes.get(name), f"{source}: {where}: {name}"
                        )
                        for name in columns
                    }
                    flags = {name: found[name].reshape(one.steps).astype(bool) for name in FLAGS if name in found}
                    success = flags.pop("next.success", None)
                    yield Recording(
                        where=where,
                        obs={key: ends.observations(number, found[key]) for key in keys},
                        action=found["action"][:steps],
                        reward=found["next.reward"].reshape(-1)[:steps] if rewarded else np.zeros(steps, np.float32),
                        terminated=bool(ends.terminated[number]),
                        ends=flags,
                        info={name: found[name][:steps] for name in extras},
                        columns={"task": one.task or "", "success": None if success is None else bool(success.any())},
                    )
            finally:
                if rows is not None:
                    rows.close()

        return Source(schema, len(ends.kept), recordings, [*notes, *ends.notes], limits)

    def write(self, store: ReplayStore, target: Path) -> Sequence[str]:
        """See `Format.write`: a folder of version 3.0. One observation is "observation.state", pictures are PNG."""
        names, features, lost = described(store)
        tasks = list(dict.fromkeys(map(str, store.episodes["task"])))
        written = Written(target, features)
        for index in range(len(store)):
            episode = store.episode(index)
            written.add(frames_of(episode, names, features, tasks.index(str(episode.columns["task"]))), episode)
        written.close(tasks)
        return lost


def _chosen(source: Path, features: Mapping[str, Feature], reading: Reading) -> tuple[list[str], list[str]]:
    """The observations to keep, and what to say of others. Raises ValueError if one asked for cannot be read."""
    seen = [name for name in features if name == "observation" or name.startswith("observation.")]
    decodes = importlib.util.find_spec("PIL") is not None
    able = [name for name in seen if features[name].number or (features[name].dtype == "image" and decodes)]
    keys = chosen_keys(seen if reading.keys is not None else able, reading)
    if unable := [f"{name} ({features[name].dtype})" for name in keys if name not in able]:
        raise ValueError(
            f"{source}: {', '.join(unable)} cannot be read: of pictures only those inside the Parquet files are "
            "decoded, with pillow; turn videos into such pictures first, or leave them out of --keys"
        )
    if not keys:
        raise ValueError(f"{source} has no observation that can be read; it has {', '.join(seen) or 'none'}")
    left = [f"{name} ({features[name].dtype})" for name in seen if name not in able]
    return keys, [f"{', '.join(left)} were left out"] if left and reading.keys is None else []


def _extras(features: Mapping[str, Feature]) -> tuple[dict[str, InfoKey], list[str]]:
    """Features that are neither observations nor what an episode consists of: numbers of each step, and the rest."""
    known = {"action", "next.reward", *FLAGS, *COUNTERS}
    others = [name for name in features if name not in known and name.split(".")[0] != "observation"]
    extras, odd = {}, []
    for name in others:
        one = features[name]
        if one.number and one.dtype in INFO_TYPES and PART.fullmatch(name):
            extras[name] = InfoKey(one.shape, one.dtype)
        else:
            odd.append(name)
    return extras, odd


def _shapes(
    episodes: Sequence[Placed], features: Mapping[str, Feature], keys: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """Shapes of the observations: as stated, but for pictures as the first of them is."""
    shapes, first = {key: features[key].shape for key in keys}, next((one for one in episodes if one.steps), None)
    images = [key for key in keys if not features[key].number]
    if first is not None and images:
        with closing(Rows(first.path)) as rows:
            table = rows.table(images, first.start, first.start + 1)
            shapes |= {key: pictures(table.column(key), None, first.path / key).shape[1:] for key in images}
    return shapes


def _actions(episodes: Sequence[Placed], acting: Feature) -> Iterator[Array]:
    for path in dict.fromkeys(one.path for one in episodes):
        with closing(Rows(path)) as rows:
            yield from rows.blocks("action", acting.shape)


def _values(column: Any, feature: Feature, shape: tuple[int, ...] | None, where: str) -> Array:
    if feature.dtype == "image":
        return pictures(column, shape, where)
    return numbers(column, feature.shape, where)


FORMAT = LeRobot()
