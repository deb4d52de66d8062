"""What a study will cost, measured here before it begins: a few episodes of every task, a few updates of every learner.

Times are of this process's processor, so that other work on the machine does not count; nothing is left behind.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from toolkit import feed, plan, registry
from toolkit.collect import collect
from toolkit.configure import learner_config
from toolkit.core import Policy, Reactive, Step
from toolkit.design import Design, Task, Tuning
from toolkit.evaluate import ROWS
from toolkit.fqe import FittedQ
from toolkit.measure import Settings, fqe_config
from toolkit.store import ReplayStore
from toolkit.text import aligned

EPISODES, ROUNDS, UPDATES = 2, 5, 3


@dataclass(frozen=True)
class Prices:
    """Seconds on one core, for one task."""

    step: float  # one transition, collected: the environment, the expert and the store
    update: dict[str, float]  # learner -> one update
    act: dict[str, float]  # learner -> one decision for ROWS environments
    fit: dict[str, float] = field(default_factory=dict)  # learner -> fitted Q of one model, for proxies


@dataclass(frozen=True)
class Bill:
    """What one task takes: counts, and core hours for each phase."""

    task: str
    transitions: int
    runs: int
    collect: float
    train: float
    evaluate: float
    measure: float = 0.0


def reference_costs(design: Design) -> dict[str, float]:
    """Learner -> milliseconds an update on the first task: the fixed reference of the arm of equal compute."""
    found = prices(design, design.tasks[0], acting=False).update
    return {name: float(f"{1000 * seconds:.3g}") for name, seconds in found.items()}


def prices(design: Design, task: Task, *, acting: bool = True) -> Prices:
    """Measure one task: episodes are collected into a temporary folder, and every learner is built and updated."""
    update, act, fit = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        first = _sample(design, task, folder, EPISODES).transitions  # pays for starting
        began = time.process_time()
        store = _sample(design, task, folder, 3 * EPISODES)
        step = (time.process_time() - began) / (store.transitions - first)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for name in design.learners:
                update[name], act[name], fit[name] = _learner(design, name, task, store, acting)
        finally:
            torch.set_num_threads(threads)
    return Prices(step, update, act, fit)


def _sample(design: Design, task: Task, folder: str, episodes: int) -> ReplayStore:
    return collect(
        task.suite,
        out=Path(folder) / "sample.zarr",
        episodes=episodes,
        contexts=EPISODES,
        coverage=max(design.coverages),
        noise=design.noise,
    )


def _learner(design: Design, name: str, task: Task, store: ReplayStore, acting: bool) -> tuple[float, ...]:
    config = learner_config(name, plan.options(design, name, {}, task.reward_scale))
    data = feed.training_data(store, config.needs)
    learner = config.build(data.spec, seed=0, device="cpu")
    sampler = feed.sampler(data, config.needs, batch_size=design.batch_size, seed=0)
    feed.survey(learner, data)
    update = _seconds(lambda: learner.update(sampler.next()))
    if not acting:
        return update, 0.0, 0.0
    policy, obs = learner.policy(seed=0), store.schema.flatten(store.episode(0).obs)
    rows = obs[np.arange(ROWS) % len(obs)]
    moment = Step(rows, np.zeros(ROWS, np.float32), np.zeros(ROWS, bool))
    policy.act(Step(rows, moment.reward, ~moment.first))
    act = _seconds(lambda: policy.act(moment))
    return update, act, _fitting(policy, store, design.fqe_steps)


def _fitting(policy: Policy, store: ReplayStore, steps: int) -> float:
    """Seconds to fit Q of one model, by far the most of measuring it."""
    if not steps or not isinstance(policy, Reactive):
        return 0.0
    config = fqe_config(Settings(fqe_steps=steps))
    fitted, sampler = FittedQ(policy, store.spec, config, seed=0), store.sampler(batch_size=config.batch_size, seed=0)
    return steps * _seconds(lambda: fitted.update(sampler.next()))


def _seconds(action: Callable[[], object]) -> float:
    """Median over rounds of the time of one call, the first not counted."""
    action()
    found = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(UPDATES):
            action()
        found.append((time.process_time() - began) / UPDATES)
    return median(found)


def bill(design: Design, task: Task, price: Prices) -> Bill:
    """Core hours of one task of the study."""
    data = [dataset for dataset in design.datasets() if dataset.task == task]
    transitions = sum(max(dataset.sizes) for dataset in data)
    transitions += design.held_out * sum(dataset.quality == design.qualities[0] for dataset in data)
    repeats = design.draws * design.seeds
    updates, runs, kept = 0.0, 0, 0
    for condition in design.conditions:
        many = len(design.cells(condition)) * repeats
        kept += sum(design.evaluate_every(condition, cell) > 0 for cell in design.cells(condition)) * repeats
        runs += many * len(design.learners)
        updates += many * sum(design.steps_of(n, condition.arm) * price.update[n] for n in design.learners)
    every = runs / len(design.learners) + kept * design.snapshots  # evaluations of all learners
    evaluate = _evaluation(design, task, price, len(design.splits)) * every
    measure = kept * (design.snapshots + 1) * sum(price.fit.get(name, 0.0) for name in design.learners)
    hours = (seconds / 3600 for seconds in (transitions * price.step, updates, evaluate, measure))
    return Bill(task.suite, transitions, runs, *hours)


def tuning_bill(design: Design, tuning: Tuning, price: Prices) -> Bill:
    """Core hours of the search for options."""
    size, task = max(design.sizes), Task(tuning.suite)
    many = tuning.seeds * len(next(iter(tuning.grid.values())))
    train = many * design.steps * sum(price.update.values())
    evaluate = many * _evaluation(design, task, price, 1)
    name, runs = f"{tuning.suite} (tuning)", many * len(design.learners)
    return Bill(name, size, runs, size * price.step / 3600, train / 3600, evaluate / 3600)


def _evaluation(design: Design, task: Task, price: Prices, splits: int) -> float:
    """Seconds to evaluate one run of every learner, if episodes last as long as they may."""
    horizon, episodes = registry.suite(task.suite).max_steps, design.episodes * splits
    acting = sum(price.act.values()) * horizon * -(-episodes // ROWS)
    return acting + len(design.learners) * episodes * horizon * price.step


def table(design: Design, found: Sequence[tuple[Bill, Prices]], slots: int) -> str:
    """The bill for reading: a line a task, the learners' prices, and the hours in all."""
    rows = [["task", "transitions", "runs", "collect", "train", "evaluate", "measure", "core hours"]]
    total = 0.0
    for one, _ in found:
        hours = one.collect + one.train + one.evaluate + one.measure
        total += hours
        phases = [f"{h:.2f}" for h in (one.collect, one.train, one.evaluate, one.measure, hours)]
        rows.append([one.task, f"{one.transitions:,}", f"{one.runs:,}", *phases])
    compute = "compute" in design.arms
    learners = [["learner", "ms an update", "ms to act for 64", *(["steps at equal compute"] if compute else [])]]
    for name in design.learners:
        update, act = (median(1000 * getattr(p, kind)[name] for _, p in found) for kind in ("update", "act"))
        steps = [f"{design.steps_of(name, 'compute'):,}"] if compute else []
        learners.append([name, f"{update:.2f}", f"{act:.2f}", *steps])
    said = (
        f"{total:,.1f} core hours; {total / slots:,.1f} hours with {slots} slot{'s' * (slots != 1)} on cores like this "
        "one. Measured on a few updates; evaluation as if every episode lasted as long as it may."
    )
    return "\n\n".join([aligned(rows), aligned(learners), said])


def estimate(design: Design, *, only: Sequence[str] = (), slots: int = 1) -> str:
    """The plan in words, and its bill: of the tasks in `only`, or all. Measured here; nothing is written."""
    plan.chosen(design, only)
    if "compute" in design.arms and not design.costs:
        design = replace(design, costs=reference_costs(design))
    tasks = [task for task in design.tasks if not only or task.suite in only]
    found = []
    for task in tasks:
        price = prices(design, task)
        found.append((bill(design, task, price), price))
    if design.tuning:
        price = prices(design, Task(design.tuning.suite, reward_scale=design.tuning.reward_scale))
        found.append((tuning_bill(design, design.tuning, price), price))
    return f"{design.describe()}\n\n{table(design, found, slots)}"
