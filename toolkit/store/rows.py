"""The packed rows of one commit, in the tier a sampler asked for; shared by every view of the commit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import zarr

from toolkit.core import Array
from toolkit.sampling import Chunk, Packed
from toolkit.sampling.index import SPARE
from toolkit.store import layout
from toolkit.store.chunks import SegmentFiles
from toolkit.store.committed import open_array, open_segment
from toolkit.store.files import StoreError
from toolkit.store.packed import PackedFile, Tier, choose_tier
from toolkit.store.packing import pack
from toolkit.store.schema import Schema

CHUNKS_AT_ONCE = 8  # of the store's chunks, read together while packing
STREAM_ROWS = 1 << 13  # least rows in one streamed chunk


class Rows:
    """All committed rows of one commit."""

    def __init__(self, path: Path, schema: Schema, commit: layout.Commit) -> None:
        self.path, self.schema, self.commit = path, schema, commit
        self._opened: dict[int, dict[str, zarr.Array]] = {}
        self.total = sum(segment["rows"] for segment in commit.segments)
        self.width = schema.obs_dim + schema.action_dim + 2
        self.image_bytes = sum(math.prod(shape) for shape in schema.images.values())
        self.offsets = np.cumsum([0, *(segment["rows"] for segment in commit.segments)])  # first row of each segment
        self.file = PackedFile(path, schema, commit.digest, self.total)

    def tier(self, wanted: Tier) -> Literal["memory", "mapped", "streaming"]:
        """The tier to use. Raises ValueError for an unknown one."""
        if wanted not in ("auto", "memory", "mapped", "streaming"):
            raise ValueError(f"tier {wanted!r} is unknown; expected 'auto', 'memory', 'mapped' or 'streaming'")
        if wanted != "auto":
            return wanted
        if "packed" in self.__dict__:  # in memory already
            return "memory"
        size = self.total * (self.width * 4 + self.image_bytes)
        tier = choose_tier(size, self.file.folders, self.file.find() is not None)
        return "streaming" if tier == "mapped" and self.schema.images else tier

    @cached_property
    def packed(self) -> Packed:
        """The memory tier: every row read once and verified."""
        for number in range(len(self.commit.segments)):
            self._arrays(number)
        rows = torch.empty(self.total + SPARE, self.width)
        view, at = rows.numpy(), 0
        view[self.total :] = 0.0
        images = {
            name: torch.zeros(self.total + SPARE, *shape, dtype=torch.uint8)
            for name, shape in self.schema.images.items()
        }
        for data in self._data():
            block = pack(self.schema, data)
            view[at : at + len(block)] = block
            for name, values in images.items():
                values.numpy()[at : at + len(block)] = data[f"obs/{name}"]
            at += len(block)
        return self._packed(rows, images=images)

    @cached_property
    def mapped(self) -> Packed:
        """The mapped tier; see `PackedFile`."""
        if self.schema.images:
            raise ValueError(
                f"{self.path} holds images, which the mapped tier does not; use tier='memory' or 'streaming'"
            )
        return self.file.open(self.blocks)

    def blocks(self) -> Iterator[Array]:
        """Packed rows (n, W) in order, a few chunks at a time.

        Each segment is verified against the commit's digests as it is read; raises StoreError naming the array,
        at the latest after the segment's last block.
        """
        for data in self._data():
            yield pack(self.schema, data)

    def _data(self) -> Iterator[dict[str, Array]]:
        chunk = layout.chunk_rows(self.schema)
        for number, segment in enumerate(self.commit.segments):
            checks = {name: layout.ArrayDigest(name, chunk) for name in self._arrays(number)}
            for first in range(0, segment["rows"], chunk * CHUNKS_AT_ONCE):
                data = self._read(number, first, min(first + chunk * CHUNKS_AT_ONCE, segment["rows"]))
                for name, values in data.items():
                    checks[name].update(first, values)
                yield data
            for name, check in checks.items():
                if check.hex() != segment["digest"].get(name):
                    raise StoreError(f"{self._where(number, name)} differs from what was committed; it is damaged")

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
            self._arrays(int(number))  # a missing chunk would read as zeros: they are counted first
        found, at = [], 0
        while at < len(order):
            number = int(segment[at])
            base, begin = int(self.offsets[number]), int(first_row[at])
            upto = int(np.searchsorted(stop_row, min(begin + limit, int(self.offsets[number + 1])), side="right"))
            upto = max(upto, at + 1)
            stop, chosen = int(stop_row[upto - 1]), order[at:upto]

            def load(number: int = number, first: int = begin - base, stop: int = stop - base) -> Packed:
                data = self._read(number, first, stop)
                images = {name: torch.from_numpy(data[f"obs/{name}"]) for name in self.schema.images}
                return self._packed(torch.from_numpy(pack(self.schema, data)), 0, images)

            found.append(Chunk(load, stop - begin, first_row[at:upto] - begin, lengths[chosen], chosen))
            at = upto
        return found

    def _packed(self, rows: torch.Tensor, spare: int = SPARE, images: dict[str, torch.Tensor] | None = None) -> Packed:
        return Packed(rows, self.schema.obs_dim, self.schema.action_dim, self.schema.goal_dim, spare, images or {})

    def _where(self, number: int, name: str) -> str:
        return f"{self.path}: segments/{self.commit.segments[number]['id']}/{name}"

    def _arrays(self, number: int) -> dict[str, zarr.Array]:
        """The arrays of one segment that packed rows are made of. Raises StoreError if one is missing or short."""
        if number not in self._opened:
            segment = self.commit.segments[number]
            names = [name for name in layout.row_arrays(self.schema) if not name.startswith(("info/", "truncated"))]
            files, found = SegmentFiles(self.path, self.schema, segment), {}
            for name in names:
                files.check_metadata(name)
                files.check_claim(name)  # before a claim of terabytes is allocated
            group = open_segment(self.path, segment)
            for name in names:
                try:
                    array = open_array(group, name)
                except Exception as error:
                    raise StoreError(
                        f"{self._where(number, name)} cannot be opened ({error}); it is damaged"
                    ) from error
                if array.shape[0] < segment["rows"]:
                    raise StoreError(f"{self._where(number, name)} has fewer rows than {segment['rows']}; it was cut")
                found[name] = array
            self._opened[number] = found
        return self._opened[number]

    def _read(self, number: int, first: int, stop: int) -> dict[str, Array]:
        found = {}
        for name, array in self._arrays(number).items():
            try:
                found[name] = np.asarray(array[first:stop])
            except Exception as error:
                where = self._where(number, name)
                raise StoreError(f"{where} cannot be read ({type(error).__name__}: {error}); it is damaged") from error
        return found
