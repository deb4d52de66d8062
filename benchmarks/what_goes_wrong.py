"""Where learners lose, and what knows a good model: the runs and figures behind docs/what-goes-wrong.md.

    python benchmarks/what_goes_wrong.py swaps --folder DIR      # bottlenecks and distance to the data: half an hour
    python benchmarks/what_goes_wrong.py proxies --folder DIR    # which number picks the better model: half an hour

On one core; stop and repeat at will. Small networks and short training: three draws show the method, and rank nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from toolkit.collect import collect
from toolkit.progress import ProgressLine
from toolkit.train import train

DRAWS = range(3)
EPISODES = {"pendulum": 80, "pointmaze": 120}
LEARNERS: dict[str, dict[str, Any]] = {
    "bc": {"hidden": (64, 64), "lr": 1e-3},
    "iql": {"hidden": (64, 64), "lr": 1e-3, "reward_scale": 0.1},
    "mpc": {"hidden": (64, 64), "members": 3, "elites": 2, "samples": 40, "iterations": 2, "best": 5},
}
SPLITS = ("seen", "interpolated", "extrapolated")
GRID = [
    "--learners",
    "bc",
    "iql",
    "mpc",
    "--steps",
    "2000",
    "--batch-size",
    "128",
    "--episodes",
    "20",
    "--evaluate-every",
    "250",
    "--slots",
    "1",
    "--axis",
    "learner.lr=1e-3",
    "--axis",
    "iql.reward_scale=0.1",
    "--axis",
    "mpc.samples=40",
    "--axis",
    "mpc.iterations=2",
    "--axis",
    "mpc.best=5",
    "--axis",
    "mpc.members=3",
    "--axis",
    "mpc.elites=2",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["swaps", "proxies"])
    parser.add_argument("--folder", type=Path, required=True, help="where stores, runs and figures are kept")
    given = parser.parse_args()
    (swaps if given.what == "swaps" else proxies)(given.folder)


def swaps(folder: Path) -> None:
    line = ProgressLine("runs", len(EPISODES) * len(DRAWS) * len(LEARNERS))
    done = 0
    for suite, episodes in EPISODES.items():
        for draw in DRAWS:
            store = folder / f"{suite}-{draw}.zarr"
            made(store, suite, episodes=episodes, contexts=10, coverage=0.2, seed=draw)
            for name, options in LEARNERS.items():
                scale = {"reward_scale": 1.7} if (name, suite) == ("iql", "pointmaze") else {}
                settings: dict[str, Any] = {"steps": 2000, "batch_size": 128, "episodes": 10, "device": "cpu"}
                tags = {"draw": draw, "size": 16_000, "contexts": 10, "coverage": 0.2}
                settings |= {"seed": draw, "splits": SPLITS, "tags": tags, "options": options | scale}
                train(name, store=store, out=folder / "runs", **settings)
                done += 1
                line.update(done, f"{name} on {store.name}")
    line.close()
    for command in ("bottlenecks", "distance"):
        packmule(command, str(folder / "runs"), "--out", str(folder / "figures"))


def proxies(folder: Path) -> None:
    tables = []
    for coverage in (0.1, 0.5):
        stores = [folder / f"d{draw}-c{coverage}.zarr" for draw in DRAWS]
        held, runs = folder / f"held-c{coverage}.zarr", folder / f"runs-c{coverage}"
        for store, seed in zip((*stores, held), (*DRAWS, 99), strict=True):
            made(store, "pendulum", episodes=20, contexts=8, coverage=coverage, seed=seed)
        packmule("sweep", *GRID, "--axis", "learner.hidden=64 64", "--stores", *map(str, stores), "--out", str(runs))
        packmule("proxies", str(runs), "--store", str(held), "--slots", "1", "--fqe-steps", "1000")
        tables.append(str(runs))
    packmule("plot", *tables, "--figure", "proxies", "selection", "--out", str(folder / "figures"))


def made(store: Path, suite: str, **settings: Any) -> None:
    if not store.exists():
        collect(suite, out=store, noise=0.1, **settings)


def packmule(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "toolkit.cli", *words], check=True)


if __name__ == "__main__":
    main()
