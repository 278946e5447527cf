# SPDX-License-Identifier: Apache-2.0
"""Nearest rows, block by block."""

# SPDX-License-Identifier: Apache-2.0
import numpy as np
import torch

from gantransfer.metrics import distances
from gantransfer.metrics.precision_recall import precision_recall
from tests.metrics.test_precision_recall import rng


def test_nearest():
    a, b = rng.randn(30, 4), rng.randn(50, 4)
    d = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    dist, index = distances.nearest(torch.as_tensor(a), torch.as_tensor(b))
    assert index.tolist() == d.argmin(1).tolist()
    assert np.allclose(dist, d.min(1), rtol=1e-12)
    zero, where = distances.nearest(torch.as_tensor(b[[7]]), torch.as_tensor(b))
    assert float(zero[0]) == 0 and int(where[0]) == 7


def test_memory_is_bounded_by_blocks(monkeypatch):
    """4000 x 4000 distances would take 128 MB in float64, a block takes 2 MB; no tensor on the way is much larger."""
    monkeypatch.setattr(distances, "ROW_BLOCK", 256)
    monkeypatch.setattr(distances, "COL_BLOCK", 1024)
    x, largest = rng.rand(4000, 16).astype(np.float32), 0

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for t in out if isinstance(out, tuple | list) else (out,):
                largest = max(largest, t.numel()) if isinstance(t, torch.Tensor) else largest
            return out

    with Sizes():
        precision_recall(x, x[::-1].copy(), 3)
    assert 256 * 1024 <= largest <= 2 * 256 * 1024
