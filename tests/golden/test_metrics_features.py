# SPDX-License-Identifier: Apache-2.0
"""Golden values of every metric on feature matrices (golden area `metrics`, files features_*.npz)."""

import re

import numpy as np
import pytest
import torch

from gantransfer.metrics import inception_score, intra, kid, kmmd, label_score, ppl
from gantransfer.metrics import precision_recall as pr
from gantransfer.metrics.fid import Moments, RunningMoments, frechet_distance
from tests.golden.conftest import assert_close, golden_files

FILES = golden_files("metrics", "features_*.npz")
PREFIXES = ("", "same_", "lowsample_")


@pytest.fixture(params=FILES)
def path(request):
    return request.param


def sides(a, prefix):
    if prefix == "same_":
        return a["real"], a["real"]
    if prefix == "lowsample_":
        n, m = (int(v) for v in a["lowsample_n"])
        return a["real"][:n], a["fake"][:m]
    return a["real"], a["fake"]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_fid(a, prefix):
    real, fake = sides(a, prefix)
    floor = 1e-9 * float(np.var(a["real"].astype(np.float64), axis=0).sum())
    for ddof, names in ((1, ("unbiased_eigh", "unbiased_lowrank", "torchfidelity", "pytorchfid")),
                        (0, ("biased_eigh", "nvidia"))):
        value = frechet_distance(real, fake, ddof)
        for name in names:
            assert_close(value, a[f"{prefix}fid_{name}"], 1e-6, floor, f"{prefix}fid_{name}")
    if prefix == "lowsample_":  # the exact route: far nearer to the exact value than the eigenvalue routes are
        assert_close(frechet_distance(real, fake, 1), a["lowsample_fid_unbiased_lowrank"], 1e-9, what="exact")


def test_fid_variants(a):
    unbiased = frechet_distance(a["real"], a["fake"], 1)
    assert_close(unbiased, a["fid_biggan_numpy"], 1e-6, what="biggan")
    assert_close(unbiased, a["fid_piq_float32"], 1e-3, what="piq")


def test_moments(a):
    whole = Moments.of(a["real"])
    assert_close(whole.mean, a["mean_real"], 1e-12, what="mean")
    assert_close(whole.cov(1), a["cov_real_unbiased"], 1e-12, what="cov")
    running = RunningMoments()
    for part in torch.as_tensor(a["real"]).split(37):
        running.add(part)
    assert_close(running.finish().cov(1), a["cov_real_unbiased"], 1e-10, what="running cov")
    assert_close(frechet_distance(running.finish(), a["fake"], 0), a["fid_nvidia"], 1e-9, what="running")


def test_kid(config, a):
    values = kid.kid_on_subsets(a["real"], a["fake"], zip(a["kid_idx_real"], a["kid_idx_fake"]))
    assert_close(values, a["kid_subset_values"], 1e-9, what="per subset")
    assert_close(values.mean(), a["kid_mean"], 1e-9)
    assert_close(values.std(), a["kid_std"], 1e-9)
    mean, std = kid.kid(a["real"], a["fake"], config["nsub"], config["sub"], config["seed"])
    assert_close(mean, a["kid_torchfidelity_mean"], 1e-6)
    assert_close(std, a["kid_torchfidelity_std"], 1e-6)
    assert_close(mean, a["kid_nvidia"], 1e-4, 2e-6)  # both in float32
    assert_close(mean, a["kid_cleanfid"], 1e-4, 2e-6)
    m = int(a["kid_full_m"])
    assert m == min(len(a["real"]), len(a["fake"]))
    assert_close(kid.kid_full(a["real"], a["fake"]), a["kid_full_first_m"], 1e-9)
    assert_close(kid.kid_full(a["real"], a["fake"]), a["kid_piq_full_first_m"], 1e-3)


def test_inception_score(a):
    for name, kw in {"is_s1": dict(splits=1), "is_s10": dict(splits=10),
                     "is_s10_shuffle2020": dict(splits=10, shuffle_seed=2020)}.items():
        mean, std = inception_score.inception_score(a["logits_fake"], **kw)
        assert_close(mean, a[f"{name}_mean"], 1e-9, what=name)
        assert_close(std, a[f"{name}_std"], 1e-6, 1e-12, what=name)
    log_probs = np.log(a["probs_fake"])
    for name, drop in (("is_nvidia_s10", False), ("is_biggan_s10", True)):
        mean, std = inception_score.inception_score(log_probs, 10, drop_tail=drop)
        assert_close(mean, a[f"{name}_mean"], 1e-6, what=name)
        assert_close(std, a[f"{name}_std"], 1e-4, what=name)


def test_precision_recall_density_coverage(a):
    real, fake = a["real"], a["fake"]
    ks = sorted({int(m[1]) for k in a if (m := re.fullmatch(r"precision_le_k(\d+)", k))})
    assert ks
    for k in ks:
        closed, opened = pr.precision_recall(real, fake, k), pr.precision_recall(real, fake, k, strict=True)
        dc = pr.density_coverage(real, fake, k)
        counts = [(closed.precision, "precision_le", len(fake)), (closed.recall, "recall_le", len(real)),
                  (opened.precision, "precision_lt", len(fake)), (opened.recall, "recall_lt", len(real)),
                  (dc.density, "density_lt", len(fake) * k), (dc.coverage, "coverage_lt", len(real))]
        for value, name, n in counts:
            assert round(value * n) == round(float(a[f"{name}_k{k}"]) * n), f"{name}_k{k}: counts differ"
        assert_close(closed.precision, a[f"precision_nvidia_fp16_k{k}"], 1e-9, 0.01)
        assert_close(closed.recall, a[f"recall_nvidia_fp16_k{k}"], 1e-9, 0.01)
    right = [*pr.precision_recall(real, fake, 5, strict=True)], [*pr.density_coverage(real, fake, 5)]
    swapped = [*pr.precision_recall(fake, real, 5, strict=True)], [*pr.density_coverage(fake, real, 5)]
    for name, (p, d) in {"right_roles": right, "as_called": swapped}.items():
        assert_close(p, a[f"hypermod_{name}_pr_k5"], 1e-6, what=name)
        assert_close(d, a[f"hypermod_{name}_dc_k5"], 1e-6, what=name)


def test_kmmd(a):
    assert_close(kmmd.kmmd(a["real"], a["fake"]), a["kmmd_float64"], 1e-6)
    assert_close(kmmd.kmmd(a["real"], a["fake"]), a["kmmd_cgantransfer_sigma1"], 0, 2e-6)


def test_intra_class_and_shots(config, a):
    args = a["real"], a["fake"], a["labels_real"], a["labels_fake"]
    fid = intra.intra_fid(*args, range(config["classes"]))
    assert_close(fid.values, a["intra_fid"], 1e-6)
    assert fid.n_real == a["intra_n_real"].tolist() and fid.n_fake == a["intra_n_fake"].tolist()
    assert_close(intra.intra_kid(*args, range(config["classes"])).values, a["intra_kid"], 1e-9)
    groups = [range(int(low), int(high)) for low, high in zip(a["shot_bounds"][:-1], a["shot_bounds"][1:])]
    assert_close(intra.intra_fid(*args, groups, ddof=0).values, a["shot_fid_biased"], 1e-6)


def test_continuous_labels(a):
    scale = float(a["cont_max"])
    table = intra.sliding_fid(a["real"], a["fake"], a["cont_labels_real"], a["cont_labels_fake"], a["sfid_centers"],
                              float(a["cont_radius"]), scale)
    assert_close(table.values, a["sfid_values"], 1e-6)
    assert_close(table.mean, a["sfid_mean"], 1e-6)
    assert_close(table.std, a["sfid_std"], 1e-5)
    mean, std = label_score.label_score(a["cont_pred_fake"], a["cont_labels_fake"], scale)
    assert_close(mean, a["label_score_mean"], 1e-9)
    assert_close(std, a["label_score_std"], 1e-9)


def test_path_length_parts(a):
    assert_close(ppl.trimmed_mean(a["ppl_dist"]), a["ppl_trimmed_mean"], 1e-9)
    assert_close(ppl.on_sphere(*(torch.as_tensor(a[f"slerp_{k}"]) for k in "abt")), a["slerp_out"], 1e-9)


def test_interleaving_of_ranks(a):
    from gantransfer.metrics.stats import interleave

    expected = a["gather_expected"]
    rows = interleave(torch.as_tensor(a["gather_rank_feats"]))[:len(expected)]
    assert np.array_equal(rows.numpy(), expected)
    moments = Moments.of(rows)
    assert_close(moments.mean, a["gather_mean"], 1e-6)
    assert_close(moments.cov(0), a["gather_cov_biased"], 1e-6)
