"""The laws of `benchmarks/calibration.py`, with few trials: verdicts are rarely wrong and intervals hold the truth."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from toolkit import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import calibration

TRIALS = 40


@pytest.mark.parametrize("name", [name for name, truth in calibration.TRUTHS.items() if len(truth.suites) == 1])
def test_verdicts_are_rarely_wrong_and_intervals_hold_the_truth(name):
    truth = calibration.TRUTHS[name]
    found = [calibration.trial(truth, 10, seed) for seed in range(TRIALS)]
    assert np.mean([trial["wrong"] for trial in found]) <= 0.05
    for measure in calibration.MEASURES:
        held = [trial[measure] for trial in found if measure in trial]
        assert not held or np.mean(held) >= (0.82 if measure == "pair" else 0.87), measure


@pytest.mark.parametrize("name", ["worse", "much worse"])
def test_the_number_of_draws_that_is_promised_decides_as_often_as_promised(name):
    truth, routes = calibration.TRUTHS[name], calibration.routes(name)
    draws = int(calibration.needed.draws(routes))
    decided = np.mean([calibration.trial(truth, draws, seed)["decided"] for seed in range(TRIALS)])
    assert decided >= max(stats.power(bars, draws) for bars in routes) - 0.2
    early = np.mean([calibration.trial(truth, 3, seed)["decided"] for seed in range(TRIALS)])
    assert early < decided
