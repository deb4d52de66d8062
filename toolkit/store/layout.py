"""The on-disk layout: which arrays a segment has, and commits, the only commit point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.core import Array
from toolkit.store.files import ULID, StoreError, digest, load_json, refuse_links, write_json
from toolkit.store.schema import Schema

FORMAT = 1
CHUNK_BYTES = 1 << 20  # of the widest array; all arrays of a segment share the number of rows in a chunk
MAX_CHUNK_ROWS = 1 << 14
EPISODE_CHUNK = 1 << 10
CATEGORICAL = ("task", "behaviour")  # text columns, stored as codes into the commit's categories


def row_arrays(schema: Schema) -> dict[str, tuple[tuple[int, ...], str]]:
    """Array name -> (shape of one row, dtype), for the arrays that share the row axis."""
    arrays: dict[str, tuple[tuple[int, ...], str]] = {
        f"obs/{key.name}": (key.shape, key.dtype) for key in schema.observations
    }
    arrays["action"] = (schema.action.shape, schema.action.dtype)
    arrays |= {"reward": ((), "float32"), "terminated": ((), "bool"), "truncated": ((), "bool")}
    return arrays | {f"info/{name}": (key.shape, key.dtype) for name, key in schema.info.items()}


def episode_arrays(schema: Schema) -> dict[str, tuple[tuple[int, ...], str]]:
    """Array name -> (shape of one episode's entry, dtype), for the episode table."""
    columns: dict[str, tuple[tuple[int, ...], str]] = {
        "start": ((), "int64"),  # first row within the segment
        "length": ((), "int64"),  # steps T; the episode owns T+1 rows
        "uid": ((16,), "uint8"),  # SHA-256 of the content, truncated
        "return": ((), "float64"),
        "success": ((), "int8"),  # -1 unknown, 0 no, 1 yes
        "seed": ((), "int64"),  # -1 unknown
        "context": ((len(schema.context_names),), "float64"),
    }
    columns |= {name: ((), "int32") for name in CATEGORICAL}
    return {f"episodes/{name}": value for name, value in columns.items()}


def chunk_rows(schema: Schema) -> int:
    """Rows in a chunk, a power of two: the widest array's chunk stays near CHUNK_BYTES."""
    widest = max(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in row_arrays(schema).values())
    return min(MAX_CHUNK_ROWS, 1 << max(4, (CHUNK_BYTES // widest).bit_length() - 1))


def chunk_shape(name: str, shape: tuple[int, ...], schema: Schema) -> tuple[int, ...]:
    """Shape of one chunk of array `name`, whose entries have `shape`."""
    first = EPISODE_CHUNK if name.startswith("episodes/") else chunk_rows(schema)
    return (first, *(max(1, size) for size in shape))


def array_metadata(shape: tuple[int, ...], dtype: str, chunks: tuple[int, ...]) -> dict[str, Any]:
    """What zarr.json of an array must say, its length on the first axis left out (a writer may have grown it)."""
    kind = np.dtype(dtype)
    endian = {"configuration": {"endian": "little"}} if kind.itemsize > 1 else {}
    return {
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": kind.type(0).item(),
        "codecs": [{"name": "bytes", **endian}, {"name": "crc32c"}],
        "attributes": {},
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def content_uid(rows: dict[str, Array]) -> Array:
    """(16,) uint8: SHA-256, truncated, of an episode's rows by array name."""
    content = sha256()
    for name in sorted(rows):
        content.update(name.encode() + np.ascontiguousarray(rows[name]).tobytes())
    return np.frombuffer(content.digest()[:16], np.uint8)


class ArrayDigest:
    """Digest of an array's first n rows that can grow: the sum, modulo 2**128, of one SHA-256 a block of rows.

    The last, partial block is replaced when it grows, so appending never rereads what is committed.
    """

    def __init__(self, name: str, block: int) -> None:
        self.name, self.block, self.total, self.tail = name, block, 0, 0

    def update(self, first: int, data: Array) -> None:
        """Add rows `data` that start at row `first`, a multiple of the block, replacing a partial last block."""
        self.total -= self.tail
        self.tail = 0
        for offset in range(0, len(data), self.block):
            part = np.ascontiguousarray(data[offset : offset + self.block])
            text = f"{self.name}:{first + offset}:{part.dtype.str}:{part.shape}:".encode()
            value = int.from_bytes(sha256(text + part.tobytes()).digest()[:16], "little")
            self.total += value
            self.tail = value if len(part) < self.block else 0

    def hex(self) -> str:
        """32 hex digits."""
        return f"{self.total % (1 << 128):032x}"


@dataclass(frozen=True)
class Commit:
    """One published state of a store: which rows of which segments count. Immutable."""

    number: int
    parent: int | None
    segments: tuple[dict[str, Any], ...]  # id, rows, episodes, digest by array, categories, statistics
    digest: str

    @property
    def episodes(self) -> int:
        """Committed episodes."""
        return sum(segment["episodes"] for segment in self.segments)


def commit_path(root: Path, number: int) -> Path:
    """commits/<20 digits>.json"""
    return root / "commits" / f"{number:020d}.json"


def commit_numbers(root: Path) -> list[int]:
    """Numbers of the commit files present, ascending; nothing is read."""
    return sorted(int(path.stem) for path in (root / "commits").glob("[0-9]" * 20 + ".json"))


def read_commit(root: Path, number: int) -> Commit:
    """Read and verify one commit. Raises StoreError naming the file if it is damaged or absent."""
    path = commit_path(root, number)
    refuse_links(root, path)
    try:
        body = load_json(path)
        stated = body.pop("digest")
        if stated != digest(body) or body["number"] != number:
            raise StoreError(f"{path}: digest does not match its content; the file is damaged")
        parent = body["parent"]
        if parent is not None and not (_is_count(parent) and parent < number):
            raise StoreError(f"{path}: parent {parent!r} is not an earlier commit")
        for segment in body["segments"]:
            _check_segment(path, segment)
        if len({segment["id"] for segment in body["segments"]}) != len(body["segments"]):
            raise StoreError(f"{path}: names one segment twice")
        return Commit(number, parent, tuple(body["segments"]), stated)
    except FileNotFoundError:
        raise StoreError(f"{root} has no commit {number}; it has {commit_numbers(root) or 'none'}") from None
    except StoreError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise StoreError(f"{path}: not a readable commit ({type(error).__name__}: {error}); it is damaged") from None


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _check_segment(path: Path, segment: Mapping[str, Any]) -> None:
    """Types and plain bounds of one segment entry, so that nothing later trusts a number it should not."""
    if not isinstance(segment["id"], str) or not ULID.fullmatch(segment["id"]):
        raise StoreError(f"{path}: segment id {segment['id']!r} is not a ULID")
    rows, episodes = segment["rows"], segment["episodes"]
    if not (_is_count(rows) and _is_count(episodes) and 2 * episodes <= rows):
        raise StoreError(
            f"{path}: segment {segment['id']} claims {rows!r} rows and {episodes!r} episodes; expected two counts, "
            "at least two rows an episode"
        )
    for name in CATEGORICAL:
        if not all(isinstance(text, str) for text in segment["categories"][name]):
            raise StoreError(f"{path}: categories of {name!r} are not all text")
    if not all(isinstance(value, str) for value in segment["digest"].values()):
        raise StoreError(f"{path}: digests of segment {segment['id']} are not all text")
    _ = segment["statistics"].items()


def newest_commit(root: Path) -> tuple[Commit, int]:
    """The newest commit that verifies, and the highest number in use (damaged files hold theirs)."""
    numbers = commit_numbers(root)
    if not numbers:
        raise StoreError(f"{root} has no commits; it is not a packmule store, or its commits folder was emptied")
    damaged = ""
    for number in reversed(numbers):
        try:
            return read_commit(root, number), numbers[-1]
        except StoreError as error:
            damaged = str(error)
    raise StoreError(f"{root}: no commit verifies; the last failure was: {damaged}")


def publish(root: Path, segments: list[dict[str, Any]], *, number: int, parent: int | None) -> Commit:
    """Write commit `number`. Raises FileExistsError, and changes nothing, if another writer published it first."""
    body = {"format": FORMAT, "number": number, "parent": parent, "segments": segments}
    write_json(commit_path(root, number), {**body, "digest": digest(body)}, create_only=True)
    return Commit(number, parent, tuple(segments), digest(body))
