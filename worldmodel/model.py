"""An ensemble of probabilistic networks that predicts what an action does, and imagining with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.core import Imagined, Moments, Reached, Spec
from toolkit.nets import StackedMLP
from toolkit.normalize import Normalizer
from worldmodel.heads import GaussianHead, Head

MakeHead = Callable[..., Head]
"""(members, dims, generator=...) -> a head."""
EVEN = 8  # a last layer is padded to a multiple of so many outputs: multiplies of odd widths take up to twice as long


class EnsembleModel(nn.Module):
    """M members, each p(next_obs - obs, reward, terminated | obs, action) (arXiv:1805.12114).

    One stacked network gives the head its numbers, for O changes of the observation and the reward,
    standardised, and one more number, the logit of termination. A dimension whose change is
    constant in the data, as a goal's is, is predicted to change by that constant and has no part in
    likelihoods; a constant reward likewise. While `ends` is False, as it is until training data shows
    a termination, its probability is exactly zero.

    `elites` (E,) int64 are the members that `log_prob` and `Imagination` use. `head.scale`, `end_slope` and
    `end_shift` calibrate what was learned: see `worldmodel.calibration`.
    """

    elites: Tensor
    ends: Tensor
    low: Tensor
    high: Tensor
    end_slope: Tensor
    end_shift: Tensor

    def __init__(
        self,
        spec: Spec,
        *,
        members: int,
        elites: int,
        hidden: Sequence[int],
        head: MakeHead = GaussianHead,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.obs_dim = spec.obs_dim
        self.inputs = Normalizer(_join(spec.obs, spec.action))  # (O + A,)
        self.targets = Normalizer(_join(spec.delta, spec.reward))  # (O + 1,)
        self.head = head(members, spec.obs_dim + 1, generator=generator)
        inputs, outputs = spec.obs_dim + spec.action_dim, self.head.outputs + 1
        self.network = StackedMLP(members, inputs, hidden, outputs, activation=F.silu, generator=generator)
        # An episode terminates at most once: the logit starts at the largest rate the data could have.
        rate = min(0.5, max(spec.episodes, 1) / max(spec.transitions, 2))
        *_, last_bias = self.network.parameters()
        with torch.no_grad():
            last_bias[..., -1] = math.log(rate / (1 - rate))
        self.rare = 1 / (spec.transitions + 2)
        self.register_buffer("elites", torch.arange(elites))
        moves = self.targets.kept[:-1]  # a goal may lie anywhere
        for name in ("low", "high"):
            limit = torch.from_numpy(np.array(getattr(spec.obs, name), np.float32))
            self.register_buffer(name, limit.where(moves, math.inf if name == "high" else -math.inf))
        self.register_buffer("ends", torch.zeros((), dtype=torch.bool))
        self.register_buffer("end_slope", torch.ones(()))
        self.register_buffer("end_shift", torch.zeros(()))

    def forward(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """What the members say of raw obs (B, O) or (M, B, O) and action (B, A), uncalibrated.

        Returns the head's numbers (M, B, outputs) and logits of termination (M, B).
        """
        action = action.expand(*obs.shape[:-1], -1)
        numbers = self.network(self.inputs(torch.cat([obs, action], -1)))
        of_head, logit = numbers.split([self.head.outputs, 1], -1)
        return of_head, logit.squeeze(-1)

    def target(self, obs: Tensor, next_obs: Tensor, reward: Tensor) -> Tensor:
        """(..., O), (B, O), (B,) -> (..., O + 1), standardised change and reward."""
        change = next_obs - obs
        return self.targets(torch.cat([change, reward[..., None].expand(*change.shape[:-1], 1)], -1))

    def nll(self, obs: Tensor, action: Tensor, reward: Tensor, terminated: Tensor, valid: Tensor) -> Tensor:
        """(M, B): negative log likelihood of a window's steps under each member, nats a step, standardised units.

        obs (B, L+1, O), the rest (B, L). The first step starts from what was observed; each later one from the
        member's own mean of the step before, kept to the range of the data, and gradients pass through it.
        """
        state, steps = obs[:, 0], action.shape[1]
        total: Tensor | float = 0.0
        for k in range(steps):
            numbers, logit = self(state, action[:, k])
            log_prob = self.head.log_prob(numbers, self.target(state, obs[:, k + 1], reward[:, k])) * self.targets.kept
            ended = terminated[:, k].to(logit.dtype).expand_as(logit)
            end = F.binary_cross_entropy_with_logits(logit, ended, reduction="none")
            total = total + (end - log_prob.sum(-1)) * valid[:, k]
            if k + 1 < steps:
                state = (state + self.targets.inverse(self.head.mean(numbers))[..., :-1]).clamp(self.low, self.high)
        return total / valid.sum(1).clamp_min(1)

    def predict(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Every member's expectation: next_obs (M, B, O), reward (M, B), probability of termination (M, B)."""
        numbers, logit = self(obs, action)
        change = self.targets.inverse(self.head.mean(numbers))
        return obs + change[..., :-1], change[..., -1], self.end_probability(logit)

    def end_probability(self, logit: Tensor) -> Tensor:
        """(...) -> (...), calibrated; zero while no termination was seen."""
        return (self.end_slope * logit + self.end_shift).sigmoid() * self.ends

    @torch.no_grad()
    def imagine(self, obs: Tensor, action: Tensor, *, generator: torch.Generator | None = None) -> Imagined:
        """One step of `toolkit.core.Dynamics`, from obs (B, O) with action (B, A).

        Each row is drawn by an elite member of its own; without a generator all elites' expectations are averaged.
        Observations are kept to the range of the data, as in `Imagination`.
        """
        numbers, logit = self(obs, action)
        means, end = self.targets.inverse(self.head.mean(numbers))[self.elites], self.end_probability(logit)
        if generator is None:
            change, end = means.mean(0), end[self.elites].mean(0)
        else:
            pick = torch.randint(len(self.elites), (len(obs),), generator=generator, device=obs.device)
            member, row = self.elites[pick], torch.arange(len(obs), device=obs.device)
            change = self.targets.inverse(self.head.sample(numbers, generator=generator)[member, row])
            end = end[member, row]
        moves = self.targets.kept[:-1]
        units = moves / self.inputs.std[: self.obs_dim] / moves.sum().clamp_min(1)
        spread = self.head.std(numbers) * self.targets.std * self.targets.kept
        return Imagined(
            obs=(obs + change[:, :-1]).clamp(self.low, self.high),
            reward=change[:, -1],
            end=end,
            disagreement=means[..., :-1].std(0, correction=0) @ units,
            noise=spread.norm(dim=-1).amax(0),
        )

    def log_prob(self, obs: Tensor, action: Tensor, next_obs: Tensor, reward: Tensor) -> Tensor:
        """log p(next_obs, reward | obs, action) in nats, raw units; obs (B, O), reward (B,) -> (B,).

        The elite members' equal mixture: the log of the mean of their densities. What it is, `head.exactness` says.
        """
        numbers, _ = self(obs, action)
        log_prob = self.head.log_prob(numbers, self.target(obs, next_obs, reward))
        each = ((log_prob - self.targets.std.log()) * self.targets.kept).sum(-1)[self.elites]  # (E, B)
        return torch.logsumexp(each, 0) - math.log(len(self.elites))

    def log_mass(self, reached: Reached) -> Tensor:
        """Log probability, nats, (B,) float64, of the bins reached and of the end: the elite members' equal mixture.

        An end, or going on, is never less probable than one in all the transitions of the training data.
        """
        numbers, logit = self(reached.obs, reached.action)

        def edge(obs: Tensor, reward: Tensor) -> Tensor:
            raw = torch.cat([obs - reached.obs.double(), reward[..., None]], -1)
            return (raw - self.targets.mean) / self.targets.std

        low, high = edge(reached.next_low, reached.reward_low), edge(reached.next_high, reached.reward_high)
        end = self.end_probability(logit.double()).clamp(self.rare, 1 - self.rare)
        each = self.head.log_mass(numbers, low, high).sum(-1) + end.where(reached.terminated, 1 - end).log()
        return torch.logsumexp(each[self.elites], 0) - math.log(len(self.elites))


class Imagination:
    """The elite members' mean predictions over many steps, as fast as plain matrix multiplies go.

    Elite weights are gathered once and the normalisers folded into the first and last layers, so a
    step is one multiply a layer on raw numbers. Where the head reads its mean from the numbers, nothing but the mean
    is computed. Imagined observations are clamped to the range seen in the data (constant dimensions, goals, are
    not): a network means nothing beyond it, and a planner looks for exactly such places.
    """

    @torch.no_grad()
    def __init__(self, model: EnsembleModel) -> None:
        elites, obs_dim = model.elites, model.obs_dim
        each = list(model.network.parameters())  # weight, bias, weight, bias ...
        layers = [(weight[elites], bias[elites]) for weight, bias in zip(each[::2], each[1::2], strict=True)]
        scale = model.inputs.kept / model.inputs.std
        weight, bias = layers[0]
        layers[0] = (weight * scale[:, None], bias - (model.inputs.mean * scale) @ weight[:, None])
        weight, bias = layers[-1]
        self.head = None if model.head.reads_mean else model.head.of(elites)
        if self.head is None:
            keep = [*range(obs_dim + 1), -1]  # means of change and reward, and the logit
            scale, shift = model.targets.kept * model.targets.std, model.targets.mean
        else:
            keep, outputs = [*range(weight.shape[-1])], model.head.outputs
            scale, shift = torch.ones_like(bias[0, 0, :outputs]), torch.zeros_like(bias[0, 0, :outputs])
        scale, shift = torch.cat([scale, model.end_slope[None]]), torch.cat([shift, model.end_shift[None]])
        odd = (0, -len(keep) % EVEN)
        layers[-1] = (F.pad(weight[..., keep] * scale, odd), F.pad(bias[..., keep] * scale + shift, odd))
        self.numbers = len(keep)
        self.layers = [(weight.contiguous(), bias.contiguous()) for weight, bias in layers]
        self.members, self.obs_dim, self.ends = len(elites), obs_dim, model.ends.clone()
        self.targets, self.low, self.high = model.targets, model.low, model.high

    @torch.no_grad()
    def step(self, inputs: Tensor) -> Tensor:
        """Each member's own rows, observation | action, raw (E, R, O + A) -> its change, reward and logit of
        termination (E, R, O + 2)."""
        y = inputs
        for weight, bias in self.layers[:-1]:
            y = F.silu(torch.baddbmm(bias, y, weight), inplace=True)
        weight, bias = self.layers[-1]
        y = torch.baddbmm(bias, y, weight)[..., : self.numbers]
        if self.head is None:
            return y
        return torch.cat([self.targets.inverse(self.head.mean(y[..., :-1])), y[..., -1:]], -1)

    def after(self, obs: Tensor, step: Tensor) -> Tensor:
        """The observation reached from obs (..., O) by a `step` (..., O + 2), within the data's range."""
        return torch.clamp(obs + step[..., : self.obs_dim], self.low, self.high)

    @torch.no_grad()
    def path(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Member e starts from obs (E, R, O) and takes actions (H, E, R, A).

        Returns observation | action before each step and at last (H + 1, E, R, O + A), where the last has no action
        and holds what it may there; the rewards (H, E, R), and the probability of having terminated in each step
        (H, E, R).
        """
        path = obs.new_empty(len(actions) + 1, *obs.shape[:-1], self.obs_dim + actions.shape[-1])
        path[:-1, ..., self.obs_dim :] = actions
        states = path[..., : self.obs_dim]
        states[0] = obs
        said = obs.new_empty(*actions.shape[:-1], 2)  # reward and logit
        for inputs, before, after, numbers in zip(path, states, states[1:], said, strict=False):
            step = self.step(inputs)
            torch.clamp(before + step[..., : self.obs_dim], self.low, self.high, out=after)
            numbers.copy_(step[..., self.obs_dim :])
        reward, logit = said.unbind(-1)
        return path, reward, logit.sigmoid() * self.ends

    def __call__(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `path`, but the observations reached alone (H, E, R, O)."""
        path, reward, end = self.path(obs, actions)
        return path[1:, ..., : self.obs_dim], reward, end


def _join(first: Moments, second: Moments) -> Moments:
    """Moments of both vectors, one after the other."""
    return Moments(*(np.concatenate([getattr(first, f.name), getattr(second, f.name)]) for f in fields(Moments)))
