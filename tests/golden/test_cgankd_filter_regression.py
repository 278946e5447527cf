# SPDX-License-Identifier: Apache-2.0
"""Filtering and label replacement for continuous labels, against the originals' three conventions."""

import numpy as np
import pytest

from dnnlib.util import UserError
from gantransfer.data.labels import LabelSpec
from gantransfer.distillation.selection import cutoff, regression_errors, regression_labels, select
from tests.golden.conftest import assert_close, golden_files


@pytest.mark.parametrize("path", golden_files("cgan-kd", "filter_regression*.npz"))
def test_filter_regression(config, a):
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
            how = dict(ties="strict", keep_all=not rule["clip"])
            assert_close(cutoff(a[f"{name}_mae"], rho), a[f"{name}_cutoff_{i}"], 2e-5, what=name)
            if not len(a[f"{name}_keep_{i}"]):  # the published filter goes on with an empty set; ours refuses
                with pytest.raises(UserError, match="leaves no image of the set"):
                    select(a[f"{name}_mae"], rho, **how)
                continue
            keep, cutoffs = select(a[f"{name}_mae"], rho, **how)
            assert_close(cutoffs[-1], a[f"{name}_cutoff_{i}"], 2e-5, what=name)
            assert keep.tolist() == a[f"{name}_keep_{i}"].tolist(), f"{name} {rho}"
            assert_close(predicted[keep], a[f"{name}_adjusted_{i}"], 2e-5, what=name)


@pytest.mark.parametrize("path", golden_files("cgan-kd", "filter_regression*.npz"))
def test_normalised_labels_return(config, a):
    """Whole ages survive normalisation and truncation in both precisions; the steering range is the published one."""
    checked = 0
    for name, rule in ((k, v) for k, v in config.items() if isinstance(v, dict)):
        low = rule.get("min_label", 0.0)
        spec = LabelSpec("value", 1, meta=dict(offset=low, scale=rule["max_label"] - low))
        for kind, key in ((np.float64, f"{name}_roundtrip_f64"), (np.float32, f"{name}_roundtrip_f32")):
            if key in a:
                ages = a[f"{name}_roundtrip_in"].astype(kind)
                assert np.array_equal(np.trunc(spec.raw(spec.normalise(ages))).astype(np.int64), a[key]), key
                checked += 1
        if f"{name}_norm" in a:
            assert_close(spec.normalise(a[f"{name}_norm_of"]), a[f"{name}_norm"], 1e-12, what=name)
            checked += 1
    assert checked
