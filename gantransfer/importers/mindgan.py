# SPDX-License-Identifier: Apache-2.0
"""Mind2Mind (MindGAN) checkpoints: two small fully connected networks in the latent space of an ALAE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gantransfer.formats.inert_pickle import Refused
from gantransfer.importers.common import Part, Result, Source, count, describe, get, same_names
from gantransfer.importers.ledger import Ledger


def recognise(source: Source) -> bool:
    return {"Generator", "Critic"} & set(source.states) != set() and all(
        "model.0.weight" in source.states[k] for k in ("Generator", "Critic") if k in source.states)


def convert(source: Source) -> Result:
    states = source.states
    if "Generator" not in states:
        raise Refused("it has no generator")
    parts = {"M": _part("Generator", states["Generator"])}
    if "Critic" in states:
        parts["K"] = _part("Critic", states["Critic"])
    left_out = {str(k): describe(v) for k, v in source.content.items() if k not in ("Generator", "Critic")}
    return Result("mind2mind", parts, left_out=left_out, extra=dict(
        needs="the ALAE checkpoint whose latents it was trained on: convert that too"))


def _part(name: str, state: Mapping[str, torch.Tensor]) -> Part:
    layers = count(state, r"model\.\d+\.weight")
    shapes = [get(state, f"model.{2 * i}.weight", 2).shape for i in range(layers)]
    if any(a[0] != b[1] for a, b in zip(shapes, shapes[1:])):
        raise Refused(f"the layers of its {name} do not fit one another")
    kwargs: dict[str, Any] = dict(sizes=[shapes[0][1], *(s[0] for s in shapes)])
    return same_names(f"gantransfer.networks.mindgan.{name}", kwargs, Ledger(state))
