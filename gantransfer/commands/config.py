# SPDX-License-Identifier: Apache-2.0
"""`--config`: flags out of a file, a recipe by its name, or a finished run.

A recipe (`recipes/*.yaml`) is YAML that holds flags as they are typed, one a line; or a part of flags for each command
that it has several of, such as the stages of `distill`. Values are the texts that stand there: YAML's own notions of
numbers and truth do not enter, so that `--lr=1e-4` is the same in both places.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from dnnlib import json_file
from dnnlib.util import UserError, open_regular, printable

OPTIONS = "training_options.json"  # what a run writes; its "flags" are those that it was started with
LENGTHS = ("kimg", "epochs")  # two ways to say one thing
NOT_REPEATED = ("config", "dry_run", "resume_names")
DISTILL = {"teacher": ("teacher",), "student": ("student", "head"), "ratio": ("ratio", "features")}  # stages by command


def folder() -> Path:
    """The recipes of a checkout, or the copy inside an installed gantransfer."""
    package = Path(__file__).resolve().parents[1]
    return next((f for f in (package / "recipes", package.parent / "recipes") if f.is_dir()), package / "recipes")


def recipes() -> dict[str, Path]:
    return {p.stem: p for p in sorted(folder().glob("*.yaml"))}


def find(text: str) -> Path:
    """What --config means: a file, a run's folder, or a recipe by its name."""
    if os.path.isdir(text):
        return Path(text) / OPTIONS
    if os.path.lexists(text):
        return Path(text)
    parent, name = os.path.split(text)
    name = name.removesuffix(".yaml")
    if os.path.basename(parent) not in ("", "recipes"):
        raise UserError(f"--config={text}: no such file")
    known = recipes()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        raise UserError(f"--config={text}: no such file or recipe; " + (f"did you mean {near[0]}? " if near else "")
                        + f"there are {', '.join(known)}")
    return known[name]


def read(path: Path, command: str) -> dict[str, str | list[str]]:
    """Flag -> value of a file, for `command` where it has a part for each of several."""
    if path.suffix == ".json":
        return _of_run(path, command)
    import yaml

    with open_regular(path) as f:
        data = f.read()
    try:
        top = yaml.compose(data.decode("utf-8"), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as e:
        mark = getattr(e, "problem_mark", None)
        raise UserError(f"--config={path}: not readable as YAML" + (
            f" in line {mark.line + 1} ({printable(e.problem or 'damaged')})" if mark else "")) from None
    flags = _mapping(top, path)
    parts = {k: v for k, v in flags.items() if isinstance(v, yaml.MappingNode)}
    if parts and len(parts) < len(flags):
        raise UserError(f"--config={path} has flags beside its parts {', '.join(parts)}: put them into one")
    if parts:
        if command not in parts:
            raise UserError(f"--config={path} is for {', '.join(parts)}, not for {command}")
        flags = _mapping(parts[command], path)
    return {k: _value(k, v, path) for k, v in flags.items()}


def _mapping(node: Any, path: Path) -> dict[str, Any]:
    import yaml

    if not isinstance(node, yaml.MappingNode) or not node.value:
        raise UserError(f"--config={path} holds no flags, such as `batch: 64`")
    out: dict[str, Any] = {}
    for key, value in node.value:
        name = str(key.value).removeprefix("--").replace("-", "_")
        if not isinstance(key, yaml.ScalarNode) or name in out:
            raise UserError(f"--config={path}, line {key.start_mark.line + 1}: " + (
                f"{name} is there twice" if isinstance(key, yaml.ScalarNode) else "this is no name of a flag"))
        out[name] = value
    return out


def _value(key: str, node: Any, path: Path) -> str:
    """The text of a value; a list as flags write it, 'a,b'."""
    import yaml

    items = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not items or not all(isinstance(i, yaml.ScalarNode) and i.value != "" for i in items):
        raise UserError(f"--config={path}, line {node.start_mark.line + 1}: {key} has no value; write {key}: VALUE")
    return ",".join(i.value for i in items)


def _of_run(path: Path, command: str) -> dict[str, str]:
    """The flags that a run of `command` was started with."""
    if not path.exists():
        raise UserError(f"--config={path.parent} is no run: it has no {path.name}")
    content = json_file.read(path)
    owner = next((c for c, stages in DISTILL.items() if content.get("stage") in stages), "train")
    if owner != command:
        raise UserError(f"--config={path} is of a run of `{'distill ' if owner != 'train' else ''}{owner}`, not of "
                        f"{command}")
    flags = content.get("flags")
    if isinstance(flags, dict) and all(isinstance(v, str | int | float) for v in flags.values()):
        return {k: str(v) for k, v in flags.items()}
    command = path.with_name("environment.json")
    said = " ".join(map(str, json_file.read(command).get("command", ()))) if command.exists() else ""
    raise UserError(f"--config={path} does not say with which flags its run was started"
                    + (f"; it is of an earlier version, and its command was: {printable(said)}" if said else ""))


def arguments(text: str, command: str, params: Sequence[click.Parameter], typed: Collection[str]) -> list[str]:
    """What --config stands for, as arguments before those that are `typed`, which win."""
    path = find(text)
    known = {p.name: p for p in params if isinstance(p, click.Option) and p.name not in ("config", "help")}
    out = []
    for name, value in read(path, command).items():
        option = known.get(name)
        if option is None:
            near = difflib.get_close_matches(name, known, 1)
            raise UserError(f"--config={path}: {command} has no flag --{name}"
                            + (f"; did you mean --{near[0]}?" if near else ""))
        if name in typed or name in LENGTHS and any(k in typed for k in LENGTHS):
            continue
        if option.is_flag:
            if click.BOOL.convert(value, option, None):
                out.append(f"--{name}")
        else:
            out.append(f"--{name}={value}")
    return out


def recorded(given: Mapping[str, Any], omit: Collection[str] = ()) -> dict[str, Any]:
    """`given`, the flags of a start, as a run writes them down to be repeated."""
    return {k: v for k, v in given.items() if isinstance(v, str | int | float) and k not in (*NOT_REPEATED, *omit)}
