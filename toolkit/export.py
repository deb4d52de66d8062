"""A trained policy as one file that needs nothing of ours: TorchScript or ONNX, its normaliser inside."""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from toolkit.configure import load_learner
from toolkit.core import Learner, Step
from toolkit.store.files import write_durably

Format = Literal["torchscript", "onnx"]


class Acting(nn.Module):
    """Raw observations (N, O) float32 -> actions: (N, A) float32 within the limits, or (N,) int64."""

    def __init__(self, learner: Learner, choose: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        for name, part in vars(learner).items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
        self.choose = choose

    def forward(self, obs: Tensor) -> Tensor:
        return self.choose(obs)


def export(folder: str | Path, out: str | Path, *, format: Format | None = None) -> Path:
    """Write the policy of a trained run to `out`, and check that it acts as the run's own policy does.

    The format follows from the name if it is not given: .pt is TorchScript, .onnx is ONNX (which needs the packages
    onnx and onnxscript). Raises ValueError if the run cannot be read, or its policy is more than a function of the
    observation: it plans, remembers or samples.
    """
    out = Path(out)
    format = format or {".pt": "torchscript", ".onnx": "onnx"}.get(out.suffix)  # type: ignore[assignment]
    if format not in ("torchscript", "onnx"):
        raise ValueError(f"{out}: the name says no format; end it in .pt or .onnx")
    config, learner, schema = load_learner(folder, device="cpu")
    policy = learner.policy(seed=0)
    choose = getattr(policy, "choose", None)
    obs = torch.from_numpy(np.random.default_rng(0).normal(size=(5, schema.obs_dim)).astype(np.float32))
    if choose is None or not is_function(learner, policy, obs):
        raise ValueError(
            f"{folder}: the policy of {config.learner} is no function of the observation alone (it plans, remembers or "
            "samples), so it cannot be exported; learners that can are bc, td3bc, rebrac, awac, iql and cql"
        )
    acting = Acting(learner, choose).eval()
    data = (to_torchscript if format == "torchscript" else to_onnx)(acting, obs)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_durably(out, data)
    return out


def is_function(learner: Learner, policy: Any, obs: Tensor) -> bool:
    """Whether the policy acts on each observation as one with another seed and another past does."""
    rows = obs.numpy()
    step = Step(rows, np.ones(len(rows), np.float32), np.ones(len(rows), bool))
    later = Step(rows, np.ones(len(rows), np.float32), np.zeros(len(rows), bool))
    acted = policy.act(step)
    return np.array_equal(acted, learner.policy(seed=1).act(step)) and np.array_equal(acted, policy.act(later))


def to_torchscript(acting: Acting, obs: Tensor) -> bytes:
    """The traced policy, for `torch.jit.load`. Raises ValueError if it acts differently on other observations."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(acting, obs, check_trace=False)
        agree(traced, acting, obs)
        buffer = io.BytesIO()
        torch.jit.save(traced, buffer)
    return buffer.getvalue()


def to_onnx(acting: Acting, obs: Tensor) -> bytes:
    """The policy as an ONNX model from "obs" (N, O) to "action". Raises ValueError if its packages are not there."""
    try:
        reference = importlib.import_module("onnx.reference")
        importlib.import_module("onnxscript")  # what torch's exporter is written in
    except ImportError as error:
        raise ValueError(f"ONNX needs two packages ({error}): pip install onnx onnxscript") from None
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            acting,
            (obs,),
            input_names=["obs"],
            output_names=["action"],
            dynamic_shapes={"obs": {0: torch.export.Dim("rows", min=1)}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    session = reference.ReferenceEvaluator(program.model_proto)

    def run(x: Tensor) -> Tensor:
        (action,) = session.run(None, {"obs": x.numpy()})  # a list of outputs
        return torch.from_numpy(np.asarray(action))

    agree(run, acting, obs)
    return bytes(program.model_proto.SerializeToString())


def agree(exported: Callable[[Tensor], Tensor], acting: Acting, obs: Tensor) -> None:
    """Raises ValueError unless both act alike, on another number of rows too."""
    with torch.no_grad():
        for shown in (obs, 3 * obs[:1], torch.cat([obs, -obs])):
            found, due = exported(shown), acting(shown)
            if found.shape != due.shape or not torch.allclose(found.double(), due.double(), rtol=1e-4, atol=1e-5):
                raise ValueError("the exported policy acts differently from the trained one; please report this")
