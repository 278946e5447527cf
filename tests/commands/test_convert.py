# SPDX-License-Identifier: Apache-2.0
"""convert, inspect and `import gantransfer`: each form is written, read back or run, and makes the same images. With
exporters/files.py, exporters/weights.py and importers/look.py."""

import json
import subprocess
import sys

import pytest
import torch

import gantransfer
from dnnlib.util import UserError
from gantransfer.commands import convert
from gantransfer.formats import safetensors
from gantransfer.importers import IMPORTERS, load_any
from gantransfer.networks import stylegan2
from gantransfer.snapshot import NetRecord, Snapshot
from tests.conftest import ROOT


def small(c_dim=2, seed=0, **kw):
    torch.manual_seed(seed)
    kw = {**dict(z_dim=4, w_dim=4, img_resolution=16, img_channels=3, mapping_kwargs={"num_layers": 2},
                 synthesis_kwargs={"channel_base": 64, "channel_max": 4}), **kw}
    net = stylegan2.Generator(c_dim=c_dim, **kw)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "noise_strength" in name or name.endswith("bias"):
                p.normal_(0.3, 0.3)
        net.mapping.w_avg.normal_()
    return net.eval()


@pytest.fixture
def snap(tmp_path):
    net = small()
    record = NetRecord.of(net)
    data = dict(name="x", resolution=16, channels=3, num_images=9, label=dict(kind="class", dim=2))
    s = Snapshot("stylegan2", {"G": record, "G_ema": record}, {"gamma": 1.0}, data, cur_nimg=5000,
                 extra={"run": ["a", 1, None], "steps": torch.arange(3)})
    s.save(tmp_path / "ours.pkl")
    return s


def images(snap, name="G_ema"):
    z = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return snap.build(name)(z, torch.eye(2)[[0, 1, 1]], noise_mode="const", truncation_psi=0.7)


def test_import_is_light():
    code = ("import sys, gantransfer\nassert gantransfer.__version__ and 'load' in dir(gantransfer)\n"
            "print([m for m in ('torch', 'numpy', 'click', 'PIL') if m in sys.modules])\n"
            "try:\n    gantransfer.nothing\nexcept AttributeError as e:\n    print(e)")
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert out.stdout.splitlines() == ["[]", "module 'gantransfer' has no attribute 'nothing'"], out.stderr


def test_python_api(snap, tmp_path):
    loaded = gantransfer.load(tmp_path / "ours.pkl")
    assert isinstance(loaded, gantransfer.Model) and torch.equal(images(loaded), images(snap))
    sampler = loaded.sampler("cpu")
    made = sampler(seeds=[0, 1], c=torch.eye(2))
    assert made.dtype == torch.uint8 and made.shape == (2, 3, 16, 16)
    assert torch.equal(sampler(seeds=[1], c=torch.eye(2)[1:]), made[1:])
    loaded.method = "telepathy"
    with pytest.raises(UserError, match="telepathy"):
        loaded.sampler()


def test_safetensors_round_trip(snap, tmp_path, call):
    call("convert", tmp_path / "ours.pkl", tmp_path / "x.safetensors")
    again = load_any(tmp_path / "x.safetensors")
    assert torch.equal(images(again), images(snap)) and torch.equal(again.extra["steps"], torch.arange(3))
    assert (again.method, again.options, again.data, again.cur_nimg, again.extra["run"]) == (
        snap.method, snap.options, snap.data, snap.cur_nimg, snap.extra["run"])
    tensors, metadata = safetensors.read(tmp_path / "x.safetensors")
    assert len(tensors) == len(snap.nets["G"].state) + 1, "the same tensor is stored once"
    assert again.nets["G"].state["synthesis.b4.const"] is again.nets["G_ema"].state["synthesis.b4.const"]
    call("convert", tmp_path / "x.safetensors", tmp_path / "back.pkl")
    assert torch.equal(images(load_any(tmp_path / "back.pkl")), images(snap))


def test_plain_state_dict(snap, tmp_path, call):
    call("convert", tmp_path / "ours.pkl", tmp_path / "x.pt", check=2)  # a tensor in extra
    del snap.extra["steps"]
    snap.save(tmp_path / "ours.pkl")
    call("convert", tmp_path / "ours.pkl", tmp_path / "x.pt")
    state = torch.load(tmp_path / "x.pt", weights_only=True)
    about = json.loads((tmp_path / "x.pt.json").read_text())
    net = stylegan2.Generator(**about["kwargs"])
    net.load_state_dict(state)
    assert about["cls"].endswith("stylegan2.Generator")
    again = load_any(tmp_path / "x.pt")
    assert list(again.nets) == ["G_ema"] and torch.equal(images(again), images(snap))
    (tmp_path / "x.pt.json").write_text("{}")
    with pytest.raises(UserError, match="x.pt.json beside it"):
        load_any(tmp_path / "x.pt")


def test_onnx_without_its_packages_says_what_to_install(snap, tmp_path, monkeypatch):
    from gantransfer.exporters.onnx import export_onnx

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"pip install onnx"):
        export_onnx(snap, tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_mistakes_of_convert_are_one_line(snap, tmp_path, refused):
    source = tmp_path / "ours.pkl"
    for args, says in (((source, tmp_path / "x.doc"), ".safetensors"), ((source, source), "DEST is SOURCE"),
                       ((tmp_path / "none.pkl", tmp_path / "x.pkl"), "no such file"),
                       ((source, tmp_path / "x.pt", "--net=Q"), "no network 'Q'"),
                       ((source, tmp_path / "x.pkl", "--format=biggan"), "not of the format biggan"),
                       ((source, tmp_path / "x.pkl", "--copy=best0"), "--copy")):
        assert says in refused(*args, command="convert")


def test_inspect(snap, tmp_path, call):
    out = call("inspect", tmp_path / "ours.pkl").stdout
    for said in ("stylegan2", "5 kimg", "16 pixels", "2 classes", "G_ema", '"z_dim": 4', '"gamma": 1.0'):
        assert said in out, said
    assert "synthesis.b4.const  [4, 4, 4] float32" in call("inspect", "--tensors",
                                                                tmp_path / "ours.pkl").stdout


def test_inspect_names_what_would_be_refused_and_runs_nothing(tmp_path, call):
    target = tmp_path / "written"
    (tmp_path / "evil.pkl").write_bytes(b"\x80\x02cposix\nmkdir\nX" + len(str(target)).to_bytes(4, "little")
                                        + str(target).encode() + b"\x85Rcbuiltins\neval\n0.")
    out = call("inspect", tmp_path / "evil.pkl", check=2)
    assert "refused     posix.mkdir" in out.stdout and "refused     builtins.eval" in out.stdout
    assert "posix.mkdir" in out.stderr and out.stderr.count("\n") == 1 and not target.exists()


# ---- downloads ---------------------------------------------------------------------------------------------------


def test_a_download_that_was_damaged_since_is_fetched_again(snap, tmp_path, monkeypatch):
    monkeypatch.setenv("GANTRANSFER_CACHE_DIR", str(tmp_path / "cache"))
    url = (tmp_path / "ours.pkl").as_uri()
    assert load_any(url).method == "stylegan2"
    (cached,) = (p for p in (tmp_path / "cache").rglob("*ours.pkl"))
    good = cached.read_bytes()
    cached.write_bytes(good[:500])
    assert load_any(url).method == "stylegan2" and cached.read_bytes() == good
    (tmp_path / "ours.pkl").unlink()
    assert load_any(url).method == "stylegan2", "the cache serves without network"
    cached.unlink()
    with pytest.raises(UserError, match="fetch it elsewhere"):
        load_any(url)


def test_formats_of_the_help_are_the_importers():
    assert convert.FORMATS == ("auto", "gantransfer", *(i.name for i in IMPORTERS))
