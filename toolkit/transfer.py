"""Data of other formats into a store, and stores into other formats. The formats are in `toolkit.formats`."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from toolkit import registry
from toolkit.alignment import Proof
from toolkit.collect import append, check_same
from toolkit.core import Episode, leaves
from toolkit.engines.local import only_one
from toolkit.envs import Suite
from toolkit.formats import Reading, Recording, Source
from toolkit.formats._folders import no_links
from toolkit.shifts import Statement
from toolkit.store import ReplayStore, Schema
from toolkit.store.backend import backend
from toolkit.store.maintain import vacant

SEGMENT = 200_000  # steps, about, of the smallest segment
BLOCK = 1 << 22  # bytes digested together
Progress = Callable[[str, int, int], None]
"""(phase, done, due)."""


@dataclass(frozen=True)
class Imported:
    """What an import did and on what grounds."""

    store: ReplayStore
    notes: tuple[str, ...]  # what was left out or taken for granted
    proof: tuple[Statement, ...]


def import_store(
    format: str,
    source: str | Path,
    out: str | Path,
    *,
    suite: str | None = None,
    reading: Reading | None = None,
    behaviour: str = "",
    unproven: bool = False,
    progress: Progress | None = None,
) -> Imported:
    """Read `source`, which is of the given `format`, into the new store `out`.

    All episodes are read once to prove that their rows are aligned (`toolkit.alignment`), and again to be written. With
    `suite` the store is one of that suite: its observations and limits must fit, and what learns from it can be scored
    by acting there; which contexts its episodes ran in is not known. `behaviour` fills that column where the source
    has none. `unproven` imports although a measured part of the proof failed, and says so in the store; certain faults
    are always refused. The schema's environment records the format, the digest of the source and the notes.

    An interrupted call continues. Raises ValueError, before anything is written, if the source is not of the format,
    does not say what an episode needs, is not aligned, or `out` is a store of something else; FileNotFoundError if
    there is no source; ImportError if the format needs what is not installed.
    """
    chosen, reader, path = reading or Reading(), registry.format(format), Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; give the file or folder to import")
    reader.check()
    world = None if suite is None else registry.suite(suite)
    place = backend(out)
    try:
        opened = reader.read(path, chosen)
    except ValueError as error:
        raise error if str(path) in str(error) else ValueError(f"{path}: {error}") from None
    if opened.count == 0:
        raise ValueError(f"{path} holds no episode")
    schema, renamed = (opened.schema, None) if world is None else _of_suite(opened.schema, world)
    told = [*opened.notes, *([opened.limits] if opened.limits and world is None else _left_out(opened.schema, renamed))]
    made_by: dict[str, Any] = {
        "import": {
            "format": format, "digest": digest_of(path, progress), "keys": chosen.keys and list(chosen.keys),
            "final": chosen.final, "limits": chosen.limits and list(chosen.limits), "behaviour": behaviour,
        },
    }  # fmt: skip
    if world is not None:
        made_by["suite"] = world.name
    if not vacant(place):
        saved = ReplayStore.open(place).schema.environment
        check_same(place.name, saved, made_by, ("suite", "import"), "give the same flags and source to continue it")
        found = saved["import_proof"]
        store, proof = ReplayStore.open(place), tuple(Statement(**part) for part in found)
    else:
        proof = _proved(opened, schema, renamed, progress)
        if not unproven and (wrong := [part for part in proof if part.outcome == "shifted"]):
            raise ValueError(
                f"{path} is not aligned: {'; '.join(map(str, wrong))}. If the data are right all the same (a robot "
                "that answers late, say), give --unproven"
            )
        environment = {**made_by, "import_notes": told, "import_proof": [vars(part) for part in proof]}
        store = ReplayStore.create(place, replace(schema, environment=environment))
    with only_one(place.local) if place.local is not None else nullcontext():
        store = ReplayStore.open(place)
        if len(store) < opened.count:
            made = (_episode(one, schema, renamed, behaviour) for one in opened.recordings(len(store)))
            line = None if progress is None else lambda done: progress("import", done, opened.count)
            append(store, made, max(1, SEGMENT // _typical(opened)), line)
    return Imported(ReplayStore.open(place), tuple(told), proof)


def export_store(format: str, store: ReplayStore, target: str | Path) -> tuple[str, ...]:
    """Write the episodes of a store or view to `target` in a foreign format; return what it could not keep.

    `target` appears whole or not at all. Raises FileExistsError if something is there, ValueError, before anything is
    written, if the format is only read or cannot hold such data, ImportError if it needs what is not installed.
    """
    path, writer = Path(target).absolute(), registry.format(format)  # libraries change folders or join paths
    if not writer.writes:
        able = ", ".join(name for name, one in registry.formats().items() if one.writes)
        raise ValueError(f"format {format!r} is read, not written; these are written: {able}")
    if path.exists() or path.is_symlink():
        raise FileExistsError(f"{path} is there already; give another name")
    if len(store) == 0:
        raise ValueError(f"{store.path} holds no episode; there is nothing to export")
    writer.check()
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.parent / f".{secrets.token_hex(8)}.partial" / path.name  # some formats look at the name's end
    draft.parent.mkdir()
    try:
        lost = writer.write(store, draft)
        os.rename(draft, path)
    finally:
        shutil.rmtree(draft.parent, ignore_errors=True)
    return tuple(lost)


def digest_of(path: Path, progress: Progress | None = None) -> str:
    """SHA-256, hex, of a file, or of the names and contents of all files in a folder, in order of name.

    Raises ValueError if a link is among them.
    """
    no_links(path)
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    total, done, whole = sum(one.stat().st_size for one in files), 0, hashlib.sha256()
    for one in files:
        inner = hashlib.sha256()
        with open(one, "rb") as file:
            while block := file.read(BLOCK):
                inner.update(block)
                done += len(block)
                if progress is not None:
                    progress("read the source", done, total)
        if path.is_file():
            return inner.hexdigest()
        whole.update(f"{one.relative_to(path).as_posix()}\0{inner.hexdigest()}\n".encode())
    return whole.hexdigest()


def _proved(
    source: Source, schema: Schema, renamed: Mapping[str, str] | None, progress: Progress | None
) -> tuple[Statement, ...]:
    """The alignment proof over every episode. Raises ValueError naming the episode for what is certainly wrong."""
    proof, count = Proof(source.schema, source.count), 0
    for count, one in enumerate(source.recordings(0), 1):
        try:
            schema.check(_episode(one, schema, renamed, ""))
        except ValueError as error:
            raise ValueError(f"{one.where}: {error}") from None
        proof.add(one, leaves(one.obs))
        if progress is not None:
            progress("prove alignment", count, source.count)
    if count != source.count:
        raise ValueError(f"the source announced {source.count} episodes and gave {count}")
    return tuple(proof.statements())


def _episode(one: Recording, schema: Schema, renamed: Mapping[str, str] | None, behaviour: str) -> Episode:
    """A recording as an episode of the schema. Raises ValueError if it does not fit."""
    found = leaves(one.obs)
    obs: Any = found if renamed is None else {ours: found[theirs] for ours, theirs in renamed.items()}
    kept = {key.name: np.asarray(obs[key.name]).astype(key.dtype, copy=False) for key in schema.observations}
    action = np.asarray(one.action).astype(schema.action.dtype, copy=False)
    columns = {"behaviour": behaviour, **one.columns}
    reward = np.asarray(one.reward, np.float32)
    return Episode(kept, action, reward, bool(one.terminated), dict(one.info), columns)


def _of_suite(schema: Schema, suite: Suite) -> tuple[Schema, dict[str, str]]:
    """The suite's schema with the source's extras, and which source observation each of its keys is.

    Raises ValueError naming what does not fit.
    """
    env = suite.make()
    ours = Schema.from_spaces(observation=env.observation_space, action=env.action_space, roles=suite.roles)
    env.close()
    theirs = {key.name: key for key in schema.observations}
    alone = len(ours.observations) == len(theirs) == 1
    renamed = {key.name: next(iter(theirs)) if alone else key.name for key in ours.observations}
    if missing := [name for name in renamed.values() if name not in theirs]:
        raise ValueError(
            f"suite {suite.name!r} observes {', '.join(missing)}, which the source does not have; "
            f"it has {', '.join(theirs)}"
        )
    pairs = [(ours.action, schema.action), *((key, theirs[renamed[key.name]]) for key in ours.observations)]
    for key, other in pairs:
        if (key.shape, key.space, key.choices) != (other.shape, other.space, other.choices):
            raise ValueError(
                f"{key.name!r} of suite {suite.name!r} is {key.space} {key.shape}, "
                f"the source's {other.space} {other.shape}"
            )
    return replace(ours, info=schema.info), renamed


def _left_out(source: Schema, renamed: Mapping[str, str] | None) -> Iterator[str]:
    if unused := [key.name for key in source.observations if renamed and key.name not in renamed.values()]:
        yield f"observations {', '.join(unused)} were left out: the suite does not have them"


def _typical(source: Source) -> int:
    """Steps of the first episode: what a segment's size goes by."""
    return len(next(iter(source.recordings(0))).reward)
