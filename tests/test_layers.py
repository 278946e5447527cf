# SPDX-License-Identifier: Apache-2.0
"""The import rules (CONTRIBUTING.md, "Where things go"), read off the source. Every file has a rule."""

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
SCRIPTS = ("train", "calc_metrics", "dataset_tool", "lt_dataset")
METHOD_NAMES = {"stylegan2", "utlo", "hypermod", "biggan", "cgantransfer", "mind2mind", "cgan_kd"}

# Which rooms a room may import from, beside itself; the first match counts, and every file has a rule. Names are those
# below gantransfer unless they begin with dnnlib or torch_utils, which everything may import.
SPINE = ("data", "label_means", "method", "sampler", "snapshot", "source_fit")
RULES = [
    ("dnnlib", ()),
    ("torch_utils", ()),
    # what knows no model
    ("formats", ()),
    ("networks", ()),
    ("detectors", ("formats", "networks.sizes")),
    ("data", ("formats", "networks.sizes")),
    ("augment.options", ("method", "data", "augment")),  # flags and controller state that methods share
    ("augment", ()),
    ("losses.options", ("method", "data", "losses")),
    ("losses", ("data",)),
    # what a model is
    ("snapshot", ("formats",)),
    ("training_state", ("formats", "snapshot")),
    ("label_means", ()),
    ("sampler", ("data", "label_means")),
    ("method", ("data", "sampler", "snapshot", "training_state")),
    ("phase_graph", ("method",)),
    ("source_fit", ("data", "networks.sizes", "snapshot")),
    ("pictures", ("data", "label_means", "sampler")),
    # what is done with one
    ("training_loop", (*SPINE, "phase_graph", "pictures", "training_state")),
    ("importers", ("data", "formats", "networks", "snapshot", "exporters.weights")),
    ("exporters.weights", ("data", "formats", "snapshot")),
    ("exporters.bake", ("data", "networks", "snapshot")),
    ("exporters.files", ("exporters", "snapshot")),
    ("exporters.onnx", ("data", "formats", "methods", "sampler", "snapshot")),
    ("exporters", ()),
    ("latent", ("data", "detectors", "formats", "networks", "sampler", "snapshot", "source_fit", "metrics")),
    ("distillation.balance", ("data", "detectors", "sampler", "metrics.neighbours", "distillation")),
    ("distillation", ("data", "detectors", "formats", "networks", "sampler", "snapshot", "metrics.paired")),
    ("metrics.rating", ("methods", "metrics", "snapshot")),  # which way a method's own values are better
    ("metrics", ("data", "detectors", "formats", "networks", "sampler", "snapshot")),
    # methods never import each other, but for what they build on
    ("methods.cgantransfer", (*SPINE, "networks", "methods.biggan")),
    ("methods.minegan", (*SPINE, "networks", "methods.biggan")),
    ("methods.density_ratio", (*SPINE, "augment", "networks", "distillation", "metrics.directions",
                               "methods.cgan_kd")),
    ("methods.*", (*SPINE, "augment", "latent", "losses", "distillation", "networks", "metrics.directions",
                  "methods.stylegan2")),
    ("methods", ("method",)),  # the table
    ("model", ("importers", "method", "methods", "sampler", "snapshot")),
    ("viewer", ("data", "sampler", "pictures", "metrics.neighbours", "networks.sizes")),
    ("report", ("data", "detectors", "method", "methods", "metrics", "model", "pictures", "snapshot")),
    ("commands", ("*",)),
    # studies start commands (distill in their own process) and take types of flags from them
    ("experiments.cost", ("data.dataset", "latent.autoencoder", "method", "methods", "model", "networks.sizes",
                          "training_loop", "experiments")),  # it counts what a training step computes
    ("experiments.reach", ("data.dataset", "latent", "methods.mind2mind", "metrics", "model", "experiments")),
    ("experiments.students", ("commands.distill", "experiments")),
    ("experiments.digit_students", ("data.dataset", "detectors", "distillation.fakes", "experiments")),
    ("experiments", ("commands.distill", "commands.flags", "commands.train", "data.classes", "data.dataset",
                     "distillation.fakes", "methods.cgan_kd", "metrics.names", "metrics.paired", "model",
                     "pictures.grids", "sampler", "snapshot")),
    ("__main__", ("commands",)),
]
OPTIONAL = {"torchvision", "wandb", "tensorboard", "scipy", "sklearn", "imageio", "imageio_ffmpeg", "lmdb", "h5py",
            "onnx", "onnxscript", "onnxruntime", "safetensors", "starlette", "uvicorn", "matplotlib", "pyarrow",
            "pillow_heif"}


@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file, of packages and top-level scripts."""
    files = [f for p in PACKAGES for f in sorted((ROOT / p).rglob("*.py"))]
    files += [f for f in sorted(ROOT.glob("*.py")) if f.name != "setup.py"]
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(modules()[name].read_text(encoding="utf-8"), filename=str(modules()[name]))


@cache
def nodes(name: str) -> tuple[ast.AST, ...]:
    """What the tests look for, in one walk through the tree."""
    return tuple(n for n in ast.walk(tree(name)) if isinstance(n, (
        ast.If, ast.Import, ast.ImportFrom, ast.Attribute, ast.Call, ast.Global)))


@cache
def imports(name: str) -> frozenset[str]:
    """Modules that `name` imports, anywhere in the file: our submodules in full, others by their top name.

    Imports under `if TYPE_CHECKING` never run and do not count.
    """
    hidden = {id(n) for s in nodes(name) if isinstance(s, ast.If) and "TYPE_CHECKING" in ast.dump(s.test)
              for n in ast.walk(s)}
    found = set()
    for node in nodes(name):
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


def below(name: str) -> str:
    """The name as in RULES: without `gantransfer.`."""
    return name.removeprefix("gantransfer.")


def rule_of(name: str) -> tuple[str, tuple[str, ...]]:
    """(the room, what it may import from); LookupError for a file without a rule."""
    for room, targets in RULES:
        if inside(below(name), (room,)):
            return room.removesuffix(".*"), targets
    raise LookupError(f"no rule for {name}: say in RULES what its room may import")


def inside(name: str, rooms: tuple[str, ...]) -> bool:
    """True if `name` is one of `rooms` or below one; 'x.*' means below x only."""
    return any(r == "*" or (name.startswith(r[:-1]) if r.endswith("*") else name == r or name.startswith(r + "."))
               for r in rooms)


def is_command(name: str) -> bool:
    """True for what asks and prints: commands, studies, and the scripts at the top of a checkout."""
    return name in SCRIPTS or inside(below(name), (
        "commands", "experiments", "__main__", "data.h5_look", "data.sources.lmdb_look"))


def library() -> list[str]:
    return [n for n in modules() if not is_command(n)]


def test_imports_point_downwards():
    for name in (n for n in modules() if n not in ("gantransfer", *SCRIPTS)):
        room, targets = rule_of(name)
        ours = {n for n in imports(name) & modules().keys() if not inside(n, BASE) and n not in ("gantransfer", name)}
        if inside(name, BASE):
            lower = not any(inside(n, ("torch_utils",)) for n in imports(name))
            assert not ours and (name.startswith("torch_utils") or lower), name
        elif room == "methods" and name != "gantransfer.methods":
            room = below(name)  # methods are rooms of one file each
        wrong = {n for n in ours if not inside(below(n), (room, *targets))}
        assert not wrong, f"{name} may not import {sorted(wrong)}"


# Test files of no single source file, and what they are about.
TESTS_OF_MORE = {
    "bench": "the benchmarks in tests/bench", "sass": "tests/cuda/sass.py", "split_batch": "tests/split_batch.py",
    "claim": "`import gantransfer` beside other projects", "package": "what is installed", "docs": "the pages",
    "layers": "this", "sizes": "images of every size",
    "earlier_versions": "runs that earlier versions left", "fuzz": "any file", "progress": "bars",
    "commands/kernels": "--kernels of every command",
    "continued": "runs that go on, of every method", "step": "a training step, of every method",
    "experiments/children": "commands of all studies", "experiments/published": "the published tables",
    "formats/damage": "damaged files", "formats/hostile": "hostile files", "formats/readers": "who reads files",
    "metrics/libraries": "torch-fidelity and clean-fid on the same images",
    "viewer/page": "the page, in a browser",
    "torch_utils/ops/vectors": "csrc/vec.h for each kind of processor",
    "torch_utils/ops/compile_cuda": "csrc with nvcc", "torch_utils/ops/cuda_emulated": "csrc as CUDA, on the CPU",
}


def test_a_test_file_belongs_to_its_source_file():
    """tests/metrics/test_fid.py to gantransfer/metrics/fid.py, tests/importers/test_importers.py to its __init__.py,
    tests/torch_utils/ops/test_native_cond_bn.py to csrc/cond_bn.cpp. tests/golden is by origin, tests/chaos by part."""
    sources = {n.removeprefix("gantransfer.").replace(".", "/").replace("__main__", "main") for n in modules()}
    sources |= {f"{n}/{n.rpartition('/')[2]}" for n in sources}  # of a package
    sources |= {f"torch_utils/ops/native_{f.stem}" for f in (ROOT / "csrc").glob("*.cpp")}
    found = {f.relative_to(ROOT / "tests").with_suffix("").as_posix() for f in (ROOT / "tests").rglob("test_*.py")}
    found = {n.replace("test_", "", 1) for n in found if n.split("/")[0] not in ("golden", "chaos")}
    assert found - sources - TESTS_OF_MORE.keys() == set() and TESTS_OF_MORE.keys() <= found - sources


# Source files without a test file of their own, and the one in which they are tested. "report/*" is all of a room that
# has none of its own.
TESTED_IN = {
    "commands/demo": "test_main.py", "commands/digits": "commands/test_train.py",
    "commands/encode": "methods/test_mind2mind.py", "commands/recipe": "commands/test_train.py",
    "commands/train_flags": "commands/test_train.py",
    "data/sources/base": "data/sources/test_parquet.py", "data/sources/columns": "data/sources/test_table.py",
    "data/sources/file_labels": "commands/test_dataset_tool.py", "data/sources/files": "commands/test_dataset_tool.py",
    "data/sources/hdf5": "data/test_h5.py",
    "detectors/layouts": "detectors/test_clip.py", "detectors/resize": "golden/test_metrics_inception.py",
    "distillation/losses": "golden/test_cgankd_losses.py", "distillation/report": "commands/test_distill.py",
    "distillation/validation": "commands/test_distill.py",
    "experiments/demo": "experiments/test_children.py", "experiments/mind2mind": "experiments/test_children.py",
    "experiments/latent_transfer": "experiments/test_transfer_arms.py",
    "experiments/biggan_transfer": "experiments/test_cgantransfer.py",
    "experiments/hyper_transfer": "experiments/test_hypermod.py",
    "experiments/students": "experiments/test_distill.py",
    "exporters/bake": "methods/test_hypermod.py", "exporters/files": "commands/test_convert.py",
    "exporters/weights": "commands/test_convert.py",
    "formats/zip_damage": "test_training_state.py",
    "importers/account": "importers/test_rosinality.py", "importers/common": "importers/test_stylegan2_ada.py",
    "importers/ledger": "importers/test_rosinality.py", "importers/look": "commands/test_convert.py",
    "importers/mindgan": "golden/test_foreign_checkpoints.py",
    "latent/autoencoder": "methods/test_mind2mind.py", "latent/reconstructions": "methods/test_mind2mind.py",
    "methods/alae": "methods/test_mind2mind.py", "methods/density_ratio": "golden/test_cgankd_ratio.py",
    "methods/encoder": "methods/test_mind2mind.py", "methods/mind_tune": "methods/test_mind2mind.py",
    "metrics/directions": "metrics/test_rating.py", "model": "commands/test_convert.py",
    "networks/biggan": "golden/test_cgantransfer_networks.py",
    "networks/cgantransfer": "golden/test_cgantransfer_transfer.py",
    "networks/label_embedding": "golden/test_cgankd_ratio.py", "networks/latent_encoder": "methods/test_mind2mind.py",
    "networks/minegan": "methods/test_minegan.py", "networks/ratio_features": "golden/test_cgankd_ratio.py",
    "networks/resnet_trunk": "golden/test_cgankd_ratio.py", "networks/styletransfer": "methods/test_styletransfer.py",
    "networks/transitional": "networks/test_utlo.py",
    "phase_graph": "torch_utils/test_graphs.py",
    "pictures/files": "commands/test_generate.py", "pictures/mixing": "commands/test_generate.py",
    "pictures/walks": "commands/test_interpolate.py",
    "report/*": "commands/test_report.py", "viewer/abilities": "viewer/test_points.py",
    "torch_utils/lreq_adam": "golden/test_mind2mind_alae.py", "torch_utils/machine": "commands/test_doctor.py",
    "torch_utils/random": "test_split_batch.py", "torch_utils/whole_batch": "test_split_batch.py",
    "torch_utils/ops/cond_batch_norm": "torch_utils/ops/test_native_cond_bn.py",
    "torch_utils/ops/native": "torch_utils/ops/test_conv3x3.py",
    "torch_utils/ops/weight_sq": "torch_utils/ops/test_native_weight_sq.py",
    "dnnlib/lock": "dnnlib/test_run_folder.py",
}


def without_test_file() -> dict[str, str]:
    """Source files that have no test file of their own, as in TESTED_IN -> their modules."""
    sources = {below(n).replace(".", "/").replace("__main__", "main"): n for n, f in modules().items()
               if n.split(".")[0] in PACKAGES and f.name != "__init__.py"}
    return {s: n for s, n in sources.items() if not (ROOT / "tests" / s).with_name(f"test_{Path(s).name}.py").exists()}


def names_module(test: Path, name: str) -> bool:
    """Does a test file import the module, write its path, or use a function or class of it? Or give its name, for a
    command or a method?"""
    text, own = test.read_text(encoding="utf-8"), {s.name for s in tree(name).body if isinstance(s, (
        ast.FunctionDef, ast.ClassDef)) and not s.name.startswith("_")}
    found, said = set(), {f"{below(name).replace('.', '/')}.py", name}
    for n in ast.walk(ast.parse(text)):
        if isinstance(n, ast.ImportFrom):
            found |= {f"{n.module}.{a.name}" for a in n.names} | {a.name for a in n.names}
        elif isinstance(n, ast.Import):
            found |= {a.name for a in n.names}
        elif isinstance(n, (ast.Name, ast.Attribute)):
            found.add(n.id if isinstance(n, ast.Name) else n.attr)
        elif isinstance(n, ast.Constant) and n.value == below(name).removeprefix("commands.").removeprefix("methods."):
            found.add(name)
    return bool(found & {name, *own}) or any(s in text for s in said)


def test_every_source_file_has_a_test_file_or_stands_in_the_table():
    lacking = without_test_file()
    entry = {s: next((k for k in (s, f"{s.rpartition('/')[0]}/*") if k in TESTED_IN), None) for s in lacking}
    assert not [s for s, k in entry.items() if k is None], "it needs a test file of its name, or an entry in TESTED_IN"
    assert TESTED_IN.keys() == set(entry.values()), "left over: it has a test file of its own, or is gone"
    for s, k in entry.items():
        test = ROOT / "tests" / TESTED_IN[k]
        assert test.exists(), f"TESTED_IN: there is no {test}"
        assert names_module(test, lacking[s]), f"TESTED_IN: tests/{TESTED_IN[k]} does not name {lacking[s]}"


def test_every_rule_has_a_file():
    for room, _ in RULES:
        assert any(inside(below(n), (room,)) for n in modules()), f"RULES: nothing is called {room}"


def test_the_package_and_the_scripts_hold_nothing():
    """Scripts are a few lines over the command of the same name; the package imports when a name is used."""
    for name in ["gantransfer", *SCRIPTS]:
        ours = {n for n in imports(name) if n.split(".")[0] in (*PACKAGES, *SCRIPTS)}
        assert ours <= ({"gantransfer.__main__"} if name in SCRIPTS else set()), name
        assert len(modules()[name].read_text(encoding="utf-8").splitlines()) <= 60, name


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


def test_dnnlib_needs_standard_library_numpy_and_tqdm_only():
    known = {*modules(), *sys.stdlib_module_names, "numpy", "tqdm"}  # tqdm when something is downloaded
    for name in (n for n in modules() if inside(n, ("dnnlib",))):
        assert not imports(name) - known, name


def test_only_commands_parse_options():
    for name in library():
        assert not imports(name) & {"click", "argparse", "optparse", "getopt"}, name
        arguments = (n for n in nodes(name) if isinstance(n, ast.Attribute) and n.attr == "argv")
        assert "sys.argv" not in map(ast.unparse, arguments), name


def test_nothing_runs_at_import_and_nothing_is_global():
    guard = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign,
             ast.AnnAssign, ast.Try, ast.If)
    for name in modules():
        for s in tree(name).body:
            docstring = isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant) and isinstance(s.value.value, str)
            claim = name == "gantransfer" and ast.unparse(s).startswith("_claim(")  # other projects' dnnlib on the path
            assert isinstance(s, guard) or docstring or claim, f"{name}:{s.lineno} runs at import"
        for node in nodes(name):
            assert not isinstance(node, ast.Global), f"{name}:{node.lineno} changes a global variable"
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("set_default_tensor_type", "set_default_dtype", "set_default_device"), (
                    f"{name}:{node.lineno} changes torch's defaults")


def test_torchvision_is_never_imported_and_wandb_only_for_logging():
    for name in (n for n in modules() if inside(n, PACKAGES)):
        assert "torchvision" not in imports(name), name
        assert "wandb" not in imports(name) or name == "torch_utils.stats", name


def test_optimisers_are_those_without_torchs_compiler():
    for name in (n for n in modules() if inside(n, PACKAGES) and n != "torch_utils.optimizers"):
        called = (n.func for n in nodes(name) if isinstance(n, ast.Call))
        of_torch = {ast.unparse(f) for f in called if isinstance(f, ast.Attribute)}
        assert not {f for f in of_torch if f.startswith("torch.optim.") and "lr_scheduler" not in f}, name


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
            "print(json.dumps(sorted(sys.modules)))")
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stderr[-2000:]
    assert out.stdout.count("\n") == 1, "a module prints at import"
    loaded = json.loads(out.stdout)
    assert not {n.split(".")[0] for n in loaded} & OPTIONAL
    assert "torch._dynamo" not in loaded, "torch's compiler takes a second of every start"


def test_rules_catch_a_violation(tmp_path, monkeypatch):
    """The checker itself: it sees an import of another method, a file without a rule, and click in a library."""
    real, sources = modules(), {
        "methods.other": "def f():\n    from . import utlo\n    import click\n",
        "helper": "import gantransfer.training_loop\n", "networks.user": "from gantransfer import training_loop\n"}
    try:
        for name, rule, error in (("methods.other", test_imports_point_downwards, "other may not import"),
                                  ("networks.user", test_imports_point_downwards, "user may not import"),
                                  ("helper", test_imports_point_downwards, "no rule for gantransfer.helper"),
                                  ("methods.other", test_only_commands_parse_options, "gantransfer.methods.other")):
            (tmp_path / name).write_text(sources[name])
            faked = {**real, f"gantransfer.{name}": tmp_path / name}
            monkeypatch.setattr(sys.modules[__name__], "modules", lambda faked=faked: faked)
            with pytest.raises((AssertionError, LookupError), match=error):
                rule()
    finally:
        for f in (tree, nodes, imports):
            f.cache_clear()
