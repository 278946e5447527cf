# SPDX-License-Identifier: Apache-2.0
"""The same latents and labels from snapshot to snapshot."""

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from gantransfer.data.labels import DataSpec, LabelSpec
from gantransfer.pictures import grids, timelapse
from gantransfer.sampler import Sampler


def sampler(level, label, size=8):
    """Images of one grey: `level` and ten times the class, so that a place tells what was asked for."""
    def synthesise(z, c, rng, **kw):
        k = c.argmax(1) if c.shape[1] else torch.zeros(len(z))
        return ((level + 10 * k.float() - 128) / 127.5)[:, None, None, None].expand(-1, 1, size, size)

    return Sampler(synthesise, 4, DataSpec("x", size, 1, 9, label=label))


def test_a_row_per_class_from_frequent_to_rare():
    label = LabelSpec("class", 3, (2, 9, 0), ("a", "b", "c"))
    frames = timelapse.film([("t0", sampler(50, label)), ("t1", sampler(100, label))], seeds=[5, 6])
    assert frames.shape[0] == 2 and frames.dtype == np.uint8
    right = -grids.PAD - 4  # a place inside the last column
    for frame, level in zip(frames, (50, 100)):
        second = frame.shape[0] - grids.PAD - 32
        assert abs(int(frame[second - 64 - grids.GAP, right, 0]) - (level + 10)) <= 1, "class b has most images"
        assert abs(int(frame[second, right, 0]) - level) <= 1
    assert frames.shape[1] < 3 * 64, "a class without images has no row"


def test_titles_of_any_length_leave_the_frames_alike():
    long = "a run with a long name " * 9
    frames = timelapse.film([("t", sampler(9, LabelSpec())), (long, sampler(9, LabelSpec()))], seeds=range(4))
    assert len(frames) == 2 and (frames[0] != frames[1]).any()


def test_unconditional_continuous_and_none():
    assert timelapse.film([("t", sampler(9, LabelSpec()))], seeds=range(4)).shape[0] == 1
    values = LabelSpec("value", 1, meta=dict(min=0.0, max=1.0, offset=0.0, scale=1.0, unit=""))
    assert len(timelapse.plan_of(sampler(9, values), [0, 1]).seeds) == 20
    with pytest.raises(UserError, match="labels of several numbers"):
        timelapse.film([("t", sampler(9, LabelSpec("value", 3)))], seeds=[0])
    with pytest.raises(UserError, match="no snapshot"):
        timelapse.film([], seeds=[0])
    with pytest.raises(UserError, match="different sizes"):
        timelapse.film([("t", sampler(9, LabelSpec())), ("t", sampler(9, LabelSpec(), 12))], seeds=[0])
