"""The packed rows of one commit, in the tier a sampler asked for; shared by every view of the commit."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Literal

import numpy as np
import torch

from toolkit.core import Array
from toolkit.sampling import Chunk, Packed
from toolkit.sampling.index import SPARE
from toolkit.store import layout
from toolkit.store.chunks import SegmentFiles
from toolkit.store.committed import Committed
from toolkit.store.packed import PackedFile, Tier, choose_tier
from toolkit.store.writer import pack

READERS = 2  # threads that read, check and pack: one waits for the disk while the other counts sums
AHEAD = 4  # files' worth of rows in flight while packing
STREAM_ROWS = 1 << 13  # least rows in one streamed chunk

Sums = dict[str, int]  # by array, of the block digests of some of its rows


class Rows:
    """All committed rows of one commit."""

    def __init__(self, committed: Committed) -> None:
        self.backend, self.schema, self.commit = committed.backend, committed.schema, committed.commit
        self._segments = committed.segments
        self.total = sum(segment["rows"] for segment in self.commit.segments)
        self.width = self.schema.obs_dim + self.schema.action_dim + 2
        self.offsets = np.cumsum([0, *(segment["rows"] for segment in self.commit.segments)])  # of each segment
        self.names = [name for name in layout.row_arrays(self.schema) if not name.startswith(("info/", "truncated"))]
        self.file = PackedFile(self.backend, self.schema, self.commit.digest, self.total)

    def tier(self, wanted: Tier) -> Literal["memory", "mapped", "streaming"]:
        """The tier to use. Raises ValueError for an unknown one."""
        if wanted not in ("auto", "memory", "mapped", "streaming"):
            raise ValueError(f"tier {wanted!r} is unknown; expected 'auto', 'memory', 'mapped' or 'streaming'")
        if wanted != "auto":
            return wanted
        if "packed" in self.__dict__:  # in memory already
            return "memory"
        size, built = self.total * self.width * 4, self.file.find() is not None
        return choose_tier(size, self.file.folders, built, remote=self.backend.local is None)

    @cached_property
    def packed(self) -> Packed:
        """The memory tier: every row read once and verified."""
        for files in self._segments:
            self._check_claims(files)
        rows = torch.empty(self.total + SPARE, self.width)
        view = rows.numpy()
        view[self.total :] = 0.0
        for _ in self._pack(view):
            pass
        return self._packed(rows)

    @cached_property
    def mapped(self) -> Packed:
        """The mapped tier; see `PackedFile`."""
        return self.file.open(self.blocks)

    def blocks(self) -> Iterator[Array]:
        """Packed rows (n, W) in order, a file's worth at a time.

        Each segment is verified against the commit's digests as it is read; raises StoreError naming the array,
        at the latest after the segment's last block.
        """
        yield from self._pack(None)

    def _pack(self, into: Array | None) -> Iterator[Array]:
        """As `blocks`; with `into` (R, W) they are parts of it. A few files are read, checked and packed ahead."""
        with ThreadPoolExecutor(READERS, "packmule-read") as pool:
            for files, base in zip(self._segments, self.offsets, strict=False):
                self._check_claims(files)
                totals = {name: 0 for name in self.names}
                waiting: deque[Future[tuple[Array, Sums]]] = deque()
                numbers = iter(range(max(files.files(name) for name in self.names)))
                try:
                    while True:
                        while len(waiting) < AHEAD and (number := next(numbers, None)) is not None:
                            waiting.append(pool.submit(self._file, files, number, int(base), into))
                        if not waiting:
                            break
                        block, sums = waiting.popleft().result()
                        for name, value in sums.items():
                            totals[name] += value
                        yield block
                finally:
                    for future in waiting:
                        future.cancel()
                for name, total in totals.items():
                    files.check_digest(name, total if files.files(name) else files.empty_digest(name))

    def _file(self, files: SegmentFiles, number: int, base: int, into: Array | None) -> tuple[Array, Sums]:
        """Rows of file `number` of a segment, packed, and the digests of what was read."""
        data: dict[str, list[Array]] = {}
        sums: Sums = {}
        first = stop = 0
        for name in self.names:
            if files.files(name):
                blocks = list(files.blocks(name, number))
                first, stop = blocks[0][0], blocks[-1][0] + len(blocks[-1][1])
                sums[name] = sum(layout.block_digest(name, at, part) for at, part in blocks)
                data[name] = [part for _, part in blocks]
        rows = np.empty((stop - first, self.width), np.float32) if into is None else into[base + first : base + stop]
        at = 0
        for parts in zip(*data.values(), strict=True):
            block = dict(zip(data, parts, strict=True))
            size = len(parts[0])
            for name in self.names:
                if name not in block:  # of arrays without numbers
                    shape, dtype = files.arrays[name]
                    block[name] = np.zeros((size, *shape), dtype)
            rows[at : at + size] = pack(self.schema, block)
            at += size
        return rows, sums

    def _check_claims(self, files: SegmentFiles) -> None:
        """Raise StoreError if an array that packed rows are made of is missing, short, or other than the schema's."""
        for name in self.names:
            files.check_metadata(name)
            files.check_claim(name)  # before a claim of terabytes is allocated

    def chunks(self, starts: Array, lengths: Array) -> list[Chunk]:
        """The streaming tier: the given episodes (packed first rows and steps) in runs that are read together.

        Chunks are checked by their checksums as they are read, and that none is missing here; digests of whole
        arrays are not.
        """
        limit = max(STREAM_ROWS, layout.chunk_rows(self.schema))
        order = np.argsort(starts, kind="stable")
        first_row, stop_row = starts[order], (starts + lengths + 1)[order]
        segment = np.searchsorted(self.offsets, first_row, side="right") - 1
        for number in np.unique(segment):
            self._check_claims(self._segments[int(number)])
        found, at = [], 0
        while at < len(order):
            number = int(segment[at])
            base, begin = int(self.offsets[number]), int(first_row[at])
            upto = int(np.searchsorted(stop_row, min(begin + limit, int(self.offsets[number + 1])), side="right"))
            upto = max(upto, at + 1)
            stop, chosen = int(stop_row[upto - 1]), order[at:upto]

            def load(number: int = number, first: int = begin - base, stop: int = stop - base) -> Packed:
                return self._packed(torch.from_numpy(pack(self.schema, self._read(number, first, stop))), 0)

            found.append(Chunk(load, stop - begin, first_row[at:upto] - begin, lengths[chosen], chosen))
            at = upto
        return found

    def _packed(self, rows: torch.Tensor, spare: int = SPARE) -> Packed:
        return Packed(rows, self.schema.obs_dim, self.schema.action_dim, self.schema.goal_dim, spare)

    def _read(self, number: int, first: int, stop: int) -> dict[str, Array]:
        files = self._segments[number]
        return {name: files.read(name, first, stop) for name in self.names}
