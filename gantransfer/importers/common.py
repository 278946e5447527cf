# SPDX-License-Identifier: Apache-2.0
"""What importers share: a source that was read but not run, and the step from networks to a snapshot."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from dnnlib.util import UserError
from gantransfer.data.labels import DataSpec, LabelSpec
from gantransfer.formats import inert_pickle, torch_file
from gantransfer.formats.inert_pickle import Opaque, Refused
from gantransfer.importers.ledger import Ledger
from gantransfer.snapshot import NetRecord, Snapshot


@dataclass
class Source:
    """A foreign file or folder. `content` is read at first use, inertly; Refused when it cannot be."""

    name: str  # as the user wrote it
    path: Path
    start: bytes = b""  # the first bytes of a file
    variant: str = ""  # of several copies in a folder: '' = the current one

    @property
    def kind(self) -> str:
        """'folder', 'torch' (a file of torch.save), 'pickle', 'safetensors' or '' (none of these)."""
        if self.path.is_dir():
            return "folder"
        if self.start.startswith((torch_file.ZIP_START, torch_file.LEGACY_START)):
            return "torch"
        if self.start[:1] == b"\x80":
            return "pickle"
        return "safetensors" if self.start[8:9] == b"{" else ""

    @cached_property
    def content(self) -> Any:
        if self.kind == "torch":
            return torch_file.load(self.path)
        if self.kind == "pickle":
            return inert_pickle.load(self.path.read_bytes())
        return None

    @cached_property
    def states(self) -> dict[str, dict[str, torch.Tensor]]:
        """The state dicts in a file of torch.save by name, '' for one that is the whole content."""
        if self.kind != "torch" or not isinstance(self.content, dict):
            return {}
        if is_state(self.content):
            return {"": strip_module(self.content)}
        return {k: strip_module(v) for k, v in self.content.items() if isinstance(k, str) and is_state(v)}


def is_state(value: Any) -> bool:
    """True for a state dict: names to tensors, and at least one of them."""
    return (isinstance(value, dict) and len(value) > 0
            and all(isinstance(k, str) and isinstance(t, torch.Tensor) for k, t in value.items()))


def strip_module(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without the prefix 'module.' that torch's data-parallel wrappers put in front of every name."""
    prefix = "module." if all(k.startswith("module.") for k in state) else ""
    return {k[len(prefix):]: t for k, t in state.items()}


def describe(value: Any) -> str:
    """A few words on an entry of a checkpoint that is not imported."""
    if isinstance(value, dict) and {"state", "param_groups"} <= set(value):
        return f"an optimiser's state, {count_tensors(value)} tensors"
    if isinstance(value, Opaque):
        return f"an object of the class {value.name}, not made"
    if isinstance(value, torch.Tensor):
        return f"a tensor {list(value.shape)}"
    if isinstance(value, dict | list | tuple):
        return f"{count_tensors(value)} tensors" if count_tensors(value) else f"{len(value)} settings"
    return f"{type(value).__name__} {str(value)[:40]}"


def count_tensors(value: Any, depth: int = 0) -> int:
    if isinstance(value, torch.Tensor):
        return 1
    if depth > 16 or not isinstance(value, dict | list | tuple):
        return 0
    return sum(count_tensors(v, depth + 1) for v in (value.values() if isinstance(value, dict) else value))


@dataclass
class Part:
    """One network on its way into a snapshot."""

    cls: str
    kwargs: dict[str, Any]
    ledger: Ledger


@dataclass
class Result:
    """What an importer found in a source."""

    method: str
    parts: dict[str, Part]
    label: LabelSpec = field(default_factory=LabelSpec)
    resolution: int = 0
    channels: int = 3
    left_out: dict[str, str] = field(default_factory=dict)  # entry or file -> why it was not taken
    copies: dict[str, str] = field(default_factory=dict)  # network -> the network it is the same as
    extra: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)  # what is known of the training set: fields of DataSpec
    cur_nimg: int = 0


def to_snapshot(result: Result, source: str, format_name: str) -> Snapshot:
    """The snapshot of a result. Raises Refused where a network does not fit our class exactly.

    A network whose class this version does not have is kept as data; `not_usable` names it.
    """
    nets: dict[str, NetRecord] = {}
    account: dict[str, Any] = {}
    for name, part in result.parts.items():
        part.ledger.close(name)
        record = NetRecord(part.cls, part.kwargs, part.ledger.state)
        if name not in not_usable({name: record}):
            check(name, record)
        nets[name] = record
        account[name] = dict(init_kwargs=part.kwargs, tensors=len(record.state),
                             parameters=sum(t.numel() for t in record.state.values()), account=part.ledger.account())
    for name, original in result.copies.items():
        nets[name] = NetRecord(nets[original].cls, nets[original].kwargs, nets[original].state)
        account[name] = dict(copy_of=original)
    known = dict(name=re.sub(r"\.(zip|pkl|pth|pt|model)$", "", Path(re.sub(r"[?#].*", "", source)).name),
                 resolution=result.resolution, channels=result.channels, num_images=0, label=result.label)
    extra = dict(imported_from=source, format=format_name, networks=account, left_out=result.left_out,
                 **result.extra)
    return Snapshot(method=result.method, nets=nets, data=DataSpec(**{**known, **result.data}).to_dict(),
                    cur_nimg=result.cur_nimg, extra=extra)


def not_usable(nets: Mapping[str, NetRecord]) -> dict[str, str]:
    """The networks whose class this version does not have, and a sentence on each."""
    found = {}
    for name, record in nets.items():
        try:
            record.kind()
        except UserError:
            found[name] = f"this version of gantransfer has no network {record.cls}; its tensors are kept as data"
    return found


def check(name: str, record: NetRecord) -> None:
    """Raises Refused, naming the first tensor, unless the record fits its class exactly."""
    try:
        expected = record.shapes()
    except UserError as e:
        raise Refused(f"its {name} cannot be rebuilt from its arguments: {e}") from None
    for key, shape in expected.items():
        have = record.state.get(key)
        if have is None or tuple(have.shape) != shape:
            raise Refused(f"its {name} does not fit: {key} should be {list(shape)}, "
                          f"but {'is missing' if have is None else f'is {list(have.shape)}'}")
    left = [key for key in record.state if key not in expected]
    if left:
        raise Refused(f"its {name} has {len(left)} tensors that our {record.cls} lacks, such as {left[0]}")


def missing_keys(cls: str, kwargs: dict[str, Any], state: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Names and shapes that the class has and `state` lacks. Raises Refused when the class cannot be made."""
    try:
        return {k: s for k, s in NetRecord(cls, kwargs, {}).shapes().items() if k not in state}
    except UserError as e:
        raise Refused(f"it cannot be rebuilt: {e}") from None


def same_names(cls: str, kwargs: dict[str, Any], ledger: Ledger) -> Part:
    """A network whose tensors have our names. What remains in its account has no place here. Raises Refused, naming the
    tensor that is missing."""
    ledger.take_rest(missing_keys(cls, kwargs, {}))
    return Part(cls, kwargs, ledger)


def count(state: Mapping[str, torch.Tensor], pattern: str) -> int:
    """How many names match `pattern` wholly."""
    return sum(re.fullmatch(pattern, k) is not None for k in state)


def get(state: Mapping[str, torch.Tensor], key: str, ndim: int) -> torch.Tensor:
    """A tensor whose shape says something about the network. Raises Refused when it is missing or of another rank."""
    if key not in state:
        raise Refused(f"the tensor {key} is missing")
    if state[key].ndim != ndim:
        raise Refused(f"the tensor {key} has {state[key].ndim} axes instead of {ndim}")
    return state[key]
