"""robomimic's HDF5 files (arXiv:2108.03298): a group for each demonstration, `data/demo_0` and so on.

A demonstration of T steps has `obs/KEY` and `actions` of T rows, and mostly `next_obs/KEY`, `rewards`, `dones`. What
`dones` marks depends on how the file was processed: states of success (perhaps long before the demonstration ends), the
end of every demonstration, or both; so no demonstration is taken as terminated unless its attribute `terminated` says
so, which this toolkit writes. Converters that lack the last observation write the one before twice; it is then taken
as not recorded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from toolkit.core import Array
from toolkit.formats import Format, Reading, Recording, Source
from toolkit.formats._ends import same_length, without_final
from toolkit.formats._hdf5 import array, arrays, member, opened, subgroup
from toolkit.formats._spaces import acted, chosen_keys, observed
from toolkit.formats._writing import flat_names, left_behind
from toolkit.store import ReplayStore
from toolkit.store.keys import INFO_TYPES, PART, InfoKey
from toolkit.store.schema import Schema

DEMO = re.compile(r"demo_(0|[1-9][0-9]{0,17})")
OWN = ("obs", "next_obs", "actions", "rewards")  # of a demonstration; all else there is an extra of each step
ROBOSUITE, GYM = 1, 2  # robomimic's numbers of environment types
LIMITS = (-1.0, 1.0)


class Robomimic(Format):
    name = "robomimic"
    about = "robomimic HDF5 (data/demo_0 with obs, next_obs, actions, rewards, dones)"
    requires = ("h5py",)

    def read(self, source: Path, reading: Reading) -> Source:
        """See `Format.read`. With `next_obs` in every demonstration nothing is left out."""
        with opened(source) as file:
            data = subgroup(file, "data")
            names = _demos(data)
            if not names:
                raise ValueError(f"{source} has no demonstration in 'data'")
            first = data[names[0]]
            if member(first, "obs") is None:
                raise ValueError(
                    f"{source}: {first.name} has no 'obs', only raw states perhaps; let robomimic's "
                    "dataset_states_to_obs make observations of them first"
                )
            keys = chosen_keys(_observations(first), reading)
            lengths = np.asarray([_steps(data[name], keys) for name in names], np.int64)
            for name in names[1:]:
                _same_shapes(first, data[name], keys)
            stated = [_flag(data[name], "terminated") for name in names]
            whole = all(isinstance(member(data[name], "next_obs"), h5py.Group) for name in names)
            doubled = whole and None in stated and all(_ends_twice(data[name], keys) for name in names)
            terminated = np.asarray([bool(flag) for flag in stated])
            whole &= not doubled
            ends = None if whole else without_final(lengths, terminated, reading.final)
            kept = np.flatnonzero(lengths > 0) if ends is None else ends.kept
            extras, varying = _extras(data, names, lengths)
            spaces = {key: observed(data[names[0]][f"obs/{key}"].shape[1:], _type(first, key)) for key in keys}
            acting, limits = acted(
                array(first, "actions").shape[1:], (array(data[name], "actions")[:] for name in names), reading, LIMITS
            )
            schema = Schema.from_spaces(observation=_dict(spaces), action=acting, info=extras)
            task, sparse = _environment(data)
            notes = list(_notes(file, data, names, varying, stated, ends is None, doubled))
            notes += [] if ends is None else ends.notes

        def recordings(start: int) -> Iterator[Recording]:
            with opened(source) as file:
                for number in kept[start:].tolist():
                    demo = subgroup(subgroup(file, "data"), names[number])
                    steps = int(lengths[number] if ends is None else ends.steps[number])
                    obs = {key: array(subgroup(demo, "obs"), key)[:] for key in keys}
                    following = {key: array(subgroup(demo, "next_obs"), key)[:] for key in keys} if whole else {}
                    reward = _rewards(demo, int(lengths[number]))
                    columns: dict[str, Any] = {"task": task, "success": _success(demo, reward, sparse)}
                    yield Recording(
                        where=names[number],
                        obs={
                            key: np.concatenate([rows, following[key][-1:]])
                            if ends is None
                            else ends.observations(number, rows)
                            for key, rows in obs.items()
                        },
                        action=array(demo, "actions")[:steps],
                        reward=reward[:steps],
                        terminated=bool(terminated[number] if ends is None else ends.terminated[number]),
                        next_obs=following,
                        info={name: demo[name][:steps] for name in extras},
                        columns=columns,
                    )

        return Source(schema, len(kept), recordings, notes, limits)

    def write(self, store: ReplayStore, target: Path) -> Sequence[str]:
        """See `Format.write`: a group for each episode; slashes in names become "_", extras stand beside `actions`."""
        schema = store.schema
        if schema.action.space != "box":
            raise ValueError("a robomimic file holds continuous actions; this store has choices")
        names = flat_names((key.name for key in schema.observations), "_")
        extras = flat_names(schema.info, "_")
        if taken := sorted({*OWN} & {*extras.values()}):
            raise ValueError(f"info {', '.join(taken)} has the name of something else in a robomimic file; rename it")
        described, kept = _described(store)
        lost = left_behind(store, kept, LIMITS)
        if any("/" in name for name in (*names, *extras)):
            lost.append('groups of nested keys ("/" became "_")')
        if len(schema.action.shape) != 1:
            lost.append("the shape of actions, written as one vector")
        with h5py.File(target, "x") as file:
            data = file.create_group("data")
            data.attrs["total"] = store.transitions
            data.attrs["env_args"] = json.dumps(described, indent=4)
            for index in range(len(store)):
                episode = store.episode(index)
                steps = len(episode)
                demo = data.create_group(f"demo_{index}")
                demo.attrs["num_samples"] = steps
                demo.attrs["terminated"] = bool(episode.terminated)
                if (success := episode.columns.get("success")) is not None:
                    demo.attrs["success"] = bool(success)
                for key, rows in episode.observations().items():
                    demo.create_dataset(f"obs/{names[key]}", data=rows[:-1])
                    demo.create_dataset(f"next_obs/{names[key]}", data=rows[1:])
                demo.create_dataset("actions", data=episode.action.reshape(steps, -1))
                demo.create_dataset("rewards", data=episode.reward)
                for key, name in extras.items():
                    demo.create_dataset(name, data=episode.info[key])
                if "dones" not in demo:
                    done = np.zeros(steps, np.int64)
                    done[-1] = episode.terminated
                    demo.create_dataset("dones", data=done)
        return lost


def _demos(data: h5py.Group) -> list[str]:
    """Names of the demonstrations in order of number. Raises ValueError naming what else is there."""
    for name in data:
        if not DEMO.fullmatch(name) or not isinstance(member(data, name), h5py.Group):
            raise ValueError(f"{data.file.filename}: {data.name}/{name} is no demonstration; expected groups demo_N")
    return sorted(data, key=lambda name: int(name[5:]))


def _observations(demo: h5py.Group) -> list[str]:
    """Names of the observations: arrays of numbers directly in `obs`."""
    obs = subgroup(demo, "obs")
    return [name for name in obs if isinstance(member(obs, name), h5py.Dataset) and obs[name].dtype.kind in "fiub"]


def _steps(demo: h5py.Group, keys: Sequence[str]) -> int:
    """How many steps it has. Raises ValueError if its arrays or `num_samples` disagree."""
    counts = {"actions": len(array(demo, "actions"))}
    if (stated := demo.attrs.get("num_samples")) is not None:
        if not isinstance(stated, int | np.integer):
            raise ValueError(f"{demo.file.filename}: {demo.name} has num_samples {stated!r}; expected a whole number")
        counts["num_samples"] = int(stated)
    for part in ("rewards", "dones"):
        if member(demo, part) is not None:
            counts[part] = len(array(demo, part))
    obs, following = subgroup(demo, "obs"), member(demo, "next_obs")
    for key in keys:
        counts[f"obs/{key}"] = len(array(obs, key))
        if isinstance(following, h5py.Group):
            counts[f"next_obs/{key}"] = len(array(following, key))
    return same_length(counts, f"{demo.file.filename}: {demo.name}")


def _same_shapes(first: h5py.Group, demo: h5py.Group, keys: Sequence[str]) -> None:
    """Raise ValueError naming what has another shape, or another kind of number, than in the first demonstration."""
    for name in ("actions", *(f"obs/{key}" for key in keys)):
        ours, theirs = first[name], demo[name]
        if (ours.shape[1:], ours.dtype.kind) != (theirs.shape[1:], theirs.dtype.kind):
            raise ValueError(
                f"{demo.file.filename}: {demo.name}/{name} is {theirs.dtype} {theirs.shape[1:]}, in {first.name} "
                f"{ours.dtype} {ours.shape[1:]}; leave such an observation out with --keys"
            )


def _type(demo: h5py.Group, key: str) -> np.dtype:
    return np.dtype(demo[f"obs/{key}"].dtype)


def _dict(spaces: dict[str, Any]) -> Any:
    from gymnasium.spaces import Dict

    return Dict(spaces)


def _flag(demo: h5py.Group, name: str) -> bool | None:
    """An attribute that is True or False; None if there is none such."""
    value = demo.attrs.get(name)
    return bool(value) if isinstance(value, bool | np.bool_) else None


def _ends_twice(demo: h5py.Group, keys: Sequence[str]) -> bool:
    return len(demo["actions"]) > 0 and all(
        np.array_equal(demo[f"obs/{key}"][-1], demo[f"next_obs/{key}"][-1]) for key in keys
    )


def _extras(data: h5py.Group, names: Sequence[str], lengths: Array) -> tuple[dict[str, InfoKey], list[str]]:
    """Extras of each step, and the names of those left out: not in every demonstration, or not of one shape there."""
    found: dict[str, InfoKey | None] = {}
    for place, (name, steps) in enumerate(zip(names, lengths.tolist(), strict=True)):
        there = {path: dataset for path, dataset in arrays(data[name]).items() if path.split("/")[0] not in OWN}
        for path, dataset in there.items():
            kind = "bool" if dataset.dtype.kind == "b" else str(np.dtype(dataset.dtype).newbyteorder("="))
            fits = len(dataset) == steps and kind in INFO_TYPES and all(map(PART.fullmatch, path.split("/")))
            key = InfoKey(dataset.shape[1:], kind) if fits else None
            found[path] = key if place == 0 or found.get(path) == key else None
        found |= {path: None for path in found if path not in there}
    return {path: key for path, key in found.items() if key is not None}, [k for k, v in found.items() if v is None]


def _environment(data: h5py.Group) -> tuple[str, float | None]:
    """The environment's name, "" if unknown, and the reward of success where only success is rewarded."""
    try:
        told = json.loads(data.attrs["env_args"])
        name, kwargs = told.get("env_name"), told.get("env_kwargs") or {}
        name = name if isinstance(name, str) else ""
        if told.get("type") == ROBOSUITE and kwargs.get("reward_shaping") is False:
            return name, float(kwargs.get("reward_scale", 1.0))
        return name, None
    except (KeyError, OSError, TypeError, ValueError, AttributeError, RecursionError):
        return "", None


def _rewards(demo: h5py.Group, steps: int) -> Array:
    if member(demo, "rewards") is None:
        return np.zeros(steps, np.float32)
    return np.asarray(array(demo, "rewards")[:], np.float32).reshape(steps)


def _success(demo: h5py.Group, reward: Array, sparse: float | None) -> bool | None:
    if (stated := _flag(demo, "success")) is not None or sparse is None or member(demo, "rewards") is None:
        return stated
    return bool((reward >= sparse).any())


def _notes(
    file: h5py.File,
    data: h5py.Group,
    names: Sequence[str],
    varying: Sequence[str],
    stated: Sequence[bool | None],
    whole: bool,
    doubled: bool,
) -> Iterator[str]:
    if unknown := stated.count(None):
        yield (
            f"{unknown} demonstrations are taken as truncated: 'dones' can mark success, the end of the recording or "
            "both, and does not say that an environment terminated"
        )
    if doubled:
        yield "every demonstration's last next_obs is its last obs again, so it is taken as not recorded"
    if not whole and not doubled:
        yield "not every demonstration has next_obs"
    if any(member(data[name], "rewards") is None for name in names):
        yield "rewards are 0 where a demonstration has none"
    if varying:
        yield f"{', '.join(sorted(varying))} were left out: not of one shape, a row a step, in every demonstration"
    groups = [
        name for name in subgroup(data[names[0]], "obs") if isinstance(data[names[0]]["obs"].get(name), h5py.Group)
    ]
    if groups:
        yield f"groups {', '.join(groups)} in obs were left out; robomimic's observations are arrays"
    mask = member(file, "mask")
    if isinstance(mask, h5py.Group) and len(mask):
        yield f"filter keys {', '.join(sorted(mask))} were left out"
    if any("model_file" in data[name].attrs for name in names):
        yield "model_file was left out"


def _described(store: ReplayStore) -> tuple[dict[str, Any], tuple[str, ...]]:
    """`env_args`, whose environment robomimic may not be able to make, and the columns that the file then keeps."""
    tasks, spec = set(map(str, store.episodes["task"])), store.schema.environment_spec or {}
    made_by = spec.get("id") or store.schema.environment.get("suite") or ""
    alone = tasks.pop() if len(tasks) == 1 else ""
    described = {"env_name": alone or str(made_by), "type": GYM, "env_kwargs": {}}
    return described, ("success", "task") if alone else ("success",)


FORMAT = Robomimic()
