"""Runs shown elsewhere: metrics and scores as TensorBoard event files, or in Weights & Biases. Off unless asked for.

metrics.jsonl stays the truth; this copies it, once a run, also of runs that still go on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from toolkit.records import read_metrics
from toolkit.status import RunState, states

Target = Literal["tensorboard", "wandb"]


def mirror(paths: list[Path], target: Target, out: Path, *, project: str = "packmule") -> int:
    """Copy the metrics of every run at or below `paths` to `out`; the number of runs.

    TensorBoard gets a folder of event files a run, Weights & Biases a run of the same name in `project`, kept in `out`
    unless WANDB_MODE=online is set. Raises ImportError if the extra is not installed.
    """
    found = states(*paths)
    write = _tensorboard if target == "tensorboard" else _wandb
    for one in found:
        write(one, out, project)
    return len(found)


def values(one: RunState) -> Iterator[tuple[int, dict[str, float]]]:
    """(step, name -> number) of a run: its metrics, and at the end its scores."""
    for line in read_metrics(one.folder):
        yield line["step"], {name: value for name, value in line.items() if name != "step"}
    if one.scores:
        yield one.steps, {f"score/{split}": score for split, score in one.scores.items()}


def _tensorboard(one: RunState, out: Path, project: str) -> None:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise ImportError("TensorBoard files need tensorboardX: pip install 'packmule[tensorboard]'") from None
    folder = out / one.folder.name
    for old in folder.glob("events.out.tfevents.*"):  # ours, of an earlier copy
        old.unlink()
    with SummaryWriter(str(folder)) as writer:
        writer.add_text("config", f"```\n{json.dumps(one.config, indent=1)}\n```")
        for step, numbers in values(one):
            for name, value in numbers.items():
                writer.add_scalar(name, value, step)


def _wandb(one: RunState, out: Path, project: str) -> None:
    try:
        import wandb
    except ImportError:
        raise ImportError("Weights & Biases needs wandb: pip install 'packmule[wandb]'") from None
    out.mkdir(parents=True, exist_ok=True)
    mode: Any = os.environ.get("WANDB_MODE", "offline")
    run = wandb.init(
        project=project, name=one.folder.name, id=one.folder.name, dir=str(out), config=one.config, mode=mode,
        resume="allow",
    )  # fmt: skip
    for step, numbers in values(one):
        run.log(numbers, step=step)
    run.finish()
