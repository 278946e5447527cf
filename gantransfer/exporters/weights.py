# SPDX-License-Identifier: Apache-2.0
"""Snapshots as files that other programs open: safetensors, and a plain state dict with its description beside it.

safetensors: every network's tensors as `<network>.<name>`; the rest of the snapshot is JSON text under the metadata key
`gantransfer`.

State dict: `X.pt` holds one network's tensors by name, for `torch.load(..., weights_only=True)`, and `X.pt.json` says
what they are: class, constructor arguments, data, options, provenance. Both forms load back as snapshots.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from dnnlib.util import UserError, atomic_path, atomic_write
from gantransfer import snapshot
from gantransfer.formats import safetensors
from gantransfer.formats.inert_pickle import Refused
from gantransfer.snapshot import Snapshot, plain

_KEY = "gantransfer"
_REST = ("method", "stage", "options", "data", "cur_nimg", "extra")  # of a snapshot, beside its networks


def save_safetensors(snap: Snapshot, path: str | os.PathLike) -> None:
    """The whole snapshot. A tensor with several names is stored once."""
    tensors: dict[str, torch.Tensor] = {}
    stored: dict[int, str] = {}

    def place(t: torch.Tensor, name: str) -> str:
        if id(t) not in stored:
            stored[id(t)] = name
            tensors[name] = t
        return stored[id(t)]

    def describe(value: Any, name: str) -> Any:
        if isinstance(value, torch.Tensor):
            return {"__tensor__": place(value, name)}
        if isinstance(value, dict):
            return {str(k): describe(v, f"{name}.{k}") for k, v in value.items()}
        return [describe(v, f"{name}.{i}") for i, v in enumerate(value)] if isinstance(value, list) else value

    nets = {name: dict(cls=r.cls, kwargs=plain(r.kwargs),
                       state={k: place(t, f"{name}.{k}") for k, t in r.state.items()})
            for name, r in snap.nets.items()}
    rest = {k: describe(plain(getattr(snap, k)), k) for k in _REST}
    content = dict(format=snapshot.FORMAT, version=snapshot.VERSION, nets=nets, **rest)
    safetensors.write(path, tensors, {"format": "pt", _KEY: json.dumps(content)})


def load_safetensors(path: str | os.PathLike) -> Snapshot:
    """Raises Refused for a file that is not of `save_safetensors`, UserError for a damaged snapshot in one."""
    tensors, metadata = safetensors.read(path)
    if _KEY not in metadata:
        raise Refused("it holds tensors without a description of their networks; "
                      "convert the checkpoint that it was made from")
    try:
        content = json.loads(metadata[_KEY])

        def restore(value: Any) -> Any:
            if isinstance(value, dict):
                if set(value) == {"__tensor__"}:
                    return tensors[value["__tensor__"]]
                return {k: restore(v) for k, v in value.items()}
            return [restore(v) for v in value] if isinstance(value, list) else value

        for net in content["nets"].values():
            net["state"] = {k: tensors[name] for k, name in net["state"].items()}
        for k in ("options", "data", "extra"):
            content[k] = restore(content[k])
        if content["format"] != snapshot.FORMAT:
            raise KeyError
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        raise Refused("its description of the networks is damaged") from None
    return snapshot.from_content(content, str(path))


def _beside(path: str | os.PathLike) -> Path:
    return Path(f"{os.fspath(path)}.json")


def save_state(snap: Snapshot, name: str, path: str | os.PathLike) -> None:
    """Network `name` as a plain state dict, and `<path>.json` beside it. UserError if there is no such network."""
    if name not in snap.nets:
        raise UserError(f"the snapshot has no network {name!r}; it has {', '.join(snap.nets) or 'none'}")
    record = snap.nets[name]
    rest = {k: plain(getattr(snap, k)) for k in _REST}
    content = dict(format=snapshot.FORMAT, version=snapshot.VERSION, network=name, cls=record.cls,
                   kwargs=plain(record.kwargs), **rest)
    try:
        text = json.dumps(content, indent=1)
    except TypeError:
        raise UserError("the snapshot keeps tensors beside its networks; use .safetensors or .pkl") from None
    with atomic_path(path) as tmp, open(tmp, "wb") as f:  # by its name torch would call the folder inside
        torch.save(dict(record.state), f)
    with atomic_write(_beside(path)) as f:
        f.write(text)


def has_description(path: str | os.PathLike) -> bool:
    return _beside(path).is_file()


def load_state(path: str | os.PathLike, state: Any) -> Snapshot:
    """The snapshot of one network whose state dict, read from `path`, is `state`. Raises Refused."""
    try:
        content = json.loads(_beside(path).read_text(encoding="utf-8"))
        net = dict(cls=content.pop("cls"), kwargs=content.pop("kwargs"), state=state)
        content["nets"] = {content.pop("network"): net}
        if content["format"] != snapshot.FORMAT or not isinstance(state, dict):
            raise KeyError
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError, OSError):
        raise Refused(f"{_beside(path).name} beside it does not describe it") from None
    return snapshot.from_content(content, str(path))
