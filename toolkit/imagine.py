"""Imagining: rollouts of a learned model, kept as an ordinary store that any learner trains on.

On a mixture of real and imagined data, rewards less a penalty and an actor-critic are MOPO-like (arXiv:2005.13239);
a conservative critic without a penalty is COMBO-like (arXiv:2102.08363).

**The edge.** A rollout ends where the model says the task ends (`terminated`), or after `horizon` steps, or where the
data's actions run out (`truncated`). A truncated end is an edge of the imagination, not of the task: marked as
terminated it would teach that nothing follows. So learners do bootstrap there, as in the three papers, from the value
of an imagined state from which no transition starts: nothing in these data corrects that value, and about one imagined
step in `horizon` leans on it. Recorded data mixed in, short horizons, the penalty and a conservative critic hold it.
Sums of rewards to a rollout's end are no returns; what needs these (Decision Transformer, the best share of episodes)
refuses imagined data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from toolkit.collect import SEGMENT_STEPS, append, check_same
from toolkit.configure import load_learner, open_data, resolve_device
from toolkit.core import Dynamics, Episode, Learner
from toolkit.engines.local import only_one
from toolkit.episodes import MOST
from toolkit.given import check_shape
from toolkit.records import RunConfig, read_object
from toolkit.rollouts import Imagining, Rollouts
from toolkit.store import ReplayStore
from toolkit.store.backend import backend
from toolkit.store.keys import InfoKey
from toolkit.store.maintain import vacant

INFO = {"source_episode": InfoKey((), "int64"), "source_step": InfoKey((), "int64"), "penalty": InfoKey()}

# MOPO: the authors' files of D4RL hopper sets. COMBO published no code: the values OfflineRL-Kit runs it with.
PRESETS: dict[str, dict[str, Any]] = {
    "mopo": {"horizon": 5, "penalty": 1.0, "uncertainty": "noise"},
    "combo": {"horizon": 5, "penalty": 0.0},
}
REAL_SHARE = {"mopo": 0.05, "combo": 0.5}  # of the mixture to train on, beside the imagined rest


def choose(preset: str | None, given: Mapping[str, Any]) -> Imagining:
    """Settings from a preset and what else is `given` (None is not given).

    Raises ValueError for an unknown preset, or for a setting given besides the preset that sets it.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    if preset is None:
        return Imagining(**chosen)
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; expected one of {', '.join(PRESETS)}")
    if twice := sorted(set(PRESETS[preset]) & set(chosen)):
        raise ValueError(f"preset {preset!r} sets {', '.join(twice)} already; leave out one or the other")
    return Imagining(**PRESETS[preset], **chosen)


def imagine(
    folder: str | Path,
    *,
    source: str | Path,
    out: str | Path,
    settings: Imagining | None = None,
    actor: str | Path | None = None,
    view: str | None = None,
    commit: int | None = None,
    episodes: int | None = None,
    transitions: int | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> ReplayStore:
    """Roll out the model of the run `folder` from states of the store `source` into the store `out`; return it.

    Each rollout starts at a recorded transition drawn uniformly and is an episode of `out`: behaviour "imagined", the
    task and context of its source, rewards less the penalty, `terminated` drawn from the model's probability, and at
    every step info "source_episode" (its number in the source's commit), "source_step" (where it branched off) and
    "penalty" (reward lost there: add it for the model's own). The schema's environment says which run, weights,
    source and settings made it. As many rollouts as `episodes`, or until there are `transitions`; by default as many
    transitions as the source has. With `settings.actions` "actor", `actor` is the run that acts.

    A rollout is a function of the settings and its number: an interrupted call continues, a longer one extends, and
    the files are those of one call, as with `toolkit.collect`.

    Raises ValueError, before anything is written, if the run has no dynamics or was made for other observations or
    actions, if observations are not all float vectors, or `out` is a store of other settings; BlockingIOError if
    another process writes to it.
    """
    chosen = settings or Imagining()
    if episodes is not None and transitions is not None:
        raise ValueError(f"episodes is {episodes} and transitions is {transitions}; give one of them")
    if (chosen.actions == "actor") != (actor is not None):
        raise ValueError(f"actions is {chosen.actions!r} and the actor is {actor}; an actor needs actions 'actor'")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    run, learner, _ = load_learner(folder, device=device)
    model = with_dynamics(run, learner)
    data = _source(folder, source, commit, view)
    acting = None if actor is None else _actor(actor, data, device)
    target = (episodes, transitions) if (episodes, transitions) != (None, None) else (None, data.transitions)
    if not 1 <= (most := max(n for n in target if n is not None)) <= MOST * 100:
        raise ValueError(f"at least 1 episode or transition must be imagined, got {most}")
    made_by = {
        "suite": data.schema.environment.get("suite"),
        "imagine": {
            **asdict(chosen), "seed": seed, "run": run.identity, "weights": _weights(folder),
            "source": data.fingerprint, "actor": None if actor is None else _weights(actor),
        },
    }  # fmt: skip
    place = backend(out)
    if vacant(place):
        ReplayStore.create(place, replace(data.schema, info=INFO, environment=made_by))
    store = ReplayStore.open(place)
    check_same(
        place.name, store.schema.environment, made_by, ("suite", "imagine"), "give the same flags to continue it"
    )
    if _reached(store, target) == 0:
        return store
    torch.set_num_threads(run.threads)
    with only_one(place.local) if place.local is not None else nullcontext():
        store = ReplayStore.open(place)
        if _reached(store, target) > 0:
            raise ValueError(f"{place.name} holds more than was asked for already; use a view, or give another --out")
        rollouts = Rollouts(model, acting, data, chosen, seed=seed, device=resolve_device(device))
        made = _until(rollouts, store, target, progress)
        append(store, made, max(1, SEGMENT_STEPS // chosen.horizon), None)
    return ReplayStore.open(place)


def edges(store: ReplayStore) -> int:
    """How many episodes are truncated."""
    gather = store.gather()
    last = np.asarray(gather.index.ends) - 1
    return len(last) - int(gather.fields(last, np.random.default_rng(0))["terminated"].sum())


def with_dynamics(run: RunConfig, learner: Learner) -> Dynamics:
    """The learner, if it has a model to imagine with. Raises ValueError naming it if not."""
    if isinstance(learner, Dynamics):
        return cast(Dynamics, learner)
    raise ValueError(
        f"{run.learner} has no model of what actions do; give a run of a learner that has one, such as mpc"
    )


def _source(folder: str | Path, source: str | Path, commit: int | None, view: str | None) -> ReplayStore:
    """The store to start from. Raises ValueError if it cannot be imagined from, or not by this run."""
    data = open_data(source, commit, view)
    if not isinstance(data, ReplayStore):
        raise ValueError(f"{source} is a mixture; rollouts start from the states of one store or view: name that")
    if len(data) == 0:
        raise ValueError(f"{source} holds no episodes yet; append some and commit")
    schema = data.schema
    if schema.imagined:
        raise ValueError(f"{source} holds imagined rollouts; start from states that were recorded")
    keys = [*schema.observations, *([] if schema.action.one_hot else [schema.action])]
    if odd := [key.name for key in keys if key.dtype != "float32" or key.one_hot]:
        raise ValueError(
            f"{source} has {', '.join(map(repr, odd))}, which are images or integers; "
            "a model imagines float vectors only"
        )
    check_shape(folder, data.spec, str(data.path))
    return data


def _actor(folder: str | Path, data: ReplayStore, device: str) -> Learner:
    """The run that acts. Raises ValueError if it was trained for other observations or actions."""
    _, learner, _ = load_learner(folder, device=device)
    check_shape(folder, data.spec, str(data.path))
    return learner


def _weights(folder: str | Path) -> str:
    """Which weights a run's checkpoint holds; `load_learner` has verified it."""
    return str(read_object(Path(folder) / "checkpoint" / "checkpoint.json")["tensors"]).partition(".")[0]


def _reached(store: ReplayStore, target: tuple[int | None, int | None]) -> int:
    """-1: there is less in the store than was asked for; 0: just that; 1: more."""
    episodes, transitions = target
    if episodes is not None:
        return int(np.sign(len(store) - episodes))
    assert transitions is not None
    if store.transitions < transitions:
        return -1
    return int(store.transitions - int(store.episodes["length"][-1]) >= transitions)


def _until(
    rollouts: Rollouts,
    store: ReplayStore,
    target: tuple[int | None, int | None],
    progress: Callable[[int, int], None] | None,
) -> Iterator[Episode]:
    """The rollouts that follow those in the store, until there are as many episodes, or transitions, as due."""
    by_episode, due = target[0] is not None, sum(n for n in target if n is not None)
    done = len(store) if by_episode else store.transitions
    made = rollouts.stream(len(store))
    while done < due:
        episode = next(made)
        done += 1 if by_episode else len(episode)
        yield episode
        if progress is not None:
            progress(min(done, due), due)
