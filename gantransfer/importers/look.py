# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint holds, in words: networks, sizes, options, and what its pickles refer to. Nothing is executed."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

from dnnlib.util import UserError, fetch, is_url
from gantransfer.formats import inert_pickle, onnx_info, torch_file
from gantransfer.formats.inert_pickle import Refused
from gantransfer.importers.common import Source, not_usable
from gantransfer.networks.sizes import ImageSize
from gantransfer.snapshot import Snapshot


def names(source: Source) -> list[tuple[str, bool]]:
    """('module.name', known) of everything that the pickles of a file or folder refer to."""
    found: dict[str, bool] = {}
    files = sorted(p for p in source.path.iterdir() if p.is_file()) if source.kind == "folder" else [source.path]
    for path in files:
        with open(path, "rb") as f:
            start = f.read(16)
        try:
            if start.startswith(torch_file.LEGACY_START[:13]) or start.startswith(torch_file.ZIP_START):
                found.update(pair for data in torch_file.pickles(path) for pair in inert_pickle.names_in(data))
            elif start[:1] == b"\x80" or source.kind == "":
                found.update(inert_pickle.names_in(path.read_bytes()))
        except (Refused, zipfile.BadZipFile):
            continue
    return list(found.items())


def describe(snap: Snapshot) -> list[str]:
    """Lines on a snapshot: method, data, networks, options."""
    label = snap.data.get("label") or {}
    kind = {"class": "classes", "value": "label values"}.get(label.get("kind"), "")
    lines = [f"method      {snap.method}" + (f", stage {snap.stage}" if snap.stage != "main" else ""),
             f"trained     {snap.cur_nimg / 1000:g} kimg" if snap.cur_nimg else "trained     not recorded",
             f"data        {snap.data.get('name') or 'not recorded'}, {_pixels(snap.data)} pixels, "
             f"{snap.data.get('channels', '?')} channels" + (f", {label.get('dim')} {kind}" if kind else ", no labels")]
    for name, r in snap.nets.items():
        numbers = sum(t.numel() for t in r.state.values())
        lines.append(f"network     {name}: {r.cls.removeprefix('gantransfer.networks.')}, {len(r.state)} tensors, "
                     f"{numbers:,} numbers")
        lines.append(f"            {json.dumps(r.kwargs)}")
        lines += [f"            not usable yet: {why}" for why in not_usable({name: r}).values()]
    if snap.options:
        lines.append(f"options     {json.dumps(_short(snap.options))}")
    rest = {k: v for k, v in snap.extra.items() if k not in ("networks", "left_out", "assumed")}
    if rest:
        lines.append(f"provenance  {json.dumps(_short(rest))}")
    return lines


def _pixels(data: dict[str, Any]) -> str:
    return str(ImageSize.of(data["resolution"])) if "resolution" in data else "?"


def describe_onnx(file: str) -> list[str]:
    """Lines on an .onnx file, a path or URL. UserError for what is none."""
    path = fetch(file)
    if not path.is_file():
        raise UserError(f"{file} is a folder; name a file")
    lines = onnx_info.describe(path)  # before the first line is printed
    return [f"{path.name if is_url(file) else Path(file).name}: ONNX, {os.path.getsize(path):,} bytes", *lines]


def _short(value: Any) -> Any:
    """JSON-able, with tensors and long lists cut down."""
    if isinstance(value, dict):
        return {str(k): _short(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_short(v) for v in value[:8]] + ([f"... {len(value) - 8} more"] if len(value) > 8 else [])
    return value if value is None or isinstance(value, bool | int | float | str) else f"<{type(value).__name__}>"
