"""mbrl-lib and pytorch-mppi, planning with the weights of a model of ours; used by `planning.py`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from toolkit.core import Array, Step
from worldmodel.model import EnsembleModel, Imagination
from worldmodel.mpc import MPC


def needed(name: str) -> Any:
    """The module of a peer. Leaves with what to do if it is not there."""
    warnings.simplefilter("ignore")
    try:
        return __import__(name, fromlist=["_"])
    except ImportError as error:
        raise SystemExit(f"{name} is not importable ({error}); how to install it: {sys.argv[0]} --help") from None


class MbrlLib:
    """mbrl-lib's CEM agent, with a configuration's budget, the elite members' weights and `particles` a sequence.

    With `noise` it draws what happens, as it usually does; without, its network is told to be deterministic.
    """

    def __init__(self, learner: MPC, particles: int, *, noise: bool) -> None:
        config, spec, self.model = learner.config, learner.spec, learner.best_model()
        envs, planning = needed("mbrl.models"), needed("mbrl.planning")
        self.network = copied(self.model, noise=noise)
        wrapped = envs.OneDTransitionRewardModel(self.network, normalize=True)
        wrapped.input_normalizer.mean = self.model.inputs.mean[None].clone()
        wrapped.input_normalizer.std = self.model.inputs.std[None].clone()
        self.check(wrapped)
        self.network.set_propagation_method("fixed_model")
        env = envs.ModelEnv(
            _Spaces(spec.obs_dim, spec.action_dim),
            wrapped,
            lambda action, obs: torch.zeros(len(obs), 1, dtype=torch.bool),
            generator=torch.Generator().manual_seed(0),
        )
        cfg = needed("omegaconf").OmegaConf.create(
            {
                "_target_": "mbrl.planning.CEMOptimizer",
                "num_iterations": config.iterations,
                "elite_ratio": config.best / config.samples,
                "population_size": config.samples,
                "alpha": config.momentum,
                "lower_bound": "???",
                "upper_bound": "???",
                "return_mean_elites": True,
                "device": "cpu",
            }
        )
        low, high = spec.action_low.tolist(), spec.action_high.tolist()
        self.agent = planning.TrajectoryOptimizerAgent(cfg, low, high, planning_horizon=config.horizon)
        self.agent.set_trajectory_eval_fn(
            lambda obs, actions: env.evaluate_action_sequences(actions, initial_state=obs, num_particles=particles)
        )

    @torch.no_grad()
    def check(self, wrapped: Any) -> None:
        """Both predict the same, every member. Raises RuntimeError if not."""
        obs = self.model.inputs.mean + self.model.inputs.std * torch.randn(64, len(self.model.inputs.mean))
        obs, action = obs.split([self.model.obs_dim, obs.shape[1] - self.model.obs_dim], -1)
        found = wrapped.model(wrapped._get_model_input(obs, action), use_propagation=False)[0]
        after, reward, _ = self.model.predict(obs, action)
        due = torch.cat([after - obs, reward[..., None]], -1)[self.model.elites]
        if not torch.allclose(found, due, rtol=1e-3, atol=1e-4 * float(due.abs().max())):
            raise RuntimeError(f"mbrl-lib predicts otherwise, by up to {float((found - due).abs().max()):g}")

    def act(self, step: Step) -> Array:
        """Actions (1, A) for one row: an agent of mbrl-lib's plans in one environment."""
        if step.first[0]:
            self.agent.reset()
        return self.agent.act(step.obs[0])[None].astype(np.float32)


class _Spaces:
    """All that mbrl-lib's ModelEnv asks of an environment."""

    def __init__(self, obs: int, action: int) -> None:
        self.observation_space, self.action_space = obs, action


def copied(model: EnsembleModel, *, noise: bool) -> Any:
    """mbrl-lib's GaussianMLP with the elite members' weights; the scale of our targets goes into its last layer."""
    each = [parameter.detach()[model.elites] for parameter in model.network.parameters()]
    weights, biases = each[::2], each[1::2]
    dims, scale = model.obs_dim + 1, model.targets.kept * model.targets.std
    network = needed("mbrl.models").GaussianMLP(
        weights[0].shape[1],
        dims,
        "cpu",
        num_layers=len(weights) - 1,
        ensemble_size=len(model.elites),
        hid_size=weights[0].shape[2],
        deterministic=not noise,
        activation_fn_cfg={"_target_": "torch.nn.SiLU"},
    )
    weights[-1], biases[-1] = weights[-1][..., : dims + dims * noise], biases[-1][..., : dims + dims * noise]
    weights[-1][..., :dims] *= scale
    biases[-1][..., :dims] = biases[-1][..., :dims] * scale + model.targets.mean
    if noise:  # log-variances in raw units, and their bounds
        shift = 2 * (model.targets.std * model.head.scale).log()
        biases[-1][..., dims:] += shift
        bounds = model.head.bounds
        network.min_logvar = nn.Parameter(bounds.low.detach()[model.elites] + shift)
        network.max_logvar = nn.Parameter(bounds.high.detach()[model.elites] + shift)
    layers = [part[0] for part in network.hidden_layers] + [network.mean_and_logvar]
    for layer, weight, bias in zip(layers, weights, biases, strict=True):
        layer.weight, layer.bias = nn.Parameter(weight.contiguous()), nn.Parameter(bias.contiguous())
    return network


def pytorch_mppi(learner: MPC, obs: Array) -> Callable[[], object]:
    """Calls of pytorch-mppi's `command` from obs (1, O); its state is our observation and the reward last received."""
    config, spec = learner.config, learner.spec
    imagine, first = Imagination(learner.best_model()), torch.from_numpy(np.append(obs[0], np.float32(0)))
    low, high = torch.from_numpy(spec.action_low), torch.from_numpy(spec.action_high)

    @torch.inference_mode()
    def dynamics(state: Tensor, action: Tensor) -> Tensor:
        before = state[:, :-1].view(imagine.members, -1, spec.obs_dim)
        found = imagine.step(torch.cat([before, action.view(imagine.members, -1, spec.action_dim)], -1))
        reward = found[..., spec.obs_dim : spec.obs_dim + 1]
        return torch.cat([imagine.after(before, found), reward], -1).view(len(state), -1)

    planner = needed("pytorch_mppi").MPPI(
        dynamics,
        lambda state, action: -state[:, -1],
        nx=spec.obs_dim + 1,
        noise_sigma=torch.diag(((high - low) / 2 * config.spread) ** 2),
        num_samples=config.samples,
        horizon=config.horizon,
        u_min=low,
        u_max=high,
        lambda_=config.temperature,
    )
    return lambda: planner.command(first)
