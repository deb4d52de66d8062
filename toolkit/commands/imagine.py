"""`packmule data imagine`: rollouts of a trained model as a store that any learner trains on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from toolkit.commands.types import Location


@dataclass
class Imagine:
    """Roll out a trained model from recorded states into a store, labelled as imagined. The same command continues it.

    Rollouts that did not end are truncated at their edge: learners bootstrap there, from an imagined state.
    """

    folder: Annotated[Positional[Path], tyro.conf.arg(name="run")]
    """The folder of a trained run that has a model, such as one of mpc."""
    source: Annotated[Location, tyro.conf.arg(name="from")]
    """The store whose states rollouts start from."""
    out: Location
    """The store to make, or to continue."""
    preset: Literal["mopo", "combo"] | None = None
    """mopo: 5 steps, penalty 1 of the model's noise. combo: 5 steps, no penalty."""
    horizon: int | None = None
    """Steps of a rollout; 5 unless the preset says."""
    actions: Literal["perturbed", "uniform"] | None = None
    """The data's own with noise (the default), or uniform within the limits."""
    actor: Path | None = None
    """Or: the folder of a trained run that acts."""
    noise: float | None = None
    """Of perturbed actions, as a share of half their range; 0.1 by default, 0 repeats the data's."""
    penalty: float | None = None
    """Reward lost for one of uncertainty; none unless the preset says."""
    uncertainty: Literal["disagreement", "noise"] | None = None
    """Between the model's members (standardised), the default, or the greatest predicted deviation (raw units)."""
    episodes: int | None = None
    """Rollouts."""
    transitions: int | None = None
    """Or transitions, at least; as many as the source has by default."""
    seed: int = 0
    view: str | None = None
    """A saved view of the source."""
    commit: int | None = None
    """A past commit of the source; the newest by default."""
    device: str = "auto"
    json: bool = False
    """Print JSON for programs."""

    def run(self) -> int:
        from toolkit.imagine import REAL_SHARE, choose, edges, imagine
        from toolkit.progress import ProgressLine

        if self.actor is not None and self.actions is not None:
            raise ValueError(f"actions is {self.actions!r} and the actor is {self.actor}; give one of them")
        acting = self.actions if self.actor is None else "actor"
        settings = choose(
            self.preset,
            {
                "horizon": self.horizon, "actions": acting, "noise": self.noise, "penalty": self.penalty,
                "uncertainty": self.uncertainty,
            },
        )  # fmt: skip
        line: ProgressLine | None = None

        def show(done: int, due: int) -> None:
            nonlocal line
            line = line or ProgressLine("imagine", due)
            line.update(done)

        store = imagine(
            self.folder, source=self.source, out=self.out, settings=settings, actor=self.actor, view=self.view,
            commit=self.commit, episodes=self.episodes, transitions=self.transitions, seed=self.seed,
            device=self.device, progress=show,
        )  # fmt: skip
        if line is not None:
            line.close()
        cut = edges(store)
        found = {"store": self.out, "episodes": len(store), "transitions": store.transitions, "edges": cut}
        if self.json:
            print(json.dumps(found))
            return 0
        print("{store}: {episodes} imagined rollouts, {transitions} transitions".format(**found))
        print(
            f"{cut} of them are truncated at their edge: learners bootstrap there, at {cut / store.transitions:.0%} of "
            "the transitions, from a state that the model imagined and no transition starts from"
        )
        if self.preset is not None:
            real, view = REAL_SHARE[self.preset], "" if self.view is None else f"@{self.view}"
            print(f"to train: packmule data mix {self.source}{view}={real:g} {self.out}={1 - real:g} --out mix.json")
        return 0
