# SPDX-License-Identifier: Apache-2.0
"""BigGAN-PyTorch and cGANTransfer checkpoints: a folder of G, G_ema, D, their optimisers and the run's state, or one
of the files.

The tensors keep the published names, which our networks use as well. Sizes are read off the shapes. What shapes do not
say (epsilons, power iterations) comes from the run's state file when it is there, else from the published launch
scripts; the provenance says which.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dnnlib.util import regular_file
from gantransfer.data.labels import LabelSpec
from gantransfer.formats import torch_file
from gantransfer.formats.inert_pickle import Refused
from gantransfer.importers.common import Part, Result, Source, count, describe, get, is_state, strip_module
from gantransfer.importers.ledger import Ledger

# Blocks of a generator -> (resolution, width of the first layer in units of G_ch).
_G_SIZES = {3: (32, 4), 4: (64, 16), 5: (128, 16), 6: (256, 16), 7: (512, 16)}
# Blocks of a discriminator -> (resolution, last width in units of D_ch, resolution that --D_attn calls each block).
_D_SIZES = {4: (32, 4, [16, 16, 16, 16]), 5: (64, 16, [32, 16, 8, 4, 4]), 6: (128, 16, [64, 32, 16, 8, 4, 4]),
            7: (256, 16, [128, 64, 32, 16, 8, 4, 4])}
_FILES = ("G", "G_ema", "D", "G_optim", "D_optim", "state_dict")


def _is_generator(state: Mapping[str, torch.Tensor]) -> bool:
    return "linear.weight" in state and "blocks.0.0.conv1.weight" in state and "output_layer.2.weight" in state


def _is_discriminator(state: Mapping[str, torch.Tensor]) -> bool:
    return "linear.weight" in state and "blocks.0.0.conv1.weight" in state and (
        "embed.weight" in state or "new_embed.weight" in state)


def recognise(source: Source) -> bool:
    if source.kind == "folder":
        return bool(_copies(source.path))
    state = source.states.get("", {})
    return _is_generator(state) or _is_discriminator(state) or _is_side_file(source)


def _is_side_file(source: Source) -> bool:
    content = source.content if source.kind == "torch" else None
    return isinstance(content, dict) and ({"itr", "epoch", "config"} <= set(content)
                                          or {"state", "param_groups"} == set(content))


def is_checkpoint(path: str | os.PathLike) -> bool:
    """Whether a folder holds a generator of BigGAN-PyTorch or cGANTransfer, rather than images."""
    return os.path.isdir(path) and bool(_copies(Path(path)))


def _copies(folder: Path) -> list[str]:
    """Suffixes of the sets of weights in a folder: '' for the current one, 'best0', 'copy1', ..."""
    found = {m[1] or "" for p in folder.iterdir() if (m := re.fullmatch(r"(?:G|G_ema)(?:_((?:best|copy)\d+))?\.pth",
                                                                       p.name))}
    return sorted(found)


def convert(source: Source) -> Result:
    files, skipped = _read(source)
    config, extra = _run_state(files.pop("state_dict", None))
    states = {}
    for name in ("G", "G_ema", "D"):
        if name in files:
            if not is_state(files[name]):
                raise Refused(f"its {name} is not a state dict")
            states[name] = strip_module(files[name])
    if not {"G", "G_ema"} & set(states):
        raise Refused("it has no generator (G.pth or G_ema.pth)")
    assumed: dict[str, Any] = {}
    parts = {name: (_discriminator if name == "D" else _generator)(state, config, assumed)
             for name, state in states.items()}
    left_out = {**skipped, **{f"{name}.pth": describe(content) for name, content in files.items()
                              if name not in states}}
    for name in ("G", "D"):
        if f"{name}_optim" in files and name in states:
            _check_optimiser(f"{name}_optim", files[f"{name}_optim"], states[name])
    copies = {"G_ema": "G"} if "G_ema" not in parts else {} if "G" in parts else {"G": "G_ema"}
    main = parts["G" if "G" in parts else "G_ema"]
    kwargs = main.kwargs
    if assumed:
        extra["assumed"] = assumed
    method = "cgantransfer" if ".cgantransfer." in main.cls else "biggan"
    return Result(method, parts, LabelSpec("class", kwargs["n_classes"]), kwargs["resolution"],
                  get(states["G" if "G" in states else "G_ema"], "output_layer.2.weight", 4).shape[0], left_out, copies,
                  extra, cur_nimg=_images_shown(extra.get("run_state", {}), config))


def _read(source: Source) -> tuple[dict[str, Any], dict[str, str]]:
    """(contents by role, files that were not read and why)."""
    if source.kind != "folder":
        state = source.states.get("", {})
        if _is_discriminator(state):
            raise Refused("it is a discriminator alone; give its folder, or G.pth")
        if not _is_generator(state):
            raise Refused("it holds an optimiser's or a run's state and no network; give its folder, or G.pth")
        return {"G_ema" if source.path.name.startswith("G_ema") else "G": source.content}, {}
    copies = _copies(source.path)
    wanted = source.variant
    if wanted not in copies:
        raise Refused((f"it has no weights {wanted!r}" if wanted else "it has only copies of weights")
                      + f"; there are {', '.join(c or 'the current ones' for c in copies)} (--copy)")
    files, skipped = {}, {}
    for path in sorted(source.path.iterdir()):
        role = path.name.removesuffix(f"_{wanted}.pth" if wanted else ".pth")
        if role in _FILES and path.name != role:
            try:
                files[role] = torch_file.load(regular_file(path))
            except Refused as e:
                raise Refused(f"{path.name}: {e}") from None
        else:
            other = re.fullmatch(r"(.+)_((?:best|copy)\d+)\.pth", path.name)
            skipped[path.name] = "another copy" if other or path.suffix == ".pth" and wanted else "no part of the model"
    return files, skipped


def _run_state(content: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """(settings of the run, provenance) from state_dict.pth; objects among the settings are left alone."""
    if not isinstance(content, dict):
        return {}, {}
    simple = (str, int, float, bool, type(None))
    config = {str(k): v for k, v in (content.get("config") or {}).items() if isinstance(v, simple)} if isinstance(
        content.get("config"), dict) else {}
    run_state = {str(k): v for k, v in content.items() if isinstance(v, simple)}
    return config, dict(run_state=run_state, run_config=config)


def _images_shown(run_state: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    values = [run_state.get("itr", 0), config.get("batch_size", 1), config.get("num_D_steps", 1),
              config.get("num_D_accumulations", 1)]
    return math.prod(values) if all(type(v) is int and 0 <= v < 2**31 for v in values) and "batch_size" in config else 0


def _setting(name: str, kind: type, default: Any, config: Mapping[str, Any], assumed: dict[str, Any]) -> Any:
    value = config.get(name)
    if isinstance(value, kind) and not isinstance(value, bool):
        return value
    assumed[name] = default
    return default


def _no_spectral_norm(state: Mapping[str, torch.Tensor], side: str) -> None:
    if not any(re.search(r"\.u\d+$", key) for key in state):
        raise Refused(f"its {'generator' if side == 'G' else 'discriminator'} was trained without spectral norm "
                      f"(--{side}_param other than SN); only BigGANs with it (SN) can be read")


def _spectral(side: str, state: Mapping[str, torch.Tensor], config: Mapping[str, Any],
              assumed: dict[str, Any]) -> dict[str, Any]:
    _no_spectral_norm(state, side)
    large = count(state, r"blocks\.\d+\.0\.conv1\.weight") > 4  # the launch scripts of 128 pixels and above
    return {f"num_{side}_SVs": max(count(state, r"linear\.u\d+"), 1),
            f"num_{side}_SV_itrs": _setting(f"num_{side}_SV_itrs", int, 1, config, assumed),
            "SN_eps": _setting("SN_eps", float, 1e-6 if large else 1e-8, config, assumed)}


def _attention(state: Mapping[str, torch.Tensor], resolutions: list[int]) -> str:
    found = sorted({r for i, r in enumerate(resolutions) if f"blocks.{i}.1.gamma" in state})
    return "_".join(map(str, found)) or "0"


def _generator(state: Mapping[str, torch.Tensor], config: Mapping[str, Any], assumed: dict[str, Any]) -> Part:
    if "blocks.0.0.conv3.weight" in state:
        raise Refused("it is a BigGAN-deep generator; only the ordinary BigGAN can be read")
    blocks = count(state, r"blocks\.\d+\.0\.conv1\.weight")
    if blocks not in _G_SIZES:
        raise Refused(f"its generator has {blocks} blocks; BigGAN has {', '.join(map(str, _G_SIZES))}")
    resolution, first = _G_SIZES[blocks]
    width = get(state, "blocks.0.0.conv1.weight", 4).shape[1]
    features, inputs = get(state, "linear.weight", 2).shape
    gain = get(state, "blocks.0.0.bn1.gain.weight", 2)
    shared = "shared.weight" in state
    classes, shared_dim = get(state, "shared.weight", 2).shape if shared else (gain.shape[0], 0)
    hier = shared and gain.shape[1] > shared_dim
    kwargs: dict[str, Any] = dict(
        G_ch=width // first, dim_z=inputs * (blocks + 1) if hier else inputs,
        bottom_width=math.isqrt(features // max(width, 1)), resolution=resolution,
        G_attn=_attention(state, [8 * 2**i for i in range(blocks)]), n_classes=classes, G_shared=shared,
        shared_dim=shared_dim, hier=hier, mybn="blocks.0.0.bn1.bn.stored_mean" in state,
        BN_eps=_setting("BN_eps", float, 1e-5, config, assumed), **_spectral("G", state, config, assumed))
    cls = "gantransfer.networks.biggan.Generator"
    if "blocks.0.0.bn1.comb_layer_g.weight" in state:
        cls = "gantransfer.networks.cgantransfer.TransferGenerator"
        kwargs["n_pretrain_classes"], kwargs["n_classes"] = get(state, "blocks.0.0.bn1.comb_layer_g.weight", 2).shape
        kwargs["compat"] = "release"
    ledger = Ledger(state)
    # Statistics of a synchronised batch norm have names of their own.
    for key in [k for k in state if re.search(r"\.bn\.(running_(mean|var)|num_batches_tracked)$", k)]:
        if key.endswith("num_batches_tracked"):
            ledger.drop(key, "a counter that evaluation does not use")
        else:
            ledger.take(key, key.replace(".bn.running_", ".stored_"), note="synchronised batch norm")
    ledger.take_rest()
    return Part(cls, kwargs, ledger)


def _discriminator(state: Mapping[str, torch.Tensor], config: Mapping[str, Any], assumed: dict[str, Any]) -> Part:
    blocks = count(state, r"blocks\.\d+\.0\.conv1\.weight")
    if blocks not in _D_SIZES:
        raise Refused(f"its discriminator has {blocks} blocks; BigGAN has {', '.join(map(str, _D_SIZES))}")
    resolution, last, listed = _D_SIZES[blocks]
    transfer = "new_embed.weight" in state
    kwargs = dict(
        D_ch=get(state, "linear.weight", 2).shape[1] // last, resolution=resolution, D_attn=_attention(state, listed),
        D_wide=get(state, "blocks.0.0.conv1.weight", 4).shape[0] == get(state, "blocks.0.0.conv2.weight", 4).shape[0],
        n_classes=get(state, "new_embed.weight" if transfer else "embed.weight", 2).shape[0],
        **_spectral("D", state, config, assumed))
    ledger = Ledger(state)
    ledger.take_rest()
    cls = "cgantransfer.TransferDiscriminator" if transfer else "biggan.Discriminator"
    return Part(f"gantransfer.networks.{cls}", kwargs, ledger)


def _check_optimiser(name: str, content: Any, state: Mapping[str, torch.Tensor]) -> None:
    """Raises Refused for an optimiser of another network: its moments are as many and as large as the parameters.

    Old files key them by the addresses that the parameters had; the order is in `param_groups`.
    """
    groups = content.get("param_groups") if isinstance(content, dict) else None
    moments = content.get("state") if isinstance(content, dict) else None
    if not (isinstance(groups, list) and isinstance(moments, dict) and all(isinstance(g, dict) for g in groups)):
        raise Refused(f"{name} is not an optimiser's state")
    order = [p for g in groups for p in g.get("params", ())]
    shapes = sorted(tuple(t.shape) for t in state.values())
    for p in order:
        entry = moments.get(p)
        if isinstance(entry, dict) and isinstance(entry.get("exp_avg"), torch.Tensor):
            shape = tuple(entry["exp_avg"].shape)
            if shape not in shapes:
                raise Refused(f"{name} belongs to another network: it has a parameter of shape {list(shape)}")
            shapes.remove(shape)
