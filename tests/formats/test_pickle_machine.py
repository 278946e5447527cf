# SPDX-License-Identifier: Apache-2.0
"""Shapes and the memory that they claim. What is made of pickles: test_inert_pickle.py."""

import pytest

from gantransfer.formats import pickle_machine
from gantransfer.formats.pickle_machine import Refused


@pytest.mark.parametrize("shape,size", [((2**31,), 2**40), ((3, 2**21, 0), 8), ((5,), 4), ((-1,), 4), ((1.0,), 4),
                                        ((True,), 4), ((1,) * 65, 4)])
def test_impossible_shapes(shape, size):
    with pytest.raises(Refused):
        pickle_machine.elements(shape, 1, size)


def test_possible_shapes():
    assert pickle_machine.elements((), 4, 4) == 1 and pickle_machine.elements((0, 512, 3, 3), 4, 0) == 0
    assert pickle_machine.elements((2, 3), 4, 24) == 6
