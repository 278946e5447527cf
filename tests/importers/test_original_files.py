# SPDX-License-Identifier: Apache-2.0
"""Files as the original code and its users write them: what loads, with which images, and what is refused by name."""

import argparse
import datetime
import json
import pathlib
import pickle
import types
import warnings

import numpy as np
import pytest
import torch

from dnnlib.util import EasyDict, UserError, run_cli
from gantransfer import importers
from gantransfer.commands import calc_metrics, stages, train
from gantransfer.data.dataset import DataSpec, ImageDataset, LabelSpec
from gantransfer.formats import inert_pickle
from gantransfer.importers import load_any, strangers
from gantransfer.networks import alae, biggan, stylegan2, utlo
from tests.conftest import write_image_zip
from tests.importers.test_importers import SMALL_D, SMALL_G, Persistent, persistence, randomise, small_networks, write  # noqa: F401
from tests.made import made

FREE_G = dict(SMALL_G, c_dim=0)
FREE_D = dict(SMALL_D, c_dim=0)


def image(G, psi=1.0):
    """[2, 3, 16, 16] of fixed latents, labels and noise."""
    z = torch.from_numpy(np.random.RandomState(4).randn(2, 8)).float()
    with torch.no_grad():
        return G(z, torch.eye(3)[[0, 2]][:, : G.c_dim], truncation_psi=psi, noise_mode="const", force_fp32=True)


def agrees(snap, G, name="G_ema"):
    for psi in (1.0, 0.6):
        torch.testing.assert_close(image(snap.build(name), psi), image(G.eval(), psi), rtol=1e-5, atol=1e-5)


def drawn(net, seed=1):
    """Fresh weights, none of the constants left at zero."""
    torch.manual_seed(seed)
    for name, t in net.state_dict().items():
        if name.endswith(("bias", "noise_strength", "w_avg")):
            t.normal_(0, 0.3)
    return net


def flat(kwargs):
    """Arguments as the StyleGAN3 code takes them."""
    rest = {k: v for k, v in kwargs.items() if k != "synthesis_kwargs"}
    return {**rest, **kwargs["synthesis_kwargs"], "fused_modconv_default": "inference_only"}


# ---- the StyleGAN2 of the StyleGAN3 code ---------------------------------------------------------------------------


@pytest.mark.parametrize("c_dim", [0, 3])
def test_flat_arguments_of_the_stylegan3_code(tmp_path, persistence, c_dim):  # noqa: F811
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


def test_that_code_is_also_known_by_what_its_layers_note(tmp_path, persistence):  # noqa: F811
    kwargs = dict(FREE_G)
    syn = kwargs.pop("synthesis_kwargs")
    G = stylegan2.Generator(**kwargs, synthesis_kwargs=dict(channel_base=32768, channel_max=512))
    saved = Persistent(persistence, G, "Generator", kwargs)  # nothing flat: all sizes are the defaults
    layer = saved.meta["state"]["_modules"]["mapping"].meta["state"]["_modules"]["fc0"]
    layer.meta["state"]["in_features"] = 8
    snap = load_any(write(tmp_path / "x.pkl", persistence, dict(G_ema=saved)))
    assert snap.nets["G_ema"].kwargs["synthesis_kwargs"] == dict(num_fp16_res=4, conv_clamp=256) and syn


def test_relatives_are_refused_by_name(tmp_path, persistence):  # noqa: F811
    G, _ = small_networks("stylegan2")
    alien = Persistent(persistence, torch.nn.Sequential(), "Generator", SMALL_G)
    alien.meta["state"]["_buffers"]["synthesis.input.freqs"] = torch.zeros(1)
    xl = Persistent(persistence, torch.nn.Sequential(), "SuperresGenerator", SMALL_G)
    kinds = {"StyleGAN3 generator": dict(G=alien), "SuperresGenerator": dict(G_ema=xl)}
    for words, nets in kinds.items():
        with pytest.raises(UserError, match=words):
            load_any(write(tmp_path / "x.pkl", persistence, nets))

    def global_of(module, name):
        return b"\x80\x02}X\x01\x00\x00\x00Gc" + f"{module}\n{name}\n".encode() + b")\x81s."

    for module, name, words in (("pg_modules.discriminator", "ProjectedDiscriminator", "StyleGAN-XL or Projected GAN"),
                                ("timm.models.efficientnet", "EfficientNet", "StyleGAN-XL or Projected GAN"),
                                ("networks.generator", "Generator", "StyleGAN-T"),
                                ("training.triplane", "TriPlaneGenerator", "EG3D")):
        (tmp_path / "x.pkl").write_bytes(global_of(module, name))
        with pytest.raises(UserError, match=f"of a {words}.*{module}.{name}.*StyleGAN2 can be read"):
            load_any(tmp_path / "x.pkl")
    torch.save({"synthesis.input.freqs": torch.zeros(2), "mapping.fc0.weight": torch.zeros(2, 2)}, tmp_path / "s.pt")
    with pytest.raises(UserError, match="StyleGAN3 generator"):
        load_any(tmp_path / "s.pt")
    assert strangers.by_pickle(pickle.dumps(dict(a=1))) is None
    for name, words in (("mapping.x_avg", "StyleGAN-T"), ("mapping.clip.model.x", "StyleGAN-T"),
                        ("synthesis.b4.input.const", "StyleGAN-T"), ("mapping.embed_proj.weight", "StyleGAN-XL"),
                        ("synthesis.superres.weight", "StyleGAN-XL"), ("synthesis.input.freqs", "StyleGAN3")):
        assert strangers.by_tensors({"mapping.fc0.weight", name}).startswith(words), name
    assert strangers.by_tensors({"mapping.fc0.weight", "mapping.w_avg", "synthesis.b4.const"}) is None
    with pytest.raises(UserError, match="ema .a EDMPrecond"):
        load_any(write(tmp_path / "x.pkl", persistence, dict(ema=Persistent(persistence, G, "EDMPrecond", {}))))


# ---- forms of a file ----------------------------------------------------------------------------------------------


FORMS = {"pickle": lambda o, p: p.write_bytes(pickle.dumps(o, protocol=4)), "torch": torch.save,
         "old torch": lambda o, p: torch.save(o, p, _use_new_zipfile_serialization=False)}


@pytest.mark.parametrize("form", FORMS)
def test_a_network_by_itself_and_the_published_dict(tmp_path, persistence, form):  # noqa: F811
    G, D = small_networks("stylegan2")
    g, d = Persistent(persistence, G, "Generator", SMALL_G), Persistent(persistence, D, "Discriminator", SMALL_D)
    for content in (g, dict(G=g, D=d, G_ema=g, training_set_kwargs=EasyDict(path="/data/x.zip"), augment_pipe=None)):
        FORMS[form](content, tmp_path / "x")
        snap = load_any(tmp_path / "x")
        agrees(snap, G)
    assert set(snap.nets) == {"G", "D", "G_ema"} and snap.data["name"] == "x"
    FORMS[form](d, tmp_path / "x")
    with pytest.raises(UserError, match="discriminator alone"):
        load_any(tmp_path / "x")


@pytest.mark.parametrize("method, c_dim", [("stylegan2", 3), ("stylegan2", 0), ("transitional", 3)])
def test_state_dicts(tmp_path, method, c_dim):
    g, d = dict(SMALL_G, c_dim=c_dim), dict(SMALL_D, c_dim=c_dim)
    module = __import__(f"gantransfer.networks.{method}", fromlist=["Generator"])
    G, D = drawn(module.Generator(**g)), drawn(module.Discriminator(**d), 2)
    states = dict(G=G.state_dict(), D=D.state_dict(), G_ema=G.state_dict(), cur_nimg=5)
    for content in (G.state_dict(), states, dict(state_dict=G.state_dict()),
                    {f"module.{k}": v for k, v in G.state_dict().items()}):
        torch.save(content, tmp_path / "x.pt")
        snap = load_any(tmp_path / "x.pt")
        assert snap.method == method
        agrees(snap, G)
        assumed = snap.extra["assumed"]
        assert assumed["lr_multiplier of the mapping"] == 0.01 and assumed["conv_clamp of the generator"] == 256
    torch.save(states, tmp_path / "x.pt")
    built, x = load_any(tmp_path / "x.pt").build("D"), torch.randn(2, 3, 16, 16)
    c = torch.eye(3)[[0, 1]][:, :c_dim]
    torch.testing.assert_close(built(x, c), D.eval()(x, c))


@pytest.mark.parametrize("changed", [
    dict(synthesis_kwargs=dict(channel_base=64, channel_max=6, architecture="resnet")),
    dict(synthesis_kwargs=dict(channel_base=128, channel_max=9, resample_filter=[1, 2, 1])),
    dict(mapping_kwargs=dict(num_layers=3, layer_features=5, embed_features=4)), dict(img_channels=1),
    dict(img_resolution=4), dict(img_resolution=32)], ids=str)
def test_sizes_of_a_state_dict_are_found(tmp_path, changed):
    G = drawn(stylegan2.Generator(**{**SMALL_G, **changed}))
    torch.save(G.state_dict(), tmp_path / "x.pt")
    agrees(load_any(tmp_path / "x.pt"), G)


def test_a_state_dict_that_does_not_say_enough_is_refused(tmp_path):
    _, D = small_networks("utlo", dict(res_uc=8), dict(res_uc=8))
    torch.save(D.state_dict(), tmp_path / "x.pt")
    with pytest.raises(UserError, match="res_uc"):
        load_any(tmp_path / "x.pt")
    torch.save(small_networks("stylegan2")[1].state_dict(), tmp_path / "x.pt")
    with pytest.raises(UserError, match="discriminator alone"):
        load_any(tmp_path / "x.pt")


def test_positional_arguments_have_names(tmp_path, persistence):  # noqa: F811
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


EXTRAS = dict(
    path=pathlib.PurePosixPath("/data/set.zip"), windows=pathlib.PureWindowsPath("C:\\data\\set"),
    here=pathlib.Path("a"),
    when=datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone(datetime.timedelta(hours=1))),
    day=datetime.date(2024, 1, 2), took=datetime.timedelta(seconds=3), at=datetime.time(1, 2),
    run=types.SimpleNamespace(a=1, b=types.SimpleNamespace()), args=argparse.Namespace(lr=0.1),
    device=torch.device("cuda", 1), cpu=torch.device("cpu"), dtype=torch.float16, half=torch.bfloat16,
    layout=torch.strided, z=1 + 2j, rows=range(3), names=frozenset({"a"}), cut=slice(1, 2))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", EXTRAS)
def test_harmless_objects_beside_the_networks(tmp_path, persistence, name, protocol):  # noqa: F811
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


def test_such_objects_become_words_and_do_nothing():
    read = {k: inert_pickle.load(pickle.dumps(v)) for k, v in EXTRAS.items()}
    assert read["path"] == "/data/set.zip" and read["windows"] == "C:\\data/set" and read["here"] == "a"
    assert read["device"] == "cuda:1" and read["dtype"] == "torch.float16" and read["layout"] == "torch.strided"
    assert isinstance(read["run"], inert_pickle.Opaque) and read["run"].state == dict(a=1, b=read["run"].state["b"])
    assert inert_pickle.settings(dict(a=read["when"], b=[read["run"]])) == dict(a="<datetime.datetime>",
                                                                                b=["<types.SimpleNamespace>"])
    with pytest.raises(inert_pickle.Refused, match="Opaque|datetime"):
        inert_pickle.plain(read["when"])
    for opcodes in (b"\x80\x02ctorch\nfloat16\n}X\x01\x00\x00\x00aK\x01sb.", b"\x80\x02ctorch\nfloat16\n)R.",
                    b"\x80\x02cpathlib\nPosixPath\n}X\x01\x00\x00\x00aK\x01sb.",
                    b"\x80\x02cpathlib\nPosixPath\nK\x01\x85R."):
        with pytest.raises(inert_pickle.Refused):
            inert_pickle.load(opcodes)


# ---- networks that were refused ------------------------------------------------------------------------------------


def test_utlo_without_label_free_layers(tmp_path, persistence):  # noqa: F811
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
def test_utlo_judges_small_images_as_the_original_does(tmp_path, persistence, res_uc):  # noqa: F811
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


def test_unconditional_transitional_training(tmp_path, persistence):  # noqa: F811
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
def test_a_filter_of_ones_own_is_that_of_the_upsampling_layers_alone(tmp_path, persistence, architecture):  # noqa: F811
    syn = dict(SMALL_G["synthesis_kwargs"], resample_filter=[1, 4, 6, 4, 1], architecture=architecture)
    kwargs = dict(SMALL_G, synthesis_kwargs=syn)
    G = stylegan2.Generator(**kwargs)
    shapes = {k: tuple(t.shape) for k, t in G.state_dict().items() if k.endswith("resample_filter")}
    assert {s for k, s in shapes.items() if ".conv1." in k} == {(4, 4)}  # published: the standard one, unused
    assert {s for k, s in shapes.items() if ".conv1." not in k} == {(5, 5)}
    g = Persistent(persistence, randomise(G, 1), "Generator", kwargs)
    agrees(load_any(write(tmp_path / "x.pkl", persistence, dict(G_ema=g))), G)


@pytest.mark.parametrize("method", ["stylegan2", "utlo", "transitional"])
def test_a_mean_latent_that_is_not_a_number_is_measured_anew(tmp_path, persistence, method):  # noqa: F811
    G, D = small_networks(method)
    for name in ("w_avg", "w_avg_uc"):
        if hasattr(G.mapping, name):
            getattr(G.mapping, name).fill_(float("nan"))
    g, d = Persistent(persistence, G, "Generator", SMALL_G, **(dict(res_uc=8) if method == "utlo" else {})), Persistent(
        persistence, D, "Discriminator", SMALL_D)
    path = write(tmp_path / "x.pkl", persistence, dict(G=g, D=d, G_ema=g))
    with pytest.warns(UserWarning, match="x.pkl: its mean latent is not a number .*w_avg.* measured anew"):
        snap = load_any(path)
    net = snap.build("G_ema")
    z = torch.randn(30_000, 8)
    ws = net.mapping(z, torch.eye(3)[torch.arange(30_000) % 3]).mean(0)
    spread = net.mapping(z, torch.eye(3)[torch.arange(30_000) % 3]).std(0).max()
    assert (net.mapping.w_avg - ws[-1]).abs().max() < 0.1 * spread
    if method == "utlo":
        assert (net.mapping.w_avg_uc - ws[0]).abs().max() < 0.1 * spread
    assert torch.isfinite(image(net, 0.5)).all() and torch.equal(image(net), image(G.eval()))
    rows = snap.extra["networks"]["G"]["account"]
    assert any(r[0] == "mapping.w_avg" and "not finite" in r[1] for r in rows["initialised"])
    assert "mapping.w_avg" not in rows["copied"]
    snap.save(tmp_path / "ours.pkl")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once, and is whole from then on
        assert torch.equal(load_any(tmp_path / "ours.pkl").nets["G"].state["mapping.w_avg"],
                           snap.nets["G"].state["mapping.w_avg"])


# ---- BigGAN, ALAE ------------------------------------------------------------------------------------------------


@pytest.fixture
def biggan_folder(tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "weights"
    folder.mkdir()
    G = biggan.Generator(G_ch=4, dim_z=16, resolution=32, G_attn="0", n_classes=2, shared_dim=8, hier=True)
    torch.save(G.state_dict(), folder / "G.pth")
    torch.save(G.state_dict(), folder / "G_ema.pth")
    return folder


def test_a_biggan_folder_is_a_model_everywhere(tmp_path, biggan_folder, capsys):
    rng = np.random.RandomState(0)
    data = write_image_zip(tmp_path / "set.zip", rng.randint(0, 255, (12, 32, 32, 3)).astype(np.uint8), [0, 1] * 6)
    assert not importers.is_images(biggan_folder) and importers.is_images(data) and importers.is_images(tmp_path)
    run_cli(lambda: calc_metrics.main([f"--network={biggan_folder}", "--metrics=smoke", f"--data={data}",
                                       "--labels=uniform", "--verbose=False", f"--cache-dir={tmp_path / 'c'}"],
                                      standalone_mode=False))
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["metric"].startswith("smoke")
    source = stages.source_of(str(biggan_folder), ImageDataset(str(data), use_labels=True), "cpu", {})
    assert source.draw(np.eye(2, dtype=np.float32), [1, 2], 0).shape == (2, 3, 32, 32)
    before = source.identity
    torch.save(dict(itr=1), biggan_folder / "state_dict.pth")
    assert importers.identity(biggan_folder) != before  # another content, another model
    assert not train.is_run_folder(str(biggan_folder)) and train.is_run_folder(str(tmp_path))


def test_biggan_without_spectral_norm_is_refused_in_words(biggan_folder):
    for name in ("G.pth", "G_ema.pth"):
        state = torch.load(biggan_folder / name)
        torch.save({k: v for k, v in state.items() if not k.split(".")[-1].startswith(("u0", "sv0"))},
                   biggan_folder / name)
    with pytest.raises(UserError, match="trained without spectral norm .--G_param"):
        load_any(biggan_folder)


def test_fully_connected_alae_is_refused_in_words(tmp_path):
    flat_net = torch.nn.ModuleDict(dict(fc_1=torch.nn.Linear(4, 8), fc_2=torch.nn.Linear(8, 8)))
    models = dict(generator=flat_net.state_dict(), discriminator=flat_net.state_dict(),
                  mapping_fl=alae.Mapping(4, 2).state_dict(), mapping_tl=alae.LatentDiscriminator(4).state_dict())
    torch.save(dict(models=models), tmp_path / "x.pth")
    with pytest.raises(UserError, match="generator is fully connected, as ALAE has them for MNIST"):
        load_any(tmp_path / "x.pth")


def test_looking_for_relatives_stops_at_damage():
    for data in (b"", b"\x80\x04\x95", b"\x80\x02cpg_modules", pickle.dumps("pg_modules.x")[:-3]):
        assert strangers.by_pickle(data) is None
