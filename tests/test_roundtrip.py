"""Random schemas and episodes: what is appended comes back equal, or is refused by the name of the field at fault.

Everything is drawn from the seed in the test's name, so a failure repeats.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from toolkit.core import Episode, leaves
from toolkit.store import InfoKey, ReplayStore, Schema
from toolkit.store.keys import INFO_TYPES
from toolkit.store.validate import validate

SEEDS = 12
FLOATS = (np.float32, np.float64)
WHOLE = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")


def random_leaf(rng: np.random.Generator) -> spaces.Space:
    shape = tuple(int(n) for n in rng.integers(1, 4, rng.integers(0, 4)))
    kind = rng.integers(6)
    if kind == 0:
        return spaces.Box(-np.inf, np.inf, shape, rng.choice(FLOATS))
    if kind == 1:
        dtype = rng.choice(WHOLE[:5] if len(shape) != 3 else WHOLE[:4])
        return spaces.Box(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, np.dtype(dtype).type)
    if kind == 2:
        return spaces.Box(0, 255, (int(rng.integers(5, 9)), int(rng.integers(5, 9)), int(rng.integers(1, 4))), np.uint8)
    if kind == 3:
        return spaces.Discrete(int(rng.integers(1, 9)), start=int(rng.integers(-5, 5)))
    if kind == 4:
        return spaces.MultiDiscrete(rng.integers(1, 5, shape or (2,)))
    return spaces.MultiBinary(shape or 3)


def random_space(rng: np.random.Generator, depth: int = 0) -> spaces.Space:
    kind = rng.integers(4 if depth < 3 else 2)
    if depth and kind < 2:
        return random_leaf(rng)
    parts = [random_space(rng, depth + 1) for _ in range(rng.integers(1, 4))]
    if kind == 2:
        return spaces.Tuple(parts)
    return spaces.Dict({str(name): part for name, part in zip("abcd", parts, strict=False)})


def random_action(rng: np.random.Generator) -> spaces.Space:
    shape = tuple(int(n) for n in rng.integers(1, 3, rng.integers(1, 4)))
    return [
        spaces.Box(-2, 3, shape),
        spaces.Discrete(int(rng.integers(1, 5)), start=int(rng.integers(-2, 3))),
        spaces.MultiDiscrete(rng.integers(1, 4, 2)),
        spaces.MultiBinary(int(rng.integers(1, 4))),
    ][rng.integers(4)]


def random_values(rng: np.random.Generator, space: spaces.Space, count: int) -> Any:
    """`count` entries of a space, nested like it; floats over the whole range a store holds."""
    if isinstance(space, spaces.Dict):
        return {name: random_values(rng, part, count) for name, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(random_values(rng, part, count) for part in space.spaces)
    if isinstance(space, spaces.Box) and space.dtype.kind == "f" and not np.isfinite(space.low).any():
        sizes = 10.0 ** rng.uniform(-30, 38, (count, *space.shape))
        return (sizes * rng.choice([-1, 0, 1], sizes.shape)).astype(np.float32).astype(space.dtype)
    space.seed(int(rng.integers(1 << 30)))
    return np.stack([np.asarray(space.sample()) for _ in range(count)])


def random_info(rng: np.random.Generator) -> dict[str, InfoKey]:
    def key() -> InfoKey:
        return InfoKey(tuple(int(n) for n in rng.integers(0, 3, rng.integers(0, 3))), str(rng.choice(INFO_TYPES)))

    return {name: key() for name in "xyz"[: rng.integers(0, 4)]}


def random_schema(rng: np.random.Generator) -> tuple[Schema, spaces.Space, spaces.Space]:
    observation, action = random_space(rng), random_action(rng)
    names = ("g [m/s^2]", "l [m]")[: rng.integers(0, 3)]
    made = Schema.from_spaces(observation=observation, action=action, info=random_info(rng), context_names=names)
    return made, observation, action


def random_episode(rng: np.random.Generator, schema: Schema, observation: Any, action: Any) -> Episode:
    steps = int(rng.choice([1, 2, 3, 17]))
    info = {}
    for name, key in schema.info.items():
        values = rng.integers(0, 2, (steps, *key.shape)).astype(key.dtype)
        if key.dtype in ("float32", "float64") and values.size:
            values.flat[0] = np.nan
        info[name] = values
    columns = {
        "behaviour": str(rng.choice(["expert", "random", "ünïcode / ../x", ""])),
        "context": rng.normal(size=len(schema.context_names)).tolist(),
        "task": "t",
        "seed": int(rng.integers(-1, 1 << 62)),
        "success": [None, True, False][rng.integers(3)],
    }
    return Episode(
        random_values(rng, observation, steps + 1),
        random_values(rng, action, steps),
        rng.normal(size=steps).astype(np.float32),
        terminated=bool(rng.integers(2)),
        info=info,
        columns=columns,
    )


def assert_equal(found: Episode, made: Episode) -> None:
    assert set(found.observations()) == set(made.observations())
    pairs = [(found.observations()[name], values) for name, values in made.observations().items()]
    pairs += [(found.action, made.action), (found.reward, made.reward)]
    pairs += [(found.info[name], values) for name, values in made.info.items()]
    for one, other in pairs:
        assert one.shape == other.shape
        assert np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    assert found.terminated == made.terminated
    assert found.columns == made.columns


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_is_appended_comes_back_equal(tmp_path, seed):
    rng = np.random.default_rng(seed)
    schema, observation, action = random_schema(rng)
    assert Schema.from_json(json.loads(json.dumps(schema.to_json(), allow_nan=False))) == schema
    made = [random_episode(rng, schema, observation, action) for _ in range(4)]
    profile = ("fast", "compact")[seed % 2]
    with ReplayStore.create(tmp_path / "s.zarr", schema, profile=profile).writer() as writer:
        for episode in made:
            writer.append(episode)
    store = ReplayStore.open(tmp_path / "s.zarr")
    assert store.schema == schema
    for index, episode in enumerate(made):
        assert_equal(store.episode(index), episode)
    assert [finding for finding in validate(store) if finding.severity != "note"] == []
    batch = store.sampler(batch_size=32, seed=0, window=2).next()
    assert torch.isfinite(batch.obs).all()
    assert batch.obs.shape[-1] == schema.obs_dim
    if schema.discrete:
        assert torch.equal(batch.action.sum(-1), batch.valid.float())
    assert set(batch.images or {}) == set(schema.images)


def damaged(rng: np.random.Generator, values: Any, count: int) -> Any:
    """Values in some way unlike what an array of `count` entries of one shape and number type may be."""
    array = np.asarray(values)
    ways: list[Any] = [
        array[:-1],
        np.concatenate([array, array[:1]]),
        array[:0],
        array[..., None],
        array.astype(object),
        array.astype("U8"),
        array.astype(np.complex64),
        None,
        7,
        "text",
        {1, 2},
        [[1.0], [2.0, 3.0], *[[1.0]] * (count - 2)] if count > 1 else [[[1.0], [2.0, 3.0]]],
        [object()] * count,
        np.full(array.shape, np.datetime64("2020-01-01")),
    ]
    if array.dtype.kind == "f":
        for bad in (np.nan, np.inf, -np.inf, 1e300):
            worse = array.astype(np.float64).copy()
            worse.flat[rng.integers(worse.size)] = bad
            ways.append(worse)
        ways.append((array > 0).astype(np.int64))
    if array.dtype.kind in "iu":
        ways.append(array.astype(np.float32))
        worse = array.astype(np.int64)
        worse.flat[rng.integers(worse.size)] = 1 << 62
        ways.append(worse if array.dtype != np.int64 else array.astype(np.uint64) + np.uint64(1 << 63))
    return ways[rng.integers(len(ways))]


def nameable(rng: np.random.Generator, episode: Episode) -> tuple[str, dict[str, Any]]:
    """A field to damage: the word that a refusal must hold, and the changed arguments of the episode."""
    obs, steps = leaves(episode.obs), len(episode)
    field = rng.integers(5)
    if field == 0 or (field == 4 and not episode.info):
        name = str(rng.choice(sorted(obs)))
        return repr(name), {"obs": obs | {name: damaged(rng, obs[name], steps + 1)}}
    if field == 1:
        return "action", {"action": damaged(rng, episode.action, steps)}
    if field == 2:
        return "reward", {"reward": damaged(rng, episode.reward, steps)}
    if field == 3:
        name = str(rng.choice(sorted(obs)))
        change = obs | {"more": obs[name]} if rng.integers(2) else {k: v for k, v in obs.items() if k != name}
        return "observation", {"obs": change}
    name = str(rng.choice(sorted(episode.info)))
    less = {k: v for k, v in episode.info.items() if k != name}
    return repr(name), {"info": less | {"more": episode.reward}}


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_does_not_fit_is_refused_by_name_and_changes_nothing(tmp_path, seed):
    rng = np.random.default_rng(1000 + seed)
    schema, observation, action = random_schema(rng)
    store = ReplayStore.create(tmp_path / "s.zarr", schema)
    good = [random_episode(rng, schema, observation, action) for _ in range(2)]
    refused = 0
    with store.writer() as writer:
        writer.append(good[0])
        for _ in range(60):
            word, change = nameable(rng, good[1])
            try:
                candidate = replace(good[1], **change)
                schema.check(candidate)
            except ValueError as error:
                refused += 1
                assert word in str(error), (word, change, str(error))
                assert len(str(error)) < 2000
            else:
                (name,) = change  # only numbers that the store holds as they are may pass
                assert name != "obs" or set(candidate.observations()) == set(leaves(good[1].obs))
                writer.append(candidate)
                good.append(candidate)
        writer.append(good[1])
    assert refused >= 40
    found = ReplayStore.open(store.path)
    kept = [good[0], *good[2:], good[1]]
    assert len(found) == len(kept)
    for index, episode in enumerate(kept):
        assert_equal(found.episode(index), episode)
    assert [finding for finding in validate(found) if finding.severity != "note"] == []
