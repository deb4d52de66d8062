"""Laws of what surrounds a sweep: names that tell runs apart, searches with equal budgets, mirrors, doctor."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fake_records import fake_records
from sweeping import grid

from toolkit.cli import main
from toolkit.collect import collect
from toolkit.doctor import findings
from toolkit.engines.local import Local
from toolkit.grid import Axis, Grid
from toolkit.plots import unseen
from toolkit.records import read_metrics, read_records
from toolkit.runs import Evaluated, run_table
from toolkit.status import begun
from toolkit.sweep import sweep
from toolkit.variants import named


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tools") / "p.zarr"
    collect("pendulum", out=path, episodes=6, contexts=3, coverage=0.5, seed=0)
    return path


def body(run: str, **changes: object) -> dict:
    common = {"learner": "bc", "options": {"lr": 1e-3, "hidden": [8]}, "store": "data/a.zarr", "view": None}
    return {**common, "suite": "pointmaze", "fingerprint": "a", "steps": 5, "batch_size": 8, "tags": {}, **changes}


def test_runs_that_differ_in_more_than_their_seed_have_names_of_their_own():
    records = fake_records(learners=("bc",), cells=((2000, 2, 0.1),), draws=1, seeds=2, tagged=False)
    one, other = sorted({r.run for r in records})
    configs = {one: body(one), other: body(other)}
    assert named(records, configs) == records
    configs[other] = body(other, options={"lr": 3e-4, "hidden": [8]})
    assert {r.learner for r in named(records, configs)} == {"bc lr=0.001", "bc lr=0.0003"}
    configs[other] = body(other, steps=6)
    assert {r.learner for r in named(records, configs)} == {"bc steps=5", "bc steps=6"}
    configs[other] = body(other, fingerprint="b", store="data/b.zarr", view="half")
    assert {r.suite for r in named(records, configs)} == {"pointmaze a.zarr", "pointmaze b.zarr@half"}
    configs = {run: replace_tags(config) for run, config in configs.items()}
    assert {r.suite for r in named(records, configs)} == {"pointmaze"}


def replace_tags(config: dict) -> dict:
    return {**config, "tags": {"draw": 1}}


def test_runs_with_one_seed_and_two_rates_make_a_table():
    records = fake_records(learners=("bc",), cells=((2000, 2, 0.1),), draws=1, seeds=2, tagged=False)
    records = [replace(r, seed=0) for r in records]
    with pytest.raises(ValueError, match="are both bc"):
        run_table(records)
    one, other = sorted({r.run for r in records})
    configs = {one: body(one), other: body(other, options={"lr": 3e-4, "hidden": [8]})}
    assert [run.learner for run in run_table(named(records, configs))] == ["bc lr=0.0003", "bc lr=0.001"]


def test_a_table_that_is_made_once_is_the_table_of_the_records():
    records = fake_records(learners=("bc", "iql"), cells=((2000, 2, 0.1),), draws=2, seeds=2)
    kept = Evaluated(records)
    assert run_table(kept) == run_table(records) == run_table(kept)


def test_a_panel_a_learner_is_refused_for_more_learners_than_can_be_told_apart():
    names = [f"bc lr={i}" for i in range(31)]
    records = [replace(r, learner=n, run=f"{r.run}-{n}") for n in names for r in fake_records(learners=("bc",))[:20]]
    with pytest.raises(ValueError, match="at most 30 learners"):
        unseen.rows(records)


def test_plot_and_report_take_a_sweep_also_while_it_runs(store, tmp_path, capsys):
    axes = [Axis.parse("learner.hidden=8"), Axis.parse("bc.lr=1e-3,3e-4")]
    runs = replace(grid(store, seeds=2), axes=axes).runs()
    sweep(runs, tmp_path / "runs", engine=Local(2))
    (tmp_path / "runs" / runs[0].folder_name / "DONE").unlink()
    assert main(["plot", str(tmp_path / "runs"), "--out", str(tmp_path / "figures")]) == 0
    assert "without 1 runs that are not finished" in capsys.readouterr().err
    table = (tmp_path / "figures" / "comparison.csv").read_text()
    assert "bc lr=0.001" in table
    assert "bc lr=0.0003" in table
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "report")]) == 0
    assert "bc lr=0.0003" in (tmp_path / "report" / "report.html").read_text()


def search(store: Path, out: Path, kind: str, *flags: str) -> int:
    argv = ["sweep", "--learners", "bc", "iql", "--stores", str(store), "--steps", "9", "--episodes", "1", *flags]
    argv += ["--batch-size", "8", "--axis", "learner.hidden=8,16", "--device", "cpu", "--out", str(out)]
    return main([*argv, "--axis", "learner.lr=1e-4:1e-2:log", "--search", kind, "--trials", "6", "--slots", "2"])


@pytest.mark.parametrize("kind", ["random", "tpe", "halving"])
def test_a_search_gives_each_learner_the_same_budget_and_repeats_nothing(store, tmp_path, capsys, kind):
    pytest.importorskip("optuna")
    assert search(store, tmp_path, kind) == 0
    configs = [json.loads((folder / "config.json").read_text()) for folder in begun(tmp_path)]
    steps = {name: sorted(c["steps"] for c in configs if c["learner"] == name) for name in ("bc", "iql")}
    assert steps["bc"] == steps["iql"] == ([3] * 6 + [9] * 2 if kind == "halving" else [9] * 6)
    assert all(1e-4 <= c["options"]["lr"] <= 1e-2 for c in configs)
    first = (tmp_path / f"best-{kind}.json").read_text()
    before = {folder: (folder / "DONE").stat().st_mtime_ns for folder in begun(tmp_path)}
    assert search(store, tmp_path, kind) == 0
    assert (tmp_path / f"best-{kind}.json").read_text() == first
    assert {folder: (folder / "DONE").stat().st_mtime_ns for folder in begun(tmp_path)} == before
    capsys.readouterr()
    preset = ["--preset", str(tmp_path / f"best-{kind}.json"), "--stores", str(store), "--out", str(tmp_path)]
    again = ["--steps", "9", "--episodes", "1", "--batch-size", "8", "--device", "cpu", "--dry-run"]
    assert main(["sweep", *preset, *again]) == 0
    assert "2 runs: 2 done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--axis", "learner.lr=1e-2:1e-4"], "must rise"),
        (["--axis", "learner.lr=0:1:log"], "from above 0 for log"),
        (["--axis", "learner.lr=1:2:3"], "must be LOW:HIGH or LOW:HIGH:log"),
        (["--axis", "iql.expectile=0.7,0.9"], "no axis touches bc"),
        (["--axis", "learner.lr=1e-3,1e-4", "--trials", "0"], "trials must be at least 1"),
        (["--axis", "learner.lr=1e-3,1e-4", "--episodes", "0"], "leave out --dry-run and --episodes 0"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(store, tmp_path, monkeypatch, capsys, flags, message):
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    argv = ["sweep", "--learners", "bc", "iql", "--stores", str(store), "--steps", "5", "--search", "random"]
    assert main([*argv, *flags]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_gets_every_number_of_metrics_jsonl(store, tmp_path):
    tensorboard = pytest.importorskip("tensorboardX.proto.event_pb2")
    sweep(grid(store).runs(), tmp_path / "runs", engine=Local(2))
    for _ in range(2):  # again is the same
        assert main(["mirror", str(tmp_path / "runs"), "--out", str(tmp_path / "tb")]) == 0
    for folder in begun(tmp_path / "runs"):
        (events,) = (tmp_path / "tb" / folder.name).glob("events.out.tfevents.*")
        found = {}
        for record in records_of(events.read_bytes()):
            event = tensorboard.Event.FromString(record)
            found.update({(event.step, value.tag): value.simple_value for value in event.summary.value})
        for line in read_metrics(folder):
            for name, value in line.items():
                if name != "step":
                    assert found[line["step"], name] == pytest.approx(value, rel=1e-6)
        assert (6, "score/interpolated") in found


def records_of(data: bytes) -> list[bytes]:
    """The records of an event file: length (8 bytes), checksum (4), the record, checksum (4)."""
    found = []
    while data:
        size = int.from_bytes(data[:8], "little")
        found.append(data[12 : 12 + size])
        data = data[16 + size :]
    return found


@pytest.fixture(scope="module")
def followed(store, tmp_path_factory) -> Path:
    """Two runs with scores on the way; the second still goes on, and its last line is being written."""
    out = tmp_path_factory.mktemp("followed") / "runs"
    scored = grid(store)
    sweep(replace(scored, settings={**scored.settings, "evaluate_every": 3}).runs(), out, engine=Local(2))
    going = begun(out)[1]
    (going / "DONE").unlink()
    (going / "episodes.jsonl").rename(going / "evaluations.jsonl")
    with (going / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "seco')
    return out


def test_wandb_keeps_every_number_once_at_its_step_and_asks_no_network(followed, tmp_path):
    wandb = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    flags = ["mirror", str(followed), "--to", "wandb", "--out", str(tmp_path / "kept")]
    with socket.create_server(("127.0.0.1", 0)) as proxy:  # all that is asked goes here
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), address)
        for _ in range(2):  # again is the same
            done = subprocess.run(
                [sys.executable, "-m", "toolkit.cli", *flags], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                env={**kept, **proxies, "HOME": str(tmp_path)}, check=False,
            )  # fmt: skip
            assert (done.returncode, done.stderr) == (0, "")
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()
    for folder in begun(followed):
        (file,) = (tmp_path / "kept/wandb").glob(f"offline-run-*/run-{folder.name}.wandb")
        found: dict[int, dict[str, float]] = {}
        for record in map(wandb.Record.FromString, blocks_of(file.read_bytes())):
            if record.WhichOneof("record_type") == "history":
                items = {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
                assert items["_step"] not in found
                found[items["_step"]] = {name: value for name, value in items.items() if name[0] != "_"}
        for line in read_metrics(folder):
            assert line.items() - {("step", line["step"])} <= found[line["step"]].items()
        assert set(found) == {3, 6}
        for step, numbers in found.items():
            returns = [one.score for one in read_records(next(folder.glob("e*s.jsonl"))) if one.step == step]
            scores = [value for name, value in numbers.items() if name.startswith("score/")]
            assert sorted(scores) == pytest.approx(sorted(returns), abs=1e-6)  # one episode a split


def blocks_of(data: bytes) -> list[bytes]:
    """The records of a .wandb file: after 7 bytes, parts of checksum (4), length (2), kind (1), in 32 KiB blocks."""
    found, record, at = [], b"", 7
    while at < len(data):
        if 32768 - at % 32768 < 7:  # padding
            at += 32768 - at % 32768
            continue
        end = at + 7 + int.from_bytes(data[at + 4 : at + 6], "little")
        record += data[at + 7 : end]
        if data[at + 6] in (1, 4):  # whole, or the last part
            found.append(record)
            record = b""
        at = end
    return found


@pytest.mark.parametrize(("target", "library"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_damaged_run_is_refused_before_any_is_mirrored(followed, tmp_path, capsys, target, library):
    pytest.importorskip(library)
    shutil.copytree(followed, tmp_path / "runs")
    damaged = begun(tmp_path / "runs")[1] / "metrics.jsonl"
    damaged.write_text("no metrics\n" + damaged.read_text())
    assert main(["mirror", str(tmp_path / "runs"), "--to", target, "--out", str(tmp_path / "out")]) == 2
    assert f"{damaged}:1: not a line of metrics" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", ["disabled", "dryrun"])
def test_a_mode_that_would_mirror_nothing_is_refused(followed, tmp_path, monkeypatch, capsys, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    assert main(["mirror", str(followed), "--to", "wandb", "--out", str(tmp_path / "out")]) == 2
    assert f"WANDB_MODE is '{mode}'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_doctor_finds_this_environment_usable_and_leaves_nothing(tmp_path, capsys):
    assert main(["doctor", "--out", str(tmp_path), "--json"]) == 0
    found = {one["what"]: one for one in map(json.loads, capsys.readouterr().out.splitlines())}
    assert {"python", "torch", "processor", "GPU", "memory", "disk", "suites ready", "rendering"} <= set(found)
    assert all(one["fix"] for one in found.values() if one["level"] != "ok")
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_names_what_is_missing_and_the_fix(tmp_path, monkeypatch):
    from toolkit import doctor

    monkeypatch.setattr(doctor, "REQUIRED", ("numpy", "no-such-package"))
    monkeypatch.setattr(doctor, "EXTRAS", {"remote": "no_such_module"})
    found = {one.what: one for one in findings(tmp_path)}
    assert found["no-such-package"].level == "problem"
    assert "pip install" in found["no-such-package"].fix
    assert "packmule[remote]" in found["extras not installed"].fix


def test_a_grid_of_one_run_is_that_run(store):
    assert len(Grid(["bc"], [str(store)], [3], settings={"steps": 5}).runs()) == 1
