"""`packmule data import` and `data export`: data of other formats into a store, and back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from toolkit.commands.types import Location


@dataclass
class Import:
    """Data of another format into a new store, once its rows are proven aligned: `data import d4rl FILE STORE`."""

    format: Positional[str]
    """What the source is; an unknown one lists those there are."""
    source: Positional[Path]
    """Its file or folder."""
    store: Positional[Location]
    """The store to make."""
    suite: str | None = None
    """The suite it was made in, so that what learns from it can be scored by acting there."""
    keys: tuple[str, ...] | None = None
    """Observations to keep, by the source's names; all by default."""
    final: Literal["repeat", "drop"] | None = None
    """A terminated step's next observation that is not recorded: repeat the last one, or drop the step."""
    limits: tuple[float, float] | None = None
    """Least and greatest of every action number, where the source does not say."""
    behaviour: str = ""
    """What acted, where the source does not say."""
    unproven: bool = False
    """Import although actions or rewards seem shifted, or episodes joined."""
    json: bool = False
    """Print JSON for programs."""

    def run(self) -> int:
        from toolkit.formats import Reading
        from toolkit.progress import Phases
        from toolkit.transfer import import_store

        lines = Phases()
        try:
            done = import_store(
                self.format, self.source, self.store, suite=self.suite,
                reading=Reading(self.keys, self.final, self.limits), behaviour=self.behaviour,
                unproven=self.unproven, progress=lines.update,
            )  # fmt: skip
        finally:
            lines.close()
        found = {
            "store": self.store, "episodes": len(done.store), "transitions": done.store.transitions,
            "notes": list(done.notes), "proof": [vars(part) for part in done.proof],
        }  # fmt: skip
        if self.json:
            print(json.dumps(found))
            return 0
        for part in done.proof:
            print(part)
        for note in done.notes:
            print(f"note: {note}")
        print(f"{self.store}: {len(done.store)} episodes, {done.store.transitions} transitions")
        return 0


@dataclass
class Export:
    """Episodes of a store into another format: `data export minari STORE FOLDER`."""

    format: Positional[str]
    """What to write; an unknown one lists those there are."""
    store: Positional[Location]
    target: Positional[Path]
    """The file or folder to make."""
    commit: int | None = None
    """A past commit; the newest by default."""
    view: str | None = None
    """A saved view."""
    json: bool = False
    """Print JSON for programs."""

    def run(self) -> int:
        from toolkit.store import ReplayStore
        from toolkit.transfer import export_store

        whole = ReplayStore.open(self.store, commit=self.commit)
        store = whole if self.view is None else whole.view(self.view)
        lost = export_store(self.format, store, self.target)
        if self.json:
            print(json.dumps({"target": str(self.target), "episodes": len(store), "lost": list(lost)}))
            return 0
        for what in lost:
            print(f"note: {self.format} does not hold {what}")
        print(f"{self.target}: {len(store)} episodes, {store.transitions} transitions")
        return 0
