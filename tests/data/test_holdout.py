# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest

from gantransfer.data.dataset import ImageDataset
from gantransfer.data.holdout import choose
from tests.data.picture_sets import picture, read_set, save


def folders(root, counts: dict[str, int]) -> None:
    for j, (name, n) in enumerate(counts.items()):
        for k in range(n):
            save(root / f"{name}/{k:02d}.png", picture(100 * j + k))


def test_a_share_of_each_class_and_at_least_one_on_each_side():
    groups = np.repeat([0, 1, 2, 3], [40, 10, 2, 3])
    held = choose(groups, 0.25, 0)
    assert np.bincount(groups[held]).tolist() == [10, 3, 1, 1]
    assert np.bincount(groups[choose(groups, 0.9, 0)]).tolist() == [36, 9, 1, 2]
    assert np.array_equal(held, choose(groups, 0.25, 0)) and not np.array_equal(held, choose(groups, 0.25, 1))
    assert not np.array_equal(held[:10], np.arange(10))
    # a class does not depend on the others
    assert np.array_equal(choose(groups[:40], 0.25, 0), held[:10])


def test_two_sets_of_the_same_classes_without_a_common_image(tmp_path, tool, accepted):
    folders(tmp_path / "in", {"ape": 8, "cat": 2, "dog": 5})
    assert "warning" not in accepted(f"--source={tmp_path}/in", f"--dest={tmp_path}/a.zip", "--holdout=0.25")
    names = ["ape", "cat", "dog"]
    whole, parts = [], []
    for path, counts in (("a.zip", (6, 1, 4)), ("a-heldout.zip", (2, 1, 1))):
        d = ImageDataset(tmp_path / path, use_labels=True)
        assert d.spec.label.counts == counts and list(d.spec.label.names) == names
        parts.append({x.tobytes() for x in d.images_uint8(np.arange(len(d)))})
        whole += [(d.get_details(i).raw_label, d.images_uint8([i]).tobytes()) for i in range(len(d))]
    assert not parts[0] & parts[1]
    assert tool(f"--source={tmp_path}/in", f"--dest={tmp_path}/all.zip")[0] == 0
    d = ImageDataset(tmp_path / "all.zip", use_labels=True)
    assert sorted(whole) == sorted((d.get_details(i).raw_label, d.images_uint8([i]).tobytes()) for i in range(len(d)))
    assert read_set(tmp_path / "a-heldout.zip")[0]["meta"]["holdout"] == {"share": 0.25, "seed": 0, "part": "heldout"}
    # equal input gives equal files, another seed others; a folder works, too
    for dest, args in (("b.zip", []), ("c.zip", ["--seed=1"]), ("d", ["--dest-heldout", f"{tmp_path}/e"])):
        assert tool(f"--source={tmp_path}/in", f"--dest={tmp_path}/{dest}", "--holdout=0.25", *args)[0] == 0
    assert (tmp_path / "b-heldout.zip").read_bytes() == (tmp_path / "a-heldout.zip").read_bytes()
    assert (tmp_path / "c-heldout.zip").read_bytes() != (tmp_path / "a-heldout.zip").read_bytes()
    assert ImageDataset(tmp_path / "e").fingerprint() == ImageDataset(tmp_path / "a-heldout.zip").fingerprint()


def test_it_goes_with_chosen_classes_and_limits(tmp_path, tool):
    folders(tmp_path / "in", {"ape": 8, "cat": 1, "dog": 5})
    assert tool(f"--source={tmp_path}/in", f"--dest={tmp_path}/a.zip", "--holdout=0.5", "--classes=dog,ape",
                "--per-class=4")[0] == 0
    for path in ("a.zip", "a-heldout.zip"):
        d = ImageDataset(tmp_path / path, use_labels=True)
        assert d.spec.label.counts == (2, 2) and d.spec.label.names == ("dog", "ape")


def test_continuous_labels_and_parts_follow_their_images(tmp_path, tool):
    labels = [[f"{k}.png", [float(k)]] for k in range(8)]
    for k in range(8):
        save(tmp_path / f"in/{k}.png", picture(k))
    (tmp_path / "in/dataset.json").write_text(json.dumps(
        {"labels": labels, "splits": {"odd": [1, 3, 5, 7]}, "attributes": {"number": list(range(8))}}))
    assert tool(f"--source={tmp_path}/in", f"--dest={tmp_path}/a.zip", "--holdout=0.25")[0] == 0
    seen = []
    for path, n in (("a.zip", 6), ("a-heldout.zip", 2)):
        info, images = read_set(tmp_path / path)
        values = [int(v[0]) for _, v in info["labels"]]
        assert len(images) == n == len(values) and info["attributes"]["number"] == values
        assert [values[i] for i in info.get("splits", {}).get("odd", [])] == [v for v in values if v % 2]
        assert all(np.array_equal(images[name], picture(int(v[0]))) for name, v in info["labels"])
        assert info["label_meta"]["max"] == 7  # of the whole, so that both sides mean the same
        seen += values
    assert sorted(seen) == list(range(8))


def test_images_on_both_sides_are_said(tmp_path, accepted):
    for k in range(4):
        save(tmp_path / f"in/a/{k}.png", picture(0))
        save(tmp_path / f"in/b/{k}.png", picture(k + 1))
    out = accepted(f"--source={tmp_path}/in", f"--dest={tmp_path}/a.zip", "--holdout=0.25")
    assert "warning: 1 of the images held out is in" in out


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, refused):
    folders(tmp_path / "in", {"ape": 3, "cat": 1})
    save(tmp_path / "one/x.png", picture(0))
    folders(tmp_path / "late", {"ape": 3, "cat": 3})
    (tmp_path / "late/cat/00.png").write_bytes(b"no picture")
    source, out = f"--source={tmp_path}/in", f"--dest={tmp_path}/a.zip"
    cases = [((source, out, "--holdout=0.25"), ["class cat", "one image", "--classes"]),
             ((f"--source={tmp_path}/one", out, "--holdout=0.25"), ["one image"]),
             ((source, out, "--holdout=1"), ["--holdout"]), ((source, out, "--holdout=0"), ["--holdout"]),
             ((source, out, f"--dest-heldout={tmp_path}/b.zip"), ["--holdout=SHARE"]),
             ((source, out, "--holdout=0.25", f"--dest-heldout={tmp_path}/a.zip"), ["--dest-heldout"]),
             ((source, f"--dest={tmp_path}/a.h5", "--holdout=0.25"), ["--test-source"])]
    cases += [((f"--source={tmp_path}/late", out, "--holdout=0.25", f"--seed={s}"), ["00.png"]) for s in range(4)]
    before = sorted(p.name for p in tmp_path.iterdir())
    for args, words in cases:
        err = refused(*args)
        assert all(w in err for w in words), (args, err)
        assert sorted(p.name for p in tmp_path.iterdir()) == before, args


@pytest.mark.parametrize("second", ["a-heldout.zip", "other.zip"])
def test_what_is_there_is_replaced_only_with_overwrite(tmp_path, tool, refused, second):
    folders(tmp_path / "in", {"ape": 3, "cat": 2})
    (tmp_path / second).write_bytes(b"mine")
    args = [f"--source={tmp_path}/in", f"--dest={tmp_path}/a.zip", "--holdout=0.25",
            f"--dest-heldout={tmp_path}/{second}"]
    assert second in refused(*args) and (tmp_path / second).read_bytes() == b"mine"
    assert not (tmp_path / "a.zip").exists()
    assert tool(*args, "--overwrite")[0] == 0 and len(read_set(tmp_path / second)[1]) == 2
