# SPDX-License-Identifier: Apache-2.0
"""Image sizes that networks do not take are refused before anything is written, with the command that mends it."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

from dnnlib.util import UserError, run_cli
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


@pytest.fixture
def run(monkeypatch, capsys):
    def call(command, *args):
        monkeypatch.setattr(sys, "argv", ["x", *map(str, args)])
        with pytest.raises(SystemExit) as e:
            run_cli(command)
            raise SystemExit(0)
        return e.value.code or 0, capsys.readouterr().err
    return call


def test_the_nearest_size():
    assert [resolution.nearest(n) for n in (1, 3, 4, 5, 6, 28, 40, 46, 96, 200, 1000)] == [
        4, 4, 4, 4, 8, 32, 32, 64, 128, 256, 1024]
    assert [n for n in range(70) if resolution.fits(n)] == [4, 8, 16, 32, 64] and not resolution.fits(4, 8)
    with pytest.raises(UserError, match="x has 100x100 images; BigGAN has networks for 16, 32, 64, 128: .*x128"):
        resolution.require_one_of(100, "x", (128, 16, 64, 32), "BigGAN")


def test_every_method_refuses_sizes_at_the_dry_run(tmp_path, run):
    from gantransfer.commands import train
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
                code, err = run(train.main, *args, *more)
                assert code == 2 and len(err.splitlines()) == 1, (name, size, err)
                want = {2: 4, 28: 32}.get(size, 16 if name in ("biggan", "cgantransfer", "minegan", "ccgan") else 8)
                assert re.search(rf"{data} has {size}x{size} images; .*dataset_tool.py --resolution={want}x{want}", err
                                 ), (name, size, err)
    assert not (tmp_path / "runs").exists()


def test_judge_and_distillation_refuse_sizes(tmp_path, run):
    from gantransfer.commands import distill, judge

    data = image_folder(tmp_path / "s28", 28)
    out = tmp_path / "out"
    for command, args in ((judge.main, [f"--out={out}/j.pt"]),
                          (distill.main, ["teacher", f"--outdir={out}"]),
                          (distill.main, ["student", f"--outdir={out}", "--dry-run"]),
                          (distill.main, ["fakes", f"--dest={out}/f.zip", "--network=none.pkl", "--num-per-label=2"])):
        at = [args[0]] if command is distill.main else []
        code, err = run(command, *at, f"--data={data}", *args[len(at):])
        assert code == 2 and len(err.splitlines()) == 1, err
        assert f"{data} has 28x28 images" in err and "--resolution=32x32" in err
    assert not out.exists()
