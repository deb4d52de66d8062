"""Parquet files of others, and columns of our own: numbers, texts and pictures, some rows at a time.

Needs pyarrow, imported when first used. Extension types are read as what they are stored as.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.core import Array

PICTURES = ("PNG", "JPEG")  # encodings that are decoded
MODES = {"L": 1, "RGB": 3, "RGBA": 4}  # of pictures of bytes -> channels


class Rows:
    """Rows of one file. What was read last is kept, so that rows in order are read once."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError if it is no whole Parquet file, or not there."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        try:
            self._file = pq.ParquetFile(path)
            self.names: list[str] = list(self._file.schema_arrow.names)  # of its columns
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no whole Parquet file, or is not there ({error})") from None
        counts = [self._file.metadata.row_group(n).num_rows for n in range(self._file.num_row_groups)]
        self._starts = np.cumsum([0, *counts])
        self._last: tuple[Any, Any] = (None, None)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

    def table(self, columns: Sequence[str], start: int = 0, stop: int | None = None) -> Any:
        """Rows from `start` to `stop` of the columns, an Arrow table. Raises ValueError if one is not there."""
        import pyarrow as pa

        if missing := [name for name in columns if name not in self.names]:
            raise ValueError(f"{self.path} has no column {', '.join(missing)}; there is {', '.join(self.names)}")
        stop = len(self) if stop is None else stop
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        groups = range(first, int(np.searchsorted(self._starts, stop, side="left")))
        wanted = (tuple(groups), tuple(columns))
        if self._last[0] != wanted:
            try:
                self._last = wanted, self._file.read_row_groups(list(groups), columns=list(columns))
            except (OSError, pa.ArrowException) as error:
                raise ValueError(f"{self.path}: rows {start} to {stop} cannot be read ({error})") from None
        return self._last[1].slice(start - int(self._starts[first]), stop - start)

    def blocks(self, column: str, shape: Sequence[int]) -> Iterator[Array]:
        """A column of numbers (n, *shape), a row group at a time."""
        for start, stop in zip(self._starts[:-1].tolist(), self._starts[1:].tolist(), strict=True):
            if stop > start:
                yield numbers(self.table([column], start, stop).column(column), shape, self.path / column)


def numbers(column: Any, shape: Sequence[int], where: object) -> Array:
    """An Arrow column of numbers, or of lists of them, as an array (n, *shape). Raises ValueError if it is not such."""
    import pyarrow as pa
    import pyarrow.compute as pc

    part = _whole(column)
    count = len(part)
    while pa.types.is_list(part.type) or pa.types.is_large_list(part.type) or pa.types.is_fixed_size_list(part.type):
        lengths = pc.list_value_length(part)
        if part.null_count or len(lengths.unique()) > 1:
            raise ValueError(f"{where}: its lists are not all there or differ in length; expected {tuple(shape)} each")
        part = _whole(part.flatten())
    plain = pa.types.is_integer(part.type) or pa.types.is_floating(part.type) or pa.types.is_boolean(part.type)
    if not plain or part.null_count or len(part) != count * math.prod(shape):
        raise ValueError(f"{where} is {column.type}; expected {tuple(shape)} numbers in each of {count} rows")
    return np.asarray(part.to_numpy(zero_copy_only=False)).reshape(count, *shape)


def pictures(column: Any, shape: Sequence[int] | None, where: object) -> Array:
    """An Arrow column of embedded PNG or JPEG pictures (n, H, W, C) uint8; of the first one's shape if None is given.

    Raises ValueError if one is not embedded, of another kind or shape; it is then not decoded.
    """
    import pyarrow as pa
    from PIL import Image, UnidentifiedImageError

    found: list[Array] = []
    part = _whole(column)
    place = part.type.get_field_index("bytes") if pa.types.is_struct(part.type) else -1
    for number, content in enumerate(part.flatten()[place].to_pylist() if place >= 0 else [None] * len(part)):
        if not isinstance(content, bytes):
            raise ValueError(f"{where}: picture {number} is not embedded; pictures in files of their own are not read")
        try:
            with Image.open(io.BytesIO(content), formats=PICTURES) as image:
                if image.mode not in MODES:
                    raise ValueError(f"its mode is {image.mode}; expected one of {', '.join(MODES)}")
                size = (image.height, image.width, MODES[image.mode])
                if shape is not None and size != tuple(shape):
                    raise ValueError(f"it is {size}; expected {tuple(shape)}")
                shape = size
                found.append(np.asarray(image, np.uint8).reshape(size))
        except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise ValueError(f"{where}: picture {number} cannot be read ({error})") from None
    return np.stack(found) if found else np.zeros((0, *(shape or (1, 1, 1))), np.uint8)


def texts(column: Any) -> list[str] | None:
    """An Arrow column of texts; None if it holds anything else."""
    import pyarrow as pa

    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)) or column.null_count:
        return None
    try:
        return [str(one) for one in column.to_pylist()]
    except UnicodeDecodeError:
        return None


def listed(values: Array) -> Any:
    """An array (n,) or (n, *shape) as an Arrow column of numbers, or of nested lists; one axis has its length fixed."""
    import pyarrow as pa

    flat: Any = pa.array(np.ascontiguousarray(values).reshape(-1))
    if values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    for axis in range(values.ndim - 1, 0, -1):
        ends = np.arange(math.prod(values.shape[:axis]) + 1, dtype=np.int32) * values.shape[axis]
        flat = pa.ListArray.from_arrays(pa.array(ends), flat)
    return flat


def encoded(images: Array) -> Any:
    """Images (n, H, W, C) uint8 of 1, 3 or 4 channels as an Arrow column of PNG pictures."""
    import pyarrow as pa
    from PIL import Image

    cells = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, format="PNG")
        cells.append({"bytes": buffer.getvalue(), "path": None})
    return pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def _whole(column: Any) -> Any:
    """One Arrow array of a column, as it is stored."""
    import pyarrow as pa

    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks)
    return column.storage if isinstance(column, pa.ExtensionArray) else column
