"""The one training loop: any learner, any store; stopped anywhere, it resumes bit for bit."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from toolkit import checkpoint, feed
from toolkit.compiled import compiled
from toolkit.configure import build, configure, learner_config, open_data, restore, snapshot
from toolkit.core import Learner, LearnerConfig, child_seed
from toolkit.engines.local import interrupt_flag
from toolkit.evaluate import evaluate_learner
from toolkit.given import equip, keep
from toolkit.records import (
    Record,
    RunConfig,
    mark_done,
    mean_scores,
    naming,
    read_metrics,
    read_records,
    replace_json,
    replace_text,
    write_records,
)
from toolkit.rundir import Held, place_of
from toolkit.store import Mixture, ReplayStore
from toolkit.store.files import digest

LOG_EVERY = 200  # gradient steps between lines of metrics.jsonl
SAVE_SECONDS = 60.0

Progress = Callable[[str, int, int], None]  # what, done, total


def train(learner: str | LearnerConfig, *, out: str | Path, progress: Progress | None = None, **settings: Any) -> Path:
    """Train and evaluate one run under `out` and return its folder; finished runs are not repeated.

    Settings are those of `configure`. Ctrl-C saves a checkpoint; the same call then continues.
    """
    return run(configure(learner, **settings), out, progress=progress)


def run(config: RunConfig, out: str | Path, *, progress: Progress | None = None) -> Path:
    """Carry out one run in `out`/<its folder>, from wherever it stands. Raises ValueError if its data has changed.

    `out` may be a URL like s3://bucket/runs: then what is saved is put there, and the folder returned is a copy.
    Raises BlockingIOError if another process is at work on the same run, and LeaseLost, writing nothing more, if
    another took it over because this one was silent for long.
    """
    place = place_of(out, config.folder_name)
    if place.finished():
        return place.result(config)
    store = open_data(config.store, config.commit, config.view, config.relabel)
    if store.fingerprint != config.fingerprint:
        raise ValueError(f"{config.store}: its data is not what this run was configured for (fingerprint differs)")
    with place.hold() as lease:
        folder = lease.folder
        if (folder / "DONE").exists():  # another process was faster
            return place.result(config)
        torch.set_num_threads(config.threads)
        replace_json(folder / "config.json", config.to_json())
        data = feed.training_data(store, learner_config(config.learner, config.options).needs)
        saved = {"spec": data.spec.to_json(), "schema": store.schema.to_json()}
        replace_json(folder / "spec.json", saved | {"digest": digest(saved)})
        keep(config, folder)
        lease.commit()
        learner = build(config, data.spec)
        equip(learner, config, data.spec, store.schema, folder)
        feed.survey(learner, data)
        on_the_way, seconds = _train(config, folder, data, learner, store, progress, lease)
        began = time.perf_counter()
        records, pace = evaluate_learner(config, learner, store)
        timing = {"seconds": round(seconds, 3), "evaluation_seconds": round(time.perf_counter() - began, 3)}
        scores = {split: round(score, 6) for (_, split), (score, _) in mean_scores(records).items()}
        lease.check()
        replace_json(folder / "state.json", {"step": config.steps, "steps": config.steps, **timing, "scores": scores})
        replace_json(folder / "acting.json", asdict(pace) | {"actions": sum(record.length for record in records)})
        write_records(folder, on_the_way + records)
        lease.check()
        mark_done(folder, config)
        lease.commit(done=True)
    return place.result(config)


def _train(
    config: RunConfig,
    folder: Path,
    data: ReplayStore | Mixture,
    learner: Learner,
    store: ReplayStore | Mixture,
    progress: Progress | None,
    lease: Held,
) -> tuple[list[Record], float]:
    """Gradient steps until `config.steps`, from the checkpoint if there is one.

    Returns the evaluations before the last step, which change nothing in the learner or its batches, and the seconds
    spent training, in all sittings.
    """
    needs = learner_config(config.learner, config.options).needs
    seed = child_seed(config.seed, "batches", config.learner)
    sampler = feed.sampler(data, needs, batch_size=config.batch_size, seed=seed, device=config.device, tier=config.tier)
    step, seconds = 0, 0.0
    if (saved := checkpoint.read(folder / "checkpoint")) is not None:
        restore(learner, saved, folder)
        sampler.state = saved["sampler"]
        step, seconds = saved["step"], saved["seconds"]
    kept = [line for line in read_metrics(folder) if line["step"] <= step]
    replace_text(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))
    way = folder / "evaluations.jsonl"  # becomes part of episodes.jsonl at the end
    records = [record for record in read_records(way) if record.step <= step] if way.exists() else []

    def save() -> None:
        state = {"learner": learner.state_dict(), "sampler": sampler.state, "step": step}
        lease.check()
        checkpoint.write(folder / "checkpoint", state | {"seconds": seconds + time.perf_counter() - began})
        replace_json(folder / "state.json", {"step": step, "steps": config.steps})
        lease.commit()

    update = compiled(learner) if config.compiled else learner.update
    if config.compiled and progress is not None:
        progress("compile", step, config.steps)
    began = last_save = time.perf_counter()
    path = folder / "metrics.jsonl"
    with naming(path), path.open("a") as log, interrupt_flag() as interrupted:
        while step < config.steps:
            try:
                metrics = update(sampler.next())
            except RuntimeError:
                if interrupted.is_set():  # a terminal's Ctrl-C stops the compiler as well
                    raise KeyboardInterrupt from None
                raise
            step += 1
            if step % LOG_EVERY == 0 or step == config.steps:
                _log(log, step, metrics, seconds + time.perf_counter() - began)
                if progress is not None:
                    progress("train", step, config.steps)
            if config.evaluate_every and step % config.evaluate_every == 0 and step < config.steps:
                paused = time.perf_counter()
                records += evaluate_learner(config, learner, store, step=step)[0]
                lease.check()
                write_records(folder, records, way.name)
                checkpoint.write(snapshot(folder, step), {"learner": learner.state_dict()})
                seconds -= time.perf_counter() - paused
            if interrupted.is_set() or time.perf_counter() - last_save > SAVE_SECONDS:
                save()
                last_save = time.perf_counter()
                if interrupted.is_set():
                    raise KeyboardInterrupt
        save()
    if interrupted.is_set():  # while it was saved for the last time
        raise KeyboardInterrupt
    return records, seconds + time.perf_counter() - began


def _log(log: Any, step: int, metrics: Mapping[str, Any], seconds: float) -> None:
    values = {name: float(value) for name, value in metrics.items()}
    if bad := [name for name, value in values.items() if not math.isfinite(value)]:
        raise FloatingPointError(f"{', '.join(bad)} is not finite at step {step}; lower the learning rate")
    log.write(json.dumps({"step": step, "seconds": round(seconds, 3), **values}) + "\n")
    log.flush()
