"""How rows become the bytes of chunk files: plain chunks (`fast`), or shards of compressed ones (`compact`).

Both are plain zarr v3: bytes and crc32c; or sharding_indexed over bytes, blosc (zstd, bytes shuffled) and crc32c.
Every byte of a file stands under a checksum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import google_crc32c
import numpy as np
from numcodecs import blosc

from toolkit.core import Array

Profile = Literal["fast", "compact"]
PROFILES: tuple[str, ...] = get_args(Profile)
SHARD_CHUNKS = 8  # chunks in a file of the compact profile
LEVEL = 3  # of zstd
BLOCK_BYTES = (
    1 << 20
)  # compressed at once: whole chunks, mostly; blosc's own choice is smaller, larger on disk and slower
CHECKSUM_BYTES = 4
RESIDUE = google_crc32c.value(bytes(4))  # the checksum of any content followed by its own checksum
BLOSC_HEADER = 16
ENTRY_BYTES = 16  # of a chunk in a shard's index: offset and length, little-endian uint64
ABSENT = (1 << 64) - 1


class Damaged(ValueError):
    """Bytes that are not what was written; the message says how, not where."""


@dataclass(frozen=True)
class Encoding:
    """One array's files: `shape` of a chunk, whole in every axis but the first, and how many chunks a file has."""

    dtype: str
    shape: tuple[int, ...]
    profile: Profile

    @property
    def chunks(self) -> int:
        """Chunks in a file."""
        return SHARD_CHUNKS if self.profile == "compact" else 1

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a decoded chunk."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def index_bytes(self) -> int:
        """Bytes of a shard's index at the end of a file, its checksum included; 0 for plain chunks."""
        return self.chunks * ENTRY_BYTES + CHECKSUM_BYTES if self.profile == "compact" else 0

    def file_bytes(self) -> tuple[int, int]:
        """Least and greatest length of a file."""
        most = self.chunks * (self.chunk_bytes + CHECKSUM_BYTES + BLOSC_HEADER * (self.profile == "compact"))
        return (self.index_bytes, most + self.index_bytes) if self.profile == "compact" else (most, most)

    def encode(self, chunk: Array) -> bytes:
        """A whole chunk (`shape`), compressed where the profile says so, with its checksum."""
        plain = np.ascontiguousarray(chunk, np.dtype(self.dtype).newbyteorder("<"))
        data = plain.tobytes()
        if self.profile == "compact":
            data = blosc.compress(plain, b"zstd", LEVEL, blosc.SHUFFLE, BLOCK_BYTES, typesize=plain.dtype.itemsize)
        return data + _checksum(data)

    def file(self, encoded: Sequence[bytes]) -> bytes:
        """The file that holds the encoded chunks, the first ones of it; a shard's other chunks are absent."""
        if self.profile == "fast":
            return encoded[0]
        ends = np.cumsum([len(data) for data in encoded])
        entries = np.full((self.chunks, 2), ABSENT, "<u8")
        for i, data in enumerate(encoded):
            entries[i] = ends[i] - len(data), len(data)
        index = entries.tobytes()
        return b"".join([*encoded, index, _checksum(index)])

    def decode(self, data: bytes, into: Array | None = None) -> Array:
        """Inverse of `encode`, read-only. Raises Damaged if the checksum or the length does not agree.

        What is unpacked stands in `into` (bytes of a chunk, uint8) if that is given, until it is used again.
        """
        content = _checked(data)
        if self.profile == "compact":
            header = np.frombuffer(bytes(content[:BLOSC_HEADER]).ljust(BLOSC_HEADER, b"\0"), "<u4")
            if (int(header[1]), int(header[3])) != (self.chunk_bytes, len(content)):  # before anything is allocated
                raise Damaged(f"claims {header[1]} bytes of data; expected {self.chunk_bytes}")
            try:
                content = memoryview(blosc.decompress(content, into))
            except Exception as error:
                raise Damaged(f"cannot be decompressed ({error})") from None
        if len(content) != self.chunk_bytes:
            raise Damaged(f"holds {len(content)} bytes of data; expected {self.chunk_bytes}")
        return np.frombuffer(content, self.dtype).reshape(self.shape)

    def cut(self, data: bytes) -> list[bytes]:
        """The encoded chunks in a file, those that are there. Raises Damaged if its index does not agree."""
        if self.profile == "fast":
            return [data]
        return [data[start:stop] for start, stop in self.spans(data[-self.index_bytes :], len(data))]

    def spans(self, index: bytes, size: int) -> list[tuple[int, int]]:
        """From the index (its last bytes) of a file of `size` bytes: first and last byte of each chunk that is there.

        Raises Damaged unless the chunks fill the file from its first byte to the index.
        """
        if len(index) != self.index_bytes:
            raise Damaged(f"holds {size} bytes; its index alone has {self.index_bytes}")
        entries = np.frombuffer(_checked(index), "<u8").reshape(self.chunks, 2)
        spans, at = [], 0
        for offset, length in entries.tolist():
            if (offset, length) == (ABSENT, ABSENT):
                break
            if offset != at or length > size:
                raise Damaged("its index does not follow the chunks in it")
            spans.append((at, at + length))
            at += length
        if at != size - self.index_bytes or (entries[len(spans) :] != ABSENT).any():
            raise Damaged("its index does not follow the chunks in it")
        return spans

    def metadata(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """What zarr.json says of an array of entries of `shape`; its length on the first axis is left out."""
        kind = np.dtype(self.dtype)
        endian = {"configuration": {"endian": "little"}} if kind.itemsize > 1 else {}
        codecs: list[dict[str, Any]] = [{"name": "bytes", **endian}, {"name": "crc32c"}]
        grid = self.shape
        if self.profile == "compact":
            packing = {"typesize": kind.itemsize, "cname": "zstd", "clevel": LEVEL, "shuffle": "shuffle"}
            inner = [codecs[0], {"name": "blosc", "configuration": {**packing, "blocksize": BLOCK_BYTES}}, codecs[1]]
            outer = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
            shard = {
                "chunk_shape": list(self.shape),
                "codecs": inner,
                "index_codecs": outer,
                "index_location": "end",
            }
            codecs = [{"name": "sharding_indexed", "configuration": shard}]
            grid = (self.shape[0] * self.chunks, *self.shape[1:])
        return {
            "shape": list(shape),
            "data_type": self.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(grid)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": kind.type(0).item(),
            "codecs": codecs,
            "attributes": {},
            "zarr_format": 3,
            "node_type": "array",
            "storage_transformers": [],
        }


def checked_profile(profile: str) -> Profile:
    """`profile`, or ValueError if there is none of that name."""
    if profile not in PROFILES:
        raise ValueError(f"profile {profile!r} is unknown; expected one of {', '.join(PROFILES)}")
    return profile  # type: ignore[return-value]


def _checksum(data: bytes) -> bytes:
    return int(google_crc32c.value(data)).to_bytes(CHECKSUM_BYTES, "little")


def _checked(data: bytes) -> memoryview:
    """`data` without the checksum at its end, not copied. Raises Damaged if that does not agree."""
    if len(data) < CHECKSUM_BYTES or google_crc32c.value(data) != RESIDUE:
        raise Damaged("checksum does not match its content")
    return memoryview(data)[:-CHECKSUM_BYTES]
