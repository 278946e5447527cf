# SPDX-License-Identifier: Apache-2.0
"""StyleGAN v1 networks against golden numbers: images, activations, gradients, fading, truncation, mixing."""

import pytest
import torch

from gantransfer.networks import stylegan1
from tests.golden.conftest import assert_close, golden_files, tensors


def noises(arrays: dict, prefix: str = "noise") -> list[torch.Tensor]:
    return [torch.from_numpy(arrays[f"{prefix}{k}"]) for k in range(sum(f"{prefix}{k}" in arrays for k in range(12)))]


def generator(config: dict, arrays: dict) -> stylegan1.Generator:
    G = stylegan1.Generator(config["channels"], config["code_dim"], config["n_mlp"], config["fused_from_index"])
    G.load_state_dict(tensors(arrays, "G/"))
    return G


def discriminator(config: dict, state: dict) -> stylegan1.Discriminator:
    heads = len(state["final.conv.bias"]) if "final.conv.bias" in state else 0
    n = len(config["channels"])
    D = stylegan1.Discriminator(config["channels"], n - config["fused_from_index"],
                                from_rgb_activate=config["from_rgb_activate"], num_classes=heads)
    D.load_state_dict(state)
    return D


@pytest.mark.parametrize("path", golden_files("hypermod", "base_generator*.npz"))
def test_generator(config, a):
    G, noise, t = generator(config, a), noises(a), tensors(a)
    step = config["max_step"]
    with torch.no_grad():
        ws = G.mapping(t["z"])
        assert_close(ws[:, 0], a["w"], 2e-4, what="w")
        features: list[torch.Tensor] = []
        assert_close(G.synthesis(ws, noise=noise, step=step, alpha=-1, features=features), a["full/image"], 2e-4)
        for k, h in enumerate(features):
            assert_close(h, a[f"full/act{k}"], 2e-4, what=f"block {k}")
        fade = config["fade"]
        assert_close(G.synthesis(ws, noise=noise, step=fade["step"], alpha=fade["alpha"]), a["fade/image"], 2e-4)
        assert_close(G.synthesis(ws, noise=noise, step=0), a["step0/image"], 2e-4)
        mean = G.style(t["trunc/z_mean_batch"]).mean(0, keepdim=True)
        assert_close(mean, a["trunc/mean_style"], 2e-4)
        cut = torch.lerp(mean, ws, config["trunc_psi"])
        assert_close(G.synthesis(cut, noise=noise, step=step), a["trunc/image"], 2e-4)
        first, last = config["mixing_range"]
        mixed = ws.clone()
        mixed[:, first : last + 1] = G.mapping(t["z2"])[:, first : last + 1]
        assert_close(G.synthesis(mixed, noise=noise, step=step), a["mixrange/image"], 2e-4)
    z = t["z"].clone().requires_grad_(True)
    (G(z, noise=noise, step=step) * t["grad/R"]).sum().backward()
    assert_close(z.grad, a["grad/z"], 2e-3)
    parameters = dict(G.named_parameters())
    checked = 0
    for name, expected in tensors(a, "grad/G/").items():
        assert_close(parameters[name].grad, expected, 2e-3, what=name)
        checked += 1
    assert checked


@pytest.mark.parametrize("path", golden_files("hypermod", "base_discriminator*.npz"))
def test_discriminator(config, a):
    D = discriminator(config, tensors(a, "D/"))
    for case, alpha in (("full", 1), ("fade", config["fade"]["alpha"])):
        image = torch.from_numpy(a[f"{case}/image"]).requires_grad_(True)
        logits = D(image, alpha=alpha)
        assert_close(logits.detach(), a[f"{case}/logits"], 2e-4, what=case)
        logits.sum().backward()
        assert_close(image.grad, a[f"{case}/grad_image"], 2e-3, what=case)
    with torch.no_grad():
        assert_close(D(torch.from_numpy(a["full/image"][:1])), a["batch1/logits"], 2e-4)
