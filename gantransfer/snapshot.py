# SPDX-License-Identifier: Apache-2.0
"""What a snapshot is: named networks as (class, constructor arguments, tensors), and what they were trained on.

A snapshot file holds plain data only (tensors, numbers, strings, lists, dicts). It is written with `torch.save` and
read by `torch_file`, which never runs code (`torch.load(..., weights_only=True)` reads it too). Class names are looked
up inside this package alone.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from dnnlib.util import UserError, atomic_path, fetch, first_line
from gantransfer.formats import torch_file
from gantransfer.formats.inert_pickle import Refused

FORMAT = "gantransfer-snapshot"
VERSION = 1
_PACKAGES = ("gantransfer.networks.", "gantransfer.methods.")
MOVED = {  # beginnings of class paths as files of earlier versions name them -> where the class is now
    "gantransfer.networks.hyper1.": "gantransfer.networks.hypermod_stylegan1.",
    "gantransfer.networks.style1.": "gantransfer.networks.stylegan1.",
    "gantransfer.augment.AugmentPipe": "gantransfer.augment.ada.AugmentPipe",
    "gantransfer.dataset.": "gantransfer.data.dataset.",
}


def class_path(path: str) -> str:
    """A class path of any version as it is today."""
    for old, new in MOVED.items():
        if path.startswith(old):
            return new + path[len(old):]
    return path


@dataclass
class NetRecord:
    """One network as data."""

    cls: str  # dotted class path inside gantransfer.networks or gantransfer.methods
    kwargs: dict[str, Any]  # constructor arguments, JSON-able
    state: dict[str, torch.Tensor]  # state dict, on the CPU

    def __post_init__(self) -> None:
        if isinstance(self.cls, str):
            self.cls = class_path(self.cls)

    @classmethod
    def of(cls, module: nn.Module) -> NetRecord:
        """Record a network that keeps its constructor arguments in `init_kwargs`."""
        kind = type(module)
        # One tensor may be reachable under two names; `clone` would split it, so aliases are kept as aliases.
        seen: dict[tuple, torch.Tensor] = {}
        state = {}
        for name, t in module.state_dict().items():
            key = (t.data_ptr(), tuple(t.shape), t.dtype, t.stride()) if t.numel() else (name,)
            if key not in seen:
                seen[key] = t.detach().to("cpu", copy=True).contiguous()
            state[name] = seen[key]
        return cls(f"{kind.__module__}.{kind.__qualname__}", plain(module.init_kwargs), state)

    def kind(self) -> type[nn.Module]:
        """The class. Raises UserError for one that this version lacks, or that is none of our networks."""
        if not self.cls.startswith(_PACKAGES):
            raise UserError(f"the snapshot names the class {self.cls}, which is not part of gantransfer's networks")
        module_name, _, name = self.cls.rpartition(".")
        try:
            kind = getattr(importlib.import_module(module_name), name)
        except (ImportError, AttributeError):
            raise UserError(f"this version of gantransfer has no network {self.cls}; update it") from None
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise UserError(f"the snapshot names {self.cls}, which is not a network")
        return kind

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the state that the class has with these arguments, found without memory for any weight.

        Raises UserError when the class cannot be made with them.
        """
        kind = self.kind()
        try:
            _modest(self.kwargs)
            with _NoMemory():
                module = kind(**self.kwargs)
        except (TypeError, ValueError, AssertionError, NotImplementedError, KeyError, RuntimeError, IndexError,
                ArithmeticError, MemoryError) as e:
            raise UserError(f"{self.cls} cannot be made with its arguments ({first_line(e)})") from None
        return {k: tuple(t.shape) for k, t in module.state_dict().items()}

    def build(self, device: torch.device | str = "cpu") -> nn.Module:
        """The network in eval mode without gradients. Raises UserError if the record does not fit our classes."""
        expected = self.shapes()  # before any memory is taken: the file's arguments may ask for anything
        missing = [k for k in expected if k not in self.state]
        unexpected = [k for k in self.state if k not in expected]
        if missing or unexpected:
            raise UserError(
                f"the snapshot's tensors do not fit {self.cls}: missing {missing[:3]}, "
                f"unexpected {unexpected[:3]}; it may come from another version"
            )
        for k, shape in expected.items():
            if tuple(self.state[k].shape) != shape:
                raise UserError(f"the snapshot's tensors do not fit {self.cls}: {k} is {list(self.state[k].shape)} "
                                f"instead of {list(shape)}; it may come from another version")
        module = self.kind()(**self.kwargs)
        module.load_state_dict(self.state)
        return module.eval().requires_grad_(False).to(device)


class _NoMemory(TorchFunctionMode):
    """Weights are made without storage, and not too many of them: a file cannot make us allocate what it lacks.

    Random numbers and factors, for which tensors without storage would load the compiler (half of a command's start),
    change no shape and are left out.
    """

    SCALED = (torch.Tensor.div, torch.Tensor.mul, torch.Tensor.__truediv__, torch.Tensor.__mul__, torch.Tensor.div_,
              torch.Tensor.mul_)
    FACTORIES = (torch.randn, torch.rand, torch.zeros, torch.ones, torch.full, torch.empty)
    MOST = 5_000  # tensors; the largest published networks have a few hundred

    def __init__(self):
        super().__init__()
        self.made = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in self.FACTORIES:
            self.made += 1
            if self.made > self.MOST:
                raise ValueError(f"they ask for more than {self.MOST} tensors")
            kwargs["device"] = "meta"
            if func in (torch.randn, torch.rand):
                func = torch.empty
        elif func in self.SCALED and args[0].is_meta and isinstance(args[1], int | float):
            return args[0]
        return func(*args, **kwargs)


def _modest(value: Any, name: str = "an argument") -> None:
    """ValueError for numbers and lists that no network has, before they become sizes of anything."""
    if isinstance(value, Mapping):
        for k, v in value.items():
            _modest(v, str(k)[:40])
    elif isinstance(value, list | tuple):
        if len(value) > 10_000:
            raise ValueError(f"{name} has {len(value)} entries")
        for v in value:
            _modest(v, name)
    elif isinstance(value, int) and abs(value) > 2**20:
        raise ValueError(f"{name} is {value if abs(value) < 2**64 else 'immense'}, which is too large")


@dataclass
class Snapshot:
    """Everything needed to sample from, evaluate, fine-tune or transfer a trained model."""

    method: str  # key of METHODS
    nets: dict[str, NetRecord]  # 'G', 'D', 'G_ema', ...
    options: dict[str, Any] = field(default_factory=dict)  # the method's resolved options
    data: dict[str, Any] = field(default_factory=dict)  # DataSpec.to_dict() of the training set
    stage: str = "main"
    cur_nimg: int = 0  # images shown so far
    extra: dict[str, Any] = field(default_factory=dict)  # provenance: run options, import report, ...
    version: int = VERSION

    def save(self, path: str | os.PathLike, parents: bool = True) -> None:
        """Write atomically: the file appears under its name only when complete. `parents` as in `atomic_path`."""
        content = dict(
            format=FORMAT,
            version=VERSION,
            method=self.method,
            stage=self.stage,
            options=plain(self.options),
            data=plain(self.data),
            cur_nimg=int(self.cur_nimg),
            extra=plain(self.extra),
            nets={k: dict(cls=r.cls, kwargs=plain(r.kwargs), state=s)
                  for (k, r), s in zip(self.nets.items(), _shared([r.state for r in self.nets.values()]))},
        )
        with atomic_path(path, parents) as tmp:
            torch.save(content, tmp)

    def build(self, name: str, device: torch.device | str = "cpu") -> nn.Module:
        """Network `name` in eval mode on `device`. Raises UserError when the snapshot has no such network."""
        if name not in self.nets:
            raise UserError(f"the snapshot has no network {name!r}; it has {', '.join(self.nets) or 'none'}")
        return self.nets[name].build(device)


def load(path_or_url: str | os.PathLike) -> Snapshot:
    """Read a snapshot in our own format. Raises UserError for anything else, without running what is inside."""
    path = fetch(path_or_url)
    if path.is_dir():
        raise UserError(f"{path_or_url} is a folder; name a snapshot file in it")
    try:
        content = torch_file.load(path)
    except Refused as e:
        raise UserError(f"{path_or_url} cannot be read as a snapshot: {e}") from None
    if not (isinstance(content, dict) and content.get("format") == FORMAT):
        raise UserError(f"{path_or_url} is not a gantransfer snapshot")
    return from_content(content, str(path_or_url))


def from_content(content: dict[str, Any], source: str) -> Snapshot:
    """The snapshot in the parsed content of a file; `source` names it in messages. Raises UserError."""
    content = upgrade(content, source)
    damaged = UserError(f"{source} is a damaged gantransfer snapshot; use another one")
    try:
        nets = {k: NetRecord(r["cls"], r["kwargs"], dict(r["state"])) for k, r in content["nets"].items()}
        snap = Snapshot(nets=nets, **{k: content[k] for k in _FIELDS})
    except (KeyError, TypeError, AttributeError, ValueError):
        raise damaged from None
    if not all(isinstance(getattr(snap, k), kind) for k, kind in _FIELDS.items()):
        raise damaged
    for name, r in nets.items():
        if not (isinstance(name, str) and isinstance(r.cls, str) and isinstance(r.kwargs, dict)
                and all(isinstance(k, str) and isinstance(t, torch.Tensor) for k, t in r.state.items())):
            raise damaged
    return snap


def _shared(states: list[Mapping[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
    """The states with one tensor where several networks have equal ones of one name: a file stores it once, so that
    a frozen part costs nothing in the averaged copy of a network."""
    seen: dict[tuple, list[torch.Tensor]] = {}
    out = []
    for state in states:
        out.append({})
        for name, t in state.items():
            known = seen.setdefault((name, tuple(t.shape), t.dtype), [])
            same = next((k for k in known if torch.equal(k, t)), None)
            if same is None:
                known.append(t)
            out[-1][name] = t if same is None else same
    return out


_FIELDS = dict(method=str, stage=str, options=dict, data=dict, cur_nimg=int, extra=dict, version=int)

UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Content of a file of version v -> content of version v + 1: the one place that knows older formats."""


def upgrade(content: dict[str, Any], source: str) -> dict[str, Any]:
    """`content` in today's format. Raises UserError for a newer one."""
    version = content.get("version")
    if type(version) is not int or version < 1:
        raise UserError(f"{source} is a damaged gantransfer snapshot; use another one")
    if version > VERSION:
        raise UserError(f"{source} was written by a newer gantransfer (format {version}); update")
    for v in range(version, VERSION):
        content = {**UPGRADES[v](content), "version": v + 1}
    return content


def numbered(folder: str | os.PathLike, pattern: str) -> list[Path]:
    """Files of `folder` called as `pattern`, whose star stands for thousands of images, by rising number; a second
    file of one thousand has the remaining images behind, as in 000002_032."""
    before, after = pattern.split("*")
    form = re.compile(rf"{re.escape(before)}(\d+)(?:_(\d{{3}}))?{re.escape(after)}")
    found = [(form.fullmatch(p.name), p) for p in Path(folder).glob(pattern)]
    return [p for *_, p in sorted((int(m[1]), int(m[2] or -1), p) for m, p in found if m)]


def find_snapshots(run_dir: str | os.PathLike) -> list[Path]:
    """Network snapshots of a run, oldest first."""
    return numbered(run_dir, "network-snapshot-*.pkl")


def written_after(run_dir: str | os.PathLike, nimg: int) -> list[Path]:
    """Snapshots and sheets of a run that were written after more than `nimg` images, as far as their names tell."""
    found = [(re.fullmatch(r"(?:network-snapshot-|fakes\D*)(\d+)(?:_(\d{3}))?\.(?:pkl|png)", p.name), p)
             for p in Path(run_dir).iterdir()]
    return sorted(p for m, p in found if m and int(m[1]) * 1000 + int(m[2] or 0) > nimg)


def plain(value: Any) -> Any:
    """Deep copy as dicts, lists, numbers, strings and tensors: what `weights_only` loading accepts."""
    if isinstance(value, Mapping):
        return {(k if isinstance(k, str | int) else str(k)): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str | torch.Tensor) and type(value).__module__ in (
        "builtins",
        "torch",
    ):
        return value
    if hasattr(value, "item"):  # numpy scalars
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} cannot be stored in a snapshot")


Adapter = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass
class Report:
    """What happened to every tensor in a weight transfer."""

    copied: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)  # changed shape by a named rule
    initialised: list[str] = field(default_factory=list)  # kept their fresh values
    dropped: list[str] = field(default_factory=list)  # in the source only

    def table(self, title: str) -> str:
        """Counts, and every name that was not simply copied."""
        lines = [f"{title}: copied {len(self.copied)}, adapted {len(self.adapted)}, "
                 f"initialised {len(self.initialised)}, dropped {len(self.dropped)}"]
        for kind in ("adapted", "initialised", "dropped"):
            lines += [f"    {kind:12s} {name}" for name in getattr(self, kind)]
        return "\n".join(lines)


def transfer(
    src: Mapping[str, torch.Tensor],
    dst: nn.Module,
    *,
    adapt: Mapping[str, Adapter] | None = None,
    may_initialise: Callable[[str], bool] = lambda name: False,
    may_drop: Callable[[str], bool] = lambda name: False,
) -> Report:
    """Copy `src` into `dst` by name. Shapes are always compared: nothing is ever broadcast.

    `adapt[name](source, fresh)` gives the tensor to use where shapes differ. A tensor of `dst` that `src` lacks, or
    whose shape differs without an adapter, must satisfy `may_initialise`; one that only `src` has `may_drop`.
    Raises UserError naming the first tensor that none of the rules covers; `dst` is then untouched.
    """
    adapt, report, new = adapt or {}, Report(), {}
    target = dst.state_dict()
    for name, fresh in target.items():
        source = src.get(name)
        if source is not None and source.shape == fresh.shape:
            new[name] = source
            report.copied.append(name)
        elif source is not None and name in adapt:
            value = adapt[name](source, fresh)
            if value.shape != fresh.shape:
                raise ValueError(f"the adapter of {name} made {tuple(value.shape)} instead of {tuple(fresh.shape)}")
            new[name] = value
            report.adapted.append(f"{name} {tuple(source.shape)} -> {tuple(fresh.shape)}")
        elif may_initialise(name):
            report.initialised.append(name if source is None else f"{name} (source has {tuple(source.shape)})")
        elif source is None:
            raise UserError(f"the source has no tensor {name}; is it of another architecture (--cfg, --cbase, ...)?")
        else:
            raise UserError(f"{name} is {tuple(source.shape)} in the source but {tuple(fresh.shape)} here; "
                            f"use the source's settings (--cfg, --cbase, --map-depth, ...)")
    for name in src:
        if name not in target:
            if not may_drop(name):
                raise UserError(f"the source's tensor {name} has no place here; is it of another architecture?")
            report.dropped.append(name)
    with torch.no_grad():
        for name, value in new.items():
            target[name].copy_(value)
    return report
