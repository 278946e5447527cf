# SPDX-License-Identifier: Apache-2.0
"""A run folder planted line by line, so that every value that a report should show is known."""

import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from gantransfer.data.dataset import ImageDataset
from gantransfer.data.labels import DataSpec
from gantransfer.method import RunConfig
from gantransfer.methods.stylegan2 import StyleGAN2
from gantransfer.networks.stylegan2 import Generator
from gantransfer.snapshot import NetRecord, Snapshot
from tests.conftest import write_image_zip

NAMES = ("a<b>&\"c\"", "кошка", "猫 |x|", "plain")
COUNTS = (16, 8, 4, 2)
FD = {0: 90.0, 2: 41.26, 4: 55.0}  # kimg -> class_fd: the best is neither the first nor the last
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Page(HTMLParser):
    """Checks that tags are balanced; keeps the texts, and the tables as rows of texts."""

    def __init__(self, source: str):
        super().__init__()
        self.open, self.texts, self.tables, self.attributes = [], [], [], []
        self.feed(source)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, k, v) for k, v in attrs]
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, k, v) for k, v in attrs]

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        self.texts.append(data)
        if self.open and ("td" in self.open or "th" in self.open):
            self.tables[-1][-1][-1] += data

    def table(self, corner: str) -> list[list[str]]:
        [found] = [t for t in self.tables if t[0][0] == corner]
        return found


def stat(mean, num=4, std=0.0):
    return {"num": num, "mean": mean, "std": std}


def tick(i: int, loss: float | None) -> str:
    kimg = float(i)
    return json.dumps({
        "Loss/G/loss": stat(loss, std=None if loss is None else 0.1), "Loss/scores/real": stat(0.5),
        "Loss/scores/fake": stat(-0.5), "Grad/nonfinite/Gmain": stat(0.5 if i == 3 else 0.0),
        "Grad/nonfinite/Dmain": stat(0.0), "Progress/tick": stat(i), "Progress/kimg": stat(kimg),
        "Progress/augment": stat(i / 10), "Timing/total_sec": stat(20.0 * i), "Timing/sec_per_tick": stat(20.0),
        "Timing/sec_per_kimg": stat(20.0), "Timing/Gmain": stat(5000.0), "Resources/cpu_mem_gb": stat(1.25),
        "Resources/peak_gpu_mem_gb": stat(0.0), "timestamp": 1.0})


def measured(kimg: int, value: float) -> str:
    name = "report_pix"
    results = {f"{name}_class_fd": value, f"{name}_class_fd_many": value / 2, f"{name}_class_fd_medium": value,
               f"{name}_class_fd_few": value * 2, f"{name}_accuracy": 0.123456}
    return json.dumps(dict(results=results, metric=name, snapshot_pkl=f"network-snapshot-{kimg:06d}.pkl", kimg=kimg,
                           seed=0, num_real=20, num_gen=80, per_class=dict(
                               ids=[0, 1, 2, 3], fd=[1.5, 22.222, 333.33, 4444.4], n_gen=[20] * 4,
                               nearest=[1.0, 0.9, None, 0.1])))


@pytest.fixture(scope="session")
def planted_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted") / "00007-planted"
    folder.mkdir()
    rng, ids = np.random.RandomState(0), np.repeat(np.arange(4), COUNTS)
    images = [rng.randint(0, 256, (16, 16), np.uint8) // 4 + np.uint8(48 * k) for k in ids]
    data = write_image_zip(folder.parent / "set.zip", images, ids.tolist(), class_names=list(NAMES))
    dataset = ImageDataset(data, use_labels=True)
    run = RunConfig(kimg=8, batch=8, tick=1, snap=2, seed=3)
    opts = StyleGAN2.Options(cfg="tiny", gamma=0.75)
    StyleGAN2.resolve(opts, run, dataset.spec)
    (folder / "training_options.json").write_text(json.dumps(dict(
        num_gpus=1, random_seed=3, total_kimg=8, batch_size=8, batch_gpu=8, kimg_per_tick=run.tick,
        network_snapshot_ticks=run.snap, sampling="empirical", sampling_labels="empirical", metrics=["report_pix"],
        training_set_kwargs=dict(path=str(data), use_labels=True, xflip=False, resolution=16, max_size=30),
        method="stylegan2", stage="main", options=opts.to_dict(), run_dir=str(folder))))
    (folder / "environment.json").write_text(json.dumps(dict(
        gantransfer="0.2.0", torch="2.13.0", platform="Linux <x>", gpus=[], command=["train.py", "--gamma=0.75"],
        data_fingerprint=dataset.fingerprint())))
    ticks = [tick(i, None if i == 2 else 1.5 + i) for i in range(6)]
    (folder / "stats.jsonl").write_text("\n".join(ticks) + '\n{"Loss/G/loss": {"num": 4, "me')
    (folder / "metric-report_pix.jsonl").write_text(
        "\n".join(measured(k, v) for k, v in FD.items()) + '\n{"results": {"report_pix_class_fd": 1')
    spec = DataSpec.from_dict({**dataset.spec.to_dict()})
    for k in FD:
        torch.manual_seed(k)
        G = Generator(z_dim=8, c_dim=4, w_dim=8, img_resolution=16, img_channels=1,
                      synthesis_kwargs=dict(channel_base=64, channel_max=8))
        Snapshot("stylegan2", {"G_ema": NetRecord.of(G)}, data=spec.to_dict(), cur_nimg=1000 * k,
                 options=opts.to_dict()).save(folder / f"network-snapshot-{k:06d}.pkl")
        Image.new("L", (64, 64), 20 * k).save(folder / f"fakes{k:06d}.png")
    Image.new("L", (64, 64), 255).save(folder / "reals.png")
    Image.new("L", (64, 64), 7).save(folder / "fakes_init.png")
    return folder


@pytest.fixture
def planted(planted_once, tmp_path):
    """A copy, to change; its data set stays where it is."""
    shutil.copytree(planted_once, tmp_path / "00007-planted")
    return tmp_path / "00007-planted"
