# SPDX-License-Identifier: Apache-2.0
"""What classes are called."""

from gantransfer.data.labels import LabelSpec


def test_a_class_is_called_by_its_name_and_what_is_known_of_its_images():
    label = LabelSpec("class", 3, counts=(12, 0, 4), names=("oak", "ash"))
    assert [label.name(k) for k in range(3)] == ["oak", "ash", "2"]
    assert [label.counted(k) for k in range(3)] == ["oak (12)", "ash (0)", "2 (4)"]
    assert LabelSpec("class", 2).counted(1) == "1"
