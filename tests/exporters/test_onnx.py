# SPDX-License-Identifier: Apache-2.0
"""Every generator as ONNX: the sampler's images to one grey level, for batches of all sizes, with labels and
truncation as inputs; what cannot be exported is one line and no file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from gantransfer.exporters import onnx as onnx_export
from gantransfer.formats import onnx_info
from gantransfer.networks import (
    alae,
    biggan,
    ccgan,
    cgantransfer,
    hypermod,
    hypermod_stylegan1,
    mindgan,
    minegan,
    stylegan2,
    styletransfer,
    transitional,
    utlo,
)
from gantransfer.networks.label_embedding import LabelToEmbedding
from gantransfer.snapshot import NetRecord, Snapshot
from torch_utils.ops import winograd

pytest.importorskip("onnxscript", reason="needs onnx and onnxscript (extra `export`)")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime (extra `export`)")

# The exporter takes its time per layer: one upsampling block shows what two would, none what is not about upsampling,
# and one snapshot several properties. A quarter of it is tracing, which shows whether a network can be exported; the
# rest goes operator by operator, so that it is done for networks that together have all operators.
# export_onnx itself compares every file with the sampler, so that a kind without a case here is not written wrongly.
SG2 = dict(z_dim=8, w_dim=8, img_resolution=8, img_channels=3, mapping_kwargs={"num_layers": 1},
           synthesis_kwargs={"channel_base": 64, "channel_max": 4})
BIG = dict(G_ch=4, dim_z=12, resolution=8, G_attn="0", n_classes=3, G_shared=True, shared_dim=6, hier=True)
V1 = dict(channels=[4, 4], code_dim=8, n_mlp=2, fused_from=1)
MIND = dict(kind="stylegan2", w_dim=8, img_resolution=4, img_channels=3, channel_base=64, channel_max=4)
CLASSES = dict(kind="class", dim=3)
ANGLES = dict(kind="value", dim=1, meta=dict(unit="degrees", offset=10.0, scale=50.0))


def lively(net):
    """Every parameter and running mean that starts at a special value moves away from it."""
    with torch.no_grad():
        for name, t in [*net.named_parameters(), *net.named_buffers()]:
            if name.endswith(("bias", "w_avg", "w_avg_uc", "buff", "running_mean", "stored_mean")) or "noise" in name:
                t.add_(torch.randn_like(t) * 0.3)
            elif name.endswith(("scores", "residual", "const", "transition")) or not t.any():
                t.add_(torch.randn_like(t) * 0.2)
    return net.eval()


def snapshot(method, label, extra=None, **nets):
    torch.manual_seed(0)
    records = {k: NetRecord.of(lively(make())) for k, make in nets.items()}
    kwargs = records["G_ema"].kwargs
    size = kwargs.get("img_resolution") or kwargs.get("resolution") or 8
    data = dict(name="x", resolution=size, channels=3, num_images=9, label=label or dict(kind="none", dim=0))
    return Snapshot(method, records, {}, data, extra=extra or {})


def generator(kind, c_dim=3, **more):
    return lambda: kind(**{**SG2, "c_dim": c_dim, **more})


def half_resnet(fp16_dtype, **wide):
    return snapshot("stylegan2", CLASSES, G_ema=generator(stylegan2.Generator, synthesis_kwargs=dict(
        channel_base=64, channel_max=4, architecture="resnet", num_fp16_res=2, conv_clamp=256, fp16_dtype=fp16_dtype,
    ) | wide))


def half_without_a_mean():
    """Half precision, wide enough for Winograd's algorithm, and with a mean of w that is not finite."""
    snap = half_resnet("bfloat16", **WIDE)
    snap.nets["G_ema"].state["mapping.w_avg"].fill_(float("nan"))
    return snap


def plain_stylegan2():
    return snapshot("stylegan2", CLASSES, G_ema=generator(stylegan2.Generator, img_resolution=4))


WIDE = dict(channel_base=8 * 512, channel_max=512)
WRITTEN = {
    "utlo": lambda: snapshot("utlo", CLASSES, **{net: generator(utlo.Generator, res_uc=4) for net in ("G_ema", "G")}),
    "biggan": lambda: snapshot("biggan", CLASSES, G_ema=lambda: biggan.Generator(
        **{**BIG, "G_ch": 8, "G_attn": "8"})),
    "ccgan": lambda: snapshot("ccgan", ANGLES, y2h=lambda: LabelToEmbedding(16), G_ema=lambda: ccgan.ARCHS["sagan"][0](
        z_dim=8, h_dim=16, ch=8, resolution=16, img_channels=3)),
}
TRACED = {
    "half precision, no mean of w": half_without_a_mean,
    "hypermod": lambda: snapshot("hypermod", CLASSES, G_ema=generator(hypermod.Generator, exact=False, rank=2,
                                                                      vector_layers=2)),
    "transitional": lambda: snapshot("transitional", CLASSES, G_ema=generator(transitional.Generator)),
    "encoder": lambda: snapshot("encoder", None, G_ema=generator(stylegan2.Generator, img_resolution=4)),
    "styletransfer": lambda: snapshot("styletransfer", CLASSES, dict(old_label=dict(kind="class", dim=4)),
                                      G_ema=generator(styletransfer.StyleTransferGenerator, 4, new_dim=3,
                                                      img_resolution=4)),
    "hypermod-published": lambda: snapshot("hypermod", CLASSES, T_ema=lambda: hypermod.ClassNetwork(3, 6, 2),
                                           G_ema=lambda: hypermod_stylegan1.Generator(**V1, task_dim=6, num_classes=0)),
    "stylegan2-unlabelled": lambda: snapshot("stylegan2", None, G_ema=generator(stylegan2.Generator, 0,
                                                                                synthesis_kwargs=WIDE)),
    "minegan": lambda: snapshot("minegan", CLASSES, G_ema=lambda: minegan.MinedGenerator(
        n_pretrain_classes=4, **{**BIG, "n_classes": 3})),
    "cgantransfer": lambda: snapshot("cgantransfer", CLASSES, G_ema=lambda: cgantransfer.TransferGenerator(
        n_pretrain_classes=4, sets=2, label_sets=[1, 2, 2, 2], **{**BIG, "n_classes": 4})),
    "alae-unfinished": lambda: snapshot("alae", None, dict(level=[1, 0.3]), F_ema=lambda: alae.Mapping(8, 2, 4),
                                        G_ema=lambda: alae.Generator(8, [4, 4], 3)),
    "mind2mind": lambda: snapshot("mind2mind", CLASSES, G_ema=lambda: mindgan.MindGenerator(
        dict(z_dim=8, c_dim=3, hidden=[8], offsets=True, prior="uniform"), MIND)),
    "mind2mind-gaussian-alae": lambda: snapshot("mind2mind", CLASSES, G_ema=lambda: mindgan.MindGenerator(
        dict(gaussian=True, c_dim=3, classes=3), dict(kind="alae", latent_size=8, channels=[4, 4], img_channels=3))),
}
WITHOUT_W = {"half precision, no mean of w", "biggan", "ccgan", "minegan", "cgantransfer"}


def open_session(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def gap(run, snap, n, psi=None, net="G_ema", psi_left_out=1):
    """Largest difference of uint8 images of `run`, arrays -> images, from the sampler's (through seeds, as a user makes
    them). An input psi that is left out must mean `psi_left_out`."""
    sampler = onnx_export._sampler_of(snap, net)
    seeds, dim = list(range(n)), sampler.label_dim
    z = np.stack([np.random.RandomState(s).randn(sampler.z_dim) for s in seeds]).astype(np.float32)
    c = None
    if dim:
        c = torch.linspace(12, 57, n)[:, None] if sampler.spec.label.kind == "value" else torch.eye(dim)[
            torch.arange(n) % dim]
    feed = {"z": z} | ({} if c is None else {"c": c.numpy()}) | (
        {} if psi is None else dict(truncation_psi=np.array(psi, np.float32)))
    made, psi = run(feed), psi_left_out if psi is None else psi
    kw = {} if psi == 1 else dict(truncation_psi=psi)
    expected = sampler(seeds, c, noise_mode="const", **kw)
    raw = onnx_export.Exported(sampler.synthesise, psi)(torch.from_numpy(z), c).numpy()
    assert made.dtype == np.float32 and made.shape == tuple(expected.shape) and expected.float().std() > 1
    worst = int(np.abs((made * 127.5 + 128).clip(0, 255).astype(np.uint8).astype(int) - expected.numpy()).max())
    # Also where the images are beyond black and white.
    assert worst > 1 or np.abs(made - raw).max() <= 1e-3 * np.abs(raw).max()
    return worst


OPERATORS: dict[str, set[str]] = {}  # of the kinds that were exported in this process


@pytest.fixture
def traced(monkeypatch):
    """(kind) -> its snapshot, after which export_onnx can be called; notes its operators. One block, where published
    sizes have two or more; large batches of wide convolutions run by Winograd's algorithm, but in the file."""
    monkeypatch.setattr(winograd, "MIN_TILES", 1)
    monkeypatch.setitem(biggan.G_TABLES, 8, ([4], [4], [8]))
    export = torch.export.export

    def prepare(name):
        def noted(*args, **kw):
            program = export(*args, **kw)
            OPERATORS[name] = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
            return program

        monkeypatch.setattr(torch.export, "export", noted)
        return {**WRITTEN, **TRACED}[name]()

    return prepare


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITTEN)
def test_file_makes_the_samplers_images(name, tmp_path, traced):
    snap = traced(name)
    # Of utlo, the other network, and truncation that is the value of an input which is left out.
    net, psi = ("G", 0.6) if name == "utlo" else ("G_ema", 1)
    onnx_export.export_onnx(snap, tmp_path / "x.onnx", net=net, trunc=psi)
    assert [p.name for p in tmp_path.iterdir()] == ["x.onnx"]
    session = open_session(tmp_path / "x.onnx")
    has_w = name not in WITHOUT_W
    assert [i.name for i in session.get_overridable_initializers()] == (["truncation_psi"] if has_w else [])

    def run(feed):
        return session.run(["image"], feed)[0]

    for n in (1, 3, 5):
        assert gap(run, snap, n, net=net, psi_left_out=psi) <= 1, n
    if has_w:
        assert gap(run, snap, 3, 0.5, net) <= 1 and gap(run, snap, 2, 0.0, net) <= 1
    if psi != 1:
        assert gap(run, snap, 3, net=net) > 1 and gap(run, snap, 3, net="G_ema", psi_left_out=psi) > 1
    about = "\n".join(onnx_info.describe(tmp_path / "x.onnx"))
    for line in (f"method      {snap.method}, network {net}", "input       z: float32 [batch, ",
                 "output      image: float32 [batch, 3, "):
        assert line in about
    assert "input       c: float32 [batch, " in about


class Traced(BaseException):
    """In the place of what the exporter does after it has traced a network."""


@pytest.mark.parametrize("name", TRACED)
def test_traced_network_makes_the_samplers_images(name, tmp_path, traced, monkeypatch):
    def trace(model, args, f, *, kwargs, dynamic_shapes, **rest):
        free = {k: {d: torch.export.Dim.DYNAMIC for d in dims} for k, dims in dynamic_shapes.items()}
        raise Traced(torch.export.export(model, args, kwargs, dynamic_shapes=free, strict=False), list(kwargs))

    snap = traced(name)
    monkeypatch.setattr(torch.onnx, "export", trace)
    with pytest.raises(Traced) as e:
        onnx_export.export_onnx(snap, tmp_path / "x.onnx")
    program, inputs = e.value.args
    assert not list(tmp_path.iterdir())
    labelled, has_w = snap.data["label"]["dim"] > 0 or name == "encoder", name not in WITHOUT_W
    assert inputs == ["z", *["c"] * labelled, *["truncation_psi"] * has_w]
    network = program.module()
    if "half" in name:
        with pytest.raises(UserError, match="--trunc: this generator has no mean of w"):
            onnx_export.export_onnx(snap, tmp_path / "x.onnx", trunc=0.5)
        snap = half_resnet("auto", **WIDE)  # on the CPU, float32

    def run(feed):  # an input that is left out has the value that the file keeps for it
        left_out = {"truncation_psi": np.array(1, np.float32)} if has_w else {}
        return network(**{k: torch.from_numpy(v) for k, v in {**left_out, **feed}.items()}).numpy()

    for n in (1, 3, 5):
        assert gap(run, snap, n) <= 1, n
    if has_w:
        assert gap(run, snap, 3, 0.5) <= 1 and gap(run, snap, 2, 0.0) <= 1


class Rare(torch.nn.Module):
    """Operators that only traced networks have."""

    scale = torch.tensor(1.5)

    def forward(self, z, c):
        rows = torch.cat([z.new_zeros(z.shape[0], 1), z.new_full((z.shape[0], 1), 0.7), torch.ones_like(z[:, :1])], 1)
        classes, (a, b), (first, _) = torch.nn.functional.one_hot(c.argmax(1), 3), z.split([3, 5], 1), z.chunk(2, 1)
        x = torch.lerp(a, c, 0.3).erf() + b[:, :1].expand_as(a) + first[:, 0][:, None] * torch.tensor([0.1, 0.2, 0.3])
        spread = z.detach().reshape(-1, 2, 2, 2).std((2, 3), keepdim=True).flip(1)[:, :1, 0, 0]
        y = torch.nn.functional.leaky_relu((b[:, :3] + spread).clamp_(-1.5, 0.5), 0.2)
        return x + y + classes * classes.to(rows) * rows * self.scale.to(z.device)


def test_every_operator_of_a_traced_network_is_in_a_file_too(tmp_path, traced, monkeypatch):
    import onnx

    monkeypatch.setitem(TRACED, "rare", Rare)
    model, z, c = traced("rare"), torch.randn(4, 8), torch.eye(3)[[1, 2, 0, 1]]
    onnx_export._write(onnx, str(tmp_path / "x.onnx"), model, dict(z=z[:2], c=c[:2]), 18, "{}")
    (made,) = open_session(tmp_path / "x.onnx").run(None, dict(z=z.numpy(), c=c.numpy()))
    torch.testing.assert_close(torch.from_numpy(made), model(z, c), rtol=1e-5, atol=1e-5)
    if absent := {*WRITTEN, *TRACED} - {*OPERATORS}:
        pytest.skip(f"needs the tests of {', '.join(sorted(absent))} before it")
    known = set.union(*(OPERATORS[name] for name in (*WRITTEN, "rare")))
    more = {name: OPERATORS[name] - known for name in TRACED}
    assert not any(more.values()), f"write one of these networks, or extend Rare: {more}"


def test_winograd_is_what_the_wide_network_would_use(monkeypatch):
    """The premise of `WIDE`: the ordinary forward takes the path that export must not."""
    monkeypatch.setattr(winograd, "MIN_TILES", 1)
    x = torch.randn(2, 512, 8, 8).contiguous(memory_format=torch.channels_last)
    assert winograd.usable(x, torch.randn(512, 512, 3, 3), (1, 1), (1, 1), 1)


def refused(says, snap, tmp_path, **kw):
    with pytest.raises(UserError, match=says) as e:
        onnx_export.export_onnx(snap, tmp_path / "x.onnx", **kw)
    assert "\n" not in str(e.value) and not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_one_line_and_no_file(tmp_path, monkeypatch):
    snap = plain_stylegan2()
    snap.nets["D"] = NetRecord.of(stylegan2.Discriminator(3, 16, 3, channel_base=64, channel_max=4))
    refused("D is a Discriminator, not a generator; choose another with --net", snap, tmp_path, net="D")
    refused("no network 'G'; it has G_ema, D", snap, tmp_path, net="G")
    mind = Snapshot("mind2mind", {"M": snap.nets["G_ema"]}, {}, snap.data)
    refused("needs the ALAE it was trained on", mind, tmp_path)
    with monkeypatch.context() as m:  # the file is compared with the sampler
        m.setattr(onnx_export, "_write", lambda onnx, path, *a: Path(path).touch())
        m.setattr(onnx_export, "_difference", lambda *a: 2)
        refused("would differ by 2 of 255 from the sampler's", snap, tmp_path)
    with monkeypatch.context() as m:  # whatever the exporter cannot do
        def fails(*args):
            raise RuntimeError("Could not guard on data-dependent expression\nmore lines")

        m.setattr(onnx_export, "_write", fails)
        refused(r"G_ema of this utlo snapshot cannot be written as ONNX \(.+\); the other endings", WRITTEN["utlo"](),
                tmp_path)
    snap.nets["G_ema"].state["synthesis.b4.const"].fill_(float("nan"))
    refused("makes images that are not finite", snap, tmp_path)
