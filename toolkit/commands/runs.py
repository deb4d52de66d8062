"""`packmule fqe` and `packmule export`: what can be done with trained runs besides acting."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from toolkit.commands.types import Location, local_runs

if TYPE_CHECKING:
    from toolkit.fqe import Evaluation


@dataclass
class FQE:
    """Estimate trained policies' values from data alone, by fitted Q evaluation; the best first.

    Beside it stands the Monte-Carlo value of the behaviour that made the data, from the same first states. Both are
    discounted, so they are not on the scale of `packmule eval`.
    """

    runs: Positional[list[Location]]
    """Trained runs, or what holds them at a URL."""
    store: Path | None = None
    """The data to evaluate on; by default those that each run was trained on."""
    view: str | None = None
    """A saved view of the store."""
    commit: int | None = None
    """A past commit of the store; the newest by default."""
    discount: float = 0.99
    """Of future rewards."""
    steps: int = 10_000
    """Gradient steps on Q."""
    batch_size: int = 256
    samples: int = 10
    """Actions averaged at each state where the policy draws random numbers; a deterministic one is asked once."""
    tau: float = 0.05
    """Rate at which the targets follow: values are found after some 3 / (tau (1 - discount)) steps."""
    members: int = 2
    """Networks in the ensemble."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the networks' hidden layers."""
    starts: int = 1000
    """Episodes at most, whose first states are valued."""
    seed: int = 0
    """Of weights, batches, the policy's own draws and the interval."""
    json: bool = False
    """Print one JSON object a run."""

    def run(self) -> int:
        from toolkit.fqe import FQEConfig, evaluate_run, ready
        from toolkit.progress import ProgressLine

        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")
        apart = ("runs", "store", "view", "commit", "seed", "json")
        config = FQEConfig(**{name: value for name, value in vars(self).items() if name not in apart})
        where: dict[str, Any] = {"store": self.store, "view": self.view, "commit": self.commit}
        found, folders = [], local_runs(self.runs, whole=True)
        for folder in folders:  # every run, before the first is fitted
            ready(folder, seed=self.seed, **where)
        for folder in folders:
            line = ProgressLine(f"fqe {folder.name}", self.steps)

            def show(done: int, total: int, line: ProgressLine = line) -> None:
                line.update(done)

            found.append(evaluate_run(folder, config=config, seed=self.seed, progress=show, **where))
            line.close()
        found.sort(key=lambda one: -one.value.value)
        print("\n".join(json.dumps(finite(one.to_json())) for one in found) if self.json else table(found))
        return 0


@dataclass
class Export:
    """Write a trained run's policy as one file that runs without packmule, its normaliser inside.

    The file is a function of raw observations (N, O) float32 to actions in raw units, (N, A) float32 or (N,) integers;
    it is checked against the run's own policy before it is put in place, and says which run it is.
    """

    folder: Annotated[Positional[str], tyro.conf.arg(name="run", metavar="FOLDER|URL")]
    """A trained run."""
    out: Path
    """The file to write; must not exist yet."""
    format: Literal["onnx", "torchscript"] | None = None
    """By the file's name unless given: .onnx, or .pt for TorchScript. ONNX needs the extra `export`."""

    def run(self) -> int:
        from toolkit.copies import only
        from toolkit.export import export

        print(export(only(self.folder), self.out, format=self.format))
        return 0


def finite(body: Any) -> Any:
    """JSON has no infinity: None stands for it."""
    if isinstance(body, dict):
        return {key: finite(value) for key, value in body.items()}
    return None if isinstance(body, float) and not math.isfinite(body) else body


def table(found: Sequence[Evaluation]) -> str:
    """One row a run, the best first, and below what the columns mean."""
    from toolkit.text import aligned

    rows = [["run", "learner", "value", "behaviour", "TD error", "disagreement", "policy", "episodes"]]
    for one in found:
        kind = "deterministic" if one.deterministic else "drawn"
        rows.append(
            [
                one.run, one.learner, str(one.value), str(one.behaviour), f"{one.td_error:.2f}",
                f"{one.disagreement:.2f}", kind, str(one.value.n),
            ]
        )  # fmt: skip
    lines = [
        aligned(rows),
        f"value: of the policy, discounted by {found[0].discount:g}, mean over first states; [95% over episodes],",
        "   which says nothing of Q's own error; disagreement: standard deviation between the ensemble's members",
        "behaviour: Monte-Carlo, the episodes' own discounted rewards from the same states",
    ]
    if (settled := found[0].settled) < 0.95:
        lines.append(f"too few steps: values are {settled:.0%} of the way from zero at best; raise --steps or --tau")
    if cut := max(one.truncated for one in found):
        lines.append(
            f"   {cut:.0%} of the episodes were truncated: their sums end there, the policy's value goes on beyond"
        )
    return "\n".join(lines)
