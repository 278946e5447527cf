# SPDX-License-Identifier: Apache-2.0
"""The policies of DiffAugment."""

import pytest
import torch

from dnnlib.util import UserError
from gantransfer.augment import diffaug
from gantransfer.augment.diffaug import DiffAugment
from tests.augment.test_ada import generator, images


def test_light_policy_ranges():
    """A black image stays uniform, within the brightness range; a dot moves at most two pixels, nothing is lost."""
    black = torch.full([256, 1, 16, 16], -1.0)
    y = DiffAugment("light")(black, rng=generator())
    assert float((y.amax(dim=(2, 3)) - y.amin(dim=(2, 3))).max()) < 1e-5
    shift = y[:, 0, 0, 0] + 1
    assert -0.2 <= float(shift.min()) < -0.18 and 0.18 < float(shift.max()) <= 0.2
    dot = black.clone()
    dot[:, :, 8, 8] = 1
    where = DiffAugment("light")(dot, rng=generator()).flatten(1).argmax(dim=1)
    seen = {(int(k) // 16 - 8, int(k) % 16 - 8) for k in where}
    assert seen == {(a, b) for a in range(-2, 3) for b in range(-2, 3)}


@pytest.mark.parametrize("ground", [-1.0, 0.0, 1.0])
def test_light_brings_no_border_into_images_of_any_ground(ground):
    """With brightness and contrast of one factor per image, a uniform ground stays uniform: here at each corner."""
    x = torch.full([256, 3, 16, 16], ground)
    x[:, :, 6:10, 6:10] = -ground if ground else 1.0
    y = DiffAugment("light")(x, rng=generator())
    edge = torch.cat([y[:, :, 0], y[:, :, -1], y[..., 0], y[..., -1]], 2)
    assert float((edge.amax(2) - edge.amin(2)).max()) < 1e-5


def test_light_continues_the_edge():
    """Columns that a shift uncovers repeat the outermost one; the published policy has zeros there."""
    x = torch.linspace(-1, 1, 16).expand(256, 1, 16, 16).clone()
    moved = diffaug.translation(x, generator(), fill=None, ratio=1 / 8)
    shift = ((moved[:, 0, 0, 8] - x[:, 0, 0, 8]) * 7.5).round().long()
    assert set(shift.tolist()) == {-2, -1, 0, 1, 2}
    for k, s in enumerate(shift.tolist()):
        columns = (torch.arange(16) + s).clamp(0, 15)
        torch.testing.assert_close(moved[k, 0], x[k, 0][:, columns])
    assert (DiffAugment("translation")(x + 2, rng=generator()) == 0).any(), "as published"


def test_published_policy_ranges():
    x = images(512, 3, 16)
    y = DiffAugment("translation")(x, rng=generator())
    lost = (y == 0).all(dim=1).float()
    assert lost.amax(dim=2).sum(dim=1).max() <= 16 and int(lost[:, 8, :].sum(dim=1).max()) == 2  # 1/8 of 16
    holes = (DiffAugment("cutout")(x, rng=generator()) == 0).all(dim=1).sum(dim=(1, 2))
    assert int(holes.max()) == 64 and int(holes.min()) >= 16  # 8x8, at least a quarter of it inside
    y = DiffAugment("color")(x, rng=generator())
    moved = (y - x).mean(dim=(1, 2, 3))  # saturation and contrast keep the mean
    assert -0.5 <= float(moved.min()) < -0.45 and 0.45 < float(moved.max()) <= 0.5
    chroma = (y - y.mean(dim=1, keepdim=True)).std(dim=(1, 2, 3)) / (x - x.mean(dim=1, keepdim=True)).std(dim=(1, 2, 3))
    assert float(chroma.min()) < 0.1 and 2.0 < float(chroma.max()) <= 3.0  # 2 * 1.5 at most
    with pytest.raises(UserError, match="unknown DiffAugment policy 'colour'"):
        DiffAugment("colour,cutout")
    with pytest.raises(UserError, match="unknown DiffAugment policy"):
        DiffAugment("")
