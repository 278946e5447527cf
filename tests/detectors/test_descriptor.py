# SPDX-License-Identifier: Apache-2.0
"""Descriptions of own detectors."""

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from gantransfer.detectors import features
from gantransfer.detectors.descriptor import read_descriptor
from tests.detectors.test_features import write_judge

images = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (3, 3, 20, 20)).astype(np.uint8))


@pytest.mark.parametrize("changes,message", [
    (dict(extra=1), "unknown field 'extra'"),
    (dict(input=dict(colour=3)), "input: unknown field 'colour'"),
    (dict(input=dict(resize="lanczos", size=3)), "resize 'lanczos': expected null or one of tf1"),
    (dict(input=dict(resize="tf1", size=None)), "input.size is needed"),
    (dict(input=dict(mean=["a"])), "input.mean: expected numbers"),
    (dict(input=dict(quantize_uint8=False)), "quantize_uint8"),
    (dict(kind="pickle"), "kind 'pickle'"),
    (dict(arch="resnet"), "arch 'resnet'"),
    (dict(version=2), "version 2"),
    (dict(name="inception"), "reserved for published weights"),
    (dict(name="a_b"), "'name' must be letters"),
    (dict(file=None), "'file' must name"),
    (dict(outputs=dict(features=dict(index=0))), "outputs.features: unknown field 'index'"),
    (dict(call=dict(arguments={})), "call: unknown field 'arguments'"),
    (dict(outputs=[]), "outputs: expected a JSON object"),
])
def test_bad_descriptors(tmp_path, changes, message):
    path = write_judge(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        read_descriptor(path, features.reserved_names())


def test_descriptor_and_file_must_agree(tmp_path):
    with pytest.raises(UserError, match="SHA-256"):
        features.load("mine", overrides={"mine": write_judge(tmp_path, sha256="0" * 64)})
    with pytest.raises(UserError, match="does not exist"):
        features.load("mine", overrides={"mine": write_judge(tmp_path, file="gone.pt")})
    path = write_judge(tmp_path, outputs=dict(features=dict(key=0, dim=31)))
    with pytest.raises(UserError, match="gave 32 features, its descriptor says 31"):
        features.load("mine", overrides={"mine": path})(images[:, :1, :16, :16])
    with pytest.raises(UserError, match="arch_kwargs"):
        features.load("mine", overrides={"mine": write_judge(tmp_path, arch_kwargs=dict(size=3))})
    path.write_text("{")
    with pytest.raises(UserError, match="cannot be read as a detector descriptor"):
        features.load("mine", overrides={"mine": path})
