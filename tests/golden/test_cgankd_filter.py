# SPDX-License-Identifier: Apache-2.0
"""Filtering and label replacement for classes, and the quota of fakes, against the originals."""

import contextlib

import numpy as np
import pytest

from dnnlib.util import UserError
from gantransfer.distillation import selection as F
from tests.golden.conftest import assert_close, golden_files


@pytest.mark.parametrize("path", golden_files("cgan-kd", "filter_classification*.npz"))
def test_filter_classification(config, a):
    y, pred = a["labels"], a["logits"].argmax(1)
    errors = F.classification_errors(a["logits"], y)
    assert_close(errors, a["ce"], 2e-5)
    assert (pred == a["pred"]).all()
    errors = a["ce"]  # the cut-offs are compared with errors of the file, so that ties fall as they did
    half = F.published_burn_in(y)
    for i, rho in enumerate(config["rho"]):
        assert_close(F.cutoff(errors, rho), a[f"global_cutoff_{i}"], 2e-5)
        with refusing(not len(a[f"global_keep_{i}"])):
            keep, q = F.select(errors, rho, ties="strict")
            assert q[-1] == F.cutoff(errors, rho)
            assert keep.tolist() == a[f"global_keep_{i}"].tolist()
            assert (pred[keep] == a[f"global_adjusted_{i}"]).all()
        cutoffs = [F.cutoff(errors[half & (y == k)], rho) for k in np.unique(y)]
        assert_close(cutoffs, a[f"perclass_cutoff_{i}"], 2e-5)
        with refusing(set(y[a[f"perclass_keep_{i}"]]) != set(y)):
            keep, q = F.select(errors, rho, y, half, ties="strict", keep_all=False)
            assert [q[k] for k in sorted(q)] == cutoffs
            keep = keep[np.argsort(y[keep], kind="stable")]  # the original goes class by class
            assert keep.tolist() == a[f"perclass_keep_{i}"].tolist()
            assert (pred[keep] == a[f"perclass_adjusted_{i}"]).all()


def refusing(empty: bool):
    """The published filter goes on where it leaves nothing of a class, or at all; ours refuses."""
    return pytest.raises(UserError, match="leaves no image") if empty else contextlib.nullcontext()


@pytest.mark.parametrize("path", golden_files("cgan-kd", "fake_quota*.npz"))
def test_fake_quota(config, a):
    for i, case in enumerate(config["cases"]):
        have = np.full(case["num_classes"], case["available_per_class"])
        even = F.even_quota(have, case["nfake"])
        assert even.sum() == min(case["nfake"], have.sum()) and even.max() - even.min() <= 1
        published = a[f"count_{i}"]  # the last class takes the remainder
        assert (even[:-1] >= published[:-1]).all() and even.sum() >= published.sum()
