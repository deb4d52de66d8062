"""Appending: stage in memory, write whole chunks, flush, then publish a commit."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from toolkit.core import Array, Episode
from toolkit.store import layout
from toolkit.store.backend import Backend, LocalBackend
from toolkit.store.encoding import Encoding, Profile, checked_profile
from toolkit.store.files import StoreError, WriterLock, json_bytes, new_ulid
from toolkit.store.packing import episode_rows
from toolkit.store.schema import Schema
from toolkit.store.statistics import Running, transition_statistics


class Target(Protocol):
    """What a writer needs of a store."""

    backend: Backend
    schema: Schema
    commit: layout.Commit
    profile: Profile


class _Column:
    """One array of the segment: what is staged since the last whole chunk, and where it goes."""

    def __init__(self, folder: str, name: str, shape: tuple[int, ...], encoding: Encoding) -> None:
        self.folder, self.shape, self.encoding = f"{folder}/{name}", shape, encoding
        self.ready: dict[str, bytes] = {}  # files to be written, by key
        self.chunk = encoding.shape[0]
        self.written = 0  # entries in whole chunks: on disk, or in `shard`
        self.shard: list[bytes] = []  # encoded chunks of the file that is not full yet
        self.waiting = False  # whether some of them are not on disk
        self.staged = [np.zeros((0, *shape), encoding.dtype)]
        self.digest = layout.ArrayDigest(name, self.chunk)

    def stage(self, data: Array) -> None:
        array = np.asarray(data, self.encoding.dtype)
        self.staged.append(array if array.ndim == 1 + len(self.shape) else array[None])

    def write(self, *, whole_chunks_only: bool) -> None:
        """Turn what is staged into files, put into `ready`."""
        data = np.concatenate(self.staged)
        whole = len(data) // self.chunk * self.chunk
        upto = whole if whole_chunks_only else len(data)
        if upto:
            self.digest.update(self.written, data[:upto])
        if math.prod(self.shape):
            for first in range(0, whole, self.chunk):
                self._encode(self.written + first, data[first : first + self.chunk])
            if upto > whole:
                last = np.zeros(self.encoding.shape, self.encoding.dtype)
                last[: upto - whole] = data[whole:upto]
                self._put(self.written + whole, [*self.shard, self.encoding.encode(last)])
            elif self.waiting and not whole_chunks_only:
                self._put(self.written + whole - 1, self.shard)
        self.written += whole
        self.staged = [data[whole:]]

    def _encode(self, entry: int, chunk: Array) -> None:
        """Add a whole chunk to the file that is being filled, and write that file when it is full."""
        self.shard.append(self.encoding.encode(chunk))
        self.waiting = True
        if len(self.shard) == self.encoding.chunks:
            self._put(entry, self.shard)
            self.shard = []

    def describe(self, length: int) -> None:
        """Put zarr.json into `ready`: `length` entries."""
        metadata = self.encoding.metadata(self.shape)
        metadata["shape"] = [length, *metadata["shape"]]
        self.ready[f"{self.folder}/zarr.json"] = json_bytes(metadata, indent=2, end="")

    def _put(self, entry: int, encoded: list[bytes]) -> None:
        """The file that holds `entry` is to be written."""
        number = entry // (self.chunk * self.encoding.chunks)
        key = "/".join([self.folder, "c", str(number), *["0"] * len(self.shape)])
        self.ready[key] = self.encoding.file(encoded)
        self.waiting = False


class Writer:
    """Appends episodes to one new segment of a store. Several writers may work on one store at once.

    As a context manager it commits when the block ends, and leaves nothing visible when the block raises.
    """

    def __init__(self, store: Target, *, profile: Profile | None = None) -> None:
        self._store, self._schema = store, store.schema
        local = store.backend.local
        self._backend = store.backend if local is None else LocalBackend(local)  # its own: it flushes what it wrote
        self._profile: Profile = store.profile if profile is None else checked_profile(profile)
        self._id = new_ulid()
        self._base: layout.Commit | None = None  # the commit the next one is built on, as far as is known
        self._columns: dict[str, _Column] = {}
        self._rows = self._episodes = self._committed = 0
        self._staged_rows = 0
        self._categories: dict[str, list[str]] = {name: [] for name in layout.CATEGORICAL}
        self._statistics: dict[str, Running] = {}
        self._failed: BaseException | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()

    def append(self, episode: Episode, *, uid: bytes | None = None) -> int:
        """Add one finished episode and return its index within this writer's segment.

        Nothing is visible to a reader until the commit that follows is published.
        Raises ValueError if a field's shape or dtype differs from the schema, naming both, and StoreError if `uid`
        is given (of an episode that is copied) and is not that of the content.
        """
        self._schema.check(episode)
        rows, packed = episode_rows(self._schema, episode)
        table = self._table_entry(episode, rows)
        if uid is not None and table["episodes/uid"].tobytes() != uid:
            raise StoreError(f"the content of episode {uid.hex()} does not have this uid; its source is damaged")
        if not self._columns:
            self._create()
        for name, values in (rows | table).items():
            self._columns[name].stage(values)
        final = np.arange(len(packed)) == len(packed) - 1
        fresh = transition_statistics(packed, final, self._schema.obs_dim, self._schema.action_dim)
        self._statistics = {k: self._statistics[k].merge(v) if self._statistics else v for k, v in fresh.items()}
        self._rows += len(packed)
        self._episodes += 1
        self._staged_rows += len(packed)
        if self._staged_rows >= layout.chunk_rows(self._schema):
            self._write(whole_chunks_only=True)
            self._staged_rows %= layout.chunk_rows(self._schema)
        return self._episodes - 1

    def commit(self, *, rebase: bool = True) -> int:
        """Publish every episode appended so far and return the commit's number; a no-op when nothing is new.

        Rows, then the episode table, are flushed to disk before `commits/N.json` is created. When another
        writer published N first, this one rebases on it and tries again: no commit is ever lost. Without `rebase`
        it raises FileExistsError instead, and publishes nothing: also if anyone committed since the store was opened.
        """
        if self._episodes == self._committed:
            return self._store.commit.number
        entry = self.seal()
        while True:
            if self._base is None and not rebase:
                self._base = self._store.commit
            if self._base is None:
                self._base, highest = layout.newest_commit(self._backend)
                number = highest + 1
            else:  # of this writer: unless another was faster, the next number is free, however many there are
                number = self._base.number + 1
            others = [segment for segment in self._base.segments if segment["id"] != self._id]
            try:
                self._base = layout.publish(self._backend, [*others, entry], number=number, parent=self._base.number)
            except FileExistsError:
                if not rebase:
                    raise
                self._base = None
                continue
            self._committed = self._episodes
            return self._base.number

    def seal(self) -> dict[str, Any]:
        """Flush every episode appended so far to disk and return what a commit says of them; publish nothing."""
        self._write(whole_chunks_only=False)
        self._backend.flush()
        profile = {} if self._profile == "fast" else {"profile": self._profile}
        return {
            "id": self._id,
            **profile,
            "rows": self._rows,
            "episodes": self._episodes,
            "digest": {name: column.digest.hex() for name, column in self._columns.items()},
            "categories": self._categories,
            "statistics": {name: value.to_json() for name, value in self._statistics.items()},
        }

    def _write(self, *, whole_chunks_only: bool) -> None:
        if self._failed is not None:
            raise StoreError(
                f"an earlier write of this writer failed ({self._failed}); what was committed is safe, "
                "what came after must be appended again with a new writer"
            ) from self._failed
        try:
            files: dict[str, bytes] = {}
            for name, column in self._columns.items():
                column.write(whole_chunks_only=whole_chunks_only)
                if not whole_chunks_only:
                    column.describe(self._episodes if name.startswith("episodes/") else self._rows)
                files |= column.ready
                column.ready = {}
            self._backend.write_many(files)
        except BaseException as error:  # columns now differ in length: nothing more may be committed
            self._failed = error
            raise

    def _create(self) -> None:
        folder = f"segments/{self._id}"
        arrays = layout.row_arrays(self._schema) | layout.episode_arrays(self._schema)
        groups = {f"{folder}/{group}".rstrip("/") for name in arrays for group in layout.groups(name)}
        if self._backend.size("segments/zarr.json") is None:
            groups.add("segments")
        self._backend.write_many({f"{group}/zarr.json": layout.GROUP for group in sorted(groups)})
        if self._backend.local is not None:
            self._lock = WriterLock(self._backend.local / folder)
        for name, encoding in layout.encodings(self._schema, self._profile).items():
            self._columns[name] = _Column(folder, name, arrays[name][0], encoding)

    def _table_entry(self, episode: Episode, rows: dict[str, Array]) -> dict[str, Array]:
        columns = dict(episode.columns)
        success = columns.get("success")
        entry: dict[str, Any] = {
            "start": self._rows,
            "length": len(episode),
            "uid": layout.content_uid(rows)[None],
            "return": float(np.sum(episode.reward, dtype=np.float64)),
            "success": -1 if success is None else int(bool(success)),
            "seed": int(columns.get("seed", -1)),
            "context": np.asarray(columns.get("context", ()), np.float64)[None],
        }
        for name in layout.CATEGORICAL:
            entry[name] = _code(self._categories[name], str(columns.get(name, "")))
        return {f"episodes/{name}": np.asarray(value) for name, value in entry.items()}


def _code(categories: list[str], text: str) -> int:
    if text not in categories:
        categories.append(text)
    return categories.index(text)
