"""What a commit says is there, read and verified: the schema and the episode table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any

import numpy as np

from toolkit.core import Array
from toolkit.store import layout
from toolkit.store.backend import Backend, load_json
from toolkit.store.chunks import SegmentFiles
from toolkit.store.encoding import PROFILES, Profile
from toolkit.store.files import StoreError, digest
from toolkit.store.schema import Schema

KIND = "packmule-replay-store"
ROW_NUMBERS = 1 << 24  # of one array; no claim beyond it is believed


class EpisodeTable:
    """The committed episodes of a store or view, one entry each.

    A column is read, and verified, when it is first asked for: opening a store costs the places of its episodes
    only (`start`, `length` and `segment` locate rows), some 16 bytes an episode.
    """

    def __init__(self, columns: Mapping[str, Array | Callable[[], Array]], size: int) -> None:
        """`columns` maps a name to its values (E, ...) or to what reads them."""
        self._columns, self._size = dict(columns), size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, name: str) -> Array:
        """One column (E, ...). Raises KeyError listing the columns there are, StoreError if it is damaged."""
        if name not in self._columns:
            raise KeyError(f"no episode column {name!r}; there are {', '.join(sorted(self._columns))}")
        found = self._columns[name]
        if callable(found):
            found = self._columns[name] = found()
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    @property
    def columns(self) -> dict[str, Array]:
        """Every column, read."""
        return {name: self[name] for name in self._columns}

    def entry(self, index: int) -> dict[str, Any]:
        """One episode's values by column."""
        return {name: self[name][index] for name in self._columns}

    def take(self, chosen: Array) -> EpisodeTable:
        """The episodes at positions `chosen` (n,), in that order."""

        def column(name: str) -> Array | Callable[[], Array]:
            read = not callable(self._columns[name])
            return self[name][chosen] if read else lambda: self[name][chosen]

        return EpisodeTable({name: column(name) for name in self._columns}, len(chosen))


def read_schema(backend: Backend) -> Schema:
    """The schema of a store. Raises StoreError if there is none, or it is damaged, foreign or newer."""
    return read_root(backend)[0]


def read_root(backend: Backend) -> tuple[Schema, Profile]:
    """The schema of a store and the profile its writers use unless told otherwise; raises as `read_schema`."""
    where = f"{backend.name}/zarr.json"
    try:
        attributes = dict(load_json(backend, "zarr.json")["attributes"])
    except FileNotFoundError:
        if backend.local is not None and backend.local.is_file():
            raise StoreError(f"no store at {backend.name}: it is a file, a store is a folder") from None
        there = backend.local is None or backend.local.exists()
        raise StoreError(
            f"no store at {backend.name}: {'it has no zarr.json' if there else 'nothing is there'}"
        ) from None
    except StoreError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{where}: not readable ({error}); the file is damaged") from None
    if attributes.get("kind") != KIND:
        raise StoreError(f"{backend.name} is a zarr group but not a packmule store (its attributes lack kind={KIND!r})")
    if type(attributes.get("format")) is not int:
        raise StoreError(f"{where}: format {attributes.get('format')!r} is no number; it is damaged")
    if attributes["format"] > layout.FORMAT:
        raise StoreError(
            f"{backend.name} has format {attributes['format']}, this program reads up to {layout.FORMAT}: "
            "upgrade packmule"
        )
    stated = attributes.pop("digest", None)
    if stated != digest(attributes):
        raise StoreError(f"{where}: digest does not match its attributes; the file is damaged")
    profile = attributes.get("profile", "fast")
    if profile not in PROFILES:
        raise StoreError(
            f"{backend.name} has the profile {profile!r}, which this program does not know: upgrade packmule"
        )
    try:
        schema = Schema.from_json(attributes["schema"])
        shapes = {name: shape for name, (shape, _) in layout.row_arrays(schema).items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"{where}: not a readable schema ({error})") from None
    for name, shape in shapes.items():
        if not all(type(size) is int and size >= 0 for size in shape) or math.prod(shape) > ROW_NUMBERS:
            raise StoreError(f"{where}: {name} has shape {shape}; the most is {ROW_NUMBERS} numbers a row")
    return schema, profile


class Committed:
    """The segments of one commit: their files, and the episode table made of them."""

    def __init__(self, backend: Backend, schema: Schema, commit: layout.Commit) -> None:
        self.backend, self.schema, self.commit = backend, schema, commit
        self.segments = [SegmentFiles(backend, schema, entry) for entry in commit.segments]
        counts = [entry["episodes"] for entry in commit.segments]
        self._edges = np.cumsum([0, *counts])

    @cached_property
    def table(self) -> EpisodeTable:
        """The episode table. Raises StoreError if it is damaged or speaks of rows that are not there."""
        size = int(self._edges[-1])
        places = self._places()
        rest = {name.removeprefix("episodes/") for name in layout.episode_arrays(self.schema)} - {"start", "length"}
        return EpisodeTable(places | {name: partial(self._column, name) for name in sorted(rest)}, size)

    def _places(self) -> dict[str, Array]:
        """start (E,) int64, length and segment (E,), as narrow as they can be: the places of all episodes."""
        start, length = self._column("start"), self._column("length")
        for number, entry in enumerate(self.commit.segments):
            mine = slice(self._edges[number], self._edges[number + 1])
            a, b = start[mine], length[mine]
            if len(a) and not (a.min() >= 0 and b.min() >= 1 and np.all(a < entry["rows"] - b)):
                raise StoreError(f"{self.segments[number].where} has episodes outside its {entry['rows']} rows")
        if len(length) and length.max() < 1 << 31:
            length = length.astype(np.int32)
        segment = np.repeat(np.arange(len(self.segments), dtype=np.int32), np.diff(self._edges))
        return {"start": start, "length": length, "segment": segment}

    def _column(self, column: str) -> Array:
        """One column of the table (E, ...), text as objects. Raises StoreError if it is damaged."""
        name = f"episodes/{column}"
        shape, dtype = layout.episode_arrays(self.schema)[name]
        parts = [np.zeros((0, *shape), object if column in layout.CATEGORICAL else dtype)]
        for files in self.segments:
            values = files.column(name)
            if column in layout.CATEGORICAL:
                known = files.entry["categories"][column]
                if len(values) and not (values.min() >= 0 and values.max() < len(known)):
                    raise StoreError(f"{files.where}/{name} has codes outside its categories")
                values = np.asarray(known, object)[values]
            parts.append(values)
        return parts[1] if len(parts) == 2 else np.concatenate(parts)
