"""Laws every suite keeps, and what each of ours promises about its contexts."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
from gymnasium import spaces

from toolkit import registry
from toolkit.collect import collect
from toolkit.core import Array
from toolkit.envs import (
    SPLITS,
    Split,
    Suite,
    _measure,
    cartpole,
    halfcheetah,
    pendulum,
    pointmaze,
    random_policy,
    reacher,
)
from toolkit.envs._locomotion import BANDS, HELD_BACK, Locomotion
from toolkit.records import load
from toolkit.train import train


def module_of(suite: Suite):
    return sys.modules[type(suite).__module__]


EVERY = [pytest.param(suite, id=name) for name, suite in registry.suites().items()]
FIRST = {type(suite).__module__: suite for suite in reversed(registry.suites().values())}
PLAYED = [pytest.param(suite, id=suite.name) for suite in FIRST.values()]
"""The first suite of each module: the others of a family run through the same code."""
PRINTED = [pytest.param(s, id=n) for n, s in registry.suites().items() if module_of(s).main is _measure.main]
"""Those whose module prints the lines that stand in it; the rest check their references themselves."""
RUNNERS = [pytest.param(suite, id=name) for name, suite in registry.suites().items() if isinstance(suite, Locomotion)]
SCRIPTED = [pytest.param(suite.SUITE, id=suite.SUITE.name) for suite in (cartpole, pendulum, pointmaze, reacher)]
"""Light enough to measure every reference again, each time."""


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


@pytest.mark.parametrize("suite", PLAYED)
def test_same_seed_and_context_give_the_same_episode_bit_for_bit(suite):
    first, second = suite.contexts("extrapolated", 2, seed=1)
    assert same(play(suite, first, seed=5), play(suite, first, seed=5))
    assert not same(play(suite, first, seed=5), play(suite, second, seed=5))


@pytest.mark.parametrize("suite", PLAYED)
def test_a_context_leaves_nothing_behind_for_the_next_reset(suite):
    """An environment that has played another context equals a new one."""
    here, there = suite.contexts("train", 1, seed=1)[0], suite.contexts("extrapolated", 1, seed=1)[0]

    def show(env, context: Array, *, seed: int, highest: bool) -> list[Array]:
        obs, _ = env.reset(seed=seed, options={"context": context})
        shown, over, steps = list(obs.values()), False, 0
        while not over and steps < 20:
            obs, _, terminated, truncated, _ = env.step(_limit(env.action_space, highest=highest))
            shown += obs.values()
            over, steps = terminated or truncated, steps + 1
        return shown

    used = made(suite)
    show(used, there, seed=2, highest=False)
    assert same(show(used, here, seed=7, highest=True), show(made(suite), here, seed=7, highest=True))


def _limit(space: spaces.Space, *, highest: bool) -> Array:
    """The action at one end of its space."""
    if isinstance(space, spaces.Discrete):
        return np.asarray(space.start + (space.n - 1) * highest)
    return space.high if highest else space.low


@pytest.mark.parametrize("suite", PLAYED)
def test_observations_fit_the_declared_space_and_roles(suite):
    env = made(suite)
    obs, _ = env.reset(seed=0)
    assert isinstance(env.observation_space, spaces.Dict)
    assert set(obs) == set(suite.roles) == set(env.observation_space)
    for key, values in obs.items():
        assert values.dtype == env.observation_space[key].dtype == np.float32
        assert values.shape == env.observation_space[key].shape
    batch = {key: np.stack([values, values]) for key, values in obs.items()}
    assert suite.coordinates(batch).shape[0] == 2
    assert suite.coordinates(batch).ndim == 2


@pytest.mark.parametrize("suite", PLAYED)
def test_a_reset_without_a_context_plays_a_training_context_of_its_seed(suite):
    env = made(suite)
    drawn, _ = env.reset(seed=11)
    told, _ = env.reset(seed=11, options={"context": suite.contexts("train", 1, seed=11)[0]})
    assert same(list(drawn.values()), list(told.values()))


@pytest.mark.parametrize("suite", PLAYED)
def test_a_context_of_the_wrong_length_or_an_unknown_option_is_refused(suite):
    env = made(suite)
    with pytest.raises(ValueError, match=r"expected \d+ finite numbers"):
        env.reset(seed=0, options={"context": [0.0]})
    with pytest.raises(ValueError, match="expected only 'context'"):
        env.reset(seed=0, options={"contexts": [0.0]})


@pytest.mark.parametrize("suite", PLAYED)
def test_an_episode_is_truncated_at_the_time_limit_if_nothing_ends_it_before(suite):
    env = made(suite)
    env.reset(seed=0, options={"context": suite.contexts("train", 1, seed=0)[0]})
    still = np.zeros(env.action_space.shape, np.float32)
    steps, over = 0, False
    while not over:
        _, _, terminated, truncated, _ = env.step(still)
        steps, over = steps + 1, terminated or truncated
    assert steps == suite.max_steps or (steps < suite.max_steps and terminated)
    assert truncated == (steps == suite.max_steps and not terminated)


@pytest.mark.parametrize("suite", PLAYED)
@pytest.mark.parametrize("split", SPLITS)
def test_the_expert_succeeds_and_beats_random_on_every_split(suite, split):
    made(suite).close()
    episodes = min(max(2500 // suite.max_steps, 5), 25)
    expert = _measure.measure(suite, split, "expert", episodes=episodes, seed=1)
    random = _measure.measure(suite, split, "random", episodes=episodes, seed=1)
    assert expert.success > 0.6
    assert random.success < 0.5
    reference = suite.references[split]
    assert expert.mean_return > (reference.random + reference.expert) / 2 > random.mean_return


@pytest.mark.parametrize("suite", SCRIPTED)
@pytest.mark.parametrize("split", SPLITS)
def test_recorded_references_equal_a_recomputation_and_scripted_experts_never_fail(suite, split):
    made(suite).close()
    again = {policy: _measure.measure(suite, split, policy) for policy in ("random", "expert")}
    assert again["random"].mean_return == pytest.approx(suite.references[split].random, rel=1e-6, abs=6e-5)
    assert again["expert"].mean_return == pytest.approx(suite.references[split].expert, rel=1e-6, abs=6e-5)
    assert again["expert"].success == 1.0


@pytest.mark.skipif(not os.environ.get("PACKMULE_REFERENCES"), reason="minutes a suite; PACKMULE_REFERENCES=1 asks")
@pytest.mark.parametrize("suite", PRINTED)
def test_every_recorded_reference_equals_what_the_command_prints(suite, capsys):
    made(suite).close()
    _measure.main(suite)
    printed = capsys.readouterr().out
    source = inspect.getsource(module_of(suite))
    assert printed in source


@pytest.mark.parametrize("suite", PLAYED)
def test_importing_a_suite_imports_no_simulator_and_making_it_is_silent(suite):
    heavy = [module for module in suite.requires if module != "gymnasium"]
    made(suite).close()
    program = (
        "import sys\nfrom toolkit import registry\n"
        f"suite = registry.suite({suite.name!r})\n"
        f"assert not set({heavy!r}) & set(sys.modules), 'a simulator was imported'\n"
        "suite.make().close()\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("suite", PLAYED)
def test_a_suite_that_is_not_installed_says_what_to_install(suite, monkeypatch):
    missing = [module for module in suite.requires if module != "gymnasium"]
    for module in missing:
        monkeypatch.setitem(sys.modules, module, None)
    if missing:
        with pytest.raises(ImportError, match=rf"suite '{suite.name}' cannot import .*; pip install '"):
            suite.make()


@pytest.mark.parametrize("suite", [cartpole.SUITE, reacher.SUITE], ids=["cartpole", "reacher"])
def test_drawing_is_silent(suite):
    drawing(suite).close()
    program = (
        f"from toolkit import registry\nenv = registry.suite({suite.name!r}).make(render=True)\n"
        "env.reset(seed=0)\nenv.render()\nenv.close()\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("suite", [cartpole.SUITE, pendulum.SUITE], ids=["cartpole", "pendulum"])
def test_drawing_without_pygame_says_what_to_install(suite, monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(ImportError, match=r"cannot import pygame; pip install 'packmule\[render\]'"):
        suite.make(render=True)


def test_drawing_without_opengl_says_what_is_needed(monkeypatch):
    pytest.importorskip("mujoco")
    monkeypatch.setenv("MUJOCO_GL", "vulkan")
    with pytest.raises(ImportError, match=r"suite 'reacher'.*vulkan.*MUJOCO_GL=egl"):
        reacher.SUITE.make(render=True)


@pytest.mark.parametrize(
    "suite",
    [pytest.param(s, id=name) for name, s in registry.suites().items() if type(s).pose is not Suite.pose],
)
def test_posed_at_an_observation_an_environment_draws_what_the_one_that_showed_it_draws(suite):
    mujoco = pytest.importorskip("mujoco")
    context = suite.contexts("train", 1, seed=0)[0]
    acting, posed = drawing(suite), drawing(suite)
    act = suite.expert(context, rng=np.random.default_rng(0))
    obs, _ = [env.reset(seed=3, options={"context": context})[0] for env in (acting, posed)]
    before, _ = [np.array(env.render()).astype(int) for env in (acting, posed)]  # where MuJoCo's camera will look
    for _ in range(12):
        obs, *_ = acting.step(act(obs))
    if "mujoco" in suite.requires:
        shown, other = (getattr(env.unwrapped, "point_env", env.unwrapped) for env in (acting, posed))
        mujoco.mj_forward(shown.model, shown.data)  # it draws where things were a step before the end of the last
        other.data.qpos[0] = shown.data.qpos[0]  # a runner's x is not observed
    suite.pose(posed, obs)
    due, drawn = [np.array(env.render()).astype(int) for env in (acting, posed)]
    moved, off = ((np.abs(due - one).max(2) > 8).mean() for one in (before, drawn))
    assert off < moved / 5, "but for the arrow of the pendulum's torque"
    acting.close()
    posed.close()


@pytest.mark.parametrize("suite", PLAYED)
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


@pytest.mark.parametrize("suite", PLAYED)
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


def test_cartpole_splits_are_disjoint_in_theta0_or_outside_in_the_dynamics():
    train, interpolated, extrapolated = (cartpole.SUITE.contexts(split, 4000, seed=0) for split in SPLITS)
    bands = [set(cartpole.band_of(contexts[:, 2]).tolist()) for contexts in (train, interpolated, extrapolated)]
    assert bands[1] == set(cartpole.HELD_BACK)
    assert bands[0] == bands[2] == set(range(cartpole.BANDS)) - bands[1]
    shared = np.concatenate([train, interpolated])
    assert extrapolated[:, 4].max() < shared[:, 4].min()
    assert extrapolated[:, 5].min() > shared[:, 5].max()
    assert extrapolated[:, 6].min() > shared[:, 6].max()
    assert extrapolated[:, 7].max() < shared[:, 7].min()


def test_cartpole_starts_exactly_where_its_context_says_and_ends_when_the_pole_falls():
    env, context = cartpole.SUITE.make(), np.array([0.3, -0.1, 0.05, 0.2, 0.45, 0.11, 9.5, 10.5])
    obs, info = env.reset(seed=0, options={"context": context})
    np.testing.assert_array_equal(obs["observation"], context[:4].astype(np.float32))
    inner = env.unwrapped
    assert [*inner.state, inner.length, inner.masspole, inner.gravity, inner.force_mag] == context.tolist()
    assert (inner.total_mass, inner.polemass_length) == (1.11, 0.11 * 0.45)
    terminated = False
    assert info["success"]
    while not terminated:
        obs, reward, terminated, _, info = env.step(1)
        assert reward == 1.0
        assert info["success"] == (not terminated)
    assert abs(obs["observation"][2]) > 0.209
    with pytest.raises(ValueError, match="is over already"):
        env.reset(seed=0, options={"context": [0, 0, 0.3, 0, 0.5, 0.1, 10, 10]})
    with pytest.raises(ValueError, match="force 0 do not fit"):
        env.reset(seed=0, options={"context": [0, 0, 0, 0, 0.5, 0.1, 10, 0]})


def test_discrete_cartpole_data_trains_a_learner_or_is_refused_by_it_clearly(tmp_path):
    store = collect("cartpole", out=tmp_path / "store", episodes=6, contexts=3, coverage=0.3, seed=0)
    assert store.schema.discrete
    assert store.spec.action_dim == 2
    served = set()
    for name, config in registry.learners().items():
        if name.startswith("d3rlpy-") or config.needs.goal:  # presets of one adapter; cartpole has no goals
            continue
        try:
            folder = train(name, store=store.path, steps=2, batch_size=16, episodes=1, out=tmp_path / "runs")
        except ValueError as error:
            assert "discrete" in str(error) or "continuous" in str(error), name
        else:
            served.add(name)
            assert {record.suite for record in load(folder)} == {"cartpole"}
    assert "bc" in served
    assert len(list((tmp_path / "runs").iterdir())) == len(served)


def test_reacher_splits_are_disjoint_in_direction_or_outside_in_radius_and_dynamics():
    train, interpolated, extrapolated = (reacher.SUITE.contexts(split, 4000, seed=0) for split in SPLITS)
    sectors = [set(reacher.sector_of(contexts[:, 0]).tolist()) for contexts in (train, interpolated, extrapolated)]
    assert sectors[1] == set(reacher.HELD_BACK)
    assert sectors[0] == sectors[2] == set(range(reacher.SECTORS)) - sectors[1]
    shared = np.concatenate([train, interpolated])
    assert extrapolated[:, 1].min() > shared[:, 1].max()
    assert extrapolated[:, 4].max() < shared[:, 4].min()
    assert extrapolated[:, 5].min() > shared[:, 5].max()


def test_reacher_shows_gymnasiums_numbers_with_the_target_apart_and_starts_where_its_context_says():
    pytest.importorskip("mujoco")
    env = reacher.SUITE.make()
    obs, _ = env.reset(seed=0, options={"context": [np.pi / 2, 0.15, 0.4, -1.1, 0.5, 3.0]})
    np.testing.assert_allclose(obs["desired_goal"], [0.0, 0.15], atol=1e-7)
    np.testing.assert_allclose(obs["observation"][:4], [np.cos(0.4), np.cos(1.1), np.sin(0.4), -np.sin(1.1)], rtol=1e-6)
    np.testing.assert_array_equal(obs["observation"][4:6], 0.0)
    tip = 0.1 * np.array([np.cos(0.4), np.sin(0.4)]) + 0.11 * np.array([np.cos(-0.7), np.sin(-0.7)])
    np.testing.assert_allclose(obs["observation"][6:], tip, atol=1e-6)
    model = env.unwrapped.model
    np.testing.assert_array_equal(model.actuator_gear[:, 0], 100.0)
    np.testing.assert_array_equal(model.dof_damping[:2], 3.0)
    obs, reward, _, _, info = env.step(np.array([0.5, -0.5], np.float32))
    distance = np.linalg.norm(obs["observation"][6:] - obs["desired_goal"])
    assert reward == pytest.approx(-distance - 0.5, abs=1e-6)
    assert info["success"] == (distance < reacher.NEAR)
    with pytest.raises(ValueError, match=r"target radius 0.3 m.*expected 0 to 0.21"):
        env.reset(seed=0, options={"context": [0, 0.3, 0, 0, 1, 1]})


@pytest.mark.parametrize("suite", RUNNERS)
def test_runners_splits_are_disjoint_in_mass_or_outside_in_mass_and_gear(suite):
    train, interpolated, extrapolated = (suite.contexts(split, 4000, seed=0) for split in SPLITS)
    bands = [set(suite.band_of(contexts[:, 0]).tolist()) for contexts in (train, interpolated)]
    assert bands == [set(range(BANDS)) - set(HELD_BACK), set(HELD_BACK)]
    shared = np.concatenate([train, interpolated])
    assert extrapolated[:, 0].min() > shared[:, 0].max()
    assert extrapolated[:, 1].min() > shared[:, 1].max()


@pytest.mark.parametrize("suite", RUNNERS)
def test_runners_bodies_are_what_the_context_says_and_the_start_is_as_noisy(suite):
    pytest.importorskip("mujoco")
    env = suite.make()
    env.reset(seed=0, options={"context": [1.0, 1.0, 1.0, 1.0, 0.0]})
    model = env.unwrapped.model
    plain = {name: getattr(model, name).copy() for name in env.own}
    env.reset(seed=0, options={"context": [1.3, 0.8, 0.7, 1.5, 0.01]})
    for name, factor in {"body_mass": 1.3, "body_inertia": 1.3, "actuator_gear": 0.8, "dof_damping": 1.5}.items():
        np.testing.assert_allclose(getattr(model, name), plain[name] * factor, err_msg=name)
    np.testing.assert_allclose(model.geom_friction[:, 0], plain["geom_friction"][:, 0] * 0.7)
    np.testing.assert_array_equal(model.geom_friction[:, 1:], plain["geom_friction"][:, 1:])
    assert 0 < np.abs(env.unwrapped.data.qpos - env.unwrapped.init_qpos).max() <= 0.01
    for wrong in ([0, 1, 1, 1, 0], [1, 1, 1, -1, 0]):
        with pytest.raises(ValueError, match="expected mass, gear and friction above 0"):
            env.reset(seed=0, options={"context": wrong})


def test_a_runner_succeeds_only_far_enough_ahead_of_its_start():
    pytest.importorskip("mujoco")
    env = halfcheetah.SUITE.make()
    env.reset(seed=0)
    start = float(env.unwrapped.data.qpos[0])
    for distance, success in ((halfcheetah.SUITE.distance - 1, False), (halfcheetah.SUITE.distance + 1, True)):
        state = env.unwrapped.data.qpos.copy()
        state[0] = start + distance
        env.unwrapped.set_state(state, env.unwrapped.data.qvel)
        assert env.step(np.zeros(6, np.float32))[4]["success"] == success


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
