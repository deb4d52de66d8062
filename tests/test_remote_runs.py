"""Laws of runs on an object store, kept against a real server process and real kills; see object_server.py."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from object_server import Proxy, child, free_port
from sweeping import bits, grid, wait_until

from toolkit.cli import main
from toolkit.collect import collect
from toolkit.copies import copied, states_of, survey
from toolkit.engines.local import Local
from toolkit.journal import Entry, Journal
from toolkit.lease import LeaseLost, whoami
from toolkit.records import RunConfig
from toolkit.remote_run import RemoteRun
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


def worker(out: str, given: RunConfig, cache: Path, server: str) -> Any:
    """A process that carries out a run and saves all the time, on a machine whose scratch folders are in `cache`."""
    code = """
    import json
    from toolkit import train
    from toolkit.records import RunConfig
    train.SAVE_SECONDS = 0.02
    print(train.run(RunConfig.from_json(json.loads(sys.argv[1])), sys.argv[2]))
    """
    return child(code, json.dumps(given.to_json()), out, PACKMULE_CACHE=str(cache), AWS_ENDPOINT_URL=server)


@pytest.fixture
def journal(bucket: str) -> Journal:
    return Journal(backend(f"{bucket}/runs"), "one")


def newest(out: str, name: str) -> Entry | None:
    return Journal(backend(out), name).newest()


def test_a_run_killed_anywhere_resumes_on_another_machine_bit_for_bit(
    store: Path,
    bucket: str,
    server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, given, rng = f"{bucket}/runs", config(store, steps=400), random.Random(0)
    for turn in range(2):
        one = worker(out, given, tmp_path / f"machine{turn}", server)
        before = newest(out, given.folder_name)
        number = before.number if before else 0

        def further(one: Any = one, number: int = number) -> bool:
            entry = newest(out, given.folder_name)
            return one.poll() is not None or (entry is not None and entry.number > number + 2)

        wait_until(further, 60)
        time.sleep(rng.uniform(0, 0.2))
        one.kill()
        assert one.communicate()[1] == ""
        assert one.returncode == -signal.SIGKILL
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


def test_a_silent_worker_is_replaced_and_its_late_result_refused(
    store: Path,
    bucket: str,
    server: str,
    tmp_path: Path,
) -> None:
    out, given = f"{bucket}/runs", config(store, steps=10**9)
    silent = worker(out, given, tmp_path / "one", server)

    def saved() -> bool:
        entry = newest(out, given.folder_name)
        return entry is not None and "checkpoint/checkpoint.json" in entry.files

    wait_until(lambda: saved() or silent.poll() is not None, 60)
    assert silent.poll() is None, silent.communicate()
    with pytest.raises(BlockingIOError, match=f"another process is at work on it .*process {silent.pid}"):
        RemoteRun(out, given.folder_name).hold().__enter__()
    os.kill(silent.pid, signal.SIGSTOP)
    time.sleep(2.5)
    with RemoteRun(out, given.folder_name).hold(stale=1.0) as held:
        kept = newest(out, given.folder_name)
        os.kill(silent.pid, signal.SIGCONT)
        _, error = silent.communicate(timeout=60)
        assert "LeaseLost" in error
        assert newest(out, given.folder_name) == kept
        held.check()
        held.commit()
        (held.folder / "DONE").write_text("x")
        held.commit(done=True)
    with RemoteRun(out, given.folder_name).hold() as late:
        assert late.done
        assert (late.folder / "DONE").exists()


def test_of_a_result_and_those_who_take_over_exactly_one_stands(journal: Journal) -> None:
    """All have read the same entry: the holder to finish, the others because it was silent."""
    for turn in range(4):
        one = Journal(journal.backend, f"{turn}")
        mine = one.take(whoami(), 60)

        def finish(one: Journal = one, mine: Entry = mine) -> str:
            return "done" if one.append(mine, {}, holder=None, done=True).done else "other"

        def take(one: Journal = one) -> str:
            entry = one.take(whoami(), -1)  # whoever it is, it was silent
            return "taken" if not entry.done else "was done"

        with ThreadPoolExecutor(5) as pool:
            tasks = [pool.submit(task) for task in random.Random(turn).sample([finish, *[take] * 4], 5)]
        results = [str(type(task.exception()).__name__) if task.exception() else task.result() for task in tasks]
        last = one.newest()
        assert last is not None
        assert last.done == ("done" in results)
        assert last.done or "LeaseLost" in results, results
        assert ("taken" in results) != last.done, results  # nobody took it after or beside the result


def test_a_stale_worker_never_fits_between_the_entries_that_were_deleted(journal: Journal) -> None:
    stale = journal.take(whoami(), 60)
    new = journal.take(whoami(), -1)
    last = new
    for _ in range(3):
        last = journal.append(last, {}, holder=whoami())
    numbers = sorted(int(name[:10]) for name in journal.backend.names("one/entries"))
    assert numbers == [stale.number, new.number, last.number]
    with pytest.raises(LeaseLost, match="another process took over"):
        journal.append(stale, {}, holder=None, done=True)
    assert journal.newest() == last


def test_what_was_only_half_put_is_never_read(
    store: Path,
    bucket: str,
    proxy: Proxy,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Files are put before the entry that names them: without it, the earlier checkpoint holds."""
    place = RemoteRun(f"{bucket}/runs", "one")
    with place.hold() as held:
        (held.folder / "checkpoint").mkdir()
        (held.folder / "checkpoint" / "checkpoint.json").write_text("first")
        held.commit()
        (held.folder / "checkpoint" / "checkpoint.json").write_text("second")
        proxy.mischief = lambda method, key: "cut" if method == "PUT" and "/entries/" in key else None
        held.commit()  # the server goes away for a moment
        assert "the next save tries again" in capsys.readouterr().err
        assert len([key for key in place.journal.backend.sizes("one/files") if key.endswith("json")]) == 2
        entry = place.journal.newest()
        assert entry is not None
        assert place.journal.backend.read(f"one/{entry.files['checkpoint/checkpoint.json'].key}") == b"first"
        (held.folder / "checkpoint" / "checkpoint.json").write_text("third")
    proxy.mischief = lambda method, key: None
    assert place.journal.newest() == entry  # it could not let go either
    with place.hold(stale=-1) as held:
        assert (held.folder / "checkpoint" / "checkpoint.json").read_text() == "first"
        assert len(place.journal.backend.sizes("one/files")) == 1


def test_an_entry_whose_answer_was_lost_is_ones_own(journal: Journal, proxy: Proxy) -> None:
    mine = journal.take(whoami(), 60)
    proxy.mischief = lambda method, key: "lost" if method == "PUT" and "/entries/" in key else None
    second = journal.append(mine, {}, holder=whoami())
    assert journal.newest() == second
    proxy.mischief = lambda method, key: None
    assert journal.append(mine, {}, holder=whoami()).number == second.number + 1  # had it not known


def test_damage_on_the_object_store_is_named_and_never_read(store: Path, bucket: str) -> None:
    out, given = f"{bucket}/runs", config(store)
    run(given, out)
    (found,) = survey(out)
    one = found.entry.files["episodes.jsonl"]
    where = found.journal.key(one.key)
    data = found.journal.backend.read(where)
    found.journal.backend.write(where, data[:20] + bytes([data[20] ^ 1]) + data[21:])
    (found.copy / "episodes.jsonl").unlink()
    with pytest.raises(StoreError, match=f"^{out}/{given.folder_name}/{one.key}: content is not what"):
        copied(out)
    before = replace(found.entry, done=False)
    found.journal.backend.write(found.journal.key(f"entries/{before.number:010d}.json"), before.to_bytes())
    with pytest.raises(StoreError, match="content is not what"):
        run(given, out)
    entry = found.journal.newest()
    assert entry is not None
    assert (entry.holder, entry.files) == (None, before.files)  # what could not be fetched stays
    key = found.journal.key(f"entries/{entry.number:010d}.json")
    found.journal.backend.write(key, b'{"number": 1, "files": {"../../x": ["k", "0", 1]}}')
    with pytest.raises(StoreError, match="not an entry of a run"):
        copied(out)


def test_a_sweep_on_an_object_store_is_that_of_a_folder_and_everything_reads_it(
    store: Path,
    bucket: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, local = f"{bucket}/some/runs", tmp_path / "local"
    flags = ["--learners", "bc", "iql", "--stores", str(store), "--steps", "6", "--batch-size", "8"]
    flags += ["--episodes", "1", "--axis", "learner.hidden=8", "--device", "cpu", "--slots", "2", "--out", out]

    def said(*argv: str, code: int = 0) -> str:
        assert main(list(argv)) == code
        return capsys.readouterr().out

    assert f"2 done, 0 were done before, 0 failed: {out}" in said("sweep", *flags)
    assert f"0 done, 2 were done before, 0 failed: {out}" in said("sweep", *flags)
    assert "2 runs: 2 done" in said("sweep", *flags, "--dry-run")
    assert sweep(grid(store).runs(), local, engine=Local(2)).done == 2
    assert not list((tmp_path / "cache" / "work").glob("*/*"))
    assert "2 runs: 2 done" in said("status", out)
    bodies = [json.loads(line) for line in said("status", f"{bucket}", "--json").splitlines()]
    assert [body["folder"] for body in bodies] == [f"{out}/{name}" for name in sorted(p.name for p in local.iterdir())]
    assert bodies[0]["score"] is not None
    name = bodies[0]["folder"].rpartition("/")[2]
    again = [json.loads(line) for line in said("eval", f"{out}/{name}", "--json").splitlines()]
    assert again == [json.loads(line) for line in (local / name / "episodes.jsonl").read_text().splitlines()]
    drawn = said("plot", out, "--figure", "comparison", "--out", str(tmp_path / "figures")).split()
    assert drawn
    assert all(Path(path).exists() for path in drawn)
    fetched = [Path(path) for path in said("fetch", out, "--out", str(tmp_path / "fetched")).split()]
    assert [bits(folder) for folder in fetched] == [bits(local / folder.name) for folder in fetched]
    assert said("report", out, "--out", str(tmp_path / "report")).strip().endswith(".html")


def test_a_failed_run_says_how_on_the_object_store(
    store: Path,
    bucket: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, good = f"{bucket}/runs", config(store)
    bad = replace(good, options={**good.options, "lr": 1e30}, steps=50)
    outcome = sweep([bad], out, engine=Local(1), retries=0)
    assert list(outcome.failed) == [bad.folder_name]
    assert "is not finite at step 50" in capsys.readouterr().err
    (one,), urls = states_of(out)
    assert (one.state, urls[one.folder]) == ("failed", f"{out}/{bad.folder_name}")
    assert "is not finite at step 50" in one.message


URL = "s3://bucket/runs"
TRAIN = ["train", "bc", "--store", "STORE", "--steps", "5"]
SWEEP = ["sweep", "--learners", "bc", "--stores", "STORE", "--steps", "5"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([*TRAIN, "--out", "s3:///x"], "names no bucket; expected s3://bucket/prefix"),
        ([*TRAIN, "--out", "ftp://host/x"], "ftp:// is no kind of store"),
        ([*TRAIN, "--out", "memory://x/runs"], "is kept in one process"),
        ([*TRAIN, "--out", URL], "AWS_ENDPOINT_URL says where it is"),
        ([*SWEEP, "--out", URL], "AWS_ENDPOINT_URL says where it is"),
        ([*SWEEP, "--out", URL, "--engine", "slurm"], "no folder that its nodes see"),
        ([*SWEEP, "--out", URL, "--search", "random", "--axis", "learner.lr=1e-4:1e-2"], "--search reads its trials"),
        (["status", URL], "AWS_ENDPOINT_URL says where it is"),
        (["claim", "--out", URL], f"out is a folder or file, not {URL}"),
        (["plot", URL, "--out", URL], "packmule fetch copies runs into a folder"),
        (["distance", URL], f"runs is a folder or file, not {URL}"),
        (["eval", URL, "--video", "1"], "copy the run first"),
        (["fetch", "runs"], "runs is no URL"),
    ],
)
def test_what_cannot_be_is_one_clear_line_before_anything_starts(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    argv: list[str], message: str,
) -> None:  # fmt: skip
    pytest.importorskip("obstore")
    for name, value in {"PACKMULE_REMOTE_SECONDS": "1", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "packmule")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-show-this")
    monkeypatch.setenv("PACKMULE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert main([str(store) if word == "STORE" else word for word in argv]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("packmule: error: ")
    assert error.count("\n") == 1
    assert "do-not-show" not in error
    assert list(tmp_path.iterdir()) == []
