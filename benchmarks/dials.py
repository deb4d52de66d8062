"""The dials do what they say: contexts raise the entropy of contexts, coverage and noise that of behaviour.

    python benchmarks/dials.py pointmaze --draws 8

Each row is a setting of `collect`: means over independent draws of the contexts and 95% Student intervals over draws.
H(a|s) also grows with contexts, because the scripted experts know the context and the state does not show it; given
the episode, H(a|s,e), it does not (see toolkit/coverage.py).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from toolkit.collect import collect
from toolkit.coverage import coverage
from toolkit.stats import student_interval
from toolkit.text import aligned

SETTINGS = [  # contexts, coverage, noise
    (2, 0.0, 0.0), (40, 0.0, 0.0), (2, 0.0, 0.1), (40, 0.0, 0.1), (2, 0.3, 0.1), (40, 0.3, 0.1), (2, 0.6, 0.1),
    (40, 0.6, 0.1), (40, 1.0, 0.0),
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite")
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--sample", type=int, default=3000)
    given = parser.parse_args()
    rows = [["contexts", "coverage", "noise", "H(c)", "H(a|s)", "H(a|s,e)"]]
    for contexts, share, noise in SETTINGS:
        values: list[tuple[float, float, float]] = []
        for draw in range(given.draws):
            with tempfile.TemporaryDirectory() as folder:
                settings = {"contexts": contexts, "coverage": share, "noise": noise, "seed": draw}
                store = collect(given.suite, out=Path(folder) / "s.zarr", episodes=given.episodes, **settings)
                (d,) = coverage([store], sample=given.sample, seed=0)
            assert d.behaviour_entropy_within is not None
            values.append((d.context_entropy.value, d.behaviour_entropy.value, d.behaviour_entropy_within.value))
        estimates = [str(student_interval([column])) for column in zip(*values, strict=True)]
        rows.append([str(contexts), f"{share:g}", f"{noise:g}", *estimates])
    print(aligned(rows))
    print(
        f"\nbits; {given.suite}, {given.draws} draws of {given.episodes} episodes, {given.sample} transitions of each"
    )


if __name__ == "__main__":
    main()
