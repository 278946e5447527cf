# SPDX-License-Identifier: Apache-2.0
"""Snapshots in the form that the ending of a file name says."""

from __future__ import annotations

import os

from dnnlib.util import UserError
from gantransfer.exporters import onnx, weights
from gantransfer.snapshot import Snapshot

ENDINGS = (".pkl", ".safetensors", ".pt", ".onnx")


def write(snap: Snapshot, dest: str, net: str, trunc: float, opset: int) -> None:
    """Write `snap` in the form that the ending of `dest` names. Raises UserError for another ending."""
    ending = os.path.splitext(dest)[1].lower()
    if ending == ".pkl":
        snap.save(dest)
    elif ending == ".safetensors":
        weights.save_safetensors(snap, dest)
    elif ending == ".pt":
        weights.save_state(snap, net, dest)
    elif ending == ".onnx":
        onnx.export_onnx(snap, dest, net=net, trunc=trunc, opset=opset)
    else:
        raise UserError(f"DEST={dest} should end in {', '.join(ENDINGS)}")
