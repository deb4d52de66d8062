"""Make a store, train one learner on it, act: python examples/train_one_learner.py"""

from __future__ import annotations

from pathlib import Path

import tyro

from toolkit.collect import collect
from toolkit.records import load
from toolkit.store import ReplayStore
from toolkit.train import train


def main(learner: str = "iql", steps: int = 3000, episodes: int = 60, out: Path = Path("runs/example")) -> None:
    """Collect pendulum episodes of mixed quality, train, and print scores on seen and unseen contexts."""
    path = out / "pendulum.zarr"
    collect("pendulum", out=path, episodes=episodes, contexts=min(20, episodes), coverage=0.4, noise=0.1, seed=0)

    # A store is episodes: look at one, and at a batch as learners see it.
    store = ReplayStore.open(path)
    print(
        f"{len(store)} episodes, {store.transitions} transitions; the first returned {store.episodes['return'][0]:.0f}"
    )
    batch = store.sampler(batch_size=4, seed=0).next()
    print(
        f"a batch: obs {tuple(batch.obs.shape)}, action {tuple(batch.action.shape)}, reward {tuple(batch.reward.shape)}"
    )

    folder = train(
        learner, store=path, steps=steps, seed=1, episodes=10, options={"hidden": (64, 64)}, out=out / "runs"
    )
    for split in ("seen", "interpolated"):
        scores = [record.score for record in load(folder) if record.split == split]
        print(f"{learner} on {split} contexts: score {sum(scores) / len(scores):.2f} (0 random, 1 expert)")


if __name__ == "__main__":
    tyro.cli(main)
