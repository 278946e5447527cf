# SPDX-License-Identifier: Apache-2.0
"""Network pickles of StyleGAN2-ADA and of code built on it: which network it is, its arguments and tensors. With
importers/common.py."""

import json
import pickle

import pytest
import torch

from dnnlib.util import EasyDict, UserError
from gantransfer.data.dataset import DataSpec, LabelSpec
from gantransfer.importers import load_any
from gantransfer.networks import stylegan2, utlo
from tests.formats.test_inert_pickle import EXTRAS
from tests.importers.pickles import (
    SMALL_D,
    SMALL_G,
    Persistent,
    agrees,
    drawn,
    image,
    randomise,
    small_networks,
    write,
)
from tests.made import made


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_protocols(tmp_path, persistence, protocol):
    G, D = small_networks("stylegan2")
    path = write(tmp_path / "network-snapshot-000123.pkl", persistence,
                 dict(G=Persistent(persistence, G, "Generator", SMALL_G),
                      D=Persistent(persistence, D, "Discriminator", SMALL_D)), protocol)
    snap = load_any(path)
    assert snap.method == "stylegan2" and snap.cur_nimg == 123_000
    assert snap.nets["G"].kwargs["mapping_kwargs"] == SMALL_G["mapping_kwargs"]
    for name, net in (("G", G), ("D", D), ("G_ema", G)):  # no average in the file: the generator itself
        built = snap.build(name).state_dict()
        assert all(torch.equal(built[k], t) for k, t in net.state_dict().items())


def test_utlo_is_recognised_and_keeps_its_images(tmp_path, persistence):
    for res_uc, where in ((8, "argument"), (8, "index"), (4, "argument"), (8, "synthesis")):
        G, D = small_networks("utlo", dict(res_uc=res_uc), dict(res_uc=res_uc))
        attributes = dict(noc_ind=(4, 8, 16).index(res_uc))
        kwargs = dict(SMALL_G, res_uc=res_uc) if where == "argument" else SMALL_G
        if where == "synthesis":  # as the published training script passes it
            kwargs = dict(SMALL_G, synthesis_kwargs=dict(SMALL_G["synthesis_kwargs"], res_uc=res_uc))
        saved = Persistent(persistence, G, "Generator", kwargs, **attributes)
        saved.meta["state"]["_modules"]["mapping"].meta["state"]["_buffers"].pop("w_avg_uc", None)  # ours alone
        d_kwargs = SMALL_D if where == "index" else dict(SMALL_D, res_uc=res_uc)
        path = write(tmp_path / "x.pkl", persistence,
                     dict(G=saved, D=Persistent(persistence, D, "Discriminator", d_kwargs), G_ema=saved))
        snap = load_any(path)
        assert snap.method == "utlo" and snap.nets["G"].kwargs["res_uc"] == res_uc == snap.nets["D"].kwargs["res_uc"]
        assert torch.equal(snap.nets["G"].state["mapping.w_avg_uc"], G.state_dict()["mapping.w_avg"])
        assert [r[0] for r in snap.extra["networks"]["G"]["account"]["initialised"]] == ["mapping.w_avg_uc"]
        snap.build("G_ema"), snap.build("D")


def test_transitional_is_recognised(tmp_path, persistence):
    G, D = small_networks("transitional")
    path = write(tmp_path / "x.pkl", persistence, dict(
        G_ema=Persistent(persistence, G, "Generator", SMALL_G), D=Persistent(persistence, D, "Discriminator", SMALL_D)))
    snap = load_any(path)
    assert snap.method == "transitional"
    assert torch.equal(snap.build("G_ema").state_dict()["mapping.transition"], G.state_dict()["mapping.transition"])


def test_arguments_cannot_make_us_allocate(tmp_path, persistence):
    G, _ = small_networks("stylegan2")
    huge = dict(SMALL_G, synthesis_kwargs=dict(channel_base=2**40, channel_max=2**22))
    path = write(tmp_path / "net.pkl", persistence, dict(G=Persistent(persistence, G, "Generator", huge)))
    with pytest.raises(UserError, match="channel_base is 1099511627776, which is too large"):
        load_any(path)


def test_networks_that_do_not_fit(tmp_path, persistence):
    G, D = small_networks("stylegan2")

    def refused(match, **networks):
        path = write(tmp_path / "net.pkl", persistence, networks)
        with pytest.raises(UserError, match=match):
            load_any(path)

    refused("its G is a Encoder instead of a Generator", G=Persistent(persistence, G, "Encoder", SMALL_G))
    refused("cannot be rebuilt.*bananas", G=Persistent(persistence, G, "Generator", dict(SMALL_G, bananas=1)))
    refused("does not fit: synthesis.b4.conv1.affine.weight should be .*6, 9",
            G=Persistent(persistence, G, "Generator", dict(SMALL_G, w_dim=9)))
    refused("discriminator alone", D=Persistent(persistence, D, "Discriminator", SMALL_D))
    more = Persistent(persistence, G, "Generator", SMALL_G)
    more.meta["state"]["_buffers"]["extra"] = torch.zeros(1)
    refused("tensors that our .* lacks, such as extra", G=more)
    less = Persistent(persistence, G, "Generator", SMALL_G)
    less.meta["state"]["_modules"]["mapping"].meta["state"]["_buffers"].clear()
    refused("mapping.w_avg should be .* is missing", G=less)
    positional = Persistent(persistence, G, "Generator", SMALL_G)
    positional.meta["state"]["_init_args"] = (1,) * 8
    refused("8 positional arguments, which have no names", G=positional)
    alien = Persistent(persistence, torch.nn.Sequential(), "Generator", SMALL_G)
    alien.meta["state"]["_buffers"]["synthesis.input.weight"] = torch.zeros(1)
    refused("StyleGAN3", G=alien)


FREE_G = dict(SMALL_G, c_dim=0)


FREE_D = dict(SMALL_D, c_dim=0)


def flat(kwargs):
    """Arguments as the StyleGAN3 code takes them."""
    rest = {k: v for k, v in kwargs.items() if k != "synthesis_kwargs"}
    return {**rest, **kwargs["synthesis_kwargs"], "fused_modconv_default": "inference_only"}


@pytest.mark.parametrize("c_dim", [0, 3])
def test_flat_arguments_of_the_stylegan3_code(tmp_path, persistence, c_dim):
    kwargs = dict(SMALL_G, c_dim=c_dim)
    G = randomise(stylegan2.Generator(**kwargs), 1)
    D = randomise(stylegan2.Discriminator(**dict(SMALL_D, c_dim=c_dim)), 2)
    told = dict(kwargs, synthesis_kwargs=dict(kwargs["synthesis_kwargs"], num_fp16_res=4, conv_clamp=256))
    snaps = {}
    for name, g in (("sg3", flat(kwargs)), ("ada", told), ("told", flat(dict(told, synthesis_kwargs=dict(
            told["synthesis_kwargs"], num_fp16_res=0, conv_clamp=None))))):
        path = write(tmp_path / f"{name}.pkl", persistence, dict(
            G=Persistent(persistence, G, "Generator", g), D=Persistent(persistence, D, "Discriminator", dict(
                SMALL_D, c_dim=c_dim)), G_ema=Persistent(persistence, G, "Generator", g)))
        snaps[name] = load_any(path)
    sg3, ada = snaps["sg3"], snaps["ada"]
    assert sg3.method == "stylegan2" and sg3.nets["G"].kwargs["synthesis_kwargs"] == dict(
        channel_base=64, channel_max=6, num_fp16_res=4, conv_clamp=256)  # what was left out is that code's default
    assert [sg3.nets["D"].kwargs[k] for k in ("num_fp16_res", "conv_clamp")] == [4, 256]
    beta = {k: s.build("G").mapping.w_avg_beta for k, s in snaps.items()}  # training goes on with it
    assert beta == dict(sg3=0.998, ada=0.995, told=0.998)
    assert "num_fp16_res" not in ada.nets["D"].kwargs
    assert [snaps["told"].nets["G"].kwargs["synthesis_kwargs"][k] for k in ("num_fp16_res", "conv_clamp")] == [0, None]
    assert torch.equal(image(sg3.build("G_ema")), image(ada.build("G_ema")))
    dropped = sg3.extra["networks"]["G"]["account"]["dropped"]
    assert any("fused_modconv_default" in row[0] for row in dropped)


def test_that_code_is_also_known_by_what_its_layers_note(tmp_path, persistence):
    kwargs = dict(FREE_G)
    syn = kwargs.pop("synthesis_kwargs")
    G = stylegan2.Generator(**kwargs, synthesis_kwargs=dict(channel_base=32768, channel_max=512))
    saved = Persistent(persistence, G, "Generator", kwargs)  # nothing flat: all sizes are the defaults
    layer = saved.meta["state"]["_modules"]["mapping"].meta["state"]["_modules"]["fc0"]
    layer.meta["state"]["in_features"] = 8
    snap = load_any(write(tmp_path / "x.pkl", persistence, dict(G_ema=saved)))
    assert snap.nets["G_ema"].kwargs["synthesis_kwargs"] == dict(num_fp16_res=4, conv_clamp=256) and syn


def test_positional_arguments_have_names(tmp_path, persistence):
    G, D = small_networks("stylegan2")
    g, d = Persistent(persistence, G, "Generator", {}), Persistent(persistence, D, "Discriminator", {
        k: SMALL_D[k] for k in ("mapping_kwargs", "epilogue_kwargs")})
    g.meta["state"]["_init_args"] = (8, 3, 8, 16, 3, dict(num_layers=2), SMALL_G["synthesis_kwargs"])
    d.meta["state"]["_init_args"] = (3, 16, 3, "resnet", 64, 6)
    snap = load_any(write(tmp_path / "x.pkl", persistence, dict(G=g, D=d, G_ema=g)))
    assert snap.nets["G"].kwargs == SMALL_G
    assert snap.nets["D"].kwargs == dict(SMALL_D, architecture="resnet")
    agrees(snap, G)
    for args, words in (((8,) * 8, "8 positional arguments"), ((8, 3), "argument z_dim twice")):
        g.meta["state"].update(_init_args=args, _init_kwargs=dict(z_dim=8) if len(args) == 2 else {})
        with pytest.raises(UserError, match=words):
            load_any(write(tmp_path / "x.pkl", persistence, dict(G=g)))


def test_utlo_without_label_free_layers(tmp_path, persistence):
    """Its discriminator has an entry of no width, with a filter beside it."""
    G, D = small_networks("utlo", dict(res_uc=0), dict(res_uc=0))
    g = Persistent(persistence, G, "Generator", SMALL_G, noc_ind=-1)
    d = Persistent(persistence, D, "Discriminator", dict(SMALL_D, res_uc=0))
    entry = stylegan2.Conv2dLayer(3, 0, 1)
    d.meta["state"]["_modules"]["fromrgb_uc"] = Persistent(persistence, torch.nn.ModuleDict(dict(fromrgb=entry)),
                                                           "FromRGB")
    snap = load_any(write(tmp_path / "x.pkl", persistence, dict(G=g, D=d, G_ema=g)))
    assert snap.method == "utlo" and snap.nets["G"].kwargs["res_uc"] == 0 == snap.nets["D"].kwargs["res_uc"]
    agrees(snap, G)
    assert {r[0] for r in snap.extra["networks"]["D"]["account"]["dropped"]} == {
        f"fromrgb_uc.fromrgb.{k}" for k in ("weight", "bias", "resample_filter")}
    snap.build("D")


@pytest.mark.parametrize("res_uc", [8, 16])
def test_utlo_judges_small_images_as_the_original_does(tmp_path, persistence, res_uc):
    """With the image's own resolution the original's discriminator takes them in twice; a run goes on with that."""
    G, _ = small_networks("utlo", dict(res_uc=res_uc))
    d_kwargs = dict(SMALL_D, res_uc=res_uc)
    D = drawn(utlo.Discriminator(**d_kwargs, faithful=True), 2).eval()
    ours = utlo.Discriminator(**d_kwargs).eval()
    ours.load_state_dict(D.state_dict())
    g = Persistent(persistence, G, "Generator", SMALL_G, res_uc=res_uc)
    d = Persistent(persistence, D, "Discriminator", d_kwargs)
    snap = load_any(write(tmp_path / "x.pkl", persistence, dict(G=g, D=d, G_ema=g)))
    x = torch.randn(2, 3, res_uc, res_uc)
    torch.testing.assert_close(snap.build("D").forward_uc(x), D.forward_uc(x))
    assert torch.equal(ours.forward_uc(x), D.forward_uc(x)) == (res_uc < 16)

    data = DataSpec("x", 16, 3, 9, LabelSpec("class", 3, counts=(3, 3, 3)))
    trained, again = (made("utlo", data, dict(batch=4, kimg=1), start, cfg="tiny", res_uc=res_uc, z_dim=8, w_dim=8,
                           cbase=64, cmax=6, map_depth=2, aug="noaug") for start in (snap, None))
    again.D.load_state_dict(trained.D.state_dict())
    again.load_state(trained.state())
    for net in (trained.D, again.D, again.snapshot(0).build("D")):
        torch.testing.assert_close(net.eval().forward_uc(x), D.forward_uc(x))


def test_unconditional_transitional_training(tmp_path, persistence):
    """Without labels it is the base but for the name of the one head."""
    G, D = drawn(stylegan2.Generator(**FREE_G)), drawn(stylegan2.Discriminator(**FREE_D), 2)
    x = torch.randn(2, 3, 16, 16)
    expected = D.eval()(x, torch.zeros(2, 0))
    D.b4.out_uc = D.b4.out
    del D.b4.out
    g, d = Persistent(persistence, G, "Generator", FREE_G), Persistent(persistence, D, "Discriminator", FREE_D)
    snap = load_any(write(tmp_path / "x.pkl", persistence, dict(G=g, D=d, G_ema=g)))
    assert snap.method == "stylegan2"
    agrees(snap, G)
    torch.testing.assert_close(snap.build("D")(x, torch.zeros(2, 0)), expected)
    torch.save(dict(G_ema=G.state_dict(), D=D.state_dict()), tmp_path / "x.pt")
    torch.testing.assert_close(load_any(tmp_path / "x.pt").build("D")(x, torch.zeros(2, 0)), expected)


@pytest.mark.parametrize("architecture", ["skip", "resnet"])
def test_a_filter_of_ones_own_is_that_of_the_upsampling_layers_alone(tmp_path, persistence, architecture):
    syn = dict(SMALL_G["synthesis_kwargs"], resample_filter=[1, 4, 6, 4, 1], architecture=architecture)
    kwargs = dict(SMALL_G, synthesis_kwargs=syn)
    G = stylegan2.Generator(**kwargs)
    shapes = {k: tuple(t.shape) for k, t in G.state_dict().items() if k.endswith("resample_filter")}
    assert {s for k, s in shapes.items() if ".conv1." in k} == {(4, 4)}  # published: the standard one, unused
    assert {s for k, s in shapes.items() if ".conv1." not in k} == {(5, 5)}
    g = Persistent(persistence, randomise(G, 1), "Generator", kwargs)
    agrees(load_any(write(tmp_path / "x.pkl", persistence, dict(G_ema=g))), G)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", EXTRAS)
def test_harmless_objects_beside_the_networks(tmp_path, persistence, name, protocol):
    G, _ = small_networks("stylegan2")
    g = Persistent(persistence, G, "Generator", SMALL_G)
    path = write(tmp_path / "x.pkl", persistence, dict(G_ema=g), protocol, extra=EXTRAS[name],
                 training_set_kwargs=EasyDict(path=EXTRAS["path"], max_size=5, more=EXTRAS[name]))
    snap = load_any(path)
    assert snap.data["path"] == "/data/set.zip" and snap.data["name"] == "set"
    json.dumps(snap.extra)
    torch.save(pickle.loads(pickle.dumps(EXTRAS[name])), tmp_path / "y.pt", pickle_protocol=protocol)
    with pytest.raises(UserError, match="not a usable network snapshot"):
        load_any(tmp_path / "y.pt")
