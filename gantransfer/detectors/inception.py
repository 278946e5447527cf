# SPDX-License-Identifier: Apache-2.0
"""Inception-v3 as a feature network: the FID variant (2015-12-05 weights) and torchvision's ImageNet variant.

State-dict names are torchvision's. The FID variant differs: 1008 outputs, average pools that leave out the padding, a
max pool in the last block, no auxiliary head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Outputs(NamedTuple):
    features: Tensor  # [N, 2048]
    logits_unbiased: Tensor  # [N, classes] without the bias of fc
    logits: Tensor  # [N, classes]


class BasicConv2d(nn.Module):
    """Convolution, batch norm (eps 1e-3), ReLU."""

    def __init__(self, cin: int, cout: int, kernel_size, stride: int = 1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel_size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(cout, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Pool(nn.Module):
    """3x3, stride 1, padding 1: 'avg' (without the padding), 'avg_padded' or 'max'."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "max":
            return F.max_pool2d(x, 3, 1, 1)
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=self.kind == "avg_padded")


class MixedA(nn.Module):
    def __init__(self, cin: int, pool_features: int, pool: str):
        super().__init__()
        self.branch1x1 = BasicConv2d(cin, 64, 1)
        self.branch5x5_1 = BasicConv2d(cin, 48, 1)
        self.branch5x5_2 = BasicConv2d(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = BasicConv2d(cin, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, padding=1)
        self.pool = _Pool(pool)
        self.branch_pool = BasicConv2d(cin, pool_features, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1x1(x),
                          self.branch5x5_2(self.branch5x5_1(x)),
                          self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
                          self.branch_pool(self.pool(x))], 1)


class MixedB(nn.Module):
    def __init__(self, cin: int):
        super().__init__()
        self.branch3x3 = BasicConv2d(cin, 384, 3, stride=2)
        self.branch3x3dbl_1 = BasicConv2d(cin, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch3x3(x),
                          self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
                          F.max_pool2d(x, 3, 2)], 1)


class MixedC(nn.Module):
    def __init__(self, cin: int, c7: int, pool: str):
        super().__init__()
        row, col = dict(kernel_size=(1, 7), padding=(0, 3)), dict(kernel_size=(7, 1), padding=(3, 0))
        self.branch1x1 = BasicConv2d(cin, 192, 1)
        self.branch7x7_1 = BasicConv2d(cin, c7, 1)
        self.branch7x7_2 = BasicConv2d(c7, c7, **row)
        self.branch7x7_3 = BasicConv2d(c7, 192, **col)
        self.branch7x7dbl_1 = BasicConv2d(cin, c7, 1)
        self.branch7x7dbl_2 = BasicConv2d(c7, c7, **col)
        self.branch7x7dbl_3 = BasicConv2d(c7, c7, **row)
        self.branch7x7dbl_4 = BasicConv2d(c7, c7, **col)
        self.branch7x7dbl_5 = BasicConv2d(c7, 192, **row)
        self.pool = _Pool(pool)
        self.branch_pool = BasicConv2d(cin, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        return torch.cat([self.branch1x1(x),
                          self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
                          self.branch7x7dbl_5(self.branch7x7dbl_4(y)),
                          self.branch_pool(self.pool(x))], 1)


class MixedD(nn.Module):
    def __init__(self, cin: int):
        super().__init__()
        self.branch3x3_1 = BasicConv2d(cin, 192, 1)
        self.branch3x3_2 = BasicConv2d(192, 320, 3, stride=2)
        self.branch7x7x3_1 = BasicConv2d(cin, 192, 1)
        self.branch7x7x3_2 = BasicConv2d(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = BasicConv2d(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = BasicConv2d(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch7x7x3_2(self.branch7x7x3_1(x))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)),
                          self.branch7x7x3_4(self.branch7x7x3_3(y)),
                          F.max_pool2d(x, 3, 2)], 1)


class MixedE(nn.Module):
    def __init__(self, cin: int, pool: str):
        super().__init__()
        self.branch1x1 = BasicConv2d(cin, 320, 1)
        self.branch3x3_1 = BasicConv2d(cin, 384, 1)
        self.branch3x3_2a = BasicConv2d(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = BasicConv2d(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = BasicConv2d(cin, 448, 1)
        self.branch3x3dbl_2 = BasicConv2d(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = BasicConv2d(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = BasicConv2d(384, 384, (3, 1), padding=(1, 0))
        self.pool = _Pool(pool)
        self.branch_pool = BasicConv2d(cin, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch3x3_1(x)
        z = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return torch.cat([self.branch1x1(x), self.branch3x3_2a(y), self.branch3x3_2b(y),
                          self.branch3x3dbl_3a(z), self.branch3x3dbl_3b(z), self.branch_pool(self.pool(x))], 1)


class InceptionV3(nn.Module):
    """`variant` 'fid' (1008 classes) or 'torchvision' (1000 classes). Use in eval mode.

    forward: normalised images [N, 3, 299, 299] float32 -> Outputs.
    """

    def __init__(self, variant: str = "fid"):
        super().__init__()
        if variant not in ("fid", "torchvision"):
            raise ValueError(f"unknown Inception variant {variant!r}")
        pool, last_pool = ("avg", "max") if variant == "fid" else ("avg_padded", "avg_padded")
        self.variant = variant
        self.Conv2d_1a_3x3 = BasicConv2d(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, 3)
        self.Conv2d_2b_3x3 = BasicConv2d(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = BasicConv2d(64, 80, 1)
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, 3)
        self.Mixed_5b = MixedA(192, 32, pool)
        self.Mixed_5c = MixedA(256, 64, pool)
        self.Mixed_5d = MixedA(288, 64, pool)
        self.Mixed_6a = MixedB(288)
        self.Mixed_6b = MixedC(768, 128, pool)
        self.Mixed_6c = MixedC(768, 160, pool)
        self.Mixed_6d = MixedC(768, 160, pool)
        self.Mixed_6e = MixedC(768, 192, pool)
        self.Mixed_7a = MixedD(768)
        self.Mixed_7b = MixedE(1280, pool)
        self.Mixed_7c = MixedE(2048, last_pool)
        self.fc = nn.Linear(2048, 1008 if variant == "fid" else 1000)

    def forward(self, x: Tensor) -> Outputs:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, 2)))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        features = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean([2, 3])
        unbiased = F.linear(features, self.fc.weight)
        return Outputs(features, unbiased, unbiased + self.fc.bias)


# NVIDIA's TorchScript file -> torchvision names, per block type: branch names in the file's order.
_NVIDIA_TOP = {"conv": "Conv2d_1a_3x3", "conv_1": "Conv2d_2a_3x3", "conv_2": "Conv2d_2b_3x3",
               "conv_3": "Conv2d_3b_1x1", "conv_4": "Conv2d_4a_3x3"}
_NVIDIA_BLOCKS = dict(zip(["mixed"] + [f"mixed_{i}" for i in range(1, 11)],
                          ["Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d",
                           "Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c"]))


def _tower(prefix: str, names: list[str]) -> dict[str, str]:
    return {f"{prefix}.conv" + (f"_{i}" if i else ""): n for i, n in enumerate(names)}


_DBL3 = [f"branch3x3dbl_{i}" for i in (1, 2, 3)]
_NVIDIA_BRANCHES = {
    MixedA: {"conv": "branch1x1", **_tower("tower", ["branch5x5_1", "branch5x5_2"]), **_tower("tower_1", _DBL3),
             "tower_2.conv": "branch_pool"},
    MixedB: {"conv": "branch3x3", **_tower("tower", _DBL3)},
    MixedC: {"conv": "branch1x1", **_tower("tower", [f"branch7x7_{i}" for i in (1, 2, 3)]),
             **_tower("tower_1", [f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)]), "tower_2.conv": "branch_pool"},
    MixedD: {**_tower("tower", ["branch3x3_1", "branch3x3_2"]),
             **_tower("tower_1", [f"branch7x7x3_{i}" for i in (1, 2, 3, 4)])},
    MixedE: {"conv": "branch1x1", "tower_conv": "branch3x3_1", "tower_mixed_conv": "branch3x3_2a",
             "tower_mixed_conv_1": "branch3x3_2b", "tower_1_conv": "branch3x3dbl_1", "tower_1_conv_1": "branch3x3dbl_2",
             "tower_1_mixed_conv": "branch3x3dbl_3a", "tower_1_mixed_conv_1": "branch3x3dbl_3b",
             "tower_2_conv": "branch_pool"},
}


_BLOCK_TYPES = dict(zip(_NVIDIA_BLOCKS, [MixedA] * 3 + [MixedB] + [MixedC] * 4 + [MixedD] + [MixedE] * 2))


def nvidia_layers() -> dict[str, str]:
    """Layer prefix in NVIDIA's `inception-2015-12-05.pt` -> prefix here, for every convolution and the classifier."""
    result = {f"layers.{k}": v for k, v in _NVIDIA_TOP.items()}
    for theirs, ours in _NVIDIA_BLOCKS.items():
        result |= {f"layers.{theirs}.{k}": f"{ours}.{v}" for k, v in _NVIDIA_BRANCHES[_BLOCK_TYPES[theirs]].items()}
    return {**result, "output": "fc"}


def from_nvidia(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of NVIDIA's TorchScript file, renamed. Its batch norms have no scale, so ones are filled in.

    Within a layer tensors are told apart by rank and by the words 'mean' and 'var' in their names. Raises KeyError
    naming a tensor that belongs to no layer; what is missing shows when the result is loaded.
    """
    layers = nvidia_layers()
    out: dict[str, Tensor] = {}
    for key, tensor in state.items():
        prefixes = [p for p in layers if key.startswith(p + ".")]
        if not prefixes:
            if tensor.numel() > 1:
                raise KeyError(f"tensor '{key}' belongs to no known layer")
            continue
        theirs = max(prefixes, key=len)
        ours, leaf = layers[theirs], key[len(theirs) + 1:]
        if ours == "fc":
            out[f"fc.{'weight' if tensor.ndim == 2 else 'bias'}"] = tensor
        elif tensor.ndim == 4:
            out[f"{ours}.conv.weight"] = tensor
            out.setdefault(f"{ours}.bn.weight", torch.ones(tensor.shape[0]))
        elif tensor.ndim == 1:
            kind = "running_var" if "var" in leaf else "running_mean" if "mean" in leaf else "bias"
            out[f"{ours}.bn.{kind}"] = tensor
    return out
