# SPDX-License-Identifier: Apache-2.0
"""Students taught with generated images of the user's own data: folds, generators, a file of figures per arm and fold.

Every fold holds out its part of each class (of each stretch of a continuous label), trains generators, a teacher and
students on the rest, and tests the students on its part, so that with all folds every image is tested once. What has a
file in `results` is not trained again, wherever the file was made.
"""

from __future__ import annotations

import contextlib
import io
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from dnnlib import json_file
from dnnlib.util import UserError
from gantransfer.commands.flags import IntRange
from gantransfer.experiments import harness, jobs, sheets
from gantransfer.experiments.harness import Arm
from gantransfer.experiments.paired_arms import ROWS
from gantransfer.experiments.results import COLUMNS, Results
from gantransfer.experiments.students import Students, result, save_labels
from gantransfer.metrics.paired import critical_t, train_seconds, versions

FOLDS = 5
BINS = 10  # parts of a continuous label for means over it and for pictures, where it has more different values
LABELS = 100  # values of a continuous label that are generated, where the data have more
# Flags of teachers and students that a study gives itself.
STUDENT_OURS = ("data", "fname", "outdir", "kimg", "epochs", "seed", "test", "test-fname", "sampling", "dry-run")


FIRST = click.option("--first-fold", type=IntRange(0, FOLDS - 1), help="With --data: number of the first fold, for "
                     "machines that share them [default: 0]")


def folds_from(first: int | None, count: int) -> range:
    """The folds to test. UserError for more than there are."""
    if (first or 0) + count > FOLDS:
        raise UserError(f"--first-fold={first} --folds={count}: there are {FOLDS} folds, 0 to {FOLDS - 1}")
    return range(first or 0, (first or 0) + count)


@dataclass
class Recipe:
    """What all figures of a study depend on."""

    gan_kimg: float
    student_kimg: float
    common: str  # flags of `train` for every generator
    student: str  # flags of `distill teacher` and `distill student`
    fakes: str  # '400' of each class, or '10x' the images of the rarest; of a continuous label '2x' all images
    rho: float
    share: float  # of the images that a student with fakes sees


@dataclass
class Folds:
    """`whole` does it; then `found` holds what is in the files, {(arm, fold): ...}."""

    folder: Path
    data: str
    kind: str  # of the labels: class or value
    gans: Mapping[str, Arm]
    students: Mapping[str, Arm]  # `more`: (generator, stage of its fakes), or None
    stages: Mapping[str, tuple[float, bool] | None]
    recipe: Recipe
    chosen: range
    found: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)

    def whole(self, text: Callable[[Folds], str], primary: str, picture: str, out: Path | None) -> None:
        """All steps; `text` makes the tables."""
        self.prepare()
        self.run()
        self.draw(self.folder / picture)
        self.study.step()
        self.finish(text(self), primary, self.folder / picture, out)

    def prepare(self) -> None:
        """What the user has written is checked before anything trains for hours."""
        from gantransfer.commands import distill
        from gantransfer.data.dataset import ImageDataset

        r = self.recipe
        self.for_gans = harness.train_flags(r.common, "--common")
        self.for_students = harness.words_of(distill.teacher, r.student, "--student", STUDENT_OURS)
        self.whole = ImageDataset(self.data, use_labels=True)
        self.label = self.whole.spec.label
        self.parts = fold_parts(self.whole, self.kind, self.data)
        self.per_label({0: 1, 1: 1})
        self.study = harness.Study(self.folder, ["data", *(f"fold {k}" for k in self.chosen), "picture", "tables"],
                                   digits=False)
        self.study.step()
        for k in self.chosen:
            train, test = self.labels(k)
            train.parent.mkdir(exist_ok=True)
            for path, rows in ((train, self.parts != k), (test, self.parts == k)):
                save_chosen(path, self.whole, rows)
        with contextlib.redirect_stdout(io.StringIO()):
            distill.call(distill.teacher, *self.taught(self.chosen[0]).words, "--dry-run",
                         f"--outdir={self.folder / 'check'}")
        if r.common not in (harness.OWN, harness.TINY):
            real = [f"--data={self.data}", f"--fname={self.labels(self.chosen[0])[0]}"]
            self.study.run([jobs.Job(f"check of {g}", ["train", "--dry-run", *self.gan_words(g), *real])
                            for g in self.gans], quiet=True)
        settings = dict(data=self.whole.fingerprint(), folds=FOLDS, **asdict(r))
        self.study.is_of(**settings)
        self.results = Results(self.folder / "results", settings, unit="fold")

    def labels(self, fold: int) -> tuple[Path, Path]:
        """Label files of the training images and of the tested ones."""
        return self.folder / f"fold{fold}" / "train.json", self.folder / f"fold{fold}" / "test.json"

    def taught(self, fold: int) -> Students:
        train, test = self.labels(fold)
        return Students(self.study, train.parent, [f"--data={self.data}", f"--fname={train}"], fold, [
            f"--test={self.data}", f"--test-fname={test}", *(["--sampling=balanced"] if self.kind == "class" else [])],
            self.for_students)

    def gan_words(self, gan: str) -> list[str]:
        flags = self.gans[gan].flags_for(self.recipe.gan_kimg)
        common = [harness.in_kimg(word, self.recipe.gan_kimg) for word in self.for_gans]
        return [*common, *flags, *(["--cond=True"] if self.kind == "class" else [])]

    def flags(self, arm: str) -> list[str]:
        """What a figure of this arm depends on, beside the recipe."""
        a = self.students[arm]
        return [*a.flags, *([a.more[1], *self.gan_words(a.more[0])] if a.more else [])]

    def per_label(self, counts: Mapping[int, int]) -> int:
        """Fakes of each label: Recipe.fakes, for these images per label."""
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(x?)", self.recipe.fakes)
        if not match or not float(match[1]) or not match[2] and "." in match[1]:
            raise UserError(f"--fakes={self.recipe.fakes}: write a number, such as 400, or a multiple, such as 10x")
        if self.kind == "class":
            n = float(match[1]) * (min(counts.values()) if match[2] else 1)
        else:
            n = float(match[1]) * (sum(counts.values()) if match[2] else 1) / min(len(counts), LABELS)
        return max(round(n), 1)

    # ---- folds -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Fold after fold, so that a study stopped early has whole pairs."""
        from gantransfer.data.dataset import ImageDataset

        for k in self.chosen:
            self.study.step()
            train = ImageDataset(self.data, fname=str(self.labels(k)[0]), use_labels=True)
            of_train = dict(train=train.fingerprint())
            found = {a: self.results.read(a, k, self.flags(a), **of_train) for a in self.students}
            todo = [a for a, values in found.items() if values is None]
            print(f"{len(todo)} of {len(found)} students to teach", flush=True)
            if todo:
                found |= self.one(k, todo, train, of_train)
            self.found |= {(a, k): values for a, values in found.items()}

    def one(self, fold: int, todo: Sequence[str], train: Any, of_train: dict[str, Any]) -> dict[str, Any]:
        """Generators, teacher, fakes and students that are missing; a file for each student."""
        taught, files, fakes = self.taught(fold), {}, {}
        values, n = np.unique(train.class_ids if self.kind == "class" else train.labels(range(len(train)))[:, 0],
                              return_counts=True)
        count = self.per_label(dict(zip(values.tolist(), n.tolist())))
        more = [f"--num-labels={LABELS}"] if self.kind == "value" and len(values) > LABELS else []
        if any(self.students[a].more for a in todo):
            taught.train_teacher(f"--kimg={self.recipe.student_kimg:g}")
        for g in dict.fromkeys(self.students[a].more[0] for a in todo if self.students[a].more):
            snapshot = taught.gan(f"{g}/{fold}", self.recipe.gan_kimg, *self.gan_words(g), desc=jobs.run_desc(g, fold),
                                  cfg=())
            made = taught.make(snapshot, count, self.stages, *more, prefix=f"{g}-")
            files |= {(g, stage): path for stage, path in made.items()}
            fakes[g] = dict(per_label=count, gan_seconds=train_seconds(snapshot), teacher=result(taught.teacher))
        found = {}
        for i, a in enumerate(todo, 1):  # one by one: what is finished has its file
            arm = self.students[a]
            print(f"Training {i} of {len(todo)}: {arm.title}, fold {fold}", flush=True)
            last = taught.teach({a: arm}, files, self.recipe.student_kimg, self.recipe.share)[a]
            values = dict(self.tested(fold, taught.folder / a / "student.pkl", train.spec), images=len(train),
                          counts=list(train.spec.label.counts), images_seen=last["images_seen"],
                          seconds=last["seconds"], machine=platform.processor() or platform.machine(),
                          versions=versions())
            if arm.more:
                values["generated"] = dict(fakes[arm.more[0]], **provenance(files[arm.more]))
            found[a] = self.results.write(a, fold, self.flags(a), values, **of_train)
            if arm.more and fold == self.chosen[0]:
                self.results.save_images(a, fold, self.rows(files[arm.more]))
        return found

    def tested(self, fold: int, student: Path, spec: Any) -> dict[str, Any]:
        """Figures of a student on the images of its fold."""
        from gantransfer.methods import cgan_kd

        net = cgan_kd.load(str(student), spec, "--student")
        tests = cgan_kd.labelled(self.data, str(self.labels(fold)[1]), spec, "--data")
        rows = np.arange(len(tests))
        outputs = cgan_kd.predict(net, tests, rows)
        if self.kind == "class":
            seen = confusion(outputs.argmax(1), tests.class_ids, self.label.dim)
            return dict(confusion=seen.tolist(), figures=recalls(seen, self.label.shots))
        return dict(figures=errors(spec.label.raw(outputs.astype(np.float64))[:, 0], tests.labels(rows)[:, 0],
                                   self.bins()))

    # ---- what comes out --------------------------------------------------------------------------------------------

    def of(self, arm: str, key: str) -> list[float]:
        """A figure per fold."""
        return [self.found[arm, k]["figures"][key] for k in self.chosen]

    def tested_note(self) -> str:
        """What was tested on what."""
        n, tested = len(self.chosen), sum(len(json_file.read(self.labels(k)[1])["labels"]) for k in self.chosen)
        what = f" of {self.label.dim} classes" if self.kind == "class" else ""
        return (f"{len(self.whole)} images{what}, {n} of {FOLDS} folds: {tested} images are tested, once each, by "
                "networks that never saw them; every fold has its own seed, generators, teacher and students"
                + "; mean +- sample standard deviation over folds" * (n > 1) + ".")

    def differences(self, columns: Sequence[str], pairs: Sequence[tuple[str, str]]) -> list[str]:
        """Markdown: a row per pair (a, b), b minus a, paired over folds."""
        n, title = len(self.chosen), {a: arm.title for a, arm in self.students.items()}
        if n == 1:
            return ["", f"One fold does not rank anything; --folds={FOLDS} tests every image once."]
        return ["", f"Paired differences over folds, mean +- standard error; bold beyond {critical_t(n):.2f} standard "
                    "errors (t, 5 %); tests are not corrected for their number.", "",
                *harness.difference_table("", columns, {f"{title[b]} minus {title[a]}": (a, b) for a, b in pairs},
                                          lambda a, c: [self.of(a, c)], harness.student_name)]

    def finish(self, text: str, primary: str, picture: Path, out: Path | None) -> None:
        """Table, values, where they are."""
        command = dict(folds=len(self.chosen), gans=list(self.gans), **asdict(self.recipe))
        self.study.finish(text, dict(
            command=command, primary=primary, versions=versions(), classes=list(map(str, self.label.names)),
            groups=self.label.shots, machine=platform.processor() or platform.machine(),
            values=[dict(self.found[a, k]) for k in self.chosen for a in self.students]),
            ("table.md", "table.json"), picture, out)

    def bins(self) -> np.ndarray:
        """Values that stand for parts of a continuous label: all there are, or evenly spaced ones."""
        values = np.unique(self.whole.labels(range(len(self.whole)))[:, 0])
        return values if len(values) <= BINS else np.linspace(values[0], values[-1], BINS)

    def shown(self) -> list[int]:
        """Classes of the picture, the most frequent first."""
        order = sorted(range(self.label.dim), key=lambda k: -self.label.counts[k])
        return [order[i] for i in np.unique(np.linspace(0, len(order) - 1, min(len(order), ROWS)).astype(int))]

    def rows(self, path: str | Path, fname: Path | None = None) -> list[np.ndarray]:
        """Images of a set for the picture: per class, or of the values around each of `bins`; white where are none."""
        from gantransfer.data.dataset import ImageDataset

        data = ImageDataset(path, fname=fname and str(fname), use_labels=True,
                            **(dict(label_dim=self.label.dim) if self.kind == "class" else {}))
        white = np.full((COLUMNS, *self.whole.image_shape), 255, np.uint8)
        if self.kind == "class":
            members = [np.flatnonzero(data.class_ids == k) for k in self.shown()]
        else:
            y, bins = data.labels(range(len(data)))[:, 0], self.bins()
            near = np.abs(y[:, None] - bins)
            members = [(m := np.flatnonzero(near.argmin(1) == k))[np.argsort(near[m, k], kind="stable")]
                       for k in range(len(bins))]
        return [data.images_uint8(np.resize(m, COLUMNS)) if len(m) else white for m in members]

    def draw(self, path: Path) -> None:
        """A row per class or value: images of the first fold that were tested | the fakes of each arm."""
        self.study.step()
        first, blocks = self.chosen[0], {}
        blocks["tested images"] = self.rows(self.data, self.labels(first)[1])
        for a, arm in self.students.items():
            rows = len(blocks["tested images"])
            if arm.more and (images := self.results.shown(a, first, arm.title, rows, lambda: None)) is not None:
                blocks[arm.title] = images
        unit = self.label.meta.get("unit", "") if self.label.meta else ""
        titles = list(map(self.label.counted, self.shown())) if self.kind == "class" else [
            f"{v:.3g} {unit}".strip() for v in self.bins()]
        sheets.save_sheet(path, blocks, titles, per_band=3, title=f"{self.whole.spec.name}, fold {first}")


# ---- folds -----------------------------------------------------------------------------------------------------------


def fold_parts(data: Any, kind: str, name: str) -> np.ndarray:
    """The fold of each image: evenly over the images of each class, or over those of like values.

    UserError for labels of another kind, or for a class with fewer images than folds.
    """
    label = data.spec.label
    if label.kind != kind or label.dim < (2 if kind == "class" else 1):
        wanted = "classes, two at least" if kind == "class" else "a continuous label"
        has = {"none": "no labels", "class": f"{label.dim} class{'es' * (label.dim != 1)}",
               "value": "continuous labels"}[label.kind]
        raise UserError(f"--data={name} has {has}; this study needs {wanted}")
    if kind == "class":
        for k, n in enumerate(label.counts):
            if n < FOLDS:
                raise UserError(f"--data={name} has {n} image{'s' * (n != 1)} of class "
                                f"{label.name(k)}, fewer than the {FOLDS} folds: add "
                                "images, or choose classes with dataset_tool.py --classes")
        return parts_by_class(data.class_ids, FOLDS)
    y = data.labels(range(len(data)))[:, 0]
    if label.dim != 1 or len(y) < 2 * FOLDS or len(np.unique(y)) < 2:
        raise UserError(f"--data={name}: {len(y)} images with {len(np.unique(y))} different labels of {label.dim} "
                        f"numbers; this study needs one number per image, {2 * FOLDS} images and two labels at least")
    return parts_by_value(y, FOLDS)


def parts_by_class(ids: np.ndarray, folds: int) -> np.ndarray:
    """int [n]: each class is dealt out at random, its sizes differing by one at most."""
    parts, rng = np.zeros(len(ids), int), np.random.RandomState(0)
    for k in range(int(ids.max()) + 1):
        members = rng.permutation(np.flatnonzero(ids == k))
        parts[members] = np.arange(len(members)) % folds
    return parts


def parts_by_value(y: np.ndarray, folds: int) -> np.ndarray:
    """int [n]: of every `folds` images that follow one another by value, one in each part."""
    rng = np.random.RandomState(0)
    order = np.lexsort((rng.permutation(len(y)), y))  # equal values in random order
    parts = np.zeros(len(y), int)
    for start in range(0, len(y), folds):
        block = order[start : start + folds]
        parts[block] = rng.permutation(folds)[: len(block)]
    return parts


def save_chosen(path: Path, data: Any, keep: np.ndarray) -> None:
    """A label file of the images for which `keep` is true."""
    ids = data.class_ids
    save_labels(path, ((data.get_details(int(i)).name, [float(v) for v in data.get_label(int(i))] if ids is None else
                        int(ids[i])) for i in np.flatnonzero(keep)))


# ---- figures ---------------------------------------------------------------------------------------------------------


def confusion(predicted: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """int [classes, classes]: images of class (row) that are called class (column)."""
    return np.bincount(truth * classes + predicted, minlength=classes**2).reshape(classes, classes)


def recalls(seen: np.ndarray, groups: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Macro recall, that of each group of classes, accuracy, and the recall of each class."""
    each = np.diag(seen) / seen.sum(1)
    return dict(macro_recall=float(each.mean()), accuracy=float(np.trace(seen) / seen.sum()),
                **{f"recall_{g}": float(each[list(ids)].mean()) for g, ids in groups.items() if len(ids)},
                recall=[float(v) for v in each])


def errors(predicted: np.ndarray, truth: np.ndarray, bins: np.ndarray) -> dict[str, float]:
    """Mean absolute error, its mean over the parts of the label (each image belongs to the nearest of `bins`), and the
    root mean square."""
    error = np.abs(predicted - truth)
    part = np.abs(truth[:, None] - bins).argmin(1)
    return dict(mae=float(error.mean()), macro_mae=float(np.mean([error[part == k].mean() for k in np.unique(part)])),
                rmse=float(np.sqrt(np.square(error).mean())))


def provenance(path: Path) -> dict[str, Any]:
    """What a zip of fakes says of itself: images per class, and how far the teacher agrees with their labels."""
    from gantransfer.distillation import fakes

    p = fakes.read(str(path)).provenance
    return dict(images=p["counts"]["after_filter"], agreement=p["agreement"], class_counts=p.get("class_counts"))
