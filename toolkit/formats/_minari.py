"""What lies in a Minari data set, found before Minari is asked for it: links and false claims are refused here."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np

from toolkit.core import leaves
from toolkit.formats._ends import same_length
from toolkit.formats._hdf5 import array, arrays, member, opened, subgroup
from toolkit.formats._spaces import is_info
from toolkit.store.keys import INFO_TYPES, InfoKey

FLAGS = ("terminations", "truncations")
NUMBERS = 1 << 24  # most numbers a space may have
T = TypeVar("T")


@dataclass(frozen=True)
class Found:
    """An episode seen without its observations."""

    steps: int
    over: bool  # terminated or truncated
    infos: Mapping[str, tuple[tuple[int, ...], np.dtype]]  # shape, with the first axis, and type


@dataclass(frozen=True)
class Infos:
    """The infos that every episode has at every step, of one shape and type."""

    keys: dict[str, InfoKey]
    first: dict[str, int]  # entry of the first step: 1 where the reset's stands before it
    left: tuple[str, ...]  # those that are no such infos


def folder_of(source: Path) -> Path:
    """The folder in or of `source` that holds metadata.json. Raises ValueError if there is none, or a link inside."""
    if not source.is_dir():
        raise ValueError(f"{source} is a file; expected the folder of a Minari data set, with data/metadata.json")
    data = source / "data" if os.path.lexists(source / "data") else source
    if data != source and data.is_symlink():
        raise ValueError(f"{data} is a link; links are not followed")
    if not os.path.lexists(data / "metadata.json"):
        raise ValueError(f"{source} has no data/metadata.json; expected the folder of a Minari data set")
    for folder, inner, files in os.walk(data):
        for name in (*inner, *files):
            if os.path.islink(path := os.path.join(folder, name)):
                raise ValueError(f"{path} is a link; links are not followed")
    return data


def check_space(metadata: Mapping[str, Any], name: str) -> None:
    """Raise ValueError if the space called `name` is not stated, or claims more numbers than it lists limits of."""
    if not isinstance(text := metadata.get(name), str):
        raise ValueError(f"it states no {name}; write it again with Minari, giving its spaces")
    parts = [json.loads(text)]
    while parts:
        part = parts.pop()
        inner = part.get("subspaces", [])
        parts += inner.values() if isinstance(inner, dict) else inner
        kind, shape = part["type"], tuple(part.get("shape", ()))
        if kind == "Box" and not np.shape(part["low"]) == np.shape(part["high"]) == shape:
            raise ValueError(f"the limits of a Box of {name} do not have its shape {shape}")
        if kind == "MultiBinary" and math.prod(np.atleast_1d(part["n"]).tolist()) > NUMBERS:
            raise ValueError(f"a MultiBinary of {name} has more than {NUMBERS} numbers")


def guarded(source: Path, what: str, read: Callable[[], T]) -> T:
    """What `read()` returns. Raises ValueError naming `what` for whatever Minari and what it uses make of damage."""
    try:
        return read()
    except Exception as error:
        raise ValueError(f"{source}: {what} cannot be read ({type(error).__name__}: {error})") from None


def decoded(storage: Any, source: Path, number: int) -> dict[str, Any]:
    """One episode as Minari gives it. One at a time: its Arrow storage pairs batches with episodes."""
    return guarded(source, f"episode {number}", lambda: next(iter(storage.get_episodes([number]))))


def stored(data: Path, count: int) -> Iterator[Found]:
    """Episodes in HDF5. Raises ValueError if a link is among them, or they are not `count`."""
    with opened(data / "main_data.hdf5") as file:
        if len(file) != count:
            raise ValueError(f"{data} holds {len(file)} episodes, but its metadata.json says {count}")
        for number in range(count):
            group = subgroup(file, f"episode_{number}")
            arrays(group)  # refuses links anywhere inside
            parts = {name: array(group, name) for name in ("rewards", *FLAGS)}
            steps = same_length({name: len(part) for name, part in parts.items()}, f"{data}: episode {number}")
            infos: dict[str, tuple[tuple[int, ...], np.dtype]] = {}

            def note(name: str, part: Any, infos: dict[str, Any] = infos) -> None:
                if isinstance(part, h5py.Dataset):
                    infos[name] = (part.shape or (), part.dtype)

            if isinstance(inside := member(group, "infos"), h5py.Group):
                inside.visititems(note)
            yield Found(steps, steps > 0 and any(bool(parts[name][-1]) for name in FLAGS), infos)


def columnar(storage: Any, source: Path, count: int) -> Iterator[Found]:
    """Episodes in Arrow or Parquet."""
    for number in range(count):
        one = decoded(storage, source, number)
        steps = same_length({name: len(one[name]) for name in ("rewards", *FLAGS)}, f"{source}: episode {number}")
        told = {name: np.asarray(part) for name, part in leaves(one["infos"] or {}).items()}
        infos = {name: (part.shape, part.dtype) for name, part in told.items()}
        yield Found(steps, steps > 0 and any(bool(one[name][-1]) for name in FLAGS), infos)


def infos_of(found: Sequence[Found]) -> Infos:
    """What of their infos the episodes have in common."""
    seen: dict[str, set[tuple[Any, ...]]] = {}
    for one in found:
        for name, (shape, dtype) in one.infos.items():
            kind = dtype.newbyteorder("=").name
            seen.setdefault(name, set()).add((shape[1:], kind, shape[0] - one.steps if shape else -1))
    keys, first = {}, {}
    for name, forms in seen.items():
        shape, kind, more = next(iter(forms))
        everywhere = len(forms) == 1 and all(name in one.infos for one in found)
        if everywhere and kind in INFO_TYPES and more in (0, 1) and is_info(name):
            keys[name], first[name] = InfoKey(shape, kind), more
    return Infos(keys, first, tuple(sorted(set(seen) - set(keys))))
