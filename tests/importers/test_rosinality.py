# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the other StyleGAN2. With importers/account.py and importers/ledger.py."""

import pytest
import torch

import gantransfer
from dnnlib.util import UserError
from gantransfer.importers import load_any
from tests.commands.test_convert import small


def rosinality(net, noises=True):
    """A generator of ours under rosinality's names: written from the published structure, the other way round."""
    s, out = net.state_dict(), {}
    f = torch.tensor([1.0, 3, 3, 1])
    kernel = torch.outer(f, f) / f.sum() ** 2 * 4
    for i in range(net.mapping.num_layers):
        for k in ("weight", "bias"):
            out[f"style.{i + 1}.{k}"] = s[f"mapping.fc{i}.{k}"]
    out["input.input"] = s["synthesis.b4.const"][None]

    def conv(theirs, ours):
        out[f"{theirs}.conv.weight"] = s[f"{ours}.weight"][None]
        for k in ("weight", "bias"):
            out[f"{theirs}.conv.modulation.{k}"] = s[f"{ours}.affine.{k}"]

    def layer(theirs, ours, index):
        conv(theirs, ours)
        out[f"{theirs}.noise.weight"] = s[f"{ours}.noise_strength"].reshape(1)
        out[f"{theirs}.activate.bias"] = s[f"{ours}.bias"]
        if noises:
            out[f"noises.noise_{index}"] = s[f"{ours}.noise_const"][None, None]

    def rgb(theirs, ours):
        conv(theirs, ours)
        out[f"{theirs}.bias"] = s[f"{ours}.bias"].reshape(1, -1, 1, 1)

    layer("conv1", "synthesis.b4.conv1", 0)
    rgb("to_rgb1", "synthesis.b4.torgb")
    for i, res in enumerate(r for r in (8, 16, 32, 64) if r <= net.img_resolution):
        layer(f"convs.{2 * i}", f"synthesis.b{res}.conv0", 2 * i + 1)
        layer(f"convs.{2 * i + 1}", f"synthesis.b{res}.conv1", 2 * i + 2)
        rgb(f"to_rgbs.{i}", f"synthesis.b{res}.torgb")
        out[f"convs.{2 * i}.conv.blur.kernel"] = out[f"to_rgbs.{i}.upsample.kernel"] = kernel
    return out


@pytest.mark.parametrize("sizes", [dict(), dict(synthesis_kwargs={"channel_base": 64, "channel_max": 16}),
                                   dict(img_resolution=64, synthesis_kwargs={"channel_base": 256, "channel_max": 8})])
def test_rosinality_stylegan2(sizes, tmp_path, call):
    net = small(0, **sizes)
    g = rosinality(net)
    torch.save(dict(g={f"module.{k}": t for k, t in g.items()}, g_ema=g, g_optim=dict(state={}, param_groups=[]),
                    ada_aug_p=0.3, latent_avg=net.mapping.w_avg), tmp_path / "x.pt")
    out = call("convert", tmp_path / "x.pt", tmp_path / "x.pkl").stdout
    assert "style.1.weight -> mapping.fc0.weight" in out and "dropped" in out and "not taken: g_optim" in out
    snap = gantransfer.load(tmp_path / "x.pkl")
    assert snap.extra["format"] == "rosinality-stylegan2" and snap.method == "stylegan2"
    z = torch.randn(2, 4)
    with torch.no_grad():
        expected = net(z, None, noise_mode="const", truncation_psi=0.5)
        made = snap.build("G_ema")(z, None, noise_mode="const", truncation_psi=0.5)
    assert torch.allclose(made, expected, atol=1e-5) and snap.sampler()(seeds=[0]).shape[0] == 1
    for key, value in net.state_dict().items():  # noise maps too, which images show only where the strength is large
        assert torch.equal(snap.nets["G_ema"].state[key], value), key
    account = snap.extra["networks"]["G_ema"]["account"]
    taken = [r[0] for r in account["renamed"]] + [r[0] for r in account["dropped"]]
    assert sorted(taken) == sorted([*g, "latent_avg"]), "every foreign tensor is accounted for"
    made = [r[1] for r in account["renamed"]] + [r[0] for r in account["initialised"]]
    assert sorted(made) == sorted(snap.nets["G_ema"].state), "and each of ours"


def test_rosinality_that_does_not_fit(tmp_path):
    def refused(says, **changes):
        g = rosinality(small(0), noises=False)
        for key, value in changes.items():
            if value is None:
                del g[key]
            else:
                g[key] = value
        torch.save(g, tmp_path / "x.pt")
        with pytest.raises(UserError, match=says) as e:
            load_any(tmp_path / "x.pt")
        assert "\n" not in str(e.value)

    refused("convs.1.noise.weight is missing", **{"convs.1.noise.weight": None})
    refused("1 tensors that our network lacks, such as surplus", surplus=torch.zeros(1))
    refused("does not fit: synthesis.b4.conv1.bias", **{"conv1.activate.bias": torch.zeros(1)})  # never a broadcast
    refused(r"filter convs.0.conv.blur.kernel is not", **{"convs.0.conv.blur.kernel": torch.ones(4, 4)})
    torch.save(rosinality(small(0), noises=False), tmp_path / "x.pt")
    account = load_any(tmp_path / "x.pt").extra["networks"]["G_ema"]["account"]
    rows = {target: why for target, why in account["initialised"]}
    assert "no noise maps" in rows["synthesis.b16.conv1.noise_const"] and "mean of" in rows["mapping.w_avg"]
