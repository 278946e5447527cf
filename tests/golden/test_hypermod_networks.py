# SPDX-License-Identifier: Apache-2.0
"""Hyper-modulated networks against golden numbers: conversion, layers, images, the StyleGAN2 form."""

import numpy as np
import pytest
import torch

from gantransfer.networks import hypermod, hypermod_stylegan1
from tests.golden.conftest import assert_close, golden_files, load_npz, tensors
from tests.golden.test_hypermod_style1 import generator, noises
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.modulated_conv2d import modulated_conv2d
from torch_utils.ops.upfirdn2d import setup_filter


def hyper_generator(config: dict, state: dict, task: dict, path: str = "classes") -> hypermod_stylegan1.Generator:
    G = hypermod_stylegan1.Generator(config["channels"], config["code_dim"], config["n_mlp"],
                                     config["fused_from_index"],
                                     task_dim=config["task_dim"], n_mlp_task=config["n_mlp_task"],
                                     num_classes=len(task["task.0.weight_orig"]), faithful=True, path=path)
    G.load_state_dict({**state, **{f"classes.{k}": t for k, t in task.items()}})
    return G


@pytest.mark.parametrize("path", golden_files("hypermod", "hyper_generator*.npz"))
@pytest.mark.parametrize("kernels", hypermod.PATHS)
def test_generator(config, a, kernels):
    t = tensors(a)
    G = hyper_generator(config, tensors(a, "HG/"), tensors(a, "T/"), kernels)
    c = torch.eye(config["num_classes"])[t["labels"].long()]
    noise, step = noises(a), config["max_step"]
    with torch.no_grad():
        assert_close(G.classes(c), a["class_vector"], 2e-4)
        features: list[torch.Tensor] = []
        image = G(t["z"], c, noise=noise, step=step, features=features)
        assert_close(image, a["full/image"], 2e-4)
        for k, h in enumerate(features):
            assert_close(h, a[f"full/act{k}"], 2e-4, what=f"block {k}")
        fade = config["fade"]
        assert_close(G(t["z"], c, noise=noise, step=fade["step"], alpha=fade["alpha"]), a["fade/image"], 2e-4)
        first, last = config["mixing_range"]
        ws = G.mapping(t["z"]).clone()
        ws[:, first : last + 1] = G.mapping(t["z2"])[:, first : last + 1]
        assert_close(G.synthesis(ws, classes=G.classes_of(c), noise=noise, step=step), a["mixrange/image"], 2e-4)


@pytest.mark.parametrize("path", golden_files("hypermod", "hyper_generator*.npz"))
def test_layers(config, a):
    t = tensors(a)
    G = hyper_generator(config, tensors(a, "HG/"), tensors(a, "T/"))
    for kind in ("plain", "fused"):
        layer = G.get_submodule(config[f"layer_{kind}"])
        assert layer.fused == (kind == "fused")
        with torch.no_grad():
            gamma, beta, offset = layer.coefficients(t["class_vector"])
            for name, value in (("gamma", gamma), ("beta", beta), ("bias_offset", offset)):
                assert_close(value, a[f"layer_{kind}/{name}"], 2e-4, what=f"{kind} {name}")
            if f"layer_{kind}/kernel" in a:
                assert_close(layer.kernels(t["class_vector"])[0], a[f"layer_{kind}/kernel"], 2e-4)
            n = len(t["class_vector"])
            for route in hypermod.PATHS:
                classes, _ = hypermod.Classes(t["class_vector"], torch.arange(n), route).sorted()
                assert_close(layer(t[f"layer_{kind}/x"], classes), a[f"layer_{kind}/y"], 2e-4, what=f"{kind} {route}")


@pytest.mark.parametrize("path", golden_files("hypermod", "base_generator*.npz"))
def test_conversion(path, config, a):
    """Constants of the conversion; the exact start equals the base; the corrected layers, not the faithful ones."""
    base, noise = generator(config, a), noises(a)
    golden = path.with_name(path.name.replace("base_generator", "hyper_generator"))
    hconfig, arrays = load_npz(golden)
    classes = hconfig["num_classes"]
    G = hypermod_stylegan1.convert(base, classes, task_dim=hconfig["task_dim"], exact=True)
    expected = tensors(arrays, "HG/")
    ours = G.state_dict()
    compared = 0
    for name, value in expected.items():
        if ".task" not in name:
            assert_close(ours[name], value, 2e-4, what=name)
            compared += name.endswith(".W")
    assert compared == 2 * len(config["channels"]) - 1
    z = torch.from_numpy(a["z"])
    c = torch.randn(len(z), classes, generator=torch.Generator().manual_seed(0)).softmax(1)
    with torch.no_grad():
        assert_close(G(z, c, noise=noise), a["full/image"], 2e-4)
        task = hypermod_stylegan1.Generator(**{**G.init_kwargs, "faithful": True})
        task.load_state_dict(ours)
        assert np.abs(task(z, c, noise=noise).numpy() - a["full/image"]).max() > 1e-2


@pytest.mark.parametrize("path", golden_files("hypermod", "sg2_hyperconv*.npz"))
def test_stylegan2_form(config, a):
    t = tensors(a)
    o, i = t["weight"].shape[:2]
    scale = (t["class_vectors"] @ t["A_gamma"].t()).reshape(-1, o, i)
    shift = (t["class_vectors"] @ t["A_beta"].t()).reshape(-1, o, i)
    kernels = hypermod.modulated_kernel(t["weight"], scale, shift)
    assert_close(kernels, a["baked_weight"], 2e-4)
    offset = t["class_vectors"] @ t["B_bias"].t()
    assert_close(offset, a["bias_offset"], 2e-4)
    for up in (1, 2):
        f = setup_filter(config["filter"]) if up > 1 else None
        kw = dict(up=up, padding=config["padding"], flip_weight=up == 1)
        grouped = hypermod.grouped_conv2d(t["x"], kernels[t["labels"].long()], t["styles"], f=f, **kw)
        single = torch.cat([modulated_conv2d(t["x"][n : n + 1], kernels[k], t["styles"][n : n + 1],
                                             resample_filter=f, **kw) for n, k in enumerate(t["labels"].tolist())])
        for y in (grouped, single):
            assert_close(y, a[f"up{up}/conv"], 2e-4)
            y = y + (t["bias"] + offset[t["labels"].long()])[:, :, None, None]
            assert_close(bias_act(y, act="lrelu"), a[f"up{up}/out"], 2e-4)
