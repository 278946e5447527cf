# SPDX-License-Identifier: Apache-2.0
"""Parts of path lengths."""

import numpy as np
import pytest
import torch

from gantransfer.metrics import ppl
from gantransfer.metrics.feature_matrix import MetricError


def test_a_path_stays_on_the_sphere():
    a, b = torch.randn(50, 16, dtype=torch.float64), torch.randn(50, 16, dtype=torch.float64)
    t = torch.rand(50, 1, dtype=torch.float64)
    out = ppl.on_sphere(a, b, t)
    assert torch.allclose(out.norm(dim=1), torch.ones(50, dtype=torch.float64))
    unit = torch.nn.functional.normalize
    assert torch.allclose(ppl.on_sphere(a, b, torch.zeros(50, 1)), unit(a), atol=1e-9)
    assert torch.allclose(ppl.on_sphere(a, b, torch.ones(50, 1)), unit(b), atol=1e-9)
    assert torch.isfinite(ppl.on_sphere(a, a, t)).all() and torch.isfinite(ppl.on_sphere(a, 3 * a, t)).all()


def test_trimmed_mean_drops_outliers():
    d = np.concatenate([np.ones(998), [1e9, -1e9]])
    assert ppl.trimmed_mean(d) == 1
    with pytest.raises(MetricError):
        ppl.trimmed_mean(np.array([1.0, np.nan]))


def test_crop_and_box():
    x = torch.arange(64 * 64, dtype=torch.float32).reshape(1, 1, 64, 64)
    assert torch.equal(ppl.crop_face(x), x[:, :, 24:56, 16:48])
    assert ppl.box_to_256(torch.zeros(1, 3, 1024, 1024)).shape[-1] == 256
    assert ppl.box_to_256(x) is x
