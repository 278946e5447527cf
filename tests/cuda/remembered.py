# SPDX-License-Identifier: Apache-2.0
"""What compilers make of the sources, kept beside the compiled kernels from one session to the next: the same sources,
tools and flags give the same."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dnnlib.util import atomic_write
from torch_utils import build

MONTH = 30 * 24 * 3600


def place(name: str, *parts: object) -> Path:
    """Where the outcome of `parts` (flags, further sources) belongs; sources and tools are part of the name."""
    nvcc = build.nvcc()
    tools = [build._version(build.compiler()), nvcc and build._version(nvcc), build.torch.__version__]
    root = str(build.source_dir().parent)  # the name of a checkout is no part of the outcome
    texts = [p.read_text(encoding="utf-8") if isinstance(p, Path) else str(p).replace(root, "") for p in parts]
    digest = hashlib.sha256(json.dumps([build.sources_digest(), *tools, *texts]).encode()).hexdigest()
    folder = build.build_dir() / "tests"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        with contextlib.suppress(OSError):  # another process was faster
            if time.time() - old.stat().st_mtime > MONTH:
                old.unlink()
    return folder / f"{name}-{digest[:20]}"


def value(name: str, parts: tuple, make: Callable[[], Any]) -> Any:
    """What `make` returns, as JSON keeps it."""
    path = place(name, *parts)
    if not path.exists():
        made = make()
        with atomic_write(path) as f:
            json.dump(made, f)
    return json.loads(path.read_text(encoding="utf-8"))


def file(name: str, parts: tuple, make: Callable[[Path], Path]) -> Path:
    """The file that `make` compiles, given a temporary folder."""
    path = place(name, *parts)
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            os.replace(make(Path(folder)), path)
    return path
