"""The `packmule data` commands: look at a store, check it, mend it, bring stores together."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from toolkit.commands.coverage import Coverage
from toolkit.commands.imagine import Imagine
from toolkit.commands.relabel import Relabel
from toolkit.commands.transfer import Export, Import
from toolkit.commands.types import Location

if TYPE_CHECKING:
    from toolkit.store import ReplayStore


def _open(path: str, commit: int | None, view: str | None) -> ReplayStore:
    from toolkit.store import ReplayStore

    store = ReplayStore.open(path, commit=commit)
    return store if view is None else store.view(view)


@dataclass
class Info:
    """What a store holds: schema, commits, episodes by behaviour, returns, sizes."""

    store: Positional[Location]
    commit: int | None = None
    """A past commit; the newest by default."""
    view: str | None = None
    """A saved view."""
    json: bool = False
    """Print JSON for programs."""

    def run(self) -> int:
        from toolkit.store.info import describe, info

        found = info(_open(self.store, self.commit, self.view))
        print(json.dumps(found, indent=1) if self.json else describe(found))
        return 0


@dataclass
class Validate:
    """Read everything the commits name and print all that is wrong. Exit code 0: clean, 1: findings."""

    store: Positional[Location]
    commit: int | None = None
    """Only what this commit names; all commits by default."""
    json: bool = False
    """Print JSON for programs."""

    def run(self) -> int:
        from toolkit.store.validate import validate

        found = validate(self.store, commit=self.commit)
        wrong = [f for f in found if f.severity != "note"]
        if self.json:
            print(json.dumps({"clean": not wrong, "findings": [f.to_json() for f in found]}, indent=1))
        else:
            for finding in found:
                print(finding)
            print(f"{self.store}: {f'{len(wrong)} findings' if wrong else 'clean'}")
        return 1 if wrong else 0


@dataclass
class Repair:
    """Publish a commit without the damaged episodes. Nothing is deleted, past commits stay."""

    store: Positional[Location]
    dry_run: bool = False
    """Only print what would be left out."""
    json: bool = False
    """Print JSON for programs."""

    def run(self) -> int:
        from toolkit.store.maintain import repair

        done = repair(self.store, dry_run=self.dry_run)
        if self.json:
            print(json.dumps(asdict(done), indent=1))
            return 0
        for finding in done.findings:
            print(finding)
        spans = ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in done.left_out) or "none"
        would = "would be " if self.dry_run and done.rewritten else ""
        print(f"segments {would}written again: {', '.join(done.rewritten) or 'none'}")
        print(f"episodes {would}left out: {spans}")
        print(f"new commit: {'none' if done.commit is None else done.commit}")
        return 0


@dataclass
class Merge:
    """Copy the episodes of stores of one schema into one store. Episodes it holds already are left out."""

    sources: Positional[list[Location]]
    into: Location
    """The store to make, or to add to."""
    profile: Literal["fast", "compact"] | None = None
    """How to write them: plain chunks, or compressed shards; that of the store by default, or of the first source."""
    json: bool = False
    """Print JSON for programs."""

    def run(self) -> int:
        from toolkit.store.maintain import merge

        store, copied, known = merge(self.sources, self.into, profile=self.profile)
        if self.json:
            print(json.dumps({"copied": copied, "known": known, "episodes": len(store), "commit": store.commit.number}))
        else:
            print(f"{self.into}: {copied} episodes copied, {known} known already, {len(store)} now held")
        return 0


@dataclass
class Gc:
    """Remove what no commit names: segments of stopped writers, temporary files. Safe beside a writer at work."""

    store: Positional[Location]
    age: float = 3600.0
    """Only what is untouched for this many seconds."""
    dry_run: bool = False
    """Only print what would be removed."""
    json: bool = False
    """Print JSON for programs."""

    def run(self) -> int:
        from toolkit.store.maintain import gc

        done = gc(self.store, age=self.age, dry_run=self.dry_run)
        if self.json:
            print(json.dumps(asdict(done), indent=1))
            return 0
        verb = "would remove" if self.dry_run else "removed"
        for name in (*done.segments, *done.relabels, *done.partial):
            print(f"{verb} {name}")
        for name in done.kept:
            print(f"kept {name}")
        counts = f"{len(done.segments)} segments, {len(done.relabels)} relabels, {len(done.partial)} files"
        print(f"{verb} {counts}, {done.bytes / 1e6:.1f} MB")
        return 0


@dataclass
class Cat:
    """Print episodes: `packmule data cat STORE 3`, or a range `3:7`."""

    store: Positional[Location]
    episodes: Positional[str]
    """An index, or a range like 3:7 (the last one not included)."""
    commit: int | None = None
    """A past commit; the newest by default."""
    view: str | None = None
    """A saved view; indices count within it."""
    json: bool = False
    """One JSON line a step; the last of an episode holds its final observation."""

    def run(self) -> int:
        from toolkit.store import cat

        store = _open(self.store, self.commit, self.view)
        chosen = cat.episode_range(self.episodes, len(store))
        for line in (cat.json_lines if self.json else cat.text)(store, chosen):
            sys.stdout.write(line + "\n")
        return 0


@dataclass
class View:
    """Save a named subset of episodes: all that meet every condition, or --episodes of them drawn at random."""

    store: Positional[Location]
    name: Positional[str]
    episodes: int | None = None
    """A random subset of this size; with one seed, a small one lies inside every larger one."""
    seed: int = 0
    """Seed of the random subset."""
    behaviour: list[str] = field(default_factory=list)
    """Any of these behaviour policies."""
    context: list[str] = field(default_factory=list)
    """Ranges of context numbers, both ends included: name=low:high."""
    success: bool = False
    """Successful episodes only."""
    commit: int | None = None
    """A past commit; the newest by default."""
    json: bool = False
    """Print JSON for programs."""

    def run(self) -> int:
        import numpy as np

        whole = _open(self.store, self.commit, None)
        table, keep = whole.episodes, np.ones(len(whole), bool)
        if self.behaviour:
            if unknown := set(self.behaviour) - set(table["behaviour"]):
                known = ", ".join(sorted(set(table["behaviour"])))
                raise ValueError(f"no episode is by {', '.join(sorted(unknown))}; behaviours are {known}")
            keep &= np.isin(table["behaviour"].astype(str), self.behaviour)
        for text in self.context:
            column, low, high = _context_range(text, whole.schema.context_names)
            keep &= (table["context"][:, column] >= low) & (table["context"][:, column] <= high)
        if self.success:
            keep &= table["success"] == 1
        if not keep.any():
            raise ValueError(f"none of the {len(whole)} episodes meets the conditions; no view was saved")
        chosen = whole.view(keep)
        if self.episodes is not None:
            chosen = chosen.nested(self.episodes, seed=self.seed)
        whole.save_view(self.name, chosen)
        found: dict[str, Any] = {
            "view": self.name,
            "episodes": len(chosen),
            "transitions": chosen.transitions,
            "commit": whole.commit.number,
        }
        text = "view {view}: {episodes} episodes, {transitions} transitions, pinned to commit {commit}"
        print(json.dumps(found) if self.json else text.format(**found))
        return 0


@dataclass
class Mix:
    """Save a weighted mixture of stores and views as a file that `packmule train --store FILE` reads."""

    parts: Positional[list[str]]
    """Each STORE or STORE@VIEW, perhaps with its weight: data/a.zarr@expert=0.7 data/b.zarr=0.3; 1 by default."""
    out: str
    """The file to make, like data/mix.json; the parts are pinned to their present commits."""
    json: bool = False
    """Print JSON for programs."""

    def run(self) -> int:
        from toolkit.store import mix

        parts = []
        for text in self.parts:
            where, _, weight = text.partition("=")
            store, _, view = where.partition("@")
            try:
                share = float(weight or 1)
            except ValueError:
                raise ValueError(f"weight {weight!r} of {where} is no number; write STORE@VIEW=0.7") from None
            parts.append((_open(store, None, view or None), share))
        mixed = mix(parts)
        mixed.save(self.out)
        shares = [float(share) for share in mixed.weights]
        found: dict[str, Any] = {"mixture": str(self.out), "weights": shares, "episodes": len(mixed)}
        shown = ", ".join(f"{share:.3f}" for share in shares)
        text = f"{self.out}: {len(mixed)} episodes, {mixed.transitions} transitions, weights {shown}"
        print(json.dumps(found) if self.json else text)
        return 0


def _context_range(text: str, names: tuple[str, ...]) -> tuple[int, float, float]:
    name, _, span = text.partition("=")
    low, colon, high = span.partition(":")
    try:
        if not colon:
            raise ValueError
        ends = float(low or "-inf"), float(high or "inf")
    except ValueError:
        raise ValueError(f"context {text!r} is not a range like mass=0.5:1.5") from None
    if name not in names:
        raise ValueError(f"no context is named {name!r}; the store has {', '.join(names) or 'none'}")
    return names.index(name), *ends


def _named(name: str) -> Any:
    return tyro.conf.subcommand(name, prefix_name=False)


@dataclass
class Data:
    """Look at a store, check it, mend it, bring data in and out: `packmule data info STORE`."""

    action: Annotated[
        Annotated[Info, _named("info")]
        | Annotated[Validate, _named("validate")]
        | Annotated[Repair, _named("repair")]
        | Annotated[Merge, _named("merge")]
        | Annotated[Gc, _named("gc")]
        | Annotated[Cat, _named("cat")]
        | Annotated[View, _named("view")]
        | Annotated[Mix, _named("mix")]
        | Annotated[Coverage, _named("coverage")]
        | Annotated[Relabel, _named("relabel")]
        | Annotated[Imagine, _named("imagine")]
        | Annotated[Import, _named("import")]
        | Annotated[Export, _named("export")],
        tyro.conf.arg(name=""),
    ]

    def run(self) -> int:
        return self.action.run()
