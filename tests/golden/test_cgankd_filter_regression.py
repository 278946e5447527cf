# SPDX-License-Identifier: Apache-2.0
"""Filtering and label replacement for continuous labels, against the originals' three conventions."""

from __future__ import annotations

import numpy as np
import pytest

from gantransfer.label_filter import regression_errors, regression_labels, select
from gantransfer.labels import LabelSpec
from tests.golden.conftest import assert_close, golden_files, load_npz


@pytest.mark.parametrize("path", golden_files("cgan-kd", "filter_regression*.npz"))
def test_filter_regression(path):
    config, a = load_npz(path)
    conventions = {k: v for k, v in config.items() if isinstance(v, dict)}
    assert conventions
    for name, rule in conventions.items():
        offset = rule.get("min_label", 0.0)
        scale, integers = rule["max_label"] - offset, rule.get("integer_truncation", False)
        assigned = a[f"{name}_labels"]
        predicted = regression_labels(a[f"{name}_pred_norm"], offset, scale, clip=rule["clip"], integers=integers)
        errors = regression_errors(predicted, assigned)
        assert_close(errors, a[f"{name}_mae"], 2e-5, what=name)
        for i, rho in enumerate(config["rho"]):
            # The first code treats rho = 1 apart, the second does not and always loses the worst image.
            keep, cutoffs = select(a[f"{name}_mae"], rho, ties="strict", keep_all=not rule["clip"])
            assert_close(cutoffs[-1], a[f"{name}_cutoff_{i}"], 2e-5, what=name)
            assert keep.tolist() == a[f"{name}_keep_{i}"].tolist(), f"{name} {rho}"
            assert_close(predicted[keep], a[f"{name}_adjusted_{i}"], 2e-5, what=name)


@pytest.mark.parametrize("path", golden_files("cgan-kd", "filter_regression*.npz"))
def test_normalised_labels_return(path):
    """Whole ages survive normalisation and truncation in both precisions; the steering range is the published one."""
    config, a = load_npz(path)
    spec = LabelSpec("value", 1, meta=dict(offset=0.0, scale=config["utk"]["max_label"]))
    for kind, key in ((np.float64, "utk_roundtrip_f64"), (np.float32, "utk_roundtrip_f32")):
        ages = a["utk_roundtrip_in"].astype(kind)
        assert np.array_equal(np.trunc(spec.raw(spec.normalise(ages))).astype(np.int64), a[key])
    low, high = config["steer"]["min_label"], config["steer"]["max_label"]
    spec = LabelSpec("value", 1, meta=dict(offset=low, scale=high - low))
    assert_close(spec.normalise(a["steer_norm_of"]), a["steer_norm"], 1e-12)
