"""The replay buffer of diffusion policies (arXiv:2303.04137): a zarr group, format 2, as a folder or a zip file.

`data/KEY` (N, ...) are rows of all episodes one after another, `meta/episode_ends` (E,) says where each stops. A row
has an observation and its action, so the observation after an episode's last action is not there; nor are rewards and
ends, unless `data/reward` and `meta/terminated`, which this toolkit writes and the library copies along.

Images may be stored as floats: whole numbers from 0 to 255 are, anything else is refused. Only plain numbers and codecs
that decompress or transform them are read.
"""

from __future__ import annotations

import math
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import zarr
from gymnasium import spaces

from toolkit.core import Array
from toolkit.formats import Format, Reading, Recording, Source
from toolkit.formats._ends import without_final
from toolkit.formats._spaces import acted, chosen_keys, observed
from toolkit.formats._writing import flat_names, left_behind
from toolkit.formats._zarr2 import Buffer, Stated, opened
from toolkit.store import ReplayStore
from toolkit.store.schema import Schema

WRITTEN = 1 << 21  # bytes, about, of the largest chunk written
MOST_ROWS = 1 << 16  # of a chunk written
OWN = ("action", "reward")
SCRATCH = ".folder"  # what a zip file is made of


class DiffusionPolicy(Format):
    name = "diffusion-policy"
    about = "the zarr replay buffer of diffusion policies (data/KEY, meta/episode_ends), a folder or zip"
    requires = ("zarr",)
    final_observation = False

    def read(self, source: Path, reading: Reading) -> Source:
        """See `Format.read`. The last step of an episode is treated as `toolkit.formats._ends` says."""
        with opened(source) as buffer:
            stops = buffer.rows("meta/episode_ends").astype(np.int64)
            if stops.ndim != 1 or (np.diff(stops, prepend=0) < 1).any():
                raise ValueError(f"{source}: meta/episode_ends is {stops.tolist()[:10]}; expected growing row numbers")
            total, starts = int(stops[-1]) if len(stops) else 0, np.concatenate([[0], stops[:-1]]).astype(np.int64)
            names, groups = buffer.inside("data")
            if "action" not in names:
                raise ValueError(f"{source} has no array data/action; there is {', '.join(names) or 'nothing'}")
            keys = chosen_keys([name for name in names if name not in OWN], reading)
            rewarded = "reward" in names
            stated = {key: buffer.stated(f"data/{key}", total) for key in ("action", *keys)}
            if rewarded:
                stated["reward"] = buffer.stated("data/reward", total)
            notes = list(_checked(source, stated, total))
            flags = buffer.rows("meta/terminated") if "terminated" in buffer.inside("meta")[0] else None
            if flags is not None and (flags.shape != stops.shape or flags.dtype != bool):
                raise ValueError(
                    f"{source}: meta/terminated is {flags.dtype} {flags.shape}; expected bool {stops.shape}"
                )
            terminated = np.zeros(len(stops), bool) if flags is None else flags
            ends = without_final(stops - starts, terminated, reading.final)
            pictures = {key for key in keys if _float_images(buffer, key, stated[key], total)}
            acting, limits = acted(stated["action"].shape[1:], buffer.blocks("data/action", total), reading)
            seen: dict[str, spaces.Space] = {
                key: observed(stated[key].shape[1:], np.dtype(np.uint8) if key in pictures else stated[key].dtype)
                for key in keys
            }
            schema = Schema.from_spaces(observation=spaces.Dict(seen), action=acting)
        if flags is None:
            notes.append("every episode is taken as truncated: this format does not say how one ended")
        if not rewarded:
            notes.append("every reward is 0: the source has none")
        if groups:
            notes.append(f"{', '.join(groups)} in data were left out; a replay buffer holds arrays")
        notes += ends.notes

        def recordings(first: int) -> Iterator[Recording]:
            with opened(source) as buffer:
                for number in ends.kept[first:].tolist():
                    start, steps = int(starts[number]), int(ends.steps[number])
                    part = (start, start + steps)
                    obs = {}
                    for key in keys:
                        rows = buffer.rows(f"data/{key}", start, int(stops[number]))
                        obs[key] = ends.observations(number, rows.astype(np.uint8) if key in pictures else rows)
                    yield Recording(
                        where=f"rows {start} to {int(stops[number]) - 1}",
                        obs=obs,
                        action=buffer.rows("data/action", *part),
                        reward=buffer.rows("data/reward", *part).reshape(steps) if rewarded else np.zeros(steps),
                        terminated=bool(ends.terminated[number]),
                    )

        return Source(schema, len(ends.kept), recordings, notes, limits)

    def write(self, store: ReplayStore, target: Path) -> Sequence[str]:
        """See `Format.write`: a folder, or a zip file where `target` ends in ".zip"; slashes in names become "_"."""
        schema = store.schema
        if schema.action.space != "box":
            raise ValueError("a replay buffer of diffusion policies holds continuous actions; this store has choices")
        names = flat_names((key.name for key in schema.observations), "_")
        if taken := sorted({*OWN} & {*names.values()}):
            raise ValueError(f"observation {', '.join(taken)} has the name of something else in this format; rename it")
        lost = ["the observation after an episode's last action", *left_behind(store)]
        lost += [f"info {name}" for name in schema.info]
        if any("/" in name for name in names):
            lost.append('groups of nested keys ("/" became "_")')
        zipped = target.suffix == ".zip"
        folder = target.with_name(target.name + SCRATCH) if zipped else target
        root = zarr.create_group(store=folder, zarr_format=2)
        data, meta = root.create_group("data"), root.create_group("meta")
        shapes = {names[key.name]: (key.shape, key.dtype) for key in schema.observations}
        shapes |= {"action": (schema.action.shape, schema.action.dtype), "reward": ((), "float32")}
        widest = max(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in shapes.values())
        size = max(1, min(store.transitions, MOST_ROWS, WRITTEN // widest))
        made = {
            name: _array(data, name, (store.transitions, *shape), dtype, (size, *shape))
            for name, (shape, dtype) in shapes.items()
        }
        waiting: dict[str, list[Array]] = {name: [] for name in made}
        done, lengths, terminated = 0, [], []
        for index in range(len(store)):
            episode = store.episode(index)
            lengths.append(len(episode))
            terminated.append(episode.terminated)
            for key, rows in episode.observations().items():
                waiting[names[key]].append(rows[:-1])
            waiting["action"].append(episode.action)
            waiting["reward"].append(episode.reward)
            there = sum(lengths) - done
            count = there if index == len(store) - 1 else there - there % size  # whole chunks, but for the last
            for name in made if count else ():
                rows = np.concatenate(waiting[name])
                made[name][done : done + count], waiting[name] = rows[:count], [rows[count:]]
            done += count
        _array(meta, "episode_ends", (len(lengths),), "int64", (len(lengths),))[:] = np.cumsum(lengths)
        _array(meta, "terminated", (len(lengths),), "bool", (len(lengths),))[:] = np.asarray(terminated, bool)
        if zipped:
            with zipfile.ZipFile(target, "x", zipfile.ZIP_STORED) as archive:
                for one in sorted(path for path in folder.rglob("*") if path.is_file()):
                    archive.write(one, one.relative_to(folder).as_posix())
            shutil.rmtree(folder)
        return lost


def _float_images(buffer: Buffer, key: str, stated: Stated, rows: int) -> bool:
    """Whether `key` holds images as floats. Raises ValueError if it looks like images and has other numbers."""
    if stated.dtype.kind != "f" or len(stated.shape) != 4 or stated.shape[-1] not in (1, 3, 4):
        return False
    for block in buffer.blocks(f"data/{key}", rows):
        if not ((block >= 0) & (block <= 255) & (block == np.floor(block))).all():
            raise ValueError(
                f"{buffer.source}: data/{key} is {stated.dtype} {stated.shape}, images perhaps, and not all are whole "
                "numbers from 0 to 255; store them so, or leave it out with --keys"
            )
    return True


def _checked(source: Path, stated: dict[str, Stated], total: int) -> Iterator[str]:
    """What to say of arrays that have rows too many, or lack chunks. Raises ValueError if rows are missing."""
    for name, one in stated.items():
        if one.shape[0] < total:
            raise ValueError(f"{source}: data/{name} has {one.shape[0]} rows; the episodes end at row {total}")
        if name == "reward" and math.prod(one.shape[1:]) != 1:
            raise ValueError(f"{source}: data/reward has shape {one.shape}; expected one number a row")
        if one.shape[0] > total:
            yield f"{one.shape[0] - total} rows of {name} after the last episode were left out"
        if one.missing:
            yield f"{one.missing} of {one.chunks} chunks of {name} are not there and read as its fill value"


def _array(group: zarr.Group, name: str, shape: tuple[int, ...], dtype: str, chunks: tuple[int, ...]) -> zarr.Array:
    """A new array as the library itself makes them; chunks of zeros are written too."""
    from numcodecs import Blosc

    packed = Blosc(cname="lz4", clevel=5, shuffle=Blosc.NOSHUFFLE)
    return group.create_array(
        name, shape=shape, dtype=dtype, chunks=chunks, compressors=packed, config={"write_empty_chunks": True}
    )


FORMAT = DiffusionPolicy()
