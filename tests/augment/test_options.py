# SPDX-License-Identifier: Apache-2.0
"""The flags of augmentation, and its controller's state."""

import pytest
import torch

from gantransfer.augment.options import Augmentation, AugmentOptions


@pytest.mark.parametrize("aug, diffaug, changes", [("noaug", None, False), ("fixed", None, True),
                                                   ("noaug", "light", True)])
def test_augmentation_is_false_exactly_when_images_stay_as_they_are(aug, diffaug, changes):
    o = AugmentOptions(aug=aug, p=1.0 if aug == "fixed" else None, augpipe="bg" if aug == "fixed" else None,
                       diffaug=diffaug)
    a = Augmentation(o, "cpu")
    x = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert bool(a) == changes
    assert torch.equal(a(x, torch.Generator().manual_seed(1)), x) == (not changes)


def test_the_controller_continues_where_its_state_was_taken():
    o = AugmentOptions(aug="ada", target=0.6, augpipe="bg", ada_kimg=0.1)
    a, b = Augmentation(o, "cpu"), Augmentation(o, "cpu")
    a.observe(torch.ones(8, 1))
    for step in range(1, 5):
        a.end_step(step, 10)
    assert a.p == pytest.approx(0.4)
    a.observe(-torch.ones(4, 1))
    b.load_state(a.state())
    assert b.p == a.p == float(a.pipe.p) == float(b.pipe.p)
    for x in (a, b):
        x.end_step(8, 10)
    assert a.p == b.p == 0.0
