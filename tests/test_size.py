"""Sizes of learners: what is counted equals what the layers' shapes say, and a run keeps its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from toolkit.cli import main
from toolkit.configure import learner_config
from toolkit.records import read_config
from toolkit.size import reference_size, size, size_of_run


def test_a_perceptrons_size_is_that_of_its_layers(make_store):
    data = make_store([30, 30])
    sizes = [(3, 16), (16, 8), (8, 2)]  # observations, hidden, actions
    config = learner_config("bc", {"head": "squared", "hidden": (16, 8)})
    found = size(config, data, batch_size=64)
    assert found.parameters == sum(i * o + o for i, o in sizes)
    products = [2 * 64 * i * o for i, o in sizes]
    assert found.flops == 3 * sum(products) - products[0]  # forward, weights' and inputs' gradients; none of the data's


def test_residual_networks_and_other_widths_are_other_sizes(make_store):
    data = make_store([30, 30])
    small, large, residual = (
        size(learner_config("td3bc", options), data)
        for options in ({"hidden": (16, 16)}, {"hidden": (32, 32)}, {"hidden": (16, 16), "net": "residual"})
    )
    assert small.parameters < residual.parameters < 16 * small.parameters  # blocks of four times the width
    assert 2 < large.flops / small.flops < 4


def test_the_reference_size_is_that_of_a_batch_of_256_on_such_data():
    config = learner_config("bc", {"head": "squared", "hidden": (16, 8)})
    products = [2 * 256 * i * o for i, o in [(11, 16), (16, 8), (8, 3)]]
    assert reference_size(config).flops == 3 * sum(products) - products[0]


def test_a_transformers_size_is_that_of_its_tokens(make_store):
    """Two blocks of 12 width**2 multiplications a token, and attention's two products of tokens with tokens."""
    width, window, batch = 16, 4, 8
    config = learner_config("history-bc", {"head": "squared", "hidden": (width, width), "window": window})
    found = size(config, make_store([30, 30]), batch_size=batch)
    norms, block = 2 * width, 12 * width**2 + 9 * width  # weights of a block and its layers' biases
    assert found.parameters == (3 + 1) * width + window * width + 2 * (block + 2 * norms) + 2 * norms + (width + 1) * 2
    tokens, layers = 2 * batch * window, 2 * 12 * width**2
    attention = 2 * 2 * tokens * window * width
    assert found.flops == 3 * (tokens * (3 * width + layers + width * 2) + attention) - tokens * 3 * width


def test_the_train_command_prints_a_runs_size_and_keeps_it(tmp_path, capsys):
    assert main(["collect", "pendulum", "--episodes", "2", "--contexts", "2", "--out", str(tmp_path / "p.zarr")]) == 0
    train = ["train", "bc", "--store", str(tmp_path / "p.zarr"), "--steps", "2", "--episodes", "0", "--batch-size", "8"]
    train += ["--learner.hidden", "8", "--out", str(tmp_path / "runs")]
    capsys.readouterr()
    assert main(train) == 0
    out, err = capsys.readouterr()
    folder = Path(out.split()[-1])
    kept = json.loads((folder / "size.json").read_text())
    assert kept["parameters"] == 3 * 8 + 8 + 8 * 2 + 2
    assert f"{kept['parameters']} trained parameters" in err
    before = (folder / "size.json").stat().st_mtime_ns
    assert main(train) == 0  # finished: nothing is counted again
    assert (folder / "size.json").stat().st_mtime_ns == before
    (folder / "size.json").write_text('{"parameter": 3}')
    with pytest.raises(ValueError, match="remove it"):
        size_of_run(read_config(folder), folder)
