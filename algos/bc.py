"""Behaviour cloning by maximum likelihood: how well can one imitate what is in the store?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from algos._common import Memoryless, check_hidden, check_positive, check_window, gaussian_log_prob
from toolkit.core import Batch, Family, LearnerConfig, Policy, Spec, child_seed
from toolkit.nets import MLP, Checkpointed, adam, descend, generator
from toolkit.normalize import Normalizer


@dataclass(frozen=True)
class BCConfig(LearnerConfig):
    """Behaviour cloning: maximise the likelihood of the store's actions (Pomerleau, 1991).

    Continuous actions: a diagonal Gaussian whose mean and standard deviation depend on the
    observation, in standardised action units; the policy is its mean, clipped to the limits. Discrete
    actions: a categorical distribution; the policy is its mode. d3rlpy's `bc` differs: it regresses a
    tanh-squashed action with a squared error, and so has no likelihood.
    """

    name: ClassVar[str] = "bc"
    family: ClassVar[Family] = "supervised"

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers, ReLU between them."""
    lr: float = 3e-4
    """Adam's learning rate."""
    log_std_low: float = -5.0
    """Least log standard deviation, in units of the action's own spread in the data; below 0."""
    log_std_high: float = 2.0
    """Greatest log standard deviation, in the same units; above 0. Training starts near 0."""

    def __post_init__(self) -> None:
        check_hidden(self.hidden)
        check_positive(self, "lr")
        if not self.log_std_low < 0 < self.log_std_high:
            raise ValueError(
                f"log_std_low < 0 < log_std_high must hold, got {self.log_std_low} and {self.log_std_high}"
            )

    def build(self, spec: Spec, *, seed: int, device: str) -> BC:
        """A Gaussian or a categorical cloner, as the data's actions ask."""
        return (CategoricalBC if spec.discrete else GaussianBC)(self, spec, seed=seed, device=device)


def bounded_log_std(free: Tensor, low: float, high: float) -> Tensor:
    """Any real number into (low, high), smoothly, 0 staying 0; needs low < 0 < high."""
    return low + (high - low) * torch.sigmoid(free + math.log(-low / high))


def negative_log_likelihood(log_prob: Tensor) -> Tensor:
    """Mean of -log p(action | observation) over the batch (B,), in nats."""
    return -log_prob.mean()


class BC(Checkpointed):
    """What both kinds share: an observation normaliser, one network, one optimiser."""

    window = 1

    def __init__(self, config: BCConfig, spec: Spec, *, outputs: int, seed: int, device: str) -> None:
        weights = generator(child_seed(seed, "parameters"))
        self.config, self.device = config, device
        self.observe = Normalizer(spec.obs).to(device)
        self.net = MLP(spec.obs_dim, config.hidden, outputs, generator=weights).to(device)
        self.optimizer = adam(self.net.parameters(), config.lr)

    def action_log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Log probability (density, if continuous) in nats, raw units; (..., O), (..., A) -> (...)."""
        raise NotImplementedError

    def choose(self, obs: Tensor) -> Tensor:
        """The policy's actions for raw observations (N, O)."""
        raise NotImplementedError

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step up the likelihood; `nll` is in nats, raw action units."""
        check_window(batch, self.window)
        loss = negative_log_likelihood(self.action_log_prob(batch.obs[:, 0], batch.action[:, 0]))
        descend(self.optimizer, loss)
        self.step += 1
        return {"nll": loss.detach()}

    def policy(self, *, seed: int) -> Policy:
        """The mean or the mode; deterministic, so `seed` is unused."""
        return Memoryless(self.choose, self.device)


class GaussianBC(BC):
    """Diagonal Gaussian over standardised actions."""

    def __init__(self, config: BCConfig, spec: Spec, *, seed: int, device: str) -> None:
        super().__init__(config, spec, outputs=2 * spec.action_dim, seed=seed, device=device)
        self.scale = Normalizer(spec.action).to(device)
        self.low, self.high = (torch.as_tensor(x, device=device) for x in (spec.action_low, spec.action_high))

    def distribution(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation (..., A) of the standardised action."""
        mean, free = self.net(self.observe(obs)).chunk(2, dim=-1)
        return mean, bounded_log_std(free, self.config.log_std_low, self.config.log_std_high)

    def action_log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """log N((a - m) / s) - log s, summed; dimensions that are constant in the data count zero nats."""
        mean, log_std = self.distribution(obs)
        log_prob = gaussian_log_prob(self.scale(action), mean, log_std) - self.scale.std.log()
        return (log_prob * self.scale.kept).sum(-1)

    def choose(self, obs: Tensor) -> Tensor:
        return self.scale.inverse(self.distribution(obs)[0]).clamp(self.low, self.high)


class CategoricalBC(BC):
    """Softmax over the actions, which a Batch holds one-hot."""

    def __init__(self, config: BCConfig, spec: Spec, *, seed: int, device: str) -> None:
        super().__init__(config, spec, outputs=spec.action_dim, seed=seed, device=device)

    def action_log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        return (self.net(self.observe(obs)).log_softmax(-1) * action).sum(-1)

    def choose(self, obs: Tensor) -> Tensor:
        return self.net(self.observe(obs)).argmax(-1)
