# SPDX-License-Identifier: Apache-2.0
"""What a conversion takes and leaves out."""

# SPDX-License-Identifier: Apache-2.0
from tests.data.picture_sets import class_folders, picture, read_set, save


def test_dropped_images_leave_gaps(tmp_path, accepted):
    for i, w in enumerate((32, 10, 32)):
        save(tmp_path / f"in/{i}.png", picture(i, 24, w))
    out = accepted(f"--source={tmp_path}/in", f"--dest={tmp_path}/a.zip", "--transform=center-crop-wide",
                   "--resolution=16x8")
    assert "left out 1" in out
    assert sorted(read_set(tmp_path / "a.zip")[1]) == ["00000/img00000000.png", "00000/img00000002.png"]


def test_too_little_space_is_seen_before_writing(tmp_path, refused, monkeypatch):
    class_folders(tmp_path / "in")
    monkeypatch.setattr("gantransfer.data.convert.shutil.disk_usage", lambda p: type("U", (), {"free": 1000})())
    assert "GiB" in refused(f"--source={tmp_path}/in", f"--dest={tmp_path}/out.zip")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_repeated_images_are_dropped_and_their_labels_compared(tmp_path, refused, accepted):
    """Also between the two sides of --holdout, where nothing else keeps a copy out of the test."""
    for i in range(8):
        for k, folder in enumerate("ab"):
            save(tmp_path / f"in/{folder}/{i}.png", picture(i + 8 * k))
            save(tmp_path / f"in/{folder}/copy-{i}.bmp", picture(i + 8 * k))
    save(tmp_path / "in/b/wrong.png", picture(0))
    out = accepted(f"--source={tmp_path}/in", f"--dest={tmp_path}/all.zip", "--drop-duplicates", "--per-class=5")
    info, images = read_set(tmp_path / "all.zip")
    assert len(images) == 10 and [v for _, v in info["labels"]] == [0] * 5 + [1] * 5
    out = accepted(f"--source={tmp_path}/in", f"--dest={tmp_path}/all.zip", "--drop-duplicates")
    assert "left out 17: 17 that repeat another" in out and len(read_set(tmp_path / "all.zip")[1]) == 16
    assert "warning: 1 of the images that repeat another have another label than it: b/wrong.png" in out
    out = accepted(f"--source={tmp_path}/in", f"--dest={tmp_path}/x.zip", "--holdout=0.25", "--drop-duplicates")
    sides = [{i.tobytes() for i in read_set(tmp_path / n)[1].values()} for n in ("x.zip", "x-heldout.zip")]
    assert not sides[0] & sides[1] and sum(map(len, sides)) == 16 and "too, pixel by pixel" not in out
    err = refused(f"--source={tmp_path}/in", f"--dest={tmp_path}/x.h5", "--drop-duplicates")
    assert "--drop-duplicates is for data sets" in err


def test_names_of_the_source_stay_with_the_images(tmp_path, tool):
    class_folders(tmp_path / "in")
    assert tool(f"--source={tmp_path}/in", f"--dest={tmp_path}/a.zip", "--keep-names", "--classes=dog,ape")[0] == 0
    names = ["ape/0.png", "ape/1.png", "dog/0.png", "dog/1.png", "dog/2.png"]
    assert read_set(tmp_path / "a.zip")[0]["attributes"] == {"original_name": names}
    # Through later conversions and exports they are the first ones.
    assert tool(f"--source={tmp_path}/a.zip", f"--dest={tmp_path}/b.zip", "--keep-names", "--classes=1")[0] == 0
    assert read_set(tmp_path / "b.zip")[0]["attributes"]["original_name"] == names[:2]
    assert tool("export", f"--source={tmp_path}/b.zip", f"--dest={tmp_path}/c")[0] == 0
    assert read_set(tmp_path / "c")[0]["attributes"]["original_name"] == names[:2]
    assert tool("--source=sklearn:digits", f"--dest={tmp_path}/d.zip", "--keep-names", "--max-images=2")[0] == 0
    assert read_set(tmp_path / "d.zip")[0]["attributes"]["original_name"] == ["digit 0", "digit 1"]
