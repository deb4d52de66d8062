"""Folders of finished runs made of fake records, with the times and the metrics that training would leave."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from toolkit.records import Record, replace_json, write_records

LOGGED = {"bc": ("nll",), "cql": ("critic_loss", "gap"), "iql": ("value_loss", "actor_loss"), "mpc": ("nll",)}
ACTING = {"bc": 0.1, "cql": 0.1, "iql": 0.1, "mpc": 8.0}  # milliseconds an action


def fake_runs(out: Path, records: Sequence[Record], *, times: bool = True, evaluations: int = 1) -> list[Path]:
    """One folder a run under `out`; with more `evaluations` each is also scored, lower, on the way."""
    folders = []
    for name, group in groupby(records, key=lambda r: r.run):
        own = list(group)
        first = own[0]
        folder = out / f"{first.learner}-seed{first.seed}-{name}"
        folder.mkdir(parents=True)
        shares = [(i + 1) / evaluations for i in range(evaluations)]
        write_records(
            folder,
            [
                replace(r, step=int(r.step * share), episode_return=r.random + share * (r.episode_return - r.random))
                for share in shares
                for r in own
            ],
        )
        pace = {"bc": 0.005, "mpc": 0.03}.get(first.learner, 0.02)  # seconds a step
        lines = [
            {
                "step": step,
                "seconds": pace * step,
                **{m: 50 / step + 0.1 * (first.seed % 7) for m in LOGGED[first.learner]},
            }
            for step in range(100, first.step + 1, 100)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if times:
            replace_json(folder / "acting.json", {"seconds": ACTING[first.learner], "actions": 1000})
        (folder / "DONE").write_text(f"{name}\n")
        folders.append(folder)
    return folders
