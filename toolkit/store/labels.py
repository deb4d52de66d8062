"""New rewards, ends and goals of every row of one commit, under derived/NAME/: complete or absent, checked when read.

    derived/NAME/<first 40 digits of the commit's digest>.json    what is there, with a sum of every file; made last
    derived/NAME/<ulid>/{reward, terminated, goal}                a row each, in the commit's order of rows
    derived/NAME/<ulid>/episodes/{length, return}                 an entry each, in the commit's order of episodes

The arrays are plain zarr v3. One dataset serves many tasks this way, and nothing recorded is touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from hashlib import sha256
from typing import Any

import numpy as np

from toolkit.core import Array, Episode
from toolkit.store import layout
from toolkit.store.backend import Backend, check_spelling, load_json
from toolkit.store.committed import Committed, EpisodeTable
from toolkit.store.encoding import Damaged, Encoding
from toolkit.store.files import NAME, ULID, StoreError, checked_name, digest, json_bytes
from toolkit.store.packed import Block, PackedFile
from toolkit.store.rows import Rows
from toolkit.store.schema import Schema

FORMAT = 1
CHUNK = 1 << 14  # entries in a chunk
CACHED = 8  # chunks kept in memory
RESERVED = "packed-"  # what else stands in derived/


def label_arrays(schema: Schema, *, goal: bool) -> dict[str, tuple[tuple[int, ...], str]]:
    """Array name -> (shape of an entry, dtype)."""
    found: dict[str, tuple[tuple[int, ...], str]] = {"reward": ((), "float32"), "terminated": ((), "bool")}
    if goal:
        found["goal"] = ((schema.goal_dim,), "float32")
    return found | {"episodes/length": ((), "int64"), "episodes/return": ((), "float64")}


def encoding(entry: tuple[tuple[int, ...], str]) -> Encoding:
    """How an array's chunks become files."""
    shape, dtype = entry
    return Encoding(dtype, (CHUNK, *shape), "fast")


def array_metadata(entry: tuple[tuple[int, ...], str], count: int) -> bytes:
    """zarr.json of an array of `count` entries."""
    metadata = encoding(entry).metadata(entry[0])
    return json_bytes({**metadata, "shape": [count, *metadata["shape"]]}, indent=2, end="")


def file_sum(data: bytes) -> str:
    """What is kept of a file: 32 hex digits of its SHA-256."""
    return sha256(data).hexdigest()[:32]


def label_key(name: str, commit: layout.Commit) -> str:
    """The file whose presence says that relabel `name` of `commit` is complete. Raises ValueError for a bad name."""
    if checked_name("relabel", name).startswith(RESERVED):
        raise ValueError(f"relabel {name!r}: names that begin with {RESERVED!r} are those of caches; choose another")
    return f"derived/{name}/{commit.digest[:40]}.json"


def label_names(place: Backend) -> dict[str, list[str]]:
    """Name of each relabel -> keys of what is complete, one a commit."""
    found = {}
    for name in place.names("derived"):
        if NAME.fullmatch(name) and not name.startswith(RESERVED):
            keys = [f"derived/{name}/{file}" for file in place.names(f"derived/{name}") if file.endswith(".json")]
            found[name] = [key for key in keys if len(key.rpartition("/")[2]) == 45]
    return found


class Labels:
    """One relabel of one commit. Values are verified chunk by chunk as they are read."""

    def __init__(self, place: Backend, schema: Schema, commit: layout.Commit, name: str) -> None:
        """Raises StoreError if there is no such relabel of this commit, or its description is damaged."""
        self.backend, self.schema, self.name = place, schema, name
        key = label_key(name, commit)
        self.where = f"{place.name}/{key}"
        try:
            body = load_json(place, key)
            self._body = dict(body)
            self.digest = body.pop("digest")
            if self.digest != digest(body):
                raise StoreError(f"{self.where}: digest does not match its content; delete it and relabel again")
            if body["format"] > FORMAT:
                raise StoreError(f"{self.where} has format {body['format']}, newer than {FORMAT}: upgrade packmule")
            if body["commit_digest"] != commit.digest or not ULID.fullmatch(body["folder"]):
                raise StoreError(f"{self.where} is not of commit {commit.number}; delete it and relabel again")
            self.folder, self.sums = f"derived/{name}/{body['folder']}", body["sums"]
            self.arrays = label_arrays(schema, goal="goal" in self.sums)
            rows, episodes = sum(s["rows"] for s in commit.segments), commit.episodes
            self.counts = {a: episodes if a.startswith("episodes/") else rows for a in self.arrays}
            if {a: len(s) for a, s in self.sums.items()} != {a: -(-n // CHUNK) for a, n in self.counts.items()}:
                raise StoreError(f"{self.where} does not describe the {rows} rows of its commit")
        except FileNotFoundError:
            raise StoreError(_absent(place, commit, name)) from None
        except StoreError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise StoreError(f"{self.where}: not a readable relabel ({type(error).__name__}: {error})") from None
        self._chunk = lru_cache(CACHED)(self._load)

    def read(self, name: str, low: int, high: int) -> Array:
        """Entries low..high of array `name`. Raises StoreError naming the first damaged file in the way."""
        if high <= low:
            return np.zeros((0, *self.arrays[name][0]), self.arrays[name][1])
        parts = [
            self._chunk(name, number)[max(0, low - number * CHUNK) : high - number * CHUNK]
            for number in range(low // CHUNK, -(-high // CHUNK))
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def row_arrays(self, low: int, high: int) -> dict[str, Array]:
        """Rows low..high as the store's own arrays, by name: reward, terminated, and obs/KEY of each goal."""
        found = {name: self.read(name, low, high) for name in ("reward", "terminated")}
        if "goal" in self.arrays:
            goal, at = self.read("goal", low, high), 0
            for key in self.schema.observations:
                if key.role == "goal":
                    found[f"obs/{key.name}"] = goal[:, at : at + key.size].reshape(-1, *key.shape)
                    at += key.size
        return found

    def write_into(self, block: Array, first: int) -> None:
        """Overwrite goal, reward and terminated in packed rows `block` (n, W), which begin at row `first`."""
        last = first + len(block)
        if "goal" in self.arrays:
            block[:, self.schema.obs_dim - self.schema.goal_dim : self.schema.obs_dim] = self.read("goal", first, last)
        block[:, -2], block[:, -1] = self.read("reward", first, last), self.read("terminated", first, last)

    def table(self, recorded: EpisodeTable) -> EpisodeTable:
        """The commit's episode table with new lengths and returns; whether they succeeded is not known."""
        count = len(recorded)
        columns: dict[str, Any] = {name: (lambda name=name: recorded[name]) for name in recorded}
        columns["length"] = self.read("episodes/length", 0, count) if count else np.zeros(0, np.int64)
        columns["return"] = lambda: self.read("episodes/return", 0, count)
        columns["success"] = np.full(count, -1, np.int8)
        return EpisodeTable(columns, count)

    def episode(self, recorded: Episode, first: int, steps: int) -> Episode:
        """`recorded`, which begins at row `first`, cut to `steps` and labelled anew."""
        new = self.row_arrays(first, first + steps + 1)
        obs = {key: new.get(f"obs/{key}", values[: steps + 1]) for key, values in recorded.observations().items()}
        info = {key: values[:steps] for key, values in recorded.info.items()}
        columns = {**recorded.columns, "success": None}
        ended = bool(new["terminated"][steps - 1])
        return Episode(obs, recorded.action[:steps], new["reward"][:steps], ended, info, columns)

    def check(self) -> None:
        """Read every file. Raises StoreError naming the first that is missing or not what was written."""
        check_spelling(self.backend, self.where.removeprefix(f"{self.backend.name}/"), self._body)
        metadata = {f"{group}zarr.json": layout.GROUP for group in ("", "episodes/")}
        for name, entry in self.arrays.items():
            metadata[f"{name}/zarr.json"] = array_metadata(entry, self.counts[name])
        for file, expected in metadata.items():
            key = f"{self.folder}/{file}"
            if self.backend.size(key) is None or self.backend.read(key) != expected:
                raise StoreError(f"{self.backend.name}/{key} is missing or not what was written; it is damaged")
        for name, sums in self.sums.items():
            for number in range(len(sums)):
                values = self._load(name, number)
                if values.dtype.kind == "f" and not np.isfinite(values).all():
                    raise StoreError(f"{self.where}: {name} is not finite")

    def _load(self, name: str, number: int) -> Array:
        entry = self.arrays[name]
        code = encoding(entry)
        key = "/".join([self.folder, name, "c", str(number), *["0"] * len(entry[0])])
        where = f"{self.backend.name}/{key}"
        try:
            data = self.backend.read(key, limit=code.file_bytes()[1])
        except FileNotFoundError:
            raise StoreError(f"{where} is missing; relabel again under another name") from None
        if file_sum(data) != self.sums[name][number]:
            raise StoreError(f"{where} is not what was written; it is damaged: relabel again under another name")
        try:
            return code.decode(data)
        except Damaged as error:
            raise StoreError(f"{where}: {error}; it is damaged") from None


class LabelledRows(Rows):
    """All committed rows of one commit, labelled anew."""

    def __init__(self, committed: Committed, labels: Labels) -> None:
        super().__init__(committed)
        self.labels = labels
        self.file = PackedFile(self.backend, self.schema, labels.digest, self.total)

    def _pack(self, into: Block | None) -> Iterator[Block]:
        at = 0
        for block in super()._pack(into):
            self.labels.write_into(block.rows, at)
            at += len(block.rows)
            yield block

    def _read(self, number: int, first: int, stop: int) -> dict[str, Array]:
        base = int(self.offsets[number])
        return super()._read(number, first, stop) | self.labels.row_arrays(base + first, base + stop)


def _absent(place: Backend, commit: layout.Commit, name: str) -> str:
    """What to say when relabel `name` of `commit` is not there."""
    known = {n: keys for n, keys in label_names(place).items() if keys}
    if name not in known:
        return f"{place.name} has no relabel {name!r}; it has {', '.join(sorted(known)) or 'none'}"
    numbers = []
    for number in layout.commit_numbers(place):
        try:
            if label_key(name, layout.read_commit(place, number)) in known[name]:
                numbers.append(str(number))
        except StoreError:
            continue  # a damaged commit
    there = ", ".join(numbers) or "one that is no longer there"
    return (
        f"relabel {name!r} is of commit {there}, but the store is open at {commit.number}: open it with "
        f"commit={numbers[-1] if numbers else 'N'}, or relabel the newer commit under the same name"
    )
