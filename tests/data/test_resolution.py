# SPDX-License-Identifier: Apache-2.0
"""Image sizes that networks do not take are refused before anything is written, with the command that mends it."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from dnnlib.util import UserError
from gantransfer.data import resolution
from gantransfer.networks.sizes import ImageSize


def image_folder(path, size, value=False):
    path.mkdir()
    size = ImageSize.of(size)
    rng = np.random.RandomState(size.pixels)
    rows = []
    for k in range(4):
        Image.fromarray(rng.randint(0, 256, (*size, 3)).astype(np.uint8)).save(path / f"{k}.png")
        rows.append([f"{k}.png", [float(k)] if value else k % 2])
    (path / "dataset.json").write_text(json.dumps({"labels": rows}))
    return path


# What a method takes besides squares whose side is a power of two.
SQUARE = ("biggan", "cgantransfer", "minegan", "ccgan", "alae")
OWN_SIZES = ("biggan", "cgantransfer", "minegan", "ccgan")


def test_which_sizes_fit():
    assert [n for n in range(70) if resolution.fits(n, 8)] == [
        8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64] and resolution.fits(4) and not resolution.fits(2)
    assert resolution.fits((48, 32)) and not resolution.fits((32, 64)) and not resolution.fits((48, 33))
    with pytest.raises(UserError, match="x has 200x200 images; .*=192x192 or --resolution=224x224$"):
        resolution.require(200, "x")
    with pytest.raises(UserError, match="x has 100x100 images; BigGAN takes square ones of 16, 32, 64, 128 pix.*x128"):
        resolution.require_square(100, "x", "BigGAN", (128, 16, 64, 32))
    for size, to in ((28, 32), ((48, 32), 64), (4, 8), (96, 128), ((8, 64), 64)):
        with pytest.raises(UserError, match=f"side is a power of two from 8 on: .*--resolution={to}x{to}$"):
            resolution.require_square(size, "x", "ALAE")
    for size in (8, 64, 1024):
        resolution.require_square(size, "x", "ALAE")


def test_every_method_refuses_sizes_at_the_dry_run(tmp_path, call):
    from gantransfer.methods import TRAIN

    sizes = {2: "2x2", 4: "4x4", 28: "28x28", 22: "22x22", (12, 8): "8x12", (8, 16): "16x8"}
    sets = {(n, v): image_folder(tmp_path / f"{'v' * v}s{k}", n, v) for k, n in enumerate(sizes) for v in (False, True)}
    wants = {2: "4x4", 4: "8x8", 22: "24x24", 28: "32x32", (12, 8): "16x16", (8, 16): "14x8"}
    for name in TRAIN:
        for size, said in sizes.items():
            if size in (28, (12, 8)) and name not in SQUARE:
                continue
            data = sets[size, name == "ccgan"]
            args = [f"--outdir={tmp_path / 'runs'}", f"--data={data}", f"--method={name}", "--metrics=none",
                    f"--cond={name not in ('alae', 'encoder', 'mind2mind', 'mind_tune')}"]
            if size == 4 and name in ("encoder", "mind2mind", "mind_tune"):
                continue  # their size is the source's
            for more in (["--dry-run"], []):
                err = call("train", *args, *more, check=2).stderr
                assert len(err.splitlines()) == 1, (name, size, err)
                want = "16x16" if size == 4 and name in OWN_SIZES else wants[size]
                assert said in err and re.search(rf"dataset_tool.py .*--resolution={want}", err), (name, size, err)
    assert not (tmp_path / "runs").exists()


def test_a_base_of_its_own_says_what_it_takes(tmp_path, call):
    data = image_folder(tmp_path / "s28", 28)
    err = call("train", f"--outdir={tmp_path / 'runs'}", f"--data={data}", "--cond=True", "--method=hypermod",
               "--base=stylegan1", "--dry-run", check=2).stderr
    assert len(err.splitlines()) == 1 and "--base=stylegan1 takes square" in err and "--resolution=32x32" in err


def test_distillation_refuses_sizes(tmp_path, call):
    data = image_folder(tmp_path / "s22", 22)
    out = tmp_path / "out"
    for words in (["distill", "teacher", f"--outdir={out}"],
                  ["distill", "student", f"--outdir={out}", "--dry-run"],
                  ["distill", "fakes", f"--dest={out}/f.zip", "--network=none.pkl", "--num-per-label=2"]):
        err = call(*words, f"--data={data}", check=2).stderr
        assert len(err.splitlines()) == 1, err
        assert f"{data} has 22x22 images" in err and "--resolution=24x24 or --resolution=20x20" in err
    assert not out.exists()
