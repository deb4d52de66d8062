"""The on-disk layout: which arrays a segment has, and commits, the only commit point."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from toolkit.core import Array
from toolkit.store.backend import Backend, load_json
from toolkit.store.encoding import PROFILES, Encoding, Profile
from toolkit.store.files import ULID, StoreError, digest, json_bytes
from toolkit.store.schema import Schema

FORMAT = 1
CHUNK_BYTES = 1 << 20  # of the widest array; all arrays of a segment share the number of rows in a chunk
MAX_CHUNK_ROWS = 1 << 14
EPISODE_CHUNK = 1 << 10
COMMIT_NAME = re.compile(r"([0-9]{20})\.json")
GROUP_METADATA: dict[str, Any] = {"attributes": {}, "zarr_format": 3, "node_type": "group"}
GROUP = json_bytes(GROUP_METADATA, indent=2, end="")  # zarr.json of a plain group, as zarr itself spells it
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


def groups(name: str) -> list[str]:
    """The groups an array stands in, '' for the segment itself: "obs/a/b" is in "", "obs" and "obs/a"."""
    parts = name.split("/")
    return ["/".join(parts[:n]) for n in range(len(parts))]


def chunk_rows(schema: Schema) -> int:
    """Rows in a chunk, a power of two: the widest array's chunk stays near CHUNK_BYTES."""
    widest = max(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in row_arrays(schema).values())
    return min(MAX_CHUNK_ROWS, 1 << max(4, (CHUNK_BYTES // widest).bit_length() - 1))


def encodings(schema: Schema, profile: Profile) -> dict[str, Encoding]:
    """Array name -> how its entries become files, for every array of a segment."""
    found = {}
    for name, (shape, dtype) in (row_arrays(schema) | episode_arrays(schema)).items():
        first = EPISODE_CHUNK if name.startswith("episodes/") else chunk_rows(schema)
        found[name] = Encoding(dtype, (first, *(max(1, size) for size in shape)), profile)
    return found


def content_uid(rows: dict[str, Array]) -> Array:
    """(16,) uint8: SHA-256, truncated, of an episode's rows by array name."""
    content = sha256()
    for name in sorted(rows):
        content.update(name.encode() + np.ascontiguousarray(rows[name]).tobytes())
    return np.frombuffer(content.digest()[:16], np.uint8)


def block_digest(name: str, first: int, part: Array) -> int:
    """What one block of array `name`, from entry `first` on, adds to its digest; see `ArrayDigest`."""
    part = np.ascontiguousarray(part)
    content = sha256(f"{name}:{first}:{part.dtype.str}:{part.shape}:".encode())
    content.update(part.data if part.size else b"")
    return int.from_bytes(content.digest()[:16], "little")


def digest_hex(total: int) -> str:
    """32 hex digits of a sum of block digests."""
    return f"{total % (1 << 128):032x}"


class ArrayDigest:
    """Digest of an array's first n entries that can grow: the sum, modulo 2**128, of one SHA-256 a block of them.

    The last, partial block is replaced when it grows, so appending never rereads what is committed.
    """

    def __init__(self, name: str, block: int) -> None:
        self.name, self.block, self.total, self.tail = name, block, 0, 0

    def update(self, first: int, data: Array) -> None:
        """Add entries `data` that start at entry `first`, a multiple of the block, replacing a partial last block."""
        self.total -= self.tail
        self.tail = 0
        for offset in range(0, len(data), self.block):
            part = data[offset : offset + self.block]
            value = block_digest(self.name, first + offset, part)
            self.total += value
            self.tail = value if len(part) < self.block else 0

    def hex(self) -> str:
        """32 hex digits."""
        return digest_hex(self.total)


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


def commit_key(number: int) -> str:
    """commits/<20 digits>.json"""
    return f"commits/{number:020d}.json"


def commit_numbers(backend: Backend) -> list[int]:
    """Numbers of the commit files present, ascending; nothing is read."""
    return [int(found[1]) for name in backend.names("commits") if (found := COMMIT_NAME.fullmatch(name))]


def read_commit(backend: Backend, number: int) -> Commit:
    """Read and verify one commit. Raises StoreError naming the file if it is damaged or absent."""
    key = commit_key(number)
    path = f"{backend.name}/{key}"
    try:
        body = load_json(backend, key)
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
        known = commit_numbers(backend)
        shown = f"{known[0]} to {known[-1]}" if len(known) > 9 else known or "none"
        raise StoreError(f"{backend.name} has no commit {number}; it has {shown}") from None
    except StoreError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise StoreError(f"{path}: not a readable commit ({type(error).__name__}: {error}); it is damaged") from None


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _check_segment(path: str, segment: Mapping[str, Any]) -> None:
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
    if segment.get("profile", "fast") not in PROFILES:
        raise StoreError(f"{path}: segment {segment['id']} has profile {segment['profile']!r}; upgrade packmule")


def newest_commit(backend: Backend) -> tuple[Commit, int]:
    """The newest commit that verifies, and the highest number in use (damaged files hold theirs)."""
    numbers = commit_numbers(backend)
    if not numbers:
        raise StoreError(f"{backend.name} has no commits; it is not a packmule store, or its commits were deleted")
    damaged = ""
    for number in reversed(numbers):
        try:
            return read_commit(backend, number), numbers[-1]
        except StoreError as error:
            damaged = str(error)
    raise StoreError(f"{backend.name}: no commit verifies; the last failure was: {damaged}")


def publish(backend: Backend, segments: list[dict[str, Any]], *, number: int, parent: int | None) -> Commit:
    """Write commit `number`. Raises FileExistsError, and changes nothing, if another writer published it first."""
    body = {"format": FORMAT, "number": number, "parent": parent, "segments": segments}
    backend.create(commit_key(number), json_bytes({**body, "digest": digest(body)}))
    return Commit(number, parent, tuple(segments), digest(body))
