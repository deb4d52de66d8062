"""Laws every suite keeps, and what each of ours promises about its contexts."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
from gymnasium import spaces

from toolkit import registry
from toolkit.core import Array
from toolkit.envs import SPLITS, Split, Suite, _measure, pendulum, pointmaze, random_policy

SUITES = sorted(name for name in registry.suites() if name in ("pendulum", "pointmaze"))
LOCAL = [pytest.param(registry.suite(name), id=name) for name in SUITES]
EVERY = [pytest.param(suite, id=name) for name, suite in registry.suites().items()]


def made(suite: Suite):
    for module in suite.requires:
        pytest.importorskip(module)
    return suite.make()


def drawing(suite: Suite):
    made(suite).close()
    try:
        return suite.make(render=True)
    except ImportError as error:
        pytest.skip(str(error))


def play(suite: Suite, context: Array, *, seed: int, steps: int = 60) -> list[Array]:
    """Everything the environment shows of an episode under the expert, in a new environment."""
    env = made(suite)
    act = suite.expert(context, rng=np.random.default_rng(seed))
    obs, _ = env.reset(seed=seed, options={"context": context})
    shown = list(obs.values())
    for _ in range(steps):
        obs, reward, terminated, truncated, info = env.step(act(obs))
        shown += [*obs.values(), np.array([reward, terminated, truncated, info["success"]], np.float64)]
        if terminated or truncated:
            break
    env.close()
    return shown


def same(left: list[Array], right: list[Array]) -> bool:
    return len(left) == len(right) and all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("suite", EVERY)
def test_context_streams_are_prefix_stable_and_differ_by_seed_and_split(suite):
    streams = {}
    for split in SPLITS:
        long = suite.contexts(split, 20, seed=3)
        assert long.shape == (20, len(suite.context_names))
        assert long.dtype == np.float64
        np.testing.assert_array_equal(suite.contexts(split, 10, seed=3), long[:10])
        assert not np.array_equal(suite.contexts(split, 20, seed=4), long)
        streams[split] = long
    assert not np.array_equal(streams["train"], streams["interpolated"])
    assert not np.array_equal(streams["train"], streams["extrapolated"])


@pytest.mark.parametrize("suite", EVERY)
def test_an_unknown_split_is_refused(suite):
    with pytest.raises(ValueError, match="unknown split 'test'"):
        suite.contexts("test", 1, seed=0)


@pytest.mark.parametrize("suite", EVERY)
def test_every_suite_has_a_reference_for_every_split_with_the_expert_above_random(suite):
    assert set(suite.references) == set(SPLITS) == set(get_args(Split))
    for reference in suite.references.values():
        assert reference.expert > reference.random


@pytest.mark.parametrize("suite", LOCAL)
def test_same_seed_and_context_give_the_same_episode_bit_for_bit(suite):
    first, second = suite.contexts("extrapolated", 2, seed=1)
    assert same(play(suite, first, seed=5), play(suite, first, seed=5))
    assert not same(play(suite, first, seed=5), play(suite, second, seed=5))


@pytest.mark.parametrize("suite", LOCAL)
def test_a_context_leaves_nothing_behind_for_the_next_reset(suite):
    """An environment that has played another context equals a new one."""
    here, there = suite.contexts("train", 1, seed=1)[0], suite.contexts("extrapolated", 1, seed=1)[0]
    action = np.ones_like(suite.expert(here, rng=np.random.default_rng(0))(_first(suite, here)))

    def show(env) -> list[Array]:
        obs, _ = env.reset(seed=7, options={"context": here})
        shown = list(obs.values())
        for _ in range(20):
            shown += env.step(action)[0].values()
        return shown

    used = made(suite)
    used.reset(seed=2, options={"context": there})
    for _ in range(20):
        used.step(-action)
    assert same(show(used), show(made(suite)))


def _first(suite: Suite, context: Array) -> dict[str, Array]:
    return made(suite).reset(seed=0, options={"context": context})[0]


@pytest.mark.parametrize("suite", LOCAL)
def test_observations_fit_the_declared_space_and_roles(suite):
    env = made(suite)
    obs, _ = env.reset(seed=0)
    assert isinstance(env.observation_space, spaces.Dict)
    assert set(obs) == set(suite.roles) == set(env.observation_space)
    for key, values in obs.items():
        assert values.dtype == env.observation_space[key].dtype == np.float32
        assert values.shape == env.observation_space[key].shape
    batch = {key: np.stack([values, values]) for key, values in obs.items()}
    assert suite.coordinates(batch).shape == (2, 2)


@pytest.mark.parametrize("suite", LOCAL)
def test_a_reset_without_a_context_plays_a_training_context_of_its_seed(suite):
    env = made(suite)
    drawn, _ = env.reset(seed=11)
    told, _ = env.reset(seed=11, options={"context": suite.contexts("train", 1, seed=11)[0]})
    assert same(list(drawn.values()), list(told.values()))


@pytest.mark.parametrize("suite", LOCAL)
def test_a_context_of_the_wrong_length_or_an_unknown_option_is_refused(suite):
    env = made(suite)
    with pytest.raises(ValueError, match=r"expected \d finite numbers"):
        env.reset(seed=0, options={"context": [0.0]})
    with pytest.raises(ValueError, match="expected only 'context'"):
        env.reset(seed=0, options={"contexts": [0.0]})


@pytest.mark.parametrize("suite", LOCAL)
def test_an_episode_of_a_policy_that_does_nothing_ends_at_the_time_limit(suite):
    env = made(suite)
    env.reset(seed=0, options={"context": suite.contexts("train", 1, seed=0)[0]})
    still = np.zeros(env.action_space.shape, np.float32)
    steps, over = 0, False
    while not over:
        _, _, terminated, truncated, _ = env.step(still)
        steps, over = steps + 1, terminated or truncated
    assert (steps, terminated, truncated) == (suite.max_steps, False, True)


@pytest.mark.parametrize("suite", LOCAL)
@pytest.mark.parametrize("split", SPLITS)
def test_the_expert_succeeds_and_beats_random_on_every_split(suite, split):
    made(suite).close()
    expert = _measure.measure(suite, split, "expert", episodes=25, seed=1)
    random = _measure.measure(suite, split, "random", episodes=10, seed=1)
    assert expert.success == 1.0
    assert random.success < 0.5
    assert expert.mean_return > random.mean_return + 100


@pytest.mark.parametrize("suite", LOCAL)
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("policy", ["random", "expert"])
def test_recorded_references_equal_a_recomputation(suite, split, policy):
    made(suite).close()
    again = _measure.measure(suite, split, policy).mean_return
    assert again == pytest.approx(getattr(suite.references[split], policy), rel=1e-6)


@pytest.mark.parametrize("name", SUITES)
def test_importing_a_suite_imports_no_simulator_and_making_it_is_silent(name):
    heavy = [module for module in registry.suite(name).requires if module != "gymnasium"]
    made(registry.suite(name)).close()
    program = (
        f"import sys, toolkit.envs.{name} as suite\n"
        f"assert not set({heavy!r}) & set(sys.modules), 'a simulator was imported'\n"
        "suite.SUITE.make().close()\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_missing_simulator_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    with pytest.raises(ImportError, match=r"gymnasium_robotics; pip install 'gymnasium-robotics"):
        pointmaze.SUITE.make()


@pytest.mark.parametrize("suite", LOCAL)
def test_drawing_changes_nothing_but_gives_pictures(suite):
    context = suite.contexts("train", 1, seed=0)[0]
    plain, drawn = made(suite), drawing(suite)
    assert plain.render_mode is None
    seen = [env.reset(seed=3, options={"context": context})[0] for env in (plain, drawn)]
    act = suite.expert(context, rng=np.random.default_rng(0))
    pictures = []
    for _ in range(5):
        pictures.append(drawn.render())
        action = act(seen[0])
        seen = [env.step(action)[0] for env in (plain, drawn)]
        assert same(list(seen[0].values()), list(seen[1].values()))
    for picture in pictures:
        assert (picture.dtype, picture.ndim, picture.shape[2]) == (np.uint8, 3, 3)
        assert min(picture.shape[:2]) >= 200
    assert not np.array_equal(pictures[0], pictures[-1])
    plain.close(), drawn.close()


@pytest.mark.parametrize("suite", LOCAL)
def test_behaviours_are_named_and_an_unknown_one_is_refused(suite):
    env = made(suite)
    context = suite.contexts("train", 1, seed=0)[0]
    obs, _ = env.reset(seed=0, options={"context": context})
    assert {"expert", "random"} <= set(suite.behaviours)
    for name in suite.behaviours:
        act = suite.behaviour(name, context, rng=np.random.default_rng(0))
        assert env.action_space.contains(act(obs)), name
    with pytest.raises(ValueError, match="no behaviour 'export'; expected one of expert"):
        suite.behaviour("export", context, rng=np.random.default_rng(0))


def test_pendulum_splits_are_disjoint_in_theta0_or_outside_in_gravity_and_mass():
    train, interpolated, extrapolated = (pendulum.SUITE.contexts(split, 4000, seed=0) for split in SPLITS)
    bands = [set(pendulum.band_of(contexts[:, 0]).tolist()) for contexts in (train, interpolated, extrapolated)]
    assert bands[1] == set(pendulum.HELD_BACK)
    assert bands[0] == bands[2] == set(range(pendulum.BANDS)) - bands[1]
    for column in range(1, 5):
        assert abs(train[:, column].mean() - interpolated[:, column].mean()) < 0.05 * np.ptp(train[:, column])
    for column in (2, 3):
        highest = max(train[:, column].max(), interpolated[:, column].max())
        assert extrapolated[:, column].min() > highest


def test_pendulum_starts_exactly_where_its_context_says():
    env, context = pendulum.SUITE.make(), np.array([2.5, -0.7, 9.3, 1.05, 0.95])
    obs, info = env.reset(seed=0, options={"context": context})
    np.testing.assert_array_equal(obs["observation"], np.float32([np.cos(2.5), np.sin(2.5), -0.7]))
    inner = env.unwrapped
    assert [*inner.state, inner.g, inner.m, inner.l] == context.tolist()
    assert not info["success"]


def test_pendulum_succeeds_only_upright_and_slow():
    env = pendulum.SUITE.make()

    def success_after_one_step(theta: float, speed: float) -> bool:
        env.reset(seed=0, options={"context": [theta, speed, 10.0, 1.0, 1.0]})
        return env.step(np.zeros(1, np.float32))[4]["success"]

    assert success_after_one_step(0.0, 0.1)
    assert not success_after_one_step(0.0, 0.9)
    assert not success_after_one_step(0.5, 0.0)
    assert not success_after_one_step(np.pi, 0.0)


def test_pointmaze_splits_are_disjoint_in_the_goal_or_outside_in_gear_and_damping():
    train, interpolated, extrapolated = (pointmaze.SUITE.contexts(split, 4000, seed=0) for split in SPLITS)
    goals = [{(int(row), int(column)) for row, column in c[:, 2:4]} for c in (train, interpolated, extrapolated)]
    assert goals[1] == set(pointmaze.HELD_BACK)
    assert goals[0] == goals[2] == set(pointmaze.FREE) - goals[1]
    shared = np.concatenate([train, interpolated])
    assert extrapolated[:, 4].max() < shared[:, 4].min()
    assert extrapolated[:, 5].min() > shared[:, 5].max()


def test_pointmaze_routes_are_at_least_three_cells_long():
    for split in SPLITS:
        for start_row, start_column, row, column in pointmaze.SUITE.contexts(split, 300, seed=0)[:, :4].astype(int):
            assert pointmaze.steps_to((row, column))[start_row, start_column] >= pointmaze.SHORTEST


def test_pointmaze_is_the_medium_maze_and_places_start_and_goal_in_their_cells():
    pytest.importorskip("gymnasium_robotics")
    env, context = pointmaze.SUITE.make(), np.array([6.0, 1.0, 1.0, 6.0, 0.5, 3.0])
    walls = env.get_wrapper_attr("maze").maze_map
    assert {(r, c) for r, row in enumerate(walls) for c, wall in enumerate(row) if wall != 1} == set(pointmaze.FREE)
    model = env.get_wrapper_attr("point_env").model
    starts = []
    for seed in range(5):
        obs, _ = env.reset(seed=seed, options={"context": context})
        assert pointmaze.cell_at(obs["observation"][:2]) == (6, 1)
        assert pointmaze.cell_at(obs["desired_goal"]) == (1, 6)
        starts.append(obs["observation"][:2])
    assert len(np.unique(starts, axis=0)) == 5, "the position noise is drawn from the reset's seed"
    np.testing.assert_array_equal(model.actuator_gear[:, 0], [50.0, 50.0])
    np.testing.assert_array_equal(model.dof_damping, [3.0, 3.0])


def test_pointmaze_terminates_at_the_goal_and_every_step_before_it_costs():
    pytest.importorskip("gymnasium_robotics")
    env, context = pointmaze.SUITE.make(), pointmaze.SUITE.contexts("train", 1, seed=0)[0]
    act = pointmaze.SUITE.expert(context, rng=np.random.default_rng(0))
    obs, _ = env.reset(seed=0, options={"context": context})
    terminated = False
    while not terminated:
        obs, reward, terminated, truncated, info = env.step(act(obs))
        distance = np.linalg.norm(obs["observation"][:2] - obs["desired_goal"])
        assert not truncated
        assert info["success"] == terminated == (distance <= 0.45)
        assert reward == pytest.approx(np.exp(-distance) - 1, abs=1e-5)
        assert -1 <= reward < 0


def test_pointmaze_refuses_walls_and_impossible_dynamics():
    pytest.importorskip("gymnasium_robotics")
    env = pointmaze.SUITE.make()
    with pytest.raises(ValueError, match=r"goal cell \(0, 0\) is not free"):
        env.reset(seed=0, options={"context": [1, 1, 0, 0, 1, 1]})
    with pytest.raises(ValueError, match="gear scale 0 "):
        env.reset(seed=0, options={"context": [1, 1, 6, 6, 0, 1]})


def test_the_random_policy_is_uniform_over_the_action_limits():
    act = random_policy(spaces.Box(-2.0, 6.0, (3,), np.float32), rng=np.random.default_rng(0))
    actions = np.array([act({}) for _ in range(3000)])
    assert actions.dtype == np.float32
    assert actions.min() >= -2
    assert actions.max() <= 6
    np.testing.assert_allclose(actions.mean(0), 2.0, atol=0.2)
    np.testing.assert_allclose(actions.std(0), 8 / np.sqrt(12), rtol=0.05)
    choose = random_policy(spaces.Discrete(3, start=1), rng=np.random.default_rng(0))
    assert {int(choose({})) for _ in range(100)} == {1, 2, 3}
    with pytest.raises(ValueError, match="finite limits"):
        random_policy(spaces.Box(-np.inf, 1.0, (1,)), rng=np.random.default_rng(0))
    with pytest.raises(TypeError, match="MultiBinary"):
        random_policy(spaces.MultiBinary(2), rng=np.random.default_rng(0))
