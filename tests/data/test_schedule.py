# SPDX-License-Identifier: Apache-2.0
"""Shares of a span, and how a span is written."""

import numpy as np
import pytest

from dnnlib.util import UserError
from gantransfer.data.schedule import Span


@pytest.mark.parametrize("kimg, share", [(0, 0), (2, 0), (2.5, 0.25), (3, 0.5), (4, 1), (9, 1)])
def test_share(kimg, share):
    assert Span(2, 4).share(kimg * 1000) == share


def test_share_of_many_is_the_share_of_each():
    n = np.arange(0, 6000, 7)
    got = Span(1.3, 4.1).share(n)
    assert got.dtype == np.float64 and got.tolist() == [Span(1.3, 4.1).share(int(k)) for k in n]


def test_an_empty_span_is_a_step():
    assert Span(2, 2).share(np.array([1999, 2000])).tolist() == [0, 1]
    assert Span(0, 0).share(0) == 1


@pytest.mark.parametrize("text", ["2-4", "2.0-4", " 2 - 4"])
def test_parse(text):
    assert Span.parse(text, "--x") == Span(2.0, 4.0)


@pytest.mark.parametrize("text", ["", "2", "2-", "a-b", "1-2-3", "nan-2", "1-inf", "-1-2", "4-2"])
def test_what_is_no_span(text):
    with pytest.raises(UserError, match="--x="):
        Span.parse(text, "--x")
