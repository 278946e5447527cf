# SPDX-License-Identifier: Apache-2.0
"""What flags may hold, over every option of every command; lists of seeds, paths and classes by their rules."""

import importlib
import math
import os
import re
from pathlib import Path

import click
import numpy as np
import pytest
import torch

from dnnlib import seeding
from dnnlib.util import UserError, cache_dir
from gantransfer.commands import CONTEXT, flags
from gantransfer.data.labels import label_array
from gantransfer.data.names import short
from tests.conftest import ROOT
from torch_utils import random as rnd

COMMANDS = sorted(f"gantransfer.{room}.{p.stem}" for room in ("commands", "experiments")
                  for p in (ROOT / "gantransfer" / room).glob("*.py") if "def main(" in p.read_text("utf-8"))
# Texts that are neither a path nor a number. A new text option is entered here, or gets a type of flags.py.
TEXTS = {
    "method", "stage", "metrics", "best", "desc", "description", "wandb_proj", "diffaug", "transition",
    "sampling_shift", "g_attn", "d_attn", "hyper_rank",
    "hidden_g", "hidden_d", "betas", "classes", "fetch_name", "resolution", "label_range", "label_unit",
    "letters", "shots", "arms", "first", "second", "seeds", "device", "class_", "label", "floor", "shard", "name",
    "label_column", "image_column",
    "lengths", "settings", "copy", "net", "flags", "mix_rows", "mix_cols", "mix_layers", "arch", "decay", "assistant",
    "grid", "archs", "value_range", "gan_flags", "teacher_flags", "fakes_flags", "student_flags", "kernels",
    "own", "common", "groups", "host", "student", "source_classes", "target_classes", "gans", "fakes"}


def commands():
    def walk(command, path):
        yield path, command
        for name, sub in getattr(command, "commands", {}).items():
            yield from walk(sub, f"{path} {name}")

    for name in COMMANDS:
        yield from walk(importlib.import_module(name).main, name)


OPTIONS = [(path, command, p) for path, command in commands() for p in command.params]
NUMERIC = [(path, c, p) for path, c, p in OPTIONS if isinstance(p.type, click.types.IntParamType
                                                                | click.types.FloatParamType)]


def convert(command, p, text):
    with click.Context(command) as ctx:
        return p.type.convert(text, p, ctx)


def test_every_command_is_looked_at():
    assert len(OPTIONS) > 400 and len(NUMERIC) > 150 and len(list(commands())) > 25


@pytest.mark.parametrize("path", [path for path, _ in commands()])
def test_every_number_is_finite_and_of_64_bits(path):
    """nan passes click's own bounds; integers of any length pass click's, and end in an OverflowError somewhere."""
    for _, command, p in (x for x in NUMERIC if x[0] == path):
        assert isinstance(p.type, flags.IntRange | flags.FloatRange), (path, p.name)
        for text in ("nan", "inf", "-inf", "1e999", "1e39", "-1e300", "x", "", "9" * 5000, str(2**63), str(-2**63 - 1)):
            if isinstance(p.type, flags.FloatRange) and text.lstrip("-").isdecimal() and len(text) < 30:
                continue
            with pytest.raises(UserError, match=p.opts[0]) as e:
                convert(command, p, text)
            assert "\n" not in str(e.value) and len(str(e.value)) < 200


@pytest.mark.parametrize("path", [path for path, _ in commands()])
def test_every_path_expands_the_home_folder(path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/of-mine")
    for where, command, p in OPTIONS:
        if where != path or getattr(p, "is_bool_flag", False):
            continue
        if isinstance(p.type, click.types.StringParamType):
            assert not re.search("PATH|FILE|DIR", p.metavar or ""), (path, p.name)
            assert p.name in TEXTS, f"{path} --{p.name}: give it a type of flags.py, or say here that it is a text"
            continue
        assert type(p.type) is not click.Path, (path, p.name)
        if p.type in (flags.PATH, flags.PATHS) or isinstance(p.type, flags.PathObject):
            assert str(convert(command, p, "~/a b")) == "/home/of-mine/a b", (path, p.name)


@pytest.mark.parametrize("path", [path for path, _ in commands()])
def test_every_wrong_choice_is_one_line_with_the_right_ones(path):
    for _, command, p in (x for x in OPTIONS if x[0] == path):
        if isinstance(p.type, click.Choice):
            for wrong in ("no such\nword", "", p.type.choices[0] + "x"):
                with pytest.raises(UserError) as e:
                    convert(command, p, wrong)
                said = str(e.value)
                assert "\n" not in said and said.startswith(f"{p.opts[0]}={short(wrong)} does not exist; "), said
                assert said.endswith(f"there are {', '.join(p.type.choices)}")
            assert f"did you mean {p.type.choices[0]}? " in said
            assert [convert(command, p, word) for word in p.type.choices] == list(p.type.choices)
        elif isinstance(p.type, click.types.BoolParamType) and not p.is_flag:
            for wrong in ("maybe", "", "2"):
                with pytest.raises(UserError, match=f"^{p.opts[0]}={wrong} is neither true nor false$"):
                    convert(command, p, wrong)
            assert [convert(command, p, word) for word in ("True", "0")] == [True, False]


@pytest.mark.parametrize(("words", "flag", "right"), [
    (("train", "--gan_loss=foo"), "--gan_loss=foo does not exist in method stylegan2",
     "there are logistic, hinge, rpgan"),
    (("train", "--method=hypermod", "--gan-loss=wgan"), "--gan_loss=wgan does not exist in method hypermod",
     "did you mean wgan-gp? there are logistic, wgan-gp"),
    (("train", "--method=utl"), "--method=utl does not exist", "did you mean utlo? there are stylegan2, utlo"),
    (("calc_metrics", "--labels=foo"), "--labels=foo does not exist", "reference, uniform, training")])
def test_a_wrong_choice_ends_a_command_in_one_line(call, words, flag, right):
    (line,) = call(*words, check=2).stderr.strip().splitlines()
    assert line.startswith(f"Error: {flag}; ") and right in line


def test_every_seed_is_of_any_size():
    seeds = [p for _, _, p in OPTIONS if p.name in ("seed", "first_seed")]
    assert len(seeds) > 10 and all(p.type is flags.SEED for p in seeds)


def test_paths(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    os.mkdir("~")  # what a command that did not expand it has left
    home = str(tmp_path)
    for text, right in {"~": home, "~/a.zip": f"{home}/a.zip", "~/runs/00001:best:fid": f"{home}/runs/00001:best:fid",
                        "fonts:~/ttf": f"fonts:{home}/ttf", "./~/a": "./~/a", "a/~b": "a/~b",
                        "sklearn:digits": "sklearn:digits",
                        "https://x.org/~me/a.pkl": "https://x.org/~me/a.pkl", "latest": "latest", "20": "20"}.items():
        assert flags.path(text) == right
    assert flags.paths("~/a.pt,net=~/b.pt, c=d~.pt", "--detector") == f"{home}/a.pt,net={home}/b.pt, c=d~.pt"
    with pytest.raises(UserError, match="--data=~nobody-here/a.*./~nobody-here/a"):
        flags.path("~nobody-here/a", "--data")
    (tmp_path / "~nobody-here").mkdir()
    assert flags.path("~nobody-here", "--data") == "~nobody-here"  # a file of this very name


def test_environment_variables(monkeypatch, tmp_path):
    from gantransfer.detectors import weights
    from torch_utils import build

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GANTRANSFER_CACHE_DIR", "~/cache")
    monkeypatch.setenv("GANTRANSFER_BUILD_DIR", "~/build")
    monkeypatch.setenv("GANTRANSFER_DETECTORS", f"~/one{os.pathsep}~/two")
    assert cache_dir("x") == tmp_path / "cache" / "x" and build.build_dir() == tmp_path / "build"
    assert weights.search_path()[:2] == [tmp_path / "one", tmp_path / "two"]
    monkeypatch.setenv("GANTRANSFER_CACHE_DIR", "~nobody-here/x")
    with pytest.raises(UserError, match="GANTRANSFER_CACHE_DIR=~nobody-here"):
        cache_dir()


# ---- seeds -----------------------------------------------------------------------------------------------------------

LARGE = [-1, -2**31, 2**32, 2**32 + 1, 2**63, 2**64, 2**64 + 1, -2**64, 10**60]


def test_lists_of_seeds():
    assert flags.parse_seeds("0-3,7, 9") == [0, 1, 2, 3, 7, 9]
    assert flags.parse_seeds("-3--1,-1-1") == [-3, -2, -1, -1, 0, 1]
    assert flags.parse_seeds(f"{2**64}-{2**64 + 1}") == [2**64, 2**64 + 1]
    for text in ("0-1000000000", "5-1", "", "1,,2", "1.5", "nan", "0x3", "1-2-3", "9" * 1001, "0-9999998,0-3"):
        with pytest.raises(UserError, match="--seeds") as e:
            flags.parse_seeds(text)
        assert len(str(e.value)) < 200
    assert len({seeding.tag(s) for s in LARGE} | {seeding.tag(10**400), seeding.tag(10**400 + 1)}) == len(LARGE) + 2
    assert all(len(seeding.tag(s)) < 64 for s in [*LARGE, 10**400]) and seeding.tag(5) == "0005"


@pytest.mark.parametrize("seed", [-1, 2**32, 2**64 + 5])
def test_large_seeds_reach_every_place(tiny_zip, seed):
    from gantransfer.data import longtail
    from gantransfer.data.dataset import BatchSource, ImageDataset
    from gantransfer.distillation.fakes import seed_of
    from gantransfer.metrics.context import MetricContext
    from gantransfer.sampler import LabelSource, Sampler

    held = ImageDataset(tiny_zip, use_labels=True, seed=seed, heldout=2, max_size=20)
    assert len(held) == 20
    for policy in ("empirical", "balanced"):
        for size in (2**32, 2**64):  # seeds that are equal modulo a word are different seeds
            if seed % size != seed:
                pair = [BatchSource(held, s, policy).indices(0, 64) for s in (seed, seed % size)]
                assert not np.array_equal(*pair), (policy, size)
    sampler = Sampler(lambda z, c, rng, **kw: rnd.randn([len(z), 1, 8, 8], rng).clamp(-1, 1), 4, held.spec)
    c = LabelSource(held.spec.label, "uniform")([seed, seed + 1])
    assert not torch.equal(*sampler([seed, 0], c).split(1))
    assert MetricContext(sampler=sampler, reference=held, seed=seed).plan(4).seeds.min() >= 0
    assert 0 <= seed_of(seed, 1) < 2**31
    labels = {f"{k}-{i}.png": k for k in range(3) for i in range(9)}
    assert longtail.make_split(labels, longtail.Options(imf=3, seed=seed)).kept


# ---- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, 2**63, 10**400, [math.nan], [1e39], [10**400], True, "1"])
def test_labels_are_finite_and_fit(value):
    with pytest.raises(UserError, match="neither a number nor a list"):
        label_array(["a"], [value], "x.json")


def test_path_type_keeps_what_is_no_text():
    assert flags.PATH.convert(None, None, None) is None
    assert flags.PathObject(path_type=Path).convert("a", None, None) == Path("a")


def test_pairs_of_numbers():
    kind = flags.Pair("the values that become black and white", "0,4095")
    assert kind.convert("0,4095", None, None) == (0, 4095) and kind.convert("-1e3,2.5", None, None) == (-1000, 2.5)
    for text in ("1", "1,1", "5,2", "a,b", "0,inf", "nan,1", "1,2,3", ""):
        with pytest.raises(UserError, match="^value="):
            kind.convert(text, None, None)


@pytest.mark.parametrize("path", [path for path, _ in commands()])
def test_every_flag_has_both_spellings(path):
    (command,) = [c for p, c in commands() if p == path]
    ctx = click.Context(command, parent=click.Context(click.Command("gantransfer"), **CONTEXT))
    for p in (p for p in command.params if isinstance(p, click.Option)):
        for flag in (f"--{o[2:].replace(*way)}" for o in p.opts if o[:2] == "--" for way in ("-_", "_-")):
            typed, _, _ = command.make_parser(ctx).parse_args([flag if p.is_flag else f"{flag}=a_b-c"])
            assert p.name in typed and (p.is_flag or typed[p.name] in ("a_b-c", ["a_b-c"])), (path, flag)


def test_commands_have_both_spellings_and_their_words_one():
    for module, names in (("gantransfer.commands", ("lt_dataset", "lt-dataset")),
                          ("gantransfer.commands.distill", ("select_rho", "select-rho"))):
        group = importlib.import_module(module).main
        found = [group.resolve_command(click.Context(group, **CONTEXT), [name])[1] for name in names]
        assert found[0] is found[1] and isinstance(found[0], click.Command)
    interpolate = importlib.import_module("gantransfer.commands.interpolate").main
    words = ["--network=a.pkl", "--output=b.png"]
    assert interpolate.make_context("interpolate", [*words, "--type=class_noise"]).params["kind"] == "class_noise"
    with pytest.raises(UserError, match="--type=class-noise does not exist; did you mean class_noise"):
        interpolate.make_context("interpolate", [*words, "--type=class-noise"])


def test_what_names_a_snapshot_may_name_a_run():
    """Each of them has the type that reads RUN, RUN:latest and RUN:best; --resume reads them itself."""
    of = {"network", "source", "decoder", "teacher", "init", "ratio", "file"}
    data = {("gantransfer.commands.dataset_tool", "source"), ("gantransfer.commands.dataset_tool export", "source")}
    found = [(path, p) for path, _, p in OPTIONS if p.name in of and (path, p.name) not in data]
    assert len(found) >= 14
    for path, p in found:
        assert p.type in (flags.SNAPSHOT, flags.WORD), (path, p.name)


@pytest.mark.parametrize("kind", [flags.PATH, flags.PATHS, flags.SNAPSHOT, flags.RUN])
@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_path_is_not_the_flags_absence(kind, text):
    """`--network=$RUN` where RUN is not set would take the newest run of runs/, `--data=$DATA` train on digits."""
    option = click.Option(["--network"], type=kind)
    with pytest.raises(UserError, match="^--network= is empty"):
        kind.convert(text, option, None)
    assert kind.convert(None, option, None) is None


def test_a_run_is_a_folder_a_number_or_the_latest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="RUN=latest: no such folder.*has no run here"):
        flags.run_folder("latest")
    for name in ("00002-b", "00010-a", "notes", "00011", "5"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs" / "00012-file").write_text("")
    assert flags.run_folder("latest") == "runs/00010-a" and flags.run_folder("2") == "runs/00002-b"
    assert flags.run_folder("runs/notes") == "runs/notes"
    (tmp_path / "2").mkdir()
    assert flags.run_folder("2") == "2", "a folder of that name comes first"
    for text, says in (("3", "no such folder"), ("00012", "no such folder"), ("runs/00012-file", "is a file"),
                       ("9" * 30, "no such folder")):
        with pytest.raises(UserError, match=says):
            flags.run_folder(text)
