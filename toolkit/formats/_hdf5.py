"""Reading HDF5 files of others: what is there and nothing else, no links, no data elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from toolkit.store.keys import DEEPEST

DAMAGED = (OSError, RuntimeError, KeyError, TypeError, UnicodeDecodeError)  # by h5py; names can be bytes then


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The file, for reading. Raises FileNotFoundError if nothing is there, ValueError if it is no whole HDF5 file.

    What h5py raises inside the block where a file is damaged becomes a ValueError naming it.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there")
    if not path.is_file():
        raise ValueError(f"{path} is a folder; expected an HDF5 file")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is no HDF5 file, or is cut short ({error})") from None
    with file:
        try:
            yield file
        except DAMAGED as error:
            raise ValueError(f"{path} is damaged, or not of this format ({error})") from error


def member(group: h5py.Group, name: str) -> Any:
    """The group or data set `name` directly in `group`; None if there is none.

    Raises ValueError if it is a link, or its data lie in another file.
    """
    link = group.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{group.file.filename}: {group.name}/{name} is a link; links are not followed")
    found = group[name]
    if isinstance(found, h5py.Dataset) and (found.external or found.is_virtual):
        raise ValueError(f"{group.file.filename}: {group.name}/{name} keeps its data in another file; that is not read")
    return found


def array(group: h5py.Group, name: str) -> h5py.Dataset:
    """The data set of numbers `name` in `group`. Raises ValueError if it is not there, or holds anything else."""
    found = member(group, name)
    if not isinstance(found, h5py.Dataset):
        there = ", ".join(sorted(group)) or "nothing"
        raise ValueError(f"{group.file.filename}: {group.name} has no array {name!r}; there is {there}")
    if found.dtype.kind not in "fiub" or found.ndim == 0:
        raise ValueError(f"{group.file.filename}: {group.name}/{name} is no array of numbers ({found.dtype})")
    return found


def subgroup(group: h5py.Group, name: str) -> h5py.Group:
    """The group `name` in `group`. Raises ValueError if it is not there."""
    found = member(group, name)
    if not isinstance(found, h5py.Group):
        raise ValueError(f"{group.file.filename}: {group.name} has no group {name!r}; is this the right format?")
    return found


def arrays(group: h5py.Group, *, deepest: int = DEEPEST) -> dict[str, h5py.Dataset]:
    """Every array of numbers below `group`, by its path from there with "/" between groups.

    Raises ValueError if groups are nested deeper than names of keys may be: a file can hold a group inside itself.
    """
    found: dict[str, h5py.Dataset] = {}
    for name in group:
        part = member(group, name)
        if isinstance(part, h5py.Group):
            if deepest == 1:
                raise ValueError(f"{group.file.filename}: {group.name}/{name} is nested more than {DEEPEST} deep")
            found |= {f"{name}/{inner}": dataset for inner, dataset in arrays(part, deepest=deepest - 1).items()}
        elif isinstance(part, h5py.Dataset) and part.dtype.kind in "fiub" and part.ndim > 0:
            found[name] = part
    return found
