"""Making one of Gymnasium's MuJoCo environments, or saying what is missing."""

from __future__ import annotations

import gymnasium as gym

from toolkit.envs._render import need_opengl


def make_mujoco(gymnasium_id: str, suite: str, *, render: bool) -> gym.Env:
    """gym.make(`gymnasium_id`) for `suite`. Raises ImportError saying what to install if something is missing."""
    try:
        import mujoco  # noqa: F401

        env = gym.make(gymnasium_id, render_mode="rgb_array" if render else None, disable_env_checker=True)
    except (ImportError, gym.error.DependencyNotInstalled) as error:
        raise ImportError(
            f"suite {suite!r} cannot import {getattr(error, 'name', None) or error}; pip install 'mujoco>=3.1,<3.4'"
        ) from error
    if render:
        need_opengl(suite)
    return env
