"""Plans ranked by where something else than the model says they lead: a simulator, to see what the model costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from toolkit.core import Followed

if TYPE_CHECKING:
    from worldmodel.score import ImaginedReturn

Follow = Callable[[Tensor], Followed]
"""Actions (M, N, H, A) of M rows whose present states it knows -> where they lead."""


class FollowedReturn:
    """The score of `ImaginedReturn` without its model: same discount, same given reward and value, no doubt."""

    def __init__(self, score: ImaginedReturn, follow: Follow) -> None:
        self.score, self.follow = score, follow

    def __call__(self, obs: Tensor, actions: Tensor) -> Tensor:
        """obs (M, O), actions (M, N, H, A) -> (M, N)."""
        seen = self.follow(actions)
        reached, taken = seen.obs.movedim(2, 0), actions.movedim(2, 0)  # (H, M, N, ...)
        reward = seen.reward.movedim(2, 0)
        if self.score.reward is not None:
            before = torch.cat([obs[None, :, None].expand_as(reached[:1]), reached[:-1]])
            each = (part.flatten(0, 2) for part in (before, taken, reached))
            reward = self.score.reward(*each).view_as(reward)
        return self.score.worth(reached[-1], reward, seen.end.movedim(2, 0))[0]
