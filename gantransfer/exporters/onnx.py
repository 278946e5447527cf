# SPDX-License-Identifier: Apache-2.0
"""A generator as an ONNX file: z, c, truncation_psi -> image, with constant noise maps.

What is exported is what the method's sampler computes, so that the file makes the sampler's images (`noise_mode`
'const') whatever networks that takes. Needs the packages onnx and onnxscript.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

import gantransfer
from dnnlib import seeding
from dnnlib.util import UserError, atomic_path, first_line
from gantransfer.data.dataset import DataSpec
from gantransfer.formats import onnx_info
from gantransfer.methods import TRAIN
from gantransfer.sampler import Sampler, to_uint8
from gantransfer.snapshot import Snapshot
from torch_utils import build

PSI = "truncation_psi"
ANOTHER_WAY = "the other endings of DEST keep it for PyTorch"


class Exported(nn.Module):
    """A sampler's `synthesise` with tensors as inputs and no choices left."""

    def __init__(self, synthesise: Callable[..., torch.Tensor], psi: float):
        super().__init__()
        held = [synthesise] if isinstance(synthesise, nn.Module) else _held_networks(synthesise)
        self.networks = nn.ModuleList(held)  # so that the exporter finds their weights
        self._call, self.psi = (synthesise,), psi
        for m in self.modules():
            if getattr(m, "use_fp16", False):
                m.use_fp16 = False
            if hasattr(m, "mean_style"):  # of thousands of latents: measured once, not in the graph
                m.mean_style = functools.partial(_same, m.mean_style())

    def forward(self, z: torch.Tensor, c: torch.Tensor | None = None,
                truncation_psi: torch.Tensor | None = None) -> torch.Tensor:
        psi = self.psi if truncation_psi is None else truncation_psi
        kw = {} if truncation_psi is None and psi == 1 else {PSI: psi}
        return self._call[0](z, z[:, :0] if c is None else c, noise_mode="const", **kw).float()


def _same(x: torch.Tensor) -> torch.Tensor:
    return x


def _held_networks(function: Callable[..., Any]) -> list[nn.Module]:
    """The networks that a function took along from where it was defined."""
    return [v for v in inspect.getclosurevars(function).nonlocals.values() if isinstance(v, nn.Module)]


def export_onnx(snap: Snapshot, path: str | os.PathLike, net: str = "G_ema", trunc: float = 1, opset: int = 18) -> None:
    """Write the images of `snap`'s sampler, made with generator `net` ('G_ema' or 'G'), as ONNX.

    Inputs, float32: z [N, z_dim], standard normal; c [N, labels] if conditional, as the sampler takes them (one-hot
    classes, or values in their unit); for generators with a mean w also truncation_psi [], which may be left out and is
    `trunc` then. Into other generators `trunc` is built. Output: image [N, C, R, R] float32, nominally in [-1, 1].
    N is free, noise maps are constant, all arithmetic is float32.

    Raises UserError when the optional packages are missing, when there is no such generator, when it cannot be
    written as ONNX, and, where onnxruntime is installed, when the file does not make the sampler's images; no file is
    left then.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as e:
        raise UserError(f"writing .onnx needs the package {e.name}: pip install onnx onnxscript") from None
    what = f"{net} of this {snap.method} snapshot"
    # ONNX knows torch's operators, not the compiled ones.
    with build.using("ref"), torch.no_grad():
        sampler = _sampler_of(snap, net)
        model = Exported(sampler.synthesise, float(trunc)).eval()
        inputs = _example(sampler, 2)
        if sampler.network is not None:
            inputs[PSI] = torch.tensor(float(trunc))
        # Operators keep small tables between calls: these must not be tracing's. And: is there a mean of w?
        model.psi = 1.0
        finite = torch.isfinite(model(**{**inputs, PSI: None})).all()
        model.psi = float(trunc)
        if not finite:
            raise UserError(f"{what} makes images that are not finite; use an earlier snapshot")
        if PSI in inputs and not _truncates(model, inputs):
            del inputs[PSI]
        with atomic_path(path) as tmp:
            try:
                _write(onnx, str(tmp), model, inputs, opset, _about(snap, net, sampler.spec, inputs))
                worst = _difference(str(tmp), model, sampler, PSI in inputs)
            except Exception as e:  # the exporter raises whatever its parts raise
                raise UserError(f"{what} cannot be written as ONNX ({_reason(e)}); {ANOTHER_WAY}") from None
            if worst is not None and worst > 1:
                raise UserError(f"{what} cannot be written as ONNX: images of the file would differ by {worst} of 255 "
                                f"from the sampler's; {ANOTHER_WAY}")


def _sampler_of(snap: Snapshot, net: str) -> Sampler:
    """The sampler that makes images with `net`. UserError, one line, where there is none."""
    if snap.method in TRAIN and net == "G_ema":
        sampler = TRAIN[snap.method].sampler_from(snap)
    elif snap.method in TRAIN and net == "G" and "G" in snap.nets:
        trained = {k: v for k, v in snap.nets.items() if f"{k}_ema" in snap.nets}
        sampler = TRAIN[snap.method].sampler_from(
            replace(snap, nets={**snap.nets, "G_ema": snap.nets["G"], **{f"{k}_ema": v for k, v in trained.items()}}))
    else:
        G = snap.build(net)
        if not all(hasattr(G, name) for name in ("z_dim", "c_dim", "img_resolution")):
            raise UserError(f"{net} is a {type(G).__name__}, not a generator; choose another with --net")
        spec = DataSpec.from_dict(snap.data) if snap.data else DataSpec("", G.img_resolution, G.img_channels, 0)
        sampler = Sampler(G, G.z_dim, spec, label_dim=G.c_dim,
                                   network=G if callable(getattr(G, "mapping", None)) else None)
    return sampler


def _example(sampler: Sampler, n: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Inputs of n images."""
    rng = torch.Generator().manual_seed(seeding.number(seed))
    out = dict(z=torch.randn([n, sampler.z_dim], generator=rng))
    dim, label = sampler.label_dim, sampler.spec.label
    if dim and label.kind == "value":
        u, meta = torch.rand([n, dim], generator=rng), label.meta or {}
        out["c"] = u * meta.get("scale", 1.0) + meta.get("offset", 0.0)
    elif dim:
        out["c"] = torch.nn.functional.one_hot(torch.randint(dim, [n], generator=rng), dim).float()
    return out


def _truncates(model: Exported, inputs: dict[str, torch.Tensor]) -> bool:
    """Whether truncation gives images: there is a mean of w, and it is finite. UserError where it is asked for."""
    try:
        good = bool(torch.isfinite(model(**{**inputs, PSI: torch.tensor(0.5)})).all())
    except (ValueError, TypeError, AttributeError):
        good = False
    if not good and model.psi != 1:
        raise UserError("--trunc: this generator has no mean of w to pull towards; omit the flag")
    return good


def _write(onnx: Any, path: str, model: Exported, inputs: dict[str, torch.Tensor], opset: int, about: str) -> None:
    with _quiet():
        shapes = {k: {} if k == PSI else {0: "batch"} for k in inputs}
        program = torch.onnx.export(model, (), None, kwargs=inputs, dynamo=True, opset_version=opset,
                                    input_names=list(inputs), output_names=["image"], external_data=False,
                                    verbose=False, dynamic_shapes=shapes)
    proto = program.model_proto
    free = {v.name: v.type.tensor_type.shape.dim[0].dim_param for v in [*proto.graph.input, *proto.graph.output]
            if v.name != PSI}
    if not all(free.values()):
        raise ValueError(f"the batch is fixed in {next(k for k, v in free.items() if not v)}")
    if PSI in inputs:  # an input with a value of its own may be left out
        proto.graph.initializer.append(onnx.numpy_helper.from_array(inputs[PSI].numpy(), PSI))
    proto.metadata_props.append(onnx.StringStringEntryProto(key=onnx_info.KEY, value=about))
    proto.producer_name, proto.producer_version = "gantransfer", gantransfer.__version__
    onnx.checker.check_model(proto)
    onnx.save_model(proto, path)


def _about(snap: Snapshot, net: str, spec: DataSpec, inputs: dict[str, torch.Tensor]) -> str:
    """JSON under the metadata key `onnx_info.KEY`: what a reader of the file must know."""
    about = dict(method=snap.method, net=net, noise="const", resolution=spec.resolution, channels=spec.channels,
                 label=spec.label.to_dict())
    return json.dumps(about | ({PSI: float(inputs[PSI])} if PSI in inputs else {}))


def _difference(path: str, model: Exported, sampler: Sampler, psi_input: bool) -> int | None:
    """Largest difference of the file's uint8 images from the sampler's, at two batch sizes; None: onnxruntime is not
    installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    worst = 0
    for n, psi in ((1, None), (3, 0.6)):
        inputs = _example(sampler, n, seed=n)
        if psi_input and psi is not None:
            inputs[PSI] = torch.tensor(psi)
        (made,) = session.run(None, {k: v.numpy() for k, v in inputs.items()})
        expected = model(**inputs)
        if made.shape != tuple(expected.shape):
            raise ValueError(f"the file makes images {made.shape} instead of {tuple(expected.shape)}")
        gap = to_uint8(torch.from_numpy(made)).int() - to_uint8(expected).int()
        worst = max(worst, int(gap.abs().max()))
    return worst


def _reason(e: BaseException) -> str:
    """One line on what stopped the exporter: the first cause."""
    while e.__cause__ is not None:
        e = e.__cause__
    return first_line(e)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's messages on its own deprecations and on packages that it would also know."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
