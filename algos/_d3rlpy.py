"""What the adapters to d3rlpy (https://github.com/takuseno/d3rlpy) share: the library, its options, exact resume."""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache
from types import ModuleType
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn

from algos._common import ActionScale
from toolkit.core import Spec, child_seed
from toolkit.nets import generator, load_optimizer_state, optimizer_state
from toolkit.normalize import Normalizer

OURS = {"batch_size", "observation_scaler", "action_scaler", "reward_scaler", "compile_graph"}
CHOICES = {  # of d3rlpy's options that are words; it checks them late or not at all
    "policy_type": ("deterministic", "stochastic"),
    "mmd_kernel": ("gaussian", "laplacian"),
    "advantage_type": ("max", "mean"),
    "weight_type": ("binary", "exp"),
    "target_update_type": ("hard", "soft"),
    "distribution": ("normal", "uniform"),
    "position_encoding_type": ("global", "simple"),
    "activation_type": ("gelu", "none", "relu", "swish", "tanh"),
    "embed_activation_type": ("gelu", "none", "relu", "swish", "tanh"),
}
MAY_BE_ZERO = {"rl_start_step", "warmup_steps", "warmup_tokens"}  # of the whole numbers
LARGEST = float(torch.finfo(torch.float32).max)
SHARES = {"gamma", "tau", "attn_dropout", "resid_dropout", "embed_dropout"}


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
        import d3rlpy.serializable_config
        import d3rlpy.torch_utility
    return d3rlpy


@cache
def kinds() -> dict[str, Any]:
    """d3rlpy's name -> its config class, for every algorithm that d3rlpy exports."""
    found = {}
    for kind in vars(library().algos).values():
        if isinstance(kind, type) and kind.__name__.endswith("Config"):
            with contextlib.suppress(NotImplementedError):  # a base class has no name
                found[kind.get_type()] = kind  # type: ignore[attr-defined]
    return found


def parse(option: str) -> tuple[str, Any]:
    """'key=value' as the key and the value, which is JSON or else a plain string. Raises ValueError without '='."""
    key, equals, text = option.partition("=")
    if not equals:
        raise ValueError(f"option {option!r} has no '='; expected key=value, as in gamma=0.97")
    try:
        return key, json.loads(text)
    except json.JSONDecodeError:
        return key, text


def theirs(algo: str, hidden: tuple[int, ...], options: Iterable[str]) -> Any:
    """d3rlpy's own config object. Raises ValueError for an unknown option, or a value that the option cannot take."""
    kind = kinds()[algo]
    values = kind().serialize_to_dict()
    encoder = {"type": "vector", "params": library().models.VectorEncoderFactory(list(hidden)).serialize_to_dict()}
    values |= {field.name: encoder for field in fields(kind) if field.name.endswith("encoder_factory")}
    known = {name: value for name, value in values.items() if name not in OURS}
    for key, value in map(parse, options):
        if key not in known:
            raise ValueError(f"d3rlpy's {algo} has no option {key!r}{near(key, known)}; it has {listed(known)}")
        values[key] = checked(key, value, known[key], kind)
    try:
        return kind.deserialize_from_dict(values)
    except (KeyError, TypeError, AttributeError) as error:  # deep inside a factory's own options
        raise ValueError(f"d3rlpy's {algo} cannot read its options {list(options)} ({error!r})") from None


def checked(key: str, value: Any, default: Any, kind: type) -> Any:
    """An option's value as d3rlpy reads it. Raises ValueError for another type, an unknown word or a wild number."""
    if key in CHOICES:
        if value not in CHOICES[key]:
            raise ValueError(
                f"option {key} is {value!r}{near(str(value), CHOICES[key])}; expected one of {listed(CHOICES[key])}"
            )
        return type(default)(value)
    if isinstance(default, dict):
        return factory(key, value, get_type_hints(kind)[key])
    due = (int, float) if type(default) is float else type(default)
    if default is not None and (not isinstance(value, due) or isinstance(value, bool) != isinstance(default, bool)):
        raise ValueError(f"option {key} is {value!r}; expected a {type(default).__name__}, such as {default!r}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        least = 1 if type(default) is int and key not in MAY_BE_ZERO else 0
        most = 1 if key in SHARES else 2**31 - 1 if type(default) is int else LARGEST
        if not least <= value <= most:
            limits = f"from {least} to {most}" if most == 1 else f"of at least {least}, and at most {most:.9g}"
            raise ValueError(f"option {key} is {value!r}; expected a number {limits}")
    return value


def factory(key: str, value: Any, base: Any) -> dict[str, Any]:
    """What builds a part, given by name (qr) or as {"type": "qr", "params": {...}}, with d3rlpy's other defaults."""
    known = library().serializable_config.CONFIG_STORAGE[base].config_list
    body = {"type": value} if isinstance(value, str) else value
    if not isinstance(body, Mapping) or "type" not in body or not body.keys() <= {"type", "params"}:
        raise ValueError(f'option {key} is {value!r}; expected a name, or {{"type": name, "params": {{...}}}}')
    name, given = body["type"], body.get("params", {})
    if name not in known:
        raise ValueError(f"option {key} is {name!r}{near(str(name), known)}; expected one of {listed(known)}")
    try:
        params = known[name]().serialize_to_dict()
    except TypeError:  # it has options without defaults
        params = {field.name: None for field in fields(known[name])}
    if not isinstance(given, Mapping) or (wrong := given.keys() - params.keys()):
        named = given if not isinstance(given, Mapping) else sorted(wrong)
        raise ValueError(f"option {key}: {name} has no {named}; it has {listed(params) or 'no options'}")
    return {"type": name, "params": params | given}


def near(name: str, known: Iterable[str]) -> str:
    """' (did you mean X?)', or nothing when no known name is near."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def listed(names: Iterable[str]) -> str:
    """The names in order, with commas."""
    return ", ".join(sorted(names))


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


class Adapted:
    """One d3rlpy algorithm built for our data, its updates drawn from its own random stream, and all of its state.

    d3rlpy's own `save` leaves out the number of updates, the random streams, and what an algorithm counts beside
    its networks (the discrete Decision Transformer's tokens); here they are kept, so training resumes bit for bit.
    """

    def __init__(self, config: Any, spec: Spec, *, seed: int, device: str) -> None:
        self.device, self.step, self.discrete, self.action_dim = device, 0, spec.discrete, spec.action_dim
        self.losses: dict[str, float] = {}
        self.observe = Normalizer(spec.obs).to(device)
        self.scale = ActionScale(spec).to(device)
        self.random = Stream(child_seed(seed, "d3rlpy"), device)
        algo = config.create(device=device)
        try:
            with self.random:
                algo.create_impl((spec.obs_dim,), spec.action_dim)
        except AssertionError as error:
            raise ValueError(
                f"d3rlpy's {config.get_type()} with these options does not take vectors of {spec.obs_dim} numbers as "
                "observations; leave its encoder factories out, or take vector or default"
            ) from error
        self.impl = algo.impl
        parts = {field.name: getattr(self.impl.modules, field.name) for field in fields(self.impl.modules)}
        self.modules = {k: part for k, part in parts.items() if isinstance(part, nn.Module)}
        self.optimizers = {k: part for k, part in parts.items() if part is not None and not isinstance(part, nn.Module)}

    def advance(self, batch: Any) -> dict[str, Tensor]:
        """One update of d3rlpy's on its own kind of batch; metrics are the latest value of each of its losses."""
        with self.random:
            losses = self.impl.update(batch, self.step)
        self.losses |= losses
        self.step += 1
        return {name: torch.tensor(loss) for name, loss in self.losses.items()}

    def counters(self) -> dict[str, int]:
        """The whole numbers that the algorithm keeps beside its networks."""
        return {name: value for name, value in vars(self.impl).items() if type(value) is int}

    def state_dict(self) -> dict[str, Any]:
        """Parameters, targets, optimisers, schedules, counters, the step, the random stream and the normalisers."""
        schedules = {name: wrapper._lr_scheduler for name, wrapper in self.optimizers.items()}
        return {
            "step": self.step,
            "losses": dict(self.losses),
            "counters": self.counters(),
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
        due: tuple[tuple[str, Iterable[str]], ...] = (
            ("modules", self.modules), ("optimizers", self.optimizers), ("counters", self.counters()),
        )  # fmt: skip
        for kind, parts in due:
            if sorted(state[kind]) != sorted(parts):
                raise ValueError(f"state holds the {kind} {sorted(state[kind])}, expected {sorted(parts)}")
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        for name, wrapper in self.optimizers.items():
            load_optimizer_state(wrapper.optim, state["optimizers"][name])
            if wrapper._lr_scheduler:
                wrapper._lr_scheduler.load_state_dict(wrapper._lr_scheduler.state_dict() | state["schedules"][name])
        for name, value in state["counters"].items():
            setattr(self.impl, name, int(value))
        self.random.states = [state["random"][str(index)].cpu().clone() for index in range(len(self.random.states))]
        self.observe.load_state_dict(state["observe"])
        self.scale.load_state_dict(state["scale"])
        self.step, self.losses = int(state["step"]), dict(state["losses"])


def copied(module: nn.Module) -> dict[str, Tensor]:
    """The module's state, not shared with it."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
