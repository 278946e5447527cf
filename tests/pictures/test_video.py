# SPDX-License-Identifier: Apache-2.0
"""Films: frames, durations and kinds of files."""

import numpy as np
import pytest
from PIL import Image

from dnnlib.util import UserError
from gantransfer.pictures import video

MOVIE = np.stack([np.full((31, 33, 3), v, np.uint8) for v in (10, 120, 240)])


def test_webp_holds_the_frames_and_how_long_they_stay(tmp_path):
    video.write_film(tmp_path / "x.webp", MOVIE, fps=4, hold=1)
    with Image.open(tmp_path / "x.webp") as film:
        assert film.n_frames == 3
        for k, (value, ms) in enumerate(((10, 250), (120, 250), (240, 1250))):
            film.seek(k)
            film.load()
            assert film.info["duration"] == ms
            assert abs(int(np.asarray(film.convert("L"))[15, 15]) - value) < 4


def test_mp4_holds_the_last_frame(tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="needs imageio-ffmpeg (extra `video`)")
    video.write_film(tmp_path / "x.mp4", MOVIE, fps=4, hold=1)
    frames, seconds = ffmpeg.count_frames_and_secs(str(tmp_path / "x.mp4"))
    assert frames == 7 and seconds == pytest.approx(1.75, abs=0.1)
    reader = ffmpeg.read_frames(str(tmp_path / "x.mp4"))
    width, height = next(reader)["source_size"]
    last = np.frombuffer([*reader][-1], np.uint8)
    assert (width, height) == (34, 32), "encoders want even sizes"
    assert last.min() > 225, "there is no dark line at the edge of a frame of 31 x 33 pixels"


@pytest.mark.parametrize("kind", sorted(video.KINDS))
def test_frames_that_a_kind_cannot_hold_are_refused_and_nothing_is_written(kind, tmp_path, monkeypatch):
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="needs imageio-ffmpeg (extra `video`)")
    most = video.KINDS[kind]
    video.write_film(tmp_path / f"x{kind}", np.zeros((2, 16, most, 3), np.uint8), fps=3)
    if kind == ".webp":
        with Image.open(tmp_path / "x.webp") as film:
            assert film.size == (most, 16)
    else:
        assert ffmpeg.count_frames_and_secs(str(tmp_path / "x.mp4"))[0] == 2
    with pytest.raises(UserError, match=f"y{kind}: its frames are 16 x {most + 1} pixels.*fewer seeds"):
        video.write_film(tmp_path / f"y{kind}", np.zeros((2, most + 1, 16, 3), np.uint8), fps=3)
    monkeypatch.setitem(video.KINDS, ".mp4", 10**6)
    if kind == ".mp4":  # whatever else ffmpeg refuses
        with pytest.raises(UserError, match="y.mp4: ffmpeg has written nothing"):
            video.write_film(tmp_path / "y.mp4", np.zeros((2, 16, most + 2, 3), np.uint8), fps=3)
    assert [p.name for p in tmp_path.iterdir()] == [f"x{kind}"]


def test_a_folder_of_the_completed_name_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "video_ending", lambda: ".webp")
    assert video.named(f"{tmp_path}/x") == f"{tmp_path}/x.webp"
    (tmp_path / "x.webp").mkdir()
    with pytest.raises(UserError, match="--video=.*x.webp is a folder; name a file"):
        video.named(f"{tmp_path}/x")


def test_other_kinds_are_refused_before_the_work(tmp_path):
    with pytest.raises(UserError, match="should end in .mp4 or .webp"):
        video.check(tmp_path / "x.gif")
