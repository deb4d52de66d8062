"""Model-predictive control: learn what actions do, then plan with it at every step."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from toolkit.core import Array, Batch, Exactness, Family, Imagined, LearnerConfig, Needs, Reached, Spec, child_seed
from toolkit.nets import Checkpointed, descend, generator
from worldmodel.calibration import calibrate
from worldmodel.heads import GaussianHead
from worldmodel.mixture import AutoregressiveHead
from worldmodel.model import EnsembleModel, MakeHead
from worldmodel.policy import PlannerPolicy
from worldmodel.selection import BLOCK, Reservoir, Rows, Selection

HELD_OUT = 10  # one episode in this many is kept for choosing members, if there are that many
HELD_OUT_ROWS = 2048  # windows of them that every look uses
HEADS: dict[str, MakeHead] = {"gaussian": GaussianHead, "autoregressive": AutoregressiveHead}


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
    patience: int = 0
    """Looks without improvement after which a member stops training, at its best weights; 0 never stops."""
    head: Literal["gaussian", "autoregressive"] = "gaussian"
    """What a member predicts: independent Gaussians, or mixtures of them, each dimension given those before it."""
    rollout: int = 1
    """Steps a member is trained over, each from its own prediction of the one before."""
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
        if self.head not in HEADS:
            raise ValueError(f"head is {self.head!r}; expected {' or '.join(HEADS)}")
        if self.patience < 0:
            raise ValueError(f"patience must not be negative, got {self.patience}")
        counts = (
            "members",
            "elites",
            "compare_every",
            "rollout",
            "samples",
            "iterations",
            "horizon",
            "best",
            "particles",
        )
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
        """Windows of `rollout` steps and their rewards."""
        return Needs(window=self.rollout, reward=True)

    def build(self, spec: Spec, *, seed: int, device: str) -> MPC:
        """Raises ValueError if actions are discrete."""
        return MPC(self, spec, seed=seed, device=device)


class MPC(Checkpointed):
    """Trains the ensemble; its policy is a planner.

    One episode in ten (position % 10 == 0, if there are ten) gives no gradient. The first windows drawn of
    these decide: every `compare_every` updates, which weights of a member are kept and which members are elite;
    and the kept ones are calibrated on them. With fewer episodes, windows that also train decide.

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
        self.model = EnsembleModel(
            spec, members=members, elites=elites, hidden=hidden, head=HEADS[config.head], generator=rng
        ).to(device)
        self.kept = copy.deepcopy(self.model)
        self.selection = Selection(config.members).to(device)
        self.reservoir = Reservoir(spec, size=HELD_OUT_ROWS, window=config.rollout).to(device)
        rng = generator(child_seed(seed, "mpc", "bootstrap"))
        self.share = torch.empty(config.members, spec.episodes).exponential_(generator=rng).to(device)
        parameters = list(self.model.parameters())
        fused = parameters[0].device.type in {"cpu", "cuda"}
        self.optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=fused)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step on windows of `rollout` steps; every `compare_every`, the weights to keep are chosen.

        Metrics, means over members in nats a step: `nll` of this batch's training windows, 0 if it has none, and
        `selection_nll` of the weights kept, on the windows that choose; 0 before the first look.

        Raises ValueError if the windows have another length.
        """
        config = self.config
        if batch.action.shape[1] != config.rollout:
            raise ValueError(
                f"batch has windows of {batch.action.shape[1]} steps; expected {config.rollout}, the option rollout"
            )
        held_out = (batch.episode % HELD_OUT == 0) & (self.spec.episodes >= HELD_OUT)
        train, choose = (index.nonzero().squeeze(1) for index in (~held_out, held_out))
        self.reservoir.add(batch, choose if self.spec.episodes >= HELD_OUT else train)
        rows = Rows.of(batch, train)
        nll = self.model.nll(*rows)  # (M, n)
        present = rows.valid.any(1)
        weight = self.share[:, batch.episode[train] % self.share.shape[1]] * present
        fit = ((weight * nll).sum(1) / weight.sum(1).clamp_min(1e-6)).sum()
        descend(self.optimizer, fit + 0.01 * self.model.head.penalty())
        self.model.ends |= (rows.terminated & rows.valid).any()
        self.step += 1
        if config.patience:
            self._copy(self.kept, self.model, ~self.selection.moving(config.patience))
        if self.step % config.compare_every == 0:
            self._look()
        mean = nll.detach().sum() / (present.sum() * len(nll)).clamp_min(1)
        best = self.selection.best
        return {"nll": mean, "selection_nll": best.where(best.isfinite(), 0.0).mean()}

    @torch.no_grad()
    def _look(self) -> None:
        """Keep the weights of the members that do better on the rows that choose, name the elite, and calibrate."""
        rows, nll = self.reservoir.rows(), torch.full_like(self.selection.best, torch.inf)
        if count := len(rows.obs):
            blocks = zip(*(part.split(BLOCK) for part in rows), strict=True)
            nll = torch.stack([self.model.nll(*block).sum(1) for block in blocks]).sum(0) / count
        better = self.selection.look(nll)
        self._copy(self.model, self.kept, better)
        self.kept.ends.copy_(self.model.ends)
        self.kept.elites.copy_(self.selection.best.argsort(stable=True)[: self.config.elites])
        calibrate(self.kept, rows)

    @staticmethod
    @torch.no_grad()
    def _copy(source: EnsembleModel, target: EnsembleModel, which: Tensor) -> None:
        """Give `target` the members `which` (M,) bool of `source`."""
        for old, new in zip(target.parameters(), source.parameters(), strict=True):
            old.copy_(torch.where(which.view(-1, *[1] * (old.dim() - 1)), new, old))

    def best_model(self) -> EnsembleModel:
        """Every member with its best weights; before the first comparison, with its present ones."""
        return self.kept if self.step >= self.config.compare_every else self.model

    def transition_log_prob(self, obs: Tensor, action: Tensor, next_obs: Tensor, reward: Tensor) -> Tensor:
        """log p(next_obs, reward | obs, action) under the elite ensemble, nats, raw units; (B, ...) -> (B,)."""
        return self.best_model().log_prob(obs, action, next_obs, reward)

    def imagine(self, obs: Tensor, action: Tensor, *, generator: torch.Generator | None = None) -> Imagined:
        """One step in the elite ensemble; see `toolkit.core.Dynamics`."""
        return self.best_model().imagine(obs, action, generator=generator)

    def unseen(self, episodes: int) -> Array:
        """The episodes that only chose and calibrated; see `toolkit.core.Dynamics`."""
        return np.arange(0, episodes if episodes >= HELD_OUT else 0, HELD_OUT)

    def termination_log_prob(self, obs: Tensor, action: Tensor, terminated: Tensor) -> Tensor:
        """log p(terminated | obs, action) under the elite ensemble, nats; (B, ...), (B,) bool -> (B,)."""
        return self.best_model().termination_log_prob(obs, action, terminated)

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
