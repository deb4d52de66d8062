"""Laws of the world model and its planner."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import toy_batch, toy_spec
from scipy.special import logsumexp
from scipy.stats import norm
from torch import Tensor
from torch._dynamo.utils import counters

from toolkit.compiled import compiled
from toolkit.core import Batch, Moments, Spec, Step
from toolkit.nets import generator
from worldmodel.doubt import Doubt
from worldmodel.heads import GaussianHead
from worldmodel.model import EnsembleModel, Imagination
from worldmodel.mpc import MPC, MPCConfig
from worldmodel.score import ImaginedReturn

EPISODES, STEPS, NOISE = 20, 100, 0.05
SMALL = MPCConfig(hidden=(32, 32), members=4, elites=2, compare_every=50, samples=20, best=4, horizon=5)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# Data: x' = A x + B u + noise, reward = -x'x + noise, terminated where x[0] > 1; a goal that stays, last.

DYNAMICS = np.array([[0.9, 0.2], [-0.1, 0.8]], np.float32)
CONTROL = np.array([[0.0], [0.3]], np.float32)


def linear_data(*, episodes: int = EPISODES, seed: int = 0, ends: bool = False) -> tuple[Spec, Batch]:
    """Every transition of a noisy linear system as one batch, and its Spec."""
    rng = np.random.default_rng(seed)
    count = episodes * STEPS
    state = rng.normal(size=(count, 2)).astype(np.float32)
    action = rng.uniform(-1, 1, size=(count, 1)).astype(np.float32)
    later = state @ DYNAMICS.T + action @ CONTROL.T + NOISE * rng.normal(size=(count, 2)).astype(np.float32)
    reward = (-0.5 * state[:, 0] + 0.2 * action[:, 0] + NOISE * rng.normal(size=count)).astype(np.float32)
    episode = np.repeat(np.arange(episodes), STEPS)
    goal = np.linspace(-1, 1, episodes, dtype=np.float32)[episode][:, None]
    obs, next_obs = np.hstack([state, goal]), np.hstack([later, goal])
    terminated = (state[:, 0] > 1) & ends
    spec = Spec(
        obs_dim=3,
        action_dim=1,
        discrete=False,
        goal_dim=1,
        action_low=np.array([-1], np.float32),
        action_high=np.array([1], np.float32),
        horizon=STEPS,
        episodes=episodes,
        transitions=count,
        obs=Moments.of(obs),
        delta=Moments.of(next_obs - obs),
        action=Moments.of(action),
        reward=Moments.of(reward[:, None]),
        returns=Moments.of(reward.reshape(episodes, STEPS).sum(1, keepdims=True)),
        obs_resolution=np.full(3, 1e-3, np.float32),
        action_resolution=np.full(1, 1e-3, np.float32),
    )
    batch = Batch(
        obs=torch.from_numpy(np.stack([obs, next_obs], 1)),
        action=torch.from_numpy(action)[:, None],
        reward=torch.from_numpy(reward)[:, None],
        terminated=torch.from_numpy(terminated)[:, None],
        valid=torch.ones(count, 1, dtype=torch.bool),
        episode=torch.from_numpy(episode),
    )
    return spec, batch


def draw(batch: Batch, size: int, rng: np.random.Generator) -> Batch:
    rows = torch.from_numpy(rng.integers(0, len(batch.episode), size))
    names = ("obs", "action", "reward", "terminated", "valid", "episode")
    return Batch(**{name: getattr(batch, name)[rows] for name in names})


def train(learner: MPC, batch: Batch, updates: int, *, seed: int = 0) -> MPC:
    rng = np.random.default_rng(seed)
    for _ in range(updates):
        learner.update(draw(batch, 128, rng))
    return learner


def transition(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """obs (B, O), action (B, A), next_obs (B, O), reward (B,)."""
    return batch.obs[:, 0], batch.action[:, 0], batch.obs[:, 1], batch.reward[:, 0]


def learner_of(spec: Spec, config: MPCConfig = SMALL, *, seed: int = 0) -> MPC:
    return config.build(spec, seed=seed, device="cpu")


# The model


def test_ensemble_log_prob_equals_scipy() -> None:
    spec, batch = linear_data()
    model = EnsembleModel(spec, members=4, elites=3, hidden=(8,), generator=generator(0))
    model.elites.copy_(torch.tensor([3, 0, 2]))
    obs, action, next_obs, reward = (part[:50] for part in transition(batch))
    with torch.no_grad():
        ours = model.log_prob(obs, action, next_obs, reward)
        numbers, _ = model(obs, action)
        mean, _, _ = model.predict(obs, action)
        reward_mean = model.predict(obs, action)[1]
        std = (0.5 * model.head.log_variance(numbers)).exp().double().numpy()
    scale = np.append(spec.delta.std, spec.reward.std).astype(float)
    each = norm.logpdf(reward.numpy(), reward_mean.double().numpy(), std[..., -1] * scale[-1])
    for d in (0, 1):  # the goal is constant
        each += norm.logpdf(next_obs[:, d].numpy(), mean[..., d].double().numpy(), std[..., d] * scale[d])
    expected = logsumexp(each[[3, 0, 2]], axis=0) - np.log(3)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_gaussian_head_samples_what_it_scores() -> None:
    head = GaussianHead(1, 1)
    numbers = torch.tensor([[[1.5, -1.0]]]).expand(1, 50_000, 2)
    draws = head.sample(numbers, generator=generator(0))
    assert draws.mean().item() == pytest.approx(1.5, abs=0.01)
    expected_std = (0.5 * head.log_variance(numbers)).exp()[0, 0, 0].item()
    assert draws.std().item() == pytest.approx(expected_std, rel=0.02)
    entropy = 0.5 * math.log(2 * math.pi * math.e) + math.log(expected_std)
    assert -head.log_prob(numbers, draws).mean().item() == pytest.approx(entropy, abs=0.02)


def test_log_variance_stays_near_its_soft_bounds() -> None:
    head = GaussianHead(1, 1, low=-4.0, high=1.0)
    extreme = torch.tensor([[[0.0, -1e3], [0.0, 1e3]]])
    least, greatest = head.log_variance(extreme)[0, :, 0].tolist()
    assert least == pytest.approx(-4, abs=0.01)
    assert greatest == pytest.approx(1, abs=0.01)


def test_a_goal_is_predicted_unchanged_even_outside_the_data() -> None:
    spec, batch = linear_data()
    model = train(learner_of(spec), batch, 60).best_model()
    obs, action, _, _ = (part[:30].clone() for part in transition(batch))
    obs[:, 2] = torch.linspace(-7, 7, 30)
    assert torch.equal(model.predict(obs, action)[0][..., 2], obs[:, 2].expand(4, 30))
    reached, _, _ = Imagination(model)(obs.expand(2, -1, -1), action.expand(5, 2, -1, -1))
    assert torch.equal(reached[..., 2], obs[:, 2].expand(5, 2, 30))


def test_imagination_repeats_the_predictions_of_the_elite() -> None:
    spec, batch = linear_data(ends=True)
    model = train(learner_of(spec), batch, 60).best_model()
    obs, action, _, _ = (part[:30] * 0.3 for part in transition(batch))  # well inside the data
    reached, reward, end = Imagination(model)(obs.expand(2, -1, -1), action.expand(3, 2, -1, -1))
    for e, member in enumerate(model.elites.tolist()):
        state = obs
        for h in range(3):
            following, paid, ended = (part[member] for part in model.predict(state, action))
            torch.testing.assert_close(reward[h, e], paid, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(end[h, e], ended, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(reached[h, e], following, rtol=1e-4, atol=1e-5)
            state = following


def test_likelihood_comes_near_the_entropy_of_a_known_linear_system() -> None:
    spec, batch = linear_data(episodes=60)
    learner = train(learner_of(spec, replace(SMALL, compare_every=250)), batch, 1500)
    _, fresh = linear_data(seed=1)
    with torch.no_grad():
        likelihood = learner.transition_log_prob(*transition(fresh)).mean().item()
        error = learner.best_model().predict(*transition(fresh)[:2])[0][:, :, :2].mean(0) - fresh.obs[:, 1, :2]
    entropy = 3 * (0.5 * math.log(2 * math.pi * math.e) + math.log(NOISE))
    assert likelihood == pytest.approx(-entropy, rel=0.05)
    assert error.square().mean().sqrt().item() == pytest.approx(NOISE, rel=0.1)


def test_termination_head_learns_a_threshold() -> None:
    spec, batch = linear_data(ends=True)
    model = train(learner_of(spec), batch, 600).best_model()
    with torch.no_grad():
        end = model.predict(batch.obs[:, 0], batch.action[:, 0])[2].mean(0)
    clear = (batch.obs[:, 0, 0] - 1).abs() > 0.2
    assert ((end > 0.5) == batch.terminated[:, 0])[clear].float().mean() > 0.99


def test_without_terminations_every_step_is_survived() -> None:
    spec, batch = linear_data()
    model = train(learner_of(spec), batch, 60).best_model()
    assert (model.predict(batch.obs[:, 0], batch.action[:, 0])[2] == 0).all()


# The learner


def test_held_out_episodes_do_not_move_the_parameters() -> None:
    spec, batch = linear_data()
    held_out = batch.episode % 10 == 0
    assert held_out.any()
    other = replace(batch, obs=torch.where(held_out[:, None, None], batch.obs + 1, batch.obs))
    config = replace(SMALL, compare_every=3)
    ours, theirs = learner_of(spec, config), learner_of(spec, config)
    for _ in range(3):
        first, second = ours.update(batch), theirs.update(other)
    for a, b in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert first["nll"] == second["nll"]
    assert first["selection_nll"] != second["selection_nll"]


def test_with_few_episodes_none_is_held_out() -> None:
    spec, batch = linear_data(episodes=5)
    learner = learner_of(spec, replace(SMALL, compare_every=1))
    before = [p.clone() for p in learner.model.network.parameters()]
    only = batch.episode == 0
    metrics = learner.update(replace(batch, valid=only[:, None]))
    assert len(learner.reservoir.rows().obs) == len(batch.episode)  # the training rows choose
    assert 0 < metrics["selection_nll"] < metrics["nll"]
    assert all(not torch.equal(a, b) for a, b in zip(before, learner.model.network.parameters(), strict=True))


def test_invalid_steps_do_not_move_the_parameters() -> None:
    spec, batch = linear_data()
    past = batch.episode % 3 == 1
    batch = replace(batch, valid=~past[:, None])
    other = replace(batch, reward=torch.where(past[:, None], batch.reward + 9, batch.reward))
    ours, theirs = learner_of(spec), learner_of(spec)
    ours.update(batch)
    theirs.update(other)
    for a, b in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_each_member_keeps_its_best_weights_and_the_best_are_elite() -> None:
    spec, batch = linear_data()
    learner = train(learner_of(spec), batch, 50)
    kept = [p.clone() for p in learner.kept.parameters()]
    learner.selection.best[0] = -1e9  # member 0 can never be beaten now
    train(learner, batch, 50, seed=1)
    for old, new, now in zip(kept, learner.kept.parameters(), learner.model.parameters(), strict=True):
        assert torch.equal(new[0], old[0])
        assert torch.equal(new[1:], now[1:])
    assert learner.kept.elites.tolist() == learner.selection.best.argsort()[:2].tolist()
    assert learner.kept.elites[0] == 0


def test_continuing_from_a_state_equals_never_having_stopped() -> None:
    spec, batch = linear_data(ends=True)
    straight = train(learner_of(spec), batch, 70)
    state = straight.state_dict()
    resumed = learner_of(spec)
    resumed.load_state_dict(state)
    for learner in (straight, resumed):
        train(learner, batch, 70, seed=1)

    def flat(tree: Any, path: str = "") -> dict[str, Any]:
        if isinstance(tree, dict):
            return {k: v for key, part in tree.items() for k, v in flat(part, f"{path}/{key}").items()}
        return {path: tree}

    ours, theirs = flat(straight.state_dict()), flat(resumed.state_dict())
    assert ours.keys() == theirs.keys()
    assert any(key.startswith("/kept/") for key in ours)
    for key, value in ours.items():
        same = torch.equal(value, theirs[key]) if isinstance(value, Tensor) else value == theirs[key]
        assert same, key
    step = Step(batch.obs[:3, 0].numpy(), np.zeros(3, np.float32), np.ones(3, bool))
    np.testing.assert_array_equal(straight.policy(seed=5).act(step), resumed.policy(seed=5).act(step))


# Policy and score


def steps(rows: int, *, first: bool) -> Step:
    obs = np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)
    return Step(obs, np.zeros(rows, np.float32), np.full(rows, first))


def test_same_seed_same_plan_and_other_seed_another() -> None:
    spec, _ = linear_data()
    learner = learner_of(spec)

    def acts(seed: int) -> np.ndarray:
        policy = learner.policy(seed=seed)
        return np.stack([policy.act(steps(3, first=t == 0)) for t in range(3)])

    np.testing.assert_array_equal(acts(1), acts(1))
    assert not np.array_equal(acts(1), acts(2))
    assert acts(1).shape == (3, 3, 1)
    assert acts(1).dtype == np.float32
    assert (np.abs(acts(1)) <= 1).all()


def test_a_later_update_does_not_reach_a_policy() -> None:
    spec, batch = linear_data()
    learner = learner_of(spec)
    early, late = learner.policy(seed=0), learner.policy(seed=0)
    action = early.act(steps(2, first=True))
    train(learner, batch, 45)
    np.testing.assert_array_equal(late.act(steps(2, first=True)), action)
    assert not np.array_equal(learner.policy(seed=0).act(steps(2, first=True)), action)


def test_number_of_rows_may_change_only_where_all_begin() -> None:
    spec, _ = linear_data()
    policy = learner_of(spec).policy(seed=0)
    policy.act(steps(3, first=True))
    assert policy.act(steps(2, first=True)).shape == (2, 1)
    with pytest.raises(ValueError, match="5 rows, the one before it 2"):
        policy.act(steps(5, first=False))


def model_score(*, ends: bool = False, **changes: object) -> tuple[MPC, ImaginedReturn, Tensor, Tensor]:
    spec, batch = linear_data(ends=ends)
    learner = train(learner_of(spec, replace(SMALL, **changes)), batch, 100)  # type: ignore[arg-type]
    actions = torch.rand(6, 20, 5, 1, generator=generator(0)) * 2 - 1
    return learner, ImaginedReturn(learner.config, learner.best_model()), batch.obs[:6, 0] * 0.3, actions


def test_score_is_the_discounted_reward_while_alive_averaged_over_members() -> None:
    learner, score, obs, actions = model_score(ends=True, particles=2)
    model, total = learner.best_model(), torch.zeros(2, 6)
    for e, member in enumerate(model.elites.tolist()):
        state, alive = obs, torch.ones(6)
        for h in range(5):
            state, reward, end = (part[member].detach() for part in model.predict(state, actions[:, 7, h]))
            total[e] += 0.99**h * alive * reward
            alive = alive * (1 - end)
    torch.testing.assert_close(score(obs, actions)[:, 7], total.mean(0), rtol=1e-4, atol=1e-4)


def test_penalty_lowers_a_score_by_the_members_disagreement() -> None:
    learner, score, obs, actions = model_score(particles=2)
    model = learner.best_model()
    doubt = Doubt(model, learner.held_out(), prune=1.0)
    mild, harsh = (
        ImaginedReturn(replace(learner.config, penalty=p), model, doubt=doubt)(obs, actions) for p in (1.0, 2.0)
    )
    plain = score(obs, actions)
    assert (mild < plain).all()
    torch.testing.assert_close(plain - harsh, 2 * (plain - mild), rtol=1e-3, atol=1e-5)


def test_with_one_particle_sequences_are_dealt_out_to_the_members() -> None:
    learner, score, obs, actions = model_score(particles=1)
    model, ours = learner.best_model(), score(obs, actions)
    for n in range(20):
        member, state, total = model.elites[n % 2], obs, torch.zeros(6)
        for h in range(5):
            state, reward, _ = (part[member].detach() for part in model.predict(state, actions[:, n, h]))
            total += 0.99**h * reward
        torch.testing.assert_close(ours[:, n], total, rtol=1e-4, atol=1e-4)


def test_blocks_do_not_change_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    _, score, obs, actions = model_score(particles=2)
    whole = score(obs, actions)
    monkeypatch.setattr("worldmodel.score.BLOCK_FLOATS", 1)
    torch.testing.assert_close(score(obs, actions), whole)


def test_unlimited_actions_are_searched_within_the_data() -> None:
    spec, _ = linear_data()
    free = replace(spec, action_low=np.array([-np.inf], np.float32), action_high=np.array([np.inf], np.float32))
    assert (np.abs(learner_of(free).policy(seed=0).act(steps(4, first=True))) <= 1).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"elites": 8}, r"elites \(8\) must not exceed members \(7\)"),
        ({"samples": 61}, "samples"),
        ({"penalty": 1.0, "elites": 1}, "elites > 1"),
        ({"best": 59}, "best"),
        ({"discount": 1.5}, "discount"),
        ({"horizon": 0}, "horizon"),
        ({"lr": 0.0}, "lr"),
    ],
)
def test_inconsistent_options_are_refused(changes: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(MPCConfig(), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"head": "autoregressive", "patience": 1, "compare_every": 1},
        {"planner": "mbop", "iterations": 1, "momentum": 0.0, "rollout": 2},
    ],
    ids=lambda options: next(iter(options)),
)
def test_one_compiled_fit_does_what_the_plain_one_does_for_any_number_of_rows(options: dict[str, Any]) -> None:
    config, spec = MPCConfig(hidden=(8, 8), **options), toy_spec()
    plain, quick = (config.build(spec, seed=0, device="cpu") for _ in range(2))
    torch._dynamo.reset()
    counters.clear()
    update = compiled(quick, backend="eager")
    for rows in (7, 9):
        batch = toy_batch(spec, batch_size=rows, seed=rows, needs=config.needs)
        due, got = plain.update(batch), update(batch)
        assert due.keys() == got.keys()
        for name, value in due.items():
            torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
