"""The dials turn what they say and nothing else; presets and sizes; held-out contexts stay held out."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from gymnasium import spaces

from toolkit import registry
from toolkit.behaviours import NOISES, behaviour_name, behaviour_policy
from toolkit.dials import PRESETS, SIZES, Dials, choose, drawn
from toolkit.envs import SPLITS
from toolkit.episodes import jobs_of, stream

PENDULUM = registry.suite("pendulum")
EVERY = [pytest.param(suite, id=name) for name, suite in registry.suites().items()]
FIRST = {type(suite).__module__: suite for suite in reversed(registry.suites().values())}
ONE_OF_EACH = [pytest.param(suite, id=suite.name) for suite in FIRST.values()]
"""The first suite of each module: the contexts of a family's others are drawn by the same code."""


@pytest.mark.parametrize("suite", ONE_OF_EACH)
def test_a_narrowed_range_is_a_seeded_stream_that_smaller_shares_thin_out(suite):
    wide = suite.contexts("train", 400, seed=3)
    assert np.array_equal(drawn(suite, "train", 400, seed=3, share=1.0), wide)
    half, tenth = (drawn(suite, "train", 40, seed=3, share=share) for share in (0.5, 0.1))
    np.testing.assert_array_equal(drawn(suite, "train", 15, seed=3, share=0.1), tenth[:15])
    stream = suite.contexts("train", 8_000, seed=3).tolist()
    for chosen in (half, tenth):
        left = iter(stream)  # cells come again: each must be found after the one before
        assert all(context in left for context in chosen.tolist()), "contexts of the stream, in its order"
    large = drawn(suite, "train", 400, seed=3, share=0.5).tolist()
    assert all(context in large for context in tenth[:5].tolist())


@pytest.mark.parametrize("suite", ONE_OF_EACH)
def test_a_share_of_the_range_keeps_that_share_of_the_contexts_near_the_middle(suite):
    wide = suite.contexts("train", 2000, seed=8)
    known = {tuple(context) for context in drawn(suite, "train", 1000, seed=8, share=0.25).tolist()}
    kept = np.array([tuple(context) in known for context in wide.tolist()])
    # numbers with few values, like cells, tie: a whole shell of them is kept or not
    continuous = all(len(np.unique(column)) > 1000 for column in wide.T)
    assert kept.mean() == pytest.approx(0.25, abs=0.05) if continuous else 0.2 < kept.mean() < 1
    if continuous:
        assert (np.ptp(wide[kept], axis=0) < np.ptp(wide, axis=0)).all()


@pytest.mark.parametrize("suite", EVERY)
def test_collected_contexts_never_coincide_with_held_out_ones(suite):
    for seed, share in product((0, 5), (1.0, 0.3)):
        trained = {tuple(context) for context in drawn(suite, "train", 300, seed=seed, share=share).tolist()}
        for split in SPLITS[1:]:
            for other in (seed, 9):
                assert not trained & {tuple(context) for context in suite.contexts(split, 300, seed=other).tolist()}


def test_presets_are_the_corners_of_contexts_and_coverage():
    dials = {name: Dials(**settings) for name, settings in PRESETS.items()}
    contexts = {name: (d.contexts, d.context_range) for name, d in dials.items()}
    assert contexts["narrow"] == contexts["wide-coverage"] < contexts["wide-context"] == contexts["both"]
    coverage = {name: d.coverage for name, d in dials.items()}
    assert coverage["narrow"] == coverage["wide-context"] < coverage["wide-coverage"] == coverage["both"]
    assert all(d.contexts <= min(SIZES.values()) for d in dials.values()), "every size shows every context"


def test_a_small_collection_is_the_beginning_of_a_larger_one():
    settings = {"seed": 3, **PRESETS["both"]}
    small = stream("pendulum", episodes=SIZES["small"], **settings, start=90, stop=93)
    large = stream("pendulum", episodes=SIZES["large"], **settings, start=90, stop=93)
    for one, other in zip(small, large, strict=True):
        assert one.columns == other.columns
        assert one.reward.tobytes() == other.reward.tobytes()


def test_flags_and_presets_combine_but_never_contradict():
    assert choose(None, None) == (100, Dials())
    assert choose("narrow", "medium", noise=0.1, contexts=None) == (1000, Dials(noise=0.1, **PRESETS["narrow"]))
    with pytest.raises(ValueError, match="preset 'both' sets contexts, coverage already"):
        choose("both", None, contexts=3, coverage=0.0)
    with pytest.raises(ValueError, match="size 'small' sets episodes already"):
        choose(None, "small", episodes=3)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"context_range": 0.0}, r"context_range must lie in \[0.001, 1\], got 0.0"),
        ({"context_range": float("nan")}, "context_range must lie in"),
        ({"exploration": "brown", "noise": 0.1}, "unknown exploration 'brown'; expected one of white, ou, pink"),
        ({"exploration": "pink"}, "exploration is 'pink' but noise is 0"),
        ({"quality": 1.1, "weaker": "random"}, r"quality must lie in \[0, 1\], got 1.1"),
        ({"quality": 0.5}, "quality is 0.5 and weaker is None"),
        ({"weaker": "random"}, "quality is 1 and weaker is 'random'"),
    ],
)
def test_dials_that_do_not_fit_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        Dials(**settings)


def test_a_weaker_behaviour_must_be_one_of_the_suite():
    with pytest.raises(ValueError, match="suite 'pendulum' has no weaker behaviour 'expert'; it has random"):
        Dials(quality=0.5, weaker="expert").check(PENDULUM)
    Dials(quality=0.5, weaker="random").check(PENDULUM)


def test_discrete_actions_take_no_noise():
    found = [s for s in registry.suites().values() if s.name == "cartpole"]
    if not found:
        pytest.skip("no suite with discrete actions")
    assert isinstance(found[0].action_space, spaces.Discrete)
    with pytest.raises(ValueError, match=r"noise is 0.1 but the actions of suite 'cartpole' are Discrete"):
        Dials(noise=0.1).check(found[0])


def test_quality_is_the_share_of_episodes_the_expert_plays_in_every_context():
    dials = Dials(contexts=2, coverage=0.0, quality=0.7, weaker="random")
    jobs = list(jobs_of(PENDULUM, dials, range(2000), episodes=2000, seed=0))
    names = np.array([job.behaviour.name for job in jobs]).reshape(-1, 2)
    assert set(names.ravel()) == {"expert", "random"}
    np.testing.assert_allclose((names == "expert").mean(axis=0), 0.7, atol=0.05)


def test_turning_quality_leaves_the_expert_episodes_as_they_were():
    settings = {"episodes": 12, "contexts": 3, "coverage": 0.2, "seed": 1}
    best = list(stream("pendulum", **settings))
    mixed = list(stream("pendulum", **settings, quality=0.5, weaker="random"))
    kept = [i for i, episode in enumerate(mixed) if episode.columns["behaviour"] == "mixed-0.20"]
    assert 0 < len(kept) < 12
    assert all(best[i].action.tobytes() == mixed[i].action.tobytes() for i in kept)


def test_behaviour_names_say_everything_that_was_turned():
    def name(base: str = "expert", **settings) -> str:
        return behaviour_name(Dials(**{"coverage": 0.0, **settings}), base=base)

    assert name("medium") == "medium"
    assert name("medium", coverage=0.25) == "medium-mixed-0.25"
    assert name("medium", coverage=0.125, noise=0.1, exploration="ou") == "medium-mixed-0.125-ou-0.10"
    assert name(noise=0.2, exploration="pink") == "expert-pink-0.20"
    assert name("random", noise=0.2) == "random"


@pytest.fixture(scope="module", params=list(NOISES))
def noise(request):
    """A kind, and 600 series (300 steps) of two numbers each."""
    series = []
    for seed in range(600):
        following = NOISES[request.param]((2,), 300, np.random.default_rng(seed))
        series.append([following() for _ in range(300)])
    return request.param, np.array(series)


def test_noise_of_every_kind_has_mean_0_and_variance_1_at_every_step(noise):
    _, series = noise
    np.testing.assert_allclose(series.mean(axis=0), 0, atol=0.2)
    np.testing.assert_allclose(series.var(axis=0), 1, atol=0.3)
    assert abs(np.mean(series[..., 0] * series[..., 1])) < 0.05, "the numbers of an action are independent"


def test_noise_hangs_together_as_long_as_its_kind_says(noise):
    kind, series = noise
    ten = np.mean(series[:, :-10] * series[:, 10:])
    hundred = np.mean(series[:, :-100] * series[:, 100:])
    if kind == "white":
        assert abs(ten) < 0.02
    if kind == "ou":
        assert ten == pytest.approx(np.exp(-1), abs=0.03)
        assert abs(hundred) < 0.03
    if kind == "pink":
        power = np.mean(np.abs(np.fft.rfft(series, axis=1)) ** 2, axis=(0, 2))[1:-1]
        slope = np.polyfit(np.log(np.arange(1, len(power) + 1)), np.log(power), 1)[0]
        assert slope == pytest.approx(-1, abs=0.05)


def test_correlated_noise_keeps_the_declared_size_inside_the_limits():
    context = PENDULUM.contexts("train", 1, seed=0)[0]
    dials = Dials(coverage=0.0, noise=0.1, exploration="ou")
    errors, limit = [], 2.0
    expert = PENDULUM.expert(context, rng=np.random.default_rng(0))
    for seed in range(300):
        noisy = behaviour_policy(PENDULUM, context, dials, rng=np.random.default_rng(seed))
        obs = {"observation": np.array([1.0, 0.0, 0.0], np.float32)}
        errors += [noisy(obs)[0] - expert(obs)[0] for _ in range(20)]
    assert np.std(errors) == pytest.approx(0.1 * limit, rel=0.1)
