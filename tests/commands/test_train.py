# SPDX-License-Identifier: Apache-2.0
"""train.py as typed: flags under both spellings, what implies which method, bad input, resuming and transfer. With
commands/train_flags.py and commands/recipe.py."""

import dataclasses
import importlib
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from dnnlib.util import UserError, format_time
from gantransfer import training_loop
from gantransfer.commands import digits
from gantransfer.commands.flags import STUDY
from gantransfer.commands.run import newest_snapshot
from gantransfer.data.labels import DataSpec
from gantransfer.methods import METHODS, TRAIN
from gantransfer.metrics import rating
from gantransfer.snapshot import find_snapshots, load, numbered
from tests.conftest import only_line, write_image_zip
from tests.test_training_loop import weights_of
from torch_utils import distributed

TINY = ["--cfg=tiny", "--cbase=64", "--cmax=8", "--batch=8", "--threads=1", "--metrics=none"]


@pytest.fixture
def call(call):
    """train.py within this process: (stdout, stderr)."""

    def run(*argv, code=0):
        done = call("train", *argv, check=code)
        return done.stdout, done.stderr

    return run


@pytest.fixture
def refused(call):
    """All that its stderr says of what it refuses, one line."""
    return lambda *argv: only_line(call(*argv, code=2)[1])


def dry(call, *flags, code=0):
    out, _ = call(*flags, "--dry-run", code=code)
    return json.loads(out[out.index("{") : out.rindex("}") + 1]), out


def test_help_shows_shared_flags_in_sections_and_methods_with_a_line(call):
    text, _ = call("--help")
    for flag in ("--data", "--cond", "--sampling", "--gpus", "--resume", "--wandb_proj", "--batch_gpu"):
        assert re.search(rf"^  (-n, )?{flag} ", text, re.M), flag
    assert "--res_uc" not in text and "stylegan2, utlo" not in text and "stylegan2|utlo" not in text
    assert [line for line in text.splitlines() if re.fullmatch(r"\S.*:", line)][:3] == [
        "Data and output:", "Method and start:", "Schedule:"]
    assert "cgan_kd" not in text and "density_ratio" not in text
    for name in TRAIN:
        assert re.search(rf"^  {name}  +\S", text, re.M), name


@pytest.mark.parametrize("args", [["--method=utlo", "--help"], ["--help", "--method=utlo"], ["--alpha=1", "--help"]])
def test_help_of_a_method_adds_its_flags_with_their_defaults(call, args):
    text, _ = call(*args)
    own = text[text.index("--method=utlo:"):]
    for f in dataclasses.fields(METHODS["utlo"].Options):
        assert f"--{f.name} " in own, f.name
    assert re.search(r"--add_uc [^\[]*\[default:\s+True\]", own)
    assert re.search(r"--glr [^\[]*\[default:\s+0.0025\s+with\s+--cfg=auto\s+at\s+64x64\]", own)  # by the preset
    assert re.search(r"--res_uc [^\[]*\(default:[^)]* 8 ", own)
    assert "--t_start_kimg" not in own


def test_unknown_flag_names_the_method_that_has_it(call):
    assert "--alpha of --method=utlo" in call("--alphaa=2", code=2)[1]
    assert "--diffaug belongs to the methods stylegan2, utlo" in (said := call(
        "--method=mind2mind", "--diffaug=color", code=2)[1]) and " and ccgan, not to mind2mind" in said


def test_without_data_it_trains_on_digits(call, tmp_path, monkeypatch):
    """The command of the README, shortened: everything else is what it finds out by itself."""
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    small = ["--cbase=64", "--cmax=8", "--kimg=0.032", "--metrics=smoke"]
    out, _ = call("--cond=True", "--add_uc=True", *small)
    assert out.startswith("No --data: ") and "--dest=set.zip" in out.splitlines()[0]
    (run,) = (tmp_path / "runs").glob("00000-*")
    options = json.loads((run / "training_options.json").read_text())
    assert options["method"] == "utlo" and options["training_set_kwargs"]["max_size"] == 364
    assert options["options"]["cfg"] == "tiny" and options["reference"].endswith("digits16-ref.zip")
    for kind in ("Sheet: ", "Snapshot: ", "Figures: "):
        assert sum(line.startswith(kind) for line in out.splitlines()) == 1, out
    shown = re.search(r"^Sheet: +(.*)$", out, re.M)[1]
    assert (tmp_path / shown).is_file()

    call("--cond=True", "--add_uc=True", *small)
    newest = newest_snapshot("none")
    assert "/00001-" in newest.replace("\\", "/")
    out, _ = call("--cond=True", "--add_uc=True", "--resume=latest", *small)
    assert "were trained before" in out


def test_without_data_and_scikit_learn(refused, monkeypatch, tmp_path):
    monkeypatch.setenv("GANTRANSFER_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    assert "pip install scikit-learn" in refused("--cond=True")


def test_newest_snapshot_of_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="nothing here"):
        newest_snapshot("nothing here")


def test_dry_run_checks_what_the_run_checks_and_tells_the_time(call, refused, tiny_zip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, _ = call(*TINY, f"--data={tiny_zip}", "--kimg=5", "--dry-run")
    per_kimg, whole = re.search(r"about ([\d.e+]+) s per kimg .* about (.*) for 5 kimg", out).groups()
    rounded = [float(per_kimg) * 5 * (1 + k / 1000) for k in range(-50, 51)]
    assert whole in {format_time(s) for s in rounded}
    monkeypatch.setattr(distributed, "cpu_cores", lambda: 1)
    out, _ = call(*TINY, f"--data={tiny_zip}", "--gpus=2", "--dry-run")
    assert "Time: unknown here; --gpus=2: this machine has 1 CPU core; use --gpus=1 or fewer\n" in out
    _, err = call(*TINY[:-1], f"--data={tiny_zip}", "--metrics=fd_x_1k", "--detector=x=nowhere.pt", "--dry-run", code=2)
    assert "nowhere.pt" in err
    assert "nowhere.pkl" in refused(*TINY, f"--data={tiny_zip}", "--resume=nowhere.pkl", "--dry-run")
    assert not list(tmp_path.iterdir())


def test_settings_that_may_not_be_meant_are_said_before_the_first_step(call, tiny_zip):
    def notes(*flags):
        _, out = dry(call, *TINY, f"--data={tiny_zip}", "--kimg=2", "--cond=1", *flags)
        return re.findall("^Note: (.*)", out, re.M)

    assert not notes("--transition=1-2") and not notes("--sampling=balanced", "--sampling_shift=1-2")
    for flags, says in ((["--method=transitional"], "from the first step.*give --transition=A-B"),
                        (["--transition=1-3"], "ends at 2 kimg.*from 3 on; give another --transition=A-B"),
                        (["--sampling=balanced", "--sampling_shift=1-3"], "ends at 2 kimg, before --sampling_shift"),
                        (["--cond=0"], "has labels.*--cond=True")):
        (note,) = notes(*flags)
        assert re.search(says, note), note


def test_a_run_of_weeks_is_said_before_it_begins(call, tiny_zip, tmp_path, monkeypatch):
    monkeypatch.setattr(training_loop, "pace", lambda *a: (3600.0, False))

    def begin(self):
        raise UserError("begun")

    monkeypatch.setattr(training_loop._Loop, "_train", lambda self: begin(self))
    out, _ = call(*TINY, f"--data={tiny_zip}", f"--outdir={tmp_path}", "--kimg=240", code=2)
    assert "240 kimg will take about 10d 00h 00m here" in out and "--kimg" in out
    out, _ = call(*TINY, f"--data={tiny_zip}", f"--outdir={tmp_path}", "--kimg=150", code=2)
    assert "will take" not in out


def test_a_gpus_preset_on_a_cpu_says_its_cost_and_what_suits_a_cpu(call, tiny_zip, tmp_path, monkeypatch):
    monkeypatch.setattr(training_loop, "pace", lambda *a: (60.0, False))
    monkeypatch.setattr(training_loop._Loop, "_train", lambda self: (_ for _ in ()).throw(UserError("begun")))
    flags = [*TINY[1:], f"--data={tiny_zip}", f"--outdir={tmp_path}", "--kimg=2", "--device=cpu"]
    out, _ = call(*flags, code=2)
    assert "2 kimg will take about 2m 00s here, at 60 s per kimg; give --cfg=small or tiny\n" in out
    out, _ = call(*flags, "--cfg=small", code=2)
    assert "will take" not in out
    out, _ = call(f"--data={tiny_zip}", f"--outdir={tmp_path}", "--metrics=none", "--device=cpu", "--cond=True",
                  "--method=biggan", "--g_ch=2", "--d_ch=2", "--kimg=20000", code=2)
    assert "give --cfg=tiny, a shorter --kimg, smaller networks (--g_ch) or images or a machine" in out


@pytest.mark.parametrize("flags, method", [
    ([], "stylegan2"),
    (["--cond=True", "--add_uc=True"], "utlo"),
    (["--cond=1", "--res-uc=4"], "utlo"),
    (["--cond", "--t_start_kimg=2", "--t_end_kimg=4"], "transitional"),
    (["--cond", "--transition=2-4"], "transitional"),
    (["--method=stylegan2", "--add_uc=False"], "stylegan2"),
])
def test_flags_choose_the_method(call, tiny_zip, flags, method):
    options, out = dry(call, f"--data={tiny_zip}", "--metrics=none", "--cbase=64", "--cmax=8", *flags)
    assert options["method"] == method and "Dry run" in out


def test_published_utlo_command(run_script, call, tmp_path):
    """The authors' command line, on a folder and on a zip."""
    import numpy as np
    from PIL import Image

    rng = np.random.RandomState(0)
    for k in range(20):
        (tmp_path / "Image" / f"class{k:02d}").mkdir(parents=True)
        for i in range(6):
            noise = rng.randint(0, 255, (70, 80, 3)).astype("uint8")
            Image.fromarray(noise).save(tmp_path / "Image" / f"class{k:02d}" / f"{i}.png")
    for dest in ("af", "af.zip"):
        data = tmp_path / dest
        run_script("dataset_tool.py", f"--source={tmp_path / 'Image'}", f"--dest={data}", "--transform=center-crop",
                   "--width=64", "--height=64")
        fn = data if dest.endswith(".zip") else data / "dataset.json"
        run_script("lt_dataset.py", "--fn", fn, "--imf", "25", "--shot-labels", "--dname", "animals")
        options, out = dry(
            call, "--outdir=training_runs_af", f"--data={data}", "--fname=lt_25.json", "--snap=500",
            "--mirror=True", "--seed=69", "--gpus=4", "--batch=64", "--wandb_proj=utlo_af",
            "--metrics=fid_shots,kid_shots,fid50k_full,kid50k_full", "--description=example-run-af", "--cond=True",
            "--add_uc=True", "--res_uc=8", "--alpha=1.0", code=2)  # the weights for FID are not on this machine
        assert options["method"] == "utlo" and options["batch_size"] == 64 and options["batch_gpu"] == 16
        assert options["G_kwargs"]["res_uc"] == 8 and options["loss_kwargs"]["alpha"] == 1.0
        assert options["metrics"] == ["fid_shots", "kid_shots", "fid50k_full", "kid50k_full"]
        assert options["image_snapshot_ticks"] == 500 and options["training_set_kwargs"]["xflip"]
        assert "example-run-af" in out


def bad(name, *flags, says):
    return pytest.param(list(flags), says, id=name)


@pytest.mark.parametrize("flags, says", [
    bad("no data", "--data=", says="--data"),
    bad("no outdir", "--data=DATA", "--outdir=", says="--outdir"),
    bad("missing file", "--data=nowhere.zip", says="nowhere.zip"),
    bad("not a zip", "--data=BROKEN", says="broken.zip"),
    bad("empty zip", "--data=EMPTY", says="empty.zip"),
    bad("no labels", "--data=PLAIN", "--cond=True", says="--cond"),
    bad("unknown fname", "--data=DATA", "--fname=lt_9.json", says="lt_9.json"),
    bad("fname with unknown files", "--data=DATA", "--fname=FOREIGN", says="nobody.png"),
    bad("subset", "--data=DATA", "--subset=1000", says="--subset"),
    bad("batch", "--data=DATA", "--batch=9", "--gpus=2", says="--batch"),
    bad("batch-gpu", "--data=DATA", "--batch=8", "--batch-gpu=3", says="--batch-gpu"),
    bad("mbstd", "--data=DATA", "--batch=12", "--batch-gpu=6", "--mbstd-group=4", says="--mbstd-group"),
    bad("res_uc", "--data=DATA", "--cond=1", "--res_uc=5", says="--res_uc"),
    bad("res_uc too large", "--data=DATA", "--cond=1", "--res_uc=32", says="--res_uc"),
    bad("alpha without uc", "--data=DATA", "--cond=1", "--method=utlo", "--add_uc=False", "--alpha=1", says="--alpha"),
    bad("another method's flag", "--data=DATA", "--method=stylegan2", "--res_uc=8", says="--res_uc"),
    bad("two methods", "--data=DATA", "--res_uc=8", "--transition=1-2", says="--method"),
    bad("unknown method", "--data=DATA", "--method=dcgan", says="--method"),
    bad("unknown stage", "--data=DATA", "--stage=FT", says="--stage"),
    bad("unknown metric", "--data=DATA", "--metrics=nope", says="nope"),
    bad("unknown flag", "--data=DATA", "--resolution=3", says="--resolution"),
    bad("unknown cfg", "--data=DATA", "--cfg=huge", says="--cfg"),
    bad("diffaug", "--data=DATA", "--diffaug=sparkle", says="sparkle"),
    bad("small images for filters", "--data=DATA", "--augpipe=bgcf", says="--augpipe"),
    bad("transition order", "--data=DATA", "--cond=1", "--t_start_kimg=4", "--t_end_kimg=2", says="--t_end_kimg"),
    bad("transition without labels", "--data=DATA", "--transition=1-2", says="--cond"),
    bad("resume nothing", "--data=DATA", "--outdir=OUT", "--resume=latest", says="--resume=latest"),
    bad("resume missing", "--data=DATA", "--outdir=OUT", "--resume=nowhere.pkl", says="nowhere.pkl"),
    bad("resume garbage", "--data=DATA", "--outdir=OUT", "--resume=BROKEN", says="broken.zip"),
    bad("balanced without labels", "--data=DATA", "--outdir=OUT", "--sampling=balanced", says="--cond"),
    bad("shift of what is empirical", "--data=DATA", "--cond=1", "--sampling_shift=1-2", says="--sampling_shift"),
    bad("shift that is none", "--data=DATA", "--cond=1", "--sampling=sqrt", "--sampling-shift=1",
        says="--sampling_shift"),
    bad("shift that ends before", "--data=DATA", "--cond=1", "--sampling=sqrt", "--sampling_shift=2-1",
        says="--sampling_shift"),
    bad("gSR without labels", "--data=DATA", "--gsr=0.5", says="--gsr"),
    bad("twins without labels", "--data=DATA", "--noisy-twins=0.01", says="--noisy_twins"),
    bad("reals by weight without labels", "--data=DATA", "--reweight_reals", says="--reweight_reals"),
    bad("p by class without labels", "--data=DATA", "--aug=ada-class", says="--aug=ada-class"),
    bad("another method's loss", "--data=DATA", "--method=biggan", "--cond=1", "--noisy_twins=1", says="--noisy_twins"),
    bad("recipe without labels", "--data=DATA", "--recipe=tail", says="--cond=True"),
    bad("recipe of another method", "--data=DATA", "--cond=1", "--method=hypermod", "--recipe=tail", says="--recipe"),
    bad("unknown recipe", "--data=DATA", "--cond=1", "--recipe=head", says="--recipe"),
    bad("unknown loss", "--data=DATA", "--gan_loss=wgan", says="--gan_loss"),
    bad("too many processes", "--data=DATA", "--outdir=OUT", "--gpus=512", "--batch=512", says="--gpus"),
])
def test_bad_input(call, tiny_zip, tmp_path, flags, says):
    names = {"DATA": tiny_zip, "BROKEN": tmp_path / "broken.zip", "EMPTY": tmp_path / "empty.zip",
             "PLAIN": tmp_path / "plain.zip", "FOREIGN": tmp_path / "foreign.json", "OUT": tmp_path / "out"}
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 this is not a zip")
    import zipfile

    import numpy as np

    zipfile.ZipFile(tmp_path / "empty.zip", "w").close()
    write_image_zip(tmp_path / "plain.zip", [np.zeros((16, 16), np.uint8)] * 4)
    (tmp_path / "foreign.json").write_text(json.dumps({"labels": [["nobody.png", 0]]}))
    flags = [re.sub("[A-Z]{3,}$", lambda m: str(names[m[0]]), f) for f in flags]
    if not any(f.startswith("--outdir") for f in flags) and says != "--outdir":
        flags.append("--dry-run")
    _, err = call("--cfg=tiny", "--metrics=none", *flags, code=2)
    assert says in err.strip().splitlines()[-1], err
    assert not list((tmp_path / "out").glob("*")), "nothing was trained, nothing may stay behind"


def test_output_folder_not_writable(refused, tiny_zip, tmp_path):
    (tmp_path / "file").write_text("")
    assert "file" in refused(*TINY, f"--data={tiny_zip}", f"--outdir={tmp_path / 'file' / 'runs'}", "--kimg=0.01")


def test_detector_weights_are_checked_before_training(call, tiny_zip, tmp_path):
    _, err = call("--cfg=tiny", f"--data={tiny_zip}", f"--outdir={tmp_path / 'o'}", "--metrics=fid50k_full", code=2)
    assert "fid50k_full" in err and "--detector" in err
    assert not (tmp_path / "o").exists()


def test_options_of_a_continued_run_must_agree(call, refused, tiny_zip, tmp_path, monkeypatch):
    loop, again = training_loop.run, []  # what a stop would say
    monkeypatch.setattr(training_loop, "run", lambda *a, **k: (again.append(a[3].again), loop(*a, **k))[1])
    base = [*TINY, f"--data={tiny_zip}", f"--outdir={tmp_path}", "--desc=a"]
    call(*base, "--kimg=0.016")
    out, _ = call(*base, "--kimg=0.016", "--resume=latest")
    assert "Done" in out
    with monkeypatch.context() as study:  # whoever runs one does not know this command
        study.setenv(STUDY, "1")
        call(*base, "--kimg=0.016", "--resume=latest")
    (run,) = tmp_path.glob("00000-*")
    assert "gamma" in refused(*base, f"--resume={run}", "--gamma=7", "--kimg=0.016")
    assert "--mirror" in refused(*base, f"--resume={run}", "--mirror=True", "--kimg=0.016")
    for flags, says in ((["--gsr=0.5", "--cond=1"], "--cond"), (["--gan_loss=hinge"], "gan_loss=None, not hinge"),
                        (["--r2_gamma=0.5"], "r2_gamma")):
        assert says in refused(*base, f"--resume={run}", *flags, "--kimg=0.016")
    out, _ = call(*base, f"--resume={run}", "--kimg=0.032")
    assert "Continuing" in out
    assert load(max(run.glob("network-snapshot-*.pkl"))).cur_nimg == 32
    # --resume=latest would look for the name of another --kimg
    assert again == ["continue with --resume=latest"] * 2 + ["run the command again to continue"] * 2


def test_a_continued_run_keeps_its_rounds(call, tiny_zip, tmp_path):
    """Not the images per process: what looks across a batch looks at a round of all processes."""
    base = [*TINY, f"--data={tiny_zip}", f"--outdir={tmp_path}", "--mbstd_group=2"]
    call(*base, "--batch-gpu=4", "--kimg=0.008")
    (run,) = tmp_path.glob("00000-*")
    again = [*base, f"--resume={run}", "--kimg=0.016"]
    _, err = call(*again, code=2)
    assert "2 rounds of 4 images per step, not 1 of 8" in err and "--batch-gpu=4 to continue it with --gpus=1" in err
    record = run / "training_options.json"
    options = json.loads(record.read_text())
    record.write_text(json.dumps(options | dict(num_gpus=2, batch_gpu=2)))  # by two processes: as many rounds
    out, _ = call(*again, "--batch-gpu=4")
    assert "Continuing" in out
    record.write_text(json.dumps(options | dict(num_gpus=8, batch_gpu=1)))
    _, err = call(*again, "--batch-gpu=4", code=2)
    assert "1 round of 8 images per step, not 2 of 4" in err and "give --batch-gpu=8" in err


def snapshot_of(call, tmp_path, data, *flags):
    call(*TINY, f"--data={data}", f"--outdir={tmp_path}", "--kimg=0.008", *flags)
    return max(tmp_path.glob("*/network-snapshot-*.pkl"), key=lambda p: p.parent.name)


def test_unconditional_source_to_conditional_target(call, tiny_zip, tmp_path):
    """Every class starts as the source's images, the report accounts for each tensor."""
    source = snapshot_of(call, tmp_path / "s", tiny_zip)
    out, _ = call(*TINY, f"--data={tiny_zip}", f"--outdir={tmp_path / 't'}", "--cond=True", f"--resume={source}",
                  "--kimg=0.008", "--glr=0", "--dlr=0")
    assert "G from G of the stylegan2 source: copied" in out and "mapping.embed.weight" in out
    target = load(max((tmp_path / "t").glob("*/network-snapshot-*.pkl")))
    a, b = load(source).build("G"), target.build("G")
    z = torch.randn(6, a.z_dim, generator=torch.Generator().manual_seed(0))
    want = a(z, None, noise_mode="const")
    for k in range(4):
        c = torch.nn.functional.one_hot(torch.full([6], k), 4).float()
        got = b(z, c, noise_mode="const")
        assert (got - want).abs().max() <= 1e-5 * want.abs().max()


@pytest.mark.parametrize("flags", [["--cond=True", "--add_uc=True", "--res_uc=4"], ["--cond=True", "--transition=0-1"]])
@pytest.mark.parametrize("source_flags", [[], ["--cond=True"]], ids=["unconditional", "conditional"])
def test_other_methods_start_from_a_stylegan2_snapshot(call, tiny_zip, tmp_path, flags, source_flags):
    source = snapshot_of(call, tmp_path / "s", tiny_zip, *source_flags)
    out, _ = call(*TINY, f"--data={tiny_zip}", f"--outdir={tmp_path / 't'}", *flags, f"--resume={source}",
                  "--kimg=0.008")
    copied = [int(n) for n in re.findall(r"source: copied (\d+)", out)]
    assert len(copied) == 3 and min(copied) > 20, out
    assert ("\nNote:         the run ends at 0.008 kimg" in out) == ("--transition=0-1" in flags)


@pytest.mark.parametrize("flags", [[], ["--method=biggan", "--g_ch=2", "--d_ch=2", "--standing=1"]],
                         ids=["stylegan2", "biggan"])
def test_a_run_that_began_with_weights_is_the_latest_without_naming_them(call, refused, tiny_zip, tmp_path, flags):
    """It goes on exactly, with what starting from weights has chosen; another run of the same flags is not taken."""
    flags = [*(flags or TINY[1:3]), "--cfg=tiny", "--batch=8", "--threads=1", "--metrics=none", f"--data={tiny_zip}",
             "--tick=0.008", "--snap=1"]
    if "--method=biggan" in flags:
        flags.append("--cond=True")
    call(*flags, f"--outdir={tmp_path / 's'}", "--kimg=0.008")
    (source,) = tmp_path.glob("s/*/network-snapshot-*.pkl")  # of the first step, which is the last
    base = [*flags, f"--outdir={tmp_path / 't'}", "--kimg=0.016", "--desc=x"]
    out, _ = call(*base, "--resume=auto")  # a fresh run, whose name is that of the flags without weights
    assert "--resume=auto: " in out and "a new one starts" in out
    call(*base, f"--resume={source}")
    fresh, run = sorted((tmp_path / "t").iterdir())
    assert "-resumecustom" in run.name and "-resumecustom" not in fresh.name
    options = json.loads((run / "training_options.json").read_text())
    assert options["resume_pkl"] == str(source)
    half = [p.name for p in training_loop.find_states(run)][1]
    before = weights_of(find_snapshots(run)[-1])
    for path in (training_loop.find_states(run)[0], find_snapshots(run)[-1]):
        path.unlink()
    assert [p.name for p in training_loop.find_states(run)] == [half]

    out, _ = call(*base, "--resume=latest")
    assert "Continuing at 0.0 kimg" in out and str(run) in out
    after = weights_of(find_snapshots(run)[-1])
    assert before.keys() == after.keys() and all(torch.equal(t, after[k]) for k, t in before.items())
    again = json.loads((run / "training_options.json").read_text())
    assert {k: again[k] for k in options} == options
    moved = source.rename(tmp_path / "moved.pkl")
    for words in (["latest"], ["latest", f"--source={moved}"], ["auto", f"--source={moved}"]):
        out, _ = call(*base, "--resume=" + words[0], *words[1:])
        assert str(run) in out and "Done: " in out
    out, _ = call(*base, "--resume=auto")
    assert f"--resume=auto: {fresh} goes on" in out and "Done: " in out
    out, _ = call(*base, "--resume=auto", "--dry-run")
    assert f"--resume=auto: {fresh} would go on" in out and "Time: not measured" in out
    for word in ("--cfg=tiny", "--dry-run"):
        assert "was started with random_seed=0, not 1" in refused(*base, "--resume=auto", "--seed=1", word)
    begun = fresh.with_name(fresh.name.replace("0000", "0009", 1))  # killed before its first state
    begun.mkdir()
    out, _ = call(*base, "--resume=auto")
    assert f"{begun} has no training state yet and starts anew; --resume={fresh} would continue that one" in out
    shutil.rmtree(begun)
    other = find_snapshots(fresh)[-1]
    assert "resume_pkl=" in refused(*base, "--resume=latest", f"--source={other}")
    assert "ffhq256" in refused(*base, "--resume=latest", "--source=ffhq256")
    call(*base)
    out, _ = call(*base, "--resume=latest")
    assert "00002-" in out and "-resumecustom" not in out


def test_weights_are_not_forgotten_where_nothing_names_them(call, tiny_zip, tmp_path):
    """A run stopped before its first state starts anew, with the weights that its record names or not at all."""
    source = snapshot_of(call, tmp_path / "s", tiny_zip)
    base = [*TINY, f"--data={tiny_zip}", f"--outdir={tmp_path / 't'}", "--kimg=0.008"]
    call(*base, f"--resume={source}", "--glr=0", "--dlr=0")
    (run,) = (tmp_path / "t").iterdir()
    for path in run.glob("*0000.p*"):
        path.unlink()
    out, _ = call(*base, "--glr=0", "--dlr=0", "--resume=latest")
    assert "G from G of the stylegan2 source" in out
    a, b = (weights_of(p) for p in (source, run / "network-snapshot-000000.pkl"))
    assert all(torch.equal(a[k], t) for k, t in b.items() if k.startswith("G.") and "w_avg" not in k)
    for path in [*run.glob("*0000.p*"), run / "training_options.json"]:
        path.unlink()
    _, err = call(*base, "--glr=0", "--dlr=0", "--resume=latest", code=2)
    assert "which weights it began with" in err and "--source" in err and err.count("\n") == 1


def test_wandb_absent_is_said_once(call, tiny_zip, tmp_path):
    try:
        import wandb  # noqa: F401

        pytest.skip("Weights & Biases is installed here")
    except ImportError:
        pass
    out, _ = call(*TINY, f"--data={tiny_zip}", f"--outdir={tmp_path}", "--kimg=0.016", "--wandb_proj=x")
    assert out.count("Weights & Biases is not installed") == 1 and "tick 1" in out


def test_published_layout_of_a_run(call, tiny_zip, tmp_path):
    call(*TINY, f"--data={tiny_zip}", f"--outdir={tmp_path}", "--cond=True", "--add_uc=True", "--res_uc=8",
         "--kimg=0.016", "--metrics=smoke")
    (run,) = tmp_path.glob("*")
    names = {p.name for p in run.iterdir()}
    assert {"training_options.json", "environment.json", "log.txt", "stats.jsonl", "reals.png", "fakes_init.png",
            "fakes000000.png", "fakes_uc000000.png", "network-snapshot-000000.pkl",
            "training-state-000000.pt"} <= names
    assert any(n.startswith("metric-smoke") for n in names)
    for line in (run / "stats.jsonl").read_text().splitlines():
        row = json.loads(line, parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
        assert {"Loss/G/loss", "Loss/scores/fake_uc", "Progress/kimg", "Timing/sec_per_kimg"} <= set(row)
    content = torch.load(run / "network-snapshot-000000.pkl", weights_only=True)
    assert content["format"] == "gantransfer-snapshot" and set(content["nets"]) == {"G", "D", "G_ema"}


def test_snapshots_of_one_kimg_have_names_of_their_own(call, tiny_zip, tmp_path):
    """Snapshots, states, sheets and metrics, in two parts as in one; all that names a snapshot of a run finds them."""
    flags = ["--cfg=tiny", "--cbase=32", "--cmax=4", "--batch=100", "--threads=1", "--metrics=smoke_fd_pixel16_64",
             f"--data={tiny_zip}", f"--outdir={tmp_path}", "--tick=0.4", "--snap=1", "--kimg=1.6"]
    labels = ["000000", "000000_400", "000000_800", "000001", "000001_600"]

    def files(run):
        named = {form: [p.name for p in numbered(run, form)] for form in ("network-snapshot-*.pkl", "fakes*.png")}
        return {form: [n.removeprefix(form.split("*")[0]).split(".")[0] for n in names]
                for form, names in named.items()}

    def measured(run):
        return [json.loads(line) for line in (run / "metric-smoke_fd_pixel16_64.jsonl").read_text().splitlines()]

    call(*flags, "--desc=whole")
    call(*flags, "--desc=parts", "--kimg=0.8")
    (part,) = tmp_path.glob("*-parts")
    assert [p.stem[15:] for p in training_loop.find_states(part)] == ["000000_800", "000000_400"]
    call(*flags, "--desc=parts", f"--resume={part}")
    (whole,) = tmp_path.glob("*-whole")
    for run in (whole, part):
        assert files(run) == {form: labels for form in files(run)}
        assert [load(p).cur_nimg for p in find_snapshots(run)] == [100, 400, 800, 1200, 1600]
        rows = measured(run)
        assert [(r["snapshot_pkl"][17:-4], r["kimg"]) for r in rows] == list(zip(labels[1:], [0.4, 0.8, 1.2, 1.6]))
        assert rating.resolve(f"{run}:latest") == str(run / "network-snapshot-000001_600.pkl")
        assert rating.resolve(f"{run}:best") == str(run / min(
            rows, key=lambda r: r["results"]["smoke_fd_pixel16_64"])["snapshot_pkl"])
    a, b = ([r["results"] for r in measured(run)] for run in (whole, part))
    assert a == b and len({r["smoke_fd_pixel16_64"] for r in a}) == 4
    out, _ = call(*flags, "--desc=new", f"--resume={whole}:latest", "--kimg=0.1")
    assert "network-snapshot-000001_600.pkl" in out and "copied" in out
    rating.keep_best(part, "smoke_fd_pixel16_64")
    assert len(find_snapshots(part)) == len({Path(rating.resolve(f"{part}:{k}")).name for k in ("best", "latest")})


def test_stops_when_nothing_improves(call, tiny_zip, tmp_path):
    """Learning rates of 0: the first rated snapshot stays the best, and training ends two later, also in two parts."""
    flags = ["--cfg=tiny", "--cbase=32", "--cmax=4", "--batch=100", "--threads=1", "--metrics=smoke_fd_pixel16_64",
             f"--data={tiny_zip}", "--glr=0", "--dlr=0", "--tick=0.2", "--snap=1", "--desc=x"]
    files = [f"network-snapshot-{label}.pkl" for label in ("000000", "000000_200", "000000_400", "000000_600")]

    def go(folder, *more):
        out, _ = call(*flags, f"--outdir={tmp_path / folder}", *more)
        (run,) = (tmp_path / folder).iterdir()
        return out, sorted(p.name for p in run.glob("network-snapshot-*.pkl")), run

    out, names, a = go("a", "--kimg=1.8", "--stop-after=2")
    assert f"has not improved for 2 snapshots; the best is {files[1]}" in out and "--stop-after" in out
    assert names == files
    out, names, _ = go("a", "--kimg=1.8", "--stop-after=2", "--resume=latest")
    assert "has not improved for 2 snapshots" in out and "Training for" not in out and len(names) == 4
    _, _, b = go("b", "--kimg=0.4", "--stop-after=2", "--keep=best")
    _, names, _ = go("b", "--kimg=1.8", "--stop-after=2", "--keep=best", f"--resume={b}")
    assert names == [files[1], files[3]]
    one, two = load(a / names[1]), load(b / names[1])
    for key, record in one.nets.items():
        assert all(torch.equal(t, two.nets[key].state[n]) for n, t in record.state.items())
    _, names, _ = go("b", "--kimg=1.8", "--stop-after=3", f"--resume={b}")
    assert names[-1] == "network-snapshot-000000_800.pkl"


def test_held_out_images_are_what_metrics_see(call, refused, tiny_zip, tmp_path):
    base = ["--cfg=tiny", "--cbase=32", "--cmax=4", "--batch=100", "--threads=1", "--metrics=smoke_fd_pixel16_64",
            "--cond=True", f"--data={tiny_zip}", f"--outdir={tmp_path}", "--kimg=1"]
    call(*base, "--heldout=3", "--desc=count")
    (run,) = tmp_path.glob("*-count")
    line = json.loads((run / "metric-smoke_fd_pixel16_64.jsonl").read_text().splitlines()[0])
    spec = DataSpec.from_dict(load(run / "network-snapshot-000001.pkl").data)
    assert line["num_real"] == 12 and spec.num_images == 28 and spec.heldout == 3 and spec.label.counts == (7,) * 4
    call(*base, f"--heldout={tiny_zip}", "--desc=path")
    (run,) = tmp_path.glob("*-path")
    line = json.loads((run / "metric-smoke_fd_pixel16_64.jsonl").read_text().splitlines()[0])
    assert line["num_real"] == 40
    for flag, says in (("--heldout=10", "class 0"), ("--heldout=0", "--heldout=0"), ("--heldout=no.zip", "no.zip")):
        assert says in refused(*base, flag, "--desc=bad") and not list(tmp_path.glob("*-bad"))
    _, err = call(*[f for f in base if "metrics" not in f], "--metrics=none", "--stop-after=2", code=2)
    assert "--stop-after" in err and "--metrics" in err


def test_recorded_options_are_those_in_use(call, tiny_zip, tmp_path):
    """What names a class names one of ours; readers are threads, not a torch DataLoader's settings."""
    options, _ = dry(call, f"--data={tiny_zip}", "--cond=True", "--aug=ada", "--target=0.6", "--workers=2", *TINY)
    assert options["reader_threads"] == 2 and "data_loader_kwargs" not in options
    named = []

    def walk(value):
        for k, v in value.items() if isinstance(value, dict) else ():
            if k == "class_name":
                named.append(v)
            walk(v)

    walk(options)
    assert len(named) == 7
    for path in named:
        module, _, name = path.rpartition(".")
        assert isinstance(getattr(importlib.import_module(module), name), type), path


def test_a_shift_is_recorded_where_there_is_one(call, tiny_zip):
    base = [f"--data={tiny_zip}", "--cond=True", "--sampling=balanced", *TINY]
    assert "sampling_shift" not in dry(call, *base)[0]
    assert dry(call, *base, "--sampling_shift=0.5-2")[0]["sampling_shift"] == [0.5, 2.0]


def test_the_recipe_for_the_tail_gives_its_flags_where_none_is_given(call, tiny_zip):
    base = [f"--data={tiny_zip}", "--cond=True", *TINY, "--kimg=8", "--batch=16", "--recipe=tail"]
    options, out = dry(call, *base)
    # 16 pixels instead of 32, and half the batch: a quarter of the weight, twice.
    assert ("Recipe tail: --sampling=balanced --sampling_shift=2-4 --gan_loss=rpgan --gamma=0.025 --r2_gamma=0.025\n"
            in out)
    assert options["sampling"] == "balanced" and options["sampling_shift"] == [2.0, 4.0]
    own = options["options"]
    assert (own["gan_loss"], own["gamma"], own["r2_gamma"]) == ("rpgan", 0.025, 0.025)
    options, out = dry(call, *base, "--gamma=1", "--sampling=sqrt", "--add_uc=True")
    assert (options["sampling"], options["options"]["gamma"], options["method"]) == ("sqrt", 1.0, "utlo")
    assert options["options"]["r2_gamma"] == 0.025 and "--gamma" not in out.split("Recipe tail:")[1].splitlines()[0]


def test_methods_with_their_sources_sizes_record_none_of_their_own():
    from gantransfer.method import RunConfig
    from gantransfer.methods import METHODS
    from gantransfer.methods.stylegan2 import SOURCE_SIZES

    data = DataSpec.from_dict(dict(name="x", resolution=16, channels=3, num_images=20,
                                   label=dict(kind="class", dim=2, counts=[10, 10])))
    for name in ("styletransfer", "mind_tune", "hypermod"):
        method, run = METHODS[name], RunConfig(resume="source.pkl")
        opts = method.Options(cfg="tiny")
        method.resolve(opts, run, data)
        config = method.config(opts, run, data)
        assert not {"G_kwargs", "D_kwargs"} & config.keys(), name
        assert all(opts.to_dict()[key] is None for key in SOURCE_SIZES), name


def test_a_value_that_rates_nothing_is_refused_at_the_start(call, tiny_zip):
    _, err = call(f"--data={tiny_zip}", "--metrics=is5k", "--best=is5k_std", "--cfg=tiny", "--dry-run", code=2)
    assert "--best=is5k_std rates no snapshots" in err and err.count("\n") == 1
    _, err = call(f"--data={tiny_zip}", "--metrics=smoke", "--best=fid50k", "--cfg=tiny", "--dry-run", code=2)
    assert err == "Error: --best=fid50k is not measured; there are smoke_fd_pixel16_256, smoke_kid_pixel16_256\n"
