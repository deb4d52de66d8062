"""Laws of runs on an object store, kept against a real server process and real kills; see object_server.py."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from object_server import Proxy, free_port
from sweeping import bits, grid, wait_until
from test_remote import bucket, child, proxy, server  # noqa: F401

from toolkit.cli import main
from toolkit.collect import collect
from toolkit.copies import copied, states_of, survey
from toolkit.engines.local import Local
from toolkit.journal import Entry, Journal
from toolkit.lease import LeaseLost, whoami
from toolkit.records import RunConfig
from toolkit.store import StoreError
from toolkit.store.backend import backend
from toolkit.sweep import sweep
from toolkit.train import run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "p.zarr"
    collect("pendulum", out=path, episodes=6, contexts=3, coverage=0.5, seed=0)
    return path


def config(store: Path, **changes: Any) -> RunConfig:
    return replace(grid(store).runs()[1], **changes)


def worker(out: str, given: RunConfig, cache: Path, server: str) -> Any:  # noqa: F811
    """A process that carries out a run and saves all the time, on a machine whose scratch folders are in `cache`."""
    code = """
    import json
    from toolkit import train
    from toolkit.records import RunConfig
    train.SAVE_SECONDS = 0.02
    print(train.run(RunConfig.from_json(json.loads(sys.argv[1])), sys.argv[2]))
    """
    return child(code, json.dumps(given.to_json()), out, PACKMULE_CACHE=str(cache), AWS_ENDPOINT_URL=server)


def newest(out: str, name: str) -> Entry | None:
    return Journal(backend(out), name).newest()


def test_a_run_killed_anywhere_resumes_on_another_machine_bit_for_bit(
    store: Path, bucket: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:
    out, given, rng = f"{bucket}/runs", config(store, steps=400), random.Random(0)
    for turn in range(3):
        one = worker(out, given, tmp_path / f"machine{turn}", server)
        before = newest(out, given.folder_name)
        number = before.number if before else 0

        def further(number: int = number) -> bool:
            entry = newest(out, given.folder_name)
            return entry is not None and entry.number > number + 2

        wait_until(lambda: further() or one.poll() is not None, 60)
        time.sleep(rng.uniform(0, 0.2))
        one.kill()
        one.communicate()
    left = newest(out, given.folder_name)
    assert left is not None
    assert not left.done
    assert "checkpoint/checkpoint.json" in left.files
    monkeypatch.setenv("PACKMULE_CACHE", str(tmp_path / "last"))
    resumed, whole = run(given, out), run(given, tmp_path / "whole")
    assert bits(resumed) == bits(whole)
    (found,) = survey(out)
    kept = {f"{given.folder_name}/{one.key}" for one in found.entry.files.values()}
    assert kept == {key for key in backend(out).sizes() if "/files/" in key}  # nothing that kills left
    assert not list((tmp_path / "last" / "work").glob("*/*"))
    assert run(given, out) == resumed
