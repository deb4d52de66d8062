"""Every algorithm that d3rlpy exports, through our adapters: enumerated from d3rlpy itself, trained, saved, resumed."""

from __future__ import annotations

import dataclasses
import importlib
from typing import get_args

import numpy as np
import pytest
import torch
from helpers import equal_states, leaves, through_files, toy_batch, toy_spec

from algos._d3rlpy import CHOICES, kinds
from algos.d3rlpy import RANDOM, SUPERVISED, Algo, D3rlpyBCConfig, D3rlpyConfig
from algos.d3rlpy_dt import D3rlpyDTConfig, D3rlpyTACRConfig
from toolkit.core import LearnerConfig, Reactive, Step, Surveying

SMALL = {  # options that make every branch run within a few updates, and few samples
    "bcq": ("n_action_samples=5", "rl_start_step=2"),
    "bear": ("n_action_samples=5", "warmup_steps=2"),
    "plas": ("warmup_steps=2",),
    "plas_with_perturbation": ("warmup_steps=2",),
    "dqn": ("target_update_interval=3", "q_func_factory=qr", "n_critics=2"),
    "discrete_cql": ("target_update_interval=3", "q_func_factory=iqn"),
    "discrete_sac": ("target_update_interval=3",),
    "crr": ("target_update_interval=3",),
}
SMALL_DT = ("num_layers=1", "num_heads=2")


def configuration(name: str) -> LearnerConfig:
    if name == "tacr":
        return D3rlpyTACRConfig(context=4, hidden=(8, 8), options=SMALL_DT)
    if name.endswith("decision_transformer"):
        return D3rlpyDTConfig(context=4, hidden=(8, 8), options=SMALL_DT)
    kind = D3rlpyBCConfig if name in SUPERVISED else D3rlpyConfig
    return kind(algo=name, hidden=(8, 8), options=SMALL.get(name, ()))


NAMES = sorted(kinds())


def spec_of(name: str):
    return toy_spec(discrete=kinds()[name]().create().get_action_type().name == "DISCRETE", action_dim=3)


def built(name: str):
    spec, config = spec_of(name), configuration(name)
    learner = config.build(spec, seed=0, device="cpu")
    if isinstance(learner, Surveying):
        learner.survey(pairs(spec))
    return learner


def pairs(spec, rows: int = 40):
    batch = toy_batch(spec, rows, seed=77)
    return [(batch.obs[part, 0], batch.action[part, 0]) for part in (slice(0, 10), slice(10, rows))]


def trained(name: str, updates: range, state=None):
    spec, config = spec_of(name), configuration(name)
    learner = built(name)
    if state is not None:
        learner.load_state_dict(state)
    for index in updates:
        learner.update(toy_batch(spec, 8, seed=index, needs=config.needs))
    return learner


def look(spec, seed: int = 0, rows: int = 3) -> Step:
    return Step(
        toy_batch(spec, rows, seed=seed).obs[:, 0].numpy(), np.zeros(rows, np.float32), np.full(rows, seed == 0)
    )


def test_every_algorithm_of_d3rlpy_is_offered():
    transformers = {*D3rlpyDTConfig.algos.values(), *D3rlpyTACRConfig.algos.values()}
    assert {*get_args(Algo), *transformers} == set(kinds())
    assert not {*get_args(Algo)} & transformers


@pytest.mark.parametrize("name", get_args(Algo))
def test_kinds_of_action_are_those_that_d3rlpy_states(name):
    (kind,) = configuration(name).actions
    assert kind.upper() == kinds()[name]().create().get_action_type().name


@pytest.mark.parametrize("name", NAMES)
def test_resuming_any_algorithm_from_files_equals_never_having_stopped(name):
    straight = trained(name, range(5))
    first = trained(name, range(3))
    resumed = trained(name, range(3, 5), through_files(first.state_dict()))
    assert equal_states(resumed.state_dict(), straight.state_dict())
    one, other = resumed.policy(seed=3), straight.policy(seed=3)
    for index in range(2):
        step = look(spec_of(name), index)
        np.testing.assert_array_equal(one.act(step), other.act(step))


@pytest.mark.parametrize("name", sorted(set(NAMES) - RANDOM))
def test_any_algorithm_learns_finite_numbers_from_our_batches(name):
    spec, config, learner = spec_of(name), configuration(name), built(name)
    before = learner.state_dict()
    metrics = [learner.update(toy_batch(spec, 8, seed=seed, needs=config.needs)) for seed in range(4)]
    assert all(torch.isfinite(value) for update in metrics for value in update.values())
    first, last = leaves(before), leaves(learner.state_dict())
    changed = {path.split("/")[2] for path in first if "/modules/" in path and not torch.equal(first[path], last[path])}
    assert changed >= {k for k in learner.modules if not k.startswith(("targ", "log_", "temp", "alpha"))}


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"tacr"}))
def test_any_policy_acts_within_the_action_space_and_leaves_global_streams_alone(name):
    spec, learner = spec_of(name), trained(name, range(1))
    before = torch.get_rng_state()
    policy = learner.policy(seed=0)
    for index in range(3):
        action = policy.act(look(spec, index))
        if spec.discrete:
            assert action.dtype == np.int64
            assert action.shape == (3,)
            assert ((action >= 0) & (action < 3)).all()
        else:
            assert action.shape == (3, 3)
            assert (action >= spec.action_low).all()
            assert (action <= spec.action_high).all()
    assert torch.equal(torch.get_rng_state(), before)
    if isinstance(policy, Reactive):
        again = [learner.policy(seed=seed).act(look(spec)) for seed in range(8)]
        assert policy.deterministic == all(np.array_equal(again[0], other) for other in again)


@pytest.mark.parametrize("name", ["dqn", "discrete_cql", "discrete_bc", "cql", "bc"])
def test_actions_of_the_other_kind_are_refused_by_name(name):
    discrete = not spec_of(name).discrete
    kind = "discrete" if discrete else "continuous"
    with pytest.raises(ValueError, match=f"{name} needs .* the store's are {kind} ones"):
        configuration(name).build(toy_spec(discrete=discrete, action_dim=3), seed=0, device="cpu")


def test_prdc_is_drawn_to_the_action_of_the_nearest_pair_in_its_own_data():
    spec, config = (
        spec_of("prdc"),
        D3rlpyConfig(algo="prdc", hidden=(8, 8), options=("update_actor_interval=1", "alpha=0")),
    )
    learner, other = config.build(spec, seed=0, device="cpu"), config.build(spec, seed=0, device="cpu")
    learner.survey(pairs(spec))
    other.survey((obs, action.flip(0)) for obs, action in pairs(spec))  # d3rlpy's own tree would now be this one
    obs, action = (torch.cat(part) for part in zip(*pairs(spec), strict=True))
    batch = toy_batch(spec, 8, seed=3, needs=config.needs)
    with torch.no_grad():
        chosen = learner.scale(learner.choose(batch.obs[:, 0]))
        keys, known = (
            torch.cat([2.0 * learner.observe(o), a], -1)
            for o, a in ((batch.obs[:, 0], chosen), (obs, learner.scale(action)))
        )
        nearest = learner.scale(action)[torch.cdist(keys, known).argmin(1)]
    due = (chosen - nearest).square().mean()
    np.testing.assert_allclose(learner.update(batch)["dc_loss"], due, rtol=1e-5)
    assert not np.isclose(other.update(batch)["dc_loss"], due)


def test_prdc_with_a_beta_that_leaves_no_observation_finite_is_refused_when_it_is_built():
    with pytest.raises(ValueError, match="no longer finite; lower it"):
        D3rlpyConfig(algo="prdc", hidden=(8, 8), options=("beta=3e38",)).build(spec_of("prdc"), seed=0, device="cpu")


def test_prdc_that_saw_no_data_says_so():
    spec, config = spec_of("prdc"), configuration("prdc")
    with pytest.raises(RuntimeError, match="survey"):
        config.build(spec, seed=0, device="cpu").update(toy_batch(spec, 8, needs=config.needs))


def test_discrete_batches_reach_d3rlpy_as_numbers_of_choices():
    spec = toy_spec(discrete=True, action_dim=3)
    learner = D3rlpyBCConfig(algo="discrete_bc", hidden=(8, 8)).build(spec, seed=0, device="cpu")
    batch = toy_batch(spec, 8)
    log_prob = learner.modules["imitator"](learner.observe(batch.obs[:, 0])).logits.log_softmax(-1)
    due = -(log_prob * batch.action[:, 0]).sum(-1).mean()
    found = learner.impl.compute_loss(learner.mini_batch(batch).observations, learner.mini_batch(batch).actions)
    np.testing.assert_allclose(found.imitation_loss.detach(), due.detach(), rtol=1e-5)


def test_cal_ql_bounds_values_by_the_returns_of_the_data():
    config = D3rlpyConfig(algo="cal_ql", hidden=(8, 8), options=("gamma=0.9",))
    assert config.needs.returns_to_go
    assert config.needs.discount == 0.9
    spec = toy_spec()
    batch = toy_batch(spec, 8, needs=config.needs)
    losses = []
    for to_go in (batch.return_to_go, batch.return_to_go + 1000):
        learner = config.build(spec, seed=0, device="cpu")
        losses.append(learner.update(dataclasses.replace(batch, return_to_go=to_go))["critic_loss"])
    assert losses[1] > losses[0] + 100  # sampled actions are lifted to the data's return, and pushed down from there


@pytest.mark.parametrize("discrete", [False, True])
def test_transformer_reads_no_later_step_and_forgets_at_first(discrete):
    spec = toy_spec(discrete=discrete, action_dim=3)
    learner = trained("discrete_decision_transformer" if discrete else "decision_transformer", range(3))
    batch = toy_batch(spec, 2, 4)
    to_go = torch.ones(2, 4)
    seen = batch.obs[:, :-1].clone(), batch.action.clone()
    one = learner.choose(to_go, *seen)
    seen[0][:, 2:] += 5
    seen[1][:, 1:] = seen[1][:, 1:].roll(1, -1)
    other = learner.choose(to_go, *seen)
    torch.testing.assert_close(one[:, :2], other[:, :2])
    policy = learner.policy(seed=0)
    for index in range(3):
        policy.act(look(spec, index))
    step = dataclasses.replace(look(spec, 5), first=np.full(3, True))
    np.testing.assert_allclose(policy.act(step), learner.policy(seed=0).act(step), rtol=1e-5)


def test_continuous_transformers_padded_steps_do_not_matter():
    spec, config = toy_spec(action_dim=3), configuration("decision_transformer")
    batch = toy_batch(spec, 8, needs=config.needs)
    valid = batch.valid.clone()
    valid[:, 2:] = False
    losses = []
    for shift in (0.0, 3.0):
        learner = config.build(spec, seed=0, device="cpu")
        obs, action = batch.obs.clone(), batch.action.clone()
        obs[:, 2:], action[:, 2:] = obs[:, 2:] + shift, action[:, 2:] - shift
        losses.append(learner.update(dataclasses.replace(batch, obs=obs, action=action, valid=valid))["loss"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("algo", "option", "says"),
    [
        ("cql", "gamma=1.5", "from 0 to 1"),
        ("cql", "gamma=NaN", "from 0 to 1"),
        ("cql", "n_critics=0", "at least 1"),
        ("cql", "actor_learning_rate=-1", "at least 0"),
        ("cql", "soft_q_backup=1", "expected a bool"),
        ("crr", "advantage_type=men", "did you mean 'mean'"),
        ("bear", "mmd_kernel=rbf", "expected one of gaussian, laplacian"),
        ("dqn", "q_func_factory=qrr", "did you mean 'qr'"),
        ("dqn", 'q_func_factory={"type":"qr","params":{"quantiles":3}}', "qr has no ..quantiles"),
        ("dqn", "q_func_factory=3", "expected a name"),
        ("dqn", "optim_factory=adamw", "did you mean 'adam_w'"),
        ("prdc", "q_func_factory=iqn", "n_quantiles equal to n_greedy_quantiles"),
        ("prdc", "beta=1e300", "at most 3.4"),
        ("cql", "n_critics=100000000000000000000", "at most 2.1"),
        ("random_policy", "distribution=gauss", "expected one of normal, uniform"),
    ],
)
def test_wrong_values_of_options_are_refused_before_anything_starts(algo, option, says):
    with pytest.raises(ValueError, match=says):
        D3rlpyConfig(algo=algo, options=(option,))


def test_misspelled_algorithm_is_answered_with_the_nearest_one():
    with pytest.raises(ValueError, match="did you mean 'double_dqn'"):
        D3rlpyConfig(algo="doubledqn")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"options": ("num_layer=3",)}, "did you mean 'num_layers'"),
        ({"options": ("num_heads=3",)}, "multiple of num_heads"),
        ({"options": ("context_size=3",)}, "given by context"),
        ({"context": 1}, "at least 2"),
        ({"options": ("max_timestep=5",)}, "above context"),
    ],
)
def test_impossible_transformers_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        D3rlpyDTConfig(**settings)


def test_words_that_options_take_are_those_d3rlpy_knows():
    for name, kind in kinds().items():
        for key, value in kind().serialize_to_dict().items():
            if key in CHOICES:
                assert getattr(value, "value", value) in CHOICES[key], (name, key)
            elif isinstance(value, str):
                raise AssertionError(f"{name} has a word for option {key}, whose choices CHOICES must list")
    for activation in CHOICES["activation_type"]:
        importlib.import_module("d3rlpy.models.utility").create_activation(activation)
