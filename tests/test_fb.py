"""Forward-backward representations: their losses written out, the measure they find, and tasks told only afterwards."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import equal_states, toy_batch, toy_spec
from test_equations import SPEC, Wide, assert_gradients, joined, wide_batch
from test_known_answers import DISCOUNT, batch_of, spec_of, trained
from test_parity import CLOSE, HIDDEN
from torch import Tensor

from algos.fb import FB, FBConfig, to_sphere
from toolkit.core import ActionValue, Array, Batch

N = 6  # states in a ring; the actions step back, stay and step on
QUICK = {"tau": 0.05, "discount": DISCOUNT, "layer_norm": False}
ONE_HOT = torch.eye(N)
REWARDS = {"reach 1": np.eye(N)[1], "reach 4": np.eye(N)[4], "keep off 0": -np.eye(N)[0]}  # of the next state
LED = (np.arange(N)[:, None] + [-1, 0, 1]) % N  # (state, action) -> next state


def ring(size: int, rng: np.random.Generator, reward: Array | None = None) -> Batch:
    """Uniform states and actions, and so uniform next states, which are what is rewarded."""
    s, a = rng.integers(N, size=size), rng.integers(3, size=size)
    after = LED[s, a]
    paid = np.zeros(size) if reward is None else reward[after]
    return batch_of(np.eye(N)[s], np.eye(3)[a], paid, np.eye(N)[after], np.zeros(size))


@functools.cache
def of_ring() -> FB:
    config = FBConfig(hidden=(32, 32), z_dim=N, lr=5e-3, **QUICK)
    return trained(config, spec_of(np.eye(N), np.eye(3), discrete=True), ring, 1000)


def asked(learner: FB, batch: Batch) -> FB:
    """The same networks, with these transitions as the labelled ones."""
    other = learner.config.build(SPEC_OF[learner.discrete], seed=0, device="cpu")
    state = learner.state_dict()
    other.load_state_dict(state | {"seen": torch.zeros_like(state["seen"])})
    other.keep(other.observe(batch.obs[:, 1]), batch.reward[:, 0])
    return other


LINE = np.linspace(-1, 1, 201)[:, None]
SPEC_OF = {True: spec_of(np.eye(N), np.eye(3), discrete=True), False: spec_of(LINE, LINE)}


def asked_of_ring(reward: Array) -> tuple[FB, Array]:
    """The learner that was asked, and its actions in each state."""
    learner = asked(of_ring(), ring(10_000, np.random.default_rng(1), reward))
    return learner, learner.policy(seed=0).choose(ONE_HOT).numpy()


def worth(reward: Array, action: Array) -> Array:
    """What a policy (N,) of the ring earns, discounted, from each state; exact."""
    after = LED[np.arange(N), action]
    return np.linalg.solve(np.eye(N) - DISCOUNT * np.eye(N)[after], reward[after])


def best(reward: Array) -> Array:
    """The optimal value of each state of the ring."""
    value = np.zeros(N)
    for _ in range(200):
        value = (reward + DISCOUNT * value)[LED].max(1)
    return value


@pytest.mark.parametrize("name", REWARDS)
def test_one_pretraining_without_rewards_gives_the_optimal_policy_of_each(name):
    _, action = asked_of_ring(REWARDS[name])
    np.testing.assert_allclose(worth(REWARDS[name], action), best(REWARDS[name]), atol=1e-9)


@pytest.mark.parametrize("name", ["reach 1", "reach 4"])
def test_the_product_of_both_maps_is_the_successor_measure_of_the_policy(name):
    """Against the inverse of 1 - discount P; its entries lie between 0 and 5."""
    learner, action = asked_of_ring(REWARDS[name])
    move = np.eye(N)[LED[np.arange(N), action]]
    due = np.linalg.inv(np.eye(N) - DISCOUNT * move)[LED]  # (state, action, state reached)
    s, z = learner.observe(ONE_HOT), learner.inferred()[0]
    with torch.no_grad():
        f = learner.of_every_action(learner.forward_map, s, z.expand(N, -1))
        found = (f @ to_sphere(learner.backward_map(s)).mT / N).mean(0).numpy()  # a density against 1 / N
    np.testing.assert_allclose(found, due, atol=1.2)
    assert np.abs(found - due).mean() < 0.25


def test_values_are_discounted_returns_in_the_units_of_rewards():
    reward = 10 * REWARDS["reach 4"]
    learner, action = asked_of_ring(reward)
    assert isinstance(learner, ActionValue)
    with torch.no_grad():
        value = learner.state_value(ONE_HOT)
        of_own = learner.action_value(ONE_HOT, torch.eye(3)[action])
    torch.testing.assert_close(value, of_own)
    np.testing.assert_allclose(value, worth(reward, action), atol=8)  # they reach 50


def along(size: int, rng: np.random.Generator, goal: float = 0.0) -> Batch:
    """A line from -1 to 1, moved along by 0.4 a; the reward peaks where the next state is `goal`."""
    s, a = rng.uniform(-1, 1, (2, size, 1))
    after = np.clip(s + 0.4 * a, -1, 1)
    return batch_of(s, a, np.exp(-((after - goal) ** 2) / 0.05)[:, 0], after, np.zeros(size))


@functools.cache
def of_line() -> FB:
    return trained(FBConfig(hidden=(64, 64), z_dim=8, lr=2e-3, **QUICK), SPEC_OF[False], along, 1000)


@pytest.mark.parametrize("goal", [-0.5, 0.5])
def test_the_actor_goes_where_the_task_rewards(goal):
    policy = asked(of_line(), along(10_000, np.random.default_rng(1), goal)).policy(seed=0)
    s = torch.linspace(-1, 1, 9)[:, None]
    for _ in range(10):
        with torch.no_grad():
            s = (s + 0.4 * policy.choose(s)).clamp(-1, 1)
    np.testing.assert_allclose(s, goal, atol=0.2)


SMALL = FBConfig(hidden=(16, 16), z_dim=5)


@pytest.mark.parametrize("discrete", [False, True])
def test_rewards_choose_the_task_and_never_reach_a_network(discrete):
    config, spec = dataclasses.replace(SMALL, conservatism=0.1), toy_spec(discrete, action_dim=3)
    one, other = (config.build(spec, seed=0, device="cpu") for _ in range(2))
    for seed in range(5):
        batch = toy_batch(spec, seed=seed, needs=config.needs)
        one.update(batch)
        other.update(dataclasses.replace(batch, reward=100 * batch.reward.flip(0) ** 3))
    a, b = one.state_dict(), other.state_dict()
    assert not torch.equal(a.pop("labelled"), b.pop("labelled"))
    assert equal_states(a, b)
    assert not torch.allclose(one.inferred()[0], other.inferred()[0], atol=0.1)


@pytest.mark.parametrize("room", [5, 8, 20, 100])
def test_the_first_rewarded_transitions_are_kept_until_there_is_no_room(room):
    learner = dataclasses.replace(SMALL, labelled=room).build(SPEC, seed=0, device="cpu")
    batches = [toy_batch(SPEC, 8, seed=seed) for seed in range(5)]
    for batch in batches:
        learner.update(batch)
    drawn = torch.cat([torch.cat([learner.observe(b.obs[:, 1]), b.reward], 1) for b in batches])[:room]
    assert learner.seen.item() == len(drawn)
    assert torch.equal(learner.labelled[: len(drawn)], drawn)
    assert not learner.labelled[len(drawn) :].any()


@pytest.mark.parametrize("centred", [False, True])
def test_the_task_is_the_mean_of_reward_times_b_on_the_sphere(centred):
    learner = dataclasses.replace(SMALL, labelled=50, centred=centred).build(SPEC, seed=0, device="cpu")
    assert not any(part.any() for part in learner.inferred())
    for seed in range(4):
        learner.update(toy_batch(SPEC, 8, seed=seed))
        with torch.no_grad():
            b = to_sphere(learner.backward_map(learner.labelled[: 8 * (seed + 1), :-1]))
        reward = learner.labelled[: len(b), -1]
        z, plain = learner.inferred()
        torch.testing.assert_close(plain, (reward[:, None] * b).mean(0), rtol=1e-4, atol=1e-5)
        direction = ((reward - reward.mean())[:, None] * b).mean(0) if centred else plain
        torch.testing.assert_close(z, 5**0.5 * direction / direction.norm(), rtol=1e-4, atol=1e-5)


def test_update_equals_the_papers_equations():
    """Pair by pair; a terminated step leads nowhere; and VC-FB's gap over the actions that were tried."""
    config = FBConfig(hidden=HIDDEN, z_dim=5, conservatism=0.3, samples=2, discount=0.9)
    learner = config.build(SPEC, seed=3, device="cpu")
    learner.optimizer.param_groups[0]["lr"] = 0.0  # so that the actor climbs the map written here
    batch, x = wide_batch(config)
    forward, backward, actor = (Wide(p) for p in (learner.forward_map, learner.backward_map, learner.actor))
    random = torch.Generator()
    random.set_state(learner.noise.get_state())
    sphere, chance = torch.randn(64, 5, generator=random), torch.rand(64, 1, generator=random)
    noise, spread = torch.randn(2, 64, 2, generator=random), torch.randn(2, 64, 2, 2, generator=random)
    uniform = torch.rand(64, 2, 2, generator=random).double() * 2 - 1

    def unit(v: Tensor) -> Tensor:
        return 5**0.5 * v / v.norm(dim=-1, keepdim=True)

    def pi(s: Tensor, drawn: Tensor) -> Tensor:
        return (actor(joined(s, z))[:, 0].tanh() + (0.2 * drawn.double()).clamp(-0.3, 0.3)).clamp(-1, 1)

    b = unit(backward(x["next_s"])[:, 0])
    z = torch.where(chance < 0.5, b[list(range(-1, 63))], unit(sphere.double())).detach()
    next_f = forward(joined(x["next_s"], z, pi(x["next_s"], noise[0])))  # (64, 2, 5)
    f = forward(joined(x["s"], z, x["a"]))
    fb_loss = orthonormality = torch.zeros((), dtype=torch.float64)
    for i in range(64):
        others = [j for j in range(64) if j != i]
        target = 0.9 * x["alive"][i] * (next_f[i] @ b[others].T).min(0).values.detach()
        residual = (f[i] @ b[others].T - target).square().sum(0) / 2
        fb_loss = fb_loss + residual.mean() / 64 - (f[i] @ b[i]).sum() / 64
        orthonormality = orthonormality + (b[others] @ b[i]).square().mean() / 64
    tried = [
        x["a"],
        *(pi(x["s"], spread[0, :, k]) for k in range(2)),
        *(pi(x["next_s"], spread[1, :, k]) for k in range(2)),
    ]
    tried = torch.stack([*tried, *uniform.unbind(1)]).detach()
    q = torch.stack([(forward(joined(x["s"], z, a)) * z[:, None]).sum(-1) for a in tried])  # (7, 64, 2)
    gap = (q.exp().sum(0).log() - q[0]).mean(0).sum()
    actor_loss = -(forward(joined(x["s"], z, pi(x["s"], noise[1]))) * z[:, None]).sum(-1).min(1).values.mean()
    metrics = learner.update(batch)
    due = {"fb_loss": fb_loss, "orthonormality": orthonormality, "gap": gap, "actor_loss": actor_loss}
    for name, value in due.items():
        np.testing.assert_allclose(metrics[name], value.detach(), **CLOSE)
    assert_gradients(learner.optimizer, fb_loss + orthonormality + 0.3 * gap, [*forward.all, *backward.all])
    assert_gradients(learner.actor_optimizer, actor_loss, actor.all)


def test_a_discrete_action_that_the_data_hold_counts_once_among_those_tried():
    spec = toy_spec(discrete=True, action_dim=3)
    learner = dataclasses.replace(SMALL, conservatism=0.1).build(spec, seed=0, device="cpu")
    batch = toy_batch(spec, 16)
    s, a, z = learner.observe(batch.obs[:, 0]), batch.action[:, 0], to_sphere(torch.ones(16, 5))
    with torch.no_grad():
        q = (learner.of_every_action(learner.forward_map, s, z) * z[:, None]).sum(-1)
        found = learner.tried(s, a, s, z, *torch.zeros(2, 0))
    torch.testing.assert_close(found.logsumexp(-1), q.logsumexp(-1))
    torch.testing.assert_close(found[..., 0], q[:, F.one_hot(a.argmax(-1), 3).bool()])


@pytest.mark.parametrize("wrong", [{"z_dim": 0}, {"labelled": 0}, {"goal_share": 1.5}, {"conservatism": -1.0}])
def test_impossible_options_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FBConfig(**wrong)
