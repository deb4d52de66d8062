"""Opening a store at a commit, its episode table, views, and what learners draw from."""

from __future__ import annotations

import math
import os
import shutil
from functools import cached_property
from pathlib import Path

import numpy as np
import zarr

from toolkit.core import Array, Episode, Moments, Spec
from toolkit.sampling import EpisodeIndex, Options, Source, Streamed, Uniform
from toolkit.store import layout
from toolkit.store.chunks import SegmentFiles
from toolkit.store.committed import KIND, EpisodeTable, read_schema, read_table
from toolkit.store.files import (
    DurableStore,
    StoreError,
    canonical,
    checked_name,
    digest,
    flush_directory,
    load_json,
    new_ulid,
    refuse_links,
    write_json,
)
from toolkit.store.packed import Tier
from toolkit.store.rows import Rows
from toolkit.store.sampled import Sampled
from toolkit.store.schema import Schema
from toolkit.store.statistics import Running, transition_statistics
from toolkit.store.writer import Writer

SPEC_ROWS = 1 << 22  # rows whose statistics are taken at once


class ReplayStore(Sampled):
    """Episodes of one schema, read at one commit. A view is a ReplayStore with fewer episodes."""

    def __init__(
        self, path: Path, schema: Schema, commit: layout.Commit, table: EpisodeTable, rows: Rows, chosen: Array | None
    ) -> None:
        """Use `create` or `open`."""
        self.path, self.schema, self.commit, self.episodes = path, schema, commit, table
        self._rows, self._chosen = rows, chosen  # chosen: positions in the commit's table, None for all
        self.files = DurableStore(path)
        self._chunks: dict[str, SegmentFiles] = {}

    @classmethod
    def create(cls, path: str | Path, schema: Schema) -> ReplayStore:
        """A new, empty store. Raises FileExistsError if anything is at `path`, OSError if it cannot be written."""
        path = Path(path)
        if path.exists():
            raise FileExistsError(f"{path} already exists; open it, or choose another name")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{new_ulid()}.partial")  # a kill leaves no half a store under the name
        try:
            files = DurableStore(partial)
            attributes = {"kind": KIND, "format": layout.FORMAT, "schema": schema.to_json()}
            zarr.create_group(files, attributes={**attributes, "digest": digest(attributes)}, zarr_format=3)
            files.flush()
            layout.publish(partial, [], number=0, parent=None)
            os.rename(partial, path)  # fails if another process made a store here meanwhile
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        flush_directory(path.parent)
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path, *, commit: int | None = None) -> ReplayStore:
        """Open at the newest commit that verifies, or at a named one.

        Raises StoreError if there is no store, it is damaged or foreign, or its format is newer than this program.
        """
        path = Path(path)
        schema = read_schema(path)
        for folder in ("commits", "segments", "views"):
            refuse_links(path, path / folder)
        state = layout.newest_commit(path)[0] if commit is None else layout.read_commit(path, commit)
        return cls(path, schema, state, read_table(path, schema, state), Rows(path, schema, state), None)

    def writer(self) -> Writer:
        """A new writer; see `Writer`. This object goes on showing the commit it was opened at."""
        return Writer(self)

    def __len__(self) -> int:
        """Episodes in this store or view."""
        return len(self.episodes)

    @property
    def transitions(self) -> int:
        """Steps in this store or view."""
        return int(self.episodes["length"].sum())

    @cached_property
    def fingerprint(self) -> str:
        """Identifies exactly the data seen: the commit's digest and the chosen episodes."""
        chosen = None if self._chosen is None else [int(i) for i in self._chosen]
        return digest({"commit": self.commit.digest, "episodes": chosen})[:32]

    def episode(self, index: int) -> Episode:
        """Episode `index`, read from disk. Raises IndexError if there is none, StoreError if it is damaged."""
        if not 0 <= index < len(self):
            raise IndexError(f"episode {index} of {len(self)}; indices run from 0 to {len(self) - 1}")
        at = {name: values[index] for name, values in self.episodes.columns.items()}
        segment = self.commit.segments[int(at["segment"])]
        if segment["id"] not in self._chunks:
            self._chunks[segment["id"]] = SegmentFiles(self.path, self.schema, segment)
        return self._chunks[segment["id"]].episode(at)

    def view(self, name_or_mask: str | Array) -> ReplayStore:
        """A subset: a saved view's name, a boolean mask (E,), or integer positions (n,) of this store's episodes.

        Raises StoreError for an unknown name or one pinned to another commit, ValueError for a mask that does not fit.
        """
        if isinstance(name_or_mask, str):
            return self._saved_view(name_or_mask)
        given = np.asarray(name_or_mask)
        if given.dtype == bool:
            if given.shape != (len(self),):
                raise ValueError(f"mask has shape {given.shape}; expected ({len(self)},), one entry an episode")
            given = np.flatnonzero(given)
        if given.dtype.kind not in "iu" or given.ndim != 1:
            raise ValueError(
                f"a view takes a name, a boolean mask or integer positions; got {given.dtype} {given.shape}"
            )
        if len(given) == 0:
            raise ValueError("the view would hold no episodes")
        if given.min() < 0 or given.max() >= len(self) or len(np.unique(given)) != len(given):
            raise ValueError(f"positions must be distinct and lie in 0 to {len(self) - 1}")
        base = np.arange(len(self)) if self._chosen is None else self._chosen
        return ReplayStore(
            self.path, self.schema, self.commit, self.episodes.take(given), self._rows, np.asarray(base[given])
        )

    def nested(self, episodes: int, *, seed: int) -> ReplayStore:
        """A random subset: the first `episodes` of one seeded permutation, so a small one lies inside every larger."""
        if not 1 <= episodes <= len(self):
            raise ValueError(f"a nested view of {episodes} episodes was asked of {len(self)}; choose 1 to {len(self)}")
        return self.view(np.sort(np.random.default_rng(seed).permutation(len(self))[:episodes]))

    def split(self, fraction: float, *, seed: int) -> tuple[ReplayStore, ReplayStore]:
        """Two views without a common episode, say to train on and to validate on: `fraction` of the episodes, the rest.

        Raises ValueError if one of them would be empty.
        """
        first = round(fraction * len(self))
        if not 0 < first < len(self):
            raise ValueError(f"a split of {len(self)} episodes at {fraction} leaves one side empty")
        order = np.random.default_rng(seed).permutation(len(self))
        return self.view(np.sort(order[:first])), self.view(np.sort(order[first:]))

    def save_view(self, name: str, view: ReplayStore) -> None:
        """Save `view` (of this store and commit) as views/<name>.json.

        Saving the same again changes nothing. Raises FileExistsError if another view has the name.
        """
        if view.path != self.path or view.commit.digest != self.commit.digest:
            raise ValueError(f"view {name!r} is of another store or commit")
        chosen = [int(i) for i in (np.arange(len(view)) if view._chosen is None else view._chosen)]
        body = {"commit": self.commit.number, "commit_digest": self.commit.digest, "episodes": chosen}
        path = self.path / "views" / f"{checked_name('view', name)}.json"
        if path.exists() and canonical(load_json(path)) == canonical({**body, "digest": digest(body)}):
            return
        write_json(path, {**body, "digest": digest(body)}, create_only=True)

    def _saved_view(self, name: str) -> ReplayStore:
        path = self.path / "views" / f"{checked_name('view', name)}.json"
        try:
            refuse_links(self.path, path)
            body = load_json(path)
            if body.pop("digest") != digest(body):
                raise StoreError(f"{path}: digest does not match its content; the view is damaged, save it again")
            chosen, pin, pinned = body["episodes"], body["commit_digest"], body["commit"]
            if not all(type(index) is int and 0 <= index < 1 << 63 for index in chosen):
                raise StoreError(f"{path}: episodes are not all indices; the view is damaged")
        except FileNotFoundError:
            known = sorted(p.stem for p in path.parent.glob("*.json"))
            raise StoreError(f"{self.path} has no view {name!r}; it has {', '.join(known) or 'none'}") from None
        except StoreError:
            raise
        except (KeyError, AttributeError, TypeError, ValueError, RecursionError) as error:
            raise StoreError(f"{path}: not a readable view ({type(error).__name__}: {error})") from None
        if self._chosen is not None:
            raise ValueError(f"saved view {name!r} belongs to the whole store, not to a view of it")
        if pin != self.commit.digest:
            raise StoreError(
                f"view {name!r} is pinned to commit {pinned} but the store is open at {self.commit.number}: "
                f"open it with commit={pinned}"
            )
        return self.view(np.asarray(chosen, np.int64))

    @cached_property
    def _starts(self) -> Array:
        """First packed row of each episode (E,)."""
        offsets = np.cumsum([0, *(segment["rows"] for segment in self.commit.segments)])
        return np.asarray(offsets[self.episodes["segment"]] + self.episodes["start"], np.int64)

    @cached_property
    def spec(self) -> Spec:
        """Dimensions, limits, horizon and statistics of exactly these episodes. Raises ValueError without any."""
        if len(self) == 0:
            raise ValueError(f"{self.path} holds no episodes yet; append some and commit")
        schema, lengths = self.schema, self.episodes["length"]
        moments = {name: running.moments() for name, running in self._statistics().items()}

        def limits(values: tuple[float | None, ...], free: float) -> Array:
            return np.asarray([free if x is None else x for x in values], np.float32)

        resolution = [width for key in schema.observations for width in key.resolution]
        return Spec(
            obs_dim=schema.obs_dim,
            action_dim=schema.action_dim,
            discrete=schema.discrete,
            goal_dim=schema.goal_dim,
            action_low=limits(schema.action.low, -math.inf),
            action_high=limits(schema.action.high, math.inf),
            horizon=int(lengths.max()),
            returns=Moments.of(self.episodes["return"][:, None]),
            episodes=len(self),
            transitions=self.transitions,
            obs_resolution=np.asarray(resolution, np.float32),
            action_resolution=np.asarray(schema.action.resolution, np.float32),
            **moments,
        )

    def _statistics(self) -> dict[str, Running]:
        """Statistics of exactly these episodes, a few million rows at a time."""
        schema, starts, lengths = self.schema, self._starts, self.episodes["length"]
        if (tier := self._rows.tier("auto")) == "streaming":
            loaded = ((chunk.load().rows, chunk.starts, chunk.lengths) for chunk in self._rows.chunks(starts, lengths))
        else:
            rows = (self._rows.packed if tier == "memory" else self._rows.mapped).rows
            groups = np.split(np.arange(len(starts)), np.flatnonzero(np.diff(np.cumsum(lengths) // SPEC_ROWS)) + 1)
            loaded = ((rows, starts[group], lengths[group]) for group in groups)
        merged: dict[str, Running] = {}
        for rows, first, steps in loaded:
            index = np.repeat(first - np.cumsum(steps + 1) + steps + 1, steps + 1) + np.arange((steps + 1).sum())
            final = np.zeros(len(index), bool)
            final[np.cumsum(steps + 1) - 1] = True
            fresh = transition_statistics(rows.numpy()[index], final, schema.obs_dim, schema.action_dim)
            merged = {k: merged[k].merge(v) if merged else v for k, v in fresh.items()}
        return merged

    def source(self, options: Options, *, tier: Tier, buffer: int, seed: int, device: str) -> Source:
        """The stream of windows behind `sampler`, to be mixed with others'."""
        import torch

        starts, lengths = self._starts, self.episodes["length"]
        used = self._rows.tier(tier)
        if used == "streaming":
            chunks = self._rows.chunks(starts, lengths)
            cpu = torch.device("cpu")
            return Streamed(chunks, options, width=self._rows.width, buffer=buffer, seed=seed, device=cpu)
        index = EpisodeIndex(starts, lengths)
        if used == "mapped":
            return Uniform(self._rows.mapped, index, options, seed=seed, device=torch.device("cpu"))
        return Uniform(self._rows.packed, index, options, seed=seed, device=torch.device(device))
