# SPDX-License-Identifier: Apache-2.0
"""rosinality's StyleGAN2 checkpoints (stylegan2-pytorch): the same networks as ours under other names.

Weights are stored at the same scale, so that nothing is computed: tensors are renamed, singleton axes added or removed.
The fixed filters are compared with ours and left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from gantransfer.formats.inert_pickle import Opaque, Refused
from gantransfer.importers.common import Part, Result, Source, count, describe, get, missing_keys
from gantransfer.importers.ledger import Ledger
from gantransfer.networks import stylegan2
from torch_utils.ops import upfirdn2d

_G_MARK, _D_MARK = "conv1.conv.modulation.weight", "final_linear.1.weight"
_CLS = "gantransfer.networks.stylegan2."


def recognise(source: Source) -> bool:
    return any(_G_MARK in s or _D_MARK in s and "final_conv.0.weight" in s for s in source.states.values())


def convert(source: Source) -> Result:
    content, states = source.content, source.states
    latent_avg = content.get("latent_avg") if "" not in states else None
    parts, left_out = {}, {}
    for entry, state in states.items():
        if _G_MARK in state:
            name = {"g": "G", "g_ema": "G_ema", "": "G_ema"}.get(entry)
        else:
            name = {"d": "D", "": "D"}.get(entry) if _D_MARK in state else None
        if name is None:
            left_out[entry] = describe(content[entry])
        elif name == "D":
            parts[name] = _discriminator(state)
        else:
            parts[name] = _generator(state, latent_avg if name == "G_ema" or "g_ema" not in states else None)
    if "" not in states:
        used = {*states, "latent_avg"} if isinstance(latent_avg, torch.Tensor) else set(states)
        left_out.update({str(k): describe(v) for k, v in content.items() if k not in used})
    copies = {}
    if "G_ema" not in parts:
        if "G" not in parts:
            raise Refused("it has no generator")
        copies["G_ema"] = "G"
    kwargs = parts["G" if copies else "G_ema"].kwargs
    args = content.get("args")
    extra = {}
    if isinstance(args, Opaque) and isinstance(args.state, dict):
        extra["args"] = {str(k): v for k, v in args.state.items() if isinstance(v, str | int | float | bool)}
    return Result("stylegan2", dict(sorted(parts.items(), key=lambda kv: ("G", "D", "G_ema").index(kv[0]))),
                  resolution=kwargs["img_resolution"], channels=kwargs["img_channels"], left_out=left_out,
                  copies=copies, extra=extra)


def _widths(widths: Mapping[int, int]) -> dict[str, int]:
    """channel_base and channel_max that give these widths by resolution; what does not fit fails later, by name."""
    top = max(widths)
    largest = max(widths.values())
    # A width at the limit says little of the base: the smallest resolution below the limit does.
    below = [res for res, n in widths.items() if n < largest]
    base = widths[min(below)] * min(below) if below else largest * top
    return dict(channel_base=base, channel_max=largest)


def _generator(state: Mapping[str, torch.Tensor], latent_avg: Any) -> Part:
    w_dim, z_dim = get(state, "style.1.weight", 2).shape
    layers = count(state, r"style\.\d+\.weight")
    pairs = count(state, r"to_rgbs\.\d+\.bias")
    resolution = 4 * 2**pairs
    widths = {4: get(state, "conv1.conv.weight", 5).shape[1]}
    for i in range(pairs):
        widths[8 * 2**i] = get(state, f"convs.{2 * i}.conv.weight", 5).shape[1]
    kwargs = dict(z_dim=z_dim, c_dim=0, w_dim=w_dim, img_resolution=resolution,
                  img_channels=get(state, "to_rgb1.bias", 4).shape[1], mapping_kwargs=dict(num_layers=layers),
                  synthesis_kwargs=_widths(widths))
    ledger = Ledger(state)
    for i in range(layers):
        for kind in ("weight", "bias"):
            ledger.take(f"style.{i + 1}.{kind}", f"mapping.fc{i}.{kind}")
    if isinstance(latent_avg, torch.Tensor):
        ledger.left["latent_avg"] = latent_avg
        ledger.take("latent_avg", "mapping.w_avg", lambda t: t.flatten())
    ledger.take("input.input", "synthesis.b4.const", lambda t: t.squeeze(0))
    _layer(ledger, "conv1", "synthesis.b4.conv1", 0)
    _to_rgb(ledger, "to_rgb1", "synthesis.b4.torgb")
    for i in range(pairs):
        block = f"synthesis.b{8 * 2**i}"
        _filter(ledger, f"convs.{2 * i}.conv.blur.kernel", 4)
        _layer(ledger, f"convs.{2 * i}", f"{block}.conv0", 2 * i + 1)
        _layer(ledger, f"convs.{2 * i + 1}", f"{block}.conv1", 2 * i + 2)
        _filter(ledger, f"to_rgbs.{i}.upsample.kernel", 4)
        _to_rgb(ledger, f"to_rgbs.{i}", f"{block}.torgb")
    _constants(_CLS + "Generator", kwargs, ledger)
    if "mapping.w_avg" not in ledger.state:
        ledger.new("mapping.w_avg", _mean_w(ledger.state, layers), "mean of 10 000 latents of seed 0")
    return Part(_CLS + "Generator", kwargs, ledger)


def _layer(ledger: Ledger, source: str, target: str, index: int) -> None:
    ledger.take(f"{source}.conv.weight", f"{target}.weight", lambda t: t.squeeze(0))
    for kind in ("weight", "bias"):
        ledger.take(f"{source}.conv.modulation.{kind}", f"{target}.affine.{kind}")
    ledger.take(f"{source}.noise.weight", f"{target}.noise_strength", lambda t: t.reshape([]))
    ledger.take(f"{source}.activate.bias", f"{target}.bias", lambda t: t.flatten())
    if f"noises.noise_{index}" in ledger.left:
        ledger.take(f"noises.noise_{index}", f"{target}.noise_const", lambda t: t[0, 0])


def _to_rgb(ledger: Ledger, source: str, target: str) -> None:
    ledger.take(f"{source}.conv.weight", f"{target}.weight", lambda t: t.squeeze(0))
    for kind in ("weight", "bias"):
        ledger.take(f"{source}.conv.modulation.{kind}", f"{target}.affine.{kind}")
    ledger.take(f"{source}.bias", f"{target}.bias", lambda t: t.flatten())


def _discriminator(state: Mapping[str, torch.Tensor]) -> Part:
    blocks = count(state, r"convs\.\d+\.skip\.1\.weight")
    resolution = 4 * 2**blocks
    first = get(state, "convs.0.0.weight", 4)
    widths = {resolution: first.shape[0]}
    for i in range(blocks):
        widths[resolution // 2 ** (i + 1)] = get(state, f"convs.{i + 1}.conv2.1.weight", 4).shape[0]
    kwargs = dict(c_dim=0, img_resolution=resolution, img_channels=first.shape[1], architecture="resnet",
                  **_widths(widths), epilogue_kwargs=dict(mbstd_group_size=4))
    ledger = Ledger(state)
    ledger.take("convs.0.0.weight", f"b{resolution}.fromrgb.weight")
    ledger.take("convs.0.1.bias", f"b{resolution}.fromrgb.bias", lambda t: t.flatten())
    for i in range(blocks):
        source, target = f"convs.{i + 1}", f"b{resolution // 2**i}"
        ledger.take(f"{source}.conv1.0.weight", f"{target}.conv0.weight")
        ledger.take(f"{source}.conv1.1.bias", f"{target}.conv0.bias", lambda t: t.flatten())
        _filter(ledger, f"{source}.conv2.0.kernel", 1)
        ledger.take(f"{source}.conv2.1.weight", f"{target}.conv1.weight")
        ledger.take(f"{source}.conv2.2.bias", f"{target}.conv1.bias", lambda t: t.flatten())
        _filter(ledger, f"{source}.skip.0.kernel", 1)
        ledger.take(f"{source}.skip.1.weight", f"{target}.skip.weight")
    ledger.take("final_conv.0.weight", "b4.conv.weight")
    ledger.take("final_conv.1.bias", "b4.conv.bias", lambda t: t.flatten())
    for i, layer in enumerate(("fc", "out")):
        for kind in ("weight", "bias"):
            ledger.take(f"final_linear.{i}.{kind}", f"b4.{layer}.{kind}")
    _constants(_CLS + "Discriminator", kwargs, ledger)
    return Part(_CLS + "Discriminator", kwargs, ledger)


def _filter(ledger: Ledger, key: str, gain: int) -> None:
    """Leave out a fixed filter that ours equals; Refused for another one."""
    ours = upfirdn2d.setup_filter([1, 3, 3, 1])
    theirs = get(ledger.left, key, 2)
    if theirs.shape != ours.shape or not torch.allclose(theirs.float() / gain, ours, atol=1e-6):
        raise Refused(f"its filter {key} is not [1, 3, 3, 1]")
    ledger.drop(key, "the filter [1, 3, 3, 1], which ours computes itself")


def _constants(cls: str, kwargs: dict[str, Any], ledger: Ledger) -> None:
    """Our filters, and noise maps for old files that have none."""
    rng = torch.Generator().manual_seed(0)
    for key, shape in missing_keys(cls, kwargs, ledger.state).items():
        if key.endswith(".resample_filter"):
            ledger.new(key, upfirdn2d.setup_filter([1, 3, 3, 1]), "the filter [1, 3, 3, 1]")
        elif key.endswith(".noise_const") and math.prod(shape) <= 2**24:
            ledger.new(key, torch.randn(shape, generator=rng), "the file has no noise maps: drawn with seed 0")


def _mean_w(state: Mapping[str, torch.Tensor], layers: int) -> torch.Tensor:
    z_dim = state["mapping.fc0.weight"].shape[1]
    w_dim = state[f"mapping.fc{layers - 1}.weight"].shape[0]
    mapping = stylegan2.MappingNetwork(z_dim, 0, w_dim, None, num_layers=layers)
    mapping.load_state_dict({k.removeprefix("mapping."): t for k, t in state.items() if k.startswith("mapping.")})
    z = torch.randn([10_000, z_dim], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return mapping.eval()(z, None).mean(0)
