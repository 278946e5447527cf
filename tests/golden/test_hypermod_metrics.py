# SPDX-License-Identifier: Apache-2.0
"""Figures of the published evaluation against golden numbers, with the roles of real and generated put right."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gantransfer.metrics.fid import frechet_distance
from gantransfer.metrics.kid import kid_full
from gantransfer.metrics.precision_recall import density_coverage, precision_recall
from tests.golden.conftest import assert_close, golden_files, load_npz
from torch_utils.interpolation import slerp


@pytest.mark.parametrize("path", golden_files("hypermod", "metrics*.npz"))
def test_figures(path):
    config, a = load_npz(path)
    k = config["nearest_k"]
    p = precision_recall(a["real"], a["fake"], k, strict=True)
    d = density_coverage(a["real"], a["fake"], k)
    for name, value in (*p._asdict().items(), *d._asdict().items()):
        assert_close(value, a[name], 1e-5, what=name)
    swapped = precision_recall(a["fake"], a["real"], k, strict=True)
    assert_close(list(swapped), a["as_called/pr"], 1e-5)
    assert_close(list(density_coverage(a["fake"], a["real"], k)), a["as_called/dc"], 1e-5)
    assert_close(frechet_distance(a["real"], a["fake"], 1), a["fid"], 1e-3)
    n = int(a["kid_n"])
    assert_close(kid_full(a["real"][:n], a["fake"][:n]), a["kid_equal_n"], 1e-4)


@pytest.mark.parametrize("path", golden_files("hypermod", "metrics*.npz"))
def test_slerp(path):
    _, a = load_npz(path)
    low, high = torch.from_numpy(a["slerp/low"]), torch.from_numpy(a["slerp/high"])
    out = np.concatenate([slerp(low, high, float(t)).numpy() for t in a["slerp/t"]])
    assert_close(out, a["slerp/out"], 1e-4)
