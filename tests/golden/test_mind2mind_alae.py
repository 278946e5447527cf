# SPDX-License-Identifier: Apache-2.0
"""ALAE's networks, schedule and optimiser against published numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from gantransfer.networks import alae
from tests.golden.conftest import assert_close, golden_files, golden_root, load_npz
from torch_utils.lreq_adam import LREQAdam


def tensor(a):
    return torch.from_numpy(np.array(a))


def weights(arrays, prefix):
    names = ("const", "decode_block.", "to_rgb.", "from_rgb.", "encode_block.", "map_blocks.")
    return {k[len(prefix) + 1:]: tensor(v) for k, v in arrays.items()
            if k.startswith(prefix + "/") and k[len(prefix) + 1:].startswith(names)}


def networks(config, arrays):
    """G, E, F, D with the file's weights."""
    n, start, most = config["layer_count"], config["startf"], config["maxf"]
    size, channels = config["latent_size"], config["channels"]
    up = [min(most, start * 2 ** (n - 1 - i)) for i in range(n)]
    down = [min(most, start * 2**j) for j in range(n + 1)]
    nets = (alae.Generator(size, up, channels), alae.Encoder(size, down, channels),
            alae.Mapping(size, config["mapping_layers"], 2 * n), alae.LatentDiscriminator(size))
    for net, prefix in zip(nets, ("G", "E", "mapping_f", "mapping_d")):
        state = weights(arrays, prefix)
        if prefix == "mapping_f":
            state["dlatent_avg.buff"] = tensor(arrays["dlatent_avg/buff"])
        net.load_state_dict(state, strict=True)
    return nets


def noise_of(arrays, prefix):
    count = sum(k.startswith(prefix + "/") for k in arrays)
    return [tensor(arrays[f"{prefix}/{i}"]) for i in range(count)]


@pytest.mark.parametrize("path", golden_files("mind2mind", "alae_modules*.npz"))
def test_modules(path):
    config, arrays = load_npz(path)
    G, E, F, D = networks(config, arrays)
    with torch.no_grad():
        assert_close(F(tensor(arrays["z"])), arrays["F/w"], 2e-5, what="F")
        assert_close(D(tensor(arrays["D/w_in"])), arrays["D/score"], 2e-5, what="D")
        E.eval()
        for case, where in config["cases"].items():
            assert_close(E(tensor(arrays[f"E/x_{case}"]), **where), arrays[f"E/styles_{case}"], 2e-5, what=f"E {case}")
            outputs = [k for k in arrays if k.startswith(f"G/out_{case}_noise_")]
            assert outputs
            for key in outputs:
                noise = noise_of(arrays, key.replace("G/out_", "G/noise_"))
                kw = dict(noise=noise) if noise else dict(noise_mode="none")
                assert_close(G(tensor(arrays["w_in"]), **where, **kw), arrays[key], 2e-5, what=key)


@pytest.mark.parametrize("path", golden_files("mind2mind", "lreq_adam*.npz"))
def test_lreq_adam(path):
    config, arrays = load_npz(path)
    factors = config["lr_equalization_coef"]
    p = {k: torch.nn.Parameter(tensor(arrays[f"init/{k}"])) for k in factors}
    opt = LREQAdam([(p[k], c) for k, c in factors.items()], config["lr"], config["beta2"], config["eps"])
    steps = {int(k.split("/")[1]) for k in arrays if k.startswith("grad/")}
    for i in sorted(steps):
        for k in p:
            p[k].grad = tensor(arrays[f"grad/{i}/{k}"])
        opt.step()
        for k in p:
            assert_close(p[k].detach(), arrays[f"after/{i}/{k}"], 2e-6, what=f"{k} after {i}")
    for k in p:
        assert_close(opt.state[p[k]]["exp_avg_sq"], arrays[f"exp_avg_sq/{k}"], 2e-6, what=k)
    linear = alae.Linear(config["linear"]["in_f"], config["linear"]["out_f"], lrmul=config["linear"]["lrmul"])
    conv = alae.Conv(config["conv"]["cin"], config["conv"]["cout"], config["conv"]["k"], gain=config["conv"]["gain"],
                     bias=True)
    for name, layer in (("linear", linear), ("conv", conv)):
        for key, value in alae.lr_coefficients(layer).items():
            assert value == pytest.approx(factors[f"{name}.{key}"], rel=1e-6)


@pytest.mark.parametrize("path", golden_files("mind2mind", "lod_schedule*.npz"))
def test_schedule(path):
    config, arrays = load_npz(path)
    for name, c in config["schedules"].items():
        for epoch, seen, *expected in arrays[name]:
            got = alae.schedule(int(epoch), int(seen), epochs_per_lod=c["epochs_per_lod"], layers=c["layer_count"],
                                size=c["dataset_size"], batches=c["batches"])
            assert_close(np.array(got, np.float64), np.array(expected), 1e-9, what=f"{name} {epoch} {seen}")


def test_shapes_of_the_published_networks():
    listing = golden_root() / "mind2mind" / "alae_state_dict_shapes.json"
    if not listing.is_file():
        pytest.skip(f"no {listing}")
    from gantransfer.importers.alae import _CLASSES, _part
    for name, entries in json.loads(listing.read_text()).items():
        for entry, key in (("generator", "G"), ("discriminator", "E"), ("mapping_fl", "F"), ("mapping_tl", "D")):
            state = {k: torch.empty(v, device="meta") for k, v in entries[entry].items()}
            average = {k: torch.empty(v, device="meta") for k, v in entries["dlatent_avg"].items()}
            part = _part(key, state, average)
            with torch.device("meta"):
                net = getattr(alae, _CLASSES[key])(**part.kwargs)
            have = {k: list(t.shape) for k, t in net.state_dict().items() if k != "dlatent_avg.buff"}
            assert have == entries[entry], f"{name} {entry}"
