"""npz files row by row: nothing is unpickled, and no more is in memory than the rows asked for."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from toolkit.core import Array

LARGE = 1 << 28  # bytes a file may claim to hold when unpacked, whatever its size
PACKED = 100  # times its size may it claim beyond: numbers of a simulator are packed to a half, images to a tenth
BLOCK = 1 << 16  # rows read together


class Column:
    """One array of an open file, read from its first row to its last."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        """Raises ValueError if it is no array of numbers in order of rows, or is not all there."""
        self._where = f"{archive.filename}: {name}"
        entry = archive.getinfo(f"{name}.npy")
        try:
            self._file = archive.open(entry)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, by_column, self.dtype = read[np.lib.format.read_magic(self._file)](self._file)
        except (ValueError, KeyError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{self._where} is no array, or is damaged ({error})") from None
        self.shape: tuple[int, ...] = shape
        if self.dtype.hasobject:
            raise ValueError(f"{self._where} holds Python objects, which could run what they please; it is not read")
        if by_column and len(shape) > 1:
            raise ValueError(f"{self._where} is stored by columns; save it again with np.ascontiguousarray")
        if self._file.tell() + math.prod(shape) * self.dtype.itemsize != entry.file_size:
            raise ValueError(
                f"{self._where} claims to be {self.dtype} {shape}, which its {entry.file_size} bytes are not"
            )

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 0

    def take(self, rows: int) -> Array:
        """The next `rows` rows (rows, ...). Raises ValueError if the file is damaged there."""
        due = rows * math.prod(self.shape[1:]) * self.dtype.itemsize
        try:
            data = self._file.read(due)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{self._where} is damaged ({error})") from None
        if len(data) != due:
            raise ValueError(f"{self._where} is cut short")
        return np.frombuffer(data, self.dtype).reshape(rows, *self.shape[1:])

    def skip(self, rows: int) -> None:
        """Pass over the next `rows` rows."""
        for part in range(0, rows, BLOCK):
            self.take(min(BLOCK, rows - part))

    def blocks(self) -> Iterator[Array]:
        """All rows from here on, many at a time."""
        for part in range(0, len(self), BLOCK):
            yield self.take(min(BLOCK, len(self) - part))


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The file, for reading. Raises FileNotFoundError if it is not there, ValueError if it is no npz, or a zip bomb."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there")
    if not path.is_file():
        raise ValueError(f"{path} is a folder; expected an npz file")
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, NotImplementedError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no npz file, or is cut short ({error})") from None
    with archive:
        claimed, size = sum(entry.file_size for entry in archive.infolist()), path.stat().st_size
        if claimed > max(LARGE, PACKED * size):
            raise ValueError(f"{path} has {size} bytes and claims to hold {claimed}; that is not read")
        yield archive


def columns(archive: zipfile.ZipFile) -> dict[str, Column]:
    """Every array of the file by name, each at its first row. Raises as `Column` does."""
    names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    return {name: Column(archive, name) for name in names}


def write_column(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], kind: str, parts: Iterable[Array]
) -> None:
    """Add an array (*shape) of type `kind` whose rows are the `parts`, in order."""
    dtype = np.dtype(kind)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype).tobytes())
