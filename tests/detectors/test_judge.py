# SPDX-License-Identifier: Apache-2.0
"""A judge of the user's own."""

import pytest
import torch

from dnnlib.util import UserError
from gantransfer.detectors import features
from tests.detectors.test_features import images, write_judge


def test_own_detector_by_folder_and_by_flag(tmp_path, monkeypatch, empty_home):
    path = write_judge(tmp_path)
    x = images[:, :1, :16, :16]
    monkeypatch.setenv("GANTRANSFER_DETECTORS", str(tmp_path))
    by_folder = features.load("mine")(x).features
    monkeypatch.delenv("GANTRANSFER_DETECTORS")
    for overrides in ({"mine": path}, {"mine": tmp_path / "net.pt"}, features.parse_overrides([str(path)])):
        assert torch.equal(features.load("mine", overrides=overrides)(x).features, by_folder)
    (tmp_path / "mine.detector.json").rename(tmp_path / "net.detector.json")
    assert features.parse_overrides([str(tmp_path / "net.pt")]) == {"mine": tmp_path / "net.pt"}
    assert torch.equal(features.load("mine", overrides={"mine": tmp_path / "net.pt"})(x).features, by_folder)


def test_detector_flags(tmp_path):
    path = write_judge(tmp_path)
    assert features.parse_overrides([f"other={path}"]) == {"other": path}
    for item, message in ((f"{tmp_path / 'net.pt'}", "say which detector"), ("x=/nowhere", "no such file: /nowhere")):
        with pytest.raises(UserError, match=message):
            features.parse_overrides([item])
    assert features.normalise_overrides({"": str(path)}) == {"mine": path}
