"""Tasks through Slurm: job arrays submitted by submitit, one task each. Needs the extra `slurm`.

Whether a task still runs is asked of squeue, so no accounting database is needed.
"""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.engines import Task, TaskFailed

ARRAY = 1000  # tasks of one array; Slurm's own limit (MaxArraySize) is 1001 unless set otherwise
POLL_SECONDS = 2.0
GRACE_SECONDS = 10.0  # between a task's end and its result's arrival on a shared folder
DEFAULTS = {"timeout_min": 24 * 60, "mem_gb": 2}


@dataclass(frozen=True)
class Slurm:
    """The engine of a Slurm cluster, whose nodes see the folders of stores and runs under the same paths.

    `parameters` are submitit's (timeout_min, mem_gb, slurm_partition, ...). A task that runs out of its time, or is
    preempted, is queued again by itself and resumes. The driver may die: its tasks go on.
    """

    folder: Path  # for job scripts and logs
    slots: int | None = None  # tasks of an array at a time; as many as Slurm gives by default
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            import submitit  # noqa: F401
        except ImportError:
            raise ImportError("--engine slurm needs submitit: pip install 'packmule[slurm]'") from None

    def map(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        """Carry out tasks and yield (index, result) as they finish. Raises RuntimeError if Slurm refuses them."""
        import submitit

        # job ids begin anew when a cluster is set up again, so each time has a folder of its own
        folder = self.folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=1000)
        executor.update_parameters(
            **{**DEFAULTS, "name": "packmule", "slurm_array_parallelism": self.slots or ARRAY, **self.parameters}
        )
        jobs: dict[int, Any] = {}
        gone: dict[int, float] = {}  # tasks that Slurm no longer knows, and since when
        try:
            for first in range(0, len(tasks), ARRAY):
                made = executor.map_array(_Call(), tasks[first : first + ARRAY])
                jobs |= dict(enumerate(made, first))
            while jobs:
                known = queued()
                for index, job in list(jobs.items()):
                    if job.paths.result_pickle.exists():
                        del jobs[index]
                        yield index, _result(job)
                    elif job.job_id in known:
                        gone.pop(index, None)
                    elif time.monotonic() - gone.setdefault(index, time.monotonic()) > GRACE_SECONDS:
                        del jobs[index]
                        yield index, TaskFailed(f"Slurm's task {job.job_id} ended and left no result; see {folder}")
                if jobs:
                    time.sleep(POLL_SECONDS)
        finally:
            if jobs:
                subprocess.run(["scancel", *(job.job_id for job in jobs.values())], check=False)


class _Call:
    """What submitit is given to call with each task; `checkpoint` is what it asks for when time is up."""

    def __call__(self, task: Task) -> Any:
        function, arguments = task
        return function(*arguments)

    def checkpoint(self, task: Task) -> Any:
        import submitit

        return submitit.helpers.DelayedSubmission(self, task)


def _result(job: Any) -> Any:
    try:
        return job.result()
    except Exception as error:  # whatever the task raised, as submitit tells it
        return TaskFailed(str(error))


def queued() -> set[str]:
    """Ids (ARRAY_INDEX) of this user's tasks that wait or run. Raises RuntimeError if squeue fails for a minute."""
    for _ in range(30):
        asked = subprocess.run(
            ["squeue", "--me", "--noheader", "--array", "--format=%i"], capture_output=True, text=True, check=False
        )
        if asked.returncode == 0:
            return set(asked.stdout.split())
        time.sleep(POLL_SECONDS)  # the controller is being restarted
    raise RuntimeError(f"squeue does not answer ({asked.stderr.strip()}); the tasks go on, the same command continues")


def parameters(given: Sequence[str]) -> dict[str, Any]:
    """`["timeout_min=60", "slurm_partition=gpu"]` for submitit. Raises ValueError for one without `=`."""
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (equals and name and value):
            raise ValueError(f"--slurm {text!r} must be NAME=VALUE, as in timeout_min=60 or slurm_partition=gpu")
        found[name] = int(value) if value.isdecimal() else value
    return found
