"""Model-predictive control: learn what actions do, then plan with it at every step."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from toolkit.core import Batch, Exactness, Family, LearnerConfig, Needs, Reached, Spec, child_seed
from toolkit.nets import Checkpointed, descend, generator
from worldmodel.model import EnsembleModel, Selection
from worldmodel.policy import PlannerPolicy

HELD_OUT = 10  # one episode in this many is kept for choosing members, if there are that many


@dataclass(frozen=True)
class MPCConfig(LearnerConfig):
    """A probabilistic ensemble planned with the cross-entropy method.

    The model is that of PETS (arXiv:1805.12114), the planner that of iCEM (arXiv:2008.06389), the
    penalty for disagreement follows MOPO (arXiv:2005.13239). A plan's worth ends at its horizon:
    there is no terminal value and no prior policy, so rewards further away than `horizon` steps are not seen.
    """

    name: ClassVar[str] = "mpc"
    family: ClassVar[Family] = "model_based"
    paper: ClassVar[str] = "1805.12114"

    hidden: tuple[int, ...] = (128, 128)
    """Widths of each member's hidden layers."""
    members: int = 7
    """Networks trained."""
    elites: int = 5
    """Networks planned with: those of highest held-out likelihood."""
    lr: float = 1e-3
    """Learning rate of AdamW."""
    weight_decay: float = 1e-4
    """Decoupled weight decay of AdamW."""
    compare_every: int = 250
    """Updates between two looks at the held-out likelihood; each member keeps its weights of the best look."""
    samples: int = 60
    """Action sequences scored in an iteration."""
    iterations: int = 3
    """Rounds of sampling for each action taken."""
    horizon: int = 20
    """Steps a sequence looks ahead."""
    best: int = 8
    """Sequences an iteration's mean and spread are taken from."""
    momentum: float = 0.1
    """Share of the old mean and spread in the new."""
    keep: float = 0.3
    """Fraction of `best` that is scored again in the next iteration, and after a step."""
    colour: float = 2.0
    """Exponent of the noise's spectrum over a sequence: 0 is white, larger holds actions for longer."""
    spread: float = 1.0
    """Standard deviation a search starts with, as a fraction of half the action range; samples are clipped to it."""
    particles: int = 1
    """Elite members that imagine each sequence. 1 deals sequences out to members, `elites` asks every member."""
    discount: float = 0.99
    """Weight of a reward one step later."""
    penalty: float = 0.0
    """Reward, in its standard deviations, lost for one of disagreement about the observation; needs particles > 1."""

    def __post_init__(self) -> None:
        counts = ("members", "elites", "compare_every", "samples", "iterations", "horizon", "best", "particles")
        for field in counts:
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}")
        if not self.particles <= self.elites <= self.members:
            raise ValueError(
                f"particles ({self.particles}) must not exceed elites ({self.elites}), "
                f"nor elites members ({self.members})"
            )
        if self.samples * self.particles % self.elites:
            raise ValueError(
                f"samples * particles ({self.samples} * {self.particles}) must divide evenly among "
                f"elites ({self.elites})"
            )
        if not self.best + 1 < self.samples:
            raise ValueError(f"best ({self.best}) must be smaller than samples ({self.samples}) by 2 or more")
        if not (0 <= self.momentum < 1 and 0 <= self.keep <= 1 and 0 < self.discount <= 1):
            raise ValueError(
                "momentum must lie in [0, 1), keep in [0, 1] and discount in (0, 1], "
                f"got {self.momentum}, {self.keep} and {self.discount}"
            )
        if not (self.lr > 0 and self.spread > 0 and self.weight_decay >= 0 and self.colour >= 0 and self.penalty >= 0):
            raise ValueError(
                "lr and spread must be positive; weight_decay, colour and penalty must not be negative, got "
                f"{self.lr}, {self.spread}, {self.weight_decay}, {self.colour} and {self.penalty}"
            )
        if self.penalty and self.particles == 1:
            raise ValueError(f"penalty {self.penalty} needs particles > 1: one member cannot disagree with itself")

    @property
    def needs(self) -> Needs:
        """Transitions and their rewards."""
        return Needs(reward=True)

    def build(self, spec: Spec, *, seed: int, device: str) -> MPC:
        """Raises ValueError if actions are discrete."""
        return MPC(self, spec, seed=seed, device=device)


class MPC(Checkpointed):
    """Trains the ensemble; its policy is a planner.

    One episode in ten (position % 10 == 0, if there are ten) gives no gradient: its likelihood,
    averaged over `compare_every` updates, decides which weights of a member are kept and which members
    are elite. With fewer episodes the training likelihood decides.

    Members are bootstrapped by episode, because the transitions of one episode resemble each other: a
    member weighs an episode by an exponential variable drawn once from the seed (the Bayesian
    bootstrap). Weights drawn anew for every batch would average out and leave the members alike.
    """

    def __init__(self, config: MPCConfig, spec: Spec, *, seed: int, device: str) -> None:
        if spec.obs_dim == 0:
            raise ValueError("mpc predicts vector observations, but the data have only images: collect vectors too")
        if spec.discrete:
            raise ValueError(
                "mpc plans continuous actions for now; train a learner that takes discrete actions instead"
            )
        self.config, self.spec, self.device = config, spec, device
        rng = generator(child_seed(seed, "mpc", "weights"))
        members, elites, hidden = config.members, config.elites, config.hidden
        self.model = EnsembleModel(spec, members=members, elites=elites, hidden=hidden, generator=rng).to(device)
        self.kept = copy.deepcopy(self.model)
        self.selection = Selection(config.members).to(device)
        rng = generator(child_seed(seed, "mpc", "bootstrap"))
        self.share = torch.empty(config.members, spec.episodes).exponential_(generator=rng).to(device)
        parameters = list(self.model.parameters())
        fused = parameters[0].device.type in {"cpu", "cuda"}
        self.optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=fused)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step on windows of one transition; every `compare_every`, the weights to keep are chosen.

        Metrics, means over members in nats: `nll` of this batch's training rows, and `selection_nll`,
        of the rows that choose since the last choice. Either is 0 before it has any rows.
        """
        valid, episode = batch.valid[:, 0], batch.episode
        held_out = (episode % HELD_OUT == 0) & (self.spec.episodes >= HELD_OUT)
        nll = self.model.nll(
            batch.obs[:, 0], batch.action[:, 0], batch.obs[:, 1], batch.reward[:, 0], batch.terminated[:, 0]
        )  # (M, B)
        train, test = valid & ~held_out, valid & held_out
        weight = self.share[:, episode % self.share.shape[1]] * train
        fit = ((weight * nll).sum(1) / weight.sum(1).clamp_min(1e-6)).sum()
        descend(self.optimizer, fit + 0.01 * self.model.head.penalty())
        self.model.ends |= (batch.terminated[:, 0] & train).any()
        nll = nll.detach()
        self.selection.add(nll, test if self.spec.episodes >= HELD_OUT else train)
        selection_nll = self.selection.mean().mean()
        self.step += 1
        if self.step % self.config.compare_every == 0:
            self._keep(self.selection.look())
        mean = nll.where(train, 0.0).sum() / (train.sum() * len(nll)).clamp_min(1)
        return {"nll": mean, "selection_nll": selection_nll}

    @torch.no_grad()
    def _keep(self, better: Tensor) -> None:
        """Copy the weights of the members that did better (M,) bool, and name the elite."""
        for kept, now in zip(self.kept.parameters(), self.model.parameters(), strict=True):
            kept.copy_(torch.where(better.view(-1, *[1] * (now.dim() - 1)), now, kept))
        self.kept.ends.copy_(self.model.ends)
        self.kept.elites.copy_(self.selection.best.argsort(stable=True)[: self.config.elites])

    def best_model(self) -> EnsembleModel:
        """Every member with its best weights; before the first comparison, with its present ones."""
        return self.kept if self.step >= self.config.compare_every else self.model

    def log_prob(self, obs: Tensor, action: Tensor, next_obs: Tensor, reward: Tensor) -> Tensor:
        """log p(next_obs, reward | obs, action) under the elite ensemble, nats, raw units; (B, ...) -> (B,)."""
        return self.best_model().log_prob(obs, action, next_obs, reward)

    @property
    def exactness(self) -> Exactness:
        """What the model's probabilities are."""
        return self.model.head.exactness

    def transition_log_mass(self, reached: Reached) -> Tensor:
        """Log probability of bins and end under the elite ensemble, nats, (B,) float64."""
        return self.best_model().log_mass(reached)

    def policy(self, *, seed: int) -> PlannerPolicy:
        """A planner with the elite members' weights of this moment; later updates do not reach it."""
        return PlannerPolicy(self.config, self.spec, self.best_model(), seed=seed, device=self.device)
