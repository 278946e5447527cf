# SPDX-License-Identifier: Apache-2.0
"""Image k is a function of seed k and label k; labels follow their policy."""

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from gantransfer.data.dataset import DataSpec, LabelSpec
from gantransfer.data.schedule import Span
from gantransfer.methods.utlo import UTLO
from gantransfer.networks import utlo
from gantransfer.sampler import LabelSource, Sampler, one_hot, to_uint8

COUNTS = (60, 30, 10, 0)
LABEL = LabelSpec("class", 4, COUNTS, (), {}, {})


@pytest.fixture(scope="module")
def sampler():
    torch.manual_seed(0)
    g = utlo.Generator(8, 4, 8, 16, 3, res_uc=8, synthesis_kwargs=dict(channel_base=128, channel_max=8)).eval()
    for name, p in g.named_parameters():
        if name.endswith("noise_strength"):
            p.data.fill_(0.3)
    return UTLO.sampler_of(g, DataSpec("x", 16, 3, 100, LABEL), "cpu")


def test_images_do_not_depend_on_their_batch(sampler):
    seeds, c = [5, 6, 7, 8, 9], one_hot([0, 1, 2, 3, 0], 4)
    whole = sampler(seeds, c).int()
    for i in range(5):
        alone = sampler(seeds[i : i + 1], c[i : i + 1]).int()
        assert (whole[i] - alone[0]).abs().max() <= 1  # rounding to a grey level at most
    backwards = sampler(seeds[::-1], c.flip(0)).flip(0).int()
    assert (whole - backwards).abs().max() <= 1
    assert (whole[0] - whole[4]).abs().max() > 10, "different seeds give different images"


def test_noise_is_part_of_the_seed(sampler):
    c = one_hot([1, 1], 4)
    a, b = sampler([1, 2], c), sampler([1, 2], c)
    assert torch.equal(a, b)
    assert not torch.equal(a, sampler([1, 2], c, noise_mode="const"))


def test_latents_are_the_published_ones():
    got = []
    s = Sampler(lambda z, c, rng: got.append(z) or z[:, :, None, None], 6,
                         DataSpec("x", 1, 6, 0, LabelSpec("none", 0, (), (), {}, {})))
    s([3, 4])
    want = np.concatenate([np.random.RandomState(k).randn(1, 6) for k in (3, 4)])
    assert np.allclose(got[0].numpy(), want, atol=1e-6)


def test_views(sampler):
    assert sampler.views == ("image", "uc")
    small = sampler([1, 1], one_hot([0, 3], 4), view="uc")
    assert small.shape == (2, 3, 8, 8) and torch.equal(small[0], small[1])  # the label does not reach it


def test_labels_are_demanded(sampler):
    with pytest.raises(UserError, match="class-conditional"):
        sampler([1])
    with pytest.raises(ValueError, match="labels"):
        sampler([1], torch.zeros(1, 3))
    with pytest.raises(UserError, match="class 4 does not exist"):
        one_hot([0, 4], 4)


def test_to_uint8_truncates_as_published():
    x = torch.tensor([-2.0, -1.0, 0.0, 1 / 127.5, 1.0, 2.0])
    assert to_uint8(x).tolist() == [0, 0, 128, 129, 255, 255]


@pytest.mark.parametrize("policy, expected", [
    ("data", (0.6, 0.3, 0.1, 0)), ("empirical", (0.6, 0.3, 0.1, 0)), ("uniform", (1 / 3, 1 / 3, 1 / 3, 0)),
    ("balanced", (1 / 3, 1 / 3, 1 / 3, 0)),
    ("sqrt", tuple(np.sqrt(COUNTS) / np.sqrt(COUNTS).sum())),
])
def test_label_policies(policy, expected):
    c = LabelSource(LABEL, policy).draw(20000, torch.Generator().manual_seed(0))
    assert c.sum(1).eq(1).all()
    assert np.abs(c.mean(0).numpy() - expected).max() < 0.015
    assert c[:, 3].sum() == 0


def test_effective_lies_between():
    c = LabelSource(LABEL, "effective").draw(20000, torch.Generator().manual_seed(0)).mean(0)
    assert 1 / 3 - 0.02 < c[0] <= 0.61 and 0.09 <= c[2] < 1 / 3 + 0.02


@pytest.mark.parametrize("kimg, share", [(0, 0), (30, 0.5), (50, 1)])
def test_a_shift_moves_labels_from_the_datas_frequencies_to_the_policys(kimg, share):
    source = LabelSource(LABEL, "balanced", shift=Span(20, 40))
    source.nimg = kimg * 1000
    c = source.draw(20000, torch.Generator().manual_seed(0))
    expected = (1 - share) * np.array([0.6, 0.3, 0.1, 0]) + share * np.array([1, 1, 1, 0]) / 3
    assert c.sum(1).eq(1).all() and np.abs(c.mean(0).numpy() - expected).max() < 0.015
    if share == 1:
        assert torch.equal(c, LabelSource(LABEL, "balanced").draw(20000, torch.Generator().manual_seed(0)))


def test_label_of_a_seed_is_fixed():
    source = LabelSource(LABEL, "uniform")
    a = source(range(100))
    assert torch.equal(a[40:60], source(range(40, 60)))
    assert a.sum(0)[:3].min() > 15


def test_restricted_and_vector_labels():
    c = LabelSource(LABEL, "data", classes=[1, 2]).draw(4000, torch.Generator().manual_seed(0)).mean(0)
    assert c[0] == 0 and abs(float(c[1]) - 0.75) < 0.03
    with pytest.raises(UserError, match="class 9"):
        LabelSource(LABEL, classes=[9])
    vectors = np.array([[0.1, 2.0], [0.5, -1.0]], np.float32)
    spec = LabelSpec("value", 2, (), (), {}, {})
    v = LabelSource(spec, values=vectors).draw(200, torch.Generator().manual_seed(0))
    assert {tuple(np.round(r, 3)) for r in v.tolist()} == {(0.1, 2.0), (0.5, -1.0)}
    with pytest.raises(UserError, match="--data"):
        LabelSource(spec)
    assert LabelSource(LabelSpec("none", 0, (), (), {}, {}))([1, 2]).shape == (2, 0)
