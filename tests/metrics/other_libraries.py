# SPDX-License-Identifier: Apache-2.0
"""torch-fidelity and clean-fid beside a torchvision of what they use of it for image files: its own wheel does not load
beside every build of torch."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from importlib.machinery import ModuleSpec

import numpy as np
import torch
from torch import nn


class ToTensor:
    def __call__(self, x):
        t = torch.from_numpy(np.ascontiguousarray(np.asarray(x).transpose(2, 0, 1)))
        return t.float() / 255 if t.dtype == torch.uint8 else t


def compose(steps):
    def run(x):
        for step in steps:
            x = step(x)
        return x

    return run


PARTS = {
    "torchvision": dict(__version__="0"),
    "torchvision.datasets": dict.fromkeys(("CIFAR10", "CIFAR100", "STL10"), object),
    "torchvision.transforms": dict(ToTensor=ToTensor, Compose=compose),
    "torchvision.transforms.functional": dict(pil_to_tensor=lambda x: torch.from_numpy(np.array(x)).permute(2, 0, 1)),
    "torchvision.models": {},
    "torchvision.models.inception": dict.fromkeys(("InceptionA", "InceptionC", "InceptionE"), nn.Module),
}


@contextlib.contextmanager
def libraries() -> Iterator[None]:
    """torch_fidelity and cleanfid can be imported, and are forgotten afterwards."""
    kept = {n: sys.modules.pop(n) for n in list(sys.modules) if n.split(".")[0] == "torchvision"}
    for name, names in PARTS.items():
        sys.modules[name] = module = types.ModuleType(name)
        module.__dict__.update(names, __spec__=ModuleSpec(name, None))
        parent, _, leaf = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], leaf, module)
    try:
        yield
    finally:
        for name in [n for n in sys.modules if n.split(".")[0] in ("torchvision", "torch_fidelity", "cleanfid")]:
            del sys.modules[name]
        sys.modules.update(kept)
