# SPDX-License-Identifier: Apache-2.0
"""The augmentation pipe and the ADA controller against the published implementation's numbers."""

from __future__ import annotations

import pytest
import torch

from gantransfer.augment.ada import AdaController, AugmentPipe
from tests.golden.conftest import assert_close, golden_files, load_npz
from torch_utils import random as rnd


def _arrays(path):
    config, arrays = load_npz(path)
    return config, {k: torch.from_numpy(v.copy()) for k, v in arrays.items()}


@pytest.mark.parametrize("path", golden_files("base", "augment*.npz"))
def test_fixed_percentiles(path, monkeypatch):
    """Output and input gradient of every case with its transforms forced on."""
    config, arrays = _arrays(path)
    for i, case in enumerate(config["cases"]):
        key = f"case{i:02d}/"
        pipe = AugmentPipe(**case["kwargs"])
        if key + "noise" in arrays:  # the recorded image noise instead of a fresh one
            monkeypatch.setattr(rnd, "randn", lambda size, *a, n=arrays[key + "noise"], **kw: n.reshape(tuple(size)))
        x = arrays[key + "x"].requires_grad_(True)
        y = pipe(x, debug_percentile=case["debug_percentile"])
        (dx,) = torch.autograd.grad(y, x, arrays[key + "v"])
        monkeypatch.undo()
        assert_close(y.detach(), arrays[key + "y"], what=f"{key} {case['name']} output")
        assert_close(dx, arrays[key + "dx"], what=f"{key} {case['name']} gradient")


@pytest.mark.parametrize("path", golden_files("base", "augment*.npz"))
def test_filters_and_identity(path):
    config, arrays = _arrays(path)
    everything = {k: v for case in config["cases"] for k, v in case["kwargs"].items() if k != "imgfilter_bands"}
    pipe, checked = AugmentPipe(**everything), 0
    for name in ("Hz_geom", "Hz_fbank"):
        if name in arrays:
            assert_close(getattr(pipe, name), arrays[name], rel=1e-6, what=name)
            checked += 1
    pipe = AugmentPipe(**{k: v for k, v in everything.items() if k != "imgfilter"})
    pipe.p.zero_()
    if "p0/x" in arrays:
        assert_close(pipe(arrays["p0/x"], rng=torch.Generator().manual_seed(0)), arrays["p0/y"], rel=1e-5)
        checked += 1
    assert checked


@pytest.mark.parametrize("path", golden_files("base", "formulas*.npz"))
def test_controller(path):
    config, arrays = load_npz(path)
    for i, case in enumerate(config["ada"]):
        ada = AdaController(case["ada_target"], case["ada_interval"], case["ada_kimg"], case["p0"])
        trace = [ada.update(r, case["batch_size"]) for r in arrays[f"ada{i}/sign_mean"]]
        assert_close(trace, arrays[f"ada{i}/p"], rel=1e-5, what=f"ada{i}")
