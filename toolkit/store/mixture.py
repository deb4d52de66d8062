"""Weighted mixtures of stores and views, and the files they are saved in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from toolkit.core import Array, Episode, Moments, Spec, child_seed
from toolkit.sampling import Mixed, Options, Source
from toolkit.store.committed import EpisodeTable
from toolkit.store.files import StoreError, digest, parse_json, read_bounded, write_json
from toolkit.store.packed import Tier
from toolkit.store.reader import ReplayStore
from toolkit.store.sampled import Sampled
from toolkit.urls import is_url

KIND = "packmule-mixture"


class Mixture(Sampled):
    """Stores or views of one schema; each window comes from one of them with a probability set by its weight.

    Within a part, windows are drawn as the part alone would. `Batch.episode` counts on from part to part.
    """

    def __init__(self, parts: Sequence[tuple[ReplayStore, float]]) -> None:
        """Raises ValueError if there is no part, a weight is not positive, or two schemas differ, naming where."""
        if not parts:
            raise ValueError("a mixture needs at least one (store, weight)")
        self.views = [view for view, _ in parts]
        given = np.asarray([weight for _, weight in parts], np.float64)
        if not (np.isfinite(given).all() and (given > 0).all()):
            raise ValueError(f"mixture weights must be positive numbers, got {given.tolist()}")
        self.weights = given / given.sum()
        self.path = f"a mixture of {len(parts)} parts"
        self.schema = self.views[0].schema
        suites = {str(view.schema.environment.get("suite")) for view in self.views}
        if len(suites) > 1:  # none of them is the mixture's
            self.schema = replace(self.schema, environment={})
        for number, view in enumerate(self.views[1:], start=1):
            if found := _difference(_compared(self.views[0]), _compared(view)):
                raise ValueError(
                    f"mixture part {number} ({view.path}) differs from part 0 ({self.views[0].path}): {found}"
                )

    def __len__(self) -> int:
        """Episodes in all parts."""
        return sum(len(view) for view in self.views)

    @property
    def transitions(self) -> int:
        """Steps in all parts."""
        return sum(view.transitions for view in self.views)

    @cached_property
    def episodes(self) -> EpisodeTable:
        """The parts' episodes one after another, without their places in the stores."""
        names = [name for name in self.views[0].episodes if name not in ("start", "segment")]
        return EpisodeTable({name: partial(self._column, name) for name in names}, len(self))

    def episode(self, index: int) -> Episode:
        """Episode `index`, counting on from part to part; raises as `ReplayStore.episode`."""
        if not 0 <= index < len(self):
            raise IndexError(f"episode {index} of {len(self)}; indices run from 0 to {len(self) - 1}")
        for view in self.views:
            if index < len(view):
                break
            index -= len(view)
        return view.episode(index)

    def _column(self, name: str) -> Array:
        parts = [view.episodes[name] for view in self.views]
        if len({part.shape[1:] for part in parts}) > 1:
            raise ValueError(f"{self.path}: the parts' {name!r} have shapes {[part.shape[1:] for part in parts]}")
        return np.concatenate(parts)

    def save(self, path: str | Path) -> None:
        """Save which episodes of which commits are mixed, and how, as a JSON file `open_mixture` reads.

        Folders are kept relative to the file, so that a folder with stores and mixtures can be moved. Raises
        FileExistsError if something is at `path`.
        """
        path = Path(path)
        parts = []
        for view, weight in zip(self.views, self.weights.tolist(), strict=True):
            local = view.backend.local
            where = view.backend.name if local is None else os.path.relpath(local.resolve(), path.resolve().parent)
            chosen = None if view.chosen is None else [int(index) for index in view.chosen]
            commit = {"commit": view.commit.number, "commit_digest": view.commit.digest}
            part = {"store": where, **commit, "episodes": chosen, "weight": weight}
            if view.labels is not None:
                part |= {"relabel": view.labels.name, "relabel_digest": view.labels.digest}
            parts.append(part)
        body = {"kind": KIND, "format": 1, "parts": parts}
        write_json(path, {**body, "digest": digest(body)}, create_only=True)

    @cached_property
    def fingerprint(self) -> str:
        """Identifies exactly the data seen: every part's fingerprint and weight."""
        return digest([[view.fingerprint, float(w)] for view, w in zip(self.views, self.weights, strict=True)])[:32]

    @cached_property
    def spec(self) -> Spec:
        """Statistics of what is drawn: each part's count as much as its weight."""
        specs = [view.spec for view in self.views]

        def moments(name: str) -> Moments:
            return _mixed([getattr(spec, name) for spec in specs], self.weights)

        return replace(
            specs[0],
            horizon=max(spec.horizon for spec in specs),
            episodes=len(self),
            transitions=self.transitions,
            obs=moments("obs"),
            delta=moments("delta"),
            action=moments("action"),
            reward=moments("reward"),
        )

    def tier(self, wanted: Tier) -> Literal["memory", "mapped", "streaming"]:
        """The slowest of the parts' tiers; with "auto" each part takes its own."""
        used = {view.tier(wanted) for view in self.views}
        return next(tier for tier in ("streaming", "mapped", "memory") if tier in used)

    def source(self, options: Options, *, tier: Tier, buffer: int, seed: int, device: str) -> Source:
        """Each part's own stream, mixed by weight; tier and buffer are those of every part."""
        sources = [
            view.source(options, tier=tier, buffer=buffer, seed=child_seed(seed, "part", number), device=device)
            for number, view in enumerate(self.views)
        ]
        offsets = np.cumsum([0, *(len(view) for view in self.views)])[:-1].tolist()
        return Mixed(sources, self.weights.tolist(), offsets, seed=seed)


def mix(parts: Sequence[tuple[ReplayStore, float]]) -> Mixture:
    """A mixture of (store or view, weight) pairs; weights need not sum to 1. See `Mixture`."""
    return Mixture(parts)


def open_mixture(path: str | Path) -> Mixture:
    """A saved mixture, of exactly the episodes it was saved with.

    Raises FileNotFoundError if there is no file, StoreError if it is damaged or no mixture, or if a store is not
    there or no longer has the commit that was mixed.
    """
    path = Path(path)
    try:
        body = parse_json(read_bounded(path), path)
        stated = body.pop("digest")
        if body.get("kind") != KIND or body.get("format") != 1:
            raise StoreError(f"{path} is no saved mixture of this program")
        if stated != digest(body):
            raise StoreError(f"{path}: digest does not match its content; the file is damaged, save the mixture again")
        parts = []
        for part in body["parts"]:
            where = part["store"] if is_url(part["store"]) else path.parent / part["store"]
            store = ReplayStore.open(where, commit=part["commit"])
            if store.commit.digest != part["commit_digest"]:
                raise StoreError(f"{path}: {where} has another commit {part['commit']} than the one that was mixed")
            if (name := part.get("relabel")) is not None:
                store = store.relabelled(name)
                if store.labels is None or store.labels.digest != part["relabel_digest"]:
                    raise StoreError(f"{path}: {where} has another relabel {name!r} than the one that was mixed")
            view = store if part["episodes"] is None else store.view(np.asarray(part["episodes"], np.int64))
            parts.append((view, float(part["weight"])))
    except (FileNotFoundError, StoreError):
        raise
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise StoreError(f"{path}: not a readable mixture ({type(error).__name__}: {error})") from None
    mixed = Mixture(parts)
    mixed.path = str(path)
    return mixed


def _mixed(moments: Sequence[Moments], weights: Array) -> Moments:
    share = weights[:, None]
    mean, std = (np.stack([getattr(m, name) for m in moments]).astype(np.float64) for name in ("mean", "std"))
    middle = (share * mean).sum(0)
    spread = np.sqrt((share * (std**2 + (mean - middle) ** 2)).sum(0))
    low, high = np.min([m.low for m in moments], axis=0), np.max([m.high for m in moments], axis=0)
    return Moments(*(np.asarray(part, np.float32) for part in (middle, spread, low, high)))


def _compared(view: ReplayStore) -> dict[str, Any]:
    """The parts of a schema that batches depend on; environments and contexts may differ."""
    body = view.schema.to_json()
    return {name: body[name] for name in ("observations", "action", "discrete")}


def _difference(one: Any, other: Any, where: str = "schema") -> str:
    """Where two JSON values first differ, and how; empty if nowhere."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        pairs = [(f"{where}.{key}", one[key], other[key]) for key in one]
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = [(f"{where}[{i}]", a, b) for i, (a, b) in enumerate(zip(one, other, strict=True))]
    else:
        return "" if one == other else f"{where} is {other!r}, not {one!r}"
    return next((found for path, a, b in pairs if (found := _difference(a, b, path))), "")
