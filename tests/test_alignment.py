"""The alignment proof finds rows that are shifted or joined, and lets real robots' data pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from toolkit.alignment import Proof, check_flags, check_next
from toolkit.collect import collect
from toolkit.core import Array
from toolkit.formats import Recording
from toolkit.shifts import LEAST
from toolkit.store import ReplayStore

Change = Callable[[dict[str, Array], Array, Array], tuple[dict[str, Array], Array, Array]]


def _later(values: Array) -> Array:
    return np.concatenate([values[1:], values[-1:]])


def _earlier(values: Array) -> Array:
    return np.concatenate([values[:1], values[:-1]])


SHIFTS: dict[str, Change] = {
    "observations one row late": lambda o, a, r: ({k: _earlier(v) for k, v in o.items()}, a, r),
    "observations one row early": lambda o, a, r: ({k: _later(v) for k, v in o.items()}, a, r),
    "actions one row early": lambda o, a, r: (o, _later(a), r),
    "actions one row late": lambda o, a, r: (o, _earlier(a), r),
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ReplayStore]:
    @cache
    def of(suite: str) -> ReplayStore:
        noise = 0.0 if suite == "cartpole" else 0.1
        out = tmp_path_factory.mktemp("stores") / f"{suite}.zarr"
        return collect(suite, out=out, episodes=24, contexts=8, coverage=0.3, noise=noise, seed=0)

    return of


def _outcomes(store: ReplayStore, change: Change = lambda o, a, r: (o, a, r)) -> dict[str, str]:
    proof = Proof(store.schema, len(store))
    for number in range(len(store)):
        one = store.episode(number)
        obs, action, reward = change(one.observations(), one.action, one.reward)
        proof.add(Recording(f"episode {number}", obs, action, reward, one.terminated), obs)
    return {statement.part: statement.outcome for statement in proof.statements()}


@pytest.mark.parametrize("suite", ["pendulum", "pointmaze", "reacher", "cartpole"])
def test_real_data_are_aligned_by_their_actions_and_nothing_in_them_is_refused(
    suite: str, recorded: Callable[[str], ReplayStore]
) -> None:
    found = _outcomes(recorded(suite))
    assert found["action"] == "aligned"
    assert "shifted" not in found.values()


@pytest.mark.parametrize("suite", ["pendulum", "pointmaze", "reacher", "cartpole"])
@pytest.mark.parametrize("shift", SHIFTS)
def test_a_shift_by_one_row_is_found(suite: str, shift: str, recorded: Callable[[str], ReplayStore]) -> None:
    assert _outcomes(recorded(suite), SHIFTS[shift])["action"] == "shifted"


@pytest.mark.parametrize("shifted", [_later, _earlier])
def test_shifted_rewards_are_found_where_they_follow_from_the_step(
    shifted: Callable[[Array], Array], recorded: Callable[[str], ReplayStore]
) -> None:
    found = _outcomes(recorded("reacher"), lambda o, a, r: (o, a, shifted(r)))
    assert (found["action"], found["reward"]) == ("aligned", "shifted")


def test_joined_episodes_are_found_where_resets_stand_out(recorded: Callable[[str], ReplayStore]) -> None:
    store = recorded("pointmaze")
    assert _outcomes(store)["jump"] == "aligned"
    proof = Proof(store.schema, len(store) // 2)
    for number in range(0, len(store) - 1, 2):
        one, two = store.episode(number), store.episode(number + 1)
        obs = {k: np.concatenate([v[:-1], two.observations()[k]]) for k, v in one.observations().items()}
        action, reward = np.concatenate([one.action, two.action]), np.concatenate([one.reward, two.reward])
        proof.add(Recording(f"episode {number}", obs, action, reward, False), obs)
    assert {s.part: s.outcome for s in proof.statements()}["jump"] == "shifted"


def test_few_steps_prove_nothing_and_refuse_nothing(recorded: Callable[[str], ReplayStore]) -> None:
    store = recorded("reacher")
    proof = Proof(store.schema, 1)
    one = store.episode(0)
    proof.add(Recording("episode 0", one.obs, one.action, one.reward, False), one.observations())
    assert len(one) < LEAST
    assert {statement.outcome for statement in proof.statements()} == {"undecided"}


def _recording(steps: int = 5, **given: object) -> Recording:
    obs = {"observation": np.arange(steps + 1.0)[:, None]}
    return Recording("demo_3", obs, np.zeros((steps, 1)), np.zeros(steps), False, **given)  # type: ignore[arg-type]


def test_a_flag_before_the_last_step_is_named() -> None:
    check_flags(_recording(ends={"terminals": np.array([0, 0, 0, 0, 1], bool)}))
    with pytest.raises(ValueError, match="demo_3: 'terminals' is set at step 2 of 5"):
        check_flags(_recording(ends={"terminals": np.array([0, 0, 1, 0, 1], bool)}))


def test_a_next_observation_that_is_not_the_next_row_is_named() -> None:
    right = _recording(next_obs={"observation": np.arange(1.0, 6.0)[:, None]})
    check_next(right, right.obs)
    wrong = _recording(next_obs={"observation": np.array([1, 2, 2, 4, 5.0])[:, None]})
    with pytest.raises(ValueError, match="demo_3: the next observation of step 2 is not the observation of step 3"):
        check_next(wrong, wrong.obs)
