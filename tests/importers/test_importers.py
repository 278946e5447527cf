# SPDX-License-Identifier: Apache-2.0
"""What the importer refuses, that nothing in a file is ever executed, and how the kinds of network are told apart."""

import pickle

import numpy as np
import pytest
import torch

from dnnlib.util import EasyDict, UserError
from gantransfer.importers import RESUME_NAMES, load_any, read_pickle
from tests.importers.pickles import (
    SMALL_D,
    SMALL_G,
    Persistent,
    agrees,
    small_networks,
    write,
)


@pytest.fixture
def snapshot_bytes(persistence):
    G, D = small_networks("stylegan2")
    return pickle.dumps(dict(G=Persistent(persistence, G, "Generator", SMALL_G),
                             D=Persistent(persistence, D, "Discriminator", SMALL_D),
                             G_ema=Persistent(persistence, G, "Generator", SMALL_G)), protocol=4)


def test_source_text_in_the_pickle_is_never_run(tmp_path, persistence):
    target = tmp_path / "written"
    G, _ = small_networks("stylegan2")
    source = f"import os\nos.mkdir({str(target)!r})\nclass Generator: pass\n"
    path = write(tmp_path / "net.pkl", persistence, dict(G=Persistent(persistence, G, "Generator", SMALL_G, source)))
    assert source.encode() in path.read_bytes()
    load_any(path).build("G")
    assert not target.exists()


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


FORMS = {"pickle": lambda o, p: p.write_bytes(pickle.dumps(o, protocol=4)), "torch": torch.save,
         "old torch": lambda o, p: torch.save(o, p, _use_new_zipfile_serialization=False)}


@pytest.mark.parametrize("form", FORMS)
def test_a_network_by_itself_and_the_published_dict(tmp_path, persistence, form):
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
