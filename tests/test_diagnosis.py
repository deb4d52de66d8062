"""Laws of what is measured of a learned model, on systems whose answers are known."""

from __future__ import annotations

import csv
import json
import os
import signal
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm
from torch import Generator, Tensor

from toolkit import diagnosis as stats
from toolkit import plots, registry
from toolkit.baselines import Transitions, joined, linear, persistence
from toolkit.cli import guarded, main
from toolkit.collect import collect
from toolkit.core import Imagined, Reached, Step
from toolkit.diagnose import PHASES, Diagnosis, diagnose, write
from toolkit.envs._vector import VectorEnvironment
from toolkit.held_out import held_out
from toolkit.nets import generator
from toolkit.optimism import acted
from toolkit.records import read_config
from toolkit.store import Schema
from toolkit.train import train

DYNAMICS = np.array([[0.9, 0.2], [-0.1, 0.8]])
CONTROL = np.array([[0.0, 0.3]])
NOISE = 0.05


class Linear:
    """x' = A x + B u + noise, reward = x_0 + noise; `sure` below 1 believes in less noise, `ends` in ends."""

    def __init__(self, *, sure: float = 1.0, ends: float = 0.0) -> None:
        self.sure, self.ends = sure, ends

    def imagine(self, obs: Tensor, action: Tensor, *, generator: Generator | None = None) -> Imagined:
        none = torch.zeros(len(obs))
        mean = torch.cat(
            [obs @ torch.tensor(DYNAMICS.T).float() + action @ torch.tensor(CONTROL).float(), obs[:, :1]], 1
        )
        if generator is not None:
            mean = mean + self.sure * NOISE * torch.randn(mean.shape, generator=generator)
        return Imagined(mean[:, :-1], mean[:, -1], none + self.ends, none, none)

    def unseen(self, episodes: int) -> np.ndarray:
        return np.zeros(0, np.int64)


def episodes(
    count: int, *, steps: int = 60, seed: int = 0, noise: bool = True, scale: float = 1.0
) -> list[Transitions]:
    """Episodes of the linear system under random actions; with `scale`, everything in other units."""
    model, random, found = Linear(), generator(seed), []
    for number in range(count):
        obs, parts = torch.randn(1, 2, generator=random), []
        for _ in range(steps):
            action = 2 * torch.rand(1, 1, generator=random) - 1
            after = model.imagine(obs, action, generator=random if noise else None)
            parts.append(
                (scale * obs, action, scale * after.obs, scale * after.reward, torch.zeros(1, dtype=torch.bool))
            )
            obs = after.obs
        found.append(Transitions(*(torch.cat(p) for p in zip(*parts, strict=True)), np.full(steps, number)))
    return found


UNIT = np.array([0.5, 2.0])
RNG = np.random.default_rng(0)


def windows(horizon: int, **options: object) -> stats.Windows:
    return stats.windows_of(episodes(5, **options), horizon=horizon, starts=40, rng=np.random.default_rng(0))


def test_windows_are_pieces_of_the_episodes_and_none_comes_twice():
    found, data = windows(7), episodes(5)
    starts = set()
    for obs, action, reward, e in zip(found.obs, found.action, found.reward, found.episode, strict=True):
        (at,) = (data[e].obs[:, 0] == obs[0, 0]).nonzero()[:, 0].tolist()
        starts.add((int(e), at))
        assert torch.equal(obs[:-1], data[e].obs[at : at + 7])
        assert torch.equal(obs[1:], data[e].next_obs[at : at + 7])
        assert torch.equal(action, data[e].action[at : at + 7])
        assert torch.equal(reward, data[e].reward[at : at + 7])
    assert len(starts) == 40


def test_windows_longer_than_every_episode_are_refused():
    with pytest.raises(ValueError, match="no episode has 61 steps; the longest has 60"):
        windows(61)


def test_compounding_error_at_horizon_one_is_the_one_step_error():
    found, model = windows(5), persistence(joined(episodes(5)))
    change = (found.obs[:, 1] - found.obs[:, 0]).numpy() / UNIT
    np.testing.assert_allclose(stats.compounding(model, found, UNIT)[:, 0], np.square(change).mean(1), rtol=1e-5)


def test_compounding_error_of_persistence_is_the_distance_gone():
    found, model = windows(5), persistence(joined(episodes(5)))
    gone = (found.obs[:, 1:] - found.obs[:, :1]).numpy() / UNIT
    np.testing.assert_allclose(stats.compounding(model, found, UNIT), np.square(gone).mean(2), rtol=1e-5)


def test_a_linear_model_of_a_noiseless_linear_system_never_errs_and_finds_its_matrices():
    data = episodes(5, noise=False)
    model = linear(joined(data), ridge=1e-12)
    np.testing.assert_allclose(model.weight[:2, :2], DYNAMICS.T, atol=1e-5)
    np.testing.assert_allclose(model.weight[2:3, :2], CONTROL, atol=1e-5)
    assert stats.compounding(model, windows(30, noise=False), UNIT).max() < 1e-8


def test_a_number_with_no_unit_is_left_out_of_the_error():
    found, model = windows(3), persistence(joined(episodes(5)))
    only = np.square((found.obs[:, 1:, :1] - found.obs[:, :1, :1]).numpy() / 0.5)[..., 0]
    np.testing.assert_allclose(stats.compounding(model, found, np.array([0.5, 0.0])), only, rtol=1e-5)


@pytest.mark.parametrize("samples", [9, 99])
def test_a_perfect_models_transforms_are_uniform_and_its_intervals_hold(samples):
    data = joined(episodes(20))
    found = stats.pit(Linear(), data, samples=samples, generator=generator(1), rng=np.random.default_rng(1))
    assert found.shape == (len(data), 3)
    for column in found.T:
        assert kstest(column, "uniform").pvalue > 1e-3
    for level in (0.5, 0.9, 0.95):
        tolerance = 4 * np.sqrt(level * (1 - level) / len(data))
        np.testing.assert_allclose(stats.coverage(found, level).mean(0), level, atol=tolerance)


@pytest.mark.parametrize(("sure", "least", "most"), [(0.5, 0.0, 0.7), (2.0, 0.99, 1.0)])
def test_a_model_too_sure_covers_too_little_and_one_too_unsure_too_much(sure, least, most):
    data = joined(episodes(10))
    found = stats.pit(Linear(sure=sure), data, samples=99, generator=generator(1), rng=np.random.default_rng(1))
    covered = stats.coverage(found, 0.9).mean(0)
    assert (covered >= least).all()
    assert (covered <= most).all()


def test_true_probabilities_are_reliable_and_wrong_ones_are_not():
    rng = np.random.default_rng(0)
    p = rng.beta(0.2, 4, 20_000)
    ended = rng.random(len(p)) < p
    good, bad = stats.reliability(p, ended), stats.reliability(p**3, ended)
    assert good.ece < 0.01 < bad.ece
    assert good.brier == pytest.approx(np.square(p - ended).mean())
    assert good.brier < bad.brier
    inside = (good.low <= good.predicted) & (good.predicted <= good.high)
    assert inside.mean() >= 0.7
    assert good.count.sum() == len(p)


def test_the_mean_rate_scores_as_the_mean_rate():
    ended = np.arange(1000) >= 980
    found = stats.reliability(np.full(1000, 0.02), ended)
    assert found.brier == pytest.approx(found.climate)
    assert found.ece < 1e-3, "bins of equal probabilities are not told apart by what happened"


def test_rewards_count_by_the_probability_of_having_survived():
    class One:
        def act(self, step: Step) -> np.ndarray:
            return np.zeros((len(step.obs), 1), np.float32)

    class Paid(Linear):
        def imagine(self, obs: Tensor, action: Tensor, *, generator: Generator | None = None) -> Imagined:
            return replace(super().imagine(obs, action), reward=torch.ones(len(obs)))

    total = stats.imagined_return(One(), Paid(ends=0.25), np.zeros((3, 2)), steps=4)
    np.testing.assert_allclose(total, sum(0.75**k for k in range(4)))


class Environment:
    """The environment itself as a model: rows are stepped as they are asked about."""

    def __init__(self, envs: VectorEnvironment, schema: Schema) -> None:
        self.envs, self.schema = envs, schema

    def imagine(self, obs: Tensor, action: Tensor, *, generator: Generator | None = None) -> Imagined:
        moves = self.envs.step(np.arange(len(obs)), action.numpy())
        reached = torch.from_numpy(self.schema.flatten(moves.obs))
        none = torch.zeros(len(obs))
        return Imagined(reached, torch.from_numpy(moves.reward).float(), none, none, none)


class Clone:
    """A learner whose policy is a fixed function with noise of its own."""

    def policy(self, *, seed: int) -> Clone:
        self.rng = np.random.default_rng(seed)
        return self

    def act(self, step: Step) -> np.ndarray:
        return np.clip(self.rng.normal(size=(len(step.obs), 1)) - step.obs[:, 1:2], -2, 2).astype(np.float32)


def test_optimism_is_zero_when_the_model_is_the_environment(tmp_path):
    schema = collect("pendulum", out=tmp_path / "s", episodes=1, contexts=1, seed=0).schema
    suite, n = registry.suite("pendulum"), 3
    contexts, seeds = suite.contexts("interpolated", n, seed=1), [4, 5, 6]
    inside, outside = suite.batch(n), suite.batch(n)
    start = schema.flatten(inside.reset(np.arange(n), contexts, seeds))
    found = acted(Clone(), Environment(inside, schema), schema, suite, outside, start, contexts, seeds, seed=0)
    assert [r["steps"] for r in found] == [suite.max_steps] * n
    for row in found:
        assert row["imagined"] == pytest.approx(row["realised"], rel=1e-6)
        assert row["realised"] < -1


def reached(data: Transitions, width: float) -> Reached:
    """Bins of `width` about what followed."""
    target = torch.from_numpy(data.target)
    low, high = target - width / 2, target + width / 2
    return Reached(data.obs, data.action, low[:, :-1], high[:, :-1], low[:, -1], high[:, -1], data.terminated)


def test_the_linear_models_code_length_comes_near_the_entropy_of_a_linear_system():
    model, data, width = linear(joined(episodes(40))), joined(episodes(40, seed=1)), 1e-3
    bits = -model.transition_log_mass(reached(data, width)).mean().item() / np.log(2)
    entropy = 3 * (0.5 * np.log2(2 * np.pi * np.e * NOISE**2) - np.log2(width))
    assert bits == pytest.approx(entropy, abs=0.1)


def test_the_linear_models_mass_equals_scipy_and_half_a_bin_costs_one_bit_a_number():
    data = joined(episodes(3))
    model = persistence(data)
    wide, narrow = (model.transition_log_mass(reached(data, width)) for width in (2e-3, 1e-3))
    np.testing.assert_allclose(((wide - narrow) / np.log(2)).numpy(), 3, atol=1e-3)
    mean = model.imagine(data.obs, data.action)
    centre = np.hstack([mean.obs.numpy(), mean.reward.numpy()[:, None]])
    spread = model.std.numpy().astype(float)
    each = np.log(norm.cdf(data.target + 1e-3, centre, spread) - norm.cdf(data.target - 1e-3, centre, spread)).sum(1)
    np.testing.assert_allclose(wide.numpy(), each + np.log1p(-model.rate), rtol=1e-4, atol=1e-4)


def test_intervals_are_over_episodes_not_steps():
    values = np.repeat(np.arange(10.0), 1000)
    value, low, high = stats.mean(values, np.repeat(np.arange(10), 1000), np.random.default_rng(0))
    assert value == pytest.approx(4.5)
    assert high - low > 2, "a thousand steps of one episode are one episode"


# A run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    collect("pendulum", out=out / "p.zarr", episodes=12, contexts=12, coverage=0.5, seed=0)
    options = {"hidden": (16,), "members": 3, "elites": 2, "samples": 10, "best": 3, "iterations": 1, "horizon": 3}
    return train("mpc", store=out / "p.zarr", steps=60, episodes=0, options=options | {"compare_every": 20}, out=out)


@pytest.fixture(scope="module")
def found(run: Path) -> Diagnosis:
    return diagnose(run, horizon=12, episodes=3)


def test_a_diagnosis_is_the_same_each_time_and_says_what_was_held_out(run, found):
    assert found.held_out == "3 fresh episodes of the data's behaviour"
    assert (found.episodes, found.transitions) == (3, 600)
    assert json.dumps(diagnose(run, horizon=12, episodes=3).to_json()) == json.dumps(found.to_json())
    assert {r["model"] for r in found.compounding} == {"mpc", "linear", "persistence"}
    assert [r["horizon"] for r in found.compounding if r["model"] == "mpc"] == list(range(1, 13))
    assert len(found.optimism) == 3


def test_progress_goes_through_every_phase_once_from_nothing_to_all_and_changes_no_number(run, found):
    told: list[tuple[str, int, int]] = []
    again = diagnose(run, horizon=12, episodes=3, progress=lambda *one: told.append(one))
    assert json.dumps(again.to_json()) == json.dumps(found.to_json())
    for what in PHASES:
        of_phase = [(done, total) for name, done, total in told if name == what]
        assert of_phase == [(done, of_phase[0][1]) for done in range(of_phase[0][1] + 1)], what
    assert [name for name, done, _ in told if done == 0] == list(PHASES)


def test_ctrl_c_ends_a_diagnosis_with_one_line_and_writes_nothing(run, tmp_path, capsys):
    def press(what: str, done: int, total: int) -> None:
        if what == "planner optimism" and done == 5:
            os.kill(os.getpid(), signal.SIGINT)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert guarded(lambda: len(write(diagnose(run, episodes=2, progress=press), tmp_path / "d"))) == 130
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert capsys.readouterr().err.strip().startswith("interrupted")
    assert not (tmp_path / "d").exists()


def test_fresh_episodes_are_none_of_the_training_data(run):
    from toolkit.configure import load_learner, open_data

    config = read_config(run)
    _, learner, _ = load_learner(run)
    data = open_data(config.store, config.commit, config.view)
    _, fresh = held_out(run, config, learner, data, on=None, episodes=3, seed=0)
    first = data.sampler(batch_size=4000, seed=0).next().obs[:, 0]
    for episode in fresh:
        assert not (first == episode.obs[0]).all(1).any()
    what, unseen = held_out(run, config, learner, data.view(np.arange(12)), on=config.store, episodes=2, seed=0)
    assert what.startswith("2 episodes of")
    assert len(unseen) == 2


@pytest.mark.parametrize("name", sorted(registry.model_figures()))
def test_every_figure_of_a_model_draws_its_rows_the_same_each_time(found, tmp_path, name):
    figure = registry.model_figures()[name]
    ends = {"predicted": 0.3, "observed": 0.2, "low": 0.1, "high": 0.4, "steps": 50, "ends": 9}
    scores = {"brier": 0.1, "brier_of_mean_rate": 0.2, "ece": 0.05}
    shown = replace(found, termination=[ends | scores, ends | scores | {"predicted": 0.9}])
    first, second = (plots.save(figure, [shown], tmp_path / folder, dpi=50) for folder in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    with first[2].open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(figure.rows([shown])) > 0
    assert figure.caption.endswith(".")


def test_figures_without_rows_say_why(found):
    figures = registry.model_figures()
    for name, empty in (("termination", "termination"), ("optimism", "optimism"), ("explained", "bits")):
        with pytest.raises(ValueError, match=r"\w+ \w+"):
            figures[name].rows([replace(found, **{empty: []})])


def test_eval_diagnose_writes_figures_csv_and_json_beside_the_run(run, capsys):
    films = int(all(map(find_spec, ("pygame", "imageio_ffmpeg"))))
    asked = ["--diagnose", "--episodes", "2", "--horizon", "5", "--video", str(films)]
    assert main(["eval", str(run), *asked]) == 0
    out, err = capsys.readouterr()
    assert f"diagnose {run.name}, 6 of {6 + films}, planner optimism: " in err
    assert (str(run / "diagnosis" / "imagined-000.mp4") in out) == films
    assert "error after 5 steps" in out
    assert "bits explained, model" in out
    names = {path.name for path in (run / "diagnosis").iterdir()}
    assert {"diagnosis.json", "compounding.png", "compounding.csv", "calibration.svg", "optimism.csv"} <= names
    assert json.loads((run / "diagnosis" / "diagnosis.json").read_text())["episodes"] == 2


def test_a_run_without_a_model_cannot_be_diagnosed(run, capsys):
    folder = train("bc", store=read_config(run).store, steps=2, episodes=0, options={"hidden": (8,)}, out=run.parent)
    assert main(["eval", str(folder), "--diagnose"]) == 2
    assert "bc has no model of what actions do" in capsys.readouterr().err
    assert not (folder / "diagnosis").exists()


def test_every_run_is_checked_before_the_first_is_diagnosed(run, tmp_path, capsys):
    folder = train("bc", store=read_config(run).store, steps=3, episodes=0, options={"hidden": (8,)}, out=tmp_path)
    out = tmp_path / "d"
    assert main(["eval", str(run), str(folder), "--diagnose", "--episodes", "2", "--out", str(out)]) == 2
    assert capsys.readouterr().err.startswith("packmule: error: bc has no model")
    assert not out.exists()
