# SPDX-License-Identifier: Apache-2.0
"""gantransfer experiment ccgan: regressors taught by generated images of a continuous label: CcGAN and cGAN-KD.

Handwritten digits turned by a known angle. For every seed: a few training images, a CcGAN of the angle, a teacher,
generated images for all angles, and small networks that read the angle. These all see equally many images: real ones
only, or half generated ones: as they come, filtered by the teacher, or filtered and relabelled (cGAN-KD). Tested on
held-out digits. Every step is a command, what is there already is kept; with --seeds=5 it is the published comparison.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np

from dnnlib import json_file, seeding
from dnnlib.util import atomic_write
from gantransfer.commands.flags import SEED, IntRange
from gantransfer.experiments import harness, sheets
from gantransfer.experiments.harness import Arm, student_result
from gantransfer.metrics.paired import critical_t, difference, spread, table, versions

# Students; the last word: which fakes they see
ARMS = {"real": Arm("real only"), "raw": Arm("+ raw fakes", more="raw"), "filtered": Arm("+ filtered", more="filtered"),
        "cgankd": Arm("+ filtered, relabelled (cGAN-KD)", more="relabelled")}
PRIMARY = ("real", "cgankd", "mae")
TESTED = [("real", "raw"), ("raw", "filtered"), ("filtered", "cgankd"), ("real", "cgankd")]
PER_ANGLE, RHO, SHARE = 40, 0.7, 0.5


@harness.flags(
    "runs/ccgan_demo",
    click.option("--seeds", type=IntRange(min=1), default=1, show_default=True,
                 help="Repetitions: other images, angles, held-out digits and networks"),
    click.option("--first-seed", type=SEED, default=0, show_default=True, help="Number of the first one"),
    click.option("--images", type=IntRange(min=20, max=400), default=150, show_default=True, help="Training images"),
    click.option("--gan-kimg", type=IntRange(min=1), default=16, show_default=True,
                 help="Length of the GAN, without its label code"),
    harness.student_kimg(20), harness.OUT_TABLE)
def main(folder: Path, seeds: int, first_seed: int, images: int, gan_kimg: int, student_kimg: float,
         out: Path | None) -> None:
    """Turned digits: train a CcGAN, generate by angle, teach small networks, compare, look."""
    chosen = range(first_seed, first_seed + seeds)
    study = harness.Study(folder, [*(f"{what} of seed {s}" for s in chosen for what in (
        "data", "GAN", "teacher", "fakes", "students")), "table and picture"])
    results = [one_seed(study, folder / f"seed{s}", s, images, gan_kimg, student_kimg) for s in chosen]
    study.step()
    picture = folder / "ccgan.png"
    draw(picture, folder / f"seed{first_seed}")
    command = dict(seeds=list(chosen), images=images, gan_kimg=gan_kimg, student_kimg=student_kimg, rho=RHO,
                   fakes_per_angle=PER_ANGLE, fake_batch_share=SHARE)
    study.finish(report(results, images, gan_kimg, student_kimg),
                 dict(command=command, primary=PRIMARY, versions=versions(), results=results),
                 ("table.md", "table.json"), picture, out)


def one_seed(study: harness.Study, folder: Path, seed: int, images: int, gan_kimg: int, student_kimg: float) -> dict:
    """Everything of one seed; the figures."""
    from gantransfer.commands import distill

    folder.mkdir(parents=True, exist_ok=True)
    study.step()
    pool, test, others = (folder / f"{n}.zip" for n in ("pool", "test", "others"))
    study.run(harness.data_jobs("rotated-digits", {
        pool: dict(split="pool", seed=seed), test: dict(split="reference", seed=seed),
        others: dict(split="all", seed=seed + 1000)}), quiet=True)
    train = folder / "train.json"
    if not train.exists():
        choose(pool, seed, images, train)
    real = [f"--data={pool}", f"--fname={train}"]
    study.step()
    (snapshot,) = study.train([(f"gan{seed}", folder / "gan", f"seed{seed}", gan_kimg + 32, [
        "--method=ccgan", "--cfg=tiny", *real, f"--seed={seed}", "--metrics=none", "--threads=1"])])
    (folder / "snapshot.txt").write_text(str(snapshot))
    study.step()
    common = ["--preset=digits", *real, f"--test={test}", f"--seed={seed}", "--threads=1"]
    distill.call(distill.teacher, *common, f"--outdir={folder / 'teacher'}")
    study.step()
    made = {n: folder / f"{n}.zip" for n in ("raw", "filtered", "relabelled")}
    if not made["raw"].exists():
        distill.call(distill.fakes, *real, f"--network={snapshot}", f"--teacher={folder / 'teacher' / 'teacher.pkl'}",
                     f"--seed={seed}", "--num-labels=91", f"--num-per-label={PER_ANGLE}", "--rho=1", "--threads=1",
                     f"--dest={made['raw']}")
    for name, replace in (("filtered", False), ("relabelled", True)):
        if not made[name].exists():
            distill.call(distill.refilter, f"--fakes={made['raw']}", f"--rho={RHO}", f"--replace={replace}",
                         f"--dest={made[name]}")
    study.step()
    out: dict = dict(seed=seed, students={}, teacher=student_result(folder / "teacher"),
                     label_score=scores(folder, others, test, made, seed))
    for name, arm in ARMS.items():
        words = [f"--fakes={made[arm.more]}", f"--fake_batch_share={SHARE}"] if arm.more else []
        distill.call(distill.student, *common, f"--kimg={student_kimg:g}", f"--outdir={folder / name}", *words)
        out["students"][name] = student_result(folder / name)
    return out


def choose(pool: Path, seed: int, count: int, path: Path) -> None:
    """A label file of `count` images."""
    from gantransfer.data.dataset import ImageDataset

    data = ImageDataset(pool, use_labels=True)
    rows = np.sort(seeding.numpy_rng(seed).permutation(len(data))[:count])
    labels = [[data.get_details(int(i)).name, [float(data.get_label(int(i))[0])]] for i in rows]
    with atomic_write(path) as f:
        json.dump({"labels": labels}, f)


def scores(folder: Path, others: Path, test: Path, made: dict[str, Path], seed: int) -> dict[str, float]:
    """Mean distance between labels and what a judge of its own sees, in degrees: held-out reals, then fakes by stage.

    The judge learns from all digits at other angles.
    """
    from gantransfer.data.dataset import ImageDataset
    from gantransfer.detectors import judge_training

    path = folder / "label_score.json"
    if not path.exists():
        learn = ImageDataset(others, use_labels=True)
        every = np.arange(len(learn))
        net = judge_training.train_judge(learn.images_uint8(every), learn.labels(every)[:, 0], seed=seed + 1000,
                                         epochs=60, label=learn.spec.label)
        values = {}
        for name, zip_path in {"held-out reals": test, **made}.items():
            data = ImageDataset(zip_path, use_labels=True)
            rows = np.arange(len(data))
            values[name] = judge_training.mean_error(net, data.images_uint8(rows), data.labels(rows)[:, 0])
        with atomic_write(path) as f:
            json.dump(values, f)
    return json_file.read(path)


def report(results: list[dict], images: int, gan_kimg: int, student_kimg: float) -> str:
    """Markdown: error of the angle by student, label error of the fakes by stage, paired differences."""
    n = len(results)
    mae = {a: [r["students"][a]["mae"] for r in results] for a in ARMS}
    lines = [f"{images} training images, {n} seed{'s' * (n > 1)}, every student sees {student_kimg:g} thousand images, "
             f"with fakes half of them generated; {gan_kimg} kimg of GAN, rho {RHO:g}. Mean +- sample standard "
             f"deviation over seeds. Primary, fixed before the runs: {PRIMARY[1]} minus {PRIMARY[0]}.", ""]
    lines += table(["student trained on", "mean absolute error on held-out digits, degrees"],
                   [*([ARMS[a].title, spread(mae[a])] for a in ARMS),
                    ["(the teacher, real only)", spread([r["teacher"]["mae"] for r in results])]])
    lines += ["", *table(["images", "label error by an independent judge, degrees"],
                         [[k, spread([r["label_score"][k] for r in results])] for k in results[0]["label_score"]])]
    if n > 1:
        lines += ["", f"Paired differences of the error, mean +- standard error (seeds in which it is lower). Bold: "
                      f"beyond {critical_t(n):.2f} standard errors (t, 5 %).", ""]
        lines += table(["", ""], [[f"{ARMS[b].title} minus {ARMS[a].title}", difference([mae[a]], [mae[b]]).cells()[0]]
                                  for a, b in TESTED])
    else:
        lines += ["", "One seed does not rank anything; --seeds=5 repeats it with others."]
    return "\n".join(lines)


def draw(path: Path, folder: Path) -> None:
    """Rows: angles. Left: training images near the angle, right: generated ones, a column per latent."""
    import torch

    from gantransfer.data.dataset import ImageDataset

    sampler = sheets.sampler_of(Path((folder / "snapshot.txt").read_text()))
    data = ImageDataset(folder / "pool.zip", fname=str(folder / "train.json"), use_labels=True)
    y = data.labels(np.arange(len(data)))[:, 0]
    angles, columns = np.linspace(0, 90, 10), 8
    sheets.save_sheet(path, {
        "training images nearest to the angle": [
            data.images_uint8(np.argsort(np.abs(y - a), kind="stable")[:columns]) for a in angles],
        "generated, a latent per column": [
            sampler(range(columns), torch.full([columns, 1], float(a))).numpy() for a in angles],
    }, [f"{a:g} degrees" for a in angles])
