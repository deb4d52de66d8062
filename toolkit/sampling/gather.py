"""One gather: transition numbers in, the fields of a Batch out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolkit.core import Array
from toolkit.sampling.index import EpisodeIndex, Packed, returns_to_go
from toolkit.sampling.options import Options, Relabel

PIECE = 1 << 11  # single transitions gathered at once, so that they are still in the cache when they are looked at
Fields = dict[str, Any]  # a Batch's fields by name, first axis n windows; without "valid" every step is valid


class Gather:
    """Windows of the indexed episodes under the given options."""

    def __init__(self, packed: Packed, index: EpisodeIndex, options: Options, device: torch.device) -> None:
        options.check(packed.obs_dim, packed.goal_dim)
        self.packed, self.index, self.options, self.device = packed, index, options, device
        self._rows = packed.rows.to(device)
        self._images = {name: values.to(device) for name, values in packed.images.items()}
        rows, width = self._rows.shape
        self._windows: Tensor | None = None
        if options.span <= packed.spare:
            size = options.span + 1
            self._windows = self._rows.as_strided((rows - options.span, size * width), (width, 1))
        self._plain = options == Options()
        self._to_go: Tensor | None = None
        if options.returns_to_go and options.discount is not None:
            starts = index.offsets + index.ends - index.lengths
            column = returns_to_go(packed.rows[:, -2].numpy(), starts, index.lengths, options.discount)
            self._to_go = torch.from_numpy(column).to(device)
        powers = (1.0 if options.discount is None else options.discount) ** np.arange(options.n_step + 1)
        self._powers = torch.from_numpy(powers.astype(np.float32)).to(device)

    def fields(self, draws: Array, rng: np.random.Generator) -> Fields:
        """The windows that start at transitions `draws` (n,). `rng` chooses hindsight goals, if any."""
        options, packed, index = self.options, self.packed, self.index
        episode, start = index.locate(draws)
        row = self._tensor(start)
        if self._plain and self._windows is not None:
            block, terminated = self._pieces(row)
        else:
            block, terminated = self._fetch(row), None
        left = None
        if not self._plain:
            left = self._tensor(index.ends[episode] - draws)  # steps until the episode ends, at least 1
            if options.span > 1:
                self._blank(block, np.flatnonzero(index.ends[episode] - draws <= options.span), left)
        goal = None
        if options.relabel is not None and left is not None:
            ahead = _steps_ahead(options.relabel, index.ends[episode] - draws, rng)
            goal = self._relabel(options.relabel, block, row, left, self._tensor(ahead))
        fields = self._one_step(block, terminated) if options.n_step == 1 else self._n_step(block, left)
        fields["episode"] = self._tensor(episode.astype(np.int64, copy=False))
        if left is None:
            if self._images:
                pair = torch.arange(2, device=self.device).expand(len(row), 2)
                fields["images"] = self._pictures(row, None, None, pair)
            return fields
        steps = torch.arange(options.window, device=self.device)
        if options.window > 1:
            fields["valid"] = steps < left[:, None]
        taken = fields.pop("taken", None)  # (n, 1) rewards summed by n-step
        if options.frame_stack > 1 or self._images:
            at = torch.arange(options.window + 1, device=self.device).expand(len(row), -1)
            if taken is not None:
                at = torch.cat([torch.zeros_like(taken), taken], 1)
            step = self._tensor(draws - (index.ends - index.lengths)[episode])
            if options.frame_stack > 1:
                fields["obs"] = self._stacked(row, step, left, at, goal)
            if self._images:
                fields["images"] = self._pictures(row, step, left, at)
        if options.discount is not None:
            ones = torch.ones(len(row), options.window, dtype=torch.int64, device=self.device)
            fields["discount"] = self._powers[ones if taken is None else taken]
            if options.window > 1:
                fields["discount"] *= fields["valid"]
        if options.next_action:
            after = steps + 1 if taken is None else taken
            fields["next_valid"] = after < left[:, None]
            action = block[..., packed.obs_dim : -2]
            action = action[:, 1:] if taken is None else action[torch.arange(len(row)), taken[:, 0], None]
            fields["next_action"] = action * fields["next_valid"][..., None]
        if self._to_go is not None:
            ok = steps < left[:, None]
            fields["return_to_go"] = self._to_go[torch.where(ok, row[:, None] + steps, 0)] * ok
        return fields

    def _tensor(self, values: Array) -> Tensor:
        return torch.from_numpy(values).to(self.device)

    def _fetch(self, row: Tensor) -> Tensor:
        """Rows `row` .. `row` + span of each window, a copy (n, span + 1, W)."""
        span, width = self.options.span, self._rows.shape[1]
        if self._windows is not None:
            return self._windows.index_select(0, row).view(len(row), span + 1, width)
        inside = (row[:, None] + torch.arange(span + 1, device=self.device)).clamp_(max=len(self._rows) - 1)
        return self._rows.index_select(0, inside.flatten()).view(len(row), span + 1, width)

    def _pieces(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """Single transitions (n, 2, W) and whether they are terminal (n, 1), a cacheful at a time."""
        assert self._windows is not None
        width = self._rows.shape[1]
        block = torch.empty(len(row), 2 * width, device=self.device)
        terminated = torch.empty(len(row), dtype=torch.bool, device=self.device)
        for first in range(0, len(row), PIECE):
            part = block[first : first + PIECE]
            torch.index_select(self._windows, 0, row[first : first + PIECE], out=part)
            torch.gt(part[:, width - 1], 0.5, out=terminated[first : first + PIECE])
        return block.view(-1, 2, width), terminated[:, None]

    def _blank(self, block: Tensor, late: Array, left: Tensor) -> None:
        """Zero what lies past the episode's end in the few windows `late` that reach it.

        A final row holds an observation only, but where actions are one-hot, number 0 stands in it.
        """
        if len(late) == 0:
            return
        windows = self._tensor(late)
        part, ends = block[windows], left[windows]
        part[torch.arange(block.shape[1], device=self.device) > ends[:, None]] = 0.0
        final = (ends < block.shape[1]).nonzero()[:, 0]
        part[final, ends[final], self.packed.obs_dim :] = 0.0
        block[windows] = part

    def _one_step(self, block: Tensor, terminated: Tensor | None) -> Fields:
        obs_dim, window = self.packed.obs_dim, self.options.window
        return {
            "obs": block[..., :obs_dim],
            "action": block[:, :window, obs_dim:-2],
            "reward": block[:, :window, -2],
            "terminated": block[:, :window, -1] > 0.5 if terminated is None else terminated,
        }

    def _n_step(self, block: Tensor, left: Tensor | None) -> Fields:
        """Sums stop at the episode's end, and at the first terminated step (hindsight goals may set one)."""
        assert left is not None
        obs_dim, steps = self.packed.obs_dim, self.options.n_step
        ended = block[:, :steps, -1] > 0.5
        before = ended.cumsum(1) - ended.long()
        counted = (before == 0) & (torch.arange(steps, device=self.device) < left[:, None])
        taken = counted.sum(1)
        number = torch.arange(len(block), device=self.device)
        return {
            "obs": torch.stack([block[:, 0, :obs_dim], block[number, taken, :obs_dim]], 1),
            "action": block[:, :1, obs_dim:-2],
            "reward": (block[:, :steps, -2] * counted * self._powers[:-1]).sum(1, keepdim=True),
            "terminated": ended[number, taken - 1, None],
            "taken": taken[:, None],
        }

    def _relabel(self, relabel: Relabel, block: Tensor, row: Tensor, left: Tensor, ahead: Tensor) -> Tensor:
        """Put hindsight goals, `ahead` (n,) rows on (0: keep the stored goal), into `block`; the goals (n, G)."""
        obs_dim, goal_dim = self.packed.obs_dim, self.packed.goal_dim
        achieved = list(relabel.achieved)
        reached = self._rows.index_select(0, row + ahead)[:, achieved]
        chosen = (ahead > 0)[:, None]
        goal = torch.where(chosen, reached, block[:, 0, obs_dim - goal_dim : obs_dim])
        place = torch.arange(block.shape[1], device=self.device)
        shown = chosen & (place <= left[:, None])
        old = block[..., obs_dim - goal_dim : obs_dim]
        block[..., obs_dim - goal_dim : obs_dim] = torch.where(shown[..., None], goal[:, None], old)
        arrived, aim = block[:, 1:, achieved], goal[:, None].expand(-1, block.shape[1] - 1, -1)
        rewarded = chosen & (place[:-1] < left[:, None])
        block[:, :-1, -2] = torch.where(rewarded, relabel.reward(arrived, aim).to(block.dtype), block[:, :-1, -2])
        if relabel.terminated is not None:
            flags = relabel.terminated(arrived, aim).to(block.dtype)
            block[:, :-1, -1] = torch.where(rewarded, flags, block[:, :-1, -1])
        return goal

    def _stacked(self, row: Tensor, step: Tensor, left: Tensor, at: Tensor, goal: Tensor | None) -> Tensor:
        """Observations at rows `row` + `at` (n, P) with the frames before them: (n, P, frames * O)."""
        obs_dim, goal_dim = self.packed.obs_dim, self.packed.goal_dim
        rows, inside = self._frames(row, step, left, at)
        obs = self._rows.index_select(0, rows.flatten())[:, :obs_dim].reshape(*rows.shape, obs_dim)
        if goal is not None:
            obs[..., obs_dim - goal_dim :] = goal[:, None, None]
        return (obs * inside[..., None, None]).flatten(2)

    def _frames(self, row: Tensor, step: Tensor, left: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """The rows (n, P, frames) shown at `row` + `at`, oldest first, 0 past the end; and what is inside (n, P)."""
        back = torch.arange(self.options.frame_stack - 1, -1, -1, device=self.device)
        wanted = torch.maximum(at[..., None] - back, -step[:, None, None])  # not before the episode's first row
        inside = at <= left[:, None]
        return torch.where(inside[..., None], row[:, None, None] + wanted, 0), inside

    def _pictures(self, row: Tensor, step: Tensor | None, left: Tensor | None, at: Tensor) -> dict[str, Tensor]:
        """Images at rows `row` + `at` (n, P): key -> (n, P, H, W, frames * C), frames oldest first."""
        if step is None or left is None:
            rows, inside = (row[:, None] + at)[..., None], None
        else:
            rows, inside = self._frames(row, step, left, at)
        found = {}
        for name, values in self._images.items():
            shown = values.index_select(0, rows.flatten()).view(*rows.shape, *values.shape[1:])
            if inside is not None:
                shown[~inside] = 0
            found[name] = shown.movedim(2, 4).flatten(4) if rows.shape[2] > 1 else shown.squeeze(2)
        return found


def _steps_ahead(relabel: Relabel, left: Array, rng: np.random.Generator) -> Array:
    """How many rows after its first each window's goal was achieved (n,); 0 keeps the stored goal."""
    chosen = rng.random(len(left)) < relabel.share
    later = rng.integers(1, left + 1) if relabel.strategy == "future" else left
    return np.where(chosen, later, 0)
