"""Planner optimism: what a policy's return is inside the model, and what it is in the environment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from toolkit import registry
from toolkit.core import Array, Dynamics, Learner, child_seed
from toolkit.diagnosis import imagined_return
from toolkit.envs import Suite
from toolkit.envs._vector import VectorEnvironment
from toolkit.evaluate import rollouts
from toolkit.nets import generator
from toolkit.phases import Phase, Progress
from toolkit.records import RunConfig
from toolkit.store import Schema
from toolkit.tables import Row


def optimism(
    run: RunConfig,
    learner: Learner,
    model: Dynamics,
    schema: Schema,
    *,
    episodes: int,
    seed: int,
    progress: Progress | None = None,
) -> list[Row]:
    """`acted` in contexts of the run's suite, from the first observations there; none without a suite to act in."""
    if run.suite not in registry.suites() or run.relabel is not None:
        return []
    suite = registry.suite(run.suite)
    contexts = suite.contexts("interpolated", episodes, seed=child_seed(seed, "diagnose", "contexts"))
    seeds = [child_seed(seed, "diagnose", "episode", i) % 2**31 for i in range(episodes)]
    envs = suite.batch(episodes)
    try:
        start = schema.flatten(envs.reset(np.arange(episodes), contexts, seeds))
        return acted(learner, model, schema, suite, envs, start, contexts, seeds, seed=seed, progress=progress)
    finally:
        envs.close()


def acted(
    learner: Learner,
    model: Dynamics,
    schema: Schema,
    suite: Suite,
    envs: VectorEnvironment,
    start: Array,
    contexts: Array,
    seeds: Sequence[int],
    *,
    seed: int,
    progress: Progress | None = None,
) -> list[Row]:
    """Undiscounted imagined and realised returns of each context (n, C), from first observations `start` (n, O)."""
    own = child_seed(seed, "diagnose", "policy")  # both times the same draws
    choices = schema.action_dim if schema.discrete else 0
    random = generator(child_seed(seed, "diagnose", "optimism"))
    phase = Phase(progress, "planner optimism", 2 * suite.max_steps)  # fewer if every episode ends before
    policy = phase.policy(learner.policy(seed=own))
    imagined = imagined_return(policy, model, start, steps=suite.max_steps, choices=choices, generator=random)
    outcomes, _ = rollouts(phase.policy(learner.policy(seed=own)), suite, schema, contexts, seeds, envs=envs)
    return [
        {"episode": i, "imagined": float(a), "realised": o.episode_return, "steps": o.length}
        for i, (a, o) in enumerate(zip(imagined, outcomes, strict=True))
    ]
