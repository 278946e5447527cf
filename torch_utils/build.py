# SPDX-License-Identifier: Apache-2.0
"""Compile csrc on the user's machine, once, and say which implementation of the operators is in use.

`configure(mode)` chooses before the first operator runs: 'auto' (default) compiles and, if that fails, says so once
and goes on with the PyTorch reference; 'native' makes a failure an error; 'ref' never compiles. Without a call, the
environment variable GANTRANSFER_KERNELS decides. The library lives in a folder named by the hash of everything it
depends on (sources, flags, compiler, torch, processor; no paths: environments with equal tools share it), under
GANTRANSFER_BUILD_DIR or the cache folder. Its size and hash stand beside it: what a full disk or a power cut damaged is
built again instead of being loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch

from dnnlib.util import UserError, atomic_write, cache_dir, env_path, sha256, sweep_temporaries

try:
    import fcntl
except ImportError:  # no advisory locks on this system
    fcntl = None

MODES = ("auto", "native", "ref")
# Modules of torch_utils.ops with a register().
OPERATORS = ("bias_act", "upfirdn2d", "epilogue", "blur_epilogue", "weight_sq", "cond_batch_norm", "conv3x3")
LIBRARY = "gantransfer_kernels.so"
BINDINGS = "bindings"  # the unit of all sources that include torch's headers
RECORD = "build.json"
LOCK_TIMEOUT = 600.0  # seconds to wait for another process that is compiling the same library
OLDEST_NVCC = (12, 0)
LAUNCHERS = ("ccache", "sccache", "distcc", "icecc")
# Whatever nvcc's own place is, a kernel that is launched needs the CUDA runtime at link time.
PROBE = """#include <cuda_runtime.h>
__global__ void probe(float* x) { *x = 1; }
extern "C" int gantransfer_probe(float* x) { probe<<<1, 1>>>(x); return (int)cudaGetLastError(); }
"""


class BuildError(UserError):
    """The library cannot be made here; the text says why and what to do."""


class _State:
    """The loaded library is the only global of this package."""

    mode: str | None = None
    devices: frozenset[str] | None = None  # device types with compiled kernels; None = not tried yet
    info: dict = {}
    failure: str | None = None
    missing_cuda: str | None = None
    warned: set[str] = set()


def configure(mode: str) -> None:
    """Choose the implementation: 'auto', 'native' or 'ref'. Takes effect at the next operator call."""
    if mode not in MODES:
        raise UserError(f"--kernels must be one of {', '.join(MODES)}, not {mode!r}")
    _State.mode = mode


def mode() -> str:
    """The mode in force."""
    if _State.mode is None:
        configure(os.environ.get("GANTRANSFER_KERNELS") or "auto")
    return _State.mode


@contextlib.contextmanager
def using(mode_: str) -> Iterator[None]:
    """The same for a while."""
    before = mode()
    configure(mode_)
    try:
        yield
    finally:
        configure(before)


def implementation(device: str | torch.device = "cpu") -> str:
    """'native' or 'ref': what operators on this kind of device run. Compiles if that has not happened yet."""
    return "native" if native(torch.device(device).type) else "ref"


def describe() -> dict:
    """JSON-able: the mode, what serves each type of device, the record of the library, why there is none."""
    types = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    return {"mode": mode(), "implementation": {t: implementation(t) for t in types}, "build": _State.info,
            "failure": _State.failure or (_State.missing_cuda if "cuda" in types else None)}


def record() -> dict:
    """The short form for training_options.json: what really runs, from which library, and why not where it does not."""
    d = describe()
    reason = "chosen by --kernels=ref" if d["mode"] == "ref" else d["failure"]
    return {"mode": d["mode"], "implementation": d["implementation"], "library": d["build"].get("key"),
            "reason": reason if "ref" in d["implementation"].values() else None}


def assume_constant(function):
    """As torch.compiler.assume_constant_result, which would import the compiler: a second of every start."""
    function._dynamo_marked_constant = True
    return function


@assume_constant
def native(device_type: str) -> bool:
    """Whether compiled kernels serve this type of device in the present mode. Warns once where they should but do not.

    Raises BuildError in mode 'native' when they do not.
    """
    if mode() == "ref" or device_type not in ("cpu", "cuda"):
        return False
    if _State.devices is None:
        _load()
    if device_type in _State.devices:
        return True
    reason = _State.failure or (_State.missing_cuda if device_type == "cuda" else None)
    if mode() == "native":
        raise BuildError(f"--kernels=native: {reason}")
    if device_type not in _State.warned:
        _State.warned.add(device_type)
        warnings.warn(f"The compiled kernels are not available for {device_type}; the slower PyTorch reference is "
                      f"used instead (same results).\n{reason}\n`gantransfer doctor` checks the tools; "
                      f"--kernels=ref silences this, --kernels=native makes it an error.", RuntimeWarning, 2)
    return False


def load(path: Path, info: dict) -> None:
    """Load a library and let the operators register their shape and gradient formulas. A process does this once."""
    try:
        torch.ops.load_library(str(path))
    except OSError as e:
        raise BuildError(f"{path} was built but does not load: {e}. Remove its folder to build again.") from e
    for name in OPERATORS:
        importlib.import_module(f"torch_utils.ops.{name}").register()
    _State.info = info
    _State.devices = frozenset(info["devices"])
    _State.missing_cuda = info.get("cuda_missing")


def _load() -> None:
    _State.devices = frozenset()
    try:
        load(*(_prebuilt() or build()))
    except BuildError as e:
        _State.failure = str(e)
    except OSError as e:
        _State.failure = f"the kernels' build folder cannot be used: {e}; set GANTRANSFER_BUILD_DIR to one you own"


def source_dir() -> Path:
    """csrc of a checkout, or the copy inside an installed torch_utils."""
    here = Path(__file__).resolve().parent
    for folder in (here.parent / "csrc", here / "csrc"):
        if (folder / "binding.h").is_file():
            return folder
    raise BuildError(f"the kernels' sources are missing: neither {here.parent / 'csrc'} nor {here / 'csrc'} exists")


def compiler() -> str:
    """The C++ compiler: $CXX (without a launcher such as ccache in front) or the first of c++, g++, clang++."""
    wanted = [w for w in shlex.split(os.environ.get("CXX") or "") if Path(w).name not in LAUNCHERS]
    for name in (*wanted[:1], "c++", "g++", "clang++"):
        found = shutil.which(name)
        if found:
            return found
    raise BuildError("no C++ compiler found (looked for $CXX, c++, g++, clang++): install g++ 10 or newer, for example "
                     "`apt install g++`, or name one with CXX=/path/to/g++")


def nvcc() -> str | None:
    """The CUDA compiler: $CUDA_HOME/bin/nvcc, $CUDA_PATH/bin/nvcc, the one on the PATH, /usr/local/cuda, else None."""
    for _, home in _cuda_homes():
        if (home / "bin" / "nvcc").is_file():
            return _without_link(str(home / "bin" / "nvcc"))
    default = Path("/usr/local/cuda/bin/nvcc")
    found = shutil.which("nvcc") or (str(default) if default.is_file() else None)
    return found and _without_link(found)


def _cuda_homes() -> list[tuple[str, Path]]:
    return [(name, Path(os.environ[name]).expanduser()) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]


def _without_link(path: str) -> str:
    """nvcc looks for its parts beside the name it was called by, so that a link to it alone does not work."""
    target = os.path.realpath(path)
    return target if os.path.islink(path) and Path(target).name.startswith("nvcc") else path


def ignored_cuda_home() -> str | None:
    """What to say where CUDA_HOME or CUDA_PATH names no toolkit and another one is taken; None otherwise."""
    wrong = [f"{name}={home}" for name, home in _cuda_homes() if not (home / "bin" / "nvcc").is_file()]
    return f"{' and '.join(wrong)} has no bin/nvcc; {nvcc()} is used instead" if wrong and nvcc() else None


def nvcc_version(path: str) -> tuple[int, int]:
    """(0, 0) where the file does not answer as nvcc does."""
    match = re.search(r"release (\d+)\.(\d+)", _output([path, "--version"]))
    return (int(match[1]), int(match[2])) if match else (0, 0)


def cuda_problem() -> str | None:
    """Why the CUDA part cannot be built here, or None."""
    if torch.version.cuda is None:
        return "this torch is a CPU build; install a CUDA build of torch to use a GPU"
    path = nvcc()
    major = torch.version.cuda.split(".")[0]
    if path is None:
        wrong = " (" + ", ".join(f"{name}={home} has no bin/nvcc" for name, home in _cuda_homes()) + ")"
        return (f"nvcc was not found{wrong if _cuda_homes() else ''}; install the CUDA {major} toolkit and put its bin "
                f"folder on the PATH, or set CUDA_HOME to the toolkit's folder")
    have = nvcc_version(path)
    if have == (0, 0):
        said = (_output([path, "--version"]).strip().splitlines() or ["nothing"])[-1]
        return (f"{path} does not tell its version (`{path} --version` says: {said}); put a working nvcc on the PATH, "
                f"or set CUDA_HOME to the toolkit's folder")
    if have[0] != int(major):
        others = sorted(p for place in ("/usr/local", "/opt") for p in Path(place).glob("cuda*/bin/nvcc")
                        if re.fullmatch(rf"cuda-?{major}(\..*)?", p.parents[1].name))
        return (f"{path} is CUDA {have[0]}.{have[1]} but torch was built for {torch.version.cuda}; "
                + (f"set CUDA_HOME={others[-1].parents[1]}" if others else
                   "install a toolkit of the same major version and point CUDA_HOME to it"))
    if have < OLDEST_NVCC:
        return f"{path} is CUDA {have[0]}.{have[1]}; 12.0 or newer is needed"
    return None


def offered_architectures(nvcc_path: str) -> list[str]:
    """Architectures that this nvcc compiles for, as '75', '80', ..."""
    return sorted(set(re.findall(r"compute_(\d+)\b", _output([nvcc_path, "--list-gpu-arch"]))), key=int)


def architectures(nvcc_path: str) -> list[str]:
    """nvcc -gencode arguments: TORCH_CUDA_ARCH_LIST ('7.5;8.6+PTX'), else the devices present, else all supported ones
    from sm_70 to sm_90, the newest as PTX too."""
    offered = offered_architectures(nvcc_path)
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(",", ";").replace(" ", ";")
    wanted = []
    for item in filter(None, listed.split(";")):
        match = re.fullmatch(r"(\d+)\.(\d+)(a?)(\+PTX)?", item)
        if match is None:
            raise BuildError(f"TORCH_CUDA_ARCH_LIST: {item!r} is not understood; write it like '7.5;8.6+PTX'")
        wanted.append((match[1] + match[2], match[3], bool(match[4])))
    if not wanted and torch.cuda.is_available():
        present = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
        wanted = [(f"{a}{b}", "", False) for a, b in sorted(present)]
        # A device newer than this nvcc runs the newest PTX it can make.
        wanted = [w if w[0] in offered else (offered[-1], "", True) for w in wanted]
    if not wanted:
        known = [a for a in offered if a in ("70", "75", "80", "86", "89", "90")]
        wanted = [(a, "", a == known[-1]) for a in known]
    flags = []
    for arch, suffix, ptx in dict.fromkeys(wanted):
        if arch not in offered:
            raise BuildError(f"{nvcc_path} cannot compile for sm_{arch} (it offers {', '.join(offered)}); "
                             f"sm_70 needs a CUDA 12 toolkit")
        flags.append(f"-gencode=arch=compute_{arch}{suffix},code=sm_{arch}{suffix}")
        if ptx:
            flags.append(f"-gencode=arch=compute_{arch},code=compute_{arch}")
    return flags


def cpu_flags() -> frozenset[str]:
    """Instruction sets of this processor, as far as the system tells."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        match = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.M)
        if match:
            return frozenset(match[1].split())
    return frozenset([platform.processor() or platform.machine()])


def instruction_sets() -> list[str]:
    """Those that the loaded library may use beyond the least of its architecture."""
    return _State.info.get("cpu_flags", [])


def cxx_flags() -> list[str]:
    """Results stay those of IEEE arithmetic: contraction to fused multiply-add is allowed, reassociation is not."""
    root = Path(torch.__file__).parent
    flags = ["-std=c++20", "-O3", "-fPIC", "-march=native", "-fno-math-errno", "-fno-trapping-math",
             "-Wno-unknown-pragmas", f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}",
             f"-I{root / 'include'}", *shlex.split(os.environ.get("CXXFLAGS", ""))]
    if torch.backends.openmp.is_available():
        # Compiled with OpenMP but not linked to one: the runtime that torch brought is used, with its thread settings.
        flags.append("-fopenmp")
    return flags


def nvcc_flags(nvcc_path: str) -> list[str]:
    return ["-std=c++17", "-O3", "-Xcompiler", "-fPIC", *architectures(nvcc_path)]


def _digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def _output(command: list[str]) -> str:
    """What a command prints, or why it does not run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as e:
        return str(e)
    return done.stdout or done.stderr


def _version(command: str) -> str:
    """The compiler's own words about itself, without the name it was called by."""
    text = _output([command, "--version"])
    return text.removeprefix(Path(command).name).lstrip()


def _portable(value: object) -> str:
    """Text of flags and versions with this environment's own folders taken out: its name is no part of the result."""
    text = str(value)
    for place, name in ((Path(torch.__file__).parent, "<torch>"), (sys.prefix, "<environment>")):
        text = text.replace(str(place), name)
    return text


def sources_digest() -> str:
    """Hash of everything in csrc that is compiled."""
    files = sorted(p for p in source_dir().iterdir() if p.suffix in (".h", ".cpp", ".cu"))
    return _digest(*[p.name + _digest(p.read_text(encoding="utf-8")) for p in files])


def plan(cuda: bool | None = None, march: bool = True) -> dict:
    """Everything that decides the library: commands without file names, devices, and the key they hash to.

    cuda: None = where possible. Raises BuildError when there is no compiler.
    """
    problem = cuda_problem()
    if cuda and problem:
        raise BuildError(problem)
    cuda = problem is None if cuda is None else cuda
    cxx = compiler()
    flags = [f for f in cxx_flags() if march or f != "-march=native"]
    result = {"devices": ["cpu"], "cxx": cxx, "cxx_flags": flags, "nvcc": None, "nvcc_flags": [],
              "cuda_missing": problem, "torch": torch.__version__, "cpu_flags": sorted(cpu_flags()) if march else []}
    key = [sources_digest(), _portable(_version(cxx)), _portable(flags), torch.__version__,
           torch.version.git_version, torch.version.cuda, result["cpu_flags"]]
    if cuda:
        path = nvcc()
        result.update(devices=["cpu", "cuda"], nvcc=path, nvcc_flags=nvcc_flags(path),
                      cxx_flags=[*flags, "-DGT_WITH_CUDA"])
        key += [_portable(_version(path)), _portable(result["nvcc_flags"])]
    result["key"] = _digest(*key)[:20]
    return result


def build_dir() -> Path:
    """Where libraries are kept."""
    override = env_path("GANTRANSFER_BUILD_DIR")
    return Path(override) if override else cache_dir("kernels")


def build(cuda: bool | None = None) -> tuple[Path, dict]:
    """(library, record): from the cache, or compiled now. cuda: None = where possible; where the CUDA tools do not
    work, the record's `cuda_missing` says so. Raises BuildError with the command, the compiler's last lines, the log
    file and the remedy."""
    todo = plan(cuda)
    folder = build_dir() / todo["key"]
    folder.mkdir(parents=True, exist_ok=True)
    found = _stored(folder)
    if isinstance(found, tuple):
        return found
    with _lock(folder / "lock") as held:
        found = _stored(folder)
        if isinstance(found, tuple):  # another process was faster
            return found
        if held:
            _sweep(folder)
        if isinstance(found, str):
            _say(f"the compiled kernels in {folder} are damaged ({found}); they are compiled again")
        if todo["nvcc"]:
            problem = toolchain_problem(todo)
        if not todo["nvcc"] or problem is None:
            _say(f"compiling kernels for {' and '.join(todo['devices'])} (once, about a minute) ...")
            if todo["nvcc"] and ignored_cuda_home():
                _say(ignored_cuda_home())
            start = time.perf_counter()
            compile_library(todo, folder / LIBRARY, folder / "build.log")
            todo["seconds"] = round(time.perf_counter() - start, 1)
            with atomic_write(folder / RECORD) as f:
                json.dump(todo, f, indent=1)
            _say(f"kernels compiled in {todo['seconds']:.0f} s: {folder / LIBRARY}")
            return folder / LIBRARY, todo
    if cuda:
        raise BuildError(problem)
    path, info = build(cuda=False)  # without a GPU's part rather than not at all
    return path, {**info, "cuda_missing": problem}


def _say(text: str) -> None:
    print(f"gantransfer: {text}", file=sys.stderr, flush=True)


def _stored(folder: Path) -> tuple[Path, dict] | str | None:
    """(library, record) of a folder of the cache; what is wrong with them; or None where there is nothing yet."""
    library, record = folder / LIBRARY, folder / RECORD
    if not library.exists() and not record.exists():
        return None
    try:
        info = json.loads(record.read_text(encoding="utf-8"))
        whole = (isinstance(info, dict) and isinstance(info.get("devices"), list)
                 and isinstance(info.get("seconds"), (int, float)))
    except FileNotFoundError:
        return f"{RECORD} is missing"
    except (OSError, ValueError, RecursionError):
        whole = False
    if not whole:
        return f"{RECORD} cannot be read"
    return damage(library, info) or (library, info)


def damage(library: Path, info: dict) -> str | None:
    """How a library differs from what was compiled, or None. It is read, not loaded: a damaged one ends the process."""
    try:
        size = library.stat().st_size
        if size != info.get("size"):
            return f"{library.name} has {size} bytes instead of {info.get('size')}"
        if sha256(library) != info.get("sha256"):
            return f"{library.name} has other content than was compiled"
    except OSError as e:
        return f"{library.name}: {e.strerror}"
    return None


def compile_library(todo: dict, library: Path, log: Path) -> None:
    """Run the compilers of a plan; `library` appears when complete, and the plan then knows its size and hash."""
    src = source_dir()
    library.parent.mkdir(parents=True, exist_ok=True)
    with _workspace(library.parent) as tmp:
        steps = []
        for f in units(Path(tmp)):
            # What speaks with torch calls kernels and operators: nothing to optimise, and long to compile.
            less = ["-O1"] if f.stem == BINDINGS else []
            flags = [*todo["cxx_flags"], *less, "-iquote", str(src)]
            steps.append((str(f), f"{tmp}/{f.stem}.o", [todo["cxx"], *flags, "-c"]))
        if todo["nvcc"]:
            for f in sorted(src.glob("*.cu"), key=lambda p: -p.stat().st_size):
                steps.append((str(f), f"{tmp}/{f.stem}.cu.o", [todo["nvcc"], *todo["nvcc_flags"], "-ccbin",
                                                                todo["cxx"], "-c"]))
        objects = [o for _, o, _ in steps]
        made = Path(tmp, LIBRARY)
        link = [*link_command(todo, todo.get("cuda_runtime", "toolkit")), *objects, *link_flags(todo), "-o", str(made)]
        commands = [(o, [s], [*c, s, "-o", o]) for s, o, c in steps] + [(str(made), objects, link)]
        output, failed = _run(commands, Path(tmp))
        with atomic_write(log) as f:
            f.write("\n".join(shlex.join(c) for _, _, c in commands) + "\n\n" + output)
        if failed:
            raise BuildError("compiling the kernels failed:\n  " + "\n  ".join(_last_lines(output))
                             + f"\nThe whole log is {log}. Usual remedies: a C++20 compiler (g++ 10 or newer, "
                               "CXX=...), and a CUDA toolkit of torch's major version (CUDA_HOME=...).")
        todo.update(size=made.stat().st_size, sha256=sha256(made))
        _sync(made)
        os.replace(made, library)
        _sync(library.parent)


def units(folder: Path) -> list[Path]:
    """Files that hold or include all C++ sources, one for each run of the compiler, what takes longest first: all that
    speaks with torch, whose headers are half of the work, then the CPU kernels. The file made in `folder`
    includes by name, with `-iquote`: a path with a quotation mark in it cannot be written there."""
    sources = sorted(source_dir().glob("*.cpp"))
    kernels = [f for f in sources if f.stem.endswith("_cpu")]
    made = folder / f"{BINDINGS}.cpp"
    made.write_text("".join(f'#include "{f.name}"\n' for f in sources if f not in kernels), encoding="utf-8")
    return [made, *sorted(kernels, key=lambda f: -f.stat().st_size)]


def _last_lines(output: str, count: int = 12) -> list[str]:
    return [line for line in output.splitlines() if line.strip()][-count:]


def _sync(path: Path) -> None:
    """Let a file or folder reach the disk: a power cut must not leave a name without its content."""
    with contextlib.suppress(OSError):  # not every file system does this for folders
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


@contextlib.contextmanager
def _workspace(parent: Path) -> Iterator[str]:
    """A temporary folder that `_sweep` knows to be in use as long as this process lives."""
    tmp = tempfile.mkdtemp(prefix="build-", dir=parent)
    try:
        with open(Path(tmp, "in-use"), "w") as f:
            if fcntl:
                fcntl.flock(f, fcntl.LOCK_EX)
            yield tmp
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what killed builds left in this folder, and their large temporary folders in its neighbours."""
    sweep_temporaries(folder)
    for tmp in folder.parent.glob("*/build-*"):
        if fcntl is None or tmp.is_symlink() or not tmp.is_dir():
            continue
        with contextlib.suppress(OSError):
            try:
                with open(tmp / "in-use", "r+") as f:
                    fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: its build is alive
            except FileNotFoundError:
                if time.time() - tmp.stat().st_mtime < 60:  # about to be marked
                    continue
            shutil.rmtree(tmp)


def toolchain_problem(todo: dict) -> str | None:
    """Whether a small kernel compiles and links with the CUDA tools of a plan; what to do where it does not.

    Where the toolkit does not bring a runtime to link with, the one that torch ships is used; the plan then says so.
    """
    with tempfile.TemporaryDirectory(prefix="gantransfer-") as tmp:
        Path(tmp, "probe.cu").write_text(PROBE, encoding="utf-8")
        flags = todo["nvcc_flags"]
        archs = [f for f in flags if f.startswith("-gencode")]
        compile_ = [todo["nvcc"], *[f for f in flags if f not in archs[1:]], "-ccbin", todo["cxx"], "-c",
                    f"{tmp}/probe.cu", "-o", f"{tmp}/probe.o"]
        output, failed = _call(compile_)
        if failed:
            return _tools_failed("compile a kernel", output)
        said = []
        for runtime in ("toolkit", "torch"):
            if runtime == "torch" and torch_runtime() is None:
                continue
            whole = ["-Xlinker", "-z", "-Xlinker", "defs"]  # nothing may stay undefined
            output, failed = _call([*link_command(todo, runtime), f"{tmp}/probe.o", *whole,
                                    *([torch_runtime()] if runtime == "torch" else []), "-o", f"{tmp}/probe.so"])
            if not failed:
                todo["cuda_runtime"] = runtime
                return None
            said.append(output)
        return _tools_failed("link a kernel", "\n".join(said))


def _tools_failed(what: str, output: str) -> str:
    return (f"the CUDA tools are there but do not {what}:\n  " + "\n  ".join(_last_lines(output))
            + "\nUsual remedies: the whole toolkit of torch's CUDA version (nvcc, headers, runtime), CUDA_HOME set to "
              "its folder, and a C++ compiler that this nvcc supports (CXX=...).")


def torch_runtime() -> str | None:
    """The file of the CUDA runtime that torch has loaded, or None."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text().splitlines():
            path = line.partition("/")[2]
            if Path(path).name.startswith("libcudart.so"):
                return "/" + path
    return None


def link_command(todo: dict, runtime: str = "toolkit") -> list[str]:
    """The beginning of the command that links. nvcc knows where its own runtime is, whatever folders its distribution
    uses and whatever stands between its name on the PATH and itself."""
    if todo["nvcc"] and runtime == "toolkit":
        archs = [f for f in todo["nvcc_flags"] if f.startswith("-gencode")]
        return [todo["nvcc"], "-shared", *archs, "-ccbin", todo["cxx"]]
    return [todo["cxx"], "-shared"]


def link_flags(todo: dict) -> list[str]:
    """Libraries to link with. No search path for them is recorded: torch is loaded before the library is, and the
    library serves every environment with this torch."""
    lib = Path(torch.__file__).parent / "lib"
    flags = [f"-L{lib}", "-ltorch_cpu", "-lc10"]
    if sys.platform == "darwin":
        flags.append(f"-Wl,-rpath,{lib}")
    if todo.get("cuda_runtime") == "torch":
        flags.append(torch_runtime())
    return flags


def _run(commands: list[tuple[str, list[str], list[str]]], folder: Path) -> tuple[str, bool]:
    """(output, failed) of [(target, inputs, command)]; the last needs all others. With ninja where there is one."""
    jobs = max(1, int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1))
    ninja = shutil.which("ninja")
    if ninja:
        text, names = ["rule run\n  command = $cmd\n"], {c[0]: str(i) for i, c in enumerate(commands)}
        for target, inputs, command in commands:  # by number: ninja cannot write every path
            text.append(f"build {names[target]}: run {' '.join(names[i] for i in inputs if i in names)}\n"
                        f"  cmd = {shlex.join(command).replace('$', '$$')}\n")
        (folder / "build.ninja").write_bytes(os.fsencode("\n".join(text)))
        with _Tools() as tools:
            output, code = tools.run([ninja, "-C", str(folder), "-j", str(jobs)])
        if code == 0 or "ninja: fatal" not in output:
            return output, code != 0
    with ThreadPoolExecutor(jobs) as pool, _Tools() as tools:
        results = list(pool.map(partial(_call, tools=tools), [c for _, _, c in commands[:-1]]))
    if not any(bad for _, bad in results):
        results.append(_call(commands[-1][2]))
    results.sort(key=lambda r: r[1])  # what failed comes last, where the message is cut from
    return "\n".join(t for t, _ in results), any(bad for _, bad in results)


def _call(command: list[str], tools: _Tools | None = None) -> tuple[str, bool]:
    """(the command and what it printed, failed)."""
    try:
        with contextlib.nullcontext(tools) if tools else _Tools() as tools:
            output, code = tools.run(command)
    except OSError as e:
        return f"{shlex.join(command)}\n{e}", True
    return f"{shlex.join(command)}\n{output}", code != 0


class _Tools:
    """Compilers, each the first of a process group: where an exception ends the build (a signal asks this process to
    end), they end at once with all that they have started."""

    def __init__(self) -> None:
        self.running: list[subprocess.Popen] = []
        self.over = False

    def __enter__(self) -> _Tools:
        return self

    def __exit__(self, *exc: object) -> None:
        self.over = True
        for process in self.running:
            self._end(process)

    def run(self, command: list[str]) -> tuple[str, int]:
        """(what it printed, its exit code); from any thread."""
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   errors="replace", start_new_session=True)
        self.running.append(process)
        if self.over:
            self._end(process)
        return process.communicate()[0], process.returncode

    @staticmethod
    def _end(process: subprocess.Popen) -> None:
        # Ninja gives each compiler a group of its own, and ends them when it is asked to end, not when it is killed.
        for signum, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, None)):
            if process.poll() is None:
                with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # OSError: it has ended meanwhile
                    os.killpg(process.pid, signum)
                    process.wait(patience)


@contextlib.contextmanager
def _lock(path: Path, timeout: float | None = None) -> Iterator[bool]:
    """Hold an advisory lock, or go on without it after `timeout` seconds: it only saves double work, files are
    replaced atomically anyway. The system drops it when its holder dies, so it cannot be stale."""
    timeout = LOCK_TIMEOUT if timeout is None else timeout
    if fcntl is None:  # build twice at worst
        yield False
        return
    with open(path, "a") as f:
        end, held, told = time.monotonic() + timeout, False, False
        while not held:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
            except OSError:
                if time.monotonic() > end:
                    break
                if not told:
                    print(f"gantransfer: another process is compiling the kernels; waiting up to {timeout:.0f} s "
                          f"({path})", file=sys.stderr, flush=True)
                    told = True
                time.sleep(0.1)
        yield held


def _prebuilt() -> tuple[Path, dict] | None:
    """The library that came with the installed package, if it fits this torch, these sources and this processor."""
    try:
        from torch_utils import _build_info
    except ImportError:
        return None
    path = Path(_build_info.__file__).with_name(LIBRARY)
    info = json.loads(_build_info.record)
    reasons = []
    if damage(path, info):
        reasons.append(f"it is damaged: {damage(path, info)}")
    if info["torch"] != torch.__version__:
        reasons.append(f"built for torch {info['torch']}, this is {torch.__version__}")
    if info["sources"] != sources_digest():
        reasons.append("the sources have changed since")
    if not set(info["cpu_flags"]) <= cpu_flags():
        reasons.append("built for another processor")
    if "cuda" not in info["devices"] and torch.cuda.is_available() and cuda_problem() is None:
        reasons.append("it has no CUDA part")
    if reasons:
        warnings.warn(f"The prebuilt kernels are not used ({'; '.join(reasons)}); compiling instead.", RuntimeWarning,
                      2)
        return None
    return path, info
