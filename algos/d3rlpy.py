"""d3rlpy's Q-learning algorithms (https://github.com/takuseno/d3rlpy), both kinds of action, on our batches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args, get_type_hints

import numpy as np
import torch
from torch import Tensor

from algos._common import ActionScale, Memoryless, check_batch, check_hidden
from algos._d3rlpy import Adapted, Stream, library, listed, near, theirs
from toolkit.core import Batch, Family, LearnerConfig, Needs, Policy, Spec, child_seed
from toolkit.nets import generator

Algo = Literal[
    "awac", "bc", "bcq", "bear", "cal_ql", "cql", "crr", "ddpg", "discrete_bc", "discrete_bcq", "discrete_cql",
    "discrete_random_policy", "discrete_sac", "double_dqn", "dqn", "iql", "nfq", "plas", "plas_with_perturbation",
    "prdc", "random_policy", "rebrac", "sac", "td3", "td3_plus_bc",
]  # fmt: skip
SUPERVISED = {"bc", "discrete_bc"}
RANDOM = {"random_policy", "discrete_random_policy"}
SAMPLING = {"bcq", "bear", "crr", *RANDOM}  # policies that draw random numbers


@dataclass(frozen=True)
class D3rlpyConfig(LearnerConfig):
    """Any Q-learning algorithm of d3rlpy 2.8.1, continuous or discrete, with d3rlpy's own defaults.

    It is given the same units as our own learners: observations standardised by the store's
    statistics, actions scaled to [-1, 1] by the limits, rewards as they are; batches of the run's size, not of
    the algorithm's default one. The actor of `prdc` is drawn to the nearest of all the data's pairs of observation and
    action: they are gathered in memory before the first update, into a search tree of its own (d3rlpy's is one for all
    its learners in a process) asked by one thread. The two random policies learn nothing: they are the floor.
    d3rlpy returns its losses as Python numbers, so on a GPU every update waits for the device. Where
    the actor moves every second step only, `actor_loss` is that of its last step.
    """

    name: ClassVar[str] = "d3rlpy"
    family: ClassVar[Family] = "offline_rl"

    algo: Algo = "td3_plus_bc"
    """d3rlpy's name of the algorithm; `bc` and `discrete_bc` have the learner d3rlpy-bc."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of every network, ReLU between them."""
    options: tuple[str, ...] = ()
    """Fields of d3rlpy's config as key=value, the value in JSON: gamma=0.97 n_critics=4 q_func_factory=qr."""

    def __post_init__(self) -> None:
        check_hidden(self.hidden)
        known = get_args(get_type_hints(type(self))["algo"])
        if self.algo not in known:
            raise ValueError(
                f"algo of {self.name} is {self.algo!r}{near(self.algo, known)}; expected one of {listed(known)}"
            )
        if self.algo in SUPERVISED and self.family != "supervised":
            raise ValueError(
                f"algo is {self.algo!r}, which is supervised; expected an offline_rl algorithm: "
                "use the learner d3rlpy-bc"
            )
        if self.options:
            quantiles = getattr(theirs(self.algo, self.hidden, self.options), "q_func_factory", None)
            count = getattr(quantiles, "n_quantiles", None)
            greedy = getattr(quantiles, "n_greedy_quantiles", count)
            if count != greedy and "continuous" in self.actions:  # d3rlpy draws its targets as its greedy values
                raise ValueError(
                    f"d3rlpy's iqn with continuous actions needs n_quantiles equal to n_greedy_quantiles, got {count} "
                    f'and {greedy}: q_func_factory={{"type":"iqn","params":{{"n_greedy_quantiles":{count}}}}}'
                )

    @property
    def actions(self) -> tuple[Literal["continuous", "discrete"], ...]:  # type: ignore[override]
        """The algorithm's own kind of action."""
        return ("discrete" if self.algo.startswith("discrete_") or self.algo in {"dqn", "double_dqn", "nfq"} else
                "continuous",)  # fmt: skip

    @property
    def needs(self) -> Needs:
        """Transitions with rewards; a window of 2 holds ReBRAC's next action, Cal-QL bounds values by returns to go."""
        if self.algo == "cal_ql":
            return Needs(reward=True, returns_to_go=True, discount=theirs(self.algo, self.hidden, self.options).gamma)
        return Needs(reward=self.algo not in SUPERVISED | RANDOM, window=2 if self.algo == "rebrac" else 1)

    def build(self, spec: Spec, *, seed: int, device: str) -> D3rlpy | RandomD3rlpy:
        """Raises ValueError if the data's actions are not of the algorithm's kind, or are unbounded."""
        kind, other = ("discrete", "continuous") if spec.discrete else ("continuous", "discrete")
        if kind not in self.actions:
            twin = {"discrete": f"discrete_{self.algo}", "continuous": self.algo.removeprefix("discrete_")}[kind]
            hint = f": use {twin}" if twin in get_args(Algo) else ""
            raise ValueError(f"d3rlpy's {self.algo} needs {other} actions, the store's are {kind} ones{hint}")
        if self.algo in RANDOM:
            return RandomD3rlpy(self, spec, seed=seed, device=device)
        return (NearestD3rlpy if self.algo == "prdc" else D3rlpy)(self, spec, seed=seed, device=device)


@dataclass(frozen=True)
class D3rlpyBCConfig(D3rlpyConfig):
    """d3rlpy's behaviour cloning: squared error of a tanh-squashed action, or a softmax over discrete ones."""

    name: ClassVar[str] = "d3rlpy-bc"
    family: ClassVar[Family] = "supervised"
    algo: Literal["bc", "discrete_bc"] = "bc"


@dataclass(frozen=True)
class D3rlpyCQLConfig(D3rlpyConfig):
    """d3rlpy's conservative Q-learning (arXiv:2006.04779)."""

    name: ClassVar[str] = "d3rlpy-cql"
    paper: ClassVar[str] = "2006.04779"
    algo: Literal["cql", "discrete_cql"] = "cql"


@dataclass(frozen=True)
class D3rlpyIQLConfig(D3rlpyConfig):
    """d3rlpy's implicit Q-learning (arXiv:2110.06169)."""

    name: ClassVar[str] = "d3rlpy-iql"
    paper: ClassVar[str] = "2110.06169"
    algo: Literal["iql"] = "iql"


@dataclass(frozen=True)
class D3rlpyTD3PlusBCConfig(D3rlpyConfig):
    """d3rlpy's TD3+BC (arXiv:2106.06860)."""

    name: ClassVar[str] = "d3rlpy-td3+bc"
    paper: ClassVar[str] = "2106.06860"
    algo: Literal["td3_plus_bc"] = "td3_plus_bc"


@dataclass(frozen=True)
class D3rlpyAWACConfig(D3rlpyConfig):
    """d3rlpy's advantage-weighted actor-critic (arXiv:2006.09359)."""

    name: ClassVar[str] = "d3rlpy-awac"
    paper: ClassVar[str] = "2006.09359"
    algo: Literal["awac"] = "awac"


class D3rlpy(Adapted):
    """One of d3rlpy's Q-learning algorithms or of its cloners."""

    def __init__(self, config: D3rlpyConfig, spec: Spec, *, seed: int, device: str) -> None:
        self.config = config
        super().__init__(theirs(config.algo, config.hidden, config.options), spec, seed=seed, device=device)

    def mini_batch(self, batch: Batch) -> Any:
        """Our batch as d3rlpy's: column vectors, choices by number, float terminals, one-step intervals."""
        check_batch(batch, self.config.needs)
        obs, action = self.observe(batch.obs[:, :2]), self.scale(batch.action)
        if self.discrete:
            action = action.argmax(-1, keepdim=True)
        reward = batch.reward[:, :1]
        to_go = torch.zeros_like(reward) if batch.return_to_go is None else batch.return_to_go[:, :1]
        terminal = batch.terminated[:, :1].float()
        parts = [obs[:, 0], action[:, 0], reward, obs[:, 1], action[:, -1], to_go, terminal, torch.ones_like(reward)]
        if self.config.needs.window == 2:  # a truncated last step has no next action to speak of
            parts = [part[batch.terminated[:, 0] | batch.valid[:, 1]] for part in parts]
        return library().torch_utility.TorchMiniBatch(*parts, device=self.device)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One update of d3rlpy's; metrics are the latest value of each of its losses."""
        return self.advance(self.mini_batch(batch))

    def choose(self, obs: Tensor) -> Tensor:
        """d3rlpy's greedy action for raw observations (N, O): (N, A) in raw units, or (N,) choices."""
        action = self.impl.predict_best_action(self.observe(obs))
        return action.long() if self.discrete else self.scale.inverse(action)

    def policy(self, *, seed: int) -> Policy:
        """d3rlpy's greedy action; bcq, bear and crr sample candidates for it, from a stream seeded by `seed`."""
        if self.config.algo not in SAMPLING:
            return Memoryless(self.choose, self.device)
        random = Stream(child_seed(seed, "policy"), self.device)

        def choose(obs: Tensor) -> Tensor:
            with random:
                return self.choose(obs)

        return Memoryless(choose, self.device, deterministic=False)


class NearestD3rlpy(D3rlpy):
    """PRDC (arXiv:2306.06569): TD3 whose actor is drawn to the action of the data's pair nearest (beta * s, pi(s))."""

    def __init__(self, config: D3rlpyConfig, spec: Spec, *, seed: int, device: str) -> None:
        super().__init__(config, spec, seed=seed, device=device)
        from sklearn.neighbors import NearestNeighbors

        ends = self.observe(torch.from_numpy(np.stack([spec.obs.low, spec.obs.high])).to(device))
        if not (self.impl._beta * ends).isfinite().all():
            raise ValueError(f"beta of prdc is {self.impl._beta}, by which observations are no longer finite; lower it")
        self.impl._nbsr = NearestNeighbors(n_neighbors=1)

    @torch.no_grad()
    def survey(self, episodes: Iterable[tuple[Tensor, Tensor]], /) -> None:
        """Plant the search tree: raw obs (T, O) and action (T, A) of every episode."""
        pairs = [
            torch.cat(
                [self.impl._beta * self.observe(obs.to(self.device)), self.scale(action.to(self.device))], -1
            ).cpu()
            for obs, action in episodes
        ]
        self.impl._nbsr.fit(torch.cat(pairs).numpy())

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """As d3rlpy's. Raises RuntimeError before `survey`, FloatingPointError if the actor is no longer finite."""
        if not hasattr(self.impl._nbsr, "_fit_X"):
            raise RuntimeError("prdc was asked for an update before it saw the data: call survey(episodes) first")
        try:
            return super().update(batch)
        except ValueError as error:  # of the search: a query that is not finite has no neighbour
            if all(weight.isfinite().all() for weight in self.impl.policy.parameters()):
                raise
            raise FloatingPointError(
                f"prdc's actor is not finite at step {self.step + 1}; lower the learning rate or alpha"
            ) from error


class RandomD3rlpy:
    """d3rlpy's random policies, drawn from a stream of ours instead of NumPy's global one; an update only counts."""

    def __init__(self, config: D3rlpyConfig, spec: Spec, *, seed: int, device: str) -> None:
        self.config, self.device, self.step = config, device, 0
        self.theirs = theirs(config.algo, config.hidden, config.options)
        self.scale, self.discrete, self.action_dim = ActionScale(spec).to(device), spec.discrete, spec.action_dim

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Nothing is learned; `updates` counts the batches shown."""
        check_batch(batch, self.config.needs)
        self.step += 1
        return {"updates": torch.tensor(float(self.step))}

    def policy(self, *, seed: int) -> Policy:
        """Uniform over the limits or the choices; or normal about the middle, clipped, as d3rlpy's config says."""
        random = generator(child_seed(seed, "policy"), self.device)

        def choose(obs: Tensor) -> Tensor:
            if self.discrete:
                return torch.randint(self.action_dim, (len(obs),), generator=random, device=self.device)
            shape = (len(obs), self.action_dim)
            if self.theirs.distribution == "uniform":
                unit = 2 * torch.rand(shape, generator=random, device=self.device) - 1
            else:
                unit = self.theirs.normal_std * torch.randn(shape, generator=random, device=self.device)
            return self.scale.inverse(unit.clamp(-1, 1))

        return Memoryless(choose, self.device, deterministic=False)

    def state_dict(self) -> dict[str, Any]:
        """The number of updates."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.step = int(state["step"])
