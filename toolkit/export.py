"""A trained policy as one file that runs without packmule: ONNX or TorchScript, its normaliser inside.

Torch calls TorchScript deprecated, in favour of torch.export; its files load in C++ and in Python without our code.

The file holds a function from raw observations (N, O) float32 to actions: (N, A) float32 in raw units, within the
limits, or (N,) integers. It is checked against the run's own policy before it is put in place.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from toolkit.configure import load_learner
from toolkit.core import Array, Learner, Reactive, Spec, Step, child_seed
from toolkit.fqe import learner_spec, reactive
from toolkit.records import RunConfig
from toolkit.store.files import write_durably

Format = Literal["onnx", "torchscript"]
ROWS = (1, 2, 7)  # numbers of observations that an export is tried with
TOLERANCE = 1e-5  # of a standardised difference: actions are compared in units of their limits' width
METADATA = "packmule.json"  # TorchScript's extra file, and ONNX's metadata key


class Exported(nn.Module):
    """The policy's function, with every network and normaliser of the learner as its parts."""

    def __init__(self, learner: Learner, choose: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        for name, part in vars(learner).items():
            for key, module in (part if isinstance(part, dict) else {"": part}).items():
                if isinstance(module, nn.Module):
                    self.add_module(f"{name}_{key}".rstrip("_"), module)
        self.choose = choose
        self.requires_grad_(False)
        self.eval()

    def forward(self, obs: Tensor) -> Tensor:
        return self.choose(obs)


def export(folder: str | Path, out: str | Path, *, format: Format | None = None) -> Path:
    """Write a trained run's policy to the file `out` and return its path; .onnx or .pt says the format if you do not.

    Raises ValueError if the policy is no function of the observation (it plans, remembers, asks for a return or
    draws random numbers), FileExistsError if something is at `out`, ImportError if ONNX is asked for and not
    installed, RuntimeError if what was exported does not repeat the policy's actions to 1e-5.
    """
    out = Path(out)
    named: dict[str, Format] = {".pt": "torchscript", ".onnx": "onnx"}
    kind = format or named.get(out.suffix)
    if kind is None or kind not in named.values():
        raise ValueError(f"{out}: the name says no format; end it in .pt or .onnx, or give the format")
    if out.exists():
        raise FileExistsError(f"{out} already exists; choose another name, or remove it")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out.parent} is no folder; make it first")
    if kind == "onnx":
        need_onnx()
    run, learner, _ = load_learner(folder, device="cpu")
    policy = reactive(run, learner.policy(seed=child_seed(run.seed, "policy", run.learner)), "cannot be exported")
    if not policy.deterministic:
        raise ValueError(
            f"{run.learner} cannot be exported: its policy draws random numbers, and a function of the observation "
            "alone would not act like it; export a run of a deterministic learner"
        )
    spec = learner_spec(folder)
    module = Exported(learner, policy.choose)
    body = {"onnx": to_onnx, "torchscript": to_torchscript}[kind](module, spec, identity(run, spec))
    check(body, kind, policy, spec)
    write_durably(out, body, create_only=True)
    return out


def identity(run: RunConfig, spec: Spec) -> dict[str, Any]:
    """Which run this is, and what goes in and out: plain JSON."""
    return {
        "run": run.identity,
        "learner": run.learner,
        "options": run.options,
        "suite": run.suite,
        "seed": run.seed,
        "steps": run.steps,
        "data": run.fingerprint,
        "obs": {"shape": [None, spec.obs_dim], "dtype": "float32", "unit": "raw"},
        "action": {"shape": [None], "dtype": "int64", "choices": spec.action_dim}
        if spec.discrete
        else {
            "shape": [None, spec.action_dim], "dtype": "float32", "unit": "raw",
            "low": [float(x) for x in spec.action_low], "high": [float(x) for x in spec.action_high],
        },
    }  # fmt: skip


def to_torchscript(module: Exported, spec: Spec, about: dict[str, Any]) -> bytes:
    """The module traced; `about` is its extra file packmule.json."""
    with quiet():
        traced = torch.jit.trace(module, samples(spec, 3), check_trace=False)
        return traced.save_to_buffer(_extra_files={METADATA: json.dumps(about)})


def to_onnx(module: Exported, spec: Spec, about: dict[str, Any]) -> bytes:
    """The module as an ONNX model of any number of rows; `about` is in its metadata under packmule.json."""
    with quiet():
        program = torch.onnx.export(
            module,
            (samples(spec, 3),),
            input_names=["obs"],
            output_names=["action"],
            dynamic_shapes={"obs": {0: torch.export.Dim("rows")}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(about)
    model.producer_name = "packmule"
    return model.SerializeToString()


def loaded(body: bytes, format: Format) -> Callable[[Array], Array]:
    """The function in an exported file. ONNX is run by onnx's own reference implementation: slow, and the standard."""
    if format == "torchscript":
        with quiet():
            script = torch.jit.load(io.BytesIO(body))
        return lambda obs: script(torch.from_numpy(obs)).numpy()
    from onnx import load_model_from_string
    from onnx.reference import ReferenceEvaluator

    session: Any = ReferenceEvaluator(load_model_from_string(body))
    return lambda obs: session.run(None, {"obs": obs})[0]


def check(body: bytes, format: Format, policy: Reactive, spec: Spec) -> None:
    """Raises RuntimeError if the exported function and the run's policy act differently."""
    function = loaded(body, format)
    for rows in ROWS:
        obs = samples(spec, rows).numpy()
        due = policy.act(Step(obs, np.zeros(rows, np.float32), np.ones(rows, bool)))
        found = function(obs)
        width = 1.0 if spec.discrete else np.maximum(np.abs([spec.action_low, spec.action_high]).max(0), 1.0)
        if found.shape != due.shape or not np.all(np.abs(found - due) <= TOLERANCE * width):
            raise RuntimeError(
                f"the exported {format} does not act like the run's policy for {rows} rows: "
                f"{found.ravel()[:4]} instead of {due.ravel()[:4]}; nothing was written"
            )


def samples(spec: Spec, rows: int) -> Tensor:
    """Observations (rows, O) that look like the data's: their mean and spread, from a fixed stream."""
    rng = np.random.default_rng(rows)
    wide = spec.obs.mean + spec.obs.std * rng.normal(size=(rows, spec.obs_dim))
    return torch.from_numpy(wide.astype(np.float32))


def need_onnx() -> None:
    """Raises ImportError saying what to install if ONNX cannot be written here."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"ONNX needs {error.name}: pip install 'packmule[export]', or use --format torchscript"
        ) from None


@contextmanager
def quiet() -> Iterator[None]:
    """Without the notices of torch's exporters, and without checks inside torch's distributions: they stop a trace."""
    checks = torch.distributions.Distribution._validate_args
    names = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in names]
    try:
        for logger in names:
            logger.setLevel(logging.ERROR)
        torch.distributions.Distribution.set_default_validate_args(False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(checks)
        for logger, level in zip(names, levels, strict=True):
            logger.setLevel(level)
