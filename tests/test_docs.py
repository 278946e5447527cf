# SPDX-License-Identifier: Apache-2.0
"""The documents against the code: flags, defaults, links, presets, metric names, messages, and the examples run."""

import argparse
import dataclasses
import importlib
import importlib.util
import io
import json
import os
import pickle
import re
import shlex
import signal
import subprocess
import sys
import time
import types
import zipfile
from pathlib import Path

import click
import numpy as np
import pytest
import torch
import torch.distributed.run as torchrun
import yaml
from PIL import Image

import gantransfer
from dnnlib.util import run_cli
from gantransfer import methods
from gantransfer.commands import method_flags, train_flags
from gantransfer.distillation import presets
from gantransfer.experiments import harness, longtail
from gantransfer.methods import cgan_kd, density_ratio
from gantransfer.methods.stylegan2 import CFGS
from gantransfer.metrics import table as metrics
from gantransfer.snapshot import load
from tests.conftest import ROOT, write_image_zip

DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
PROGRAM = (r"(?:(?:python3? -m )?gantransfer (?:(?P<room>experiment) )?(?P<command>[a-z]\w+)"
           r"|python3?(?: -W \w+)? (?P<script>\w+)\.py|torchrun (?P<run>\w*))")
OTHERS = {"--standalone", "--nproc-per-node", "--nnodes", "--rdzv-id", "--rdzv-backend", "--rdzv-endpoint",
          "--max-restarts", "--dist", "--no-loadscope-reorder", "--record-durations",  # torchrun, pytest
          "--rdzv-conf", "--signals-to-handle", "--nodes", "--signal", "--requeue", "--open-mode",  # sbatch
          "--index-url", "--help"}
TABLES = [("gantransfer.commands.train", "train.md"), ("gantransfer.commands.dataset_tool", "dataset_tool.md"),
          ("gantransfer.commands.lt_dataset", "lt_dataset.md"),
          ("gantransfer.commands.calc_metrics", "calc_metrics.md"),
          ("gantransfer.commands.judge", "calc_metrics.md"),
          ("gantransfer.commands.generate", "generate.md"), ("gantransfer.commands.view", "view.md"),
          ("gantransfer.commands.project", "project.md"),
          ("gantransfer.experiments.demo", "compare.md"),
          ("gantransfer.experiments.longtail", "compare.md"), ("gantransfer.commands.convert", "convert.md"),
          ("gantransfer.experiments.cgantransfer", "methods/cgantransfer.md"),
          ("gantransfer.commands.inspect", "convert.md"),
          ("gantransfer.commands.interpolate", "methods/hypermod.md"), ("gantransfer.commands.report", "report.md"),
          ("gantransfer.experiments.hypermod", "methods/hypermod.md"),
          ("gantransfer.commands.encode", "methods/mind2mind.md"),
          ("gantransfer.experiments.mind2mind", "methods/mind2mind.md"), ("gantransfer.commands.distill", "distill.md"),
          ("gantransfer.experiments.distill", "distill.md"), ("gantransfer.experiments.ccgan", "methods/ccgan.md")]
# Sub-command of distill: the sections of its page that hold its flags.
DISTILL = {"teacher": ["Every training stage", "teacher"], "student": ["Every training stage", "student"],
           "ratio": ["Every training stage", "ratio"], "fakes": ["Every training stage", "fakes"],
           "refilter": ["fakes", "refilter"], "select-rho": ["Every training stage", "select-rho"],
           "report": ["report"]}


def by_name(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda p: p.name)


def blocks(text: str, kind: str = r"\w*") -> list[str]:
    """Contents of the fenced blocks of a language."""
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.M | re.S)


def section(text: str, heading: str) -> str:
    """From a heading to the next one of its level or above."""
    (found,) = re.finditer(rf"^(#+) {re.escape(heading)}$", text, re.M)
    end = re.search(rf"^#{{1,{len(found[1])}}} ", text[found.end():], re.M)
    return text[found.end():][: end.start() if end else None]


def rows(text: str) -> list[list[str]]:
    """Cells of all table rows, without headers and rules."""
    found, lines = [], text.splitlines()
    for i, line in enumerate(lines):
        below = lines[i + 1] if i + 1 < len(lines) else ""
        if line.startswith("|") and not re.match(r"\|[-|]+$", line) and not re.match(r"\|[-|]+$", below):
            found.append([c.strip() for c in line.strip("|").split("|")])
    return found


def prose(text: str) -> list[tuple[int, str]]:
    """(line number, line) outside fenced blocks, whose own lines become empty ones."""
    out, fenced = [], False
    for i, line in enumerate(text.splitlines(), 1):
        fence = line.lstrip().startswith("```")
        out.append((i, "" if fence or fenced else line))
        fenced ^= fence
    return out


def broken_tables(text: str) -> list[str]:
    """What is wrong with the tables of a page: rows of other lengths than the header, text that stands in a table or
    right against one (which renders as a row of it), rows without a header."""
    def cells(line: str) -> int:
        return len(re.split(r"(?<!\\)\|", line.strip())) - 2

    lines, found, header = prose(text), [], 0
    for k, (i, line) in enumerate(lines):
        row = line.lstrip().startswith("|")
        before, after = (lines[j][1] if 0 <= j < len(lines) else "" for j in (k - 1, k + 1))
        if not row:
            if header and line.strip():
                found.append(f"line {i}: text in a table")
            header = header if line.strip() else 0
        elif not header:
            if before.strip():
                found.append(f"line {i}: a table right behind text")
            if not re.fullmatch(r"\|(\s*:?-+:?\s*\|)+", after.strip()):
                found.append(f"line {i}: a row without a header")
            header = cells(line)
        elif cells(line) != header or not line.rstrip().endswith("|"):
            found.append(f"line {i}: {cells(line)} cells under a header of {header}")
    return found


def paragraphs(text: str) -> list[str]:
    """Paragraphs and list items of a page, white space made one; no tables, headings, pictures or fenced blocks."""
    joined = "\n".join(line if not re.match(r"\s*([|#!])", line) else "" for _, line in prose(text))
    return [" ".join(p.split()) for p in re.split(r"\n\s*\n|\n(?=\s*(?:[*+-]|\d+\.) )", joined) if p.strip()]


def repeated(text: str, shortest: int = 60) -> list[str]:
    """Sentences of at least so many characters that stand in a page more than once."""
    sentences = [s for p in paragraphs(text) for s in re.split(r"(?<=[.:!?]) ", p) if len(s) >= shortest]
    return [s for s in dict.fromkeys(sentences) if sentences.count(s) > 1]


def command_of(name: str) -> click.Command:
    return importlib.import_module(name).main


def options_of(command: click.Command) -> dict[str, click.Option]:
    """Flag, in every spelling -> option."""
    return {s: p for p in command.params if isinstance(p, click.Option) for o in [*p.opts, *p.secondary_opts]
            for s in spellings(o)}


def spellings(flag: str) -> set[str]:
    """`--a-b` and `--a_b`, which are one: commands.CONTEXT."""
    dashes = flag[: len(flag) - len(flag.lstrip("-"))]
    name = flag[len(dashes):]
    return {dashes + name.replace("-", "_"), dashes + name.replace("_", "-"), flag}


def flags_of_methods() -> set[str]:
    """The flags of all methods, in both spellings."""
    names = {f.name for m in methods.TRAIN.values() for f in dataclasses.fields(m.Options)}
    return {f"--{n}" for n in names} | {f"--{n.replace('_', '-')}" for n in names}


def words_of(line: str) -> list[str]:
    return shlex.split(re.sub(r"#####\S*", "", line), comments=True)


def commands(text: str) -> list[tuple[str, list[str]]]:
    """(module of the command, its arguments) of every line in fenced blocks that starts one of our programs."""
    found = []
    for block in blocks(text):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.strip().removeprefix("$ ")
            m = re.match(rf"(?:srun |docker run .* gantransfer )?{PROGRAM}", line)
            if m and m["run"] is not None:
                m = re.search(r"(?P<room>(?!))?(?P<command>(?!))?(?P<script>\w+)\.py", line)
            if m:
                room = "experiments" if m["room"] else "commands"
                found.append((f"gantransfer.{room}.{m['command'] or m['script']}", words_of(line[m.end():])))
    return found


def test_arms_of_the_examples_exist_and_new_ones_have_new_names():
    """Names of arms, and flags of those that a line adds itself."""
    found = [(name, words) for p in PAGES for name, words in commands(p.read_text(encoding="utf-8"))]
    texts = [w.partition("=")[2] for name, words in found if name.endswith(".longtail")
             for w in words if w.startswith("--arm=")]
    assert len(harness.own_arms(dict.fromkeys(texts), longtail.ARMS)) >= 3
    for name, words in found:
        for word in words:
            if word.startswith("--arms="):
                arms = importlib.import_module(name).ARMS
                assert harness.chosen(word.partition("=")[2], arms, [*arms])


def all_flags() -> set[str]:
    every = OTHERS | flags_of_methods()
    for name, _ in TABLES:
        command = command_of(name)
        every |= set(options_of(command))
        for sub in getattr(command, "commands", {}).values():
            every |= set(options_of(sub))
    return every


@by_name(PAGES)
def test_commands_have_the_flags_they_are_shown_with(path):
    text = path.read_text(encoding="utf-8")
    added = {f"--{n}" for n in re.findall(r"^    (\w+): .* = option\(", text, re.M)}  # by an example method
    for name, words in commands(text):
        command = command_of(name)
        if words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words[0]]
        for word in words:
            if word.startswith("--") or re.fullmatch(r"-\w", word):
                flag = word.split("=")[0]
                of_methods = flags_of_methods() if name.endswith(".train") else ()
                known = {*options_of(command), *added, "--help", *of_methods}
                assert flag in known, f"{path.name}: {name} has no {flag}"


@by_name(PAGES)
def test_flags_in_the_text_exist(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    known = all_flags()
    for flag in set(re.findall(r"(?<![\w`-])(--[a-zA-Z][\w-]*)|`(--[a-zA-Z][\w-]*)", text)):
        flag = "".join(flag)
        assert flag in known, f"{path.name}: no command has {flag}"


@by_name(PAGES)
def test_linked_files_and_headings_exist(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file) if file else path
        assert linked.exists(), f"{path.name} links {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.M)
            anchors = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}
            assert anchor in anchors, f"{path.name} links {target}"


def documented(name: str, page: str) -> dict[str, list[str]]:
    """Flag -> cells, of the rows of a page that begin with a flag of the command; not of the generated tables."""
    text = flags_tables().TABLE.sub("", (ROOT / "docs" / page).read_text(encoding="utf-8"))
    if page in ("compare.md", "methods/hypermod.md"):  # several commands with flags of the same names
        heading = name.removeprefix("gantransfer.commands.").replace("gantransfer.experiments.", "experiment ")
        text = section(text, heading.replace("experiment demo", "demo"))
    known, own = {}, options_of(command_of(name))
    for cells in rows(text):
        for flag in re.findall(r"`(--?[\w-]+)`", cells[0]):
            if flag in own:
                known.setdefault(flag, cells)
    return known


@pytest.mark.parametrize("name, page", TABLES)
def test_flag_tables_are_complete_and_tell_the_defaults(name, page):
    """Those of the methods are generated: see below."""
    known, generated = documented(name, page), flags_of_methods() if name.endswith(".train") else set()
    for p in (p for p in command_of(name).params if isinstance(p, click.Option)):
        if set(p.opts) & generated:
            continue
        names = [f for o in p.opts for f in spellings(o) if f in known]
        assert names, f"docs/{page} says nothing of {p.opts[0]}"
        default, cell = p.default, known[names[0]][1]
        if isinstance(default, bool) and p.is_flag:
            assert default is False and cell in ("off", "an error", ""), f"{p.opts[0]}: {cell}"
        elif isinstance(default, str | int | float):
            assert cell.split("`")[1:2] == [str(default)], f"{p.opts[0]} has the default {default}, not {cell}"


@pytest.mark.parametrize("name", DISTILL)
def test_flags_of_distill_are_told_with_their_defaults(name):
    command = command_of("gantransfer.commands.distill").commands[name]
    page = (ROOT / "docs" / "distill.md").read_text(encoding="utf-8")
    cells = {f: c for part in DISTILL[name] for c in rows(section(page, part))
             for f in re.findall(r"`(--[\w-]+)`", c[0])}
    own = {"teacher": cgan_kd.CGANKDOptions, "student": cgan_kd.CGANKDOptions,
           "ratio": density_ratio.DensityRatioOptions}.get(name)
    generated = {f.name for f in dataclasses.fields(own)} if own else set()
    assert generated - {p.name for p in command.params} <= (flags_tables().NO_FLAGS if name == "ratio" else generated)
    for p in (p for p in command.params if p.name not in generated):
        flags = [f for f in spellings(p.opts[-1]) if f in cells]
        assert flags, f"docs/distill.md says nothing of {p.opts[0]} of {name}"
        if isinstance(p.default, str | int | float) and not p.is_flag:
            assert cells[flags[0]][1] == f"`{p.default}`", f"{name} {p.opts[0]} has the default {p.default}"
    table = {re.findall(r"`(.+?)`", c[0])[0] for c in rows(section(page, "Presets"))}
    assert table == set(presets.PRESETS)
    assert {c[0].strip("`") for c in rows(section(page, "What the stages do"))} == set(cgan_kd.KD)


def test_train_table_names_each_shared_flag_once():
    text = section((ROOT / "docs" / "train.md").read_text(encoding="utf-8"), "Flags")
    text = text[:text.index("### Augmentation")]
    own, seen = options_of(command_of("gantransfer.commands.train")), []
    for cells in rows(text):
        flags = re.findall(r"`(--?[\w-]+)`", cells[0])
        assert all(f in own for f in flags), cells[0]
        seen.append(own[flags[-1]].name)
    fields = {f.name for m in methods.TRAIN.values() for f in dataclasses.fields(m.Options)}
    assert sorted(seen) == sorted({p.name for p in command_of("gantransfer.commands.train").params} - fields)


# ---- the generated tables ------------------------------------------------------------------------------------


def flags_tables():
    """The script docs/flags_tables.py as a module."""
    spec = importlib.util.spec_from_file_location("flags_tables", ROOT / "docs" / "flags_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@by_name(DOCS)
def test_generated_flag_tables_do_not_lag(path):
    tool = flags_tables()
    assert tool.rewritten(path) == path.read_text(encoding="utf-8"), "run: python docs/flags_tables.py"


def test_every_options_class_has_one_table_and_every_method_a_page():
    tool = flags_tables()
    found = [n for p in DOCS for _, n, *_ in tool.TABLE.findall(p.read_text(encoding="utf-8"))]
    assert sorted(found) == sorted(tool.option_classes())
    pages = {p.stem for p in DOCS if p.parent.name == "methods"}
    assert pages == methods.METHODS.keys()
    for name, m in methods.TRAIN.items():
        page = (ROOT / "docs" / "methods" / f"{name}.md").read_text(encoding="utf-8")
        declares = next(c for c in m.Options.__mro__ if tool.own(c))  # a class that only joins others has no table
        assert f"<!-- flags: {tool.dotted(declares)} -->" in page, name
        tables = {c for c in m.Options.__mro__ if tool.dotted(c) in found}
        assert {f.name for c in tables for f in tool.own(c)} == {f.name for f in dataclasses.fields(m.Options)}, name


def test_generated_rows_tell_defaults_choices_and_presets():
    tool, own = flags_tables(), {}
    for cls in tool.option_classes().values():
        made = tool.table(cls, ROOT / "docs" / "methods" / "utlo.md")
        cells = {re.search(r"--(\w+)", c[0])[1]: c for c in rows(made)}
        assert set(cells) == {f.name for f in tool.own(cls)}
        own[cls.__name__] = cells
        for f in tool.own(cls):
            if f.default is not None:
                assert cells[f.name][1] == f"`{f.default}`"
            assert all(str(c) in cells[f.name][2] for c in f.metadata["choices"] or ()), f.name
    assert own["BigGANOptions"]["z_dim"][1] == "by --cfg: 120; cifar 128, tiny 48"
    assert own["StyleGAN2Options"]["glr"][1] == "`0.0025` (preset)"
    assert own["Mind2MindOptions"]["mind_heldout"][1] == "0.1, at most 1000"
    assert own["HypermodOptions"]["d_reg_interval"][1] == "16; 0 with --base=stylegan1"
    assert own["TransitionalOptions"]["transition"][1] == "none"


def test_preset_table_is_the_one_in_the_code():
    text = section((ROOT / "docs" / "methods" / "stylegan2.md").read_text(encoding="utf-8"), "Presets")
    table = {c[0]: c[1:] for c in rows(text)}
    assert table == {name: ["-" if v is None else f"{v:g}".replace("1e+05", "100000") for v in cfg.values()]
                     for name, cfg in CFGS.items()}


def test_metric_names_of_the_table_exist_and_are_all_there():
    text = section((ROOT / "docs" / "calc_metrics.md").read_text(encoding="utf-8"), "Metric names")
    names = [n for cells in rows(text) for n in re.findall(r"`([^`]+)`", cells[0])]
    plain = [n for n in names if "<" not in n]
    assert len(plain) > 40
    for name in plain:
        metrics.parse_names(name)
    parsed = {n for name in plain for n in metrics.parse_names(name)}
    assert set(metrics.METRICS) <= parsed, set(metrics.METRICS) - parsed


def test_arms_of_the_comparison():
    text = section((ROOT / "docs" / "compare.md").read_text(encoding="utf-8"), "experiment longtail")
    named = {a: cells[1] for cells in rows(text) for a in re.findall(r"`([a-z0-9-]+)`", cells[0])}
    for arm, flags in longtail.ARMS.items():
        said = re.findall(r"--[\w-]+=[\w.%-]+", named[arm].replace("=...", f"={arm}"))
        assert said == flags.flags, arm


# ---- examples and messages, run ------------------------------------------------------------------------------


def run(name: str, words: list[str], capsys) -> tuple[int, str, str]:
    """One of our commands within this process: (exit code, stdout, stderr)."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as e:
        run_cli(lambda: command_of(name).main(words, prog_name=name))
    out, err = capsys.readouterr()
    return e.value.code or 0, out, err


TINY = ["--cfg=tiny", "--cbase=64", "--cmax=8", "--threads=1", "--metrics=none"]


class _Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny_zip, digits, capsys):
    """The files that the documents speak of, as the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GANTRANSFER_DETECTORS", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "set.zip").write_bytes(tiny_zip.read_bytes())
    write_image_zip(tmp_path / "plain.zip", digits[0][:8])
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 cut off")
    for sub, image in ("a", Image.new("RGBA", (22, 16), (9, 9, 9, 9))), ("b", Image.fromarray(digits[0][0])):
        (tmp_path / "mixed" / sub).mkdir(parents=True)
        image.save(tmp_path / "mixed" / sub / "1.png")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"G_ema": _Evil()}))
    return tmp_path


@pytest.fixture
def snap(folder, capsys):
    """A trained snapshot as snap.pkl and SNAP.pkl, its run in done/."""
    code, out, err = run("gantransfer.commands.train", [*TINY, "--outdir=done", "--data=set.zip", "--cond=True",
                                                        "--kimg=0.008"], capsys)
    assert code == 0, out + err
    (made,) = folder.glob("done/00000-set-cond-tiny-kimg0.008/network-snapshot-*.pkl")
    for name in ("snap.pkl", "SNAP.pkl"):
        (folder / name).write_bytes(made.read_bytes())
    return folder / "SNAP.pkl"


def test_troubleshooting_shows_the_messages_that_appear(folder, snap, capsys):
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    checked = 0
    for block in blocks(text, "console"):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            line, _, said = part.partition("\n")
            ((name, words),) = commands(f"```\n{line}\n```")
            code, out, err = run(name, words, capsys)
            pattern = re.escape(said.strip()).replace(re.escape("..."), ".*")
            lines = (out + err).strip().splitlines()
            assert any(re.fullmatch(pattern, s) for s in lines), f"{line}\nsaid: {lines[-3:]}\ndocument: {said}"
            assert code == (1 if " check " in line else 2), line
            checked += 1
    assert checked > 20 and not (folder / "pwned").exists()


@by_name([ROOT / "docs" / "snapshots.md", ROOT / "docs" / "generate.md"])
def test_python_examples_run(path, snap, monkeypatch):
    for code in blocks(path.read_text(encoding="utf-8"), "python"):
        if "foreign.pkl" in code:
            continue  # needs a file of another program; importing is tested with the importers
        scope: dict = {}
        exec(code.replace("[3, 3, 7]", "[3, 3, 1]"), scope)
        if "images" in scope:
            assert scope["images"].shape[1:] == (1, 16, 16)


def test_manifest_example_runs(folder, capsys):
    (folder / "datasets").mkdir()
    (folder / "set.zip").rename(folder / "datasets" / "digits.zip")
    code, *_ = run("gantransfer.commands.lt_dataset", ["--fn=datasets/digits.zip", "--imf=25", "--shot-labels"], capsys)
    assert code == 0
    text = (ROOT / "docs" / "lt_dataset.md").read_text(encoding="utf-8")
    (example,) = blocks(text, "python")
    exec(example, {})
    assert capsys.readouterr().out.startswith("[10, 3, 1, 1] {'many': [0], 'medium': [1], 'few': [2, 3]}")
    content = json.loads(zipfile.ZipFile("datasets/digits.zip").read("lt_25.json"))
    keys = {"labels", *(f"meta.{k}" for k in content["meta"]), *({"class_names"} & set(content))}
    said = {k for cells in rows(section(text, "The manifest")) for k in re.findall(r"`([\w.]+)`", cells[0])}
    assert keys <= said and said <= keys | {"class_names"}


def add_method(code: str, name: str, monkeypatch) -> None:
    """As if the example were gantransfer/methods/<name>.py, with its line in TRAIN; train.py is read anew."""
    module = types.ModuleType(f"gantransfer.methods.{name}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, f"{name}.py", "exec"), module.__dict__)
    (kind,) = [v for v in vars(module).values() if isinstance(v, type) and v.__dict__.get("name") == name]
    monkeypatch.setitem(methods.TRAIN, name, kind)
    monkeypatch.setitem(methods.METHODS, name, kind)
    monkeypatch.setattr(method_flags, "_all", method_flags.describe)
    monkeypatch.setattr(train_flags, "method_flags", train_flags.method_flags.__wrapped__)
    spec = importlib.util.spec_from_file_location("train_with_example", ROOT / "gantransfer" / "commands" / "train.py")
    train = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "train_with_example", train)
    spec.loader.exec_module(train)


@pytest.mark.parametrize("name, flags", [("wgangp", ["--hidden=16", "--critic_steps=2", "--batch=8"]),
                                         ("least_squares", ["--cfg=tiny", "--cbase=64", "--cmax=8", "--batch=8"])])
def test_example_methods_train_resume_and_generate(name, flags, folder, monkeypatch, capsys):
    """The files of adding_a_method.md as printed: a run that was continued equals the uninterrupted one."""
    examples = blocks((ROOT / "docs" / "adding_a_method.md").read_text(encoding="utf-8"), "python")
    (code,) = [c for c in examples if f'name = "{name}"' in c]
    add_method(code, name, monkeypatch)
    base = [f"--method={name}", "--data=set.zip", "--cond=True", "--threads=1", "--metrics=none", *flags]

    def train(*words):
        status, out, err = run("train_with_example", [*base, *words], capsys)
        assert status == 0, out + err

    train("--outdir=straight", "--kimg=0.032")
    train("--outdir=parts", "--kimg=0.016")
    (part,) = folder.glob("parts/*")
    train("--outdir=parts", "--kimg=0.032", f"--resume={part}")
    a, b = (load(max(folder.glob(f"{d}/*/network-snapshot-*.pkl"))) for d in ("straight", "parts"))
    assert a.method == name and a.cur_nimg == b.cur_nimg == 32
    for net in a.nets:
        for key, tensor in a.nets[net].state.items():
            assert torch.equal(tensor, b.nets[net].state[key]), f"{net}.{key}"
    again = next(folder.glob("parts/*/network-snapshot-*.pkl"))
    status, _, err = run("gantransfer.commands.generate", [f"--network={again}", "--grid=g.png"], capsys)
    assert status == 0 and np.asarray(Image.open(io.BytesIO((folder / "g.png").read_bytes()))).std() > 0, err


def test_parser_of_commands():
    text = ("```\npython -W ignore train.py --a=1 \\\n  --b\n$ gantransfer generate --c x\n"
            "srun torchrun --nnodes=2 train.py --d\n# python train.py --e\n```\npython train.py --f\n")
    assert commands(text) == [("gantransfer.commands.train", ["--a=1", "--b"]),
                              ("gantransfer.commands.generate", ["--c", "x"]), ("gantransfer.commands.train", ["--d"])]


@by_name(PAGES)
def test_tables_are_whole_and_nothing_is_said_twice(path):
    text = path.read_text(encoding="utf-8")
    assert broken_tables(text) == [] and repeated(text) == []


def test_no_paragraph_stands_on_two_pages():
    where: dict[str, list[str]] = {}
    for path in PAGES:
        if path.parent.name == "results":
            continue  # written by experiments, as they print it
        text = flags_tables().TABLE.sub("", path.read_text(encoding="utf-8"))  # links of those may be alike
        for p in set(paragraphs(text)):
            if len(p) >= 80:
                where.setdefault(p, []).append(path.name)
    assert {p: pages for p, pages in where.items() if len(pages) > 1} == {}


def test_parsers_of_broken_tables_and_repetition():
    good = "Text.\n\n| a | b |\n|---|:-:|\n| 1 | `x \\| y` |\n\nMore.\n\n```\n| no | table\n```\n"
    assert broken_tables(good) == []
    for bad, says in ((good.replace("| 1 |", "| 1 | 2 |"), "3 cells under a header of 2"),
                      (good.replace("|\n\nMore", "|\nMore"), "text in a table"),
                      (good.replace("|:-:|\n", "|:-:|\nIn between\n"), "text in a table"),
                      (good.replace("Text.\n\n", "Text.\n"), "right behind text"),
                      (good.replace("|---|:-:|\n", ""), "without a header"),
                      (good.replace(" `x \\| y` |", " c"), "1 cells under a header of 2")):
        assert any(says in fault for fault in broken_tables(bad)), (says, broken_tables(bad))
    sentence = "The column says whose the flags are, and this sentence is long enough to be looked at."
    assert repeated(f"{sentence} One.\n\n{sentence}\nTwo.") == [sentence]
    assert repeated(f"{sentence}\n\n```\n{sentence}\n```") == [] and repeated("Short. Short.") == []
    assert paragraphs("a\nb\n\n* c\n  d\n* e\n") == ["a b", "* c d", "* e"]


def test_parser_of_tables():
    assert rows("| A | B |\n|---|---|\n| `--a` | 1 |\n\n| --b | |\n") == [["`--a`", "1"], ["--b", ""]]
    assert Path(PAGES[-1]).parent.name in ("docs", "methods", "results")


def test_readme_is_read_in_one_sitting():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1200


def test_every_page_has_a_place_on_the_site_and_is_linked():
    """`mkdocs build --strict` says more; this needs no mkdocs."""
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    placed = re.findall(r"([\w/.-]+\.md)$", nav, re.M)
    ours = [str(p.relative_to(ROOT / "docs")) for p in DOCS]
    assert sorted(placed) == sorted([*ours, "index.md", "contributing.md", "changelog.md"])
    linked = {(p.parent / t.partition("#")[0]).resolve() for p in PAGES
              for t in re.findall(r"\]\(([^)\s]+)\)", p.read_text(encoding="utf-8")) if not t.startswith("http")}
    assert not {p.name for p in DOCS if p.parent.name != "results" and p.resolve() not in linked}


def check_launch(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """What torchrun makes of its arguments, and the flags of `train`, each of which exists and has a fitting value."""
    launch = torchrun.parse_args(argv)
    words = launch.training_script_args
    if launch.module:
        assert (launch.training_script, words.pop(0)) == ("gantransfer", "train")
    else:
        assert (ROOT / launch.training_script).is_file() and launch.training_script == "train.py"
    command_of("gantransfer.commands.train").make_context("train", list(words))
    assert launch.rdzv_backend == "c10d" and launch.rdzv_id != "none" and "--resume=auto" in words
    return launch, words


SLURM = {
    "srun": 'echo $$ > step; exec "$@"',
    "torchrun": r"""
trap 'sleep 0.3; echo written > state; exit 1' USR1
echo "$TORCH_DISABLE_SHARE_RDZV_TCP_STORE $TORCH_ELASTIC_SHUTDOWN_TIMEOUT" > env
printf '%s\n' "$@" > args.part; mv args.part args
for k in $(seq $STEPS); do sleep 0.05; done
exit $CODE""",
    "scancel": 'echo "$@" > cancelled; kill "-${1#--signal=}" "$(cat step)"',
    "scontrol": 'if [ "$1" = show ]; then echo node-a; echo node-b; else (cat state; echo "$@") > queue; fi',
}


@pytest.mark.parametrize("signalled, code, queued", [(True, 1, True), (False, 0, False), (False, 2, False)])
def test_the_slurm_job_queues_again_after_the_signal_alone(tmp_path, signalled, code, queued):
    """With stand-ins for the programs of SLURM, and for torchrun. The signal comes to the shell, as of B:USR1."""
    script = ROOT / "docs" / "cluster" / "slurm.sh"
    for name, text in SLURM.items():
        (tmp_path / name).write_text("#!/bin/bash\n" + text)
        (tmp_path / name).chmod(0o755)
    env = dict(os.environ, PATH=f"{tmp_path}:{os.environ['PATH']}", SLURM_JOB_ID="123456", SLURM_NNODES="2",
               SLURM_JOB_NODELIST="node-[a-b]", CODE=str(code), STEPS="2000" if signalled else "1")
    job = subprocess.Popen(["bash", str(script)], cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
    if signalled:
        end = time.monotonic() + 60
        while not (tmp_path / "args").exists():
            assert job.poll() is None and time.monotonic() < end, job.communicate()
            time.sleep(0.02)
        job.send_signal(signal.SIGUSR1)
    _, err = job.communicate(timeout=60)
    assert (job.returncode, err) == (code, "")
    assert (tmp_path / "queue").exists() == (tmp_path / "cancelled").exists() == queued
    launch, words = check_launch((tmp_path / "args").read_text().splitlines())
    assert (launch.nnodes, launch.nproc_per_node, launch.rdzv_id) == ("2", "4", "123456")
    assert launch.rdzv_endpoint == "node-a:23456" and "SIGUSR1" in launch.signals_to_handle.split(",")
    if queued:  # the state was there before
        assert (tmp_path / "queue").read_text() == "written\nrequeue 123456\n"
        assert (tmp_path / "cancelled").read_text() == "--signal=USR1 123456\n"
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", script.read_text(encoding="utf-8"), re.M))
    share, patience = (tmp_path / "env").read_text().split()
    assert asked["signal"] == "B:USR1@120" and share == "1" and int(patience) < 120 and asked["requeue"] == ""
    assert asked["gpus-per-node"] == launch.nproc_per_node and asked["ntasks-per-node"] == "1"


def test_the_kubernetes_job_is_one_training_of_all_its_pods():
    service, job = yaml.safe_load_all((ROOT / "docs" / "cluster" / "kubernetes.yaml").read_text(encoding="utf-8"))
    assert (service["kind"], job["kind"], job["apiVersion"]) == ("Service", "Job", "batch/v1")
    spec, name = job["spec"], job["metadata"]["name"]
    pod, (box,) = spec["template"]["spec"], spec["template"]["spec"]["containers"]
    assert box["command"] == ["torchrun"] and all(isinstance(word, str) for word in box["args"])
    launch, words = check_launch(box["args"])
    assert spec["completionMode"] == "Indexed"
    assert int(launch.nnodes) == spec["completions"] == spec["parallelism"]
    assert int(launch.nproc_per_node) == box["resources"]["limits"]["nvidia.com/gpu"]
    assert launch.rdzv_endpoint == f"{name}-0.{pod['subdomain']}:29500"
    assert pod["subdomain"] == service["metadata"]["name"] and service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    env = {e["name"]: e["value"] for e in box["env"]}
    assert env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1" and pod["restartPolicy"] == "Never"
    assert int(env["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) < pod["terminationGracePeriodSeconds"]
    mounted = {m["name"]: m["mountPath"] for m in box["volumeMounts"]}
    assert set(mounted) == {v["name"] for v in pod["volumes"]} and mounted["shm"] == "/dev/shm"
    assert all(w.split("=")[1].startswith(mounted["storage"]) for w in words if re.match("--(data|outdir)=", w))


def test_citation_and_package_say_the_same():
    cff = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.+)$", cff, re.M)[1] == gantransfer.__version__
    assert re.search(r"^license: (.+)$", cff, re.M)[1] in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
