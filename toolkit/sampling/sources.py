"""Where windows come from: uniform over rows at hand, streamed through a shuffle buffer, or a weighted mixture.

A source's stream depends on its seed and on how many windows were taken, and on nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from toolkit.core import Array
from toolkit.sampling.gather import Fields, Gather
from toolkit.sampling.index import EpisodeIndex, Packed
from toolkit.sampling.options import Options


class Source(Protocol):
    """An endless stream of windows. Assigning `state` (JSON-able) continues an equal source bit for bit."""

    state: dict[str, Any]
    kind: str
    width: int  # numbers in a packed row
    image_bytes: int  # of the images beside it

    def take(self, n: int) -> Fields:
        """The next `n` windows."""


class Uniform:
    """Uniform over transitions, with replacement, from rows in memory or memory-mapped."""

    kind = "uniform"

    def __init__(self, packed: Packed, index: EpisodeIndex, options: Options, *, seed: int, device: torch.device):
        self.width, self.image_bytes = packed.rows.shape[1], packed.image_bytes
        self._gather = Gather(packed, index, options, device)
        self._total, self._rng = index.total, np.random.default_rng(seed)

    def take(self, n: int) -> Fields:
        """See `Source`."""
        return self._gather.fields(self._rng.integers(0, self._total, n), self._rng)

    @property
    def state(self) -> dict[str, Any]:
        """The generator's."""
        return dict(self._rng.bit_generator.state)

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state


@dataclass(frozen=True)
class Chunk:
    """Episodes that are read from disk together; `starts` (E,) count from the chunk's first row."""

    load: Callable[[], Packed]  # the chunk's rows and images, without spare rows
    rows: int
    starts: Array
    lengths: Array
    episodes: Array  # (E,) positions in the view


class Streamed:
    """A shuffle buffer. Chunks come in random order, `buffer` rows at a time; each buffer is served in random order.

    Every transition comes once in an epoch, and only the buffer (and while it is filled, one chunk) is in memory.
    A chunk larger than the buffer is a buffer of its own.
    """

    kind = "streamed"

    def __init__(
        self,
        chunks: Sequence[Chunk],
        options: Options,
        *,
        width: int,
        buffer: int,
        seed: int,
        device: torch.device,
        images: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        """`images` maps the key of each image in the chunks to (H, W, C)."""
        if not chunks:
            raise ValueError("no episodes to sample from; the store or view is empty")
        self.width, self._images = width, dict(images or {})
        self.image_bytes = sum(math.prod(shape) for shape in self._images.values())
        self._chunks, self._options, self._buffer, self._device = chunks, options, buffer, device
        self._rng = np.random.default_rng(seed)
        self._begin_epoch()

    def take(self, n: int) -> Fields:
        """See `Source`."""
        parts: list[Fields] = []
        while n > 0:
            if self._gather is None:
                self._fill()
            assert self._gather is not None
            draws = self._order[self._taken : self._taken + n]
            part = self._gather.fields(draws, self._rng)
            part["episode"] = self._episodes[part["episode"]]
            parts.append(part)
            n -= len(draws)
            self._taken += len(draws)
            if self._taken == len(self._order):
                self._next_buffer()
        return concatenate(parts)

    @property
    def state(self) -> dict[str, Any]:
        """Generator states at the epoch's start, at the buffer's start and now; and where in them the stream stands."""
        now = dict(self._rng.bit_generator.state)
        return {
            "epoch": self._epoch_state,
            "buffer": self._buffer_number,
            "buffer_state": self._buffer_state,
            "taken": self._taken,
            "now": now,
        }

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state["epoch"]
        self._begin_epoch()
        self._buffer_number = state["buffer"]
        self._rng.bit_generator.state = self._buffer_state = state["buffer_state"]
        if state["taken"]:
            self._fill()
            self._taken = state["taken"]
            self._rng.bit_generator.state = state["now"]

    def _begin_epoch(self) -> None:
        """Deal the chunks, in random order, into buffers."""
        self._epoch_state = dict(self._rng.bit_generator.state)
        self._buffers: list[list[int]] = []
        room = 0
        for number in self._rng.permutation(len(self._chunks)):
            rows = self._chunks[number].rows
            if not self._buffers or rows > room:
                self._buffers.append([])
                room = self._buffer
            self._buffers[-1].append(int(number))
            room -= rows
        self._buffer_number, self._taken = 0, 0
        self._buffer_state = dict(self._rng.bit_generator.state)
        self._gather: Gather | None = None

    def _next_buffer(self) -> None:
        self._gather = None  # its rows are freed before the next ones are read
        if self._buffer_number + 1 == len(self._buffers):
            self._begin_epoch()
            return
        self._buffer_number, self._taken = self._buffer_number + 1, 0
        self._buffer_state = dict(self._rng.bit_generator.state)

    def _fill(self) -> None:
        chunks = [self._chunks[number] for number in self._buffers[self._buffer_number]]
        offsets = np.cumsum([0, *(chunk.rows for chunk in chunks)])
        spare = self._options.span
        rows = torch.empty(int(offsets[-1]) + spare, self.width)
        rows[offsets[-1] :] = 0.0
        images = {name: torch.zeros(len(rows), *size, dtype=torch.uint8) for name, size in self._images.items()}
        shape = (0, 0, 0)
        for chunk, at in zip(chunks, offsets, strict=False):
            part = chunk.load()
            rows[at : at + chunk.rows] = part.rows
            for name, values in images.items():
                values[at : at + chunk.rows] = part.images[name]
            shape = (part.obs_dim, part.action_dim, part.goal_dim)
        starts = np.concatenate([chunk.starts + at for chunk, at in zip(chunks, offsets, strict=False)])
        index = EpisodeIndex(starts, np.concatenate([chunk.lengths for chunk in chunks]))
        self._episodes = torch.from_numpy(np.concatenate([chunk.episodes for chunk in chunks])).to(self._device)
        self._order = self._rng.permutation(index.total)
        self._gather = Gather(Packed(rows, *shape, spare, images), index, self._options, self._device)


class Mixed:
    """Each window comes from source i with probability weights[i]; its episode counts from `offsets[i]`."""

    kind = "mixed"

    def __init__(self, sources: Sequence[Source], weights: Sequence[float], offsets: Sequence[int], *, seed: int):
        self.width, self.image_bytes = sources[0].width, sources[0].image_bytes
        self._sources, self._offsets = sources, offsets
        share = np.cumsum(np.asarray(weights, np.float64) / np.sum(weights))
        self._edges = share[:-1]
        self._rng = np.random.default_rng(seed)

    def take(self, n: int) -> Fields:
        """See `Source`."""
        which = np.searchsorted(self._edges, self._rng.random(n), side="right")
        counts = np.bincount(which, minlength=len(self._sources))
        parts = []
        for source, count, offset in zip(self._sources, counts, self._offsets, strict=True):
            if count:
                part = source.take(int(count))
                part["episode"] = part["episode"] + offset
                parts.append(part)
        places = np.empty(n, np.int64)
        places[np.argsort(which, kind="stable")] = np.arange(n)
        fields = concatenate(parts)
        order = torch.from_numpy(places).to(fields["obs"].device)
        return _each(lambda values: values.index_select(0, order), fields)

    @property
    def state(self) -> dict[str, Any]:
        """The mixture's generator and every source's state."""
        return {"mixture": dict(self._rng.bit_generator.state), "sources": [s.state for s in self._sources]}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state["mixture"]
        for source, part in zip(self._sources, state["sources"], strict=True):
            source.state = part


def concatenate(parts: Sequence[Fields]) -> Fields:
    """Windows of several sources in a row; a copy unless there is one part."""
    if len(parts) == 1:
        return parts[0]
    return {
        name: concatenate([part[name] for part in parts])
        if isinstance(first, dict)
        else torch.cat([p[name] for p in parts])
        for name, first in parts[0].items()
    }


def _each(change: Callable[[torch.Tensor], torch.Tensor], fields: Fields) -> Fields:
    """Every tensor changed, those of images too."""
    return {
        name: _each(change, values) if isinstance(values, dict) else change(values) for name, values in fields.items()
    }
