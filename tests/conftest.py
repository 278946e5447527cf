# SPDX-License-Identifier: Apache-2.0
"""Settings and small real data for all tests. Golden helpers are in tests/golden/conftest.py."""

import contextlib
import gc
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

# Before OpenMP is loaded, as in every command: threads that wait must not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import PIL.Image
import pytest
import torch

import dnnlib.util
from torch_utils import build, heap

ROOT = Path(__file__).resolve().parents[1]


DURATIONS = Path(__file__).with_name("durations.json")  # seconds of each file, as --record-durations wrote them


def _file(nodeid: str) -> str:
    return nodeid.split("::")[0].removeprefix("tests/")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-durations", action="store_true",
                     help="write the seconds of each test file to tests/durations.json, by which files are ordered")


def pytest_configure(config: pytest.Config) -> None:
    # One thread: float32 sums do not depend on the machine. Child processes inherit it.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    heap.keep_freed()  # as in every training; the tests spent a tenth of their time in the system without it
    # Compiled kernels are kept from one session to the next, everything else is not.
    os.environ.setdefault("GANTRANSFER_BUILD_DIR", str(dnnlib.util.cache_dir("kernels")))
    config.stash[_CACHE] = tempfile.mkdtemp(prefix="gantransfer-test-cache-")
    os.environ["GANTRANSFER_CACHE_DIR"] = config.stash[_CACHE]


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[_CACHE], ignore_errors=True)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Seconds of set-up, call and tear-down, by file. With several processes, reports come to the first."""
    _SECONDS[_file(report.nodeid)] = _SECONDS.get(_file(report.nodeid), 0.0) + report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("record_durations") and not hasattr(session.config, "workerinput"):
        seconds = {f: round(s) for f, s in sorted(_SECONDS.items())}
        DURATIONS.write_text(json.dumps(seconds, indent=0) + "\n", encoding="utf-8")


def pytest_sessionstart() -> None:
    gc.disable()  # nearly all that collecting makes is kept
    # Of several processes each collects all files: they begin in different places, and find in the caches what others
    # have compiled meanwhile. That is a third of the time which collecting takes in a fresh checkout.
    place, count = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]), int(
        os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    files = sorted(p.relative_to(ROOT) for p in Path(__file__).parent.rglob("test_*.py"))
    for f in files[len(files) * place // count:] if place else []:
        with contextlib.suppress(Exception, pytest.skip.Exception):  # collecting says it
            importlib.import_module(".".join(f.with_suffix("").parts))


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # what was imported stays: a full collection that does not look through it takes a third of the time
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The longest files first, so that processes end at about the same time; guessed where nothing was recorded.
    known = json.loads(DURATIONS.read_text(encoding="utf-8")) if DURATIONS.exists() else {}
    guessed: dict[str, int] = {}
    for item in items:
        guessed[_file(item.nodeid)] = guessed.get(_file(item.nodeid), 0) + (15 if "slow" in item.keywords else 1)
    items.sort(key=lambda item: -known.get(_file(item.nodeid), guessed[_file(item.nodeid)]))
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


_KERNELS = os.environ.get("GANTRANSFER_KERNELS")  # what this test run was told to use
_CACHE = pytest.StashKey[str]()
_SECONDS: dict[str, float] = {}


def write_image_zip(path: Path, images: Sequence[np.ndarray], labels: Sequence[Any] | None = None,
                    **extra: Any) -> Path:
    """A data-set zip as dataset_tool.py writes it: stored PNGs in folders of a thousand, and dataset.json.

    `images`: uint8 [H, W] or [H, W, C] each; `labels`: int or vector per image; `extra`: further keys of dataset.json.
    """
    names = [f"{i // 1000:05d}/img{i:08d}.png" for i in range(len(images))]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as z:
        for name, image in zip(names, images):
            png = io.BytesIO()
            PIL.Image.fromarray(image).save(png, "png", compress_level=0, optimize=False)
            z.writestr(zipfile.ZipInfo(name), png.getvalue())
        pairs = None if labels is None else [[name, label] for name, label in zip(names, labels)]
        z.writestr(zipfile.ZipInfo("dataset.json"), json.dumps({"labels": pairs, **extra}))
    return path


def write_blobs(folder: Path, unit: float = 1.0) -> None:
    """set.zip and values.zip: 40 grey 16 x 16 images of a blob whose place depends on the class, of four, or is the
    value, in `unit`s."""
    rng, (y, x), images, values = np.random.RandomState(0), np.mgrid[:16, :16], [], []
    for i in range(40):
        cx, cy, r = 4 + 2 * (i % 4) + rng.rand(), 5 + 6 * rng.rand(), 2 + 2 * rng.rand()
        images.append(np.uint8(255 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / r**2)))
        values.append([float(cx) / unit])
    write_image_zip(folder / "set.zip", images, [i % 4 for i in range(40)])
    write_image_zip(folder / "values.zip", images, values)


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Real handwritten digits 0 to 3, ten of each: uint8 [40, 16, 16], int64 [40]."""
    sklearn_datasets = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn (extra `demo`)")
    data = sklearn_datasets.load_digits()
    chosen = np.concatenate([np.flatnonzero(data.target == k)[:10] for k in range(4)])
    images = np.round(data.images[chosen] * (255 / 16)).astype(np.uint8)  # 8 x 8, 17 levels
    large = [PIL.Image.fromarray(x).resize((16, 16), PIL.Image.Resampling.BILINEAR) for x in images]
    return np.stack([np.asarray(x) for x in large]), data.target[chosen].astype(np.int64)


@pytest.fixture(scope="session")
def tiny_zip(digits: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small real data set: 40 grey 16 x 16 digits of 4 classes, with labels. Do not write to it."""
    images, labels = digits
    return write_image_zip(tmp_path_factory.mktemp("data") / "digits16.zip", images, [int(y) for y in labels])


@pytest.fixture(scope="session")
def earlier_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of every method, by version 0.1.0, and its data sets. Do not write to it."""
    folder = tmp_path_factory.mktemp("runs")
    with zipfile.ZipFile(ROOT / "tests" / "fixtures" / "v0.1.0" / "runs.zip") as z:
        z.extractall(folder)
    return folder


def checked(done: subprocess.CompletedProcess, code: int | None) -> subprocess.CompletedProcess:
    """The same; the test fails where it ended with another exit code. None: any will do."""
    if code not in (None, done.returncode):
        pytest.fail(f"exit code {done.returncode} instead of {code}: {' '.join(map(str, done.args))}\n"
                    f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}", pytrace=False)
    return done


@pytest.fixture
def call(capsys: pytest.CaptureFixture,
         monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess]:
    """Run a command as its script does, within this process: `call('convert', SOURCE, DEST, check=2)`.

    `check` and the result as of `run_script`, which takes seconds more. Sheets of a training have two rows: 384 images
    without labels, as users get them, take longer than the steps between.
    """
    training_loop = importlib.import_module("gantransfer.training_loop")
    layout = training_loop.grid_layout
    monkeypatch.setattr(training_loop, "grid_layout", lambda dataset, rows: layout(dataset, rows or 2))

    def run(name: str, *args: Any, check: int | None = 0) -> subprocess.CompletedProcess:
        command = importlib.import_module(f"gantransfer.commands.{name}").main
        capsys.readouterr()
        with pytest.raises(SystemExit) as e:
            dnnlib.util.run_cli(lambda: command.main([str(a) for a in args], prog_name=name))
        return checked(subprocess.CompletedProcess([name, *args], e.value.code or 0, *capsys.readouterr()), check)

    return run


@pytest.fixture(autouse=True)
def chosen_kernels() -> Iterator[None]:
    """The environment of the tests chooses the operators of each: a command that ran in this process may have been
    given --kernels, which it tells its children through the environment."""
    _forget_kernels()
    yield
    _forget_kernels()


def _forget_kernels() -> None:
    build._State.mode = None
    os.environ.pop("GANTRANSFER_KERNELS", None)
    if _KERNELS is not None:
        os.environ["GANTRANSFER_KERNELS"] = _KERNELS


@pytest.fixture
def fresh_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that starts: no operators are chosen, and none are loaded."""
    for name, value in dict(mode=None, devices=None, info={}, failure=None, missing_cuda=None, warned=set()).items():
        monkeypatch.setattr(build._State, name, value)
    monkeypatch.setenv("GANTRANSFER_KERNELS", "")


@pytest.fixture
def no_compiler(fresh_kernels: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A search path with nothing on it, and no library from before; here, and in processes that start here."""
    for name, value in dict(PATH=tmp_path / "nothing", CXX="", GANTRANSFER_BUILD_DIR=tmp_path / "kernels").items():
        monkeypatch.setenv(name, str(value))


@pytest.fixture(scope="session")
def run_script() -> Callable[..., subprocess.CompletedProcess]:
    """Run `python ARGS...` from the root of the repository: `run_script('train.py', '--help', check=0, env={})`.

    `check`: the expected exit code, None = any. Returns the CompletedProcess with text stdout and stderr.
    """

    def run(*args: Any, check: int | None = 0, timeout: float = 300, env: dict | None = None, cwd: Path | None = None):
        return checked(subprocess.run(
            [sys.executable, *map(str, args)], cwd=cwd or ROOT, timeout=timeout, text=True, capture_output=True,
            stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})}), check)

    return run


@pytest.fixture
def tool(call: Callable) -> Callable[..., tuple[int, str, str]]:
    """dataset_tool, or another command, in this process: arguments -> (exit code, stdout, stderr)."""

    def run(*args: object, command: str = "dataset_tool") -> tuple[int, str, str]:
        done = call(command, *args, check=None)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def accepted(call: Callable) -> Callable[..., str]:
    """The same, of arguments that it takes -> stdout."""
    return lambda *args, command="dataset_tool": call(command, *args).stdout


@pytest.fixture
def refused(call: Callable) -> Callable[..., str]:
    """The same, of arguments that it refuses -> all that stderr says, one line."""
    return lambda *args, command="dataset_tool": only_line(call(command, *args, check=2).stderr)


@pytest.fixture
def converted(accepted: Callable) -> Callable[..., tuple[dict, dict[str, np.ndarray]]]:
    """What dataset_tool makes of its arguments -> dataset.json and the images by name, as they are at --dest."""
    from tests.data.picture_sets import read_set

    def run(*args: str) -> tuple[dict, dict[str, np.ndarray]]:
        accepted(*args)
        (dest,) = [a.removeprefix("--dest=") for a in map(str, args) if a.startswith("--dest=")]
        return read_set(Path(dest))

    return run


def only_line(err: str) -> str:
    lines = err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("Error: "), err
    return lines[0]
