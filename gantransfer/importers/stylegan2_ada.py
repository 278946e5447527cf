# SPDX-License-Identifier: Apache-2.0
"""Network pickles of StyleGAN2-ADA (PyTorch) and its descendants: the StyleGAN2 of the StyleGAN3 code, UTLO and
transitional-cGAN. Also the same networks as files of torch.save, a network by itself, and bare state dicts.

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

from gantransfer.data.labels import LabelSpec
from gantransfer.formats import inert_pickle
from gantransfer.formats.inert_pickle import Network, Refused
from gantransfer.importers import ada_states, strangers
from gantransfer.importers.common import Part, Result, Source

NETWORKS = ("G", "D", "G_ema")


@dataclass
class ForeignPickle:
    """A network pickle as data."""

    networks: dict[str, Network]  # those of 'G', 'D', 'G_ema', 'augment_pipe' that it has
    training_set: dict[str, Any] = field(default_factory=dict)  # dataset arguments of the run
    others: dict[str, Any] = field(default_factory=dict)  # what else the file holds


# Constructor parameters in their published order, for networks that were given them without names.
_POSITIONS = {
    "Generator": ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels", "mapping_kwargs", "synthesis_kwargs"),
    "Discriminator": ("c_dim", "img_resolution", "img_channels", "architecture", "channel_base", "channel_max",
                      "num_fp16_res", "conv_clamp", "cmap_dim", "block_kwargs", "mapping_kwargs", "epilogue_kwargs"),
    "AugmentPipe": ("xflip", "rotate90", "xint", "xint_max", "scale", "rotate", "aniso", "xfrac", "scale_std",
                    "rotate_max", "aniso_std", "xfrac_std", "brightness", "contrast", "lumaflip", "hue", "saturation",
                    "brightness_std", "contrast_std", "hue_max", "saturation_std", "imgfilter", "imgfilter_bands",
                    "imgfilter_std", "noise", "cutout", "noise_std", "cutout_size"),
}
_UTLO_POSITIONS = tuple(k for name in _POSITIONS["Discriminator"]
                        for k in (("res_uc", name) if name == "block_kwargs" else (name,)))
# What the StyleGAN3 code gives a StyleGAN2 that is not told otherwise; stylegan2-ada-pytorch has 0, none and 0.995.
_SG3_DEFAULTS = dict(num_fp16_res=4, conv_clamp=256)
_SG3_BETA = 0.998
# Arguments of that code's synthesis network which say how, not what, is computed.
_SG3_DROPPED = ("fused_modconv_default",)


def recognise(source: Source) -> bool:
    if source.kind == "pickle":
        return True
    if source.kind != "torch":
        return False
    content = source.content
    return isinstance(content, Network) or isinstance(content, dict) and any(
        isinstance(v, Network) for v in content.values()) or ada_states.recognise(source)


def read_pickle(path: str | os.PathLike) -> ForeignPickle:
    """The networks and dataset arguments in a foreign pickle. Raises inert_pickle.Refused."""
    return _networks(inert_pickle.load(Path(path).read_bytes()))


def _networks(content: Any) -> ForeignPickle:
    if isinstance(content, Network):  # one network by itself
        content = {"D" if content.class_name.endswith("Discriminator") else "G_ema": content}
    if not isinstance(content, dict):
        raise Refused(f"it holds a {type(content).__name__} instead of networks by name")
    networks = {k: v for k, v in content.items() if isinstance(v, Network)}
    if not any(name in networks for name in NETWORKS):
        raise Refused(f"it has none of the networks {', '.join(NETWORKS)}" + (
            "; it has " + ", ".join(f"{k} (a {v.class_name})"[:60] for k, v in [*networks.items()][:4])
            if networks else ""))
    others = {k: v for k, v in content.items() if k not in networks and k != "training_set_kwargs" and v is not None}
    training_set = inert_pickle.settings(content.get("training_set_kwargs") or {})
    return ForeignPickle(networks, training_set if isinstance(training_set, dict) else {}, others)


def convert(source: Source) -> Result:
    if ada_states.recognise(source):
        return ada_states.convert(source)
    foreign = _networks(source.content)
    networks = {name: foreign.networks[name] for name in NETWORKS if name in foreign.networks}
    if set(networks) == {"D"}:
        raise Refused("it is a discriminator alone, and has no generator")
    tensors = {name: net.tensors() for name, net in networks.items()}
    method = _method_of(networks, tensors)
    of_sg3 = any(_of_sg3(net) for net in networks.values())
    parts: dict[str, Part] = {}
    for name, net in networks.items():
        kind = "Discriminator" if name == "D" else "Generator"
        if net.class_name != kind:
            raise Refused(f"its {name} is a {net.class_name} instead of a {kind}")
        dropped: dict[str, Any] = {}
        kwargs = _arguments(net, kind, method, of_sg3, dropped)
        if method == "utlo":
            res_uc = _res_uc([net, *networks.values()])
            for part in ("synthesis_kwargs", "mapping_kwargs"):  # where the original's generator keeps it
                if isinstance(kwargs.get(part), dict):
                    kwargs[part] = {k: v for k, v in kwargs[part].items() if k != "res_uc"}
            kwargs["res_uc"] = res_uc
            if kind == "Discriminator" and res_uc == kwargs.get("img_resolution"):
                kwargs["faithful"] = True  # the original's takes such images in twice
        parts[name] = ada_states.part(f"gantransfer.networks.{method}.{kind}", kwargs, tensors[name])
        for key, value in dropped.items():
            parts[name].ledger.rows["dropped"].append([f"argument {key} = {value}", "no property of the images"])
    copies = {} if "G_ema" in parts else {"G_ema": "G"}

    extra: dict[str, Any] = dict(training_set_kwargs=foreign.training_set)
    pipe = foreign.networks.get("augment_pipe")
    if pipe is not None:
        state = pipe.tensors()
        extra["augment_kwargs"] = pipe.arguments(_POSITIONS["AugmentPipe"])
        if "p" in state:
            extra["augment_p"] = float(state.pop("p"))
        extra["augment_constants"] = sorted(state)  # the filters of the pipe, which ours computes itself
    left_out = {str(k): f"{type(v).__name__}, which no method uses" for k, v in foreign.others.items()}
    left_out.update({k: "a network of an unknown role" for k in foreign.networks
                     if k not in (*NETWORKS, "augment_pipe")})

    training_set, kwargs = foreign.training_set, parts["G_ema" if "G_ema" in parts else "G"].kwargs
    c_dim = int(kwargs["c_dim"])
    path = str(training_set.get("path") or "")
    data = dict(path=path, num_images=_int(training_set.get("max_size")), fname=training_set.get("fname"),
                max_size=training_set.get("max_size"), xflip=bool(training_set.get("xflip", False)),
                seed=_int(training_set.get("random_seed")))
    if path:
        data["name"] = re.sub(r"\.(zip|pkl)$", "", re.split(r"[/\\]", path.rstrip("/\\"))[-1])
    numbered = re.search(r"network-snapshot-(\d+)", source.name)
    # Counts and names of the classes are not recorded in such pickles.
    return Result(method, parts, LabelSpec("class", c_dim) if c_dim else LabelSpec(), int(kwargs["img_resolution"]),
                  int(kwargs["img_channels"]), left_out, copies, extra, data,
                  int(numbered[1]) * 1000 if numbered else 0)


def _int(value: Any) -> int:
    return value if type(value) is int else 0


def _arguments(net: Network, kind: str, method: str, of_sg3: bool, dropped: dict[str, Any]) -> dict[str, Any]:
    """Constructor arguments as our class takes them; those of no meaning here go to `dropped`."""
    positions = _UTLO_POSITIONS if (kind, method) == ("Discriminator", "utlo") else _POSITIONS[kind]
    kwargs = net.arguments(positions[:-1] if of_sg3 and kind == "Generator" else positions)
    if not of_sg3:
        return kwargs
    told = kwargs
    if kind == "Generator":
        known = set(_POSITIONS["Generator"])
        told = {k: v for k, v in kwargs.items() if k not in known}
        kwargs = {**{k: v for k, v in kwargs.items() if k in known}, "synthesis_kwargs": told}
        kwargs["mapping_kwargs"] = {"w_avg_beta": _SG3_BETA, **(kwargs.get("mapping_kwargs") or {})}
    for key in _SG3_DROPPED:
        if key in told:
            dropped[key] = told.pop(key)
    for key, value in _SG3_DEFAULTS.items():
        told.setdefault(key, value)
    return kwargs


def _of_sg3(net: Network) -> bool:
    """Whether a network was built by the StyleGAN3 code: it takes a synthesis network's arguments flat, and its layers
    note more of their sizes."""
    kwargs = net.state.get("_init_kwargs")
    if net.class_name == "Generator" and isinstance(kwargs, dict) and "synthesis_kwargs" not in kwargs and any(
            k not in _POSITIONS["Generator"] and k != "res_uc" for k in kwargs):
        return any(k in kwargs for k in ("channel_base", "channel_max", *_SG3_DEFAULTS, *_SG3_DROPPED))
    return any("fused_modconv_default" in m.state or
               m.class_name == "FullyConnectedLayer" and "in_features" in m.state for m in net.walk())


def _method_of(networks: dict[str, Network], tensors: dict[str, dict[str, torch.Tensor]]) -> str:
    names = {key for state in tensors.values() for key in state}
    stranger = strangers.by_tensors(names)
    if stranger:
        raise Refused(f"it is a {stranger}; {strangers.READABLE}")
    if "mapping.transition" in names or "transition" in names:
        return "transitional"
    # UTLO's generator has the names of the base; it differs in having a w for every ToRGB.
    generator = networks.get("G_ema") or networks.get("G")
    if any(key.startswith("fromrgb_uc.") for key in names):
        return "utlo"
    if generator is not None and _attribute(generator, "noc_ind") is not None:
        return "utlo"
    return "stylegan2"


def _res_uc(networks: list[Network]) -> int:
    for network in networks:
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
