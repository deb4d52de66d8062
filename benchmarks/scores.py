"""Scores of our learners beside d3rlpy's same algorithms: same stores, batches, networks, steps and evaluation.

    python benchmarks/scores.py --folder DIR                 # about two hours on one core; stop and repeat at will
    python benchmarks/scores.py --folder DIR --show          # the table of what has finished
    python benchmarks/scores.py --folder DIR iql --stores hopper --every 1000   # means over the second half of training

Both sides are runs of packmule: d3rlpy's algorithms through `algos.d3rlpy`, which hands each batch to d3rlpy's own
`update`. A score is 0 for random actions and 1 for the scripted expert, the mean of 20 episodes in contexts of the
data and 20 in unseen ones, at the last step; with `--every N`, the mean of the evaluations every N steps in the
second half of training, because on hopper one policy's score and that of a few hundred updates later differ by as much
as libraries do. The interval is that of the difference of means (Welch, 95 %).

Equal: data, batches of 256, width of hidden layers, learning rates, discount, the methods' constants, CQL's fixed
weight and its 4 sampled actions (10 by default), number of layers (AWAC's actor has two here), standardised
observations. Not equal: what the docstrings of our learners name, and the batches' order.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from algos.awac import AWACConfig
from algos.bc import BCConfig
from algos.cql import CQLConfig
from algos.d3rlpy import D3rlpyAWACConfig, D3rlpyBCConfig, D3rlpyCQLConfig, D3rlpyIQLConfig, D3rlpyTD3PlusBCConfig
from algos.iql import IQLConfig
from algos.td3bc import TD3BCConfig
from toolkit.core import LearnerConfig
from toolkit.progress import ProgressLine
from toolkit.records import load
from toolkit.train import train

STORES = {
    "pendulum": "--episodes 200 --coverage 0.3 --quality 0.5 --weaker random",
    "pointmaze": "--episodes 300 --coverage 0.3",
    "hopper": "--episodes 200 --contexts 8 --coverage 0 --quality 0.5 --weaker medium",
    "halfcheetah": "--episodes 100 --contexts 8 --coverage 0 --quality 0.5 --weaker medium",
}
H = (64, 64)
PAIRS: dict[str, tuple[LearnerConfig, LearnerConfig]] = {
    "bc": (BCConfig(hidden=H, lr=1e-3, head="squared"), D3rlpyBCConfig(hidden=H)),
    "td3bc": (TD3BCConfig(hidden=H), D3rlpyTD3PlusBCConfig(hidden=H)),
    "iql": (IQLConfig(hidden=H), D3rlpyIQLConfig(hidden=H)),
    "awac": (AWACConfig(hidden=H, actor_hidden=H), D3rlpyAWACConfig(hidden=H)),
    "cql": (
        CQLConfig(hidden=H, samples=4),
        D3rlpyCQLConfig(hidden=H, options=("alpha_learning_rate=0.0", "n_action_samples=4")),
    ),
}
LIBRARIES = ("ours", "d3rlpy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("learners", nargs="*", metavar="LEARNER", help=f"of {', '.join(PAIRS)}; all by default")
    parser.add_argument("--folder", type=Path, required=True, help="where stores and runs are kept")
    parser.add_argument("--stores", nargs="+", choices=STORES, default=["pendulum", "pointmaze", "hopper"])
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--every", type=int, default=0, help="steps between evaluations; 0: one, at the end")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--show", action="store_true", help="train nothing, show what has finished")
    given = parser.parse_args()
    if unknown := set(given.learners) - set(PAIRS):
        parser.error(f"unknown learners {', '.join(sorted(unknown))}; choose from {', '.join(PAIRS)}")
    given.folder.mkdir(parents=True, exist_ok=True)
    if not given.show:
        carry_out(given)
    show(given.folder / "runs", given.steps, given.every)


def carry_out(given: argparse.Namespace) -> None:
    """Every run that is not finished, a seed at a time, so that what has finished is balanced."""
    for name in given.stores:
        collected(given.folder, name)
    grid = [
        (seed, name, learner, library)
        for seed in given.seeds
        for name in given.stores
        for learner in given.learners or PAIRS
        for library in LIBRARIES
    ]
    line = ProgressLine("scores", len(grid))
    for done, (seed, name, learner, library) in enumerate(grid):
        line.update(done, f"{name} {learner} {library} seed {seed}")
        train(
            PAIRS[learner][LIBRARIES.index(library)],
            store=given.folder / f"{name}.zarr",
            steps=given.steps,
            seed=seed,
            evaluate_every=given.every,
            tags={"pair": learner, "library": library, "steps": given.steps, "every": given.every},
            out=given.folder / "runs",
        )
    line.close()


def collected(folder: Path, name: str) -> Path:
    """The store of a suite, collected as STORES says if it is not there."""
    path = folder / f"{name}.zarr"
    command = [sys.executable, "-m", "toolkit.cli", "collect", name, "--seed", "0", *STORES[name].split()]
    subprocess.run([*command, "--out", str(path)], check=True)
    return path


def show(runs: Path, steps: int, every: int) -> None:
    """One line a store and learner: mean score of each side with its number of seeds, and the difference."""
    scores: dict[tuple[str, str, str], dict[int, list[float]]] = {}
    for record in load(runs):
        wanted = {"steps": steps, "every": every}.items() <= record.tags.items()
        if wanted and record.step > steps / 2:
            key = (record.suite, record.tags["pair"], record.tags["library"])
            scores.setdefault(key, {}).setdefault(record.seed, []).append(record.score)
    print(f"{'store':10} {'learner':8} {'ours':>14} {'d3rlpy':>14}   ours - d3rlpy, 95 % interval")
    for suite, learner, _ in sorted(key for key in scores if key[2] == "ours"):
        sides = [
            np.array([np.mean(each) for each in scores.get((suite, learner, side), {}).values()]) for side in LIBRARIES
        ]
        cells = [f"{side.mean():.2f} +-{side.std(ddof=1):.2f} n{len(side)}" if len(side) > 1 else "-" for side in sides]
        print(f"{suite:10} {learner:8} {cells[0]:>14} {cells[1]:>14}   {difference(*sides)}")


def difference(a: np.ndarray, b: np.ndarray) -> str:
    """Welch's interval of mean(a) - mean(b), and what it says."""
    if min(len(a), len(b)) < 2:
        return "needs two seeds of each"
    parts = [side.var(ddof=1) / len(side) for side in (a, b)]
    error, gap = float(np.sqrt(sum(parts))), float(a.mean() - b.mean())
    if error == 0:
        return f"{gap:+.2f}"
    degrees = sum(parts) ** 2 / sum(p**2 / (len(side) - 1) for p, side in zip(parts, (a, b), strict=True))
    reach = float(student.ppf(0.975, degrees)) * error
    verdict = "below" if gap + reach < 0 else "above" if gap - reach > 0 else "within"
    return f"{gap:+.2f} ({gap - reach:+.2f} to {gap + reach:+.2f}) {verdict}"


if __name__ == "__main__":
    main()
