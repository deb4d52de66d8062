"""Scores of planning with a learned model, beside cloning and IQL on the same stores.

    python benchmarks/planned_scores.py --folder DIR [SUITE ...]   # hours on one core; stop and repeat at will
    python benchmarks/planned_scores.py --folder DIR --show        # the table of what has finished

`cartpole`: 2,000 random transitions at most, of another draw for each seed; asked are 180 of 200, the mean return over
seeds when an episode's return counts up to 200. `pendulum` and `pointmaze`: `mpc` and its small budget. `hopper` and
`halfcheetah`, half expert and half medium episodes: `mpc` alone, with bc as its prior, with the value of iql (and a
horizon of 5 instead of 20), with both, and mbop. "near, both" and "mbop, both" are the presets mpc-near and mbop with
that prior and value, also on `pointmaze`; their constants were chosen on trials with models of seed 0. A prior and a
value are runs of the same seed on the same data, shown as learners too.

A score is 0 for random actions and 1 for the scripted expert; the mean over --episodes in contexts of the data and as
many in unseen ones, at the last step. Equal: data, batches of 256, two hidden layers of 128, number of updates. Ways of
planning change no training, so that of one seed they plan with one model, trained once; mbop trains its clone too.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scores import collected

from algos.bc import BCConfig
from algos.iql import IQLConfig
from toolkit.collect import collect
from toolkit.configure import configure
from toolkit.core import LearnerConfig
from toolkit.progress import ProgressLine
from toolkit.records import Record, load
from toolkit.train import run
from worldmodel.mpc import PRESETS, MPCConfig

H = (128, 128)
CAP = 200.0  # a return of cartpole counts up to this
TRANSITIONS = 2000  # of cartpole


@dataclass(frozen=True)
class Way:
    """A way of acting: a learner, and which ways of the same suite and seed are its prior and value."""

    config: LearnerConfig
    prior: str | None = None
    value: str | None = None


BASE = {"bc": Way(BCConfig(hidden=H)), "iql": Way(IQLConfig(hidden=H))}
BUDGETS = {"mpc": Way(MPCConfig(hidden=H)), "mpc-small": Way(replace(PRESETS["mpc-small"], hidden=H))}
SHORT = MPCConfig(hidden=H, horizon=5)  # with a value behind it
NEAR = {
    "near, both": Way(replace(PRESETS["mpc-near"], hidden=H), prior="bc", value="iql"),
    "mbop, both": Way(replace(PRESETS["mbop"], hidden=H), prior="bc", value="iql"),
}
MIXED = {
    "mpc": Way(MPCConfig(hidden=H)),
    "mpc, prior": Way(MPCConfig(hidden=H), prior="bc"),
    "mpc, value": Way(SHORT, value="iql"),
    "mpc, both": Way(SHORT, prior="bc", value="iql"),
    "mbop": Way(replace(PRESETS["mbop"], hidden=H)),
} | NEAR
SUITES: dict[str, dict[str, Way]] = {
    "cartpole": BUDGETS,
    "pendulum": BASE | BUDGETS,
    "pointmaze": BASE | BUDGETS | NEAR,
    "hopper": BASE | MIXED,
    "halfcheetah": BASE | MIXED,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}; all by default")
    parser.add_argument("--folder", type=Path, required=True, help="where stores and runs are kept")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--episodes", type=int, default=10, help="in seen contexts, and as many in unseen ones")
    parser.add_argument("--show", action="store_true", help="train nothing, show what has finished")
    given = parser.parse_args()
    if unknown := set(given.suites) - set(SUITES):
        parser.error(f"unknown suites {', '.join(sorted(unknown))}; choose from {', '.join(SUITES)}")
    given.folder.mkdir(parents=True, exist_ok=True)
    if not given.show:
        carry_out(given)
    show(given.folder / "runs")


def carry_out(given: argparse.Namespace) -> None:
    """Every run that is not finished, a seed at a time, so that what has finished is balanced."""
    grid = [(seed, name) for seed in given.seeds for name in given.suites or SUITES]
    line, done = ProgressLine("planned scores", sum(len(SUITES[name]) for _, name in grid)), 0
    for seed, name in grid:
        store, view = data(given.folder, name, seed)
        runs: dict[str, Path] = {}
        for label, way in SUITES[name].items():
            line.update(done, f"{name} {label} seed {seed}")
            named = {k: str(runs[v]) for k, v in (("prior", way.prior), ("value", way.value)) if v is not None}
            config = configure(
                replace(way.config, **named),
                store=store,
                view=view,
                steps=given.steps,
                seed=seed,
                episodes=given.episodes,
                tags={"way": label, "steps": given.steps, "episodes": given.episodes},
            )
            if isinstance(way.config, MPCConfig) and not way.config.clones and "mpc" in runs:
                share(runs["mpc"] / "checkpoint", given.folder / "runs" / config.folder_name / "checkpoint")
            runs[label] = run(config, given.folder / "runs")
            done += 1
    line.close()


def share(trained: Path, checkpoint: Path) -> None:
    """Begin a run from the finished `checkpoint` of another whose options differ for planning alone."""
    if not checkpoint.exists():
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partly = checkpoint.with_name("partly")
        shutil.rmtree(partly, ignore_errors=True)
        shutil.copytree(trained, partly)
        partly.rename(checkpoint)


def data(folder: Path, name: str, seed: int) -> tuple[Path, str | None]:
    """The store to learn from and a view of it, collected if they are not there; of cartpole one for each seed."""
    if name != "cartpole":
        return collected(folder, name), None
    store = collect(name, out=folder / f"{name}-{seed}.zarr", episodes=200, contexts=200, coverage=1.0, seed=seed)
    store.save_view("small", store.view(store.episodes["length"].cumsum() <= TRANSITIONS))
    return store.path, "small"


def show(runs: Path) -> None:
    """One line a suite, way and budget: mean and deviation over seeds of score and return."""
    found: dict[tuple[str, str, int, int], dict[int, list[Record]]] = {}
    for record in load(runs):
        key = (record.suite, record.tags["way"], record.tags["steps"], record.tags["episodes"])
        found.setdefault(key, {}).setdefault(record.seed, []).append(record)
    print(f"{'suite':12} {'way':12} {'updates':>7} {'episodes':>8} {'score':>13} {'return':>14}  seeds, return of each")
    order = [(suite, way) for suite, ways in SUITES.items() for way in ways]
    for key in sorted(found, key=lambda key: (key[2:], order.index(key[:2]))):
        print(row(*key, found[key]))


def row(suite: str, way: str, steps: int, episodes: int, seeds: dict[int, list[Record]]) -> str:
    """Means over the episodes of each seed, then over seeds; of cartpole the return is capped."""
    score = np.array([np.mean([record.score for record in each]) for each in seeds.values()])
    cap = CAP if suite == "cartpole" else np.inf
    returns = np.array([np.mean([min(record.episode_return, cap) for record in each]) for each in seeds.values()])
    spread = [side.std(ddof=1) if len(side) > 1 else np.nan for side in (score, returns)]
    cells = [f"{score.mean():.2f} +-{spread[0]:.2f}", f"{returns.mean():.0f} +-{spread[1]:.0f}"]
    each = " ".join(f"{value:.0f}" for value in returns)
    label = f"{suite:12} {way:12} {steps:7} {2 * episodes:8}"
    return f"{label} {cells[0]:>13} {cells[1]:>14}  {len(score)}: {each}"


if __name__ == "__main__":
    main()
