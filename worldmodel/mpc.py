"""Model-predictive control: learn what actions do, then plan with it at every step."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from toolkit.core import Batch, Family, Given, LearnerConfig, Needs, Reactive, Spec, StateValue, child_seed
from toolkit.nets import Checkpointed, adamw, descend, generator
from worldmodel.doubt import HeldOut
from worldmodel.guide import Clone
from worldmodel.model import EnsembleModel, Selection
from worldmodel.planning import Planning
from worldmodel.policy import Planned, PlannerPolicy, planner

HELD_OUT = 10  # one episode in this many is kept for choosing members, if there are that many


@dataclass(frozen=True)
class MPCConfig(Planning, LearnerConfig):
    """A probabilistic ensemble, planned with at every step.

    The model is that of PETS (arXiv:1805.12114), the planner that of iCEM (arXiv:2008.06389) or another, the
    penalty for disagreement follows MOPO (arXiv:2005.13239). A plan's worth ends at its horizon, unless `value`
    names a run that says what the state reached there is worth.
    """

    name: ClassVar[str] = "mpc"
    family: ClassVar[Family] = "model_based"
    paper: ClassVar[str] = "1805.12114"
    actions: ClassVar = ("continuous", "discrete")
    runs: ClassVar = ("prior", "value")

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

    def __post_init__(self) -> None:
        for field in ("members", "elites", "compare_every"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}")
        if self.elites > self.members:
            raise ValueError(f"elites ({self.elites}) must not exceed members ({self.members})")
        if not (self.lr > 0 and self.weight_decay >= 0):
            raise ValueError(f"lr must be positive and weight_decay not negative, got {self.lr}, {self.weight_decay}")
        self.check(self.elites)

    @property
    def needs(self) -> Needs:
        """Transitions and their rewards."""
        return Needs(reward=True)

    def build(self, spec: Spec, *, seed: int, device: str) -> MPC:
        """Raises ValueError if reward is goal and the data's goal does not fit `achieved`."""
        return MPC(self, spec, seed=seed, device=device)


PRESETS = {
    "mpc-small": MPCConfig(samples=30, iterations=2, horizon=10, best=5),
    "mpc-large": MPCConfig(samples=250, iterations=5, horizon=30, best=25, particles=5, decay=1.25),
    "mbop": MPCConfig(planner="mbop", samples=100, iterations=1, horizon=10, momentum=0.0),
}


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
        if config.reward == "goal" and len(config.achieved) != spec.goal_dim:
            raise ValueError(
                f"achieved names {len(config.achieved)} observation numbers, the data's goal has {spec.goal_dim}; "
                "reward goal needs one for each"
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
        self.held_out = HeldOut(spec).to(device)
        self.given = Given()
        self.clone: Clone | None = None
        if config.clones:
            rng = generator(child_seed(seed, "mpc", "clone"))
            self.clone = Clone(spec, hidden, generator=rng).to(device)
            self.clone_optimizer = adamw(self.clone.parameters(), config.lr, weight_decay=config.weight_decay)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step on windows of one transition; every `compare_every`, the weights to keep are chosen.

        Metrics, means over members in nats: `nll` of this batch's training rows, and `selection_nll`,
        of the rows that choose since the last choice. Either is 0 before it has any rows. `clone` is the
        loss of the cloned prior, if there is one.
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
        unseen = test if self.spec.episodes >= HELD_OUT else train
        self.selection.add(nll, unseen)
        self.held_out.add(batch.obs[:, 0], batch.action[:, 0], unseen)
        selection_nll = self.selection.mean().mean()
        self.step += 1
        if self.step % self.config.compare_every == 0:
            self._keep(self.selection.look())
        mean = nll.where(train, 0.0).sum() / (train.sum() * len(nll)).clamp_min(1)
        metrics = {"nll": mean, "selection_nll": selection_nll}
        if self.clone is not None:
            loss = self.clone.loss(batch.obs[:, 0], batch.action[:, 0], train)
            descend(self.clone_optimizer, loss)
            metrics["clone"] = loss.detach()
        return metrics

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

    def receive(self, given: Given) -> None:
        """Take the learners of `prior` and `value`, and a known reward. Raises ValueError if one cannot serve."""
        due = [name for name in self.config.runs if getattr(self.config, name) is not None]
        if missing := [name for name in due if name not in given.learners]:
            raise ValueError(f"{missing[0]} is {getattr(self.config, missing[0])!r}, but no such learner was given")
        if "prior" in due and not isinstance(given.learners["prior"].policy(seed=0), Reactive):
            raise ValueError(
                f"prior {self.config.prior!r}: its policy remembers, plans ahead or asks for a return; a prior has to "
                "act on the observation alone, as bc, iql, td3bc and cql do"
            )
        if "value" in due and not isinstance(given.learners["value"], StateValue):
            raise ValueError(
                f"value {self.config.value!r}: its learner knows no value of a state; take one of iql, cql, td3bc, "
                "awac or rebrac"
            )
        if self.config.reward == "known" and given.reward is None:
            raise ValueError(
                "reward is known, but the data's suite states no reward as a function: use learned or goal"
            )
        self.given = given

    def policy(self, *, seed: int) -> PlannerPolicy:
        """A planner with the elite members' weights of this moment; later updates do not reach it.

        Raises ValueError if the configuration names runs, or a known reward, that were never received.
        """
        self.receive(self.given)
        planned = Planned(self.spec, self.best_model(), self.held_out.inputs(), copy.deepcopy(self.clone), self.given)
        return planner(self.config, planned, seed=seed, device=self.device)
