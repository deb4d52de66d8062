"""Whether the runs of a study are those of its design: none missing, none foreign, none changed since it ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from toolkit.design import Design, difference
from toolkit.records import RunConfig, read_config, verify_done

SHOWN = 5


def finished(configs: Sequence[RunConfig], folder: Path) -> list[RunConfig]:
    """Those of the runs that are done. Raises ValueError naming each that is not what it was when it ended."""
    done, wrong = [], []
    for config in configs:
        path = folder / config.folder_name
        if not (path / "DONE").exists():
            continue
        try:
            verify_done(path, read_config(path))
            found = read_config(path)
            if found.identity != config.identity:
                changes = difference(config.to_json() | {"store": ""}, found.to_json() | {"store": ""})
                raise ValueError(f"{path} is another run than its name says ({'; '.join(changes)})")
            done.append(config)
        except ValueError as error:
            wrong.append(str(error))
    complain("runs were changed after they ended", wrong)
    return done


def foreign(configs: Sequence[RunConfig], folder: Path) -> list[str]:
    """Finished runs in `folder` that are not among `configs`, with how they differ from the nearest one that is."""
    known = {config.folder_name for config in configs}
    bodies = [config.to_json() for config in configs]
    found = []
    for path in sorted(done.parent for done in folder.glob("*/DONE") if done.parent.name not in known):
        own = read_config(path).to_json()
        near = min((difference(body, own) for body in bodies if body["learner"] == own["learner"]), key=len, default=[])
        found.append(f"{path.name} ({'; '.join(c for c in near if not c.startswith('store:')) or 'its learner'})")
    return found


def complain(what: str, items: Sequence[str]) -> None:
    """Raise ValueError naming the first of `items`, if there are any."""
    if items:
        more = f"; and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
        raise ValueError(f"{what}: {'; '.join(items[:SHOWN])}{more}")


def balanced_part(design: Design, configs: Iterable[RunConfig], done: Iterable[RunConfig]) -> list[RunConfig]:
    """The largest set of whole (task, draw) blocks that is balanced: every draw kept is whole on every task kept."""
    names = {config.identity for config in done}
    blocks: dict[tuple[str, int], list[RunConfig]] = defaultdict(list)
    for config in configs:
        blocks[config.suite, config.tags["draw"]].append(config)
    draws: dict[str, set[int]] = defaultdict(set)
    for (suite, draw), members in blocks.items():
        if all(config.identity in names for config in members):
            draws[suite].add(draw)
    order = sorted(draws, key=lambda suite: -len(draws[suite]))
    kept: tuple[list[str], set[int]] = ([], set())
    for count in range(1, len(order) + 1):
        common = set.intersection(*(draws[suite] for suite in order[:count]))
        if count * len(common) > len(kept[0]) * len(kept[1]):
            kept = order[:count], common
    return [c for (suite, draw), members in blocks.items() if suite in kept[0] and draw in kept[1] for c in members]
