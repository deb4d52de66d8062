"""What is wrong with a run's model, measured: `packmule eval RUN --diagnose`.

Held out are fresh episodes of the behaviour that made the training data, in other contexts of the same ranges, where
the store says how it was collected; else another store that is named; else the training episodes that gave no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from toolkit import diagnosis as stats
from toolkit import feed
from toolkit.baselines import Transitions, joined, linear, persistence
from toolkit.bits import Rows, transition_lengths
from toolkit.configure import learner_config, load_learner, open_data
from toolkit.core import Array, Dynamics, Learner, Spec, child_seed
from toolkit.episodes import check_range
from toolkit.fqe import learner_spec
from toolkit.held_out import held_out, held_out_episodes, training
from toolkit.imagine import with_dynamics
from toolkit.nets import generator
from toolkit.optimism import optimism
from toolkit.phases import Phase, Progress
from toolkit.records import RunConfig, replace_json
from toolkit.store import Mixture, ReplayStore, Schema
from toolkit.tables import Row

HELD_ROWS = 2_000  # transitions whose distribution is looked at
STARTS = 1_000  # windows of compounding error
SAMPLES = 99  # of the model, that what followed is ranked among
SHOWN, PARTICLES = 2, 50  # windows that are drawn, and samples of each
PHASES = ("held-out episodes", "calibration", "compounding error", "termination", "bits", "planner optimism")


@dataclass(frozen=True)
class Diagnosis:
    """Numbers of one run's model; every list is the rows of a figure and its CSV."""

    run: str
    learner: str
    suite: str
    held_out: str  # what the numbers were measured on
    episodes: int
    transitions: int
    compounding: list[Row]  # model, horizon, rmse, low, high, starts, episodes
    calibration: list[Row]  # kind "pit" (name, bin, share) and "coverage" (name, level, covered, low, high)
    termination: list[Row]  # predicted, observed, low, high, steps; empty if nothing ends
    brier: float | None
    brier_of_mean_rate: float | None
    ece: float | None
    optimism: list[Row]  # episode, imagined, realised; empty where there is no suite to act in
    mean_optimism: Row | None  # value, low, high
    bits: list[Row]  # known, explained, low, high, marginal; the model's is missing if it has no probabilities
    traces: list[Row]  # window, number, name, step, real, mean, low, high

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; what is infinite becomes None."""
        return _finite(asdict(self))


def diagnose(
    folder: str | Path,
    *,
    on: str | Path | None = None,
    horizon: int = 50,
    episodes: int = 20,
    seed: int = 0,
    progress: Progress | None = None,
) -> Diagnosis:
    """Measure the model of a trained run on held-out episodes, and its policy inside the model and outside.

    `on` names a store of held-out episodes. `horizon` is cut to the longest of them. Raises ValueError if the run has
    no model, nothing is held out, or the data are of another shape. `progress` is told of each of `PHASES` in turn.
    """
    run, learner, model, schema, data = ready(folder, on=on, horizon=horizon, episodes=episodes, seed=seed)
    spec = learner_spec(folder)
    torch.set_num_threads(run.threads)
    phase = Phase(progress, "held-out episodes", episodes)
    what, held = held_out(folder, run, model, data, on=on, episodes=episodes, seed=seed, tick=phase.tick)
    train = training(data, model, seed)
    whole = joined(held)
    rng = np.random.default_rng(child_seed(seed, "diagnose"))
    random = generator(child_seed(seed, "diagnose", "model"))
    chosen = np.sort(rng.permutation(len(whole))[:HELD_ROWS])
    some = whole.take(chosen)
    names, kept = number_names(schema), varying(spec)
    horizon = min(horizon, max(map(len, held)))
    windows = stats.windows_of(held, horizon=horizon, starts=STARTS, rng=rng)
    unit = units(spec)
    phase = Phase(progress, "calibration", stats.pit_blocks(len(some), SAMPLES))
    transforms = stats.pit(phase.model(model), some, samples=SAMPLES, generator=random, rng=rng)
    straight = linear(train)
    models = {run.learner: model, "linear": straight, "persistence": persistence(train)}
    phase = Phase(progress, "compounding error", len(models) * horizon)
    compounding = _compounding({name: phase.model(one) for name, one in models.items()}, windows, unit, rng)
    calibration = _calibration(transforms, some.episode, [*names, "reward"], kept, rng)
    phase = Phase(progress, "termination", math.ceil(len(whole) / stats.ROWS))
    ends = _termination(phase.model(model), whole)
    phase = Phase(progress, "bits", 2)
    bits = _bits({"linear": straight, "model": learner}, spec, train, some, phase.tick)
    acted = optimism(run, learner, model, schema, episodes=episodes, seed=seed, progress=progress)  # the longest, last
    return Diagnosis(
        run=run.identity,
        learner=run.learner,
        suite=run.suite,
        held_out=what,
        episodes=len(held),
        transitions=len(whole),
        compounding=compounding,
        calibration=calibration,
        **ends,
        optimism=acted,
        mean_optimism=_estimate(np.array([r["imagined"] - r["realised"] for r in acted]), rng) if acted else None,
        bits=bits,
        traces=_traces(model, windows, names, kept[:-1], random),
    )


def ready(
    folder: str | Path, *, on: str | Path | None, horizon: int, episodes: int, seed: int
) -> tuple[RunConfig, Learner, Dynamics, Schema, ReplayStore | Mixture]:
    """What `diagnose` measures, and the training data. Raises as it does, before anything is measured."""
    if horizon < 1 or episodes < 2:
        raise ValueError(f"horizon must be at least 1 and episodes at least 2, got {horizon} and {episodes}")
    check_range(episodes, seed)
    run, learner, schema = load_learner(folder, device="cpu")
    model = with_dynamics(run, learner)
    data = feed.training_data(
        open_data(run.store, run.commit, run.view, run.relabel), learner_config(run.learner, run.options).needs
    )
    held_out_episodes(folder, run, model, data, on=on, episodes=episodes, seed=seed)
    return run, learner, model, schema, data


def number_names(schema: Schema) -> list[str]:
    """A name for each of the O observation numbers."""
    return [f"{key.name}[{i}]" if key.size > 1 else key.name for key in schema.observations for i in range(key.size)]


def write(found: Diagnosis, folder: str | Path) -> list[Path]:
    """diagnosis.json and every figure that applies, with its CSV, into `folder`; their paths."""
    from toolkit.plots import plot_model

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    replace_json(folder / "diagnosis.json", found.to_json())
    return [folder / "diagnosis.json", *plot_model(found, folder)]


def units(spec: Spec) -> Array:
    """(O,) what an error of each observation number is measured in: its standard deviation; 0 if it never changes."""
    return np.where(varying(spec)[:-1], spec.obs.std, 0.0)


def varying(spec: Spec) -> Array:
    """(O + 1,) bool: numbers whose change, and the reward if its value, is not constant in the data."""
    from toolkit.normalize import Normalizer

    return np.concatenate([Normalizer(part).kept.numpy() for part in (spec.delta, spec.reward)])


def _compounding(
    models: dict[str, Dynamics], windows: stats.Windows, unit: Array, rng: np.random.Generator
) -> list[Row]:
    rows = []
    for name, model in models.items():
        squares = stats.compounding(model, windows, unit)
        value, low, high = stats.root_mean(squares, windows.episode, rng)
        for h in range(squares.shape[1]):
            ends = {"rmse": float(value[h]), "low": float(low[h]), "high": float(high[h])}
            size = {"starts": len(squares), "episodes": len(np.unique(windows.episode))}
            rows.append({"model": name, "horizon": h + 1, **ends, **size})
    return rows


def _calibration(
    transforms: Array, episode: Array, names: Sequence[str], kept: Array, rng: np.random.Generator
) -> list[Row]:
    rows: list[Row] = []
    size = {"steps": len(transforms), "episodes": len(np.unique(episode))}
    for number in np.flatnonzero(kept).tolist():
        shares = np.histogram(transforms[:, number], 20, (0, 1))[0] / len(transforms)
        rows += [
            {"kind": "pit", "name": names[number], "bin": b, "share": float(share), **size}
            for b, share in enumerate(shares)
        ]
    for level in stats.LEVELS:
        covered = stats.coverage(transforms[:, kept], level).astype(np.float64)
        value, low, high = stats.mean(covered, episode, rng)
        each = zip(np.array(names)[kept].tolist(), value.tolist(), low.tolist(), high.tolist(), strict=True)
        rows += [
            {"kind": "coverage", "name": n, "level": level, "covered": v, "low": a, "high": b, **size}
            for n, v, a, b in each
        ]
    return rows


def _termination(model: Dynamics, data: Transitions) -> dict[str, Any]:
    ended = data.terminated.numpy()
    found = stats.reliability(stats.end_probability(model, data), ended)
    base: dict[str, Any] = {"brier": found.brier, "brier_of_mean_rate": found.climate, "ece": found.ece}
    if not ended.any() and found.brier == 0:
        return {"termination": [], "brier": None, "brier_of_mean_rate": None, "ece": None}
    columns = zip(found.predicted, found.observed, found.low, found.high, found.count, strict=True)
    rows = [
        {"predicted": float(p), "observed": float(o), "low": float(a), "high": float(b), "steps": int(n), **base,
         "ends": found.ends}
        for p, o, a, b, n in columns
    ]  # fmt: skip
    return {"termination": rows, **base}


def _bits(
    models: dict[str, object], spec: Spec, train: Transitions, data: Transitions, tick: Callable[[], None]
) -> list[Row]:
    """Bits of next observation, reward and end that persistence and each model explain; see `toolkit.bits`."""
    seen, test = (
        Rows(t.obs.numpy(), t.next_obs.numpy(), t.action.numpy(), t.reward.numpy(), t.terminated.numpy(), t.episode)
        for t in (train, data)
    )
    rows: list[Row] = []
    for name, model in models.items():
        found = transition_lengths(model, spec, seen, test)
        tick()
        size = {"marginal": found.marginal.value, "steps": found.transitions, "episodes": found.episodes}
        if not rows and found.persistence is not None:
            gain = found.marginal.value - found.persistence.value
            rows.append(
                {"known": "persistence", "explained": gain, "low": None, "high": None, "exactness": "exact"} | size
            )
        if found.explained is not None:
            e = found.explained
            ends = {"explained": e.value, "low": e.low, "high": e.high}
            rows.append({"known": name, **ends, "exactness": found.exactness} | size)
    return rows


def _estimate(values: Array, rng: np.random.Generator) -> Row:
    value, low, high = stats.mean(values, np.arange(len(values)), rng)
    return {"value": float(value), "low": float(low), "high": float(high), "episodes": len(values)}


def _traces(
    model: Dynamics, windows: stats.Windows, names: Sequence[str], kept: Array, random: torch.Generator
) -> list[Row]:
    """Real states of a few windows, and where samples of the model go under the same actions."""
    shown = np.linspace(0, len(windows.obs) - 1, SHOWN).astype(int)
    obs, action, reward = (p[torch.from_numpy(shown)] for p in (windows.obs, windows.action, windows.reward))
    again = (part.repeat_interleave(PARTICLES, 0) for part in (obs, action, reward))
    every = stats.Windows(next(again), next(again), next(again), np.repeat(shown, PARTICLES))
    drawn = stats.open_loop(model, every, generator=random)[0].reshape(SHOWN, PARTICLES, -1, len(names))
    low, high = np.quantile(drawn, [0.05, 0.95], axis=1)
    rows = []
    for w in range(SHOWN):
        for d in np.flatnonzero(kept).tolist():
            real = obs[w, :, d].tolist()
            rows.append({"window": w, "number": d, "name": names[d], "step": 0, "real": real[0]})
            for h in range(drawn.shape[2]):
                found = {"mean": float(drawn[w, :, h, d].mean()), "low": float(low[w, h, d])}
                found["high"] = float(high[w, h, d])
                rows.append({"window": w, "number": d, "name": names[d], "step": h + 1, "real": real[h + 1], **found})
    return rows


def _finite(body: Any) -> Any:
    if isinstance(body, dict):
        return {key: _finite(value) for key, value in body.items()}
    if isinstance(body, list):
        return [_finite(value) for value in body]
    return None if isinstance(body, float) and not math.isfinite(body) else body
