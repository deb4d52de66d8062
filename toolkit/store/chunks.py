"""A committed segment's files, read one by one and trusted in nothing: sizes and links before content."""

from __future__ import annotations

import contextlib
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from toolkit.core import Array, Episode
from toolkit.store import layout
from toolkit.store.backend import Backend, load_json
from toolkit.store.encoding import Damaged
from toolkit.store.files import StoreError, canonical
from toolkit.store.schema import Schema

METADATA_BYTES = 1 << 20
SPANS = 1 << 10  # shards whose indices are kept
CACHED = 2  # chunks of each array kept in memory


class SegmentFiles:
    """The arrays of one segment, as a commit's entry claims them: found by the schema, not by the metadata on disk.

    So damaged metadata does not hide intact rows, and no false claim leads to an allocation.
    """

    def __init__(self, backend: Backend, schema: Schema, entry: Mapping[str, Any]) -> None:
        self.backend, self.schema, self.entry = backend, schema, entry
        self.folder = f"segments/{entry['id']}"
        self.where = f"{backend.name}/{self.folder}"  # for messages
        self.row_arrays = layout.row_arrays(schema)
        self.arrays = self.row_arrays | layout.episode_arrays(schema)
        self.encodings = layout.encodings(schema, entry.get("profile", "fast"))
        self._cache: dict[str, OrderedDict[int, Array]] = {name: OrderedDict() for name in self.arrays}
        self._sizes: dict[str, dict[str, int]] = {}
        self._spans: dict[tuple[str, int], list[tuple[int, int]]] = {}  # of shards read before

    def count(self, name: str) -> int:
        """Committed entries of array `name`."""
        return int(self.entry["episodes" if name.startswith("episodes/") else "rows"])

    def chunk_size(self, name: str) -> int:
        """Entries in a chunk."""
        return self.encodings[name].shape[0]

    def chunks(self, name: str) -> int:
        """Chunks that hold the committed entries; none if an entry has no numbers."""
        return -(-self.count(name) // self.chunk_size(name)) if math.prod(self.arrays[name][0]) else 0

    def files(self, name: str) -> int:
        """Files that hold the committed entries."""
        return -(-self.chunks(name) // self.encodings[name].chunks)

    def key(self, name: str, file: int) -> str:
        """Key of file number `file` along the first axis; files span the other axes whole."""
        return "/".join([self.folder, name, "c", str(file), *["0"] * len(self.arrays[name][0])])

    def sizes(self, name: str) -> dict[str, int]:
        """Every file of the array, by key, with its size; looked up once."""
        if self.backend.local is None and not self._sizes:  # one request for all
            self._sizes = {array: {} for array in self.arrays}
            for key, size in self.backend.sizes(self.folder).items():
                self._sizes.get(key.removeprefix(f"{self.folder}/").partition("/c/")[0], {})[key] = size
        if (found := self._sizes.get(name)) is None:
            try:
                found = self.backend.sizes(f"{self.folder}/{name}/c")
            except StoreError:  # a link on the way, which `check_file` names
                found = {}
            self._sizes[name] = found
        return found

    def present(self, name: str) -> int:
        """Files in the array's folder: no more can hold its entries."""
        prefix = f"{self.folder}/{name}/c/"
        return sum(key.startswith(prefix) for key in self.sizes(name))

    def check_metadata(self, name: str) -> int:
        """Length of the array on disk by its zarr.json. Raises StoreError if that differs from the schema's array."""
        path = f"{self.where}/{name}/zarr.json"
        try:
            found = load_json(self.backend, f"{self.folder}/{name}/zarr.json", METADATA_BYTES)
        except FileNotFoundError:
            raise StoreError(f"{path} is missing; it was deleted") from None
        shape, dtype = self.arrays[name]
        expected = self.encodings[name].metadata(shape)
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
        expected, present = self.files(name), self.present(name)
        if present < expected:
            for number in range(min(expected, present + 1)):  # a link or a gap is named, where there is one
                self.check_file(name, number)
            raise StoreError(
                f"{self.where}/{name}: {self.count(name)} entries are committed in {expected} files, but at most "
                f"{present} are there; files were deleted, or the commit's claim is false"
            )
        for number in range(expected):
            self.check_file(name, number)

    def check_file(self, name: str, number: int) -> int:
        """The size of a file. Raises StoreError unless it is a regular file of a possible size, reached by no link."""
        key = self.key(name, number)
        size = self.sizes(name).get(key)
        if size is None:
            size = self.backend.size(key)  # says so if it is a link
        if size is None:
            raise StoreError(f"{self.backend.name}/{key} is missing; it was deleted")
        least, most = self.encodings[name].file_bytes()
        if not least <= size <= most:
            due = f"{most}" if least == most else f"{least} to {most}"
            raise StoreError(f"{self.backend.name}/{key} is {size} bytes long; expected {due}: it is damaged")
        return size

    def whole(self, name: str, number: int) -> Iterator[Array]:
        """All chunks of one file that hold committed entries, decoded one after another, padding included.

        A chunk is good until the next one is asked for.

        Raises StoreError naming the file if it is missing or anything in it does not agree with its checksums.
        """
        key, encoding = self.key(name, number), self.encodings[name]
        wanted = min(encoding.chunks, self.chunks(name) - number * encoding.chunks)
        if encoding.chunks > 1 and self.backend.local is not None:  # from a disk, chunk by chunk costs no more
            room = np.empty(encoding.chunk_bytes, np.uint8)
            for inside in range(wanted):
                yield self._chunk(name, number, inside, into=room)
            return
        self.check_file(name, number)
        try:
            # as long as it is now: a writer may have added to the last one meanwhile
            data = self._bytes(key, None, most=encoding.file_bytes()[1])
            chunks = encoding.cut(data)
            if len(chunks) < wanted:
                raise Damaged(f"holds {len(chunks)} chunks; {wanted} are committed")
            for chunk in chunks[:wanted]:
                yield encoding.decode(chunk)
        except Damaged as error:
            raise StoreError(f"{self.backend.name}/{key}: {error}; it is damaged") from None

    def chunk(self, name: str, number: int) -> Array:
        """Chunk `number` whole, padding included, its checksum verified. Raises StoreError naming the file."""
        cache = self._cache[name]  # other threads may read beside this one
        if (chunk := cache.get(number)) is not None:
            return chunk
        cache[number] = chunk = self._chunk(name, *divmod(number, self.encodings[name].chunks))
        while len(cache) > CACHED:
            with contextlib.suppress(KeyError):
                cache.popitem(last=False)
        return chunk

    def read(self, name: str, low: int, high: int) -> Array:
        """Entries low..high of array `name`. Raises StoreError naming the first damaged file in the way."""
        shape, dtype = self.arrays[name]
        if not math.prod(shape) or high <= low:
            return np.zeros((max(0, high - low), *shape), dtype)
        size = self.chunk_size(name)
        parts = [
            self.chunk(name, number)[max(0, low - number * size) : high - number * size]
            for number in range(low // size, -(-high // size))
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def blocks(self, name: str, file: int) -> Iterator[tuple[int, Array]]:
        """First entry and committed entries of each chunk of a file: what digests are made of."""
        size, first = self.chunk_size(name), file * self.encodings[name].chunks
        for number, chunk in enumerate(self.whole(name, file), first):
            yield number * size, chunk[: self.count(name) - number * size]

    def column(self, name: str) -> Array:
        """All committed entries of array `name`, verified against the commit's digest.

        Raises StoreError naming the array if it is missing, short, or differs from what was committed; sizes on
        disk are compared with what the commit claims before anything is allocated.
        """
        self.check_metadata(name)
        self.check_claim(name)
        shape, dtype = self.arrays[name]
        values, total = np.zeros((self.count(name), *shape), dtype), 0
        for file in range(self.files(name)):
            for first, part in self.blocks(name, file):
                values[first : first + len(part)] = part
                total += layout.block_digest(name, first, part)
        self.check_digest(name, total if self.files(name) else self.empty_digest(name))
        return values

    def check_digest(self, name: str, total: int) -> None:
        """Raise StoreError unless the block digests of array `name` sum to what was committed."""
        if layout.digest_hex(total) != self.entry["digest"].get(name):
            raise StoreError(f"{self.where}/{name} differs from what was committed; it is damaged")

    def empty_digest(self, name: str) -> int:
        """Sum of the block digests of an array whose entries hold no numbers."""
        check = layout.ArrayDigest(name, self.chunk_size(name))
        check.update(0, np.zeros((self.count(name), *self.arrays[name][0]), self.arrays[name][1]))
        return check.total

    def episode(self, at: Mapping[str, Any]) -> Episode:
        """The episode of one entry of the episode table, its categories as text. Raises StoreError as `read` does."""
        start, steps = int(at["start"]), int(at["length"])
        rows = {name: self.read(name, start, start + steps + 1).copy() for name in self.row_arrays}
        if not np.array_equal(layout.content_uid(rows), at["uid"]):  # sound chunks, but not those that were committed
            raise StoreError(f"{self.where}: the episode at row {start} is not what was committed; it is damaged")
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

    def _chunk(self, name: str, file: int, inside: int, *, into: Array | None = None, again: bool = True) -> Array:
        """One chunk of a file. A writer may add to the last shard between two reads: then both are done again."""
        encoding, key = self.encodings[name], self.key(name, file)
        try:
            if encoding.chunks == 1:
                return encoding.decode(self._bytes(key, self.check_file(name, file)))
            start, stop = self._span(name, file, inside)
            return encoding.decode(self._bytes(key, stop - start, start), into)
        except (Damaged, StoreError) as error:
            if encoding.chunks > 1 and again:
                self._sizes.clear()
                self._spans.pop((name, file), None)
                return self._chunk(name, file, inside, into=into, again=False)
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"{self.backend.name}/{key}: {error}; it is damaged") from None

    def _bytes(self, key: str, size: int | None, start: int = 0, *, most: int = 0) -> bytes:
        """`size` bytes from byte `start` on; None for all there are, `most` at most."""
        try:
            data = self.backend.read(key, limit=most if size is None else size, start=start, size=size)
        except FileNotFoundError:
            raise StoreError(f"{self.backend.name}/{key} is missing; it was deleted") from None
        if size is not None and len(data) != size:
            raise StoreError(f"{self.backend.name}/{key} ends before byte {start + size}; it was cut")
        return data

    def _span(self, name: str, file: int, inside: int) -> tuple[int, int]:
        """First and last byte of one chunk in a shard. Raises StoreError or Damaged."""
        spans = self._spans.get((name, file))
        if spans is None:
            encoding, size = self.encodings[name], self.check_file(name, file)
            index = self._bytes(self.key(name, file), encoding.index_bytes, size - encoding.index_bytes)
            spans = encoding.spans(index, size)
            if len(self._spans) >= SPANS:
                self._spans.clear()
            self._spans[name, file] = spans
        if inside >= len(spans):
            raise Damaged(f"holds {len(spans)} chunks; at least {inside + 1} are committed")
        return spans[inside]
