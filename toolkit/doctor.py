"""What this machine has and lacks for packmule, each finding with what to do about it."""

from __future__ import annotations

import os
import platform
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from toolkit import registry

REQUIRED = ("numpy", "scipy", "torch", "zarr", "numcodecs", "d3rlpy", "gymnasium", "mujoco", "tyro", "safetensors")
EXTRAS = {
    "remote": "obstore", "ogbench": "ogbench", "render": "pygame", "video": "imageio_ffmpeg", "export": "onnx",
    "experts": "stable_baselines3", "ray": "ray", "slurm": "submitit", "search": "optuna",
    "tensorboard": "tensorboardX", "wandb": "wandb",
}  # fmt: skip
PROBE_BYTES = 32 << 20  # written to measure a disk
SLOW_DISK = 50e6  # bytes a second, flushed; below it checkpoints and collecting wait
LITTLE_MEMORY = 2 << 30
LITTLE_DISK = 2 << 30


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    level: Literal["ok", "note", "problem"]  # a note is what some uses need and others do not
    what: str
    found: str
    fix: str = ""


def findings(folder: Path) -> list[Finding]:
    """Everything looked at; the disk is that of `folder`. A check that fails unforeseen is itself a finding."""
    checks: list[Callable[[], list[Finding]]] = [
        versions, extras, processors, graphics, memory, lambda: disk(folder), environments, rendering, engines,
    ]  # fmt: skip
    found: list[Finding] = []
    for check in checks:
        try:
            found += check()
        except Exception as error:
            name = getattr(check, "__name__", "check")
            found.append(Finding("problem", name, f"{type(error).__name__}: {error}", "please report this"))
    return found


def versions() -> list[Finding]:
    """Python, the platform and the packages that are always needed."""
    good = sys.version_info >= (3, 11)
    found = [
        Finding(
            "ok" if good else "problem", "python", f"{platform.python_version()} on {platform.platform()}",
            "" if good else "install Python 3.11 or newer",
        )
    ]  # fmt: skip
    for name in REQUIRED:
        try:
            found.append(Finding("ok", name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            found.append(Finding("problem", name, "not installed", "pip install packmule, or make setup"))
    return found


def extras() -> list[Finding]:
    """The optional packages."""
    missing = [extra for extra, module in EXTRAS.items() if find_spec(module) is None]
    have = [extra for extra in EXTRAS if extra not in missing]
    found = [Finding("ok", "extras", ", ".join(have) or "none")]
    if missing:
        fix = f"pip install 'packmule[{','.join(missing)}]', those that you want"
        found.append(Finding("note", "extras not installed", ", ".join(missing), fix))
    return found


def processors() -> list[Finding]:
    """Cores, and threads: with one process a core, more than one thread each makes all slower."""
    import torch

    from toolkit.slots import free_slots

    cores, slots = os.cpu_count() or 1, free_slots()
    found = [Finding("ok", "processor", f"{cores} cores, {slots} runs at a time")]
    asked = os.environ.get("OMP_NUM_THREADS")
    if asked is None and torch.get_num_threads() > 1:
        threads = f"torch uses {torch.get_num_threads()} threads by default; runs set their own (--threads, 1)"
        found.append(Finding("ok", "threads", threads))
    elif asked is not None and asked.isdecimal() and int(asked) > cores:
        found.append(Finding("problem", "threads", f"OMP_NUM_THREADS is {asked} on {cores} cores", "unset it"))
    busy = os.getloadavg()[0]
    if busy > cores:
        found.append(Finding("note", "load", f"{busy:.1f} processes want {cores} cores", "wait, or give fewer --slots"))
    return found


def graphics() -> list[Finding]:
    """Whether torch can use the GPU, if there is one."""
    import torch

    if torch.cuda.is_available():
        return [Finding("ok", "GPU", torch.cuda.get_device_name(0))]
    if Path("/dev/nvidia0").exists():
        fix = "install the CUDA build of torch (pytorch.org), and a driver that fits it"
        return [Finding("problem", "GPU", f"there is one, but torch {torch.__version__} cannot use it", fix)]
    return [Finding("ok", "GPU", "none; everything runs on the CPU")]


def memory() -> list[Finding]:
    """Free memory, by the system and by the control group."""
    from toolkit.store.packed import available_memory

    free = available_memory()
    if free < LITTLE_MEMORY:
        fix = "end other programs, give fewer --slots, or --tier streaming for large stores"
        return [Finding("problem", "memory", f"{free / 2**30:.1f} GiB free", fix)]
    return [Finding("ok", "memory", f"{free / 2**30:.1f} GiB free")]


def disk(folder: Path) -> list[Finding]:
    """Room, and the speed of a flushed write, where `folder` is."""
    place = next(parent for parent in [folder, *folder.resolve().parents] if parent.is_dir())
    status = os.statvfs(place)
    free = status.f_bavail * status.f_frsize
    if free < LITTLE_DISK:
        return [
            Finding("problem", "disk", f"{free / 2**30:.1f} GiB free in {place}", "make room, or choose another --out")
        ]
    path = place / f".packmule-doctor-{secrets.token_hex(4)}"
    data = secrets.token_bytes(1 << 20)
    try:
        began = time.perf_counter()
        with path.open("wb") as file:
            for _ in range(PROBE_BYTES >> 20):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        speed = PROBE_BYTES / (time.perf_counter() - began)
    except OSError as error:
        return [Finding("problem", "disk", f"{place} cannot be written ({error.strerror})", "choose another --out")]
    finally:
        path.unlink(missing_ok=True)
    said = f"{free / 2**30:.0f} GiB free in {place}, {speed / 1e6:.0f} MB/s written and flushed"
    if speed < SLOW_DISK:
        return [Finding("note", "disk", said, "keep stores and runs on a local disk: --out")]
    return [Finding("ok", "disk", said)]


def environments() -> list[Finding]:
    """Which families of suites have what they need."""
    found, ready = [], []
    for family, members in registry.families().items():
        missing = [module for module in members[0].requires if find_spec(module) is None]
        if missing:
            extra = members[0].extra
            fix = f"pip install 'packmule[{extra}]'" if extra else f"pip install {' '.join(missing)}, or make setup"
            found.append(Finding("note", f"suite {family}", f"needs {', '.join(missing)}", fix))
        else:
            ready.append(family)
    return [Finding("ok", "suites ready", ", ".join(ready)), *found]


_DRAW = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><light pos='0 0 3'/><geom size='1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 32, 32)
renderer.update_scene(data)
assert renderer.render().any()
"""


def rendering() -> list[Finding]:
    """Whether MuJoCo can draw here, tried in a process of its own: a broken driver may end it."""
    tried = []
    given = os.environ.get("MUJOCO_GL")
    for backend in [given] if given else ["egl", "osmesa", "glfw"]:
        done = subprocess.run(
            [sys.executable, "-c", _DRAW], env={**os.environ, "MUJOCO_GL": backend}, capture_output=True, check=False
        )
        if done.returncode == 0:
            note = "" if given else f", as MUJOCO_GL={backend}"
            return [Finding("ok", "rendering", f"MuJoCo draws{note}")]
        tried.append(backend)
    fix = "without a screen: apt-get install libegl1 libgl1-mesa-dri (MUJOCO_GL=egl), or libosmesa6 (MUJOCO_GL=osmesa)"
    return [Finding("note", "rendering", f"MuJoCo cannot draw here ({', '.join(tried)} tried)", fix)]


def engines() -> list[Finding]:
    """What sweeps can run on."""
    from shutil import which

    here = ["local"] + ["ray"] * (find_spec("ray") is not None)
    here += ["slurm"] * (find_spec("submitit") is not None and which("sbatch") is not None)
    return [Finding("ok", "engines of sweep", ", ".join(here))]
