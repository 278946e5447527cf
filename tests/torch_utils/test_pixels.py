# SPDX-License-Identifier: Apache-2.0
"""Bytes and the numbers that networks see."""

import torch

from torch_utils.pixels import from_uint8, to_uint8


def test_every_byte_survives_the_way_there_and_back():
    x = torch.arange(256, dtype=torch.uint8)
    y = from_uint8(x)
    assert y.dtype == torch.float32 and y[0] == -1 and y[255] == 1
    assert torch.equal(to_uint8(y), x)


def test_the_input_stays_as_it_is():
    x = torch.full((4,), 255.0)
    assert torch.equal(from_uint8(x), torch.ones(4)) and (x == 255).all()
