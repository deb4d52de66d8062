"""Images, choices and goals in batches: every option beside a plain Python loop over the episodes."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
import torch
from conftest import assert_same_batches
from gymnasium import spaces

from toolkit.core import Batch, Episode
from toolkit.sampling import Relabel, stacked_spec
from toolkit.store import ReplayStore, Schema, layout, mix, rows

LENGTHS = [5, 1, 30, 7, 64, 2]
GAMMA = 0.9
SPACE = spaces.Dict(
    {
        "where": spaces.Box(-np.inf, np.inf, (2,)),  # (number, t)
        "mode": spaces.MultiDiscrete([3, 2]),
        "camera": spaces.Box(0, 255, (2, 3, 3), np.uint8),  # every pixel says number and t
        "eye": spaces.Dict({"left": spaces.Box(0, 255, (1, 2, 1), np.uint8)}),
        "desired_goal": spaces.Box(-np.inf, np.inf, (2,)),
    }
)
WHERE = (5, 6)  # of the observation numbers: mode is one-hot in the first five


def schema() -> Schema:
    return Schema.from_spaces(observation=SPACE, action=spaces.Discrete(4, start=1), roles={"desired_goal": "goal"})


def episode(number: int, steps: int) -> Episode:
    t = np.arange(steps + 1)
    camera = (t[:, None, None, None] * 3 + number + np.arange(18).reshape(2, 3, 3)) % 256
    obs = {
        "where": np.stack([t * 0 + number, t], 1).astype(np.float32),
        "mode": np.stack([(t + number) % 3, t % 2], 1),
        "camera": camera.astype(np.uint8),
        "eye": {"left": np.tile((t[:, None, None, None] + 1).astype(np.uint8), (1, 1, 2, 1))},
        "desired_goal": np.tile(np.float32([-number - 1, -1]), (steps + 1, 1)),
    }
    action = 1 + (t[:steps] + number) % 4
    return Episode(obs, action, (number + t[:steps] / 1000).astype(np.float32), terminated=number % 3 == 0)


@pytest.fixture(scope="module", autouse=True)
def small():
    """Several chunks in a segment, several streamed chunks in a buffer, several batches in a block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "MAX_CHUNK_ROWS", 16)
        patch.setattr(rows, "STREAM_ROWS", 32)
        patch.setattr("toolkit.sampling.sampler.BLOCK_FLOATS", 1 << 12)
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory, small) -> ReplayStore:
    made = ReplayStore.create(tmp_path_factory.mktemp("images") / "s.zarr", schema())
    for part in ([0, 1, 2], [3, 4, 5]):
        with made.writer() as writer:
            for number in part:
                writer.append(episode(number, LENGTHS[number]))
    return ReplayStore.open(made.path)


def reached(achieved, goal):
    return (achieved == goal).all(-1)


def sparse(achieved, goal):
    return reached(achieved, goal).float() - 1


class Slow:
    """One window as the options mean it, computed from its episode with plain loops."""

    def __init__(self, number: int, start: int, options: dict, goal: np.ndarray) -> None:
        self.made, self.number, self.start, self.options = episode(number, LENGTHS[number]), number, start, options
        self.steps, self.goal = LENGTHS[number], goal
        self.hindsight = goal[1] >= 0  # stored goals have -1 there
        self.flat = schema().flatten(self.made.obs)
        self.flat[:, -2:] = goal

    def reward(self, t: int) -> float:
        if not self.hindsight:
            return float(self.made.reward[t])
        return 0.0 if (self.flat[t + 1, list(WHERE)] == self.goal).all() else -1.0

    def terminated(self, t: int) -> bool:
        if self.hindsight:
            return bool((self.flat[t + 1, list(WHERE)] == self.goal).all())
        return self.made.terminated and t == self.steps - 1

    def action(self, t: int) -> np.ndarray:
        return np.eye(4, dtype=np.float32)[self.made.action[t] - 1]

    def frames(self, values: np.ndarray, t: int) -> np.ndarray:
        shown = [values[max(0, t - back)] for back in reversed(range(self.options.get("frame_stack", 1)))]
        return np.concatenate(shown, axis=-1)

    def fields(self) -> dict:
        window, n = self.options.get("window", 1), self.options.get("n_step", 1)
        at = [self.start + i for i in range(window + 1)]
        taken = 1
        if n > 1:
            while taken < n and self.start + taken < self.steps and not self.terminated(self.start + taken - 1):
                taken += 1
            at = [self.start, self.start + taken]
        found: dict = {"obs": [], "camera": [], "eye/left": []}
        for t in at:
            inside = t <= self.steps
            found["obs"].append(self.frames(self.flat, min(t, self.steps)) * inside)
            for name in ("camera", "eye/left"):
                found[name].append(self.frames(self.made.observations()[name], min(t, self.steps)) * inside)
        names = ("action", "reward", "terminated", "valid", "next_action", "next_valid", "discount", "return_to_go")
        found |= {name: [] for name in names}
        for i in range(window):
            t = self.start + i
            valid, following = t < self.steps, t + taken
            later = following < self.steps
            found["valid"].append(valid)
            found["action"].append(self.action(t) if valid else np.zeros(4))
            rewards = [GAMMA**k * self.reward(t + k) for k in range(taken)] if valid else [0.0]
            found["reward"].append(sum(rewards))
            found["terminated"].append(valid and self.terminated(t + taken - 1))
            found["next_valid"].append(later)
            found["next_action"].append(self.action(following) if later else np.zeros(4))
            found["discount"].append(GAMMA**taken if valid else 0.0)
            rest = range(t, self.steps)
            found["return_to_go"].append(sum(GAMMA ** (k - t) * float(self.made.reward[k]) for k in rest))
        return {name: np.asarray(values) for name, values in found.items()}


def check(batch: Batch, options: dict, numbers: np.ndarray) -> None:
    """Every row of the batch against the slow reference."""
    frames = options.get("frame_stack", 1)
    for row in range(len(batch.obs)):
        number = int(numbers[int(batch.episode[row])])
        newest = batch.obs[row, 0].view(frames, -1)[-1].numpy()
        assert newest[WHERE[0]] == number
        slow = Slow(number, int(newest[WHERE[1]]), options, newest[-2:]).fields()
        assert batch.images is not None
        fast = {**vars(batch), **batch.images}
        for name in ("obs", "camera", "eye/left", "action", "reward", "terminated", "valid"):
            assert np.allclose(fast[name][row], slow[name], rtol=1e-5), name
        for name in ("next_action", "next_valid", "discount", "return_to_go"):
            assert fast[name] is None or np.allclose(fast[name][row], slow[name], rtol=1e-5), name
    assert {name: values.dtype for name, values in batch.images.items()} == dict.fromkeys(
        ("camera", "eye/left"), torch.uint8
    )


OPTIONS: list[dict] = [{}]
OPTIONS += [{"window": w, "frame_stack": f} for w, f in product([1, 4, 70], [1, 3])]
OPTIONS += [{"n_step": n, "frame_stack": f} for n, f in product([2, 9], [1, 2])]
OPTIONS += [{"window": 5, "next_action": True, "discount": GAMMA, "returns_to_go": True}]
OPTIONS += [{"next_action": True, "n_step": 3}]
OPTIONS += [{"relabel": Relabel(WHERE, sparse, reached, share=0.5), "window": w, "frame_stack": 2} for w in (1, 4)]
OPTIONS += [{"relabel": Relabel(WHERE, sparse, reached, "final"), "n_step": 4, "next_action": True}]


@pytest.mark.parametrize("tier", ["memory", "mapped", "streaming"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "+".join(f"{k}{v}" for k, v in o.items() if k != "relabel"))
def test_every_field_equals_a_plain_loop_over_the_episodes(store, options, tier):
    given = {"discount": GAMMA, **options} if options.keys() & {"n_step"} else options
    batch = store.sampler(batch_size=96, seed=0, tier=tier, buffer=64, **given).next()
    check(batch, options, np.arange(len(LENGTHS)))


@pytest.mark.parametrize("tier", ["memory", "mapped", "streaming"])
def test_views_and_mixtures_serve_the_same_fields(store, tier):
    odd, even = store.view(np.array([5, 1, 3])), store.view(np.array([2, 4]))
    options = {"window": 3, "frame_stack": 2}
    check(odd.sampler(batch_size=64, seed=1, tier=tier, **options).next(), options, np.array([5, 1, 3]))
    mixture = mix([(odd, 1.0), (even, 3.0)])
    batch = mixture.sampler(batch_size=64, seed=1, tier=tier, **options).next()
    check(batch, options, np.array([5, 1, 3, 2, 4]))
    assert mixture.spec.images == {"camera": (2, 3, 3), "eye/left": (1, 2, 1)}


@pytest.mark.parametrize("tier", ["memory", "mapped", "streaming"])
@pytest.mark.parametrize("stop", [0, 3, 20])
def test_a_stream_of_images_continues_bit_for_bit(store, tier, stop):
    options = {"window": 2, "frame_stack": 2, "tier": tier, "buffer": 64}
    first, second = (store.sampler(batch_size=16, seed=s, prefetch=bool(s), **options) for s in (0, 1))
    for _ in range(stop):
        first.next()
    second.next()
    second.state = json.loads(json.dumps(first.state))
    for _ in range(20):
        a, b = first.next(), second.next()
        assert torch.equal(a.obs, b.obs)
        assert a.images is not None
        assert b.images is not None
        assert all(torch.equal(a.images[name], b.images[name]) for name in a.images)


def test_vectors_are_served_as_they_are_without_images_beside_them(make_store):
    batch = make_store(LENGTHS).sampler(batch_size=8, seed=0, window=3).next()
    assert batch.images is None
    assert_same_batches(make_store([4], "a").sampler(seed=0), make_store([4], "b").sampler(seed=0), 3)


def test_blocks_count_what_images_weigh(store):
    source = store.sampler(batch_size=4, seed=0)._source
    assert (source.width, source.image_bytes) == (9 + 4 + 2, 2 * 3 * 3 + 1 * 2 * 1)
    assert store.sampler(batch_size=4, seed=0)._per_block == (1 << 12) // (4 * (2 * 15 + 2 * 20 // 4))


def test_a_stacked_spec_describes_stacked_images(store):
    spec = stacked_spec(store.spec, 3)
    batch = store.sampler(batch_size=2, seed=0, frame_stack=3).next()
    assert batch.images is not None
    for name, shape in spec.images.items():
        assert batch.images[name].shape == (2, 2, *shape)


def test_a_store_of_images_alone_is_sampled_too(tmp_path):
    space = spaces.Box(0, 255, (2, 2, 1), np.uint8)
    plain = Schema.from_spaces(observation=space, action=spaces.Box(-1, 1, (1,)))
    with ReplayStore.create(tmp_path / "i.zarr", plain).writer() as writer:
        for number in range(3):
            pixels = np.full((6, 2, 2, 1), number, np.uint8)
            writer.append(Episode(pixels, np.zeros((5, 1), np.float32), np.zeros(5, np.float32), terminated=False))
    store = ReplayStore.open(tmp_path / "i.zarr")
    assert (store.spec.obs_dim, store.spec.images) == (0, {"observation": (2, 2, 1)})
    batch = store.sampler(batch_size=32, seed=0, window=2).next()
    assert batch.obs.shape == (32, 3, 0)
    assert batch.images is not None
    assert (batch.images["observation"][:, 0] == batch.episode[:, None, None, None]).all()
