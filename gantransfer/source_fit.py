# SPDX-License-Identifier: Apache-2.0
"""Whether a source (--resume, --source) fits a run, in the user's words: before anything is built or written.

Networks are compared by their constructor arguments, never by a tensor's shape: every difference is named with the flag
that mends it, all of them in one line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dnnlib.util import UserError
from gantransfer.data.dataset import DataSpec
from gantransfer.networks.sizes import ImageSize
from gantransfer.snapshot import NetRecord, Snapshot

_ANOTHER = {"G": "G_ema", "G_ema": "G"}


@dataclass(frozen=True)
class Trait:
    """One property of a network."""

    words: str  # what it is, in a sentence: 'its mapping network has {} layers'
    flag: str | None  # the option that sets it; None: this method always has the one it has
    of: Callable[[Mapping[str, Any]], Any]  # constructor arguments -> the value that must agree
    give: Callable[[Mapping[str, Any]], str] | None = None  # arguments -> flags with values; None: --flag=value


def key(words: str, flag: str | None, *path: str, default: Any = None) -> Trait:
    """The argument found by following `path` through nested arguments."""
    def of(kwargs: Mapping[str, Any]) -> Any:
        value: Any = kwargs
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return default if value is None else value
    return Trait(words, flag, of)


def images(pixels: int | Sequence[int] | None, channels: int | None, data: DataSpec, name: str = "the source") -> None:
    """UserError unless `data` has images of the size (R, or (H, W)) and channels that the source makes."""
    where = data.path or data.name
    if channels is not None and channels != data.channels:
        kind = {1: "grey images (1 channel)", 3: "colour images (3 channels)"}
        say = [kind.get(n, f"images of {n} channels") for n in (channels, data.channels)]
        raise UserError(f"{name} makes {say[0]}, {where} has {say[1]}; " + (
            f"convert the data with dataset_tool.py --channels={channels}" if channels in kind else
            "take another source"))
    size = None if pixels is None else ImageSize.of(pixels)
    if size not in (None, data.size):
        raise UserError(f"{name} makes images of {size} pixels, {where} has {data.size}; convert the data with "
                        f"dataset_tool.py --resolution={size}, or take another source")


def record_of(source: Snapshot, name: str) -> NetRecord:
    """The source's network for our `name`, of the live and the averaged generator either one. UserError."""
    found = source.nets.get(name, source.nets.get(_ANOTHER.get(name, "")))
    if found is None:
        raise UserError(f"the source has no network {name} (it has {', '.join(source.nets) or 'none'}), without which "
                        "it cannot be trained further; give the full snapshot")
    return found


def finite(source: Snapshot) -> None:
    """UserError, naming the tensor, when a source holds NaN or infinity."""
    for name, record in source.nets.items():
        for key, t in record.state.items():
            if t.is_floating_point() and not bool(torch.isfinite(t).all()):
                raise UserError(f"{name}.{key} of the source is not finite; use an earlier snapshot")


def kind(source: Snapshot, name: str, allowed: Iterable[type], method: str) -> NetRecord:
    """The source's network `name`, which must be of one of the `allowed` classes. UserError naming both methods."""
    record = record_of(source, name)
    if record.kind() not in tuple(allowed):
        raise UserError(f"the source is a snapshot of --method={source.method}, whose {name} --method={method} cannot "
                        f"start from; go on with --method={source.method}, or take a source of another method")
    return record


def same(pairs: Iterable[tuple[Mapping[str, Any], Mapping[str, Any], Iterable[Trait]]]) -> None:
    """UserError unless each (source's arguments, ours) agree in all traits; the line names every difference."""
    words, flags = [], []
    stuck = False
    for theirs, ours, traits in pairs:
        for t in traits:
            a, b = t.of(theirs), t.of(ours)
            if a == b:
                continue
            words.append(f"{t.words.format(_say(a))} (here {_say(b)})")
            stuck |= t.flag is None and t.give is None
            if t.give is not None:
                flags.append(t.give(theirs))
            elif t.flag is not None:
                flags.append(f"{t.flag}={a}")
    if words:
        flags = list(dict.fromkeys(flags))
        remedy = "no flag changes that: take another source" if stuck else f"give {' '.join(flags)}, or another source"
        raise UserError(f"the source does not fit this run: {', '.join(dict.fromkeys(words))}; {remedy}")


def _say(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "-".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
