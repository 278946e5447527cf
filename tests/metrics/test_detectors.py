# SPDX-License-Identifier: Apache-2.0
"""Finding, checking and running detectors. Large published networks are stood in for by random weights."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch
from torch import nn

from dnnlib.util import UserError
from gantransfer.data.dataset import ImageDataset
from gantransfer.detectors import features, inception, vgg, weights
from gantransfer.detectors.descriptor import read_descriptor
from gantransfer.detectors.features import RESERVED, _load_inception
from gantransfer.detectors.input_path import PRESETS, InputSpec
from gantransfer.detectors.judge import DigitsJudge
from gantransfer.metrics import table
from gantransfer.metrics.fid import frechet_distance
from gantransfer.metrics.table import MetricContext
from tests.conftest import write_image_zip
from tests.metrics.conftest import NoisyMeans

images = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (3, 3, 20, 20)).astype(np.uint8))


def random_state(net: nn.Module, seed: int = 0) -> dict:
    """Weights of the scale that keeps activations finite, positive variances."""
    g = torch.Generator().manual_seed(seed)
    state = {}
    for k, v in net.state_dict().items():
        if v.ndim > 1:
            v = torch.randn(v.shape, generator=g) * (2 / v[0].numel()) ** 0.5
        elif v.is_floating_point():
            v = torch.rand(v.shape, generator=g) * 0.1 + ("var" in k)
        state[k] = v
    return state


# The shipped judge


def test_shipped_judge_works_out_of_the_box(empty_home, no_network, reference):
    d = features.load("digits32")
    out = d(torch.from_numpy(reference.images_uint8(np.arange(40))))
    assert out.features.shape == (40, 32) and out.logits.shape == (40, 10)
    assert (out.logits.argmax(1).numpy() == reference.class_ids).mean() >= 0.95
    assert d.identity()["sha256"] == hashlib.sha256((weights.package_data() / "digits32.pt").read_bytes()).hexdigest()
    assert (weights.package_data() / "digits32.pt").stat().st_size < 200_000


def test_judge_refuses_other_images():
    spec = features.load("digits32").input
    with pytest.raises(UserError, match="grey images, the data set has 3 channels"):
        spec.check(3, 16, "digits32")
    with pytest.raises(UserError, match="judges 16x16 images, the data set has 32x32"):
        spec.check(1, 32, "digits32")


# Pixels


def test_pixel_rulers():
    d = features.load("pix64")
    x = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    expected = x.float().reshape(8, 2, 8, 2).mean((1, 3)).reshape(1, 64) / 255
    assert torch.allclose(d(x).features, expected)
    assert features.load("pixel16")(images).features.shape == (3, 3 * 256)
    assert features.load("pixel16")(images[:, :, :8, :8]).features.shape == (3, 3 * 64)
    with pytest.raises(UserError, match="its descriptor says 64"):
        d(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))


# Input paths


def test_grey_becomes_three_channels():
    x = images[:, :1]
    assert torch.equal(PRESETS["tf1"].prepare(x), PRESETS["tf1"].prepare(x.expand(-1, 3, -1, -1)))


def test_range_and_normalisation():
    spec = InputSpec(range=(-1.0, 1.0), size=None, resize=None, mean=(0.5,), std=(2.0,))
    assert torch.allclose(spec.prepare(images), (images / 127.5 - 1 - 0.5) / 2, atol=1e-6)


# Search path and hashes


def test_search_path_order(empty_home, monkeypatch, tmp_path):
    monkeypatch.setenv("GANTRANSFER_DETECTORS", f"{tmp_path / 'a'}:{tmp_path / 'b'}")
    monkeypatch.setenv("DNNLIB_CACHE_DIR", str(tmp_path / "dnn"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    path = weights.search_path()
    assert path[:2] == [tmp_path / "a", tmp_path / "b"]
    assert tmp_path / "dnn" / "downloads" in path and tmp_path / "torch" / "hub" / "checkpoints" in path


@pytest.mark.parametrize("place", ["env", "cache", "torch hub", "dnnlib", "temporary"])
def test_published_file_is_found(empty_home, monkeypatch, tmp_path, no_network, place):
    file = RESERVED["inception"].files[1 if place in ("dnnlib", "temporary") else 0]
    folder, name = {
        "env": (tmp_path / "mine", file.names[0]),
        "cache": (empty_home / "cache" / "downloads", hashlib.md5(file.url.encode()).hexdigest() + "_" + file.names[0]),
        "torch hub": (empty_home / ".cache/torch/hub/checkpoints", file.names[1]),
        "dnnlib": (empty_home / ".cache/dnnlib/downloads", "a866f8d678872dcf6fcf60ddd09807ab_inception-2015-12-05.pt"),
        "temporary": (empty_home / "tmp", "inception-2015-12-05.pt"),
    }[place]
    monkeypatch.setenv("GANTRANSFER_DETECTORS", str(tmp_path / "mine"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"stand-in")
    monkeypatch.setattr(weights, "sha256_of", lambda path: "6726825d" + "0" * 56)
    assert features.find_reserved("inception") == folder / name


def test_wrong_hash_of_a_reserved_name(empty_home, monkeypatch, tmp_path):
    monkeypatch.setenv("GANTRANSFER_DETECTORS", str(tmp_path))
    bad = tmp_path / "weights-inception-2015-12-05-6726825d.pth"
    bad.write_bytes(b"half a download")
    digest = hashlib.sha256(b"half a download").hexdigest()[:8]
    for overrides in ({}, {"inception": bad}):
        with pytest.raises(UserError, match=f"begins {digest}, the published weights' with 6726825d.*delete it"):
            features.find_reserved("inception", overrides)


def test_missing_weights_say_what_to_do(empty_home, no_network):
    with pytest.raises(features.MissingWeights) as e:
        features.load("inception")
    text = e.value.describe("fid50k_full")
    assert "\n" not in text
    for part in ("'fid50k_full'", "weights-inception-2015-12-05-6726825d.pth", str(empty_home / "cache" / "detectors"),
                 "--detector=inception=FILE", "GANTRANSFER_DETECTORS", "calc_metrics.py --fetch-detector=inception",
                 "https://github.com/toshas", "--metrics=none", "smoke"):
        assert part in text, part


def test_fetch_checks_the_hash(empty_home, monkeypatch, tmp_path):
    source = tmp_path / "weights.pth"
    source.write_bytes(b"good")
    digest = hashlib.sha256(b"good").hexdigest()
    file = weights.WeightsFile(("w.pth",), source.as_uri(), digest[:8])
    assert weights.download(file).read_bytes() == b"good"
    with pytest.raises(UserError, match="expected 00000000; try again"):
        weights.download(weights.WeightsFile(("w.pth",), source.as_uri(), "00000000"))
    assert not list((empty_home / "cache" / "downloads").glob("*weights.pth")), "a wrong download must not stay"
    with pytest.raises(UserError, match="--fetch-detector=nonsense: expected one of inception"):
        features.fetch("nonsense")


# Networks from files


def nvidia_module(state: dict) -> nn.Module:
    """A module tree with the names and leaves of NVIDIA's file, filled from an FID state dict of ours."""

    class Node(nn.Module):
        def forward(self, x):
            return x

    root = Node()

    def node(path):
        at = root
        for part in path.split("."):
            if not hasattr(at, part):
                at.add_module(part, Node())
            at = getattr(at, part)
        return at

    for theirs, ours in inception.nvidia_layers().items():
        at = node(theirs)
        if ours == "fc":
            at.weight, at.bias = (nn.Parameter(state[f"fc.{k}"]) for k in ("weight", "bias"))
            continue
        at.weight = nn.Parameter(state[f"{ours}.conv.weight"])
        at.beta = nn.Parameter(state[f"{ours}.bn.bias"])
        at.register_buffer("mean", state[f"{ours}.bn.running_mean"])
        at.register_buffer("var", state[f"{ours}.bn.running_var"])
    return root


@pytest.fixture(scope="module")
def nvidia_file(tmp_path_factory):
    net = inception.InceptionV3("fid")
    state = {k: torch.ones_like(v) if k.endswith("bn.weight") else v for k, v in random_state(net).items()}
    path = tmp_path_factory.mktemp("nvidia") / "inception-2015-12-05.pt"
    torch.jit.script(nvidia_module(state)).save(str(path))
    return path, state


def test_torchscript_key_map(nvidia_file):
    path, state = nvidia_file
    loaded = inception.from_nvidia(weights.read_state(path))
    for k, v in state.items():
        if not k.endswith("num_batches_tracked"):
            assert torch.equal(loaded[k], v), k
    run = _load_inception("fid")(path, torch.device("cpu"))
    net = inception.InceptionV3("fid")
    net.load_state_dict(state)
    x = torch.randn(1, 3, 299, 299)
    assert torch.equal(run(x).features, net.eval()(x).features)


def test_fid_from_images_to_value(nvidia_file, digits, tmp_path, no_network):
    """fid<N>_full and kid<N>_clean with a network of the right shape: grey images, resize, features, distance."""
    path, state = nvidia_file
    data = ImageDataset(write_image_zip(tmp_path / "few.zip", digits[0][:4], digits[1][:4].tolist()), use_labels=True)
    ctx = MetricContext(sampler=NoisyMeans(data), reference=data, cache_dir=tmp_path / "c",
                        detectors={"inception": path}, batch=3)
    fid, clean = (table.compute(n, ctx) for n in ("fid4_full", "kid4_clean"))
    net = inception.InceptionV3("fid")
    net.load_state_dict(state)
    plan = ctx.plan(4)
    prepared = [PRESETS["tf1"].prepare(x) for x in (torch.from_numpy(data.images_uint8(np.arange(4))),
                                                    ctx.images(plan, 0, 4))]
    with torch.no_grad():
        real, fake = (net.eval()(x) for x in prepared)
    assert fid["results"]["fid4_full"] == pytest.approx(frechet_distance(real.features, fake.features, 0), rel=1e-3)
    assert fid["detector"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() and fid["low_sample"]
    assert clean["detector"]["input"]["resize"] == "pil_bicubic" and np.isfinite(clean["results"]["kid4_clean"])


def test_unknown_torchscript_layer():
    with pytest.raises(KeyError, match="belongs to no known layer"):
        inception.from_nvidia({"layers.mixed_11.conv.weight": torch.zeros(3, 3, 1, 1)})


def test_a_file_of_another_network_is_refused(tmp_path):
    path = tmp_path / "other.pth"
    torch.save(nn.Linear(3, 3).state_dict(), path)
    with pytest.raises(UserError, match="tensor 'Conv2d_1a_3x3.conv.weight' is missing; this file holds another"):
        _load_inception("fid")(path, torch.device("cpu"))
    state = inception.InceptionV3("torchvision").state_dict()
    torch.save(state, path)
    with pytest.raises(UserError, match=r"'fc.weight' has shape \(1000, 2048\) instead of \(1008, 2048\)"):
        _load_inception("fid")(path, torch.device("cpu"))


@pytest.mark.parametrize("content", [b"", b"not a file of tensors", b"PK\x03\x04 broken"])
def test_unreadable_weights(tmp_path, content):
    path = tmp_path / "broken.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as weights.*delete it and fetch it again"):
        weights.read_state(path)


def test_weights_with_code_are_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"a": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="cannot be read"):
        weights.read_state(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


# VGG and LPIPS


def lpips_files(folder):
    features_only = nn.Module()
    features_only.features = vgg._features()
    torch.manual_seed(0)
    state = {k: torch.randn_like(v) * (2 / max(v[0].numel(), 1)) ** 0.5 for k, v in features_only.state_dict().items()}
    linear = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate(vgg.STAGES)}
    torch.save({**state, "classifier.0.bias": torch.zeros(4096)}, folder / "vgg16-397923af.pth")
    torch.save(linear, folder / "weights-vgg16-lpips.pth")
    return state, linear


def test_lpips_against_its_definition(tmp_path, empty_home, monkeypatch):
    monkeypatch.setenv("GANTRANSFER_DETECTORS", str(tmp_path))
    state, linear = lpips_files(tmp_path)
    monkeypatch.setattr(weights, "sha256_of", lambda p: "397923af" + "0" * 56)
    monkeypatch.setattr(features, "sha256_of", lambda p: "397923af" + "0" * 56)
    lpips = features.load_lpips()
    torch.manual_seed(1)
    a, b = (torch.rand(2, 3, 40, 40) * 255 for _ in range(2))
    got = (lpips.embed(a) - lpips.embed(b)).square().sum(1)

    # shift and scale of the published scaling layer, for inputs in [-1, 1]
    shift, scale = (torch.tensor(v).reshape(1, 3, 1, 1) for v in ([-.030, -.088, -.188], [.458, .448, .450]))
    layers = vgg._features()
    layers.load_state_dict({k.removeprefix("features."): v for k, v in state.items()})
    total, stage = torch.zeros(2), 0
    x, y = ((t / 127.5 - 1 - shift) / scale for t in (a, b))
    for layer in layers:
        if isinstance(layer, nn.MaxPool2d):
            u, v = (t / (t.square().sum(1, keepdim=True).sqrt() + 1e-10) for t in (x, y))
            total += ((u - v).square() * linear[f"lin{stage}.model.1.weight"]).sum(1).mean((1, 2))
            stage += 1
        x, y = layer(x), layer(y)
    assert stage == 5
    assert torch.allclose(got, total, rtol=1e-3)
    assert float((lpips.embed(a) - lpips.embed(a)).square().sum()) == 0


def test_lpips_files_are_asked_for(empty_home, no_network):
    with pytest.raises(features.MissingWeights, match="weights-vgg16-lpips.pth"):
        features.load_lpips()
    with pytest.raises(KeyError, match="lin0"):
        vgg.lpips_state({"features.0.weight": torch.zeros(1)}, {})


class ScriptVGG(nn.Module):
    """The call signature of NVIDIA's vgg16.pt."""

    def forward(self, img, resize_images: bool = True, return_features: bool = False, return_lpips: bool = False):
        x = nn.functional.adaptive_avg_pool2d(img.float(), [1, 1]).flatten(1)
        if return_lpips:
            return x[:, :1] * (2.0 if resize_images else 1.0)
        return x[:, :1].repeat(1, 4096) if return_features else x


def test_nvidia_vgg_runs_as_it_is(tmp_path, empty_home, monkeypatch):
    path = tmp_path / "vgg16.pt"
    torch.jit.script(ScriptVGG()).save(str(path))
    for name in ("vgg16", "lpips"):  # it is not the published file: under that name it must not run
        with pytest.raises(UserError, match="published"):
            features.load(name, overrides={name: path}) if name == "vgg16" else features.load_lpips(
                overrides={name: path})
    published = dataclasses.replace(features._VGG_NVIDIA, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(features, "_VGG_NVIDIA", published)
    monkeypatch.setitem(features.RESERVED, "vgg16", dataclasses.replace(features.RESERVED["vgg16"],
                                                                        files=(published,)))
    d = features.load("vgg16", overrides={"vgg16": path})
    out = d(images)
    assert out.features.shape == (3, 4096)
    assert torch.allclose(out.features[:, 0], images[:, 0].float().mean((1, 2)))
    lpips = features.load_lpips(overrides={"vgg16": path})
    assert torch.allclose(lpips.embed(images.float())[:, 0], images[:, 0].float().mean((1, 2)))


def test_vgg_features_are_the_second_linear_layer():
    """All weights zero (and shared, so without memory) except two biases: what comes out is relu(second bias)."""
    with torch.device("meta"):
        net = vgg.VGG16()
    state = {k: torch.zeros(1).expand(v.shape) for k, v in net.state_dict().items()}
    state["classifier.3.bias"], state["classifier.6.bias"] = torch.linspace(-1, 1, 4096), torch.full((1000,), 9.0)
    net.load_state_dict(state, assign=True)
    with torch.no_grad():
        out = net.eval()(torch.randn(2, 3, 64, 64))
    assert torch.equal(out, torch.linspace(-1, 1, 4096).relu().expand(2, -1))


class Program(nn.Module):
    """A TorchScript file that writes another file as soon as it is opened."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    @torch.jit.export
    def __getstate__(self):
        return (self.w, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):
        self.w = state[0]
        self.training = state[1]
        torch.save(self.w, "WRITTEN_BY_THE_FILE")

    def forward(self, x):
        return x


@pytest.mark.parametrize("arch", ["digits_judge", "vgg16", "fid_inception_v3", "dinov2_vitl14"])
def test_a_program_does_not_run_where_weights_are_expected(tmp_path, monkeypatch, arch):
    monkeypatch.chdir(tmp_path)
    torch.jit.script(Program()).save("net.pth")
    torch.jit.load("net.pth")
    written = tmp_path / "WRITTEN_BY_THE_FILE"
    assert written.exists(), "the program of this test does not work"
    written.unlink()
    path = tmp_path / "net.detector.json"
    path.write_text(json.dumps(dict(name="net", file="net.pth", arch=arch)))
    with pytest.raises(UserError, match="form of their own"):
        features.load("net", overrides={"net": path})
    assert not written.exists()
    path.write_text(json.dumps(dict(name="net", kind="torchscript", file="net.pth")))
    features.load("net", overrides={"net": path})
    assert written.exists()  # as the descriptor says that it is a program


def test_tensors_of_a_program_are_its_state_dict(tmp_path):
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)
            self.register_buffer("mean", torch.arange(3.0))
            self.other = torch.ones(3)  # neither parameter nor buffer

        def forward(self, x):
            return self.conv(x) + self.other.sum() + self.mean.sum()

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([Inner(), Inner()])
            self.sizes, self.names = [1, 2], {"a": 1.5}

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x + self.sizes[0] + self.names["a"]

    torch.jit.script(Outer()).save(str(tmp_path / "net.pt"))
    expected, got = torch.jit.load(str(tmp_path / "net.pt")).state_dict(), weights.read_state(tmp_path / "net.pt")
    assert set(got) == set(expected) and len(got) == 6
    assert all(torch.equal(got[k], v) for k, v in expected.items())


# Descriptors


def write_judge(folder, name="mine", **changes):
    net = DigitsJudge(num_classes=3)
    torch.save(net.state_dict(), folder / "net.pt")
    d = dict(name=name, version=1, kind="state_dict", file="net.pt", arch="digits_judge",
             arch_kwargs=dict(num_classes=3), sha256=hashlib.sha256((folder / "net.pt").read_bytes()).hexdigest(),
             input=dict(channels=1, size=16, resize=None), outputs=dict(features=dict(key=0, dim=32)))
    for k, v in changes.items():
        d[k] = v
    (folder / f"{name}.detector.json").write_text(json.dumps(d))
    return folder / f"{name}.detector.json"


def test_own_detector_by_folder_and_by_flag(tmp_path, monkeypatch, empty_home):
    path = write_judge(tmp_path)
    x = images[:, :1, :16, :16]
    monkeypatch.setenv("GANTRANSFER_DETECTORS", str(tmp_path))
    by_folder = features.load("mine")(x).features
    monkeypatch.delenv("GANTRANSFER_DETECTORS")
    for overrides in ({"mine": path}, {"mine": tmp_path / "net.pt"}, features.parse_overrides([str(path)])):
        assert torch.equal(features.load("mine", overrides=overrides)(x).features, by_folder)
    (tmp_path / "mine.detector.json").rename(tmp_path / "net.detector.json")
    assert torch.equal(features.load("mine", overrides={"mine": tmp_path / "net.pt"})(x).features, by_folder)


@pytest.mark.parametrize("changes,message", [
    (dict(extra=1), "unknown field 'extra'"),
    (dict(input=dict(colour=3)), "input: unknown field 'colour'"),
    (dict(input=dict(resize="lanczos", size=3)), "resize 'lanczos': expected null or one of tf1"),
    (dict(input=dict(resize="tf1", size=None)), "input.size is needed"),
    (dict(input=dict(mean=["a"])), "input.mean: expected numbers"),
    (dict(input=dict(quantize_uint8=False)), "quantize_uint8"),
    (dict(kind="pickle"), "kind 'pickle'"),
    (dict(arch="resnet"), "arch 'resnet'"),
    (dict(version=2), "version 2"),
    (dict(name="inception"), "reserved for published weights"),
    (dict(name="a_b"), "'name' must be letters"),
    (dict(file=None), "'file' must name"),
    (dict(outputs=dict(features=dict(index=0))), "outputs.features: unknown field 'index'"),
    (dict(call=dict(arguments={})), "call: unknown field 'arguments'"),
    (dict(outputs=[]), "outputs: expected a JSON object"),
])
def test_bad_descriptors(tmp_path, changes, message):
    path = write_judge(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        read_descriptor(path, features.reserved_names())


def test_descriptor_and_file_must_agree(tmp_path):
    with pytest.raises(UserError, match="SHA-256"):
        features.load("mine", overrides={"mine": write_judge(tmp_path, sha256="0" * 64)})
    with pytest.raises(UserError, match="does not exist"):
        features.load("mine", overrides={"mine": write_judge(tmp_path, file="gone.pt")})
    path = write_judge(tmp_path, outputs=dict(features=dict(key=0, dim=31)))
    with pytest.raises(UserError, match="gave 32 features, its descriptor says 31"):
        features.load("mine", overrides={"mine": path})(images[:, :1, :16, :16])
    with pytest.raises(UserError, match="arch_kwargs"):
        features.load("mine", overrides={"mine": write_judge(tmp_path, arch_kwargs=dict(size=3))})
    path.write_text("{")
    with pytest.raises(UserError, match="cannot be read as a detector descriptor"):
        features.load("mine", overrides={"mine": path})


class Pair(nn.Module):
    def forward(self, x, double: bool = False):
        y = x.mean([2, 3])
        return {"f": y * (2.0 if double else 1.0), "l": y[:, :2]}


@pytest.mark.parametrize("kind", ["torchscript", "export"])
def test_script_and_export_detectors(tmp_path, kind):
    if kind == "torchscript":
        torch.jit.script(Pair()).save(str(tmp_path / "net.pt"))
        call = dict(kwargs=dict(double=True))
    else:
        batch = torch.export.Dim("batch", min=1, max=64)
        program = torch.export.export(Pair(), (torch.zeros(2, 3, 20, 20),), dynamic_shapes={"x": {0: batch}})
        torch.export.save(program, str(tmp_path / "net.pt"))
        call = {}
    path = tmp_path / "pair.detector.json"
    path.write_text(json.dumps(dict(name="pair", kind=kind, file="net.pt", call=call, input=dict(size=None),
                                    outputs=dict(features=dict(key="f", dim=3), logits=dict(key="l")))))
    out = features.load("pair", overrides={"pair": path})(images)
    scale = 2 if kind == "torchscript" else 1
    assert torch.allclose(out.features, scale * images.float().mean((2, 3)))
    assert out.logits.shape == (3, 2)


def test_detector_flags(tmp_path):
    path = write_judge(tmp_path)
    assert features.parse_overrides([f"other={path}"]) == {"other": path}
    for item, message in ((f"{tmp_path / 'net.pt'}", "say which detector"), ("x=/nowhere", "no such file: /nowhere")):
        with pytest.raises(UserError, match=message):
            features.parse_overrides([item])
    assert features.normalise_overrides({"": str(path)}) == {"mine": path}


def test_tf32_is_off_while_detecting():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    seen = []
    d = features.load("pix64")
    d.network = lambda x: seen.append((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)) or \
        features.Features(x.flatten(1), None)
    try:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        d(images)
        assert seen == [(False, False)]
        assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
