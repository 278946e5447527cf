# SPDX-License-Identifier: Apache-2.0
"""Fakes beside their nearest training images."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from dnnlib.util import UserError
from gantransfer import model
from gantransfer.data.dataset import ImageDataset
from gantransfer.report import read, tail


def test_a_generator_that_copies_is_shown_with_its_source(planted, monkeypatch):
    run = read.read(planted)
    data = ImageDataset(run.data.path, use_labels=True)
    real = model.Model.sampler

    def copying(self, device="cpu"):
        """Gives training image `seed` of the label's class, changed by one grey level."""
        sampler = real(self, device)

        def images(seeds, c, **kw):
            rows = [np.flatnonzero(data.class_ids == int(k))[s % 2] for s, k in zip(seeds, c.argmax(1))]
            return torch.from_numpy(data.images_uint8(np.array(rows)) + np.uint8(1))

        return Made(images, sampler.spec)

    monkeypatch.setattr(model.Model, "sampler", copying)
    found = tail.look(run, 8)
    assert found.snapshot == "network-snapshot-000002.pkl", "the best one"
    assert found.ruler == "pixel16" and any("--detector" in n for n in found.notes)
    assert found.classes[0].title == "plain" and found.classes[0].train == 2
    for copies in found.classes:
        assert max(copies.distances) == pytest.approx(np.sqrt(16 * 16) / 255, rel=1e-4)
        sheet = np.asarray(Image.open(io.BytesIO(copies.picture)).convert("L")).astype(int)
        zoom, gap = 4, 2
        above, below = sheet[: 16 * zoom, : 16 * zoom], sheet[16 * zoom + gap : 32 * zoom + gap, : 16 * zoom]
        assert (above - below == 1).all(), "the very image, one grey level away"


class Made:
    """A sampler of images that are made elsewhere."""

    def __init__(self, images, spec):
        self.images, self.spec = images, spec

    def __call__(self, seeds, c=None, **kw):
        return self.images(seeds, c)


def test_a_run_folder_names_no_program_to_run(planted, tmp_path):
    """A run may come from anywhere: only who reads it may name a network that is a program."""
    class Evil(torch.nn.Module):
        def forward(self, x):
            return x.float().flatten(1)

    torch.jit.script(Evil()).save(tmp_path / "evil.pt")
    detector = tmp_path / "evil.detector.json"
    detector.write_text(json.dumps(dict(name="evil", kind="torchscript", file="evil.pt",
                                        outputs=dict(features=dict(key=0, dim=768)))))
    env = json.loads((planted / "environment.json").read_text())
    env["command"].append(f"--detector=evil={detector}")
    (planted / "environment.json").write_text(json.dumps(env))
    lines = [dict(json.loads(line), detector=dict(name="evil"))
             for line in (planted / "metric-report_pix.jsonl").read_text().splitlines()[:1]]
    (planted / "metric-report_pix.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    found = tail.look(read.read(planted), 2)
    assert found.ruler == "pixel16" and any("evil, which is a program: name it if you trust it" in n
                                            for n in found.notes)
    assert tail.look(read.read(planted), 2, detectors={"evil": detector}).ruler == "evil"


def test_what_is_not_at_hand_is_said(planted):
    moved = read.read(planted)
    moved.data = moved.data.__class__(**{**vars(moved.data), "path": "gone.zip"})
    with pytest.raises(UserError, match="the training images are not here .gone.zip.; name them with --data"):
        tail.look(moved, 4)
    env = json.loads((planted / "environment.json").read_text())
    (planted / "environment.json").write_text(json.dumps({**env, "data_fingerprint": "other"}))
    assert any("holds other images now" in n for n in tail.look(read.read(planted), 4).notes)
    for path in moved.snapshots:
        path.unlink()
    with pytest.raises(UserError, match="there is no snapshot"):
        tail.look(read.read(planted), 4)


def test_a_name_from_right_to_left_leaves_the_numbers_where_they_are():
    """<bdi> keeps its text apart from the order of what is around it."""
    copies = tail.Copies("\u0639\u0631\u0628 <b>", 4, 0.5, b"", [8.0, 9.0])
    page = tail.block(tail.Tail("x.pkl", "pixel16", 24, [copies]))
    assert "<bdi>\u0639\u0631\u0628 &lt;b&gt;</bdi>: 4 training images, ratio 0.5, distances 8 to 9" in page
