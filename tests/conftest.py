"""Shared fixtures: small stores made of numbers that say where they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from object_server import CREDENTIALS, GIVEN, Proxy, make_bucket, object_server

from toolkit.core import Episode
from toolkit.sampling import Sampler
from toolkit.store import ReplayStore, Schema

torch.set_num_threads(1)


def counting_episode(number: int, steps: int, *, terminated: bool = False, action_dim: int = 2) -> Episode:
    """Observation (number, t, 0); action, reward are functions of (number, t): any mix-up shows."""
    t = np.arange(steps + 1, dtype=np.float32)
    obs = np.stack([np.full(steps + 1, number, np.float32), t, np.zeros(steps + 1, np.float32)], axis=1)
    action = np.tile((t[:steps] % 7 / 7)[:, None], (1, action_dim)).astype(np.float32)
    columns = {
        "behaviour": f"b{number % 2}",
        "context": [float(number)],
        "task": "count",
        "seed": number,
        "success": True,
    }
    return Episode(obs, action, (number + t[:steps] / 1000).astype(np.float32), terminated, {}, columns)


def assert_same_batches(one: Sampler, other: Sampler, count: int = 60) -> None:
    """Two streams give equal batches, field by field, bit for bit."""
    for _ in range(count):
        a, b = one.next(), other.next()
        for name in vars(a):
            x, y = getattr(a, name), getattr(b, name)
            assert (x is None and y is None) or torch.equal(x, y), name


@pytest.fixture
def schema() -> Schema:
    return Schema.from_spaces(
        observation=spaces.Box(-np.inf, np.inf, (3,)),
        action=spaces.Box(-1, 1, (2,)),
        context_names=("number",),
        environment={"suite": "count"},
    )


@pytest.fixture
def make_store(tmp_path: Path, schema: Schema) -> Callable[..., ReplayStore]:
    """make_store([5, 3, 9]) -> a store of episodes with these lengths; every third one is terminated."""

    def make(lengths: list[int], name: str = "s.zarr") -> ReplayStore:
        store = ReplayStore.create(tmp_path / name, schema)
        with store.writer() as writer:
            for number, steps in enumerate(lengths):
                writer.append(counting_episode(number, steps, terminated=number % 3 == 0))
        return ReplayStore.open(tmp_path / name)

    return make


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("s3") / "buckets"
    folder.mkdir()
    with object_server(folder) as url:
        yield url


@pytest.fixture
def proxy(server: str) -> Iterator[Proxy]:
    made = Proxy(server)
    yield made
    made.close()


@pytest.fixture
def bucket(server: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """s3://NAME, reached through the proxy."""
    for name, value in CREDENTIALS.items() if not GIVEN else ():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PACKMULE_CACHE", str(tmp_path / "cache"))
    made = make_bucket(server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    return f"s3://{made}"
