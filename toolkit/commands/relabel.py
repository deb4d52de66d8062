"""`packmule data relabel`: another task's rewards, ends and goals over a store that is there."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tyro.conf import Positional

from toolkit.commands.types import Location


@dataclass
class Relabel:
    """Label a store anew for another task of its suite, under derived/NAME. `train --relabel NAME` then learns it."""

    store: Positional[Location]
    name: Positional[str]
    task: str
    """A task of the store's suite; an unknown one lists them."""
    commit: int | None = None
    """A past commit; the newest by default."""
    json: bool = False
    """Print JSON for programs."""

    def run(self) -> int:
        from toolkit import registry
        from toolkit.progress import ProgressLine
        from toolkit.store import ReplayStore
        from toolkit.store.relabel import relabel

        store = ReplayStore.open(self.store, commit=self.commit)
        suite = registry.suite(str(store.schema.environment.get("suite", "")))
        if not suite.tasks:
            raise ValueError(f"suite {suite.name!r} names no tasks; relabel from Python, with toolkit.store.relabel")
        task = registry.pick("task", self.task, dict(suite.tasks))
        line = ProgressLine(f"relabel {self.task}", len(store))
        new = relabel(
            store, self.name, reward=task.reward, terminated=task.terminated, goal=task.goal, progress=line.update
        )
        line.close()
        found = {
            "relabel": self.name, "task": self.task, "commit": store.commit.number, "episodes": len(new),
            "transitions": new.transitions, "recorded": store.transitions,
            "mean_return": float(new.episodes["return"].mean()),
        }  # fmt: skip
        text = (
            "relabel {relabel}: {task}, {episodes} episodes, {transitions} of {recorded} transitions, "
            "mean return {mean_return:.1f}, of commit {commit}"
        )
        print(json.dumps(found) if self.json else text.format(**found))
        return 0
