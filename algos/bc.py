"""Behaviour cloning: how well can one imitate what is in the store?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from algos._common import (
    Memoryless,
    ReturnConditioned,
    ReturnScale,
    check_batch,
    check_count,
    check_fraction,
    check_hidden,
    check_positive,
    gaussian_log_prob,
    valid_mean,
)
from algos._history import History
from toolkit.core import Batch, Exactness, Family, LearnerConfig, Needs, Policy, Spec, child_seed
from toolkit.nets import Checkpointed, Net, adam, descend, generator, interval_log_mass, single
from toolkit.normalize import Normalizer


@dataclass(frozen=True)
class BCConfig(LearnerConfig):
    """Behaviour cloning: maximise the likelihood of the store's actions (Pomerleau, 1991).

    Continuous actions, in standardised units: a diagonal Gaussian or a mixture of them (arXiv:2108.03298)
    whose parameters depend on the observation, or a squared error without a likelihood. The policy is
    the mean, or the mean of the likeliest component, clipped to the limits. Discrete actions: a
    categorical distribution; the policy is its mode. d3rlpy's `bc` regresses a tanh-squashed action.

    Filtered: only episodes of the highest return (`top_fraction`; BC-10% of arXiv:2106.01345).
    Return-conditioned: the undiscounted return to go is one more input, and the policy asks for
    `target_return`, less what it has received (arXiv:1912.02875, arXiv:2112.10751). Goal-conditioned:
    goals are observation numbers; `hindsight` shows a share of steps with a goal reached later
    in their episode (arXiv:1912.06088).

    History-conditioned: a causal transformer reads the last `window` observations, not the actions between them. The
    policy remembers them, from each episode's first on.
    """

    name: ClassVar[str] = "bc"
    family: ClassVar[Family] = "supervised"
    actions: ClassVar = ("continuous", "discrete")

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers, ReLU between them."""
    net: Net = "mlp"
    """mlp, or residual: a block with layer norm (SimBa, arXiv:2410.09754) for each width, which must be equal; or
    transformer: likewise, over a window."""
    window: int = 1
    """Observations that are read, for net transformer."""
    lr: float = 3e-4
    """Adam's learning rate."""
    head: Literal["gaussian", "mixture", "squared"] = "gaussian"
    """For continuous actions: one Gaussian, a mixture of them, or a mean fitted by its squared error."""
    components: int = 5
    """Gaussians in a mixture."""
    log_std_low: float = -5.0
    """Least log standard deviation, in units of the action's own spread in the data; below 0."""
    log_std_high: float = 2.0
    """Greatest log standard deviation, in the same units; above 0. Training starts near 0."""
    top_fraction: float = 1.0
    """Share of the episodes that is cloned, those of the highest return."""
    return_conditioned: bool = False
    """Give the return to go as an input."""
    target_return: float | None = None
    """Return a return-conditioned policy asks for; None: the highest in the data."""
    hindsight: float = 0.0
    """Share of steps shown with a goal reached later; needs `achieved`."""
    achieved: tuple[int, ...] = ()
    """Observation numbers that show the goal reached, in the goal's order."""

    def __post_init__(self) -> None:
        check_hidden(self.hidden, self.net, windows=True)
        check_positive(self, "lr", "top_fraction")
        check_fraction(self, "top_fraction", "hindsight")
        check_count(self, "components", "window")
        if (self.net == "transformer") != (self.window > 1):
            raise ValueError(
                f"net is {self.net} and window {self.window}: a transformer reads a window of 2 observations or more, "
                "the other nets read one; set both, as in net=transformer window=8"
            )
        if self.head not in ("gaussian", "mixture", "squared"):
            raise ValueError(f"head is {self.head!r}; expected gaussian, mixture or squared")
        if not self.log_std_low < 0 < self.log_std_high:
            raise ValueError(
                f"log_std_low < 0 < log_std_high must hold, got {self.log_std_low} and {self.log_std_high}"
            )
        if self.hindsight and self.return_conditioned:
            raise ValueError("hindsight and return_conditioned: a relabelled episode's return is unknown; choose one")
        if self.target_return is not None and not (self.return_conditioned and math.isfinite(self.target_return)):
            raise ValueError(f"target_return must be finite and needs return_conditioned, got {self.target_return}")

    @property
    def compiles(self) -> bool:
        """Unless it reads windows."""
        return self.window == 1

    @property
    def needs(self) -> Needs:
        """Transitions or windows; what else depends on the kind."""
        return Needs(
            window=self.window,
            reward=self.return_conditioned or self.top_fraction < 1,
            goal=self.hindsight > 0,
            returns_to_go=self.return_conditioned,
            discount=1.0 if self.return_conditioned else None,
            hindsight=self.hindsight,
            achieved=self.achieved if self.hindsight else (),
            top_fraction=self.top_fraction,
        )

    def build(self, spec: Spec, *, seed: int, device: str) -> BC:
        """A cloner as the data's actions and `head` ask."""
        kinds = {"gaussian": GaussianBC, "mixture": MixtureBC, "squared": SquaredBC}
        return (CategoricalBC if spec.discrete else kinds[self.head])(self, spec, seed=seed, device=device)


PRESETS = {
    "filtered-bc": BCConfig(top_fraction=0.1),
    "mixture-bc": BCConfig(head="mixture"),
    "return-bc": BCConfig(return_conditioned=True),
    "goal-bc": BCConfig(hindsight=1.0),
    "history-bc": BCConfig(net="transformer", window=8, hidden=(128, 128, 128)),
}


def bounded_log_std(free: Tensor, low: float, high: float) -> Tensor:
    """Any real number into (low, high), smoothly, 0 staying 0; needs low < 0 < high."""
    return low + (high - low) * torch.sigmoid(free + math.log(-low / high))


class BC(Checkpointed):
    """What all kinds share: an observation normaliser, one network, one optimiser."""

    metric = "nll"

    def __init__(self, config: BCConfig, spec: Spec, *, outputs: int, seed: int, device: str) -> None:
        weights = generator(child_seed(seed, "parameters"))
        self.config, self.device, self.discrete, self.action_dim = config, device, spec.discrete, spec.action_dim
        self.observe = Normalizer(spec.obs).to(device)
        self.returns = ReturnScale(spec, config.target_return).to(device)
        inputs = spec.obs_dim + config.return_conditioned
        net = single(config.net, inputs, config.hidden, outputs, window=config.window, generator=weights)
        self.net = net.to(device)
        self.optimizer = adam(self.net.parameters(), config.lr)

    def outputs(self, obs: Tensor, to_go: Tensor | None) -> Tensor:
        """Raw observations (..., O) and, if conditioned, returns to go (...) -> the network's outputs (..., K)."""
        inputs = self.observe(obs)
        if self.config.return_conditioned:
            target = self.returns.target.expand(obs.shape[:-1]) if to_go is None else to_go
            inputs = torch.cat([inputs, self.returns(target).unsqueeze(-1)], -1)
        return self.net(inputs)

    def losses(self, outputs: Tensor, action: Tensor) -> Tensor:
        """What is minimised, from the network's outputs (..., outputs) and raw actions (..., A); (...)."""
        raise NotImplementedError

    def best(self, outputs: Tensor) -> Tensor:
        """The policy's actions from the network's outputs (N, outputs)."""
        raise NotImplementedError

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step up the likelihood, `nll` in nats and raw action units; or down the squared error."""
        check_batch(batch, self.config.needs)
        each = self.losses(self.outputs(batch.obs[:, :-1], batch.return_to_go), batch.action)  # (B, L)
        loss = each.mean() if self.config.window == 1 else valid_mean(each, batch.valid)
        descend(self.optimizer, loss)
        self.step += 1
        return {self.metric: loss.detach()}

    def choose(self, obs: Tensor, to_go: Tensor | None = None) -> Tensor:
        """The policy's actions for raw observations (N, O) and, if conditioned, returns to go (N,).

        With a window, for every step of histories (N, L, O) and (N, L).
        """
        return self.best(self.outputs(obs, to_go))

    def policy(self, *, seed: int) -> Policy:
        """The mean or the mode; deterministic, so `seed` is unused."""
        if self.config.window > 1:
            return History(self, lambda to_go, obs, _: self.choose(obs, to_go), self.config.window)
        if self.config.return_conditioned:
            return ReturnConditioned(self.choose, float(self.returns.target), self.device)
        return Memoryless(self.choose, self.device)


class Density(BC):
    """A cloner that has a likelihood, and climbs it."""

    @property
    def exactness(self) -> Exactness:
        """Whether one observation gives the probability of an action: not with a window, which needs its past."""
        return "exact" if self.config.window == 1 else "none"

    def log_prob(self, outputs: Tensor, action: Tensor) -> Tensor:
        """log p(action) in nats, raw units, from the network's outputs; (..., outputs), (..., A) -> (...)."""
        raise NotImplementedError

    def action_log_prob(self, obs: Tensor, action: Tensor, to_go: Tensor | None = None) -> Tensor:
        """Log probability (density, if continuous) in nats, raw units; (..., O), (..., A) -> (...).

        Without `to_go` (...), a return-conditioned policy is asked for its target. With a window, the axis before
        the last is time.
        """
        return self.log_prob(self.outputs(obs, to_go), action)

    def losses(self, outputs: Tensor, action: Tensor) -> Tensor:
        return -self.log_prob(outputs, action)


class ContinuousBC(BC):
    """Continuous actions, standardised; `sizes` outputs for each action dimension, and `extra` besides."""

    def __init__(self, config: BCConfig, spec: Spec, *, sizes: int, extra: int = 0, seed: int, device: str) -> None:
        super().__init__(config, spec, outputs=sizes * spec.action_dim + extra, seed=seed, device=device)
        self.scale = Normalizer(spec.action).to(device)
        self.low, self.high = (torch.as_tensor(x, device=device) for x in (spec.action_low, spec.action_high))

    def bounded(self, free: Tensor) -> Tensor:
        """Log standard deviations within the configured limits."""
        return bounded_log_std(free, self.config.log_std_low, self.config.log_std_high)

    def summed(self, log_prob: Tensor) -> Tensor:
        """Log densities (..., A) of standardised dimensions as one of the raw action (...).

        Dimensions that are constant in the data count zero nats.
        """
        return ((log_prob - self.scale.std.log()) * self.scale.kept).sum(-1)

    def raw(self, standard: Tensor) -> Tensor:
        """A standardised action in raw units, within the limits."""
        return self.scale.inverse(standard).clamp(self.low, self.high)


class Binned(ContinuousBC, Density):
    """A cloner of continuous actions that has a density, and so a mass for every bin of the executed action."""

    def log_mass(self, outputs: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """log P(low < action <= high) in nats from the network's outputs; standardised edges (B, A) -> (B,)."""
        raise NotImplementedError

    def action_log_mass(self, obs: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """log P(low < action <= high) in nats: (B, O), edges (B, A) in raw units -> (B,) float64.

        Without a return to go, a return-conditioned policy is asked for its target.
        """
        low, high = ((edge - self.scale.mean) / self.scale.std for edge in (low, high))
        return self.log_mass(self.outputs(obs, None), low, high)


class GaussianBC(Binned):
    """Diagonal Gaussian over standardised actions: log N((a - m) / s) - log s, summed."""

    def __init__(self, config: BCConfig, spec: Spec, *, seed: int, device: str) -> None:
        super().__init__(config, spec, sizes=2, seed=seed, device=device)

    def log_prob(self, outputs: Tensor, action: Tensor) -> Tensor:
        mean, free = outputs.chunk(2, dim=-1)
        return self.summed(gaussian_log_prob(self.scale(action), mean, self.bounded(free)))

    def log_mass(self, outputs: Tensor, low: Tensor, high: Tensor) -> Tensor:
        mean, free = outputs.chunk(2, dim=-1)
        return interval_log_mass(low, high, mean, self.bounded(free)).sum(-1)

    def best(self, outputs: Tensor) -> Tensor:
        return self.raw(outputs.chunk(2, dim=-1)[0])


class MixtureBC(Binned):
    """A mixture of K diagonal Gaussians: log sum_k w_k N_k(a), exact."""

    def __init__(self, config: BCConfig, spec: Spec, *, seed: int, device: str) -> None:
        count = config.components
        super().__init__(config, spec, sizes=2 * count, extra=count, seed=seed, device=device)

    def parameters(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights (..., K), means and log standard deviations (..., K, A)."""
        count = self.config.components
        weight, rest = outputs[..., :count], outputs[..., count:]
        mean, free = rest.unflatten(-1, (2, count, -1)).unbind(-3)
        return weight.log_softmax(-1), mean, self.bounded(free)

    def log_prob(self, outputs: Tensor, action: Tensor) -> Tensor:
        weight, mean, log_std = self.parameters(outputs)
        each = self.summed(gaussian_log_prob(self.scale(action).unsqueeze(-2), mean, log_std))
        return (weight + each).logsumexp(-1)

    def log_mass(self, outputs: Tensor, low: Tensor, high: Tensor) -> Tensor:
        weight, mean, log_std = self.parameters(outputs)
        each = interval_log_mass(low.unsqueeze(-2), high.unsqueeze(-2), mean, log_std)
        return (weight + each.sum(-1)).logsumexp(-1)

    def best(self, outputs: Tensor) -> Tensor:
        weight, mean, _ = self.parameters(outputs)
        likeliest = weight.argmax(-1)[..., None, None].expand(*mean.shape[:-2], 1, mean.shape[-1])
        return self.raw(mean.gather(-2, likeliest).squeeze(-2))


class SquaredBC(ContinuousBC):
    """A mean fitted by its squared error; no likelihood."""

    metric = "mse"

    def __init__(self, config: BCConfig, spec: Spec, *, seed: int, device: str) -> None:
        super().__init__(config, spec, sizes=1, seed=seed, device=device)

    def losses(self, outputs: Tensor, action: Tensor) -> Tensor:
        return (outputs - self.scale(action)).square().mean(-1)

    def best(self, outputs: Tensor) -> Tensor:
        return self.raw(outputs)


class CategoricalBC(Density):
    """Softmax over the actions, which a Batch holds one-hot."""

    def __init__(self, config: BCConfig, spec: Spec, *, seed: int, device: str) -> None:
        super().__init__(config, spec, outputs=spec.action_dim, seed=seed, device=device)

    def log_prob(self, outputs: Tensor, action: Tensor) -> Tensor:
        return (outputs.log_softmax(-1) * action).sum(-1)

    def best(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(-1)
