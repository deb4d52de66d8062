"""Episodes as mp4 files: played again before a camera, each frame labelled with who acts and the return so far."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np

from toolkit import registry
from toolkit.core import Array
from toolkit.dials import Dials
from toolkit.episodes import jobs_of, rollout
from toolkit.store import ReplayStore

STRIP = 22  # pixels above the picture, for the label
FPS = 30  # where the environment does not say


def need_video() -> None:
    """Raise ImportError saying what to install if mp4 files cannot be made here."""
    try:
        import imageio.v2  # noqa: F401
        import imageio_ffmpeg
        import PIL.ImageDraw  # noqa: F401

        subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-version"], capture_output=True, check=True)
    except (ImportError, RuntimeError, OSError, subprocess.CalledProcessError) as error:
        raise ImportError(f"video cannot use ffmpeg ({error}); pip install 'packmule[video]'") from error


@contextmanager
def filming(env: gym.Env, path: Path, title: str) -> Iterator[Camera]:
    """An environment like `env`, made with render=True, whose episode is filmed into `path`; see `writing`."""
    with writing(path, env.metadata.get("render_fps", FPS)) as show:
        yield Camera(env, show, title)


@contextmanager
def writing(path: Path, fps: int) -> Iterator[Callable[[Array], None]]:
    """What takes the pictures (H, W, 3) uint8 of an mp4 file, with even sides.

    The file appears when the block ends, whole; if the block raises, there is none.
    """
    import imageio.v2

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    writer = imageio.v2.get_writer(partial, fps=fps, macro_block_size=2, quality=7)
    try:
        try:
            yield writer.append_data
        finally:
            writer.close()
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


class Camera(gym.Wrapper):
    """Hands a labelled frame to `show` at the reset and at every step; else the environment as it is."""

    def __init__(self, env: gym.Env, show: Callable[[Array], None], title: str) -> None:
        super().__init__(env)
        self._show, self._title, self._total = show, title, 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """The environment's reset, and the first frame."""
        result = self.env.reset(seed=seed, options=options)
        self._total = 0.0
        self._shoot()
        return result

    def step(self, action: Any) -> tuple[dict[str, Array], SupportsFloat, bool, bool, dict[str, Any]]:
        """The environment's step, and one more frame."""
        result = self.env.step(action)
        self._total += float(result[1])
        self._shoot()
        return result

    def _shoot(self) -> None:
        self._show(labelled(np.asarray(self.env.render()), f"{self._title}   return {self._total:.2f}"))


def labelled(picture: Array, text: str) -> Array:
    """A picture (H, W, 3) uint8 below a strip with `text`; height and width made even, as the codec wants them."""
    from PIL import Image, ImageDraw

    height, width = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2
    page = Image.new("RGB", (width, height + STRIP))
    page.paste(Image.fromarray(picture[:height, :width]), (0, STRIP))
    ImageDraw.Draw(page).text((5, 4), text, fill=(255, 255, 255))
    return np.asarray(page)


class Films:
    """Films of `count` sample episodes of a collection. Creating it raises ImportError if they cannot be made here."""

    def __init__(self, suite: str, count: int) -> None:
        if count < 1:
            raise ValueError(f"video must be at least 1 episode to film, or 0 for none; got {count}")
        need_video()
        self.suite, self.count = registry.suite(suite), count
        self._env = self.suite.make(render=True)

    def of_store(self, store: ReplayStore) -> list[Path]:
        """Film episodes spread evenly over a store that `collect` made, into NAME-videos beside it; their paths.

        The episodes are played again from the store's own settings. Raises RuntimeError if one of them then differs
        from what is stored: what a film shows is what happened.
        """
        settings = dict(store.schema.environment["collect"])
        seed, split = settings.pop("seed"), settings.pop("split")
        chosen = np.unique(np.linspace(0, len(store) - 1, min(self.count, len(store))).round().astype(int)).tolist()
        paths, beside = [], Path(store.path)
        jobs = jobs_of(self.suite, Dials(**settings), chosen, episodes=len(store), seed=seed, split=split)
        for job in jobs:
            path = beside.with_name(f"{beside.stem}-videos") / f"episode-{job.index:06d}.mp4"
            title = f"{self.suite.name} {job.index}   {job.behaviour.name}"
            with filming(self._env, path, title) as env:
                episode = rollout(self.suite, env, job.context, job.behaviour, env_seed=job.seed)
                if not np.array_equal(episode.reward, store.episode(job.index).reward):
                    raise RuntimeError(
                        f"episode {job.index} of {store.path} went differently when it was played again; "
                        "was it collected by other versions?"
                    )
            paths.append(path)
        self._env.close()
        return paths
