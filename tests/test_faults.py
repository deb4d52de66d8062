"""What must survive: kills, many writers, full disks and hostile files. Real processes, signals and disks.

PACKMULE_KILLS sets the number of kills (`make kills` runs 1000).
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import counting_episode
from test_store import same
from test_validate import rewrite_chunk

from toolkit.store import ReplayStore, StoreError, layout
from toolkit.store.chunks import SegmentFiles
from toolkit.store.maintain import gc as sweep
from toolkit.store.validate import validate

KILLS = int(os.environ.get("PACKMULE_KILLS", "50"))


def length(number: int) -> int:
    return 5 + number * 7 % 40


def appended(number: int) -> Any:
    return counting_episode(number, length(number), terminated=number % 3 == 0)


def in_child(action: Callable[[int], None]) -> tuple[int, int]:
    """Fork, and run `action` with the writing end of a pipe; the child's id and the reading end.

    A fork of this warm process starts in a millisecond.
    """
    reading, writing = os.pipe()
    gc.freeze()
    child = os.fork()
    if child:
        os.close(writing)
        gc.unfreeze()
        return child, reading
    code = 1
    try:
        os.close(reading)
        action(writing)
        code = 0
    finally:
        os._exit(code)


def said(reading: int) -> list[int]:
    """The numbers a child wrote, whole lines only."""
    with os.fdopen(reading, "rb") as file:
        text = file.read()
    return [int(line) for line in text[: text.rfind(b"\n") + 1].split()]


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(layout, "MAX_CHUNK_ROWS", 64)
    monkeypatch.setattr(layout, "EPISODE_CHUNK", 16)


@pytest.fixture
def store(tmp_path, schema, small_chunks) -> ReplayStore:
    return ReplayStore.create(tmp_path / "s.zarr", schema)


def append_for_ever(path: Path, out: int) -> None:
    opened = ReplayStore.open(path)
    number, writer = len(opened), opened.writer()
    while True:
        for _ in range(3):
            writer.append(appended(number))
            number += 1
        writer.commit()
        os.write(out, b"%d\n" % number)


def seconds_of_a_commit(path: Path, schema: Any) -> float:
    writer = ReplayStore.create(path, schema).writer()
    began = time.perf_counter()
    writer.append(appended(0))
    writer.commit()
    return time.perf_counter() - began


def test_sigkill_while_appending_loses_nothing_and_leaves_nothing_half(tmp_path, schema, small_chunks):
    """Each store is used again after its kills: 10 of them, one after the other, then a new store."""
    rng = random.Random(11)
    acknowledged = reopened = slowest = 0.0
    longest = max(0.25, 6 * seconds_of_a_commit(tmp_path / "timed.zarr", schema))  # some disks flush slowly
    for kill in range(KILLS):
        if kill % 10 == 0:
            profile: Any = ("fast", "compact")[kill // 10 % 2]
            path, acknowledged = ReplayStore.create(tmp_path / f"{kill}.zarr", schema, profile=profile).path, 0
        child, out = in_child(lambda writing, path=path: append_for_ever(path, writing))
        time.sleep(rng.uniform(0.0, longest))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        acknowledged = max([acknowledged, *said(out)])
        began = time.perf_counter()
        opened = ReplayStore.open(path)
        slowest = max(slowest, time.perf_counter() - began)
        assert len(opened) >= acknowledged, "a committed episode is lost"
        assert len(opened) % 3 == 0, "a commit is half visible"
        assert opened.episodes["length"].tolist() == [length(n) for n in range(len(opened))]
        assert opened.episodes["seed"].tolist() == list(range(len(opened)))
        for index in {0, len(opened) // 2, len(opened) - 1} if len(opened) else set():
            assert same(opened.episode(index), appended(index))
        reopened += len(opened)
        if kill % 10 == 9 or kill == KILLS - 1:
            assert [f for f in validate(path) if f.severity != "note"] == []
            before = ReplayStore.open(path).fingerprint
            sweep(path, age=0)
            assert ReplayStore.open(path).fingerprint == before
            assert [f for f in validate(path) if f.severity != "note"] == []
            assert not list(path.rglob("*.partial"))
    assert reopened > 0
    assert slowest < 1.0
    print(f"{KILLS} kills: none lost, none half visible; slowest reopening {slowest * 1000:.0f} ms")


@pytest.mark.parametrize("writers", [4, 16])
def test_many_writers_at_once_lose_nothing(store, writers):
    commits = 24 // writers + 2

    def write(out: int, first: int) -> None:
        writer = ReplayStore.open(store.path).writer()
        for number in range(first, first + 2 * commits):
            writer.append(appended(number))
            if number % 2:
                writer.commit()
                os.write(out, b"%d\n" % number)

    children = [in_child(lambda out, k=k: write(out, 1000 * k)) for k in range(writers)]
    assert [os.waitpid(child, 0)[1] for child, _ in children] == [0] * writers
    assert [len(said(out)) for _, out in children] == [commits] * writers
    opened = ReplayStore.open(store.path)
    expected = sorted(1000 * k + n for k in range(writers) for n in range(2 * commits))
    assert sorted(opened.episodes["seed"].tolist()) == expected
    assert opened.commit.number == writers * commits
    assert validate(opened) == []


@contextlib.contextmanager
def full_disk(folder: Path, room: int) -> Iterator[None]:
    """A file system with `room` bytes left, or where none can be mounted a limit on the size of a file."""
    filler = folder / "filler"
    if folder.is_mount():
        free = os.statvfs(folder)
        filler.write_bytes(bytes(max(0, free.f_bavail * free.f_bsize - room)))
        try:
            yield
        finally:
            filler.unlink()
        return
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(1, room // 16), limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A folder on a file system of 8 MB, where this may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    yield folder
    if mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_at_20_points_keeps_the_last_commit_and_names_the_path(disk, schema, small_chunks):
    store = ReplayStore.create(disk / "s.zarr", schema)
    number, failures = 0, 0
    for point in range(20):
        with store.writer() as writer:
            writer.append(appended(number))
        number += 1
        before = ReplayStore.open(store.path).fingerprint
        with full_disk(disk, room=4096 * (1 + 2 * point)):
            try:
                writer = store.writer()
                for extra in range(200):
                    writer.append(appended(1000 + extra))
                    if extra % 10 == 9:
                        writer.commit()
                        before = ReplayStore.open(store.path).fingerprint
                        number += 10
            except OSError as error:
                failures += 1
                assert error.errno in (errno.ENOSPC, errno.EFBIG)
                assert str(disk) in str(error)
            opened = ReplayStore.open(store.path)
            assert opened.fingerprint == before
            assert len(opened) == number
            assert same(opened.episode(0), appended(0))
        assert [f for f in validate(store.path) if f.severity != "note"] == []
        sweep(store.path, age=0)
    assert failures == 20


def filled(store: ReplayStore) -> ReplayStore:
    with store.writer() as writer:
        for number in range(4):
            writer.append(appended(number))
    return ReplayStore.open(store.path)


def read_all(path: Path) -> None:
    opened = ReplayStore.open(path)
    opened.sampler(seed=0).next()
    for index in range(len(opened)):
        opened.episode(index)


@pytest.mark.parametrize(
    "inside",
    [
        "",
        "zarr.json",
        "reward",
        "reward/zarr.json",
        "reward/c",
        "reward/c/0",
        "obs/observation/c/0",
        "episodes/uid/c/0/0",
    ],
)
def test_a_link_out_of_the_store_is_refused(store, tmp_path, inside):
    """Even where it leads to the very same bytes: what lies outside is never read."""
    opened = filled(store)
    target = store.path / "segments" / opened.commit.segments[0]["id"] / inside
    target.rename(tmp_path / "outside")
    target.symlink_to(tmp_path / "outside")
    if inside != "zarr.json":  # the group's own metadata is not needed for an episode
        with pytest.raises(StoreError, match="link"):
            read_all(store.path)
    assert any("link" in f.what for f in validate(store.path) if f.severity == "error")


@pytest.mark.parametrize("name", ["segments", "commits", "views", "commits/00000000000000000001.json", "views/v.json"])
def test_a_link_in_place_of_a_folder_or_file_of_the_store_is_refused(store, tmp_path, name):
    opened = filled(store)
    opened.save_view("v", opened.nested(2, seed=0))
    (store.path / name).rename(tmp_path / "outside")
    (store.path / name).symlink_to(tmp_path / "outside")
    with pytest.raises(StoreError, match="link"):
        ReplayStore.open(store.path, commit=1).view("v")
    assert any("link" in f.what for f in validate(store.path))


def forge(store: ReplayStore, change: Callable[[dict[str, Any]], None]) -> None:
    """A commit whose digest fits, but whose claims are of one's own choosing."""
    path = store.path / layout.commit_key(1)
    body = json.loads(path.read_text())
    body.pop("digest")
    change(body)
    path.write_text(json.dumps({**body, "digest": layout.digest(body)}, indent=1) + "\n")


@contextlib.contextmanager
def little_memory(most: int = 1 << 28) -> Iterator[None]:
    """No more than `most` bytes of address space beyond what is in use."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + most, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)


@pytest.mark.parametrize("unit", ["rows", "episodes", "both"])
@pytest.mark.parametrize("claim", [10**6, 10**15, 10**18])
def test_a_small_file_that_claims_terabytes_is_refused_before_anything_is_allocated(store, unit, claim):
    opened = filled(store)

    def change(body: dict[str, Any]) -> None:
        entry = body["segments"][0]
        entry["rows"] = 4 * claim if unit != "episodes" else entry["rows"]
        entry["episodes"] = claim if unit != "rows" else entry["episodes"]

    for array in (store.path / "segments" / opened.commit.segments[0]["id"]).rglob("zarr.json"):
        meta = json.loads(array.read_text())
        if "shape" in meta:
            meta["shape"][0] = 4 * claim
            array.write_text(json.dumps(meta, indent=2))
    forge(store, change)
    began = time.perf_counter()
    with little_memory():
        with pytest.raises(StoreError, match=r"claim|committed"):
            read_all_at(store.path, 1)
        assert any(f.severity == "error" for f in validate(store.path))
    assert time.perf_counter() - began < 5


def read_all_at(path: Path, commit: int) -> None:
    ReplayStore.open(path, commit=commit).sampler(seed=0).next()


def test_a_sparse_chunk_of_terabytes_is_refused_unread(store):
    opened = filled(store)
    chunk = store.path / "segments" / opened.commit.segments[0]["id"] / "reward/c/0"
    os.truncate(chunk, 1 << 40)
    with little_memory():
        with pytest.raises(StoreError, match="bytes long"):
            read_all(store.path)
        (found,) = validate(store.path)
    assert found.where.endswith("reward/c/0")


@pytest.mark.parametrize("name", ["zarr.json", "commits/00000000000000000001.json", "views/v.json"])
@pytest.mark.parametrize(
    "content",
    [
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"digest": ' + b"9" * 10_000 + b"}",
        b'{"digest": NaN}',
        b"\x80\x04\x95pickle.",
        b"",
        b"null",
        b'{"digest": "x", "episodes": {"__reduce__": "os.system"}}',
    ],
    ids=["deep list", "deep dict", "long number", "nan", "pickle", "empty", "null", "reduce"],
)
def test_hostile_json_is_a_clear_error(store, name, content):
    opened = filled(store)
    opened.save_view("v", opened.nested(2, seed=0))
    (store.path / name).write_bytes(content)
    with pytest.raises(StoreError, match=r"json|not a packmule store"):
        ReplayStore.open(store.path, commit=1).view("v")
    assert any(f.where == name for f in validate(store.path))


def test_json_beyond_the_limit_and_pipes_are_not_read(store):
    filled(store)
    path = store.path / layout.commit_key(1)
    os.truncate(path, 1 << 40)
    with little_memory(), pytest.raises(StoreError, match="not read"):
        ReplayStore.open(store.path, commit=1)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StoreError, match="not a regular file"):
        ReplayStore.open(store.path, commit=1)


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.update(id="../../elsewhere"),
        lambda entry: entry.update(id=["x"]),
        lambda entry: entry.update(rows=-1),
        lambda entry: entry.update(rows=1e15),
        lambda entry: entry.update(rows=True),
        lambda entry: entry.update(episodes=entry["rows"]),
        lambda entry: entry.update(categories={"task": [1], "behaviour": []}),
        lambda entry: entry.update(digest=[]),
        lambda entry: entry.pop("statistics"),
    ],
)
def test_a_forged_commit_is_refused_and_found(store, change):
    filled(store)
    forge(store, lambda body: change(body["segments"][0]))
    with pytest.raises(StoreError, match="commits"):
        ReplayStore.open(store.path, commit=1)
    assert any(f.where.startswith("commits/") for f in validate(store.path))


@pytest.mark.parametrize(
    ("name", "value"), [("episodes/start", np.int64(10**12)), ("episodes/behaviour", np.int32(-7))]
)
def test_a_forged_table_that_points_outside_its_rows_is_refused(store, name, value):
    entry = filled(store).commit.segments[0]
    rewrite_chunk(store.path / "segments" / entry["id"] / name / "c/0", 0, value)
    files = SegmentFiles(store.backend, store.schema, entry)
    check = layout.ArrayDigest(name, files.chunk_size(name))
    check.update(0, files.read(name, 0, files.count(name)))
    forge(store, lambda body: body["segments"][0]["digest"].update({name: check.hex()}))
    with pytest.raises(StoreError, match="outside its"):
        ReplayStore.open(store.path, commit=1).episodes[name.removeprefix("episodes/")]
    assert any("outside" in f.what or "leave" in f.what for f in validate(store.path))


@pytest.mark.parametrize("name", ["../x", "../../etc/passwd", "/etc/passwd", "a/../../x", "..", "x\0y"])
def test_a_view_name_cannot_leave_the_store(store, name):
    opened = filled(store)
    with pytest.raises(ValueError, match="not a valid name"):
        opened.view(name)
    with pytest.raises(ValueError, match="not a valid name"):
        opened.save_view(name, opened.nested(1, seed=0))
