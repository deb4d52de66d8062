"""The environment that made a store, and the one to evaluate in: recorded as data, rebuilt from what is installed.

Nothing named in a store is imported: an id counts only if Gymnasium has it registered, a wrapper only if it is one of
gymnasium.wrappers, a suite only if it is one of ours. Keyword arguments are passed on as plain values.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from importlib import metadata
from typing import Any

import gymnasium as gym
import numpy as np

from toolkit.store.files import StoreError
from toolkit.store.keys import Key
from toolkit.store.schema import Schema
from toolkit.store.spaces import named_spaces

WATCHERS = ("RecordVideo", "HumanRendering")  # they change no transition, and write files or open windows
CONVERTERS = ("vector", "ArrayConversion", "JaxToNumpy", "JaxToTorch", "NumpyToTorch")
OURS = ("toolkit", "algos", "worldmodel", "numpy", "__main__")  # name no requirement of an environment


def requirements(*modules: str) -> tuple[str, ...]:
    """ "name==version" of the installed package that holds each module, sorted: requirements("mujoco", "gymnasium").

    Raises ValueError naming a module that no installed package holds.
    """
    found = {_package(module) for module in modules}
    return tuple(sorted(found))


def recorded(schema: Schema) -> tuple[str, ...]:
    """The requirements a schema records, those of the suite that collected its episodes among them; data, unchecked."""
    suite = schema.environment.get("requirements")
    stated = suite.items() if isinstance(suite, dict) else ()
    return (*schema.requirements, *(f"{module}=={version}" for module, version in stated))


def installed(requirement: str) -> str | None:
    """The installed version of the package that a requirement names, None if there is none."""
    try:
        return metadata.version(requirement.partition("==")[0])
    except (metadata.PackageNotFoundError, ValueError):  # ValueError: not a name a package could have
        return None


def spec_of(env: gym.Env) -> dict[str, Any]:
    """Gymnasium's EnvSpec of `env` as JSON, without wrappers that only watch.

    Raises ValueError, saying what to do, if it was not made by `gym.make` or holds what JSON cannot.
    """
    if env.spec is None:
        raise ValueError(
            f"{env} was not made by gymnasium.make, so it cannot be rebuilt: register it and make it by id"
        )
    found = asdict(env.spec)
    for name in ("namespace", "name", "version"):  # Gymnasium leaves them out of its own JSON: they stand in the id
        found.pop(name, None)
    for name in ("entry_point", "vector_entry_point"):  # never used: what is registered under the id is
        if callable(maker := found[name]):
            found[name] = f"{maker.__module__}:{getattr(maker, '__qualname__', type(maker).__qualname__)}"
    found["additional_wrappers"] = [w for w in found["additional_wrappers"] if w["name"] not in WATCHERS]
    if found["kwargs"].get("render_mode") == "human":
        del found["kwargs"]["render_mode"]
    return {name: _plain(value, f"{env.spec.id}: {name}") for name, value in found.items()}


def _plain(value: Any, where: str) -> Any:
    """`value` as JSON has it. Raises ValueError naming what is not a number, text, list or dict of them."""
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(part, f"{where}.{key}") for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part, where) for part in value]
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError(f"{where} is {value!r}, which JSON does not hold: register an environment that has it inside")


def schema_from_env(env: gym.Env, evaluation_env: gym.Env | None = None, **given: Any) -> Schema:
    """See `Schema.from_env`."""
    spaces = env.observation_space
    goals = {"achieved_goal", "desired_goal", "observation"}
    if isinstance(spaces, gym.spaces.Dict) and set(spaces.spaces) >= goals:
        given["roles"] = {"desired_goal": "goal", **(given.get("roles") or {})}
    if not (given.get("environment") or {}).get("suite"):
        for name, made in (("environment_spec", env), ("evaluation_spec", evaluation_env)):
            if name not in given and made is not None:
                given[name] = spec_of(made)
    envs = [env] if evaluation_env is None else [env, evaluation_env]
    given.setdefault("requirements", _of_modules(module for each in envs for module in _modules(each)))
    schema = Schema.from_spaces(observation=spaces, action=env.action_space, **given)
    for evaluation, spec in ((False, schema.environment_spec), (True, schema.evaluation_spec)):
        if spec is not None:
            make_env(schema, evaluation=evaluation).close()  # refuses here what could not be rebuilt later
    return schema


def make_env(schema: Schema, *, evaluation: bool = False) -> gym.Env:
    """The environment of a schema: its suite's, else the recorded Gymnasium spec's; the caller closes it.

    `evaluation` asks for the environment to evaluate in, which is the same unless another was recorded. Raises
    StoreError if none is recorded, it is not installed (naming the requirements), or it differs from the schema.
    """
    suite = schema.environment.get("suite")
    spec = schema.evaluation_spec if evaluation and schema.evaluation_spec is not None else schema.environment_spec
    if suite:
        from toolkit import registry

        if not isinstance(suite, str) or suite not in registry.suites():
            raise StoreError(f"the store was made by suite {suite!r}; there are {', '.join(registry.suites())}")
        env = registry.suite(suite).make()
    elif spec is None:
        raise StoreError("the store records no environment; make the schema with Schema.from_env, or make it yourself")
    else:
        env = _made(schema, spec)
    try:
        if difference := _difference(schema, env):
            raise StoreError(f"{env} is not the environment of this store: {difference}{_needs(schema)}")
    except BaseException:
        env.close()
        raise
    return env


def _made(schema: Schema, spec: Mapping[str, Any]) -> gym.Env:
    """The environment of a recorded spec, by the registered entry point and not by the recorded one."""
    name = spec.get("id")
    if not isinstance(name, str) or name not in gym.registry:
        raise StoreError(
            f"environment {name!r} is not registered in Gymnasium: install what made it and import it first"
            + _needs(schema)
        )
    wrappers, kwargs, limit = (
        spec.get("additional_wrappers") or [],
        spec.get("kwargs") or {},
        spec.get("max_episode_steps"),
    )
    if not isinstance(kwargs, dict) or not isinstance(wrappers, list) or not isinstance(limit, int | None):
        raise StoreError(f"the recorded spec of {name!r} is not one of Gymnasium's; the schema was written by hand")
    chosen = replace(
        gym.registry[name],
        kwargs=kwargs,
        max_episode_steps=limit,
        order_enforce=bool(spec.get("order_enforce", True)),
        disable_env_checker=bool(spec.get("disable_env_checker", False)),
        additional_wrappers=(),
    )
    try:
        env = gym.make(chosen)
    except Exception as error:
        raise StoreError(
            f"environment {name!r} cannot be made ({type(error).__name__}: {error}){_needs(schema)}"
        ) from error
    try:
        own = [vars(wrapper) for wrapper in env.spec.additional_wrappers] if env.spec is not None else []
        skip = len(own) if json.dumps(wrappers[: len(own)]) == json.dumps(own, default=repr) else 0
        for wrapper in wrappers[skip:]:
            env = _wrapped(env, wrapper)
    except BaseException:
        env.close()
        raise
    return env


def _wrapped(env: gym.Env, wrapper: Any) -> gym.Env:
    """`env` in one recorded wrapper. Raises StoreError unless it is one of gymnasium.wrappers with plain arguments."""
    try:
        name, entry, kwargs = wrapper["name"], wrapper["entry_point"], wrapper["kwargs"]
        module, _, attribute = entry.partition(":")
    except (KeyError, TypeError, AttributeError):
        raise StoreError(f"the recorded wrapper {wrapper!r} is not one of Gymnasium's specs") from None
    allowed = set(gym.wrappers.__all__) - set(WATCHERS) - set(CONVERTERS)
    if (
        f"{module}.".startswith("gymnasium.wrappers.")
        and attribute == name
        and name in allowed
        and isinstance(kwargs, dict)
    ):
        try:
            return getattr(gym.wrappers, name)(env, **kwargs)
        except Exception as error:
            raise StoreError(f"wrapper {name} cannot be applied ({type(error).__name__}: {error})") from error
    raise StoreError(
        f"the wrapper {entry!r} cannot be rebuilt; only those of gymnasium.wrappers with recorded arguments can, "
        "and none that writes or converts: register an environment that has it inside"
    )


def _difference(schema: Schema, env: gym.Env) -> str:
    """The first thing in which the environment's spaces are not the schema's; '' if there is none."""
    roles = {key.name: key.role for key in schema.observations}
    if (names := set(named_spaces(env.observation_space))) != set(roles):
        return f"its observations are {sorted(names)}, the store's {sorted(roles)}"
    try:
        found = Schema.from_spaces(observation=env.observation_space, action=env.action_space, roles=roles)
    except ValueError as error:
        return str(error)
    theirs = {key.name: key for key in found.observations}
    for key in (*schema.observations, schema.action):
        other = found.action if key.role == "action" else theirs[key.name]
        if _shape(key) != _shape(other):
            return f"{key.name!r} is {_shape(other)}, the store's {_shape(key)}"
    ours, now = ((one.action.low, one.action.high) for one in (schema, found))
    return "" if ours == now else f"its action limits are {now}, the store's {ours}"


def _shape(key: Key) -> str:
    choices = f" of {key.choices} from {key.start}" if key.choices else ""
    return f"{key.space} {key.dtype} {key.shape}{choices}"


def _needs(schema: Schema) -> str:
    found = [f"{text} (installed: {installed(text) or 'none'})" for text in recorded(schema)]
    if not found:
        return ""
    return f"; the store was made with {', '.join(found)}"


def _modules(env: gym.Env) -> set[str]:
    """Top-level modules of the environment's classes, and of what it and the ones inside hold: a simulator is there."""
    found, waiting, seen = set(), [env], set[int]()
    while waiting:
        layer = waiting.pop()
        seen.add(id(layer))
        held = list(vars(layer).values())
        found |= {kind.__module__.partition(".")[0] for kind in (*type(layer).__mro__, *map(type, held))}
        waiting += [part for part in held if isinstance(part, gym.Env) and id(part) not in seen]
    return found


def _of_modules(modules: Iterable[str]) -> tuple[str, ...]:
    """`requirements` of those modules that a package holds and that are not Python's or ours."""
    found = []
    for module in set(modules) - set(sys.stdlib_module_names) - set(OURS):
        try:
            found.append(_package(module))
        except ValueError:
            continue
    return tuple(sorted(found))


def _package(module: str) -> str:
    top = module.partition(".")[0]
    try:
        package = metadata.distribution(top)
    except metadata.PackageNotFoundError:
        holders = metadata.packages_distributions().get(top)
        if not holders:
            raise ValueError(f"module {module!r} belongs to no installed package; name what was imported") from None
        package = metadata.distribution(holders[0])
    return f"{package.metadata['Name']}=={package.version}"
