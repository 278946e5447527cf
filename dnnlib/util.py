# SPDX-License-Identifier: Apache-2.0
"""Plain helpers for scripts: user errors, signals, atomic files, a tee logger, times, cached downloads.

Imports nothing but the standard library, so that every other package may use it.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import hashlib
import io
import math
import os
import re
import signal
import sys
import tempfile
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from stat import S_ISBLK, S_ISCHR, S_ISDIR, S_ISFIFO, S_ISREG, S_ISSOCK
from typing import Any

from dnnlib.lock import owner_of, sign, try_lock
from dnnlib.signals import handle


class UserError(Exception):
    """Something the user can put right: one line that names the flag or file, and the remedy.

    A message may quote names from files: control characters in them are written as escapes.
    """

    def __init__(self, message: str = ""):
        super().__init__(printable(message))


class EasyDict(dict):
    """A dict whose items are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        del self[name]


def first_line(error: BaseException, most: int = 160) -> str:
    """The first line of an error's message, or its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]


def printable(text: Any, keep: str = "") -> str:
    """`text` with every character that is not plain text on one line as its escape: control characters (an ANSI
    sequence, a newline), direction marks, surrogates. `keep`: characters to let through.

    Names of files, folders and classes may hold anything. They go through here before they are shown: in a message, a
    table, a picture; what a command prints goes through here as a whole in `Plain`.
    """
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or not _unprintable(c) else _escape(c) for c in text)


def three(value: Any, unit: str = "") -> str:
    """Three digits and a unit, for people: 0.0123, 9.3 s, 12,300 images; '-' for what is no finite number."""
    if not isinstance(value, int | float) or not abs(value) < 2**1023:
        return "-"
    v = float(f"{value:.3g}")
    return f"{v:,.0f} {unit}".rstrip() if 1000 <= abs(v) < 1e7 else f"{v:.3g} {unit}".rstrip()


def table_cell(text: Any) -> str:
    """`printable` inside a Markdown table."""
    return printable(text).replace("|", "\\|")


def _unprintable(c: str) -> bool:
    # Zero-width joiners (200c, 200d) belong to the spelling of many languages and change nothing else.
    return unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in "\u200c\u200d"


def _escape(c: str) -> str:
    n = ord(c)
    return {10: "\\n", 13: "\\r", 9: "\\t"}.get(n) or (
        f"\\x{n:02x}" if n < 256 else f"\\u{n:04x}" if n < 65536 else f"\\U{n:08x}")


# What a line of ours may begin with -> its colour on a terminal; behind the name of a process of a study.
_COLOURS = {"Error": "1;31", "Warning": "33", "Note": "33", "Step": "1", "Training": "1", "metrics": "32"}
_HEADS = re.compile(r"^(\[[^\]\n]*\] )?(Error(?=:)|Warning(?=:)|Note(?=:)|(?:Step|Training) \d+ of \d+(?=:)|"
                    r"metrics(?= ))", re.MULTILINE)


def _coloured(stream: Any) -> bool:
    """Only a terminal is coloured, and none whose user has said no (no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and getattr(stream, "isatty", bool)()


class Plain(io.TextIOBase):
    """A text stream through which no control character passes but newline, carriage return and tab, and our own colours
    of what lines begin with, on a terminal.

    What the stream's encoding lacks is written as an escape too: a name never ends a command.
    """

    def __init__(self, stream: Any):
        self.stream, self.coloured = stream, _coloured(stream)

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"a text is written here, not {type(text).__name__}")
        shown = printable(text, keep="\n\r\t")
        if self.coloured:
            shown = _HEADS.sub(lambda m: f"{m[1] or ''}\x1b[{_COLOURS[m[2].split()[0]]}m{m[2]}\x1b[0m", shown)
        try:
            self.stream.write(shown)
        except UnicodeEncodeError:
            self.stream.write(shown.encode(self.encoding, "backslashreplace").decode(self.encoding))
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    @property
    def encoding(self) -> Any:
        return getattr(self.stream, "encoding", None) or "utf-8"

    @property
    def errors(self) -> Any:
        return getattr(self.stream, "errors", None) or "strict"

    @property
    def buffer(self) -> Any:
        return self.stream.buffer


@contextlib.contextmanager
def plain_streams() -> Iterator[None]:
    """stdout and stderr, with warnings and progress bars, through `Plain` meanwhile."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (s if s is None or isinstance(s, Plain) else Plain(s) for s in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class Stopped(BaseException):
    """A signal asked this process to end. Raised by the handlers of `run_cli`.

    Not a KeyboardInterrupt, which click would turn into exit code 1."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


_REMEDY = {  # errno -> what to do; the others are defects, of ours or of the machine, and keep their traceback
    errno.ENOSPC: "free some space or choose another folder",
    errno.EDQUOT: "free some space or choose another folder",
    errno.EFBIG: "raise the limit (ulimit -f), or choose another folder",
    errno.EACCES: "change its permissions or choose another folder",
    errno.EROFS: "choose another folder",
    errno.ENOTDIR: "part of this path is a file; choose another folder",
    errno.ENAMETOOLONG: "choose a shorter name",
}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def run_cli(command: Callable[[], Any]) -> None:
    """Run a click command as a script: user errors become one line on stderr and exit code 2.

    So do a full disk and refused permissions. The signals that ask for an end (`dnnlib.signals`) raise `Stopped`, so
    that nothing half-written stays behind, and become one line and exit code 128 + signal.
    """
    with plain_streams(), _signals_raise():
        try:
            command()
        except UserError as e:
            _last_words(f"Error: {printable(e)}", 2)
        except KeyboardInterrupt:
            _last_words("Stopped by SIGINT", 130)
        except Stopped as e:
            _stopped(e)
        except Exception as e:
            for behind in _chain(e):
                if isinstance(behind, Stopped):  # in the middle of an import, which says that it failed
                    _stopped(behind)
            cause = _disk_error(e)
            if cause is None:
                raise
            verb = "open" if cause.errno == errno.EACCES else "write"
            name = cause.filename or "output"
            _last_words(f"Error: cannot {verb} {name}: {cause.strerror}; {_REMEDY[cause.errno]}", 2)


def _stopped(e: Stopped) -> None:
    # The launcher of several processes says it once for all of them.
    words = None if os.environ.get("GANTRANSFER_LAUNCHED") else f"Stopped by {signal.Signals(e.signum).name}"
    _last_words(words, 128 + e.signum)


def _last_words(text: str | None, code: int) -> None:
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        # stdout itself is on the full disk: Python would complain of it once more, with another exit code
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if text:
        with contextlib.suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)
    sys.exit(code)


def _disk_error(e: BaseException | None) -> OSError | None:
    """The error of the disk behind `e`: itself, or the full disk that it was raised from."""
    return next((x for i, x in enumerate(_chain(e)) if isinstance(x, OSError) and x.errno in (_FULL if i else _REMEDY)),
                None)


def _chain(e: BaseException | None) -> Iterator[BaseException]:
    """`e`, and what it was raised from, as far back as a traceback would show."""
    seen: set[int] = set()
    while e is not None and id(e) not in seen:
        yield e
        seen.add(id(e))
        e = e.__cause__ or (None if e.__suppress_context__ else e.__context__)


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    last = -1e9

    def stop(signum: int, frame: Any) -> None:
        # Batch systems send a signal to each process and to the launcher that forwards it: the second must not
        # interrupt the cleaning up after the first.
        nonlocal last
        now, before = time.monotonic(), last
        last = now
        if now - before > 1:
            raise Stopped(signum)

    old = handle(stop)
    try:
        yield
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """No garbage collection while many objects are made that all live on: it would look at each of them again and
    again, which takes most of the time from some hundred thousand on."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike, parents: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it over `path` on success, remove it on failure.

    `parents`: make the folder if it is absent.

    The file is flushed to disk before the rename, so that a kill or a power cut leaves the old file or the new one.
    While it is written it is locked, which tells `sweep_temporaries` that its owner lives. A full disk is an OSError
    with the file's name, whatever the library that writes made of it. UserError when a folder, a pipe or a device is
    there (`replaceable`).
    """
    path = Path(path)
    replaceable(path)
    if parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as e:
        raise OSError(e.errno, e.strerror, os.fspath(path)) from None
    tmp = Path(name)
    if not try_lock(fd):  # Windows cannot rename an open file, and has no such lock
        os.close(fd)
        fd = None
    try:
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(tmp, 0o666 & ~umask)
        try:
            yield tmp
            with open(tmp, "rb") as f:
                os.fsync(f.fileno())
        except Exception as e:
            full = _disk_full(e, tmp)
            if full is None:
                raise
            raise OSError(full, os.strerror(full), os.fspath(path)) from e
        replaceable(path)  # it may be another one by now
        os.replace(tmp, path)
    except BaseException:
        with contextlib.suppress(OSError):
            tmp.unlink()
        raise
    finally:
        if fd is not None:
            os.close(fd)


def _disk_full(e: Exception, tmp: Path) -> int | None:
    """ENOSPC, EDQUOT or EFBIG when that is what `e` is about. Writers in C++ and Rust hide it in errors of their own
    (torch.save: RuntimeError): so it is tried whether the file can still grow."""
    if isinstance(e, UserError):
        return None
    cause = _disk_error(e)
    if cause is not None and (cause.filename is None or os.fspath(cause.filename) == os.fspath(tmp)):
        return cause.errno if cause.errno in _FULL else None
    if cause is not None:
        return None  # of another file, which it names
    try:
        with open(tmp, "ab", buffering=0) as f:
            left = 1 << 20
            while left:
                left -= f.write(bytes(left))
            os.fsync(f.fileno())
    except OSError as probe:
        return probe.errno if probe.errno in _FULL else None
    return None


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w", parents: bool = True) -> Iterator[Any]:
    """Open a file for writing that appears under its name only when complete. `mode` is 'w' (UTF-8) or 'wb'.

    Text may hold parts of paths that are no valid text: they are written as escapes.
    """
    with atomic_path(path, parents) as tmp:
        text = {} if "b" in mode else dict(encoding="utf-8", errors="backslashreplace")
        with open(tmp, mode, **text) as f:
            yield f


@contextlib.contextmanager
def sole_writer(target: str | os.PathLike, flag: str = "", wait: bool = False) -> Iterator[None]:
    """While this block runs, no other process gets into one for the same `target` (which need not exist).

    The others raise UserError, or `wait`: two commands that write one file or folder waste work, or mix. The lock is a
    file beside `target` that dies with the process, and is removed at the end.
    """
    target, told = Path(os.path.abspath(target)), False
    lock = target.with_name(f".{target.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        if try_lock(fd) is False:
            owner = owner_of(fd)
            os.close(fd)
            if wait:
                if not told:
                    print(f"{target} is being written by {owner}: waiting for it", file=sys.stderr, flush=True)
                told = True
                time.sleep(0.2)
                continue
            raise UserError(f"{flag}{target} is being written by {owner}; wait for its end, or choose another name")
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(lock), os.fstat(fd)):
                break
        os.close(fd)  # its last owner has removed it in between
    sign(fd)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()
        os.close(fd)


def sweep_temporaries(folder: str | os.PathLike) -> None:
    """Remove what a killed `atomic_path` left behind in `folder`. What a living process is writing stays."""
    for p in Path(folder).glob(".*.tmp"):
        with contextlib.suppress(OSError):
            fd = os.open(p, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
            try:
                if try_lock(fd) is not False:
                    p.unlink()
            finally:
                os.close(fd)


class Logger:
    """Copy stdout and stderr into a file (append mode) while open. Use as a context manager."""

    def __init__(self, path: str | os.PathLike):
        self.file = open(path, "a", encoding="utf-8", errors="backslashreplace", buffering=1)
        self.stdout, self.stderr = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = _Tee(self.stdout, self.file), _Tee(self.stderr, self.file)

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        if not self.file.closed:
            sys.stdout, sys.stderr = self.stdout, self.stderr
            self.file.close()


class _Tee(io.TextIOBase):
    def __init__(self, *streams: Any):
        self.streams = streams

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"a text is written here, not {type(text).__name__}")
        shown = printable(text, keep="\n\r\t")
        for s in self.streams:
            s.write(shown)
        return len(text)

    def flush(self) -> None:
        for s in self.streams:
            s.flush()

    def isatty(self) -> bool:
        return self.streams[0].isatty()

    def fileno(self) -> int:
        return self.streams[0].fileno()


FLOAT32 = 3.4028234663852886e38  # the largest number of 32 bits


def finite_numbers(text: str, flag: str) -> list[float]:
    """'0.5,-1' -> [0.5, -1.0]. UserError naming `flag` for anything that is no finite number of 32 bits, as labels and
    networks have them."""
    out = []
    for part in text.split(","):
        try:
            value = float(part)
        except ValueError:
            raise UserError(f"{flag}={printable(text)} is not a list of numbers") from None
        if not math.isfinite(value):
            raise UserError(f"{flag}={printable(text)}: {part.strip()} is not a finite number")
        if abs(value) > FLOAT32:
            raise UserError(f"{flag}={printable(text)}: {part.strip()} is not a number of 32 bits")
        out.append(value)
    return out


def format_time(seconds: float) -> str:
    """'12s', '3m 05s', '2h 03m 01s', '1d 02h 03m': the tick line's time."""
    s = int(round(seconds))
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m {s % 60:02}s"
    if s < 86400:
        return f"{s // 3600}h {s // 60 % 60:02}m {s % 60:02}s"
    return f"{s // 86400}d {s // 3600 % 24:02}h {s // 60 % 60:02}m"


def regular_file(path: str | os.PathLike, folder: bool = False) -> Path:
    """`path` if it is a regular file, also through links; with `folder`, a folder passes too.

    Everything that a user or a data set names is opened through this or `open_regular`. Raises UserError for what is
    not there or cannot be opened, and for what would block or never end: pipes, sockets, devices, files of the kernel.
    """
    if not (folder and os.path.isdir(path)):
        open_regular(path).close()
    return Path(path)


def open_regular(path: str | os.PathLike) -> io.BufferedReader:
    """Open a regular file for binary reading; UserError as `regular_file`."""
    name = os.fspath(path)
    try:
        _check_kind(name, os.stat(name))  # not opened before: that alone can have effects on a device
        fd = os.open(name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
                     | getattr(os, "O_CLOEXEC", 0))
        try:
            status = os.fstat(fd)  # it may be another one by now
            _check_kind(name, status)
            if status.st_size == 0:
                with contextlib.suppress(BlockingIOError):
                    if not os.read(fd, 1):
                        return os.fdopen(fd, "rb")
                raise UserError(f"{name} has no size: a file of the kernel, not a regular file; give a file on disk")
            return os.fdopen(fd, "rb")
        except BaseException:
            os.close(fd)
            raise
    except FileNotFoundError:
        raise UserError(f"{name} is a link to a file that does not exist; remove or repair it" if os.path.islink(name)
                        else f"no such file: {name}") from None
    except (OSError, ValueError) as e:
        raise UserError(f"cannot read {name}: {getattr(e, 'strerror', None) or e}") from None


def replaceable(path: str | os.PathLike, flag: str = "") -> None:
    """UserError, beginning with `flag`, unless `path` is absent or a regular file, also through links.

    A rename replaces pipes and devices without a word: with the rights of root, `/dev/null` of the whole machine.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return  # absent, or a link to nowhere; what cannot be written says so when it is
    _check_kind(f"{flag}{os.fspath(path)}", status)


def check_writable(flag: str, path: str | None, is_file: bool) -> None:
    """A mistyped destination is said before the work, not after it."""
    if not path:
        return
    if is_file and os.path.isdir(path):
        raise UserError(f"{flag}={path} is a folder; name a file")
    if is_file:
        replaceable(path, f"{flag}=")
    place = os.path.abspath(path)
    while not os.path.lexists(place) or is_file and place == os.path.abspath(path):
        place = os.path.dirname(place)
    if not os.path.isdir(place) or not os.access(place, os.W_OK):
        reason = "no permission to write" if os.path.isdir(place) else "not a folder"
        raise UserError(f"{flag}={path}: cannot write there ({place}: {reason}); choose another place")


def _check_kind(name: str, status: os.stat_result) -> None:
    mode = status.st_mode
    kinds = {"a folder": S_ISDIR, "a pipe": S_ISFIFO, "a socket": S_ISSOCK, "a device": S_ISCHR, "a disk": S_ISBLK}
    kind = next((k for k, test in kinds.items() if test(mode)), None if S_ISREG(mode) else "something else")
    if kind is None and status.st_dev in {os.stat(p).st_dev for p in ("/proc", "/sys") if os.path.ismount(p)}:
        kind = "a file of the kernel"
    if kind is not None:
        raise UserError(f"{name} is {kind}, not a regular file; give a file on disk")


def cache_dir(*parts: str) -> Path:
    """`$GANTRANSFER_CACHE_DIR` (default `~/.cache/gantransfer`) with `parts` below it. Not created here."""
    root = env_path("GANTRANSFER_CACHE_DIR") or os.path.join(os.path.expanduser("~"), ".cache", "gantransfer")
    return Path(root, *parts)


def expand_user(text: str | os.PathLike) -> str:
    """A path with `~` or `~name` at its start replaced by the home folder. UserError for a name without one.

    A shell expands these only where a word begins, not behind `--flag=`, in `NAME=FILE` or in an environment variable.
    """
    text = os.fspath(text)
    out = os.path.expanduser(text)
    if out.startswith("~") and not os.path.lexists(out):
        name = out.split("/")[0]
        raise UserError(f"{text}: there is no home folder {name}; for a file of this name write ./{text}")
    return out


def env_path(name: str) -> str | None:
    """The path in an environment variable, `~` expanded; None where it is unset or empty."""
    text = os.environ.get(name)
    try:
        return expand_user(text) if text else None
    except UserError as e:
        raise UserError(f"{name}={e}") from None


def is_url(text: str) -> bool:
    """True for http(s) and file URLs."""
    return re.match(r"^(https?|file)://", str(text)) is not None


def fetch(path_or_url: str | os.PathLike, *, timeout: float = 30) -> Path:
    """A local path for a local path or a URL. URLs are downloaded once into the cache.

    The hash of a download is kept beside it: a file that was damaged since is downloaded again. Raises UserError when
    the file does not exist or the download fails; a partial download is never left behind.
    """
    text = str(path_or_url)
    if not is_url(text):
        path = Path(text)
        if not path.exists():
            raise UserError(f"no such file: {text}")
        return regular_file(path, folder=True)
    name = re.sub(r"[^0-9a-zA-Z._-]", "_", text.split("/")[-1].split("?")[0]) or "download"
    target = cache_dir("downloads", f"{hashlib.md5(text.encode()).hexdigest()}_{name}")
    if target.exists() and _as_downloaded(target):
        return target
    import urllib.error  # here, since importing them takes longer than most of what every command needs
    import urllib.parse
    import urllib.request

    if text.startswith("file:"):
        local = urllib.request.url2pathname(urllib.parse.urlsplit(text).path)
        if os.path.lexists(local):
            regular_file(local)
    try:
        from tqdm import tqdm

        with (urllib.request.urlopen(text, timeout=timeout) as response, atomic_path(target) as tmp,
              open(tmp, "wb") as f):
            total = int(response.headers.get("Content-Length") or 0)
            with tqdm(total=total or None, desc=f"downloading {name}", unit="B", unit_scale=True) as bar:
                while chunk := response.read(1 << 20):
                    f.write(chunk)
                    bar.update(len(chunk))
            if total and bar.n != total:
                raise UserError(f"download of {text} ended after {bar.n} of {total} bytes; try again")
        with atomic_write(_hash_file(target)) as f:
            f.write(sha256(target) + "\n")
    except (urllib.error.URLError, TimeoutError, ConnectionError) as e:
        raise UserError(f"cannot download {text} ({getattr(e, 'reason', e)}); fetch it elsewhere and give the "
                        f"file's path instead, or place it at {target}") from None
    return target


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _hash_file(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")


def _as_downloaded(target: Path) -> bool:
    """False when a cached file is not what was downloaded. A file that the user put there has no hash: it is taken."""
    recorded = _hash_file(target)
    return not recorded.exists() or recorded.read_text(encoding="utf-8").strip() == sha256(target)
