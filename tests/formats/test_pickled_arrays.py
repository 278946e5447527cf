# SPDX-License-Identifier: Apache-2.0
"""Arrays in pickles of every protocol."""

import pickle

import numpy as np
import pytest

from gantransfer.formats import pickled_arrays
from gantransfer.formats.pickle_machine import Refused
from tests.formats.test_inert_pickle import PLAIN


@pytest.mark.parametrize("value", [v for v in PLAIN if not isinstance(v, bytes | set | frozenset)],
                         ids=lambda v: repr(v)[:20])
@pytest.mark.parametrize("protocol", [0, 1])
def test_old_protocols_where_they_are_asked_for(value, protocol):
    if "set" in repr(value):
        return  # protocols 0 and 1 build sets through functions, which a file of arrays has no use for
    data = pickle.dumps(value, protocol)
    assert pickled_arrays.load(data, old=True) == value
    with pytest.raises(Refused, match="protocol 2 to 5"):
        pickled_arrays.load(data)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays(protocol, order):
    for dtype in ("f4", "f8", "i8", "u1", ">f4", "?"):
        a = np.asarray(np.arange(6).reshape(2, 3), dtype, order)
        made = pickled_arrays.load(pickle.dumps({"a": a, "n": np.float64(2.5)}, protocol))
        assert np.array_equal(made["a"], a) and made["a"].dtype == a.dtype and made["n"] == 2.5
