"""What a commit says is there, read and verified: the schema, the episode table, whole arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from toolkit.core import Array
from toolkit.store import layout
from toolkit.store.chunks import SegmentFiles
from toolkit.store.files import DurableStore, StoreError, digest, load_json, refuse_links
from toolkit.store.schema import Schema

KIND = "packmule-replay-store"
ROW_NUMBERS = 1 << 24  # of one array; no claim beyond it is believed


@dataclass(frozen=True)
class EpisodeTable:
    """The committed episodes of a store or view, one entry each; `columns` maps name -> (E, ...)."""

    columns: dict[str, Array]  # start and segment locate rows; return, success, seed, context, ... describe

    def __len__(self) -> int:
        return len(self.columns["length"])

    def __getitem__(self, name: str) -> Array:
        """One column. Raises KeyError listing the columns there are."""
        if name not in self.columns:
            raise KeyError(f"no episode column {name!r}; there are {', '.join(sorted(self.columns))}")
        return self.columns[name]

    def take(self, chosen: Array) -> EpisodeTable:
        """The episodes at positions `chosen` (n,), in that order."""
        return EpisodeTable({name: values[chosen] for name, values in self.columns.items()})


def read_schema(path: Path) -> Schema:
    """The schema of the store at `path`. Raises StoreError if there is none, or it is damaged, foreign or newer."""
    try:
        attributes = dict(load_json(path / "zarr.json")["attributes"])
    except FileNotFoundError:
        raise StoreError(
            f"no store at {path}: {'it has no zarr.json' if path.exists() else 'nothing is there'}"
        ) from None
    except StoreError:
        if path.is_file():
            raise StoreError(f"no store at {path}: it is a file, a store is a folder") from None
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path / 'zarr.json'}: not readable ({error}); the file is damaged") from None
    if attributes.get("kind") != KIND:
        raise StoreError(f"{path} is a zarr group but not a packmule store (its attributes lack kind={KIND!r})")
    if type(attributes.get("format")) is not int:
        raise StoreError(f"{path / 'zarr.json'}: format {attributes.get('format')!r} is no number; it is damaged")
    if attributes["format"] > layout.FORMAT:
        raise StoreError(
            f"{path} has format {attributes['format']}, this program reads up to {layout.FORMAT}: upgrade packmule"
        )
    stated = attributes.pop("digest", None)
    if stated != digest(attributes):
        raise StoreError(f"{path / 'zarr.json'}: digest does not match its attributes; the file is damaged")
    try:
        schema = Schema.from_json(attributes["schema"])
        shapes = {name: shape for name, (shape, _) in layout.row_arrays(schema).items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"{path / 'zarr.json'}: not a readable schema ({error})") from None
    for name, shape in shapes.items():
        if not all(type(size) is int and size >= 0 for size in shape) or math.prod(shape) > ROW_NUMBERS:
            raise StoreError(f"{path / 'zarr.json'}: {name} has shape {shape}; the most is {ROW_NUMBERS} numbers a row")
    return schema


def open_segment(path: Path, segment: Mapping[str, Any]) -> zarr.Group:
    """The zarr group of a committed segment. Raises StoreError if it is a link or cannot be opened."""
    refuse_links(path, path / "segments" / segment["id"] / "zarr.json")
    try:
        return zarr.open_group(
            DurableStore(path, read_only=True), path=f"segments/{segment['id']}", mode="r", zarr_format=3
        )
    except Exception as error:
        raise StoreError(f"{path}: committed segment {segment['id']} cannot be opened ({error})") from error


def open_array(group: zarr.Group, name: str) -> zarr.Array:
    """One array of a segment. Raises StoreError if a group stands in its place, KeyError if nothing does."""
    node = group[name]
    if not isinstance(node, zarr.Array):
        raise StoreError(f"{group.path}/{name} is a group where an array was committed; it is damaged")
    return node


def read_arrays(path: Path, schema: Schema, segment: Mapping[str, Any], names: list[str]) -> dict[str, Array]:
    """Committed entries of the named arrays of one segment, verified against the commit's digests.

    Raises StoreError naming the array if it is missing, short, a link, or differs from what was committed; sizes on
    disk are compared with what the commit claims before anything is allocated.
    """
    files, found = SegmentFiles(path, schema, segment), {}
    for name in names:
        files.check_metadata(name)
        files.check_claim(name)
    group = open_segment(path, segment)
    for name in names:
        where = f"{path}: segments/{segment['id']}/{name}"
        try:
            data = np.asarray(open_array(group, name)[: files.count(name)])
        except StoreError:
            raise
        except Exception as error:
            raise StoreError(f"{where} cannot be read ({type(error).__name__}: {error}); it is damaged") from error
        check = layout.ArrayDigest(name, files.chunk_shapes[name][0])
        check.update(0, data)
        if check.hex() != segment["digest"].get(name):
            raise StoreError(f"{where} differs from what was committed; it is damaged")
        found[name] = data
    return found


def read_table(path: Path, schema: Schema, commit: layout.Commit) -> EpisodeTable:
    """The episode table of a commit. Raises StoreError if it is damaged or speaks of rows that are not there."""
    names = list(layout.episode_arrays(schema))
    parts: dict[str, list[Array]] = {name.removeprefix("episodes/"): [] for name in [*names, "segment"]}
    for number, segment in enumerate(commit.segments):
        data = read_arrays(path, schema, segment, names)
        start, length = data["episodes/start"], data["episodes/length"]
        if len(start) and not (start.min() >= 0 and length.min() >= 1 and np.all(start < segment["rows"] - length)):
            raise StoreError(f"{path}: segments/{segment['id']} has episodes outside its {segment['rows']} rows")
        for name, values in data.items():
            column = name.removeprefix("episodes/")
            if column in layout.CATEGORICAL:
                known = segment["categories"][column]
                if len(values) and not (values.min() >= 0 and values.max() < len(known)):
                    raise StoreError(f"{path}: segments/{segment['id']}/{name} has codes outside its categories")
                values = np.asarray(known, object)[values]
            parts[column].append(values)
        parts["segment"].append(np.full(segment["episodes"], number, np.int64))
    if not commit.segments:
        empty = {
            n.removeprefix("episodes/"): np.zeros((0, *s), d) for n, (s, d) in layout.episode_arrays(schema).items()
        }
        return EpisodeTable(empty | {"segment": np.zeros(0, np.int64)})
    return EpisodeTable({name: np.concatenate(values) for name, values in parts.items()})
