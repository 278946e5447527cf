# SPDX-License-Identifier: Apache-2.0
"""One meaning of every text that names classes."""

import pytest

from dnnlib.util import UserError
from gantransfer.data import classes
from gantransfer.data.labels import LabelSpec, trained_classes

TREES = LabelSpec("class", 5, counts=(10, 4, 0, 2, 1), names=("ash", "beech", "4", "20-29", "oak, red"),
                  shots={"many": (0,), "few": (3, 4)})


def read(text, label=TREES, **kw):
    said = []
    return classes.parse_classes(text, label, say=said.append, **kw), said


def test_one_meaning_of_classes():
    for text, right in {"3": [3], "1-3": [1, 2, 3], "ash": [0], "beech,0": [1, 0], "many,few": [0, 3, 4],
                        "1,1-2": [1, 2],
                        "oak, red": [4], "ash,oak, red,1": [0, 4, 1], "name:4": [2], "id:4": [4], "0 - 1": [0, 1],
                        "name:oak, red": [4]}.items():
        assert read(text) == (right, [])


def test_a_number_that_is_also_a_name_is_said():
    found, [line] = read("4")
    assert found == [4] and "number 4 (oak, red)" in line and "called 4 is number 2" in line and "name:4" in line
    found, [line] = read("20-29")
    assert found == [3] and "no such id" in line
    numeric = LabelSpec("class", 3, names=("0", "1", "2"))
    assert read("2", numeric) == ([2], []) and read("0-2", numeric) == ([0, 1, 2], [])


@pytest.mark.parametrize("text", ["5", "0-5", "oak", "", "1,,2", "3-1", "-1", "name:elm", "id:ash", "id:9", "1" * 30,
                                  "nan", "0-99999999999", "\x1b[31m"])
def test_what_is_no_class_is_one_line(text):
    with pytest.raises(UserError, match="^--class=") as e:
        read(text)
    assert "the model knows 0 to 4 (ash, beech" in str(e.value) and str(e.value).isprintable()


def test_classes_of_a_model_without_any():
    for kind in ("none", "value"):
        with pytest.raises(UserError, match="has no classes"):
            read("0", LabelSpec(kind, 0 if kind == "none" else 2))


def test_classes_without_images_are_left_out_or_said(capsys):
    assert trained_classes(TREES) == [0, 1, 3, 4]
    assert trained_classes(LabelSpec("class", 3)) == [0, 1, 2]  # imported: not known
    assert classes.asked_classes("1-3", TREES) == [1, 2, 3]
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "class 2 had no training image" in err
    classes.asked_classes("0", TREES)
    assert not capsys.readouterr().err
