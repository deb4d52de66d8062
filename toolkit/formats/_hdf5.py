"""Reading HDF5 files of others: what is there and nothing else, no links, no data elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from toolkit.store.keys import DEEPEST

LARGE = 1 << 28  # bytes an array may claim to hold, whatever lies in the file
DAMAGED = (OSError, RuntimeError, KeyError, TypeError, UnicodeDecodeError, MemoryError)  # by h5py
PACKED = 1100  # times as many bytes as lie in the file may it claim beyond: no less than deflate packs zeros


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The file, for reading. Raises FileNotFoundError if nothing is there, ValueError if it is no whole HDF5 file.

    What h5py makes of a damaged file, wherever it is come upon, is a ValueError too.
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

    Raises ValueError if it is a link, its data lie in another file, or it claims far more data than the file holds.
    """
    link = group.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{group.file.filename}: {group.name}/{name} is a link; links are not followed")
    found = group[name]
    where = f"{group.file.filename}: {group.name.rstrip('/')}/{name}"
    if isinstance(found, h5py.Datatype):
        raise ValueError(f"{where} is a type without data; expected an array or a group")
    if isinstance(found, h5py.Dataset):
        if found.external or found.is_virtual:
            raise ValueError(f"{where} keeps its data in another file; that is not read")
        if found.nbytes > LARGE and found.nbytes > PACKED * (held := found.id.get_storage_size()):
            raise ValueError(f"{where} claims {found.nbytes} bytes, where {held} are in the file; that is not read")
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
        elif not isinstance(part, h5py.Dataset):
            raise ValueError(f"{group.file.filename}: {group.name}/{name} is listed and not there; the file is damaged")
        elif part.dtype.kind in "fiub" and part.ndim > 0:
            found[name] = part
    return found
