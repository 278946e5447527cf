# SPDX-License-Identifier: Apache-2.0
"""Which samples are drawn, with which labels, beside which reals."""

import dataclasses

import numpy as np
import pytest

from dnnlib.util import UserError
from gantransfer.data.dataset import ImageDataset
from tests.metrics.conftest import NoisyMeans


def test_mirroring_follows_the_training_set(make_context, tiny_zip, reference):
    assert make_context(training=ImageDataset(tiny_zip, use_labels=True, xflip=True)).mirrored
    assert not make_context(training=reference).mirrored
    assert not make_context(training=ImageDataset(tiny_zip, use_labels=True, xflip=True), mirror=False).mirrored


def test_label_policies(make_context, reference):
    label = dataclasses.replace(reference.spec.label, counts=(97, 1, 1, 1))
    sampler = NoisyMeans(reference)
    sampler.spec = dataclasses.replace(sampler.spec, label=label)
    counts = {p: np.bincount(make_context(sampler=sampler, labels=p).plan(2000).ids, minlength=4)
              for p in ("reference", "uniform", "training")}
    assert abs(counts["reference"] - 500).max() < 90 and abs(counts["uniform"] - 500).max() < 90
    assert counts["training"][0] > 1850
    with pytest.raises(UserError, match="--labels=most"):
        make_context(labels="most")


def test_samples_do_not_depend_on_how_many_are_drawn(make_context):
    long, short = make_context().plan(100), make_context().plan(10)
    assert np.array_equal(long.seeds[:10], short.seeds) and np.array_equal(long.ids[:10], short.ids)
