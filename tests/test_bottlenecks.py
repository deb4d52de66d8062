"""Laws of swaps: what stays when nothing is swapped, what ideal parts can do, and what is told where there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch

from toolkit import cli, registry
from toolkit.bottlenecks import Asked, bottlenecks
from toolkit.collect import collect
from toolkit.core import ActionValue, Array, Planner, Policy, Step
from toolkit.envs import Suite
from toolkit.envs._simulator import Played
from toolkit.evaluate import again, evaluate, evaluate_learner, executable, rollouts
from toolkit.pictures import numbers
from toolkit.plots import save
from toolkit.records import Record, read_records
from toolkit.recovered import ARMS, recovered
from toolkit.swaps import Nearest, Scene, offered
from toolkit.swaps.dynamics import followed
from toolkit.swaps.expert import ExpertStates, action_error
from toolkit.train import train

SMALL = {"hidden": (16, 16)}
MPC = {**SMALL, "members": 2, "elites": 2, "samples": 40, "iterations": 2, "best": 5, "horizon": 15}
EPISODES = 3


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Barely trained runs on pendulum, and one on cartpole's choices."""
    root = tmp_path_factory.mktemp("bottlenecks")
    data = {"pendulum": root / "p.zarr", "cartpole": root / "c.zarr"}
    for suite, path in data.items():
        collect(suite, out=path, episodes=6, contexts=3, coverage=0.5, seed=0)
    settings: dict[str, Any] = {"steps": 20, "episodes": EPISODES, "splits": ("interpolated",), "out": root / "runs"}
    found = {
        name: train(name, store=data["pendulum"], options=options, **settings)
        for name, options in (("bc", SMALL), ("iql", SMALL), ("mpc", MPC))
    }
    return found | {"cartpole": train("cql", store=data["cartpole"], options=SMALL, **settings)}


def arms(folder: Path, candidates: int = 3) -> tuple[dict[str, Any], Any]:
    """The swaps that a run offers, and a function that acts one: its records."""
    _, config, learner, store = again(folder, EPISODES, ["interpolated"], None)

    def near(obs: Array, count: int) -> Array:
        low, high = learner.scale.low.numpy(), learner.scale.high.numpy()
        return np.random.default_rng(0).uniform(low, high, (len(obs), count, len(low))).astype(np.float32)

    scene = Scene(learner, registry.suite(config.suite), store.schema, config.seed, candidates, near)
    found = offered(scene, learner.policy(seed=0))

    def act(name: str) -> list[Record]:
        return found[name].settle(evaluate_learner(config, learner, store, stage=found[name])[0])

    return found, act


def returns(records: list[Record]) -> Array:
    return np.array([record.episode_return for record in records])


@pytest.mark.parametrize("name", ["bc", "mpc", "cartpole"])
def test_swapping_nothing_is_the_evaluation_bit_for_bit(runs: dict[str, Path], name: str) -> None:
    _, act = arms(runs[name])
    assert act("own") == evaluate(runs[name]) == read_records(runs[name] / "episodes.jsonl")


class Expert:
    """The expert as a policy of one environment: it is told the context."""

    def __init__(self, suite: Suite, schema: Any, record: Record) -> None:
        rng = np.random.default_rng(record.env_seed)
        self.schema, self.behave = schema, suite.expert(np.array(record.context), rng=rng)

    def act(self, step: Step) -> Array:
        (key,) = self.schema.observations
        action = self.schema.action.pack(np.asarray(self.behave({key.name: step.obs[0]})))
        return np.array([action.argmax()]) if self.schema.discrete else action[None]


@pytest.mark.parametrize("name", ["bc", "cartpole"])
def test_the_expert_on_all_steps_is_the_expert(runs: dict[str, Path], name: str) -> None:
    _, config, _, store = again(runs[name], EPISODES, ["interpolated"], None)
    _, act = arms(runs[name])
    suite, records = registry.suite(config.suite), act("expert-1")
    due = [
        rollouts(Expert(suite, store.schema, r), suite, store.schema, np.array([r.context]), [r.env_seed])[0][0]
        for r in records
    ]
    assert [r.episode_return for r in records] == [one.episode_return for one in due]
    assert fmean(r.score for r in records) > 0.8


def test_steps_of_a_smaller_share_are_among_those_of_a_larger_one(runs: dict[str, Path]) -> None:
    """Seen by a policy that pushes one way, whose action the expert never takes."""
    found, _ = arms(runs["bc"])

    class Push:
        def act(self, step: Step) -> Array:
            return np.full((len(step.obs), 1), 1.234, np.float32)

    suite, corrected = registry.suite("pendulum"), {}
    contexts = suite.contexts("train", 2, seed=0)
    for share in (0.25, 0.5):
        policy, envs = found[f"expert-{share}"](Push(), 2)
        obs = envs.reset(np.arange(2), contexts, [3, 4])["observation"]
        taken = []
        for _ in range(150):
            actions = policy.act(Step(obs, np.zeros(2, np.float32), np.zeros(2, bool)))
            taken.append(actions[:, 0] != np.float32(1.234))
            obs = envs.step(np.arange(2), actions).obs["observation"]
        corrected[share] = np.array(taken)
        envs.close()
    assert (corrected[0.5] >= corrected[0.25]).all()
    assert not (corrected[0.5][:, 0] == corrected[0.5][:, 1]).all()
    for share, steps in corrected.items():
        assert steps.mean() == pytest.approx(share, abs=0.08)


def test_planning_with_the_true_dynamics_beats_chance_where_the_learned_model_knows_nothing(
    runs: dict[str, Path],
) -> None:
    _, act = arms(runs["mpc"])
    records = act("dynamics")
    scores = [record.score for record in records]
    assert min(scores) > 0.3
    assert fmean(scores) > 0.6
    assert fmean(scores) > fmean(record.score for record in act("own")) + 0.2


@pytest.mark.parametrize("name", ["pendulum", "cartpole"])
def test_followed_sequences_lead_where_the_environment_goes_and_stop_where_it_ends(
    name: str, runs: dict[str, Path]
) -> None:
    folder = runs["mpc" if name == "pendulum" else name]
    _, _, _, store = again(folder, 1, ["interpolated"], None)
    suite, schema, rng = registry.suite(name), store.schema, np.random.default_rng(0)
    simulator = suite.simulator()
    assert simulator is not None
    played = Played(simulator, 2)
    played.reset(np.arange(2), suite.contexts("extrapolated", 2, seed=0), [0, 1])
    shape = (2, 3, 60, schema.action_dim)
    drawn = rng.uniform(-2, 2, shape) if not schema.discrete else np.eye(2)[rng.integers(2, size=shape[:-1])]
    actions = torch.from_numpy(drawn.astype(np.float32))
    found = followed(simulator, schema, played.states, np.array([False, True]), actions)
    assert not found.reward[0].any()
    state = played.states[[1]]
    for h in range(shape[2]):
        taken = actions[1, 2, h].numpy()
        state, moves = simulator.step(
            state, executable(schema, taken.argmax()[None] if schema.discrete else taken[None])
        )
        assert found.reward[1, 2, h] == pytest.approx(float(moves.reward[0]), rel=1e-6)
        np.testing.assert_array_equal(found.obs[1, 2, h].numpy(), schema.flatten(moves.obs)[0])
        if moves.over[0]:
            assert found.end[1, 2, h] == 1
            assert not found.reward[1, 2, h + 1 :].any()
            break
    assert moves.over[0] == (name == "cartpole")


def test_the_true_value_never_chooses_worse_than_the_policy(runs: dict[str, Path]) -> None:
    """Policy improvement: the own action is a candidate, and what follows it is known exactly."""
    found, act = arms(runs["iql"])
    assert isinstance(found["value"].scene.learner, ActionValue)
    own, chosen = returns(act("own")), returns(act("value"))
    assert (chosen >= own - 1e-6).all()
    assert chosen.mean() > own.mean() + 10


def test_the_critic_takes_the_candidate_it_values_most(runs: dict[str, Path]) -> None:
    found, _ = arms(runs["iql"], candidates=5)
    swap, learner = found["critic"], found["critic"].scene.learner
    policy, envs = swap(learner.policy(seed=0), 2)
    obs = envs.reset(np.arange(2), registry.suite("pendulum").contexts("train", 2, seed=0), [0, 1])["observation"]
    own = learner.policy(seed=0).act(Step(obs, np.zeros(2, np.float32), np.ones(2, bool)))
    tried = swap.candidates(obs, own)
    np.testing.assert_array_equal(tried[:, 0], own)
    with torch.no_grad():
        worth = [learner.action_value(torch.from_numpy(obs), torch.from_numpy(tried[:, k])) for k in range(5)]
    best = torch.stack(worth, 1).argmax(1).numpy()
    chosen = policy.act(Step(obs, np.zeros(2, np.float32), np.ones(2, bool)))
    np.testing.assert_array_equal(chosen, tried[np.arange(2), best])


def test_an_action_costs_what_the_expert_loses_by_it(runs: dict[str, Path]) -> None:
    """Each deviation's return, acted anew: the expert until there, once the learner, then the expert."""
    _, config, learner, store = again(runs["bc"], 2, ["interpolated"], None)
    found, _ = arms(runs["bc"])
    swap: ExpertStates = found["states"]
    records = evaluate_learner(config, learner, store, stage=swap)[0]
    settled = swap.settle(records)
    suite, shadow = registry.suite("pendulum"), swap.shadow
    assert len(shadow.deviated) == 2 * suite.max_steps
    for record in records:
        mine = [d for e, d in zip(shadow.episode, shadow.deviated, strict=True) if e == record.episode]
        for moment in (0, 57, 150):
            env, policy = suite.make(), learner.policy(seed=0)
            obs, _ = env.reset(seed=record.env_seed, options={"context": np.array(record.context)})
            expert, total = suite.expert(np.array(record.context), rng=np.random.default_rng(0)), 0.0
            for t in range(suite.max_steps):
                seen = Step(obs["observation"][None], np.zeros(1, np.float32), np.array([t == 0]))
                obs, reward, *_ = env.step(policy.act(seen)[0] if t == moment else expert(obs))
                total += float(reward)
            assert mine[moment] == pytest.approx(total, rel=1e-6)  # rows together round otherwise
    cost = returns(records) - [
        sum(r.episode_return - d for e, d in zip(shadow.episode, shadow.deviated, strict=True) if e == r.episode)
        for r in records
    ]
    np.testing.assert_allclose(returns(settled), cost)


def test_the_expert_does_not_drift_and_costs_nothing(runs: dict[str, Path]) -> None:
    _, config, _, store = again(runs["bc"], 1, ["interpolated"], None)
    found, act = arms(runs["bc"])
    record = act("expert-1")[0]

    class Learner:
        def policy(self, *, seed: int) -> Policy:
            return Expert(registry.suite("pendulum"), store.schema, record)

    asked = replace(config, episodes=1)
    records = evaluate_learner(asked, Learner(), store, stage=found["states"])[0]  # type: ignore[arg-type]
    assert returns(found["states"].settle(records)) == pytest.approx(returns([record]), rel=1e-9)


def test_action_errors_are_told_where_the_learner_goes_and_where_the_expert_goes(runs: dict[str, Path]) -> None:
    """Half ranges of torque: 1.5 N m off of 2; a learner that acts as the expert is off nowhere."""
    _, config, _, store = again(runs["bc"], 1, ["interpolated"], None)
    found, act = arms(runs["bc"])
    assert action_error(store.schema, np.array([0.5]), np.array([-1.0])) == pytest.approx(0.75)
    choices = again(runs["cartpole"], 1, ["interpolated"], None)[3].schema
    assert [action_error(choices, np.int64(1), np.int64(own)) for own in (0, 1)] == [1, 0]
    act("own")
    errors = found["own"].errors
    assert [len(errors[i]) for i in range(EPISODES)] == [200] * EPISODES
    assert 0.1 < fmean(errors[0]) < 2
    record = act("expert-1")[0]

    class Learner:
        def policy(self, *, seed: int) -> Policy:
            return Expert(registry.suite("pendulum"), store.schema, record)

    for name in ("own", "states"):
        found[name].errors.clear()
        evaluate_learner(replace(config, episodes=1), Learner(), store, stage=found[name])  # type: ignore[arg-type]
        assert found[name].errors == {0: [0.0] * 200}


def test_nearest_actions_are_those_of_the_nearest_states() -> None:
    rng = np.random.default_rng(0)
    obs = np.column_stack([rng.normal(size=50), 100 * rng.normal(size=50), np.full(50, 7.0)])
    near = Nearest(obs, np.arange(50.0)[:, None])
    found = near(obs[[3, 9]] + [0, 0, 1000.0], 4)  # the constant number does not count
    assert found[:, 0, 0].tolist() == [3, 9]
    gaps = (np.square((obs - obs[3])[:, :2] / obs[:, :2].std(0))).sum(1)
    assert sorted(found[0, :, 0]) == sorted(np.argsort(gaps)[:4])
    assert near(obs[:1], 60).shape == (1, 60, 1)


def test_what_a_learner_or_suite_lacks_is_not_available_with_its_reason(runs: dict[str, Path]) -> None:
    found, _ = arms(runs["bc"])
    assert list(found) == list(ARMS)
    assert found["dynamics"] == "its policy plans with no model"
    assert found["critic"] == found["value"] == "it has no critic of actions"
    scene = found["own"].scene
    far = replace(scene, suite=registry.suite("ogbench-pointmaze-large"))
    for name in ("states", "dynamics", "value"):
        assert isinstance(offered(far, scene.learner.policy(seed=0))[name], str)
    assert "ogbench-pointmaze-large has no simulator" in str(offered(far, scene.learner.policy(seed=0))["states"])
    planner = again(runs["mpc"], 1, ["interpolated"], None)[2].policy(seed=0)
    assert isinstance(planner, Planner)
    assert not isinstance(offered(scene, planner)["dynamics"], str)


def test_finished_arms_are_kept_and_those_of_other_settings_are_not(runs: dict[str, Path]) -> None:
    folder, asked = runs["bc"], Asked(episodes=2, splits=("interpolated", "seen"))
    rows = bottlenecks(folder, asked)
    assert {(r["arm"], r["split"]) for r in rows} == {(a, s) for a in ARMS for s in asked.splits}
    path = folder / "bottlenecks" / "expert-0.5.jsonl"
    before = path.read_bytes()
    kept = folder / "bottlenecks" / "own.jsonl"
    kept.write_text(kept.read_text().replace('"episode": 0', '"episode": 77'))
    path.unlink()
    assert bottlenecks(folder, asked) == rows
    assert path.read_bytes() == before
    assert '"episode": 77' in kept.read_text()
    bottlenecks(folder, Asked(episodes=1))
    assert len(path.read_bytes().splitlines()) == 1
    assert '"episode": 77' not in kept.read_text()


def line(arm: str, score: float | None, draw: int = 0, **more: Any) -> dict[str, Any]:
    base = {"learner": "iql", "dataset": "d", "suite": "pendulum", "split": "seen", "draw": draw, "seed": draw}
    return {
        **base,
        "arm": arm,
        "score": score,
        "episodes": 5,
        "why": None if score is not None else "none",
        "error": None,
        **more,
    }


def test_what_a_swap_recovers_is_paired_run_by_run() -> None:
    table = [line("own", 0.1 * d, d) for d in range(3)] + [line("critic", 0.1 * d - 0.1, d) for d in range(3)]
    table += [line("value", 0.1 * d + 0.2, d) for d in range(3)] + [line("dynamics", None, d) for d in range(3)]
    found = {r["arm"]: r for r in recovered(table)}
    assert found["value"]["recovered"] == pytest.approx(0.2)
    assert (
        found["value"]["recovered_high"] - found["value"]["recovered_low"]
        < 1e-9
        < 0.1
        < (found["value"]["score_high"] - found["value"]["score_low"])
    )  # what draws share cancels
    assert found["value"]["more"] == pytest.approx(0.3)
    assert found["dynamics"]["score"] is None
    assert found["dynamics"]["why"] == "none"
    assert recovered([r for r in table if r["draw"] == 0])[0]["score_low"] == -np.inf


def test_the_report_names_only_what_surely_recovers_something(tmp_path: Path) -> None:
    table = [line(arm, 0.1 * d + gain, d) for d in range(3) for arm, gain in (("own", 0), ("value", 0.2))]
    table += [line("expert-0.5", 0.1 + 0.3 * (d == 1), d) for d in range(3)]
    figure = registry.figures()["bottlenecks"]
    csv = save(figure, table, tmp_path, dpi=50)[2]
    assert figure.finding(numbers(csv)).endswith("iql on d: best candidate by true value +0.20.")
    alone = save(figure, [row for row in table if row["draw"] == 0], tmp_path, dpi=50)[2]
    assert figure.finding(numbers(alone)).endswith("iql on d: none.")


def test_runs_that_cannot_be_paired_are_refused() -> None:
    with pytest.raises(ValueError, match="some runs have arms that others lack"):
        recovered([line("own", 0.1), line("own", 0.2, 1), line("value", 0.3)])
    with pytest.raises(ValueError, match="2 results of arm own for 1 draws"):
        recovered([line("own", 0.1), line("own", 0.2)])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--episodes", "0"], "episodes must be at least 1, got 0"),
        (["--candidates", "1"], "candidates must be at least 2, got 1"),
        (["--candidates", "1000000000"], "candidates must be at most 4096, got 1000000000"),
        (["--seed", "-1"], "seed must not be negative"),
        (["--contexts", "seen", "seen"], "each once"),
    ],
)
def test_wrong_input_is_an_error_before_anything_is_acted(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert cli.main(["bottlenecks", str(runs["iql"]), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (runs["iql"] / "bottlenecks").exists()


def test_a_folder_without_finished_runs_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bottlenecks", str(tmp_path)]) == 2
    assert "no finished runs" in capsys.readouterr().err


def test_the_command_prints_what_is_recovered_and_draws_it(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bottlenecks", str(runs["bc"]), "--episodes", "1", "--out", str(tmp_path / "f")]) == 0
    out = capsys.readouterr().out
    assert "expert's action on 50% of steps" in out
    assert "n/a: it has no critic of actions" in out
    names = {path.name for path in (tmp_path / "f").iterdir()}
    assert names == {"bottlenecks_of_runs.csv", "bottlenecks.png", "bottlenecks.svg", "bottlenecks.csv"}
