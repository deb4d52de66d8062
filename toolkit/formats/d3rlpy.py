"""d3rlpy's replay buffers (https://github.com/takuseno/d3rlpy), HDF5 as `ReplayBuffer.dump` writes them.

Every episode has arrays of its own, `observations_0`, `actions_0` and so on: T observations for T actions, and
`terminated_0`. The observation after the last action is not kept: d3rlpy leaves out the last step of a truncated
episode and shows zeros after a terminated one. Images are (C, H, W); choices are integers (T, 1), counted from 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium import spaces

from toolkit.core import Array
from toolkit.formats import Format, Reading, Recording, Source
from toolkit.formats._ends import same_length, without_final
from toolkit.formats._hdf5 import array, member, opened
from toolkit.formats._spaces import acted, chosen_keys, numbered, observed
from toolkit.shifts import LEAST, SAMPLE, of_action
from toolkit.store import ReplayStore
from toolkit.store.keys import Key
from toolkit.store.schema import Schema

COLUMNS = ("observations", "actions", "rewards", "terminated")
VERSION = "2.1"  # of the files of d3rlpy 2.x


@dataclass(frozen=True)
class _Form:
    """What all episodes of a file have in common: a shape and a type of each array, without the first axis."""

    observations: tuple[tuple[tuple[int, ...], np.dtype], ...]  # several where the observations are a tuple
    tuples: bool
    action: tuple[tuple[int, ...], np.dtype]

    def __str__(self) -> str:
        (shape, kind), observed = self.action, (f"{kind} {shape}" for shape, kind in self.observations)
        return f"observations {', '.join(observed)} and actions {kind} {shape}"


class D3rlpy(Format):
    name = "d3rlpy"
    about = "d3rlpy replay buffers, HDF5 (ReplayBuffer.dump of d3rlpy 2)"
    requires = ("h5py",)
    final_observation = False

    def read(self, source: Path, reading: Reading) -> Source:
        """See `Format.read`, and `toolkit.formats._ends` for the ends. Images are turned to (H, W, C).

        The parts of a tuple of observations are called 0, 1 and so on.
        """
        with opened(source) as file:
            count, other = _header(file, source)
            form, lengths, terminated = _episodes(file, source, count)
            names = [str(place) for place in range(len(form.observations))] if form.tuples else ["observation"]
            try:
                ends = without_final(lengths, terminated, reading.final)
                keys = chosen_keys(names, reading)
                _check_rows(file, lengths, form)
                acting, taken = _acting(form, (array(file, f"actions_{number}")[:] for number in range(count)), reading)
                found: dict[str, spaces.Space] = {key: _seen(*form.observations[names.index(key)]) for key in keys}
                whole = spaces.Dict(found) if form.tuples else found["observation"]
                schema = Schema.from_spaces(observation=whole, action=acting)
            except ValueError as error:
                raise ValueError(f"{source}: {error}") from None
        notes = [*ends.notes, *([f"{', '.join(other)} were left out"] if other else [])]

        def recordings(first: int) -> Iterator[Recording]:
            with opened(source) as file:
                for number in ends.kept[first:].tolist():
                    steps = int(ends.steps[number])
                    rows = {
                        name: _turned(array(file, f"observations_{number}{f'_{name}' if form.tuples else ''}")[:])
                        for name in keys
                    }
                    action = array(file, f"actions_{number}")[:steps]
                    yield Recording(
                        where=f"episode {number}",
                        obs={name: ends.observations(number, values) for name, values in rows.items()},
                        action=action[:, 0] if isinstance(acting, spaces.Discrete) else action,
                        reward=array(file, f"rewards_{number}")[:steps].reshape(steps),
                        terminated=bool(ends.terminated[number]),
                    )

        return Source(schema, len(ends.kept), recordings, notes, taken)

    def write(self, store: ReplayStore, target: Path) -> Sequence[str]:
        """See `Format.write`: observations are one vector, goals last, or images, or a tuple of the vector and images.

        Choices are numbered as `toolkit.store.keys.Key` does. d3rlpy then trains on all steps but the last one of
        truncated episodes.
        """
        schema = store.schema
        parts = len(schema.images) + (schema.obs_dim > 0)
        with h5py.File(target, "x") as file:
            file["columns"] = list(COLUMNS)
            file["num_episodes"] = len(store)
            file["version"] = VERSION
            for index in range(len(store)):
                episode = store.episode(index)
                obs, steps = episode.observations(), len(episode)
                seen = [schema.flatten(obs)[:steps]] if schema.obs_dim else []
                seen += [np.moveaxis(image[:steps], -1, 1) for image in schema.pictures(obs).values()]
                for place, values in enumerate(seen):
                    file[f"observations_{index}{f'_{place}' if parts > 1 else ''}"] = values
                file[f"actions_{index}"] = _written(schema.action, episode.action)
                file[f"rewards_{index}"] = episode.reward[:, None]
                file[f"terminated_{index}"] = episode.terminated
        lost = ["the observation after an episode's last action", "behaviours, tasks, contexts, seeds and successes"]
        if [key.name for key in schema.observations] != ["observation"]:
            lost.append("names of observations")
        if not schema.action.one_hot and _is_whole(store.episode(0).action):
            lost.append("that actions are continuous: it takes whole numbers, as the first episode has, for choices")
        if schema.info:
            lost.append(f"infos {', '.join(schema.info)}")
        if schema.action.space in ("multi-discrete", "multi-binary") or schema.action.start not in ((), (0,)):
            lost.append("how actions are spelt: they are numbered from 0")
        elif len(schema.action.shape) > 1:
            lost.append("the shape of actions: they are vectors")
        return lost


def _header(file: h5py.File, source: Path) -> tuple[int, list[str]]:
    """How many episodes there are, and which of their columns are not read. Raises ValueError if it is another file."""
    count, columns, version = (member(file, name) for name in ("num_episodes", "columns", "version"))
    if any(not isinstance(part, h5py.Dataset) for part in (count, columns, version)):
        flat = member(file, "observations") is not None
        raise ValueError(
            f"{source} has no num_episodes, columns and version; expected what d3rlpy 2's ReplayBuffer.dump writes"
            + (": read an MDPDataset of d3rlpy 1 with d3rlpy.dataset.load_v1 and dump it again" if flat else "")
        )
    named, said = columns[()], version[()]
    stated = [part.decode() if isinstance(part, bytes) else "" for part in np.ravel(named).tolist()]
    if said != VERSION.encode():
        raise ValueError(f"{source} has version {said!r}; expected {VERSION}: load it with d3rlpy and dump it again")
    if missing := [name for name in COLUMNS if name not in stated]:
        raise ValueError(f"{source} has no {', '.join(missing)}; its episodes have {', '.join(stated) or 'nothing'}")
    if count.shape != () or count.dtype.kind not in "iu":
        raise ValueError(f"{source}: num_episodes is {count.dtype} {count.shape}; expected one integer")
    return int(count[()]), [name for name in stated if name not in COLUMNS]


def _episodes(file: h5py.File, source: Path, count: int) -> tuple[_Form, Array, Array]:
    """The form of the episodes, their lengths (E,) and whether they terminated (E,).

    Raises ValueError naming the episode that has another form, or whose arrays differ in length.
    """
    form: _Form | None = None
    lengths, terminated = [], []
    for number in range(count):
        where = f"{source}: episode {number}"
        action, reward = array(file, f"actions_{number}"), array(file, f"rewards_{number}")
        end = member(file, f"terminated_{number}")
        if not isinstance(end, h5py.Dataset) or end.size != 1 or end.dtype.kind not in "biuf":
            raise ValueError(f"{where} does not say whether it terminated; expected terminated_{number}, one flag")
        if reward.size != len(reward):
            raise ValueError(f"{where} has rewards of shape {reward.shape}; expected one number a step")
        alone = member(file, f"observations_{number}")
        parts = [array(file, f"observations_{number}")] if alone is not None else []
        while alone is None and member(file, f"observations_{number}_{len(parts)}") is not None:
            parts.append(array(file, f"observations_{number}_{len(parts)}"))
        if not parts:
            raise ValueError(f"{where} has no observations")
        rows = {f"observations {place}": len(part) for place, part in enumerate(parts)}
        lengths.append(same_length({**rows, "actions": len(action), "rewards": len(reward)}, where))
        own = _Form(
            tuple((part.shape[1:], part.dtype) for part in parts), alone is None, (action.shape[1:], action.dtype)
        )
        if form is not None and own != form:
            raise ValueError(f"{where} has {own}; the episodes before have {form}")
        form = own
        terminated.append(bool(np.ravel(end[()])[0]))
    if form is None:
        raise ValueError(f"{source} holds no episode")
    return form, np.asarray(lengths, np.int64), np.asarray(terminated, bool)


def _check_rows(file: h5py.File, lengths: Array, form: _Form) -> None:
    """Raise ValueError if observations are those of d3rlpy's `get_minari`, a row late for every episode before.

    It joins the T+1 observations of Minari's episodes to their T actions. That is so if the change owes to the action
    once episode k is read k rows further on, and does not as it stands.
    """
    (shape, kind), *more = form.observations
    count = int(np.searchsorted(np.cumsum(lengths), SAMPLE) + 1)
    lengths, starts = lengths[:count], (np.cumsum(lengths) - lengths)[:count]
    if more or len(shape) != 1 or kind.kind != "f" or len(form.action[0]) != 1:
        return
    obs, actions = (
        np.concatenate([array(file, f"{name}_{number}")[:] for number in range(len(lengths))]).astype(np.float64)
        for name in COLUMNS[:2]
    )
    late = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(obs)) - np.repeat(starts, lengths)
    rows = np.flatnonzero(
        (place > 0)
        & (place < np.repeat(lengths, lengths) - 1)
        & (np.arange(len(obs)) + late + 1 < len(obs))
        & (late > 0)
    )
    if len(rows) < LEAST or not (np.isfinite(obs).all() and np.isfinite(actions).all()):
        return
    around = actions[rows[:, None] + [-1, 0, 1]]
    stands, moved = (of_action(obs[at], obs[at + 1] - obs[at], around) for at in (rows, rows + late[rows]))
    if moved.outcome == "aligned" and stands.outcome != "aligned":
        raise ValueError(
            f"observations are a row late for every episode before, as d3rlpy's get_minari makes them: as they stand "
            f"{stands.why}; moved back {moved.why}. Import the Minari data set itself"
        )


def _acting(form: _Form, actions: Iterator[Array], reading: Reading) -> tuple[spaces.Space, str]:
    """The space of actions, and what was taken for granted of it."""
    shape, kind = form.action
    if kind.kind in "iu":
        if shape != (1,):
            raise ValueError(f"actions are {kind} {shape}; expected choices, (1), or numbers of floating point")
        return numbered(actions, reading)
    first = next(actions)
    space, taken = acted(shape, chain([first], actions), reading)
    if not _is_whole(first):
        return space, taken
    told = "actions are taken as continuous, as they are of floating point, though d3rlpy takes whole ones for choices"
    return space, f"{taken}; {told}" if taken else told


def _is_whole(actions: Array) -> bool:
    """Whether d3rlpy takes the actions of a first episode for choices."""
    return bool(np.all(actions == np.rint(actions)))


def _is_image(shape: Sequence[int], dtype: np.dtype) -> bool:
    return dtype == np.uint8 and len(shape) == 3


def _seen(shape: tuple[int, ...], dtype: np.dtype) -> spaces.Box:
    """The space of one array of observations; d3rlpy's (C, H, W) is (H, W, C)."""
    return observed((*shape[1:], shape[0]) if _is_image(shape, dtype) else shape, dtype)


def _turned(rows: Array) -> Array:
    return np.moveaxis(rows, 1, -1) if _is_image(rows.shape[1:], rows.dtype) else rows


def _written(action: Key, values: Array) -> Any:
    """Actions as d3rlpy has them: float32 (T, A), or the numbers of choices, int64 (T, 1)."""
    packed = action.pack(values)
    return packed.argmax(axis=1)[:, None] if action.one_hot else packed


FORMAT = D3rlpy()
