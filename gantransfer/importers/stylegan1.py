# SPDX-License-Identifier: Apache-2.0
"""rosinality's StyleGAN v1 checkpoints (style-based-gan-pytorch) and the Hyper-Modulation releases made of them.

Both keep the published tensor names; sizes, the depth of the mapping and the first fused block are read off the shapes.
A Hyper-Modulation generator has standardised kernels `W` and hypernetworks `task` where the base has weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from gantransfer.data.labels import LabelSpec
from gantransfer.formats.inert_pickle import Refused
from gantransfer.importers.common import Part, Result, Source, count, describe, get
from gantransfer.importers.ledger import Ledger

_PLAIN, _HYPER = "generator.progression.0.conv1.input", "generator.progression.0.conv1.0.input"
_ENTRIES = {"generator": "G", "g_running": "G_ema", "discriminator": "D", "task": "T", "task_g": "T",
            "t_running_g": "T_ema", "": "G_ema"}


def recognise_base(source: Source) -> bool:
    return any(_PLAIN in state for state in source.states.values())


def recognise_hyper(source: Source) -> bool:
    return any(_HYPER in state for state in source.states.values())


def convert(source: Source) -> Result:
    """Of either kind. Networks: G, G_ema, D, and for Hyper-Modulation the class networks T, T_ema."""
    hyper = recognise_hyper(source)
    method = "hypermod" if hyper else "stylegan1"
    parts: dict[str, Part] = {}
    left_out: dict[str, str] = {}
    tasks = {e: s for e, s in source.states.items() if "task.0.weight_orig" in s}
    classes = max((s["task.0.weight_orig"].shape[0] for s in tasks.values()), default=0)
    for entry, state in source.states.items():
        name = _ENTRIES.get(entry)
        if name in ("G", "G_ema"):
            if (_HYPER in state) != hyper or not (_PLAIN in state or _HYPER in state):
                raise Refused(f"its {entry or 'network'} is not of the same kind as the others")
            parts[name] = _generator(state, hyper)
        elif name == "D" and "from_rgb.0.0.conv.weight_orig" in state or "from_rgb.0.conv.weight_orig" in state:
            parts["D"] = _discriminator(state)
        elif entry in tasks and name is not None:
            parts[name] = _class_network(state)
        else:
            left_out[entry] = describe(source.content[entry])
    if "" not in source.states:
        left_out.update({str(k): describe(v) for k, v in source.content.items() if k not in source.states})
    copies = {}
    for averaged, raw in (("G_ema", "G"), ("T_ema", "T")):
        if averaged not in parts and raw in parts:
            copies[averaged] = raw
    if "G_ema" not in (*parts, *copies):
        raise Refused("it has no generator")
    kwargs = parts["G" if "G_ema" in copies else "G_ema"].kwargs
    label = LabelSpec("class", classes) if hyper and classes else LabelSpec()
    resolution = kwargs["img_resolution"]
    if "D" in parts:
        parts["D"].kwargs["img_resolution"] = resolution
    return Result(method, parts, label, resolution, kwargs["img_channels"], left_out, copies)


def _generator(state: Mapping[str, torch.Tensor], hyper: bool) -> Part:
    blocks = count(state, r"generator\.progression\.\d+\.noise2\.weight_orig")
    channels = [get(state, f"generator.progression.{i}.noise2.weight_orig", 4).shape[1] for i in range(blocks)]
    fused_name = "W" if hyper else "weight"
    fused = [i for i in range(1, blocks) if f"generator.progression.{i}.conv1.0.{fused_name}" in state]
    if fused != list(range(blocks - len(fused), blocks)):
        raise Refused("its fused blocks are not the last ones")
    kwargs = dict(code_dim=get(state, "style.1.linear.weight_orig", 2).shape[1],
                  n_mlp=count(state, r"style\.\d+\.linear\.weight_orig"), channels=channels,
                  fused_from=blocks - len(fused), img_channels=get(state, "generator.to_rgb.0.conv.bias", 1).shape[0],
                  img_resolution=4 * 2 ** _last_trained(state, blocks))
    if hyper:
        kwargs["task_dim"] = get(state, "generator.progression.0.conv2.task.linear.weight_orig", 2).shape[1]
    ledger = Ledger(state)
    expected = _generator_names(blocks, kwargs["fused_from"], kwargs["n_mlp"], hyper)
    lacking = [key for key in expected if key not in state]
    if lacking:
        raise Refused(f"the tensor {lacking[0]} is missing")
    ledger.take_rest(expected)
    return Part(f"gantransfer.networks.{'hyper1' if hyper else 'style1'}.Generator", kwargs, ledger)


def _last_trained(state: Mapping[str, torch.Tensor], blocks: int) -> int:
    """Index of the last block that training reached: all blocks are built, and noise strengths start at zero."""
    for i in range(blocks - 1, 0, -1):
        if any(bool(state[f"generator.progression.{i}.noise{j}.weight_orig"].any()) for j in (1, 2)):
            return i
    # No noise anywhere: then nothing tells.
    return blocks - 1


def _generator_names(blocks: int, fused_from: int, n_mlp: int, hyper: bool) -> list[str]:
    def conv(place: str, plain: bool) -> list[str]:
        if hyper:
            return [f"{place}.{k}" for k in ("W", "b", "task.linear.weight_orig", "task.linear.bias",
                                             "task_bias_beta.linear.weight_orig", "task_bias_beta.linear.bias")]
        return [f"{place}.conv.weight_orig", f"{place}.conv.bias"] if plain else [f"{place}.weight", f"{place}.bias"]

    names = [_HYPER if hyper else _PLAIN]
    for i in range(blocks):
        block = f"generator.progression.{i}"
        if i:
            at = 0 if i >= fused_from else 1
            names += conv(f"{block}.conv1.{at}", plain=at == 1)
            names += [f"{block}.conv1.{at + 1}.weight", f"{block}.conv1.{at + 1}.weight_flip"]
        names += conv(f"{block}.conv2", plain=True)
        for j in (1, 2):
            names += [f"{block}.noise{j}.weight_orig", f"{block}.adain{j}.style.linear.weight_orig",
                      f"{block}.adain{j}.style.linear.bias"]
        names += [f"generator.to_rgb.{i}.conv.weight_orig", f"generator.to_rgb.{i}.conv.bias"]
    return names + [f"style.{2 * i + 1}.linear.{k}" for i in range(n_mlp) for k in ("weight_orig", "bias")]


def _discriminator(state: Mapping[str, torch.Tensor]) -> Part:
    activate = "from_rgb.0.0.conv.weight_orig" in state
    rgb = r"from_rgb\.\d+\.0\.conv\.weight_orig" if activate else r"from_rgb\.\d+\.conv\.weight_orig"
    blocks = count(state, rgb)
    infix = ".0" if activate else ""
    shapes = [get(state, f"from_rgb.{j}{infix}.conv.weight_orig", 4).shape for j in range(blocks)]
    fused = count(state, r"progression\.\d+\.conv2\.1\.weight")
    head = next((k for k in ("final.conv.weight_orig", "linear.linear.weight_orig") if k in state), None)
    if head is None:
        raise Refused("its discriminator has no last layer")
    kwargs = dict(channels=[s[0] for s in shapes][::-1], img_channels=shapes[0][1], fused=fused,
                  from_rgb_activate=activate, num_classes=state[head].shape[0] if head.startswith("final") else 0)
    names = [f"from_rgb.{j}{infix}.conv.{k}" for j in range(blocks) for k in ("weight_orig", "bias")]
    for j in range(blocks):
        names += [f"progression.{j}.conv1.0.conv.{k}" for k in ("weight_orig", "bias")]
        if j == blocks - 1:
            names += [f"progression.{j}.conv2.0.conv.{k}" for k in ("weight_orig", "bias")]
            continue
        names += [f"progression.{j}.conv2.0.{k}" for k in ("weight", "weight_flip")]
        names += [f"progression.{j}.conv2.1.{k}" for k in (("weight", "bias") if j < fused
                                                           else ("conv.weight_orig", "conv.bias"))]
    names += [head, re.sub("weight_orig$", "bias", head)]
    lacking = [key for key in names if key not in state]
    if lacking:
        raise Refused(f"the tensor {lacking[0]} is missing")
    ledger = Ledger(state)
    ledger.take_rest(names)
    return Part("gantransfer.networks.stylegan1.Discriminator", kwargs, ledger)


def _class_network(state: Mapping[str, torch.Tensor]) -> Part:
    classes, width = get(state, "task.0.weight_orig", 2).shape
    layers = count(state, r"task\.\d+\.linear\.weight_orig")
    ledger = Ledger(state)
    names = ["task.0.weight_orig"] + [f"task.{2 * i + 1}.linear.{k}" for i in range(layers)
                                      for k in ("weight_orig", "bias")]
    lacking = [key for key in names if key not in state]
    if lacking:
        raise Refused(f"the tensor {lacking[0]} is missing")
    ledger.take_rest(names)
    return Part("gantransfer.networks.hypermod.ClassNetwork",
                dict(num_classes=classes, task_dim=width, n_mlp_task=layers), ledger)
