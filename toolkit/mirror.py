"""Runs shown elsewhere: metrics and scores as TensorBoard event files, or in Weights & Biases. Off unless asked for.

metrics.jsonl stays the truth; this copies it, once a run, also of runs that still go on.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from glob import escape
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from toolkit.records import final_records, naming, read_metrics, read_records
from toolkit.status import RunState, states

Target = Literal["tensorboard", "wandb"]


def mirror(paths: list[Path], target: Target, out: Path, *, project: str = "packmule") -> int:
    """Copy the metrics of every run at or below `paths` to `out`; the number of runs.

    TensorBoard gets a folder of event files a run, Weights & Biases a run of the same name in `project`, kept in `out`
    unless WANDB_MODE=online is set; an earlier copy in `out` is replaced. Raises ImportError if the extra is not
    installed; ValueError, before anything is written, if a file of a run is damaged or WANDB_MODE is another;
    PermissionError if `out` may not be written.
    """
    found = states(*paths)
    for one in found:
        values(one)
    write = _tensorboard if target == "tensorboard" else _wandb
    for one in found:
        write(one, out, project)
    return len(found)


def values(one: RunState) -> list[tuple[int, dict[str, float]]]:
    """(step, name -> number) of a run, steps rising: its metrics, and its scores of the way and of the end."""
    rows = {
        line["step"]: {name: value for name, value in line.items() if name != "step"}
        for line in read_metrics(one.folder)
    }
    way = one.folder / "evaluations.jsonl"
    on_the_way = [] if one.state == "done" or not way.exists() else read_records(way)
    scores: dict[tuple[int, str], list[float]] = {}
    for record in final_records(one.folder) if one.state == "done" else on_the_way:
        scores.setdefault((record.step, record.split), []).append(record.score)
    found = {at: fmean(several) for at, several in scores.items()}
    found |= {(one.steps, split): score for split, score in one.scores.items()}
    for (step, split), score in found.items():
        rows.setdefault(step, {})[f"score/{split}"] = score
    return sorted(rows.items())


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
    mode: Any = os.environ.get("WANDB_MODE", "offline")
    if mode not in ("offline", "online"):
        raise ValueError(f"WANDB_MODE is {mode!r}: set it to online, or leave it out to keep the runs in {out}")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # else it calls home, offline too
    try:
        from wandb import Settings, init
        from wandb.errors import Error
    except ImportError:
        raise ImportError("Weights & Biases needs wandb: pip install 'packmule[wandb]'") from None
    out.mkdir(parents=True, exist_ok=True)
    _probe(out)  # else it would write to another folder, and not say so
    rows, name = values(one), one.folder.name
    _forget(out, name)
    settings = Settings(  # nothing of this process and machine, which are not those of the run
        silent=True, console="off", disable_git=True, save_code=False,
        x_disable_meta=True, x_disable_stats=True, x_save_requirements=False,
    )  # fmt: skip
    try:
        run = init(
            project=project, name=name, id=name, dir=str(out), config=one.config, mode=mode, settings=settings,
            resume="allow" if mode == "online" else None,
        )  # fmt: skip
        try:
            for step, numbers in rows:
                run.log(numbers, step=step)
        finally:
            run.finish()
        _probe(out)  # a disk that became full is no error to it
    except BaseException as error:
        _forget(out, name)
        if isinstance(error, Error):
            raise ValueError(f"Weights & Biases refuses {name}: {error}") from None
        raise


def _probe(out: Path) -> None:
    """Raise OSError naming `out` if it may not be written, or has no room for another two blocks of a run's file."""
    with naming(out), tempfile.TemporaryFile(dir=out) as file:
        file.write(bytes(1 << 16))
        file.flush()


def _forget(out: Path, name: str) -> None:
    """Remove copies of a run that were kept offline: sent together, they would be one run twice."""
    for old in (out / "wandb").glob(f"offline-run-????????_??????-{escape(name)}"):
        shutil.rmtree(old)
