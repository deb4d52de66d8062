"""A committed segment's chunk files, read one by one and trusted in nothing: sizes and links before content."""

from __future__ import annotations

import math
import os
import stat
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from toolkit.core import Array, Episode
from toolkit.store import layout
from toolkit.store.files import StoreError, canonical, load_json, read_bounded, refuse_links
from toolkit.store.schema import Schema

METADATA_BYTES = 1 << 20
CHECKSUM_BYTES = 4
CACHED = 2  # chunks of each array kept in memory


class SegmentFiles:
    """The arrays of one segment, as a commit's entry claims them: found by the schema, not by the metadata on disk.

    So damaged metadata does not hide intact rows, and no false claim leads to an allocation.
    """

    def __init__(self, root: Path, schema: Schema, entry: Mapping[str, Any]) -> None:
        self.root, self.schema, self.entry = root, schema, entry
        self.folder = root / "segments" / entry["id"]
        self.row_arrays = layout.row_arrays(schema)
        self.arrays = self.row_arrays | layout.episode_arrays(schema)
        self.chunk_shapes = {name: layout.chunk_shape(name, self.arrays[name][0], schema) for name in self.arrays}
        self._reached: set[str] = set()  # arrays whose folders were seen to be no links
        self._cache: dict[str, OrderedDict[int, Array]] = {name: OrderedDict() for name in self.arrays}

    def count(self, name: str) -> int:
        """Committed entries of array `name`."""
        return int(self.entry["episodes" if name.startswith("episodes/") else "rows"])

    def chunks(self, name: str) -> int:
        """Chunk files that hold the committed entries; none if an entry has no numbers."""
        return -(-self.count(name) // self.chunk_shapes[name][0]) if math.prod(self.arrays[name][0]) else 0

    def present(self, name: str) -> int:
        """Names in the array's chunk folder: no more chunks than these can be there."""
        try:
            return len(os.listdir(self.folder / name / "c"))
        except (FileNotFoundError, NotADirectoryError):
            return 0

    def chunk_path(self, name: str, number: int) -> Path:
        """File of chunk `number` along the first axis; chunks span the other axes whole."""
        return self.folder.joinpath(name, "c", str(number), *["0"] * len(self.arrays[name][0]))

    def check_metadata(self, name: str) -> int:
        """Length of the array on disk by its zarr.json. Raises StoreError if that differs from the schema's array."""
        path = self.folder / name / "zarr.json"
        refuse_links(self.root, path)
        try:
            found = load_json(path, METADATA_BYTES)
        except FileNotFoundError:
            raise StoreError(f"{path} is missing; it was deleted") from None
        shape, dtype = self.arrays[name]
        expected = layout.array_metadata(shape, dtype, self.chunk_shapes[name])
        try:
            length, *rest = found["shape"]
            same = canonical({"storage_transformers": [], **found, "shape": rest}) == canonical(expected)
        except (KeyError, TypeError, ValueError):
            same, length = False, 0
        if not same or type(length) is not int:
            raise StoreError(f"{path} does not describe the schema's {name!r}: {dtype} {shape}; it is damaged")
        if length < self.count(name):
            raise StoreError(f"{path} has {length} rows but {self.count(name)} are committed; it was cut")
        return length

    def check_claim(self, name: str) -> None:
        """Raise StoreError unless the files on disk are as many and as long as the committed entries need.

        Reads no data, so a commit that claims terabytes costs nothing.
        """
        refuse_links(self.root, self.folder / name / "c")
        expected, present = self.chunks(name), self.present(name)
        if present < expected:
            raise StoreError(
                f"{self.folder / name}: {self.count(name)} entries are committed in {expected} chunks, but at most "
                f"{present} are on disk; chunks were deleted, or the commit's claim is false"
            )
        for number in range(expected):
            self.check_chunk(name, number)

    def check_chunk(self, name: str, number: int) -> None:
        """Raise StoreError unless the chunk's file is a regular file of the right size, reached through no link."""
        path = self.chunk_path(name, number)
        try:
            for step in path.parents[: len(self.arrays[name][0])]:
                if stat.S_ISLNK(os.lstat(step).st_mode):
                    raise StoreError(f"{step} is a symbolic link; a store holds none: put the data itself in its place")
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            raise StoreError(f"{path} is missing; it was deleted") from None
        if not stat.S_ISREG(found.st_mode):
            kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "not a regular file"
            raise StoreError(f"{path} is {kind}; a store holds none: put the data itself in its place")
        if found.st_size != self._bytes(name):
            raise StoreError(f"{path} is {found.st_size} bytes long; expected {self._bytes(name)}: it is damaged")

    def chunk(self, name: str, number: int) -> Array:
        """Chunk `number` whole, padding included, its checksum verified. Raises StoreError naming the file."""
        cache = self._cache[name]
        if number in cache:
            cache.move_to_end(number)
            return cache[number]
        if name not in self._reached:
            refuse_links(self.root, self.folder / name / "c")
            self._reached.add(name)
        self.check_chunk(name, number)
        path = self.chunk_path(name, number)
        data = read_bounded(path, self._bytes(name))
        content = data[:-CHECKSUM_BYTES]
        if google_crc32c.value(content) != int.from_bytes(data[-CHECKSUM_BYTES:], "little"):
            raise StoreError(f"{path}: checksum does not match its content; it is damaged")
        cache[number] = np.frombuffer(content, self.arrays[name][1]).reshape(self.chunk_shapes[name])
        while len(cache) > CACHED:
            cache.popitem(last=False)
        return cache[number]

    def read(self, name: str, low: int, high: int) -> Array:
        """Entries low..high of array `name`. Raises StoreError naming the first damaged file in the way."""
        shape, dtype = self.arrays[name]
        if not math.prod(shape) or high <= low:
            return np.zeros((max(0, high - low), *shape), dtype)
        size = self.chunk_shapes[name][0]
        parts = [
            self.chunk(name, number)[max(0, low - number * size) : high - number * size]
            for number in range(low // size, -(-high // size))
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def episode(self, at: Mapping[str, Any]) -> Episode:
        """The episode of one entry of the episode table, its categories as text. Raises StoreError as `read` does."""
        start, steps = int(at["start"]), int(at["length"])
        rows = {name: self.read(name, start, start + steps + 1).copy() for name in self.row_arrays}
        if not np.array_equal(layout.content_uid(rows), at["uid"]):  # sound chunks, but not those that were committed
            raise StoreError(f"{self.folder}: the episode at row {start} is not what was committed; it is damaged")
        columns: dict[str, Any] = {name: str(at[name]) for name in layout.CATEGORICAL}
        columns |= {"seed": int(at["seed"]), "context": at["context"].tolist()}
        columns["success"] = None if at["success"] < 0 else bool(at["success"])
        return Episode(
            {key.name: rows[f"obs/{key.name}"] for key in self.schema.observations},
            rows["action"][:steps],
            rows["reward"][:steps],
            bool(rows["terminated"][steps - 1]),
            {name: rows[f"info/{name}"][:steps] for name in self.schema.info},
            columns,
        )

    def _bytes(self, name: str) -> int:
        return math.prod(self.chunk_shapes[name]) * np.dtype(self.arrays[name][1]).itemsize + CHECKSUM_BYTES
