"""The one evaluation loop, on single environments and on a suite's own rows."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit import registry
from toolkit.collect import collect
from toolkit.core import Array, Step
from toolkit.envs._vector import Singles
from toolkit.evaluate import rollouts


class Pusher:
    """Pushes to the right of where it is, harder the longer a row has been running; remembers `first` row by row."""

    def __init__(self, rows: int) -> None:
        self.age = np.zeros(rows)
        self.firsts = 0

    def act(self, step: Step) -> Array:
        self.age = np.where(step.first, 0, self.age + 1)
        self.firsts += int(step.first.sum())
        push = np.stack([np.sin(self.age / 7 + step.obs[:, 0]), np.cos(self.age / 5 - step.obs[:, 1])], axis=1)
        return push.astype(np.float32)


@pytest.fixture(scope="module")
def maze(tmp_path_factory):
    pytest.importorskip("gymnasium_robotics")
    store = collect("pointmaze", out=tmp_path_factory.mktemp("maze") / "s", episodes=1, contexts=1)
    return registry.suite("pointmaze"), store.schema


def test_direct_stepping_scores_every_episode_as_single_environments_do(maze):
    suite, schema = maze
    contexts = np.concatenate([suite.contexts(split, 4, seed=2) for split in ("train", "extrapolated")])
    contexts[1, :4] = [1, 1, 1, 2]  # next to its goal, so that a row ends early and takes another episode
    singles = Singles([suite.make() for _ in range(3)])
    alone, _ = rollouts(Pusher(3), suite, schema, contexts, range(8), envs=singles)
    policy = Pusher(3)
    together, _ = rollouts(policy, suite, schema, contexts, range(8), rows=3)
    assert together == alone
    assert policy.firsts == 8, "every episode begins with first, and none twice"
    assert len({outcome.length for outcome in together}) > 1


def test_more_rows_than_episodes_play_each_once(maze):
    suite, schema = maze
    envs = suite.batch(4)
    outcomes, _ = rollouts(Pusher(4), suite, schema, suite.contexts("train", 2, seed=0), range(2), envs=envs)
    assert len(outcomes) == 2


def test_an_action_that_is_not_finite_is_named(maze):
    suite, schema = maze

    class Diverged:
        def act(self, step: Step) -> Array:
            return np.array([[0.5, 0.5], [0.25, np.nan]], np.float32)

    with pytest.raises(ValueError, match=r"the action \[0.25, nan\]; its training has diverged"):
        rollouts(Diverged(), suite, schema, suite.contexts("train", 2, seed=0), range(2))
