"""The one training loop: any learner, any store; stopped anywhere, it resumes bit for bit."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from toolkit import checkpoint, registry
from toolkit.core import Learner, LearnerConfig, Spec, child_seed
from toolkit.engines.local import interrupt_flag, only_one
from toolkit.evaluate import rollouts
from toolkit.records import (
    EVALUATION_SPLITS,
    Record,
    RunConfig,
    mark_done,
    naming,
    read_config,
    read_metrics,
    read_object,
    replace_json,
    replace_text,
    verify_done,
    write_records,
)
from toolkit.store import ReplayStore, Schema
from toolkit.store.files import digest

LOG_EVERY = 200  # gradient steps between lines of metrics.jsonl
SAVE_SECONDS = 60.0

Progress = Callable[[str, int, int], None]  # what, done, total


def resolve_device(device: str) -> str:
    """ "auto" -> "cuda" if there is one, else "cpu". Raises ValueError for a device that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).item()  # "meta" has devices, but no numbers
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {device!r} cannot be used ({str(error).splitlines()[0]}); try --device auto"
        ) from None
    return device


def learner_config(name: str, options: Mapping[str, Any]) -> LearnerConfig:
    """The registry's configuration `name` with `options` replaced. Raises ValueError naming an unknown option."""
    base = registry.learner(name)
    known = {field.name for field in fields(base)}
    for option in options:
        if option not in known:
            hint = registry.suggestion(option, known)
            raise ValueError(f"learner {name!r} has no option {option!r}{hint}; it has {', '.join(sorted(known))}")
    return replace(base, **{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()})


def configure(
    learner: str | LearnerConfig,
    *,
    store: str | Path,
    view: str | None = None,
    commit: int | None = None,
    steps: int,
    batch_size: int = 256,
    seed: int = 0,
    episodes: int = 20,
    splits: Sequence[str] = ("seen", "interpolated"),
    device: str = "auto",
    threads: int = 1,
    tags: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> RunConfig:
    """A complete, checked RunConfig. Raises ValueError or StoreError before anything is written.

    `learner` is a name of the registry (with `options` over its defaults) or a configuration.
    """
    name = learner if isinstance(learner, str) else learner.name
    config = learner_config(name, options or {}) if isinstance(learner, str) else learner
    opened = _open(store, commit, view)
    suite = opened.schema.environment.get("suite", "")
    if episodes:
        registry.suite(suite)
    run = RunConfig(
        learner=name,
        options=json.loads(json.dumps(asdict(config), allow_nan=False)),
        store=str(store),
        commit=opened.commit.number,
        view=view,
        fingerprint=opened.fingerprint,
        suite=suite,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        episodes=episodes,
        splits=tuple(splits),
        device=resolve_device(device),
        threads=threads,
        tags=dict(tags or {}),
    )
    config.build(opened.spec, seed=0, device=run.device)  # refuses here what it could not train on
    return run


def train(learner: str | LearnerConfig, *, out: str | Path, progress: Progress | None = None, **settings: Any) -> Path:
    """Train and evaluate one run under `out` and return its folder; finished runs are not repeated.

    Settings are those of `configure`. Ctrl-C saves a checkpoint; the same call then continues.
    """
    return run(configure(learner, **settings), out, progress=progress)


def run(config: RunConfig, out: str | Path, *, progress: Progress | None = None) -> Path:
    """Carry out one run in `out`/<its folder>, from wherever it stands. Raises ValueError if its data has changed.

    Raises BlockingIOError if another process is at work on the same run.
    """
    folder = Path(out) / config.folder_name
    if (folder / "DONE").exists():
        if read_config(folder).store != config.store:  # the same data, moved
            replace_json(folder / "config.json", config.to_json())
        return folder
    store = _open(config.store, config.commit, config.view)
    if store.fingerprint != config.fingerprint:
        raise ValueError(f"{config.store}: its data is not what this run was configured for (fingerprint differs)")
    folder.mkdir(parents=True, exist_ok=True)
    with only_one(folder):
        torch.set_num_threads(config.threads)
        replace_json(folder / "config.json", config.to_json())
        saved = {"spec": store.spec.to_json(), "schema": store.schema.to_json()}
        replace_json(folder / "spec.json", saved | {"digest": digest(saved)})
        learner = build(config, store.spec)
        _train(config, folder, store, learner, progress)
        records = evaluate_learner(config, learner, store)
        write_records(folder, records)
        mark_done(folder, config)
    return folder


def build(config: RunConfig, spec: Spec) -> Learner:
    """The untrained learner of a run."""
    learner = learner_config(config.learner, config.options)
    return learner.build(spec, seed=child_seed(config.seed, "parameters", config.learner), device=config.device)


def load_learner(folder: str | Path) -> tuple[RunConfig, Learner, Schema]:
    """A run's configuration, its learner as last saved, and the schema of its data; the store is not needed.

    Raises ValueError if the folder is not a run, or holds no checkpoint yet.
    """
    folder = Path(folder)
    config = read_config(folder)
    saved = read_object(folder / "spec.json")
    if saved.pop("digest", None) != digest(saved):
        raise ValueError(f"{folder / 'spec.json'}: digest does not match its content; the file is damaged")
    state = checkpoint.read(folder / "checkpoint")
    if state is None:
        raise ValueError(f"{folder} holds no checkpoint yet; run it first: packmule train {config.learner} ...")
    learner = build(replace(config, device=resolve_device("auto")), Spec.from_json(saved["spec"]))
    _restore(learner, state, folder)
    return config, learner, Schema.from_json(saved["schema"])


def evaluate_learner(config: RunConfig, learner: Learner, store: ReplayStore) -> list[Record]:
    """Act on every split of the configuration, all episodes together, and return their records."""
    if not config.episodes or not config.splits:
        return []
    suite, n = registry.suite(config.suite), config.episodes
    contexts, seeds, where = [], [], []
    for split in config.splits:
        contexts.append(_contexts(config, store, split))
        seeds += [child_seed(config.seed, "evaluate", split, i) % 2**31 for i in range(n)]
        where += [(split, i) for i in range(n)]
    policy = learner.policy(seed=child_seed(config.seed, "policy", config.learner))
    all_contexts = np.concatenate(contexts)
    outcomes, _ = rollouts(policy, suite, store.schema, all_contexts, seeds)
    behaviour = float(store.episodes["return"].mean())
    family = registry.learner(config.learner).family
    records = []
    for (split, i), context, seed, outcome in zip(where, all_contexts, seeds, outcomes, strict=True):
        reference = suite.references["train" if split == "seen" else split]
        records.append(
            Record(
                run=config.identity,
                learner=config.learner,
                family=family,
                suite=config.suite,
                seed=config.seed,
                step=config.steps,
                split=split,
                episode=i,
                context=[float(x) for x in context],
                env_seed=seed,
                episode_return=outcome.episode_return,
                length=outcome.length,
                success=outcome.success,
                random=reference.random,
                expert=reference.expert,
                behaviour=behaviour,
                tags=config.tags,
            )
        )
    return records


def _contexts(config: RunConfig, store: ReplayStore, split: str) -> np.ndarray:
    """(episodes, C): contexts of the training data for "seen", else of the suite's held-out stream."""
    if split == "seen":
        known = np.unique(store.episodes["context"], axis=0)
        order = np.random.default_rng(child_seed(config.seed, "seen")).permutation(len(known))
        return known[order[np.arange(config.episodes) % len(known)]]
    return registry.suite(config.suite).contexts(split, config.episodes, seed=child_seed(config.seed, split))  # type: ignore[arg-type]


def _open(path: str | Path, commit: int | None, view: str | None) -> ReplayStore:
    store = ReplayStore.open(path, commit=commit)
    return store if view is None else store.view(view)


def _train(config: RunConfig, folder: Path, store: ReplayStore, learner: Learner, progress: Progress | None) -> None:
    """Gradient steps until `config.steps`, from the checkpoint if there is one."""
    sampler = store.sampler(
        window=learner.window,
        batch_size=config.batch_size,
        seed=child_seed(config.seed, "batches", config.learner),
        device=config.device,
    )
    step, seconds = 0, 0.0
    if (saved := checkpoint.read(folder / "checkpoint")) is not None:
        _restore(learner, saved, folder)
        sampler.state = saved["sampler"]
        step, seconds = saved["step"], saved["seconds"]
    kept = [line for line in read_metrics(folder) if line["step"] <= step]
    replace_text(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))

    def save() -> None:
        state = {"learner": learner.state_dict(), "sampler": sampler.state, "step": step}
        checkpoint.write(folder / "checkpoint", state | {"seconds": seconds + time.perf_counter() - began})
        replace_json(folder / "state.json", {"step": step, "steps": config.steps})

    began = last_save = time.perf_counter()
    path = folder / "metrics.jsonl"
    with naming(path), path.open("a") as log, interrupt_flag() as interrupted:
        while step < config.steps:
            metrics = learner.update(sampler.next())
            step += 1
            if step % LOG_EVERY == 0 or step == config.steps:
                _log(log, step, metrics, seconds + time.perf_counter() - began)
                if progress is not None:
                    progress("train", step, config.steps)
            if interrupted.is_set() or time.perf_counter() - last_save > SAVE_SECONDS:
                save()
                last_save = time.perf_counter()
                if interrupted.is_set():
                    raise KeyboardInterrupt
        save()
    if interrupted.is_set():  # while it was saved for the last time
        raise KeyboardInterrupt


def _restore(learner: Learner, saved: Mapping[str, Any], folder: Path) -> None:
    try:
        learner.load_state_dict(saved["learner"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{folder / 'checkpoint'} does not fit this learner ({error}); delete it to train from the start"
        ) from error


def _log(log: Any, step: int, metrics: Mapping[str, Any], seconds: float) -> None:
    values = {name: float(value) for name, value in metrics.items()}
    if bad := [name for name, value in values.items() if not math.isfinite(value)]:
        raise FloatingPointError(f"{', '.join(bad)} is not finite at step {step}; lower the learning rate")
    log.write(json.dumps({"step": step, "seconds": round(seconds, 3), **values}) + "\n")
    log.flush()


def evaluate(
    folder: str | Path,
    *,
    episodes: int | None = None,
    splits: Sequence[str] | None = None,
    seed: int | None = None,
) -> list[Record]:
    """Evaluate a trained run again, by default exactly as it was; other episodes, splits or seed as given.

    Raises ValueError if the folder is not a run, has not been trained to its last step, or nothing is asked for.
    """
    saved = read_config(folder)
    if not (Path(folder) / "DONE").exists():
        raise ValueError(f"{folder} is not finished; give the command that began it again, and it continues")
    verify_done(Path(folder), saved)
    config, learner, _ = load_learner(folder)
    store = _open(config.store, config.commit, config.view)
    asked = replace(
        config,
        episodes=config.episodes if episodes is None else episodes,
        splits=tuple(config.splits if splits is None else splits),
    )
    if seed is not None:
        asked = replace(asked, seed=seed)
    if not asked.episodes or not asked.splits:
        raise ValueError(f"{folder}: nothing to evaluate; name at least 1 episode and one split")
    torch.set_num_threads(config.threads)
    records = evaluate_learner(asked, learner, store)
    return [replace(record, run=config.identity, seed=config.seed) for record in records]


__all__ = ["EVALUATION_SPLITS", "build", "configure", "evaluate", "learner_config", "load_learner", "run", "train"]
