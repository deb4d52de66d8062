"""Compare learners on one store, with a figure: python examples/compare_learners.py"""

from __future__ import annotations

from pathlib import Path

import tyro

from toolkit import registry
from toolkit.collect import collect
from toolkit.plots import save
from toolkit.records import load, mean_scores
from toolkit.train import train


def main(
    learners: tuple[str, ...] = ("bc", "iql", "d3rlpy-td3+bc"),
    seeds: int = 3,
    steps: int = 2000,
    episodes: int = 60,
    out: Path = Path("runs/compare"),
) -> None:
    """Train each learner with each seed on the same episodes and draw the comparison."""
    path = out / "pendulum.zarr"
    collect("pendulum", out=path, episodes=episodes, contexts=min(20, episodes), coverage=0.4, noise=0.1, seed=0)
    folders = [
        train(name, store=path, steps=steps, seed=seed, episodes=10, out=out / "runs")
        for name in learners
        for seed in range(seeds)
    ]
    records = load(*folders)
    for (name, split), (score, runs) in mean_scores(records).items():
        print(f"{name:14s} {split:13s} {score:6.2f}  ({runs} runs)")
    for file in save(registry.figures()["comparison"], records, out / "figures"):
        print(file)


if __name__ == "__main__":
    tyro.cli(main)
