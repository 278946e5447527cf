# SPDX-License-Identifier: Apache-2.0
"""What a flag may hold, for all commands: numbers, seeds and paths; which class is meant is read in data/classes.py.

Click's own types let through what no command can use (nan, integers beyond 64 bits, a folder called ~); a command's
option of one of these kinds is of a type from here (tests/commands/test_flags.py looks at all). A value that does not
fit is one line that names the flag. Imports no torch, so that the data-set scripts start at once.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from dnnlib.seeding import MAX_SEEDS
from dnnlib.util import FLOAT32, UserError, expand_user, is_url
from gantransfer.data.names import short

if TYPE_CHECKING:
    import torch

INT64 = 2**63
SHIPPED = {"digits": "digits16.pkl"}  # models in assets/, each with a .json beside it that says how it was made
SEED_DIGITS = 1000
STUDY = "GANTRANSFER_STUDY"  # set where a study has started the command, and will go on with it


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
            self.fail(f"{short(value)} {reason}", param, ctx)
        if not -INT64 <= number < INT64:
            self.fail(f"{short(value)} does not fit in 64 bits", param, ctx)
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
            self.fail(f"{short(value)} is not a number", param, ctx)
        if not math.isfinite(number):
            self.fail(f"{short(value)} is not a finite number", param, ctx)
        if abs(number) > FLOAT32:
            self.fail(f"{short(value)} is too large for a number of 32 bits", param, ctx)
        return super().convert(number, param, ctx)

    def _describe_range(self) -> str:
        return super()._describe_range() if (self.min, self.max) != (None, None) else ""


def check_choice(flag: str, value: Any, choices: Sequence[str], where: str = "") -> None:
    """UserError unless `value` is one of the words `choices`; `where`: whose they are, e.g. ' in method biggan'."""
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, 1)
        guess = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"{flag}={short(value)} does not exist{where}; {guess}there are {', '.join(choices)}")


class Choice(_OneLine, click.Choice):
    """One of some words, written as they are: both spellings are for the names of flags and commands."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        check_choice(_name(param), value, self.choices)
        return value

    def normalize_choice(self, choice: Any, ctx: click.Context | None) -> str:  # for the help
        return str(choice)


class Bool(_OneLine, click.types.BoolParamType):
    """true or false. Click takes an empty text for false, which `--cond=$COND` may be by mistake."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        if str(value).strip().lower() not in ("1", "0", "yes", "no", "true", "false", "on", "off", "t", "f", "y", "n"):
            self.fail(f"{short(value)} is neither true nor false", param, ctx)
        return super().convert(value, param, ctx)


BOOL = Bool()
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
        raise UserError(f"{flag}={short(text)} is not a whole number")
    if len(text) > SEED_DIGITS:
        raise UserError(f"{flag}: a seed has at most {SEED_DIGITS} digits, not {len(text)}")
    return int(text)


class Text(_OneLine):
    """A text that is read by a function of (text, flag). Not an empty one: `--network=$RUN` without RUN is a mistake,
    and must not mean what the flag's absence does."""

    def __init__(self, name: str, read: Callable[[str, str], Any]):
        self.name, self.read = name, read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        if not value.strip():
            self.fail(" is empty; give a value, or omit the flag", param, ctx)
        return self.read(value, _name(param))


WORD = Text("word", lambda text, flag: text)


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


def named_files(text: str | None) -> dict[str, str]:
    """'FILE' or 'NAME=FILE', comma-separated -> {name: file}; a bare file has the name ''."""
    parts = [part.rpartition("=") for part in (text or "").split(",") if part]
    return {name.strip(): file.strip() for name, _, file in parts}


def snapshot(text: str, flag: str = "snapshot") -> str:
    """A model: a path or URL as it is, RUN, RUN:latest, RUN:best, RUN:best:METRIC as the snapshot that is meant, and
    the name of a shipped one (SHIPPED) where no file is called so."""
    if text in SHIPPED and not os.path.lexists(text):
        return os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "assets", SHIPPED[text])
    text = path(text, flag)
    if not re.search(r":(latest|best(:\w+)?)$", text) and not os.path.isdir(text):
        return text
    from gantransfer.metrics import rating

    return rating.named(text)


def run_folder(text: str, flag: str = "RUN", runs: str = "runs") -> str:
    """A run's folder, or an experiment's: by its path, by the number of a run of `runs`, or `latest`, the newest there.
    """
    text = path(text, flag)
    if os.path.isdir(text):
        return text
    if os.path.lexists(text):
        raise UserError(f"{flag}={text} is a file; name the folder of a run, such as {os.path.dirname(text) or '.'}")
    numbered = {p: int(m[0]) for p in sorted(os.listdir(runs) if os.path.isdir(runs) else [])
                if (m := re.match(r"\d{1,18}(?=-)", p)) and os.path.isdir(os.path.join(runs, p))}
    wanted = max(numbered.values(), default=None) if text == "latest" else int(text) if re.fullmatch(
        r"[0-9]{1,18}", text) else None
    found = next((p for p, n in numbered.items() if n == wanted), None) if wanted is not None else None
    if found is None:
        known = f"{runs}/ has {len(numbered)} runs" if numbered else f"{runs}/ has no run here"
        raise UserError(f"{flag}={text}: no such folder; name one, or a number, or latest ({known})")
    return os.path.join(runs, found)


PATH, PATHS, SNAPSHOT, RUN = (Text("path", path), Text("paths", paths), Text("path", snapshot),
                              Text("run", run_folder))


class PathObject(_OneLine, click.Path):
    """`click.Path(path_type=pathlib.Path)` of an expanded text."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(path(os.fspath(value), _name(param)), param, ctx)


def option_type(field: Mapping[str, Any]) -> Any:
    """The type of a flag for what `method.option` recorded of a field of an Options class."""
    if field["choices"]:
        return Choice(list(field["choices"]))
    if field["type"] in (int, float):
        return (IntRange if field["type"] is int else FloatRange)(field["low"], field["high"])
    if field["metavar"] == "SNAPSHOT":
        return SNAPSHOT
    return PATH if re.search(r"PATH|FILE|DIR", field["metavar"] or "") else field["type"]


class Pair(_OneLine):
    """Two finite numbers 'LOW,HIGH', the second above the first."""

    name = "low,high"

    def __init__(self, what: str, example: str):
        self.what, self.example = what, example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:
        if not isinstance(value, str):
            return value
        try:
            low, high = (float(v) for v in value.split(","))
        except ValueError:
            self.fail(f"{short(value)}: write {self.what}, for example {self.example}", param, ctx)
        if not (math.isfinite(low) and math.isfinite(high)):
            self.fail(f"{short(value)}: two finite numbers are needed", param, ctx)
        if low >= high:
            self.fail(f"{short(value)}: the second must be above the first", param, ctx)
        return low, high


# ---- lists of numbers ------------------------------------------------------------------------------------------------


def integers(text: str, flag: str) -> list[int]:
    """'64,32' -> [64, 32]; ranges as 0-6. Raises UserError naming `flag`; at most 64 bits."""
    out = _ranges(text, flag, "numbers")
    bad = [k for k in out if not -INT64 <= k < INT64]
    if bad:
        raise UserError(f"{flag}={short(text)}: a number does not fit in 64 bits")
    return out


def parse_seeds(text: str, flag: str = "--seeds") -> list[int]:
    """'0-3,7' -> [0, 1, 2, 3, 7]; any whole numbers, '-3--1' too. Raises UserError naming `flag`."""
    return _ranges(text, flag, "seeds")


def _ranges(text: str, flag: str, what: str) -> list[int]:
    out: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([+-]?[0-9]+)(?:\s*-\s*([+-]?[0-9]+))?", part.strip())
        if not match:
            raise UserError(f"{flag}={short(text)} is not a list of numbers and ranges, such as 0-63 or 1,5,9")
        first = _seed(match[1], flag)
        last = first if match[2] is None else _seed(match[2], flag)
        if last < first:
            raise UserError(f"{flag}={short(text)}: the range {short(part.strip())} is empty")
        if len(out) + last - first >= MAX_SEEDS:
            raise UserError(f"{flag}={short(text)}: these are more than {MAX_SEEDS:,} {what}; give fewer at a time")
        out += range(first, last + 1)
    return out


# ---- flags and commands ----------------------------------------------------------------------------------------------


class Flag(click.Option):
    """An option by its name and its help. A bare `--flag` of a boolean one means true."""

    def __init__(self, name: str, help: str, type: Any = str, default: Any = None, short: Sequence[str] = (),
                 **kw: Any):
        if type is bool:
            kw.update(is_flag=False, flag_value="true", metavar="BOOL")
        kw.setdefault("show_default", default is not None and default is not False)
        super().__init__([*short, f"--{name}", name.replace("-", "_")], type=BOOL if type is bool else type,
                         default=default, help=help, **kw)


def option(flag: click.Option) -> Callable:
    """A `Flag` as a decorator."""
    return click.option(cls=lambda *_, **__: flag)


CONFIG = Flag("config", "Flags from a file: a recipe by its name, a YAML file, or a finished run, which is repeated; "
              "what is typed beside it wins", PATH, metavar="NAME|FILE|RUN")


class Sectioned(click.Command):
    """A command whose help shows its flags in sections. `own`, the last section, gives the flags of a method: it is
    asked when they are needed, for it may import what takes seconds."""

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[click.Option]], title: str = "This command",
                 own: Callable[[], Sequence[click.Option]] = tuple, params: Sequence[click.Parameter] = (), **kw: Any):
        self.sections, self.title, self.own, self.complete = dict(sections), title, own, False
        super().__init__(*args, params=[*(o for part in sections.values() for o in part), *params], **kw)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """With --config, the flags that it stands for come first."""
        with contextlib.suppress(click.UsageError):  # which comes again from the parser itself, with what it knows
            typed, _, _ = self.make_parser(ctx).parse_args(list(args))
            if isinstance(typed.get("config"), str):
                from gantransfer.commands import config

                command = (ctx.info_name or "").removesuffix(".py")
                args = [*config.arguments(CONFIG.type.convert(typed["config"], CONFIG, ctx), command, self.params,
                                          typed), *args]
        return super().parse_args(ctx, args)

    @property
    def params(self) -> list[click.Parameter]:  # one list, for click adds --help to it
        if not self.complete:
            self.complete = True
            self.listed += self.own()
        return self.listed

    @params.setter
    def params(self, params: list[click.Parameter]) -> None:
        self.listed = list(params)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, options in {**self.sections, self.title: self.own()}.items():
            if options:
                with formatter.section(title):
                    formatter.write_dl([record for o in options if (record := o.get_help_record(ctx))])


def choose_kernels(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Before the command starts, which gets no argument; processes that it starts inherit the choice. Without the flag
    the variable GANTRANSFER_KERNELS decides."""
    if value is not None:
        from torch_utils import build

        build.configure(value)
        os.environ["GANTRANSFER_KERNELS"] = value


KERNELS = Flag("kernels", "Compiled operators: auto (compile once, else say so and use PyTorch's), native (or fail), "
               "ref (PyTorch's)", show_default="auto", metavar="auto|native|ref", expose_value=False,
               callback=choose_kernels)
DEVICE = Flag("device", "auto, cuda or cpu", Choice(["auto", "cuda", "cpu"]), "auto")
MACHINE = [Flag("gpus", "Number of processes: one per GPU, or on the CPU", IntRange(min=1), 1), DEVICE,
           Flag("threads", "CPU threads per process [default: OMP_NUM_THREADS, or cores / processes; "
                "1 with --cfg=tiny]", IntRange(min=1)),
           KERNELS]
RANDOM = Flag("seed", "Random seed: any whole number", SEED, 0)
POLICIES = Choice(["empirical", "sqrt", "effective", "balanced"])


def schedule(least: int) -> list[Flag]:
    """The flags of every training's length and batches, of `least` images or more."""
    return [Flag("kimg", "Length of the run in thousands of images", FloatRange(min=0, min_open=True)),
            Flag("batch", "Images per step, over all processes", IntRange(min=least)),
            Flag("batch_gpu", "Images per process and round; smaller saves memory", IntRange(min=least)),
            Flag("sampling", "Which images are shown, and in a GAN which labels: as in the data, or towards class "
                 "balance", POLICIES, "empirical"),
            RANDOM]


GRAPHS = Flag("graphs", "Record first-order phases as CUDA graphs and replay them", bool, False)
RATING = [
    Flag("best", "Metric, or a value of one, that rates the run's snapshots [default: the first that rates]",
         metavar="METRIC"),
    Flag("stop_after", "Stop when so many snapshots in a row were no better than the best before them",
         IntRange(min=1)),
    Flag("keep", "Which snapshots stay: all, or the best and the newest", Choice(["all", "best"]), "all")]
TICKS = [Flag("tick", "kimg per status line", FloatRange(min=0, min_open=True)),
         Flag("snap", "Snapshot every so many ticks", IntRange(min=1))]


# ---- machine and places ----------------------------------------------------------------------------------------------


def start_processes(num: int, device: str) -> None:
    """Start the processes of --gpus where there are to be several, and end with them. Before anything imports torch:
    that takes as long as their own start."""
    from torch_utils import launcher

    if num < 2 or launcher.launched():
        return
    if launcher.means_cpu(device):
        sys.exit(launcher.on_cpu(num))
    from torch_utils import distributed

    sys.exit(distributed.launch(num, kind=device))


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
