# SPDX-License-Identifier: Apache-2.0
"""Which processes a study starts: they are recorded and do not run, but leave files like those they would make."""

import contextlib
import io
import json
import re
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

from click.testing import CliRunner

from gantransfer.experiments import digit_students, jobs
from gantransfer.snapshot import Snapshot

# Column names of all judges' reports; every figure is made up.
FIGURES = ("class_fd", "class_fd_few", "fd_pix64", "accuracy", "accuracy_few", "diversity", "nearest", "fd")
STUDIES = ("demo", "longtail", "cgantransfer", "hypermod", "mind2mind", "ccgan", "distill")
# Study -> flags of several calls. "again": the same once more after the runs lost their last training state.
CALLS = [
    ("demo", []), ("demo", ["--all", "--seed=3", "--kimg=2", "again"]),
    ("longtail", []),
    ("longtail", ["--arms=lecam,sqrt,effective,utlo8,transitional", "--seeds=2", "--kimg=0.5", "--judges=1", "--imf=50",
                  "again"]),
    ("cgantransfer", []),
    ("cgantransfer", ["--arms=all", "--seeds=2", "--kimg=2,4,16", "--shots=5", "--source-kimg=3", "--judges=2",
                      "--picture-kimg=4", "again"]),
    ("cgantransfer", ["--arms=minegan,bn-ft", "--kimg=2"]),
    ("hypermod", []),
    ("hypermod", ["--arms=all", "--seeds=2", "--first-seed=4", "--kimg=2,3", "--shots=4", "--source-kimg=2",
                  "--judges=2", "--flags=full:--glr=0.01,finetune:--glr=0.001", "--validate", "again"]),
    ("mind2mind", []),
    ("mind2mind", ["--arms=all", "--seeds=2", "--kimg=2", "--epochs=3", "--source-kimg=3", "--encoder-kimg=2",
                   "--judges=2", "again"]),
    ("ccgan", []), ("ccgan", ["--seeds=2", "--first-seed=3", "--images=30", "--gan-kimg=2", "--student-kimg=3",
                              "again"]),
    ("distill", []), ("distill", ["--folds=2", "--settings=longtail,balanced", "--gan-kimg=3", "--student-kimg=5.5",
                                  "again"]),
]


class Finished(Exception):
    """What follows needs trained networks; every process was started before."""


def record(study: str, flags: list[str], folder: Path, monkeypatch, made: dict | None = None) -> list[list[str]]:
    """Argument lists, in order, of everything that the study starts; the study's folder is called DIR."""
    folder.mkdir(parents=True, exist_ok=True)
    asked: list[list[str]] = []
    made = {} if made is None else made

    class Process:
        returncode = 0

        def __init__(self, argv: list[str], **_):
            words = normalised(argv[1:], folder)
            asked.append(words)
            act(words[0], [w.replace("DIR", str(folder)) for w in words[1:]], made)
            self.stdout = io.StringIO()

        def poll(self) -> int:
            return 0

        wait = terminate = poll

    def call(command, *words: str) -> None:
        words = [str(w) for w in words]
        asked.append(["distill", command.name, *(w.replace(str(folder), "DIR") for w in words)])
        act(f"distill {command.name}", words, made)

    def finish(*_, **__):
        raise Finished

    module = import_module(f"gantransfer.experiments.{study}")
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "subprocess", SimpleNamespace(Popen=Process, PIPE=None, STDOUT=None))
        patch.setattr("gantransfer.commands.distill.call", call)
        for name in ("gantransfer.model.load", "gantransfer.latent.cache.read",
                     "gantransfer.distillation.fakes.read"):
            patch.setattr(name, finish)
        if study == "distill":
            patch.setattr(digit_students, "agreements", lambda *_: dict.fromkeys((
                "teacher_drawn", "teacher_filtered", "teacher_final", "judge_raw", "judge_filtered",
                "judge_processed"), 0.5))
        for _ in range(2 if "again" in flags else 1):
            with contextlib.suppress(Finished), contextlib.redirect_stdout(io.StringIO()):
                module.main([f"--dir={folder}", *(f for f in flags if f != "again")], standalone_mode=False)
            asked.append(["end"])
            if "again" in flags:
                for path in (*folder.rglob("training-state-*.pt"), *folder.glob("results/*")):
                    path.unlink()
    return asked


def normalised(argv: list[str], folder: Path) -> list[str]:
    """Scripts at the top of the checkout and `-m gantransfer COMMAND` are one; the study's folder is called DIR."""
    name, rest = (argv[2], argv[3:]) if argv[:2] == ["-m", "gantransfer"] else (Path(argv[0]).stem, argv[1:])
    return [name, *(w.replace(str(folder), "DIR") for w in rest)]


def act(name: str, words: list[str], made: dict) -> None:
    """Leave what the command would leave."""
    flags = {w.partition("=")[0]: w.partition("=")[2] for w in words}
    if name == "dataset_tool":  # really; the same one once
        dest = Path(flags.pop("--dest"))
        key = tuple(flags.items())
        if "--holdout" in flags:  # two sets
            return really(name, words)
        if key not in made:
            really(name, words)
            made[key] = dest.read_bytes()
        dest.write_bytes(made[key])
    elif name == "lt_dataset":
        really(name, words)
    elif name == "judge":
        Path(flags["--out"]).touch()
    elif name == "train":
        train(flags)
    elif name == "calc_metrics":
        network = Path(flags["--network"])
        folder = Path(flags.get("--outdir", network.parent))
        folder.mkdir(exist_ok=True)
        for metric in flags["--metrics"].split(","):
            with open(folder / f"metric-{metric}.jsonl", "a") as f:
                print(json.dumps(dict(snapshot_pkl=network.name,
                                      results={f"{metric}_{c}": 0.5 for c in FIGURES})), file=f)
    elif name.startswith("distill"):
        distilled(name.split()[1], flags)
    else:
        assert name == "encode", name


def really(name: str, words: list[str], room: str = "commands") -> None:
    """Within this process, what it prints put aside; raises its UserError."""
    CliRunner().invoke(import_module(f"gantransfer.{room}.{name}").main, words, catch_exceptions=False,
                       standalone_mode=False)


def children_within(monkeypatch) -> None:
    """A study's commands run in this process, one after the other: most of a short child is its start, which
    test_distill.py shows."""
    def start(job: jobs.Job, *rest):
        really(job.argv[0], job.argv[1:])
        return job, SimpleNamespace(poll=lambda: 0, returncode=0), SimpleNamespace(join=lambda: None), []

    monkeypatch.setattr(jobs, "_start", start)


def train(flags: dict[str, str]) -> None:
    if "--dry-run" in flags:
        return
    outdir, kimg = Path(flags["--outdir"]), float(flags["--kimg"])
    found = [p for p in outdir.glob("*") if re.fullmatch(rf"\d+-set-kimg{kimg:g}-{flags['--desc']}", p.name)]
    assert bool(found) == (flags.get("--resume") == "latest")
    run = found[0] if found else outdir / f"{len([*outdir.glob('*')]):05d}-set-kimg{kimg:g}-{flags['--desc']}"
    run.mkdir(parents=True, exist_ok=True)
    for k in {int(kimg), *(range(int(flags["--snap"]), int(kimg), int(flags["--snap"])) if "--snap" in flags else ())}:
        Snapshot("stylegan2", {}, cur_nimg=int(kimg * 1000)).save(run / f"network-snapshot-{k:06d}.pkl")
    (run / f"training-state-{int(kimg):06d}.pt").touch()
    (run / "stats.jsonl").write_text(json.dumps({"Progress/kimg": {"mean": kimg}, "Timing/total_sec": {"mean": 1}}))


def distilled(stage: str, flags: dict[str, str]) -> None:
    if "--dry-run" in flags:
        return None
    if "--dest" in flags:
        return Path(flags["--dest"]).touch()
    folder = Path(flags["--outdir"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stage}.pkl").touch()
    figures = dict(mae=1.0, accuracy=0.5)
    (folder / "results.json").write_text(json.dumps(dict(last=figures, images_seen=1, seconds=1.0)))
    scores = dict.fromkeys(("held-out reals", "raw", "filtered", "relabelled"), 1.0)
    (folder.parent / "label_score.json").write_text(json.dumps(scores))
