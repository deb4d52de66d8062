"""Fitted Q evaluation: what a trained policy would earn, judged from data alone."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from toolkit import feed
from toolkit.configure import load_learner, open_data, resolve_device
from toolkit.core import Array, Learner, Needs, Policy, Step, child_seed
from toolkit.nets import StackedMLP, adam, descend, generator, polyak
from toolkit.normalize import Normalizer
from toolkit.store import Mixture, ReplayStore

STARTS = 256  # first observations of at most so many episodes are averaged


@dataclass(frozen=True)
class Value:
    """Discounted values, means over first observations of the data's episodes."""

    policy: float  # by fitted Q evaluation
    behaviour: float  # the data's own mean discounted return
    td_error: float  # root mean square of the last tenth of the updates; large where the fit has not settled
    disagreement: float  # of two critics about the policy's value


def fitted_value(
    learner: Learner,
    data: ReplayStore | Mixture,
    *,
    steps: int = 10_000,
    seed: int = 0,
    discount: float = 0.99,
    batch_size: int = 256,
    hidden: tuple[int, ...] = (256, 256),
    lr: float = 3e-4,
    tau: float = 0.005,
    draws: int = 10,
    device: str = "cpu",
) -> Value:
    """The discounted value of the learner's policy on `data` (arXiv:1903.08738, with target networks).

    The target is r + discount * Q'(s', a'), with a' the policy's own action: of a deterministic policy its one
    action, of a stochastic one a fresh draw at every update, and `draws` of them at the first observations.
    Q is the mean of two critics, not the lesser. It is only as good as the data cover what the policy does.
    Raises ValueError if the policy remembers or plans over an episode, since the value of (s, a) then is not enough.
    """
    if steps < 1 or draws < 1 or not 0 <= discount < 1:
        raise ValueError(
            f"steps and draws must be at least 1 and discount lie in [0, 1), got {steps}, {draws} and {discount}"
        )
    spec = data.spec
    starts = first_observations(data, np.random.default_rng(child_seed(seed, "starts")))
    check_memoryless(learner, starts)
    policy = learner.policy(seed=child_seed(seed, "policy"))
    observe = Normalizer(spec.obs).to(device)
    scale = (lambda action: action) if spec.discrete else Normalizer(spec.action).to(device)
    weights = generator(child_seed(seed, "parameters"))
    critics = StackedMLP(2, spec.obs_dim + spec.action_dim, hidden, 1, generator=weights).to(device)
    targets = copy.deepcopy(critics).requires_grad_(False)
    optimizer = adam(critics.parameters(), lr)

    def q(networks: StackedMLP, obs: Tensor, action: Tensor) -> Tensor:
        return networks(torch.cat([observe(obs), scale(action)], -1)).squeeze(-1)  # (M, B)

    def chosen(obs: Tensor) -> Tensor:
        return acted(policy, obs, spec.action_dim if spec.discrete else None)

    sampler = feed.sampler(data, Needs(reward=True), batch_size=batch_size, seed=child_seed(seed, "batches"))
    errors = []
    for step in range(steps):
        batch = sampler.next()
        obs, next_obs = batch.obs.to(device).unbind(1)
        with torch.no_grad():
            alive = 1 - batch.terminated[:, 0].to(device).float()
            next_q = q(targets, next_obs, chosen(next_obs)).mean(0)
            target = batch.reward[:, 0].to(device) + discount * alive * next_q
        loss = (q(critics, obs, batch.action[:, 0].to(device)) - target).square().mean(1).sum()
        descend(optimizer, loss)
        polyak(targets, critics, tau)
        if step >= steps - max(1, steps // 10):
            errors.append(loss.detach() / 2)
    with torch.no_grad():
        shown = torch.from_numpy(starts).to(device)
        each = torch.stack([q(critics, shown, chosen(shown)) for _ in range(draws)]).mean((0, 2))  # (M,)
    return Value(
        policy=float(each.mean()),
        behaviour=monte_carlo_value(data, discount),
        td_error=float(torch.stack(errors).mean().sqrt()),
        disagreement=float(each.std()),
    )


def monte_carlo_value(data: ReplayStore | Mixture, discount: float) -> float:
    """Mean over episodes of the discounted sum of their rewards: the behaviour's value, cut where an episode is."""
    totals = []
    for index in range(len(data)):
        reward = data.episode(index).reward.astype(np.float64)
        totals.append(float((discount ** np.arange(len(reward)) * reward).sum()))
    return float(np.mean(totals))


def evaluate_run(folder: str | Path, *, steps: int = 10_000, seed: int = 0, discount: float = 0.99) -> Value:
    """Fitted Q evaluation of a trained run's policy on the data it was trained on, all of its view."""
    config, learner, _ = load_learner(folder)
    data = open_data(config.store, config.commit, config.view)
    return fitted_value(learner, data, steps=steps, seed=seed, discount=discount, device=resolve_device("auto"))


def first_observations(data: ReplayStore | Mixture, rng: np.random.Generator) -> Array:
    """(n, O) float32: the first observations of up to STARTS episodes."""
    chosen = rng.permutation(len(data))[:STARTS]
    return np.stack([data.schema.flatten(data.episode(int(i)).observations())[0] for i in chosen])


def acted(policy: Policy, obs: Tensor, choices: int | None) -> Tensor:
    """The policy's actions (N, A) for observations (N, O); one-hot among `choices` if they are discrete."""
    rows = obs.cpu().numpy()
    action = policy.act(Step(rows, np.zeros(len(rows), np.float32), np.ones(len(rows), bool)))
    if choices is not None:
        action = np.eye(choices, dtype=np.float32)[action]
    return torch.from_numpy(action).to(obs.device)


def check_memoryless(learner: Learner, obs: Array) -> None:
    """Raises ValueError if the policy acts differently after `first` than in the middle of an episode.

    Both policies have one seed and act as often, so a stochastic one draws the same.
    """
    ones = np.ones(len(obs), np.float32)
    found = []
    for first in (True, False):
        policy = learner.policy(seed=0)
        policy.act(Step(obs[::-1].copy(), ones, np.ones(len(obs), bool)))
        found.append(policy.act(Step(obs, ones, np.full(len(obs), first))))
    after_first, in_the_middle = found
    if not np.array_equal(after_first, in_the_middle):
        raise ValueError(
            "the policy remembers or plans over its episode, so a state and an action do not decide what follows; "
            "fitted Q evaluation needs a policy of the observation alone: evaluate this one in its environment"
        )
