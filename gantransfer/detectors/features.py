# SPDX-License-Identifier: Apache-2.0
"""Feature detectors: which network, which weights, which input path. Images in, feature vectors out.

A detector is named. Reserved names (`inception`, `vgg16`, ...) stand for published weights and protocols; anything else
is a weights file with a descriptor beside it (`networks/descriptor.py`). Only `fetch` downloads.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dnnlib import util
from dnnlib.util import UserError, first_line
from gantransfer.detectors import clip, descriptor, dinov2, inception, layouts, vgg, weights
from gantransfer.detectors.descriptor import Descriptor
from gantransfer.detectors.input_path import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, PRESETS, InputSpec
from gantransfer.detectors.judge import DigitsJudge
from gantransfer.detectors.weights import (
    MissingWeights,
    WeightsFile,
    load_program,
    load_script,
    load_strictly,
    read_state,
    sha256_of,
)


class Features(NamedTuple):
    features: Tensor  # [N, D] float32
    logits: Tensor | None  # [N, classes] float32, without the output bias where the protocol says so


class Detector:
    """Callable: uint8 images [N, C, H, W] on any device -> Features on `device`. Deterministic, float32, no TF32."""

    def __init__(self, name: str, network: Callable[[Tensor], Features], input: InputSpec, sha256: str, dim: int | None,
                 device: torch.device | str, classes: Sequence[int] | None = None):
        self.name, self.network, self.input, self.sha256, self.dim = name, network, input, sha256, dim
        self.device, self.classes = torch.device(device), classes

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        with exact_float32():
            out = self.network(self.input.prepare(images.to(self.device)))
        features = out.features.float().flatten(1)
        if self.dim is None:
            self.dim = features.shape[1]
        if features.shape[1] != self.dim:
            raise UserError(f"detector '{self.name}' gave {features.shape[1]} features, its descriptor says {self.dim}")
        return Features(features, None if out.logits is None else out.logits.float())

    def identity(self) -> dict[str, Any]:
        """What a result line and a cache key record."""
        return {"name": self.name, "sha256": self.sha256, "input": self.input.to_dict()}


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Full float32 matrix products and convolutions: TF32 changes metrics in the third digit."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


_FID_PTH = WeightsFile(
    ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth"),
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "6726825d")
_NVIDIA = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/"
_FID_NVIDIA = WeightsFile(("inception-2015-12-05.pt", "a866f8d678872dcf6fcf60ddd09807ab_inception-2015-12-05.pt"),
                          _NVIDIA + "inception-2015-12-05.pt")
_VGG_NVIDIA = WeightsFile(("5982b9427714baaab6e0a48ef3b1dbfd_vgg16.pt", "vgg16.pt"), _NVIDIA + "vgg16.pt",
                          "b437eb095feaeb0b83eb3fa11200ebca4548ee39a07fb944a417ddc516cc07c3")
_TORCHVISION_NEW = WeightsFile(("inception_v3_google-0cc3c7bd.pth",),
                               "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth", "0cc3c7bd")
_TORCHVISION_OLD = WeightsFile(("inception_v3_google-1a9a5a14.pth",),
                               "https://download.pytorch.org/models/inception_v3_google-1a9a5a14.pth", "1a9a5a14")
_VGG_TORCHVISION = WeightsFile(("vgg16-397923af.pth",), "https://download.pytorch.org/models/vgg16-397923af.pth",
                               "397923af")
_LPIPS_LINEAR = WeightsFile(("weights-vgg16-lpips.pth",),
                            "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-vgg16-lpips.pth")


_DINOV2 = WeightsFile(("dinov2_vitl14_pretrain.pth",),
                      "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth")
_HUB = "https://huggingface.co/"
_DINOV2_HF = WeightsFile(("dinov2-large.safetensors", "dinov2-large.bin"),
                         _HUB + "facebook/dinov2-large/resolve/main/model.safetensors")
_CLIP_SHA = "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02"
_CLIP = WeightsFile(("ViT-L-14-336px.pt",),
                    f"https://openaipublic.azureedge.net/clip/models/{_CLIP_SHA}/ViT-L-14-336px.pt", _CLIP_SHA)
_CLIP_HF = WeightsFile(("clip-vit-large-patch14-336.bin", "clip-vit-large-patch14-336.safetensors"),
                       _HUB + "openai/clip-vit-large-patch14-336/resolve/main/pytorch_model.bin")


@dataclass(frozen=True)
class Reserved:
    """A published detector: any one of `files` will do; `load(path, device)` builds the network."""

    files: tuple[WeightsFile, ...]
    input: InputSpec
    dim: int
    load: Callable[[Path, torch.device], Callable[[Tensor], Features]]
    has_logits: bool = False


def _load_inception(variant: str) -> Callable[[Path, torch.device], Callable[[Tensor], Features]]:
    def load(path: Path, device: torch.device) -> Callable[[Tensor], Features]:
        state = read_state(path)
        if any(k.startswith("layers.mixed") for k in state):
            try:
                state = inception.from_nvidia(state)
            except KeyError as e:
                raise UserError(f"{path}: not NVIDIA's FID network: {e.args[0]}") from None
        state = {k: v for k, v in state.items() if not k.startswith("AuxLogits.")}
        net = load_strictly(inception.InceptionV3(variant), state, path).to(device)
        layout = torch.channels_last if device.type == "cpu" else torch.contiguous_format  # 1.3 times as fast there
        net = net.to(memory_format=layout)

        def run(x: Tensor) -> Features:
            out = net(x.contiguous(memory_format=layout))
            # BigGAN scores its torchvision network with the bias, the FID protocols without
            return Features(out.features, out.logits_unbiased if variant == "fid" else out.logits)

        return run

    return load


def _load_vgg_script(path: Path, device: torch.device) -> Callable[[Tensor], Features]:
    net = load_script(path, device, _VGG_NVIDIA)
    return lambda x: Features(net(x, return_features=True), None)


def _loader(kind: Callable[[], nn.Module], layout: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict
            ) -> Callable[[Path, torch.device], Callable[[Tensor], Features]]:
    def load(path: Path, device: torch.device) -> Callable[[Tensor], Features]:
        net = load_strictly(kind(), layout(read_state(path)), path).to(device)
        return lambda x: Features(net(x), None)

    return load


_LOADERS = {"vgg16": _loader(vgg.VGG16), "dinov2_vitl14": _loader(dinov2.DinoV2, layouts.dinov2),
            "clip_vitl14_336": _loader(clip.CLIPVision, layouts.clip)}


def _dinov2(resize: str) -> Reserved:
    return Reserved((_DINOV2, _DINOV2_HF), InputSpec(size=224, resize=resize, mean=IMAGENET_MEAN, std=IMAGENET_STD),
                    1024, _LOADERS["dinov2_vitl14"])


_FID_FILES = (_FID_PTH, _FID_NVIDIA)
RESERVED: dict[str, Reserved] = {
    "inception": Reserved(_FID_FILES, PRESETS["tf1"], 2048, _load_inception("fid"), True),
    "inception-pytorch": Reserved(_FID_FILES, PRESETS["pytorch_fid"], 2048, _load_inception("fid"), True),
    "inception-clean": Reserved(_FID_FILES, PRESETS["clean"], 2048, _load_inception("fid"), True),
    "inception-biggan": Reserved((_TORCHVISION_NEW, _TORCHVISION_OLD), PRESETS["biggan"], 2048,
                                 _load_inception("torchvision"), True),
    # NVIDIA's file resizes by itself and runs as it is: the protocol is whatever it computes
    "vgg16": Reserved((_VGG_NVIDIA,), InputSpec(size=None, resize=None), 4096, _load_vgg_script),
    "vgg16-torchvision": Reserved((_VGG_TORCHVISION,),
                                  InputSpec(size=224, resize="half_pixel", mean=IMAGENET_MEAN, std=IMAGENET_STD),
                                  4096, _LOADERS["vgg16"]),
    "vgg16-fidelity": Reserved((_VGG_TORCHVISION,),
                               InputSpec(size=224, resize="tf1", mean=IMAGENET_MEAN, std=IMAGENET_STD), 4096,
                               _LOADERS["vgg16"]),
    # dgm-eval's, where the distance comes from; EDM2's and torch-fidelity's differ from it, and from each other
    "dinov2": _dinov2("pil_bicubic_uint8"),
    "dinov2-edm2": _dinov2("bicubic_antialias_unclipped"),
    "dinov2-fidelity": _dinov2("tf1"),
    "clip": Reserved((_CLIP, _CLIP_HF), InputSpec(size=336, resize="crop_pil_bicubic_uint8", mean=CLIP_MEAN,
                                                  std=CLIP_STD), 768, _LOADERS["clip_vitl14_336"]),
}


# Weight-free rulers: pixels of box-downsampled images, in 0..1.
PIXELS = {"pixel16": InputSpec(channels=None, size=16, resize="box", std=(255.0,)),
          "pix64": InputSpec(channels=None, size=8, resize="box", std=(255.0,))}


def find_reserved(name: str, overrides: Mapping[str, str | Path] | None = None) -> Path:
    """The weights file of a reserved detector. Raises MissingWeights, or UserError for a file with a wrong hash."""
    files = RESERVED[name].files
    given = _override(name, overrides)
    if given is not None:
        path = util.fetch(given)
        return weights.verified(path, next((f for f in files if path.name in f.names), None), files)
    found = weights.find(files)
    if found is None:
        raise MissingWeights(name, [n for f in files for n in f.names[:1]], weights.search_path(), files[0].url, name)
    return found


def _override(name: str, overrides: Mapping[str, str | Path] | None) -> str | Path | None:
    """The presets of one network share a file given for one of them, as `inception-clean` and `inception` do."""
    same = [n for n, r in RESERVED.items() if r.files == RESERVED[name].files]
    return next((overrides[n] for n in (name, *same) if overrides and n in overrides), None)


def fetch(name: str) -> list[Path]:
    """Download the weights of a reserved detector (or 'lpips') into the cache and check them."""
    if name != "lpips" and name not in RESERVED:
        raise UserError(f"--fetch-detector={name}: expected one of {', '.join([*RESERVED, 'lpips'])}")
    return [weights.download(f) for f in (_LPIPS_FILES if name == "lpips" else RESERVED[name].files[:1])]


def reserved_names() -> set[str]:
    """Names that no descriptor may take."""
    return {*RESERVED, *PIXELS, "lpips"}


def parse_overrides(items: Sequence[str], flag: str = "--detector") -> dict[str, Path]:
    """`--detector` values -> {name: file}: 'NAME=FILE', or FILE alone (a descriptor, weights with their descriptor
    beside them, or a file of a published name)."""
    result = {}
    for item in items:
        name, sep, file = item.partition("=")
        path = Path(file if sep else item)
        if not path.exists():
            raise UserError(f"{flag}={item}: no such file: {path}")
        util.regular_file(path)
        if not sep:
            name = next((n for n, r in RESERVED.items() if any(path.name in f.names for f in r.files)), "")
            about = path if path.name.endswith(".detector.json") else path.with_suffix(".detector.json")
            if not name and about.is_file():
                name = descriptor.read_descriptor(about, reserved_names()).name
            if not name:
                raise UserError(f"{flag}={item}: say which detector it is: " + (
                    f"{flag}=NAME={item}" if flag == "--detector" else f"there is no {about}, which says it"))
        result[name] = path
    return result


def normalise_overrides(given: Mapping[str, str | Path]) -> dict[str, Path]:
    """{name: file} with the unnamed file (name '') under the name that its descriptor or file name stands for."""
    return parse_overrides([f"{name}={path}" if name else str(path) for name, path in given.items()])


def require(name: str, overrides: Mapping[str, str | Path] | None = None) -> InputSpec:
    """Check that a detector can be loaded (its files exist and have the right hash) without loading it."""
    if name in PIXELS:
        return PIXELS[name]
    if name in RESERVED:
        find_reserved(name, overrides)
        return RESERVED[name].input
    return descriptor.find_descriptor(name, overrides, reserved_names()).input


def is_program(name: str, overrides: Mapping[str, str | Path] | None = None) -> bool:
    """Whether opening this detector runs what its author put into it (TorchScript, torch.export), but for published
    files, which are known by their hash. Raises as `require`."""
    known = name in PIXELS or name in RESERVED
    return not known and descriptor.find_descriptor(name, overrides, reserved_names()).kind != "state_dict"


def load(name: str, device: torch.device | str = "cpu", overrides: Mapping[str, str | Path] | None = None) -> Detector:
    """Build a detector. Raises UserError (MissingWeights) when its files are absent or wrong."""
    device = torch.device(device)
    if name in PIXELS:
        return Detector(name, lambda x: Features(x.flatten(1), None), PIXELS[name], "", None, device)
    if name in RESERVED:
        path, spec = find_reserved(name, overrides), RESERVED[name]
        return Detector(name, spec.load(path, device), spec.input, sha256_of(path), spec.dim, device)
    d = descriptor.find_descriptor(name, overrides, reserved_names())
    return Detector(name, _load_described(d, device), d.input, sha256_of(d.path), d.dim, device, d.classes)


def _load_described(d: Descriptor, device: torch.device) -> Callable[[Tensor], Features]:
    if d.kind == "state_dict":
        if d.arch in ("fid_inception_v3", "torchvision_inception_v3"):
            return _load_inception("fid" if d.arch.startswith("fid") else "torchvision")(d.path, device)
        if d.arch in _LOADERS:
            return _LOADERS[d.arch](d.path, device)
        try:
            net: nn.Module = DigitsJudge(**d.arch_kwargs)
        except (TypeError, ValueError, RuntimeError, ArithmeticError, IndexError, MemoryError) as e:
            raise UserError(f"detector '{d.name}': arch_kwargs: {first_line(e)}") from None
        net = load_strictly(net, read_state(d.path), d.path).to(device)
        return lambda x: Features(*net(x))
    if d.kind == "torchscript":
        net = load_script(d.path, device)
    else:
        net = load_program(d.path, device)

    def pick(out: Any, key: int | str | None) -> Tensor:
        try:
            picked = out if isinstance(out, Tensor) else out[key]
        except (KeyError, IndexError, TypeError):
            raise UserError(f"detector '{d.name}': its output has no item {key!r}") from None
        if not isinstance(picked, Tensor):
            raise UserError(f"detector '{d.name}': output {key!r} is not a tensor")
        return picked

    def run(x: Tensor) -> Features:
        out = net(x, **d.call_kwargs)
        return Features(pick(out, d.feature_key), pick(out, d.logit_key) if d.has_logits else None)

    return run


_LPIPS_FILES = (_VGG_TORCHVISION, _LPIPS_LINEAR)


@dataclass(frozen=True)
class Perceptual:
    """`embed(images float [N, 3, H, W] in 0..255) -> [N, *]`: squared differences are LPIPS distances."""

    embed: Callable[[Tensor], Tensor]
    sha256: str


def require_lpips(overrides: Mapping[str, str | Path] | None = None) -> tuple[Path, ...]:
    """NVIDIA's vgg16.pt, or torchvision's VGG16 with the LPIPS calibration. Raises MissingWeights."""
    given = (overrides or {}).get("lpips") or (overrides or {}).get("vgg16")
    if given is not None:
        return (util.fetch(given),)
    pair = [weights.find([f]) for f in _LPIPS_FILES]
    if all(pair):
        return tuple(pair)
    script = weights.find([_VGG_NVIDIA])
    if script is None:
        raise MissingWeights("lpips", [" with ".join(f.names[0] for f in _LPIPS_FILES), _VGG_NVIDIA.names[-1]],
                             weights.search_path(), " and ".join(f.url for f in _LPIPS_FILES), "lpips")
    return (script,)


def load_lpips(device: torch.device | str = "cpu", overrides: Mapping[str, str | Path] | None = None) -> Perceptual:
    """The perceptual distance of path length and LPIPS diversity."""
    device = torch.device(device)
    paths = require_lpips(overrides)
    digest = hashlib.sha256("".join(sha256_of(p) for p in paths).encode()).hexdigest() if len(paths) > 1 \
        else sha256_of(paths[0])
    if len(paths) == 1:
        script = load_script(paths[0], device, _VGG_NVIDIA)
        return Perceptual(lambda x: script(x, resize_images=False, return_lpips=True).flatten(1), digest)
    try:
        net = load_strictly(vgg.LPIPS(), vgg.lpips_state(read_state(paths[0]), read_state(paths[1])), paths[0])
    except KeyError as e:
        raise UserError(f"{paths[1]}: tensor '{e.args[0]}' is missing; this file holds another network") from None
    return Perceptual(net.to(device).embed, digest)
