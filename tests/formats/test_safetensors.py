# SPDX-License-Identifier: Apache-2.0
"""safetensors files: those of the library, and damaged ones. A round trip: tests/commands/test_convert.py."""

import pytest
import torch

from dnnlib.util import UserError
from gantransfer.formats import safetensors
from gantransfer.formats.inert_pickle import Refused
from gantransfer.importers import load_any


def test_safetensors_agree_with_the_library(tmp_path):
    library = pytest.importorskip("safetensors.torch", reason="needs safetensors (extra `export`)")
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(5), "half": torch.ones(2).half(),
               "bf": torch.ones(3).bfloat16(), "scalar": torch.tensor(2.5),
               "empty": torch.zeros(0, 3), "flags": torch.tensor([True, False]),
               "t": torch.arange(6.0).reshape(2, 3).t()}
    safetensors.write(tmp_path / "ours.safetensors", tensors, {"k": "v"})
    theirs = library.load_file(tmp_path / "ours.safetensors")
    library.save_file({k: t.contiguous() for k, t in tensors.items()}, tmp_path / "theirs.safetensors", {"k": "v"})
    ours, metadata = safetensors.read(tmp_path / "theirs.safetensors")
    assert metadata == {"k": "v"}
    for k, t in tensors.items():
        assert torch.equal(theirs[k], t) and torch.equal(ours[k], t) and ours[k].dtype == t.dtype, k


def test_safetensors_without_description_or_damaged(tmp_path):
    safetensors.write(tmp_path / "x.safetensors", {"a": torch.zeros(2)}, {})
    with pytest.raises(UserError, match="without a description"):
        load_any(tmp_path / "x.safetensors")
    data = (tmp_path / "x.safetensors").read_bytes()
    for broken in (data[:-1], data + b"x", data.replace(b"[0,8]", b"[4,8]"), data.replace(b"F32", b"Q32")):
        (tmp_path / "y.safetensors").write_bytes(broken)
        with pytest.raises(Refused):
            safetensors.read(tmp_path / "y.safetensors")
