"""The packed rows of one commit, in the tier a sampler asked for; shared by every view of the commit."""

from __future__ import annotations

import contextlib
import math
import mmap
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
from toolkit.store.packed import Block, PackedFile, Tier, choose_tier
from toolkit.store.packing import pack

READERS = 3  # threads that read, check and pack: some wait for the disk while others count sums
AHEAD = 6  # files' worth of rows in flight while packing
LARGE_PAGE = 1 << 21
STREAM_ROWS = 1 << 13  # least rows in one streamed chunk

Sums = dict[str, int]  # by array, of the block digests of some of its rows


def in_large_pages(rows: int, shape: tuple[int, ...], dtype: type) -> Array:
    """(rows, *shape) zeros in pages of 2 MB where the system gives them: random reads then miss the TLB less often."""
    count = rows * math.prod(shape)
    size = count * np.dtype(dtype).itemsize
    memory = mmap.mmap(-1, size + LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(AttributeError, OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    start = -np.frombuffer(memory, np.uint8).ctypes.data % LARGE_PAGE
    return np.frombuffer(memory, dtype, count, start).reshape(rows, *shape)


class Rows:
    """All committed rows of one commit."""

    def __init__(self, committed: Committed) -> None:
        self.backend, self.schema, self.commit = committed.backend, committed.schema, committed.commit
        self._segments = committed.segments
        self.total = sum(segment["rows"] for segment in self.commit.segments)
        self.width = self.schema.obs_dim + self.schema.action_dim + 2
        self.bytes = self.total * (4 * self.width + sum(math.prod(shape) for shape in self.schema.images.values()))
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
        built = self.file.find() is not None
        return choose_tier(self.bytes, self.file.folders, built, remote=self.backend.local is None)

    @cached_property
    def packed(self) -> Packed:
        """The memory tier: every row read once and verified."""
        for files in self._segments:
            self._check_claims(files)
        size = self.total + SPARE
        rows = in_large_pages(size, (self.width,), np.float32)
        images = {name: in_large_pages(size, shape, np.uint8) for name, shape in self.schema.images.items()}
        for _ in self._pack(Block(rows, images)):
            pass
        return self._packed(
            torch.from_numpy(rows), images={name: torch.from_numpy(values) for name, values in images.items()}
        )

    @cached_property
    def mapped(self) -> Packed:
        """The mapped tier; see `PackedFile`."""
        return self.file.open(self.blocks)

    def blocks(self) -> Iterator[Block]:
        """Packed rows in order, a file's worth at a time.

        Each segment is verified against the commit's digests as it is read; raises StoreError naming the array,
        at the latest after the segment's last block.
        """
        yield from self._pack(None)

    def _pack(self, into: Block | None) -> Iterator[Block]:
        """As `blocks`; with `into`, of all rows, they are parts of it. A few files are read, checked, packed ahead."""
        with ThreadPoolExecutor(READERS, "packmule-read") as pool:
            for files, base in zip(self._segments, self.offsets, strict=False):
                self._check_claims(files)
                totals = {name: 0 for name in self.names}
                waiting: deque[Future[tuple[Block, Sums]]] = deque()
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

    def _file(self, files: SegmentFiles, number: int, base: int, into: Block | None) -> tuple[Block, Sums]:
        """Rows of file `number` of a segment, packed, and the digests of what was read."""
        size = files.chunk_size("reward") * files.encodings["reward"].chunks  # every array is cut at the same rows
        first = number * size
        stop = min(first + size, files.count("reward"))
        block = self._empty(stop - first) if into is None else into.part(base + first, base + stop)
        filled = [name for name in self.names if files.files(name)]
        sums: Sums = dict.fromkeys(filled, 0)
        for parts in zip(*(files.blocks(name, number) for name in filled), strict=True):  # a chunk stays in the cache
            rows: dict[str, Array] = {}
            for name, (at, part) in zip(filled, parts, strict=True):
                sums[name] += layout.block_digest(name, at, part)
                rows[name] = part
            here = slice(at - first, at - first + len(part))
            for name in self.names:
                if name not in rows:  # of arrays without numbers
                    shape, dtype = files.row_arrays[name]
                    rows[name] = np.zeros((len(part), *shape), dtype)
            pack(self.schema, rows, block.rows[here])
            for name, values in block.images.items():
                values[here] = rows[f"obs/{name}"]
        return block, sums

    def _empty(self, size: int) -> Block:
        images = {name: np.empty((size, *shape), np.uint8) for name, shape in self.schema.images.items()}
        return Block(np.empty((size, self.width), np.float32), images)

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
                data = self._read(number, first, stop)
                images = {name: torch.from_numpy(data[f"obs/{name}"].copy()) for name in self.schema.images}
                return self._packed(torch.from_numpy(pack(self.schema, data)), 0, images)

            found.append(Chunk(load, stop - begin, first_row[at:upto] - begin, lengths[chosen], chosen))
            at = upto
        return found

    def _packed(self, rows: torch.Tensor, spare: int = SPARE, images: dict[str, torch.Tensor] | None = None) -> Packed:
        return Packed(rows, self.schema.obs_dim, self.schema.action_dim, self.schema.goal_dim, spare, images or {})

    def _read(self, number: int, first: int, stop: int) -> dict[str, Array]:
        files = self._segments[number]
        return {name: files.read(name, first, stop) for name in self.names}
