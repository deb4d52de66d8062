"""Laws of the command line: light to start, and wrong input is a clear message, exit code 2 and nothing written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from toolkit import registry
from toolkit.cli import main
from toolkit.collect import collect
from toolkit.commands.learners import described, page
from toolkit.store import ReplayStore

COLLECT = ["collect", "pendulum", "--episodes", "6", "--contexts", "3", "--coverage", "0.5"]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "p.zarr"
    collect("pendulum", out=path, episodes=6, contexts=3, coverage=0.5, seed=0)
    return path


def call(*argv: str, capsys) -> tuple[int, str, str]:
    try:
        code = main(argv)
    except SystemExit as stop:
        code = int(stop.code or 0)
    out = capsys.readouterr()
    return code, out.out, out.err


def test_help_and_records_load_no_torch():
    code = (
        "import sys; import toolkit.cli, toolkit.stats, toolkit.claim, toolkit.records, toolkit.plots, toolkit.report\n"
        "try: toolkit.cli.main(['--help'])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "claim" in done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["train", "iqk", "--store", "STORE"], "did you mean 'iql'"),
        (["train", "iql", "--store", "nowhere.zarr"], "no store at nowhere.zarr"),
        (["train", "iql", "--store", "STORE", "--learner.expectile", "1.5"], "expectile must lie in (0, 1), got 1.5"),
        (["train", "iql", "--store", "STORE", "--learner.lr=-1"], "error: --learner.lr: lr must be above 0 and finite"),
        (["train", "iql", "--store", "STORE", "--learner.lr", "abc"], "Error parsing --learner.lr:"),
        (["train", "mpc", "--store", "STORE", "--learner.best", "80"], "--learner.best: best (80) must be smaller"),
        (["train", "iql", "--store", "STORE", "--steps", "0"], "steps must be at least 1, got 0"),
        (["train", "iql", "--store", "STORE", "--steps", "many"], "invalid"),
        (["train", "iql", "--store", "STORE", "--view", "none"], "has no view 'none'"),
        (["train", "iql", "--store", "STORE", "--view", "../x"], "not a valid name"),
        (["train", "iql", "--store", "STORE", "--device", "tpu9"], "tpu9"),
        (["train", "d3rlpy", "--store", "STORE", "--learner.algo", "nope"], "nope"),
        (["train", "iql", "--store", "STORE", "--device", "meta"], "cannot be used"),
        (["train", "iql", "--store", "STORE", "--splits", "seen", "seen"], "each split once"),
        (["train"], ""),
        (["collect", "pendulm", "--out", "x.zarr"], "did you mean 'pendulum'"),
        (["collect", "pendulum", "--out", "x.zarr", "--coverage", "2"], "coverage must lie in [0, 1], got 2"),
        (["collect", "pendulum", "--out", "x.zarr", "--episodes", "0"], "episodes must be at least 1"),
        (["collect", "pointmaze", "--out", "STORE"], "was made by"),
        (["collect", "pendulum", "--out", "STORE", "--seed", "9"], "was made by"),
        (["data", "info", "nowhere.zarr"], "no store at nowhere.zarr"),
        (["eval", "nowhere"], "not a run"),
        (["plot", "nowhere"], "does not exist"),
        (["plot", "."], "no finished runs"),
        (["claim", "--suite", "huge"], "huge"),
        (["claim", "--out", "STORE"], "holds no study"),
        (["claim", "--out", "STORE/zarr.json"], "is a file, and a folder is needed"),
        (
            ["train", "iql", "--store", "STORE", "--out", "STORE/zarr.json/x"],
            "is a file, and a folder is needed",
        ),
        (["plot", "STORE", "--out", "STORE/zarr.json"], "is a file, and a folder is needed"),
        (["report", "STORE", "--out", "STORE/zarr.json"], "is a file, and a folder is needed"),
        (["mirror", "STORE", "--out", "STORE/zarr.json"], "is a file, and a folder is needed"),
        (["distance", "STORE", "--out", "STORE/zarr.json"], "is a file, and a folder is needed"),
        (["bottlenecks", "STORE", "--out", "STORE/zarr.json"], "is a file, and a folder is needed"),
        (["bits", "STORE", "--store", "STORE", "--table", "STORE/zarr.json/bits_of_runs.csv"], "folder is needed"),
        (["bits", "STORE", "--store", "STORE", "--rows", "0"], "rows must be at least 1 and seed at least 0, got 0"),
        (["fqe", "STORE", "--seed", "-1"], "seed must be at least 0, got -1"),
        (["eval", "STORE", "--video", "-1"], "video must be at least 1 episode to film, or 0 for none; got -1"),
        (["eval", "STORE", "--diagnose", "--video", "-1"], "video must be at least 1 episode"),
        (["fly"], "fly"),
    ],
)
def test_wrong_input_is_one_clear_error_and_nothing_is_written(store, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(*[flag.replace("STORE", str(store)) for flag in flags], capsys=capsys)
    assert code == 2
    assert message in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
    assert "dummy" not in err, "an inner name of the parser's"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["eval", "eval --diagnose", "fqe", "plot", "report --out r", "mirror", "distance"])
def test_a_command_for_runs_that_is_given_none_says_so(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 2
    assert "no runs were given" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_store_of_another_environment_is_refused(tmp_path, make_store, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = make_store([5, 6])  # its schema says the suite is "count"
    code, _, err = call("train", "bc", "--store", str(store.path), capsys=capsys)
    assert code == 2
    assert "unknown suite 'count'" in err
    assert not Path("runs").exists()


def test_collect_train_eval_plot_report_work_together(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(*COLLECT, "--out", "d.zarr", capsys=capsys)
    assert code == 0
    assert "6 episodes, 1200 transitions" in out
    code, out, _ = call(
        *[
            "train",
            "iql",
            "--store",
            "d.zarr",
            "--steps",
            "30",
            "--episodes",
            "2",
            "--learner.hidden",
            "16",
            "--seed",
            "3",
        ],
        capsys=capsys,
    )
    assert code == 0
    folder = out.split()[-1]
    assert "interpolated" in out
    first = (Path(folder) / "episodes.jsonl").read_text()
    code, out, _ = call("eval", folder, "--json", capsys=capsys)
    assert code == 0
    assert out == first, "evaluating again repeats the run's own evaluation"
    code, out, _ = call("eval", folder, "--contexts", "held-out", "--episodes", "1", capsys=capsys)
    assert code == 0
    assert "extrapolated" in out
    assert "seen" not in out
    code, out, _ = call("plot", "runs", "--figure", "comparison", capsys=capsys)
    assert code == 0
    assert {Path(line).suffix for line in out.split()} == {".png", ".svg", ".csv"}
    code, _, err = call("plot", "runs", "--figure", "comparisn", capsys=capsys)
    assert code == 2
    assert "did you mean 'comparison'" in err
    code, out, _ = call("report", "runs", capsys=capsys)
    assert code == 0
    assert Path(out.split()[-1]).read_text().startswith("<!")


def test_info_agrees_with_the_store(store, capsys):
    code, out, _ = call("data", "info", str(store), "--json", capsys=capsys)
    found = json.loads(out)
    assert code == 0
    assert (found["episodes"], found["transitions"], found["contexts"]) == (6, 1200, 3)
    code, out, _ = call("data", "info", str(store), capsys=capsys)
    assert "mixed-0.50" in out


def test_collecting_again_continues_and_extends(tmp_path, capsys):
    path = str(tmp_path / "d.zarr")
    call(*COLLECT, "--out", path, capsys=capsys)
    code, _, _ = call(*COLLECT, "--out", path, "--episodes", "9", capsys=capsys)
    assert code == 0
    whole = collect("pendulum", out=tmp_path / "w.zarr", episodes=9, contexts=3, coverage=0.5, seed=0)
    extended = collect("pendulum", out=path, episodes=9, contexts=3, coverage=0.5, seed=0)
    assert (whole.episodes["uid"] == extended.episodes["uid"]).all()
    code, _, err = call(*COLLECT, "--out", path, "--episodes", "4", capsys=capsys)
    assert code == 2
    assert "holds 9 episodes already" in err


def test_a_diverging_run_fails_with_a_message_and_code_1(store, tmp_path, capsys):
    flags = ["--steps", "200", "--learner.lr", "1e30", "--learner.hidden", "8", "--out", str(tmp_path)]
    code, _, err = call("train", "bc", "--store", str(store), *flags, capsys=capsys)
    assert code == 1
    assert "not finite at step 200; lower the learning rate" in err
    assert "Traceback" not in err


def test_a_flag_may_have_a_learners_name_for_its_value(store, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--store", str(store), "--steps", "2", "--episodes", "0"]
    code, out, err = call("train", "--out", "iql", "bc", *flags, capsys=capsys)
    assert code == 0, err
    assert out.startswith("iql/bc-seed0-")


def test_without_splits_there_is_no_evaluation_and_evaluating_nothing_is_an_error(store, tmp_path, capsys):
    flags = ["--steps", "2", "--splits", "--out", str(tmp_path)]
    code, out, _ = call("train", "bc", "--store", str(store), *flags, capsys=capsys)
    assert code == 0
    code, _, err = call("eval", out.split()[-1], capsys=capsys)
    assert code == 2
    assert "nothing to evaluate" in err


COMMAND = [sys.executable, "-m", "toolkit.cli"]


def test_a_reader_that_went_away_is_no_error_message(store):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*COMMAND, "data", "info", str(store)], stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_collect_stops_at_a_signal_commits_and_continues_to_the_same_episodes(store, tmp_path, number, workers):
    flags = ["--contexts", "3", "--coverage", "0.5", "--workers", workers, "--out", str(tmp_path / "d.zarr")]
    process = subprocess.Popen(
        [*COMMAND, "collect", "pendulum", "--episodes", "1000000", *flags],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not (tmp_path / "d.zarr" / "segments").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, number)
    errors = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert "the same command continues" in errors
    assert "Traceback" not in errors
    found = ReplayStore.open(tmp_path / "d.zarr")
    known = ReplayStore.open(store)
    n = min(len(found), len(known))
    assert n > 0
    assert (found.episodes["uid"][:n] == known.episodes["uid"][:n]).all()


def perceptron(inputs: int, outputs: int) -> int:
    """Numbers in a network with two hidden layers of 256."""
    return (inputs + 1) * 256 + 257 * 256 + 257 * outputs


@pytest.mark.parametrize("name", registry.learners())
def test_every_option_of_a_learner_says_what_it_means_within_80_columns(name):
    said = described(name, registry.learner(name))
    assert said["options"].keys() >= said["defaults"].keys()
    assert all(text.endswith(".") for text in said["options"].values())
    shown = page(said | {"parameters": 1, "flops": 1.0, "size_of": "these data"})
    assert max(map(len, shown.splitlines())) <= 80


def test_learners_says_what_each_asks_of_the_data_and_its_defaults(capsys):
    code, out, _ = call("learners", capsys=capsys)
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines() if line}
    assert "2305.09836" in lines["rebrac"]
    assert "next action" in lines["rebrac"]
    assert "both" in lines["bc"]
    assert max(map(len, out.splitlines())) <= 80
    code, out, _ = call("learners", "dt", "filtered-bc", "goal-bc", "--json", capsys=capsys)
    dt, filtered, goal = map(json.loads, out.splitlines())
    assert dt["needs"]["window"] == dt["defaults"]["context"] == 20
    assert filtered["asks"] == ["reward", "best 10% of episodes"]
    assert "Hopper's size" in filtered["size_of"]
    assert filtered["parameters"] == perceptron(11, 6)
    assert (goal["parameters"], goal["flops"]) == (None, None)
    assert "needs goals" in goal["size_of"]
    code, out, _ = call("learners", "iql", capsys=capsys)
    assert "expectile  0.7\n      0.5 fits the mean value" in out
    assert "cql" not in out
    code, _, err = call("learners", "iqll", capsys=capsys)
    assert code == 2
    assert "did you mean 'iql" in err
    code, _, err = call("learners", "--store", "s.zarr", capsys=capsys)
    assert code == 2
    assert "name one" in err


def test_learners_counts_parameters_and_work_on_a_store(store, capsys):
    """Pendulum: 3 observation numbers, 1 action. BC has two outputs; IQL's targets do not count."""
    code, out, _ = call("learners", "bc", "iql", "d3rlpy-bc", "--store", str(store), "--json", capsys=capsys)
    assert code == 0
    bc, iql, theirs = map(json.loads, out.splitlines())
    assert bc["size_of"] == f"{store}, batch 256"
    assert bc["parameters"] == perceptron(3, 2)
    assert iql["parameters"] == 2 * perceptron(4, 1) + perceptron(3, 1) + perceptron(3, 1) + 1
    assert theirs["parameters"] == perceptron(3, 1)
    forward, inner = 2 * 256 * (3 * 256 + 256 * 256 + 256 * 2), 2 * 256 * (256 * 256 + 256 * 2)
    assert bc["flops"] == 2 * forward + inner  # forward, weights' gradients, and hidden layers' own
