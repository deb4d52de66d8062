"""Laws of `packmule data info` and `cat`: what they tell is what the store holds."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gymnasium import spaces

from toolkit.cli import main
from toolkit.core import Episode
from toolkit.store import InfoKey, ReplayStore, Schema, cat, layout
from toolkit.store.info import describe, info

SPEC = {"id": "Robot-v3", "kwargs": {"size": 3}, "additional_wrappers": []}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ReplayStore:
    """Two commits, two behaviours, three contexts; nested keys, an image, choices, and an info key."""
    schema = Schema.from_spaces(
        observation=spaces.Dict(
            {
                "arm": spaces.Dict({"angle": spaces.Box(-4, 4, (2,)), "mode": spaces.Discrete(3, start=1)}),
                "camera": spaces.Box(0, 255, (2, 2, 3), np.uint8),
            }
        ),
        action=spaces.Box(-1, 1, (2,)),
        context_names=("mass [kg]", "goal [m]"),
        info={"force": InfoKey((3,), "float64")},
        environment_spec=SPEC,
        evaluation_spec=SPEC | {"id": "Robot-v4"},
        requirements=["gymnasium==0.0.1", "no-such-package==2.0"],
    )
    made = ReplayStore.create(tmp_path_factory.mktemp("info") / "i.zarr", schema)
    for numbers in ([0, 1], [2, 3, 4, 5]):
        with made.writer() as writer:
            for k in numbers:
                obs = {
                    "arm": {"angle": np.full((4, 2), k / 2), "mode": np.full(4, 1 + k % 3)},
                    "camera": np.full((4, 2, 2, 3), 10 * k, np.uint8),
                }
                columns = {"behaviour": f"b{k % 2}", "context": [k // 2, -1.0], "success": k > 2}
                action, reward = np.zeros((3, 2), np.float32), np.full(3, k, np.float32)
                writer.append(Episode(obs, action, reward, True, {"force": np.zeros((3, 3))}, columns))
    return ReplayStore.open(made.path)


def test_every_key_is_told_with_role_type_shape_limits_and_range(store):
    told = {key["key"]: key for key in info(store)["keys"]}
    assert list(told) == ["arm/angle", "arm/mode", "camera", "action", "reward", "force"]
    angle, mode, camera = told["arm/angle"], told["arm/mode"], told["camera"]
    assert (angle["role"], angle["dtype"], angle["shape"]) == ("observation", "float32", [2])
    assert (angle["limits"], angle["seen"]) == ([-4, 4], [0, 2.5])
    assert (mode["space"], mode["limits"], mode["numbers"]) == ("discrete", [1, 3], 3)
    assert (camera["role"], camera["dtype"], camera["limits"], camera["numbers"]) == ("image", "uint8", [0, 255], 0)
    assert told["reward"]["seen"] == [0, 5]
    assert (told["force"]["role"], told["force"]["dtype"]) == ("info", "float64")


def test_commits_contexts_behaviours_and_sizes_are_told(store):
    found = info(store)
    assert [(c["number"], c["parent"], c["episodes"]) for c in found["history"]] == [(2, 1, 6), (1, 0, 2), (0, None, 0)]
    assert all(c["written"].startswith("20") for c in found["history"])
    assert found["by_context"]["distinct"] == found["contexts"] == 3
    assert found["by_context"]["ranges"] == {"mass [kg]": [0, 2], "goal [m]": [-1, -1]}
    assert found["by_context"]["episodes_each"] == {"0.0": 2, "0.25": 2, "0.5": 2, "0.75": 2, "1.0": 2}
    assert {name: b["episodes"] for name, b in found["behaviours"].items()} == {"b0": 3, "b1": 3}
    assert found["requirements"]["no-such-package==2.0"] is None
    assert found["bytes_in_memory"] == 6 * 4 * (4 * (2 + 3 + 2 + 2) + 2 * 2 * 3)
    assert (found["environment_spec"]["id"], found["evaluation_spec"]["id"]) == ("Robot-v3", "Robot-v4")


def test_the_text_tells_the_same(store):
    text = describe(info(store))
    for words in (
        "Robot-v3(size=3)",
        "Robot-v4(size=3)",
        "no-such-package==2.0 (installed: none)",
        "arm/mode   observation  int64 (discrete)  1      1 to 3",
        "camera     image        uint8             2x2x3  0 to 255",
        "mass [kg]       0      2",
        "2       20",
    ):
        assert words in text, words
    assert max(map(len, text.splitlines())) < 200


def test_an_empty_store_and_a_damaged_commit_are_told(tmp_path, store):
    empty = ReplayStore.create(tmp_path / "e.zarr", store.schema)
    assert info(empty)["by_context"] is None
    assert "unbounded" not in describe(info(empty))
    with empty.writer() as writer:
        writer.append(store.episode(0))
    path = empty.path / layout.commit_key(0)
    path.write_text(path.read_text().replace('"number": 0', '"number": 7'))
    opened = ReplayStore.open(empty.path)
    assert [one.get("damaged", False) for one in info(opened)["history"]] == [False, True]
    assert "damaged" in describe(info(opened))


def test_the_command_prints_json_for_programs(store, capsys):
    assert main(["data", "info", str(store.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(info(store)))


def test_cat_tells_an_images_shape_and_mean_and_nested_keys(store, capsys):
    (first, *_) = map(json.loads, cat.json_lines(store, range(3, 4)))
    assert first["obs"]["arm/angle"] == [1.5, 1.5]
    assert first["obs"]["arm/mode"] == 1
    assert first["obs"]["camera"] == {"shape": [2, 2, 3], "mean": 30.0}
    assert main(["data", "cat", str(store.path), "3"]) == 0
    assert "2x2x3 mean 30" in capsys.readouterr().out
