"""Code lengths: masses are probabilities, marginals are entropies, and what is explained is mutual information."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers import toy_batch, toy_spec
from scipy.stats import norm
from test_learner_contract import small, trained
from torch import Tensor

from toolkit import registry
from toolkit.bits import CodeLength, code_lengths, per_transition
from toolkit.cli import main
from toolkit.collect import collect
from toolkit.core import ActionDensity, ActionMass, Episode, Reached, TransitionMass
from toolkit.marginal import Bins, Marginal, choice_bits
from toolkit.nets import interval_log_mass
from toolkit.store import ReplayStore, Schema
from toolkit.tables import BITS
from toolkit.train import train

SIGMA, RHO = 0.5, 0.25  # of the action about the observation, and of the next observation about their sum
LEARNERS = [pytest.param(small(c), id=name) for name, c in registry.learners().items() if "continuous" in c.actions]


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (-3.0, -2.5), (2.5, 3.0), (-math.inf, 0.3), (0.3, math.inf), (-math.inf, math.inf)]
)
def test_interval_mass_is_the_difference_of_the_distribution_function(low, high):
    found = interval_log_mass(*torch.tensor([low, high, 0.2, math.log(0.7)], dtype=torch.float64))
    assert found.item() == pytest.approx(math.log(np.diff(norm.cdf([low, high], 0.2, 0.7))[0]), abs=1e-12)


@pytest.mark.parametrize("start", [-1e4, -30.0, 0.0, 30.0, 1e4])
def test_narrow_intervals_far_out_have_density_times_width(start):
    low, width = torch.tensor(start, dtype=torch.float64), 1e-6
    found = interval_log_mass(low, low + width, torch.tensor(0.0), torch.tensor(0.0))
    assert found.item() == pytest.approx(norm.logpdf(start + width / 2) + math.log(width), rel=1e-8, abs=1e-5)


@pytest.mark.parametrize("config", LEARNERS)
def test_probabilities_of_all_bins_of_an_action_sum_to_one(config):
    spec = toy_spec(goal=True, action_dim=1)
    learner = trained(config, 3, spec=spec)
    if not isinstance(learner, ActionMass) or learner.exactness == "none":
        pytest.skip("it has no probabilities of actions")
    obs = toy_batch(spec, 4).obs[:, 0]
    bins = Bins(0.05, float(spec.action_low[0]), float(spec.action_high[0]))
    every = np.arange(bins.last + 1)
    low, high = (torch.from_numpy(edge)[:, None] for edge in bins.edges(every))
    with torch.no_grad():
        log_mass = [learner.action_log_mass(one.expand(len(every), -1), low, high) for one in obs]
    np.testing.assert_allclose(torch.stack(log_mass).exp().sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize("config", LEARNERS)
def test_a_narrow_bin_has_the_density_times_its_width(config):
    spec = toy_spec(goal=True)
    learner = trained(config, 3, spec=spec)
    if not (isinstance(learner, ActionMass) and isinstance(learner, ActionDensity)) or learner.exactness == "none":
        pytest.skip("it has no density over actions")
    batch, width = toy_batch(spec, 16), 1e-3
    obs, action = batch.obs[:, 0], batch.action[:, 0]
    with torch.no_grad():
        mass = learner.action_log_mass(obs, action.double() - width / 2, action.double() + width / 2)
        density = learner.action_log_prob(obs, action)
    np.testing.assert_allclose(mass, density + 2 * math.log(width), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("config", LEARNERS)
def test_probabilities_of_all_that_may_follow_sum_to_one(config):
    spec = toy_spec(obs_dim=1, action_dim=1)
    learner = trained(config, 3, spec=spec)
    if not isinstance(learner, TransitionMass):
        pytest.skip("it has no probabilities of transitions")
    obs, action = torch.zeros(1, 1), torch.zeros(1, 1)
    grid = np.arange(-2000, 2000)
    low, high = (torch.from_numpy(edge) for edge in Bins(0.05).edges(grid))
    low[0], high[-1] = -math.inf, math.inf
    n, everything = len(grid), torch.full((len(grid),), math.inf, dtype=torch.float64)
    total = 0.0
    for ended in (False, True):
        many = (obs.expand(n, -1), action.expand(n, -1), low[:, None], high[:, None], -everything, everything)
        with torch.no_grad():
            mass = learner.transition_log_mass(Reached(*many, torch.full((n,), ended)))
        total += mass.exp().sum().item()
    assert total == pytest.approx(1, rel=1e-6)


def test_bins_hold_their_values_and_those_at_a_limit_all_beyond_it():
    bins = Bins(0.3, -1.0, 1.0)
    values = np.array([-1.0, -0.99, 0.0, 0.95, 1.0, 7.0])
    low, high = bins.edges(bins.index(values))
    assert ((low < values) & (values <= high + 1e-9)).all()
    assert low[0] == -math.inf
    assert high[-1] == math.inf
    assert bins.last == 6


def test_the_marginal_of_a_known_mixture_costs_its_entropy():
    rng = np.random.default_rng(0)
    sample = np.where(rng.random(60_000) < 0.3, 1.0, rng.normal(0, 0.2, 60_000).clip(-1, 1))
    bins = Bins(0.01, -1.0, 1.0)
    index = bins.index(sample)
    found = Marginal.fit(index[:30_000], np.arange(30_000) // 100).bits(index[30_000:]).mean()
    edges = norm.cdf(np.concatenate([[-np.inf], -1 + 0.01 * np.arange(1, 200), [np.inf]]), 0, 0.2)
    mass = 0.7 * np.diff(edges)
    mass[-1] += 0.3
    assert found == pytest.approx(-(mass[mass > 0] * np.log2(mass[mass > 0])).sum(), abs=0.04)


def test_marginals_are_finite_anywhere_and_sum_to_one():
    one = Marginal.fit(np.array([5, 5, 5, 9]), np.array([0, 0, 1, 1]))
    assert np.isfinite(one.bits(np.array([-(10**9), 0, 10**9]))).all()
    assert (2.0 ** -one.bits(np.arange(-100_000, 100_000))).sum() == pytest.approx(1, abs=1e-4)
    assert (2.0 ** -choice_bits(np.array([0, 0, 2]), np.arange(4), 4)).sum() == pytest.approx(1)


class Truth:
    """What made the data of `known_store`, as a learner."""

    exactness = "exact"

    def action_log_mass(self, obs: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return interval_log_mass(low, high, obs, torch.tensor(math.log(SIGMA))).sum(-1)

    def transition_log_mass(self, reached: Reached) -> Tensor:
        mean = reached.obs + reached.action
        return interval_log_mass(reached.next_low, reached.next_high, mean, torch.tensor(math.log(RHO))).sum(-1)


def known_store(path: Path, width: float, seed: int) -> ReplayStore:
    """Episodes of one step: s ~ N(0, 1), a ~ N(s, SIGMA), s' ~ N(s + a, RHO), no reward and no end."""
    box = spaces.Box(-np.inf, np.inf, (1,))
    schema = Schema.from_spaces(observation=box, action=box, resolution={"observation": width, "action": width})
    rng = np.random.default_rng(seed)
    with ReplayStore.create(path, schema).writer() as writer:
        for _ in range(20_000):
            s = rng.normal()
            a = rng.normal(s, SIGMA)
            writer.append(Episode(np.array([[s], [rng.normal(s + a, RHO)]], np.float32), np.array([[a]], np.float32),
                                  np.zeros(1, np.float32), False))  # fmt: skip
    return ReplayStore.open(path)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[float, list[CodeLength]]:
    """The truth's code lengths at two widths of the bins."""
    folder, found = tmp_path_factory.mktemp("known"), {}
    for width in (0.01, 0.03):
        training, test = (known_store(folder / f"{width}-{seed}.zarr", width, seed) for seed in (0, 1))
        found[width] = code_lengths(Truth(), training, test, np.arange(len(test)), rows=10_000)
    return found


def test_the_truth_explains_the_mutual_information(known):
    action, transition = known[0.01]
    assert action.explained.value == pytest.approx(0.5 * math.log2(1 + 1 / SIGMA**2), abs=0.05)
    spread = 4 + SIGMA**2 + RHO**2  # of s' = 2 s + noise
    assert transition.explained.value == pytest.approx(0.5 * math.log2(spread / RHO**2), abs=0.06)
    assert action.explained.low < action.explained.value < action.explained.high
    assert action.episodes == action.transitions == 10_000


def test_the_resolution_cancels_in_what_is_explained(known):
    for fine, coarse in zip(known[0.01], known[0.03], strict=True):
        assert fine.explained.value == pytest.approx(coarse.explained.value, abs=0.03)
        assert fine.marginal.value - coarse.marginal.value == pytest.approx(math.log2(3), abs=0.03)


def test_what_never_varies_counts_nothing(tmp_path):
    """A second observation number that is constant changes no code length."""
    lengths = []
    for extra in (0, 1):
        box = spaces.Box(-np.inf, np.inf, (1 + extra,))
        schema = Schema.from_spaces(observation=box, action=spaces.Box(-9, 9, (1,)))
        rng = np.random.default_rng(0)
        with ReplayStore.create(tmp_path / f"{extra}.zarr", schema).writer() as writer:
            for _ in range(50):
                obs = np.concatenate([rng.normal(size=(21, 1)), np.full((21, extra), 3.0)], 1).astype(np.float32)
                writer.append(
                    Episode(obs, rng.normal(size=(20, 1)).astype(np.float32), np.zeros(20, np.float32), False)
                )
        store = ReplayStore.open(tmp_path / f"{extra}.zarr")
        lengths.append([x.marginal.value for x in code_lengths(object(), store, store, np.arange(50))])
    assert lengths[0] == lengths[1]


def test_the_interval_of_a_mean_over_transitions_covers_it():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(300):
        lengths = rng.integers(1, 40, 30)
        episode = np.repeat(np.arange(30), lengths)
        values = np.repeat(rng.normal(size=30), lengths) + rng.normal(size=len(episode))
        found = per_transition(values, episode)
        hits += found.low < 0 < found.high
    assert hits / 300 > 0.9


def test_a_run_is_told_on_held_out_data_alone(tmp_path, capsys):
    stores = [
        str(collect("pendulum", out=tmp_path / f"{seed}.zarr", episodes=4, contexts=2, seed=seed).path)
        for seed in (0, 1)
    ]
    runs = [
        train(small(registry.learner(name)), store=stores[0], steps=20, episodes=1, out=tmp_path / "runs")
        for name in ("bc", "td3bc", "mpc")
    ]
    assert main(["bits", *map(str, runs), "--store", stores[0]]) == 2
    assert "held-out" in capsys.readouterr().err
    assert main(["bits", str(runs[0]), "--store", stores[1], "--table", str(tmp_path / "b.csv")]) == 2
    assert "named bits_of_runs.csv" in capsys.readouterr().err
    table = tmp_path / "runs" / "bits_of_runs.csv"
    assert main(["bits", *map(str, runs), "--store", stores[1], "--table", str(table)]) == 0
    told = capsys.readouterr().out
    assert "n/a: no probabilities" in told
    kinds = {(row["learner"], row["what"]): row["exactness"] for row in BITS.read(tmp_path)}
    assert kinds["bc", "action"] == kinds["mpc", "transition"] == "exact"
    assert kinds["td3bc", "action"] == "none"
    assert main(["bits", str(runs[1]), "--store", stores[1], "--json"]) == 0
    action, transition = map(json.loads, capsys.readouterr().out.splitlines())
    assert (action["exactness"], action["model"], action["explained"]) == ("none", None, None)
    assert transition["marginal"]["value"] > transition["persistence"]["value"]
