# SPDX-License-Identifier: Apache-2.0
"""The operators against numbers of the reference implementation: value, gradient, second order, float16."""

import pytest
import torch

from tests.golden.conftest import assert_close, cases, golden_files
from torch_utils.ops import bias_act, conv2d_resample, modulated_conv2d, upfirdn2d

GRAD = 2e-3  # the golden README's figure for double backward; 1e-4 elsewhere


def kwargs_of(case):
    return {k: tuple(v) if isinstance(v, list) else v for k, v in case["kwargs"].items()}


def leaf(t):
    return t.clone().requires_grad_(True)


def compare(names, actual, a, rel, what):
    for name, value in zip(names, actual):
        value = torch.zeros_like(a[name]) if value is None else value
        assert_close(value.detach().float().numpy(), a[name].numpy(), rel=rel, floor=1e-6, what=f"{what} {name}")


@pytest.mark.parametrize("impl", ["auto", "ref"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("path", golden_files("base", "upfirdn2d*.npz"))
def test_upfirdn2d(path, layout, impl):
    for what, case, a in cases(path):
        x = leaf(a["x"].contiguous(memory_format=layout))
        y = getattr(upfirdn2d, case["fn"])(x, a.get("f"), **kwargs_of(case), impl=impl)
        compare(["y"], [y], a, 1e-4, what)
        compare(["dx"], torch.autograd.grad(y, x, a["dy"]), a, 1e-4, what)


@pytest.mark.parametrize("path", golden_files("base", "upfirdn2d*.npz"))
def test_setup_filter(config, a):
    for i, case in enumerate(config["setup_filter"]):
        out = upfirdn2d.setup_filter(case["f"], **case["kwargs"])
        assert_close(out.numpy(), a[f"setup{i:02d}/out"], rel=1e-6, what=f"setup_filter[{i}]")


@pytest.mark.parametrize("impl", ["auto", "ref"])
@pytest.mark.parametrize("path", golden_files("base", "bias_act*.npz"))
def test_bias_act(path, impl):
    for what, case, a in cases(path):
        x, dy = leaf(a["x"]), leaf(a["dy"])
        b = leaf(a["b"]) if case["has_bias"] else None
        inputs = [x] if b is None else [x, b]
        y = bias_act.bias_act(x, b, **case["kwargs"], impl=impl)
        compare(["y"], [y], a, 1e-4, what)
        grads = torch.autograd.grad(y, inputs, dy, create_graph=True)
        compare(["dx", "db"], grads, a, 1e-4, what)
        s = sum((g * a[v]).sum() for g, v in zip(grads, ["v_dx", "v_db"]))
        second = torch.autograd.grad(s, [dy, *inputs], allow_unused=True)
        compare(["d2_dy", "d2_x", "d2_b"], second, a, GRAD, what)


@pytest.mark.parametrize("impl", ["auto", "ref"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("path", golden_files("base", "conv2d_resample*.npz"))
def test_conv2d_resample(path, layout, impl):
    for what, case, a in cases(path):
        x, w, dy = leaf(a["x"].contiguous(memory_format=layout)), leaf(a["w"]), leaf(a["dy"])
        y = conv2d_resample.conv2d_resample(x, w, a.get("f"), **kwargs_of(case), impl=impl)
        compare(["y"], [y], a, 1e-4, what)
        dx, dw = torch.autograd.grad(y, [x, w], dy, create_graph=True)
        compare(["dx", "dw"], [dx, dw], a, 1e-4, what)
        second = torch.autograd.grad((dx * a["v_dx"]).sum(), [w, dy])
        compare(["d2_w", "d2_dy"], second, a, GRAD, what)


@pytest.mark.parametrize("formulation", [None, *modulated_conv2d.FORMULATIONS])
@pytest.mark.parametrize("path", golden_files("base", "modulated_conv2d*.npz"))
def test_modulated_conv2d(path, formulation):
    for what, case, a in cases(path):
        x, weight, styles, dy = (leaf(a[k]) for k in ("x", "weight", "styles", "dy"))
        noise = leaf(a["noise"]) if "noise" in a else None
        inputs, names = [x, weight, styles], ["dx", "dweight", "dstyles"]
        if noise is not None:
            inputs, names = inputs + [noise], names + ["dnoise"]
        kw = dict(kwargs_of(case), resample_filter=a.get("f"), formulation=formulation)
        y = modulated_conv2d.modulated_conv2d(x, weight, styles, noise=noise, **kw)
        compare(["y"], [y], a, 1e-4, what)
        grads = torch.autograd.grad(y, inputs, dy, create_graph=True)
        compare(names, grads, a, 1e-4, what)
        second = torch.autograd.grad((grads[2] * a["v_dstyles"]).sum(), [x, weight, styles, dy],
                                     allow_unused=True)
        compare(["d2_x", "d2_weight", "d2_styles", "d2_dy"], second, a, GRAD, what)
        if "y_fp16_scaled" in a:
            half = None if noise is None else noise.detach().half()
            with torch.no_grad():
                y16 = modulated_conv2d.modulated_conv2d(x.half(), weight * 300, styles * 50, noise=half, **kw)
            assert y16.dtype == torch.float16
            compare(["y_fp16_scaled"], [y16], a, 2e-2, what)
