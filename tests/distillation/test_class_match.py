# SPDX-License-Identifier: Apache-2.0
"""A model asked for classes in the data's numbering makes the images of the same classes in its own."""

import pytest
import torch

from dnnlib.util import UserError
from gantransfer.data.dataset import DataSpec, LabelSpec
from gantransfer.distillation.class_match import translated
from gantransfer.networks.stylegan2 import Generator
from gantransfer.sampler import Sampler, one_hot

THEIRS = LabelSpec("class", 3, (5, 6, 7), ("ant", "bee", "cat"))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    G = Generator(8, 3, 8, 16, 1, synthesis_kwargs=dict(channel_base=64, channel_max=8)).eval()
    G.mapping.w_avg.normal_()
    return Sampler(G, 8, DataSpec("x", 16, 1, 18, THEIRS), label_dim=3, network=G)


@pytest.mark.parametrize("kw", [{}, dict(truncation_psi=0.5), dict(truncation_psi=0.0, truncation_center="class")])
def test_labels_are_those_of_the_data(model, kw):
    ours = translated(model, LabelSpec("class", 2, (4, 4), ("cat", "ant")), "x")
    assert ours.spec.label.counts == (7, 5) and ours.label_dim == 2 and ours.network is None
    seeds = [3, 4, 5]
    got = ours(seeds, one_hot([0, 1, 0], 2), noise_mode="const", **kw)
    assert torch.equal(got, model(seeds, one_hot([2, 0, 2], 3), noise_mode="const", **kw))
    assert not torch.equal(got, model(seeds, one_hot([0, 1, 0], 3), noise_mode="const", **kw))
    with pytest.raises(ValueError, match="labels"):
        ours([3], one_hot([2], 3))


def test_what_agrees_stays_as_it_is_and_what_is_unknown_is_said(model):
    assert translated(model, THEIRS, "x") is model
    with pytest.raises(UserError, match="x does not know 1 of the data's classes .dog."):
        translated(model, LabelSpec("class", 2, (4, 4), ("cat", "dog")), "x")
