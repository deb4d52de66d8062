"""Making one of Gymnasium's MuJoCo environments, or saying what is missing."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from toolkit.envs._render import need_opengl


def make_mujoco(gymnasium_id: str, suite: str, *, render: bool, camera: str | None = None) -> gym.Env:
    """gym.make(`gymnasium_id`) for `suite`, seen by the model's `camera` of that name or from a fixed place.

    Raises ImportError saying what to install if something is missing.
    """
    try:
        import mujoco  # noqa: F401

        drawing: dict[str, Any] = {"render_mode": "rgb_array", "camera_name": camera} if render else {}
        env = gym.make(gymnasium_id, disable_env_checker=True, **drawing)
    except (ImportError, gym.error.DependencyNotInstalled) as error:
        raise ImportError(
            f"suite {suite!r} cannot import {getattr(error, 'name', None) or error}; pip install 'mujoco>=3.1,<3.4'"
        ) from error
    if render:
        need_opengl(suite)
    return env
