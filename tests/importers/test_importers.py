# SPDX-License-Identifier: Apache-2.0
"""What the importer refuses, that nothing in a file is ever executed, and how the kinds of network are told apart."""

import importlib
import pickle
import sys
import types

import numpy as np
import pytest
import torch

from dnnlib.util import EasyDict, UserError
from gantransfer.formats import inert_pickle
from gantransfer.importers import RESUME_NAMES, load_any, read_pickle

SMALL_G = dict(z_dim=8, c_dim=3, w_dim=8, img_resolution=16, img_channels=3, mapping_kwargs=dict(num_layers=2),
               synthesis_kwargs=dict(channel_base=64, channel_max=6))
SMALL_D = dict(c_dim=3, img_resolution=16, img_channels=3, channel_base=64, channel_max=6, mapping_kwargs={},
               epilogue_kwargs=dict(mbstd_group_size=2))


def persistence_module():
    """A module of the name that published pickles refer to, so that pickles of their form can be written."""
    module = types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("the stand-in must be used, never a function of this name")

    _reconstruct_persistent_obj.__module__ = module.__name__
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    return module


@pytest.fixture
def persistence(monkeypatch):
    module = persistence_module()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


class Persistent:
    """Pickles a module as the published code does."""

    def __init__(self, persistence, module, class_name, kwargs=None, source="", **attributes):
        state = {
            "training": False,
            "_parameters": dict(module._parameters),
            "_buffers": dict(module._buffers),
            "_non_persistent_buffers_set": set(module._non_persistent_buffers_set),
            "_modules": {k: m if m is None else Persistent(persistence, m, type(m).__name__)
                         for k, m in module._modules.items()},
            "weight_gain": np.float64(0.25),
            **attributes,
            "_init_args": (),
            "_init_kwargs": EasyDict(kwargs or {}),
        }
        self.function = persistence._reconstruct_persistent_obj
        self.meta = dict(type="class", version=6, module_src=source, class_name=class_name, state=state)

    def __reduce__(self):
        return self.function, (self.meta,)


def randomise(module, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for t in module.state_dict().values():
            t.copy_(torch.rand(t.shape, generator=generator))
    return module


def write(path, persistence, networks, protocol=4, **top):
    path.write_bytes(pickle.dumps(dict(networks, **top), protocol=protocol))
    return path


def small_networks(kind, g_kwargs=None, d_kwargs=None):
    module = importlib.import_module(f"gantransfer.networks.{kind}")
    return (randomise(module.Generator(**SMALL_G, **(g_kwargs or {})), 1),
            randomise(module.Discriminator(**SMALL_D, **(d_kwargs or {})), 2))


@pytest.fixture
def snapshot_bytes(persistence):
    G, D = small_networks("stylegan2")
    return pickle.dumps(dict(G=Persistent(persistence, G, "Generator", SMALL_G),
                             D=Persistent(persistence, D, "Discriminator", SMALL_D),
                             G_ema=Persistent(persistence, G, "Generator", SMALL_G)), protocol=4)


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


def test_source_text_in_the_pickle_is_never_run(tmp_path, persistence):
    target = tmp_path / "written"
    G, _ = small_networks("stylegan2")
    source = f"import os\nos.mkdir({str(target)!r})\nclass Generator: pass\n"
    path = write(tmp_path / "net.pkl", persistence, dict(G=Persistent(persistence, G, "Generator", SMALL_G, source)))
    assert source.encode() in path.read_bytes()
    load_any(path).build("G")
    assert not target.exists()


def test_stand_ins_cannot_be_changed(tmp_path):
    """BUILD on a function or class of ours would reach into this process."""
    before = dict(vars(inert_pickle._Dict)), dict(vars(inert_pickle._Call))
    for opcodes in (b"\x80\x02ccollections\nOrderedDict\nN}X\x01\x00\x00\x00ax\x01\x00\x00\x00as\x86b.",
                    b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb.",
                    b"\x80\x02cdnnlib.util\nEasyDict\n}X\x01\x00\x00\x00aK\x01sb.",
                    b"\x80\x02cdnnlib.util\nEasyDict\n)\x81}X\x01\x00\x00\x00aK\x01sb."):
        with pytest.raises(inert_pickle.Refused):
            inert_pickle.load(opcodes)
    assert before == (dict(vars(inert_pickle._Dict)), dict(vars(inert_pickle._Call)))


def test_arguments_cannot_make_us_allocate(tmp_path, persistence):
    G, _ = small_networks("stylegan2")
    huge = dict(SMALL_G, synthesis_kwargs=dict(channel_base=2**40, channel_max=2**22))
    path = write(tmp_path / "net.pkl", persistence, dict(G=Persistent(persistence, G, "Generator", huge)))
    with pytest.raises(UserError, match="channel_base is 1099511627776, which is too large"):
        load_any(path)


def test_truncation_anywhere_is_one_line(tmp_path, snapshot_bytes):
    path = tmp_path / "net.pkl"
    for cut in [1, 2, 3, 50, *np.linspace(100, len(snapshot_bytes) - 1, 40).astype(int)]:
        path.write_bytes(snapshot_bytes[:cut])
        with pytest.raises(UserError) as e:
            load_any(path)
        assert "net.pkl is not a usable network snapshot" in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("content, message", [
    (b"", "it is empty"),
    (b"<!DOCTYPE html><html>Sign in</html>", "it is a web page"),
    (b"\x89PNG\r\n\x1a\n1234567", "not a usable network snapshot"),
    (b"just some text", "not a usable network snapshot"),
    (pickle.dumps([1, 2, 3]), "holds a list instead of networks"),
    (pickle.dumps({"a": 1}), "none of the networks G, D, G_ema"),
    (pickle.dumps(dict(G=1), protocol=0), "protocol 2 to 5"),
    (b"\x80\x03cdnnlib.tflib.network\nNetwork\n)\x81N\x86.", "TensorFlow"),
])
def test_other_files(tmp_path, content, message):
    path = tmp_path / "net.pkl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as e:
        load_any(path)
    assert "net.pkl" in str(e.value) and "\n" not in str(e.value)


def test_other_torch_files(tmp_path):
    torch.save(dict(G=torch.zeros(3)), tmp_path / "a.pkl")
    torch.save(torch.zeros(3), tmp_path / "b.pkl", _use_new_zipfile_serialization=False)
    for name in ("a.pkl", "b.pkl"):
        with pytest.raises(UserError, match=name):
            load_any(tmp_path / name)
    with pytest.raises(UserError, match="is a folder"):
        load_any(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        load_any(tmp_path / "missing.pkl")


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


def test_storages_and_layouts(tmp_path, persistence):
    """Every element type, shared storages, strided and empty tensors come back as they were."""
    base = torch.arange(24, dtype=torch.float32)
    buffers = dict(
        transposed=base.reshape(4, 6).t(), part=base[3:9], scalar=torch.tensor(2.5), empty=torch.zeros(0, 3),
        f16=base.half(), bf16=base.bfloat16(), f64=base.double(), i64=base.long(), flags=base > 3,
    )
    module = torch.nn.Module()
    for name, value in buffers.items():
        module.register_buffer(name, value)
    module.register_buffer("hidden", torch.zeros(1), persistent=False)
    for protocol in (2, 4):
        path = write(tmp_path / "x.pkl", persistence, dict(G=Persistent(persistence, module, "Anything")), protocol)
        tensors = read_pickle(path).networks["G"].tensors()
        assert list(tensors) == list(buffers)
        for name, value in buffers.items():
            assert tensors[name].dtype == value.dtype and torch.equal(tensors[name], value), name


def test_published_names_are_addresses_but_files_win(tmp_path, monkeypatch):
    assert set(RESUME_NAMES) == {"ffhq256", "ffhq512", "ffhq1024", "celebahq256", "lsundog256"}
    monkeypatch.chdir(tmp_path)
    asked = []

    def fetch(text, **kw):
        asked.append(text)
        raise UserError("offline")

    monkeypatch.setattr("gantransfer.importers.fetch", fetch)
    for _ in range(2):
        with pytest.raises(UserError, match="offline"):
            load_any("ffhq256")
        (tmp_path / "ffhq256").write_bytes(b"x")
    assert asked == [RESUME_NAMES["ffhq256"], "ffhq256"]


def test_a_bad_download_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("GANTRANSFER_CACHE_DIR", str(tmp_path / "cache"))
    page = tmp_path / "page.pkl"
    page.write_bytes(b"<html>login</html>")
    with pytest.raises(UserError, match="web page"):
        load_any(page.as_uri())
    assert page.exists() and not list((tmp_path / "cache").rglob("*page.pkl"))


def test_reading_does_not_touch_the_random_state(tmp_path, snapshot_bytes):
    path = tmp_path / "net.pkl"
    path.write_bytes(snapshot_bytes)
    state = torch.get_rng_state()
    load_any(path)
    assert torch.equal(torch.get_rng_state(), state)
