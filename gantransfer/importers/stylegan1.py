# SPDX-License-Identifier: Apache-2.0
"""rosinality's StyleGAN v1 checkpoints (style-based-gan-pytorch) and the Hyper-Modulation releases made of them.

Both keep the published tensor names; sizes, the depth of the mapping and the first fused block are read off the shapes.
A Hyper-Modulation generator has standardised kernels `W` and hypernetworks `task` where the base has weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from gantransfer.data.labels import LabelSpec
from gantransfer.formats.inert_pickle import Refused
from gantransfer.importers.common import Part, Result, Source, count, describe, get, same_names
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
    return same_names(f"gantransfer.networks.{'hyper1' if hyper else 'style1'}.Generator", kwargs, Ledger(state))


def _last_trained(state: Mapping[str, torch.Tensor], blocks: int) -> int:
    """Index of the last block that training reached: all blocks are built, and noise strengths start at zero."""
    for i in range(blocks - 1, 0, -1):
        if any(bool(state[f"generator.progression.{i}.noise{j}.weight_orig"].any()) for j in (1, 2)):
            return i
    # No noise anywhere: then nothing tells.
    return blocks - 1


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
    return same_names("gantransfer.networks.stylegan1.Discriminator", kwargs, Ledger(state))


def _class_network(state: Mapping[str, torch.Tensor]) -> Part:
    classes, width = get(state, "task.0.weight_orig", 2).shape
    layers = count(state, r"task\.\d+\.linear\.weight_orig")
    return same_names("gantransfer.networks.hypermod.ClassNetwork",
                      dict(num_classes=classes, task_dim=width, n_mlp_task=layers), Ledger(state))
