# SPDX-License-Identifier: Apache-2.0
"""The flags of every method: the fields of its Options, described without importing it, so that help needs no torch."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnnlib import json_file
from dnnlib.util import UserError, atomic_write, cache_dir
from gantransfer.commands.flags import Flag, option_type

if TYPE_CHECKING:
    from gantransfer.method import Method


def described(command: str = "train") -> dict[str, dict[str, Any]]:
    """Of each method that `command` (train, distill) trains: {about, stages, options: [{name, help, default, ...}]}."""
    return {name: m for name, m in _all().items() if m["command"] == command}


@cache
def _all() -> dict[str, dict[str, Any]]:
    return describe() if "gantransfer.methods" in sys.modules else kept_description()


def describe() -> dict[str, dict[str, Any]]:
    """What the methods' code says, JSON-able. Imports them, which takes seconds."""
    from gantransfer.methods import DISTILL, TRAIN

    def fields(m: type[Method]) -> list[dict[str, Any]]:
        presets = preset(m)
        return [dict(f.metadata, name=f.name, default=f.default, type=f.metadata["type"].__name__,
                     preset=as_decided(f, presets)) for f in dataclasses.fields(m.Options)]

    def as_decided(f: dataclasses.Field, presets: dict[str, Any]) -> str:
        value, cfg = presets.get(f.name), presets.get("cfg")
        if f.default is not None or value is None or "default" in f.metadata["help"]:
            return ""
        value = f"{value:g}" if isinstance(value, float) else str(value)
        return f"{value} with --cfg={cfg} at 64x64" if cfg else value

    def about(m: type[Method]) -> str:
        text = getattr(sys.modules.get(m.__module__), "__doc__", None) or m.__doc__ or ""
        first = " ".join(text.strip().split("\n\n")[0].split())
        return re.split(r"\. (?=[A-Z])", first)[0].rstrip(".")

    return {name: dict(command=command, about=about(m), stages=m.stages, options=fields(m))
            for command, methods in (("train", TRAIN), ("distill", DISTILL)) for name, m in methods.items()}


def preset(m: type[Method]) -> dict[str, Any]:
    """What a method makes of options that nobody gave, with its own --cfg, on 64x64 pixels; empty where it cannot."""
    from gantransfer.data.dataset import DataSpec
    from gantransfer.data.labels import LabelSpec
    from gantransfer.method import RunConfig

    for label in (LabelSpec("class", 10, (500,) * 10), LabelSpec(), LabelSpec("value", 1)):
        opts = m.Options()
        with contextlib.suppress(UserError):  # it wants other labels
            m.resolve(opts, RunConfig(), DataSpec("set", 64, 3, 5000, label=label))
            return dict(vars(opts))
    return {}


SHIPPED = Path(__file__).resolve().parents[1] / "assets" / "methods.json"  # written by docs/flags_tables.py


def kept_description() -> dict[str, dict[str, Any]]:
    """`describe` as it was shipped, where the files that have flags are those of then; else from the user's cache,
    beside a hash of all source files: made anew when they change."""
    package = SHIPPED.parents[1]
    if (found := _with_key(SHIPPED, hash_of(package, package.glob("methods/*.py")))) is not None:
        return found
    place = hashlib.sha256(str(package).encode()).hexdigest()[:12]
    path, key = cache_dir("help", f"methods-{place}.json"), hash_of(package, package.rglob("*.py"))
    if (found := _with_key(path, key)) is not None:
        return found
    table = describe()
    with contextlib.suppress(OSError), atomic_write(path) as f:
        json.dump({"key": key, "methods": table}, f)
    return table


def _with_key(path: Path, key: str) -> dict[str, dict[str, Any]] | None:
    with contextlib.suppress(UserError, KeyError):
        kept = json_file.read(path)
        if kept["key"] == key:
            return kept["methods"]
    return None


def hash_of(folder: Path, files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in sorted(files):
        text = file.read_bytes().replace(b"\r\n", b"\n")  # as git may give it
        digest.update(f"{file.relative_to(folder).as_posix()}\0".encode() + text)
    return digest.hexdigest()


def to_ship() -> str:
    """What the file SHIPPED should hold."""
    package = SHIPPED.parents[1]
    return json.dumps({"key": hash_of(package, package.glob("methods/*.py")), "methods": describe()}, indent=0) + "\n"


def flag_of(field: dict[str, Any]) -> Flag:
    """A field of a method's Options as a flag; the default None means: the method decides, by its preset."""
    kind = option_type(dict(field, type={"int": int, "float": float, "bool": bool, "str": str}[field["type"]]))
    decided = field["preset"] if field["default"] is None else field["default"]
    default = "" if decided == "" else f" [default: {decided}]"
    extra = {"metavar": field["metavar"]} if field["metavar"] else {}
    return Flag(field["name"], field["help"] + default, kind, **extra)


@cache
def flags_of(method: str, omit: tuple[str, ...] = ()) -> list[Flag]:
    """The flags of one method of `distill`."""
    return [flag_of(f) for f in described("distill")[method]["options"] if f["name"] not in omit]
