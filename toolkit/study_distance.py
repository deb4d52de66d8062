"""A study's runs on the largest, most diverse data, watched: how far from their data they go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from toolkit import whole
from toolkit.design import Design
from toolkit.plots import to_csv
from toolkit.records import RunConfig, replace_text
from toolkit.tables import DISTANCES, Row


def watched(design: Design, configs: Sequence[RunConfig]) -> list[RunConfig]:
    """The runs that are: those of the top cell under the usual condition; none if the design asks for no episodes."""
    top = {"size": max(design.sizes), "contexts": max(design.contexts), "coverage": max(design.coverages)}
    due = top | design.conditions[0].tags
    same = [c for c in configs if {k: v for k, v in c.tags.items() if k != "draw"} == due]
    return same if design.distance_episodes else []


def watch(folder: str, episodes: int) -> None:
    """Let one run act and keep what was measured."""
    from toolkit.visits import distances  # it loads torch

    distances(folder, episodes=episodes)


def tables(design: Design, configs: Sequence[RunConfig], out: Path, *, partial: bool) -> list[Path]:
    """distances_of_runs.csv beside the report, of the runs that it tells of; none if the design asks for none.

    Raises ValueError if a run was not watched, unless the report is `partial`.
    """
    from toolkit.visits import measured

    rows: list[Row] = []
    missing = []
    for config in watched(design, configs):
        found = measured(out / "runs" / config.folder_name, config, episodes=design.distance_episodes)
        rows += found or []
        missing += [] if found else [config.folder_name]
    if not partial:
        whole.complain("runs were not watched; the command that began the study continues it", missing)
    if not rows:
        return []
    path = out / "report" / DISTANCES.file
    replace_text(path, to_csv(rows))
    return [path]
