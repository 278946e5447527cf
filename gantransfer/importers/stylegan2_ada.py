# SPDX-License-Identifier: Apache-2.0
"""Network pickles of StyleGAN2-ADA (PyTorch) and its descendants UTLO and transitional-cGAN.

Their tensors go by the names our networks use, so that an import is a matter of recognising the kind, rebuilding the
constructor arguments and accounting for every tensor. What cannot be accounted for is an error, not a guess.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from gantransfer import inert_pickle
from gantransfer.importers.common import Part, Result, Source, missing_keys
from gantransfer.importers.ledger import Ledger
from gantransfer.inert_pickle import Network, Refused
from gantransfer.labels import LabelSpec

NETWORKS = ("G", "D", "G_ema")


@dataclass
class ForeignPickle:
    """A network pickle as data."""

    networks: dict[str, Network]  # those of 'G', 'D', 'G_ema', 'augment_pipe' that it has
    training_set: dict[str, Any] = field(default_factory=dict)  # dataset arguments of the run
    others: dict[str, Any] = field(default_factory=dict)  # what else the file holds


def recognise(source: Source) -> bool:
    return source.kind == "pickle"


def read_pickle(path: str | os.PathLike) -> ForeignPickle:
    """The networks and dataset arguments in a foreign pickle. Raises inert_pickle.Refused."""
    return _networks(inert_pickle.load(Path(path).read_bytes()))


def _networks(content: Any) -> ForeignPickle:
    if not isinstance(content, dict):
        raise Refused(f"it holds a {type(content).__name__} instead of networks by name")
    networks = {k: v for k, v in content.items() if isinstance(v, Network)}
    if not any(name in networks for name in NETWORKS):
        raise Refused(f"it has none of the networks {', '.join(NETWORKS)}")
    others = {k: v for k, v in content.items() if k not in networks and k != "training_set_kwargs" and v is not None}
    return ForeignPickle(networks, inert_pickle.plain(content.get("training_set_kwargs") or {}), others)


def convert(source: Source) -> Result:
    foreign = _networks(source.content)
    networks = {name: foreign.networks[name] for name in NETWORKS if name in foreign.networks}
    tensors = {name: net.tensors() for name, net in networks.items()}
    method = _method_of(networks, tensors)
    res_uc = _res_uc(networks) if method == "utlo" else None
    parts = {}
    for name, net in networks.items():
        kind = "Discriminator" if name == "D" else "Generator"
        if net.class_name != kind:
            raise Refused(f"its {name} is a {net.class_name} instead of a {kind}")
        kwargs = net.init_kwargs
        if res_uc is not None:
            for part in ("synthesis_kwargs", "mapping_kwargs"):  # where the original's generator keeps it
                if isinstance(kwargs.get(part), dict):
                    kwargs[part] = {k: v for k, v in kwargs[part].items() if k != "res_uc"}
            kwargs["res_uc"] = res_uc
        cls = f"gantransfer.networks.{method}.{kind}"
        ledger = Ledger(tensors[name])
        wanted = missing_keys(cls, kwargs, {})
        ledger.take_rest([key for key in tensors[name] if key in wanted])
        for key in [k for k, t in ledger.left.items() if t.numel() == 0]:
            ledger.drop(key, "empty")
        if "mapping.w_avg_uc" in wanted and "mapping.w_avg_uc" not in ledger.state and "mapping.w_avg" in ledger.state:
            # The original pulls the label-free layers towards the mean of the conditional ones; this keeps its images.
            ledger.new("mapping.w_avg_uc", ledger.state["mapping.w_avg"].clone(), "as mapping.w_avg")
        parts[name] = Part(cls, kwargs, ledger)
    copies = {}
    if "G_ema" not in parts:
        if "G" not in parts:
            raise Refused("it has no generator")
        copies["G_ema"] = "G"

    extra: dict[str, Any] = dict(training_set_kwargs=foreign.training_set)
    pipe = foreign.networks.get("augment_pipe")
    if pipe is not None:
        state = pipe.tensors()
        extra["augment_kwargs"] = pipe.init_kwargs
        if "p" in state:
            extra["augment_p"] = float(state.pop("p"))
        extra["augment_constants"] = sorted(state)  # the filters of the pipe, which ours computes itself
    left_out = {str(k): f"{type(v).__name__}, which no method uses" for k, v in foreign.others.items()}
    left_out.update({k: "a network of an unknown role" for k in foreign.networks
                     if k not in (*NETWORKS, "augment_pipe")})

    training_set, kwargs = foreign.training_set, parts["G_ema" if "G_ema" in parts else "G"].kwargs
    c_dim = int(kwargs["c_dim"])
    path = str(training_set.get("path") or "")
    data = dict(path=path, num_images=int(training_set.get("max_size") or 0), fname=training_set.get("fname"),
                max_size=training_set.get("max_size"), xflip=bool(training_set.get("xflip", False)),
                seed=int(training_set.get("random_seed") or 0))
    if path:
        data["name"] = re.sub(r"\.(zip|pkl)$", "", Path(path).name)
    numbered = re.search(r"network-snapshot-(\d+)", source.name)
    # Counts and names of the classes are not recorded in such pickles.
    return Result(method, parts, LabelSpec("class", c_dim) if c_dim else LabelSpec(), int(kwargs["img_resolution"]),
                  int(kwargs["img_channels"]), left_out, copies, extra, data,
                  int(numbered[1]) * 1000 if numbered else 0)


def _method_of(networks: dict[str, Network], tensors: dict[str, dict[str, torch.Tensor]]) -> str:
    names = {key for state in tensors.values() for key in state}
    if any(key.startswith("synthesis.input.") for key in names):
        raise Refused("it is a StyleGAN3 generator; only StyleGAN2-ADA and its forks UTLO and transitional-cGAN "
                      "can be read")
    if "mapping.transition" in names or "transition" in names:
        return "transitional"
    # UTLO's generator has the names of the base; it differs in having a w for every ToRGB.
    generator = networks.get("G_ema") or networks.get("G")
    if any(key.startswith("fromrgb_uc.") for key in names):
        return "utlo"
    if generator is not None and _attribute(generator, "noc_ind") is not None:
        return "utlo"
    return "stylegan2"


def _res_uc(networks: dict[str, Network]) -> int:
    for network in networks.values():
        found = _attribute(network, "res_uc")
        if found is None and isinstance(index := _attribute(network, "noc_ind"), int):
            found = 4 * 2**index if 0 <= index < 12 else 0  # index into the resolutions 4, 8, ...; -1 = none
        if isinstance(found, int):
            return found
    raise Refused("it is a UTLO network that does not say its res_uc")


def _attribute(network: Network, name: str) -> Any:
    """`name` among the constructor arguments or attributes of a network or of a module below it."""
    for module in network.walk():
        for place in (module.state.get("_init_kwargs"), module.state):
            if isinstance(place, dict) and place.get(name) is not None:
                return place[name]
    return None
