"""Numbers of rliable 1.2, the peer of `toolkit.stats`; run by hand, in an environment of its own:

python3.11 -m venv /tmp/rliable && /tmp/rliable/bin/pip install rliable==1.2.0 'pandas<3'
/tmp/rliable/bin/python tests/rliable_numbers.py > tests/rliable_numbers.json
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from rliable import library, metrics

REPS = 50_000
THRESHOLDS = [0.0, 0.25, 0.5, 0.75, 1.0]
AGGREGATES = {"iqm": metrics.aggregate_iqm, "mean": metrics.aggregate_mean, "median": metrics.aggregate_median}


def tables() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Two learners' scores (runs, tasks) each. Runs x tasks is a multiple of 4, where both trim alike."""
    rng = np.random.default_rng(0)
    level = rng.uniform(0.2, 0.8, 10)
    normal = level + rng.normal(0, 0.15, (2, 20, 10)) + np.array([0.1, 0.0])[:, None, None]
    skewed = 1 - rng.exponential(0.4, (2, 8, 4))
    rough = np.round(rng.uniform(0, 1, (2, 12, 1)) * 5) / 5  # ties
    return {name: tuple(np.round(x, 3)) for name, x in [("normal", normal), ("skewed", skewed), ("ties", rough)]}


def numbers(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """What rliable says of two learners."""
    found: dict[str, Any] = {"x": x.tolist(), "y": y.tolist()}
    for name, aggregate in AGGREGATES.items():
        points, intervals = library.get_interval_estimates(
            {"x": x}, lambda s, f=aggregate: np.array([f(s)]), reps=REPS, random_state=np.random.RandomState(0)
        )
        found[name] = [float(points["x"][0]), *map(float, intervals["x"][:, 0])]
    found["improvement"] = float(metrics.probability_of_improvement(x, y))
    shares, _ = library.create_performance_profile({"x": x}, THRESHOLDS, reps=10)
    found["profile"] = [float(v) for v in shares["x"]]
    return found


if __name__ == "__main__":
    body = {name: numbers(*pair) for name, pair in tables().items()}
    print(json.dumps({"reps": REPS, "thresholds": THRESHOLDS, "tables": body}))
