"""Laws of the schema: every space becomes keys that say what is stored; what cannot be stored is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import zarr
from gymnasium import spaces

from toolkit.core import Episode, leaves
from toolkit.store import InfoKey, ReplayStore, Schema, StoreError, layout
from toolkit.store.files import digest
from toolkit.store.keys import DEEPEST, INFO_TYPES
from toolkit.store.maintain import gc
from toolkit.store.spaces import key_space
from toolkit.store.validate import validate

ROBOT = spaces.Dict(
    {
        "sensors": spaces.Dict({"arm": spaces.Box(-1, 1, (2, 3)), "touch": spaces.MultiBinary(2)}),
        "cameras": spaces.Tuple([spaces.Box(0, 255, (4, 5, 3), np.uint8), spaces.Box(0, 255, (2, 2, 1), np.uint8)]),
        "gear": spaces.Discrete(3, start=-1),
        "dials": spaces.MultiDiscrete([2, 4]),
        "clock ticks": spaces.Box(0, 1000, (1,), np.int32),
        "desired_goal": spaces.Box(-1, 1, (2,)),
        "achieved_goal": spaces.Box(-1, 1, (2,)),
    }
)
JOINT = spaces.MultiDiscrete([2, 3], start=[0, 5])


def robot(**more) -> Schema:
    given = {"roles": {"desired_goal": "goal"}, "info": {"cost": (), "state": InfoKey((2,), "float64")}}
    return Schema.from_spaces(observation=ROBOT, action=spaces.Box(-1, 1, (2, 2)), **(given | more))


def bare(observation: spaces.Space, action: spaces.Space | None = None, **more) -> Schema:
    return Schema.from_spaces(observation=observation, action=action or spaces.Box(-1, 1, (1,)), **more)


def test_nested_spaces_become_keys_joined_by_slashes():
    found = {key.name: (key.role, key.dtype, key.shape, key.size) for key in robot().observations}
    assert found == {
        "achieved_goal": ("observation", "float32", (2,), 2),
        "cameras/0": ("image", "uint8", (4, 5, 3), 0),
        "cameras/1": ("image", "uint8", (2, 2, 1), 0),
        "dials": ("observation", "int64", (2,), 6),
        "gear": ("observation", "int64", (), 3),
        "sensors/arm": ("observation", "float32", (2, 3), 6),
        "sensors/touch": ("observation", "int8", (2,), 2),
        "clock ticks": ("observation", "int32", (1,), 1),
        "desired_goal": ("goal", "float32", (2,), 2),
    }
    assert [key.name for key in robot().observations][-1] == "desired_goal"
    assert robot().images == {"cameras/0": (4, 5, 3), "cameras/1": (2, 2, 1)}
    assert robot().goal_dim == 2


def test_a_role_may_be_given_to_a_whole_group():
    group = spaces.Dict({"bottom burner": spaces.Box(-1, 1, (2,)), "kettle": spaces.Box(-1, 1, (7,))})
    space = spaces.Dict({"desired_goal": group, "state": spaces.Box(-1, 1, (3,))})
    schema = bare(space, roles={"desired_goal": "goal", "desired_goal/kettle": "observation"})
    assert {key.name: key.role for key in schema.observations} == {
        "desired_goal/kettle": "observation",
        "state": "observation",
        "desired_goal/bottom burner": "goal",
    }


def test_a_schema_is_plain_json_that_gives_it_back():
    for schema in (robot(), bare(spaces.Discrete(4), JOINT), bare(spaces.MultiBinary([2, 2]), spaces.MultiBinary(3))):
        assert Schema.from_json(json.loads(json.dumps(schema.to_json(), allow_nan=False))) == schema


def test_every_key_gives_back_its_space():
    assert {key.name: key_space(key) for key in robot().observations} == {
        name: ROBOT[name] for name in ("achieved_goal", "dials", "gear", "clock ticks", "desired_goal")
    } | {
        "cameras/0": ROBOT["cameras"][0],
        "cameras/1": ROBOT["cameras"][1],
        "sensors/arm": ROBOT["sensors"]["arm"],
        "sensors/touch": spaces.MultiBinary((2,)),
    }


@pytest.mark.parametrize(
    ("space", "value", "packed"),
    [
        (spaces.Box(-9, 9, (2, 2)), [[1, 2], [3, 4]], [1, 2, 3, 4]),
        (spaces.Box(-9, 9, ()), 7, [7]),
        (spaces.Box(0, 9, (2,), np.uint8), [3, 9], [3, 9]),
        (spaces.Discrete(3), 2, [0, 0, 1]),
        (spaces.Discrete(3, start=-1), -1, [1, 0, 0]),
        (spaces.MultiDiscrete([2, 3]), [1, 0], [0, 1, 1, 0, 0]),
        (spaces.MultiDiscrete([[2], [2]], start=[[5], [0]]), [[5], [1]], [1, 0, 0, 1]),
        (spaces.MultiBinary(3), [1, 0, 1], [1, 0, 1]),
    ],
    ids=str,
)
def test_what_each_space_packs_to(space, value, packed):
    schema = bare(space)
    value = np.asarray(value, space.dtype)
    assert schema.flatten(value).tolist() == packed
    assert schema.flatten({"observation": np.stack([value, value])}).tolist() == [packed, packed]
    assert schema.obs_dim == len(packed) == len(schema.observations[0].low)


def test_an_image_can_be_kept_as_numbers():
    space = spaces.Box(0, 255, (1, 2, 2), np.uint8)
    assert bare(space, roles={"observation": "observation"}).flatten(np.ones((1, 2, 2), np.uint8)).tolist() == [1.0] * 4
    assert bare(space).flatten(np.ones((1, 2, 2), np.uint8)).shape == (0,)
    assert bare(space).pictures(np.ones((3, 1, 2, 2), np.uint8))["observation"].shape == (3, 1, 2, 2)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(4),
        spaces.Discrete(4, start=-2),
        JOINT,
        spaces.MultiDiscrete([[2, 2], [3, 1]]),
        spaces.MultiBinary(3),
        spaces.MultiBinary([2, 2]),
    ],
    ids=str,
)
def test_every_choice_a_policy_can_make_is_executable_and_packed_as_that_choice(space):
    key = bare(spaces.Box(-1, 1, (1,)), space).action
    seen = set()
    for number in range(key.size):
        action = key.executable(np.int64(number))
        assert space.contains(action) or space.contains(np.int64(action))
        assert np.flatnonzero(key.pack(np.asarray(action))).tolist() == [number]
        seen.add(str(action))
    assert len(seen) == key.size
    with pytest.raises(ValueError, match=f"expected 0 to {key.size - 1}"):
        key.executable(key.size)


def test_a_continuous_action_is_executed_in_its_shape():
    key = robot().action
    assert key.executable(np.arange(4) / 8).tolist() == [[0, 0.125], [0.25, 0.375]]
    with pytest.raises(ValueError, match="diverged"):
        key.executable(np.array([0, np.nan, 0, 0]))


@pytest.mark.parametrize(
    ("observation", "action", "words"),
    [
        (spaces.Text(3), None, "'observation' has space Text"),
        (spaces.Dict({"a": spaces.Dict({"b": spaces.Sequence(spaces.Discrete(2))})}), None, "'a/b' has space Sequence"),
        (spaces.Box(0, 1, (2,), np.bool_), None, "use MultiBinary"),
        (spaces.Box(0, 255, (3, 64, 64), np.uint8), None, r"looks like \(C, H, W\)"),
        (spaces.Box(0, 1, (0,)), None, "holds no numbers"),
        (spaces.Dict({}), None, "no key with the role"),
        (spaces.Dict({"a/b": spaces.Discrete(2)}), None, "without a slash"),
        (spaces.Dict({"..": spaces.Discrete(2)}), None, "not a valid name"),
        (spaces.Dict({" x": spaces.Discrete(2)}), None, "not a valid name"),
        (spaces.Dict({"x" * 101: spaces.Discrete(2)}), None, "not a valid name"),
        (spaces.Dict({"zarr.json": spaces.Discrete(2)}), None, "a file of the store"),
        (spaces.Discrete(10**6), None, "shows them as numbers"),
        (None, spaces.MultiBinary(40), "over 10.*12 choices.*an action is one of fewer"),
        (None, spaces.MultiDiscrete([1000, 1000]), "1000000 choices"),
        (None, spaces.Box(0, 3, (2,), np.int64), "use Discrete, MultiDiscrete"),
        (None, spaces.Dict({"x": spaces.Discrete(2)}), "join them into one"),
        (None, spaces.Text(3), "'action' has space Text"),
    ],
    ids=str,
)
def test_a_space_that_cannot_be_stored_is_refused_by_name(observation, action, words):
    with pytest.raises(ValueError, match=words):
        bare(spaces.Box(-1, 1, (1,)) if observation is None else observation, action)


def test_keys_nested_too_deep_are_refused():
    space: spaces.Space = spaces.Discrete(2)
    for _ in range(DEEPEST):
        space = spaces.Dict({"a": space})
    assert bare(space).observations[0].name == "/".join("a" * DEEPEST)
    with pytest.raises(ValueError, match="nested 9 deep"):
        bare(spaces.Dict({"a": space}))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"roles": {"nowhere": "goal"}}, "roles name .'nowhere'"),
        ({"roles": {"gear": "aim"}}, "role 'aim'; expected one of"),
        ({"roles": {"gear": "image"}}, "'gear' has the role 'image'"),
        ({"roles": {"gear": "action"}}, "'gear' has the role 'action'"),
        ({"resolution": {"nowhere": 1.0}}, "resolution name .'nowhere'"),
        ({"resolution": {"sensors/arm": 0.0}}, "'sensors/arm' is 0.0; expected finite widths above 0"),
        ({"resolution": {"sensors/arm": [1, 1, 1, 1, 1, -1]}}, "expected finite widths above 0"),
        ({"resolution": {"sensors/arm": [1, 1]}}, r"has shape \(2,\); expected one number or 6"),
        ({"resolution": {"sensors/arm": "fine"}}, "is 'fine'; expected one number"),
        ({"resolution": {"action": np.nan}}, "'action' is nan"),
        ({"resolution": {"gear": 1.0}}, "choices are exact"),
        ({"resolution": {"cameras/0": 1.0}}, "pixels are integers"),
        ({"info": {"x": InfoKey((), "float32"), "../y": ()}}, "not a valid name"),
        ({"requirements": ["gymnasium; rm -rf x"]}, "not of the form name==version"),
    ],
    ids=lambda x: str(x)[:50],
)
def test_settings_that_do_not_fit_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        robot(**({"roles": {"desired_goal": "goal"}} | given))


def test_resolution_is_kept_for_every_dimension():
    grid = np.arange(1, 7).reshape(2, 3) / 10
    schema = robot(resolution={"sensors/arm": grid, "action": 0.5, "achieved_goal": [1, 2]})
    widths = {key.name: key.resolution for key in (*schema.observations, schema.action)}
    assert widths["sensors/arm"] == tuple(grid.ravel())
    assert widths["action"] == (0.5,) * 4
    assert widths["achieved_goal"] == (1.0, 2.0)
    assert widths["desired_goal"] == (2 / 256,) * 2  # 256 bins across a bounded range
    assert widths["clock ticks"] == (1.0,)
    assert bare(spaces.Box(-np.inf, np.inf, (1,))).observations[0].resolution == (0.01,)
    assert bare(spaces.Box(3, 3, (1,))).observations[0].resolution == (0.01,)
    largest = np.finfo(np.float32).max
    assert bare(spaces.Box(-largest, largest, (1,))).observations[0].low == (None,)


@pytest.mark.parametrize("dtype", INFO_TYPES)
def test_info_comes_back_in_its_own_type(tmp_path, dtype):
    schema = bare(spaces.Box(-1, 1, (1,)), info={"x": InfoKey((2,), dtype), "y": ()})
    values = np.array([[0, 1], [1, 0], [1, 1]]).astype(dtype)
    if np.dtype(dtype).kind in "iu":
        values[0, 0] = np.iinfo(dtype).max
    episode = Episode(np.zeros((4, 1), np.float32), np.zeros((3, 1), np.float32), np.zeros(3, np.float32), True)
    with ReplayStore.create(tmp_path / "i.zarr", schema).writer() as writer:
        writer.append(replace(episode, info={"x": values, "y": np.array([0, np.nan, 2], np.float32)}))
    found = ReplayStore.open(tmp_path / "i.zarr").episode(0).info
    assert found["x"].dtype == dtype
    assert np.array_equal(found["x"], values)
    assert np.array_equal(found["y"], [0, np.nan, 2], equal_nan=True)
    assert validate(tmp_path / "i.zarr") == []


def robot_episode(schema: Schema, steps: int, seed: int = 0) -> Episode:
    """Nested as the space is, drawn from it."""
    rng = np.random.default_rng(seed)
    obs = {
        "sensors": {
            "arm": rng.uniform(-1, 1, (steps + 1, 2, 3)).astype(np.float32),
            "touch": rng.integers(0, 2, (steps + 1, 2)).astype(np.int8),
        },
        "cameras": tuple(rng.integers(0, 256, (steps + 1, *s), np.uint8) for s in ((4, 5, 3), (2, 2, 1))),
        "gear": rng.integers(-1, 2, steps + 1),
        "dials": rng.integers(0, [2, 4], (steps + 1, 2)),
        "clock ticks": rng.integers(0, 1001, (steps + 1, 1)).astype(np.int32),
        "desired_goal": rng.uniform(-1, 1, (steps + 1, 2)).astype(np.float32),
        "achieved_goal": rng.uniform(-1, 1, (steps + 1, 2)).astype(np.float32),
    }
    info = {"cost": rng.normal(size=steps).astype(np.float32), "state": rng.normal(size=(steps, 2))}
    action = rng.uniform(-1, 1, (steps, 2, 2)).astype(np.float32)
    return Episode(obs, action, rng.normal(size=steps).astype(np.float32), terminated=bool(seed % 2), info=info)


def test_nested_episodes_come_back_equal_and_lie_in_nested_groups(tmp_path):
    schema = robot()
    with ReplayStore.create(tmp_path / "r.zarr", schema).writer() as writer:
        for seed in range(3):
            writer.append(robot_episode(schema, 4 + seed, seed))
    store = ReplayStore.open(tmp_path / "r.zarr")
    for seed in range(3):
        made, found = robot_episode(schema, 4 + seed, seed), store.episode(seed)
        assert set(found.observations()) == set(made.observations())
        for name, values in made.observations().items():
            assert np.array_equal(found.observations()[name], values)
            assert found.observations()[name].dtype == values.dtype
        assert np.array_equal(found.action, made.action)
        assert all(np.array_equal(found.info[name], made.info[name]) for name in made.info)
    (segment,) = zarr.open_group(store.path, mode="r")["segments"].groups()
    assert segment[1]["obs"]["sensors"]["arm"].shape == (5 + 6 + 7, 2, 3)
    assert segment[1]["obs/cameras/0"].dtype == np.uint8
    assert validate(store) == []
    packed = schema.flatten(robot_episode(schema, 4).obs)
    assert np.array_equal(store._rows.packed.rows[:5, : schema.obs_dim], packed)
    assert store.spec.images == schema.images


def test_what_a_stopped_writer_left_of_a_nested_store_is_swept(tmp_path):
    schema = robot()
    store = ReplayStore.create(tmp_path / "r.zarr", schema)
    writer = store.writer()
    writer.append(robot_episode(schema, 4))
    writer.seal()
    del writer  # never committed
    swept = gc(store.path, age=0)
    assert (len(swept.segments), swept.kept) == (1, ())
    assert list((store.path / "segments").glob("*/*")) == []


def test_observations_as_the_environment_gives_them_stack_into_an_episode(tmp_path):
    schema = robot(info=None)
    ROBOT.seed(0)
    seen = [ROBOT.sample() for _ in range(4)]
    obs = schema.stacked(seen)
    episode = Episode(obs, np.zeros((3, 2, 2), np.float32), np.zeros(3, np.float32), True)
    schema.check(episode)
    assert all(np.array_equal(obs[name][2], value) for name, value in leaves(seen[2]).items())
    assert np.array_equal(schema.flatten(obs)[2], schema.flatten(seen[2]))


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("gear", np.full(5, 2), "'gear' spans 2 to 2; expected -1 to 1"),
        ("gear", np.zeros(5, np.float32), "'gear' is float32"),
        ("dials", np.full((5, 2), 3), "'dials' 0 spans 3 to 3; expected 0 to 1"),
        ("sensors/touch", np.full((5, 2), 2), "spans 2 to 2; expected 0 to 1"),
        ("sensors/arm", np.zeros((5, 6), np.float32), r"\(5, 6\); expected floating point \(5, 2, 3\)"),
        ("cameras/0", np.zeros((5, 4, 5, 3), np.float32), "'cameras/0' is float32"),
        ("cameras/0", np.zeros((5, 4, 5, 3), np.int64), "an image is uint8"),
        ("clock ticks", np.full((5, 1), 1 << 40), "which int32 cannot hold"),
        ("clock ticks", [[0], [1], [2, 3], [4], [5]], "'clock ticks' is not an array"),
        ("clock ticks", None, "'clock ticks' is None; expected an array"),
    ],
)
def test_an_observation_that_does_not_fit_is_refused_naming_its_key(name, values, words):
    schema = robot()
    with pytest.raises(ValueError, match=words):
        schema.check(replace(robot_episode(schema, 4), obs=robot_episode(schema, 4).observations() | {name: values}))


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("state", np.zeros((4, 2), np.complex64), "'state' is complex64"),
        ("cost", np.full(4, np.inf), "'cost' has numbers beyond"),
        ("cost", np.full(4, (1 << 24) + 1), "integers that float32 cannot hold exactly"),
    ],
)
def test_info_that_does_not_fit_is_refused_naming_its_key(name, values, words):
    schema = robot()
    with pytest.raises(ValueError, match=words):
        schema.check(replace(robot_episode(schema, 4), info=robot_episode(schema, 4).info | {name: values}))


def test_hostile_schemas_are_refused_before_anything_is_allocated():
    body = bare(spaces.Discrete(3)).to_json()
    key = body["observations"][0]
    for change in (
        {"choices": [10**15]},
        {"choices": [0]},
        {"choices": []},
        {"name": "a/../../b"},
        {"dtype": "object"},
        {"space": "pickle"},
        {"shape": [-1]},
        {"low": [0.0]},
        {"role": "action"},
    ):
        with pytest.raises((ValueError, TypeError)):
            Schema.from_json(body | {"observations": [key | change]})
    with pytest.raises(ValueError, match="beginning of another"):
        Schema.from_json(body | {"observations": [key, key | {"name": "observation/c"}]})
    with pytest.raises(ValueError, match="not all different"):
        Schema.from_json(body | {"observations": [key, key]})


BEFORE = {  # digests of what version 0.1.0 wrote for `older_episode`
    True: ["fbe79306f0e799a8e805c361af943d50", "b54750e38c8271ddf42e66c532a943f0", "ff56a67656267cabc50c53cdf6ca3bb0"],
    False: ["532c3f276ccb16db1a8344a8fd7a2ba5", "29071a5bdc72e062a0a422940e532721", "3de022432c90fdddc20c4ba7b7712274"],
}


def older_schema(discrete: bool) -> dict:
    """The JSON version 0.1.0 wrote: no dtypes or spaces, one-hot shapes for choices, info as shapes."""
    if discrete:
        action = {"shape": [3], "low": [0.0] * 3, "high": [1.0] * 3, "resolution": [1.0] * 3}
    else:
        action = {"shape": [1], "low": [-1.0], "high": [1.0], "resolution": [0.0078125]}
    return {
        "observations": [
            {
                "name": "state",
                "role": "observation",
                "shape": [2],
                "low": [None, None],
                "high": [None, None],
                "resolution": [0.01, 0.01],
            },
            {
                "name": "goal",
                "role": "goal",
                "shape": [2],
                "low": [0.0, 0.0],
                "high": [9.0, 9.0],
                "resolution": [0.03515625, 0.03515625],
            },
        ],
        "action": {"name": "action", "role": "action", **action},
        "discrete": discrete,
        "context_names": ["n"],
        "info": {"force": [2]},
        "environment": {"suite": "pendulum"},
    }


def older_episode(number: int, discrete: bool) -> Episode:
    steps = 5 + number
    t = np.arange(steps + 1, dtype=np.float32)
    obs = {"state": np.stack([t, t * 0 + number], 1), "goal": np.tile(np.float32([number, 1]), (steps + 1, 1))}
    action = np.arange(steps) % 3 if discrete else (t[:steps, None] % 7 / 7).astype(np.float32)
    columns = {"behaviour": f"b{number}", "context": [float(number)], "seed": number, "success": True, "task": "x"}
    info = {"force": np.ones((steps, 2), np.float32) * number}
    return Episode(obs, action, t[:steps] / 10, number % 2 == 0, info, columns)


@pytest.mark.parametrize("discrete", [True, False])
def test_stores_of_version_0_1_0_open_and_hold_the_same_bytes(tmp_path, discrete):
    schema = Schema.from_json(older_schema(discrete))
    store = ReplayStore.create(tmp_path / "old.zarr", schema)
    with store.writer() as writer:
        for number in range(3):
            writer.append(older_episode(number, discrete))
    meta = store.path / "zarr.json"
    body = json.loads(meta.read_text())
    attributes = {"kind": body["attributes"]["kind"], "format": layout.FORMAT, "schema": older_schema(discrete)}
    body["attributes"] = {**attributes, "digest": digest(attributes)}
    meta.write_text(json.dumps(body, indent=2))
    store = ReplayStore.open(store.path)
    assert [uid.tobytes().hex() for uid in store.episodes["uid"]] == BEFORE[discrete]
    for number in range(3):
        made, found = older_episode(number, discrete), store.episode(number)
        assert np.array_equal(found.action, made.action)
        assert np.array_equal(found.obs["state"], made.obs["state"])
    assert validate(store) == []
    assert store.spec.action_dim == (3 if discrete else 1)
    assert store.spec.action_low.tolist() == ([0, 0, 0] if discrete else [-1])


def test_the_spec_of_a_whole_store_is_read_from_its_commit_and_equals_that_of_its_rows(tmp_path, monkeypatch):
    schema = robot()
    store = ReplayStore.create(tmp_path / "s.zarr", schema)
    for part in range(3):  # three segments
        with store.writer() as writer:
            for seed in range(4):
                writer.append(robot_episode(schema, 3 + 5 * seed + part, 4 * part + seed))
    store = ReplayStore.open(store.path)
    slow = store.view(np.ones(len(store), bool)).spec
    monkeypatch.setattr(type(store._rows), "_read", lambda *_: pytest.fail("a row was read"))
    fast = ReplayStore.open(store.path).spec
    assert store.statistics["obs"].count == store.transitions
    for name in ("obs", "delta", "action", "reward"):
        for part in ("mean", "std", "low", "high"):
            one, other = getattr(getattr(fast, name), part), getattr(getattr(slow, name), part)
            assert np.allclose(one, other, rtol=1e-6, atol=1e-6)
    assert fast.to_json().keys() == slow.to_json().keys()
    assert json.loads(json.dumps(fast.to_json())) == type(fast).from_json(fast.to_json()).to_json()
    assert type(fast).from_json(fast.to_json()).images == schema.images


def test_statistics_of_another_shape_are_an_error_naming_the_segment(tmp_path):
    schema = robot()
    store = ReplayStore.create(tmp_path / "s.zarr", schema)
    with store.writer() as writer:
        writer.append(robot_episode(schema, 4))
    path = store.path / layout.commit_key(1)
    body = json.loads(path.read_text())
    body.pop("digest")
    body["segments"][0]["statistics"]["obs"]["mean"] = [0.0]
    path.write_text(json.dumps({**body, "digest": digest(body)}, indent=1) + "\n")
    with pytest.raises(StoreError, match="statistics of segment"):
        _ = ReplayStore.open(store.path).spec
