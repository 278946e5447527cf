# SPDX-License-Identifier: Apache-2.0
"""A data set as folders of images."""

# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np

from gantransfer.data.container import Container
from gantransfer.data.dataset import ImageDataset
from tests.data.picture_sets import class_folders, picture, read_set, save
from tests.data.test_names import images, labels, write


def test_round_trip_is_pixel_exact(tmp_path, tool, converted):
    content = class_folders(tmp_path / "in")
    assert tool(f"--source={tmp_path}/in", f"--dest={tmp_path}/a.zip")[0] == 0
    info, images = converted("export", f"--source={tmp_path}/a.zip", f"--dest={tmp_path}/b")
    assert {n.split("/")[0] for n in images} == {"ape", "cat", "dog"}
    assert sorted(n.split("/")[0] for n in images) == sorted(n.split("/")[0] for n in content)
    for (_, image), key in zip(sorted(images.items()), sorted(content)):
        assert np.array_equal(image, content[key])
    # Back into a zip and into a folder, with the labels from the folders or from dataset.json.
    for how in ("folders", "json"):
        assert tool(f"--source={tmp_path}/b", f"--dest={tmp_path}/{how}.zip", f"--labels={how}")[0] == 0
        assert tool(f"--source={tmp_path}/a.zip", f"--dest={tmp_path}/{how}")[0] == 0
        sets = [ImageDataset(tmp_path / p, use_labels=True) for p in ("a.zip", f"{how}.zip", how)]
        assert len({d.fingerprint() for d in sets}) == 1
        assert len({d.spec.label.names for d in sets}) == 1
    assert converted("export", f"--source={tmp_path}/b", f"--dest={tmp_path}/c.zip")[0]["labels"] == info["labels"]


def test_export_of_chosen_vectors_and_clashing_names(tmp_path, tool, refused, converted):
    for k, n in enumerate(("a/x.png", "b/x.png", "a/y.png")):
        save(tmp_path / "in" / n, picture(k))
    labels = {"labels": [["a/x.png", 1], ["b/x.png", 1], ["a/y.png", 0]], "class_names": ["no/yes", "no/yes"]}
    (tmp_path / "in/dataset.json").write_text(json.dumps(labels))
    (tmp_path / "in/few.json").write_text(json.dumps({"labels": [["a/y.png", 0]]}))
    info, images = converted("export", f"--source={tmp_path}/in", f"--dest={tmp_path}/out")
    assert sorted(images) == ["no_yes/y.png", "no_yes_1/b_x.png", "no_yes_1/x.png"] and len(info["labels"]) == 3
    assert tool("export", f"--source={tmp_path}/in", f"--dest={tmp_path}/few", "--fname=few.json")[0] == 0
    assert sorted(read_set(tmp_path / "few")[1]) == ["0/y.png"]
    (tmp_path / "in/dataset.json").write_text(json.dumps({"labels": [[n, [0.5, 1]] for n, _ in labels["labels"]]}))
    info, images = converted("export", f"--source={tmp_path}/in", f"--dest={tmp_path}/v")
    assert sorted(images) == ["a/x.png", "a/y.png", "b/x.png"] and info["labels"][0][1] == [0.5, 1]
    for args in ((f"--dest={tmp_path}/v",), (f"--dest={tmp_path}/n", "--fname=none.json")):
        assert refused("export", f"--source={tmp_path}/in", *args)


def test_export_keeps_every_image_under_a_name_of_its_own(tmp_path, tool, refused):
    names = ["a/b.png", "c/b.png", "x/c_b.png", "long/" + 251 * "n" + ".png", "abs/e.png"]
    path = write(tmp_path / "x.zip", {**images(*names), "dataset.json": labels(dict.fromkeys(names, 0))})
    for dest in ("e", "e.zip"):
        assert tool("export", f"--source={path}", f"--dest={tmp_path}/{dest}")[0] == 0
        made = Container(tmp_path / dest)
        assert {made.read(n) for n in made.image_names} == set(images(*names).values())
        assert ImageDataset(tmp_path / dest, use_labels=True).spec.label.counts == (5,)
    # A name is never a place outside.
    path = write(tmp_path / "y.zip", images("a/b.png", f"{tmp_path}/outside.png"))
    assert "lead out of it" in refused("export", f"--source={path}", f"--dest={tmp_path}/f")
    assert not (tmp_path / "outside.png").exists() and not (tmp_path / "f").exists()
