# SPDX-License-Identifier: Apache-2.0
"""A generator as an ONNX file: z, c -> image, with the noise maps of the snapshot as constants.

Needs the optional packages of `pip install gantransfer[export]`.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from dnnlib.util import UserError, atomic_path
from gantransfer.snapshot import Snapshot
from torch_utils import build


class _Fixed(nn.Module):
    """A generator with two inputs and no choices left."""

    def __init__(self, G: nn.Module, options: dict[str, Any]):
        super().__init__()
        self.G, self.options = G, options

    def forward(self, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return self.G(z, c, **self.options).float()


class _Unlabelled(_Fixed):
    def forward(self, z: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return self.G(z, z[:, :0], **self.options).float()


def export_onnx(snap: Snapshot, path: str | os.PathLike, net: str = "G_ema", trunc: float = 1, opset: int = 18) -> None:
    """Write generator `net` with inputs z [N, z_dim] and, if conditional, c [N, c_dim], and output image [N, C, R, R].

    Noise maps are constant, truncation psi is `trunc`, all arithmetic is float32; N is free. Raises UserError when the
    optional packages are missing or the network is not a generator that can be fixed so.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as e:
        raise UserError(f"writing .onnx needs the package {e.name}: pip install gantransfer[export]") from None
    G = snap.build(net)
    if not all(hasattr(G, name) for name in ("z_dim", "c_dim")):
        raise UserError(f"{net} is a {type(G).__name__}, not a generator; choose another with --net")
    accepts = inspect.signature(G.forward).parameters
    free = any(p.kind is p.VAR_KEYWORD for p in accepts.values())
    options: dict[str, Any] = {}
    if free or "noise_mode" in accepts:
        options.update(noise_mode="const", force_fp32=True, formulation="activations")
    if trunc != 1:
        if "truncation_psi" not in accepts:
            raise UserError(f"--trunc: the {type(G).__name__} of the method {snap.method} has no truncation")
        options["truncation_psi"] = trunc
    z, c = torch.zeros([2, G.z_dim]), torch.zeros([2, G.c_dim])
    fixed, inputs = (_Fixed(G, options), dict(z=z, c=c)) if G.c_dim else (_Unlabelled(G, options), dict(z=z))
    # ONNX knows torch's operators, not the compiled ones.
    with atomic_path(path) as tmp, _quiet(), torch.no_grad(), build.using("ref"):
        fixed.eval()(*inputs.values())  # operators keep small tables between calls: these must not be tracing's
        torch.onnx.export(fixed, tuple(inputs.values()), str(tmp), dynamo=True, opset_version=opset,
                          input_names=list(inputs), output_names=["image"], external_data=False, verbose=False,
                          dynamic_shapes={k: {0: "batch"} for k in inputs})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's messages on its own deprecations and on packages that it would also know."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
