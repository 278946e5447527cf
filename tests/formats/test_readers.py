# SPDX-License-Identifier: Apache-2.0
"""Read off the source: what reads a file as more than data, and where that may stand.

Python's unpickler, NumPy's and torch's loaders and everything else that can run a file, take its word for a size, or
raise whatever it likes, has one caller each, or none: the readers, which turn damage into one line.
"""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

FILES = sorted([*ROOT.glob("*.py"), *(p for d in ("dnnlib", "torch_utils", "gantransfer") for p in
                                     (ROOT / d).rglob("*.py"))])

# Dotted name as it is written, without its first part where that is an alias of a module -> files that may use it.
RUNS = {
    "pickle.load": (), "pickle.loads": (), "pickle.Unpickler": (), "pickle._Unpickler": (), "pickle._loads": (),
    "cPickle.load": (), "dill.load": (), "dill.loads": (), "cloudpickle.load": (), "cloudpickle.loads": (),
    "joblib.load": (), "marshal.load": (), "marshal.loads": (), "shelve.open": (), "yaml.load": (),
    "pandas.read_pickle": (), "runpy.run_path": (), "runpy.run_module": (), "imp.load_source": (),
    "numpy.load": (), "numpy.loadtxt": (), "numpy.genfromtxt": (), "numpy.fromfile": (), "numpy.memmap": (),
    "numpy.lib.format.read_array": (), "scipy.io.loadmat": (),
    "torch.load": (), "torch.package.PackageImporter": (), "torch.hub.load": (), "torch.serialization.load": (),
    "torch.jit.load": ("gantransfer/detectors/weights.py",),
    "torch.export.load": ("gantransfer/detectors/weights.py",),
    "torch.ops.load_library": ("torch_utils/build.py",),
    "torch.classes.load_library": (), "ctypes.cdll.LoadLibrary": (),
    "ctypes.CDLL": ("torch_utils/heap.py",),  # the C library that this process has already
    "importlib.import_module": ("gantransfer/snapshot.py", "gantransfer/__init__.py", "gantransfer/methods/__init__.py",
                                "torch_utils/build.py", "gantransfer/commands/__init__.py"),  # names of a table
    "importlib.util.spec_from_file_location": (),
    "eval": (), "exec": (), "compile": (), "__import__": (),
    # no programs, but the boundary at which their damage is turned into one line
    "yaml.compose": ("gantransfer/commands/config.py",),
    "h5py.File": ("gantransfer/data/h5.py",),
    "json.load": (),
    "json.loads": ("dnnlib/json_file.py", "gantransfer/data/h5.py",
                   "gantransfer/exporters/weights.py", "gantransfer/formats/safetensors.py",
                   "gantransfer/metrics/reference.py", "torch_utils/build.py"),
}


@functools.cache
def nodes(source: str) -> tuple[ast.AST, ...]:
    """What the tests look for, in one walk through the tree."""
    return tuple(n for n in ast.walk(ast.parse(source)) if isinstance(n, (
        ast.Import, ast.ImportFrom, ast.Name, ast.Attribute, ast.Call)))


def aliases(source: str) -> dict[str, str]:
    """Name in the file -> what it stands for: 'np' -> 'numpy', 'load' -> 'pickle.load'."""
    found: dict[str, str] = {}
    for node in nodes(source):
        if isinstance(node, ast.Import):
            found |= {a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0]
                      for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return found


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{below}.{node.attr}" if (below := dotted(node.value)) else ""
    return ""


def uses(source: str) -> Iterator[tuple[int, str]]:
    """(line, full name) of every use of a name in RUNS: a call, a base class, or a reference that is passed on."""
    known = aliases(source)
    for node in nodes(source):
        if not isinstance(node, ast.Name | ast.Attribute) or not isinstance(node.ctx, ast.Load):
            continue
        first, _, rest = dotted(node).partition(".")
        name = ".".join(filter(None, (known.get(first, first), rest)))
        if name in RUNS:
            yield node.lineno, name
    for node in nodes(source):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, name) for a in node.names if (name := f"{node.module}.{a.name}") in RUNS)
        if isinstance(node, ast.Call):
            for k in node.keywords:  # np.load under whatever name
                if k.arg == "allow_pickle" and not (isinstance(k.value, ast.Constant) and k.value.value is False):
                    yield node.lineno, "allow_pickle"
                if k.arg == "weights_only":
                    yield node.lineno, "torch.load"


def of_json_dumps(source: str) -> set[int]:
    """Lines with json.loads(json.dumps(...)), which reads no file."""
    return {n.lineno for n in nodes(source) if isinstance(n, ast.Call) and dotted(n.func) == "json.loads"
            and n.args and isinstance(n.args[0], ast.Call) and dotted(n.args[0].func) == "json.dumps"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_the_readers_read(path: Path):
    source, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
    copies = of_json_dumps(source)
    wrong = [f"{name}:{line} {what}" for line, what in uses(source)
             if name not in RUNS.get(what, ()) and not (what == "json.loads" and line in copies)]
    assert not wrong, f"a file is read past the readers (pickle_machine, torch_file, npz, json_file, h5): {wrong}"


def test_every_reader_still_reads():
    """An entry that nothing uses any more would let something else in unseen."""
    used = {(what, p.relative_to(ROOT).as_posix()) for p in FILES for _, what in uses(p.read_text(encoding="utf-8"))}
    unused = [(what, f) for what, files in RUNS.items() for f in files if (what, f) not in used]
    assert not unused


@pytest.mark.parametrize("source, what", [
    ("import pickle\npickle.load(f)", "pickle.load"), ("from pickle import loads as x\nx(b'')", "pickle.loads"),
    ("import numpy as np\nnp.load(f)", "numpy.load"), ("import torch\ntorch.load(f, weights_only=True)", "torch.load"),
    ("from torch import jit\njit.load(f)", "torch.jit.load"), ("import torch.jit as j\nj.load(f)", "torch.jit.load"),
    ("class U(pickle.Unpickler): pass", "pickle.Unpickler"), ("f = eval\nf('1')", "eval"), ("exec(s)", "exec"),
    ("load(f, allow_pickle=True)", "allow_pickle"), ("map(marshal.loads, x)", "marshal.loads"),
    ("import json\njson.load(f)", "json.load"), ("from yaml import load", "yaml.load")])
def test_the_search_finds(source, what):
    assert what in [name for _, name in uses(source)]


def test_the_search_knows_what_is_harmless():
    assert not list(uses("net.eval()\nself.load(x)\nre.compile('a')\npickle.dumps(x)\nnp.save(f, x)\ntorch.save(x, f)"))
