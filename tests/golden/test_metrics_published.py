# SPDX-License-Identifier: Apache-2.0
"""The same formulas against what the released cGANTransfer and Hyper-Modulation evaluation code computes; the latter
with the roles of real and generated put right, and its interpolation."""

import re

import numpy as np
import pytest
import torch

from gantransfer.metrics import inception_score, kid, kmmd, precision_recall
from gantransfer.metrics.fid import frechet_distance
from tests.golden.conftest import assert_close, golden_files
from torch_utils.interpolation import slerp


@pytest.mark.parametrize("path", golden_files("cgantransfer", "metrics*.npz"))
def test_cgantransfer(config, a):
    real, fake = a["real_features"], a["fake_features"]
    value = frechet_distance(real, fake, 1)
    assert_close(value, a["FID_numpy"], 1e-6)
    assert_close(value, a["FID_torch_newton_schulz"], 1e-4)
    few = int(a["n_rank_deficient"])
    assert_close(frechet_distance(real[:few], fake, 1), a["FID_rank_deficient_real"], 1e-4)
    sigmas = {k: float(m[1].replace("p", ".")) for k in a if (m := re.fullmatch(r"KMMD_sigma([0-9p]+)", k))}
    assert sigmas
    for key, sigma in sigmas.items():
        assert_close(kmmd.kmmd(real, fake, sigma), a[key], 0, 2e-6, key)
    assert_close(kmmd.kmmd(fake, real), a["KMMD_sigma1_swapped"], 0, 2e-6)
    for splits, suffix in ((config["splits"], ""), (1, "_1split")):
        mean, std = inception_score.inception_score(np.log(a["softmax"]), splits, drop_tail=True)
        assert_close(mean, a[f"IS_mean{suffix}"], 1e-5)
        assert_close(std, a[f"IS_std{suffix}"], 1e-4)


@pytest.mark.parametrize("path", golden_files("hypermod", "metrics*.npz"))
def test_hypermod(config, a):
    real, fake, k = a["real"], a["fake"], config["nearest_k"]
    p = precision_recall.precision_recall(real, fake, k, strict=True)
    d = precision_recall.density_coverage(real, fake, k)
    for value, key in ((p.precision, "precision"), (p.recall, "recall"), (d.density, "density"),
                       (d.coverage, "coverage")):
        assert_close(value, a[key], 1e-6, what=key)
    assert_close([*precision_recall.precision_recall(fake, real, k, strict=True)], a["as_called/pr"], 1e-6)
    assert_close([*precision_recall.density_coverage(fake, real, k)], a["as_called/dc"], 1e-6)
    assert_close(frechet_distance(real, fake, 1), a["fid"], 1e-6)
    assert len(fake) >= int(a["kid_n"]) and len(real) >= int(a["kid_n"])
    n = int(a["kid_n"])
    for value in (kid.mmd2_unbiased, kid.kid_full):
        assert_close(value(real[:n], fake[:n]), a["kid_equal_n"], 1e-6)
    low, high = torch.from_numpy(a["slerp/low"]), torch.from_numpy(a["slerp/high"])
    assert_close(np.concatenate([slerp(low, high, float(t)).numpy() for t in a["slerp/t"]]), a["slerp/out"], 1e-4)
