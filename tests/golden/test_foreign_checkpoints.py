# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in the published structure, made of golden tensors: every one arrives, sizes are read off shapes. With
importers/mindgan.py."""

import json

import pytest
import torch

from dnnlib.util import UserError
from gantransfer.importers import load_any
from tests.golden.conftest import golden_file, golden_files, tensors


def states(arrays, *prefixes):
    """State dicts out of keys 'prefix/name'."""
    return [tensors(arrays, f"{p}/") for p in prefixes]


def same(record, state):
    assert set(record.state) == set(state)
    assert all(torch.equal(record.state[k], t) for k, t in state.items())


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("path", golden_files("hypermod", "base_generator*.npz"))
def test_stylegan1(config, a, legacy, tmp_path):
    (G,) = states(a, "G")
    wrapped = {f"module.{k}": t for k, t in G.items()}
    for content in (G, wrapped, dict(generator=wrapped, g_running=G, g_optimizer=dict(state={}, param_groups=[]))):
        torch.save(content, tmp_path / "x.model", _use_new_zipfile_serialization=not legacy)
        snap = load_any(tmp_path / "x.model")
        assert snap.extra["format"] == "rosinality-stylegan1"
        same(snap.nets["G_ema"], G)
        kwargs = snap.nets["G_ema"].kwargs
        assert (kwargs["channels"], kwargs["code_dim"], kwargs["n_mlp"], kwargs["fused_from"]) == (
            config["channels"], config["code_dim"], config["n_mlp"], config["fused_from_index"])
    assert "g_optimizer" in snap.extra["left_out"]


@pytest.mark.parametrize("path", golden_files("hypermod", "hyper_generator*.npz"))
def test_hyper_modulation(config, a, tmp_path):
    (G,) = states(a, "HG")
    T = next(s for s in states(a, *sorted({k.split("/")[0] for k in a})) if "task.0.weight_orig" in s)
    T = {k: t for k, t in T.items() if k.startswith("task.")}
    for content in (dict(generator=G, task=T), dict(generator=G, g_running=G, task_g=T, t_running_g=T)):
        torch.save(content, tmp_path / "x.model")
        snap = load_any(tmp_path / "x.model")
        assert snap.method == "hypermod" and snap.data["label"]["dim"] == config["num_classes"]
        same(snap.nets["G_ema"], G)
        same(snap.nets["T_ema"], T)
        assert snap.nets["G_ema"].kwargs["task_dim"] == config["task_dim"]


@pytest.mark.parametrize("path", golden_files("mind2mind", "alae_modules*.npz"))
def test_alae(config, a, tmp_path):
    G, E, F, D = states(a, "G", "E", "mapping_f", "mapping_d")
    G, E = ({k: t for k, t in state.items() if k.startswith(("const", "decode_", "encode_", "to_rgb.", "from_rgb."))}
            for state in (G, E))  # the rest of them are outputs
    width = config["latent_size"]
    buff = torch.arange(2 * config["layer_count"] * width, dtype=torch.float32).reshape(-1, width)
    models = dict(discriminator=E, generator=G, mapping_tl=D, mapping_fl=F, dlatent_avg=dict(buff=buff),
                  discriminator_s=E, generator_s=G, mapping_tl_s=D, mapping_fl_s=F)
    torch.save(dict(models=models, auxiliary=dict(scheduler={"a": 1})), tmp_path / "x.pth")
    snap = load_any(tmp_path / "x.pth")
    assert set(snap.nets) == {"G", "E", "F", "D", "G_ema", "E_ema", "F_ema", "D_ema"}
    same(snap.nets["G_ema"], G)
    same(snap.nets["E_ema"], E)
    same(snap.nets["D"], D)
    same(snap.nets["F_ema"], {**F, "dlatent_avg.buff": buff})
    assert snap.nets["G"].kwargs["latent_size"] == width and snap.data["channels"] == config["channels"]
    assert len(snap.nets["G"].kwargs["channels"]) == config["layer_count"]
    assert snap.nets["F"].kwargs == dict(latent_size=width, num_layers=config["mapping_layers"],
                                         num_ws=2 * config["layer_count"])
    assert "auxiliary/scheduler" in snap.extra["left_out"]
    del models["generator_s"]["decode_block.1.blur.weight"]
    torch.save(dict(models=models), tmp_path / "x.pth")
    with pytest.raises(UserError, match="decode_block.1.blur.weight"):
        load_any(tmp_path / "x.pth")


@pytest.mark.parametrize("name", ["celeba", "mnist"])
def test_alae_of_the_published_sizes(name, tmp_path):
    listing = golden_file("mind2mind", "alae_state_dict_shapes.json")
    shapes = json.loads(listing.read_text()).get(name)
    if shapes is None:
        pytest.skip(f"no {name} in {listing}")
    models = {m + s: {k: torch.zeros(1).expand(v) for k, v in entries.items()} for m, entries in shapes.items()
              for s in ("", "_s") if not (m == "dlatent_avg" and s)}
    torch.save(dict(models={m: {k: t.clone() for k, t in s.items()} for m, s in models.items()}), tmp_path / "x.pth")
    snap = load_any(tmp_path / "x.pth")
    assert snap.data["resolution"] == {"celeba": 128, "mnist": 32}[name]
    assert sum(len(r.state) for r in snap.nets.values()) == sum(map(len, models.values())) + 1  # the mean, twice


@pytest.mark.parametrize("path", golden_files("mind2mind", "mindgan*.npz"))
def test_mindgan(config, a, tmp_path):
    M, K = states(a, "G", "C")
    torch.save({"Time": 1.5, "Critic": K, "Generator": M, "Critic loss": [0.1], "optims": {}}, tmp_path / "x.pth")
    snap = load_any(tmp_path / "x.pth")
    same(snap.nets["M"], M)
    same(snap.nets["K"], K)
    assert snap.nets["M"].kwargs["sizes"] == [config["z_dim"], *config["hidden_g"], config["latent_dim"]]
    assert set(snap.extra["left_out"]) == {"Time", "Critic loss", "optims"}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("path", golden_files("cgantransfer", "*_forward.npz"))
def test_biggan(config, a, legacy, tmp_path):
    G, D = states(a, "G", "D")
    for name, state in dict(G=G, D=D, G_ema=G).items():
        torch.save(state, tmp_path / f"{name}.pth", _use_new_zipfile_serialization=not legacy)
    torch.save(dict(itr=7, epoch=1, config=dict(batch_size=4, BN_eps=config["BN_eps"], SN_eps=config["SN_eps"],
                                                **{k: config[k] for k in ("num_G_SV_itrs", "num_D_SV_itrs")},
                                                act=torch.nn.ReLU(inplace=True))),
               tmp_path / "state_dict.pth", _use_new_zipfile_serialization=not legacy)
    snap = load_any(tmp_path)
    for name, state in dict(G=G, D=D, G_ema=G).items():
        same(snap.nets[name], state)
    kwargs = snap.nets["G"].kwargs
    for key in ("resolution", "n_classes", "G_ch", "G_attn", "G_shared", "hier", "BN_eps", "SN_eps"):
        assert kwargs[key] == config[key], key
    assert kwargs["dim_z"] == config["eff_dim_z"]
    assert kwargs.get("n_pretrain_classes") == config.get("n_pretrain_classes")
    assert snap.nets["D"].kwargs["D_ch"] == config["D_ch"] and snap.nets["D"].kwargs["D_attn"] == config["D_attn"]
    assert snap.cur_nimg == 28 and "assumed" not in snap.extra
    assert snap.method == ("cgantransfer" if "n_pretrain_classes" in config else "biggan")
