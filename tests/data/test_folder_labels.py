# SPDX-License-Identifier: Apache-2.0
"""Which folders are classes."""

import pytest

from gantransfer.data import folder_labels


@pytest.mark.parametrize("names, expected", [
    (["cat/1.png", "dog/1.png"], {"cat/1.png": "cat", "dog/1.png": "dog"}),
    (["train/cat/1.png", "train/dog/1.png"], {"train/cat/1.png": "cat", "train/dog/1.png": "dog"}),
    (["cat/a/1.png", "cat/b/2.png", "dog/3.png"], {"cat/a/1.png": "cat", "cat/b/2.png": "cat", "dog/3.png": "dog"}),
    (["1.png", "cat/1.png"], {"cat/1.png": "cat"}),
    (["1.png", "2.png"], {}),
    (["x/cat/1.png", "x/cat/2.png"], {"x/cat/1.png": "cat", "x/cat/2.png": "cat"}),
])
def test_what_a_class_folder_is(names, expected):
    assert folder_labels._read(names, "")[0] == expected
