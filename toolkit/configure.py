"""From names and numbers to a complete run configuration, and from a run back to its learner."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

from toolkit import checkpoint, feed, registry
from toolkit.compiled import Compile, decide
from toolkit.core import Learner, LearnerConfig, Spec, child_seed
from toolkit.given import equip, named_runs
from toolkit.records import RunConfig, read_config, verify_done
from toolkit.store import Mixture, ReplayStore, Schema, open_mixture
from toolkit.store.packed import Tier

LARGEST_INT = 2**31 - 1
LARGEST_FLOAT = torch.finfo(torch.float32).max


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
    relabel: str | None = None,
    tier: Tier = "auto",
    steps: int,
    batch_size: int = 256,
    seed: int = 0,
    episodes: int = 20,
    evaluate_every: int = 0,
    splits: Sequence[str] = ("seen", "interpolated"),
    device: str = "auto",
    threads: int = 1,
    compile: Compile = "off",
    tags: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    opened: ReplayStore | Mixture | None = None,
) -> RunConfig:
    """A complete, checked RunConfig. Raises ValueError or StoreError before anything is written.

    `learner` is a name of the registry (with `options` over its defaults) or a configuration; `opened` is what
    `open_data` gives for the same store, for callers that have it.
    """
    name = learner if isinstance(learner, str) else learner.name
    config = learner_config(name, options or {}) if isinstance(learner, str) else learner
    check_numbers(name, config)
    config, given = named_runs(config)
    opened = open_data(store, commit, view, relabel) if opened is None else opened
    suite = opened.schema.environment.get("suite", "")
    if episodes:
        if not suite:
            raise ValueError(
                f"{store} names no suite, so episodes is {episodes} but there is nowhere to act: train "
                "with episodes 0, or make the store with a suite (packmule data import --suite NAME)"
            )
        registry.suite(suite)
        if relabel is not None:
            raise ValueError(
                f"episodes is {episodes} and relabel is {relabel!r}, but evaluation scores the environment's own task, "
                "not that of the relabel: train with episodes 0"
            )
    run = RunConfig(
        learner=name,
        options=json.loads(json.dumps(asdict(config), allow_nan=False)),
        store=str(store),
        commit=opened.commit.number if isinstance(opened, ReplayStore) else None,
        view=view,
        fingerprint=opened.fingerprint,
        suite=suite,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        episodes=episodes,
        evaluate_every=evaluate_every,
        splits=tuple(splits),
        device=resolve_device(device),
        threads=threads,
        compiled=decide(compile, config, steps, resolve_device(device)),
        tags=dict(tags or {}),
        relabel=relabel,
        tier="streaming" if opened.tier(tier) == "streaming" else tier,  # another stream, so another run
        given=given,
    )
    data = feed.training_data(opened, config.needs)
    try:
        built = config.build(data.spec, seed=0, device=run.device)  # refuses here what it could not train on
    except (RuntimeError, OverflowError, MemoryError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{name} cannot be built with these options ({reason}); choose smaller sizes") from error
    equip(built, run, data.spec, opened.schema)
    return run


def check_numbers(name: str, config: LearnerConfig) -> None:
    """Raises ValueError for an option of learner `name` that is not finite in float32, or counts beyond 2**31 - 1."""
    for option, value in vars(config).items():
        for number in value if isinstance(value, tuple) else (value,):
            most = {int: LARGEST_INT, float: LARGEST_FLOAT}.get(type(number))
            if most is not None and not abs(number) <= most:
                raise ValueError(f"{option} of {name} is {number}; expected a finite number of at most {most:.9g}")


def open_data(
    path: str | Path, commit: int | None, view: str | None, relabel: str | None = None
) -> ReplayStore | Mixture:
    """A store at a commit (None: the newest), labelled anew if asked, or a saved view of it; or a saved mixture.

    Raises as `ReplayStore.open`, `relabelled`, `view` and `open_mixture` do, and ValueError if a commit, view or
    relabel of a mixture is asked for: its file says which episodes it holds.
    """
    if str(path).endswith(".json"):
        if (commit, view, relabel) != (None, None, None):
            raise ValueError(f"{path} is a mixture, whose file says which commits and episodes; give neither for it")
        return open_mixture(path)
    store = ReplayStore.open(path, commit=commit)
    if relabel is not None:
        store = store.relabelled(relabel)
    return store if view is None else store.view(view)


def build(config: RunConfig, spec: Spec) -> Learner:
    """The untrained learner of a run."""
    learner = learner_config(config.learner, config.options)
    return learner.build(spec, seed=child_seed(config.seed, "parameters", config.learner), device=config.device)


def load_learner(
    folder: str | Path, *, step: int | None = None, device: str = "auto"
) -> tuple[RunConfig, Learner, Schema]:
    """A run's configuration, its learner as last saved or at a snapshot, and the schema; the store is not needed.

    Raises ValueError if the folder is not a run, holds no checkpoint yet, or no snapshot of that step, or if its
    config.json is not that of the run that was carried out.
    """
    folder = Path(folder)
    config = read_config(folder)
    if (folder / "DONE").exists():
        verify_done(folder, config)
    spec, saved = checkpoint.read_spec(folder)
    state = checkpoint.read(folder / "checkpoint" if step in (None, config.steps) else snapshot(folder, int(step or 0)))
    if state is None and step not in (None, config.steps):
        kept = sorted(int(path.name) for path in (folder / "snapshots").glob("*[0-9]"))
        raise ValueError(f"{folder} holds no snapshot of step {step}; it has {kept or 'none'}: train --evaluate-every")
    if state is None and (folder / "DONE").exists():
        raise ValueError(
            f"{folder} is finished, but its checkpoint is missing: copy it from where the run came from, or delete "
            "DONE and give the command that began the run again"
        )
    if state is None:
        raise ValueError(f"{folder} holds no checkpoint yet; run it first: packmule train {config.learner} ...")
    here = replace(config, device=resolve_device(device))
    learner = build(here, spec)
    restore(learner, state, folder)
    schema = Schema.from_json(saved)
    equip(learner, here, spec, schema, folder)
    return config, learner, schema


def snapshot(folder: Path, step: int) -> Path:
    """Where a run keeps its learner as it was after `step` steps, if it was asked to evaluate then."""
    return folder / "snapshots" / str(step)


def restore(learner: Learner, saved: Mapping[str, Any], folder: Path) -> None:
    """Load a checkpoint's learner state. Raises ValueError naming the folder if it does not fit."""
    try:
        learner.load_state_dict(saved["learner"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{folder / 'checkpoint'} does not fit this learner ({error}); delete it to train from the start"
        ) from error
