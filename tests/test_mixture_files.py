"""A saved mixture is the mixture that was saved, or an error."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from conftest import assert_same_batches, counting_episode

from toolkit.cli import main
from toolkit.collect import collect
from toolkit.configure import configure
from toolkit.evaluate import evaluate
from toolkit.records import load
from toolkit.store import ReplayStore, StoreError, mix, open_mixture
from toolkit.store.files import digest
from toolkit.train import train


@pytest.fixture
def stores(make_store):
    return make_store([5, 9, 4, 20], "a.zarr"), make_store([7, 7, 30], "b.zarr")


def test_a_saved_mixture_opens_to_the_same_stream_also_when_its_folder_has_moved(stores, tmp_path):
    one, two = stores
    mixed = mix([(one.view(np.array([3, 0])), 3.0), (two, 1.0)])
    mixed.save(tmp_path / "m.json")
    opened = open_mixture(tmp_path / "m.json")
    assert opened.fingerprint == mixed.fingerprint
    assert opened.weights.tolist() == [0.75, 0.25]
    assert_same_batches(opened.sampler(seed=1, batch_size=16), mixed.sampler(seed=1, batch_size=16))
    shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-moved")
    moved = open_mixture(tmp_path.parent / f"{tmp_path.name}-moved" / "m.json")
    assert moved.fingerprint == mixed.fingerprint
    assert moved.views[0].path != one.path


def test_what_was_appended_later_is_not_in_a_saved_mixture(stores, tmp_path):
    mix([(store, 1.0) for store in stores]).save(tmp_path / "m.json")
    with stores[0].writer() as writer:
        writer.append(counting_episode(9, 50))
    assert len(open_mixture(tmp_path / "m.json")) == 7


def test_the_episodes_of_a_mixture_are_those_of_its_parts_in_order(stores):
    mixed = mix([(stores[1], 1.0), (stores[0].view(np.array([2])), 5.0)])
    table = mixed.episodes
    assert [len(mixed.episode(i)) for i in range(4)] == [7, 7, 30, 4]
    with pytest.raises(IndexError, match="0 to 3"):
        mixed.episode(4)
    assert table["length"].tolist() == [7, 7, 30, 4]
    assert table["context"][:, 0].tolist() == [0, 1, 2, 2]
    assert len(table) == 4


@pytest.mark.parametrize("change", ["another commit", "no commit", "no store", "digest", "kind", "type"])
def test_a_mixture_whose_pins_no_longer_fit_is_refused(stores, tmp_path, change):
    path = tmp_path / "m.json"
    mix([(store, 1.0) for store in stores]).save(path)
    body = json.loads(path.read_text())
    body.pop("digest")
    if change == "another commit":
        body["parts"][0]["commit_digest"] = "0" * 64
    elif change == "no commit":
        body["parts"][0]["commit"] = 9
    elif change == "no store":
        shutil.rmtree(tmp_path / "a.zarr")
    elif change == "kind":
        body["kind"] = "another"
    elif change == "type":
        body["parts"] = 3
    path.write_text(json.dumps({**body, "digest": "0" if change == "digest" else digest(body)}))
    with pytest.raises(StoreError):
        open_mixture(path)


def test_a_mixture_never_replaces_a_file(stores, tmp_path):
    (tmp_path / "m.json").write_text("mine")
    with pytest.raises(FileExistsError):
        mix([(stores[0], 1.0)]).save(tmp_path / "m.json")
    assert (tmp_path / "m.json").read_text() == "mine"


def test_the_command_mixes_stores_and_views_by_weight(stores, tmp_path, capsys):
    stores[0].save_view("v", stores[0].view(np.array([1, 2])))
    parts = [f"{stores[0].path}@v=0.75", f"{stores[1].path}=0.25"]
    assert main(["data", "mix", *parts, "--out", str(tmp_path / "m.json")]) == 0
    assert "5 episodes, 57 transitions, weights 0.750, 0.250" in capsys.readouterr().out
    assert main(["data", "mix", f"{stores[0].path}=much", "--out", str(tmp_path / "n.json")]) == 2
    assert "write STORE@VIEW=0.7" in capsys.readouterr().err
    assert isinstance(open_mixture(tmp_path / "m.json").views[0], ReplayStore)


def test_a_learner_trains_on_a_saved_mixture_and_its_run_resumes_from_the_file(tmp_path):
    for name, coverage in (("a", 0.0), ("b", 1.0)):
        collect("pendulum", out=tmp_path / f"{name}.zarr", episodes=4, contexts=2, coverage=coverage, seed=0)
    mix([(ReplayStore.open(tmp_path / f"{name}.zarr"), 1.0) for name in "ab"]).save(tmp_path / "m.json")
    settings = {"store": tmp_path / "m.json", "steps": 30, "episodes": 2, "out": tmp_path / "runs"}
    folder = train("bc", **settings, options={"hidden": (8,)})
    assert json.loads((folder / "config.json").read_text())["commit"] is None
    assert len(load(folder)) == 4
    assert len(evaluate(folder, episodes=3, splits=["seen"])) == 3
    with pytest.raises(ValueError, match="is a mixture, whose file says which commits"):
        train("bc", **settings, view="v")


def test_a_run_on_a_streamed_store_says_so_and_is_another_run(make_store, tmp_path):
    settings = {"store": make_store([20, 30]).path, "steps": 3, "episodes": 0, "options": {"hidden": (8,)}}
    runs = {tier: configure("bc", **settings, tier=tier) for tier in ("auto", "memory", "mapped", "streaming")}
    assert len({runs[tier].identity for tier in ("auto", "memory", "mapped")}) == 1, "one stream, one run"
    assert runs["streaming"].identity != runs["memory"].identity
    with pytest.raises(ValueError, match="tier 'disk' is unknown"):
        configure("bc", **settings, tier="disk")
