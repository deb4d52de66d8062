"""The studies that come with packmule, by how long they take."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from toolkit.design import Design, Task, Tuning

# Two thousand steps are short: all learners get 64-wide networks and a higher learning rate than their papers', and the
# value learners a reward scale, since their constants presume advantages of about one (see `IQLConfig`, `CQLConfig`).
SMOKE = Design(
    name="smoke",
    tasks=(Task("pendulum"),),
    sizes=(2_000, 16_000),
    contexts=(1, 10),
    coverages=(0.05, 0.2),
    noise=0.1,
    draws=3,
    seeds=1,
    learners={
        "cql": {"hidden": (64, 64), "actor_lr": 1e-3, "critic_lr": 1e-3, "samples": 4, "reward_scale": 0.1},
        "mpc": {"hidden": (64, 64), "members": 3, "elites": 2, "samples": 40, "iterations": 2, "best": 5},
        "iql": {"hidden": (64, 64), "lr": 1e-3, "reward_scale": 0.1},
        "bc": {"hidden": (64, 64), "lr": 1e-3},
    },
    steps=2000,
    batch_size=128,
    episodes=10,
    held_out=4_000,
    distance_episodes=10,
    notes=(
        "The smoke tier proves the plumbing and shows the direction of diversity. With three draws and one training "
        "seed on each it is not meant to decide the claim.",
        "Levels and learning rates were chosen on trial runs of this suite so that the levels differ visibly within "
        "minutes: read differences here as a check of the machinery, not as evidence about the claim.",
    ),
)

# Rewards are scaled so that the expert gains one a step over the random policy on every task, as it is about in the
# papers whose constants the learners carry; learners that are invariant to the scale do not notice.
TASKS = (
    Task("pendulum", reward_scale=0.18),
    Task("pointmaze", reward_scale=1.7),
    Task("metaworld-reach", reward_scale=1.3),
    Task("metaworld-push", reward_scale=1.2),
    Task("metaworld-door-open", reward_scale=1.4),
    Task("metaworld-drawer-open", reward_scale=1.4),
    Task("halfcheetah", weaker="medium", reward_scale=0.21),
    Task("hopper", weaker="medium", reward_scale=0.43),
)

# Three configurations of each learner: its rate, and the option that its authors turn first.
GRID: dict[str, list[dict[str, Any]]] = {
    "bc": [{"lr": 1e-4}, {"lr": 3e-4}, {"lr": 1e-3}],
    "filtered-bc": [{"top_fraction": 0.1}, {"top_fraction": 0.25}, {"top_fraction": 0.5}],
    "return-bc": [{"lr": 1e-4}, {"lr": 3e-4}, {"lr": 1e-3}],
    "iql": [{"expectile": 0.7}, {"expectile": 0.8}, {"expectile": 0.9}],
    "td3bc": [{"alpha": 1.0}, {"alpha": 2.5}, {"alpha": 5.0}],
    "cql": [{"weight": 1.0}, {"weight": 5.0}, {"weight": 10.0}],
    "mpc": [{"lr": 3e-4}, {"lr": 1e-3}, {"lr": 3e-3}],
}

STANDARD = Design(
    name="standard",
    tasks=TASKS,
    sizes=(10_000, 100_000),
    contexts=(2, 10),
    coverages=(0.05, 0.3),
    noise=0.1,
    draws=5,
    seeds=1,
    learners={
        "mpc": {"members": 5, "elites": 4, "samples": 40, "iterations": 2, "horizon": 12, "best": 6},
        "iql": {},
        "td3bc": {},
        "filtered-bc": {},
        "return-bc": {},
        "bc": {},
    },
    steps=5000,
    batch_size=256,
    episodes=50,
    distance_episodes=10,
    grid="star",
    held_out=10_000,
    snapshots=3,
    fqe_steps=2_000,
    qualities=(1.0, 0.5),
    arms=("updates", "compute"),
    tuning=Tuning(
        "reacher", {name: GRID[name] for name in ("mpc", "iql", "td3bc", "filtered-bc", "return-bc", "bc")}, 2, 1.3
    ),
    notes=(
        "The standard tier tests the claim on eight tasks as far as five draws and five thousand updates reach. "
        "Learners that need longer training are judged by what they reach until then.",
        "No unsupervised technique is among the learners, and no task gives images.",
    ),
)

FULL = replace(
    STANDARD,
    name="full",
    tasks=(*TASKS, Task("walker2d", weaker="medium", reward_scale=0.32), Task("ogbench-pointmaze-large")),
    sizes=(10_000, 100_000, 1_000_000),
    coverages=(0.05, 0.3, 0.6),
    contexts=(2, 5, 10),
    draws=10,
    learners={"mpc": {}, "cql": {}, "iql": {}, "td3bc": {}, "filtered-bc": {}, "return-bc": {}, "bc": {}},
    steps=100_000,
    episodes=100,
    splits=("seen", "interpolated", "extrapolated"),
    grid="full",
    tuning=Tuning("reacher", GRID, 5, 1.3),
    notes=("The full tier is for a cluster: see what it costs with --dry-run before it is begun.",),
)

TIERS: dict[str, Design] = {design.name: design for design in (SMOKE, STANDARD, FULL)}
