"""Forward-backward representations: what each of many policies reaches, learned without rewards; then one is asked."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algos._common import (
    ActionScale,
    Memoryless,
    check_count,
    check_fraction,
    check_hidden,
    check_not_negative,
    check_positive,
    smoothed,
    transitions,
)
from toolkit.core import Batch, Family, LearnerConfig, Needs, Policy, Spec, child_seed
from toolkit.nets import Checkpointed, Net, adam, descend, generator, polyak, single, stack
from toolkit.normalize import Normalizer


@dataclass(frozen=True)
class FBConfig(LearnerConfig):
    """Forward-backward representations (arXiv:2103.07945, arXiv:2209.14935); with `conservatism`, VC-FB (2309.15178).

    F(s, a, z)^T B(s') is the density, against that of next observations in the data, of the discounted visits of the
    policy pi(., z), the one that is best for the reward B(.)^T z. No reward enters a gradient: other rewards, the same
    networks. Those of the first `labelled` transitions that were drawn for training are kept, in checkpoints too, and
    say the task when a policy is asked for: z = mean of r B(s'), brought to length sqrt(z_dim). It is one task for all
    of the store: where observations do not tell contexts apart, rewards that differ between them average out.

    Actions are pi(s, z), of an actor if they are continuous, else the best by F(s, a, z)^T z. Values are
    F(s, a, z)^T (mean of r B(s')), in the units of rewards: right as far as F^T B is, and as the reward depends on the
    next observation alone.

    Against the authors' code (facebookresearch/controllable_agent): each network is one perceptron of its inputs side
    by side, theirs is 1024 wide with two branches; goals for z are next observations, of the row before; noise is a
    clipped normal, theirs truncated; the best discrete action, theirs a softmax; no auxiliary loss of Q; observations
    are standardised. They take batches of 1024. VC-FB's authors judge actions of pi(s', z) at s', here all at s.
    """

    name: ClassVar[str] = "fb"
    family: ClassVar[Family] = "unsupervised"
    paper: ClassVar[str] = "2209.14935"
    actions: ClassVar = ("continuous", "discrete")

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of every network, ReLU between them."""
    net: Net = "mlp"
    """mlp, or residual: a block with layer norm (SimBa, arXiv:2410.09754) for each width, which must be equal."""
    layer_norm: bool = True
    """Normalise the hidden layers of F and B after their activations."""
    z_dim: int = 50
    """Numbers that say a task: the rank of F^T B."""
    lr: float = 1e-4
    """Adam's learning rate, for all networks."""
    discount: float = 0.98
    """Weight of the next step; the authors take 0.99 for mazes."""
    tau: float = 0.01
    """Share of F and B that enters their targets at each update."""
    orthonormality: float = 1.0
    """Weight of the loss that makes the numbers of B uncorrelated and of one size."""
    goal_share: float = 0.5
    """Share of tasks z in training that ask for an observation of the data; the others are uniform on the sphere."""
    noise: float = 0.2
    """Spread of the noise on the actor's actions in training, which lie in [-1, 1]."""
    noise_clip: float = 0.3
    """Ceiling of that noise."""
    conservatism: float = 0.0
    """Weight of log sum_a exp F(s, a, z)^T z - F(s, a_data, z)^T z; VC-FB takes 0.01."""
    samples: int = 3
    """With conservatism and continuous actions: actions a each from pi(s, z), pi(s', z) and uniform."""
    labelled: int = 10_000
    """Transitions whose rewards say the task."""
    centred: bool = False
    """Take the mean reward off before z is inferred. It changes no best policy if no episode terminates."""

    def __post_init__(self) -> None:
        check_hidden(self.hidden, self.net)
        check_positive(self, "lr", "tau")
        check_fraction(self, "discount", "tau", "goal_share")
        check_not_negative(self, "orthonormality", "noise", "noise_clip", "conservatism")
        check_count(self, "z_dim", "samples", "labelled")

    @property
    def compiles(self) -> bool:
        """Always."""
        return True

    @property
    def needs(self) -> Needs:
        """Transitions with rewards, which say the task."""
        return Needs(reward=True)

    def build(self, spec: Spec, *, seed: int, device: str) -> FB:
        """Raises ValueError for unbounded actions."""
        return FB(self, spec, seed=seed, device=device)


PRESETS = {"vc-fb": FBConfig(conservatism=0.01)}  # enjeeneer/zero-shot-rl, agents/cfb/config.yaml


def to_sphere(x: Tensor) -> Tensor:
    """(..., d) brought to length sqrt(d); zero stays zero."""
    return math.sqrt(x.shape[-1]) * F.normalize(x, dim=-1)


def off_diagonal_mean(pairs: Tensor) -> Tensor:
    """(..., B, B) -> (...): the mean over pairs of different rows."""
    rows = pairs.shape[-1]
    return (pairs.sum((-2, -1)) - pairs.diagonal(dim1=-2, dim2=-1).sum(-1)) / max(1, rows * (rows - 1))


def measure_loss(measure: Tensor, target: Tensor) -> Tensor:
    """sum_m 1/2 mean (M_ij - target_ij)**2 over i != j - mean M_ii; M_ij = F_m(s_i, a_i, z_i)^T B(s'_j), (M, B, B).

    The Bellman residual of densities, up to a constant (arXiv:2103.07945, algorithm 1). target (B, B) is the discounted
    F^T B of the target networks after s'_i.
    """
    here = measure.diagonal(dim1=-2, dim2=-1).mean(-1)
    return (off_diagonal_mean((measure - target).square()) / 2 - here).sum()


def orthonormality_loss(b: Tensor) -> Tensor:
    """Mean of (B_i^T B_j)**2 over i != j, least, d, where E B B^T = 1; b (B, d) of length sqrt(d).

    Its other term, -2 mean |B_i|**2 (arXiv:2103.07945), is constant for such B.
    """
    return off_diagonal_mean((b @ b.mT).square())


def worth(f: Tensor, z: Tensor) -> Tensor:
    """F^T z: (..., d), (..., d) -> (...)."""
    return (f * z).sum(-1)


def conservative_gap(q: Tensor) -> Tensor:
    """Sum over critics of the mean of log sum_k exp Q_k - Q_0, action 0 being the data's; q (M, B, K)."""
    return (q.logsumexp(-1) - q[..., 0]).mean(1).sum()


class FB(Checkpointed):
    """Twin forward maps, a backward map, targets of both, an actor for continuous actions, and labelled transitions."""

    def __init__(self, config: FBConfig, spec: Spec, *, seed: int, device: str) -> None:
        weights = generator(child_seed(seed, "parameters"))
        obs, action, d = spec.obs_dim, spec.action_dim, config.z_dim
        net, hidden, norm = config.net, config.hidden, config.layer_norm
        self.config, self.device, self.discrete, self.action_dim = config, device, spec.discrete, action
        self.noise = generator(child_seed(seed, "noise"), device)
        self.observe = Normalizer(spec.obs).to(device)
        self.scale = ActionScale(spec).to(device)
        inputs, outputs = (obs + d, action * d) if spec.discrete else (obs + d + action, d)
        self.forward_map = stack(net, 2, inputs, hidden, outputs, layer_norm=norm, generator=weights).to(device)
        self.backward_map = single(net, obs, hidden, d, layer_norm=norm, generator=weights).to(device)
        self.forward_target = copy.deepcopy(self.forward_map).requires_grad_(False)
        self.backward_target = copy.deepcopy(self.backward_map).requires_grad_(False)
        self.optimizer = adam([*self.forward_map.parameters(), *self.backward_map.parameters()], config.lr)
        if not spec.discrete:
            self.actor = single(net, obs + d, hidden, action, generator=weights).to(device)
            self.actor_optimizer = adam(self.actor.parameters(), config.lr)
        # Kept as parameters that nothing moves, not as a module: an exported policy holds modules, and no data.
        labelled, seen = torch.zeros(config.labelled, obs + 1), torch.zeros((), dtype=torch.int64)
        self.labelled = nn.Parameter(labelled.to(device), requires_grad=False)  # standardised next observation, reward
        self.seen = nn.Parameter(seen.to(device), requires_grad=False)
        self.task: tuple[Tensor, Tensor] | None = None  # as last inferred, until something moves

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of F and B, then of the actor, then of the targets; and labels are kept while there is room."""
        config = self.config
        s, a, reward, next_s, bootstrap = transitions(batch, config.needs, config.discount, self.observe, self.scale)
        self.keep(next_s, reward)
        sphere = torch.randn(len(s), config.z_dim, generator=self.noise, device=self.device)
        wanted = torch.rand(len(s), 1, generator=self.noise, device=self.device) < config.goal_share
        noise = torch.randn(2, *a.shape, generator=self.noise, device=self.device)
        count = config.samples if config.conservatism and not self.discrete else 0  # of each kind of tried actions
        spread = torch.randn(2, len(s), count, self.action_dim, generator=self.noise, device=self.device)
        uniform = torch.rand(len(s), count, self.action_dim, generator=self.noise, device=self.device) * 2 - 1

        b = to_sphere(self.backward_map(next_s))
        z = torch.where(wanted, b.detach().roll(1, 0), to_sphere(sphere))
        with torch.no_grad():
            next_a = self.act(self.forward_target, next_s, z, noise[0])
            next_f = self.successors(self.forward_target, next_s, z, next_a)
            target = bootstrap[:, None] * (next_f @ to_sphere(self.backward_target(next_s)).mT).amin(0)

        measure = self.successors(self.forward_map, s, z, a) @ b.mT  # (2, B, B)
        fb_loss, orthonormality = measure_loss(measure, target), orthonormality_loss(b)
        loss = fb_loss + config.orthonormality * orthonormality
        metrics = {"fb_loss": fb_loss, "orthonormality": orthonormality, "measure": measure.mean()}
        if config.conservatism:
            metrics["gap"] = conservative_gap(self.tried(s, a, next_s, z, spread, uniform))
            loss = loss + config.conservatism * metrics["gap"]
        descend(self.optimizer, loss)

        if not self.discrete:
            action = self.act(self.forward_map, s, z, noise[1])
            metrics["actor_loss"] = -worth(self.successors(self.forward_map, s, z, action), z).amin(0).mean()
            descend(self.actor_optimizer, metrics["actor_loss"])
        polyak(self.forward_target, self.forward_map, config.tau)
        polyak(self.backward_target, self.backward_map, config.tau)

        self.step += 1
        self.task = None
        return {k: x.detach() for k, x in metrics.items()}

    @torch.no_grad()
    def keep(self, next_s: Tensor, reward: Tensor) -> None:
        """Add rows to the labelled ones while there is room; no tensor is asked for its value."""
        room = len(self.labelled)
        rows = torch.cat([next_s, reward[:, None]], -1)[:room]  # then the places modulo `room` are distinct
        place = self.seen + torch.arange(len(rows), device=self.device)
        at = place % room
        self.labelled[at] = torch.where(place[:, None] < room, rows, self.labelled[at])
        self.seen.copy_((self.seen + len(rows)).clamp(max=room))

    def successors(self, net: nn.Module, s: Tensor, z: Tensor, a: Tensor) -> Tensor:
        """F(s, a, z) of both members: (B, O), (B, d), (B, A) in the learner's units -> (2, B, d)."""
        if not self.discrete:
            return net(torch.cat([s, z, a], -1))
        return (self.of_every_action(net, s, z) * a.unsqueeze(-1)).sum(-2)

    def of_every_action(self, net: nn.Module, s: Tensor, z: Tensor) -> Tensor:
        """F(s, a, z) for each discrete a: (B, O), (B, d) -> (2, B, A, d)."""
        return net(torch.cat([s, z], -1)).unflatten(-1, (self.action_dim, -1))

    def act(self, net: nn.Module, s: Tensor, z: Tensor, noise: Tensor | None = None) -> Tensor:
        """pi(s, z): the actor's actions in [-1, 1], or one-hot the best by `net`; (B, O), (B, d) -> (B, A)."""
        if self.discrete:
            q = worth(self.of_every_action(net, s, z), z.unsqueeze(-2)).amin(0)
            return torch.zeros_like(q).scatter(-1, q.argmax(-1, keepdim=True), 1.0)
        action = self.actor(torch.cat([s, z], -1)).tanh()
        return action if noise is None else smoothed(action, noise, self.config.noise, self.config.noise_clip)

    def tried(self, s: Tensor, a: Tensor, next_s: Tensor, z: Tensor, spread: Tensor, uniform: Tensor) -> Tensor:
        """F^T z of the data's action, then of others: every one if discrete; (2, B, K)."""
        if self.discrete:
            q = worth(self.of_every_action(self.forward_map, s, z), z.unsqueeze(-2))
            return torch.cat([(q * a).sum(-1, keepdim=True), q.masked_fill(a > 0, -math.inf)], -1)
        with torch.no_grad():
            mean = self.act(self.forward_map, torch.stack([s, next_s]), z.expand(2, *z.shape)).unsqueeze(2)
            here, there = smoothed(mean, spread, self.config.noise, self.config.noise_clip)
        every = torch.cat([a.unsqueeze(1), here, there, uniform], 1)  # (B, K, A)
        s, z = (x.repeat_interleave(every.shape[1], 0) for x in (s, z))
        return worth(self.successors(self.forward_map, s, z, every.flatten(0, 1)), z).unflatten(-1, every.shape[:2])

    @torch.no_grad()
    def inferred(self) -> tuple[Tensor, Tensor]:
        """The labelled rows' task z, of length sqrt(d), and mean of r B(s'); (d,). Zero before the first update."""
        if self.task is None:
            next_s, reward = self.labelled[:, :-1], self.labelled[:, -1]
            known, count = torch.arange(len(reward), device=self.device) < self.seen, self.seen.clamp(min=1)
            rewarded = torch.stack([reward, (reward - reward.sum() / count) * known])  # rows not yet known are zero
            plain, centred = rewarded @ to_sphere(self.backward_map(next_s)) / count
            self.task = to_sphere(centred if self.config.centred else plain), plain
        return self.task

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`. Raises ValueError if the kept names differ."""
        super().load_state_dict(state)
        self.task = None

    def choose(self, obs: Tensor, z: Tensor) -> Tensor:
        """pi(s, z) in raw units, or the best action, for raw observations (N, O) and one task z (d,)."""
        action = self.act(self.forward_map, self.observe(obs), z.expand(obs.shape[0], -1))
        return action.argmax(-1) if self.discrete else self.scale.inverse(action)

    def policy(self, *, seed: int) -> Policy:
        """pi(., z) of the task inferred now; deterministic, so `seed` is unused."""
        z = self.inferred()[0]
        return Memoryless(lambda obs: self.choose(obs, z), self.device)

    @property
    def discount(self) -> float:
        """Weight of the next step's value."""
        return self.config.discount

    def state_value(self, obs: Tensor) -> Tensor:
        """The value of pi's own action, in the units of the data's rewards; raw observations (N, O) -> (N,)."""
        return self.valued(obs, None)

    def action_value(self, obs: Tensor, action: Tensor) -> Tensor:
        """The lesser F(s, a, z)^T (mean of r B(s')), in the units of the data's rewards; raw (N, O), (N, A) -> (N,)."""
        return self.valued(obs, self.scale(action))

    def valued(self, obs: Tensor, a: Tensor | None) -> Tensor:
        """As `action_value`, of `a` in the learner's units or of pi's own action."""
        s = self.observe(obs)
        z, reward = (x.expand(len(s), -1) for x in self.inferred())
        a = self.act(self.forward_map, s, z) if a is None else a
        return worth(self.successors(self.forward_map, s, z, a), reward).amin(0)
