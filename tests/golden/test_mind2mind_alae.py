# SPDX-License-Identifier: Apache-2.0
"""ALAE's networks, schedule and optimiser against published numbers."""

import json

import numpy as np
import pytest
import torch

from gantransfer.data.dataset import DataSpec
from gantransfer.methods import METHODS
from gantransfer.methods.alae import Draws
from gantransfer.networks import alae
from tests.golden.conftest import assert_close, golden_file, golden_files, tensor, tensors
from tests.golden.training import batch_of
from tests.made import made, train_only
from torch_utils.lreq_adam import LREQAdam


def weights(arrays, prefix):
    names = ("const", "decode_block.", "to_rgb.", "from_rgb.", "encode_block.", "map_blocks.")
    return {k: t for k, t in tensors(arrays, f"{prefix}/").items() if k.startswith(names)}


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
            state["dlatent_avg.buff"] = tensor(arrays.get("dlatent_avg/buff", np.zeros([2 * n, size], np.float32)))
        net.load_state_dict(state, strict=True)
    return nets


def noise_of(arrays, prefix):
    count = sum(k.startswith(prefix + "/") for k in arrays)
    return [tensor(arrays[f"{prefix}/{i}"]) for i in range(count)]


@pytest.mark.parametrize("path", golden_files("mind2mind", "alae_modules*.npz"))
def test_modules(config, a):
    G, E, F, D = networks(config, a)
    with torch.no_grad():
        assert_close(F(tensor(a["z"])), a["F/w"], 2e-5, what="F")
        assert_close(D(tensor(a["D/w_in"])), a["D/score"], 2e-5, what="D")
        E.eval()
        for case, where in config["cases"].items():
            assert_close(E(tensor(a[f"E/x_{case}"]), **where), a[f"E/styles_{case}"], 2e-5, what=f"E {case}")
            outputs = [k for k in a if k.startswith(f"G/out_{case}_noise_")]
            assert outputs
            for key in outputs:
                noise = noise_of(a, key.replace("G/out_", "G/noise_"))
                kw = dict(noise=noise) if noise else dict(noise_mode="none")
                assert_close(G(tensor(a["w_in"]), **where, **kw), a[key], 2e-5, what=key)


@pytest.mark.parametrize("path", golden_files("mind2mind", "lreq_adam*.npz"))
def test_lreq_adam(config, a):
    factors = config["lr_equalization_coef"]
    p = {k: torch.nn.Parameter(tensor(a[f"init/{k}"])) for k in factors}
    opt = LREQAdam([(p[k], c) for k, c in factors.items()], config["lr"], config["beta2"], config["eps"])
    steps = {int(k.split("/")[1]) for k in a if k.startswith("grad/")}
    for i in sorted(steps):
        for k in p:
            p[k].grad = tensor(a[f"grad/{i}/{k}"])
        opt.step()
        for k in p:
            assert_close(p[k].detach(), a[f"after/{i}/{k}"], 2e-6, what=f"{k} after {i}")
    for k in p:
        assert_close(opt.state[p[k]]["exp_avg_sq"], a[f"exp_avg_sq/{k}"], 2e-6, what=k)
    gain = {"sqrt(2)": 2**0.5}.get(config["linear"]["gain"], config["linear"]["gain"])
    linear = alae.Linear(config["linear"]["in_f"], config["linear"]["out_f"], gain=gain,
                         lrmul=config["linear"]["lrmul"])
    conv = alae.Conv(config["conv"]["cin"], config["conv"]["cout"], config["conv"]["k"], gain=config["conv"]["gain"],
                     bias=True)
    for name, layer in (("linear", linear), ("conv", conv)):
        for key, value in alae.lr_coefficients(layer).items():
            assert value == pytest.approx(factors[f"{name}.{key}"], rel=1e-6)


@pytest.mark.parametrize("path", golden_files("mind2mind", "lod_schedule*.npz"))
def test_schedule(config, a):
    for name, c in config["schedules"].items():
        for epoch, seen, *expected in a[name]:
            got = alae.schedule(int(epoch), int(seen), epochs_per_lod=c["epochs_per_lod"], layers=c["layer_count"],
                                size=c["dataset_size"], batches=c["batches"])
            assert_close(np.array(got, np.float64), np.array(expected), 1e-9, what=f"{name} {epoch} {seen}")


def test_shapes_of_the_published_networks():
    listing = golden_file("mind2mind", "alae_state_dict_shapes.json")
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


def method_of(config, arrays):
    """The method with the file's networks, at the file's level, without style mixing of its own."""
    nets = dict(zip(("G", "E", "F", "D"), networks(config, arrays)))

    class Golden(METHODS["alae"]):
        w_avg_beta = config["dlatent_avg_beta"]

        def build(self):
            return nets

    data = DataSpec("golden", 4 * 2 ** (config["layer_count"] - 1), config["channels"], 100)
    m = made(Golden, data, dict(batch=config["batch"]), cfg="tiny", gamma=config.get("r1_gamma", 10.0), style_mix=0.0)
    m.phases()
    m.level = (config["lod"], config["blend"])
    return m


@pytest.mark.parametrize("path", golden_files("mind2mind", "alae_generate*.npz"))
def test_generate(config, a):
    """Average, then mixing, then truncation."""
    m = method_of(config, a)
    z, mix = tensor(a["z"]), tensor(a["z2"])
    batch = batch_of(torch.zeros(len(z), config["channels"], m.data.resolution, m.data.resolution))
    with torch.no_grad():
        cut, noise = int(a["mixing_cutoff"]), noise_of(a, "noise")
        image, w = m.generate("G", Draws(z, mix, cut, noise), batch)
        assert_close(w, a["s"], 2e-5, what="s")
        where = dict(lod=config["lod"], blend=config["blend"])
        assert_close(image, m.G(m.F(z, mix_z=mix, cutoff=cut), noise=noise, **where), 1e-6, what="mixing")
        m.end_step(0, len(z))
        assert_close(m.F.dlatent_avg.buff, a["dlatent_avg_after"], 2e-5, what="average")
        assert_close(m.nets["F_ema"].dlatent_avg.buff, a["dlatent_avg_after"], 2e-5, what="average of the copy")
        trunc = dict(truncation_psi=config["truncation_psi"], truncation_cutoff=config["truncation_cutoff"])
        image = m.G(m.F(z, mix_z=mix, cutoff=cut, **trunc), noise=noise, **where)
        assert_close(image, a["image"], 2e-5, what="image")
        image = m.G(m.F(z, **trunc), noise=noise_of(a, "trunc_noise"), **where)
        assert_close(image, a["trunc_image"], 2e-5, what="truncated image")


@pytest.mark.parametrize("path", golden_files("mind2mind", "alae_losses*.npz"))
def test_losses_and_gradients(config, a):
    m = method_of(config, a)
    x = tensor(a["x_real"])  # at its level already
    m.real = lambda images: images
    names = dict(G="G", E="E", F="mapping_f", D="mapping_d")
    for phase, prefix in (("D", "loss_d"), ("G", "loss_g"), ("AE", "loss_ae")):
        (own,) = [p for p in m.phases() if p.name == phase]
        m.draw = lambda p, b, prefix=prefix: Draws(tensor(a[f"{prefix}/z"]),
                                                   noise=noise_of(a, f"{prefix}/noise"))
        reports = {}
        m.report = lambda key, value, reports=reports: reports.__setitem__(key, float(value.detach().mean()))
        train_only(m, own.params)
        value = next(m.loss(phase, batch_of(x))).mean()
        value.backward()
        assert float(value.detach()) == pytest.approx(float(a[f"{prefix}/value"]), rel=2e-5)
        if phase == "D":
            assert reports["Loss/r1"] == pytest.approx(float(a["r1_term"]), rel=1e-4)
            with torch.no_grad():
                assert_close(m.score(x), a["d_real"], 2e-5, what="d_real")
        mine = {id(p) for p in own.params}
        checked = 0
        for name, golden in names.items():
            for key, p in m.nets[name].named_parameters():
                expected = a.get(f"{prefix}/grad/{golden}/{key}")
                if id(p) not in mine:
                    continue
                if expected is None:
                    assert p.grad is None or float(p.grad.abs().max()) < 1e-6, f"{prefix} {name}.{key}"
                else:
                    assert_close(p.grad, expected, 3e-4, what=f"{prefix} {name}.{key}")
                    checked += 1
        assert checked
        if phase == "D":
            level, _ = m.level, m.end_step(0, len(x))
            m.level = level
            assert_close(m.F.dlatent_avg.buff, a["loss_d/dlatent_avg_after"], 2e-5, what="average")
