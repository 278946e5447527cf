# SPDX-License-Identifier: Apache-2.0
"""Bare state dicts of StyleGAN2-ADA networks: `torch.save(G.state_dict(), path)`, alone or by name.

Sizes are read off the shapes. What shapes do not say (clamping, 16-bit blocks, the mapping's learning rate, the size of
a minibatch-deviation group) is taken from the published training configurations and named in the provenance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gantransfer.data.labels import LabelSpec
from gantransfer.formats.inert_pickle import Refused
from gantransfer.importers.common import Part, Result, Source, count, describe, get, missing_keys
from gantransfer.importers.ledger import Ledger

_NAMES = {"": "", "G": "G", "D": "D", "G_ema": "G_ema", "g": "G", "d": "D", "g_ema": "G_ema", "generator": "G",
          "discriminator": "D", "state_dict": ""}
_ASSUMED = dict(num_fp16_res=4, conv_clamp=256)


def _is_generator(state: Mapping[str, torch.Tensor]) -> bool:
    return "synthesis.b4.const" in state and "mapping.fc0.weight" in state


def _is_discriminator(state: Mapping[str, torch.Tensor]) -> bool:
    return "b4.fc.weight" in state and "b4.conv.weight" in state and any(
        k in state for k in ("b4.out.weight", "b4.out_uc.weight"))


def recognise(source: Source) -> bool:
    return source.kind == "torch" and any(_is_generator(s) or _is_discriminator(s) for s in source.states.values())


def convert(source: Source) -> Result:
    """Networks of the method that the tensors tell. Raises Refused, naming the option that is missing, for UTLO."""
    parts: dict[str, Part] = {}
    left_out: dict[str, str] = {}
    assumed: dict[str, Any] = {}
    states = source.states
    names = {key for s in states.values() for key in s}
    if any(k.startswith("fromrgb_uc.") for k in names):
        raise Refused("it holds the state of a UTLO network without its res_uc and other options; give the network "
                      "pickle (network-snapshot-*.pkl), which has them")
    method = "transitional" if {"mapping.transition", "transition"} & names else "stylegan2"
    for entry, state in states.items():
        name = _NAMES.get(entry)
        if name is None or not (_is_generator(state) or _is_discriminator(state)):
            left_out[entry] = describe(source.content[entry])
            continue
        is_d = _is_discriminator(state)
        name = ("D" if is_d else "G_ema") if name == "" else name
        if is_d != (name == "D"):
            raise Refused(f"its {entry} is the state of a {'discriminator' if is_d else 'generator'}")
        parts[name] = (_discriminator if is_d else _generator)(state, method, assumed)
    if "" not in states:
        left_out.update({str(k): describe(v) for k, v in source.content.items() if k not in states})
    if not {"G", "G_ema"} & set(parts):
        raise Refused("it is a discriminator alone; a snapshot needs a generator")
    kwargs = parts["G_ema" if "G_ema" in parts else "G"].kwargs
    label = LabelSpec("class", kwargs["c_dim"]) if kwargs["c_dim"] else LabelSpec()
    # The same tensors are also those of a UTLO generator, which has a w more per block: nothing in them tells.
    assumed["architecture of the generator"] = "skip, one w per convolution (StyleGAN2-ADA)"
    return Result(method, parts, label, kwargs["img_resolution"], kwargs["img_channels"], left_out,
                  {} if "G_ema" in parts else {"G_ema": "G"}, dict(assumed=assumed))


def _widths(sizes: Mapping[int, int]) -> dict[str, int]:
    largest = max(sizes.values())
    below = [res for res, n in sizes.items() if n < largest]
    return dict(channel_base=sizes[min(below)] * min(below) if below else largest * max(sizes), channel_max=largest)


def _resolution(state: Mapping[str, torch.Tensor], pattern: str) -> int:
    return 4 * 2 ** count(state, pattern)


def _mapping(state: Mapping[str, torch.Tensor], assumed: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the mapping network `mapping.*`, z_dim and c_dim apart."""
    layers = count(state, r"mapping\.fc\d+\.weight")
    kwargs: dict[str, Any] = dict(num_layers=layers)
    out = get(state, f"mapping.fc{layers - 1}.weight", 2).shape[0]
    if layers > 1 and (wide := get(state, "mapping.fc0.weight", 2).shape[0]) != out:
        kwargs["layer_features"] = wide
    if "mapping.embed.weight" in state and (e := get(state, "mapping.embed.weight", 2).shape[0]) != out:
        kwargs["embed_features"] = e
    assumed["lr_multiplier of the mapping"] = 0.01
    return kwargs


def _generator(state: Mapping[str, torch.Tensor], method: str, assumed: dict[str, Any]) -> Part:
    resolution = _resolution(state, r"synthesis\.b\d+\.conv0\.weight")
    sizes = {4: get(state, "synthesis.b4.const", 3).shape[0]}
    for res in [4 * 2 ** i for i in range(1, resolution.bit_length() - 2)]:
        sizes[res] = get(state, f"synthesis.b{res}.conv1.weight", 4).shape[0]
    w_dim = get(state, "synthesis.b4.conv1.affine.weight", 2).shape[1]
    embed = "mapping.embed.weight" in state
    c_dim = get(state, "mapping.embed.weight", 2).shape[1] if embed else 0
    beside = get(state, "mapping.embed.weight", 2).shape[0] if embed and method != "transitional" else 0
    top = f"synthesis.b{resolution}"
    arch = dict(architecture="skip") if "synthesis.b4.torgb.weight" in state or resolution == 4 else dict(
        architecture="resnet" if f"{top}.skip.weight" in state else "orig")
    if f"{top}.conv1.noise_strength" not in state:
        arch["use_noise"] = False
    kwargs = dict(z_dim=get(state, "mapping.fc0.weight", 2).shape[1] - beside, c_dim=c_dim, w_dim=w_dim,
                  img_resolution=resolution, img_channels=get(state, f"{top}.torgb.bias", 1).shape[0],
                  mapping_kwargs=_mapping(state, assumed), synthesis_kwargs=dict(_widths(sizes), **_ASSUMED, **{
                      k: v for k, v in arch.items() if v != "skip"}))
    _filters(state, kwargs["synthesis_kwargs"], f"{top}.resample_filter")
    if "mapping.w_avg" not in state:
        kwargs["mapping_kwargs"]["w_avg_beta"] = None
    assumed.update({f"{k} of the generator": v for k, v in _ASSUMED.items()})
    return part(f"gantransfer.networks.{method}.Generator", kwargs, state)


def _discriminator(state: Mapping[str, torch.Tensor], method: str, assumed: dict[str, Any]) -> Part:
    resolution = _resolution(state, r"b\d+\.conv0\.weight")
    sizes = {4: get(state, "b4.conv.weight", 4).shape[0]}
    for res in [4 * 2 ** i for i in range(1, resolution.bit_length() - 2)]:
        sizes[res] = get(state, f"b{res}.conv0.weight", 4).shape[0]
    rgb = get(state, f"b{resolution}.fromrgb.weight", 4)
    last = get(state, "b4.conv.weight", 4)
    kwargs: dict[str, Any] = dict(c_dim=0, img_resolution=resolution, img_channels=rgb.shape[1], **_widths(sizes),
                                  **_ASSUMED, block_kwargs={}, mapping_kwargs={}, epilogue_kwargs={})
    kwargs["architecture"] = "skip" if "b4.fromrgb.weight" in state else (
        "resnet" if f"b{resolution}.skip.weight" in state else "orig")
    if last.shape[1] == last.shape[0]:
        kwargs["epilogue_kwargs"]["mbstd_num_channels"] = 0
    elif last.shape[1] != last.shape[0] + 1:
        kwargs["epilogue_kwargs"]["mbstd_num_channels"] = last.shape[1] - last.shape[0]
    assumed["mbstd_group_size of the discriminator"] = 4
    _filters(state, kwargs["block_kwargs"], f"b{resolution}.resample_filter")
    if "mapping.fc0.weight" in state:
        kwargs["c_dim"] = get(state, "mapping.embed.weight", 2).shape[1]
        kwargs["mapping_kwargs"] = _mapping(state, assumed)
        head = "b4.out_c.weight" if "b4.out_c.weight" in state else "b4.out.weight"
        if get(state, head, 2).shape[0] != sizes[4]:
            kwargs["cmap_dim"] = get(state, head, 2).shape[0]
    assumed.update({f"{k} of the discriminator": v for k, v in _ASSUMED.items()})
    return part(f"gantransfer.networks.{method}.Discriminator", kwargs, state)


def _filters(state: Mapping[str, torch.Tensor], kwargs: dict[str, Any], key: str) -> None:
    """The resampling filter, where it is not the usual one: the buffer is normalised, and an outer product if short."""
    f = state.get(key)
    if f is None or f.ndim not in (1, 2) or not bool(torch.isfinite(f).all()):
        return
    row = f if f.ndim == 1 else f.sum(1)
    usual = torch.tensor([1.0, 3, 3, 1]) / 8
    if row.shape != usual.shape or not torch.allclose(row, usual):
        kwargs["resample_filter"] = [float(v) for v in row]


def part(cls: str, kwargs: dict[str, Any], state: dict[str, torch.Tensor]) -> Part:
    """The network's tensors in the account. What remains in it afterwards has no place here."""
    ledger = Ledger(state)
    wanted = missing_keys(cls, kwargs, {})
    ledger.take_rest([key for key in state if key in wanted])
    empty = {key.rpartition(".")[0] for key, t in ledger.left.items() if t.numel() == 0}
    for key in [k for k in ledger.left if k.rpartition(".")[0] in empty]:
        # A layer of no width, which has a filter beside its weights.
        ledger.drop(key, "empty" if ledger.left[key].numel() == 0 else "of an empty layer")
    if not kwargs.get("c_dim"):  # transitional training without labels: the one head by another name
        for key in ("b4.out_uc.weight", "b4.out_uc.bias"):
            if key in ledger.left and key.replace("out_uc", "out") in wanted:
                ledger.take(key, key.replace("out_uc", "out"))
    if "mapping.w_avg_uc" in wanted and "mapping.w_avg_uc" not in ledger.state and "mapping.w_avg" in ledger.state:
        # The original pulls the label-free layers towards the mean of the conditional ones; this keeps its images.
        ledger.new("mapping.w_avg_uc", ledger.state["mapping.w_avg"].clone(), "as mapping.w_avg")
    return Part(cls, kwargs, ledger)
