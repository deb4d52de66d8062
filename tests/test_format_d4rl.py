"""D4RL's files: ends by either flag, final observations only where there are some, traps refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from toolkit.collect import collect
from toolkit.formats import Reading
from toolkit.store import ReplayStore
from toolkit.transfer import export_store, import_store


def _file(path: Path, **replaced: Any) -> Path:
    """Three episodes of 4, 3 and 3 rows: a terminal, a timeout, and one that the file's end cuts off."""
    rows = np.arange(10)
    terminals, timeouts = np.zeros(10, bool), np.zeros(10, bool)
    terminals[3] = timeouts[6] = True
    arrays: dict[str, Any] = {
        "observations": np.stack([rows, rows**2], axis=1).astype(np.float32),
        "actions": np.sin(rows)[:, None].astype(np.float32), "rewards": rows.astype(np.float32),
        "terminals": terminals, "timeouts": timeouts, "infos/qpos": rows[:, None] / 7, "metadata/rate": np.ones(3),
    }  # fmt: skip
    with h5py.File(path, "w") as file:
        for name, values in {**arrays, **replaced}.items():
            if values is not None:
                file[name] = values
    return path


def _import(path: Path, out: Path, **reading: Any) -> ReplayStore:
    return import_store("d4rl", path, out, reading=Reading(**reading)).store


def test_with_next_observations_every_step_is_kept(tmp_path: Path) -> None:
    following = np.stack([np.arange(10) + 1, (np.arange(10) + 1) ** 2], axis=1).astype(np.float32)
    source = _file(tmp_path / "a.hdf5", next_observations=following)
    store = _import(source, tmp_path / "a.zarr")
    assert [(len(store.episode(i)), store.episode(i).terminated) for i in range(3)] == [
        (4, True),
        (3, False),
        (3, False),
    ]
    assert store.episode(0).obs["observation"].tolist() == [[0, 0], [1, 1], [2, 4], [3, 9], [4, 16]]
    assert np.allclose(store.episode(1).info["qpos"][:, 0], np.array([4, 5, 6]) / 7)


def test_without_them_truncated_episodes_lose_a_step_and_terminated_ones_are_asked_about(tmp_path: Path) -> None:
    source = _file(tmp_path / "a.hdf5")
    with pytest.raises(ValueError, match="1 episodes end in a terminated step"):
        _import(source, tmp_path / "a.zarr")
    store = _import(source, tmp_path / "a.zarr", final="repeat")
    assert [(len(store.episode(i)), store.episode(i).terminated) for i in range(3)] == [
        (4, True),
        (2, False),
        (2, False),
    ]
    assert store.episode(0).obs["observation"][:, 0].tolist() == [0, 1, 2, 3, 3]
    assert store.episode(1).obs["observation"][:, 0].tolist() == [4, 5, 6]
    dropped = _import(source, tmp_path / "b.zarr", final="drop")
    assert [(len(dropped.episode(i)), dropped.episode(i).terminated) for i in range(3)] == [
        (3, False),
        (2, False),
        (2, False),
    ]


def test_next_observations_of_another_row_are_refused(tmp_path: Path) -> None:
    same = np.stack([np.arange(10), np.arange(10) ** 2], axis=1).astype(np.float32)
    with pytest.raises(ValueError, match="rows 0 to 3: the next observation of step 0"):
        _import(_file(tmp_path / "a.hdf5", next_observations=same), tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.parametrize(
    ("replaced", "said"),
    [
        ({"timeouts": None}, "no 'timeouts'"),
        ({"actions": None}, "no array 'actions'"),
        ({"rewards": np.zeros(9, np.float32)}, "differ in length"),
        ({"rewards": np.full(10, np.nan, np.float32)}, "not finite"),
        ({"actions": np.full((10, 1), np.nan, np.float32)}, "not finite"),
        ({"actions": h5py.SoftLink("/rewards")}, "is a link"),
        ({"actions": h5py.ExternalLink("/etc/hostname", "/x")}, "is a link"),
        ({"actions": np.array([b"a"] * 10)}, "no array of numbers"),
    ],
)
def test_a_file_that_does_not_say_what_is_needed_is_refused(
    replaced: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        _import(_file(tmp_path / "a.hdf5", **replaced), tmp_path / "a.zarr", final="drop")
    assert not (tmp_path / "a.zarr").exists()


def test_a_group_that_holds_itself_is_refused(tmp_path: Path) -> None:
    source = _file(tmp_path / "a.hdf5")
    with h5py.File(source, "a") as file:
        file["infos/again"] = file["infos"]
    with pytest.raises(ValueError, match="nested more than"):
        _import(source, tmp_path / "a.zarr", final="drop")


def test_limits_are_those_given_else_the_convention_else_the_data(tmp_path: Path) -> None:
    def limits(store: ReplayStore) -> tuple[float, float]:
        return store.schema.action.low[0], store.schema.action.high[0]  # type: ignore[return-value]

    within, beyond = _file(tmp_path / "a.hdf5"), _file(tmp_path / "b.hdf5", actions=np.linspace(-3, 2, 10)[:, None])
    assert limits(_import(within, tmp_path / "a.zarr", final="drop")) == (-1, 1)
    assert limits(_import(beyond, tmp_path / "b.zarr", final="drop")) == (-3, 2)
    assert limits(_import(beyond, tmp_path / "c.zarr", final="drop", limits=(-4.0, 4.0))) == (-4, 4)
    with pytest.raises(ValueError, match="outside --limits"):
        _import(beyond, tmp_path / "d.zarr", final="drop", limits=(-1.0, 1.0))


def test_what_a_written_file_cannot_hold_is_told(tmp_path: Path) -> None:
    store = collect("pendulum", out=tmp_path / "a.zarr", episodes=2, contexts=2, coverage=0.2, seed=0)
    lost = export_store("d4rl", store, tmp_path / "a.hdf5")
    assert {"column behaviour", "column context", "column seed", "limits of the actions"} <= set(lost)
