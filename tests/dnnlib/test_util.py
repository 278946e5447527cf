# SPDX-License-Identifier: Apache-2.0
"""dnnlib.util: user errors, atomic files, the tee logger, times, downloads."""

import errno
import http.server
import io
import os
import stat
import sys
import threading
import warnings

import click
import pytest

from dnnlib import util
from dnnlib.util import UserError


@pytest.mark.parametrize("error, code, text", [
    (UserError("--data=x: no such file; give a folder or a zip"), 2, "Error: --data=x: no such file; give a folder"),
    (OSError(errno.ENOSPC, "No space left on device", "/full/out.zip"), 2, "/full/out.zip: No space left on device"),
    (PermissionError(errno.EACCES, "Permission denied", "/root/x"), 2, "/root/x: Permission denied"),
    (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/etc/hosts/x"), 2, "; part of this path is a file"),
    (OSError(errno.ENAMETOOLONG, "File name too long", "/tmp/xxx"), 2, "File name too long; choose a shorter name"),
    (KeyboardInterrupt(), 130, "Stopped by SIGINT"), (util.Stopped(15), 143, "Stopped by SIGTERM"),
])
def test_user_errors_become_one_line_and_an_exit_code(error, code, text, capsys):
    def command():
        raise error

    with pytest.raises(SystemExit) as e:
        util.run_cli(command)
    err = capsys.readouterr().err
    assert e.value.code == code and text in err and err.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError("ours"), OSError(errno.EIO, "broken disk")])
def test_our_own_errors_keep_their_traceback(error):
    def command():
        raise error

    with pytest.raises(type(error)):
        util.run_cli(command)


def test_atomic_write_replaces_whole_files(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with util.atomic_write(path) as f:
        f.write("one é")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "one é"
    with util.atomic_write(path, "wb") as f:
        f.write(b"two")
        f.flush()
        assert path.read_text(encoding="utf-8") == "one é"
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["a.txt"]


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        with util.atomic_write(path) as f:
            f.write("half")
            raise KeyboardInterrupt
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_atomic_write_replaces_no_pipe_and_no_device(tmp_path):
    """A rename over /dev/null, with the rights of root, would break the machine. Only nodes of our own are tried."""
    os.mkfifo(tmp_path / "pipe")
    os.symlink("pipe", tmp_path / "link")
    (tmp_path / "folder").mkdir()
    before = sorted(os.listdir(tmp_path))
    for name, kind in (("pipe", "a pipe"), ("link", "a pipe"), ("folder", "a folder")):
        with pytest.raises(util.UserError, match=f"{name} is {kind}, not a regular file"):
            with util.atomic_path(tmp_path / name):
                raise AssertionError("nothing is written before the complaint")
    assert sorted(os.listdir(tmp_path)) == before and stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)
    with pytest.raises(util.UserError, match="late is a pipe"):  # it came while the file was written
        with util.atomic_path(tmp_path / "late") as tmp:
            tmp.write_bytes(b"x")
            os.mkfifo(tmp_path / "late")
    assert stat.S_ISFIFO(os.stat(tmp_path / "late").st_mode)
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "late"])
    os.symlink("nowhere", tmp_path / "dangling")
    with util.atomic_path(tmp_path / "dangling") as tmp:
        tmp.write_bytes(b"y")
    assert (tmp_path / "dangling").read_bytes() == b"y"
    for name in ("pipe", "link", "folder"):
        with pytest.raises(util.UserError, match=f"^--out=.*{name} is"):
            util.check_writable("--out", str(tmp_path / name), True)
    util.check_writable("--out", str(tmp_path / "new" / "x.pt"), True)


def test_atomic_files_have_ordinary_permissions(tmp_path):
    old = os.umask(0o027)
    try:
        with util.atomic_write(tmp_path / "a") as f:
            f.write("x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("hide", [False, True], ids=["OSError", "hidden in a RuntimeError"])
def test_a_file_size_limit_is_an_oserror_with_the_files_name(tmp_path, hide):
    """Writers in C++ raise errors of their own when the disk is full."""
    resource = pytest.importorskip("resource")
    (tmp_path / "a").write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError) as e, util.atomic_path(tmp_path / "a") as tmp:
            try:
                tmp.write_bytes(bytes(20_000))
            except OSError:
                if hide:
                    raise RuntimeError("writing failed") from None
                raise
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert e.value.errno == errno.EFBIG and e.value.filename == str(tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == b"old"


def test_other_errors_of_a_writer_stay_what_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="^ours$"), util.atomic_path(tmp_path / "a"):
        raise RuntimeError("ours")
    with pytest.raises(FileNotFoundError), util.atomic_path(tmp_path / "no" / "a", parents=False):
        pass
    assert not os.listdir(tmp_path)


def test_sweep_removes_only_what_a_killed_write_left(tmp_path):
    keep = [tmp_path / "a.txt", tmp_path / "b.tmp"]
    for p in [*keep, tmp_path / ".a.txt.k3j2.tmp"]:
        p.write_text("x")
    util.sweep_temporaries(tmp_path)
    assert sorted(tmp_path.iterdir()) == keep


def test_logger_copies_output_and_appends(tmp_path, capsys):
    before = sys.stdout, sys.stderr
    for text in ("first", "second"):
        with util.Logger(tmp_path / "log.txt"):
            print(text)
            print("warning", file=sys.stderr)
    assert (sys.stdout, sys.stderr) == before
    assert (tmp_path / "log.txt").read_text() == "first\nwarning\nsecond\nwarning\n"
    assert capsys.readouterr().out == "first\nsecond\n"


@pytest.mark.parametrize("seconds, text", [
    (0, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (185, "3m 05s"), (7381, "2h 03m 01s"), (93780, "1d 02h 03m"),
])
def test_format_time(seconds, text):
    assert util.format_time(seconds) == text


def test_easydict_items_are_attributes():
    d = util.EasyDict(a=1)
    d.b = 2
    del d.a
    assert d == {"b": 2} and not hasattr(d, "a")


def test_cache_dir_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("GANTRANSFER_CACHE_DIR", str(tmp_path))
    assert util.cache_dir("x", "y") == tmp_path / "x" / "y" and not (tmp_path / "x").exists()
    monkeypatch.delenv("GANTRANSFER_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert util.cache_dir("x") == tmp_path / "home" / ".cache" / "gantransfer" / "x"


class _Handler(http.server.BaseHTTPRequestHandler):
    content = b"weights" * 1000

    def do_GET(self):
        self.server.hits += 1
        if "missing" in self.path:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content[: 100 if "short" in self.path else None])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("GANTRANSFER_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hits = 0
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_downloads_are_cached(server):
    url = f"http://127.0.0.1:{server.server_port}/a/net.pkl?x=1"
    for _ in range(2):
        assert util.fetch(url).read_bytes() == _Handler.content
    assert server.hits == 1


@pytest.mark.parametrize("path", ["short.pkl", "missing.pkl"])
def test_failed_downloads_leave_nothing(server, path, tmp_path):
    with pytest.raises(UserError, match=path):
        util.fetch(f"http://127.0.0.1:{server.server_port}/{path}")
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_local_files_are_used_in_place(tmp_path):
    path = tmp_path / "a b.pkl"
    path.write_bytes(b"x")
    assert util.fetch(path) == path and util.fetch(path.as_uri()).read_bytes() == b"x"
    with pytest.raises(UserError, match="no such file"):
        util.fetch(tmp_path / "absent.pkl")


HOSTILE = "a\x1b[31m\nb\u202ec\ud800d\x85e\u2028f"


def test_names_are_escaped_in_one_place():
    assert util.printable(HOSTILE) == r"a\x1b[31m\nb\u202ec\ud800d\x85e\u2028f"
    for plain in ("Zürich", "木", "नमस्ते\u200d", "a b", "👩\u200d🌾", "x\xa0y"):
        assert util.printable(plain) == plain
    assert util.table_cell("a|b\n") == r"a\|b\n"


def test_nothing_a_command_prints_moves_the_cursor(capsys, tmp_path):
    """ANSI sequences, direction marks and surrogates of a name: in print, click, warnings, errors and the log."""
    def command():
        with util.Logger(tmp_path / "log.txt"):
            print(HOSTILE)
        click.echo(HOSTILE)
        warnings.warn(HOSTILE, stacklevel=1)
        raise UserError(HOSTILE)

    before = sys.stdout, sys.stderr
    with pytest.raises(SystemExit) as e, warnings.catch_warnings():
        warnings.simplefilter("always")
        # Printed as outside of tests; pytest would only record it, and cannot send a surrogate to another process.
        warnings.showwarning = lambda m, kind, file, line, *_: sys.stderr.write(warnings.formatwarning(m, kind, "x", 1))
        util.run_cli(command)
    assert e.value.code == 2 and (sys.stdout, sys.stderr) == before
    out, err = capsys.readouterr()
    shown = [out, err, (tmp_path / "log.txt").read_text(encoding="utf-8")]
    assert not any(c in text for text in shown for c in "\x1b\u202e\ud800\x85\u2028")
    assert all(r"b\u202ec\ud800d\x85e" in text for text in shown)
    assert err.splitlines()[-1] == "Error: " + util.printable(HOSTILE)  # one line
    assert "UserWarning: " + util.printable(HOSTILE.splitlines()[0]) in err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_are_ours_alone_and_only_on_a_terminal(monkeypatch, tmp_path):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    said = ["Note: \x1b[31mred", "Step 3 of 7: data", "[baseline, seed 0] metrics    kimg 4", "a Note: within",
            "Error: no", "Notes"]

    def shown(stream):
        screen = util.Plain(stream)
        for line in said:
            print(line, file=screen)
        return stream.getvalue().splitlines()

    bare = [util.printable(line) for line in said]
    assert shown(io.StringIO()) == bare
    assert shown(Terminal()) == [
        "\x1b[33mNote\x1b[0m: \\x1b[31mred", "\x1b[1mStep 3 of 7\x1b[0m: data",
        "[baseline, seed 0] \x1b[32mmetrics\x1b[0m    kimg 4", "a Note: within", "\x1b[1;31mError\x1b[0m: no", "Notes"]
    screen = Terminal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", util.Plain(screen))
        with util.Logger(tmp_path / "log.txt"):
            print("Note: x")
    assert "\x1b[33m" in screen.getvalue() and (tmp_path / "log.txt").read_text() == "Note: x\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert shown(Terminal()) == bare
    monkeypatch.setenv("NO_COLOR", "")  # as if it were not set
    monkeypatch.setenv("TERM", "dumb")
    assert shown(Terminal()) == bare


@pytest.mark.parametrize("value,text", [(0.0123456, "0.0123"), (60.5027, "60.5"), (0, "0"), (12345, "12,300"),
                                        (1e9, "1e+09"), (None, "-"), (float("nan"), "-"), (True, "1"), (999.9, "1,000"),
                                        (-1234.5, "-1,230")])
def test_three_digits(value, text):
    assert util.three(value) == text


def test_what_an_encoding_lacks_is_escaped():
    raw = io.BytesIO()
    stream = util.Plain(io.TextIOWrapper(raw, encoding="latin-1"))
    print("Zürich 木", file=stream, flush=True)
    assert raw.getvalue() == b"Z\xfcrich \\u6728\n"
    with pytest.raises(TypeError):  # click asks streams so whether they are binary
        stream.write(b"")


def test_lists_of_finite_numbers():
    assert util.finite_numbers("0.5, -1,1e3", "--label") == [0.5, -1, 1000]
    for text in ("nan", "1,inf", "1e999", "1e39", "0,-1e39", "", "a", "1,,2"):  # 1e39 is infinite in 32 bits
        with pytest.raises(UserError, match="^--label="):
            util.finite_numbers(text, "--label")
