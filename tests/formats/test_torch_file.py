# SPDX-License-Identifier: Apache-2.0
"""Storages in torch's files that cannot be."""

import zipfile

import pytest
import torch

from gantransfer.formats import inert_pickle, torch_file


def test_absurd_storages_of_torch_files(tmp_path):
    """Records that are missing, short, doubled, or of another type than the pickle says."""
    torch.save(dict(a=torch.arange(8.0)), tmp_path / "good.pth")
    with zipfile.ZipFile(tmp_path / "good.pth") as z:
        records = {i.filename: z.read(i) for i in z.infolist()}
    key = next(k for k in records if k.endswith("/data/0"))

    def changed(change):
        with zipfile.ZipFile(tmp_path / "bad.pth", "w", zipfile.ZIP_STORED) as z:
            for name, data in change(dict(records)).items():
                z.writestr(name, data)
        with pytest.raises(inert_pickle.Refused) as e:
            torch_file.load(tmp_path / "bad.pth")
        return str(e.value)

    assert "missing" in changed(lambda r: {k: v for k, v in r.items() if k != key})
    assert "length" in changed(lambda r: {**r, key: r[key][:-4]})
    assert "length" in changed(lambda r: {**r, key: r[key] * 2})
    assert "big-endian" in changed(lambda r: {**r, key.replace("data/0", "byteorder"): b"big"})
    assert "TorchScript" in changed(lambda r: {**r, key.replace("data/0", "constants.pkl"): b""})
    assert "not one of torch.save" in changed(lambda r: {"../../evil/readme": b"x"})
    assert "not one of torch.save" in changed(lambda r: {**r, "../data.pkl": b"x"})
    assert "missing" in changed(lambda r: {k: v.replace(b"X\x01\x00\x00\x000", b"X\x04\x00\x00\x00../x")
                                           for k, v in r.items()})
    assert not (tmp_path.parent / "evil").exists() and not (tmp_path.parent / "x").exists()
