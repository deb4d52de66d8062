"""What drawing needs: pygame for the classic suites, OpenGL for MuJoCo's.

Without a screen MuJoCo draws through EGL (Debian: libegl1, libgl1-mesa-dri) or, with MUJOCO_GL=osmesa, in software
(libosmesa6). The environment variable MUJOCO_GL chooses; where it is unset and there is no screen, it is set to egl.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from typing import Any


def need_pygame(suite: str) -> None:
    """Import pygame without its greeting and notices, or raise ImportError saying what to install."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    if not _screen():
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pygame  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"drawing suite {suite!r} cannot import {error.name or error}; pip install 'packmule[render]'"
        ) from error


def need_opengl(suite: str) -> None:
    """Try the OpenGL that MUJOCO_GL names (egl, if it is unset and there is no screen), before MuJoCo looks for one.

    Raises ImportError saying what this machine needs to draw.
    """
    if not _screen():
        os.environ.setdefault("MUJOCO_GL", "egl")
    chosen = os.environ.get("MUJOCO_GL")
    if chosen is None:
        return
    try:
        import mujoco

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            context = importlib.import_module(f"mujoco.{chosen}").GLContext(8, 8)
            context.make_current()
        mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), mujoco.mjtFontScale.mjFONTSCALE_100).free()
        context.free()
    except Exception as error:  # OpenGL's bindings raise whatever they stumble over
        raise ImportError(
            f"drawing suite {suite!r} failed with MUJOCO_GL={chosen!r} ({error}); without a screen set MUJOCO_GL=egl "
            "(Debian: libegl1 libgl1-mesa-dri) or MUJOCO_GL=osmesa (libosmesa6)"
        ) from error


def _screen() -> bool:
    return bool(sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def renderer(model: Any, data: Any, **camera: Any) -> Any:
    """Gymnasium's MuJoCo renderer of 400 x 400 pixels, for simulators that bring one which asks for a screen.

    MuJoCo's own Renderer settles for a screen when `mujoco` is first imported, which may have been long ago.
    """
    from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

    return MujocoRenderer(model, data, width=400, height=400, **camera)
