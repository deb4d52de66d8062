"""Descriptors measure what they say: known entropies are met, dials move their own descriptor, samples are equal.

`python tests/test_coverage.py` prints how far the behaviour entropy is from the truth at three sample sizes.
"""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from gymnasium import spaces
from scipy import stats

from toolkit import plots, registry
from toolkit.cli import main
from toolkit.collect import collect
from toolkit.core import Episode
from toolkit.coverage import Coverage, coverage
from toolkit.entropy import NEIGHBOURS, action_terms, choice_terms, cluster_interval, state_terms
from toolkit.store import ReplayStore, Schema

WIDTH = 2 / 256
NOISE = ("gaussian 0.1", "gaussian 0.5, clipped", "uniform", "uniform, 4 numbers")
LIMITS = np.array([[-1.0], [1.0]])


def bits(mass):
    mass = np.asarray(mass)[np.asarray(mass) > 0]
    return float(-(mass * np.log2(mass)).sum())


def binned_gaussian(sigma: float) -> float:
    """Entropy in bins of a Gaussian clipped to the limits, by SciPy."""
    edges = (np.arange(-128, 130) - 0.5) * WIDTH
    edges[[0, -1]] = -np.inf, np.inf
    return bits(np.diff(stats.norm.cdf(edges / sigma)))


def conditionals(n: int, rng: np.random.Generator) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """Name -> (states (n, 3), actions (n, A), true H(a|s) in bits)."""
    s = rng.uniform(-1, 1, (n, 3))
    slope = s.mean(1, keepdims=True)
    step = np.sign(slope)
    share = 0.3 / 256
    mixture = bits([0.7 + share, *[share] * 255])
    return {
        "gaussian 0.1": (s, np.clip(rng.normal(0, 0.1, (n, 1)), -1, 1), binned_gaussian(0.1)),
        "gaussian 0.5, clipped": (s, np.clip(rng.normal(0, 0.5, (n, 1)), -1, 1), binned_gaussian(0.5)),
        "uniform": (s, rng.uniform(-1, 1, (n, 1)), 8.0),
        "uniform, 4 numbers": (s, rng.uniform(-1, 1, (n, 4)), 32.0),
        "30% random": (s, np.where(rng.random((n, 1)) < 0.3, rng.uniform(-1, 1, (n, 1)), step), mixture),
        "step": (s, step, 0.0),
        "slope": (s, slope, 0.0),
    }


def measured(states, actions, *, within=False, steps=50):
    count = actions.shape[1]
    terms = action_terms(
        actions, states, np.arange(len(states)) // steps, width=np.full(count, WIDTH),
        bounds=np.repeat(LIMITS, count, 1), within=within, rng=np.random.default_rng(7),
    )  # fmt: skip
    return float(np.nanmean(terms))


@pytest.mark.parametrize("name", [*NOISE, "30% random"])
def test_the_entropy_of_noise_is_met_at_its_resolution(name):
    states, actions, truth = conditionals(2000, np.random.default_rng(1))[name]
    assert measured(states, actions) == pytest.approx(truth, abs=0.15)


@pytest.mark.parametrize("name", NOISE)
def test_the_entropy_of_noise_is_met_within_an_episode(name):
    states, actions, truth = conditionals(2000, np.random.default_rng(1))[name]
    assert measured(states, actions, within=True) == pytest.approx(truth, abs=0.15)


def test_noise_free_policies_come_out_small_or_shrink_with_more_points():
    found = {n: conditionals(n, np.random.default_rng(1)) for n in (500, 2000, 8000)}
    step = [measured(*f["step"][:2]) for f in found.values()]
    slope = [measured(*f["slope"][:2]) for f in found.values()]
    assert step[0] < 0.6
    assert step[2] < 0.1
    assert slope[0] > slope[1] > slope[2] > 0


@pytest.mark.parametrize("mass", [[1.0], [0.5, 0.5], [0.7, 0.2, 0.1], [0.25] * 4])
def test_the_entropy_of_choices_is_met(mass):
    rng = np.random.default_rng(0)
    choices = rng.choice(len(mass), 4000, p=mass)
    terms = choice_terms(choices, rng.random((4000, 2)), np.arange(4000) // 40, within=False)
    assert terms.mean() == pytest.approx(bits(mass), abs=0.05)


def test_states_uniform_gaussian_and_repeated_have_their_entropies():
    rng = np.random.default_rng(0)

    def found(points):
        return state_terms(points, width=np.full(2, WIDTH), bounds=np.repeat(LIMITS, 2, 1), rng=rng).mean()

    assert found(rng.uniform(-1, 1, (4000, 2))) == pytest.approx(16, abs=0.1)
    assert found(rng.normal(0, 0.1, (4000, 2))) == pytest.approx(2 * binned_gaussian(0.1), abs=0.1)
    assert found(np.zeros((4000, 2))) == pytest.approx(0, abs=0.1)
    assert found(np.sign(rng.normal(size=(4000, 2)))) == pytest.approx(2, abs=0.1)


def test_neighbours_are_of_other_episodes_or_of_the_same():
    states = np.repeat(np.arange(40.0), 25)[:, None]  # an episode stands still, each elsewhere
    actions = np.repeat(np.linspace(-1, 1, 40), 25)[:, None]  # and does one thing
    assert measured(states, actions, within=True, steps=25) == pytest.approx(0, abs=0.3)
    assert measured(states, actions, within=False, steps=25) > 2


def test_short_episodes_say_nothing_about_themselves():
    states, actions, _ = conditionals(400, np.random.default_rng(0))["uniform"]
    groups = np.arange(400) // NEIGHBOURS
    args = {"width": np.array([WIDTH]), "bounds": LIMITS, "rng": np.random.default_rng(0)}
    assert np.isnan(action_terms(actions, states, groups, within=True, **args)).all()
    assert not np.isnan(action_terms(actions, states, groups, within=False, **args)).any()
    with pytest.raises(ValueError, match="too few: each needs 16 neighbours in other"):
        action_terms(actions, states, groups * 0, within=False, **args)


def test_intervals_over_episodes_cover_the_mean():
    """Episodes share a level, so their steps are not independent; 95% of 300 intervals should hold the mean, 0."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(300):
        terms = np.repeat(rng.normal(size=20), 30) + rng.normal(size=600)
        totals = terms.reshape(20, 30).sum(1)
        found = cluster_interval(lambda w, totals=totals: w @ totals / (30 * w.sum(1)), 20, rng=rng)
        inside += found.low <= 0 <= found.high
    assert 0.91 <= inside / 300 <= 0.98


@pytest.fixture(scope="module", params=["pendulum", "pointmaze"])
def dials(request, tmp_path_factory) -> dict[str, Coverage]:
    """Stores that differ in one dial each, measured together."""
    folder = tmp_path_factory.mktemp(request.param)
    levels = {"narrow": (4, 0.3, 0.1), "wide": (40, 0.3, 0.1), "noisy": (4, 0.3, 0.4), "covering": (4, 0.9, 0.1)}
    made = [
        collect(request.param, out=folder / name, episodes=40, contexts=c, coverage=a, noise=n, seed=3)
        for name, (c, a, n) in levels.items()
    ]
    return {d.store: d for d in coverage(made, sample=5000, seed=0)}


def test_contexts_raise_the_entropy_of_contexts_and_not_of_behaviour(dials):
    narrow, wide = dials["narrow"], dials["wide"]
    assert wide.context_entropy.low > narrow.context_entropy.high
    one, two = narrow.behaviour_entropy_within, wide.behaviour_entropy_within
    assert one is not None
    assert two is not None
    assert one.low < two.value < one.high
    assert all(wide.context_spread[k].value > 0 for k in wide.context_spread)


def test_hidden_contexts_make_the_action_uncertain_for_one_who_sees_the_state_only(dials):
    narrow, wide = dials["narrow"], dials["wide"]
    if narrow.suite == "pointmaze":  # there, the goal decides which way to go
        assert wide.behaviour_entropy.value > narrow.behaviour_entropy.high


@pytest.mark.parametrize("dial", ["noisy", "covering"])
def test_noise_and_coverage_raise_the_entropy_of_behaviour_and_not_of_contexts(dials, dial):
    narrow, more = dials["narrow"], dials[dial]
    for name in ("behaviour_entropy", "behaviour_entropy_within"):
        assert getattr(more, name).low > getattr(narrow, name).high
    assert more.context_entropy.value == pytest.approx(narrow.context_entropy.value, abs=0.1)
    assert more.contexts == narrow.contexts == 4


def test_coverage_costs_return_and_visits_more(dials):
    assert dials["covering"].tq.high < dials["narrow"].tq.low
    assert dials["covering"].saco.low > dials["narrow"].saco.value


def test_every_store_gives_the_same_number_of_transitions(dials):
    assert {d.transitions for d in dials.values()} == {5000}
    assert {len(d.points) for d in dials.values()} == {5000}


def test_data_figures_are_drawn_with_their_numbers(dials, tmp_path):
    found = list(dials.values())
    paths = [plots.save(figure, found, tmp_path, dpi=50)[0] for figure in registry.data_figures().values()]
    assert [p.name for p in paths] == ["diversity.png", "visited.png"]
    cells = [line.split(",") for line in (tmp_path / "visited.csv").read_text().splitlines()]
    at = {name: place for place, name in enumerate(cells[0])}
    shares = [float(c[at["share"]]) for c in cells[1:] if c[at["store"]] == "wide" and c[at["kind"]] == "cell"]
    assert sum(shares) == pytest.approx(1)
    assert any(c[at["kind"]] == "wall" for c in cells[1:]) == (found[0].suite == "pointmaze")
    assert "comparison" not in registry.data_figures()
    assert "visited" not in registry.figures()


def imported(tmp_path, name="i.zarr", *, episodes=8, steps=40, seed=0, dim=3, action=None) -> ReplayStore:
    """A store of random numbers that names no suite."""
    action = action or spaces.Box(-1, 1, (1,))
    schema = Schema.from_spaces(observation=spaces.Box(-np.inf, np.inf, (dim,)), action=action)
    store, rng = ReplayStore.create(tmp_path / name, schema), np.random.default_rng(seed)
    action.seed(seed)
    with store.writer() as writer:
        for _ in range(episodes):
            act = np.stack([action.sample() for _ in range(steps)])
            obs = rng.normal(5, 2, (steps + 1, dim)).astype(np.float32)
            writer.append(Episode(obs, act, np.zeros(steps, np.float32), False))
    return ReplayStore.open(tmp_path / name)


def test_data_without_a_suite_are_described_by_standardised_observations_and_say_so(tmp_path):
    (found,) = coverage([imported(tmp_path)], seed=0)
    assert found.coordinates == tuple(f"standardised observation {i}" for i in range(3))
    assert found.suite == ""
    assert found.tq is None
    assert abs(found.points.mean()) < 1e-6
    assert found.behaviour_entropy.value == pytest.approx(8, abs=0.3)
    assert found.contexts == 1
    assert found.context_entropy.value == 0
    with pytest.raises(ValueError, match="3 coordinates; a plane needs 2"):
        registry.data_figures()["visited"].rows([found])


@pytest.mark.parametrize(
    ("action", "bits_of_all"),
    [
        (spaces.Discrete(3), np.log2(3)),
        (spaces.MultiDiscrete([3, 2]), np.log2(6)),
        (spaces.MultiBinary(2), 2.0),
        (spaces.Box(-1, 1, (2, 1)), 16.0),
        (spaces.Box(np.float32([-1, 5]), np.float32([1, 5])), 8.0),  # a number that cannot vary
    ],
)
def test_random_actions_have_the_bits_of_their_space(tmp_path, action, bits_of_all):
    (found,) = coverage([imported(tmp_path, action=action, episodes=20)], seed=0)
    assert found.behaviour_entropy.value == pytest.approx(bits_of_all, abs=0.15)


def test_stores_of_images_only_are_refused(tmp_path):
    schema = Schema.from_spaces(observation=spaces.Box(0, 255, (2, 2, 3), np.uint8), action=spaces.Box(-1, 1, (1,)))
    with ReplayStore.create(tmp_path / "p.zarr", schema).writer() as writer:
        for _ in range(3):
            obs, act = np.zeros((31, 2, 2, 3), np.uint8), np.zeros((30, 1), np.float32)
            writer.append(Episode(obs, act, np.zeros(30, np.float32), False))
    with pytest.raises(ValueError, match="images only"):
        coverage([ReplayStore.open(tmp_path / "p.zarr")], seed=0)


def test_a_store_against_itself_covers_all_of_it(tmp_path):
    store = imported(tmp_path)
    (found,) = coverage([store], reference=store, seed=0)
    assert found.saco.value == 1
    assert found.against == f"the bins of {store.path} (2)"


def test_same_seed_same_numbers_and_another_seed_other_episodes(tmp_path):
    store = imported(tmp_path, episodes=12)
    first, second, other = (coverage([store], sample=200, seed=s)[0] for s in (1, 1, 2))
    assert first.to_json() == second.to_json()
    assert first.state_entropy != other.state_entropy


def test_only_sampled_episodes_are_read(tmp_path, monkeypatch):
    store, read = imported(tmp_path, episodes=50), []
    episode = ReplayStore.episode
    monkeypatch.setattr(ReplayStore, "episode", lambda self, i: read.append(i) or episode(self, i))
    coverage([store], sample=100, seed=0)
    assert len(read) == 3


def test_what_cannot_be_compared_is_refused_before_it_is_read(tmp_path, make_store):
    one = imported(tmp_path)
    with pytest.raises(ValueError, match="holds 320 transitions, fewer than the 400"):
        coverage([one], sample=400, seed=0)
    with pytest.raises(ValueError, match="are one episode; a sample needs two or more"):
        coverage([one], sample=20, seed=0)
    with pytest.raises(ValueError, match="at least 1"):
        coverage([one], sample=0, seed=0)
    with pytest.raises(ValueError, match="other observations or actions"):
        coverage([one, imported(tmp_path, "four.zarr", dim=4)], seed=0)
    with pytest.raises(ValueError, match="descriptors compare stores of one suite"):
        coverage([one, make_store([30, 30])], seed=0)
    with pytest.raises(ValueError, match="no episodes yet"):
        coverage([imported(tmp_path, "none.zarr", episodes=0)], seed=0)
    with pytest.raises(ValueError, match="seed must not be negative"):
        coverage([one], seed=-1)
    with pytest.raises(ValueError, match="name at least one store"):
        coverage([], seed=0)


def test_a_store_that_claims_another_suite_is_named(tmp_path):
    schema = Schema.from_spaces(
        observation=spaces.Dict({"pixels": spaces.Box(0, 1, (2,))}), action=spaces.Box(-1, 1, (1,)),
        environment={"suite": "pendulum"},
    )  # fmt: skip
    with ReplayStore.create(tmp_path / "p.zarr", schema).writer() as writer:
        for _ in range(3):
            obs = {"pixels": np.zeros((31, 2), np.float32)}
            writer.append(Episode(obs, np.zeros((30, 1), np.float32), np.zeros(30, np.float32), False))
    with pytest.raises(ValueError, match="says it is of suite 'pendulum', but has the observations pixels"):
        coverage([ReplayStore.open(tmp_path / "p.zarr")], seed=0)


def test_the_command_prints_a_row_a_store_or_json_and_draws(tmp_path, capsys):
    paths = [str(imported(tmp_path, f"{n}.zarr", seed=n).path) for n in range(2)]
    assert main(["data", "coverage", *paths, "--plot", str(tmp_path / "fig")]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0].split() == [
        "store", "episodes", "SACo", "TQ", "H(s)", "H(a|s)", "H(a|s,e)", "contexts", "H(c)", "spread(c)",
    ]  # fmt: skip
    assert "n = 320 transitions of each store" in text
    assert (tmp_path / "fig" / "diversity.csv").exists()
    assert main(["data", "coverage", *paths, "--json", "--sample", "200"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [d["transitions"] for d in found] == [200, 200]
    assert main(["data", "coverage", str(tmp_path / "absent.zarr")]) == 2
    assert main(["data", "coverage", paths[0], "--sample", "1000"]) == 2
    assert "ask for at most 320" in capsys.readouterr().err


def test_stores_of_one_name_are_told_apart(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
    found = coverage([imported(tmp_path / folder, "s.zarr") for folder in "ab"], seed=0)
    assert [d.store for d in found] == [str(tmp_path / folder / "s.zarr") for folder in "ab"]


def test_descriptors_do_not_import_torch():
    code = (
        "import sys, toolkit.coverage, toolkit.plots.diversity, toolkit.plots.visited; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_view_is_measured_alone(make_store):
    store = make_store([30] * 10)
    (found,) = coverage([store.view(np.arange(4))], seed=0)
    assert found.held == found.transitions == 120
    assert found.contexts == 4


def _table() -> None:
    sizes = (500, 2000, 10_000)
    print("H(a|s) in bits        truth " + " ".join(f"{n:>7,}" for n in sizes) + "  points")
    found = {n: conditionals(n, np.random.default_rng(1)) for n in sizes}
    for name, (_, _, truth) in found[sizes[0]].items():
        values = " ".join(f"{measured(*found[n][name][:2]):7.2f}" for n in sizes)
        print(f"{name:21s} {truth:5.2f} {values}")


if __name__ == "__main__":
    _table()
