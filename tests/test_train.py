"""Laws of a run: it repeats, it resumes bit for bit, and its folder says everything."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from toolkit import checkpoint, train
from toolkit.cli import main
from toolkit.collect import collect
from toolkit.compiled import PAYS_FROM, compiled, obstacle
from toolkit.configure import configure, load_learner
from toolkit.core import Spec
from toolkit.evaluate import evaluate, rollouts
from toolkit.fqe import learner_spec
from toolkit.lease import hold
from toolkit.records import RunConfig, load, read_config, read_metrics
from toolkit.registry import learner, suite
from toolkit.rows_of_runs import place, returns


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("train") / "p.zarr"
    return collect("pendulum", out=path, episodes=8, contexts=4, coverage=0.5, seed=0)


def configured(store, learner: str = "iql", **changes) -> RunConfig:
    settings = {"steps": 60, "episodes": 2, "batch_size": 32, "options": {"hidden": (16,)}} | changes
    return configure(learner, store=store.path, device="cpu", **settings)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state = checkpoint.read(folder / "checkpoint")
    assert state is not None
    return checkpoint.flatten(state["learner"])[0]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("learner", ["bc", "cql", "iql", "mpc"])
def test_the_same_configuration_gives_the_same_records_and_weights(store, tmp_path, learner):
    config = configured(store, learner, steps=20)
    one, two = train.run(config, tmp_path / "a"), train.run(config, tmp_path / "b")
    assert (one / "episodes.jsonl").read_bytes() == (two / "episodes.jsonl").read_bytes()
    assert equal(weights(one), weights(two))


def test_evaluating_on_the_way_changes_no_weight_and_no_final_score(store, tmp_path):
    plain = train.run(configured(store, "cql", steps=50), tmp_path)
    curved = train.run(configured(store, "cql", steps=50, evaluate_every=20), tmp_path)
    assert plain != curved
    assert equal(weights(plain), weights(curved))
    records = load(curved)
    assert [record.step for record in records] == [20] * 4 + [40] * 4 + [50] * 4
    final = [replace(record, run="") for record in records if record.step == 50]
    assert final == [replace(record, run="") for record in load(plain)]


def test_a_snapshot_is_the_learner_of_that_step(store, tmp_path):
    short = train.run(configured(store, "iql", steps=20), tmp_path)
    folder = train.run(configured(store, "iql", steps=50, evaluate_every=20), tmp_path)
    state = load_learner(folder, step=20)[1].state_dict()
    assert equal(checkpoint.flatten(state)[0], weights(short))
    with pytest.raises(ValueError, match=r"no snapshot of step 30; it has \[20, 40\]"):
        load_learner(folder, step=30)


def test_training_and_evaluating_tell_how_long_an_action_takes(store, tmp_path, capsys):
    flags = ["--store", str(store.path), "--steps", "5", "--episodes", "2", "--learner.hidden", "8"]
    assert main(["train", "bc", *flags, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "acts in" in said.err
    assert main(["eval", said.out.splitlines()[-1]]) == 0
    assert "acts in" in capsys.readouterr().err


def test_evaluating_nothing_on_the_way_is_refused(store):
    with pytest.raises(ValueError, match="evaluate_every is 10, with 0 episodes"):
        configured(store, episodes=0, evaluate_every=10)


@pytest.mark.parametrize("evaluate_every", [0, 10])
def test_a_run_stopped_by_a_signal_resumes_bit_for_bit(store, tmp_path, monkeypatch, evaluate_every):
    config = configured(store, steps=120, evaluate_every=evaluate_every)
    whole = train.run(config, tmp_path / "whole")
    from algos.iql import IQL

    calls, update = 0, IQL.update

    def interrupting(self, batch):
        nonlocal calls
        calls += 1
        if calls in (37, 80):
            os.kill(os.getpid(), signal.SIGINT)
        return update(self, batch)

    monkeypatch.setattr(IQL, "update", interrupting)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train.run(config, tmp_path / "parts")
    parts = train.run(config, tmp_path / "parts")
    assert calls == 120
    assert equal(weights(whole), weights(parts))
    assert (whole / "episodes.jsonl").read_bytes() == (parts / "episodes.jsonl").read_bytes()


def test_a_compiled_run_stopped_by_a_signal_resumes_bit_for_bit(store, tmp_path, monkeypatch):
    if problem := obstacle(learner("bc"), "cpu"):
        pytest.skip(problem)
    config = configured(store, "bc", compile="on")
    whole, calls = train.run(config, tmp_path / "whole"), 0

    def interrupted(learner):
        quick = compiled(learner)

        def step(batch):
            nonlocal calls
            calls += 1
            if calls == 23:
                os.kill(os.getpid(), signal.SIGINT)
            return quick(batch)

        return step

    monkeypatch.setattr(train, "compiled", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.run(config, tmp_path / "parts")
    parts = train.run(config, tmp_path / "parts")
    assert calls == config.steps
    assert equal(weights(whole), weights(parts))


def test_compiling_is_part_of_a_runs_identity_and_auto_leaves_short_runs_alone(store):
    plain = configured(store, "bc")
    assert configured(store, "bc", compile="auto").identity == plain.identity
    if not obstacle(learner("bc"), "cpu"):
        assert configured(store, "bc", compile="on").identity != plain.identity
        assert configured(store, "bc", compile="auto", steps=PAYS_FROM).compiled


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dt", {}, "dt with these options has no update that can be compiled whole"),
        ("iql", {"dropout": 0.1}, "iql with these options"),
    ],
)
def test_what_cannot_be_compiled_is_refused_before_it_starts(store, name, options, message):
    with pytest.raises(ValueError, match=message):
        configured(store, name, compile="on", options=options)


def test_without_a_compiler_on_is_refused_and_auto_does_without(store, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="no C\\+\\+ compiler \\(no-such-compiler\\)"):
        configured(store, "bc", compile="on")
    assert not configured(store, "bc", compile="auto", steps=PAYS_FROM).compiled


def test_sigkill_while_training_resumes_bit_for_bit(store, tmp_path):
    config = configured(store, steps=400)
    (tmp_path / "config.json").write_text(json.dumps(config.to_json()))
    program = (
        "import json, sys; from toolkit import train; from toolkit.records import RunConfig\n"
        "train.SAVE_SECONDS = 0.02\n"
        "print('ready', flush=True)\n"
        "train.run(RunConfig.from_json(json.load(open(sys.argv[1]))), sys.argv[2])"
    )
    rng, folder = random.Random(0), tmp_path / "killed" / config.folder_name
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "config.json"), str(tmp_path / "killed")],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        process.stdout.readline()
        deadline = time.monotonic() + 30
        while not (folder / "checkpoint" / "checkpoint.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.communicate()
    assert checkpoint.read(folder / "checkpoint")["step"] > 0
    killed, whole = train.run(config, tmp_path / "killed"), train.run(config, tmp_path / "whole")
    assert equal(weights(killed), weights(whole))
    steps = [line["step"] for line in read_metrics(killed)]
    assert steps == sorted(set(steps)) == [line["step"] for line in read_metrics(whole)]


def test_a_finished_run_is_not_repeated(store, tmp_path):
    config = configured(store)
    folder = train.run(config, tmp_path)
    before = (folder / "episodes.jsonl").stat().st_mtime_ns
    assert train.run(config, tmp_path) == folder
    assert (folder / "episodes.jsonl").stat().st_mtime_ns == before


def test_a_saved_configuration_is_complete(store, tmp_path):
    folder = train.run(configured(store), tmp_path)
    again = read_config(folder)
    assert again.identity in folder.name
    assert again == configured(store)
    assert train.run(again, tmp_path / "again").name == folder.name


def test_identity_changes_with_all_that_decides_the_result(store):
    base = configured(store)
    others = [
        configured(store, seed=1),
        configured(store, steps=61),
        configured(store, options={"hidden": (17,)}),
        configured(store, "bc"),
        replace(base, fingerprint="0" * 32),
        replace(base, tags={"draw": 1}),
    ]
    assert len({config.identity for config in [base, *others]}) == len(others) + 1
    assert replace(base, store="elsewhere").identity == base.identity


def test_two_processes_cannot_work_on_one_run(store, tmp_path):
    config = configured(store)
    folder = tmp_path / config.folder_name
    folder.mkdir()
    with hold(folder), pytest.raises(BlockingIOError, match="another process"):
        train.run(config, tmp_path)


def test_data_that_changed_is_refused(store, tmp_path):
    with pytest.raises(ValueError, match="fingerprint differs"):
        train.run(replace(configured(store), fingerprint="0" * 32), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_learners_share_evaluation_episodes_but_not_batches(store, tmp_path):
    folders = [train.run(configured(store, name, steps=5), tmp_path) for name in ("bc", "iql")]
    one, two = (load(folder) for folder in folders)
    assert [(r.split, r.context, r.env_seed) for r in one] == [(r.split, r.context, r.env_seed) for r in two]


def test_seen_contexts_are_the_datas_and_unseen_are_not(store, tmp_path):
    records = load(train.run(configured(store, steps=5, episodes=6), tmp_path))
    known = {tuple(c) for c in store.episodes["context"].tolist()}
    assert {tuple(r.context) for r in records if r.split == "seen"} == known
    assert not {tuple(r.context) for r in records if r.split == "interpolated"} & known


def test_a_damaged_checkpoint_is_an_error(tmp_path):
    checkpoint.write(tmp_path, {"a": torch.arange(5), "b": {"c": 1.5}})
    (file,) = tmp_path.glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.read(tmp_path)


def test_a_checkpoint_comes_back_equal_and_leaves_one_file(tmp_path):
    rng = np.random.default_rng(0)
    for step in range(3):
        state = {"w": torch.randn(3), "deep": {"x/": 1} if step < 0 else {"n": step, "none": None}}
        state["rng"] = rng.bit_generator.state
        checkpoint.write(tmp_path, state)
    back = checkpoint.read(tmp_path)
    assert torch.equal(back["w"], state["w"])
    assert back["deep"] == state["deep"]
    assert back["rng"] == state["rng"]
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    with pytest.raises(ValueError, match="without '/'"):
        checkpoint.write(tmp_path, {"a/b": 1})
    with pytest.raises(TypeError, match="'a/f'"):
        checkpoint.write(tmp_path, {"a": {"f": object()}})


class Counting:
    """A policy that checks what it is shown: `first` exactly at each episode's start."""

    def __init__(self, n: int) -> None:
        self.age, self.firsts = np.full(n, -1), 0

    def act(self, step):
        self.firsts += int(step.first.sum())
        self.age = np.where(step.first, 0, self.age + 1)
        assert (step.reward[step.first] == 0).all()
        return np.zeros((len(step.obs), 1), np.float32)


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_outcomes_do_not_depend_on_how_many_environments_run_together(store, rows):
    pendulum = suite("pendulum")
    contexts = pendulum.contexts("interpolated", 5, seed=0)
    policy = Counting(min(rows, 5))
    outcomes, _ = rollouts(policy, pendulum, store.schema, contexts, range(5), rows=rows)
    assert policy.firsts == 5
    alone = [rollouts(Counting(1), pendulum, store.schema, contexts[i : i + 1], [i])[0][0] for i in range(5)]
    assert outcomes == alone


@pytest.mark.parametrize("name", ["config.json", "spec.json", "checkpoint/checkpoint.json", "episodes.jsonl"])
def test_a_damaged_file_of_a_run_is_an_error_that_names_it(store, tmp_path, name):
    folder = train.run(configured(store, steps=5), tmp_path)
    path = folder / name
    data = path.read_bytes()
    flipped = bytearray(data)
    beyond_path = max(len(data) // 2, data.find(b'"suite"'))  # another store's path is no damage: a store may move
    digit = next(i for i in range(beyond_path, len(data)) if chr(data[i]) in "02468")
    flipped[digit] ^= 1  # still JSON, but another number
    for damaged in (b"", data[: len(data) // 2], b"[1]", b"{}", b"[" * 100_000, b"\xff\xfe", bytes(flipped)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=str(folder)):
            (load if name == "episodes.jsonl" else evaluate)(folder)


@pytest.mark.parametrize(
    ("name", "content", "commands", "message"),
    [
        ("DONE", b"", ["plot", "report"], "DONE is empty"),
        ("episodes.jsonl", None, ["plot", "report", "mirror"], "episodes.jsonl is missing"),
        ("config.json", None, ["plot", "report"], "has no config.json"),
        ("config.json", b"{}", ["status", "plot", "mirror", "report"], "config.json"),
        ("state.json", b'{"step": "a"}', ["status", "mirror"], "state.json: step, seconds and scores are not numbers"),
        ("metrics.jsonl", b"[]\n{}\n", ["plot", "report", "mirror"], "metrics.jsonl:1: not a line of metrics"),
        ("state.json", b'{"scores": [1]}', ["status", "mirror"], "state.json: step"),
    ],
)
def test_commands_for_many_runs_name_the_file_that_is_damaged_or_gone_and_write_nothing(
    store, tmp_path, capsys, name, content, commands, message
):
    folder = train.run(configured(store, steps=5), tmp_path / "runs")
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    for command in commands:
        out = [] if command == "status" else ["--out", str(tmp_path / "out")]
        assert main([command, str(tmp_path / "runs"), *out]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_a_finished_run_whose_checkpoint_is_gone_is_not_one_that_has_none_yet(store, tmp_path):
    folder = train.run(configured(store, steps=5), tmp_path)
    shutil.rmtree(folder / "checkpoint")
    for step in (None, 5):
        with pytest.raises(ValueError, match=r"is finished, but its checkpoint is missing: .* delete DONE"):
            load_learner(folder, step=step)


def test_a_return_is_read_from_the_records_that_the_run_ended_with(store, tmp_path):
    folder = train.run(configured(store, steps=5), tmp_path)
    assert returns(folder).keys() == {5}
    path = folder / "episodes.jsonl"
    path.write_text(path.read_text().replace('"episode_return": -', '"episode_return": ', 1))
    with pytest.raises(ValueError, match=r"episodes\.jsonl is not what DONE says"):
        returns(folder)


def test_a_run_without_its_specification_says_what_is_missing_and_what_to_do(store, tmp_path):
    folder = train.run(configured(store, steps=5), tmp_path)
    (folder / "spec.json").unlink()
    for ask in (load_learner, place, evaluate, learner_spec):
        with pytest.raises(ValueError, match=rf"{folder} has no spec\.json, .* train it again"):
            ask(folder)


def test_a_finished_run_follows_its_store(store, tmp_path):
    folder = train.run(configured(store), tmp_path)
    shutil.copytree(store.path, tmp_path / "moved.zarr")
    assert train.run(replace(configured(store), store=str(tmp_path / "moved.zarr")), tmp_path) == folder
    assert read_config(folder).store == str(tmp_path / "moved.zarr")


def test_an_interrupt_while_saving_for_the_last_time_is_heard(store, tmp_path, monkeypatch):
    config, write = configured(store), checkpoint.write

    def interrupting(folder, state):
        write(folder, state)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as once:
        once.setattr(checkpoint, "write", interrupting)
        with pytest.raises(KeyboardInterrupt):
            train.run(config, tmp_path)
    assert len(load(train.run(config, tmp_path))) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 10**26}, "batch_size must be at most"),
        ({"threads": 10**26}, "threads must be at most"),
        ({"splits": ("seen", "seen")}, "each split once"),
    ],
)
def test_settings_out_of_range_are_refused(store, change, message):
    with pytest.raises(ValueError, match=message):
        configured(store, **change)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fb", {"z_dim": 10**20}, "z_dim of fb is 10"),
        ("mpc", {"hidden": (10**20,)}, "hidden of mpc is 10"),
        ("mpc", {"lr": float("inf")}, "lr of mpc is inf"),
        ("fb", {"noise_clip": 1e300}, "noise_clip of fb is 1e"),
        ("fb", {"hidden": (2**31 - 1, 2**31 - 1)}, "cannot be built with these options"),
    ],
)
def test_options_that_no_network_could_have_are_refused_by_name(store, name, options, message):
    with pytest.raises(ValueError, match=message):
        configured(store, name, options=options)


def test_a_run_whose_configuration_was_edited_after_it_ended_is_not_evaluated(store, tmp_path):
    folder = train.run(configured(store, steps=2), tmp_path)
    body = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(body | {"seed": 5}))
    with pytest.raises(ValueError, match=r"config\.json and DONE name different runs"):
        evaluate(folder)


def test_a_specification_with_unbounded_actions_is_plain_json_and_comes_back(store):
    spec = replace(store.spec, action_low=np.array([-np.inf], np.float32), action_high=np.array([np.inf], np.float32))
    again = Spec.from_json(json.loads(json.dumps(spec.to_json(), allow_nan=False)))
    assert again.action_low == -np.inf
    assert again.action_high == np.inf
    assert again.to_json() == spec.to_json()
