# SPDX-License-Identifier: Apache-2.0
"""`*.detector.json`: a small file beside a weights file that says how it is used as a feature detector.

    {"name": "resnet34-utk", "version": 1, "kind": "state_dict|torchscript|export", "file": "...", "sha256": "...",
     "arch": "fid_inception_v3|torchvision_inception_v3|vgg16|dinov2_vitl14|clip_vitl14_336|digits_judge",
     "arch_kwargs": {},
     "classes": [..] | null,
     "input": {"range": [0, 255], "dtype": "float32", "channels": 3, "size": 299, "resize": "tf1" | null,
               "mean": [..], "std": [..], "quantize_uint8": true},
     "call": {"kwargs": {}}, "outputs": {"features": {"key": 0, "dim": 2048},
                                         "logits": {"key": 1, "dim": 1008, "unbiased": true} | null}}

Only `name`, `file` and, for state dicts, `arch` are needed. `classes` are the data set's labels behind the logits.
`heldout` is what `gantransfer judge` found its accuracy to be; nothing here reads it.
Found by name as `<name>.detector.json`, or beside a weights file W.pt given with --detector as `W.detector.json`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnnlib import json_file
from dnnlib.util import UserError
from gantransfer.detectors import resize
from gantransfer.detectors.input_path import InputSpec
from gantransfer.detectors.weights import MissingWeights, search_path, sha256_of

KINDS = ("state_dict", "torchscript", "export")
ARCHITECTURES = ("fid_inception_v3", "torchvision_inception_v3", "vgg16", "dinov2_vitl14", "clip_vitl14_336",
                 "digits_judge")
ARCHITECTURES_WITH_LOGITS = ("fid_inception_v3", "torchvision_inception_v3", "digits_judge")
NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9.-]*")


@dataclass(frozen=True)
class Descriptor:
    """A checked descriptor file."""

    name: str
    kind: str
    path: Path
    sha256: str
    arch: str
    arch_kwargs: dict[str, Any]
    input: InputSpec
    call_kwargs: dict[str, Any]
    feature_key: int | str | None
    dim: int | None
    logit_key: int | str | None
    has_logits: bool
    classes: tuple[int, ...] | None


def _take(obj: Any, where: str, **allowed: Any) -> dict[str, Any]:
    """`obj` over the defaults `allowed`; anything else is an error."""
    if not isinstance(obj, Mapping):
        raise UserError(f"{where}: expected a JSON object")
    unknown = [k for k in obj if k not in allowed]
    if unknown:
        raise UserError(f"{where}: unknown field '{unknown[0]}'; known are {', '.join(allowed)}")
    return {**allowed, **obj}


def _modest(value: Any) -> bool:
    """Whether a value may be an argument of a network: text, or a number that is no absurd width of a layer."""
    return value is None or isinstance(value, str) or isinstance(value, int | float) and abs(value) <= 2**16


def _input(obj: Any, path: Path) -> InputSpec:
    got = _take(obj, f"{path}: input", **InputSpec(size=None, resize=None).to_dict())
    if got["resize"] is not None and (not isinstance(got["resize"], str) or got["resize"] not in resize.RESIZERS):
        raise UserError(f"{path}: resize '{got['resize']}': expected null or one of {', '.join(resize.RESIZERS)}")
    if got["resize"] is None and isinstance(got["size"], list) and len(got["size"]) == 2:
        got["size"] = tuple(got["size"])  # images that are not square: height, width
    for key in ("size", "channels"):
        values = got[key] if isinstance(got[key], tuple) else (got[key],)
        if got[key] is not None and not all(type(v) is int and 0 < v <= 2**14 for v in values):
            raise UserError(f"{path}: input.{key} must be a whole number above 0, or null")
    if got["resize"] is not None and got["size"] is None:
        raise UserError(f"{path}: input.size is needed for resize '{got['resize']}'")
    if got["dtype"] != "float32" or got["quantize_uint8"] is not True:
        raise UserError(f"{path}: input.dtype must be float32 and input.quantize_uint8 true")
    for key in ("range", "mean", "std"):
        values = got[key] if isinstance(got[key], list) else [got[key]]
        if not (values and all(isinstance(v, int | float) and abs(v) < 2**53 for v in values)  # neither NaN nor inf
                and (key != "range" or len(values) == 2)):
            raise UserError(f"{path}: input.{key}: expected numbers")
        got[key] = tuple(float(v) for v in values)
    return InputSpec(**got)


def read_descriptor(path: str | Path, reserved: Collection[str] = ()) -> Descriptor:
    """Parse and check a descriptor; its name must not be in `reserved`. Anything unknown in it is a UserError."""
    path = Path(path)
    try:
        raw = json_file.read(path)
    except UserError as e:
        raise UserError(f"{path}: cannot be read as a detector descriptor: {e}") from None
    top = _take(raw, str(path), name=None, version=1, kind="state_dict", file=None, sha256="", arch="", arch_kwargs={},
                input={}, call={}, outputs={}, classes=None, heldout=None)
    if not isinstance(top["name"], str) or not NAME.fullmatch(top["name"]):
        raise UserError(f"{path}: 'name' must be letters, digits, '-' and '.', starting with a letter")
    if top["name"] in reserved:
        raise UserError(f"{path}: the name '{top['name']}' is reserved for published weights; choose another")
    if top["version"] != 1:
        raise UserError(f"{path}: descriptor version {top['version']} is not known here")
    if top["kind"] not in KINDS:
        raise UserError(f"{path}: kind '{top['kind']}': expected one of {', '.join(KINDS)}")
    if top["kind"] == "state_dict" and top["arch"] not in ARCHITECTURES:
        raise UserError(f"{path}: arch '{top['arch']}': expected one of {', '.join(ARCHITECTURES)}")
    if not isinstance(top["file"], str) or not isinstance(top["sha256"], str):
        raise UserError(f"{path}: 'file' must name the weights file and 'sha256' be text")
    call = _take(top["call"], f"{path}: call", kwargs={})
    for name, value in (("arch_kwargs", top["arch_kwargs"]), ("call.kwargs", call["kwargs"])):
        if not (isinstance(value, dict) and all(_modest(v) for k in value.values()
                                                for v in (k if isinstance(k, list) else [k]))):
            raise UserError(f"{path}: {name} must be an object of numbers, text and lists of them")
    if not (top["classes"] is None or isinstance(top["classes"], list)
            and all(type(c) is int and 0 <= c < 2**31 for c in top["classes"])):
        raise UserError(f"{path}: 'classes' must be a list of class numbers, or null")
    outputs = _take(top["outputs"], f"{path}: outputs", features={}, logits=None)
    features = _take(outputs["features"], f"{path}: outputs.features", key=0, dim=None)
    logits = _take(outputs["logits"] or {}, f"{path}: outputs.logits", key=1, dim=None, unbiased=True)
    for name, output in (("features", features), ("logits", logits)):
        if not (isinstance(output["key"], int | str | None) and isinstance(output["dim"], int | None)):
            raise UserError(f"{path}: outputs.{name}: 'key' must be a number or name, 'dim' a number or null")
    return Descriptor(
        name=top["name"], kind=top["kind"], path=path.parent / top["file"], sha256=top["sha256"].lower(),
        arch=top["arch"], arch_kwargs=dict(top["arch_kwargs"]), input=_input(top["input"], path),
        call_kwargs=dict(call["kwargs"]),
        feature_key=features["key"], dim=features["dim"], logit_key=logits["key"],
        has_logits=outputs["logits"] is not None or top["arch"] in ARCHITECTURES_WITH_LOGITS,
        classes=None if top["classes"] is None else tuple(top["classes"]))


def find_descriptor(name: str, overrides: Mapping[str, str | Path] | None = None,
                    reserved: Collection[str] = ()) -> Descriptor:
    """Descriptor of the detector `name`, its weights file present and of the stated hash.

    From `overrides[name]` (the descriptor, or the weights file with the descriptor beside it), else from the search
    path. Raises MissingWeights when there is none.
    """
    wanted = f"{name}.detector.json"
    if overrides and name in overrides:
        given = Path(overrides[name])
        beside = [given.with_suffix(".detector.json"), given.parent / wanted]
        path = given if given.suffix == ".json" else next((p for p in beside if p.is_file()), beside[0])
        if not path.is_file():
            raise UserError(f"--detector={name}={given}: no descriptor {path}; it says how the weights are to be used")
        found = read_descriptor(path, reserved)
        if found.name != name:
            raise UserError(f"{path} describes detector '{found.name}', not '{name}'")
        if given.suffix != ".json" and found.path.resolve() != given.resolve():
            raise UserError(f"{path} describes {found.path}, not {given}")
    else:
        folders = search_path()
        path = next((f / wanted for f in folders if (f / wanted).is_file()), None)
        if path is None:
            raise MissingWeights(name, [wanted], folders)
        found = read_descriptor(path, reserved)
    if not found.path.is_file():
        raise UserError(f"{path}: its weights file {found.path} does not exist")
    digest = sha256_of(found.path)
    if not digest.startswith(found.sha256):
        raise UserError(f"{found.path}: SHA-256 is {digest}, {path.name} says {found.sha256}; the file is damaged or "
                        "was replaced")
    return found
