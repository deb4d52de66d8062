"""Decision Transformer: a causal transformer reads returns to go, observations and actions, and gives the next."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from algos._common import (
    ActionScale,
    ReturnScale,
    check_batch,
    check_count,
    check_dropout,
    check_not_negative,
    check_positive,
    valid_mean,
)
from algos._history import History
from toolkit.core import Batch, Family, LearnerConfig, Needs, Policy, Spec, child_seed
from toolkit.nets import Checkpointed, Transformer, adamw, descend, generator, started
from toolkit.normalize import Normalizer


@dataclass(frozen=True)
class DTConfig(LearnerConfig):
    """Decision Transformer (arXiv:2106.01345); constants of the authors' Gym tasks, where batches are of 64.

    The policy asks for `target_return`, less what it has received, and remembers `context` steps. Continuous
    actions are a tanh fitted by its squared error, discrete ones a softmax, of which the mode is taken.

    Against the authors' code (kzl/decision-transformer, gym/experiment.py): positions count from the window's
    start, not from the episode's; windows start anywhere and end early at an episode's end, theirs are padded in
    front, which comes to the same; returns are divided by the largest in the data, theirs by a number for each task;
    embeddings too start with standard deviation 0.02, theirs as torch's layers do.
    """

    name: ClassVar[str] = "dt"
    family: ClassVar[Family] = "supervised"
    paper: ClassVar[str] = "2106.01345"
    actions: ClassVar = ("continuous", "discrete")

    context: int = 20
    """Steps that are read, each as three tokens: return to go, observation, action."""
    width: int = 128
    """Numbers in a token."""
    layers: int = 3
    """Blocks of attention and perceptron."""
    heads: int = 1
    """Of attention; must divide the width."""
    dropout: float = 0.1
    """Share of numbers dropped in training: after the embedding, in attention and after each part of a block."""
    lr: float = 1e-4
    """AdamW's learning rate, after warming up."""
    weight_decay: float = 1e-4
    """AdamW's."""
    warmup: int = 10_000
    """Updates in which the learning rate rises to `lr`."""
    clip: float = 0.25
    """Ceiling of the gradient's norm."""
    target_return: float | None = None
    """Return the policy asks for; None: the highest in the data."""

    def __post_init__(self) -> None:
        check_count(self, "context", "width", "layers", "heads")
        check_positive(self, "lr", "clip")
        check_not_negative(self, "weight_decay", "warmup")
        check_dropout(self.dropout)
        if self.width % self.heads:
            raise ValueError(f"heads must divide width, got {self.heads} and {self.width}")
        if self.target_return is not None and not math.isfinite(self.target_return):
            raise ValueError(f"target_return must be finite, got {self.target_return}")

    @property
    def needs(self) -> Needs:
        """Windows with undiscounted returns to go."""
        return Needs(window=self.context, reward=True, returns_to_go=True, discount=1.0)

    def build(self, spec: Spec, *, seed: int, device: str) -> DT:
        """Raises ValueError for unbounded actions."""
        return DT(self, spec, seed=seed, device=device)


def imitation_loss(output: Tensor, action: Tensor, valid: Tensor, discrete: bool) -> Tensor:
    """Mean over valid steps of the squared error of tanh(output), or of -log softmax; (B, L, A), (B, L) bool."""
    each = -(output.log_softmax(-1) * action).sum(-1) if discrete else (output.tanh() - action).square().mean(-1)
    return valid_mean(each, valid)


class ReturnsToActions(nn.Module):
    """Returns to go (B, L), observations (B, L, O), actions (B, L, A) -> outputs (B, L, A); none sees a later token."""

    def __init__(self, config: DTConfig, obs_dim: int, action_dim: int) -> None:
        super().__init__()
        width = config.width
        self.of_return, self.of_obs, self.of_action = (nn.Linear(size, width) for size in (1, obs_dim, action_dim))
        self.position = nn.Embedding(config.context, width)
        self.trunk = Transformer(width, layers=config.layers, heads=config.heads, dropout=config.dropout)
        self.out = nn.Linear(width, action_dim)

    def forward(self, to_go: Tensor, obs: Tensor, action: Tensor, random: torch.Generator | None) -> Tensor:
        batch, steps, _ = obs.shape
        tokens = torch.stack([self.of_return(to_go.unsqueeze(-1)), self.of_obs(obs), self.of_action(action)], 2)
        tokens = tokens + self.position.weight[:steps, None]  # (B, L, 3, D): return, observation, action
        return self.out(self.trunk(tokens.flatten(1, 2), random).view(batch, steps, 3, -1)[:, :, 1])


class DT(Checkpointed):
    """A transformer, its optimiser and the noise of dropout."""

    def __init__(self, config: DTConfig, spec: Spec, *, seed: int, device: str) -> None:
        weights = generator(child_seed(seed, "parameters"))
        self.config, self.device, self.discrete, self.action_dim = config, device, spec.discrete, spec.action_dim
        self.noise = generator(child_seed(seed, "noise"), device)
        self.observe = Normalizer(spec.obs).to(device)
        self.scale = ActionScale(spec).to(device)
        self.returns = ReturnScale(spec, config.target_return).to(device)
        self.net = started(lambda: ReturnsToActions(config, spec.obs_dim, spec.action_dim), weights).to(device)
        self.optimizer = adamw(self.net.parameters(), config.lr, weight_decay=config.weight_decay)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step down the imitation loss over the window's valid steps (algorithm 1)."""
        config = self.config
        check_batch(batch, config.needs)
        assert batch.return_to_go is not None
        action = self.scale(batch.action)
        output = self.net(self.returns(batch.return_to_go), self.observe(batch.obs[:, :-1]), action, self.noise)
        loss = imitation_loss(output, action, batch.valid, self.discrete)
        self.step += 1
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * min(1.0, self.step / max(1, config.warmup))
        descend(self.optimizer, loss, clip=config.clip)
        return {"nll" if self.discrete else "mse": loss.detach()}

    def choose(self, to_go: Tensor, obs: Tensor, action: Tensor) -> Tensor:
        """Actions for every step of histories: returns to go (N, L), observations (N, L, O), actions (N, L, A), raw.

        An action sees the steps before it, so what stands in its own place does not matter.
        """
        output = self.net(self.returns(to_go), self.observe(obs), self.scale(action), None)
        return output.argmax(-1) if self.discrete else self.scale.inverse(output.tanh())

    def policy(self, *, seed: int) -> Policy:
        """Reads the last `context` steps of each row; deterministic, so `seed` is unused."""
        return History(self, self.choose, self.config.context)
