# SPDX-License-Identifier: Apache-2.0
"""The import rules (CONTRIBUTING.md, "Where things go"), read off the source of whatever modules exist."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = ("dnnlib", "torch_utils", "gantransfer")
BASE = ("dnnlib", "torch_utils")
DATA = (*BASE, "gantransfer.data.dataset")
METHOD = (*DATA, "gantransfer.augment.ada", "gantransfer.method", "gantransfer.networks", "gantransfer.sampler",
          "gantransfer.snapshot")
METHOD_NAMES = {"stylegan2", "utlo", "hypermod", "biggan", "cgantransfer", "mind2mind", "cgan_kd"}

# What a module, or all modules of a package, may import of ours; the first match counts. Scripts are free. A module of
# gantransfer without a rule is a helper: importing it counts as importing what it imports.
RULES = [
    ("dnnlib", ("dnnlib",)),
    ("torch_utils", BASE),
    ("gantransfer.networks", (*BASE, "gantransfer.networks")),
    ("gantransfer.data.dataset", BASE),
    ("gantransfer.augment.ada", BASE),
    ("gantransfer.snapshot", DATA),
    ("gantransfer.sampler", DATA),
    ("gantransfer.method", (*DATA, "gantransfer.sampler", "gantransfer.snapshot")),
    ("gantransfer.importers", (*DATA, "gantransfer.importers", "gantransfer.snapshot", "gantransfer.networks")),
    ("gantransfer.methods.stylegan2", METHOD),
    ("gantransfer.methods.cgantransfer", (*METHOD, "gantransfer.methods.biggan")),  # transfer of that backbone
    ("gantransfer.methods.minegan", (*METHOD, "gantransfer.methods.biggan")),  # transfer of that backbone
    ("gantransfer.methods.density_ratio", (*METHOD, "gantransfer.methods")),  # judges the images of any method
    ("gantransfer.methods.*", (*METHOD, "gantransfer.methods.stylegan2")),  # may build on the base method
    ("gantransfer.methods", (*METHOD, "gantransfer.methods")),  # the table of methods
    ("gantransfer.metrics", (*DATA, "gantransfer.metrics", "gantransfer.detectors.features", "gantransfer.sampler")),
    ("gantransfer.training_loop", (*DATA, "gantransfer.method", "gantransfer.sampler", "gantransfer.snapshot")),
]
OPTIONAL = {"torchvision", "wandb", "tensorboard", "scipy", "sklearn", "imageio", "imageio_ffmpeg", "lmdb", "h5py",
            "onnx", "onnxscript", "onnxruntime", "safetensors"}


@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file, of packages and top-level scripts."""
    files = [f for p in PACKAGES for f in sorted((ROOT / p).rglob("*.py"))]
    files += [f for f in sorted(ROOT.glob("*.py")) if f.name != "setup.py"]
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(modules()[name].read_text(encoding="utf-8"), filename=str(modules()[name]))


def is_script(name: str) -> bool:
    """True for a top-level script and for a module that `python -m` runs."""
    text = modules()[name].read_text(encoding="utf-8")
    return "." not in name and name not in PACKAGES or re.search(r"^if __name__ ==", text, re.M) is not None


@cache
def imports(name: str) -> frozenset[str]:
    """Modules that `name` imports, anywhere in the file: our submodules in full, others by their top name.

    Imports under `if TYPE_CHECKING` never run and do not count.
    """
    hidden = {id(n) for s in ast.walk(tree(name)) if isinstance(s, ast.If) and "TYPE_CHECKING" in ast.dump(s.test)
              for n in ast.walk(s)}
    found = set()
    for node in ast.walk(tree(name)):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name if modules()[name].name == "__init__.py" else name.rpartition(".")[0]
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parts, base]).rstrip(".")
            names = {f"{base}.{a.name}" for a in node.names}
            found |= {n if n in modules() else base for n in names}
    ours = {n for n in found if n.split(".")[0] in PACKAGES or n in modules()}
    return frozenset(ours | {n.split(".")[0] for n in found - ours})


def allowed(name: str) -> tuple[str, ...] | None:
    return next((targets for rule, targets in RULES if inside(name, (rule,))), None)


@cache
def effective(name: str) -> frozenset[str]:
    """Our modules that `name` imports, with helpers replaced by what they import in turn."""
    found, todo, seen = set(), [name], {name}
    while todo:
        for n in imports(todo.pop()) & modules().keys() - seen - {"gantransfer"}:
            seen.add(n)
            if allowed(n) is None:
                todo.append(n)
            else:
                found.add(n)
    return frozenset(found)


def inside(name: str, packages: tuple[str, ...]) -> bool:
    """True if `name` is one of `packages` or below one; 'x.*' means below x only."""
    return any(name.startswith(p[:-1]) if p.endswith("*") else name == p or name.startswith(p + ".") for p in packages)


def library() -> list[str]:
    return [n for n in modules() if not is_script(n)]


@pytest.mark.parametrize("name", library())
def test_imports_point_downwards(name):
    scripts = {n for n in imports(name) & modules().keys() if is_script(n)}
    assert not scripts, f"{name} imports the script {scripts}"
    targets = allowed(name)
    wrong = {n for n in effective(name) if not inside(n, targets)} if targets is not None else set()
    assert not wrong, f"{name} may not import {sorted(wrong)}"


def test_no_import_cycles():
    graph = {n: {m for m in imports(n) if m in modules() and m != n} for n in modules()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, "import cycle: " + " -> ".join([*path[path.index(name):], name])
        if name not in done:
            for m in graph[name]:
                visit(m, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("name", [n for n in modules() if inside(n, ("dnnlib",))])
def test_dnnlib_needs_standard_library_and_numpy_only(name):
    known = {*modules(), *sys.stdlib_module_names, "numpy"}
    assert not imports(name) - known


@pytest.mark.parametrize("name", [n for n in library() if n != "gantransfer.commands.flags"])
def test_only_scripts_parse_options(name):
    """What flags may hold stands in flags.py, for them alone."""
    assert not imports(name) & {"click", "argparse", "optparse", "getopt", "gantransfer.commands.flags"}
    used = {ast.unparse(n) for n in ast.walk(tree(name)) if isinstance(n, ast.Attribute)}
    assert "sys.argv" not in used


@pytest.mark.parametrize("name", list(modules()))
def test_nothing_runs_at_import_and_nothing_is_global(name):
    guard = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.Try, ast.If)
    for s in tree(name).body:
        docstring = isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant) and isinstance(s.value.value, str)
        assert isinstance(s, guard) or docstring, f"{name}:{s.lineno} runs at import"
    for node in ast.walk(tree(name)):
        assert not isinstance(node, ast.Global), f"{name}:{node.lineno} changes a global variable"
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("set_default_tensor_type", "set_default_dtype", "set_default_device"), (
                f"{name}:{node.lineno} changes torch's defaults")


@pytest.mark.parametrize("name", [n for n in modules() if inside(n, PACKAGES)])
def test_torchvision_is_never_imported_and_wandb_only_for_logging(name):
    assert "torchvision" not in imports(name)
    assert "wandb" not in imports(name) or name == "torch_utils.stats"


def test_training_loop_knows_no_network_and_no_method():
    if "gantransfer.training_loop" not in modules():
        pytest.skip("no training loop yet")
    text = modules()["gantransfer.training_loop"].read_text(encoding="utf-8").lower()
    files = (f.stem for f in (ROOT / "gantransfer" / "methods").glob("*.py"))
    words = {"discriminator", *METHOD_NAMES, *files} - {"__init__"}
    assert not {w for w in words if re.search(rf"\b{w}\b", text)}


def test_importing_every_module_loads_no_optional_package():
    # Top-level scripts count too: `train.py --help` must work with the core alone.
    code = ("import importlib, json, sys\n"
            f"for n in {[n for n in modules()]!r}: importlib.import_module(n)\n"
            "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))")
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stderr[-2000:]
    assert out.stdout.count("\n") == 1, "a module prints at import"
    assert not set(json.loads(out.stdout)) & OPTIONAL


def test_rules_catch_a_violation(tmp_path, monkeypatch):
    """The checker itself: it sees a relative import of another method, one through a helper, and click in a library."""
    bad = tmp_path / "other.py"
    bad.write_text("def f():\n    from . import utlo\n    import click\n")
    helper = tmp_path / "helper.py"
    helper.write_text("import gantransfer.training_loop\n")
    user = tmp_path / "user.py"
    user.write_text("from gantransfer import helper\n")
    faked = {**modules(), "gantransfer.methods.other": bad, "gantransfer.methods.utlo": bad,
             "gantransfer.helper": helper, "gantransfer.networks.user": user}
    monkeypatch.setattr(sys.modules[__name__], "modules", lambda: faked)
    try:
        with pytest.raises(AssertionError, match="may not import"):
            test_imports_point_downwards("gantransfer.methods.other")
        with pytest.raises(AssertionError, match="may not import"):
            test_imports_point_downwards("gantransfer.networks.user")
        test_imports_point_downwards("gantransfer.helper")
        with pytest.raises(AssertionError):
            test_only_scripts_parse_options("gantransfer.methods.other")
    finally:
        for f in (tree, imports, effective):
            f.cache_clear()
