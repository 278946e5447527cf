# SPDX-License-Identifier: Apache-2.0
"""What the tables of students say of planted figures: which are shown, how many fakes there are, what is subtracted
from what."""

import pytest

from gantransfer.data.labels import LabelSpec
from gantransfer.experiments import ccgan, distill, student_tables
from gantransfer.experiments.folds import Folds, Recipe
from gantransfer.experiments.harness import Arm

TEACHER = dict(images_seen=9000, seconds=3.0, accuracy=0.5, accuracy_mean=0.25, mae=0.5, rmse=0.75)


def study(kind, gans, students, label, figures, generated):
    """Folds with what would have been measured: `figures` of an arm and a fold."""
    made = Folds(None, "d.zip", kind, gans, students, {}, Recipe(40, 60, "--cfg=small", "--preset=small", "5x", 0.9,
                                                                 0.5), range(2))
    made.label, made.tested_note = label, lambda: "Noted."
    for (a, arm) in students.items():
        for k in made.chosen:
            made.found[a, k] = dict(counts=[20, 4], images=24, seconds=1.0, figures=figures(a, k), **(
                dict(generated=generated) if arm.more else {}))
    return made


def test_own_classes():
    arms = distill.OWN_STUDENTS | {f"tail-{stage}": Arm(f"Tail: {stage}", more=("tail", stage))
                                   for stage in ("raw", "cgankd")}
    level = dict(zip(arms, (0.1, 0.2, 0.4, 0.7)))
    text = student_tables.of_own_classes(study(
        "class", {"tail": Arm("Tail")}, arms, LabelSpec("class", 2, (20, 4), ("round", "square")),
        lambda a, k: dict(macro_recall=level[a], accuracy=level[a], recall=[level[a], 0.0]),
        dict(per_label=20, teacher=TEACHER, agreement=dict(drawn=0.25, filtered=0.5, final=1.0), images=30,
             class_counts=[18, 12], gan_seconds=7.0)), "macro_recall")
    assert ("20 fakes of each class (--fakes=5x), 5 times the images of the rarest class (4 in fold 0) and 1 times"
            in text)
    rows = {row[0]: row[1:] for row in ([c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()
                                        if line.startswith("|"))}
    assert rows["(the teacher, 9 thousand images)"] == ["0.25 +- 0", "0.5 +- 0", "3 +- 0"]
    assert rows["round (20)"] == ["0.10", "0.20", "0.40", "0.70"] and rows["square (4)"] == ["0.00"] * 4
    assert rows["Tail: raw minus real + oversampling"][0].startswith("+0.2 ")
    assert rows["real only minus real + oversampling"][0].startswith("-0.1 ")
    assert rows["Tail: cgankd minus Tail: raw"][0].startswith("+0.3 ")
    assert text.splitlines()[-1] == "| Tail: cgankd | 0.25 +- 0 | 0.5 +- 0 | 1 +- 0 | 30 | 12 | 7 +- 0 |"


def test_own_values():
    level = dict(zip(ccgan.OWN_ARMS, (4.0, 3.0, 2.5, 1.0)))
    text = student_tables.of_own_values(study(
        "value", {"ccgan": Arm("CcGAN")}, ccgan.OWN_ARMS, LabelSpec("value", 1, meta=dict(unit="mm")),
        lambda a, k: dict(mae=level[a], macro_mae=2 * level[a], rmse=3 * level[a]),
        dict(per_label=2, teacher=TEACHER, agreement=dict(final=0.5), images=48, class_counts=None, gan_seconds=7.0)),
        ccgan.DESIGN, ccgan.OWN_COLUMNS, 32)
    assert "48 in all (--fakes=5x), 2 times the 24 training images" in text and "(mm)" in text
    assert "GAN: --cfg=small, 8 kimg after its label code" in text
    assert "| (the teacher, 9 thousand images) | 0.5 +- 0 | - | 0.75 +- 0 | 3 +- 0 |" in text
    assert "| + filtered, relabelled (cGAN-KD) minus real only | -3 " in text


@pytest.mark.parametrize("all_folds", [True, False])
def test_a_figure_that_a_fold_lacks_is_no_column(all_folds):
    """The digits' setting asks for figures of groups, which a fold without rare classes has not."""
    def fold(**more):
        values = dict(accuracy=0.5, **more)
        return dict(students=dict.fromkeys(distill.DESIGN.arms, values), teacher=values | more, train_counts=[9],
                    tested=1, fakes={k: 1.0 for keys in student_tables.FAKES.values() for k in keys})

    folds = [fold(accuracy_few=0.25), fold(accuracy_few=0.25) if all_folds else fold()]
    text = student_tables.of_classes(distill.DESIGN, dict(longtail=folds), 12, 40)
    assert ("accuracy, rare classes" in text) == all_folds and "| teacher | 0.5 +- 0 |" in text
