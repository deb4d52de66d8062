"""Films are real mp4 files that show what happened."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import numpy as np
import pytest

from toolkit import cli
from toolkit.collect import collect
from toolkit.configure import configure
from toolkit.dials import Dials
from toolkit.evaluate import evaluate, film
from toolkit.imagined_film import GAP, film_imagined, need_films
from toolkit.records import replace_json
from toolkit.store import ReplayStore
from toolkit.train import run, train
from toolkit.video import STRIP, Films, labelled, need_video

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
pytest.importorskip("pygame")

DIALS = {"contexts": 2, "coverage": 0.5, "noise": 0.2, "exploration": "pink"}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ReplayStore:
    return collect("pendulum", out=tmp_path_factory.mktemp("film") / "p.zarr", episodes=3, **DIALS)


def frames(path, width: int = 500) -> np.ndarray:
    """(T+1, H, W, 3) uint8, as ffmpeg reads them back."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    read = subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL)
    return np.frombuffer(read.stdout, np.uint8).reshape(-1, 500 + STRIP, width, 3)


def test_films_spread_over_a_store_and_have_a_frame_for_every_observation(store):
    paths = Films("pendulum", 2).of_store(store)
    folder = store.path.with_name("p-videos")
    assert paths == [folder / "episode-000000.mp4", folder / "episode-000002.mp4"]
    assert sorted(folder.iterdir()) == paths, "and nothing half done"
    shown = frames(paths[0])
    assert len(shown) == 201
    assert (shown[0, STRIP:] != shown[40, STRIP:]).any(), "it moves"
    assert shown[0, :STRIP].max() > 200, "and says who acts"
    assert (shown[0, :STRIP] != shown[-1, :STRIP]).any(), "and the return so far"


def test_a_film_of_an_episode_that_went_otherwise_is_refused(store, tmp_path):
    schema = store.schema
    schema.environment["collect"] = {**Dials(**DIALS).to_json(), "seed": 1, "split": "train"}
    other = ReplayStore.create(tmp_path / "other.zarr", schema)
    with other.writer() as writer:
        writer.append(store.episode(0))
    with pytest.raises(RuntimeError, match=r"episode 0 of .* went differently"):
        Films("pendulum", 1).of_store(ReplayStore.open(other.path))
    assert list((tmp_path / "other-videos").iterdir()) == []


def test_films_of_a_run_show_episodes_of_its_evaluation(store, tmp_path):
    config = configure(
        "bc", store=store.path, device="cpu", steps=5, episodes=2, batch_size=32, options={"hidden": (16,)}
    )
    folder = run(config, tmp_path)
    paths = film(folder, 1, splits=["interpolated"])
    assert paths == [folder / "videos" / "interpolated-000.mp4"]
    assert len(frames(paths[0])) == 201
    assert len(evaluate(folder)) == 4, "the run is as it was"
    with pytest.raises(ValueError, match="video must be at least 1"):
        film(folder, -1)


def test_films_of_a_diagnosis_begin_alike_and_show_a_model_going_its_own_way(store, tmp_path):
    options = {"hidden": (16,), "members": 2, "elites": 2, "samples": 6, "best": 2, "iterations": 1, "horizon": 2}
    folder = train("mpc", store=store.path, steps=20, episodes=0, options=options, out=tmp_path)
    out = tmp_path / "films"
    (path,) = film_imagined(folder, 1, out, horizon=20, episodes=2)
    assert list(out.iterdir()) == [path], "and nothing half done"
    shown = frames(path, width=2 * 500 + GAP)[:, STRIP:].astype(int)
    real, imagined = shown[:, :, :500], shown[:, :, 500 + GAP :]
    apart = (np.abs(real - imagined).max(-1) > 64).mean((1, 2))
    assert len(shown) == 21
    assert apart[0] < 1e-3
    assert apart[1:].max() > 1e-3


def test_a_suite_that_cannot_be_posed_has_no_film_of_a_diagnosis_and_says_why(store, tmp_path):
    config = configure("mpc", store=store.path, steps=1, episodes=0)
    for name, why in (("metaworld-reach", "cannot be put where an observation says"), ("", "nothing here can draw")):
        replace_json(tmp_path / "config.json", replace(config, suite=name).to_json())
        assert why in need_films(tmp_path, 1)


def test_odd_pictures_are_cut_to_even_sides():
    page = labelled(np.full((33, 41, 3), 7, np.uint8), "who")
    assert page.shape == (32 + STRIP, 40, 3)
    assert (page[STRIP:] == 7).all()


def test_a_video_that_cannot_be_made_is_refused_before_anything_is_collected(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "none"))
    with pytest.raises(ImportError, match=r"video cannot use ffmpeg .* pip install 'packmule\[video\]'"):
        need_video()
    out = tmp_path / "s.zarr"
    assert cli.main(["collect", "pendulum", "--episodes", "2", "--video", "1", "--out", str(out)]) == 2
    assert "packmule[video]" in capsys.readouterr().err
    assert not out.exists()
