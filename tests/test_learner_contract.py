"""The laws every learner keeps. A new file in algos/ or worldmodel/ is tested by being there."""

from __future__ import annotations

import dataclasses
import math
from typing import get_args

import numpy as np
import pytest
import torch
from helpers import equal_states, leaves, through_files, toy_batch, toy_spec
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from toolkit import registry
from toolkit.compiled import around, compiled
from toolkit.core import ActionDensity, Batch, Family, Learner, LearnerConfig, Moments, Needs, Policy, Spec, Step

CONTINUOUS = toy_spec(goal=True)  # data that can serve every learner


def small(config: LearnerConfig) -> LearnerConfig:
    """The configuration with narrow layers, if it has layers."""
    narrow = {"hidden": (16, 16), "actor_hidden": (16, 16), "achieved": (0, 1), "width": 16, "context": 5}
    names = {field.name for field in dataclasses.fields(config)}
    return dataclasses.replace(config, **{k: v for k, v in narrow.items() if k in names})


@pytest.fixture(params=registry.learners().items(), ids=lambda item: item[0])
def config(request: pytest.FixtureRequest) -> LearnerConfig:
    return small(request.param[1])


def build(config: LearnerConfig, seed: int = 0, spec: Spec = CONTINUOUS) -> Learner:
    return config.build(spec, seed=seed, device="cpu")


def trained(config: LearnerConfig, updates: int, seed: int = 0, spec: Spec = CONTINUOUS) -> Learner:
    learner = build(config, seed, spec)
    for index in range(updates):
        learner.update(batch_for(config, index, spec))
    return learner


def batch_for(config: LearnerConfig, seed: int, spec: Spec = CONTINUOUS) -> Batch:
    return toy_batch(spec, seed=seed, needs=config.needs)


def look(spec: Spec, rows: int, seed: int = 0, first: bool = False) -> Step:
    obs = toy_batch(spec, rows, 1, seed).obs[:, 0].numpy()
    return Step(obs, np.zeros(rows, np.float32), np.full(rows, first))


def deterministic(learner: Learner) -> bool:
    """Whether policies with different seeds act alike."""
    step = look(CONTINUOUS, 3, first=True)
    return np.array_equal(learner.policy(seed=0).act(step), learner.policy(seed=1).act(step))


def test_data_of_images_alone_are_refused_unless_they_are_enough(config):
    nothing, empty = Moments.of(np.zeros((1, 0))), np.zeros(0, np.float32)
    spec = dataclasses.replace(
        CONTINUOUS, obs_dim=0, obs=nothing, delta=nothing, obs_resolution=empty, images={"camera": (8, 8, 3)}
    )
    try:
        learner = build(config, spec=spec)
    except ValueError as error:
        assert "images" in str(error)
        assert not config.takes_images
        return
    if not config.takes_images:  # it must be one that looks at no observation at all
        learner.update(toy_batch(spec, window=config.needs.window))
        assert learner.policy(seed=0).act(look(spec, 2, first=True)).shape == (2, spec.action_dim)


def test_config_is_frozen_and_names_its_family(config):
    assert config.family in get_args(Family)
    assert config.name
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.anything = 1


def test_learner_and_policy_have_the_methods_of_the_protocols(config):
    learner = build(config)
    assert isinstance(learner, Learner)
    assert isinstance(learner.policy(seed=0), Policy)
    assert isinstance(config.needs, Needs)
    assert config.needs.window >= 1


def test_metrics_are_finite_scalars_without_a_graph(config):
    learner = build(config)
    for seed in range(3):
        metrics = learner.update(batch_for(config, seed))
        assert metrics
        for name, value in metrics.items():
            assert isinstance(value, Tensor), name
            assert value.dim() == 0, name
            assert not value.requires_grad, name
            assert math.isfinite(value.item()), name


def test_update_changes_parameters_and_keeps_them_finite(config):
    before, after = build(config).state_dict(), trained(config, 3).state_dict()
    assert not equal_states(before, after)
    tensors = {k: v for k, v in leaves(after).items() if isinstance(v, Tensor) and v.is_floating_point()}
    assert not [name for name, value in tensors.items() if value.isnan().any()]


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_actions_have_one_row_each_and_keep_the_limits(config, rows):
    policy = trained(config, 2).policy(seed=0)
    for index in range(3):
        step = look(CONTINUOUS, rows, index, first=index == 0)
        far = dataclasses.replace(step, obs=step.obs * 100)
        for shown in (step, far):
            action = policy.act(shown)
            assert action.shape == (rows, CONTINUOUS.action_dim)
            assert action.dtype == np.float32
            assert (action >= CONTINUOUS.action_low).all()
            assert (action <= CONTINUOUS.action_high).all()


def test_same_seed_gives_identical_parameters(config):
    assert equal_states(trained(config, 3).state_dict(), trained(config, 3).state_dict())


def test_another_seed_gives_other_parameters(config):
    assert not equal_states(trained(config, 1).state_dict(), trained(config, 1, seed=1).state_dict())


def test_resuming_from_files_equals_never_having_stopped(config):
    first = trained(config, 2)
    state = through_files(first.state_dict())
    second = build(config, seed=0)
    second.load_state_dict(state)
    straight = trained(config, 4)
    for index in (2, 3):
        second.update(batch_for(config, index))
    assert equal_states(second.state_dict(), straight.state_dict())
    step = look(CONTINUOUS, 2, first=True)
    np.testing.assert_array_equal(second.policy(seed=3).act(step), straight.policy(seed=3).act(step))


def test_a_saved_state_is_not_changed_by_later_updates(config):
    learner = trained(config, 2)
    state = learner.state_dict()
    kept = through_files(state)
    learner.update(batch_for(config, 9))
    assert equal_states(state, kept)


def test_learners_loaded_from_one_state_do_not_share_it(config):
    state = trained(config, 2).state_dict()
    one, other = build(config), build(config)
    one.load_state_dict(state)
    other.load_state_dict(state)
    one.update(batch_for(config, 9))
    assert equal_states(other.state_dict(), state)


def test_update_leaves_the_batch_as_it_was(config):
    learner = build(config)
    batch, copy = (batch_for(config, 0) for _ in range(2))
    learner.update(batch)
    for field in dataclasses.fields(Batch):
        value = getattr(batch, field.name)
        assert value is None or torch.equal(value, getattr(copy, field.name)), field.name


def test_act_leaves_the_step_as_it_was(config):
    step, copy = look(CONTINUOUS, 3, first=True), look(CONTINUOUS, 3, first=True)
    build(config).policy(seed=0).act(step)
    for field in dataclasses.fields(Step):
        np.testing.assert_array_equal(getattr(step, field.name), getattr(copy, field.name))


def test_side_by_side_learners_do_not_disturb_each_other(config):
    one, other = build(config, seed=0), build(config, seed=1)
    for index in range(2):
        for learner in (one, other):
            learner.update(batch_for(config, index))
            learner.policy(seed=0).act(look(CONTINUOUS, 2, first=True))
    assert equal_states(one.state_dict(), trained(config, 2, seed=0).state_dict())
    assert equal_states(other.state_dict(), trained(config, 2, seed=1).state_dict())


def test_torch_and_numpy_global_streams_are_left_alone(config):
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    trained(config, 2).policy(seed=0).act(look(CONTINUOUS, 2, first=True))
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


def test_global_seed_does_not_matter(config):
    torch.manual_seed(1)
    one = trained(config, 2).state_dict()
    torch.manual_seed(2)
    assert equal_states(one, trained(config, 2).state_dict())


def test_evaluating_does_not_change_what_training_does(config):
    learner, undisturbed = trained(config, 2), trained(config, 2)
    policy = learner.policy(seed=4)
    for index in range(3):
        policy.act(look(CONTINUOUS, 2, index, first=index == 0))
    assert equal_states(learner.state_dict(), undisturbed.state_dict())


def test_same_policy_seed_gives_same_actions(config):
    learner = trained(config, 2)
    one, other = learner.policy(seed=7), learner.policy(seed=7)
    for index in range(3):
        step = look(CONTINUOUS, 2, index, first=index == 0)
        np.testing.assert_array_equal(one.act(step), other.act(step))


def test_rows_of_a_deterministic_policy_are_independent(config):
    learner = trained(config, 2)
    if not deterministic(learner):
        pytest.skip("the policy samples")
    together = learner.policy(seed=0).act(look(CONTINUOUS, 4, first=True))
    for row in range(4):
        step = look(CONTINUOUS, 4, first=True)
        alone = Step(step.obs[row : row + 1], step.reward[row : row + 1], step.first[row : row + 1])
        np.testing.assert_allclose(learner.policy(seed=0).act(alone)[0], together[row], rtol=1e-4, atol=1e-5)


def test_first_makes_a_row_forget_its_past(config):
    learner = trained(config, 2)
    if not deterministic(learner):
        pytest.skip("the policy samples")
    policy = learner.policy(seed=0)
    for index in range(3):
        policy.act(look(CONTINUOUS, 2, index, first=index == 0))
    step = dataclasses.replace(look(CONTINUOUS, 2, 8), first=np.array([True, False]))
    fresh = learner.policy(seed=0).act(look(CONTINUOUS, 2, 8, first=True))
    np.testing.assert_allclose(policy.act(step)[0], fresh[0], rtol=1e-5, atol=1e-6)


def test_termination_matters_to_learners_of_values(config):
    if config.family != "offline_rl":
        pytest.skip("it does not bootstrap")
    one, other = build(config), build(config)
    for index in range(3):  # d3rlpy's IQL starts from values near 0, and TD3's actor waits a step
        batch = batch_for(config, index)
        one.update(dataclasses.replace(batch, terminated=torch.zeros_like(batch.terminated)))
        other.update(dataclasses.replace(batch, terminated=torch.ones_like(batch.terminated)))
    assert not equal_states(one.state_dict(), other.state_dict())


def test_a_wrong_window_is_refused_clearly_or_served(config):
    learner = build(config)
    wrong = config.needs.window + 2
    try:
        metrics = learner.update(toy_batch(CONTINUOUS, needs=dataclasses.replace(config.needs, window=wrong, n_step=1)))
    except ValueError as error:
        assert f"windows of {wrong} steps" in str(error)
    else:
        assert all(torch.isfinite(value) for value in metrics.values())


def test_a_batch_without_what_is_needed_is_refused_by_name(config):
    needs = config.needs
    due = {"next_action": needs.next_action, "return_to_go": needs.returns_to_go, "discount": needs.n_step > 1}
    if not any(due.values()):
        pytest.skip("it needs no more than windows")
    with pytest.raises(ValueError, match=next(name for name, asked in due.items() if asked)):
        build(config).update(toy_batch(CONTINUOUS, window=needs.window))


def test_goals_are_part_of_the_observation(config):
    spec = toy_spec(goal=True)
    action = trained(config, 2, spec=spec).policy(seed=0).act(look(spec, 2, first=True))
    assert action.shape == (2, spec.action_dim)


def test_discrete_actions_are_integers_or_refused_by_name(config):
    spec = toy_spec(discrete=True, goal=True, action_dim=3)
    try:
        build(config, spec=spec)
    except ValueError as error:
        assert "discrete" in str(error)
        assert "discrete" not in config.actions
        return
    assert "discrete" in config.actions, "it takes discrete actions but does not say so in `actions`"
    learner = trained(config, 2, spec=spec)
    action = learner.policy(seed=0).act(look(spec, 4, first=True))
    assert action.shape == (4,)
    assert action.dtype == np.int64
    assert ((action >= 0) & (action < 3)).all()


def test_action_density_integrates_to_one_in_raw_units(config):
    spec = toy_spec(goal=True, action_dim=1)
    learner = trained(config, 3, spec=spec)
    if not isinstance(learner, ActionDensity):
        pytest.skip("it has no density over actions")
    obs = toy_batch(spec, 4).obs[:, 0]
    grid = torch.linspace(-40, 40, 8001)
    with torch.no_grad():
        log_prob = learner.action_log_prob(obs.expand(len(grid), 4, -1), grid[:, None, None].expand(-1, 4, 1))
    assert log_prob.shape == (len(grid), 4)
    np.testing.assert_allclose(torch.trapezoid(log_prob.double().exp(), grid.double(), dim=0), 1, atol=2e-3)


def test_action_probabilities_sum_to_one():
    spec = toy_spec(discrete=True, action_dim=3)
    learner = trained(small(registry.learner("bc")), 2, spec=spec)
    obs = toy_batch(spec, 4).obs[:, 0]
    with torch.no_grad():
        log_prob = learner.action_log_prob(obs.expand(3, 4, -1), torch.eye(3)[:, None].expand(3, 4, 3))
    np.testing.assert_allclose(log_prob.exp().sum(0), 1, rtol=1e-5)


ASKS = {"_local_scalar_dense", "nonzero", "masked_select", "equal"}  # what waits for a device to say a number


class Asked(TorchDispatchMode):
    """Keeps the names of the operations that would make a device stop and answer."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.names += [name] if name in ASKS else []
        return func(*args, **(kwargs or {}))


def test_an_update_waits_for_no_number_of_the_device(config):
    if not config.compiles:
        pytest.skip("does not claim it")
    learner, asked = trained(config, updates=1), Asked()

    def watch(part):
        def watched(*given):
            with asked:
                return part(*given)

        return watched

    update = around(learner, watch)
    for index in (1, 2):
        update(batch_for(config, index))
    assert asked.names == []


@pytest.mark.parametrize(
    "config",
    [small(c) for name, c in registry.learners().items() if c.compiles and c.name == name],
    ids=lambda config: config.name,
)
def test_a_compiled_update_does_what_the_plain_one_does(config):
    plain, quick = build(config), build(config)
    update = compiled(quick, backend="eager")
    torch._dynamo.reset()
    for index in range(3):  # an even and an odd step, after the first
        due, got = (each(batch_for(config, index)) for each in (plain.update, update))
        assert {k: v.item() for k, v in got.items()} == pytest.approx({k: v.item() for k, v in due.items()}, rel=1e-4)
    moved = leaves(plain.state_dict())
    for name, value in leaves(quick.state_dict()).items():
        if torch.is_tensor(value) and value.is_floating_point():
            torch.testing.assert_close(value, moved[name], rtol=1e-3, atol=1e-5)
    assert all("Generator" in reason for reason in torch._dynamo.utils.counters["graph_break"])
