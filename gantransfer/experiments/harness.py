# SPDX-License-Identifier: Apache-2.0
"""What studies share: flags, numbered steps, data, judges, trainings of arms with paired seeds, figures, tables, files.

A study is a file of this folder whose first line is `\"""gantransfer experiment NAME: what it compares`. It holds its
arms, flags, columns and primary column. What is there already is kept, so that a study that was stopped continues.
Nothing here imports torch before a study starts.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from dnnlib import json_file
from dnnlib.util import UserError, atomic_path, atomic_write, format_time
from gantransfer.commands.flags import KERNELS, PATH, FloatRange, IntRange, PathObject, integers, option
from gantransfer.experiments import jobs
from gantransfer.experiments.jobs import Job
from gantransfer.metrics.names import REPORT, with_group
from gantransfer.metrics.paired import critical_t, difference, read_result, spread, table

JUDGE = "digits32"  # what studies call theirs, whatever it was trained on
METRIC = f"report_{JUDGE}"
SMALL = "--preset=small"  # teachers and students of the user's own images
# Flags of every training: on digits, and by default on the user's own images where the methods have the preset.
TINY, OWN = "--cfg=tiny", "--cfg=small"
# Figures of generators and of students, as the tables call them.
NAMES = REPORT
STUDENTS = {"accuracy": "accuracy", "macro_recall": "macro recall", "recall": "recall", "mae": "mean absolute error",
            "macro_mae": "mean absolute error, mean over values", "rmse": "root mean square error"}
BOLD = "bold: beyond {:.2f} standard errors (Student's t, 5 %) under every judge"


# Flags of `train` that a study gives itself.
OURS = ("data", "outdir", "fname", "cond", "desc", "description", "kimg", "seed", "resume", "metrics", "snap", "tick",
        "heldout", "keep", "stop-after", "dry-run")


@dataclass(frozen=True)
class Arm:
    """One row of a table: a title and a command line of `train`, in which N% is a share of the training's length, in
    kimg; `more` is what the study itself knows of it."""

    title: str
    line: str = ""
    more: Any = None

    @property
    def flags(self) -> list[str]:
        return shlex.split(self.line)

    def flags_for(self, kimg: float) -> list[str]:
        """Flags of a training of this length."""
        return [in_kimg(word, kimg) for word in self.flags]

    def of(self, seed: int) -> str:
        """What one of its trainings is called."""
        return f"{self.title}, seed {seed}"


def in_kimg(flag: str, kimg: float) -> str:
    """N% in a flag as kimg of a training of `kimg`."""
    return re.sub(r"(\d+)%", lambda m: f"{kimg * int(m[1]) / 100:g}", flag)


# ---- flags ---------------------------------------------------------------------------------------------------------

JUDGES = click.option("--judges", type=IntRange(min=1), default=1, show_default=True, help="Judge networks")
SHOTS = click.option("--shots", type=IntRange(min=2, max=114), help="Images per class [default: 10; with --data all]")
DATA = click.option("--data", type=PATH, metavar="ZIP", help="Your own images with classes, instead of the digits")
HELDOUT = click.option("--heldout", type=PATH, metavar="ZIP", help="Images of the same classes that nothing is trained "
                       "on [default: a quarter of each class of --data]")
ARM = click.option("--arm", "own", multiple=True, metavar='"NAME: FLAGS"',
                   help="One more arm, a command line of train; may be given several times")
PARALLEL = click.option("--parallel", type=IntRange(min=1), help="Trainings at once [default: cores]")
OUT_JSON = click.option("--out", type=PathObject(dir_okay=False, path_type=Path),
                        help="Also write the results here (JSON)")
OUT_TABLE = click.option("--out", type=PathObject(dir_okay=False, path_type=Path),
                         help="Also write the table here (.md; the values beside it as .json)")


def common(own: str = OWN) -> Callable:
    default = TINY if own == TINY else f"{TINY}; {own} with --data"
    return click.option("--common", metavar="FLAGS", help=f"Flags of train for every arm [default: {default}]")


def source_kimg(default: int) -> Callable:
    return click.option("--source-kimg", type=IntRange(min=1), default=default, show_default=True,
                        help="Length of pre-training")


def student_kimg(default: int, own: int) -> Callable:
    return click.option("--student-kimg", type=FloatRange(min=1),
                        help=f"Images that every student sees, in thousands [default: {default}; {own} with --data]")


STUDENT = click.option("--student", metavar="FLAGS", help="With --data: flags of distill teacher and distill student "
                       f"[default: {SMALL}]")


def fakes_flag(text: str, default: str) -> Callable:
    return click.option("--fakes", metavar="N|Nx", help=f"With --data: {text} [default: {default}]")


def flags(folder: str, *own: Callable) -> Callable:
    """A study's command: --dir, its own options, --kernels. With --data the study itself says where: see `place`."""
    data = DATA in own
    first = click.option("--dir", "folder", type=PathObject(file_okay=False, path_type=Path),
                         default=None if data else folder, show_default=True,
                         help="Where everything goes; running again continues"
                         + f" [default: {folder}, or by the name of --data]" * data)

    def add(function: Callable) -> click.Command:
        for each in reversed([first, *own, option(KERNELS)]):
            function = each(function)
        return click.command()(function)

    return add


def place(folder: Path | None, study: str, data: str | None, digits: str) -> Path:
    """Where a study goes: where it was told to, or of the digits, or by the name of --data."""
    return folder or Path(f"runs/{study}-{Path(data).stem}" if data else digits)


def chosen(text: str, known: Mapping[str, Any], every: Sequence[str] = (), flag: str = "--arms") -> list[str]:
    """Names of a comma-separated list; 'all' stands for `every`. UserError for one unknown or given twice."""
    names = list(every) if every and text == "all" else [t.strip() for t in text.split(",") if t.strip()]
    unknown = [n for n in names if n not in known]
    if unknown or len(names) != len(set(names)) or not names:
        raise UserError(f"{flag}={text}: {unknown[0] if unknown else 'an arm'} is not known or given twice; there are "
                        f"{', '.join(known)}")
    return names


def own_arms(texts: Sequence[str], taken: Mapping[str, Arm]) -> dict[str, Arm]:
    """'tail: --recipe=tail' -> arms. UserError for what `train` does not know."""
    out = {}
    for text in texts:
        name, colon, line = (part.strip() for part in text.partition(":"))
        if not colon or not re.fullmatch("[a-z0-9][a-z0-9-]*", name) or name in out:
            raise UserError(f"--arm={text}: write NAME: --FLAG=VALUE ..., each name once, for example "
                            "--arm=\"tail: --recipe=tail\"")
        if name in taken:
            raise UserError(f"--arm={text}: there is an arm of this name, {taken[name].line}; take it with --arms, or "
                            f"choose another name")
        train_flags(line, f"--arm={name}")
        out[name] = Arm(name, line, "the user's")
    return out


def train_flags(line: str, flag: str) -> list[str]:
    """The words of a command line of `train`: see `words_of`."""
    from gantransfer.commands.train import main as train

    return words_of(train, line, flag, OURS, "train")


def words_of(command: click.Command, line: str, flag: str, ours: Sequence[str], name: str = "") -> list[str]:
    """The words of a command line. UserError naming `flag` for one that the command does not know, or that is ours."""
    name, known = name or command.name, {o.replace("_", "-") for p in command.params for o in p.opts}
    try:
        words = shlex.split(line)
    except ValueError as e:
        raise UserError(f"{flag}: {e}") from None
    for word in words:
        given = word.partition("=")[0].replace("_", "-")
        if "=" not in word or given not in known:
            raise UserError(f"{flag}: {word} is no flag of {name}; write --FLAG=VALUE, see gantransfer {name} --help")
        if given.removeprefix("--") in ours:
            raise UserError(f"{flag}: {given} is given by the study; omit it")
    return words


def belong(data: str | None, own: Mapping[str, Any], digits: Mapping[str, Any]) -> None:
    """UserError for a flag of the user's own images without --data, or one of the digits with it."""
    for name, value in (digits if data else own).items():
        if value is not None:
            raise UserError(f"--{name.replace('_', '-')} is for " + ("the digits; omit it with --data" if data else
                                                                     "--data=ZIP"))


def kimg_points(text: str, every: int) -> list[int]:
    """Lengths at which snapshots are measured, ascending; they are written every `every` kimg."""
    try:
        points = sorted(set(integers(text, "--kimg")))
    except UserError:
        raise UserError(f"--kimg={text} is not a list of whole numbers, such as 2,4,8") from None
    if points[0] < every or any(k % every for k in points):
        which = "whole" if every == 1 else "even" if every == 2 else f"multiples of {every}:"
        raise UserError(f"--kimg={text}: snapshots are written at {which} numbers from {every} on")
    return points


def need_digits() -> None:
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise UserError("the demo's digits come with scikit-learn: pip install scikit-learn") from None


# ---- one run of a study --------------------------------------------------------------------------------------------


@dataclass
class Study:
    """A folder and the steps, which are announced as 'Step 3 of 7: ...'."""

    folder: Path
    steps: Sequence[str]
    parallel: int = 1
    digits: bool = True  # the data are those of scikit-learn
    done: int = 0
    start: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        if self.digits:
            need_digits()
        self.folder.mkdir(parents=True, exist_ok=True)

    def is_of(self, **what: Any) -> None:
        """Note what this folder's study is of; UserError where it is of something else."""
        path = self.folder / "study.json"
        if not path.exists():
            with atomic_write(path) as f:
                json.dump(what, f)
        elif (before := json_file.read(path)) != what:
            other = [f"{k} was {before.get(k)}" for k in sorted({*before, *what}) if before.get(k) != what.get(k)]
            raise UserError(f"--dir={self.folder} holds a study of other images or settings ({'; '.join(other)}); "
                            "choose another folder")

    def step(self, note: str = "") -> None:
        """The next step begins."""
        print(f"Step {self.done + 1} of {len(self.steps)}: {self.steps[self.done]}{note and f' ({note})'}", flush=True)
        self.done += 1

    def run(self, todo: Sequence[Job], quiet: bool = False, threads: int = 1) -> None:
        if len(todo) == 1 or threads > 1:
            print(*(f"$ {job}" for job in todo), sep="\n", flush=True)
        jobs.run_jobs(todo, parallel=1 if threads > 1 else self.parallel, quiet=quiet, threads=threads)

    def train(self, runs: Sequence[tuple[str, Path, str, float, Sequence[str]]]) -> list[Path]:
        """Train what is not finished: (name, outdir, desc, kimg, flags) -> final snapshots."""
        todo = [job for job, _ in (jobs.train_job(*r) for r in runs) if job]
        if len(runs) > 1:
            print(f"{len(todo)} of {len(runs)} trainings to do, {self.parallel} at a time", flush=True)
        jobs.run_jobs(todo, self.parallel, counted="Training" if len(todo) > 1 else "")
        found = [jobs.final_snapshot(jobs.run_folder(outdir, desc, kimg), kimg) for _, outdir, desc, kimg, _ in runs]
        for (name, outdir, *_), path in zip(runs, found):
            if path is None:
                raise UserError(f"{name} has no final snapshot in {outdir}; run again to continue")
        return found

    def finish(self, text: str, result: Any = None, names: tuple[str, str] = ("table.md", "values.json"),
               picture: Path | None = None, out: Path | None = None) -> None:
        """Write the table (Markdown) and the values (JSON), tell where they are. `out` is a copy: of the values, or,
        called .md, of the table, with the values beside it.
        """
        files = {self.folder / names[0]: text}
        if result is not None:
            values = json.dumps(result, indent=1)
            files[self.folder / names[1]] = values
            if out and out.suffix == ".md":
                files |= {out: text, out.with_suffix(".json"): values}
            elif out:
                files[out] = values
        for path, content in files.items():
            with atomic_write(path) as f:
                f.write(content + "\n")
        print(f"\n{text}\n\nWritten: {', '.join(map(str, [*files, *([picture] if picture else [])]))}")
        print(f"Done in {format_time(time.time() - self.start)}.")


# ---- data and judges -----------------------------------------------------------------------------------------------


def data_jobs(source: str, sets: Mapping[Path, Mapping[str, Any]]) -> list[Job]:
    """Commands that make the missing ones of the data sets: path -> flags."""
    return [Job("data", ["dataset_tool", f"--source=sklearn:{source}", *(f"--{k}={v}" for k, v in more.items()),
                         f"--dest={path}"]) for path, more in sets.items() if not path.exists()]


def digits(folder: Path) -> tuple[Path, Path, list[Job]]:
    """digits16.zip (pool), digits16-ref.zip (held out), and the commands that make them."""
    data, ref = folder / "digits16.zip", folder / "digits16-ref.zip"
    return data, ref, data_jobs("digits", {data: dict(split="pool"), ref: dict(split="reference")})


def judge_jobs(data: Path, heldout: Path, paths: Sequence[Path], name: str = "judge{}",
               more: Callable[[int], list[str]] = lambda j: [f"--name={JUDGE}"]) -> list[Job]:
    """Commands that train the missing judges, one per seed."""
    return [Job(name.format(j), ["judge", f"--data={data}", f"--heldout={heldout}", f"--seed={j}", *more(j),
                                 f"--out={path}"]) for j, path in enumerate(paths) if not path.exists()]


def split_job(pool: Path, path: Path, seed: int | None, imf: float, n_max: int | None,
              order: str = "label") -> list[Job]:
    """A copy of the pool with a label file of a subset of its images: the command that writes it, where missing."""
    if not path.exists():
        with atomic_path(path) as tmp:
            shutil.copyfile(pool, tmp)
    if f"lt_{imf:g}.json" in zipfile.ZipFile(path).namelist():
        return []
    return [Job("split" if seed is None else f"split{seed}", [
        "lt_dataset", f"--fn={path}", f"--imf={imf:g}", *([] if n_max is None else [f"--n-max={n_max}"]),
        f"--order={order}",
        *([] if seed is None else [f"--seed={seed}"])])]


# ---- figures -------------------------------------------------------------------------------------------------------


def reported(network: Path, judges: Sequence[Path]) -> list[dict[str, float] | None]:
    """A snapshot's figures, which `report_all` made, per judge."""
    return [read_result(network.parent, f"report_judge{j}", network, sha256(p)) for j, p in enumerate(judges)]


def report_all(study: Study, snapshots: Mapping[Path, str], data: Path, judges: Sequence[Path]) -> None:
    """Figures of snapshots, path -> name, under all judges (called judge0, ...) at once: those that are missing."""
    named = {f"judge{j}": path for j, path in enumerate(judges)}
    study.run([report_job(name, path, data, named, "--verbose=False") for path, name in snapshots.items()
               if None in reported(path, judges)], quiet=True)


def report_job(name: str, network: Path, data: Path, detectors: Mapping[str, Path], *more: str) -> Job:
    """The table of figures per class of a snapshot, under each detector."""
    return Job(name, ["calc_metrics", f"--metrics={','.join(f'report_{d}' for d in detectors)}",
                      f"--network={network}", f"--data={data}", *(f"--detector={d}={p}" for d, p in detectors.items()),
                      *more])


def kimg_of(network: Path) -> float:
    from gantransfer import snapshot

    return snapshot.load(network).cur_nimg / 1000


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def measured(network: Path, judges: Sequence[Path], room: str = "judge{}") -> list[dict[str, float] | None]:
    """A snapshot's figures, which `measure` made, per judge."""
    return [read_result(network.parent / room.format(j), METRIC, network, sha256(p)) for j, p in enumerate(judges)]


def measure(study: Study, snapshots: Mapping[str, Path], data: Path, judges: Sequence[Path],
            room: str = "judge{}") -> None:
    """Figures of snapshots, by name, under every judge: those that are missing."""
    study.run([report_job(f"{name} judge{j}", path, data, {JUDGE: judge},
                          f"--outdir={path.parent / room.format(j)}")
               for name, path in snapshots.items() for j, judge in enumerate(judges)
               if measured(path, judges, room)[j] is None], quiet=True)


def name_of(key: str, primary: str | Sequence[str] = (), names: Mapping[str, str] = NAMES) -> str:
    """What a table calls a figure: class_fd_few -> per-class FD, rare classes. `names`: of generators, or STUDENTS."""
    return with_group(key, names) + " (primary)" * (key == primary or key in primary and not isinstance(primary, str))


def student_name(key: str, primary: str = "") -> str:
    return name_of(key, primary, STUDENTS)


Values = Sequence[Sequence[float]]  # [judges][seeds]


def mean_cell(values: Values) -> str:
    """Mean over judges, then mean and spread over seeds."""
    return spread([float(np.mean(v)) for v in zip(*values)])


def difference_table(corner: str, columns: Sequence[str], rows: Mapping[str, tuple[str, str]],
                     of: Callable[[str, str], Values], names: Callable[[str], str] = name_of) -> list[str]:
    """A row per pair: title -> (a, b), cells b minus a, `of(arm, column)`."""
    return table([corner, *map(names, columns)],
                 [[title, *(difference(of(a, c), of(b, c)).cell() for c in columns)] for title, (a, b) in rows.items()])


def bold(seeds: int) -> str:
    return BOLD.format(critical_t(seeds))


def draw_few(path: Path, training: Path, snapshots: Mapping[str, Path], columns: int, unlabelled: Sequence[str] = (),
             per_band: int = 8, title: str = "") -> None:
    """The picture of few images per class (`split_job` with imf 1): training images | each snapshot, by title."""
    from gantransfer.data.dataset import ImageDataset
    from gantransfer.experiments import sheets

    sheets.save_classes(path, ImageDataset(training, fname="lt_1.json", use_labels=True), snapshots, columns,
                        unlabelled=unlabelled, per_band=per_band, title=title)


Measured = Mapping[tuple[str, int, int], Sequence[Mapping[str, float]]]  # (arm, seed, kimg) -> figures per judge


def rows_of(values: Measured, seconds: Mapping[tuple[str, int, int], float]) -> list[dict]:
    """As the files of a study have them."""
    return [dict(arm=a, seed=s, kimg=k, judges=v, seconds=seconds[a, s, k]) for (a, s, k), v in values.items()]


def tables_by_length(titles: Mapping[str, str], seeds: Sequence[int], points: Sequence[int], values: Measured,
                     columns: Sequence[str], clock: tuple[str, Callable[[list[float]], str]],
                     seconds: Mapping[tuple[str, int, int], float],
                     pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Markdown: a table per length, a row per arm, means over judges; with several seeds the differences of `pairs`
    (a, b), a minus b. `clock` is the head of the last column and what it says of the seconds of all seeds."""
    judges = range(len(values[next(iter(titles)), seeds[0], points[0]]))
    of = {k: lambda a, c, k=k: [[values[a, s, k][j][c] for s in seeds] for j in judges] for k in points}
    lines = []
    for k in points:
        lines += ["", *table([f"{k} kimg", *map(name_of, columns), clock[0]], [
            [title, *(mean_cell(of[k](a, c)) for c in columns), clock[1]([seconds[a, s, k] for s in seeds])]
            for a, title in titles.items()])]
    if len(seeds) > 1 and pairs:
        lines += ["", f"Paired differences: mean +- standard error; {bold(len(seeds))}."]
        rows = {f"{titles[a]} minus {titles[b]}": (b, a) for a, b in pairs}
        for k in points:
            lines += ["", *difference_table(f"{k} kimg", columns, rows, of[k])]
    return lines
