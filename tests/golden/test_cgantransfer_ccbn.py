# SPDX-License-Identifier: Apache-2.0
"""Class-conditional batch norm against numbers of the reference implementation and their float64 counterparts."""

import pytest
import torch

from tests.golden.conftest import assert_close, cases, golden_files
from torch_utils.ops.cond_batch_norm import cond_batch_norm


@pytest.mark.parametrize("impl", ["auto", "ref"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("path", golden_files("cgantransfer", "op_ccbn*.npz"))
def test_ccbn(path, mode, layout, impl):
    for what, case, a in cases(path, "case{}/"):
        ratio = abs(case["mean"]) / case["std"]
        rel = 1e-5 + 2**-24 * ratio * 2
        x, gain, bias = (a[k].clone() for k in ("x", "gain", "bias"))
        x = x.contiguous(memory_format=layout).requires_grad_()
        gain.requires_grad_()
        bias.requires_grad_()
        buffers = a["running_mean"].clone(), a["running_var"].clone()
        kw = dict(training=mode == "train", momentum=case["momentum"], eps=case["eps"], impl=impl)
        y = cond_batch_norm(x, gain, bias, *buffers, **kw)
        grads = torch.autograd.grad(y, [x, gain, bias], a["dy"])
        for name, value in zip(("out", "dx", "dgain", "dbias"), (y, *grads)):
            truth = a[f"{mode}/f64_{name}"]
            assert_close(value.detach().numpy(), truth.numpy(), rel=rel if name == "out" else rel * 20, floor=1e-6,
                         what=f"{what} {mode} {name}")
        for name, value in zip(("running_mean", "running_var"), buffers):
            assert_close(value.numpy(), a[f"{mode}/{name}_after"].numpy(), rel=1e-3 if "var" in name else 1e-5,
                         what=f"{what} {mode} {name}")
        up = cond_batch_norm(x, gain, bias, a["running_mean"].clone(), a["running_var"].clone(), act="relu", up=2, **kw)
        assert_close(up.sum((2, 3)).detach().numpy(), a[f"{mode}/f64_relu_up2_sum"].numpy(), rel=rel * 5, floor=1e-5,
                     what=f"{what} {mode} relu up2")


@pytest.mark.parametrize("impl", ["auto", "ref"])
@pytest.mark.parametrize("path", golden_files("cgantransfer", "op_ccbn*.npz"))
def test_ccbn_second_order(path, impl):
    for what, case, a in cases(path, "case{}/"):
        x, gain, bias, dy = (a[k].double().requires_grad_() for k in ("x", "gain", "bias", "dy"))
        for mode in ("train", "eval"):
            y = cond_batch_norm(x, gain, bias, a["running_mean"].double(), a["running_var"].double(),
                                training=mode == "train", eps=case["eps"], impl=impl)
            (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
            second = torch.autograd.grad((dx * a["v"]).sum(), [x, gain, dy], allow_unused=True)
            for name, value in zip(("dd_x", "dd_gain", "dd_dy"), second):
                if f"{mode}/f64_{name}" in a:
                    assert_close(value.numpy(), a[f"{mode}/f64_{name}"].numpy(), rel=1e-6, floor=1e-9,
                                 what=f"{what} {mode} {name}")


@pytest.mark.parametrize("path", golden_files("cgantransfer", "op_ccbn*.npz"))
def test_standing_statistics_accumulate_sums(path):
    for _, case, a in cases(path, "case{}/"):
        mean, var, counter = torch.zeros_like(a["running_mean"]), torch.zeros_like(a["running_var"]), torch.zeros(1)
        x = a["x"].double()
        for part in (x, x * 0.5, x + 1):
            cond_batch_norm(part.float(), running_mean=mean, running_var=var, counter=counter, eps=case["eps"])
        y = cond_batch_norm(a["x"], a["gain"], a["bias"], mean, var, training=False, counter=counter, eps=case["eps"])
        parts = [x, x * 0.5, x + 1]
        m = sum(p.mean((0, 2, 3)) for p in parts) / 3
        v = sum(p.var((0, 2, 3), correction=0) for p in parts) / 3
        truth = (x - m[:, None, None]) / (v + case["eps"]).sqrt()[:, None, None]
        truth = truth * a["gain"][:, :, None, None] + a["bias"][:, :, None, None]
        ratio = abs(case["mean"]) / case["std"]
        assert counter.item() == 3
        assert_close(y.numpy(), truth.numpy(), rel=1e-5 + 2**-22 * ratio)
