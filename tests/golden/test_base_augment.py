# SPDX-License-Identifier: Apache-2.0
"""The augmentation pipe and the ADA controller against the published implementation's numbers."""

import pytest
import torch

from gantransfer.augment.ada import AdaController, AugmentPipe
from tests.golden.conftest import assert_close, cases, golden_files, tensors
from torch_utils import random as rnd


@pytest.mark.parametrize("path", golden_files("base", "augment*.npz"))
def test_fixed_percentiles(path, monkeypatch):
    """Output and input gradient of every case with its transforms forced on."""
    for what, case, a in cases(path):
        pipe = AugmentPipe(**case["kwargs"])
        if "noise" in a:  # the recorded image noise instead of a fresh one
            monkeypatch.setattr(rnd, "randn", lambda size, *_, n=a["noise"], **kw: n.reshape(tuple(size)))
        x = a["x"].requires_grad_(True)
        y = pipe(x, debug_percentile=case["debug_percentile"])
        (dx,) = torch.autograd.grad(y, x, a["v"])
        monkeypatch.undo()
        assert_close(y.detach(), a["y"], what=f"{what} {case['name']} output")
        assert_close(dx, a["dx"], what=f"{what} {case['name']} gradient")


@pytest.mark.parametrize("path", golden_files("base", "augment*.npz"))
def test_filters_and_identity(config, a):
    a = tensors(a)
    everything = {k: v for case in config["cases"] for k, v in case["kwargs"].items() if k != "imgfilter_bands"}
    pipe, checked = AugmentPipe(**everything), 0
    for name in ("Hz_geom", "Hz_fbank"):
        if name in a:
            assert_close(getattr(pipe, name), a[name], rel=1e-6, what=name)
            checked += 1
    pipe = AugmentPipe(**{k: v for k, v in everything.items() if k != "imgfilter"})
    pipe.p.zero_()
    if "p0/x" in a:
        assert_close(pipe(a["p0/x"], rng=torch.Generator().manual_seed(0)), a["p0/y"], rel=1e-5)
        checked += 1
    assert checked


@pytest.mark.parametrize("path", golden_files("base", "formulas*.npz"))
def test_controller(config, a):
    for i, case in enumerate(config["ada"]):
        ada = AdaController(case["ada_target"], case["ada_interval"], case["ada_kimg"], case["p0"])
        trace = [ada.update(r, case["batch_size"]) for r in a[f"ada{i}/sign_mean"]]
        assert_close(trace, a[f"ada{i}/p"], rel=1e-5, what=f"ada{i}")
