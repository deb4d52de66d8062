"""What the suites of Meta-World and OGBench promise besides the laws every suite keeps (test_envs.py)."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from toolkit import registry
from toolkit.collect import collect, stream
from toolkit.core import Array
from toolkit.envs import SPLITS, Suite, _measure, metaworld, ogbench_arm, ogbench_maze
from toolkit.envs import _metaworld_env as simulators
from toolkit.envs import _ogbench_oracle as oracle
from toolkit.envs._metaworld import MEASURED, TASKS
from toolkit.store.validate import validate

SINGLE = [suite for suite in metaworld.SUITES if not suite.several]
SETS = [suite for suite in metaworld.SUITES if suite.several]
ARMS = [pytest.param(suite, id=suite.name) for suite in ogbench_arm.SUITES]
MAZES = [pytest.param(suite, id=suite.name) for suite in ogbench_maze.SUITES]
ALL = [suite.name for suite in (*metaworld.SUITES, *ogbench_arm.SUITES, *ogbench_maze.SUITES)]
FEW = ["metaworld-push", "ogbench-cube-single", "ogbench-pointmaze-medium"]
MT10, ML10 = registry.suite("metaworld-mt10"), registry.suite("metaworld-ml10")


def make(suite: Suite):
    for module in suite.requires:
        pytest.importorskip(module)
    return suite.make()


def episode(env, suite: Suite, context: Array, *, seed: int = 0) -> tuple[list[float], bool, int]:
    """Rewards, success and length of one episode of the expert."""
    act = suite.expert(context, rng=np.random.default_rng(seed))
    obs, _ = env.reset(seed=seed, options={"context": context})
    rewards, over = [], False
    while not over:
        obs, reward, terminated, truncated, info = env.step(act(obs))
        rewards.append(float(reward))
        over = terminated or truncated
    assert info["success"] == terminated
    return rewards, info["success"], len(rewards)


# Meta-World


def test_the_fifty_tasks_are_those_of_the_package_with_their_ranges_and_distances():
    pytest.importorskip("metaworld")
    classes, policies = simulators.load("metaworld-push")
    assert [f"{task}-v3" for task in TASKS] == list(classes)
    assert set(policies) == set(classes)
    assert list(MEASURED) == list(TASKS)
    for task, of in TASKS.items():
        space = classes[f"{task}-v3"]()._random_reset_space
        source = inspect.getsource(classes[f"{task}-v3"].reset_model)
        narrowed = [0] if task == "bin-picking" else []
        for axis in range(len(of.low)):
            assert (space.low[axis] < of.low[axis]) == (of.high[axis] < space.high[axis]) == (axis in narrowed)
        rest = [axis for axis in range(len(of.low)) if axis not in narrowed]
        np.testing.assert_array_equal(np.array([of.low, of.high])[:, rest], np.array([space.low, space.high])[:, rest])
        assert (f"< {of.apart}:" in source) == (of.apart > 0) == ("while" in source), task


def test_the_sets_are_those_of_the_package():
    names = pytest.importorskip("metaworld").env_dict
    for suite in (MT10, registry.suite("metaworld-mt25"), registry.suite("metaworld-mt50")):
        assert [f"{task}-v3" for task in suite.members] == list(getattr(names, f"{suite.name[-4:].upper()}_V3"))
    for suite in (ML10, registry.suite("metaworld-ml45")):
        parts = getattr(names, f"{suite.name[-4:].upper()}_V3")
        assert [f"{task}-v3" for task in suite.members] == [*parts["train"], *parts["test"]]
        assert suite.kept_back == len(parts["test"]) == 5


@pytest.mark.parametrize("suite", SINGLE, ids=lambda suite: suite.name)
def test_metaworld_splits_are_disjoint_on_the_axis_kept_back(suite):
    of = TASKS[suite.members[0]]
    train, interpolated, extrapolated = (suite.contexts(split, 300, seed=0) for split in SPLITS)
    bands = [set(metaworld.band_of(suite.members[0], split).tolist()) for split in (train, interpolated, extrapolated)]
    assert bands[1] == set(metaworld.HELD_BACK)
    assert bands[0] <= set(range(metaworld.BANDS)) - bands[1]
    assert not bands[2] & set(range(metaworld.BANDS))
    for contexts in (train, interpolated, extrapolated):
        others = [axis for axis in range(len(of.low)) if axis != of.axis]
        assert (contexts[:, others] >= np.array(of.low)[others]).all()
        assert (contexts[:, others] <= np.array(of.high)[others]).all()


def test_every_metaworld_task_takes_its_contexts_and_shows_them():
    """Also outside of the ranges, where Meta-World as it comes clips the goal it shows."""
    env = make(MT10)
    suites = [registry.suite(name) for name in ("metaworld-push", "metaworld-box-close", "metaworld-peg-insert-side")]
    for suite in [*suites, registry.suite("metaworld-sweep-into")]:
        env = suite.make()
        for split in SPLITS:
            for context in suite.contexts(split, 3, seed=1):
                env.reset(options={"context": context})
        env.close()
    push, far = registry.suite("metaworld-push"), np.array([0.05, 0.65, 0.02, 0.3, 0.85, 0.02])
    env = push.make()
    shown = [env.reset(options={"context": far})[0], env.step(np.zeros(4, np.float32))[0]]
    for obs in shown:
        np.testing.assert_allclose(obs["observation"][[4, 5, 36, 37]], far[[0, 1, 3, 4]], atol=5e-3)


def test_metaworld_refuses_an_object_too_near_its_goal_instead_of_drawing_for_ever():
    env = make(registry.suite("metaworld-push"))
    with pytest.raises(ValueError, match=r"nearer than task 'push' allows; expected at least 0\.15 m"):
        env.reset(options={"context": [0.0, 0.7, 0.02, 0.0, 0.75, 0.02]})
    env.reset(options={"context": [0.0, 0.6, 0.02, 0.0, 0.85, 0.02]})


def test_metaworld_ends_at_success_and_each_step_costs_between_a_half_and_one():
    suite = registry.suite("metaworld-drawer-open")
    rewards, success, steps = episode(make(suite), suite, suite.contexts("train", 1, seed=0)[0])
    assert success
    assert steps < suite.max_steps / 2
    assert all(-1 <= reward <= -0.5 for reward in rewards)
    assert rewards[-1] > rewards[0]


def test_a_set_takes_turns_names_its_tasks_and_plays_each_as_its_own_suite_does():
    contexts = MT10.contexts("train", 25, seed=3)
    first = contexts[0, 0]
    assert contexts[:, 0].tolist() == [(i + first) % 10 for i in range(25)]
    assert len({MT10.contexts("train", 1, seed=seed)[0, 0] for seed in range(40)}) > 5
    env = make(MT10)
    for index in (0, 4, 14):
        task, positions = MT10.place(contexts[index])
        alone = registry.suite(MT10.task(contexts[index]))
        assert alone.name == f"metaworld-{task}"
        np.testing.assert_array_equal(positions, alone.contexts("train", 2, seed=3)[index // 10])
        single = alone.make()
        mine, _ = env.reset(seed=0, options={"context": contexts[index]})
        same, _ = single.reset(seed=0, options={"context": positions})
        assert mine["task"].tolist() == np.eye(10)[int(contexts[index, 0])].tolist()
        for _ in range(3):
            np.testing.assert_array_equal(mine["observation"], same["observation"])
            mine, same = env.step(np.ones(4, np.float32))[0], single.step(np.ones(4, np.float32))[0]
        single.close()


def test_what_a_simulator_was_used_for_leaves_nothing_behind():
    """Simulators are handed from one environment to the next: a used one must equal a new one, bit for bit."""
    make(MT10).close()
    for name in ("peg-insert-side", "door-open", "stick-pull", "window-close", "basketball"):
        suite = registry.suite(f"metaworld-{name}")
        here, there = suite.contexts("train", 1, seed=0)[0], suite.contexts("extrapolated", 1, seed=0)[0]
        seen = []
        for used in (False, True):
            simulators._idle.clear()
            env = suite.make()
            if used:
                env.reset(options={"context": there})
                for _ in range(30):
                    env.step(np.array([1, 1, -1, 1], np.float32))
                env.close()
                assert len(simulators._idle) == 1
                env = suite.make()
            obs = [env.reset(options={"context": here})[0]["observation"]]
            assert len(simulators._idle) == 0, "the idle simulator was taken"
            obs += [env.step(np.array([0.3, 0.5, -1, 1], np.float32))[0]["observation"] for _ in range(40)]
            seen.append(np.array(obs))
        np.testing.assert_array_equal(*seen)


def test_idle_simulators_are_limited_in_number(monkeypatch):
    monkeypatch.setattr(simulators, "IDLE", 2)
    simulators._idle.clear()
    env = make(MT10)
    for context in MT10.contexts("train", 4, seed=0):
        assert len(simulators._idle) <= 2
        env.reset(options={"context": context})
    env.close()
    assert len(simulators._idle) == 2


def test_an_ml_set_trains_on_some_tasks_and_extrapolates_to_others_it_does_not_number():
    assert "task" not in ML10.roles
    assert "task" in MT10.roles
    for split in ("train", "interpolated"):
        assert set(ML10.contexts(split, 40, seed=0)[:, 0]) == set(range(10))
    held = ML10.contexts("extrapolated", 40, seed=0)
    assert set(held[:, 0]) == set(range(10, 15))
    alone = registry.suite(ML10.task(held[0]))
    np.testing.assert_array_equal(ML10.place(held[5])[1], alone.contexts("train", 2, seed=0)[1])


def test_the_references_of_a_set_are_the_means_of_those_its_contexts_go_by():
    for suite in SETS:
        for split in SPLITS:
            tasks = [suite.task(context) for context in suite.contexts(split, 50, seed=0)]
            part = "train" if suite.kept_back and split == "extrapolated" else split
            own = [registry.suite(task).references[part].expert for task in set(tasks)]
            assert suite.references[split].expert == pytest.approx(np.mean(own))


@pytest.mark.parametrize(
    ("context", "words"),
    [
        ([10, *[0.0] * 6], "task number 10 is none of suite 'metaworld-mt10'; expected 0 to 9"),
        ([0.5, *[0.0] * 6], "task number 0.5 is none of"),
        ([3, 0.05, 0.9, 0.15, 0, 0, 0.1], "task 'door-open' has 3 numbers; expected zeros after them"),
        ([0.0] * 4, "expected 7 finite numbers: task, object x"),
    ],
)
def test_a_set_refuses_contexts_that_fit_no_task(context, words):
    with pytest.raises(ValueError, match=words):
        MT10.place(context)


def test_metaworld_references_equal_a_recomputation_for_one_task_and_all_when_asked():
    names = [suite.name for suite in SINGLE] if os.environ.get("PACKMULE_REFERENCES") else ["metaworld-handle-press"]
    for name in names:
        suite = registry.suite(name)
        make(suite).close()
        for split, measured in zip(SPLITS, MEASURED[suite.members[0]], strict=True):
            for policy, mean, success in (("random", *measured[::2]), ("expert", *measured[1::2])):
                again = _measure.measure(suite, split, policy)
                assert again.mean_return == pytest.approx(mean, abs=6e-3)
                assert again.success == success


def test_metaworld_experts_are_as_good_as_measured_elsewhere():
    success = np.array([[split[3] for split in measured] for measured in MEASURED.values()])
    assert success[:, 0].mean() > 0.95
    assert success.min() >= 0.6
    assert (np.array([[split[2] for split in measured] for measured in MEASURED.values()]) < 0.9).all()


def test_collecting_a_set_records_the_task_of_every_episode(tmp_path):
    make(MT10).close()
    store = collect("metaworld-mt10", out=tmp_path / "s.zarr", episodes=4, contexts=4, coverage=0.0, seed=0)
    contexts = MT10.contexts("train", 4, seed=0)
    assert [store.episode(i).columns["task"] for i in range(4)] == [MT10.task(context) for context in contexts]
    assert store.schema.obs_dim == 49
    assert all(store.episode(i).columns["success"] for i in range(4))
    assert validate(store.path) == []


# OGBench


@pytest.mark.parametrize("suite", MAZES)
def test_ogbench_mazes_have_its_maps_and_follow_its_oracle(suite):
    env = make(suite)
    walls = env.simulator.maze_map
    assert ["".join("#" if wall else "." for wall in row) for row in walls] == list(suite.maze)
    for goal in ogbench_maze.free(suite.maze)[::3]:
        for cell in ogbench_maze.free(suite.maze):
            if cell == goal:
                continue
            here, there = ogbench_maze.centre(cell), ogbench_maze.centre(goal)
            subgoal, _ = env.simulator.get_oracle_subgoal(here, there)
            context = np.array([*cell, *goal], np.float64)
            act = suite.expert(context, rng=np.random.default_rng(0))
            move = act({"observation": here.astype(np.float32), "desired_goal": there.astype(np.float32)})
            np.testing.assert_array_equal(np.sign(move), np.sign(subgoal - here))


@pytest.mark.parametrize("suite", MAZES)
def test_ogbench_routes_are_disjoint_in_the_goal_or_longer_than_in_training(suite):
    train, interpolated, extrapolated = (suite.contexts(split, 3000, seed=0).astype(int) for split in SPLITS)
    goals = [
        {(row, column) for row, column in contexts[:, 2:].tolist()} for contexts in (train, interpolated, extrapolated)
    ]
    assert goals[1] == set(suite.held_back)
    assert not goals[1] & (goals[0] | goals[2])
    lengths = [
        [ogbench_maze.steps_to(suite.maze, (c[2], c[3]))[c[0], c[1]] for c in contexts.tolist()]
        for contexts in (train, interpolated, extrapolated)
    ]
    assert min(lengths[0] + lengths[1]) == ogbench_maze.SHORTEST
    assert max(lengths[0] + lengths[1]) == suite.longest < min(lengths[2])


def test_ogbench_mazes_leave_no_file_and_no_open_handle_behind():
    suite = ogbench_maze.SUITES[0]
    make(suite).close()
    before = set(os.listdir(tempfile.gettempdir())), len(os.listdir("/proc/self/fd"))
    env = suite.make()
    assert {name for name in set(os.listdir(tempfile.gettempdir())) - before[0] if name.endswith(".xml")} == set()
    assert len(os.listdir("/proc/self/fd")) <= before[1]
    env.close()


def test_a_maze_starts_in_its_cells_and_ends_within_a_metre_of_the_goal():
    suite = registry.suite("ogbench-pointmaze-medium")
    env, context = make(suite), np.array([6.0, 1.0, 1.0, 6.0])
    starts = []
    for seed in range(4):
        obs, _ = env.reset(seed=seed, options={"context": context})
        assert ogbench_maze.cell_at(obs["observation"]) == (6, 1)
        assert ogbench_maze.cell_at(obs["desired_goal"]) == (1, 6)
        starts.append(obs["observation"])
    assert len(np.unique(starts, axis=0)) == 4
    rewards, success, steps = episode(env, suite, context)
    assert success
    assert rewards == [-1.0] * (steps - 1) + [0.0]
    obs = env._seen()
    assert np.linalg.norm(obs["observation"] - obs["desired_goal"]) <= 1.0
    with pytest.raises(ValueError, match=r"goal cell \(0, 0\) of suite 'ogbench-pointmaze-medium' is not free"):
        env.reset(options={"context": [1, 1, 0, 0]})


@pytest.mark.parametrize("suite", ARMS)
def test_the_arm_solves_a_context_of_every_split_and_shows_the_goal_it_reached(suite):
    """What the goal asks for stands in the observation at `achieved`: hindsight goals mean what goals mean."""
    env = make(suite)
    for split in SPLITS:
        context = suite.contexts(split, 1, seed=2)[0]
        rewards, success, steps = episode(env, suite, context, seed=4)
        assert success
        assert steps < suite.max_steps / 2
        assert rewards[-1] == 0
        assert all(-1 <= reward < 0 for reward in rewards[:-1])
        obs = env._seen(env.simulator.compute_observation())
        gap = np.abs(obs["observation"][list(suite.achieved)] - obs["desired_goal"])
        assert (gap <= np.where(obs["desired_goal"] % 1 == 0, 0.75, 0.41)).all(), gap


@pytest.mark.parametrize("suite", ARMS)
def test_a_reset_of_the_arm_depends_on_nothing_but_its_seed_and_context(suite):
    env = make(suite)
    context = suite.contexts("train", 1, seed=0)[0]
    seen = []
    for noise in (0, 1):
        np.random.seed(noise)  # noqa: NPY002  # OGBench's own resets draw from it
        obs, _ = env.reset(seed=3, options={"context": context})
        seen.append([obs["observation"], *(env.step(np.full(5, 0.3))[0]["observation"] for _ in range(5))])
    np.testing.assert_array_equal(*map(np.array, seen))
    other, _ = env.reset(seed=4, options={"context": context})
    assert not np.array_equal(other["observation"], seen[0][0])
    np.testing.assert_array_equal(other["desired_goal"], obs["desired_goal"])


def test_copies_of_an_arm_do_not_share_a_simulation():
    suite = registry.suite("ogbench-cube-single")
    first, second = make(suite), suite.make()
    context = suite.contexts("train", 1, seed=0)[0]
    alone, _ = first.reset(seed=0, options={"context": context})
    second.reset(seed=1, options={"context": suite.contexts("extrapolated", 1, seed=0)[0]})
    second.step(np.ones(5, np.float32))
    np.testing.assert_array_equal(
        first._seen(first.simulator.compute_observation())["observation"], alone["observation"]
    )


def test_cube_splits_are_disjoint_in_the_goals_and_cubes_never_stand_in_the_way():
    for suite in ogbench_arm.SUITES[:2]:
        ends = [suite.contexts(split, 400, seed=0).reshape(400, 2, -1, 2) for split in SPLITS]
        bands = [set(suite.band_of(places[:, 1, :, 1]).ravel().tolist()) for places in ends]
        assert bands[1] == set(ogbench_arm.HELD_BACK)
        assert bands[0] == set(range(8)) - bands[1]
        assert not bands[2] & set(range(8))
        for places in ends:
            flat = places.reshape(400, -1, 2)
            gaps = np.linalg.norm(flat[:, :, None] - flat[:, None], axis=-1)[:, *np.triu_indices(flat.shape[1], 1)]
            assert gaps.min() >= suite.APART


def test_scene_splits_are_disjoint_in_the_goal_or_change_more_than_training_does():
    suite = registry.suite("ogbench-scene")
    sets, changes = [], []
    for split in SPLITS:
        halves = suite.contexts(split, 400, seed=0).reshape(400, 2, 6)
        sets.append({suite.number(goal) for goal in halves[:, 1, 2:]})
        moved = (halves[:, 0, :2] != halves[:, 1, :2]).any(axis=1)
        changes.append(set(((halves[:, 0, 2:] != halves[:, 1, 2:]).sum(axis=1) + moved).tolist()))
    assert sets[1] == set(suite.KEPT)
    assert not sets[1] & (sets[0] | sets[2])
    assert changes == [{1, 2, 3}, {1, 2, 3}, {4, 5}]


def test_puzzle_splits_are_disjoint_in_what_must_be_pressed_or_take_longer():
    suite = registry.suite("ogbench-puzzle-3x3")
    for split in SPLITS:
        for start, goal in suite.contexts(split, 200, seed=0).reshape(200, 2, 9).astype(int):
            pressed = oracle.presses(suite.SWITCHES, start != goal)
            assert (pressed.sum() > 4) == (split == "extrapolated")
            assert (suite.number(pressed) % 8 in ogbench_arm.HELD_BACK) == (split == "interpolated")
            np.testing.assert_array_equal((start + suite.SWITCHES @ pressed.astype(int)) % 2, goal)


def test_the_parts_of_a_scene_are_where_the_experts_believe_them():
    suite = registry.suite("ogbench-scene")
    env = make(suite)
    env.reset(seed=0, options={"context": [0.35, 0.0, 0, 1, 1, 0, 0.35, 0.0, 1, 1, 0, 1]})
    simulator = env.simulator
    info = simulator.compute_ob_info()
    drawer, window = suite._handles(float(info["privileged/drawer_pos"][0]), float(info["privileged/window_pos"][0]))
    np.testing.assert_allclose(info["privileged/drawer_handle_pos"], drawer, atol=1e-3)
    np.testing.assert_allclose(info["privileged/window_handle_pos"], window, atol=1e-3)
    tops = simulator._data.site_xpos[simulator._button_site_ids]
    np.testing.assert_allclose(tops, suite.TOPS, atol=5e-3)
    puzzle = registry.suite("ogbench-puzzle-3x3").make()
    puzzle.reset(seed=0)
    tops = puzzle.simulator._data.site_xpos[puzzle.simulator._button_site_ids]
    np.testing.assert_allclose(tops, puzzle.suite.TOPS, atol=5e-3)


@pytest.mark.parametrize(
    ("name", "context", "words"),
    [
        ("cube-single", [0.7, 0.0, 0.4, 0.0], r"start places \[\[0.7, 0.0\]\] do not fit suite 'ogbench-cube-single'"),
        ("cube-double", [0.4, 0, 0.4, 0.01, 0.3, 0, 0.5, 0], "cubes at least 0.04 m apart"),
        ("scene", [0.35, 0, 0, 0, 0.5, 0, 0.35, 0, 0, 0, 0, 0], "0 or 1 for buttons, drawer and window"),
        ("puzzle-3x3", [2.0, *[0.0] * 17], "expected zeros and ones"),
    ],
)
def test_the_arm_refuses_contexts_that_cannot_be(name, context, words):
    with pytest.raises(ValueError, match=words):
        registry.suite(f"ogbench-{name}").scene(context)


def test_lights_out_is_solved_by_linear_algebra_modulo_two():
    rng = np.random.default_rng(0)
    switches = oracle.lights_out(3, 3)
    assert switches.sum() == 9 + 2 * 12
    for _ in range(50):
        pressed = rng.random(9) < 0.5
        wrong = switches @ pressed.astype(int) % 2 == 1
        np.testing.assert_array_equal(oracle.presses(switches, wrong), pressed)


# Both


def test_a_family_is_named_once_in_an_error_and_its_members_are_suggested():
    with pytest.raises(
        ValueError, match=r"did you mean 'metaworld-push'\?\); known: .*metaworld-\.\.\. \(55 of them\)"
    ) as e:
        registry.suite("metaworld-puhs")
    assert len(str(e.value)) < 400
    assert len(registry.families()["ogbench"]) == 6


def test_two_suites_of_one_name_are_an_error(monkeypatch):
    registry.suites.cache_clear()
    monkeypatch.setattr(ogbench_maze, "SUITES", (*ogbench_maze.SUITES, registry.suite("pendulum")))
    registry.suites.cache_clear()
    try:
        with pytest.raises(ValueError, match="two suites are called 'pendulum'"):
            registry.suites()
    finally:
        monkeypatch.undo()
        registry.suites.cache_clear()


def test_packmule_suites_lists_one_family_or_one_suite():
    def run(*words: str):
        return subprocess.run([sys.executable, "-m", "toolkit.cli", "suites", *words], capture_output=True, text=True)

    listed = run("ogbench")
    assert (listed.returncode, len(listed.stdout.splitlines())) == (0, 7)
    assert "metaworld-push " in run("metaworld-push").stdout
    wrong = run("metaworld-puhs")
    assert (wrong.returncode, "did you mean 'metaworld-push'?" in wrong.stderr) == (2, True)


@pytest.mark.parametrize("name", ALL if os.environ.get("PACKMULE_REFERENCES") else FEW)
def test_expert_and_random_episodes_are_collected_validated_and_read_again(name, tmp_path):
    """Of every suite when PACKMULE_REFERENCES=1 asks, which takes a quarter of an hour."""
    make(registry.suite(name)).close()
    episodes = 5 if os.environ.get("PACKMULE_REFERENCES") else 2
    for coverage in (0.0, 1.0):
        dials = {"contexts": episodes, "coverage": coverage, "seed": 0}
        store = collect(name, out=tmp_path / f"{coverage}.zarr", episodes=episodes, **dials)
        assert validate(store.path) == []
        again = list(stream(name, episodes=episodes, **dials))
        for index, made in enumerate(again):
            stored = store.episode(index)
            np.testing.assert_array_equal(stored.action, made.action)
            np.testing.assert_array_equal(stored.reward, made.reward)
            np.testing.assert_array_equal(stored.obs["observation"], made.obs["observation"])
            assert {"task", "success", "context"} <= {
                key for key in made.columns if stored.columns[key] == made.columns[key]
            }
        solved = np.mean([made.columns["success"] for made in again])
        assert solved >= 0.6 if coverage == 0.0 else solved <= 0.4
