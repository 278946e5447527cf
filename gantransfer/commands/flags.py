# SPDX-License-Identifier: Apache-2.0
"""What a flag may hold, for all commands: numbers, seeds, paths, and which class is meant.

Click's own types let through what no command can use (nan, integers beyond 64 bits, a folder called ~); a command's
option of one of these kinds is of a type from here (tests/commands/test_flags.py looks at all). A value that does not
fit is one line that names the flag. Imports no torch, so that the data-set scripts start at once.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from dnnlib.seeding import MAX_SEEDS
from dnnlib.util import FLOAT32, UserError, expand_user, is_url, printable
from gantransfer.data.labels import LabelSpec, known_classes, trained_classes
from gantransfer.data.names import valid_text

if TYPE_CHECKING:
    import torch

INT64 = 2**63
SHIPPED = {"digits": "digits16.pkl"}  # models in assets/, each with a .json beside it that says how it was made
SEED_DIGITS = 1000


def _name(param: click.Parameter | None) -> str:
    """How the user writes it: --batch, or DEST."""
    if param is None:
        return "value"
    return param.opts[0] if isinstance(param, click.Option) else param.human_readable_name


class _OneLine(click.ParamType):
    """Complaints are a UserError, `--flag=value: why`, like all others of the project."""

    def fail(self, message: str, param: click.Parameter | None = None, ctx: click.Context | None = None) -> Any:
        raise UserError(f"{_name(param)}={message.rstrip('.')}")


class IntRange(_OneLine, click.IntRange):
    """An integer of at most 64 bits, within bounds where there are some."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(value)
        except (TypeError, ValueError):
            digits = str(value).strip().lstrip("+-")
            reason = "has more digits than any number here" if digits.isdecimal() else "is not a whole number"
            self.fail(f"{_short(value)} {reason}", param, ctx)
        if not -INT64 <= number < INT64:
            self.fail(f"{_short(value)} does not fit in 64 bits", param, ctx)
        return super().convert(number, param, ctx)

    def _describe_range(self) -> str:
        return super()._describe_range() if (self.min, self.max) != (None, None) else ""


class FloatRange(_OneLine, click.FloatRange):
    """A finite number of 32 bits, as networks calculate, within bounds where there are some: nan and inf compare with
    nothing, and pass click's own."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            self.fail(f"{_short(value)} is not a number", param, ctx)
        if not math.isfinite(number):
            self.fail(f"{_short(value)} is not a finite number", param, ctx)
        if abs(number) > FLOAT32:
            self.fail(f"{_short(value)} is too large for a number of 32 bits", param, ctx)
        return super().convert(number, param, ctx)

    def _describe_range(self) -> str:
        return super()._describe_range() if (self.min, self.max) != (None, None) else ""


INT, FLOAT = IntRange(), FloatRange()
INT.name, FLOAT.name = "integer", "float"


class Seed(_OneLine):
    """Any whole number; what it means stands in dnnlib/seeding.py."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return value if isinstance(value, int) else _seed(str(value), _name(param))


SEED = Seed()


def _seed(text: str, flag: str) -> int:
    text = text.strip()
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise UserError(f"{flag}={_short(text)} is not a whole number")
    if len(text) > SEED_DIGITS:
        raise UserError(f"{flag}: a seed has at most {SEED_DIGITS} digits, not {len(text)}")
    return int(text)


def _short(value: Any) -> str:
    text = printable(str(value))
    return text if len(text) <= 40 else f"{text[:30]}... ({len(text)} characters)"


class _Text(_OneLine):
    """A text that is read by a function of (text, flag)."""

    def __init__(self, name: str, read: Callable[[str, str], Any]):
        self.name, self.read = name, read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self.read(value, _name(param)) if isinstance(value, str) else value


# ---- paths -----------------------------------------------------------------------------------------------------------


def path(text: str, flag: str = "path") -> str:
    """`~` and `~name` at the start as the home folder; also of RUN:best, and behind `fonts:` and `icons:`. URLs as
    they are."""
    prefix, colon, rest = text.partition(":")
    if colon and prefix in ("fonts", "icons"):
        return f"{prefix}:{path(rest, flag)}"
    if is_url(text):
        return text
    try:
        return expand_user(text)
    except UserError as e:
        raise UserError(f"{flag}={e}") from None


def paths(text: str, flag: str = "paths") -> str:
    """Paths separated by commas, each alone or as NAME=FILE, as in `--detector`."""
    def one(part: str) -> str:
        name, equals, rest = part.rpartition("=")
        lead = rest[: len(rest) - len(rest.lstrip())]
        return f"{name}{equals}{lead}{path(rest.lstrip(), flag)}"

    return ",".join(one(part) for part in text.split(","))


def snapshot(text: str, flag: str = "snapshot") -> str:
    """A model: a path or URL as it is, RUN, RUN:latest, RUN:best, RUN:best:METRIC as the snapshot that is meant, and
    the name of a shipped one (SHIPPED) where no file is called so."""
    if text in SHIPPED and not os.path.lexists(text):
        return os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "assets", SHIPPED[text])
    text = path(text, flag)
    if not re.search(r":(latest|best(:\w+)?)$", text) and not os.path.isdir(text):
        return text
    from gantransfer.commands import best

    return best.named(text)


PATH, PATHS, SNAPSHOT = _Text("path", path), _Text("paths", paths), _Text("path", snapshot)


class PathObject(_OneLine, click.Path):
    """`click.Path(path_type=pathlib.Path)` of an expanded text."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(path(os.fspath(value), _name(param)), param, ctx)


def option_type(field: Mapping[str, Any]) -> Any:
    """The type of a flag for what `method.option` recorded of a field of an Options class."""
    if field["choices"]:
        return click.Choice(list(field["choices"]))
    if field["type"] in (int, float):
        return (IntRange if field["type"] is int else FloatRange)(field["low"], field["high"])
    return PATH if re.search(r"PATH|FILE|DIR", field["metavar"] or "") else field["type"]


# ---- lists of numbers ------------------------------------------------------------------------------------------------


def integers(text: str, flag: str) -> list[int]:
    """'64,32' -> [64, 32]; ranges as 0-6. Raises UserError naming `flag`; at most 64 bits."""
    out = _ranges(text, flag, "numbers")
    bad = [k for k in out if not -INT64 <= k < INT64]
    if bad:
        raise UserError(f"{flag}={_short(text)}: a number does not fit in 64 bits")
    return out


def parse_seeds(text: str, flag: str = "--seeds") -> list[int]:
    """'0-3,7' -> [0, 1, 2, 3, 7]; any whole numbers, '-3--1' too. Raises UserError naming `flag`."""
    return _ranges(text, flag, "seeds")


def _ranges(text: str, flag: str, what: str) -> list[int]:
    out: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([+-]?[0-9]+)(?:\s*-\s*([+-]?[0-9]+))?", part.strip())
        if not match:
            raise UserError(f"{flag}={_short(text)} is not a list of numbers and ranges, such as 0-63 or 1,5,9")
        first = _seed(match[1], flag)
        last = first if match[2] is None else _seed(match[2], flag)
        if last < first:
            raise UserError(f"{flag}={_short(text)}: the range {_short(part.strip())} is empty")
        if len(out) + last - first >= MAX_SEEDS:
            raise UserError(f"{flag}={_short(text)}: these are more than {MAX_SEEDS:,} {what}; give fewer at a time")
        out += range(first, last + 1)
    return out


# ---- classes ---------------------------------------------------------------------------------------------------------

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
        return UserError(f"{flag}={_short(part)}: {why}; {known_classes(label, ids, owner)}")

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
        raise UserError(f"{flag}={_short(text)} names a class twice")
    return list(dict.fromkeys(out))


def asked_classes(text: str, label: LabelSpec, flag: str = "--class", **kw: Any) -> list[int]:
    """`parse_classes` for classes that images are to be made of: with a line about those that never had any."""
    out = parse_classes(text, label, flag, **kw)
    warn_untrained(out, label, flag)
    return out


def one_class(text: str, label: LabelSpec, flag: str = "--class") -> int:
    """`asked_classes` where just one class can be meant."""
    found = asked_classes(text, label, flag)
    if len(found) != 1:
        raise UserError(f"{flag}={_short(text)} are {len(found)} classes; give one class")
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


# ---- machine and places ----------------------------------------------------------------------------------------------


def pick_device(name: str) -> torch.device:
    """'auto' is the GPU if there is one. Raises UserError for a device that this machine lacks."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device={name} is not a device; use cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device={name}: this machine has {torch.cuda.device_count()} CUDA devices; use --device=cpu")
    return device
