"""Upkeep: sweep what no commit names, commit again without what is damaged, bring stores together."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.core import Array, Episode
from toolkit.store import layout
from toolkit.store.backend import Backend, backend
from toolkit.store.chunks import SegmentFiles
from toolkit.store.committed import read_schema
from toolkit.store.encoding import Profile
from toolkit.store.files import PARTIAL, ULID, StoreError, WriterLock
from toolkit.store.reader import ReplayStore
from toolkit.store.relabel import leftovers, remove
from toolkit.store.schema import Schema
from toolkit.store.validate import Finding, ranges, survey
from toolkit.store.writer import Writer

AGE = 3600.0  # seconds; what is younger may belong to a writer at work
_OURS = re.compile(r"(?:[A-Za-z0-9 ._-]+/){0,9}(?:zarr\.json|c/[0-9]+(?:/[0-9]+)*|[^/]+\.partial)")


@dataclass(frozen=True)
class Swept:
    """What `gc` removed, or would remove; paths relative to the store."""

    segments: tuple[str, ...]
    partial: tuple[str, ...]
    kept: tuple[str, ...]  # uncommitted segments and unfinished relabels left alone, each with the reason
    bytes: int
    relabels: tuple[str, ...] = ()  # folders of relabels that were never finished


def gc(path: str | Path | Backend, *, age: float = AGE, dry_run: bool = False) -> Swept:
    """Remove segments no commit names, relabels never finished and temporary files, all untouched for `age` seconds.

    Nothing else, ever: a finished relabel stays, also of a commit that is gone (`validate` notes it).
    A segment stays, whatever its age, while its writer lives (in a folder it holds a lock; an object store knows no
    locks, so there age must do: choose it longer than a writer may take between commits) or if it holds a file that
    packmule does not write. Links are not followed. Raises StoreError, and removes nothing, if there is no store or
    a commit is damaged: what that commit names is not known.
    """
    place = backend(path)
    read_schema(place)
    named = _named(place)
    segments, kept, total = [], [], 0
    for name in place.names("segments"):
        where = f"segments/{name}"
        if name in named or not ULID.fullmatch(name) or _is_link(place, where):
            continue
        size, idle, foreign = _look(place, where)
        if why := _stays(idle, foreign, age):
            kept.append(f"{where}: {why}")
        elif _sweep(place, where, dry_run=dry_run):
            segments.append(where)
            total += size
        else:
            kept.append(f"{where}: its writer is at work")
    relabels = []
    for where in leftovers(place):
        size, idle, foreign = _look(place, where)
        if why := _stays(idle, foreign, age):
            kept.append(f"{where}: {why}")
            continue
        relabels.append(where)
        total += size
        if not dry_run:
            remove(place, where)
    partial = []
    for key, size in place.sizes().items():
        if not any(map(PARTIAL.fullmatch, key.split("/"))) or key.startswith(
            tuple(f"{w}/" for w in (*segments, *relabels))
        ):
            continue
        idle = place.age(key) or 0.0
        if idle >= age:
            partial.append(key)
            total += size
            if not dry_run:
                place.delete(key)
    return Swept(tuple(segments), tuple(partial), tuple(kept), total, tuple(relabels))


def _stays(idle: float, foreign: str, age: float) -> str:
    """Why a folder is not to be removed; '' if it may be."""
    if foreign:
        return f"holds {foreign}, which packmule did not write"
    return f"changed {idle:.0f} s ago, less than {age:.0f}" if idle < age else ""


def _named(place: Backend) -> set[str]:
    commits = [layout.read_commit(place, number) for number in layout.commit_numbers(place)]
    return {segment["id"] for commit in commits for segment in commit.segments}


def _is_link(place: Backend, folder: str) -> bool:
    return place.local is not None and ((place.local / folder).is_symlink() or not (place.local / folder).is_dir())


def _look(place: Backend, folder: str) -> tuple[int, float, str]:
    """Bytes in a segment's folder, seconds since it last changed, and a file in it that is not ours ('' if none)."""
    sizes = place.sizes(folder)
    ages = [place.age(key) or 0.0 for key in sizes]
    there = [key.removeprefix(f"{folder}/") for key in sizes]
    foreign = next((name for name in there if not _OURS.fullmatch(name)), "")
    if place.local is not None:
        root = place.local / folder
        inside = [Path(base) / name for base, folders, names in os.walk(root) for name in [*folders, *names]]
        links = [path.relative_to(root).as_posix() for path in inside if path.is_symlink()]
        foreign = foreign or next(iter(links), "")
        ages += [time.time() - path.lstat().st_mtime for path in (root, *inside)]
    return sum(sizes.values()), min(ages, default=0.0), foreign


def _sweep(place: Backend, folder: str, *, dry_run: bool) -> bool:
    """Remove a segment unless its writer lives or has committed it meanwhile."""
    lock = None
    if place.local is not None:
        try:
            lock = WriterLock(place.local / folder)
        except BlockingIOError:
            return False
    try:
        if folder.rpartition("/")[2] in _named(place):  # committed since it was listed; after the lock nobody can
            return False
        if not dry_run and place.local is not None:
            shutil.rmtree(place.local / folder)
        elif not dry_run:
            for key in place.sizes(folder):
                place.delete(key)
        return True
    finally:
        if lock is not None:
            lock.release()


@dataclass(frozen=True)
class Repaired:
    """What `repair` did, or would do."""

    findings: tuple[Finding, ...]
    left_out: tuple[tuple[int, int], ...]  # ranges of episodes of the newest commit that cannot be recovered
    rewritten: tuple[str, ...]  # damaged segments whose intact episodes were copied to new ones
    commit: int | None  # the new commit; None if there was no need, or nothing was to be written


def repair(path: str | Path | Backend, *, dry_run: bool = False) -> Repaired:
    """Publish a commit without what is damaged, and delete nothing: past commits and damaged files stay as they are.

    Intact episodes of a damaged segment are copied, each checked against its uid, into a new segment that takes the
    damaged one's place, so the order of episodes is kept. Let no writer be at work on a damaged segment meanwhile:
    its next commit would name it again. Raises StoreError if the schema or every commit is unreadable: from those
    nothing can be rebuilt.
    """
    place = backend(path)
    found = survey(place)
    newest = found.newest
    if found.schema is None or newest is None:
        raise StoreError(
            f"{place.name} cannot be repaired: {'; '.join(map(str, found.findings))}; restore it from a copy"
        )
    entries: list[dict[str, Any]] = []
    gone: list[Array] = []
    rewritten, writers, base = [], [], 0
    target = _Target(place, found.schema, newest, "fast")
    for entry in newest.segments:
        if entry["id"] not in found.broken:
            entries.append(entry)
        else:
            rewritten.append(entry["id"])
            lost = found.lost[entry["id"]]
            lost = lost[: entry["episodes"]] if len(lost) else np.ones(entry["episodes"], bool)
            gone.append(base + np.flatnonzero(lost))
            if not dry_run and not lost.all():
                writer = Writer(target, profile=entry.get("profile", "fast"))
                for episode, uid in _intact(place, found.schema, entry, lost):
                    writer.append(episode, uid=uid)
                entries.append(writer.seal())
                writers.append(writer)  # holds the new segment's lock until the commit is published
        base += entry["episodes"]
    numbers = layout.commit_numbers(place)
    stale = numbers[-1] != newest.number  # the newest commit file is damaged: readers fall back, with a new one on top
    commit = None
    if not dry_run and (rewritten or stale):
        try:
            commit = layout.publish(place, entries, number=numbers[-1] + 1, parent=newest.number).number
        except FileExistsError:
            raise StoreError(f"{place.name}: another writer committed during the repair; run it again") from None
    del writers
    return Repaired(tuple(found.findings), ranges(np.concatenate([[], *gone])), tuple(rewritten), commit)


@dataclass
class _Target:
    """A store whose episode table may be unreadable, as a writer needs it."""

    backend: Backend
    schema: Schema
    commit: layout.Commit
    profile: Profile


def _intact(place: Backend, schema: Schema, entry: dict[str, Any], lost: Array) -> Iterator[tuple[Episode, bytes]]:
    files = SegmentFiles(place, schema, entry)
    for number in np.flatnonzero(~lost).tolist():
        at: dict[str, Any] = {}
        for name in layout.episode_arrays(schema):
            column = name.removeprefix("episodes/")
            at[column] = files.read(name, number, number + 1)[0]
            if column in layout.CATEGORICAL:
                at[column] = entry["categories"][column][at[column]]
        yield files.episode(at), at["uid"].tobytes()


def merge(
    sources: Sequence[str | Path | ReplayStore], into: str | Path | Backend, *, profile: Profile | None = None
) -> tuple[ReplayStore, int, int]:
    """Copy the episodes of `sources` into the store `into` (made if it is not there), in one commit.

    Episodes whose content `into` holds already are left out, so the same call repeated changes nothing. Returns the
    store, the number of episodes copied and the number left out. `profile` is what they are written in: that of
    `into` by default, of the first source if `into` is made. Raises ValueError naming the first difference if
    schemas differ, StoreError if an episode is damaged; then nothing is committed. The collection settings and specs
    of the result's environment are kept where all sources agree; its requirements are those of all.
    """
    opened = [item if isinstance(item, ReplayStore) else ReplayStore.open(item) for item in sources]
    if not opened:
        raise ValueError("nothing to merge: name at least one source")
    place = backend(into)
    target = None if vacant(place) else ReplayStore.open(place)
    schema = opened[0].schema if target is None else target.schema
    for store in opened:
        if _same_place(store.backend, place):
            raise ValueError(f"{place.name} is both a source and the store to merge into; choose another one")
        if difference := _difference(schema, store.schema):
            raise ValueError(
                f"{store.path} does not fit {place.name if target is not None else opened[0].path}: {difference}"
            )
    if target is None:
        target = ReplayStore.create(place, _common(opened), profile=profile or opened[0].profile)
    known = {uid.tobytes() for uid in target.episodes["uid"]}
    copied = skipped = 0
    with target.writer(profile=profile) as writer:
        for store in opened:
            for index, uid in enumerate(store.episodes["uid"]):
                if uid.tobytes() in known:
                    skipped += 1
                    continue
                writer.append(store.episode(index), uid=uid.tobytes())
                known.add(uid.tobytes())
                copied += 1
    return ReplayStore.open(place), copied, skipped


def vacant(place: Backend) -> bool:
    """Whether nothing is at a place, so that a store can be made there."""
    return place.size("zarr.json") is None if place.local is None else not place.local.exists()


def _same_place(one: Backend, two: Backend) -> bool:
    if one.local is not None and two.local is not None:
        return one.local.resolve() == two.local.resolve()
    return one.name == two.name


def _common(stores: list[ReplayStore]) -> Schema:
    first = stores[0].schema
    shared = {
        name: value
        for name, value in first.environment.items()
        if all(store.schema.environment.get(name) == value for store in stores)
    }
    same = {
        name: getattr(first, name)
        for name in ("environment_spec", "evaluation_spec")
        if all(getattr(store.schema, name) == getattr(first, name) for store in stores)
    }
    needed = tuple(sorted({text for store in stores for text in store.schema.requirements}))
    return replace(
        first, environment=shared, **{"environment_spec": None, "evaluation_spec": None, **same}, requirements=needed
    )


def _difference(one: Schema, two: Schema) -> str:
    """The first thing in which two schemas cannot share a store; '' if there is none."""
    a, b = one.to_json(), two.to_json()
    names = [[key["name"] for key in side["observations"]] for side in (a, b)]
    if names[0] != names[1]:
        return f"its observations are {names[1]}, expected {names[0]}"
    for left, right in zip([*a["observations"], a["action"]], [*b["observations"], b["action"]], strict=True):
        for what in left:
            if left[what] != right[what]:
                return f"{what} of {left['name']!r} is {right[what]}, expected {left[what]}"
    for what in ("discrete", "context_names", "info"):
        if a[what] != b[what]:
            return f"{what} is {b[what]}, expected {a[what]}"
    ids = [(side["environment_spec"] or {}).get("id") for side in (a, b)]
    if None not in ids and ids[0] != ids[1]:
        return f"its environment is {ids[1]!r}, expected {ids[0]!r}"
    suites = [side["environment"].get("suite") for side in (a, b)]
    return f"its suite is {suites[1]!r}, expected {suites[0]!r}" if suites[0] != suites[1] else ""
