# SPDX-License-Identifier: Apache-2.0
"""A run that was stopped between two ticks and continued records what the uninterrupted one does, in every method."""

import json
import os
import re
import signal

import pytest
import torch

from gantransfer import snapshot, training_loop
from tests import split_batch
from tests.conftest import write_blobs
from tests.methods.test_hypermod import v1_source

# Beside those of split_batch. Of hypermod's alignment and CcGAN's label code, 40 images are in the middle.
CASES = split_batch.CASES | {
    "cgantransfer FT": ("cgantransfer", "FT", False, "cgantransfer", dict(
        split_batch.BIG, diffaug="none", aug="ada", augpipe="blit", ada_kimg=0.1)),
    "hypermod ada": ("hypermod", None, False, "plain", dict(
        cfg="tiny", diffaug="none", contrastive=True, aug="ada", target=0.5, ada_kimg=0.05)),
    "hypermod align": ("hypermod", None, False, "plain", dict(
        cfg="tiny", diffaug="none", hyper_init="random", align_kimg=0.056)),
    "hypermod onehot": ("hypermod", None, False, "plain", dict(
        cfg="tiny", diffaug="none", class_vectors="onehot", d_head="projection", finetune=True)),
    "hypermod v1 align": ("hypermod", None, False, "v1", dict(
        cfg="tiny", diffaug="none", base="stylegan1", hyper_init="random", align_kimg=0.056)),
    "hypermod v1 wgan": ("hypermod", None, False, "v1", dict(
        cfg="tiny", diffaug="none", base="stylegan1", gan_loss="wgan-gp")),
    "alae grows": ("alae", None, False, None, dict(cfg="tiny", level_kimg=0.016)),
    "mind2mind r1": ("mind2mind", None, False, "encoder", dict(
        accept_encoder=True, mind_loss="nonsat-r1", normalize="scalar", offset_decay=0.1)),
    "mind2mind paper": ("mind2mind", None, False, "encoder", dict(
        accept_encoder=True, mind_preset="paper", latent_aug="none", hidden_g="16", hidden_d="16")),
    "ccgan within the code": ("ccgan", None, True, None, dict(cfg="tiny", standing=1, embed_kimg=0.048)),
}
RUN = dict(kimg=0.064, tick=0.024, snap=1)  # 8 steps; ticks end after the steps 1, 3, 6, 8
TIMES = re.compile(r"Timing/|Resources/|seconds|timestamp")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("continued")
    write_blobs(folder, 20)
    v1_source().save(folder / "source-v1.pkl")
    return folder


def train(folder, name, run_dir, stop_after=None, state=None):
    m, dataset, run = split_batch.made(folder, CASES[name], 1, state=state, **RUN)
    torch.manual_seed(0 if state is None else 123)  # global generators must not matter
    honest = m.end_step

    def end_step(cur_nimg, batch_size):
        honest(cur_nimg, batch_size)
        if stop_after is not None and cur_nimg + batch_size == stop_after * split_batch.BATCH:
            os.kill(os.getpid(), signal.SIGTERM)

    def evaluate(method, cur_nimg, path):
        values = method.evaluate(cur_nimg)
        with open(run_dir / "metric-own.jsonl", "a") as f:
            f.write(json.dumps(dict(results=values, kimg=cur_nimg / 1000)) + "\n")
        return values

    m.end_step = end_step
    out = training_loop.Outputs(run_dir, images=False, network_ticks=1, evaluate=evaluate)
    return training_loop.run(m, dataset, run, out, state), m


def flat(value, name=""):
    """(name, leaf) of nested records; times are left out."""
    if TIMES.search(name):
        return
    if isinstance(value, dict):
        for k, v in value.items():
            yield from flat(v, f"{name}.{k}")
    elif isinstance(value, list | tuple):
        yield f"{name} length", len(value)
        for i, v in enumerate(value):
            yield from flat(v, f"{name}[{i}]")
    else:
        yield name, value


def recorded(run_dir, m):
    """Everything that a run leaves, in its folder and in the method, but times."""
    found = dict(flat(m.state(), "state"))
    for path in snapshot.find_snapshots(run_dir):
        snap = snapshot.load(path)
        fields = {k: v for k, v in vars(snap).items() if k != "nets"}
        fields["nets"] = {k: dict(cls=r.cls, kwargs=r.kwargs, state=r.state) for k, r in snap.nets.items()}
        found |= dict(flat(fields, path.name))
    for path in run_dir.glob("*.jsonl"):
        found |= dict(flat([json.loads(line) for line in path.read_text().splitlines()], path.name))
    return found


@pytest.mark.parametrize("name", [
    "stylegan2", "tail", "utlo", "tail utlo", "transitional", "biggan", "tail biggan", "cgantransfer",
    "cgantransfer FT", "minegan", "styletransfer", "hypermod", "hypermod ada", "hypermod align", "hypermod onehot",
    "hypermod v1 align", "hypermod v1 wgan", "alae", "alae grows", "encoder", "mind2mind", "mind2mind r1",
    "mind2mind paper", "mind_tune", "ccgan code", "ccgan within the code", "teacher", "head", "student fitnet",
    "ratio features", "ratio"])
def test_a_continued_run_records_what_the_uninterrupted_one_does(folder, name, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done, straight = train(folder, name, whole)
    assert done == 64 and train(folder, name, parts, stop_after=5)[0] == 40
    done, resumed = train(folder, name, parts, state=training_loop.find_states(parts)[0])
    assert done == 64
    a, b = recorded(whole, straight), recorded(parts, resumed)
    assert a.keys() == b.keys(), sorted(set(a) ^ set(b))[:9]
    if name == "mind2mind":  # a continued run could forget what is known of its encoder
        assert any(k.endswith(".extra.accepted") for k in b)
    if name.startswith("hypermod"):  # the averaged generator still shares what is frozen
        assert any(p is q for p, q in zip(resumed.G.parameters(), resumed.G_ema.parameters()))
    if name == "tail":  # p has moved before the stop
        assert any(k.endswith("Progress/augment.mean") and 0 < v < 1 for k, v in a.items())
    assert any("stats.jsonl" in k for k in a) and any(".nets." in k for k in a)
    differ = [k for k, v in a.items() if not (torch.equal(v, b[k]) if isinstance(v, torch.Tensor) else
                                              v == b[k] or v != v and b[k] != b[k])]
    assert not differ, [(k, a[k], b[k]) if not isinstance(a[k], torch.Tensor) else k for k in differ[:9]]
