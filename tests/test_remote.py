"""Laws of stores on an object store, kept against a real server process; see object_server.py for which.

`make radosgw` runs the same against Ceph's gateway.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_same_batches, counting_episode
from object_server import CREDENTIALS, GIVEN, Proxy, child, free_port
from test_store import same

from toolkit.cli import main
from toolkit.store import ReplayStore, Schema, StoreError
from toolkit.store.backend import Backend, backend
from toolkit.store.maintain import gc, merge
from toolkit.store.validate import validate
from toolkit.train import train

LENGTHS = [5, 30, 12, 1, 8, 19]
ROWS = ("/obs/", "/action/", "/reward/", "/terminated/", "/truncated/")  # in keys of rows


def fill(store: ReplayStore, lengths: list[int] = LENGTHS, first: int = 0) -> ReplayStore:
    with store.writer() as writer:
        for number, steps in enumerate(lengths, first):
            writer.append(counting_episode(number, steps, terminated=number % 3 == 0))
    return ReplayStore.open(store.backend)


@pytest.fixture
def remote(bucket: str, schema: Schema) -> ReplayStore:
    return fill(ReplayStore.create(f"{bucket}/some/store.zarr", schema))


def test_a_remote_store_holds_what_a_local_one_holds(
    remote: ReplayStore, make_store: Callable[..., ReplayStore]
) -> None:
    local = make_store(LENGTHS)
    assert (remote.episodes["uid"] == local.episodes["uid"]).all()
    for key in ("rows", "episodes", "digest", "categories", "statistics"):
        assert remote.commit.segments[0][key] == local.commit.segments[0][key]
    assert all(same(remote.episode(i), local.episode(i)) for i in range(len(LENGTHS)))
    for tier in ("memory", "mapped", "streaming"):
        one, other = (s.sampler(window=3, batch_size=16, seed=4, tier=tier) for s in (remote, local))  # type: ignore[arg-type]
        assert_same_batches(one, other, 10)
    assert remote.spec.to_json() == local.spec.to_json()
    assert validate(remote) == []


def test_merge_goes_both_ways(remote: ReplayStore, bucket: str, make_store: Callable[..., ReplayStore], tmp_path: Path):
    local = make_store([5, 30, 7])  # two of them are the remote store's
    into, copied, known = merge([remote, local], tmp_path / "both.zarr")
    assert (copied, known, len(into)) == (7, 2, 7)
    there, copied, known = merge([local, into], f"{bucket}/merged")
    assert (copied, known) == (7, 3)
    assert sorted(there.episodes["uid"].tolist()) == sorted(into.episodes["uid"].tolist())
    with pytest.raises(ValueError, match="both a source and the store"):
        merge([remote], f"{remote.path}/")


def test_four_processes_at_once_lose_no_commit(bucket: str, server: str, schema: Schema) -> None:
    url = f"{bucket}/writers"
    ReplayStore.create(url, schema)
    code = """
    from conftest import counting_episode
    from toolkit.store import ReplayStore
    number = int(sys.argv[2])
    writer = ReplayStore.open(sys.argv[1]).writer()
    print("ready", flush=True)
    sys.stdin.readline()
    for turn in range(4):
        writer.append(counting_episode(10 * number + turn, 5))
        print(writer.commit(), flush=True)
    """
    workers = [child(code, url, str(number), AWS_ENDPOINT_URL=server) for number in range(4)]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n", worker.communicate()[1]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    done = [worker.communicate() for worker in workers]
    assert all(worker.returncode == 0 for worker in workers), done
    numbers = sorted(int(line) for out, _ in done for line in out.split())
    assert numbers == list(range(1, 17))
    store = ReplayStore.open(url)
    assert sorted(store.episodes["seed"]) == sorted(10 * n + turn for n in range(4) for turn in range(4))
    assert validate(store) == []


def test_a_killed_writer_leaves_nothing_visible_and_gc_sweeps_it(remote: ReplayStore, server: str) -> None:
    code = """
    from conftest import counting_episode
    from toolkit.store import ReplayStore
    writer = ReplayStore.open(sys.argv[1]).writer()
    for number in range(10**6):
        writer.append(counting_episode(100 + number, 7))
        writer.seal()
        print(number, flush=True)
    """
    workers = [child(code, str(remote.path), AWS_ENDPOINT_URL=server) for _ in range(2)]
    for turn, worker in enumerate(workers):
        assert worker.stdout is not None
        for _ in range(1 + turn):
            worker.stdout.readline()
        time.sleep(0.03 * turn)
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
    again = ReplayStore.open(remote.path)
    assert again.fingerprint == remote.fingerprint
    assert validate(again) == []
    left = {f"segments/{name}" for name in remote.backend.names("segments") if name != "zarr.json"}
    named = f"segments/{remote.commit.segments[0]['id']}"
    assert len(left) == 3
    young = gc(remote.path, age=3600)
    assert young.segments == ()
    assert len(young.kept) == 2
    assert set(gc(remote.path, age=0).segments) == left - {named}
    assert remote.backend.names("segments") == [named.rpartition("/")[2], "zarr.json"]
    assert same(again.episode(2), remote.episode(2))
    assert validate(again) == []
    grown = fill(again, [4], first=50)
    assert len(grown) == len(LENGTHS) + 1


def test_the_second_open_of_a_commit_fetches_no_rows(remote: ReplayStore, proxy: Proxy) -> None:
    first = ReplayStore.open(remote.path).sampler(batch_size=8, seed=0)
    batches = [first.next() for _ in range(3)]
    assert any(any(part in key for part in ROWS) for _, key in proxy.seen)
    proxy.seen.clear()
    again = ReplayStore.open(remote.path)
    sampler = again.sampler(batch_size=8, seed=0)
    spec = again.spec
    proxy.mischief = lambda method, key: "cut"  # from here on there is no server
    assert all((sampler.next().obs == batch.obs).all() for batch in batches)
    assert spec.episodes == len(LENGTHS)
    assert [key for _, key in proxy.seen if any(part in key for part in ROWS)] == []


def test_a_new_commit_is_fetched_anew(remote: ReplayStore) -> None:
    assert remote.sampler(batch_size=8, seed=0).next() is not None
    grown = fill(remote, [9, 9], first=40)
    drawn = grown.sampler(batch_size=400, seed=0).next()
    assert (drawn.obs[:, 0, 0] >= 40).any()


def test_learners_train_on_a_remote_store(bucket: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    url = f"{bucket}/pendulum"
    collect = ["collect", "pendulum", "--contexts", "3", "--out", url]
    assert main([*collect, "--episodes", "4"]) == 0
    assert main([*collect, "--episodes", "6"]) == 0  # goes on where it was
    assert len(ReplayStore.open(url)) == 6
    assert ReplayStore.open(url).commit.number == 2
    flags = ["--steps", "20", "--episodes", "0", "--learner.hidden", "8", "--out", str(tmp_path / "runs")]
    assert main(["train", "bc", "--store", url, *flags]) == 0
    folder = Path(capsys.readouterr().out.splitlines()[-1])
    assert json.loads((folder / "config.json").read_text())["store"] == url
    assert (folder / "DONE").exists()
    local, _, _ = merge([url], tmp_path / "copy.zarr")
    settings = {"steps": 20, "episodes": 0, "options": {"hidden": (8,)}, "out": tmp_path / "runs"}
    there, here = (train("bc", store=place, **settings) for place in (url, local.path))  # type: ignore[arg-type]
    assert there == folder
    assert here != folder
    assert losses(there) == losses(here)


def losses(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def test_every_command_takes_a_url(remote: ReplayStore, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    url = str(remote.path)

    def run(*argv: str, code: int = 0) -> str:
        assert main(["data", *argv]) == code
        return capsys.readouterr().out

    found = json.loads(run("info", url, "--json"))
    assert (found["path"], found["episodes"], found["commits"]) == (url, len(LENGTHS), 2)
    assert found["bytes_on_disk"] == sum(remote.backend.sizes().values())
    assert run("validate", url).strip() == f"{url}: clean"
    run("view", url, "half", "--episodes", "3")
    assert json.loads(run("info", url, "--view", "half", "--json"))["episodes"] == 3
    assert run("cat", url, "0:2").startswith("episode 0: 5 steps")
    assert run("merge", url, "--into", f"{url}-copy").startswith(f"{url}-copy: {len(LENGTHS)} episodes copied")
    assert run("merge", url, "--into", str(tmp_path / "local.zarr"), "--json")
    assert "removed 0 segments" in run("gc", url)
    key = next(key for key in remote.backend.sizes("segments") if "/reward/c/" in key)
    data = remote.backend.read(key)
    remote.backend.write(key, data[:8] + bytes([data[8] ^ 4]) + data[9:])
    assert "reward/c/0: checksum does not match" in run("validate", url, code=1)
    with pytest.raises(StoreError, match=f"^{url}/{key}: checksum"):
        ReplayStore.open(url).episode(0)
    assert "new commit: 2" in run("repair", url)
    assert "past commits" in run("validate", url, code=1)


@pytest.mark.skipif(bool(GIVEN), reason="a server that checks signatures notices that the condition was taken off")
def test_a_server_that_ignores_the_condition_is_refused(bucket: str, proxy: Proxy, schema: Schema) -> None:
    proxy.mischief = lambda method, key: "unconditional"
    with pytest.raises(OSError, match=r"lets a key be created twice \(it ignores If-None-Match: \*\)"):
        ReplayStore.create(f"{bucket}/wrong", schema)
    proxy.mischief = lambda method, key: None
    assert backend(f"{bucket}/wrong").sizes() == {}


def test_a_commit_whose_answer_was_lost_is_not_lost(remote: ReplayStore, proxy: Proxy) -> None:
    lost = []

    def lose(method: str, key: str) -> str | None:
        if method == "PUT" and "/commits/" in key and len(lost) < 2:
            lost.append(key)
            return "lost"
        return None

    proxy.mischief = lose
    try:
        grown = fill(remote, [6], first=70)
    except OSError as error:  # localbucket keeps no metadata: whose commit it is cannot be told
        assert not GIVEN
        assert "whether it arrived is not known: look again" in str(error)
        grown = ReplayStore.open(remote.path)
    assert lost
    assert sum(grown.episodes["seed"] == 70) == 1
    assert validate(grown) == []


def test_what_cannot_be_reached_is_not_taken_for_damaged(
    remote: ReplayStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACKMULE_REMOTE_SECONDS", "1")
    grown = fill(remote, [6], first=70)
    proxy.mischief = lambda method, key: "busy" if key.endswith(f"{grown.commit.number:020d}.json") else None
    with pytest.raises(OSError, match=r"cannot read s3://.*/commits/0*2\.json: .*503"):
        ReplayStore.open(remote.path)  # and not its parent
    with pytest.raises(OSError, match="cannot read"):
        validate(str(remote.path))
    busy: list[str] = []
    proxy.mischief = lambda method, key: "busy" if not (busy.append(key) or len(busy) % 3) else None  # type: ignore[func-returns-value]
    assert len(ReplayStore.open(remote.path)) == len(grown)  # every third request is tried again


def test_errors_say_where_and_why_without_secrets(
    bucket: str, proxy: Proxy, schema: Schema, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StoreError, match=f"no store at {bucket}/none: it has no zarr.json"):
        ReplayStore.open(f"{bucket}/none")
    with pytest.raises(OSError, match=r"NoSuchBucket.*; make the bucket first"):
        ReplayStore.open("s3://packmule-none/x")
    monkeypatch.setenv("PACKMULE_REMOTE_SECONDS", "2")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-show-this")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:do-not-show-this@127.0.0.1:{free_port()}")
    began = time.monotonic()
    assert main(["data", "info", f"{bucket}/x"]) == 2
    assert time.monotonic() - began < 10
    error = capsys.readouterr().err
    assert error.startswith(f"packmule: error: cannot read {bucket}/x/zarr.json: ")
    assert "do-not-show" not in error
    assert "AWS_ENDPOINT_URL says where it is" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("ftp://host/x", "ftp:// is no kind of store; expected s3://"),
        ("s3:///x", "names no bucket; expected s3://bucket/prefix"),
        ("s3://key:secret@bucket/x", "URL with credentials"),
        ("s3://bucket/x?region=1", "'?' or '#'"),
        ("s3://bucket/../x", "not a relative path of plain names"),
        (Path("s3://bucket/x"), "drops a slash of a URL; give s3://... as a str"),
    ],
)
def test_a_place_that_is_none_is_refused_before_anything_is_asked(where: str | Path, message: str) -> None:
    pytest.importorskip("obstore")
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        ReplayStore.open(where)
    assert "secret" not in str(refused.value)


def test_options_go_before_the_environment_and_unknown_ones_are_refused(
    bucket: str, server: str, monkeypatch: pytest.MonkeyPatch, schema: Schema
) -> None:
    remote = pytest.importorskip("toolkit.store.remote")
    keys = {name.removeprefix("AWS_").lower(): os.environ[name] for name in CREDENTIALS}
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    for name in CREDENTIALS:
        monkeypatch.setenv(name, "wrong")
    place: Backend = remote.ObjectBackend(f"{bucket}/options", endpoint=server, **keys)
    assert len(ReplayStore.create(place, schema)) == 0
    assert "secret" not in repr(place)
    with pytest.raises(ValueError, match="nonsense"):
        remote.ObjectBackend(f"{bucket}/options", nonsense="1")


def test_making_a_store_goes_on_where_it_was_interrupted(bucket: str, proxy: Proxy, schema: Schema) -> None:
    place = backend(f"{bucket}/half")
    made = ReplayStore.create(f"{bucket}/whole", schema).backend.read("zarr.json")
    place.write("zarr.json", made)  # killed before its first commit
    with pytest.raises(StoreError, match="has no commits"):
        ReplayStore.open(place)
    assert len(fill(ReplayStore.create(place, schema))) == len(LENGTHS)
    with pytest.raises(FileExistsError, match="already holds 'commits'; open it"):
        ReplayStore.create(place, schema)
    backend(f"{bucket}/other").write("readme.txt", b"not ours")
    with pytest.raises(FileExistsError, match=r"already holds 'readme\.txt'"):
        ReplayStore.create(f"{bucket}/other", schema)


def test_two_collections_at_once_do_not_mix(bucket: str, proxy: Proxy, tmp_path: Path) -> None:
    """Without a lock, the second to commit is told so, and has published nothing."""
    from toolkit.collect import collect

    settings = {"contexts": 2, "coverage": 0.5, "seed": 0}
    url, raced = f"{bucket}/raced", []

    def race(method: str, key: str) -> None:
        if method == "PUT" and key.endswith(f"{1:020d}.json") and not raced:
            raced.append(key)
            collect("pendulum", out=url, episodes=2, **settings)  # type: ignore[arg-type]

    proxy.mischief = race
    with pytest.raises(BlockingIOError, match="another process committed to it meanwhile"):
        collect("pendulum", out=url, episodes=3, **settings)  # type: ignore[arg-type]
    assert len(ReplayStore.open(url)) == 2
    assert len(collect("pendulum", out=url, episodes=3, **settings)) == 3  # type: ignore[arg-type]


def test_ctrl_c_does_not_wait_for_a_server_that_hangs(remote: ReplayStore, proxy: Proxy) -> None:
    proxy.seen.clear()
    proxy.mischief = lambda method, key: "hang"
    code = """
    import signal
    from toolkit.cli import main
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born without
    sys.exit(main(["data", "info", sys.argv[1]]))
    """
    worker = child(code, str(remote.path))
    while not proxy.seen and worker.poll() is None:
        time.sleep(0.02)
    began = time.monotonic()
    worker.send_signal(signal.SIGINT)
    _, error = worker.communicate(timeout=30)
    assert worker.returncode == 130, error  # no panic
    assert error.strip() == "interrupted; nothing is half written, the same command continues from what was saved"
    assert time.monotonic() - began < 5


def test_without_the_extra_a_url_says_what_to_install() -> None:
    code = """
    sys.modules["obstore"] = None
    from toolkit.cli import main
    sys.exit(main(["data", "info", "s3://bucket/x"]))
    """
    worker = child(code)
    _, error = worker.communicate(timeout=60)
    assert worker.returncode == 2
    assert "pip install 'packmule[remote]'" in error


def test_a_saved_view_is_found_by_name_and_numbers_agree(remote: ReplayStore) -> None:
    remote.save_view("long", remote.view(np.flatnonzero(remote.episodes["length"] > 10)))
    remote.save_view("long", remote.view("long"))  # the same again changes nothing
    assert ReplayStore.open(remote.path).view("long").episodes["length"].tolist() == [30, 12, 19]
    with pytest.raises(StoreError, match=f"{remote.path} has no view 'short'; it has long"):
        remote.view("short")
