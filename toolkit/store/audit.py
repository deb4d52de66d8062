"""Everything that must hold inside one segment, checked chunk by chunk and never stopping at the first problem."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from toolkit.core import Array
from toolkit.store import layout
from toolkit.store.backend import Backend, check_spelling, load_json
from toolkit.store.chunks import METADATA_BYTES, SegmentFiles
from toolkit.store.files import StoreError
from toolkit.store.packing import pack
from toolkit.store.schema import Schema
from toolkit.store.statistics import Running, transition_statistics

Severity = Literal["error", "warning", "note"]
Report = Callable[[str, str, Array | None, Severity], None]  # where, what, affected episodes (n,) or None for all
FALSE_CLAIM = 64  # files a claim may exceed those on disk by, to be looked at one by one
ROUNDING = 1e-6  # of a sum of rewards, stored in float32
STATISTICS_ROUNDING = 1e-9
NONE = np.zeros(0, np.int64)


@dataclass
class Audit:
    """One segment as the commits that name it claim it. `entries` are their claims, fewest rows first."""

    backend: Backend
    schema: Schema
    entries: list[dict[str, Any]]
    report: Report
    lost: Array = field(init=False)  # (E,) bool: episodes of the largest claim whose data cannot be recovered

    def __post_init__(self) -> None:
        self.lost = np.zeros(0, bool)
        self._digests: dict[str, int] = {}
        self.broken: set[str] = set()  # arrays with a chunk that cannot be read: their digests cannot be told

    def run(self) -> None:
        """Check it all; problems go to `report`, unrecoverable episodes to `lost`."""
        self.entries = [entry for entry in self.entries if self._claim_is_possible(entry)]
        if not self.entries:
            return
        self.files = SegmentFiles(self.backend, self.schema, self.entries[-1])
        self.rows, self.episodes = self.entries[-1]["rows"], self.entries[-1]["episodes"]
        self.lost = np.zeros(self.episodes, bool)
        self._metadata()
        self._table()
        self._data()

    def _say(self, where: str, what: str, affected: Array | None = None, severity: Severity = "error") -> None:
        self.report(f"segments/{self.entries[-1]['id']}{where and '/' + where}", what, affected, severity)

    def _claim_is_possible(self, entry: dict[str, Any]) -> bool:
        files = SegmentFiles(self.backend, self.schema, entry)
        for names, unit in ((files.row_arrays, "rows"), (layout.episode_arrays(self.schema), "episodes")):
            expected = max(files.files(name) for name in names)
            present = max(files.present(name) for name in names)
            if expected > present + FALSE_CLAIM:
                what = f"{entry[unit]} {unit} are claimed, in {expected} files, but at most {present} are on disk"
                self.report(f"segments/{entry['id']}", what, None, "error")
                return False
        return True

    def _metadata(self) -> None:
        longer = []
        for name in self.files.arrays:
            key = f"{self.files.folder}/{name}/zarr.json"
            try:
                length = self.files.check_metadata(name)
                if length > self.files.count(name) or self.files.present(name) > self.files.files(name):
                    longer.append(name)
            except StoreError as error:
                self._say(f"{name}/zarr.json", reason(error, self.backend, key))
                continue
            try:
                check_spelling(self.backend, key, load_json(self.backend, key), indent=2, end="")
            except StoreError as error:
                self._say(f"{name}/zarr.json", reason(error, self.backend, key), NONE, "warning")
        for group in sorted({part for name in self.files.arrays for part in layout.groups(name)}):
            key = "/".join(filter(None, [self.files.folder, group, "zarr.json"]))
            try:
                check_group(self.backend, key)
            except StoreError as error:
                self._say(f"{group}/zarr.json".lstrip("/"), reason(error, self.backend, key))
        if longer:
            what = f"more than was committed in {', '.join(longer)}: left by a writer that was stopped or is at work"
            self._say("", what, NONE, "note")

    def _chunk(self, name: str, number: int, affected: Array) -> Array | None:
        try:
            return self.files.chunk(name, number)
        except StoreError as error:
            key = self.files.key(name, number // self.files.encodings[name].chunks)
            self._say(key.removeprefix(f"{self.files.folder}/"), reason(error, self.backend, key), affected)
            self.broken.add(name)
            self.lost[affected] = True
            return None

    def _digest(self, name: str, number: int, chunk: Array) -> Iterator[dict[str, Any]]:
        """Add one chunk to the array's digest; the claims that end in this chunk and do not agree with it."""
        first = number * len(chunk)
        before = self._digests.get(name, 0)
        unit = "episodes" if name.startswith("episodes/") else "rows"
        for entry in self.entries:
            if first < entry[unit] <= first + len(chunk) and name not in self.broken:
                found = before + layout.block_digest(name, first, chunk[: entry[unit] - first])
                if layout.digest_hex(found) != entry["digest"].get(name):
                    yield entry
        self._digests[name] = before + layout.block_digest(name, first, chunk)

    def _table(self) -> None:
        table: dict[str, Array] = {}
        for name, (shape, dtype) in layout.episode_arrays(self.schema).items():
            size = self.files.chunk_size(name)
            values = np.zeros((self.episodes, *shape), dtype)
            for number in range(self.files.chunks(name)):
                span = np.arange(number * size, min(self.episodes, (number + 1) * size))
                chunk = self._chunk(name, number, span)
                if chunk is None:
                    continue
                values[span] = chunk[: len(span)]
                for entry in self._digest(name, number, chunk):
                    self._say(name, "differs from what was committed: its digest does not agree")
                    self.lost[: entry["episodes"]] = True
            if self.files.chunks(name) == 0:
                self._empty_digest(name)
            table[name.removeprefix("episodes/")] = values
        self.table = table
        self._table_consistency()

    def _empty_digest(self, name: str) -> None:
        """The digest of an array whose entries hold no numbers, and so has no chunks."""
        for entry in self.entries:
            files = SegmentFiles(self.backend, self.schema, entry)
            try:
                files.check_digest(name, files.empty_digest(name))
            except StoreError:
                self._say(name, "differs from what was committed: its digest does not agree")

    def _table_consistency(self) -> None:
        start, length = self.table["start"], self.table["length"]
        inside = (start >= 0) & (length >= 1) & (start < self.rows) & (length < self.rows)
        inside &= np.where(inside, start, 0) + np.where(inside, length, 0) < self.rows
        self._flag("episodes/start", "start and length leave the committed rows", ~inside)
        ends = np.where(inside, start + length + 1, 0)
        follows = np.ones(self.episodes, bool)
        follows[1:] = start[1:] == ends[:-1]
        if self.episodes:
            follows[0] = start[0] == 0
            whole = inside[-1] and ends[-1] == self.rows
            if not (whole or self.lost[-1]):
                self._say("episodes/length", f"the last episode ends at row {ends[-1]}; {self.rows} are committed")
        blurred = np.concatenate([[False], self.lost[:-1]])  # the neighbour before cannot be read
        self._flag("episodes/start", "does not start where the episode before it ends", ~follows & inside & ~blurred)
        for name in layout.CATEGORICAL:
            known = len(self.entries[-1]["categories"][name])
            codes = self.table[name]
            self._flag(f"episodes/{name}", f"code is outside the {known} categories", (codes < 0) | (codes >= known))
        self._flag("episodes/success", "is not -1, 0 or 1", np.abs(self.table["success"].astype(int)) > 1)
        self.usable = inside & ~self.lost

    def _flag(self, where: str, what: str, wrong: Array) -> None:
        bad = np.flatnonzero(wrong & ~self.lost)
        if len(bad):
            self._say(where, what, bad)
            self.lost[bad] = True

    def _between(self, low: int, high: int) -> Array:
        """Episodes with a row in low..high, as far as the table can be read."""
        start, length = self.table["start"], self.table["length"]
        return np.flatnonzero(self.usable & (start < high) & (start + length >= low))

    def _data(self) -> None:
        """One pass over the row chunks: checksums, digests, flags, final rows, sums; then what spans chunks."""
        size = layout.chunk_rows(self.schema)
        disagree: dict[str, int] = {}  # array -> most rows of a claim whose digest does not agree
        statistics: dict[str, Running] = {}
        done = 0  # episodes whose last row has been passed
        ends = np.where(self.usable, self.table["start"] + self.table["length"] + 1, 0)
        for number in range(-(-self.rows // size)):
            low, high = number * size, min(self.rows, (number + 1) * size)
            affected = self._between(low, high)
            for name in self.files.row_arrays:
                chunk = self._chunk(name, number, affected) if self.files.chunks(name) else None
                if chunk is not None:
                    for entry in self._digest(name, number, chunk):
                        disagree[name] = max(entry["rows"], disagree.get(name, 0))
            upto = done
            while upto < self.episodes and (ends[upto] <= high or not self.usable[upto]):
                upto += 1
            for episodes in self._runs(done, upto):
                statistics = self._episodes(episodes, statistics)
            done = upto
        for name in self.files.row_arrays:
            if self.files.chunks(name) == 0:
                self._empty_digest(name)
        for name, rows in disagree.items():
            bad = self._between(0, rows)
            changed = bad[self.lost[bad]]
            bad = changed if len(changed) else bad
            self._say(name, "differs from what was committed: its digest does not agree", bad)
            self.lost[bad] = True

    def _runs(self, low: int, high: int) -> Iterator[range]:
        """Episodes low..high cut into runs that end where a claim ends and hold about one chunk of rows."""
        size, claims = layout.chunk_rows(self.schema), {entry["episodes"] for entry in self.entries}
        first, rows = low, 0
        for episode in range(low, high):
            rows += int(self.table["length"][episode]) + 1 if self.usable[episode] else 0
            if episode + 1 == high or episode + 1 in claims or rows >= size:
                yield range(first, episode + 1)
                first, rows = episode + 1, 0

    def _episodes(self, run: range, statistics: dict[str, Running]) -> dict[str, Running]:
        """Check the episodes of a run; `statistics` of all before it, merged with theirs."""
        parts = []
        for episode in run:
            if self.usable[episode] and not self.lost[episode]:
                try:
                    parts.append(self._episode(episode))
                except StoreError:  # a chunk already reported
                    self.lost[episode] = True
        if parts:
            packed, final = (np.concatenate(part) for part in zip(*parts, strict=True))
            fresh = transition_statistics(packed, final, self.schema.obs_dim, self.schema.action_dim)
            statistics = {k: statistics[k].merge(v) if statistics else v for k, v in fresh.items()}
        for entry in self.entries:
            if entry["episodes"] == run.stop and not self.lost[: run.stop].any():
                self._compare(entry, statistics)
        return statistics

    def _episode(self, episode: int) -> tuple[Array, Array]:
        """Check one episode's rows and return them packed, with the mask of its final row."""
        start, steps = int(self.table["start"][episode]), int(self.table["length"][episode])
        rows = {name: self.files.read(name, start, start + steps + 1) for name in self.files.row_arrays}
        wrong = []
        if not np.array_equal(layout.content_uid(rows), self.table["uid"][episode]):
            wrong.append("its content does not have the uid of the episode table")
        finite = [name for name in rows if name.startswith("obs/") or name in ("action", "reward")]
        wrong += [f"{name} is not finite" for name in finite if not np.isfinite(rows[name]).all()]
        flags = rows["terminated"].astype(int) + rows["truncated"]
        if flags[steps - 1] != 1 or flags[: steps - 1].any():
            wrong.append("terminated or truncated is set elsewhere than at the last step, or both are")
        padded = [name for name in rows if not name.startswith("obs/") and np.any(rows[name][steps])]
        wrong += [f"{name} is not zero in the final row" for name in padded]
        reward = rows["reward"].astype(np.float64)
        if not abs(reward.sum() - self.table["return"][episode]) <= ROUNDING * (1 + np.abs(reward).sum()):
            wrong.append(f"rewards sum to {reward.sum()}, the table says {self.table['return'][episode]}")
        if wrong:
            self._say("", "; ".join(wrong), np.array([episode]))
            self.lost[episode] = True
        return pack(self.schema, rows), np.arange(steps + 1) == steps

    def _compare(self, entry: dict[str, Any], found: dict[str, Running]) -> None:
        try:
            stated = {name: Running.from_json(value) for name, value in entry["statistics"].items()}
            wrong = [name for name in found if not _agree(stated[name], found[name])]
        except (KeyError, TypeError, ValueError) as error:
            wrong = [f"all of them ({type(error).__name__}: {error})"]
        if wrong:
            what = f"statistics in the commit differ from those of the rows: {', '.join(wrong)}"
            self._say("", what, np.arange(entry["episodes"]))


def _agree(stated: Running, found: Running) -> bool:
    if stated.count != found.count or stated.mean.shape != found.mean.shape:
        return False
    scale = np.maximum(np.abs(found.low), np.abs(found.high)) + 1e-30
    return bool(
        np.array_equal(stated.low, found.low)
        and np.array_equal(stated.high, found.high)
        and (np.abs(stated.mean - found.mean) <= STATISTICS_ROUNDING * scale).all()
        and (np.abs(stated.m2 - found.m2) <= STATISTICS_ROUNDING * found.count * scale**2).all()
    )


def reason(error: StoreError, backend: Backend, key: str) -> str:
    """The message of `error` without the name of the file at its head."""
    return str(error).removeprefix(f"{backend.name}/{key}").lstrip(": ")


def check_group(backend: Backend, key: str) -> None:
    """Raise StoreError unless `key` is the metadata of a plain zarr group, spelled as it was written."""
    try:
        data = backend.read(key, limit=METADATA_BYTES)
    except FileNotFoundError:
        raise StoreError(f"{backend.name}/{key} is missing; it was deleted") from None
    if data != layout.GROUP:
        raise StoreError(f"{backend.name}/{key} is not the metadata of a plain group; it is damaged")
