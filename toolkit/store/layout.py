"""The on-disk layout: which arrays a segment has, and commits, the only commit point."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.core import Array
from toolkit.store.files import ULID, StoreError, digest, write_json
from toolkit.store.schema import Schema

FORMAT = 1
CHUNK_BYTES = 1 << 20  # of the widest array; all arrays of a segment share the number of rows in a chunk
MAX_CHUNK_ROWS = 1 << 14
EPISODE_CHUNK = 1 << 10
CATEGORICAL = ("task", "behaviour")  # text columns, stored as codes into the commit's categories


def row_arrays(schema: Schema) -> dict[str, tuple[tuple[int, ...], str]]:
    """Array name -> (shape of one row, dtype), for the arrays that share the row axis."""
    arrays: dict[str, tuple[tuple[int, ...], str]] = {
        f"obs/{key.name}": (key.shape, "float32") for key in schema.observations
    }
    arrays["action"] = ((), "int64") if schema.discrete else (schema.action.shape, "float32")
    arrays |= {"reward": ((), "float32"), "terminated": ((), "bool"), "truncated": ((), "bool")}
    return arrays | {f"info/{name}": (tuple(shape), "float32") for name, shape in schema.info.items()}


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
    try:
        body = json.loads(path.read_bytes())
        stated = body.pop("digest")
        if stated != digest(body) or body["number"] != number:
            raise StoreError(f"{path}: digest does not match its content; the file is damaged")
        for segment in body["segments"]:
            if not ULID.fullmatch(segment["id"]):
                raise StoreError(f"{path}: segment id {segment['id']!r} is not a ULID")
        return Commit(number, body["parent"], tuple(body["segments"]), stated)
    except FileNotFoundError:
        raise StoreError(f"{root} has no commit {number}; it has {commit_numbers(root) or 'none'}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path}: not a readable commit ({error}); the file is damaged") from None


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
