# SPDX-License-Identifier: Apache-2.0
"""--config: recipes by name, files of one's own, and runs that are repeated."""

import json
import zipfile
from pathlib import Path

import click
import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from gantransfer.commands import config, distill, train
from gantransfer.distillation import presets
from gantransfer.snapshot import load
from tests.conftest import ROOT, write_image_zip

# Recipe of `train` -> (pixels, what it must come to). Recipes of `distill` have parts.
UTLO = dict(method="utlo", batch_size=64)
HYPERMOD = dict(method="hypermod", batch_size=10, total_kimg=2000.02, random_seed=42, gamma=10, ema_kimg=6.93,
                base="stylegan1", class_init="identical", class_lr_mult=0.001, style_mix=0.9, aug="noaug", glr=0.002)
TRAIN = {
    "utlo-animalface": (64, dict(UTLO, batch_gpu=16, total_kimg=25000, res_uc=8, alpha=1, fname="lt_25.json",
                                 xflip=True, network_snapshot_ticks=500,
                                 metrics=["fid50k_full", "fid_shots", "kid_shots"])),
    "utlo-cifar10": (32, dict(UTLO, cfg="cifar", total_kimg=150000, alpha=10, fname="lt_100.json", d_arch="orig")),
    "utlo-cifar100": (32, dict(UTLO, cfg="cifar", total_kimg=100000, alpha=1, fname="lt_100.json")),
    "utlo-flowers": (64, dict(UTLO, total_kimg=25000, res_uc=16, alpha=10)),
    "utlo-lsun5": (64, dict(UTLO, total_kimg=25000, res_uc=8, fname="lt_1000.json")),
    "utlo-inaturalist": (64, dict(UTLO, total_kimg=160000, gamma=0.2048, ema_kimg=20, ema_ramp=0, map_depth=2)),
    "cgantransfer-imagenet": (128, dict(method="cgantransfer", stage="BN", batch_size=2048, batch_gpu=32, glr=1e-4,
                                        dlr=4e-4, adam_eps=1e-6, comb_l1_scale=0.01, res_l2_scale=0.1, ema_kimg=0,
                                        source_net="G", total_kimg=25190.4, kimg_per_tick=204.8)),
    "cgantransfer-cifar": (32, dict(method="cgantransfer", batch_size=50, glr=2e-4, dlr=2e-4, adam_eps=1e-8,
                                    res_l2_scale=0.01, d_steps=4)),
    "hypermod-plain": (256, dict(HYPERMOD, finetune=False, contrastive=False)),
    "hypermod-finetune": (256, dict(HYPERMOD, finetune=True)),
    "hypermod-contrastive": (256, dict(HYPERMOD, contrastive=True, contrastive_weight=0.01, contrastive_lambda=0.005)),
    "mind2mind-celebahq": (64, dict(method="mind2mind", mind_preset="paper", hidden_g="128,256,512", betas="0,0.5",
                                    hidden_d="512,256,128", normalize="none", mind_prior="uniform", n_critic=5)),
}
STAGES = ("teacher", "ratio", "fakes", "student")


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> dict[int, Path]:
    """A few images of each size, with the label files that recipes name."""
    out, rng = {}, np.random.RandomState(0)
    for size in sorted({size for size, _ in TRAIN.values()}):
        labels = [0, 1] * (65 if size == 64 else 2)  # a batch of Mind2Mind, which has to fit
        path = out[size] = tmp_path_factory.mktemp("sets") / f"{size}.zip"
        images = [np.full((size, size, 3), rng.randint(256), np.uint8) for _ in labels]
        write_image_zip(path, images, labels)
        with zipfile.ZipFile(path, "a") as z:
            content = z.read("dataset.json")
            for name in ("lt_25.json", "lt_100.json", "lt_1000.json"):
                z.writestr(name, content)
    return out


def resolved(*args: str) -> dict:
    """What `train` would record of these arguments; its own options too, flat."""
    with train.main.make_context("train", list(args)) as ctx:
        given = {k: v for k, v in ctx.params.items()
                 if ctx.get_parameter_source(k) == click.core.ParameterSource.COMMANDLINE}
        found = train.Setup(dict(ctx.params), given).resolved()
    return {**found, **found["training_set_kwargs"], **found["options"]}


def test_there_is_a_test_for_every_recipe():
    kd = {f"cgan-kd-{p}" for p in presets.PRESETS if p not in ("digits", "small")}
    assert len(kd) == 8 and set(config.recipes()) == TRAIN.keys() | kd
    assert {p.name for p in (ROOT / "recipes").iterdir()} == {f"{n}.yaml" for n in config.recipes()}


@pytest.mark.parametrize("name", list(TRAIN))
def test_recipes_of_train_come_to_what_was_published(name, sets):
    size, expected = TRAIN[name]
    source = () if name.startswith("utlo") else ("--source=x.pkl",)
    found = resolved(f"--config={name}", f"--data={sets[size]}", *source)
    assert {k: found[k] for k in expected} == expected


@pytest.mark.parametrize("preset", [p for p in presets.PRESETS if p not in ("digits", "small")])
def test_recipes_of_distill_have_every_stage(preset):
    for stage in STAGES:
        dest = "--dest=f.zip" if stage == "fakes" else "--outdir=o"
        command = distill.main.commands[stage]
        words = [f"--config=cgan-kd-{preset}", "--data=d.zip", dest, *(["--network=g.pkl"] * (stage == "fakes"))]
        ctx = command.make_context(stage, words)
        assert ctx.params["preset"] == preset and ctx.params["seed"] == 2020


def test_a_stage_of_distill_is_what_its_preset_says(call, sets):
    said = call("distill", "teacher", "--config=recipes/cgan-kd-cifar10-v1.yaml", f"--data={sets[32]}", "--outdir=o",
                "--epochs=2", "--dry-run").stdout
    found = json.loads(said[said.index("{"): said.rindex("}") + 1])
    assert found["options"]["arch"] == "densenet121" and found["batch_size"] == 128 and found["random_seed"] == 2020
    assert found["total_kimg"] == 0.128, "what is typed wins"


def test_what_is_typed_wins_in_either_spelling(sets, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("# of mine\ncfg: tiny\nbatch-gpu: 4\nbatch: 8\nmetrics: [none]\nglr: 1e-4\ncond: yes\n")
    found = resolved(f"--config={file}", f"--data={sets[32]}", "--batch=16")
    assert found["batch_size"] == 16 and found["batch_gpu"] == 4 and found["glr"] == 1e-4 and found["use_labels"]
    assert resolved(f"--data={sets[32]}", "--batch_gpu=8", f"--config={file}")["batch_gpu"] == 8


@pytest.mark.parametrize("text, said", [
    ("batchsize: 8", "train has no flag --batchsize; did you mean --batch?"),
    ("batch: 8\nbatch: 9", "line 2: batch is there twice"), ("batch: 8\n- 1", "not readable as YAML in line 2"),
    ("batch:", "line 1: batch has no value"), ("batch: {a: 1}\nkimg: 3", "flags beside its parts batch"),
    ("", "holds no flags"), ("- 1", "holds no flags"), ("teacher: {seed: 1}", "is for teacher, not for train"),
    ("batch: x", "--batch=x is not a whole number"), ("? [a]\n: 1", "this is no name of a flag"),
    ("cond: !!python/object/apply:os.getcwd []", "cond has no value"),
    ("config: utlo-cifar10", "train has no flag --config"),
    ("\x00", "not readable as YAML")])
def test_a_bad_file_is_one_line(tmp_path, call, text, said):
    file = tmp_path / "own.yaml"
    file.write_text(text)
    (line,) = call("train", f"--config={file}", check=2).stderr.strip().splitlines()
    assert said in line and len(line) < 300


@pytest.mark.parametrize("text, said", [("utlo-animalfaces", "did you mean utlo-animalface?"),
                                        ("recipes/none.yaml", "there are cgan-kd-"), ("a/b.yaml", "no such file")])
def test_a_name_that_is_none_is_one_line(call, text, said):
    (line,) = call("train", f"--config={text}", check=2).stderr.strip().splitlines()
    assert said in line


def test_a_finished_run_is_repeated(call, sets, tmp_path):
    """Bit for bit, from its folder or its training_options.json; also where it began with a recipe."""
    file = tmp_path / "own.yaml"
    file.write_text("cfg: tiny\ncond: True\nbatch: 4\nmetrics: none\n")
    words = f"--config={file}", f"--data={sets[32]}", "--kimg=0.004", "--kernels=ref", "--seed=5", "--recipe=tail"
    call("train", *words, f"--outdir={tmp_path}/a")
    (run,) = (tmp_path / "a").iterdir()
    assert json.loads((run / "training_options.json").read_text())["flags"] == dict(
        cfg="tiny", cond=True, batch=4, metrics="none", data=str(sets[32]), kimg=0.004, seed=5,
        recipe="tail", outdir=f"{tmp_path}/a")
    file.unlink()
    call("train", f"--config={run}/training_options.json", f"--outdir={tmp_path}/b", "--kernels=ref")
    (again,) = (tmp_path / "b").iterdir()
    first, second = (load(next(r.glob("network-snapshot-*.pkl"))).nets["G_ema"].build() for r in (run, again))
    assert again.name == run.name and all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))
    assert resolved(f"--config={run}", "--seed=6")["random_seed"] == 6
    first, second = (resolved(f"--config={run}", *batch)["options"] for batch in ((), ("--batch=8",)))
    assert first["r2_gamma"] == 2 * second["r2_gamma"], "what a recipe chose is chosen anew"
    for folder, command, said in ((run, "teacher", "is of a run of `train`, not of teacher"),
                                  (tmp_path, "train", "is no run: it has no training_options.json")):
        with pytest.raises(UserError, match=said):
            config.arguments(str(folder), command, [], ())


def test_a_run_that_does_not_know_its_flags_says_its_command(tmp_path):
    (tmp_path / "training_options.json").write_text("{}")
    (tmp_path / "environment.json").write_text(json.dumps({"command": ["train.py", "--batch=8"]}))
    with pytest.raises(UserError, match="earlier version, and its command was: train.py --batch=8"):
        config.arguments(str(tmp_path), "train", [], ())
