"""Opening a store at a commit, its episode table, views, and what learners draw from."""

from __future__ import annotations

import math
import os
import shutil
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from toolkit.core import Array, Episode, Moments, Spec
from toolkit.sampling import EpisodeIndex, Gather, Options, Source, Streamed, Uniform
from toolkit.store import layout
from toolkit.store.backend import Backend, LocalBackend, backend, load_json
from toolkit.store.committed import KIND, Committed, EpisodeTable, read_root
from toolkit.store.encoding import Profile, checked_profile
from toolkit.store.files import StoreError, canonical, checked_name, digest, flush_directory, json_bytes, new_ulid
from toolkit.store.labels import LabelledRows, Labels
from toolkit.store.packed import Tier
from toolkit.store.rows import Rows
from toolkit.store.sampled import Sampled
from toolkit.store.schema import Schema
from toolkit.store.statistics import Running, merged, transition_statistics
from toolkit.store.writer import Writer

if TYPE_CHECKING:
    import gymnasium as gym

SPEC_ROWS = 1 << 22  # rows whose statistics are taken at once


def _create_remote(place: Backend, root: bytes) -> None:
    """Make a store where folders cannot be renamed: its root first, then its first commit, each create-only.

    Raises FileExistsError if anything is there, but goes on where making the same store was interrupted.
    """
    found = place.names()
    if found and (found != ["zarr.json"] or place.read("zarr.json") != root):
        raise FileExistsError(f"{place.name} already holds {found[0]!r}; open it, or choose another name")
    if not found:
        place.create("zarr.json", root)
    layout.publish(place, [], number=0, parent=None)


class ReplayStore(Sampled):
    """Episodes of one schema, read at one commit. A view is a ReplayStore with fewer episodes."""

    def __init__(
        self,
        committed: Committed,
        profile: Profile,
        table: EpisodeTable,
        rows: Rows,
        chosen: Array | None,
        labels: Labels | None = None,
    ) -> None:
        """Use `create` or `open`."""
        self.labels = labels  # where rewards, ends and goals are not the recorded ones
        self.backend, self.schema, self.commit = committed.backend, committed.schema, committed.commit
        self.profile, self.episodes = profile, table
        self._committed, self._rows, self._chosen = committed, rows, chosen  # chosen: positions in the commit's table

    @classmethod
    def create(cls, path: str | Path | Backend, schema: Schema, *, profile: Profile = "fast") -> ReplayStore:
        """A new, empty store in a folder, at a URL, or in a backend.

        `profile` is what its writers use: "fast" (plain chunks, quickest to write and read) or "compact" (compressed
        shards: fewer and smaller files, for archives and object stores).
        Raises FileExistsError if anything is at `path`, OSError if it cannot be written.
        """
        place = backend(path)
        attributes = {"kind": KIND, "format": layout.FORMAT, "schema": schema.to_json()}
        if checked_profile(profile) != "fast":
            attributes["profile"] = profile
        metadata = {**layout.GROUP_METADATA, "attributes": {**attributes, "digest": digest(attributes)}}
        root = json_bytes(metadata, indent=2, end="")
        if place.local is None:
            _create_remote(place, root)
            return cls.open(place)
        final = place.local
        if final.exists():
            raise FileExistsError(f"{final} already exists; open it, or choose another name")
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = final.with_name(f".{new_ulid()}.partial")  # a kill leaves no half a store under the name
        try:
            made = LocalBackend(partial)
            made.create("zarr.json", root)
            layout.publish(made, [], number=0, parent=None)
            os.rename(partial, final)  # fails if another process made a store here meanwhile
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        flush_directory(final.parent)
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path | Backend, *, commit: int | None = None) -> ReplayStore:
        """Open at the newest commit that verifies, or at a named one.

        Raises StoreError if there is no store, it is damaged or foreign, or its format is newer than this program.
        """
        place = backend(path)
        schema, profile = read_root(place)
        state = layout.newest_commit(place)[0] if commit is None else layout.read_commit(place, commit)
        committed = Committed(place, schema, state)
        return cls(committed, profile, committed.table, Rows(committed), None)

    @property
    def path(self) -> Path | str:
        """The store's folder, or its URL."""
        return self.backend.name if self.backend.local is None else self.backend.local

    def writer(self, *, profile: Profile | None = None) -> Writer:
        """A new writer, of the store's profile or another; see `Writer`.

        This object goes on showing the commit it was opened at.
        """
        return Writer(self, profile=profile)

    def __len__(self) -> int:
        """Episodes in this store or view."""
        return len(self.episodes)

    @property
    def chosen(self) -> Array | None:
        """Positions of this view's episodes in the whole commit (n,); None for all of them."""
        return self._chosen

    @property
    def transitions(self) -> int:
        """Steps in this store or view."""
        return int(self.episodes["length"].sum())

    @cached_property
    def fingerprint(self) -> str:
        """Identifies exactly the data seen: the commit's digest, the chosen episodes, and what relabelled them."""
        chosen = None if self._chosen is None else [int(i) for i in self._chosen]
        labels = {} if self.labels is None else {"labels": self.labels.sums}
        return digest({"commit": self.commit.digest, "episodes": chosen, **labels})[:32]

    def episode(self, index: int) -> Episode:
        """Episode `index`, read from disk. Raises IndexError if there is none, StoreError if it is damaged."""
        if not 0 <= index < len(self):
            raise IndexError(f"episode {index} of {len(self)}; indices run from 0 to {len(self) - 1}")
        at = self.episodes.entry(index)
        if self.labels is None:
            return self._committed.segments[int(at["segment"])].episode(at)
        recorded = self._committed.table.entry(index if self._chosen is None else int(self._chosen[index]))
        episode = self._committed.segments[int(at["segment"])].episode(recorded)
        return self.labels.episode(episode, int(self._starts()[index]), int(at["length"]))

    def make_env(self, *, evaluation: bool = False) -> gym.Env:
        """The environment the episodes came from, or the one to evaluate in, made anew; see `environment.make_env`."""
        from toolkit.store.environment import make_env

        return make_env(self.schema, evaluation=evaluation)

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
        table = self.episodes.take(given)
        return ReplayStore(self._committed, self.profile, table, self._rows, np.asarray(base[given]), self.labels)

    def relabelled(self, name: str) -> ReplayStore:
        """This store or view with the rewards, ends and goals of relabel `name`; see `toolkit.store.relabel`.

        Raises StoreError if there is none of this commit, saying of which there is.
        """
        labels = Labels(self.backend, self.schema, self.commit, name)
        whole = self._committed
        rows = LabelledRows(whole, labels)
        store = ReplayStore(whole, self.profile, labels.table(whole.table), rows, None, labels)
        return store if self._chosen is None else store.view(self._chosen)

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
        if view.backend.name != self.backend.name or view.commit.digest != self.commit.digest:
            raise ValueError(f"view {name!r} is of another store or commit")
        chosen = [int(i) for i in (np.arange(len(view)) if view._chosen is None else view._chosen)]
        body = {"commit": self.commit.number, "commit_digest": self.commit.digest, "episodes": chosen}
        key, full = f"views/{checked_name('view', name)}.json", {**body, "digest": digest(body)}
        if self.backend.size(key) is not None and canonical(load_json(self.backend, key)) == canonical(full):
            return
        try:
            self.backend.create(key, json_bytes(full))
        except FileExistsError:
            raise FileExistsError(f"{self.path} has another view {name!r}; choose another name") from None

    def view_names(self) -> list[str]:
        """Names of the saved views, whatever commit they are pinned to."""
        return [name.removesuffix(".json") for name in self.backend.names("views") if name.endswith(".json")]

    def _saved_view(self, name: str) -> ReplayStore:
        key = f"views/{checked_name('view', name)}.json"
        path = f"{self.backend.name}/{key}"
        try:
            body = load_json(self.backend, key)
            if body.pop("digest") != digest(body):
                raise StoreError(f"{path}: digest does not match its content; the view is damaged, save it again")
            chosen, pin, pinned = body["episodes"], body["commit_digest"], body["commit"]
            if not all(type(index) is int and 0 <= index < 1 << 63 for index in chosen):
                raise StoreError(f"{path}: episodes are not all indices; the view is damaged")
        except FileNotFoundError:
            known = self.view_names()
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

    def _starts(self) -> Array:
        """First packed row of each episode (E,)."""
        return np.asarray(self._rows.offsets[self.episodes["segment"]] + self.episodes["start"], np.int64)

    def index(self) -> EpisodeIndex:
        """Where each transition lies among the packed rows. Raises ValueError if there are no episodes."""
        return EpisodeIndex(self._starts(), self.episodes["length"])

    def gather(self, *, window: int = 1) -> Gather:
        """Windows of these episodes by number: `fields(transitions, rng)` gives a Batch's, transition 0 the first.

        Rows are in memory or mapped, from a file built if need be; `index.locate` tells a transition's episode and row.
        """
        import torch

        rows = self._rows.packed if self._rows.tier("auto") == "memory" else self._rows.mapped
        return Gather(rows, self.index(), Options(window), torch.device("cpu"))

    @cached_property
    def spec(self) -> Spec:
        """Dimensions, limits, horizon and statistics of exactly these episodes. Raises ValueError without any."""
        if len(self) == 0:
            raise ValueError(f"{self.path} holds no episodes yet; append some and commit")
        schema, lengths = self.schema, self.episodes["length"]
        recorded = self._chosen is None and self.labels is None
        found = self.statistics if recorded else self._statistics()
        moments = {name: running.moments() for name, running in found.items()}

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
            images=schema.images,
            **moments,
        )

    @cached_property
    def statistics(self) -> dict[str, Running]:
        """Of the whole commit as recorded, whatever the view: "obs", "delta", "action" and "reward".

        Merged from its segments; no row is read. Raises StoreError if the commit's statistics are not of this schema.
        """
        return merged(self.commit.segments, self.schema.obs_dim, self.schema.action_dim, self.path)

    def _statistics(self) -> dict[str, Running]:
        """Statistics of exactly these episodes, a few million rows at a time."""
        schema, starts, lengths = self.schema, self._starts(), self.episodes["length"]
        if (tier := self._rows.tier("auto")) == "streaming":
            loaded = ((chunk.load().rows, chunk.starts, chunk.lengths) for chunk in self._rows.chunks(starts, lengths))
        else:
            rows = (self._rows.packed if tier == "memory" else self._rows.mapped).rows
            groups = np.split(np.arange(len(starts)), np.flatnonzero(np.diff(np.cumsum(lengths) // SPEC_ROWS)) + 1)
            loaded = ((rows, starts[group], lengths[group]) for group in groups)
        total: dict[str, Running] = {}
        for rows, first, steps in loaded:
            index = np.repeat(first - np.cumsum(steps + 1) + steps + 1, steps + 1) + np.arange((steps + 1).sum())
            final = np.zeros(len(index), bool)
            final[np.cumsum(steps + 1) - 1] = True
            fresh = transition_statistics(rows.numpy()[index], final, schema.obs_dim, schema.action_dim)
            total = {k: total[k].merge(v) if total else v for k, v in fresh.items()}
        return total

    def tier(self, wanted: Tier) -> Literal["memory", "mapped", "streaming"]:
        """See `Sampled`: memory where the whole commit's packed rows fit half of what is available, and so on."""
        return self._rows.tier(wanted)

    def source(self, options: Options, *, tier: Tier, buffer: int, seed: int, device: str) -> Source:
        """The stream of windows behind `sampler`, to be mixed with others'."""
        import torch

        used = self._rows.tier(tier)
        if used == "streaming":
            chunks = self._rows.chunks(self._starts(), self.episodes["length"])
            cpu = torch.device("cpu")
            width, images = self._rows.width, self.schema.images
            return Streamed(chunks, options, width=width, buffer=buffer, seed=seed, device=cpu, images=images)
        index = self.index()
        if used == "mapped":
            return Uniform(self._rows.mapped, index, options, seed=seed, device=torch.device("cpu"))
        return Uniform(self._rows.packed, index, options, seed=seed, device=torch.device(device))
