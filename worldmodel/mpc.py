"""Model-predictive control: learn what actions do, then plan with it at every step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from toolkit.core import (
    Array,
    Batch,
    Exactness,
    Family,
    Given,
    Imagined,
    LearnerConfig,
    Needs,
    Reached,
    Reactive,
    Spec,
    StateValue,
    child_seed,
)
from toolkit.nets import Checkpointed, adamw, descend, generator
from worldmodel.calibration import calibrate
from worldmodel.effort import check_effort
from worldmodel.guide import Clone
from worldmodel.heads import GaussianHead
from worldmodel.mixture import AutoregressiveHead
from worldmodel.model import EnsembleModel, MakeHead
from worldmodel.planning import Planning
from worldmodel.policy import Planned, PlannerPolicy, planner
from worldmodel.selection import Reservoir, Rows, Selection, copy_members, mean_nll

HELD_OUT = 10  # one episode in this many is kept for choosing members, if there are that many
HELD_OUT_ROWS = 2048  # windows of them that every look uses
DOUBTED = 512  # of them that the unit of a penalty for disagreement is measured on
HEADS: dict[str, MakeHead] = {"gaussian": GaussianHead, "autoregressive": AutoregressiveHead}


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
    patience: int = 0
    """Looks without improvement after which a member stops training, at its best weights; 0 never stops."""
    head: Literal["gaussian", "autoregressive"] = "gaussian"
    """What a member predicts: independent Gaussians, or mixtures of them, each dimension given those before it."""
    rollout: int = 1
    """Steps a member is trained over, each from its own prediction of the one before."""

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise ValueError(f"head is {self.head!r}; expected {' or '.join(HEADS)}")
        if self.patience < 0:
            raise ValueError(f"patience must not be negative, got {self.patience}")
        for field in ("members", "elites", "compare_every", "rollout"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}")
        if self.elites > self.members:
            raise ValueError(f"elites ({self.elites}) must not exceed members ({self.members})")
        if not (self.lr > 0 and self.weight_decay >= 0):
            raise ValueError(f"lr must be positive and weight_decay not negative, got {self.lr}, {self.weight_decay}")
        self.check(self.elites)

    @property
    def compiles(self) -> bool:
        """Its `fit`: see `toolkit.core.Staged`."""
        return True

    @property
    def needs(self) -> Needs:
        """Windows of `rollout` steps and their rewards."""
        return Needs(window=self.rollout, reward=True)

    def build(self, spec: Spec, *, seed: int, device: str) -> MPC:
        """Raises ValueError if reward is goal and the data's goal does not fit `achieved`, or a plan takes too long."""
        return MPC(self, spec, seed=seed, device=device)


PRESETS = {
    "mpc-small": MPCConfig(samples=30, iterations=2, horizon=10, best=5),
    "mpc-large": MPCConfig(samples=250, iterations=5, horizon=30, best=25, particles=5, decay=1.25),
    # For data without random actions, with a prior and a value: a free search finds where the model is wrong.
    "mpc-near": MPCConfig(horizon=5, spread=0.1, prior_spread=0.05, restart=True, penalty=30.0),
    "mbop": MPCConfig(
        planner="mbop", samples=100, iterations=1, horizon=10, momentum=0.0, prior_spread=0.05, temperature=1.0
    ),
}


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
        if config.reward == "goal" and len(config.achieved) != spec.goal_dim:
            raise ValueError(
                f"achieved names {len(config.achieved)} observation numbers, the data's goal has {spec.goal_dim}; "
                "reward goal needs one for each"
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
        self.optimizer = adamw(self.model.parameters(), config.lr, weight_decay=config.weight_decay)
        self.given = Given()
        self.clone: Clone | None = None
        if config.clones:
            rng = generator(child_seed(seed, "mpc", "clone"))
            self.clone = Clone(spec, hidden, generator=rng).to(device)
            self.clone_optimizer = adamw(self.clone.parameters(), config.lr, weight_decay=config.weight_decay)
        check_effort(config, spec, sum(each.numel() for each in self.model.parameters()) // members)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`. Raises ValueError if it is of another head or another version."""
        for name, part in (("model", self.model), ("reservoir", self.reservoir), ("selection", self.selection)):
            due, found = part.state_dict().keys(), state.get(name, {}).keys()
            if due != found:
                raise ValueError(
                    f"state has {sorted(found - due)} in its {name}, and not {sorted(due - found)}: it was saved with "
                    "another head or another version of the world model; train again"
                )
        super().load_state_dict(state)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step on windows of `rollout` steps; every `compare_every`, the weights to keep are chosen.

        Metrics, means over members in nats a step: `nll` of this batch's training windows, 0 if it has none, and
        `selection_nll` of the weights kept, on the windows that choose; 0 before the first look. `clone` is the loss
        of the cloned prior, if there is one. Raises ValueError if the windows have another length.
        """
        return self.update_with(self.fit, batch)

    def update_with(self, fit: Callable[..., dict[str, Tensor]], batch: Batch) -> dict[str, Tensor]:
        """As `update`, `fit` in place of this learner's own; see `toolkit.core.Staged`."""
        config = self.config
        if batch.action.shape[1] != config.rollout:
            raise ValueError(
                f"batch has windows of {batch.action.shape[1]} steps; expected {config.rollout}, the option rollout"
            )
        held_out = (batch.episode % HELD_OUT == 0) & (self.spec.episodes >= HELD_OUT)
        train, choose = (index.nonzero().squeeze(1) for index in (~held_out, held_out))
        self.reservoir.add(batch, choose if self.spec.episodes >= HELD_OUT else train)
        cloned = (batch.obs[:, 0], batch.action[:, 0], ~held_out & batch.valid[:, 0]) if self.clone is not None else ()
        metrics = fit(Rows.of(batch, train), batch.episode[train], *cloned)
        self.step += 1
        if config.patience:
            copy_members(self.kept, self.model, ~self.selection.moving(config.patience))
        if self.step % config.compare_every == 0:
            self._look()
        best = self.selection.best
        return metrics | {"selection_nll": best.where(best.isfinite(), 0.0).mean()}

    def fit(self, rows: Rows, episode: Tensor, *cloned: Tensor) -> dict[str, Tensor]:
        """One step of the members on `rows` of the episodes (N,), and of the clone on what its loss takes."""
        nll = self.model.nll(*rows)  # (M, N)
        present = rows.valid.any(1)
        weight = self.share[:, episode % self.share.shape[1]] * present
        fit = ((weight * nll).sum(1) / weight.sum(1).clamp_min(1e-6)).sum()
        descend(self.optimizer, fit + 0.01 * self.model.head.penalty())
        self.model.ends |= (rows.terminated & rows.valid).any()
        metrics = {"nll": nll.detach().sum() / (present.sum() * len(nll)).clamp_min(1)}
        if self.clone is not None:
            loss = self.clone.loss(*cloned)
            descend(self.clone_optimizer, loss)
            metrics["clone"] = loss.detach()
        return metrics

    @torch.no_grad()
    def _look(self) -> None:
        """Keep the weights of the members that do better on the rows that choose, name the elite, and calibrate."""
        rows = self.reservoir.rows()
        copy_members(self.model, self.kept, self.selection.look(mean_nll(self.model, rows)))
        self.kept.ends.copy_(self.model.ends)
        self.kept.elites.copy_(self.selection.best.argsort(stable=True)[: self.config.elites])
        calibrate(self.kept, rows)

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

    @property
    def exactness(self) -> Exactness:
        """What the model's probabilities are."""
        return self.model.head.exactness

    def transition_log_mass(self, reached: Reached) -> Tensor:
        """Log probability of bins and end under the elite ensemble, nats, (B,) float64."""
        return self.best_model().log_mass(reached)

    def held_out(self) -> Tensor:
        """Observation | action of steps that trained nothing, raw: (n, O + A), n at most 512."""
        rows = self.reservoir.rows()
        return torch.cat([rows.obs[:DOUBTED, 0], rows.action[:DOUBTED, 0]], -1)

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
        planned = Planned(self.spec, self.best_model(), self.held_out(), copy.deepcopy(self.clone), self.given)
        return planner(self.config, planned, seed=seed, device=self.device)
