"""What drawing needs: pygame for the classic suites, OpenGL for MuJoCo's.

Without a screen MuJoCo draws through EGL (Debian: libegl1, libgl1-mesa-dri) or, with MUJOCO_GL=osmesa, in software
(libosmesa6). The environment variable MUJOCO_GL chooses; where it is unset and there is no screen, what works here is
found out and set.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from functools import cache
from typing import Any


def need_pygame(suite: str) -> None:
    """Import pygame without its greeting and notices, or raise ImportError saying what to install."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    if not _screen():
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pictures are made in memory
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pygame  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"drawing suite {suite!r} cannot import {error.name or error}; pip install 'packmule[render]'"
        ) from error


def need_opengl(suite: str) -> None:
    """Find an OpenGL that draws: what MUJOCO_GL names, else the screen's, else egl, else osmesa, and set MUJOCO_GL.

    Each is tried in a process of its own, since bindings once loaded cannot be changed, and a driver may crash.
    Raises ImportError saying what this machine needs to draw.
    """
    asked = os.environ.get("MUJOCO_GL")
    if asked is None and _screen():
        return
    failures = []
    for name in [asked] if asked else ["egl", "osmesa"]:
        if (failure := _trial(name)) is None:
            os.environ["MUJOCO_GL"] = name
            return
        failures.append(f"{name}: {failure}")
    raise ImportError(
        f"suite {suite!r} cannot be drawn ({'; '.join(failures)}); without a screen MuJoCo needs MUJOCO_GL=egl "
        "(Debian: libegl1 libgl1-mesa-dri) or MUJOCO_GL=osmesa (Debian: libosmesa6)"
    )


def _screen() -> bool:
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


@cache
def _trial(name: str) -> str | None:
    """What goes wrong when a new process draws with MUJOCO_GL=`name`; None if nothing does."""
    code = (
        "import mujoco; model = mujoco.MjModel.from_xml_string('<mujoco/>'); "
        "mujoco.Renderer(model, 8, 8).update_scene(mujoco.MjData(model))"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "MUJOCO_GL": name},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "no answer within a minute"
    if done.returncode == 0:
        return None
    said = [line for line in done.stderr.splitlines() if line and not line.startswith((" ", "Traceback", "Exception"))]
    return said[-1][:200] if said else f"exit code {done.returncode}"


def renderer(model: Any, data: Any, **camera: Any) -> Any:
    """Gymnasium's MuJoCo renderer of 400 x 400 pixels, for simulators that bring one which asks for a screen.

    MuJoCo's own Renderer settles for a screen when `mujoco` is first imported, which may have been long ago.
    """
    from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

    return MujocoRenderer(model, data, width=400, height=400, **camera)
