# SPDX-License-Identifier: Apache-2.0
"""Files of every kind that is read, changed at random: `python -m tests.chaos.mutations --seconds=600`.

Whatever a change makes must load or be refused in one line: no other exception, no crash, nothing run or written, no
gigabyte taken. Changes are of bytes, of values in JSON, of opcodes in pickles, and of the members of zips with the zip
put together again, so that they reach behind its checksums. A worker process does the work: it counts what an audit
hook reports (processes, sockets, files written, Python's own unpickler), and the memory that an input adds; the parent
sees its crashes and its standstills, keeps the file, and starts another.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import mmap
import os
import pickletools
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SLICE = 0.05  # seconds for one kind of file before the next one's turn: cheap kinds get more inputs
SLOW = 60  # seconds for one input
LIMIT = 2**30  # bytes that one input may add
GUARD = 2 * 2**30  # bytes of address space beyond what the worker has at its start: the machine's safety, no verdict

TOKENS = [b"\x00", b"\xff", b".", b"R", b"b", b"\x93", b"cos\nsystem\n", b"\x8c\x02os", b"(", b"t", b"]", b"}", b"\x85",
          b"q\x00", b"h\x00", struct.pack("<I", 2**31 - 1), struct.pack("<Q", 2**63 - 1), b"-1", b"1e999", b"null",
          b"[", b'{"', b"../", b"PK\x05\x06", b"PK\x01\x02", b"\n", b"\x1b[2J", struct.pack(">I", 2**31 - 1), b"NaN"]
VALUES: list[Any] = [None, True, -1, 0, 1, 2**31, 2**63, 2**64, 10**30, 10**400, 0.5, -0.0, float("nan"), float("inf"),
                     1e308, "", "a", "../x", "x\ny", "\ud800", "0" * 500, [], {}, [[]], [None], {"": None}, [0] * 50,
                     [[["a"]]], {"a": {"b": [1]}}]
OPCODES = [b"(", b"]", b"}", b")", b"t", b"l", b"d", b"\x85", b"\x86", b"\x87", b"R", b"b", b"\x81", b"\x93", b"s",
           b"u", b"a", b"e", b"0", b"1", b"2", b"N", b"\x88", b"\x89", b"K\x01", b"K\xff", b"q\x00", b"q\x01",
           b"h\x00", b"h\x01", b"\x94", b"X\x01\x00\x00\x00a", b"C\x08AAAAAAAA", b"\x8a\x08AAAAAAAA", b"G????????",
           b"\x8f", b"\x90", b"\x91", b"Q", b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
           b"ctorch.nn.modules.activation\nReLU\n", b"cos\nsystem\n", b"cbuiltins\nset\n", b"cbuiltins\nlist\n",
           b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy.core.multiarray\nscalar\n",
           b"cnumpy\nndarray\n", b"ctorch\nSize\n", b"c_codecs\nencode\n", b"cargparse\nNamespace\n",
           b"ctorch.storage\n_load_from_bytes\n", b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n",
           b"X\x02\x00\x00\x00f8", b"X\x02\x00\x00\x00O8", b"K\x01K\x02\x86", b"."]


# ---- changes -----------------------------------------------------------------------------------------------------


def high_water() -> int:
    """KB that this process has had at most. getrusage tells what its parent had when it began, if that was more."""
    try:
        return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])
    except (OSError, TypeError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss



def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """One to four changes: bits, tokens, deletions, copies, truncation."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not out:
            break
        at, kind = rng.randrange(len(out)), rng.randrange(6)
        if rng.random() < 0.5:  # headers matter more than what follows them
            at = min(at, rng.randrange(1, 400), len(out) - 1)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            token = rng.choice(TOKENS)
            out[at : at + len(token)] = token
        elif kind == 2:
            out[at:at] = rng.choice(TOKENS)
        elif kind == 3:
            del out[at : at + rng.randint(1, 32)]
        elif kind == 4:
            out[at:at] = out[(s := rng.randrange(len(out))) : s + rng.randint(1, 64)]
        elif rng.random() < 0.2:
            del out[at:]
    return bytes(out)


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """A value somewhere replaced, doubled, removed or renamed; now and then only bytes."""
    if rng.random() < 0.2:
        return mutate_bytes(data, rng)
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    try:
        value = json.loads(lines[at])
    except ValueError:
        return mutate_bytes(data, rng)
    for _ in range(rng.randint(1, 3)):
        value = _changed(value, rng)
    try:
        lines[at] = json.dumps(value).encode()
    except ValueError:
        return mutate_bytes(data, rng)
    return b"\n".join(lines)


def _changed(value: Any, rng: random.Random, depth: int = 0) -> Any:
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1 + 0.05 * depth:
        return rng.choice(VALUES)
    if isinstance(value, list):
        value, k = list(value), rng.randrange(len(value))
        kind = rng.randrange(8)
        if kind == 0:
            del value[k]
        elif kind == 1:
            value.insert(k, value[rng.randrange(len(value))])
        else:
            value[k] = _changed(value[k], rng, depth + 1)
        return value
    key, kind = rng.choice(list(value)), rng.randrange(8)
    if kind == 0:
        return {k: v for k, v in value.items() if k != key}
    if kind == 1:
        return {**value, rng.choice(["", "labels", "name", "x\ny", "0" * 99]): rng.choice(VALUES)}
    return {**value, key: _changed(value[key], rng, depth + 1)}


def mutate_pickle(data: bytes, rng: random.Random) -> bytes:
    """Instructions removed, doubled, exchanged or put in; now and then only bytes."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    try:
        starts = [at for _, _, at in pickletools.genops(data)]
    except Exception:
        return mutate_bytes(data, rng)
    ends = [*starts[1:], len(data)]
    parts = [data[a:b] for a, b in zip(starts, ends)]
    for _ in range(rng.randint(1, 4)):
        at, kind = rng.randrange(len(parts)), rng.randrange(4)
        if kind == 0 and len(parts) > 1:
            del parts[at]
        elif kind == 1:
            parts.insert(at, rng.choice(OPCODES))
        elif kind == 2:
            parts[at] = rng.choice(OPCODES)
        else:
            parts[at] = parts[rng.randrange(len(parts))]
    return b"".join(parts)


def mutate_zip(data: bytes, rng: random.Random, found: dict[str, bytes]) -> bytes:
    """A member changed and the zip put together again, so that its checksums are right; now and then only bytes."""
    if rng.random() < 0.25 or not found:
        return mutate_bytes(data, rng)
    out, name = dict(found), rng.choice(list(found))
    kind = rng.randrange(12)
    if kind == 0:
        del out[name]
    elif kind == 1:
        out[rng.choice(["../x", "/x", "a\\b", "x\ny", "é", "data.pkl", "x/constants.pkl"])] = out[name]
    elif name.endswith(".pkl"):
        out[name] = mutate_pickle(out[name], rng)
    elif name.endswith(".json"):
        out[name] = mutate_json(out[name], rng)
    else:
        out[name] = mutate_bytes(out[name], rng)
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED) as z:
            for key, value in out.items():
                z.writestr(key, value)
    return stream.getvalue()


def mutate_opcodes(data: bytes, rng: random.Random) -> bytes:
    return b"\x80\x04" + b"".join(rng.choice(OPCODES) for _ in range(rng.randint(1, 40))) + b"."


# ---- the worker --------------------------------------------------------------------------------------------------


class Watch:
    """An audit hook that notes what reading a file must not do."""

    EVENTS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "subprocess.Popen", "os.fork",
              "pickle.find_class", "socket.connect", "socket.bind", "ctypes.dlopen", "os.kill", "os.putenv")
    FILES = ("os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.chmod", "os.link", "os.symlink", "os.truncate",
             "shutil.rmtree", "shutil.move")

    def __init__(self, *places: Path):
        self.places, self.seen, self.on = tuple(f"{p}/" for p in places), [], False
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple) -> None:
        if not self.on:
            return
        if event == "subprocess.Popen" and args[1][1] == "-m" and args[1][2] in (
                "gantransfer.data.h5_look", "gantransfer.data.sources.lmdb_look"):
            return  # the project's own look at a file
        if event in self.EVENTS or event in self.FILES and not self._ours(args[0]):
            self.seen.append(f"{event} {args!r}"[:200])
        elif event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+") and not self._ours(args[0]):
            self.seen.append(f"{event} {args!r}"[:200])

    def _ours(self, path: Any) -> bool:
        return not isinstance(path, int) and os.fsdecode(path).startswith(self.places)


class TooSlow(BaseException):
    """One input took longer than SLOW."""


def _too_slow(*args: Any) -> None:
    raise TooSlow


def guard() -> None:
    """Address space for GUARD bytes more than there are, and an alarm that ends what takes too long."""
    signal.signal(signal.SIGALRM, _too_slow)
    if Path("/proc/self/statm").exists():
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + GUARD,) * 2)


def outcome(read: Callable[[Path], Any], path: Path, watch: Watch) -> tuple[str, str, str]:
    """('loaded', 'refused' or 'uncaught', what the fault is, what was said) of reading a file under watch."""
    from dnnlib.util import UserError, printable
    from gantransfer.formats.inert_pickle import Refused

    signal.setitimer(signal.ITIMER_REAL, SLOW)
    watch.on = True
    try:
        read(path)
        return "loaded", "", ""
    except (UserError, Refused) as e:
        fine = str(e) and printable(e) == str(e)
        return ("refused", "", str(e)) if fine else ("uncaught", "a message that is not one line", "")
    except TooSlow:
        return "uncaught", f"more than {SLOW} s", ""
    except BaseException as e:
        frames = [f for f in traceback.extract_tb(e.__traceback__) if "gantransfer" in f.filename
                  or "dnnlib" in f.filename or "torch_utils" in f.filename]
        at = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
        return "uncaught", f"{type(e).__name__} at {at}", str(e)[:120]
    finally:
        watch.on = False
        signal.setitimer(signal.ITIMER_REAL, 0)


def work(seconds: float, seed: int, place: Path, only: str = "", memory: Path | None = None) -> None:
    """Change and read files for `seconds`, in the folder `memory`; figures go to place/figures.json as they come."""
    from dnnlib.util import UserError
    from gantransfer.formats.inert_pickle import Refused
    from tests.chaos import seeds

    warnings.simplefilter("ignore")
    made = place / "seeds"
    made.mkdir(exist_ok=True)
    files = {k: s for k, s in seeds.make(made).items() if only in k}
    area = (memory or place) / "area"
    area.mkdir(exist_ok=True)
    watch = Watch(area, place)
    for s in files.values():  # as they are, they load; and everything that is imported lazily is here now
        (area / s.name).write_bytes(s.data)
        with contextlib.nullcontext() if s.valid else contextlib.suppress(UserError, Refused):
            s.read(area / s.name)
        (area / s.name).unlink()
    inside = {k: seeds.members(s.data) or {} for k, s in files.items()}
    guard()
    (place / "current").write_bytes(bytes(256))
    with open(place / "current", "r+b") as f:
        current = mmap.mmap(f.fileno(), 256)  # what is being read, for the parent, at no cost
    counts: Counter = Counter()
    faults: dict[str, dict[str, Any]] = {}
    rng = random.Random(seed)
    base = peak = high_water()
    end, told = time.monotonic() + seconds, 0.0

    def fault(kind: str, name: str, what: str, data: bytes, says: str = "") -> None:
        key = f"{kind}: {name}: {what}"
        counts[kind] += 1
        if key not in faults:
            kept = place / f"fault-{len(faults):03d}-{files[name].name}"
            kept.write_bytes(data)
            faults[key] = dict(count=0, file=str(kept), says=says)
        faults[key]["count"] += 1

    def report(done: bool = False) -> None:
        top = dict(counts=dict(counts), faults=faults, base_kb=base, peak_kb=peak, done=done)
        temporary = place / "figures.tmp"
        temporary.write_text(json.dumps(top))
        temporary.rename(place / "figures.json")

    order = list(files)
    while time.monotonic() < end:
        rng.shuffle(order)
        for name in order:
            s = files[name]
            if name.startswith(("HDF5", "LMDB")) and len(order) > 2 and rng.random() > 0.15:
                continue  # each takes a process of its own, and as long as thousands of others
            path, until = area / s.name, time.monotonic() + SLICE
            while time.monotonic() < until:
                if s.kind == "zip":
                    data = mutate_zip(s.data, rng, inside[name])
                else:
                    data = {"bytes": mutate_bytes, "json": mutate_json, "pickle": mutate_pickle,
                            "opcodes": mutate_opcodes}[s.kind](s.data, rng)
                path.write_bytes(data)
                current[: len(name) + 1] = name.encode() + b"\0"
                kind, what, says = outcome(s.read, path, watch)
                if what:
                    fault(kind, name, what, data, says)
                else:
                    counts[kind] += 1
                counts["inputs"] += 1
                if watch.seen:
                    fault("executed", name, watch.seen[0], data)
                    watch.seen.clear()
                now = high_water()
                if now > peak:
                    if (now - peak) * 1024 > LIMIT:
                        fault("over_1gb", name, f"{(now - peak) // 1024} MB", data)
                    peak = now
            for entry in area.iterdir():
                entry.unlink()
            if time.monotonic() - told > 1:
                told = time.monotonic()
                report()
    report(True)


# ---- the parent --------------------------------------------------------------------------------------------------


def run(seconds: float, seed: int = 0, only: str = "", keep: Path | None = None) -> dict[str, float]:
    """Figures of `seconds` of it: inputs, loaded, refused, uncaught, executed, over_1gb, peak_mb, per_second.

    `uncaught` counts crashes and standstills of the worker too. Every kind of fault is printed once, with a file.
    """
    total: Counter = Counter()
    peak = 0.0
    place = Path(tempfile.mkdtemp(prefix="chaos-mutations-")) if keep is None else keep
    shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # writing a file to a disk can take milliseconds
    end, start, shown = time.monotonic() + seconds, time.monotonic(), 0
    while (left := end - time.monotonic()) > 0:
        shown += 1
        here = place / f"worker-{shown:03d}"
        here.mkdir(parents=True)
        memory = Path(tempfile.mkdtemp(prefix="chaos-mutations-", dir=shm))
        command = [sys.executable, "-m", "tests.chaos.mutations", f"--seconds={left}", f"--seed={seed + shown - 1}",
                   f"--work={here}", f"--only={only}", f"--memory={memory}"]
        with open(here / "log.txt", "w") as log:
            worker = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log,
                                      env={**os.environ, "OMP_NUM_THREADS": "1"})
        told, last, moved = time.monotonic(), None, time.monotonic()
        while worker.poll() is None:
            time.sleep(0.2)
            now, got = time.monotonic(), _figures(here)
            state = got["counts"].get("inputs", 0)
            if state != last:
                last, moved = state, now
            if now - moved > (3 * SLOW if state else 300):  # stuck in C, where no signal is answered
                worker.kill()
            if now - told > 20:
                told = now
                sums = total + Counter(got["counts"])
                print(f"  {sums['inputs']:,} inputs, uncaught {sums['uncaught']}, executed {sums['executed']}, peak "
                      f"{got['peak_kb'] / 1024:.0f} MB", flush=True)
        got = _figures(here)
        total.update(got["counts"])
        peak = max(peak, got["peak_kb"] / 1024)
        for what, f in got["faults"].items():
            print(f"  {what}: {f['count']} times, for example {f['file']} {f['says']!r}", flush=True)
        if not got["done"]:
            current = (here / "current").read_bytes().split(b"\0")[0].decode() if (here / "current").exists() else ""
            shutil.copytree(memory, here / "left", dirs_exist_ok=True)
            total["uncaught"] += 1
            print(f"  crash: the worker ended with {worker.returncode} at {current or 'its start'}: see "
                  f"{here / 'left'}; its log ends {(here / 'log.txt').read_text()[-600:]}", flush=True)
        shutil.rmtree(memory, ignore_errors=True)
        if total["inputs"] == 0 and shown > 2:
            break
    took = max(time.monotonic() - start, 1e-9)
    names = ("inputs", "loaded", "refused", "uncaught", "executed", "over_1gb")
    return {**{k: float(total[k]) for k in names}, "peak_mb": round(peak, 1),
            "per_second": round(total["inputs"] / took, 1)}


def _figures(place: Path) -> dict[str, Any]:
    try:
        return json.loads((place / "figures.json").read_text())
    except (OSError, ValueError):
        return dict(counts={}, faults={}, peak_kb=0, done=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="kinds of file whose name holds this")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.seconds, args.seed, Path(args.work), args.only, Path(args.memory))
        return
    figures = run(args.seconds, args.seed, args.only)
    print(json.dumps(figures))
    sys.exit(1 if figures["uncaught"] or figures["executed"] or figures["over_1gb"] or not figures["inputs"] else 0)


if __name__ == "__main__":
    main()
