# SPDX-License-Identifier: Apache-2.0
"""Writes the flag tables of these pages from the options in the code: `python docs/flags_tables.py`.

A page holds `<!-- flags: module.Class -->` where the table of an options class belongs, and `<!-- end of flags -->`
behind it. A table holds what the class itself declares or changes; what it inherits is linked. `--check` writes nothing
and fails where a page lags. Nothing here is edited by hand: the words come from the `help` of `method.option`.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
TABLE = re.compile(r"(<!-- flags: ([\w.]+) -->\n)(.*?)(<!-- end of flags -->)", re.S)
PRESET = "(preset)"
WEIGHTS = "../calc_metrics.md#detectors-and-where-their-files-are-searched"
NO_FLAGS = {"extractor"}  # set by a command, not by the user


def pages() -> list[Path]:
    return sorted(DOCS.rglob("*.md"))


def resolve(name: str) -> type:
    module, _, cls = name.rpartition(".")
    return getattr(importlib.import_module(module), cls)


def dotted(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def option_classes() -> dict[str, type]:
    """Every options class of every method, bases among them, by dotted name: each belongs on one page."""
    from gantransfer.method import Options
    from gantransfer.methods import METHODS

    kinds = [m.Options for m in METHODS.values()]
    return {dotted(c): c for k in kinds for c in k.__mro__ if issubclass(c, Options) and c is not Options and own(c)}


def own(cls: type) -> list[dataclasses.Field]:
    """The fields that a class declares or changes itself."""
    return [f for f in dataclasses.fields(cls) if f.name in cls.__dict__.get("__annotations__", {})
            and f.metadata and f.name not in NO_FLAGS]


def resolved(cls: type) -> dict[str, object]:
    """What a method makes of options that nobody gave: with `--cfg=auto`, on 64x64 pixels."""
    from gantransfer.commands.method_flags import preset
    from gantransfer.methods import METHODS

    return next((p for m in METHODS.values() if issubclass(m.Options, cls) and (p := preset(m))), {})


def default_and_meaning(f: dataclasses.Field, preset: object = None) -> tuple[str, str]:
    """(cell, cell) of a row. `preset` is what an open value becomes; a default that depends on more is said in the
    help, as "(default X)", and moves to its column."""
    text = f.metadata["help"]
    if f.default is not None:
        return f"`{f.default}`", text
    said = re.search(r" \((?:default:? |by default )([^()]*)\)", text)
    if not said:
        return (f"`{preset}` {PRESET}" if preset is not None else "none"), text
    text, number = text.replace(said[0], ""), re.fullmatch(r"[\d.]+", said[1])
    if number and preset is not None and float(number[0]) != preset:
        return f"`{preset}` {PRESET}", text  # the help is shared with a method whose preset says something else
    return said[1], text


def value(f: dataclasses.Field) -> str:
    kind = f.metadata["type"]
    metavar = f.metadata["metavar"] or {bool: "BOOL", int: "N", float: "X"}.get(kind, "NAME")
    return metavar.replace("|", " or ")


def meaning(f: dataclasses.Field, text: str) -> str:
    choices = f.metadata["choices"]
    text += ": " + ", ".join(f"`{c}`" for c in choices) if choices and not all(str(c) in text for c in choices) else ""
    low, high = f.metadata["low"], f.metadata["high"]
    if low is not None and high is not None:
        text += f"; {low:g} to {high:g}"
    return text.replace("|", "\\|").replace("default true", "default `True`")


def table(cls: type, page: Path) -> str:
    lines = ["| Flag | Default | Meaning |", "|---|---|---|"]
    presets = resolved(cls)
    for f in own(cls):
        default, text = default_and_meaning(f, presets.get(f.name))
        lines.append(f"| `--{f.name}` {value(f)} | {default} | {meaning(f, text)} |")
    if any(PRESET in line for line in lines):
        lines += ["", f"{PRESET}: with `--cfg=auto` at 64x64 pixels."]
    from gantransfer.methods import TRAIN

    where = {name: p for p in pages() for _, name, *_ in TABLE.findall(p.read_text(encoding="utf-8"))}
    bases = [c for c in cls.__mro__[1:] if dotted(c) in where]
    if bases:
        links = [link(dotted(c), where[dotted(c)], page) for c in bases]
        lines += ["", f"Further flags: {', '.join(links)}."]
        if cls in [m.Options for m in TRAIN.values()]:
            lines[-1] += f" The metrics of large presets need [Inception's weights]({WEIGHTS})."
    return "\n".join(lines) + "\n"


def link(name: str, target: Path, page: Path) -> str:
    """To the heading under which the table of `name` stands."""
    text = target.read_text(encoding="utf-8")
    before = text[:text.index(f"<!-- flags: {name} -->")]
    heading = re.findall(r"^#+ (.*)$", before, re.M)[-1]
    title = re.search(r"^# (.*)$", text, re.M)[1]
    file = os.path.relpath(target, page.parent).replace(os.sep, "/")
    anchor = re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
    said = heading if heading != "Flags" and (target.parent == DOCS or target == page) else title.split(":")[0]
    return f"[{said.lower() if said[1:].islower() else said}]({file}#{anchor})"


def rewritten(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    return TABLE.sub(lambda m: m[1] + "\n" + table(resolve(m[2]), page) + "\n" + m[4], text)


def main(check: bool) -> int:
    sys.path.insert(0, str(DOCS.parent))
    lagging = [(p, text) for p in pages() if (text := rewritten(p)) != p.read_text(encoding="utf-8")]
    for page, text in lagging:
        print(f"{page.relative_to(DOCS.parent)} {'lags: run python docs/flags_tables.py' if check else 'written'}")
        if not check:
            page.write_text(text, encoding="utf-8")
    from gantransfer.commands import method_flags

    shipped = method_flags.to_ship()
    if lags := not method_flags.SHIPPED.exists() or method_flags.SHIPPED.read_text(encoding="utf-8") != shipped:
        print(f"{method_flags.SHIPPED.name} {'lags: run python docs/flags_tables.py' if check else 'written'}")
        if not check:
            method_flags.SHIPPED.write_text(shipped, encoding="utf-8")
    return int(check and (lags or bool(lagging)))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
