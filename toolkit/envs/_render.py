"""What drawing needs: pygame for the classic suites, OpenGL for MuJoCo's.

Without a screen MuJoCo draws through EGL (Debian: libegl1, libgl1-mesa-dri) or, with MUJOCO_GL=osmesa, in software
(libosmesa6). The environment variable MUJOCO_GL chooses; where it is unset and there is no screen, it is set to egl.
"""

from __future__ import annotations

import os
import sys
import warnings

import gymnasium as gym


def need_pygame(suite: str) -> None:
    """Import pygame without its greeting and notices, or raise ImportError saying what to install."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pygame  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"drawing suite {suite!r} cannot import {error.name or error}; pip install 'packmule[render]'"
        ) from error


def choose_opengl() -> None:
    """Set MUJOCO_GL to egl if nothing is chosen and there is no screen, before MuJoCo looks for one in vain."""
    screen = sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not screen:
        os.environ.setdefault("MUJOCO_GL", "egl")


def check_drawing(env: gym.Env, suite: str) -> None:
    """Draw once, so that a machine that cannot is found out here. Raises ImportError saying what it needs."""
    try:
        env.reset(seed=0)
        env.render()
    except Exception as error:  # OpenGL's bindings raise whatever they stumble over
        raise ImportError(
            f"drawing suite {suite!r} failed with MUJOCO_GL={os.environ.get('MUJOCO_GL', '')!r} ({error}); without a "
            "screen set MUJOCO_GL=egl (Debian: libegl1 libgl1-mesa-dri) or MUJOCO_GL=osmesa (libosmesa6)"
        ) from error
