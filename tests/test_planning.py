"""Laws of planning with a learned model: what a plan is worth, whom it doubts, and what it is given."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import toy_batch, toy_spec
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from toolkit import registry, train
from toolkit.collect import collect
from toolkit.configure import configure, load_learner
from toolkit.core import ActionValue, Given, Step
from toolkit.evaluate import evaluate
from toolkit.given import known_reward
from toolkit.nets import generator
from toolkit.records import read_config
from worldmodel import score as scoring
from worldmodel.doubt import Doubt
from worldmodel.model import Imagination
from worldmodel.mpc import MPC, PRESETS, MPCConfig
from worldmodel.planning import Planning
from worldmodel.score import ImaginedReturn, goal_reward

SMALL = MPCConfig(hidden=(32, 32), members=4, elites=2, samples=20, best=4, horizon=5, iterations=2)
SPEC = toy_spec(goal=True)


def learner_of(updates: int = 3, spec: Any = SPEC, **changes: Any) -> MPC:
    learner = replace(SMALL, **changes).build(spec, seed=0, device="cpu")
    for seed in range(updates):
        learner.update(toy_batch(spec, 64, seed=seed))
    return learner


def look(rows: int, spec: Any = SPEC) -> Step:
    return Step(toy_batch(spec, rows).obs[:, 0].numpy(), np.zeros(rows, np.float32), np.ones(rows, bool))


def plans(rows: int = 3, samples: int = 20, horizon: int = 5) -> tuple[Tensor, Tensor]:
    """Observations (M, O) and actions (M, N, H, A) within the data."""
    obs = toy_batch(SPEC, rows).obs[:, 0]
    low, high = torch.from_numpy(SPEC.action_low), torch.from_numpy(SPEC.action_high)
    return obs, low + (high - low) * torch.rand(rows, samples, horizon, len(low), generator=generator(0))


def scored(learner: MPC, **options: Any) -> ImaginedReturn:
    return ImaginedReturn(learner.config, learner.best_model(), **options)


# What a plan is worth


def test_a_value_adds_the_discounted_worth_of_the_state_reached_alive() -> None:
    learner, (obs, actions) = learner_of(particles=2), plans()
    model = learner.best_model()
    plain = scored(learner)
    valued = scored(learner, value=lambda state: state[:, 0])
    due = torch.zeros(2, 3)
    for e, member in enumerate(model.elites.tolist()):
        state, alive = obs, torch.ones(3)
        for h in range(5):
            state, _, end = (part[member].detach() for part in model.predict(state, actions[:, 7, h]))
            state = state.clamp(model.low.where(model.targets.kept[:-1], -torch.inf), None)
            state = state.clamp(None, model.high.where(model.targets.kept[:-1], torch.inf))
            alive = alive * (1 - end)
        due[e] = 0.99**5 * alive * state[:, 0]
    found = (valued(obs, actions) - plain(obs, actions))[:, 7]
    torch.testing.assert_close(found, due.mean(0), rtol=1e-3, atol=1e-3)


def test_a_known_reward_replaces_the_learned_one_and_sees_the_step() -> None:
    learner, (obs, actions) = learner_of(), plans(horizon=1)
    seen: list[tuple[Tensor, ...]] = []

    def reward(*step: Tensor) -> Tensor:
        seen.append(step)
        return step[1][:, 0]

    one_step = replace(learner.config, horizon=1)
    found = ImaginedReturn(one_step, learner.best_model(), reward=reward)(obs, actions)
    torch.testing.assert_close(found, actions[:, :, 0, 0])
    before, taken, _ = (torch.cat(part) for part in zip(*seen, strict=True))
    assert before.unique(dim=0).shape == (3, SPEC.obs_dim)
    assert {tuple(a) for a in taken.tolist()} == {tuple(a) for a in actions.flatten(0, 2).tolist()}


def test_a_goal_is_paid_by_its_distance_in_spreads_of_the_data() -> None:
    reward = goal_reward((1, 0), 2, torch.tensor([2.0, 4.0, 1.0, 1.0]))
    obs = torch.tensor([[0.0, 8.0, 4.0, 2.0]])  # numbers 1 and 0 show 8 and 0; the goal is 4 and 2
    assert reward(obs * 9, obs[:, :1], obs).item() == pytest.approx(-np.sqrt(1 + 1))


def test_blocks_bound_what_is_held_at_once_and_change_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor of a search through blocks is larger than the block, or than what is asked and answered."""
    learner, (obs, actions) = learner_of(particles=2), plans(samples=100)
    whole = scored(learner)(obs, actions)
    monkeypatch.setattr(scoring, "BLOCK_FLOATS", 1 << 10)

    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = function(*args, **(kwargs or {}))
            self.numbers = max(self.numbers, *(t.numel() for t in [found] if isinstance(t, Tensor)), 0)
            return found

    with Largest() as largest:
        found = scored(learner)(obs, actions)
    torch.testing.assert_close(found, whole)
    asked = actions.numel()
    assert asked < 600 * 32  # one layer of all sequences and particles
    assert largest.numbers <= max(asked, 1 << 10)


@pytest.mark.parametrize("obs_dim", [5, 6, 7])
def test_a_path_holds_every_step_and_what_follows_from_it_whatever_the_number_of_observations(obs_dim: int) -> None:
    spec = toy_spec(obs_dim=obs_dim)
    learner = learner_of(spec=spec)
    model, batch = learner.best_model(), toy_batch(spec, 9)
    obs = batch.obs[:, 0] * 0.1 + model.inputs.mean[:obs_dim] * 0.9  # within the data
    actions = batch.action[:, :1].permute(1, 0, 2).expand(3, 2, 9, -1)
    path, reward, _ = Imagination(model).path(obs.expand(2, -1, -1), actions)
    assert torch.equal(path[0, 0, :, :obs_dim], obs)
    assert torch.equal(path[:-1, ..., obs_dim:], actions)
    for h, e in itertools.product(range(3), range(2)):
        before, action = path[h, e].split([obs_dim, spec.action_dim], -1)
        after, paid, _ = (each[model.elites[e]].detach() for each in model.predict(before, action))
        torch.testing.assert_close(
            path[h + 1, e, :, :obs_dim], after.clamp(model.low, model.high), rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(reward[h, e], paid, rtol=1e-4, atol=1e-4)


# Doubt


def test_doubt_is_one_on_average_over_held_out_data_and_its_limit_their_quantile() -> None:
    learner = learner_of(20)
    rows = learner.held_out()
    model = learner.best_model()
    doubt = Doubt(model, rows, prune=0.9)
    found = doubt(scored(learner).imagine, rows.expand(1, 2, -1, -1)).flatten()
    assert len(rows) > 100
    assert found.mean().item() == pytest.approx(1, rel=1e-4)
    assert (found > doubt.limit).float().mean().item() == pytest.approx(0.1, abs=0.01)
    means, _, _ = model.predict(rows[:, : SPEC.obs_dim], rows[:, SPEC.obs_dim :])
    apart = (means[model.elites[0]] - means[model.elites[1]]) / torch.from_numpy(SPEC.delta.std)
    by_hand = apart.detach().square().mean(-1).sqrt() / doubt.unit
    torch.testing.assert_close(found[: len(rows)], by_hand, rtol=1e-3, atol=1e-4)


def test_sequences_beyond_the_limit_are_dropped_unless_all_are() -> None:
    learner, (obs, actions) = learner_of(20), plans()
    doubt = Doubt(learner.best_model(), learner.held_out(), prune=0.5)
    plain, left = scored(learner)(obs, actions), []
    for limit in torch.linspace(0, 3, 31):
        doubt.limit = limit
        pruned = scored(learner, doubt=doubt)(obs, actions)
        kept = pruned > -torch.inf
        assert kept.any(1).all()
        assert torch.equal(pruned[kept], plain[kept])
        left.append(int(kept.sum()))
    assert left[0] == left[-1] == plain.numel()  # all are beyond, or none
    assert 0 < min(left) < plain.numel() / 2


# Options


def test_planning_options_change_no_training() -> None:
    one, other = learner_of(), learner_of(planner="mppi", horizon=3, colour=0.0, penalty=1.0, prune=0.9)
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("planner", ["icem", "cem", "mppi", "mbop"])
@pytest.mark.parametrize("discrete", [False, True])
def test_every_planner_acts_and_repeats_itself(planner: str, discrete: bool) -> None:
    spec = toy_spec(discrete=discrete, goal=True, action_dim=3)
    learner = learner_of(spec=spec, planner=planner)
    one, other = (learner.policy(seed=4).act(look(5, spec)) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert one.shape == ((5,) if discrete else (5, 3))


def test_decay_lowers_the_samples_of_later_rounds_to_twice_the_best() -> None:
    assert Planning(samples=60, iterations=4, best=8, decay=2.0).rounds(5) == [60, 30, 20, 20]
    assert Planning(samples=60, iterations=2, best=8, decay=2.0, planner="cem").rounds(5) == [60, 60]
    learner = learner_of(decay=1.5, iterations=3)
    assert learner.policy(seed=0).act(look(2)).shape == (2, 2)


def test_mbop_without_a_prior_clones_the_data() -> None:
    spec = toy_spec(action_dim=2)
    learner = replace(SMALL, planner="mbop", lr=1e-2).build(spec, seed=0, device="cpu")
    assert learner.clone is not None
    batch = toy_batch(spec, 256)
    wanted = (batch.obs[:, 0] - torch.from_numpy(spec.obs.mean))[:, :2] / 4 + 0.5  # within the limits
    for _ in range(300):
        metrics = learner.update(replace(batch, action=wanted[:, None]))
    assert metrics["clone"] < 0.02
    error = learner.clone(batch.obs[:, 0]) - wanted
    assert error.square().mean().sqrt() < 0.2
    assert learner_of().clone is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"planner": "best"}, "planner is 'best'"),
        ({"reward": "mine"}, "reward is 'mine'"),
        ({"reward": "goal"}, "needs achieved"),
        ({"temperature": 0.0}, "temperature"),
        ({"decay": 0.5}, "decay"),
        ({"prune": 0.0}, "prune"),
        ({"prune": 0.9, "elites": 1, "members": 1}, "elites > 1"),
        ({"guided": 0.0}, "guided"),
    ],
)
def test_options_that_cannot_be_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(MPCConfig(), **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"horizon": 10**9}, "GiB of memory for each environment; expected at most 1"),
        ({"horizon": 30_000}, "GiB of memory"),
        ({"samples": 2 * 10**9}, "GiB of memory"),
        ({"iterations": 10**9}, "seconds of a core for each action of each environment .* expected at most 1000"),
        ({"iterations": 3 * 10**6, "hidden": ()}, "seconds of a core"),
    ],
)
def test_plans_that_no_machine_could_hold_or_nobody_wait_for_are_refused_when_built(changes: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(SMALL, **changes).build(SPEC, seed=0, device="cpu")


def test_a_decay_beyond_all_samples_leaves_later_rounds_at_the_least() -> None:
    assert Planning(samples=60, iterations=50, best=8, decay=1e38).rounds(5) == [60] + [20] * 49


def test_presets_are_budgets_from_small_to_large() -> None:
    costs = [c.samples * c.iterations * c.horizon * c.particles for c in (PRESETS["mpc-small"], MPCConfig())]
    costs.append(PRESETS["mpc-large"].samples * 5 * 30 * 5)
    assert costs == sorted(costs)
    assert costs[0] * 3 < costs[1] < costs[2] / 3


# What a planner is given


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("planning") / "p.zarr"
    return collect("pendulum", out=path, episodes=8, contexts=4, coverage=0.5, seed=0)


def trained(store: Any, out: Any, learner: str, **options: Any) -> Any:
    settings = {"steps": 20, "episodes": 0, "batch_size": 32, "options": {"hidden": (16,)} | options}
    return train.run(configure(learner, store=store.path, device="cpu", **settings), out)


def planning(store: Any, learner: str = "mpc", **options: Any) -> Any:
    small = {"hidden": (16,), "samples": 20, "best": 4, "horizon": 4, "iterations": 1}
    settings = {"steps": 20, "episodes": 1, "batch_size": 32, "options": small | options, "splits": ("seen",)}
    return configure(learner, store=store.path, device="cpu", **settings)


def test_a_run_keeps_its_prior_and_value_and_repeats_its_evaluation_without_them(store: Any, tmp_path: Any) -> None:
    prior, value = trained(store, tmp_path / "a", "bc"), trained(store, tmp_path / "a", "iql")
    config = planning(store, prior=str(prior), value=str(value))
    assert config.options["prior"] == prior.name
    folder = train.run(config, tmp_path / "runs")
    moved = tmp_path / "elsewhere"
    prior.rename(moved)
    again = planning(store, prior=str(moved), value=str(value))
    assert again.identity == config.identity  # where a run lies is no part of it
    shutil.rmtree(moved)
    assert evaluate(folder) == evaluate(folder)
    assert [r.episode_return for r in evaluate(folder)] == [r.episode_return for r in _records(folder)]
    _, learner, _ = load_learner(folder)
    assert isinstance(learner, MPC)
    assert set(learner.given.learners) == {"prior", "value"}
    other = planning(store, prior=str(trained(store, tmp_path / "a", "bc", lr=1e-3)), value=str(value))
    assert other.identity != config.identity


def _records(folder: Any) -> Any:
    from toolkit.records import load

    return load(folder)


def test_a_guided_search_with_nothing_but_the_prior_acts_as_the_prior(store: Any, tmp_path: Any) -> None:
    prior = trained(store, tmp_path / "a", "bc")
    config = planning(store, "mbop", prior=str(prior), prior_spread=0.0)
    _, planner, _ = load_learner(train.run(replace(config, episodes=0), tmp_path / "runs"))
    _, clone, _ = load_learner(prior)
    obs = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    step = Step(obs, np.zeros(4, np.float32), np.ones(4, bool))
    np.testing.assert_allclose(planner.policy(seed=0).act(step), clone.policy(seed=0).act(step), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("restart", [False, True])
def test_a_search_that_restarts_begins_at_the_prior_wherever_it_finds_itself(
    store: Any, tmp_path: Any, restart: bool
) -> None:
    prior = trained(store, tmp_path / "a", "bc")
    still = {"spread": 1e-6, "prior_spread": 0.0, "keep": 0.0, "guided": 0.05}
    config = planning(store, prior=str(prior), restart=restart, **still)
    _, planner, _ = load_learner(train.run(replace(config, episodes=0), tmp_path / "runs"))
    _, clone, _ = load_learner(prior)
    policy, rng = planner.policy(seed=0), np.random.default_rng(0)
    for first in (True, False):
        obs = rng.normal(size=(4, 3)).astype(np.float32)
        step = Step(obs, np.zeros(4, np.float32), np.full(4, first))
        found, due = policy.act(step), clone.policy(seed=0).act(step)
        assert np.allclose(found, due, atol=1e-4) == (restart or first)


def test_runs_that_cannot_serve_are_refused_before_anything_is_written(store: Any, tmp_path: Any) -> None:
    out = tmp_path / "runs"
    prior, seeking = trained(store, tmp_path, "bc"), trained(store, tmp_path, "return-bc")
    with pytest.raises(ValueError, match=r"prior: .*nowhere is not a run.*give the folder of a trained run"):
        planning(store, prior=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="asks for a return"):
        planning(store, prior=str(seeking))
    with pytest.raises(ValueError, match="knows no value"):
        planning(store, value=str(prior))
    (seeking / "DONE").unlink()
    with pytest.raises(ValueError, match=r"value: .* is not finished"):
        planning(store, value=str(seeking))
    other = collect("cartpole", out=tmp_path / "c.zarr", episodes=4, contexts=2, coverage=1.0, seed=0)
    with pytest.raises(ValueError, match="trained on data with obs_dim 3, the data of this mpc has 4"):
        planning(other, prior=str(prior))
    with pytest.raises(ValueError, match="states no reward as a function"):
        planning(other, reward="known")
    config = planning(store, prior=str(prior))
    shutil.rmtree(prior)
    with pytest.raises(ValueError, match=f"prior {prior.name} is gone: .*bring it back"):
        train.run(config, out)
    assert not list(out.rglob("checkpoint"))


def test_a_changed_copy_is_refused(store: Any, tmp_path: Any) -> None:
    one, two = trained(store, tmp_path, "bc"), trained(store, tmp_path, "bc", lr=1e-3)
    folder = train.run(replace(planning(store, prior=str(one)), episodes=0), tmp_path / "runs")
    copy = folder / "given" / "prior"
    shutil.copy(two / "config.json", copy / "config.json")
    with pytest.raises(ValueError, match=f"was {one.name} when this run was configured"):
        load_learner(folder)
    assert read_config(folder).given["prior"] == str(one)


def test_a_planner_that_was_given_nothing_it_asked_for_says_so() -> None:
    learner = learner_of(prior="bc-seed0-123456789abc")
    with pytest.raises(ValueError, match="no such learner was given"):
        learner.policy(seed=0)
    with pytest.raises(ValueError, match="known"):
        learner_of(reward="known").receive(Given())


@pytest.mark.parametrize("name", [name for name, suite in registry.suites().items() if suite.recorded])
def test_a_known_reward_is_the_recorded_one(name: str, tmp_path: Any) -> None:
    data = collect(name, out=tmp_path / "s.zarr", episodes=2, contexts=2, coverage=0.5, seed=0)
    reward = known_reward(data.schema)
    assert reward is not None
    for index in range(2):
        episode = data.episode(index)
        obs = torch.from_numpy(data.schema.flatten(episode.observations()))
        found = reward(obs[:-1], torch.from_numpy(episode.action), obs[1:])
        np.testing.assert_allclose(found.numpy(), episode.reward, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["iql", "cql", "td3bc", "awac", "rebrac"])
def test_values_are_in_the_units_of_the_data_whatever_the_reward_scale(name: str) -> None:
    """Where every episode ends with its first step, a state is worth its reward, here 5 everywhere."""
    config = replace(registry.learner(name), hidden=(16, 16), reward_scale=0.1)  # type: ignore[call-arg]
    config = replace(config, **{k: 1e-2 for k in ("lr", "actor_lr", "critic_lr") if hasattr(config, k)}, tau=0.05)  # type: ignore[arg-type]
    if name == "cql":
        config = replace(config, weight=0.0)  # type: ignore[call-arg]
    if name == "rebrac":
        config = replace(config, critic_penalty=0.0)  # type: ignore[call-arg]
    learner = config.build(SPEC, seed=0, device="cpu")
    for seed in range(300):
        batch = toy_batch(SPEC, 64, seed=seed % 20, needs=config.needs)
        ended, paid = torch.ones_like(batch.terminated), torch.full_like(batch.reward, 5.0)
        learner.update(replace(batch, terminated=ended, reward=paid))
    assert isinstance(learner, ActionValue)
    with torch.no_grad():
        seen = toy_batch(SPEC, 64, seed=3)
        found = learner.state_value(seen.obs[:, 0])
        of_action = learner.action_value(seen.obs[:, 0], seen.action[:, 0])
    assert found.shape == of_action.shape == (64,)
    np.testing.assert_allclose(found.numpy(), 5, atol=1)
    np.testing.assert_allclose(of_action.numpy(), 5, atol=1)
