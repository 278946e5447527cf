# SPDX-License-Identifier: Apache-2.0
"""convert, inspect and `import gantransfer`: each form is written, read back or run, and makes the same images."""

import json
import subprocess
import sys

import pytest
import torch

import gantransfer
from dnnlib.util import UserError
from gantransfer.commands import convert
from gantransfer.formats import safetensors
from gantransfer.formats.inert_pickle import Refused
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


def test_safetensors_agree_with_the_library(tmp_path):
    library = pytest.importorskip("safetensors.torch", reason="needs safetensors (extra `export`)")
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(5), "half": torch.ones(2).half(),
               "bf": torch.ones(3).bfloat16(), "scalar": torch.tensor(2.5),
               "empty": torch.zeros(0, 3), "flags": torch.tensor([True, False]),
               "t": torch.arange(6.0).reshape(2, 3).t()}
    safetensors.write(tmp_path / "ours.safetensors", tensors, {"k": "v"})
    theirs = library.load_file(tmp_path / "ours.safetensors")
    library.save_file({k: t.contiguous() for k, t in tensors.items()}, tmp_path / "theirs.safetensors", {"k": "v"})
    ours, metadata = safetensors.read(tmp_path / "theirs.safetensors")
    assert metadata == {"k": "v"}
    for k, t in tensors.items():
        assert torch.equal(theirs[k], t) and torch.equal(ours[k], t) and ours[k].dtype == t.dtype, k


def test_safetensors_without_description_or_damaged(tmp_path):
    safetensors.write(tmp_path / "x.safetensors", {"a": torch.zeros(2)}, {})
    with pytest.raises(UserError, match="without a description"):
        load_any(tmp_path / "x.safetensors")
    data = (tmp_path / "x.safetensors").read_bytes()
    for broken in (data[:-1], data + b"x", data.replace(b"[0,8]", b"[4,8]"), data.replace(b"F32", b"Q32")):
        (tmp_path / "y.safetensors").write_bytes(broken)
        with pytest.raises(Refused):
            safetensors.read(tmp_path / "y.safetensors")


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
    with pytest.raises(UserError, match=r"pip install gantransfer\[export\]"):
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


# ---- rosinality's StyleGAN2 --------------------------------------------------------------------------------------


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
