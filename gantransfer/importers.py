# SPDX-License-Identifier: Apache-2.0
"""Foreign checkpoints as our snapshots: StyleGAN2-ADA, UTLO and transitional-cGAN network pickles.

Their tensors go by the names our networks use, so that an import is a matter of recognising the kind, rebuilding the
constructor arguments and accounting for every tensor. What cannot be accounted for is an error, not a guess.
"""

from __future__ import annotations

import importlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from dnnlib.util import UserError, fetch, is_url
from gantransfer import inert_pickle, snapshot
from gantransfer.inert_pickle import Network, Refused
from gantransfer.labels import DataSpec, LabelSpec
from gantransfer.snapshot import NetRecord, Snapshot

_SOURCE_NETS = ("https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/transfer-learning-source-nets/"
                "{}.pkl")
RESUME_NAMES: dict[str, str] = {
    "ffhq256": _SOURCE_NETS.format("ffhq-res256-mirror-paper256-noaug"),
    "ffhq512": _SOURCE_NETS.format("ffhq-res512-mirror-stylegan2-noaug"),
    "ffhq1024": _SOURCE_NETS.format("ffhq-res1024-mirror-stylegan2-noaug"),
    "celebahq256": _SOURCE_NETS.format("celebahq-res256-mirror-paper256-kimg100000-ada-target0.5"),
    "lsundog256": _SOURCE_NETS.format("lsundog-res256-paper256-kimg100000-noaug"),
}
"""Names that stand for published transfer sources (`--resume=ffhq256`)."""

NETWORKS = ("G", "D", "G_ema")


@dataclass
class ForeignPickle:
    """A network pickle as data."""

    networks: dict[str, Network]  # those of 'G', 'D', 'G_ema', 'augment_pipe' that it has
    training_set: dict[str, Any] = field(default_factory=dict)  # dataset arguments of the run


def load_any(path_or_url: str | os.PathLike) -> Snapshot:
    """A snapshot from a file or URL in our own format or as a foreign network pickle.

    Also takes the names of `RESUME_NAMES` where no file of that name exists. Nothing in the file is executed.
    Raises UserError, one line that names the file, for anything that is neither.
    """
    text = os.fspath(path_or_url)
    address = RESUME_NAMES[text] if text in RESUME_NAMES and not os.path.exists(text) else text
    path = fetch(address)
    if path.is_dir():
        raise UserError(f"{text} is a folder; name a network-snapshot-*.pkl in it")
    with open(path, "rb") as f:
        start = f.read(512)
    if start.startswith(b"PK\x03\x04"):  # torch's zip container, as ours
        return snapshot.load(path)
    try:
        return _to_snapshot(read_pickle(path), text)
    except Refused as e:
        reason = "it is empty" if not start else str(e)
        if start.lstrip()[:1] == b"<":
            reason = "it is a web page (a login page, or a link that moved?)"
        if is_url(address):
            path.unlink(missing_ok=True)  # the cached download: the next try fetches it again
        raise UserError(f"{text} is not a usable network snapshot: {reason}") from None


def read_pickle(path: str | os.PathLike) -> ForeignPickle:
    """The networks and dataset arguments in a foreign pickle. Raises inert_pickle.Refused."""
    content = inert_pickle.load(Path(path).read_bytes())
    if not isinstance(content, dict):
        raise Refused(f"it holds a {type(content).__name__} instead of networks by name")
    networks = {k: v for k, v in content.items() if isinstance(v, Network)}
    if not any(name in networks for name in NETWORKS):
        raise Refused(f"it has none of the networks {', '.join(NETWORKS)}")
    return ForeignPickle(networks, inert_pickle.plain(content.get("training_set_kwargs") or {}))


def _to_snapshot(foreign: ForeignPickle, source: str) -> Snapshot:
    networks = {name: foreign.networks[name] for name in NETWORKS if name in foreign.networks}
    tensors = {name: net.tensors() for name, net in networks.items()}
    method = _method_of(networks, tensors)
    res_uc = _res_uc(networks) if method == "utlo" else None
    nets, account = {}, {}
    for name, net in networks.items():
        kind = "Discriminator" if name == "D" else "Generator"
        if net.class_name != kind:
            raise Refused(f"its {name} is a {net.class_name} instead of a {kind}")
        kwargs = net.init_kwargs
        if res_uc is not None:
            kwargs["res_uc"] = res_uc
        record = NetRecord(f"gantransfer.networks.{method}.{kind}", kwargs, dict(tensors[name]))
        account[name] = dict(init_kwargs=net.init_kwargs, tensors=len(tensors[name]), **_fit(name, record))
        nets[name] = record
    if "G_ema" not in nets:
        if "G" not in nets:
            raise Refused("it has no generator")
        nets["G_ema"] = NetRecord(nets["G"].cls, nets["G"].kwargs, nets["G"].state)
        account["G_ema"] = dict(copy_of="G")

    extra: dict[str, Any] = dict(imported_from=source, networks=account, training_set_kwargs=foreign.training_set)
    pipe = foreign.networks.get("augment_pipe")
    if pipe is not None:
        state = pipe.tensors()
        extra["augment_kwargs"] = pipe.init_kwargs
        if "p" in state:
            extra["augment_p"] = float(state.pop("p"))
        extra["augment_constants"] = sorted(state)  # the filters of the pipe, which ours computes itself
    numbered = re.search(r"network-snapshot-(\d+)", source)
    return Snapshot(method=method, nets=nets, data=_data_spec(nets["G_ema"], foreign.training_set, source).to_dict(),
                    cur_nimg=int(numbered[1]) * 1000 if numbered else 0, extra=extra)


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


def _fit(name: str, record: NetRecord) -> dict[str, list[str]]:
    """Make `record` fit our class exactly, and say which tensors were added or left out to do so."""
    expected = {k: tuple(t.shape) for k, t in _skeleton(name, record).state_dict().items()}
    added, dropped = [], []
    if "mapping.w_avg_uc" in expected and "mapping.w_avg_uc" not in record.state:
        # The original pulls the label-free layers towards the mean of the conditional ones; this keeps its images.
        record.state["mapping.w_avg_uc"] = record.state["mapping.w_avg"].clone()
        added.append("mapping.w_avg_uc")
    for key in [k for k, t in record.state.items() if k not in expected and t.numel() == 0]:
        del record.state[key]
        dropped.append(key)
    for key, shape in expected.items():
        have = record.state.get(key)
        if have is None or tuple(have.shape) != shape:
            raise Refused(f"its {name} does not fit: {key} should be {list(shape)}, "
                          f"but {'is missing' if have is None else f'is {list(have.shape)}'}")
    left = [key for key in record.state if key not in expected]
    if left:
        raise Refused(f"its {name} has {len(left)} tensors that our {record.cls} lacks, such as {left[0]}")
    return dict(added=added, dropped=dropped)


class _NoMemory(TorchFunctionMode):
    """Weights are made without storage: a file cannot make us allocate what it does not hold."""

    FACTORIES = (torch.randn, torch.rand, torch.zeros, torch.ones, torch.full, torch.empty)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in self.FACTORIES:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _skeleton(name: str, record: NetRecord) -> nn.Module:
    """The network of a record without memory for its weights."""
    module_name, _, kind = record.cls.rpartition(".")
    try:
        with _NoMemory():
            return getattr(importlib.import_module(module_name), kind)(**record.kwargs)
    except (TypeError, ValueError, AssertionError, NotImplementedError, KeyError) as e:
        raise Refused(f"its {name} cannot be rebuilt from its arguments ({str(e).strip().splitlines()[0][:120]})"
                      ) from None


def _data_spec(generator: NetRecord, training_set: dict[str, Any], source: str) -> DataSpec:
    """What is known of the training set. Counts and names of the classes are not recorded in such pickles."""
    kwargs = generator.kwargs
    path = str(training_set.get("path") or "")
    name = Path(path or re.sub(r"[?#].*", "", source)).name
    c_dim = int(kwargs["c_dim"])
    return DataSpec(
        name=re.sub(r"\.(zip|pkl)$", "", name), resolution=int(kwargs["img_resolution"]),
        channels=int(kwargs["img_channels"]), num_images=int(training_set.get("max_size") or 0),
        label=LabelSpec("class", c_dim) if c_dim else LabelSpec(), path=path, fname=training_set.get("fname"),
        max_size=training_set.get("max_size"), xflip=bool(training_set.get("xflip", False)),
        seed=int(training_set.get("random_seed") or 0),
    )
