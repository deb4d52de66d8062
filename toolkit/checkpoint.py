"""Checkpoints: nested state as safetensors plus JSON, and what a learner was built for. Nothing read is executed."""

from __future__ import annotations

import contextlib
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from toolkit.core import Spec
from toolkit.records import read_object, read_saved_spec, replace_json
from toolkit.store.files import digest, write_durably


def flatten(state: dict[str, Any], prefix: str = "") -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Nested dicts -> tensors by slash-joined path, and the same nesting without them as plain JSON.

    Raises TypeError naming a leaf that is neither a tensor nor plain, ValueError for a key with a slash.
    """
    tensors: dict[str, torch.Tensor] = {}
    plain: dict[str, Any] = {}
    for key, value in state.items():
        if not isinstance(key, str) or "/" in key:
            raise ValueError(f"state key {prefix}{key!r} must be a string without '/'")
        path = f"{prefix}{key}"
        if isinstance(value, torch.Tensor):
            tensors[path] = value.detach().cpu().contiguous().clone()
        elif isinstance(value, dict):
            deeper, plain[key] = flatten(value, f"{path}/")
            tensors |= deeper
        elif isinstance(value, str | int | float | bool | list | tuple | None):
            plain[key] = value
        else:
            raise TypeError(f"state {path!r} is a {type(value).__name__}; expected a tensor or plain JSON")
    return tensors, plain


def unflatten(tensors: dict[str, torch.Tensor], plain: dict[str, Any]) -> dict[str, Any]:
    """Inverse of `flatten`."""
    state = json.loads(json.dumps(plain))
    for path, tensor in tensors.items():
        *folders, name = path.split("/")
        node = state
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = tensor
    return state


def write(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` into `folder`. checkpoint.json, replaced last, decides: a kill leaves the old or the new one."""
    tensors, plain = flatten(state)
    data = save(tensors)
    name = f"{sha256(data).hexdigest()[:32]}.safetensors"
    write_durably(folder / name, data)
    body = {"tensors": name, "state": plain}
    replace_json(folder / "checkpoint.json", {**body, "digest": digest(body)})
    for old in folder.glob("*.safetensors"):
        if old.name != name:
            with contextlib.suppress(FileNotFoundError):
                old.unlink()


def read(folder: Path) -> dict[str, Any] | None:
    """The state last written, or None if there is none. Raises ValueError if a file is damaged or missing."""
    path = folder / "checkpoint.json"
    if not path.exists():
        return None
    try:
        meta = read_object(path)
        if meta.pop("digest") != digest(meta):
            raise ValueError(f"{path}: digest does not match its content; the checkpoint is damaged")
        name = str(meta["tensors"])
        data = (folder / Path(name).name).read_bytes()
        if f"{sha256(data).hexdigest()[:32]}.safetensors" != name:
            raise ValueError(f"{folder / name}: content does not match its name; the checkpoint is damaged")
        return unflatten(load(data), meta["state"])
    except (ValueError, KeyError, TypeError, AttributeError, OSError, SafetensorError) as error:
        raise ValueError(
            f"{path}: not a readable checkpoint ({error}); delete {folder} to train from the start"
        ) from None


def read_spec(folder: str | Path) -> tuple[Spec, dict[str, Any]]:
    """What a run's learner was built for, and the schema of its data as JSON: RUN/spec.json.

    Raises ValueError if the file is missing, damaged or of another version.
    """
    saved = read_saved_spec(folder)
    if saved.pop("digest", None) != digest(saved):
        raise ValueError(f"{Path(folder) / 'spec.json'}: digest does not match its content; the file is damaged")
    try:
        return Spec.from_json(saved["spec"]), saved["schema"]
    except (TypeError, KeyError) as error:
        raise ValueError(f"{folder} was written by another version of packmule ({error}); train it again") from None
