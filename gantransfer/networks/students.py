# SPDX-License-Identifier: Apache-2.0
"""Classifiers and regressors: teachers and students of distillation, by name.

`Student(arch, ...)` takes images in [-1, 1], normalises them by constants stored in it, and returns logits [N, K] or
normalised values [N, D]; with `features=True` also the maps of its stages and the pooled features, shallow to deep.

    resnet8..110, resnet8x4, resnet32x4   CIFAR residual networks (He et al. 2016), depth 6n + 2
    resnet18, resnet34, resnet50          with a 3x3 stem and no pooling before the stages
    wrn_16_2, wrn_D_W                     wide residual networks (Zagoruyko & Komodakis 2016)
    vgg8, vgg11, vgg13, vgg16, vgg19      with batch norm, one linear layer
    mobilenetv2, mobilenetv2_half, shufflenetv1, shufflenetv2, efficientnet_b0, densenet121, densenet161
    conv4-8, conv16-32, ...               strided 3x3 convolutions of these widths, linear: for tiny images
    pool16-32-64, ...                     3x3 convolutions with max pooling, 32 features: for tiny images
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantransfer.networks.sizes import ImageSize

RESNET_DEPTHS = (8, 14, 20, 32, 44, 56, 110)
VGG = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
DENSENETS = {"densenet121": (32, (6, 12, 24, 16)), "densenet161": (48, (6, 12, 36, 24))}
HEADS = ("linear", "mlp")


class Output(NamedTuple):
    logits: Tensor  # [N, K], or normalised values [N, D]
    features: list[Tensor]  # stage maps [N, C, h, w], then pooled features [N, d]


def conv_bn(cin: int, cout: int, size: int = 3, stride: int = 1, groups: int = 1, act: type[nn.Module] | None = None,
            bias: bool = False) -> nn.Sequential:
    layers = [nn.Conv2d(cin, cout, size, stride, size // 2, groups=groups, bias=bias), nn.BatchNorm2d(cout)]
    return nn.Sequential(*layers, *([act()] if act else []))


class Backbone(nn.Module):
    """A stem, stages, and what follows them before pooling. `dim`: pooled features."""

    def __init__(self, stem: nn.Module, stages: Sequence[nn.Module], dim: int, tail: nn.Module | None = None):
        super().__init__()
        self.stem, self.stages, self.tail = stem, nn.ModuleList(stages), tail or nn.Identity()
        self.dim = dim

    def forward(self, x: Tensor) -> list[Tensor]:
        x, maps = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return [*maps, self.pool(self.tail(x))]

    def pool(self, x: Tensor) -> Tensor:
        return x.mean([2, 3])


class Flat(Backbone):
    """Features are the flattened map."""

    def pool(self, x: Tensor) -> Tensor:
        return x.flatten(1)


# ---- residual networks -----------------------------------------------------------------------------------------------


class Basic(nn.Module):
    expansion = 1

    def __init__(self, cin: int, width: int, stride: int = 1):
        super().__init__()
        cout = width * self.expansion
        self.body = self.layers(cin, width, cout, stride)
        self.skip = nn.Identity() if stride == 1 and cin == cout else conv_bn(cin, cout, 1, stride)

    def layers(self, cin: int, width: int, cout: int, stride: int) -> nn.Module:
        return nn.Sequential(conv_bn(cin, width, 3, stride, act=nn.ReLU), conv_bn(width, cout))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x))


class Bottleneck(Basic):
    expansion = 4

    def layers(self, cin: int, width: int, cout: int, stride: int) -> nn.Module:
        return nn.Sequential(conv_bn(cin, width, 1, act=nn.ReLU), conv_bn(width, width, 3, stride, act=nn.ReLU),
                             conv_bn(width, cout, 1))


def resnet(channels: int, widths: Sequence[int], counts: Sequence[int], stem: int,
           block: type[Basic] = Basic) -> Backbone:
    cin, stages = stem, []
    for i, (w, n) in enumerate(zip(widths, counts)):
        layers = []
        for k in range(n):
            layers.append(block(cin, w, 2 if i and not k else 1))
            cin = w * block.expansion
        stages.append(nn.Sequential(*layers))
    return Backbone(conv_bn(channels, stem, act=nn.ReLU), stages, cin)


class PreActivation(nn.Module):
    """Batch norm and ReLU before each convolution; the skip takes the activated input where the shape changes."""

    def __init__(self, cin: int, cout: int, stride: int):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(cin), nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(cout), nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.skip = nn.Conv2d(cin, cout, 1, stride, bias=False) if cin != cout else None

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(self.conv1(a))))
        return y + (x if self.skip is None else self.skip(a))


def wide_resnet(channels: int, depth: int, width: int) -> Backbone:
    if depth < 10 or (depth - 4) % 6 or width < 1:
        raise ValueError(f"wrn_{depth}_{width}: the depth is 6n + 4, n at least 1")
    cin, stages = 16, []
    for i, w in enumerate((16 * width, 32 * width, 64 * width)):
        layers = []
        for k in range((depth - 4) // 6):
            layers.append(PreActivation(cin, w, 2 if i and not k else 1))
            cin = w
        stages.append(nn.Sequential(*layers))
    return Backbone(nn.Conv2d(channels, 16, 3, padding=1, bias=False), stages, cin,
                    nn.Sequential(nn.BatchNorm2d(cin), nn.ReLU()))


# ---- others ----------------------------------------------------------------------------------------------------------


def vgg(channels: int, counts: Sequence[int], size: ImageSize) -> Backbone:
    """Pooling after the first three stages, and after the fourth from 64 pixels on."""
    cin, stages = channels, []
    for i, (w, n) in enumerate(zip((64, 128, 256, 512, 512), counts)):
        layers: list[nn.Module] = []
        if 0 < i < 4 or i == 4 and min(size) >= 64:
            layers.append(nn.MaxPool2d(2))
        for _ in range(n):
            layers.append(conv_bn(cin, w, act=nn.ReLU, bias=True))
            cin = w
        stages.append(nn.Sequential(*layers))
    return Backbone(nn.Identity(), stages, cin)


class Inverted(nn.Module):
    """MobileNetV2's block: expand, depthwise, project; a skip where the shape stays, or always at stride 1."""

    def __init__(self, cin: int, cout: int, expand: int, stride: int, project: bool):
        super().__init__()
        mid = cin * expand
        head = [] if expand == 1 and not project else [conv_bn(cin, mid, 1, act=nn.ReLU)]
        self.body = nn.Sequential(*head, conv_bn(mid, mid, 3, stride, mid, act=nn.ReLU), conv_bn(mid, cout, 1))
        self.skip: nn.Module | None = None
        if stride == 1 and cin == cout:
            self.skip = nn.Identity()
        elif stride == 1 and project:
            self.skip = conv_bn(cin, cout, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) if self.skip is None else self.body(x) + self.skip(x)


def mobilenetv2(channels: int, width: float, project: bool, size: ImageSize) -> Backbone:
    """width 1, project: the CIFAR version, projected skips, halving less; width .5: half width, as in RepDistiller."""
    # expansion, channels, blocks, stride
    table = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    cin = int(32 * width)
    stem = conv_bn(channels, cin, 3, 2 if not project and min(size) >= 32 else 1, act=nn.ReLU)
    stages, layers = [], []
    for i, (t, c, n, s) in enumerate(table):
        for k in range(n):
            layers.append(Inverted(cin, int(c * width), t, s if k == 0 else 1, project))
            cin = int(c * width)
        if i == len(table) - 1 or table[i + 1][3] == 2:
            stages.append(nn.Sequential(*layers))
            layers = []
    return Backbone(stem, stages, 1280, conv_bn(cin, 1280, 1, act=nn.ReLU))


def shuffle(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class ShuffleV1(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int, groups: int, first: bool):
        super().__init__()
        self.stride = stride
        self.groups = 1 if first else groups
        out = cout - cin if stride == 2 else cout
        mid = out // 4
        self.reduce = conv_bn(cin, mid, 1, groups=self.groups, act=nn.ReLU)
        self.spatial = conv_bn(mid, mid, 3, stride, mid)
        self.expand = conv_bn(mid, out, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(self.spatial(shuffle(self.reduce(x), self.groups)))
        return F.relu(torch.cat([y, F.avg_pool2d(x, 3, 2, 1)], 1) if self.stride == 2 else y + x)


def shufflenetv1(channels: int) -> Backbone:
    cin, stages = 24, []
    for i, (w, n) in enumerate(zip((240, 480, 960), (4, 8, 4))):
        blocks = []
        for k in range(n):
            blocks.append(ShuffleV1(cin, w, 1 if k else 2, 3, first=not i and not k))
            cin = w
        stages.append(nn.Sequential(*blocks))
    return Backbone(conv_bn(channels, 24, 1, act=nn.ReLU), stages, cin)


class ShuffleV2(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        c = channels // 2
        self.body = nn.Sequential(conv_bn(c, c, 1, act=nn.ReLU), conv_bn(c, c, 3, groups=c),
                                  conv_bn(c, c, 1, act=nn.ReLU))

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        return shuffle(torch.cat([a, self.body(b)], 1), 2)


class ShuffleV2Down(nn.Module):
    def __init__(self, cin: int, cout: int):
        super().__init__()
        c = cout // 2
        self.left = nn.Sequential(conv_bn(cin, cin, 3, 2, cin), conv_bn(cin, c, 1, act=nn.ReLU))
        self.right = nn.Sequential(conv_bn(cin, c, 1, act=nn.ReLU), conv_bn(c, c, 3, 2, c),
                                   conv_bn(c, c, 1, act=nn.ReLU))

    def forward(self, x: Tensor) -> Tensor:
        return shuffle(torch.cat([self.left(x), self.right(x)], 1), 2)


def shufflenetv2(channels: int) -> Backbone:
    cin, stages = 24, []
    for w, n in zip((116, 232, 464), (3, 7, 3)):
        stages.append(nn.Sequential(ShuffleV2Down(cin, w), *(ShuffleV2(w) for _ in range(n))))
        cin = w
    return Backbone(conv_bn(channels, 24, 1, act=nn.ReLU), stages, 1024, conv_bn(cin, 1024, 1, act=nn.ReLU))


class Excited(nn.Module):
    """EfficientNet's block: expand, depthwise, squeeze and excitation (of the block's input width), project."""

    def __init__(self, cin: int, cout: int, size: int, stride: int, expand: int):
        super().__init__()
        mid = cin * expand
        self.expand = conv_bn(cin, mid, 1, act=nn.SiLU) if expand > 1 else nn.Identity()
        self.spatial = conv_bn(mid, mid, size, stride, mid, act=nn.SiLU)
        se = max(cin // 4, 1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(mid, se, 1), nn.SiLU(), nn.Conv2d(se, mid, 1),
                                  nn.Sigmoid())
        self.project = conv_bn(mid, cout, 1)
        self.skip = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        y = self.spatial(self.expand(x))
        y = self.project(y * self.gate(y))
        return x + y if self.skip else y


def efficientnet_b0(channels: int) -> Backbone:
    table = [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
             (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)]  # expansion, channels, blocks, stride, kernel
    cin, stages, layers = 32, [], []
    for i, (t, c, n, s, k) in enumerate(table):
        for j in range(n):
            layers.append(Excited(cin, c, k, s if j == 0 else 1, t))
            cin = c
        if i == len(table) - 1 or table[i + 1][3] == 2:
            stages.append(nn.Sequential(*layers))
            layers = []
    return Backbone(conv_bn(channels, 32, act=nn.SiLU), stages, cin)


class Dense(nn.Module):
    def __init__(self, cin: int, growth: int):
        super().__init__()
        self.body = nn.Sequential(nn.BatchNorm2d(cin), nn.ReLU(), nn.Conv2d(cin, 4 * growth, 1, bias=False),
                                  nn.BatchNorm2d(4 * growth), nn.ReLU(),
                                  nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.body(x), x], 1)


def densenet(channels: int, growth: int, counts: Sequence[int]) -> Backbone:
    cin, stages = 2 * growth, []
    for i, n in enumerate(counts):
        layers: list[nn.Module] = []
        if i:
            layers += [nn.BatchNorm2d(cin), nn.ReLU(), nn.Conv2d(cin, cin // 2, 1, bias=False), nn.AvgPool2d(2)]
            cin //= 2
        for _ in range(n):
            layers.append(Dense(cin, growth))
            cin += growth
        stages.append(nn.Sequential(*layers))
    return Backbone(nn.Conv2d(channels, 2 * growth, 3, padding=1, bias=False), stages, cin,
                    nn.Sequential(nn.BatchNorm2d(cin), nn.ReLU()))


def strided(channels: int, widths: Sequence[int], size: ImageSize) -> Backbone:
    c = [channels, *widths]
    stages = [nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.ReLU()) for a, b in zip(c[:-1], c[1:])]
    height, width = (-(-side // 2 ** len(widths)) for side in size)
    return Flat(nn.Identity(), stages, c[-1] * height * width)


def pooled(channels: int, widths: Sequence[int], size: ImageSize) -> Backbone:
    c = [channels, *widths]
    stages = [nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.LeakyReLU(0.2), nn.MaxPool2d(2))
              for a, b in zip(c[:-1], c[1:])]
    height, width = (side >> len(widths) for side in size)
    tail = nn.Sequential(nn.Flatten(), nn.Linear(c[-1] * height * width, 32), nn.LeakyReLU(0.2))
    return Flat(nn.Identity(), stages, 32, tail)


# ---- by name ---------------------------------------------------------------------------------------------------------


def _builders() -> dict[str, Callable[[int, ImageSize], Backbone]]:
    table: dict[str, Callable[[int, ImageSize], Backbone]] = {}
    for d in RESNET_DEPTHS:
        table[f"resnet{d}"] = lambda c, r, n=(d - 2) // 6: resnet(c, (16, 32, 64), (n,) * 3, 16)
        table[f"resnet{d}x4"] = lambda c, r, n=(d - 2) // 6: resnet(c, (64, 128, 256), (n,) * 3, 32)
    wide = (64, 128, 256, 512)
    table["resnet18"] = lambda c, r: resnet(c, wide, (2, 2, 2, 2), 64)
    table["resnet34"] = lambda c, r: resnet(c, wide, (3, 4, 6, 3), 64)
    table["resnet50"] = lambda c, r: resnet(c, wide, (3, 4, 6, 3), 64, Bottleneck)
    for d, counts in VGG.items():
        table[f"vgg{d}"] = lambda c, r, n=counts: vgg(c, n, r)
    table["mobilenetv2"] = lambda c, r: mobilenetv2(c, 1, True, r)
    table["mobilenetv2_half"] = lambda c, r: mobilenetv2(c, 0.5, False, r)
    table["shufflenetv1"] = lambda c, r: shufflenetv1(c)
    table["shufflenetv2"] = lambda c, r: shufflenetv2(c)
    table["efficientnet_b0"] = lambda c, r: efficientnet_b0(c)
    for name, (growth, counts) in DENSENETS.items():
        table[name] = lambda c, r, g=growth, n=counts: densenet(c, g, n)
    return table


ARCHS = tuple(_builders())
PATTERNS = (r"wrn_(\d+)_(\d+)", r"conv(\d+(?:-\d+)*)", r"pool(\d+(?:-\d+)*)")


def backbone(arch: str, channels: int, size: ImageSize) -> Backbone:
    """ValueError for an unknown name, or images too small for it."""
    if arch in ARCHS:
        smallest = 4 if arch.startswith("resnet") else 8
        if min(size) < smallest:
            raise ValueError(f"{arch} needs images of at least {smallest} pixels")
        return _builders()[arch](channels, size)
    if m := re.fullmatch(PATTERNS[0], arch):
        return wide_resnet(channels, int(m[1]), int(m[2]))
    for pattern, make in zip(PATTERNS[1:], (strided, pooled)):
        if m := re.fullmatch(pattern, arch):
            widths = [int(w) for w in m[1].split("-")]
            if min(size) < 2 ** len(widths) or min(widths) < 1:
                raise ValueError(f"{arch} halves the image {len(widths)} times; {min(size)} pixels are too few")
            return make(channels, widths, size)
    raise ValueError(f"unknown architecture {arch}; there are {', '.join(ARCHS)}, wrn_D_W, conv4-8, pool16-32-64")


class Student(nn.Module):
    """Images [N, channels, H, W] in [-1, 1] -> logits [N, outputs], or normalised values. resolution: R for R x R, or
    (H, W).

    `mean`, `std`: constants per channel of the real training images in [0, 1], so that teacher, filter and student
    never disagree. head 'mlp' is the regression head of the published v2 (512-512) with a linear output: the published
    final ReLU can die and cannot predict below 0. `projection` adds SSKD's Linear-ReLU-Linear on pooled features.
    """

    def __init__(self, arch: str, resolution: int | Sequence[int], channels: int, outputs: int, kind: str = "class",
                 head: str = "linear", dropout: float = 0.0, projection: bool = False,
                 mean: Sequence[float] | None = None, std: Sequence[float] | None = None):
        super().__init__()
        if kind not in ("class", "value") or head not in HEADS:
            raise ValueError(f"Student(kind={kind!r}, head={head!r})")
        mean, std = list(mean or [0.5] * channels), list(std or [0.5] * channels)
        self.init_kwargs = dict(arch=arch, resolution=resolution, channels=channels, outputs=outputs, kind=kind,
                                head=head, dropout=dropout, projection=projection, mean=mean, std=std)
        self.arch, self.resolution, self.channels, self.outputs, self.kind = arch, resolution, channels, outputs, kind
        self.body = backbone(arch, channels, ImageSize.of(resolution))
        d = self.body.dim
        if head == "linear":
            self.head: nn.Module = nn.Linear(d, outputs)
        else:
            self.head = nn.Sequential(nn.Linear(d, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 512),
                                      nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, outputs))
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.projector = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d)) if projection else None
        self.register_buffer("shift", torch.empty(1, channels, 1, 1))
        self.register_buffer("scale", torch.empty(1, channels, 1, 1))
        self.set_normalisation(mean, std)

    def set_normalisation(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """x in [-1, 1] -> ((x + 1) / 2 - mean) / std, per channel."""
        self.init_kwargs.update(mean=list(mean), std=list(std))
        self.shift.copy_(torch.tensor([2 * m - 1 for m in mean]).view(1, -1, 1, 1))
        self.scale.copy_(torch.tensor([2 * s for s in std]).view(1, -1, 1, 1))

    def forward(self, x: Tensor, features: bool = False) -> Tensor | Output:
        found = self.body((x - self.shift) / self.scale)
        logits = self.head(self.dropout(found[-1]))
        return Output(logits, found) if features else logits

    @torch.no_grad()
    def select_outputs(self, ids: Sequence[int | None]) -> None:
        """Make output k what output `ids[k]` was, in place; None: a class that is never chosen (logit -1e4)."""
        last = self.head if isinstance(self.head, nn.Linear) else self.head[-1]
        rows = torch.tensor([-1 if t is None else t for t in ids])
        new = nn.Linear(last.in_features, len(ids)).to(last.weight)
        new.weight.copy_(torch.where((rows < 0)[:, None], 0, last.weight[rows.clamp(min=0)]))
        new.bias.copy_(torch.where(rows < 0, -1e4, last.bias[rows.clamp(min=0)]))
        new.requires_grad_(last.weight.requires_grad)
        if last is self.head:
            self.head = new
        else:
            self.head[-1] = new
        self.outputs = self.init_kwargs["outputs"] = len(ids)

    def project(self, pooled_features: Tensor) -> Tensor:
        """SSKD's projections [N, d] of pooled features."""
        return self.projector(pooled_features)
