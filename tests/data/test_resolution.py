# SPDX-License-Identifier: Apache-2.0
"""Image sizes that networks do not take are refused before anything is written, with the command that mends it."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from dnnlib.util import UserError
from gantransfer.data import resolution


def image_folder(path, size, value=False):
    path.mkdir()
    rng = np.random.RandomState(size)
    rows = []
    for k in range(4):
        Image.fromarray(rng.randint(0, 256, (size, size, 3)).astype(np.uint8)).save(path / f"{k}.png")
        rows.append([f"{k}.png", [float(k)] if value else k % 2])
    (path / "dataset.json").write_text(json.dumps({"labels": rows}))
    return path


def test_the_nearest_size():
    assert [resolution.nearest(n) for n in (1, 3, 4, 5, 6, 28, 40, 46, 96, 200, 1000)] == [
        4, 4, 4, 4, 8, 32, 32, 64, 128, 256, 1024]
    assert [n for n in range(70) if resolution.fits(n)] == [4, 8, 16, 32, 64] and not resolution.fits(4, 8)
    with pytest.raises(UserError, match="x has 100x100 images; BigGAN has networks for 16, 32, 64, 128: .*x128"):
        resolution.require_one_of(100, "x", (128, 16, 64, 32), "BigGAN")


def test_every_method_refuses_sizes_at_the_dry_run(tmp_path, call):
    from gantransfer.methods import METHODS

    sets = {(n, v): image_folder(tmp_path / f"{'v' * v}s{n}", n, v) for n in (2, 4, 28) for v in (False, True)}
    for name in METHODS:
        for size in (2, 4, 28):
            data = sets[size, name == "ccgan"]
            args = [f"--outdir={tmp_path / 'runs'}", f"--data={data}", f"--method={name}", "--metrics=none",
                    f"--cond={name not in ('alae', 'encoder', 'mind2mind', 'mind_tune')}"]
            if size == 4 and name in ("encoder", "mind2mind", "mind_tune"):
                continue  # their size is the source's
            for more in (["--dry-run"], []):
                err = call("train", *args, *more, check=2).stderr
                assert len(err.splitlines()) == 1, (name, size, err)
                want = {2: 4, 28: 32}.get(size, 16 if name in ("biggan", "cgantransfer", "minegan", "ccgan") else 8)
                assert re.search(rf"{data} has {size}x{size} images; .*dataset_tool.py --resolution={want}x{want}", err
                                 ), (name, size, err)
    assert not (tmp_path / "runs").exists()


def test_judge_and_distillation_refuse_sizes(tmp_path, call):
    data = image_folder(tmp_path / "s28", 28)
    out = tmp_path / "out"
    for words in (["judge", f"--out={out}/j.pt"], ["distill", "teacher", f"--outdir={out}"],
                  ["distill", "student", f"--outdir={out}", "--dry-run"],
                  ["distill", "fakes", f"--dest={out}/f.zip", "--network=none.pkl", "--num-per-label=2"]):
        err = call(*words, f"--data={data}", check=2).stderr
        assert len(err.splitlines()) == 1, err
        assert f"{data} has 28x28 images" in err and "--resolution=32x32" in err
    assert not out.exists()
