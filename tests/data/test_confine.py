# SPDX-License-Identifier: Apache-2.0
"""A data set reads no file that the user did not name, and nothing that is not a regular file is opened."""

import json
import os
import signal
import socket
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dnnlib import util
from dnnlib.util import UserError
from gantransfer.data import confine
from gantransfer.data.container import Container
from gantransfer.data.dataset import ImageDataset
from tests.data import picture_sets


def png(value=0):
    return picture_sets.png(np.full([8, 8, 3], value, np.uint8))


@pytest.fixture
def folder(tmp_path):
    """set/0.png, set/deep/1.png, and outside: secret.png, other/2.png."""
    (tmp_path / "set/deep").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    for name in ("set/0.png", "set/deep/1.png", "secret.png", "other/2.png"):
        (tmp_path / name).write_bytes(png())
    return tmp_path / "set"


# ---- folders -----------------------------------------------------------------------------------------------------


def test_links_inside_a_folder_are_fine_and_the_folder_itself_may_be_one(folder):
    (folder / "again.png").symlink_to("deep/1.png")
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder.parent / "name").symlink_to(folder, target_is_directory=True)
    assert len(ImageDataset(folder.parent / "name").images_uint8([0, 1, 2])) == 3


@pytest.mark.parametrize("name, target", [("x.png", "../secret.png"), ("d", "../other"), ("x.png", "/etc/hostname"),
                                          ("dataset.json", "../labels.json"), ("deep/x.JPG", "../../secret.png"),
                                          ("x.png", "../nothing.png")])
def test_links_out_of_a_folder_are_refused_in_one_line(folder, name, target):
    (folder.parent / "labels.json").write_text('{"labels": null}')
    (folder / name).symlink_to(target)
    with pytest.raises(UserError, match="1 link out of the folder.*--follow-links") as e:
        ImageDataset(folder)
    assert name in str(e.value) and "\n" not in str(e.value)
    if "nothing" not in target:
        assert Container(folder, follow_links=True).names


def test_a_link_that_appears_later_is_not_followed_either(folder):
    files = Container(folder)
    (folder / "0.png").unlink()
    (folder / "0.png").symlink_to("../secret.png")
    with pytest.raises(UserError, match=r"0\.png.*leads out of the folder.*--follow-links"):
        files.read("0.png")
    with pytest.raises(UserError, match="leads out of the folder"):
        files.read("../secret.png")


def test_links_that_are_never_read_do_not_matter(folder):
    (folder / "README").symlink_to("/etc/hostname")
    (folder / ".git").mkdir()
    (folder / ".git/x.png").symlink_to("/etc/hostname")
    assert len(ImageDataset(folder)) == 2


def test_the_flag_follows_links_and_copies_what_they_lead_to(folder, call, refused, monkeypatch):
    (folder / "d").symlink_to("../other", target_is_directory=True)
    monkeypatch.chdir(folder.parent)
    for command in (["check", "set"], ["export", "--source=set", "--dest=e"], ["--source=set", "--dest=out.zip",
                                                                                            "--labels=none"]):
        assert "--follow-links" in refused(*command, command="dataset_tool")
        assert "3 images" in call("dataset_tool", *command, "--follow-links").stdout
    assert len(ImageDataset(folder.parent / "out.zip")) == 3


def test_lmdb_data_that_is_a_link_out(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    from gantransfer.data.sources import SourceOptions, open_source

    with lmdb.open(str(tmp_path / "a_lmdb"), map_size=2**20) as db, db.begin(write=True) as txn:
        txn.put(b"x", png())
    (tmp_path / "b_lmdb").mkdir()
    (tmp_path / "b_lmdb/data.mdb").symlink_to(tmp_path / "a_lmdb/data.mdb")
    assert open_source(str(tmp_path / "a_lmdb"), SourceOptions()).count == 1
    with pytest.raises(UserError, match="link out of the folder.*--follow-links"):
        open_source(str(tmp_path / "b_lmdb"), SourceOptions())
    assert open_source(str(tmp_path / "b_lmdb"), SourceOptions(follow_links=True)).count == 1
    (tmp_path / "c_lmdb").mkdir()
    os.mkfifo(tmp_path / "c_lmdb/data.mdb")
    with pytest.raises(UserError, match="is a pipe"):
        open_source(str(tmp_path / "c_lmdb"), SourceOptions())


# ---- zips and lists ----------------------------------------------------------------------------------------------


def entry(name, mode=stat.S_IFREG | 0o644):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


@pytest.mark.parametrize("bad", [
    *map(entry, ("../x.png", "/abs/x.png", "a/../../x.png", "a\\..\\..\\x.png", "C:/x.png", "C:\\x.png")),
    entry("link.png", stat.S_IFLNK | 0o777), entry("pipe.png", stat.S_IFIFO | 0o644)], ids=lambda e: e.filename)
def test_zip_entries_that_lead_out_are_refused(bad, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as z:
        z.writestr(entry("0.png"), png())
        z.writestr(bad, b"/etc/hostname")
    with pytest.raises(UserError, match="x.zip has entries that lead out of it") as e:
        ImageDataset(tmp_path / "x.zip")
    assert bad.filename.split("/")[-1].split("\\")[-1] in str(e.value)


def test_ordinary_zips_pass(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as z:
        z.writestr(entry("a/", stat.S_IFDIR | 0o755), b"")
        z.writestr(entry("a/0.png"), png())
        z.writestr("a/b..c.png", png())  # two dots that climb nowhere
        z.writestr(zipfile.ZipInfo("c:d.png"), png())
    assert len(Container(tmp_path / "x.zip").names) == 3


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "a/../../secret.png", "..\\secret.png",
                                  "C:\\x.png"])
def test_label_lists_that_name_files_outside_are_refused(name, folder):
    for form in ([["0.png", 0], ["deep/1.png", 1], [name, 0]], [[name, 0]]):
        (folder / "dataset.json").write_text(json.dumps({"labels": form}))
        with pytest.raises(UserError, match="dataset.json.*outside the set"):
            ImageDataset(folder, use_labels=True)


def test_names_that_climb():
    assert [n for n in ("a/b", "..", "a/..", "..a", "a..b/c", "/a", "\\a", "c:/x", "c:", "c:x", "é/..x") if
            confine.climbs(n)] == ["..", "a/..", "/a", "\\a", "c:/x", "c:"]


# ---- irregular files ---------------------------------------------------------------------------------------------


@pytest.fixture
def irregular(tmp_path):
    """Paths that must never be read: pipe, socket, device, links to them, files of the kernel."""
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(os.path.relpath(tmp_path / "socket") if len(str(tmp_path)) > 90 else str(tmp_path / "socket"))
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "through").symlink_to("pipe")
    found = [tmp_path / n for n in ("pipe", "socket", "zero", "through")] + [Path("/dev/zero")]
    return found + [p for p in (Path("/proc/self/mem"), Path("/proc/cpuinfo")) if p.exists()]


def test_only_regular_files_are_opened(irregular, tmp_path):
    for path in (*irregular, tmp_path, tmp_path / "nothing"):
        for opener in (util.open_regular, util.regular_file):
            with pytest.raises(UserError) as e:
                opener(path)
            assert str(path) in str(e.value) and "\n" not in str(e.value)
    for path in irregular:
        with pytest.raises(UserError, match=f"{path} (is|has)"):
            util.fetch(path)
        with pytest.raises(UserError):
            util.fetch(f"file://{path}")
    (tmp_path / "empty").touch()
    (tmp_path / "full").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("full")
    assert [util.open_regular(tmp_path / n).read() for n in ("empty", "full", "link")] == [b"", b"abc", b"abc"]
    (tmp_path / "broken").symlink_to("nowhere")
    with pytest.raises(UserError, match="broken is a link to a file that does not exist"):
        util.open_regular(tmp_path / "broken")
    assert util.fetch(tmp_path) == tmp_path


def test_irregular_files_in_a_data_set(folder, irregular, tmp_path):
    os.mkfifo(folder / "pipe.png")
    data = ImageDataset(folder)
    with pytest.raises(UserError, match=r"pipe\.png is a pipe"):
        data.images_uint8(range(3))
    for path in irregular:
        with pytest.raises(UserError):
            Container(path)


COMMANDS = [
    ("dataset_tool", "--source={p}", "--dest=out.zip"), ("dataset_tool", "check", "{p}"),
    ("dataset_tool", "--source={named}", "--dest=out.zip"), ("lt_dataset", "--fn={p}", "--imf=10"),
    ("train", "--data={p}", "--outdir=runs"),
    ("train", "--data=set", "--outdir=runs", "--resume={p}", "--cfg=tiny"),
    ("train", "--data=set", "--outdir=runs", "--cfg=tiny", "--fname={p}"),
    ("calc_metrics", "--network={p}", "--metrics=smoke"),
    ("calc_metrics", "--network=set", "--data=set", "--metrics=fd_x_10", "--detector=x={p}"),
    ("calc_metrics", "--network=set", "--metrics=fid1000_full", "--ref={p}"),
    ("generate", "--network={p}", "--seeds=0", "--outdir=o"), ("convert", "{p}", "o.pkl"), ("inspect", "{p}"),
    ("inspect", "{p}.metric"), ("encode", "--data=set", "--network={p}"), ("judge", "--data={p}", "--out=j.pt"),
    ("distill", "teacher", "--data={p}", "--outdir=t"),
]


@pytest.fixture
def in_time():
    """A pipe that is opened blocks for ever: that is the failure of one test, not of all."""
    def stop(signum, frame):
        raise TimeoutError("waits for a pipe")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join(c))
def test_every_command_ends_in_one_line(command, folder, tmp_path, monkeypatch, call, in_time):
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.metric")
    os.mkfifo(tmp_path / "cifar-10-python.tar.gz")
    monkeypatch.chdir(tmp_path)
    done = call(*[a.format(p="pipe", named="cifar-10-python.tar.gz") for a in command], check=2)
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (tmp_path / "runs").exists()
