"""Reading everything a store's commits name, and saying all that is wrong, with the episodes it touches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.core import Array
from toolkit.store import layout
from toolkit.store.audit import Audit, Severity, check_group, reason
from toolkit.store.backend import Backend, backend, check_spelling, load_json
from toolkit.store.committed import read_schema
from toolkit.store.files import StoreError, digest
from toolkit.store.labels import Labels, label_names
from toolkit.store.layout import Commit
from toolkit.store.reader import ReplayStore
from toolkit.store.schema import Schema

ATTRIBUTES = ("kind", "format", "schema", "digest")  # of a store's root group, and perhaps "profile"
UIDS = 100  # uids listed in one finding; its ranges are always complete


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it was committed."""

    severity: Severity  # error: the newest commit is touched; warning: only past ones are; note: harmless
    where: str  # file, array or segment, relative to the store
    what: str
    commit: int | None = None  # the newest commit that is touched; `episodes` are indices in it
    episodes: tuple[tuple[int, int], ...] = ()  # first and last index of each range of episodes touched
    uids: tuple[str, ...] = ()  # of the first 100 of them, where the episode table can be read

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)

    def __str__(self) -> str:
        spans = ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in self.episodes)
        touched = f" [episodes {spans} of commit {self.commit}]" if spans else ""
        return f"{self.severity}: {self.where}: {self.what}{touched}"


@dataclass
class Survey:
    """All findings of one store, and what is left of each segment."""

    backend: Backend
    schema: Schema | None
    commits: dict[int, Commit]  # those that can be read
    findings: list[Finding]
    lost: dict[str, Array]  # segment id -> (E,) bool: episodes that cannot be recovered
    broken: set[str]  # ids of segments with an error

    @property
    def newest(self) -> Commit | None:
        """The newest commit that can be read."""
        return self.commits[max(self.commits)] if self.commits else None


def validate(store: ReplayStore | str | Path | Backend, *, commit: int | None = None) -> list[Finding]:
    """Read everything the commits name (or one commit names) and return all that is wrong; an empty list is clean.

    Checked: root metadata and schema; every commit and view; in every segment the metadata, the presence, size and
    checksum of each chunk, the digests each commit states, the episode table (rows inside and without gaps, codes,
    uid equal to the content's hash, return equal to the rewards' sum), flags at ends only, final rows zero, numbers
    finite, statistics equal to recomputed ones; every byte of every relabel. Data pass through memory a few chunks at a
    time. Nothing is changed.

    Raises StoreError if there is no store at all, or no such commit.
    """
    return survey(store.backend if isinstance(store, ReplayStore) else backend(store), commit=commit).findings


def survey(place: Backend, *, commit: int | None = None) -> Survey:
    """What `validate` finds, with what `repair` needs to know."""
    done = Survey(place, None, {}, [], {}, set())
    numbers = layout.commit_numbers(place) if _names(done, "commits") else []
    if not numbers and not done.findings and place.size("zarr.json") is None:
        there = place.local is not None and place.local.exists()
        raise StoreError(f"no store at {place.name}: {'it has no zarr.json' if there else 'nothing is there'}")
    if commit is not None and commit not in numbers:
        raise StoreError(f"{place.name} has no commit {commit}; it has {numbers or 'none'}")
    done.schema = _root(done)
    _commits(done, numbers if commit is None else [commit], complete=commit is None)
    newest = done.newest
    if newest is None:
        done.findings.append(Finding("error", "commits", "no commit can be read"))
    elif done.schema is not None:
        _segments(done, done.schema, newest, single=commit is not None)
    _views(done, numbers, commit)
    if done.schema is not None:
        _relabels(done, done.schema, complete=commit is None)
    return done


def _names(done: Survey, folder: str) -> list[str]:
    """What is directly inside a folder of the store; a folder that is a link is a finding, and empty."""
    try:
        return done.backend.names(folder)
    except StoreError as error:
        done.findings.append(Finding("error", folder, reason(error, done.backend, folder)))
        return []


def _root(done: Survey) -> Schema | None:
    schema, place, findings = None, done.backend, done.findings
    try:
        schema = read_schema(place)
        found = load_json(place, "zarr.json")
        if list(found) != list(layout.GROUP_METADATA) or found["zarr_format"] != 3:
            raise StoreError("not the metadata of a zarr v3 group")
        if found["node_type"] != "group" or set(found["attributes"]) - {"profile"} != {*ATTRIBUTES}:
            raise StoreError("not the metadata of a replay store")
        check_spelling(place, "zarr.json", found, indent=2, end="")
    except StoreError as error:
        tail = "" if schema is not None else "; segments cannot be checked without the schema"
        findings.append(Finding("error", "zarr.json", reason(error, place, "zarr.json") + tail))
    if _names(done, "segments"):
        try:
            check_group(place, "segments/zarr.json")
        except StoreError as error:
            findings.append(Finding("warning", "segments/zarr.json", reason(error, place, "segments/zarr.json")))
    return schema


def _commits(done: Survey, numbers: list[int], *, complete: bool) -> None:
    for number in numbers:
        key = layout.commit_key(number)
        severity: Severity = "error" if number == numbers[-1] else "warning"
        try:
            done.commits[number] = layout.read_commit(done.backend, number)
        except StoreError as error:
            what = reason(error, done.backend, key)
            if number == numbers[-1] and complete:
                what += "; readers fall back to the commit before, and what this one added is not seen"
            done.findings.append(Finding(severity, key, what, number))
            continue
        try:
            check_spelling(done.backend, key, load_json(done.backend, key))
        except StoreError as error:
            done.findings.append(Finding(severity, key, reason(error, done.backend, key), number))
    if complete:
        named = {0} | {c.parent for c in done.commits.values() if c.parent is not None}
        for missing in sorted(named - set(numbers)):
            done.findings.append(Finding("warning", layout.commit_key(missing), "is missing; it was deleted", missing))


def _segments(done: Survey, schema: Schema, newest: Commit, *, single: bool) -> None:
    claims: dict[str, dict[str, tuple[dict[str, Any], int]]] = {}  # id -> entry's digest -> entry, newest commit
    for number, commit in sorted(done.commits.items()):
        for entry in commit.segments:
            claims.setdefault(entry["id"], {})[digest(entry)] = (entry, number)
    current = {entry["id"] for entry in newest.segments}
    for name, versions in claims.items():
        entries = sorted((entry for entry, _ in versions.values()), key=lambda e: (e["rows"], e["episodes"]))
        last = max(number for _, number in versions.values())
        raw: list[tuple[str, str, Array | None, Severity]] = []
        audit = Audit(done.backend, schema, entries, lambda *given, raw=raw: raw.append(given))  # type: ignore[misc]
        audit.run()
        done.lost[name] = audit.lost
        for where, what, affected, severity in raw:
            if severity == "note" and single:
                continue  # asked about one commit: later ones may have written on
            if severity == "note":
                done.findings.append(Finding(severity, where, what))
                continue
            past = name not in current
            base = _offset(done.commits[last], name)
            count = next(e["episodes"] for e in done.commits[last].segments if e["id"] == name)
            spans: tuple[tuple[int, int], ...] = ((base, base + count - 1),) if affected is None and count else ()
            uids: tuple[str, ...] = ()
            if affected is not None:
                affected = affected[affected < count]
                spans = ranges(base + affected)
                uids = _uids(audit, affected)
            if severity == "error":
                done.broken.add(name)
            if past:
                severity, what = "warning", f"{what} (only past commits name it)"
            done.findings.append(Finding(severity, where, what, last, spans, uids))


def _offset(commit: Commit, name: str) -> int:
    before = 0
    for entry in commit.segments:
        if entry["id"] == name:
            break
        before += entry["episodes"]
    return before


def _uids(audit: Audit, affected: Array) -> tuple[str, ...]:
    table = getattr(audit, "table", {}).get("uid")
    if table is None or "episodes/uid" in audit.broken:
        return ()
    return tuple(table[episode].tobytes().hex() for episode in affected[:UIDS])


def _views(done: Survey, numbers: list[int], commit: int | None) -> None:
    for name in _names(done, "views"):
        if not name.endswith(".json"):
            continue
        key, problem = f"views/{name}", ""
        try:
            body = load_json(done.backend, key)
            stated = body.pop("digest")
            if stated != digest(body) or set(body) != {"commit", "commit_digest", "episodes"}:
                raise StoreError("digest does not match its content; the view is damaged, save it again")
            check_spelling(done.backend, key, {**body, "digest": stated})
            pin = done.commits.get(body["commit"])
            if commit is not None and body["commit"] != commit:
                continue
            if body["commit"] not in numbers:
                problem = f"is pinned to commit {body['commit']}, which is not there"
            elif pin is None:
                problem = f"is pinned to commit {body['commit']}, which is damaged"
            elif pin.digest != body["commit_digest"]:
                problem = f"is pinned to another commit {body['commit']} than the one there"
            else:
                chosen = body["episodes"]
                if not all(type(index) is int and 0 <= index < pin.episodes for index in chosen):
                    problem = f"names episodes outside the {pin.episodes} of commit {pin.number}"
                elif len(set(chosen)) != len(chosen) or not chosen:
                    problem = "names an episode twice, or none at all"
        except StoreError as error:
            problem = reason(error, done.backend, key)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            problem = f"not a readable view ({type(error).__name__}: {error})"
        if problem:
            done.findings.append(Finding("error", key, problem))


def _relabels(done: Survey, schema: Schema, *, complete: bool) -> None:
    owners = {commit.digest[:40]: commit for commit in done.commits.values()}
    for name, keys in label_names(done.backend).items():
        for key in keys:
            owner = owners.get(key.rpartition("/")[2].removesuffix(".json"))
            if owner is None and complete:
                what = "is of a commit that is not there, or damaged; nothing uses it, and gc leaves it to you"
                done.findings.append(Finding("note", key, what))
            elif owner is not None:
                try:
                    Labels(done.backend, schema, owner, name).check()
                except StoreError as error:
                    severity: Severity = "error" if owner is done.newest else "warning"
                    done.findings.append(Finding(severity, key, reason(error, done.backend, key), owner.number))


def ranges(indices: Array | Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Indices as the fewest (first, last) ranges, ascending."""
    ordered = np.unique(np.asarray(indices, np.int64))
    if len(ordered) == 0:
        return ()
    cuts = np.flatnonzero(np.diff(ordered) != 1)
    first, last = ordered[[0, *(cuts + 1)]], ordered[[*cuts, -1]]
    return tuple(zip(first.tolist(), last.tolist(), strict=True))
