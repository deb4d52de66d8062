"""Learn a world model and plan with it, by hand: python examples/plan_with_world_model.py"""

from __future__ import annotations

from pathlib import Path

import torch
import tyro

from toolkit import registry
from toolkit.collect import collect
from toolkit.configure import learner_config
from toolkit.evaluate import rollouts


def main(steps: int = 2000, episodes: int = 60, starts: int = 10, out: Path = Path("runs/plan")) -> None:
    """Train a probabilistic ensemble, look at what it predicts, and let the planner act from unseen starts."""
    torch.set_num_threads(1)
    store = collect("pendulum", out=out / "pendulum.zarr", episodes=episodes, contexts=episodes, coverage=0.6, seed=0)
    model = learner_config("mpc", {"hidden": (64, 64)}).build(store.spec, seed=0, device="cpu")

    sampler = store.sampler(batch_size=256, seed=0)
    for step in range(1, steps + 1):
        metrics = model.update(sampler.next())
        if step % max(1, steps // 5) == 0:
            print(f"step {step}: " + ", ".join(f"{name} {float(value):.3f}" for name, value in metrics.items()))

    suite = registry.suite("pendulum")
    contexts = suite.contexts("interpolated", starts, seed=0)
    outcomes, pace = rollouts(model.policy(seed=0), suite, store.schema, contexts, range(starts))
    mean = sum(outcome.episode_return for outcome in outcomes) / starts
    reference = suite.references["interpolated"]
    print(f"planned return {mean:.0f} (random {reference.random:.0f}, expert {reference.expert:.0f})")
    print(pace)


if __name__ == "__main__":
    tyro.cli(main)
