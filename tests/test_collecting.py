"""A collection ends with the same files however many workers, kills, signals and full disks it has seen.

PACKMULE_KILLS sets the number of kills.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from test_faults import in_child

from toolkit import collect as collecting
from toolkit import registry
from toolkit.collect import collect, segment_end
from toolkit.store import ReplayStore
from toolkit.store.validate import validate

KILLS = min(200, int(os.environ.get("PACKMULE_KILLS", "12")))
SETTINGS = {"episodes": 45, "contexts": 5, "coverage": 0.3, "noise": 0.1, "exploration": "ou", "seed": 4}
LONGER = {"episodes": 320, "contexts": 5, "coverage": 0.3, "seed": 4}
FLAGS = [text for name, value in LONGER.items() for text in (f"--{name}", str(value))]


@pytest.fixture
def short_segments(monkeypatch):
    """Ten episodes of pendulum in a segment."""
    monkeypatch.setattr(collecting, "SEGMENT_STEPS", 2000)


def files(path: Path) -> list[dict[str, bytes]]:
    """For each committed segment, in the order of the commit: every file by its path inside the segment.

    Rows, the episode table with its uids, and metadata: all there is but the segments' random names, the lock, and
    the record of past commits.
    """
    found = []
    for segment in ReplayStore.open(path).commit.segments:
        folder = path / "segments" / segment["id"]
        inside = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.startswith(".")]
        found.append({str(file.relative_to(folder)): file.read_bytes() for file in inside})
    return found


def contents(path: Path) -> list[tuple[bytes, ...]]:
    """Of every episode: observations, actions, rewards and everything its table says, as bytes."""
    store = ReplayStore.open(path)
    table = [np.asarray(store.episodes[name]) for name in ("uid", "return", "success", "seed", "context", "behaviour")]
    found = []
    for index in range(len(store)):
        episode = store.episode(index)
        arrays = [*episode.observations().values(), episode.action, episode.reward]
        found.append((*(a.tobytes() for a in arrays), *(str(column[index]).encode() for column in table)))
    return found


def test_segments_end_where_the_settings_say_and_their_number_grows_slowly():
    ends, index = [], 0
    while index < 1_000_000:
        index = segment_end(index, 50)
        ends.append(index)
    assert ends[:3] == [50, 100, 150]
    assert len(ends) < 250
    assert all(segment_end(i, 50) == 100 for i in (50, 51, 99)), "wherever it is asked"
    sizes = np.diff([0, *ends])
    assert (sizes[40:] <= np.array(ends[39:-1]) / 32 + 1).all(), "a kill costs at most a 32nd of what there is"


def test_one_and_two_workers_write_the_same_files(tmp_path, short_segments):
    one = collect("pendulum", out=tmp_path / "one", workers=1, **SETTINGS)
    two = collect("pendulum", out=tmp_path / "two", workers=2, **SETTINGS)
    assert [s["episodes"] for s in one.commit.segments] == [10, 10, 10, 10, 5]
    assert files(one.path) == files(two.path)
    assert validate(two.path) == []


def test_sigkill_at_random_points_leads_to_the_same_files(tmp_path, short_segments):
    began = time.monotonic()
    whole = collect("pendulum", out=tmp_path / "whole", **SETTINGS)
    duration = time.monotonic() - began
    due, rng, kills, stores, cut = files(whole.path), random.Random(3), 0, 0, 0
    while kills < KILLS:
        path, stores = tmp_path / f"killed-{stores}", stores + 1
        while kills < KILLS:
            child, _ = in_child(lambda _, path=path: collect("pendulum", out=path, **SETTINGS) and None)
            time.sleep(rng.uniform(0, duration))
            os.kill(child, signal.SIGKILL)
            killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
            kills += 1
            if not killed:
                break  # it was done before
            if path.exists():
                done = ReplayStore.open(path)
                assert len(done) in (0, 10, 20, 30, 40, 45)
                np.testing.assert_array_equal(done.episodes["uid"], whole.episodes["uid"][: len(done)])
                cut += 0 < len(done) < 45
        collect("pendulum", out=path, **SETTINGS)
        assert files(path) == due
    assert cut > 0, "no kill came in the middle; the test saw nothing"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "s"
    collect("pendulum", out=path, **LONGER)
    return path


def started(path: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "toolkit.cli", "collect", "pendulum", *FLAGS, "--workers", "2", "--out", str(path)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_command_with_two_workers_that_a_signal_ends_is_continued_by_one(tmp_path, uninterrupted, number):
    path = tmp_path / "s"
    process = started(path)
    while process.poll() is None and not (path.exists() and len(ReplayStore.open(path))):
        time.sleep(0.02)  # until the first commit
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # Ctrl-C reaches the workers too
    else:
        process.kill()
    code = process.wait()
    assert code == {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130}[number], "the run was over before the signal"
    kept = len(ReplayStore.open(path))
    assert kept % 100 == 0 or number != signal.SIGKILL
    assert 100 <= kept < 320
    collect("pendulum", out=path, **LONGER)
    assert contents(path) == contents(uninterrupted)
    if number == signal.SIGKILL:  # an interrupt commits what is done, where the settings would have no segment end
        assert files(path) == files(uninterrupted)


def test_a_full_disk_names_the_path_keeps_what_was_committed_and_the_command_continues(tmp_path, short_segments):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(done: int) -> None:
        if done == 25:
            resource.setrlimit(resource.RLIMIT_FSIZE, (512, limit[1]))

    try:
        with pytest.raises(OSError, match=str(tmp_path / "s")):
            collect("pendulum", out=tmp_path / "s", progress=fill, **SETTINGS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert len(ReplayStore.open(tmp_path / "s")) == 20
    whole = collect("pendulum", out=tmp_path / "whole", **SETTINGS)
    again = collect("pendulum", out=tmp_path / "s", **SETTINGS)
    assert files(again.path) == files(whole.path)


def test_a_store_says_which_versions_made_it_and_others_do_not_continue_it(tmp_path):
    first = collect("pendulum", out=tmp_path / "s", episodes=2, contexts=2)
    schema = first.schema
    assert schema.environment["requirements"] == {"gymnasium": metadata.version("gymnasium")}
    schema.environment["requirements"]["gymnasium"] = "0.29"
    ReplayStore.create(tmp_path / "old", schema)
    with pytest.raises(ValueError, match=r"gymnasium '0.29' instead of .* install those versions"):
        collect("pendulum", out=tmp_path / "old", episodes=2, contexts=2)
    assert len(ReplayStore.open(tmp_path / "old")) == 0


def test_a_collection_with_other_dials_is_refused_naming_what_differs(tmp_path):
    collect("pendulum", out=tmp_path / "s", episodes=2, contexts=2)
    with pytest.raises(ValueError, match=r"contexts 2 instead of 3, noise 0.0 instead of 0.1\): give the same flags"):
        collect("pendulum", out=tmp_path / "s", episodes=3, contexts=3, noise=0.1)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"noise": 0.1, "exploration": "brown"}, "unknown exploration"),
        ({"quality": 0.5, "weaker": "lazy"}, "has no weaker behaviour 'lazy'"),
        ({"episodes": 10**22, "contexts": 10**22}, "episodes must be at most 10,000,000"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_wrong_settings_write_nothing(tmp_path, changed, complaint):
    with pytest.raises(ValueError, match=complaint):
        collect("pendulum", out=tmp_path / "s", **{"episodes": 2, **changed})
    assert list(tmp_path.iterdir()) == []


def test_every_suite_here_says_its_requirements():
    for suite in registry.suites().values():
        try:
            suite.make().close()
        except ImportError:
            continue
        found = collecting.requirements(suite)
        assert set(found) == set(suite.requires)
        assert all(found.values())
