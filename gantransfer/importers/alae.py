# SPDX-License-Identifier: Apache-2.0
"""ALAE checkpoints: generator G, encoder E, mapping F, latent discriminator D, their averages, and the mean latent.

No configuration is needed: layer count, widths, latent size and depth are read off the shapes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from gantransfer.formats.inert_pickle import Refused
from gantransfer.importers.common import Part, Result, Source, count, describe, get, is_state, same_names
from gantransfer.importers.ledger import Ledger

_NAMES = {"generator": "G", "discriminator": "E", "mapping_fl": "F", "mapping_tl": "D"}
_CLASSES = {"G": "Generator", "E": "Encoder", "F": "Mapping", "D": "LatentDiscriminator"}


def recognise(source: Source) -> bool:
    models = source.content.get("models") if source.kind == "torch" and isinstance(source.content, dict) else None
    return isinstance(models, dict) and "mapping_fl" in models and "generator" in models


def convert(source: Source) -> Result:
    models = source.content["models"]
    parts, left_out = {}, {}
    average = models.get("dlatent_avg")
    for entry, state in models.items():
        base, averaged = (entry[:-2], True) if entry.endswith("_s") else (entry, False)
        name = _NAMES.get(base)
        if entry == "dlatent_avg":
            continue
        if name is None or not is_state(state):
            left_out[f"models/{entry}"] = describe(state)
            continue
        parts[name + ("_ema" if averaged else "")] = _part(name, state, average)
    if "G" not in parts and "G_ema" not in parts:
        raise Refused("it has no generator")
    copies = {f"{n}_ema": n for n in "GEFD" if n in parts and f"{n}_ema" not in parts}
    for key, value in source.content.items():
        if key == "auxiliary" and isinstance(value, dict):
            left_out.update({f"auxiliary/{k}": describe(v) for k, v in value.items()})
        elif key != "models":
            left_out[str(key)] = describe(value)
    kwargs = parts["G_ema" if "G_ema" in parts else "G"].kwargs
    return Result("alae", parts, resolution=4 * 2 ** (len(kwargs["channels"]) - 1),
                  channels=kwargs["img_channels"], left_out=left_out, copies=copies)


def _part(name: str, state: Mapping[str, torch.Tensor], average: object) -> Part:
    ledger = Ledger(state)
    blocks = {"G": "decode_block.", "E": "encode_block."}.get(name, "map_blocks.")
    if not any(key.startswith(blocks) for key in state):
        what = {"G": "generator", "E": "encoder", "F": "mapping", "D": "latent discriminator"}[name]
        flat = any(key.split(".")[0].startswith("fc") for key in state)
        raise Refused(f"its {what} is " + ("fully connected, as ALAE has them for MNIST" if flat else "of another kind")
                      + "; only ALAE's convolutional networks, with styles, can be read")
    if name == "G":
        blocks = count(state, r"decode_block\.\d+\.conv_2\.weight")
        kwargs = dict(latent_size=get(state, "decode_block.0.style_1.weight", 2).shape[1],
                      channels=[get(state, f"decode_block.{i}.conv_2.weight", 4).shape[0] for i in range(blocks)],
                      img_channels=get(state, "to_rgb.0.to_rgb.bias", 1).shape[0])
    elif name == "E":
        blocks = count(state, r"encode_block\.\d+\.conv_1\.weight")
        kwargs = dict(latent_size=get(state, "encode_block.0.style_1.weight", 2).shape[0],
                      channels=[get(state, f"encode_block.{j}.conv_1.weight", 4).shape[0] for j in range(blocks)]
                      + [get(state, f"encode_block.{blocks - 1}.conv_2.weight", 4).shape[0]],
                      img_channels=get(state, "from_rgb.0.from_rgb.weight", 4).shape[1])
    elif name == "F":
        layers = count(state, r"map_blocks\.\d+\.fc\.weight")
        kwargs = dict(latent_size=get(state, "map_blocks.0.fc.weight", 2).shape[1], num_layers=layers)
        if isinstance(average, dict) and isinstance(average.get("buff"), torch.Tensor):
            # One mean exists, of the raw and the averaged mapping alike.
            ledger.left["dlatent_avg.buff"] = average["buff"]
            kwargs["num_ws"] = average["buff"].shape[0]
    else:
        layers = count(state, r"map_blocks\.\d+\.weight")
        kwargs = dict(latent_size=get(state, "map_blocks.0.weight", 2).shape[1], num_layers=layers)
    return same_names(f"gantransfer.networks.alae.{_CLASSES[name]}", kwargs, ledger)
