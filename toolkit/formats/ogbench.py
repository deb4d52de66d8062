"""OGBench's npz data sets (arXiv:2410.20092): flat rows of all trajectories, one after another.

Rows hold `observations`, `actions` and `terminals`. A terminal marks the last row of a trajectory, not the end of a
task: that row holds the observation after the last action, and an action of no use. `qpos`, `qvel`, `button_states`
and what else there is are of the state that a step starts from. OGBench computes the rewards of its single tasks, and
`masks` that are 0 where no value follows, when it loads a file; where a file has them, they are read: a mask of 0 ends
an episode, and the next begins with the observation after it, so every step is kept as OGBench learns from it. What
`load_dataset(compact_dataset=True)` returned has `valids` too, 0 at the last row of a trajectory.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gymnasium import spaces

from toolkit.core import Array
from toolkit.formats import Format, Reading, Recording, Source
from toolkit.formats._ends import same_length, spans
from toolkit.formats._npz import Column, columns, opened, write_column
from toolkit.formats._spaces import acted, is_info, numbered, observed
from toolkit.store import ReplayStore
from toolkit.store.keys import INFO_TYPES, InfoKey
from toolkit.store.schema import Schema

ROWS = ("observations", "actions", "terminals")
OURS = (*ROWS, "rewards", "masks", "valids")


@dataclass(frozen=True)
class _Parts:
    """Trajectories and the episodes in them, by their rows."""

    starts: Array  # (N,) first row of each trajectory
    stops: Array  # (N,) after its last row
    trajectory: Array  # (E,) of each episode
    first: Array  # (E,) row of its first step
    last: Array  # (E,) row of its last step
    terminated: Array  # (E,) bool
    steps: Array  # (rows,) bool: the row is a step
    ended: bool  # the last row ends a trajectory

    @property
    def cut(self) -> int:
        """Episodes that a mask ended before their trajectory did."""
        return int((self.last < self.stops[self.trajectory] - 2).sum())


class OGBench(Format):
    name = "ogbench"
    about = "OGBench npz (observations, actions, terminals; rewards and masks where they are there)"

    def read(self, source: Path, reading: Reading) -> Source:
        """See `Format.read`. Without rewards in the file they are 0, and without masks nothing is terminated."""
        if reading.keys is not None:
            raise ValueError("an OGBench file has one observation; leave out --keys")
        with opened(source) as archive:
            held = columns(archive)
            if missing := [name for name in ROWS if name not in held]:
                raise ValueError(
                    f"{source} has no {', '.join(missing)}; it holds {', '.join(sorted(held)) or 'nothing'}"
                )
            if "next_observations" in held:
                raise ValueError(
                    f"{source} has next_observations; expected the file itself, or what "
                    "load_dataset(compact_dataset=True) returned, which keeps the observation after a last action"
                )
            rows = same_length({name: len(column) for name, column in held.items() if name in OURS}, source)
            parts = _parts(held, rows, source)
            infos, left = {}, []
            for name, column in held.items():
                kind = column.dtype.newbyteorder("=").name
                if name not in OURS and len(column) == rows and kind in INFO_TYPES and is_info(name):
                    infos[name] = InfoKey(column.shape[1:], kind)
                elif name not in OURS:
                    left.append(name)
            try:
                acting, taken = _acting(held["actions"], parts.steps, reading)
                seen = held["observations"]
                schema = Schema.from_spaces(observation=observed(seen.shape[1:], seen.dtype), action=acting, info=infos)
            except ValueError as error:
                raise ValueError(f"{source}: {error}") from None
        wanted = ["observations", "actions", *(["rewards"] if "rewards" in held else []), *infos]

        def recordings(at: int) -> Iterator[Recording]:
            if at >= len(parts.first):
                return
            with opened(source) as archive:
                open_columns = {name: Column(archive, name) for name in wanted}
                trajectory = int(parts.trajectory[at])
                for column in open_columns.values():
                    column.skip(int(parts.starts[trajectory]))
                row, stop = 0, -1
                for number in range(at, len(parts.first)):
                    while stop <= parts.first[number]:  # the next trajectory; those of one row have no episode
                        row, stop = int(parts.starts[trajectory]), int(parts.stops[trajectory])
                        block = {name: column.take(stop - row) for name, column in open_columns.items()}
                        trajectory += 1
                    yield _recording(parts, number, row, block, list(infos), isinstance(acting, spaces.Discrete))

        notes = list(_notes(parts, held, infos, left))
        return Source(schema, len(parts.first), recordings, notes, taken)

    def write(self, store: ReplayStore, target: Path) -> Sequence[str]:
        """See `Format.write`: with rewards and masks; observations are one vector, goals last, or one image.

        The last row of a trajectory, which is no step, has an action, a reward and infos of 0.
        """
        schema, action = store.schema, store.schema.action
        if len(schema.images) + (schema.obs_dim > 0) != 1:
            raise ValueError("an OGBench file holds one vector or one image of observations; this store has more")
        if wrong := [name for name in schema.info if name in (*OURS, "next_observations")]:
            raise ValueError(f"infos {', '.join(wrong)} have names that OGBench has for something else")
        rows = store.transitions + len(store)
        image = next(iter(schema.images), None)
        shape, kind = (schema.images[image], "uint8") if image is not None else ((schema.obs_dim,), "float32")
        others = {
            "actions": np.zeros(rows, np.int64) if action.one_hot else np.zeros((rows, *action.shape), np.float32),
            "terminals": np.zeros(rows, bool),
            "rewards": np.zeros(rows, np.float32),
            "masks": np.ones(rows, np.float32),
            **{name: np.zeros((rows, *key.shape), key.dtype) for name, key in schema.info.items()},
        }  # fmt: skip

        def observations() -> Iterator[Array]:
            at = 0
            for index in range(len(store)):
                episode = store.episode(index)
                span, at = slice(at, at + len(episode)), at + len(episode) + 1
                own = action.pack(episode.action).argmax(axis=1) if action.one_hot else episode.action
                others["actions"][span], others["rewards"][span] = own, episode.reward
                others["terminals"][at - 1], others["masks"][at - 2] = True, not episode.terminated
                for name in schema.info:
                    others[name][span] = episode.info[name]
                obs = episode.observations()
                yield obs[image] if image is not None else schema.flatten(obs)

        with zipfile.ZipFile(target, "x", zipfile.ZIP_DEFLATED) as archive:
            write_column(archive, "observations", (rows, *shape), kind, observations())
            for name, values in others.items():
                write_column(archive, name, values.shape, values.dtype.str, [values])
        lost = ["behaviours, tasks, contexts, seeds and successes"]
        if [key.name for key in schema.observations] != ["observation"]:
            lost.append("names of observations")
        if action.space in ("multi-discrete", "multi-binary") or action.start not in ((), (0,)):
            lost.append("how actions are spelt: they are numbered from 0")
        return lost


def _flags(column: Column, source: Path, name: str) -> Array:
    """A column of 0 and 1 as bool (rows,). Raises ValueError if there is anything else in it."""
    values = column.take(len(column)).reshape(len(column), -1)
    if values.shape[1] != 1 or not np.isin(values, (0, 1)).all():
        raise ValueError(f"{source}: {name} are {values.dtype} {column.shape}; expected one 0 or 1 a row")
    return values[:, 0].astype(bool)


def _parts(held: dict[str, Column], rows: int, source: Path) -> _Parts:
    """Where trajectories and episodes begin and end."""
    marked = {name: _flags(held[name], source, name) for name in ("terminals", "masks", "valids") if name in held}
    ends = ~marked["valids"] if "valids" in marked else marked["terminals"]
    starts, stops = spans(ends)
    steps = np.ones(rows, bool)
    steps[stops - 1] = False
    done = steps & ~marked.get("masks", steps)
    last = done.copy()
    last[stops[stops - starts > 1] - 2] = True
    final = np.flatnonzero(last)
    trajectory = np.searchsorted(stops, final, side="right")
    first = np.maximum(starts[trajectory], np.concatenate([[0], final + 1])[: len(final)])
    return _Parts(starts, stops, trajectory, first, final, done[final], steps, bool(ends[-1:].all()))


def _acting(actions: Column, steps: Array, reading: Reading) -> tuple[spaces.Space, str]:
    """The space of the actions of steps, and what was taken for granted of it."""

    def used() -> Iterator[Array]:
        at = 0
        for block in actions.blocks():
            yield block[steps[at : at + len(block)]]
            at += len(block)

    if actions.dtype.kind in "iu" and actions.shape[1:] in ((), (1,)):
        return numbered(used(), reading)
    if actions.dtype.kind != "f":
        raise ValueError(f"actions are {actions.dtype} {actions.shape}; expected numbers of floating point, or choices")
    return acted(actions.shape[1:], used(), reading, convention=(-1.0, 1.0))


def _recording(
    parts: _Parts, number: int, row: int, block: dict[str, Array], infos: Sequence[str], choices: bool
) -> Recording:
    """Episode `number`, of the trajectory that begins at `row` and has the rows of `block`."""
    first, last = int(parts.first[number]), int(parts.last[number])
    span = slice(first - row, last + 1 - row)
    count = last + 1 - first
    actions = block["actions"][span]
    return Recording(
        where=f"rows {first} to {last + 1}",
        obs=block["observations"][first - row : last + 2 - row],
        action=actions.reshape(count) if choices else actions,
        reward=block["rewards"][span].reshape(count) if "rewards" in block else np.zeros(count, np.float32),
        terminated=bool(parts.terminated[number]),
        info={name: block[name][span] for name in infos},
    )


def _notes(parts: _Parts, held: dict[str, Column], infos: dict[str, InfoKey], left: list[str]) -> Iterator[str]:
    if "rewards" not in held:
        yield "there are no rewards in the file, so they are 0: `packmule data relabel` gives those of a task"
    if "masks" not in held:
        yield "there are no masks in the file, so no episode is taken as terminated"
    if parts.cut:
        yield f"masks of 0 ended {parts.cut} episodes before their trajectory, which goes on as another episode"
    if infos:
        yield f"infos {', '.join(infos)} are of the state a step starts from; those of last states were left out"
    if left:
        yield f"{', '.join(sorted(left))} were left out: not a number of every row"
    if short := int((parts.stops - parts.starts == 1).sum()):
        yield f"{short} trajectories of one row have no step and were left out"
    if not parts.ended:
        yield "the last trajectory has no end in the file and is taken as ended there"


FORMAT = OGBench()
