"""A planner as a policy: at every step a search, warm from the one before."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from toolkit.core import Array, Given, Reactive, Spec, StateValue, Step, child_seed
from toolkit.nets import generator
from worldmodel.doubt import Doubt
from worldmodel.followed import Follow, FollowedReturn
from worldmodel.guide import Choose, Clone, PolicyGuide
from worldmodel.model import EnsembleModel
from worldmodel.planners import Plan, Score, colour, optimise
from worldmodel.planning import Planning
from worldmodel.score import ImaginedReturn, goal_reward
from worldmodel.spaces import ActionSpace, action_space

if TYPE_CHECKING:
    from worldmodel.mpc import MPCConfig


class PlannerPolicy:
    """Plans for all rows at once and executes the first action of the new mean; warm start per row.

    `multiple` divides the number of samples in every iteration: the score deals them out to so many members.
    """

    def __init__(
        self,
        config: Planning,
        space: ActionSpace,
        score: Score,
        *,
        guide: PolicyGuide | None,
        multiple: int,
        discrete: bool,
        rng: torch.Generator,
    ) -> None:
        self.config, self.space, self.score, self.guide = config, space, score, guide
        self.discrete, self.rng, self.device = discrete, rng, rng.device
        self.update, self.std = config.update(), space.std(config.spread)
        self.rounds = config.rounds(multiple)
        self.keep = math.ceil(config.keep * config.best) if config.planner == "icem" else 0
        self.colour = colour(config.horizon, config.colour).to(self.device) if config.coloured else None
        self.plan: Plan | None = None

    @torch.inference_mode()
    def act(self, step: Step) -> Array:
        """Actions (N, A) float32, or (N,) int64. Raises ValueError if the number of rows changes amid episodes."""
        rows = len(step.obs)
        first = torch.as_tensor(step.first, device=self.device)
        obs = torch.as_tensor(step.obs, dtype=torch.float32, device=self.device)
        if self.plan is None or (len(self.plan.mean) != rows and step.first.all()):
            start = Plan.blank(self.space.centre, rows=rows, horizon=self.config.horizon, keep=self.keep)
            first = torch.ones_like(first)
        elif len(self.plan.mean) != rows:
            raise ValueError(
                f"step shows {rows} rows, the one before it {len(self.plan.mean)}: a plan belongs to a row; "
                "keep the number of environments, or set first everywhere"
            )
        else:
            start = self.plan.shifted(first, self.space.centre)
        anew = torch.ones_like(first) if self.config.restart else first
        if self.guide is not None and anew.any():
            start.mean[anew] = self.guide.alone(obs[anew], self.config.horizon)
        self.plan = optimise(
            self.score, obs, start, self._noise(rows), self.update, space=self.space, std=self.std, guide=self.guide
        )
        action = self.space.settle(self.plan.mean[:, 0])
        return (action.argmax(-1) if self.discrete else action).cpu().numpy()

    def following(self, follow: Follow) -> PlannerPolicy:
        """This planner, its sequences led by `follow`; see `toolkit.core.Planner`. Raises TypeError without a model."""
        if not isinstance(self.score, ImaginedReturn):
            raise TypeError(f"sequences are scored by {type(self.score).__name__}, which has no model to be replaced")
        other = copy.copy(self)
        other.score, other.plan = FollowedReturn(self.score, follow), None
        return other

    def _noise(self, rows: int) -> Iterator[Tensor]:
        """(N, samples, H, A) standard normal for each iteration, coloured over the H steps."""
        for samples in self.rounds:
            shape = (rows, samples, len(self.space.centre), self.config.horizon)
            white = torch.randn(shape, generator=self.rng, device=self.device)
            yield (white if self.colour is None else white @ self.colour).transpose(2, 3)


@dataclass(frozen=True)
class Planned:
    """What a planner plans with: a model, and what else was learned or given."""

    spec: Spec
    model: EnsembleModel
    held_out: Tensor  # (n, O + A), for calibration
    clone: Clone | None
    given: Given


def planner(config: MPCConfig, planned: Planned, *, seed: int, device: str) -> PlannerPolicy:
    """The policy that `config` asks for."""
    spec, model, given = planned.spec, planned.model, planned.given
    space, members = action_space(spec, device), len(model.elites)
    reward = given.reward if config.reward == "known" else None
    if config.reward == "goal":
        reward = goal_reward(config.achieved, spec.goal_dim, model.inputs.std)
    value = cast(StateValue, given.learners["value"]).state_value if config.value is not None else None
    doubtful = config.penalty or config.prune < 1
    doubt = Doubt(model, planned.held_out, prune=config.prune) if doubtful else None
    score = ImaginedReturn(config, model, reward=reward, value=value, doubt=doubt)
    choose: Choose | None = planned.clone
    if config.prior is not None:
        prior = cast(Reactive, given.learners["prior"].policy(seed=child_seed(seed, "mpc", "prior")))
        choose = one_hot(prior.choose, spec.action_dim) if spec.discrete else prior.choose
    guide = None
    if choose is not None:
        mbop = config.planner == "mbop"
        guide = PolicyGuide(
            choose,
            score.imagine,
            space,
            share=1.0 if mbop else config.guided,
            std=space.std(config.prior_spread),
            inertia=config.momentum if mbop else 0.0,
        )
    return PlannerPolicy(
        config,
        space,
        score,
        guide=guide,
        multiple=members // math.gcd(members, config.particles),
        discrete=spec.discrete,
        rng=generator(child_seed(seed, "mpc", "plan"), device),
    )


def one_hot(choose: Choose, count: int) -> Choose:
    """The policy of integers (R,) as one of one-hot actions (R, `count`)."""
    return lambda obs: F.one_hot(choose(obs), count).to(obs.dtype)
