# SPDX-License-Identifier: Apache-2.0
"""The generate command: what is made, how it is named, and what it says to unusable requests. With
pictures/files.py."""

import contextlib
import hashlib
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dnnlib.util import UserError
from gantransfer.commands import flags, generate
from gantransfer.data.classes import parse_classes
from gantransfer.data.dataset import DataSpec, ImageDataset, LabelSpec
from gantransfer.methods import METHODS
from gantransfer.networks import stylegan2, utlo
from gantransfer.pictures import grids, mixing, plan
from gantransfer.snapshot import NetRecord, Snapshot, load

ASSETS = Path(generate.__file__).parents[1] / "assets"
CLASSES = LabelSpec("class", 4, counts=(10, 4, 1, 0), names=("ash", "beech", "cedar", "0-9"),
                    shots={"many": (0,), "few": (1, 2)})


def save(path, kind="stylegan2", label=CLASSES, channels=3, **extra):
    """A snapshot of a random generator of 16x16 images."""
    torch.manual_seed(0)
    module = {"stylegan2": stylegan2, "utlo": utlo}[kind]
    G = module.Generator(z_dim=8, c_dim=label.dim, w_dim=8, img_resolution=16, img_channels=channels,
                         mapping_kwargs=dict(num_layers=2, lr_multiplier=1),
                         synthesis_kwargs=dict(channel_base=128, channel_max=8), **extra)
    with torch.no_grad():
        for name, t in G.state_dict().items():
            if name.endswith("noise_strength"):
                t.fill_(0.5)
    data = DataSpec("trees", 16, channels, 15, label)
    Snapshot(kind, {"G_ema": NetRecord.of(G.eval())}, data=data.to_dict()).save(path)
    return str(path)


@pytest.fixture
def trees(tmp_path):
    return save(tmp_path / "trees.pkl")


def run(*args):
    generate.main.main([str(a) for a in args], standalone_mode=False)


def pixels(path):
    return np.asarray(Image.open(path))


def sheet(path):
    """[rows, columns, H, W, 3]"""
    with Image.open(path) as picture:
        return grids.cells(picture)


def test_lists():
    assert flags.parse_seeds("0-3,7, 9") == [0, 1, 2, 3, 7, 9]
    assert parse_classes("2,ash,few", CLASSES) == [2, 0, 1]
    assert parse_classes("1-3", CLASSES) == [1, 2, 3]
    assert parse_classes("0-9", CLASSES) == [3]  # there are no ids 0 to 9, but a class of this name
    for text in ("", "a", "3-1", "1-", "--1", "1,,2"):
        with pytest.raises(UserError, match="--seeds"):
            flags.parse_seeds(text)
    for text in ("4", "oak", "0-4", "-1", ""):
        with pytest.raises(UserError, match="--class.*the model knows 0 to 3"):
            parse_classes(text, CLASSES)


def test_folder(tmp_path, trees):
    """Every seed in every class, each image being what the sampler gives for that seed and label alone."""
    run("--network", trees, "--seeds=3,5-6", "--class=cedar,0", "--outdir", tmp_path / "out", "--batch=4")
    names = [f"seed{s:04d}-class{k}.png" for k in (2, 0) for s in (3, 5, 6)]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(names)
    sampler = METHODS["stylegan2"].sampler_from(load(trees))
    seen = set()
    for k in (2, 0):
        for s in (3, 5, 6):
            alone = sampler([s], torch.eye(4)[[k]], noise_mode="const")[0].numpy().transpose(1, 2, 0)
            image = pixels(tmp_path / "out" / f"seed{s:04d}-class{k}.png")
            # Another batch size may round a value to the neighbouring grey level.
            assert np.abs(image.astype(int) - alone.astype(int)).max() <= 1
            seen.add(image.tobytes())
    assert len(seen) == 6


def test_options_reach_the_network(tmp_path, trees):
    def image(*args):
        run("--network", trees, "--seeds=1,2", "--class=1", "--outdir", tmp_path, *args)
        return pixels(tmp_path / "seed0001-class1.png"), pixels(tmp_path / "seed0002-class1.png")

    a, b = image("--trunc=0")
    assert np.array_equal(a, b)  # all seeds at the mean
    a, c = image()
    assert not np.array_equal(a, c)
    partly, _ = image("--trunc=0", "--trunc-cutoff=2")
    assert not np.array_equal(partly, a) and not np.array_equal(partly, b)
    noisy, _ = image("--noise-mode=random")
    assert not np.array_equal(noisy, a)
    again, _ = image("--noise-mode=random")
    assert np.array_equal(noisy, again)
    flat, _ = image("--noise-mode=none")
    assert not np.array_equal(flat, a) and not np.array_equal(flat, noisy)


def test_zip_is_a_data_set(tmp_path, trees):
    for name in ("a.zip", "b.zip"):
        run("--network", trees, "--per-class=3", "--seeds=10", "--outdir", tmp_path / name, "--batch=5")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    data = ImageDataset(tmp_path / "a.zip", use_labels=True)
    assert data.spec.label.counts == (3, 3, 3) and data.spec.label.names == CLASSES.names[:3]  # the fourth had no image
    with zipfile.ZipFile(tmp_path / "a.zip") as z:
        names = [n for n in z.namelist() if n.endswith(".png")]
    assert names == [f"seed{10 + i:04d}-class{i // 3}.png" for i in range(9)]  # no two images share a seed
    for i in range(len(data)):
        assert data.get_details(i).name.endswith(f"-class{data.get_label(i).argmax()}.png")


def test_zip_without_and_with_vector_labels(tmp_path):
    plain = save(tmp_path / "plain.pkl", label=LabelSpec(), channels=1)
    run("--network", plain, "--seeds=0-4", "--outdir", tmp_path / "plain.zip")
    data = ImageDataset(tmp_path / "plain.zip", use_labels=True)
    assert len(data) == 5 and data.label_dim == 0 and data.num_channels == 1

    angles = save(tmp_path / "angles.pkl", label=LabelSpec("value", 2))
    run("--network", angles, "--seeds=0-4", "--label=0.25,-1", "--outdir", tmp_path / "angles.zip")
    data = ImageDataset(tmp_path / "angles.zip", use_labels=True)
    assert np.array_equal(np.stack([data.get_label(i) for i in range(5)]), [[0.25, -1]] * 5)
    run("--network", angles, "--seeds=0-4", "--labels=data", "--data", tmp_path / "angles.zip",
        "--outdir", tmp_path / "more.zip")
    with zipfile.ZipFile(tmp_path / "more.zip") as z:
        assert [v for _, v in json.loads(z.read("dataset.json"))["labels"]] == [[0.25, -1]] * 5


def test_drawn_labels(tmp_path, trees):
    """A label per seed, the same for the same seed; 'data' follows the training counts, 'uniform' does not."""
    run("--network", trees, "--seeds=0-59", "--labels=data", "--outdir", tmp_path / "data")
    run("--network", trees, "--seeds=30-59", "--labels=data", "--outdir", tmp_path / "part")
    names = {p.name for p in (tmp_path / "data").iterdir()}
    assert {p.name for p in (tmp_path / "part").iterdir()} <= names
    counts = [sum(n.endswith(f"class{k}.png") for n in names) for k in range(4)]
    assert counts[3] == 0 and counts[0] > counts[1] > counts[2] and sum(counts) == 60
    run("--network", trees, "--seeds=0-59", "--labels=uniform", "--class=1-3", "--outdir", tmp_path / "uniform")
    names = [p.name for p in (tmp_path / "uniform").iterdir()]
    assert all(sum(n.endswith(f"class{k}.png") for n in names) > 10 for k in (1, 2, 3))


def test_what_was_made_is_counted_in_words(tmp_path, trees, capsys):
    run(f"--network={trees}", "--class=ash", "--seeds=5", "--grid", tmp_path / "g.png", "--outdir", tmp_path / "o")
    said = capsys.readouterr().out
    assert f"{tmp_path / 'o'}: 1 image\n" in said and f"{tmp_path / 'g.png'}: 1 image, 1 per row\n" in said


def test_grid_has_a_row_per_class(tmp_path, trees):
    run("--network", trees, "--grid", tmp_path / "all.png", "--seeds=0-4", "--zoom=1")
    made = sheet(tmp_path / "all.png")
    assert made.shape == (3, 5, 16, 16, 3)
    run("--network", trees, "--class=2", "--seeds=0-4", "--outdir", tmp_path)
    for s in range(5):
        assert np.abs(made[2, s].astype(int) - pixels(tmp_path / f"seed{s:04d}-class2.png").astype(int)).max() <= 1
    for zoom in ([], ["--zoom=2"]):  # 16 pixels are enlarged to 32 unasked
        run("--network", trees, "--grid", tmp_path / "one.png", "--class=0", *zoom)
        assert sheet(tmp_path / "one.png").shape == (8, 8, 32, 32, 3)


def test_a_grid_says_what_it_shows(tmp_path, trees, monkeypatch):
    said = {}
    monkeypatch.setattr(grids, "save_grid", lambda path, images, columns, **kw: said.update(kw))
    run("--network", trees, "--grid=x.png", "--seeds=0-4", "--trunc=0.5")
    assert said["row_labels"] == ["ash (10)", "beech (4)", "cedar (1)"]
    assert said["title"] == "trees: stylegan2, psi 0.5, seeds 0 to 4"
    run("--network", trees, "--grid=x.png", "--seeds=3", "--class=beech")
    assert said["row_labels"] is None and said["title"] == "trees: stylegan2, class beech (4), seed 3"
    meta = dict(kind="regression", unit="deg", min=0.0, max=90.0, offset=0.0, scale=90.0)
    p = plan.value_plan(LabelSpec("value", 1, meta=meta), [0, 2], [0, 45])
    assert p.counted_rows(LabelSpec("value", 1, meta=meta)) == ["0 deg", "45 deg"] and p.counting() == []


def test_label_free_images(tmp_path):
    snap = save(tmp_path / "utlo.pkl", "utlo", res_uc=8)
    run("--network", snap, "--seeds=0,1", "--class=0,1", "--add_uc", "--outdir", tmp_path / "o",
        "--grid", tmp_path / "g.png")
    for s in (0, 1):
        small = [pixels(tmp_path / "o" / f"seed{s:04d}-class{k}_uc.png") for k in (0, 1)]
        assert small[0].shape == (8, 8, 3) and np.array_equal(*small)  # does not depend on the class
        large = [pixels(tmp_path / "o" / f"seed{s:04d}-class{k}.png") for k in (0, 1)]
        assert large[0].shape == (16, 16, 3) and not np.array_equal(*large)
    assert sheet(tmp_path / "g.png").shape[:2] == (2, 2)
    once = sheet(tmp_path / "g_uc.png")  # not once per class
    assert once.shape == (1, 2, 32, 32, 3)
    for s in (0, 1):
        assert np.array_equal(once[0, s, ::4, ::4], pixels(tmp_path / "o" / f"seed{s:04d}-class0_uc.png"))
    with pytest.raises(UserError, match="--add-uc: a data set"):
        run("--network", snap, "--seeds=0", "--class=0", "--add-uc", "--outdir", tmp_path / "x.zip")


def test_style_mixing(tmp_path, trees):
    snap = load(trees)
    sampler = METHODS["stylegan2"].sampler_from(snap)
    c = torch.eye(4)[[1]]
    own = {s: sampler([s], c, noise_mode="const")[0].numpy().astype(int) for s in (0, 1, 5, 6)}

    def mixed(layers):
        sampler = METHODS[snap.method].sampler_from(snap)
        return mixing.mixing_sheet(sampler, [0, 1], [5, 6], layers, c).astype(int).reshape(3, 3, 3, 16, 16)

    s = mixed([0, 1])
    for i, (row, col) in enumerate(((0, 5), (1, 6))):
        assert np.abs(s[i + 1, 0] - own[row]).max() <= 1 and np.abs(s[0, i + 1] - own[col]).max() <= 1
        assert np.abs(s[i + 1, i + 1] - own[row]).max() > 5 and np.abs(s[i + 1, i + 1] - own[col]).max() > 5
    s = mixed(range(6))  # everything from the column
    assert np.abs(s[1, 1] - own[5]).max() <= 1 and np.abs(s[2, 1] - own[5]).max() <= 1
    run("--network", trees, "--mix-rows=0-2", "--mix-cols=5,6", "--class=1", "--grid", tmp_path / "mix.png")
    assert sheet(tmp_path / "mix.png").shape == (4, 3, 32, 32, 3)
    for args, match in ((["--mix-layers=0-6", "--class=1"], "layers 0 to 5"), ([], "class-conditional"),
                        (["--class=0,1"], "one class"), (["--class=0", "--outdir=x"], "without --outdir")):
        with pytest.raises(UserError, match=match):
            run("--network", trees, "--mix-rows=0", "--mix-cols=1", "--grid", tmp_path / "m.png", *args)


def test_unusable_requests(tmp_path, trees):
    plain = save(tmp_path / "plain.pkl", label=LabelSpec())
    angles = save(tmp_path / "angles.pkl", label=LabelSpec("value", 2))
    unknown = save(tmp_path / "unknown.pkl", label=LabelSpec("class", 4))  # as imported: no counts
    out = f"--outdir={tmp_path / 'out'}"
    (tmp_path / "file").write_text("x")
    for args, match in (
        ([trees, "--seeds=1", "--class=1"], "where to"),
        ([trees, out], "which images"),
        ([trees, out, "--seeds=1"], "class-conditional: give --class"),
        ([trees, out, "--seeds=1", "--class=4"], "no class 4"),
        ([trees, out, "--seeds=1,1", "--class=0"], "twice"),
        ([trees, out, "--seeds=1-2", "--per-class=3"], "single number"),
        ([trees, out, "--seeds=1", "--class=0", "--add-uc"], "no label-free images"),
        ([trees, out, "--seeds=1", "--label=1,2"], "give --class"),
        ([trees, out, "--per-class=2", "--labels=data"], "instead of --per-class"),
        ([trees, out, "--seeds=1", "--class=0", "--device=cuda:99"], "CUDA devices"),
        ([trees, out, "--seeds=1", "--class=0", "--device=bread"], "not a device"),
        ([trees, "--grid=x.jpg"], "end in .png"),
        ([trees, "--seeds=1", "--class=0", f"--outdir={tmp_path / 'file' / 'x'}"], "file: not a folder"),
        ([trees, "--seeds=1", "--class=0", f"--outdir={tmp_path / 'file'}"], "file: not a folder"),
        ([plain, out, "--seeds=1", "--class=0"], "no classes"),
        ([plain, out, "--per-class=2"], "needs a model with classes"),
        ([angles, out, "--seeds=1"], "needs a label of 2 numbers"),
        ([angles, out, "--seeds=1", "--label=1"], "--label needs 2 numbers"),
        ([angles, out, "--seeds=1", "--label=1,b"], "not a list of numbers"),
        ([unknown, out, "--seeds=1", "--labels=data"], "use --labels=uniform"),
        ([str(tmp_path / "none.pkl"), out, "--seeds=1"], "no such file"),
    ):
        with pytest.raises(UserError, match=match) as e:
            run("--network", *args)
        assert "\n" not in str(e.value)
    assert not (tmp_path / "out").exists()


def test_nothing_half_written(tmp_path, trees, monkeypatch):
    def broken(sampler, plan, batch, views, finish, **kw):
        yield 0, finish({"image": np.zeros((3, 16, 16), np.uint8)})
        raise RuntimeError("out of memory")

    monkeypatch.setattr(plan, "sample", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        run("--network", trees, "--per-class=3", "--outdir", tmp_path / "o" / "x.zip",
            "--grid", tmp_path / "o" / "g.png")
    assert list((tmp_path / "o").iterdir()) == []


@pytest.mark.slow
def test_two_processes_make_what_one_does(tmp_path, trees, monkeypatch, capfd):
    """Also where the last round has no images for the second, and of a class that deserves a line: one line."""
    from torch_utils import distributed as dist

    if dist.cpu_cores() < 2:
        pytest.skip("two processes need two cores")
    for k in (1, 2):
        words = [f"--network={trees}", "--seeds=0-4", "--class=0,3", "--batch=2", f"--gpus={k}",
                 f"--grid={tmp_path / f'{k}.png'}", f"--outdir={tmp_path / f'{k}.zip'}"]
        monkeypatch.setattr(sys, "orig_argv", [  # this process is the launcher
            sys.executable, "-m", "gantransfer", "generate", "--device=cpu", *words])
        with contextlib.suppress(SystemExit):
            run(*words)
    said = capfd.readouterr()
    assert said.err.count("class 3 had no training image") == 2 and said.out.count("10 images\n") == 2
    for kind in ("png", "zip"):
        assert (tmp_path / f"1.{kind}").read_bytes() == (tmp_path / f"2.{kind}").read_bytes()


@pytest.mark.parametrize("words, says", [
    (["--balance", "--data=SET"], "--balance"), (["--mix-rows=1"], "--mix-rows"),
    (["--device=cuda:1"], "--device=cuda:1"),
    (["--seeds=0", "--class=0", "--gpus=500"], "--gpus=500"),
])
def test_several_processes_are_refused(tmp_path, trees, words, says):
    with pytest.raises(UserError, match=says):
        run("--network", trees, "--gpus=2", *words, "--outdir", tmp_path / "o.zip")
    assert list(tmp_path.glob("o*")) == []


def test_as_a_command(tmp_path, trees, run_script, call):
    words = [f"--network={trees}", "--seeds=0", f"--outdir={tmp_path / 'o'}"]
    done = run_script("-m", "gantransfer", "generate", *words, "--class=0", "--device=cpu")
    assert (tmp_path / "o" / "seed0000-class0.png").exists() and "1 image\n" in done.stdout
    failed = call("generate", *words, check=2)
    assert failed.stderr.startswith("Error: this model is class-conditional") and "Traceback" not in failed.stderr


def test_every_class_means_those_with_images(tmp_path, capsys):
    """Ids without images have an input that was never trained: nothing takes them for classes unasked."""
    label = LabelSpec("class", 5, counts=(0, 6, 6, 0, 6))
    snap = save(tmp_path / "gap.pkl", label=label)
    run("--network", snap, "--per-class=2", "--outdir", tmp_path / "a.zip")
    assert ImageDataset(tmp_path / "a.zip", use_labels=True).spec.label.counts == (0, 2, 2, 0, 2)
    run("--network", snap, "--grid", tmp_path / "a.png")
    assert len(sheet(tmp_path / "a.png")) == 3
    assert "no training image" not in capsys.readouterr().err
    run("--network", snap, "--class=0,1", "--seeds=0", "--outdir", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["seed0000-class0.png", "seed0000-class1.png"]
    assert "class 0 had no training image" in capsys.readouterr().err
    run("--network", snap, "--label=0.5,0.5,0,0,0", "--seeds=0", "--outdir", tmp_path / "mix")
    assert "--label: class 0 had no training image" in capsys.readouterr().err
    unknown = save(tmp_path / "imported.pkl", label=LabelSpec("class", 5))  # nothing is known of its training
    run("--network", unknown, "--grid", tmp_path / "b.png")
    assert len(sheet(tmp_path / "b.png")) == 5


def test_names_with_control_characters_on_a_sheet(tmp_path):
    label = LabelSpec("class", 2, counts=(1, 1), names=("a\nb\x1b[2J", "\u202ec"))
    run("--network", save(tmp_path / "x.pkl", label=label), "--grid", tmp_path / "x.png", "--seeds=0-1")
    assert len(sheet(tmp_path / "x.png")) == 2


def test_seeds_of_any_size(tmp_path, trees):
    run("--network", trees, f"--seeds=-1,{2**32},{2**64},0", "--class=0", "--outdir", tmp_path / "out")
    shown = {p.name: pixels(p).tobytes() for p in (tmp_path / "out").iterdir()}
    assert set(shown) == {f"seed{s}-class0.png" for s in ("-001", 2**32, 2**64, "0000")}
    assert len(set(shown.values())) == 4
    with pytest.raises(UserError, match="--seeds=0-1000000000.*more than 10,000,000"):
        run("--network", trees, "--seeds=0-1000000000", "--class=0", "--outdir", tmp_path / "out")
    for words, says in ((["--seeds=0-99999", "--class=0", "--zoom=64"], "--grid: give fewer --seeds, or --outdir"),
                        (["--mix-rows=0-9999", "--mix-cols=0-9999", "--class=0"], "fewer --mix-rows or --mix-cols")):
        with pytest.raises(UserError, match=f"million pixels in one picture.*{says}"):
            run("--network", trees, *words, "--grid", tmp_path / "large.png")
        assert not (tmp_path / "large.png").exists()
    run("--network", trees, "--mix-rows=-5", f"--mix-cols={2**70}", "--class=0", "--grid", tmp_path / "mix.png")


def test_a_list_of_seeds_and_labels(tmp_path, trees):
    """The one that the viewer saves: each image is that of its seed and class by themselves."""
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps({"images": [[7, 3], [2**70, 0], [7, 1], [5, [0.5, 0.5, 0, 0]]]}))
    run("--network", trees, "--list", listed, "--trunc=0.7", "--outdir", tmp_path / "out")
    names = {f"seed0007-class{k}.png" for k in (1, 3)} | {f"seed{2**70}-class0.png", "seed0005.png"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == names
    sampler = METHODS["stylegan2"].sampler_from(load(trees))
    for name, seed, c in (("seed0007-class3", 7, [0, 0, 0, 1]), ("seed0005", 5, [0.5, 0.5, 0, 0])):
        alone = sampler([seed], torch.tensor([c]).float(), truncation_psi=0.7, noise_mode="const")[0].numpy()
        assert np.array_equal(pixels(tmp_path / "out" / f"{name}.png"), alone.transpose(1, 2, 0))
    for entries, more, match in (
            ([[7, 4]], [], "image 0 is of class 4"), ([[7, 1], [1.5, 1]], [], "image 1 is no pair"),
            ([], [], "no \"images"),
            ([[7, [1]]], [], "image 0 needs a label of 4 numbers, or a class"), ([[7, None]], [], "needs a label"),
            ([[7, True]], [], "needs a label"), ([[True, 1]], [], "no pair"), ([[7, 1], [7, 1]], [], "a seed twice"),
            ([[7, 1]], ["--seeds=1", "--class=2"], "omit --seeds, --class"),
            ([[7, 1]], ["--mix-rows=1"], "omit --mix-rows")):
        listed.write_text(json.dumps({"images": entries}))
        with pytest.raises(UserError, match=match):
            run("--network", trees, "--list", listed, "--outdir", tmp_path / "none", *more)
    listed.write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        run("--network", trees, "--list", listed, "--outdir", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_shipped_models_are_small_said_to_be_made_how_and_work(tmp_path, monkeypatch):
    from gantransfer.detectors import features

    monkeypatch.chdir(tmp_path)
    assert set(flags.SHIPPED.values()) == {p.name for p in ASSETS.glob("*.pkl")}
    for name, file in flags.SHIPPED.items():
        path, said = ASSETS / file, json.loads((ASSETS / file).with_suffix(".json").read_text("utf-8"))
        assert path.stat().st_size < 500_000 and flags.snapshot(name) == str(path)
        assert said["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() and said["name"] == name
        assert said["made_by"] and said["data"]
        assert not any(w in path.read_bytes() for w in (b"/tmp", b"/home", b"/root")), "paths of a machine"
    generate.main(["--network=digits", "--per-class=10", "--outdir=out.zip"], standalone_mode=False)
    made = ImageDataset("out.zip", use_labels=True)
    judged = features.load("digits32")(torch.from_numpy(made.images_uint8(np.arange(100)))).logits.argmax(1).numpy()
    assert len(made) == 100 and (judged == made.class_ids).mean() >= 0.95
    (tmp_path / "digits").write_text("a file of the user's")
    assert flags.snapshot("digits") == "digits"
