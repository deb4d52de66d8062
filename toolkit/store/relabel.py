"""Relabelling: new rewards, ends and goals over a store, computed by functions, written once, read like any field."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from toolkit.core import Array, Episode
from toolkit.store import layout
from toolkit.store.backend import Backend, load_json
from toolkit.store.files import ULID, StoreError, digest, json_bytes, new_ulid
from toolkit.store.keys import LARGEST
from toolkit.store.labels import (
    CHUNK,
    FORMAT,
    Labels,
    array_metadata,
    encoding,
    file_sum,
    label_arrays,
    label_key,
    label_names,
)
from toolkit.store.reader import ReplayStore
from toolkit.store.schema import Schema

Observations = Mapping[str, Array]
Label = Callable[[Observations, Array, Observations, Mapping[str, Array]], Array]
"""(obs, action, next obs, info) of T steps, each (T, ...), obs by key -> (T,). Pure; its arguments are read-only."""
Goal = Callable[[Observations], Mapping[str, Array]]
"""obs (T+1, ...) by key of one episode -> its new goal, by goal key, each of the key's shape."""


def relabel(
    store: ReplayStore,
    name: str,
    *,
    reward: Label,
    terminated: Label | None = None,
    goal: Goal | None = None,
    progress: Callable[[int], None] | None = None,
) -> ReplayStore:
    """Label every step of `store`'s commit anew as derived/`name`, and return the store so labelled.

    `goal` replaces the goal keys of each episode; `reward` and `terminated` then see them. An episode ends at its
    first step for which `terminated` is true, and the steps behind it are left out: they are not part of the task. An
    episode in which it never is true is truncated at its recorded end. Without `terminated` episodes end as they were
    recorded. Whether they succeeded is unknown afterwards.

    Read and written episode by episode. Nothing is visible until all is written and flushed; recorded data are not
    touched. Doing the same again changes nothing. Raises FileExistsError if `name` is another relabel of this commit,
    ValueError if a function returns what cannot be a label, naming the episode, or `store` is a view or relabelled.
    """
    place, schema, key = store.backend, store.schema, label_key(name, store.commit)
    if len(store) != store.commit.episodes or store.labels is not None:
        raise ValueError("relabel the whole store as recorded, not a view of it or another relabel; take views after")
    if len(store) == 0:
        raise ValueError(f"{store.path} holds no episodes yet; append some and commit")
    if goal is not None and not schema.goal_dim:
        raise ValueError(f"a goal was given, but the observations of {store.path} have none: leave it out")
    if goal is not None and (odd := [k.name for k in schema.observations if k.role == "goal" and k.dtype != "float32"]):
        raise ValueError(f"goals of float32 numbers can be relabelled; {', '.join(odd)} of {store.path} is of others")
    folder = f"derived/{name}/{new_ulid()}"
    try:
        arrays = label_arrays(schema, goal=goal is not None)
        columns = {n: _Column(place, folder, n, entry, len(store)) for n, entry in arrays.items()}
        for count, index in enumerate(_in_row_order(store), start=1):
            try:
                labels = _labels(schema, store.episode(index), reward, terminated, goal)
            except _Wrong as error:
                raise ValueError(f"relabel {name!r}, episode {index}: {error}") from None
            for n, values in labels.items():
                columns[n].append(values, index)
            if progress is not None:
                progress(count)
        sums = {n: column.close() for n, column in columns.items()}
        for group in ("", "/episodes"):
            place.write(f"{folder}{group}/zarr.json", layout.GROUP)
        place.flush()
        commit = {"commit": store.commit.number, "commit_digest": store.commit.digest}
        body = {"format": FORMAT, **commit, "folder": folder.rpartition("/")[2], "sums": sums}
        place.create(key, json_bytes({**body, "digest": digest(body)}))
    except FileExistsError:
        remove(place, folder)
        if Labels(place, schema, store.commit, name).sums != sums:
            raise FileExistsError(f"{store.path} has another relabel {name!r}; choose another name") from None
    except BaseException:
        remove(place, folder)
        raise
    return store.relabelled(name)


def leftovers(place: Backend) -> list[str]:
    """Folders of relabels that were never finished; those of a name with a description that is damaged are left out."""
    found = []
    for name, keys in label_names(place).items():
        try:
            named = {_folder_of(place, key) for key in keys}
        except StoreError:
            continue
        found += [
            f"derived/{name}/{sub}"
            for sub in place.names(f"derived/{name}")
            if ULID.fullmatch(sub) and sub not in named
        ]
    return found


def _folder_of(place: Backend, key: str) -> str:
    """The folder that a description names. Raises StoreError if it is damaged."""
    body = load_json(place, key)
    if not isinstance(body, dict) or body.get("digest") != digest({k: v for k, v in body.items() if k != "digest"}):
        raise StoreError(f"{place.name}/{key}: digest does not match its content; delete it and relabel again")
    return str(body["folder"])


class _Wrong(ValueError):
    """A function returned what cannot be a label."""


def _labels(
    schema: Schema, episode: Episode, reward: Label, terminated: Label | None, goal: Goal | None
) -> dict[str, Array]:
    """Values of each label array for one episode: T+1 rows, and one entry of the episode table."""
    steps = len(episode)
    obs = dict(episode.observations())
    parts: dict[str, Array] = {}
    if goal is not None:
        new = _goals(schema, goal({k: _frozen(v) for k, v in obs.items()}))
        obs |= {k: np.repeat(v[None], steps + 1, axis=0) for k, v in new.items()}
        parts["goal"] = np.repeat(np.concatenate([v.ravel() for v in new.values()])[None], steps + 1, axis=0)
    now, then = ({k: _frozen(v[part]) for k, v in obs.items()} for part in (slice(None, -1), slice(1, None)))
    given = (now, _frozen(episode.action), then, {k: _frozen(v) for k, v in episode.info.items()})
    rewards = _checked("reward", reward(*given), steps, "fiub").astype(np.float32)
    ends = np.zeros(steps, bool)
    ends[-1] = episode.terminated
    if terminated is not None:
        ends = _checked("terminated", terminated(*given), steps, "b")
    length = int(ends.argmax()) + 1 if ends.any() else steps
    rows, flags = np.zeros(steps + 1, np.float32), np.zeros(steps + 1, bool)
    rows[:length], flags[length - 1] = rewards[:length], ends[length - 1]
    total = np.sum(rewards[:length], dtype=np.float64)
    table = {"episodes/length": np.array([length]), "episodes/return": np.array([total])}
    return parts | {"reward": rows, "terminated": flags} | table


def _goals(schema: Schema, new: Mapping[str, Array]) -> dict[str, Array]:
    keys = [key for key in schema.observations if key.role == "goal"]
    if set(new) != {key.name for key in keys}:
        raise _Wrong(f"goal gave {sorted(new)}; expected each of {[key.name for key in keys]}")
    found = {}
    for key in keys:
        values = np.asarray(new[key.name])
        if values.shape != tuple(key.shape) or values.dtype.kind not in "fiu" or not _fits(values):
            raise _Wrong(f"goal {key.name!r} is {values.dtype} {values.shape}; expected finite numbers {key.shape}")
        found[key.name] = values.astype(np.float32)
    return found


def _checked(what: str, given: Any, steps: int, kinds: str) -> Array:
    values = np.asarray(given)
    if values.shape != (steps,) or values.dtype.kind not in kinds:
        expected = "booleans" if kinds == "b" else "numbers"
        raise _Wrong(f"{what} gave {values.dtype} {values.shape}; expected {expected} ({steps},), one a step")
    if not _fits(values):
        raise _Wrong(f"{what} gave numbers that are not finite, or beyond {LARGEST:.2g}, which float32 cannot hold")
    return values


def _fits(values: Array) -> bool:
    return values.dtype.kind != "f" or bool(np.isfinite(values).all() and (np.abs(values) <= LARGEST).all())


def _frozen(values: Array) -> Array:
    view = np.asarray(values).view()
    view.flags.writeable = False
    return view


def _in_row_order(store: ReplayStore) -> list[int]:
    """Episodes by their first row. Raises StoreError if their rows leave gaps or overlap."""
    starts, lengths = store._starts(), store.episodes["length"].astype(np.int64)
    order = np.argsort(starts, kind="stable")
    ends = np.cumsum(lengths[order] + 1)
    if not np.array_equal(starts[order], np.concatenate([[0], ends[:-1]])):
        raise StoreError(f"{store.path}: its episodes do not follow each other without gaps; validate it")
    return [int(i) for i in order]


class _Column:
    """One label array on its way to disk, a chunk in memory at a time; of the episode table, all entries."""

    def __init__(
        self, place: Backend, folder: str, name: str, entry: tuple[tuple[int, ...], str], episodes: int
    ) -> None:
        self.place, self.folder = place, f"{folder}/{name}"
        self.entry, self.shape, self.code, self.count = entry, entry[0], encoding(entry), 0
        self.sums: list[str] = []
        self.table = np.zeros(episodes, self.code.dtype) if name.startswith("episodes/") else None
        self.staged: list[Array] = []
        self.held = 0

    def append(self, values: Array, index: int) -> None:
        """Rows of the next episode, or the entry of episode `index`."""
        if self.table is not None:
            self.table[index] = values[0]
            return
        self.staged.append(values)
        self.held += len(values)
        if self.held >= CHUNK:
            data = np.concatenate(self.staged)
            whole = self.held // CHUNK * CHUNK
            for first in range(0, whole, CHUNK):
                self._put(data[first : first + CHUNK])
            self.staged, self.held = [data[whole:]], self.held - whole

    def close(self) -> list[str]:
        """Write what is left and the metadata; the sums of all files."""
        data = np.concatenate(self.staged) if self.table is None else self.table
        for first in range(0, len(data), CHUNK):
            self._put(data[first : first + CHUNK])
        self.place.write(f"{self.folder}/zarr.json", array_metadata(self.entry, self.count))
        return self.sums

    def _put(self, part: Array) -> None:
        chunk = np.zeros((CHUNK, *self.shape), self.code.dtype)
        chunk[: len(part)] = part
        data = self.code.file([self.code.encode(chunk)])
        number = len(self.sums)
        self.place.write("/".join([self.folder, "c", str(number), *["0"] * len(self.shape)]), data)
        self.sums.append(file_sum(data))
        self.count += len(part)


def remove(place: Backend, folder: str) -> None:
    """Delete a folder of a relabel with all in it."""
    if place.local is not None:
        shutil.rmtree(place.local / folder, ignore_errors=True)
        return
    for key in place.sizes(folder):
        place.delete(key)
