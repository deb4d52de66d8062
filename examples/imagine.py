"""Train on what a model imagines, MOPO-like and COMBO-like: python examples/imagine.py"""

from __future__ import annotations

from pathlib import Path

import tyro

from toolkit.collect import collect
from toolkit.imagine import PRESETS, REAL_SHARE, Imagining, edges, imagine
from toolkit.records import load, mean_scores
from toolkit.store import mix
from toolkit.train import train

LEARNERS = {"mopo": ("d3rlpy", {"algo": "sac"}), "combo": ("cql", {})}


def main(steps: int = 3000, episodes: int = 60, model_steps: int = 3000, out: Path = Path("runs/imagine")) -> None:
    """Learn a model of pendulum data, imagine as much again, and train on the mixture; beside it on the data alone."""
    path = out / "pendulum.zarr"
    real = collect("pendulum", out=path, episodes=episodes, contexts=min(20, episodes), coverage=0.6, seed=0)
    options = {"hidden": (64, 64)}
    model = train("mpc", store=path, steps=model_steps, episodes=0, options=options, out=out / "models")

    for preset, (learner, more) in LEARNERS.items():
        # MOPO and COMBO imagine with the policy they are learning; a store is made once, with the data's noisy actions.
        settings = Imagining(**PRESETS[preset], noise=0.3)
        dreams = imagine(model, source=path, out=out / f"{preset}.zarr", settings=settings)
        share = edges(dreams) / dreams.transitions
        print(f"{preset}: {len(dreams)} rollouts; {share:.0%} of their steps bootstrap from a state at the edge")

        mixture, weight = out / f"{preset}.json", REAL_SHARE[preset]
        mixture.unlink(missing_ok=True)
        mix([(real, weight), (dreams, 1 - weight)]).save(mixture)
        for what, store in (("data alone", path), ("mixture", mixture)):
            run = train(learner, store=store, steps=steps, episodes=10, options=options | more, out=out / "runs")
            scores = ", ".join(f"{split} {score:.2f}" for (_, split), (score, _) in mean_scores(load(run)).items())
            print(f"  {learner} on the {what}: {scores}  (0 random, 1 expert)")


if __name__ == "__main__":
    tyro.cli(main)
