"""Collecting: a stream of episodes kept in a store, made by several processes, interrupted and continued at will."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import cache
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

from toolkit import registry
from toolkit.core import Episode
from toolkit.dials import Dials
from toolkit.engines.local import TaskFailed, interrupt_flag, map_tasks, only_one
from toolkit.envs import Suite
from toolkit.envs._vector import VectorEnvironment
from toolkit.episodes import check_range, stream
from toolkit.store import ReplayStore, Schema
from toolkit.store.backend import backend
from toolkit.store.maintain import vacant

SHARE = 10
"""Episodes a worker process makes at a time, for each row it steps together."""
SEGMENT_STEPS = 20_000
"""Steps in the first segments of a store, at most; see `segment_end`."""


def collect(
    suite_name: str,
    *,
    out: str | Path,
    episodes: int,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
    **dials: Any,
) -> ReplayStore:
    """Roll out `episodes` training episodes (see `stream` and, for `dials`, `Dials`) into the store `out`; return it.

    Continues an interrupted collection, and extends a finished one to more episodes; episodes stand in the order
    of the stream whatever the number of `workers` processes. Segments end, and are committed, where `segment_end`
    says: with one seed, any number of workers and any number of kills lead to the same files in the same segments,
    whose names alone differ. When Ctrl-C stops it, what is done is committed too; that adds a segment's end, and
    changes nothing else.

    Raises ValueError, before anything is written, for arguments that do not fit, or if `out` is a store of
    another collection, of other versions of the suite's requirements, or holds more episodes already; ImportError
    if a requirement is missing; and BlockingIOError if another process collects into it: at a URL, where there are
    no locks, when that process commits first.
    """
    suite, chosen = registry.suite(suite_name), Dials(**dials)
    check_range(episodes, seed)
    place = backend(out)
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    chosen.check(suite)
    made_by: dict[str, Any] = {
        "suite": suite_name,
        "collect": {**chosen.to_json(), "seed": seed, "split": "train"},
        "requirements": requirements(suite),
    }
    if vacant(place):
        env = suite.make()
        schema = Schema.from_spaces(
            observation=env.observation_space,
            action=env.action_space,
            roles=suite.roles,
            context_names=suite.context_names,
            environment=made_by,
        )
        env.close()
        ReplayStore.create(place, schema)
    store = ReplayStore.open(place)
    saved = store.schema.environment
    check_same(place.name, saved, made_by, ("suite", "collect"), "give the same flags to continue it")
    if len(store) == episodes:
        return store
    check_same(place.name, saved, made_by, ("requirements",), "install those versions to continue it")
    with only_one(place.local) if place.local is not None else nullcontext():
        store = ReplayStore.open(place)  # another process may have committed before this one had the lock
        if len(store) > episodes:
            raise ValueError(
                f"{place.name} holds {len(store)} episodes already, more than the {episodes} asked for: use a view"
            )
        arguments = {"episodes": episodes, "seed": seed, **chosen.to_json()}
        made = _ordered(suite, arguments, len(store), episodes, workers)
        append(store, made, max(1, SEGMENT_STEPS // suite.max_steps), progress)
    return ReplayStore.open(place)


def requirements(suite: Suite) -> dict[str, str]:
    """Module -> installed version, of what the suite needs to be there. Raises ImportError for what is not."""
    found = {}
    for module in suite.requires:
        try:
            found[module] = metadata.version(module)
        except metadata.PackageNotFoundError:
            owners = metadata.packages_distributions().get(module)
            if not owners:
                suite.make().close()  # says what to install
                raise ImportError(f"suite {suite.name!r} needs {module}, which no installed package brings") from None
            found[module] = metadata.version(owners[0])
    return found


def check_same(out: str, saved: dict[str, Any], now: dict[str, Any], parts: Sequence[str], advice: str) -> None:
    """Raise ValueError if a store was made by other settings than `now`, naming those that differ."""
    other = []
    for part in parts:
        a, b = ({"": side.get(part)} if part == "suite" else side.get(part) or {} for side in (saved, now))
        for name in sorted({*a, *b}):
            if a.get(name) != b.get(name):
                other.append(f"{name or part} {a.get(name)!r} instead of {b.get(name)!r}")
    if other:
        raise ValueError(f"{out} was made by another call ({', '.join(other)}): {advice}, or give another place")


def segment_end(index: int, smallest: int) -> int:
    """Where the segment that holds episode `index` ends: the first episode that belongs to the next.

    Segments have `smallest` episodes at first, and later a 32nd of all before them: a kill costs at most that
    much work, and the number of segments grows with the logarithm of the number of episodes.
    """
    end = 0
    while end <= index:
        end += max(smallest, end // 32)
    return end


def append(store: ReplayStore, made: Iterator[Episode], smallest: int, progress: Callable[[int], None] | None) -> None:
    """Append what is `made`, the store's next episodes in order, a segment at a time; segments end at `segment_end`.

    An interrupt waits for the episode being written, and commits. Raises BlockingIOError where another process
    committed meanwhile, at a URL.
    """
    alone = store.backend.local is not None  # by a lock; elsewhere nobody else's commit may come between ours
    writer, end = store.writer(), segment_end(len(store), smallest)

    def commit() -> int:
        try:
            return writer.commit(rebase=alone)
        except FileExistsError:
            raise BlockingIOError(f"{store.path}: another process committed to it meanwhile; run it again") from None

    try:
        for done, episode in enumerate(made, len(store) + 1):
            with interrupt_flag() as interrupted:
                writer.append(episode)
                if done == end:
                    number = commit()
                    store = store if alone else ReplayStore.open(store.backend, commit=number)
                    writer, end = store.writer(), segment_end(done, smallest)
            if interrupted.is_set():
                raise KeyboardInterrupt
            if progress is not None:
                progress(done)
    except (KeyboardInterrupt, TaskFailed):
        with interrupt_flag():
            commit()
        raise
    commit()


def _ordered(suite: Suite, arguments: dict[str, Any], start: int, stop: int, workers: int) -> Iterator[Episode]:
    """Episodes start to stop in order, made here or shared out among processes."""
    share = SHARE * suite.together
    if workers == 1 or stop - start <= share:
        yield from stream(suite.name, start=start, stop=stop, **arguments)
        return
    edges = pairwise([*range(start, stop, share), stop])
    tasks = [(_share, (suite.name, arguments, a, b)) for a, b in edges]
    early: dict[int, list[Episode]] = {}
    following = 0
    for index, result in map_tasks(tasks, slots=workers):
        if isinstance(result, TaskFailed):
            said = str(result).strip().splitlines()[-1]
            raise TaskFailed(f"a worker failed ({said}); what was done is kept, the same command continues") from result
        early[index] = result
        while following in early:
            yield from early.pop(following)
            following += 1


def _share(suite_name: str, arguments: dict[str, Any], start: int, stop: int) -> list[Episode]:
    return list(stream(suite_name, start=start, stop=stop, envs=_kept(suite_name), **arguments))


@cache
def _kept(suite_name: str) -> VectorEnvironment:
    """The environments of this worker process: made once, and in use until it ends."""
    suite = registry.suite(suite_name)
    return suite.batch(suite.together)
