"""Time and memory of `packmule collect pointmaze` at two lengths: it must be fast enough, and memory flat.

    python benchmarks/collecting.py [--episodes 1200 6200] [--workers 2] [--keep DIR]

Each length is collected by a new process into a new folder. Wall-clock time is the command's, imports included;
processor time is that of all its processes. Memory is the peak resident size (VmHWM) of the process that writes, and
of the largest worker. Nothing is compared with another program: the limits are 8 minutes for a million
transitions on two cores, and the same memory at both lengths.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from toolkit.store import ReplayStore

SETTINGS = ("--contexts", "100", "--coverage", "0.3", "--noise", "0.1", "--seed", "0")


def main() -> None:
    """Collect at each length and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, nargs="+", default=[1200, 6200])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="leave the stores here")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for episodes in flags.episodes:
            measure(episodes, flags.workers, Path(flags.keep or folder) / f"pointmaze-{episodes}.zarr")


def measure(episodes: int, workers: int, out: Path) -> None:
    """Collect once, watching the processes, and print one line."""
    command = [sys.executable, "-m", "toolkit.cli", "collect", "pointmaze", "--episodes", str(episodes), *SETTINGS]
    command += ["--workers", str(workers), "--out", str(out)]
    peaks: dict[str, int] = {}
    spent, began = processor_seconds(), time.monotonic()
    with subprocess.Popen(
        [*command, "--workers", str(workers), "--out", str(out)], stderr=subprocess.DEVNULL
    ) as process:
        watcher = threading.Thread(target=watch, args=(process, peaks))
        watcher.start()
        code = process.wait()
        watcher.join()
    seconds = time.monotonic() - began
    if code:
        raise SystemExit(f"{' '.join(command)} ended with exit code {code}")
    store = ReplayStore.open(out)
    peak = ", ".join(f"{who} {kilobytes / 1024:.0f} MiB" for who, kilobytes in sorted(peaks.items()))
    print(
        f"{store.transitions} transitions in {len(store)} episodes and {len(store.commit.segments)} segments: "
        f"{seconds:.0f} s, {processor_seconds() - spent:.0f} s of processor time; peak memory: {peak}"
    )


def watch(process: subprocess.Popen, peaks: dict[str, int]) -> None:
    """Keep the greatest VmHWM in kB of the process, and of the largest of its children, until it ends."""
    while process.poll() is None:
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        except OSError:
            return
        for who, pid in [("writer", str(process.pid)), *(("worker", child) for child in children)]:
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue  # it has just ended
            for line in status.splitlines():
                if line.startswith("VmHWM:"):
                    peaks[who] = max(peaks.get(who, 0), int(line.split()[1]))
        time.sleep(0.2)


def processor_seconds() -> float:
    """Of all child processes that have ended, theirs included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
