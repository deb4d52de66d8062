"""d3rlpy's continuous Q-learning algorithms (https://github.com/takuseno/d3rlpy) on our batches and in our loop."""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import warnings
from dataclasses import dataclass, fields
from functools import cache
from types import ModuleType
from typing import Any, ClassVar, Literal, get_args, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn

from algos._common import ActionScale, check_batch, check_continuous, check_hidden
from toolkit.core import Array, Batch, Family, LearnerConfig, Needs, Policy, Spec, Step, child_seed
from toolkit.nets import generator, load_optimizer_state, optimizer_state
from toolkit.normalize import Normalizer

Algo = Literal[
    "awac", "bc", "bcq", "bear", "cql", "crr", "ddpg", "iql", "plas", "plas_with_perturbation", "rebrac", "sac", "td3",
    "td3_plus_bc",
]  # fmt: skip
OURS = {"batch_size", "observation_scaler", "action_scaler", "reward_scaler", "compile_graph"}


@dataclass(frozen=True)
class D3rlpyConfig(LearnerConfig):
    """Any continuous Q-learning algorithm of d3rlpy 2.8.1, with d3rlpy's own defaults.

    It is given the same units as our own learners: observations standardised by the store's
    statistics, actions scaled to [-1, 1] by the limits, rewards as they are. Absent are `cal_ql`
    (needs returns-to-go) and `prdc` (needs the whole data set in memory), which a batch does not hold.
    d3rlpy returns its losses as Python numbers, so on a GPU every update waits for the device. Where
    the actor moves every second step only, `actor_loss` is that of its last step.
    """

    name: ClassVar[str] = "d3rlpy"
    family: ClassVar[Family] = "offline_rl"

    algo: Algo = "td3_plus_bc"
    """d3rlpy's name of the algorithm; `bc` has the learner d3rlpy-bc."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of every network, ReLU between them."""
    options: tuple[str, ...] = ()
    """Fields of d3rlpy's config as key=value, the value in JSON: gamma=0.97 n_critics=4."""

    def __post_init__(self) -> None:
        check_hidden(self.hidden)
        known = get_args(get_type_hints(type(self))["algo"])
        if self.algo not in known:
            raise ValueError(f"algo of {self.name} is {self.algo!r}; expected one of {', '.join(known)}")
        if self.algo == "bc" and self.family != "supervised":
            raise ValueError(
                "algo is 'bc', which is supervised; expected an offline_rl algorithm: use the learner d3rlpy-bc"
            )
        if self.options:
            theirs(self)

    @property
    def needs(self) -> Needs:
        """Transitions with rewards; ReBRAC penalises the distance to the next action, which a window of 2 holds."""
        return Needs(reward=self.algo != "bc", window=2 if self.algo == "rebrac" else 1)

    def build(self, spec: Spec, *, seed: int, device: str) -> D3rlpy:
        """Raises ValueError for discrete or unbounded actions."""
        return D3rlpy(self, spec, seed=seed, device=device)


@dataclass(frozen=True)
class D3rlpyBCConfig(D3rlpyConfig):
    """d3rlpy's behaviour cloning: squared error of a tanh-squashed action."""

    name: ClassVar[str] = "d3rlpy-bc"
    family: ClassVar[Family] = "supervised"
    algo: Literal["bc"] = "bc"


@dataclass(frozen=True)
class D3rlpyCQLConfig(D3rlpyConfig):
    """d3rlpy's conservative Q-learning (arXiv:2006.04779)."""

    name: ClassVar[str] = "d3rlpy-cql"
    paper: ClassVar[str] = "2006.04779"
    algo: Literal["cql"] = "cql"


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


@cache
def library() -> ModuleType:
    """d3rlpy, imported at first use and without the notices that it and gym print."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        import d3rlpy
        import d3rlpy.algos
        import d3rlpy.models
        import d3rlpy.torch_utility
    return d3rlpy


def parse(option: str) -> tuple[str, Any]:
    """'key=value' as the key and the value, which is JSON or else a plain string. Raises ValueError without '='."""
    key, equals, text = option.partition("=")
    if not equals:
        raise ValueError(f"option {option!r} has no '='; expected key=value, as in gamma=0.97")
    try:
        return key, json.loads(text)
    except json.JSONDecodeError:
        return key, text


def theirs(config: D3rlpyConfig) -> Any:
    """d3rlpy's own config object for ours. Raises ValueError for an unknown field or a value of another type."""
    algos = vars(library().algos).values()
    kind = next(
        c for c in algos if hasattr(c, "get_type") and c.__name__.endswith("Config") and c.get_type() == config.algo
    )
    values = kind().serialize_to_dict()
    encoder = {
        "type": "vector",
        "params": library().models.VectorEncoderFactory(list(config.hidden)).serialize_to_dict(),
    }
    values |= {field.name: encoder for field in fields(kind) if field.name.endswith("encoder_factory")}
    known = {name: value for name, value in values.items() if name not in OURS}
    for key, value in map(parse, config.options):
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"d3rlpy's {config.algo} has no option {key!r}{hint}; it has {', '.join(sorted(known))}")
        default = known[key]
        due = (int, float) if type(default) is float else type(default)
        if default is not None and (not isinstance(value, due) or isinstance(value, bool) != isinstance(default, bool)):
            raise ValueError(f"option {key} is {value!r}; expected a {type(default).__name__}, such as {default!r}")
        values[key] = value
    return kind.deserialize_from_dict(values)


class Stream:
    """A random stream of our own that takes the place of torch's global one inside `with`."""

    def __init__(self, seed: int, device: str) -> None:
        self.globals: list[torch.Generator] = [torch.default_generator]
        if torch.device(device).type == "cuda":
            torch.cuda.init()
            self.globals.append(torch.cuda.default_generators[torch.device(device).index or 0])
        self.states = [generator(seed, place.device).get_state() for place in self.globals]

    def __enter__(self) -> None:
        outside = [place.get_state() for place in self.globals]
        for place, state in zip(self.globals, self.states, strict=True):
            place.set_state(state)
        self.states = outside

    def __exit__(self, *_: object) -> None:
        self.__enter__()  # the exchange undoes itself


class D3rlpy:
    """One d3rlpy algorithm, its updates and predictions drawn from its own random streams."""

    def __init__(self, config: D3rlpyConfig, spec: Spec, *, seed: int, device: str) -> None:
        check_continuous(config.name, spec)
        self.config, self.device, self.step = config, device, 0
        self.losses: dict[str, float] = {}
        self.observe = Normalizer(spec.obs).to(device)
        self.scale = ActionScale(spec).to(device)
        self.random = Stream(child_seed(seed, "d3rlpy"), device)
        algo = theirs(config).create(device=device)
        with self.random:
            algo.create_impl((spec.obs_dim,), spec.action_dim)
        self.impl = algo.impl
        parts = {field.name: getattr(self.impl.modules, field.name) for field in fields(self.impl.modules)}
        self.modules = {k: part for k, part in parts.items() if isinstance(part, nn.Module)}
        self.optimizers = {k: part for k, part in parts.items() if part is not None and not isinstance(part, nn.Module)}

    def mini_batch(self, batch: Batch) -> Any:
        """Our batch as d3rlpy's: column vectors, float terminals, one-step intervals."""
        check_batch(batch, self.config.needs)
        obs, action = self.observe(batch.obs[:, :2]), self.scale(batch.action)
        columns = [batch.reward[:, :1], torch.zeros_like(batch.reward[:, :1]), batch.terminated[:, :1].float()]
        parts = [
            obs[:, 0],
            action[:, 0],
            columns[0],
            obs[:, 1],
            action[:, -1],
            *columns[1:],
            torch.ones_like(columns[0]),
        ]
        if self.config.needs.window == 2:  # a truncated last step has no next action to speak of
            parts = [part[batch.terminated[:, 0] | batch.valid[:, 1]] for part in parts]
        return library().torch_utility.TorchMiniBatch(*parts, device=self.device)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One update of d3rlpy's; metrics are the latest value of each of its losses."""
        with self.random:
            losses = self.impl.update(self.mini_batch(batch), self.step)
        self.losses |= losses
        self.step += 1
        return {name: torch.tensor(loss) for name, loss in self.losses.items()}

    def policy(self, *, seed: int) -> Policy:
        """d3rlpy's greedy action; bcq and bear sample candidates for it, from a stream seeded by `seed`."""
        return D3rlpyPolicy(self, Stream(child_seed(seed, "policy"), self.device))

    def state_dict(self) -> dict[str, Any]:
        """Parameters, targets, optimisers, schedules, the step, the random stream and the normalisers."""
        schedules = {name: wrapper._lr_scheduler for name, wrapper in self.optimizers.items()}
        return {
            "step": self.step,
            "losses": dict(self.losses),
            "modules": {name: copied(module) for name, module in self.modules.items()},
            "optimizers": {name: optimizer_state(wrapper.optim) for name, wrapper in self.optimizers.items()},
            "schedules": {
                k: {n: v for n, v in s.state_dict().items() if n != "lr_lambdas"} for k, s in schedules.items() if s
            },
            "random": {str(index): state.clone() for index, state in enumerate(self.random.states)},
            "observe": copied(self.observe),
            "scale": copied(self.scale),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`. Raises ValueError if it was saved by another algorithm."""
        for kind, parts in (("modules", self.modules), ("optimizers", self.optimizers)):
            if state[kind].keys() != parts.keys():
                raise ValueError(f"state holds the {kind} {sorted(state[kind])}, expected {sorted(parts)}")
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        for name, wrapper in self.optimizers.items():
            load_optimizer_state(wrapper.optim, state["optimizers"][name])
            if wrapper._lr_scheduler:
                wrapper._lr_scheduler.load_state_dict(wrapper._lr_scheduler.state_dict() | state["schedules"][name])
        self.random.states = [state["random"][str(index)].cpu().clone() for index in range(len(self.random.states))]
        self.observe.load_state_dict(state["observe"])
        self.scale.load_state_dict(state["scale"])
        self.step, self.losses = int(state["step"]), dict(state["losses"])


def copied(module: nn.Module) -> dict[str, Tensor]:
    """The module's state, not shared with it."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


@dataclass(frozen=True)
class D3rlpyPolicy:
    """Acts by d3rlpy's greedy prediction."""

    learner: D3rlpy
    random: Stream

    @torch.no_grad()
    def act(self, step: Step) -> Array:
        """Actions (N, A) in raw units; `step.first` changes nothing, for there is nothing to forget."""
        obs = torch.as_tensor(np.asarray(step.obs, np.float32), device=self.learner.device)
        with self.random:
            action = self.learner.impl.predict_best_action(self.learner.observe(obs))
        return self.learner.scale.inverse(action).cpu().numpy()
