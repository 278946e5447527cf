# SPDX-License-Identifier: Apache-2.0
"""Which classes a text means: the one way of naming classes in flags."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from dnnlib.util import UserError, printable
from gantransfer.data.labels import LabelSpec, known_classes, trained_classes
from gantransfer.data.names import short, valid_text

ONE_CLASS_HELP = "its id (3), its name, or name:3 for the class that is called 3"
CLASS_HELP = ("a number is a class's id (3, 0-9), another text its name, name:3 the class that is called 3; many, "
              "medium, few the groups; commas between several")


def note(text: str) -> None:
    """One line on stderr beside the result."""
    print(f"Note: {text}", file=sys.stderr)


def parse_classes(text: str, label: LabelSpec, flag: str = "--class", *, known: Sequence[int] | None = None,
                  owner: str = "the model", twice: bool = True, say: Callable[[str], None] = note) -> list[int]:
    """Class ids, each once, in the order given: the one meaning of every flag that names classes.

    Parts separated by commas: an id `3` or a range of ids `0-4`, below `label.dim`; a name; `name:3` and `id:3`, to be
    explicit; a group 'many', 'medium' or 'few'. A number that is no id may be a name. Where a number is one class's id
    and another's name it is the id, and `say` gets a line. `known`: the ids there are, if not all of `label.dim`.
    `twice`: a class may be named more than once.

    Raises UserError naming `flag` for what does not exist.
    """
    ids = range(label.dim) if known is None else list(known)
    if label.kind != "class":
        raise UserError(f"{flag}: {owner} has no classes" + (
            "; its labels are vectors, give --label or --labels=data" if label.kind == "value" else ""))
    have, names = set(ids), list(label.names)

    def fail(part: str, why: str) -> UserError:
        return UserError(f"{flag}={short(part)}: {why}; {known_classes(label, ids, owner)}")

    def named(name: str, part: str) -> int:
        same = [k for k, n in enumerate(names) if n == name]
        if not same:
            raise fail(part, "no such class")
        if len(same) > 1:
            raise fail(part, f"classes {', '.join(map(str, same))} have this name; give an id")
        return same[0]

    def span(first: str, last: str, part: str) -> list[int]:
        if max(len(first), len(last)) > 18:
            raise fail(part, "no such class")
        a, b = int(first), int(last)
        if a > b:
            raise fail(part, "the range is empty")
        absent = [k for k in (a, b) if k not in have]
        if absent:
            raise fail(part, f"there is no class {absent[0]}")
        found = [k for k in ids if a <= k <= b]
        if known is None or len(found) == b - a + 1:
            return found
        raise fail(part, f"there is no class {min(set(range(a, b + 1)) - have)}")

    def one(part: str) -> list[int] | None:
        """The classes of one part; None: nothing that could be meant."""
        prefix, colon, rest = part.partition(":")
        if colon and prefix in ("name", "id") and part not in names:
            if prefix == "name":
                return [named(rest.strip(), part)]
            part = rest.strip()
            if not re.fullmatch(r"[0-9]+", part):
                raise fail(f"id:{part}", "not an id")
            return span(part, part, part)
        match = re.fullmatch(r"([0-9]+)(?:\s*-\s*([0-9]+))?", part)
        if match is None:
            if part in names:
                return [named(part, part)]
            return list(label.shots[part]) if part in label.shots else None
        first, last = match[1], match[2] or match[1]
        if part in names:
            try:
                found = span(first, last, part)
            except UserError:
                found = None
            own = [k for k, n in enumerate(names) if n == part]
            if found is None:
                say(f"{flag}={part} is the class called {part}, number {named(part, part)}; there is no such id")
                return [named(part, part)]
            if found != own:
                meant = f"number {part} ({printable(names[found[0]])})" if len(found) == 1 else f"numbers {part}"
                say(f"{flag}={part} is class {meant}; the class called {part} is number "
                    f"{', '.join(map(str, own))}: write name:{part}")
            return found
        return span(first, last, part)

    text = valid_text(text)
    out: list[int] = []
    parts, i = text.split(","), 0
    while i < len(parts):
        for j in range(len(parts), i, -1):  # a name may hold commas: the longest that exists
            part = ",".join(parts[i:j]).strip()
            if j == i + 1 or part in names or part.removeprefix("name:") in names:
                break
        found = one(part) if part else None
        if found is None:
            raise fail(part or text, "no such class" if part else "an entry is empty")
        out += found
        i = j
    if not twice and len(set(out)) < len(out):
        raise UserError(f"{flag}={short(text)} names a class twice")
    return list(dict.fromkeys(out))


def asked_classes(text: str, label: LabelSpec, flag: str = "--class", *, say: Callable[[str], None] = note,
                  **kw: Any) -> list[int]:
    """`parse_classes` for classes that images are to be made of: with a line about those that never had any."""
    out = parse_classes(text, label, flag, say=say, **kw)
    warn_untrained(out, label, flag, say)
    return out


def one_class(text: str, label: LabelSpec, flag: str = "--class") -> int:
    """`asked_classes` where just one class can be meant."""
    found = asked_classes(text, label, flag)
    if len(found) != 1:
        raise UserError(f"{flag}={short(text)} are {len(found)} classes; give one class")
    return found[0]


def warn_untrained(classes: Sequence[int], label: LabelSpec, flag: str = "--class",
                   say: Callable[[str], None] = note) -> None:
    """A line when `classes` asks for ones whose input was never trained."""
    dead = sorted(set(classes) - set(trained_classes(label)))
    if dead:
        shown = ", ".join(map(str, dead[:8])) + (f" and {len(dead) - 8} more" if len(dead) > 8 else "")
        many = len(dead) > 1
        say(f"{flag}: class{'es' * many} {shown} had no training image: {'their' if many else 'its'} input was never "
            f"trained, and {'their' if many else 'its'} images mean nothing")
