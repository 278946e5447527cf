# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from dnnlib.util import UserError
from gantransfer.data.labels import LabelSpec
from gantransfer.experiments import own_images
from tests.conftest import write_image_zip


def images(labels, path, size=16, **more):
    made = np.random.RandomState(0).randint(0, 256, (len(labels), size, size), dtype=np.uint8)
    return write_image_zip(path, made, labels, **more)


def test_every_class_needs_two_images_on_the_other_side(tmp_path):
    train = images([0] * 5 + [1] * 3, tmp_path / "train.zip", class_names=["ash", "elm"])
    good = images([0, 0, 1, 1], tmp_path / "good.zip", class_names=["ash", "elm"])
    label = own_images.check_classes(train, good)
    assert label.counts == (5, 3)
    cases = [(images([0, 0, 1], tmp_path / "one.zip", class_names=["ash", "elm"]), "1 image of class elm"),
             (images([0, 0, 1, 1], tmp_path / "named.zip", class_names=["elm", "ash"]), "other classes"),
             (images([0, 0, 1, 1, 2, 2], tmp_path / "three.zip"), "other classes"),
             (images([0, 0, 1, 1], tmp_path / "large.zip", 32, class_names=["ash", "elm"]), "32")]
    for path, word in cases:
        with pytest.raises(UserError, match=word) as e:
            own_images.check_classes(train, path)
        assert path.name in str(e.value) and "\n" not in str(e.value)
    for labels, word in ((None, "none"), ([[0.5]] * 4, "none"), ([0] * 4, "one")):
        with pytest.raises(UserError, match=f"has {word}"):
            own_images.check_classes(write_image_zip(tmp_path / "x.zip", np.zeros((4, 16, 16), np.uint8), labels))


def test_groups_by_counts(tmp_path):
    pool = images([0] * 5 + [1] * 3, tmp_path / "pool.zip")
    counts = (690, 37, 441, 88, 0)
    (job,) = own_images.groups_job(pool, tmp_path / "copy.zip", counts, "400,40")
    assert job.argv == ["lt_dataset", f"--fn={tmp_path / 'copy.zip'}", "--keep-labels", "--shots=0,2,3"]
    assert (tmp_path / "copy.zip").read_bytes() == pool.read_bytes()
    for bounds, word in (("100,20", "0 of fewer than 20"), ("1000,40", "0 classes of more than 1000"),
                         ("50,40", "0 between"), ("100", "MANY,FEW"), ("a,b", "--groups=a,b")):
        with pytest.raises(UserError, match=word):
            own_images.groups_job(pool, tmp_path / "no.zip", counts, bounds)
    assert not (tmp_path / "no.zip").exists()
    groups = {"many": (0, 2), "medium": (3,), "few": (1,)}
    label = LabelSpec("class", 4, (690, 37, 441, 88), ("a", "b", "c", "d"), groups)
    said = "many: 690 to 441 (a, c); medium: 88 (d); few: 37 (b)"
    assert own_images.groups_note(label) == f"{said} (by rank, 0.3, 0.3 and the rest)"
    assert own_images.groups_note(label, "400,40") == f"{said} (more than 400, fewer than 40 images)"
    usual = LabelSpec("class", 3, (101, 20, 19), ("a", "b", "c"), {"many": (0,), "medium": (1,), "few": (2,)})
    assert own_images.groups_note(usual).endswith("few: 19 (c) (more than 100, fewer than 20 images)")
