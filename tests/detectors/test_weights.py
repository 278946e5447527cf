# SPDX-License-Identifier: Apache-2.0
"""Finding, checking and fetching files of weights."""

import hashlib

import pytest
import torch

from dnnlib.util import UserError
from gantransfer.detectors import features, weights
from gantransfer.detectors.features import RESERVED
from tests.chaos.corpus import Call


def test_search_path_order(empty_home, monkeypatch, tmp_path):
    monkeypatch.setenv("GANTRANSFER_DETECTORS", f"{tmp_path / 'a'}:{tmp_path / 'b'}")
    monkeypatch.setenv("DNNLIB_CACHE_DIR", str(tmp_path / "dnn"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    path = weights.search_path()
    assert path[:2] == [tmp_path / "a", tmp_path / "b"]
    assert tmp_path / "dnn" / "downloads" in path and tmp_path / "torch" / "hub" / "checkpoints" in path


@pytest.mark.parametrize("place", ["env", "cache", "torch hub", "dnnlib", "temporary"])
def test_published_file_is_found(empty_home, monkeypatch, tmp_path, no_network, place):
    file = RESERVED["inception"].files[1 if place in ("dnnlib", "temporary") else 0]
    folder, name = {
        "env": (tmp_path / "mine", file.names[0]),
        "cache": (empty_home / "cache" / "downloads", hashlib.md5(file.url.encode()).hexdigest() + "_" + file.names[0]),
        "torch hub": (empty_home / ".cache/torch/hub/checkpoints", file.names[1]),
        "dnnlib": (empty_home / ".cache/dnnlib/downloads", "a866f8d678872dcf6fcf60ddd09807ab_inception-2015-12-05.pt"),
        "temporary": (empty_home / "tmp", "inception-2015-12-05.pt"),
    }[place]
    monkeypatch.setenv("GANTRANSFER_DETECTORS", str(tmp_path / "mine"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"stand-in")
    monkeypatch.setattr(weights, "sha256_of", lambda path: "6726825d" + "0" * 56)
    assert features.find_reserved("inception") == folder / name


def test_wrong_hash_of_a_reserved_name(empty_home, monkeypatch, tmp_path):
    monkeypatch.setenv("GANTRANSFER_DETECTORS", str(tmp_path))
    bad = tmp_path / "weights-inception-2015-12-05-6726825d.pth"
    bad.write_bytes(b"half a download")
    digest = hashlib.sha256(b"half a download").hexdigest()[:8]
    for overrides in ({}, {"inception": bad}):
        with pytest.raises(UserError, match=f"begins {digest}, the published weights' with 6726825d.*delete it"):
            features.find_reserved("inception", overrides)


def test_missing_weights_say_what_to_do(empty_home, no_network):
    with pytest.raises(features.MissingWeights) as e:
        features.load("inception")
    text = e.value.describe("fid50k_full")
    assert "\n" not in text
    for part in ("'fid50k_full'", "weights-inception-2015-12-05-6726825d.pth", str(empty_home / "cache" / "detectors"),
                 "--detector=inception=FILE", "GANTRANSFER_DETECTORS", "calc_metrics --fetch-detector=inception",
                 "https://github.com/toshas", "--metrics=none", "smoke"):
        assert part in text, part


def test_fetch_checks_the_hash(empty_home, monkeypatch, tmp_path):
    source = tmp_path / "weights.pth"
    source.write_bytes(b"good")
    digest = hashlib.sha256(b"good").hexdigest()
    file = weights.WeightsFile(("w.pth",), source.as_uri(), digest[:8])
    assert weights.download(file).read_bytes() == b"good"
    with pytest.raises(UserError, match="expected 00000000; try again"):
        weights.download(weights.WeightsFile(("w.pth",), source.as_uri(), "00000000"))
    assert not list((empty_home / "cache" / "downloads").glob("*weights.pth")), "a wrong download must not stay"
    with pytest.raises(UserError, match="--fetch-detector=nonsense: expected one of inception"):
        features.fetch("nonsense")


@pytest.mark.parametrize("content", [b"", b"not a file of tensors", b"PK\x03\x04 broken"])
def test_unreadable_weights(tmp_path, content):
    path = tmp_path / "broken.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as weights.*delete it and fetch it again"):
        weights.read_state(path)


def test_weights_with_code_are_not_run(tmp_path):
    torch.save({"a": Call(open, str(tmp_path / "ran"), "w")}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="cannot be read"):
        weights.read_state(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()
