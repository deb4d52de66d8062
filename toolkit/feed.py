"""From what a learner needs to the data it is given: which episodes, and which fields a batch holds."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor

from toolkit.core import Episode, Learner, Needs, Surveying
from toolkit.sampling import Relabel, Sampler
from toolkit.store import Mixture, ReplayStore, Schema
from toolkit.store.packed import Tier


def training_data(store: ReplayStore | Mixture, needs: Needs) -> ReplayStore | Mixture:
    """The episodes to train on: all, or the `top_fraction` of highest return (at least one; ties by position).

    Raises ValueError if the data cannot serve `needs`.
    """
    check(store.schema, needs)
    if needs.returns_to_go or needs.top_fraction < 1:
        check_returns(store)
    if needs.top_fraction == 1:
        return store
    if isinstance(store, Mixture):
        raise ValueError(
            f"{store.path} is a mixture; the best {needs.top_fraction:g} of its episodes have no weights of their own: "
            "filter the parts, with `packmule data view`, and mix these"
        )
    count = max(1, round(needs.top_fraction * len(store)))
    best = np.argsort(-store.episodes["return"], kind="stable")[:count]
    return store.view(np.sort(best))


def sampler(
    data: ReplayStore | Mixture, needs: Needs, *, batch_size: int, seed: int, device: str = "cpu", tier: str = "auto"
) -> Sampler:
    """Batches of `data` (from `training_data`) that hold what `needs` names."""
    relabel = None
    if needs.hindsight:
        relabel = Relabel(needs.achieved, reward=no_reward, share=needs.hindsight)
    return data.sampler(
        window=needs.window,
        batch_size=batch_size,
        seed=seed,
        device=device,
        next_action=needs.next_action,
        n_step=needs.n_step,
        discount=needs.discount,
        returns_to_go=needs.returns_to_go,
        relabel=relabel,
        tier=cast(Tier, tier),
    )


def survey(learner: Learner, data: ReplayStore | Mixture) -> None:
    """Show a `Surveying` learner all of `data` (from `training_data`), an episode at a time; nothing for others."""
    if isinstance(learner, Surveying):
        steps = (in_numbers(data.schema, data.episode(index)) for index in range(len(data)))
        learner.survey((obs[:-1], action) for obs, action in steps)


def in_numbers(schema: Schema, episode: Episode) -> tuple[Tensor, Tensor]:
    """An episode's raw observations (T + 1, O) and actions (T, A), one-hot if discrete, float32."""
    obs = torch.from_numpy(schema.flatten(episode.observations()).astype(np.float32))
    return obs, torch.from_numpy(schema.action.pack(episode.action).astype(np.float32))


def no_reward(achieved: Tensor, goal: Tensor) -> Tensor:
    """Zero: learners that take hindsight goals here imitate, and read no reward. (..., G), (..., G) -> (...)."""
    return achieved.new_zeros(achieved.shape[:-1])


def check_returns(store: ReplayStore | Mixture) -> None:
    """Raises ValueError if there are imagined rollouts: sums of rewards to their ends are no returns."""
    for part in store.views if isinstance(store, Mixture) else [store]:
        if part.schema.imagined:
            raise ValueError(
                f"the learner needs returns, and {part.path} holds imagined rollouts, which are cut after "
                f"{part.schema.environment['imagine']['horizon']} steps: train it on recorded episodes"
            )


def check(schema: Schema, needs: Needs) -> None:
    """Raises ValueError naming what the learner needs and the data do not have."""
    if needs.goal and schema.goal_dim == 0:
        raise ValueError(
            "the learner needs goals and the data have none; collect a suite with goals, such as pointmaze"
        )
    if not needs.hindsight:
        return
    state = schema.obs_dim - schema.goal_dim
    wrong = len(needs.achieved) != schema.goal_dim or not all(0 <= i < state for i in needs.achieved)
    if wrong:
        raise ValueError(
            f"hindsight needs to know which observation numbers show the goal reached; achieved is "
            f"{list(needs.achieved)}, expected {schema.goal_dim} numbers from 0 to {state - 1} "
            "(pointmaze: --learner.achieved 0 1)"
        )
