"""Imagined against real as a film: a held-out episode, and beside it where the model says its actions lead.

Both pictures are drawn by the same environment, put where an observation says (`Suite.pose`): the recorded one on the
left, on the right the model's expectation after as many steps of its own from the same start. Above it stand the error
so far, in standard deviations of the data as in the figure of compounding error, and how far the members of the model
disagree about the last step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from toolkit import feed, registry
from toolkit.configure import learner_config, load_learner, open_data
from toolkit.core import Array, Dynamics, Imagined
from toolkit.diagnose import units
from toolkit.envs import Suite
from toolkit.fqe import learner_spec
from toolkit.held_out import held_out_episodes, transitions
from toolkit.imagine import with_dynamics
from toolkit.phases import Phase, Progress
from toolkit.records import read_config
from toolkit.store import Schema
from toolkit.video import labelled, need_video, writing

FPS = 10  # slower than life: what differs is to be seen
GAP = 4  # pixels between the pictures


def need_films(folder: str | Path, count: int) -> str:
    """Why nothing imagined can be drawn of a run's suite, or "".

    Raises ValueError if `count` is no number of films, ImportError if this machine cannot draw or make films.
    """
    if count < 1:
        raise ValueError(f"video must be at least 1 episode to film, or 0 for none; got {count}")
    name = read_config(folder).suite
    if name not in registry.suites():
        return f"its data are of {name or 'no suite'}, which nothing here can draw"
    if type(suite := registry.suite(name)).pose is Suite.pose:
        return f"suite {name} cannot be put where an observation says"
    need_video()
    suite.make(render=True).close()
    return ""


def film_imagined(
    folder: str | Path,
    count: int,
    out: Path,
    *,
    on: str | Path | None = None,
    horizon: int = 50,
    episodes: int = 20,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Path]:
    """Film the first `count` held-out episodes of `toolkit.diagnose`, with these arguments, up to step `horizon`.

    The paths of the files, `out`/imagined-NUMBER.mp4. Raises as `diagnose`, and where `need_films` finds a reason.
    """
    if why := need_films(folder, count):
        raise ValueError(f"{folder}: no video: {why}")
    run, learner, schema = load_learner(folder, device="cpu")
    model, suite = with_dynamics(run, learner), registry.suite(run.suite)
    data = feed.training_data(
        open_data(run.store, run.commit, run.view, run.relabel), learner_config(run.learner, run.options).needs
    )
    _, held = held_out_episodes(folder, run, model, data, on=on, episodes=episodes, seed=seed)
    unit = units(learner_spec(folder))
    phase, paths = Phase(progress, "video", min(count, episodes) * (horizon + 1)), []
    env = suite.make(render=True)
    for number, episode in enumerate(islice(held, count)):
        path = out / f"imagined-{number:03d}.mp4"
        context = np.asarray(episode.columns.get("context", ()))  # its dynamics can be seen: a pole's length
        fits = context.shape == (len(suite.context_names),)
        env.reset(seed=0, options={"context": context} if fits else None)
        steps = transitions(schema, episode, number)
        actions = steps.action[:horizon]
        real = torch.cat([steps.obs[:1], steps.next_obs[: len(actions)]]).numpy()
        with writing(path, FPS) as show:
            for step, (seen, found) in enumerate(zip(real, imagined(model, real[0], actions), strict=True)):
                left = labelled(drawn(suite, env, schema, seen), f"{run.suite} {number}   real   step {step}")
                shown, doubt = (seen, 0.0) if found is None else (found.obs[0].numpy(), found.disagreement.item())
                said = f"imagined by {run.learner}   error {error(shown, seen, unit):.2f} sd   doubt {doubt:.2f} sd"
                right = labelled(drawn(suite, env, schema, shown), said)
                show(np.hstack([left, np.zeros((len(left), GAP, 3), np.uint8), right]))
                phase.tick()
        paths.append(path)
    env.close()
    return paths


def imagined(model: Dynamics, start: Array, actions: torch.Tensor) -> Iterator[Imagined | None]:
    """None for the start (O,), then the model's expectation after each of the actions (H, A)."""
    yield None
    obs = torch.from_numpy(start)[None]
    for action in actions:
        found = model.imagine(obs, action[None])
        yield found
        obs = found.obs


def error(one: Array, other: Array, unit: Array) -> float:
    """Root mean square difference of observations (O,) over numbers, in `unit` (O,); as in compounding error."""
    kept = unit > 0
    return float(np.sqrt(np.square((one - other)[kept] / unit[kept]).mean()))


def drawn(suite: Suite, env: gym.Env, schema: Schema, obs: Array) -> Array:
    """The picture (H, W, 3) uint8 of an observation (O,)."""
    suite.pose(env, by_key(schema, obs))
    return np.array(env.render())


def by_key(schema: Schema, obs: Array) -> Mapping[str, Any]:
    """An observation's numbers (O,) as the environment gives them: key -> an array of the key's shape."""
    return {key.name: obs[list(schema.places(key.name))].reshape(key.shape) for key in schema.observations}
