# SPDX-License-Identifier: Apache-2.0
"""UTLO's few-shot FID and KID on stored features."""

import numpy as np
import pytest

from gantransfer.metrics import kid
from gantransfer.metrics.fid import frechet_distance
from tests.golden.conftest import assert_close, golden_files


@pytest.mark.parametrize("path", golden_files("utlo", "metric_*.npz"))
def test_few_shot_fid_and_kid(config, a):
    real, fake = a["real_features"], a["gen_features"]
    assert_close(frechet_distance(real, fake, 0), a["fid"], 1e-6, what="fid")
    size = min(len(real), len(fake), config["max_subset_size"])
    rng = np.random.RandomState(config["numpy_global_seed_for_kid"])
    values = kid.kid_on_subsets(real, fake, kid.draw_subsets(len(real), len(fake), config["num_subsets"], size, rng))
    assert_close(values.mean(), a["kid"], 1e-4, what="kid")
    mean, _ = kid.kid(real, fake, config["num_subsets"], config["max_subset_size"], config["numpy_global_seed_for_kid"])
    assert mean == values.mean()
