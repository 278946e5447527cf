# SPDX-License-Identifier: Apache-2.0
"""The distribution: metadata, pins, licence lines, contents of a wheel, commands of the documents."""

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import gantransfer
from gantransfer.commands import main
from tests.conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest depends on it there

PACKAGES = ("dnnlib", "gantransfer", "torch_utils")


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins() -> list[Requirement]:
    """Lines of the requirements files that hold for this interpreter."""
    lines = [line.split("#")[0].strip() for name in ("requirements.txt", "requirements-dev.txt")
             for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    parsed = [Requirement(line) for line in lines if line]
    return [r for r in parsed if r.marker is None or r.marker.evaluate()]


def sources() -> list[Path]:
    return [*ROOT.glob("*.py"), *(f for p in (*PACKAGES, "tests") for f in (ROOT / p).rglob("*.py"))]


def test_core_dependencies_are_few_and_extras_hold_the_rest():
    p = project()
    assert p["name"] == "gantransfer" and p["requires-python"] == ">=3.10"
    core = {Requirement(d).name for d in p["dependencies"]}
    assert core == {"torch", "numpy", "scipy", "pillow", "click", "tqdm", "pyyaml", "pyspng", "ninja", "pybind11"}
    extras = {k: {Requirement(d).name for d in v} for k, v in p["optional-dependencies"].items()}
    assert set(extras) == {"demo", "video", "viewer", "report", "data", "tb", "wandb", "export", "docs", "dev"}
    everything = core.union(*extras.values())
    assert not everything & {"torchvision", "torchaudio", "timm", "torch-fidelity", "clean-fid", "lpips"}


def test_version_is_said_once():
    assert str(Version(gantransfer.__version__)) == gantransfer.__version__
    assert "version" not in project() and "version" in project()["dynamic"]


def test_pins_are_exact_unique_and_satisfy_the_metadata():
    p = project()
    pinned = {}
    for r in pins():
        (spec,) = r.specifier
        assert spec.operator == "==" and r.name not in pinned, str(r)
        pinned[r.name] = spec.version
    for line in [*p["dependencies"], *p["optional-dependencies"]["demo"], *p["optional-dependencies"]["dev"]]:
        r = Requirement(line)
        assert r.name in pinned, f"{r.name} is not pinned"
        assert r.specifier.contains(pinned[r.name]), f"{r} does not allow the pinned {pinned[r.name]}"


def test_torch_is_pinned_alike_everywhere():
    version = next(str(next(iter(r.specifier)).version) for r in pins() if r.name == "torch")
    for name in ("Makefile", ".ci/run", "requirements.txt", "CONTRIBUTING.md", "Dockerfile", "docs/cluster.md"):
        found = set(re.findall(r"torch==([\d.]+\d)", (ROOT / name).read_text(encoding="utf-8")))
        assert found == {version}, f"{name}: {found}"


def test_the_image_installs_what_the_requirements_say(tmp_path):
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    done = [rest for word, rest in lines if word == "RUN"]
    assert {word for word, _ in lines} <= {"ARG", "FROM", "RUN", "ENV", "WORKDIR", "COPY", "CMD"}
    assert {"g++", "python3-venv", "python3-dev"} <= {*done[0].split()}
    assert done[1] == "python3 -m venv /opt/gantransfer" and "PATH=/opt/gantransfer/bin:$PATH" in text
    torch, others, ours = (next(k for k, line in enumerate(lines) if re.search(rf"pip install .*{end}$", line[-1]))
                           for end in (r"\$\{TORCH\}", r"-r others\.txt", r"--no-deps \."))
    assert torch < others < ours and lines[others - 1] == ["COPY", "requirements.txt ./"]
    shutil.copy(ROOT / "requirements.txt", tmp_path)
    subprocess.run(["sh", "-c", lines[others][1].split(" && ")[0]], cwd=tmp_path, check=True)
    required, rest = ((tmp_path / f).read_text().splitlines() for f in ("requirements.txt", "others.txt"))
    (left_out,) = [line for line in required if line not in rest]
    assert any(line[1].startswith(f'TORCH="{left_out} ') for line in lines if line[0] == "ARG")
    assert lines[-1][0] == "CMD" and json.loads(lines[-1][1])[0] in project()["scripts"]
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")[1:]
    assert not {*ignored} & {*PACKAGES, "csrc", "recipes", "setup.py", "pyproject.toml", "README.md", "LICENSE"}


def test_the_conda_environment_installs_what_the_requirements_say():
    env = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *packages, pip = env["dependencies"]
    assert pip == {"pip": ["-r requirements.txt", "-e ."]}  # the rest is theirs, so that nothing can differ
    (python,) = [p.partition("=")[2] for p in packages if p.startswith("python=")]
    p = project()
    assert f"Programming Language :: Python :: {python}" in p["classifiers"] and env["name"] == p["name"]
    assert SpecifierSet(p["requires-python"]).contains(python) and {"pip", "cxx-compiler"} <= {*packages}


def test_first_line_is_the_licence():
    for path in sources():
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"^#!.*\n", "", text)  # a script may name its interpreter
        assert not text or text.startswith("# SPDX-License-Identifier: Apache-2.0\n"), path


def test_licence_is_the_apache_licence_unchanged():
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def test_wheel_holds_the_packages_their_data_and_nothing_else(tmp_path):
    setuptools = pytest.importorskip("setuptools")
    if Version(setuptools.__version__) < Version("77"):
        pytest.skip(f"setuptools {setuptools.__version__} does not know licence expressions")
    tree = tmp_path / "tree"
    ignore = shutil.ignore_patterns("__pycache__", "*.tmp", ".*")
    for name in (*PACKAGES, "csrc", "recipes", "tests"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=ignore)
    for f in ROOT.iterdir():
        if f.is_file() and not f.name.startswith("."):
            shutil.copy(f, tree)
    (tree / "README.md").touch()
    out = subprocess.run([sys.executable, "-c", "import setuptools.build_meta as b; b.build_wheel('.')"], cwd=tree,
                         capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stdout[-1000:] + out.stderr[-2000:]
    (wheel,) = tree.glob("*.whl")
    assert wheel.name.startswith(f"gantransfer-{gantransfer.__version__}-")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {str(f.relative_to(ROOT)) for p in PACKAGES for f in (ROOT / p).rglob("*.py")}
    expected |= {str(f.relative_to(ROOT)) for d in ("assets", "viewer/page")
                 for f in (ROOT / "gantransfer" / d).glob("*")}
    if any((ROOT / "csrc").glob("*.cpp")):
        expected |= {f"torch_utils/csrc/{f.name}" for f in (ROOT / "csrc").glob("*.*")}
    expected |= {f"gantransfer/recipes/{f.name}" for f in (ROOT / "recipes").glob("*.yaml")}
    code = {n for n in names if ".dist-info/" not in n}
    assert code == {n for n in expected if not n.endswith(".tmp")}
    assert any(n.endswith("licenses/LICENSE") for n in names)
    assert {"gantransfer/assets/NotoSans.ttf", "gantransfer/assets/NotoSans.OFL.txt"} <= names  # never one without
    assert any(n.endswith("licenses/gantransfer/assets/NotoSans.OFL.txt") for n in names)


def commands(text: str) -> list[str]:
    """First words of the shell lines in fenced blocks that start one of our programs."""
    blocks = re.findall(r"^```(?:bash|sh|console|text)?\n(.*?)^```", text, re.M | re.S)
    lines = [line.strip().removeprefix("$ ") for b in blocks for line in b.replace("\\\n", " ").splitlines()]
    found = []
    for line in lines:
        m = re.search(r"(?:^|-m )(gantransfer [a-z]\w+(?: [a-z]\w+)?)", line)
        m = m or re.search(r"\bpython3? (?:-W \w+ )?(-m [\w.]+|[\w/]+\.py)\b|^(make [\w.]+)", line)
        m = m or re.search(r"\btorchrun\b.* ([\w/]+\.py)\b", line)
        if m:
            found.append(next(g for g in m.groups() if g))
    return found


@pytest.mark.parametrize("path", [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda p: p.name)
def test_commands_of_the_documents_exist(path):
    targets = set(re.findall(r"^([\w. ]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    targets = {t for line in targets for t in line.split()}
    for command in commands(path.read_text(encoding="utf-8")):
        if command.startswith("gantransfer "):
            words, known = command.split()[1:], main
            for word in words[: 2 if words[0] in ("distill", "experiment") else 1]:
                known = known.get_command(click.Context(known), word)
                assert known is not None, f"{path.name}: {command}"
        elif command.startswith("make "):
            assert command[5:] in targets, f"{path.name}: {command}"
        elif command.startswith("-m "):
            name = command[3:]
            assert importlib.util.find_spec(name) is not None, f"{path.name}: python {command}"
        else:
            assert (ROOT / command).is_file(), f"{path.name}: python {command}"


def test_commands_are_found_in_text():
    text = ("text python no.py\n```\nmake demo\n$ python -W ignore train.py --x \\\n  --y\n"
            "gantransfer generate --a\npython -m gantransfer distill fakes --b\ntorchrun --nnodes=2 train.py\n```\n")
    assert commands(text) == ["make demo", "train.py", "gantransfer generate", "gantransfer distill fakes", "train.py"]
