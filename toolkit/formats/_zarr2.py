"""Reading zarr arrays of others, format 2, in a folder or a zip file: numbers and nothing else, no links.

What an array says of itself is looked at before anything of it is decoded: objects, and codecs that do more than
decompress or transform numbers, are refused.
"""

from __future__ import annotations

import json
import lzma
import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from toolkit.core import Array
from toolkit.formats._folders import LARGEST, no_links

CODECS = frozenset(
    {"blosc", "zlib", "gzip", "bz2", "lzma", "lz4", "zstd", "delta", "shuffle", "fixedscaleoffset", "quantize"}
    | {"packbits", "bitround", "astype", "crc32", "crc32c", "adler32", "fletcher32"}
)
CHUNK = 1 << 31  # bytes of the largest chunk that is read
SLACK = 1 << 16  # bytes that a stored chunk may have beyond twice its numbers
BLOCK = 1 << 26  # bytes, about, of rows read together
DAMAGED = (
    *(RuntimeError, ValueError, TypeError, OSError, EOFError, KeyError, SystemError),  # SystemError: by Blosc
    *(zlib.error, lzma.LZMAError, zipfile.BadZipFile),  # NotImplementedError is a RuntimeError
)


@dataclass(frozen=True)
class Stated:
    """What a source says of one array before anything of it is decoded."""

    shape: tuple[int, ...]
    dtype: np.dtype
    missing: int  # chunks of the rows used that are not there; they read as the fill value
    chunks: int


class Buffer:
    """An opened source: its files by name, and its arrays once they are known to be harmless."""

    def __init__(self, source: Path, store: Any, sizes: dict[str, int], archive: zipfile.ZipFile | None) -> None:
        self.source, self._store, self._sizes, self._archive = source, store, sizes, archive
        self._arrays: dict[str, Any] = {}

    def inside(self, group: str) -> tuple[list[str], list[str]]:
        """Names of the arrays directly in `group`, and of what else is there that has arrays further in."""
        parts = [
            name.split("/")[1:] for name in self._sizes if name.startswith(f"{group}/") and name.endswith(".zarray")
        ]
        here = sorted({part[0] for part in parts if len(part) == 2})
        return here, sorted({part[0] for part in parts if len(part) > 2} - {*here})

    def stated(self, name: str, rows: int | None = None) -> Stated:
        """What is said of an array, `rows` of which are used. Raises ValueError if it is not read; see the module."""
        told = self._json(f"{name}/.zarray")
        where = f"{self.source}: {name}"
        try:
            shape, chunks = (tuple(int(n) for n in told[part]) for part in ("shape", "chunks"))
            dtype = np.dtype(told["dtype"]) if isinstance(told["dtype"], str) else np.dtype(object)
            codecs = [told.get("compressor"), *(told.get("filters") or [])]
            used = [None if codec is None else str(codec["id"]) for codec in codecs]
            separator = re.escape(told.get("dimension_separator", "."))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{where} has metadata that are not zarr's, format 2 ({error!r})") from None
        if told.get("zarr_format") != 2 or len(shape) != len(chunks) or not shape or min(chunks) < 1 or min(shape) < 0:
            raise ValueError(f"{where} has metadata that are not zarr's, format 2, or of an array without rows")
        if dtype.kind not in "fiub":
            raise ValueError(f"{where} is of type {told['dtype']!r}; only numbers are read, never objects")
        if odd := [codec for codec in used if codec is not None and codec not in CODECS]:
            raise ValueError(f"{where} needs the codec {odd[0]!r}, which is not read; leave it out with --keys")
        if (claimed := math.prod(chunks) * dtype.itemsize) > CHUNK:
            raise ValueError(f"{where} has chunks of {claimed} bytes; the most is {CHUNK}")
        used_shape = (shape[0] if rows is None else min(rows, shape[0]), *shape[1:])
        grid = [-(-n // c) for n, c in zip(used_shape, chunks, strict=True)]
        form = re.compile(re.escape(f"{name}/") + separator.join(["([0-9]{1,18})"] * len(shape)))
        found = [(match, size) for one, size in self._sizes.items() if (match := form.fullmatch(one))]
        if large := [match[0] for match, size in found if size > 2 * claimed + SLACK]:
            raise ValueError(f"{self.source}: {large[0]} is larger than the chunk of {claimed} bytes that it holds")
        there = sum(all(int(n) < most for n, most in zip(match.groups(), grid, strict=True)) for match, _ in found)
        missing = math.prod(grid) - there
        if missing and (there == 0 or told.get("fill_value") is None):
            raise ValueError(f"{where}: {missing} of its {math.prod(grid)} chunks are not there; the source is damaged")
        return Stated(shape, dtype, missing, math.prod(grid))

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Array:
        """Rows of an array (n, ...). Raises ValueError if they cannot be decoded."""
        if name not in self._arrays:
            self.stated(name)
        try:
            if name not in self._arrays:
                self._arrays[name] = zarr.open_array(self._store, path=name, mode="r", zarr_format=2)
            return np.asarray(self._arrays[name][start:stop])
        except DAMAGED as error:
            raise ValueError(f"{self.source}: rows from {start} of {name} cannot be decoded ({error})") from None

    def blocks(self, name: str, rows: int) -> Iterator[Array]:
        """The first `rows` rows of an array, some at a time."""
        wide = self.stated(name)
        step = max(1, BLOCK // max(1, math.prod(wide.shape[1:]) * wide.dtype.itemsize))
        for start in range(0, rows, step):
            yield self.rows(name, start, min(start + step, rows))

    def _json(self, name: str) -> Any:
        if self._sizes.get(name, LARGEST) >= LARGEST:
            raise ValueError(f"{self.source} has no {name}, or one too large; expected zarr arrays of format 2")
        try:
            content = self._archive.read(name) if self._archive else (self.source / name).read_bytes()
            return json.loads(content)
        except DAMAGED as error:
            raise ValueError(f"{self.source}: {name} is no JSON ({error})") from None


@contextmanager
def opened(source: Path) -> Iterator[Buffer]:
    """The source, for reading. Raises ValueError if it is neither a folder without links nor a zip file."""
    if source.is_dir():
        no_links(source)
        files = (path for path in source.rglob("*") if path.is_file())
        sizes = {path.relative_to(source).as_posix(): path.stat().st_size for path in files}
        yield Buffer(source, zarr.storage.LocalStore(source, read_only=True), sizes, None)
        return
    if not source.exists():
        raise FileNotFoundError(f"{source} is not there")
    try:
        archive = zipfile.ZipFile(source)
    except DAMAGED as error:
        raise ValueError(f"{source} is neither a folder nor a zip file ({error})") from None
    with archive:
        store = zarr.storage.ZipStore(source, mode="r")
        try:
            yield Buffer(source, store, {one.filename: one.file_size for one in archive.infolist()}, archive)
        finally:
            with suppress(AttributeError):  # one that was never opened cannot be closed
                store.close()
