# SPDX-License-Identifier: Apache-2.0
"""The tables of studies that teach small networks with generated images: figures of students, what their fakes are,
paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gantransfer.experiments import harness, own_images
from gantransfer.experiments.folds import FOLDS, Folds
from gantransfer.experiments.harness import Arm
from gantransfer.metrics.names import GROUPS
from gantransfer.metrics.paired import critical_t, difference, spread, table

FAKES = {"the teacher": ("teacher_drawn", "teacher_filtered", "teacher_final"),
         "an independent judge": ("judge_raw", "judge_filtered", "judge_processed")}


@dataclass(frozen=True)
class Design:
    """What a study on digits compares and how its fakes are made."""

    arms: Mapping[str, Arm]
    tested: Sequence[tuple[str, str]]  # pairs (a, b) of arms; the table has b minus a
    primary: tuple[str, ...]  # ending with (a, b, column)
    per_label: int  # fakes
    rho: float  # share that the filter keeps
    share: float  # of what a student with fakes sees
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)  # of each setting
    settings: Mapping[str, str] = field(default_factory=dict)  # their titles

    def pairs(self) -> dict[str, tuple[str, str]]:
        return {f"{self.arms[b].title} minus {self.arms[a].title}": (a, b) for a, b in self.tested}


# ---- digits ----------------------------------------------------------------------------------------------------------


def of_classes(d: Design, results: dict[str, list[dict]], gan_kimg: float, student_kimg: float) -> str:
    """Markdown: students per setting, paired differences, label agreement per stage."""
    n = len(next(iter(results.values())))
    setting, a, b, column = d.primary
    lines = [f"Real digits, {n} of {FOLDS} folds, each with its own seed, GAN, teacher and students; every student "
             f"sees {student_kimg:g} thousand images; half of them generated where there are fakes; GANs of "
             f"{gan_kimg:g} kimg; {d.per_label} fakes per class, rho {d.rho}. Mean +- sample standard deviation over "
             f"folds. Primary, fixed before the runs: {column}, {d.settings[setting]}, {d.arms[b].title} minus "
             f"{d.arms[a].title}."]
    for setting, folds in results.items():
        columns = [c for c in d.columns[setting] if all(c in f["students"]["nokd"] for f in folds)]
        rows = {"teacher": [f["teacher"] for f in folds],
                **{arm.title: [f["students"][a] for f in folds] for a, arm in d.arms.items()}}
        lines += ["", f"{d.settings[setting]} ({spread([sum(f['train_counts']) for f in folds])} training images, "
                      f"{sum(f['tested'] for f in folds)} tested once):", ""]
        lines += table(["", *map(harness.student_name, columns)],
                       [[name, *(spread([v[c] for v in values]) for c in columns)] for name, values in rows.items()])
        if n > 1:
            lines += ["", f"Paired differences, mean +- standard error; bold beyond {critical_t(n):.2f} standard "
                          "errors (t, 5 %); tests are not corrected for their number.", ""]
            lines += harness.difference_table("", columns, d.pairs(), lambda a, c, folds=folds: [
                [f["students"][a][c] for f in folds]], harness.student_name)
        lines += ["", *table(["label of a fake is the choice of", "drawn", "filtered", "relabelled"], [
            [who, *(spread([f["fakes"][k] for f in folds]) for k in keys)] for who, keys in FAKES.items()])]
    return "\n".join(lines)


def of_angles(d: Design, results: list[dict], images: int, gan_kimg: float, student_kimg: float) -> str:
    """Markdown: error of the angle by student, label error of the fakes by stage, paired differences."""
    n, (a, b, column) = len(results), d.primary
    errors = {a: [r["students"][a][column] for r in results] for a in d.arms}
    lines = [f"{images} training images, {n} seed{'s' * (n > 1)}, every student sees {student_kimg:g} thousand images, "
             f"with fakes half of them generated; {gan_kimg:g} kimg of GAN, rho {d.rho:g}. Mean +- sample standard "
             f"deviation over seeds. Primary, fixed before the runs: {b} minus {a}.", ""]
    lines += table(["student trained on", "mean absolute error on held-out digits, degrees"],
                   [*([arm.title, spread(errors[a])] for a, arm in d.arms.items()),
                    ["(the teacher, real only)", spread([r["teacher"][column] for r in results])]])
    lines += ["", *table(["images", "label error by an independent judge, degrees"],
                         [[k, spread([r["label_score"][k] for r in results])] for k in results[0]["label_score"]])]
    if n == 1:
        return "\n".join([*lines, "", "One seed does not rank anything; --seeds=5 repeats it with others."])
    lines += ["", f"Paired differences of the error, mean +- standard error (seeds in which it is lower). Bold: "
                  f"beyond {critical_t(n):.2f} standard errors (t, 5 %).", ""]
    lines += table(["", ""], [[title, difference([errors[a]], [errors[b]]).cells()[0]]
                              for title, (a, b) in d.pairs().items()])
    return "\n".join(lines)


# ---- the user's own images -------------------------------------------------------------------------------------------


def fakes_of(study: Folds) -> dict[str, list[dict[str, Any]]]:
    """Arm -> what is known of its fakes, per fold."""
    return {a: [study.found[a, k]["generated"] for k in study.chosen] for a, arm in study.students.items() if arm.more}


def student_rows(study: Folds, columns: Sequence[str]) -> list[list[str]]:
    """A row per arm: figures, and the seconds of its training."""
    return [[arm.title, *(spread(study.of(a, c)) for c in columns),
             spread([study.found[a, k]["seconds"] for k in study.chosen])] for a, arm in study.students.items()]


def teacher_row(taught: Sequence[dict], columns: Sequence[str | None]) -> list[str]:
    """The teachers' own figures; None: not measured of them."""
    return [f"(the teacher, {taught[0]['images_seen'] / 1000:.0f} thousand images)",
            *("-" if c is None else spread([t[c] for t in taught]) for c in [*columns, "seconds"])]


def of_own_classes(study: Folds, primary: str) -> str:
    """Markdown: macro recall, groups, classes, paired differences over folds, and what the fakes are."""
    r, label = study.recipe, study.label
    arms, counts = study.students, study.found[next(iter(study.students)), study.chosen[0]]["counts"]
    groups = [f"recall_{g}" for g in GROUPS if label.shots.get(g)]
    columns, fakes = [primary, "accuracy", *groups], fakes_of(study)
    lines = [f"{study.tested_note()} Every student ({r.student}) sees {r.student_kimg:g} thousand images; "
             f"'{arms['real'].title}' draws them as they are, all others draw classes evenly."]
    if fakes:
        each = sorted({f["per_label"] for f in next(iter(fakes.values()))})
        count = f"{each[0]}" + f" to {each[-1]}" * (len(each) > 1)
        lines[0] += (f" {r.share:.0%} of what a student with fakes sees is generated: {count} fakes of each "
                     f"class (--fakes={r.fakes}), {each[0] / min(counts):.3g} times the images of the rarest class "
                     f"({min(counts)} in fold {study.chosen[0]}) and {each[0] / max(counts):.2g} times those of the "
                     f"most frequent ({max(counts)}); raw, or (cGAN-KD) the {r.rho:.0%} of each class that the "
                     f"teacher is surest of, with its labels. GANs: {r.common}, {r.gan_kimg:g} kimg.")
    lines[0] += (f" Primary column, fixed before the runs: {harness.student_name(primary)}, each arm minus "
                 f"'{arms['oversampling'].title}'.")
    if label.shots:
        lines.append(f"Classes by images: {own_images.groups_note(label)}.")
    rows = student_rows(study, columns)
    if fakes:
        rows.append(teacher_row([f["teacher"] for f in next(iter(fakes.values()))],
                                ["accuracy_mean", "accuracy", *[None] * len(groups)]))
    lines += ["", *table(["", *(harness.student_name(c, primary) for c in columns), "seconds"], rows)]
    recall = {a: np.array([study.found[a, k]["figures"]["recall"] for k in study.chosen]).mean(0) for a in arms}
    order = sorted(range(label.dim), key=lambda k: -label.counts[k])
    lines += ["", "Recall of each class, mean over folds:", "", *table(
        ["class (images)", *(arm.title for arm in arms.values())],
        [[f"{label.name(k)} ({label.counts[k]})", *(f"{recall[a][k]:.2f}" for a in arms)] for k in order])]
    lines += study.differences(columns, [("oversampling", a) for a in arms if a != "oversampling"] + [
        (f"{g}-raw", f"{g}-cgankd") for g in study.gans])
    if fakes:
        keys = ("drawn", "filtered", "final")
        lines += ["", *table(["label of a fake is the choice of the teacher", *keys, "images", "least of a class",
                              "GAN seconds"], [
            [arms[a].title, *(spread([f["agreement"][k] for f in fs]) for k in keys),
             *(f"{np.mean(n):.0f}" for n in ([f["images"] for f in fs], [min(f["class_counts"]) for f in fs])),
             spread([f["gan_seconds"] for f in fs])] for a, fs in fakes.items()])]
    return "\n".join(lines)


def of_own_values(study: Folds, d: Design, columns: Sequence[str], code_kimg: float) -> str:
    """Markdown: errors by student, paired differences over folds, how far the fakes are from their labels."""
    r, arms, fakes = study.recipe, study.students, fakes_of(study)
    unit, (a, b, primary) = study.label.meta.get("unit"), d.primary
    total, images = fakes["raw"][0]["images"], study.found["real", study.chosen[0]]["images"]
    lines = [f"{study.tested_note()} Every student ({r.student}) sees {r.student_kimg:g} thousand images; with fakes "
             f"{r.share:.0%} of them are generated: {total} in all (--fakes={r.fakes}), {total / images:.2g} times the "
             f"{images} training images, labels evenly over those of the data. Filtered: the {r.rho:.0%} that are "
             f"nearest to what the teacher sees. GAN: {r.common}, {r.gan_kimg - code_kimg:g} kimg after its label code."
             f"{' Errors are in units of the label' + f' ({unit})' * bool(unit)}. Primary column, fixed before the "
             f"runs: {harness.student_name(primary)}, {arms[b].title} minus {arms[a].title}.", ""]
    rows = [*student_rows(study, columns), teacher_row([f["teacher"] for f in fakes["raw"]], ["mae", None, "rmse"])]
    lines += table(["student trained on", *(harness.student_name(c, primary) for c in columns), "seconds"], rows)
    lines += study.differences(columns, d.tested)
    lines += ["", *table(["mean distance of a fake's label to what the teacher sees", "images", "distance"], [
        [arms[a].title, f"{np.mean([f['images'] for f in fs]):.0f}", spread([f["agreement"]["final"] for f in fs])]
        for a, fs in fakes.items()])]
    return "\n".join(lines)
