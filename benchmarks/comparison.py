"""A whole comparison, by packmule and by a plain d3rlpy script: wall time of the same grid on this machine.

    python benchmarks/comparison.py [--steps 2000] [--seeds 3] [--episodes 20]

The grid: bc, td3bc, iql and cql on two pendulum stores (few contexts, many) with each seed; trained, then evaluated in
seen and interpolated contexts. Ours is one `packmule sweep`, start of Python included. Theirs is a script as one would
write it with d3rlpy 2.8.1: one process, `fit` for each run, then episodes one after another with `predict`; torch's
own choice of threads, imports included.

Equal: data, networks (256 x 256), batch 256, gradient steps, critics, cql's 30 sampled actions a state, number of
episodes, environment and time limit. Not equal: ours uses a process for each core, standardises observations, keeps
checkpoints, records and logs; theirs keeps nothing. Their buffers are made from arrays, which is not timed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from algos.d3rlpy import library
from toolkit import registry
from toolkit.collect import collect
from toolkit.store import ReplayStore

PAIRS = {"bc": "BCConfig", "td3bc": "TD3PlusBCConfig", "iql": "IQLConfig", "cql": "CQLConfig"}
OPTIONS = {"CQLConfig": {"alpha_learning_rate": 0}}  # a fixed multiplier, as ours
SAME = ["--axis", "bc.head=squared", "--axis", "cql.hidden=256 256"]  # what differs by default
SPLITS = ("train", "interpolated")  # contexts as the data's, and new ones between


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=20, help="on each split")
    parser.add_argument("--theirs", nargs="*", help=argparse.SUPPRESS)  # the other side, in a process of its own
    given = parser.parse_args()
    if given.theirs:
        plain(given.theirs, given.steps, given.seeds, given.episodes)
        return
    with tempfile.TemporaryDirectory() as folder:
        stores = []
        for name, contexts in (("narrow", 2), ("wide", 20)):
            stores.append(str(Path(folder) / f"{name}.zarr"))
            collect("pendulum", out=stores[-1], episodes=50, contexts=contexts, coverage=0.3, noise=0.1, seed=0)
        flags = ["--steps", str(given.steps), "--episodes", str(given.episodes)]
        ours = ["-m", "toolkit.cli", "sweep", "--learners", *PAIRS, "--stores", *stores, "--device", "cpu", *flags]
        ours += ["--seeds", *map(str, range(given.seeds)), *SAME, "--out", f"{folder}/runs"]
        theirs = [__file__, "--theirs", *stores, "--seeds", str(given.seeds), *flags]
        runs = len(PAIRS) * len(stores) * given.seeds
        seconds = {name: timed(argv) for name, argv in (("packmule", ours), ("d3rlpy", theirs))}
    for name, wall in seconds.items():
        print(f"{name}: {wall:.1f} s for {runs} runs")
    print(f"d3rlpy / packmule: {seconds['d3rlpy'] / seconds['packmule']:.2f} by the clock")


def timed(argv: list[str]) -> float:
    """Seconds by the clock."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *argv], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def plain(stores: list[str], steps: int, seeds: int, episodes: int) -> None:
    """The script: fit and evaluate one run after another."""
    d3rlpy = library()
    suite = registry.suite("pendulum")
    env = suite.make()
    for path in stores:
        store = ReplayStore.open(path)
        buffer = d3rlpy.dataset.ReplayBuffer(d3rlpy.dataset.InfiniteBuffer(), episodes=copied(store))
        for kind in PAIRS.values():
            for seed in range(seeds):
                d3rlpy.seed(seed)
                algo = getattr(d3rlpy.algos, kind)(batch_size=256, **OPTIONS.get(kind, {})).create(device="cpu")
                quiet = d3rlpy.logging.NoopAdapterFactory()
                algo.fit(buffer, n_steps=steps, n_steps_per_epoch=steps, show_progress=False, logger_adapter=quiet)
                for split in SPLITS:
                    for i, context in enumerate(suite.contexts(split, episodes, seed=seed)):
                        obs, _ = env.reset(seed=i, options={"context": context})
                        over = False
                        while not over:
                            action = algo.predict(store.schema.flatten(obs)[None])[0]
                            obs, _, terminated, truncated, _ = env.step(store.schema.action.executable(action))
                            over = terminated or truncated


def copied(store: ReplayStore) -> list:
    dataset, found = library().dataset, []
    for number in range(len(store)):
        one = store.episode(number)
        obs = np.stack([store.schema.flatten({k: v[t] for k, v in one.obs.items()}) for t in range(len(one.reward))])
        found.append(dataset.Episode(obs, one.action, one.reward[:, None], terminated=one.terminated))
    return found


if __name__ == "__main__":
    main()
