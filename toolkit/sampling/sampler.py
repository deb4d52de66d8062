"""The endless stream of batches: blocks of windows, cut into batches, resumable anywhere."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from itertools import repeat
from typing import Any

import torch

from toolkit.core import Batch
from toolkit.sampling.gather import Fields
from toolkit.sampling.options import Options
from toolkit.sampling.sources import Source

BLOCK_FLOATS = 1 << 20  # a block of batches is gathered at once: large enough to amortise, small enough for the cache
FIELDS = ("obs", "action", "reward", "terminated", "valid", "episode", "goal", "images")
EXTRAS = ("next_action", "next_valid", "discount", "return_to_go")  # FIELDS + EXTRAS are Batch's, in its order

Block = tuple[dict[str, Any], list[Batch]]  # the source's state before it, and its batches


class Sampler:
    """An endless stream of batches of a source's windows.

    A window may start at any step of an episode; steps past the episode's end are zero and not valid.
    `state` is JSON-able: assigning it to a sampler with equal arguments continues the stream bit for bit.
    With `prefetch`, one thread gathers the next block meanwhile: the stream and its states are the same.
    """

    def __init__(
        self,
        source: Source,
        options: Options,
        *,
        goal_dim: int,
        batch_size: int,
        device: str = "cpu",
        prefetch: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.window, self.batch_size, self.options, self.device = options.window, batch_size, options, device
        self._source, self._goal_dim = source, goal_dim
        floats = (options.span + 1) * source.width
        floats += (options.window + 1) * options.frame_stack * source.image_bytes // 4
        self._per_block = max(1, BLOCK_FLOATS // (batch_size * floats))
        self._always = torch.ones(batch_size, options.window, dtype=torch.bool, device=device)
        self._pool = ThreadPoolExecutor(1, "packmule-prefetch") if prefetch else None
        self._ahead: Future[Block] | None = None
        self._block_start: dict[str, Any] | None = None  # None: no block yet, the source's own state
        self._served = 0
        self._batches: list[Batch] = []

    def next(self) -> Batch:
        """The next batch; see `Batch` for shapes. Its tensors may share memory with other batches'."""
        if self._served == len(self._batches):
            self._block_start, self._batches = self._advance()
            self._served = 0
        batch = self._batches[self._served]
        self._served += 1
        return batch

    @property
    def state(self) -> dict[str, Any]:
        """Where the stream stands: JSON-able."""
        where = self._source.state if self._block_start is None else self._block_start
        return {
            "generator": where,
            "served": self._served,
            "window": self.window,
            "batch": self.batch_size,
            "source": self._source.kind,
            "options": self.options.to_json(),
        }

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        if (state["window"], state["batch"]) != (self.window, self.batch_size):
            raise ValueError(
                f"sampler state is for window {state['window']} and batch size {state['batch']}, "
                f"this sampler has {self.window} and {self.batch_size}: build it with the saved run's settings"
            )
        for name, mine in (("source", self._source.kind), ("options", self.options.to_json())):
            if (saved := state.get(name, mine)) != mine:
                raise ValueError(f"sampler state has {name} {saved}, this sampler has {mine}: build it as it was")
        if self._ahead is not None:
            self._ahead.exception()  # waits; the block is dropped
            self._ahead = None
        self._source.state = state["generator"]
        self._block_start, self._batches, self._served = state["generator"], [], 0
        if state["served"]:
            self._block_start, self._batches = self._advance()
            self._served = state["served"]

    def _advance(self) -> Block:
        if self._pool is None:
            return self._produce()
        ahead = self._ahead or self._pool.submit(self._produce)
        self._ahead = None  # if it failed, the next call tries again
        block = ahead.result()
        self._ahead = self._pool.submit(self._produce)
        return block

    def _produce(self) -> Block:
        """The next block. When it fails, the source stands where it stood."""
        start = self._source.state
        try:
            return start, self._cut(self._source.take(self._per_block * self.batch_size))
        except BaseException:
            self._source.state = start
            raise

    def _cut(self, fields: Fields) -> list[Batch]:
        blocks, size = self._per_block, self.batch_size
        if self._goal_dim:
            fields["goal"] = fields["obs"][..., -self._goal_dim :]
        columns: list[Any] = []
        for name in FIELDS + EXTRAS:
            if (values := fields.get(name)) is None:
                columns.append(repeat(self._always if name == "valid" else None, blocks))
            elif name == "images":
                parts = [values[key].to(self.device).unsafe_split(size) for key in values]
                columns.append([dict(zip(values, row, strict=True)) for row in zip(*parts, strict=True)])
            else:
                columns.append(values.to(self.device).unsafe_split(size))  # views without the cost of tracking them
        batches, names, new = [], FIELDS + EXTRAS, object.__new__
        for row in zip(*columns, strict=True):
            batch = new(Batch)  # as Batch(*row), at half the cost: a frozen class sets field by field
            batch.__dict__.update(zip(names, row))  # noqa: B905  # as many of each; unchecked it is quicker
            batches.append(batch)
        return batches
