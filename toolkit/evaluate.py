"""The one evaluation loop: N environments together, one raw record an episode."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium as gym
import numpy as np

from toolkit.core import Array, Policy, Step
from toolkit.envs import Suite
from toolkit.store.schema import Schema

ROWS = 64  # environments stepped together


@dataclass(frozen=True)
class Outcome:
    """One evaluation episode as it happened."""

    episode_return: float  # undiscounted
    length: int
    success: bool


def rollouts(
    policy: Policy, suite: Suite, schema: Schema, contexts: Array, env_seeds: Sequence[int], *, rows: int = ROWS
) -> tuple[list[Outcome], float]:
    """Act one episode in each context (n, C) with the seed beside it; also the seconds spent inside `policy.act`.

    Episodes run `rows` at a time; a row that ends takes the next episode, with `Step.first` set, so nothing
    resets behind the policy's back. Rows left over at the end repeat their last observation and are ignored.
    """
    total, n = len(contexts), min(rows, len(contexts))
    envs = [suite.make() for _ in range(n)]
    outcomes: list[Outcome | None] = [None] * total
    obs = np.zeros((n, schema.obs_dim), np.float32)
    reward, first = np.zeros(n, np.float32), np.ones(n, bool)
    returns, lengths, episode = np.zeros(n), np.zeros(n, int), np.arange(n)
    running, upcoming, acting = np.ones(n, bool), n, 0.0

    def start(row: int) -> None:
        i = int(episode[row])
        raw, _ = envs[row].reset(seed=int(env_seeds[i]), options={"context": contexts[i]})
        obs[row], reward[row], first[row] = schema.flatten(raw), 0.0, True
        returns[row], lengths[row] = 0.0, 0

    try:
        for index in range(n):
            start(index)
        while running.any():
            began = time.perf_counter()
            actions = policy.act(Step(obs.copy(), reward.copy(), first.copy()))
            acting += time.perf_counter() - began
            first[:] = False
            for row in np.flatnonzero(running).tolist():
                raw, r, terminated, truncated, info = envs[row].step(_executable(envs[row], actions[row]))
                obs[row], reward[row] = schema.flatten(raw), r
                returns[row] += float(r)
                lengths[row] += 1
                if terminated or truncated:
                    done = Outcome(float(returns[row]), int(lengths[row]), bool(info.get("success", False)))
                    outcomes[int(episode[row])] = done
                    running[row] = upcoming < total
                    if running[row]:
                        episode[row], upcoming = upcoming, upcoming + 1
                        start(row)
    finally:
        for env in envs:
            env.close()
    return [outcome for outcome in outcomes if outcome is not None], acting


def _executable(env: gym.Env, action: Array) -> Array | int:
    if isinstance(env.action_space, gym.spaces.Discrete):
        return int(action)
    if not np.isfinite(action).all():
        raise ValueError(f"the policy returned the action {action.tolist()}; its training has diverged")
    return action
