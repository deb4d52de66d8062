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
from toolkit.store.chunks import SegmentFiles
from toolkit.store.committed import read_schema
from toolkit.store.files import PARTIAL, ULID, StoreError, WriterLock, refuse_links
from toolkit.store.reader import ReplayStore
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
    kept: tuple[str, ...]  # uncommitted segments left alone, each with the reason
    bytes: int


def gc(path: str | Path, *, age: float = AGE, dry_run: bool = False) -> Swept:
    """Remove segments no commit names and temporary files, both untouched for `age` seconds; nothing else, ever.

    A segment stays, whatever its age, while its writer lives (it holds a lock) or if it holds a file that packmule
    does not write. Links are not followed. Raises StoreError, and removes nothing, if there is no store or a commit
    is damaged: what that commit names is not known.
    """
    root, now = Path(path), time.time()
    read_schema(root)
    named = _named(root)
    segments, kept, total = [], [], 0
    for folder in sorted((root / "segments").iterdir()) if (root / "segments").is_dir() else []:
        if folder.name in named or not ULID.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
            continue
        where = f"segments/{folder.name}"
        size, newest, foreign = _look(folder)
        if foreign:
            kept.append(f"{where}: holds {foreign}, which packmule did not write")
        elif now - newest < age:
            kept.append(f"{where}: changed {now - newest:.0f} s ago, less than {age:.0f}")
        elif _sweep(root, folder, dry_run=dry_run):
            segments.append(where)
            total += size
        else:
            kept.append(f"{where}: its writer is at work")
    partial = []
    for base, _, names in os.walk(root):
        for file in (Path(base) / name for name in sorted(names) if PARTIAL.fullmatch(name)):
            if file.relative_to(root).as_posix().startswith(tuple(segments)) or file.is_symlink():
                continue
            found = file.stat()
            if now - found.st_mtime >= age:
                partial.append(file.relative_to(root).as_posix())
                total += found.st_size
                if not dry_run:
                    file.unlink(missing_ok=True)
    return Swept(tuple(segments), tuple(partial), tuple(kept), total)


def _named(root: Path) -> set[str]:
    commits = [layout.read_commit(root, number) for number in layout.commit_numbers(root)]
    return {segment["id"] for commit in commits for segment in commit.segments}


def _look(folder: Path) -> tuple[int, float, str]:
    """Bytes in a segment's folder, when it last changed, and a file in it that is not ours ('' if none)."""
    size, newest, foreign = 0, folder.stat().st_mtime, ""
    for base, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            path = Path(base) / name
            found = path.lstat()
            newest = max(newest, found.st_mtime)
            size += found.st_size
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink() or (name in names and not _OURS.fullmatch(relative)):
                foreign = foreign or relative
    return size, newest, foreign


def _sweep(root: Path, folder: Path, *, dry_run: bool) -> bool:
    """Remove a segment unless its writer lives or has committed it meanwhile."""
    try:
        lock = WriterLock(folder)
    except BlockingIOError:
        return False
    try:
        if folder.name in _named(root):  # committed since it was listed; after the lock nobody can
            return False
        if not dry_run:
            shutil.rmtree(folder)
        return True
    finally:
        lock.release()


@dataclass(frozen=True)
class Repaired:
    """What `repair` did, or would do."""

    findings: tuple[Finding, ...]
    left_out: tuple[tuple[int, int], ...]  # ranges of episodes of the newest commit that cannot be recovered
    rewritten: tuple[str, ...]  # damaged segments whose intact episodes were copied to new ones
    commit: int | None  # the new commit; None if there was no need, or nothing was to be written


def repair(path: str | Path, *, dry_run: bool = False) -> Repaired:
    """Publish a commit without what is damaged, and delete nothing: past commits and damaged files stay as they are.

    Intact episodes of a damaged segment are copied, each checked against its uid, into a new segment that takes the
    damaged one's place, so the order of episodes is kept. Let no writer be at work on a damaged segment meanwhile:
    its next commit would name it again. Raises StoreError if the schema or every commit is unreadable: from those
    nothing can be rebuilt.
    """
    root = Path(path)
    found = survey(root)
    newest = found.newest
    if found.schema is None or newest is None:
        raise StoreError(f"{root} cannot be repaired: {'; '.join(map(str, found.findings))}; restore it from a copy")
    for folder in ("commits", "segments"):
        refuse_links(root, root / folder)
    entries: list[dict[str, Any]] = []
    gone: list[Array] = []
    rewritten, writers, base = [], [], 0
    target = _Target(root, found.schema, newest)
    for entry in newest.segments:
        if entry["id"] not in found.broken:
            entries.append(entry)
        else:
            rewritten.append(entry["id"])
            lost = found.lost[entry["id"]]
            lost = lost[: entry["episodes"]] if len(lost) else np.ones(entry["episodes"], bool)
            gone.append(base + np.flatnonzero(lost))
            if not dry_run and not lost.all():
                writer = Writer(target)
                for episode, uid in _intact(root, found.schema, entry, lost):
                    writer.append(episode, uid=uid)
                entries.append(writer.seal())
                writers.append(writer)  # holds the new segment's lock until the commit is published
        base += entry["episodes"]
    numbers = layout.commit_numbers(root)
    stale = numbers[-1] != newest.number  # the newest commit file is damaged: readers fall back, with a new one on top
    commit = None
    if not dry_run and (rewritten or stale):
        try:
            commit = layout.publish(root, entries, number=numbers[-1] + 1, parent=newest.number).number
        except FileExistsError:
            raise StoreError(f"{root}: another writer committed during the repair; run it again") from None
    del writers
    return Repaired(tuple(found.findings), ranges(np.concatenate([[], *gone])), tuple(rewritten), commit)


@dataclass
class _Target:
    """A store whose episode table may be unreadable, as a writer needs it."""

    path: Path
    schema: Schema
    commit: layout.Commit


def _intact(root: Path, schema: Schema, entry: dict[str, Any], lost: Array) -> Iterator[tuple[Episode, bytes]]:
    files = SegmentFiles(root, schema, entry)
    for number in np.flatnonzero(~lost).tolist():
        at: dict[str, Any] = {}
        for name in layout.episode_arrays(schema):
            column = name.removeprefix("episodes/")
            at[column] = files.read(name, number, number + 1)[0]
            if column in layout.CATEGORICAL:
                at[column] = entry["categories"][column][at[column]]
        yield files.episode(at), at["uid"].tobytes()


def merge(sources: Sequence[str | Path | ReplayStore], into: str | Path) -> tuple[ReplayStore, int, int]:
    """Copy the episodes of `sources` into the store `into` (made if it is not there), in one commit.

    Episodes whose content `into` holds already are left out, so the same call repeated changes nothing. Returns the
    store, the number of episodes copied and the number left out. Raises ValueError naming the first difference if
    schemas differ, StoreError if an episode is damaged; then nothing is committed. The collection settings and specs
    of the result's environment are kept where all sources agree; its requirements are those of all.
    """
    opened = [item if isinstance(item, ReplayStore) else ReplayStore.open(item) for item in sources]
    into = Path(into)
    if not opened:
        raise ValueError("nothing to merge: name at least one source")
    target = ReplayStore.open(into) if into.exists() else None
    schema = opened[0].schema if target is None else target.schema
    for store in opened:
        if store.path.resolve() == into.resolve():
            raise ValueError(f"{into} is both a source and the store to merge into; choose another one")
        if difference := _difference(schema, store.schema):
            raise ValueError(
                f"{store.path} does not fit {into if target is not None else opened[0].path}: {difference}"
            )
    if target is None:
        target = ReplayStore.create(into, _common(opened))
    known = {uid.tobytes() for uid in target.episodes["uid"]}
    copied = skipped = 0
    with target.writer() as writer:
        for store in opened:
            for index, uid in enumerate(store.episodes["uid"]):
                if uid.tobytes() in known:
                    skipped += 1
                    continue
                writer.append(store.episode(index), uid=uid.tobytes())
                known.add(uid.tobytes())
                copied += 1
    return ReplayStore.open(into), copied, skipped


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
