# SPDX-License-Identifier: Apache-2.0
"""Runs and experiments as one page: `gantransfer report RUN [RUN ...] --out=report.html`; a training as a film."""

from __future__ import annotations

from pathlib import Path

import click

from dnnlib.util import UserError, atomic_write, check_writable, three
from gantransfer.commands import CONTEXT
from gantransfer.commands.flags import DEVICE, KERNELS, PATH, PATHS, RUN, FloatRange, IntRange, option, parse_seeds


@click.command(context_settings=CONTEXT)
@click.argument("folders", nargs=-1, required=True, type=RUN, metavar="RUN...")
@click.option("--out", type=PATH, metavar="FILE.html", help="The page [default: report.html, or none with --video]")
@click.option("--video", type=PATH, metavar="FILE[.mp4|.webp]",
              help="A film of one run: the same seeds and classes from snapshot to snapshot")
@click.option("--seeds", metavar="LIST", default="0-7", show_default=True, help="... of these seeds, a column each")
@click.option("--fps", type=FloatRange(0.1, 60), default=4, show_default=True, help="... at so many snapshots a second")
@click.option("--tail", "per_class", type=IntRange(min=0), default=24, show_default=True,
              help="Fakes of each rare class whose nearest training images are searched; 0: none")
@click.option("--data", type=PATH, metavar="PATH", help="Training images, where they have moved since")
@click.option("--detector", type=PATHS, metavar="[NAME=]FILE",
              help="What is near, by this network [default: what the run was measured by, else pixels]")
@option(DEVICE)
@option(KERNELS)
def main(folders: tuple[str, ...], out: str | None, video: str | None, seeds: str, fps: float, per_class: int,
         data: str | None, detector: str | None, device: str) -> None:
    """Show runs and experiments in one self-contained HTML file, which opens offline.

    RUN is a run's folder, one that is going on too, or an experiment's; a number stands for a run of runs/, and latest
    for the newest one.

    \b
    gantransfer report latest
    gantransfer report runs/00003-... runs/00004-... --out=both.html
    gantransfer report 3 --video=training.mp4
    """
    chosen = parse_seeds(seeds)
    if video and len(folders) > 1:
        raise UserError("--video shows one run; name one")
    if out and Path(out).suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out={out} should end in .html")
    out = out or (None if video else "report.html")
    check_writable("--out", out, True)
    from gantransfer.commands.flags import pick_device
    from gantransfer.detectors.features import parse_overrides
    from gantransfer.pictures import video as films
    from gantransfer.report import plot

    if video:
        video = films.named(video)
    if out:
        plot.check_installed()
    where = pick_device(device)
    detectors = parse_overrides(detector.split(",")) if detector else {}
    if out:
        _write_page(out, [Path(f) for f in folders], per_class, data, detectors, where)
    if video:
        _write_film(video, Path(folders[0]), chosen, fps, where)


def _write_page(out: str, folders: list[Path], per_class: int, data: str | None, detectors: dict[str, Path],
                where) -> None:
    from gantransfer.report import classes, page, read, study, tail

    runs, studies, notes, asked = [], [], [], 0
    for folder in folders:
        if read.is_run(folder):
            runs.insert(asked, read.read(folder))
            asked += 1
        elif study.is_study(folder):
            studies.append(found := study.read(folder))
            runs += map(read.read, found.runs[:study.RUNS])
            if len(found.runs) > study.RUNS:
                notes.append(f"{study.RUNS} of {len(found.runs)} runs of {found.name} are drawn")
        else:
            inside = study.run_folders(folder)
            what = f"it is a folder of {len(inside)} runs: name one, such as {inside[-1]}" if inside else (
                "it holds neither a run (training_options.json, stats.jsonl) nor an experiment (study.json, table.md)")
            raise UserError(f"{folder} cannot be reported: {what}")
    for run in runs:
        run.labels = classes.continuous_labels(run)
    for run in runs[:asked] if per_class else ():
        try:
            run.tail = tail.look(run, per_class, data, detectors, where)
        except UserError as e:
            run.tail = str(e)
    content = page.page(runs, studies, notes)
    with atomic_write(out) as f:
        f.write(content)
    what = f"{len(runs)} run{'s' * (len(runs) != 1)}"
    what += f" and {len(studies)} experiment{'s' * (len(studies) > 1)}" if studies else ""
    print(f"{out}: {what}, {three(Path(out).stat().st_size / 1e6, 'MB')}")
    for run in runs:
        if isinstance(run.tail, str):
            print(f"No nearest training images of {run.name}: {run.tail}")


def _write_film(video: str, folder: Path, seeds: list[int], fps: float, where) -> None:
    from gantransfer.pictures import timelapse
    from gantransfer.pictures.video import write_film
    from gantransfer.report import read

    run = read.read(folder)
    if not run.snapshots:
        raise UserError(f"{folder} has no network-snapshot-*.pkl: there is nothing to film")

    def snapshots():
        for path in run.snapshots:
            model = read.generator(path)
            yield f"{run.name}: {three(model.cur_nimg / 1000, 'kimg')}", model.sampler(where)

    frames = timelapse.film(snapshots(), seeds)
    write_film(video, frames, fps, hold=2)
    print(f"{video}: {len(frames)} snapshot{'s' * (len(frames) > 1)}, {three(len(frames) / fps, 's')}")
