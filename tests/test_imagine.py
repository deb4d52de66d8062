"""Laws of imagined rollouts: where they start, what they say of themselves, and that interruptions leave no trace."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers import toy_batch, toy_spec
from test_collecting import files
from test_faults import in_child
from torch import Generator, Tensor

from toolkit import imagine as imagining
from toolkit.baselines import Transitions, persistence
from toolkit.cli import main
from toolkit.collect import collect
from toolkit.configure import load_learner
from toolkit.core import Episode, Imagined, Step
from toolkit.imagine import PRESETS, choose, edges, imagine
from toolkit.nets import generator
from toolkit.records import load
from toolkit.rollouts import BLOCK, Imagining, Rollouts
from toolkit.store import ReplayStore, Schema, mix
from toolkit.store.validate import validate
from toolkit.train import train
from worldmodel.heads import GaussianHead
from worldmodel.mixture import AutoregressiveHead
from worldmodel.model import EnsembleModel

MODEL = {"hidden": (16,), "members": 3, "elites": 2, "samples": 10, "best": 3, "iterations": 1, "horizon": 3}
KILLS = min(100, int(os.environ.get("PACKMULE_KILLS", "6")))


@pytest.fixture(scope="module")
def there(tmp_path_factory) -> Path:
    """A folder with data, a run that has a model, and one that has none."""
    out = tmp_path_factory.mktemp("imagine")
    collect("pendulum", out=out / "real", episodes=12, contexts=12, coverage=0.5, seed=0)
    settings = {"store": out / "real", "episodes": 0, "out": out}
    os.rename(train("mpc", steps=40, options=MODEL | {"compare_every": 20}, **settings), out / "mpc")
    os.rename(train("bc", steps=20, options={"hidden": (16,), "head": "squared"}, **settings), out / "bc")
    return out


def call(there: Path, out: Path, *, settings: Imagining | None = None, **given: Any) -> ReplayStore:
    given = {"source": there / "real", "seed": 3} | given
    if "transitions" not in given:
        given = {"episodes": 40} | given
    return imagine(there / "mpc", out=out, settings=settings, **given)


@pytest.fixture(scope="module")
def whole(there) -> ReplayStore:
    return call(there, there / "whole")


def sources(episode: Episode) -> tuple[int, int]:
    (number,), (step,) = (np.unique(episode.info[name]) for name in ("source_episode", "source_step"))
    return int(number), int(step)


def test_every_rollout_starts_in_the_recorded_state_it_names_and_carries_its_labels(there, whole):
    real, seen = ReplayStore.open(there / "real"), set()
    for i in range(len(whole)):
        episode = whole.episode(i)
        number, step = sources(episode)
        seen.add((number, step))
        source = real.episode(number)
        np.testing.assert_array_equal(episode.obs["observation"][0], source.obs["observation"][step])
        assert whole.episodes["context"][i].tolist() == real.episodes["context"][number].tolist()
        assert (whole.episodes["behaviour"][i], whole.episodes["task"][i]) == ("imagined", "pendulum")
        assert len(episode) <= 5
    assert len(seen) > 35, "starts are drawn from everywhere"
    assert whole.schema.imagined
    assert not real.schema.imagined
    assert whole.schema.environment["imagine"]["source"] == real.fingerprint
    assert validate(whole.path) == []


def test_without_noise_the_actions_are_the_datas_own_and_stop_where_these_do(there, tmp_path):
    store = call(there, tmp_path / "s", settings=Imagining(noise=0.0, horizon=80), episodes=60)
    real = ReplayStore.open(there / "real")
    for i in range(len(store)):
        episode = store.episode(i)
        number, step = sources(episode)
        recorded = real.episode(number).action[step : step + 80]
        np.testing.assert_array_equal(episode.action, recorded)
        assert len(episode) == len(recorded)
    assert len(set(store.episodes["length"])) > 5


def test_noise_has_the_declared_spread_and_stays_inside_the_limits(there, tmp_path):
    plain, noisy = (
        call(there, tmp_path / str(noise), settings=Imagining(noise=noise, horizon=1), episodes=400)
        for noise in (0.0, 0.1)
    )
    own, off = (np.array([store.episode(i).action[0, 0] for i in range(400)]) for store in (plain, noisy))
    inside = np.abs(own) < 1.2
    assert np.std((off - own)[inside]) == pytest.approx(0.1 * 2, rel=0.15)
    assert np.abs(off).max() <= 2


def test_uniform_actions_fill_the_limits(there, tmp_path):
    store = call(there, tmp_path / "s", settings=Imagining(actions="uniform"), episodes=100)
    actions = np.concatenate([store.episode(i).action for i in range(100)])
    assert np.histogram(actions, 4, (-2, 2))[0].min() > 0.17 * len(actions)


def test_the_penalty_is_taken_from_the_reward_and_kept_beside_it(there, tmp_path, whole):
    for uncertainty in ("disagreement", "noise"):
        settings = Imagining(penalty=2.0, uncertainty=uncertainty)
        store = call(there, tmp_path / uncertainty, settings=settings)
        for i in range(len(store)):
            plain, paid = whole.episode(i), store.episode(i)
            np.testing.assert_array_equal(plain.obs["observation"], paid.obs["observation"])
            assert (paid.info["penalty"] > 0).all()
            np.testing.assert_allclose(paid.reward + paid.info["penalty"], plain.reward, rtol=1e-5, atol=1e-5)
    assert (whole.episode(0).info["penalty"] == 0).all()


def test_a_trained_run_acts_from_the_first_state_on(there, tmp_path):
    settings = Imagining(actions="actor")
    store = call(there, tmp_path / "s", settings=settings, actor=there / "bc", episodes=10)
    policy = load_learner(there / "bc")[1].policy(seed=0)
    for i in range(10):
        episode = store.episode(i)
        obs = episode.obs["observation"][:-1]
        due = policy.act(Step(obs, np.zeros(len(obs), np.float32), np.ones(len(obs), bool)))
        np.testing.assert_allclose(episode.action, np.clip(due, -2, 2), atol=1e-5)


def test_the_planner_of_the_run_itself_may_act(there, tmp_path):
    store = call(there, tmp_path / "s", settings=Imagining(actions="actor", horizon=2), actor=there / "mpc", episodes=3)
    actions = np.concatenate([store.episode(i).action for i in range(3)])
    assert (np.abs(actions) <= 2).all()
    assert len(np.unique(actions)) > 1


def test_a_view_is_the_only_place_that_rollouts_start(there, tmp_path):
    real = ReplayStore.open(there / "real")
    if "few" not in real.view_names():
        real.save_view("few", real.view(np.array([7, 3])))
    store = call(there, tmp_path / "s", view="few")
    numbers = {sources(store.episode(i))[0] for i in range(len(store))}
    assert numbers == {3, 7}, "numbers are those of the whole commit"


# Interruptions


@pytest.fixture
def short_segments(monkeypatch):
    """Ten rollouts of five steps in a segment."""
    monkeypatch.setattr(imagining, "SEGMENT_STEPS", 50)


def test_more_rollouts_continue_fewer_whatever_was_asked_first(there, tmp_path):
    few, more = call(there, tmp_path / "few", episodes=7), call(there, tmp_path / "more", episodes=BLOCK + 30)
    few = call(there, tmp_path / "few", episodes=BLOCK + 30)
    np.testing.assert_array_equal(few.episodes["uid"], more.episodes["uid"])
    assert len(np.unique(more.episodes["uid"], axis=0)) == len(more)


def test_transitions_are_counted_and_never_exceeded_by_a_rollout(there, tmp_path, whole):
    store = call(there, tmp_path / "s", transitions=93)
    lengths = whole.episodes["length"]
    due = int(np.searchsorted(np.cumsum(lengths), 93)) + 1
    np.testing.assert_array_equal(store.episodes["uid"], whole.episodes["uid"][:due])
    assert len(call(there, tmp_path / "s", transitions=93)) == due, "a finished one is left alone"
    with pytest.raises(ValueError, match="holds more than was asked for"):
        call(there, tmp_path / "s", transitions=20)


def test_an_interrupt_keeps_what_is_done_and_the_same_call_continues(there, tmp_path, whole):
    def interrupt(done: int, due: int) -> None:
        assert due == 40
        if done == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(there, tmp_path / "s", progress=interrupt)
    assert len(ReplayStore.open(tmp_path / "s")) == 13
    np.testing.assert_array_equal(call(there, tmp_path / "s").episodes["uid"], whole.episodes["uid"])


def test_sigkill_at_random_points_leads_to_the_same_files(there, tmp_path, short_segments):
    began = time.monotonic()
    due = files(call(there, tmp_path / "whole", episodes=100).path)
    duration, rng, kills, stores, cut = time.monotonic() - began, random.Random(1), 0, 0, 0
    while kills < KILLS:
        path, stores = tmp_path / f"killed-{stores}", stores + 1
        while kills < KILLS:
            child, _ = in_child(lambda _, path=path: call(there, path, episodes=100) and None)
            time.sleep(rng.uniform(0, duration))
            os.kill(child, signal.SIGKILL)
            killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
            kills += 1
            if not killed:
                break
            if path.exists():
                done = len(ReplayStore.open(path))
                assert done % 10 == 0
                cut += 0 < done < 100
        call(there, path, episodes=100)
        assert files(path) == due
    assert validate(path) == []


# Ends


class Leap:
    """The first number grows by one a step; the task ends where it passes `end`."""

    def __init__(self, end: float) -> None:
        self.end = end

    def imagine(self, obs: Tensor, action: Tensor, *, generator: Generator | None = None) -> Imagined:
        none = torch.zeros(len(obs))
        return Imagined(obs + torch.tensor([0.0, 1.0, 0.0]), none + 1, (obs[:, 1] + 1 >= self.end).float(), none, none)

    def unseen(self, episodes: int) -> np.ndarray:
        return np.zeros(0, np.int64)


def test_a_rollout_terminates_where_the_model_says_and_is_truncated_at_its_edge(make_store):
    data = make_store([9, 9, 9])
    rollouts = Rollouts(Leap(6), None, data, Imagining(horizon=4, actions="uniform"), seed=0)
    ends = set()
    for episode in rollouts.block(0):
        start = episode.obs["observation"][0, 1]
        steps = int(min(4, max(1, 6 - start)))
        assert len(episode) == steps
        assert episode.terminated == (start + steps >= 6)
        ends.add((steps, episode.terminated))
    assert {(4, False), (4, True), (2, True)} <= ends


def test_edges_are_the_rollouts_that_are_truncated(make_store):
    assert edges(make_store([5, 3, 9, 4])) == 2, "every third of them is terminated"


def test_learners_that_need_returns_refuse_imagined_rollouts_and_mixtures_with_them(there, whole):
    for data in (whole, mix([(ReplayStore.open(there / "real"), 0.5), (whole, 0.5)])):
        if not isinstance(data, ReplayStore):
            data.save(there / "refused.json")
        path = data.path if isinstance(data, ReplayStore) else there / "refused.json"
        for learner, options in (("dt", {}), ("bc", {"top_fraction": 0.5})):
            with pytest.raises(ValueError, match="imagined rollouts, which are cut after 5 steps"):
                train(learner, store=path, steps=1, episodes=0, options=options, out=there)


# The ensemble as `Dynamics`


def ensemble(head: type = GaussianHead, *, seed: int = 0) -> EnsembleModel:
    model = EnsembleModel(toy_spec(goal=True), members=4, elites=3, hidden=(8,), head=head, generator=generator(seed))
    model.elites.copy_(torch.tensor([3, 0, 2]))
    return model


@pytest.mark.parametrize("head", [GaussianHead, AutoregressiveHead])
def test_a_step_without_a_generator_is_the_mean_of_the_elites_predictions(head):
    model, batch = ensemble(head), toy_batch(toy_spec(goal=True))
    obs, action = batch.obs[:, 0], batch.action[:, 0]
    found, (following, reward, end) = model.imagine(obs, action), model.predict(obs, action)
    elites = model.elites
    torch.testing.assert_close(found.obs, following[elites].mean(0).clamp(model.low, model.high))
    torch.testing.assert_close(found.reward, reward[elites].mean(0))
    torch.testing.assert_close(found.end, end[elites].mean(0))
    spread = following[elites].std(0, correction=0) / model.inputs.std[:5]
    torch.testing.assert_close(found.disagreement, spread.mean(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", [GaussianHead, AutoregressiveHead])
def test_drawn_steps_scatter_round_the_elites_and_by_their_standard_deviations(head):
    model = ensemble(head)
    model.low.fill_(-torch.inf)
    model.high.fill_(torch.inf)
    batch = toy_batch(toy_spec(goal=True), 1)
    obs, action = batch.obs[:, 0], batch.action[:, 0]
    many = model.imagine(obs.expand(30_000, -1), action.expand(30_000, -1), generator=generator(0))
    with torch.no_grad():
        numbers, _ = model(obs, action)
        mean = model.targets.inverse(model.head.mean(numbers))[model.elites, 0]
        std = (model.head.std(numbers) * model.targets.std)[:, 0]
    inside, between = std[model.elites].square().mean(0), mean.var(0, correction=0)
    drawn = torch.cat([many.obs - obs, many.reward[:, None]], 1)
    first = slice(0, 1)  # the others' spread also comes from those before them, where the head says so
    torch.testing.assert_close(drawn.mean(0)[first], mean.mean(0)[first], rtol=0.1, atol=0.05)
    torch.testing.assert_close(drawn.var(0)[first], (inside + between)[first], rtol=0.1, atol=0.01)
    torch.testing.assert_close(many.noise[0], std.norm(dim=1).max(), rtol=1e-4, atol=1e-4)


def test_the_mass_of_a_narrow_bin_is_its_width_times_the_density():
    head = AutoregressiveHead(2, 3, generator=generator(0))
    numbers = torch.randn(2, 5, head.outputs, generator=generator(1)).double()
    value = torch.randn(5, 3, generator=generator(2)).double()
    head = head.double()
    mass = head.log_mass(numbers, value - 5e-5, value + 5e-5)
    torch.testing.assert_close(mass, head.log_prob(numbers, value) + np.log(1e-4), rtol=1e-5, atol=1e-5)
    whole = torch.full_like(value, torch.inf)
    torch.testing.assert_close(head.log_mass(numbers, -whole, whole), torch.zeros(2, 5, 3).double(), atol=1e-9, rtol=0)


# Discrete actions


def test_discrete_actions_are_choices_and_all_are_tried(tmp_path):
    collect("cartpole", out=tmp_path / "c", episodes=4, contexts=4, coverage=0.5, seed=0)
    data = ReplayStore.open(tmp_path / "c")
    batch = data.sampler(batch_size=200, seed=0).next()
    parts = (batch.obs[:, 0], batch.action[:, 0], batch.obs[:, 1], batch.reward[:, 0], batch.terminated[:, 0])
    model = persistence(Transitions(*parts, batch.episode.numpy()))
    for settings in (Imagining(actions="uniform"), Imagining(noise=0.5)):
        made = Rollouts(model, None, data, settings, seed=0).block(0)
        schema = replace(data.schema, info=imagining.INFO)
        for episode in made:
            schema.check(episode)
        assert set(np.concatenate([episode.action for episode in made])) == {0, 1}


# Refusals


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"folder": "bc"}, "bc has no model of what actions do"),
        ({"source": "whole"}, "holds imagined rollouts; start from states that were recorded"),
        ({"source": "mixture.json"}, "is a mixture"),
        ({"source": "maze"}, "obs_dim"),
        ({"episodes": 0}, "at least 1"),
        ({"transitions": 5}, "give one of them"),
        ({"seed": -1}, "seed must not be negative"),
        ({"settings": Imagining(actions="actor")}, "an actor needs actions 'actor'"),
        ({"actor": "bc"}, "an actor needs actions 'actor'"),
    ],
)
def test_what_cannot_be_imagined_is_refused_and_nothing_is_written(there, whole, tmp_path, changed, complaint):
    if changed.get("source") == "maze" and not (there / "maze").exists():
        pytest.importorskip("gymnasium_robotics")
        collect("pointmaze", out=there / "maze", episodes=1, contexts=1, seed=0)
    if changed.get("source") == "mixture.json" and not (there / "mixture.json").exists():
        mix([(ReplayStore.open(there / "real"), 1.0)]).save(there / "mixture.json")
    given: dict[str, Any] = {"folder": "mpc", "source": "real", "episodes": 3} | changed
    given |= {name: there / given[name] for name in ("folder", "source", "actor") if name in given}
    with pytest.raises(ValueError, match=complaint):
        imagine(out=tmp_path / "s", **given)
    assert not (tmp_path / "s").exists()


def test_images_and_integers_cannot_be_imagined(there, tmp_path):
    space = spaces.Dict({"camera": spaces.Box(0, 255, (4, 4, 3), np.uint8), "x": spaces.Box(-1, 1, (3,))})
    schema = Schema.from_spaces(observation=space, action=spaces.Box(-2, 2, (1,)))
    with ReplayStore.create(tmp_path / "i", schema).writer() as writer:
        obs = {"camera": np.zeros((3, 4, 4, 3), np.uint8), "x": np.zeros((3, 3), np.float32)}
        writer.append(Episode(obs, np.zeros((2, 1), np.float32), np.zeros(2, np.float32), False))
    with pytest.raises(ValueError, match="'camera', which are images or integers"):
        call(there, tmp_path / "s", source=tmp_path / "i")
    assert not (tmp_path / "s").exists()


def test_a_store_of_other_settings_is_not_continued(there, tmp_path):
    call(there, tmp_path / "s", episodes=2)
    for changed in ({"settings": Imagining(horizon=6)}, {"seed": 9}, {"source": there / "whole"}):
        with pytest.raises(ValueError, match=r"was made by another|start from states that were recorded"):
            call(there, tmp_path / "s", episodes=3, **changed)
    assert len(ReplayStore.open(tmp_path / "s")) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [("horizon", 0), ("noise", -1.0), ("penalty", float("nan")), ("actions", "x"), ("uncertainty", "x")],
)
def test_settings_that_do_not_fit_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        Imagining(**{name: value})


def test_presets_are_the_papers_and_are_not_overridden_silently():
    assert choose("mopo", {}) == Imagining(horizon=5, penalty=1.0, uncertainty="noise")
    assert choose("combo", {"actions": "uniform"}) == Imagining(horizon=5, actions="uniform")
    with pytest.raises(ValueError, match="preset 'mopo' sets horizon already"):
        choose("mopo", {"horizon": 1})
    with pytest.raises(ValueError, match="unknown preset 'mbpo'"):
        choose("mbpo", {})
    assert set(PRESETS) == set(imagining.REAL_SHARE)


# From the command line to a trained learner


@pytest.mark.parametrize(
    ("preset", "learner"), [("mopo", ["d3rlpy", "--learner.algo", "sac"]), ("combo", ["cql"])]
)  # fmt: skip
def test_imagined_and_recorded_data_train_an_actor_critic(there, tmp_path, capsys, preset, learner):
    out, file = tmp_path / "i", tmp_path / "mix.json"
    base = ["data", "imagine", str(there / "mpc"), "--from", str(there / "real"), "--out", str(out)]
    assert main([*base, "--preset", preset, "--episodes", "30"]) == 0
    said = capsys.readouterr().out
    assert "30 imagined rollouts" in said
    assert "truncated at their edge" in said
    command = next(line for line in said.splitlines() if "packmule data mix" in line).partition("packmule ")[2].split()
    assert main([*command[:-1], str(file)]) == 0
    flags = ["--store", str(file), "--steps", "5", "--episodes", "2", "--splits", "seen", "--out", str(tmp_path / "r")]
    assert main(["train", *learner, "--learner.hidden", "16", *flags]) == 0
    real = ReplayStore.open(there / "real").episodes["return"].mean()
    for record in load(tmp_path / "r"):
        assert record.behaviour == pytest.approx(real), "the sum of a rollout's rewards is no return"
