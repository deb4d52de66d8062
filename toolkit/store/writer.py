"""Appending: stage in memory, write whole chunks, flush, then publish a commit."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

from toolkit.core import Array, Episode
from toolkit.store import layout
from toolkit.store.files import DurableStore, StoreError, WriterLock, new_ulid
from toolkit.store.packing import episode_rows
from toolkit.store.schema import Schema
from toolkit.store.statistics import Running, transition_statistics


class Target(Protocol):
    """What a writer needs of a store."""

    path: Path
    schema: Schema
    commit: layout.Commit


class _Column:
    """One array of the segment: what is staged since the last whole chunk, and where it goes."""

    def __init__(self, group: zarr.Group, name: str, shape: tuple[int, ...], dtype: str, chunk: int) -> None:
        self.array = group.create_array(
            name,
            shape=(0, *shape),
            chunks=(chunk, *(max(1, size) for size in shape)),
            dtype=dtype,
            compressors=[Crc32cCodec()],
            config={"write_empty_chunks": True},
        )
        self.chunk, self.written = chunk, 0  # `written` rows are in whole chunks on disk
        self.staged = [np.zeros((0, *shape), dtype)]
        self.digest = layout.ArrayDigest(name, chunk)

    def stage(self, data: Array) -> None:
        array = np.asarray(data, self.array.dtype)
        self.staged.append(array if array.ndim == self.array.ndim else array[None])

    def write(self, *, whole_chunks_only: bool) -> None:
        data = np.concatenate(self.staged)
        whole = len(data) // self.chunk * self.chunk
        upto = whole if whole_chunks_only else len(data)
        if upto:
            self.array.resize((self.written + upto, *self.array.shape[1:]))
            if data[:upto].size:
                self.array[self.written : self.written + upto] = data[:upto]
            self.digest.update(self.written, data[:upto])
        self.written += whole
        self.staged = [data[whole:]]


class Writer:
    """Appends episodes to one new segment of a store. Several writers may work on one store at once.

    As a context manager it commits when the block ends, and leaves nothing visible when the block raises.
    """

    def __init__(self, store: Target) -> None:
        self._store, self._schema = store, store.schema
        self._files = DurableStore(store.path)  # its own: what it flushes is what it wrote
        self._id = new_ulid()
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

    def commit(self) -> int:
        """Publish every episode appended so far and return the commit's number; a no-op when nothing is new.

        Rows, then the episode table, are flushed to disk before `commits/N.json` is created. When another
        writer published N first, this one rebases on it and tries again: no commit is ever lost.
        """
        if self._episodes == self._committed:
            return self._store.commit.number
        entry = self.seal()
        while True:
            base, highest = layout.newest_commit(self._store.path)
            others = [segment for segment in base.segments if segment["id"] != self._id]
            try:
                done = layout.publish(self._store.path, [*others, entry], number=highest + 1, parent=base.number)
            except FileExistsError:
                continue
            self._committed = self._episodes
            return done.number

    def seal(self) -> dict[str, Any]:
        """Flush every episode appended so far to disk and return what a commit says of them; publish nothing."""
        self._write(whole_chunks_only=False)
        self._files.flush()
        return {
            "id": self._id,
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
            for column in self._columns.values():
                column.write(whole_chunks_only=whole_chunks_only)
        except BaseException as error:  # columns now differ in length: nothing more may be committed
            self._failed = error
            raise

    def _create(self) -> None:
        chunk = layout.chunk_rows(self._schema)
        group = zarr.open_group(self._files, path=f"segments/{self._id}", mode="w-", zarr_format=3)
        self._lock = WriterLock(self._store.path / "segments" / self._id)
        for name, (shape, dtype) in layout.row_arrays(self._schema).items():
            self._columns[name] = _Column(group, name, shape, dtype, chunk)
        for name, (shape, dtype) in layout.episode_arrays(self._schema).items():
            self._columns[name] = _Column(group, name, shape, dtype, layout.EPISODE_CHUNK)

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
