# SPDX-License-Identifier: Apache-2.0
"""What stands in an ONNX file: inputs, outputs, operators, and what our exporter noted. Nothing in it is run.

Needs the package onnx (extra `export`).
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from typing import Any

from dnnlib import json_file
from dnnlib.util import UserError, first_line

KEY = "gantransfer"  # of the metadata that onnx_export.py writes


def describe(path: str | os.PathLike) -> list[str]:
    """Lines on an ONNX file. UserError, one line, for a file that is none and without the package onnx."""
    try:
        import onnx
    except ImportError:
        raise UserError(f"reading {path} needs the package onnx: pip install onnx") from None
    try:
        model = onnx.load_model(os.fspath(path), load_external_data=False)  # names no other file's content
        onnx.checker.check_model(model)
        return [line if line.isprintable() else ascii(line) for line in _lines(onnx, model)]  # names are anybody's
    except Exception as e:  # protobuf and the checker raise classes of their own, and texts may be none
        raise UserError(f"{path} cannot be read as ONNX: {first_line(e)}") from None


def _lines(onnx: Any, model: Any) -> list[str]:
    given = {t.name: t for t in model.graph.initializer}
    about = _noted(model)
    lines = [f"made by     {model.producer_name or 'not recorded'} {model.producer_version}".rstrip()]
    if about:
        label = about.get("label") or {}
        kind = {"class": "classes", "value": "label values"}.get(label.get("kind"), "")
        lines += [f"method      {about.get('method')}, network {about.get('net')}, noise {about.get('noise')}",
                  f"data        {_size(about.get('resolution'))} pixels, {about.get('channels')} channels"
                  + (f", {label.get('dim')} {kind}" if kind else ", no labels")]
        names = [str(n) for n in label.get("names") or []]
        if names:
            lines.append(f"classes     {json.dumps(names[:8])}" + (f" and {len(names) - 8} more" if names[8:] else ""))
    for what, values in (("input", model.graph.input), ("output", model.graph.output)):
        for v in values:
            left_out = f", {_number(onnx, given[v.name])} if left out" if v.name in given else ""
            lines.append(f"{what:11s} {v.name}: {_type(onnx, v)}{left_out}")
    sizes = [math.prod(t.dims) for t in model.graph.initializer]
    lines.append(f"network     {len(model.graph.node)} nodes, {len(sizes)} tensors, {sum(sizes):,} numbers; opset "
                 + ", ".join(f"{o.domain or 'ai.onnx'} {o.version}" for o in model.opset_import))
    lines.append("operators   " + ", ".join(f"{k} {n}" for k, n in Counter(
        n.op_type for n in model.graph.node).most_common(12)))
    return lines


def _size(resolution: Any) -> Any:
    """Width x height of (height, width), as snapshots have images that are not square."""
    return "x".join(map(str, resolution[::-1])) if isinstance(resolution, list) else resolution


def _noted(model: Any) -> dict[str, Any]:
    for entry in model.metadata_props:
        if entry.key == KEY:
            try:
                return json_file.parse(entry.value, KEY)
            except UserError:
                return {}
    return {}


def _type(onnx: Any, value: Any) -> str:
    """'float32 [batch, 64]'."""
    if not value.type.HasField("tensor_type"):
        return value.type.WhichOneof("value") or "of no known type"
    t = value.type.tensor_type
    try:
        name = str(onnx.helper.tensor_dtype_to_np_dtype(t.elem_type))
    except KeyError:
        name = f"type {t.elem_type}"
    return f"{name} [{', '.join(d.dim_param or str(d.dim_value) for d in t.shape.dim)}]"


def _number(onnx: Any, tensor: Any) -> str:
    value = onnx.numpy_helper.to_array(tensor)
    return f"{value.item():g}" if value.size == 1 else f"a tensor of {list(value.shape)}"
