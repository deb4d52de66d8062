"""Whether imagined data help: learners on few recorded episodes alone, and mixed with a model's rollouts of them.

    python benchmarks/imagined.py --folder DIR            # about twenty minutes on one core; stop and repeat at will
    python benchmarks/imagined.py --folder DIR --show     # the table of what has finished

`mopo`: d3rlpy's SAC, alone and on a mixture of 5% real and 95% imagined transitions with MOPO's penalty. `combo`: our
CQL, alone and on a mixture of halves without a penalty. Rollouts of 5 steps start at recorded states and follow the
data's actions with noise ("perturbed") or the learner that was trained on the recorded data ("actor"); the papers
follow the learner that is being trained. Data: half expert, half random episodes of pendulum, as many as --episodes,
others for each seed; what is imagined is ten times as much. The model is `mpc`'s, trained on the same episodes. Equal:
updates, batches of 256, networks. A score is 0 for random actions and 1 for the scripted expert, the mean of 20
episodes in contexts of the data and 20 in unseen ones at the last step; intervals are of differences within seeds
(Student, 95 %).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import t as student
from scores import collected

from algos.cql import CQLConfig
from algos.d3rlpy import D3rlpyConfig
from toolkit.core import LearnerConfig
from toolkit.imagine import REAL_SHARE, choose, imagine
from toolkit.progress import ProgressLine
from toolkit.records import load
from toolkit.store import ReplayStore, mix
from toolkit.train import train
from worldmodel.mpc import MPCConfig

H = (64, 64)
LEARNERS: dict[str, LearnerConfig] = {
    "mopo": D3rlpyConfig(algo="sac", hidden=H),
    "combo": CQLConfig(hidden=H, samples=4),
}
DATA = ("real", "perturbed", "actor")
TIMES = 10  # as many imagined transitions as recorded ones


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where stores and runs are kept")
    parser.add_argument("--presets", nargs="+", choices=LEARNERS, default=list(LEARNERS))
    parser.add_argument("--episodes", type=int, default=10, help="recorded ones to learn from")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--show", action="store_true", help="train nothing, show what has finished")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    if not given.show:
        carry_out(given)
    show(given.folder / "runs", given.episodes, given.steps)


def carry_out(given: argparse.Namespace) -> None:
    """Every run that is not finished, a seed at a time."""
    whole = ReplayStore.open(collected(given.folder, "pendulum"))
    line, done = ProgressLine("imagined", len(given.seeds) * len(given.presets) * len(DATA)), 0
    for seed in given.seeds:
        view = f"few-{given.episodes}-{seed}"
        if view not in whole.view_names():
            whole.save_view(view, whole.nested(given.episodes, seed=seed))
        model = train(
            MPCConfig(hidden=(128, 128)), store=whole.path, view=view, steps=given.steps, seed=seed, episodes=0,
            out=given.folder / "models",
        )  # fmt: skip
        for preset in given.presets:
            alone: Path | None = None
            for data in DATA:
                line.update(done, f"{preset} {data} seed {seed}")
                source, chosen = str(whole.path), view
                if data != "real":
                    source, chosen = mixture(given, model, (whole, view), preset, data, alone, seed), None
                run = train(
                    LEARNERS[preset],
                    store=source,
                    view=chosen,
                    steps=given.steps,
                    seed=seed,
                    tags={"preset": preset, "data": data, "episodes": given.episodes, "steps": given.steps},
                    out=given.folder / "runs",
                )
                alone = run if data == "real" else alone
                done += 1
    line.close()


def mixture(
    given: argparse.Namespace, model: Path, recorded: tuple[ReplayStore, str], preset: str, data: str,
    actor: Path | None, seed: int,
) -> str:  # fmt: skip
    """The file of recorded and imagined data; both are made if they are not there."""
    whole, view = recorded
    few, name = whole.view(view), f"{preset}-{data}-{view}"
    acting = actor if data == "actor" else None
    imagined = imagine(
        model, source=whole.path, view=view, out=given.folder / f"{name}.zarr",
        settings=choose(preset, {"actions": data}), actor=acting, transitions=TIMES * few.transitions, seed=seed,
    )  # fmt: skip
    path = given.folder / f"{name}.json"
    if not path.exists():
        mix([(few, REAL_SHARE[preset]), (imagined, 1 - REAL_SHARE[preset])]).save(path)
    return str(path)


def show(runs: Path, episodes: int, steps: int) -> None:
    """One line a preset and kind of data: mean score, and the difference to the recorded data alone."""
    scores: dict[tuple[str, str], dict[int, list[float]]] = {}
    for record in load(runs):
        if {"episodes": episodes, "steps": steps}.items() <= record.tags.items():
            key = (record.tags["preset"], record.tags["data"])
            scores.setdefault(key, {}).setdefault(record.seed, []).append(record.score)
    means = {key: {seed: float(np.mean(each)) for seed, each in seeds.items()} for key, seeds in scores.items()}
    print(f"{'preset':8} {'data':10} {'score':>14}   less that of recorded data alone, same seeds")
    for preset in LEARNERS:
        alone = means.get((preset, "real"), {})
        for data in DATA:
            found = means.get((preset, data), {})
            if len(found) < 2:
                continue
            values = np.array(list(found.values()))
            score = f"{values.mean():.2f} +-{values.std(ddof=1):.2f} n{len(values)}"
            gaps = np.array([value - alone[seed] for seed, value in found.items() if seed in alone])
            print(f"{preset:8} {data:10} {score:>14}   {'' if data == 'real' else interval(gaps)}")


def interval(gaps: np.ndarray) -> str:
    """Mean of differences within seeds, with Student's interval."""
    if len(gaps) < 2:
        return "needs two seeds of each"
    reach = float(student.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps)))
    return f"{gaps.mean():+.2f} ({gaps.mean() - reach:+.2f} to {gaps.mean() + reach:+.2f})"


if __name__ == "__main__":
    main()
