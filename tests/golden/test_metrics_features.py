# SPDX-License-Identifier: Apache-2.0
"""Golden values of every metric on feature matrices (golden area `metrics`, files features_*.npz)."""

import re

import numpy as np
import pytest
import torch

from gantransfer.metrics import inception_score, intra, kid, kmmd, label_score, ppl
from gantransfer.metrics import precision_recall as pr
from gantransfer.metrics.fid import Moments, RunningMoments, frechet_distance
from tests.golden.conftest import assert_close, golden_files, load_npz

FILES = golden_files("metrics", "features_*.npz")
PREFIXES = ("", "same_", "lowsample_")


@pytest.fixture(params=FILES)
def case(request):
    return load_npz(request.param)


def sides(g, prefix):
    if prefix == "same_":
        return g["real"], g["real"]
    if prefix == "lowsample_":
        n, m = (int(v) for v in g["lowsample_n"])
        return g["real"][:n], g["fake"][:m]
    return g["real"], g["fake"]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_fid(case, prefix):
    _, g = case
    real, fake = sides(g, prefix)
    floor = 1e-9 * float(np.var(g["real"].astype(np.float64), axis=0).sum())
    for ddof, names in ((1, ("unbiased_eigh", "unbiased_lowrank", "torchfidelity", "pytorchfid")),
                        (0, ("biased_eigh", "nvidia"))):
        value = frechet_distance(real, fake, ddof)
        for name in names:
            assert_close(value, g[f"{prefix}fid_{name}"], 1e-6, floor, f"{prefix}fid_{name}")
    if prefix == "lowsample_":  # the exact route: far nearer to the exact value than the eigenvalue routes are
        assert_close(frechet_distance(real, fake, 1), g["lowsample_fid_unbiased_lowrank"], 1e-9, what="exact")


def test_fid_variants(case):
    _, g = case
    unbiased = frechet_distance(g["real"], g["fake"], 1)
    assert_close(unbiased, g["fid_biggan_numpy"], 1e-6, what="biggan")
    assert_close(unbiased, g["fid_piq_float32"], 1e-3, what="piq")


def test_moments(case):
    _, g = case
    whole = Moments.of(g["real"])
    assert_close(whole.mean, g["mean_real"], 1e-12, what="mean")
    assert_close(whole.cov(1), g["cov_real_unbiased"], 1e-12, what="cov")
    running = RunningMoments()
    for part in torch.as_tensor(g["real"]).split(37):
        running.add(part)
    assert_close(running.finish().cov(1), g["cov_real_unbiased"], 1e-10, what="running cov")
    assert_close(frechet_distance(running.finish(), g["fake"], 0), g["fid_nvidia"], 1e-9, what="running")


def test_kid(case):
    config, g = case
    values = kid.kid_on_subsets(g["real"], g["fake"], zip(g["kid_idx_real"], g["kid_idx_fake"]))
    assert_close(values, g["kid_subset_values"], 1e-9, what="per subset")
    assert_close(values.mean(), g["kid_mean"], 1e-9)
    assert_close(values.std(), g["kid_std"], 1e-9)
    mean, std = kid.kid(g["real"], g["fake"], config["nsub"], config["sub"], config["seed"])
    assert_close(mean, g["kid_torchfidelity_mean"], 1e-6)
    assert_close(std, g["kid_torchfidelity_std"], 1e-6)
    assert_close(mean, g["kid_nvidia"], 1e-4, 2e-6)  # both in float32
    assert_close(mean, g["kid_cleanfid"], 1e-4, 2e-6)
    m = int(g["kid_full_m"])
    assert m == min(len(g["real"]), len(g["fake"]))
    assert_close(kid.kid_full(g["real"], g["fake"]), g["kid_full_first_m"], 1e-9)
    assert_close(kid.kid_full(g["real"], g["fake"]), g["kid_piq_full_first_m"], 1e-3)


def test_inception_score(case):
    _, g = case
    for name, kw in {"is_s1": dict(splits=1), "is_s10": dict(splits=10),
                     "is_s10_shuffle2020": dict(splits=10, shuffle_seed=2020)}.items():
        mean, std = inception_score.inception_score(g["logits_fake"], **kw)
        assert_close(mean, g[f"{name}_mean"], 1e-9, what=name)
        assert_close(std, g[f"{name}_std"], 1e-6, 1e-12, what=name)
    log_probs = np.log(g["probs_fake"])
    for name, drop in (("is_nvidia_s10", False), ("is_biggan_s10", True)):
        mean, std = inception_score.inception_score(log_probs, 10, drop_tail=drop)
        assert_close(mean, g[f"{name}_mean"], 1e-6, what=name)
        assert_close(std, g[f"{name}_std"], 1e-4, what=name)


def test_precision_recall_density_coverage(case):
    _, g = case
    real, fake = g["real"], g["fake"]
    ks = sorted({int(m[1]) for k in g if (m := re.fullmatch(r"precision_le_k(\d+)", k))})
    assert ks
    for k in ks:
        closed, opened = pr.precision_recall(real, fake, k), pr.precision_recall(real, fake, k, strict=True)
        dc = pr.density_coverage(real, fake, k)
        counts = [(closed.precision, "precision_le", len(fake)), (closed.recall, "recall_le", len(real)),
                  (opened.precision, "precision_lt", len(fake)), (opened.recall, "recall_lt", len(real)),
                  (dc.density, "density_lt", len(fake) * k), (dc.coverage, "coverage_lt", len(real))]
        for value, name, n in counts:
            assert round(value * n) == round(float(g[f"{name}_k{k}"]) * n), f"{name}_k{k}: counts differ"
        assert_close(closed.precision, g[f"precision_nvidia_fp16_k{k}"], 1e-9, 0.01)
        assert_close(closed.recall, g[f"recall_nvidia_fp16_k{k}"], 1e-9, 0.01)
    right = [*pr.precision_recall(real, fake, 5, strict=True)], [*pr.density_coverage(real, fake, 5)]
    swapped = [*pr.precision_recall(fake, real, 5, strict=True)], [*pr.density_coverage(fake, real, 5)]
    for name, (p, d) in {"right_roles": right, "as_called": swapped}.items():
        assert_close(p, g[f"hypermod_{name}_pr_k5"], 1e-6, what=name)
        assert_close(d, g[f"hypermod_{name}_dc_k5"], 1e-6, what=name)


def test_kmmd(case):
    _, g = case
    assert_close(kmmd.kmmd(g["real"], g["fake"]), g["kmmd_float64"], 1e-6)
    assert_close(kmmd.kmmd(g["real"], g["fake"]), g["kmmd_cgantransfer_sigma1"], 0, 2e-6)


def test_intra_class_and_shots(case):
    config, g = case
    args = g["real"], g["fake"], g["labels_real"], g["labels_fake"]
    fid = intra.intra_fid(*args, range(config["classes"]))
    assert_close(fid.values, g["intra_fid"], 1e-6)
    assert fid.n_real == g["intra_n_real"].tolist() and fid.n_fake == g["intra_n_fake"].tolist()
    assert_close(intra.intra_kid(*args, range(config["classes"])).values, g["intra_kid"], 1e-9)
    groups = [range(int(a), int(b)) for a, b in zip(g["shot_bounds"][:-1], g["shot_bounds"][1:])]
    assert_close(intra.intra_fid(*args, groups, ddof=0).values, g["shot_fid_biased"], 1e-6)


def test_continuous_labels(case):
    _, g = case
    scale = float(g["cont_max"])
    table = intra.sliding_fid(g["real"], g["fake"], g["cont_labels_real"], g["cont_labels_fake"], g["sfid_centers"],
                              float(g["cont_radius"]), scale)
    assert_close(table.values, g["sfid_values"], 1e-6)
    assert_close(table.mean, g["sfid_mean"], 1e-6)
    assert_close(table.std, g["sfid_std"], 1e-5)
    mean, std = label_score.label_score(g["cont_pred_fake"], g["cont_labels_fake"], scale)
    assert_close(mean, g["label_score_mean"], 1e-9)
    assert_close(std, g["label_score_std"], 1e-9)


def test_path_length_parts(case):
    _, g = case
    assert_close(ppl.trimmed_mean(g["ppl_dist"]), g["ppl_trimmed_mean"], 1e-9)
    a, b, t = (torch.as_tensor(g[f"slerp_{k}"]) for k in "abt")
    assert_close(ppl.on_sphere(a, b, t), g["slerp_out"], 1e-9)


def test_interleaving_of_ranks(case):
    from gantransfer.metrics.stats import interleave

    _, g = case
    expected = g["gather_expected"]
    rows = interleave(torch.as_tensor(g["gather_rank_feats"]))[:len(expected)]
    assert np.array_equal(rows.numpy(), expected)
    moments = Moments.of(rows)
    assert_close(moments.mean, g["gather_mean"], 1e-6)
    assert_close(moments.cov(0), g["gather_cov_biased"], 1e-6)
