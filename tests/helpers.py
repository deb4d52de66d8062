"""Small specs and batches without a store, and a state that has been through files."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from toolkit.core import Batch, Moments, Needs, Spec


def toy_spec(discrete: bool = False, goal: bool = False, *, obs_dim: int = 3, action_dim: int = 2) -> Spec:
    """Data with offsets and unequal scales, and limits that are not symmetric, so that mixed-up units show."""
    rng = np.random.default_rng(0)
    goal_dim = 2 if goal else 0
    size = obs_dim + goal_dim
    obs = rng.normal(np.arange(size), 1 + np.arange(size), (200, size))
    low, high = -1.0 - np.arange(action_dim), 2.0 + np.arange(action_dim)
    action = (
        np.eye(action_dim)[rng.integers(action_dim, size=200)]
        if discrete
        else rng.uniform(low, high, (200, action_dim))
    )
    ones = np.ones(action_dim, np.float32)
    return Spec(
        obs_dim=size,
        action_dim=action_dim,
        discrete=discrete,
        goal_dim=goal_dim,
        action_low=0 * ones if discrete else low.astype(np.float32),
        action_high=ones if discrete else high.astype(np.float32),
        horizon=20,
        episodes=10,
        transitions=200,
        obs=Moments.of(obs),
        delta=Moments.of(rng.normal(0, 0.5, (200, size))),
        action=Moments.of(action),
        reward=Moments.of(rng.normal(size=(200, 1))),
        returns=Moments.of(rng.normal(5, 3, size=(10, 1))),
        obs_resolution=np.full(size, 0.01, np.float32),
        action_resolution=0.01 * ones,
    )


def toy_batch(spec: Spec, batch_size: int = 8, window: int = 1, seed: int = 0, needs: Needs | None = None) -> Batch:
    """Random steps with the spec's own moments, and the fields that are needed; about a third end by termination.

    A sixth of the windows are truncated at their end: no next action is known there.
    """
    needs = Needs(window=window) if needs is None else needs
    random = torch.Generator().manual_seed(seed)
    shape = (batch_size, needs.window)
    window = needs.window
    walk = 0.5 * torch.randn(batch_size, window + 1, spec.obs_dim, generator=random).cumsum(1)
    obs = torch.from_numpy(spec.obs.mean) + torch.from_numpy(spec.obs.std) * walk
    if spec.discrete:
        action = torch.eye(spec.action_dim)[torch.randint(spec.action_dim, shape, generator=random)]
    else:
        low, high = torch.from_numpy(spec.action_low), torch.from_numpy(spec.action_high)
        action = low + (high - low) * torch.rand(*shape, spec.action_dim, generator=random)
    terminated = torch.zeros(shape, dtype=torch.bool)
    terminated[:, -1] = torch.rand(batch_size, generator=random) < 1 / 3
    reward = torch.randn(shape, generator=random)
    extra: dict[str, Tensor] = {}
    if needs.next_action:
        known = ~terminated
        known[:, -1] &= torch.rand(batch_size, generator=random) > 1 / 6
        extra["next_valid"] = known
        extra["next_action"] = action.roll(1, 0) * known[..., None]
    if needs.n_step > 1:
        assert needs.discount is not None
        extra["discount"] = needs.discount ** torch.randint(1, needs.n_step + 1, shape, generator=random).float()
    if needs.returns_to_go:
        extra["return_to_go"] = 5 + 3 * torch.randn(shape, generator=random)
    return Batch(
        obs=obs,
        action=action,
        reward=reward,
        terminated=terminated,
        valid=torch.ones(shape, dtype=torch.bool),
        episode=torch.arange(batch_size) % spec.episodes,
        goal=obs[..., -spec.goal_dim :] if spec.goal_dim else None,
        **extra,
    )


def through_files(state: dict[str, Any]) -> dict[str, Any]:
    """The state after JSON and safetensors: fails for a leaf or a key that these cannot hold."""
    tensors: dict[str, Tensor] = {}

    def leave(value: Any, path: str) -> Any:
        if isinstance(value, dict):
            assert all(isinstance(key, str) for key in value), f"{path} has keys that are not strings: {list(value)}"
            return {key: leave(part, f"{path}/{key}") for key, part in value.items()}
        if isinstance(value, Tensor):
            tensors[path] = value.contiguous()
            return {"tensor": path}
        assert value is None or isinstance(value, bool | int | float | str | list), (
            f"{path} is a {type(value).__name__}"
        )
        return value

    text = json.dumps(leave(state, ""))
    stored = safetensors.torch.load(safetensors.torch.save(tensors))

    def enter(value: Any) -> Any:
        if isinstance(value, dict):
            return stored[value["tensor"]] if value.keys() == {"tensor"} else {k: enter(v) for k, v in value.items()}
        return value

    return enter(json.loads(text))


def leaves(state: Any, path: str = "") -> dict[str, Any]:
    """Path -> leaf of nested dicts."""
    if not isinstance(state, dict):
        return {path: state}
    return {k: v for key, part in state.items() for k, v in leaves(part, f"{path}/{key}").items()}


def equal_states(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two states agree bit for bit."""
    a, b = leaves(one), leaves(other)
    return a.keys() == b.keys() and all(
        torch.equal(x, b[k]) if isinstance(x, Tensor) else x == b[k] for k, x in a.items()
    )
