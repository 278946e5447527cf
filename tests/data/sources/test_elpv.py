# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from PIL import Image

from gantransfer.data.dataset import ImageDataset
from gantransfer.data.sources import elpv
from tests.data.picture_sets import read_set

LINES = ["mono 0.0", "mono 1.0", "poly 0.3333333333333333", "poly 0.0", "poly 0.6666666666666666"]


def picture(i: int) -> np.ndarray:
    return np.random.RandomState(i).randint(0, 256, (22, 22), dtype=np.uint8)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the layout of elpv-dataset with five small photographs; importing it would end the test."""
    root = tmp_path / "site/elpv_dataset"
    (root / "data/images").mkdir(parents=True)
    (root / "__init__.py").write_text("raise RuntimeError('it must not be imported')")
    for i in range(len(LINES)):
        Image.fromarray(picture(i)).save(root / f"data/images/cell{i + 1:04d}.png")
    (root / "data/labels.csv").write_text("".join(
        f"images/cell{i + 1:04d}.png  {degree}  {kind}\n" for i, (kind, degree) in enumerate(map(str.split, LINES))))
    monkeypatch.syspath_prepend(str(root.parent))
    monkeypatch.chdir(tmp_path)
    return root


@pytest.mark.parametrize("labels, names, ids", [
    ("class", ["mono_0", "mono_33", "mono_67", "mono_100", "poly_0", "poly_33", "poly_67", "poly_100"],
     [0, 3, 5, 4, 6]),
    ("defect", ["defect_0", "defect_33", "defect_67", "defect_100"], [0, 3, 1, 0, 2]),
])
def test_types_and_degrees_are_classes(package, tmp_path, accepted, labels, names, ids):
    out = accepted("--source=elpv", f"--labels={labels}", "--resolution=16x16", f"--dest={tmp_path}/a.zip")
    assert "CC BY-NC-SA 4.0" in out
    info, images = read_set(tmp_path / "a.zip")
    assert info["class_names"] == names and [v for _, v in info["labels"]] == ids
    assert np.array_equal(images["00000/img00000002.png"],
                          np.asarray(Image.fromarray(picture(2)).resize((16, 16), Image.Resampling.LANCZOS)))


def test_auto_is_class_and_none_is_none(package, tmp_path, tool):
    for labels in ("auto", "none"):
        assert tool("--source=elpv", f"--labels={labels}", "--resolution=16x16",
                    f"--dest={tmp_path}/{labels}.zip")[0] == 0
    assert len(read_set(tmp_path / "auto.zip")[0]["class_names"]) == 8
    assert read_set(tmp_path / "none.zip")[0]["labels"] is None


def test_the_degree_is_a_continuous_label(package, tmp_path, tool):
    assert tool("--source=elpv", "--labels=value", "--resolution=16x16", f"--dest={tmp_path}/a.zip")[0] == 0
    d = ImageDataset(tmp_path / "a.zip", use_labels=True)
    assert d.labels(np.arange(5))[:, 0].tolist() == pytest.approx([0, 1, 1 / 3, 0, 2 / 3])
    assert d.spec.label.meta["unit"] == "defect probability"
    assert (d.spec.label.meta["min"], d.spec.label.meta["max"], d.spec.label.meta["scale"]) == (0, 1, 1)


def test_bad_input_is_one_line(package, tmp_path, refused):
    out = f"--dest={tmp_path}/out.zip"
    cases = [(["--labels=folders"], ["--labels=folders", "class, defect, value"]),
             (["--split=train"], ["--holdout"]), (["--label-kind=value"], ["--label-kind"]),
             (["--label-range=0,1"], ["--labels=value"]), (["--letters=A-C"], ["--letters"]),
             ([], ["22x22", "power of two"])]
    for args, words in cases:
        err = refused("--source=elpv", out, *args)
        assert all(w in err for w in words), (args, err)
    assert "--source=elpv" in refused("--source=sklearn:digits", out, "--labels=defect")
    (tmp_path / "elpv").mkdir()
    assert "./elpv" in refused("--source=elpv", out)
    assert not (tmp_path / "out.zip").exists()


def test_a_missing_package_is_one_line_with_the_licence(tmp_path, refused, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(elpv.importlib.util, "find_spec", lambda name: None)
    err = refused("--source=elpv", f"--dest={tmp_path}/a.zip")
    assert "pip install elpv-dataset" in err and "CC BY-NC-SA 4.0" in err


@pytest.mark.parametrize("line", ["images/cell0001.png 0.5 mono", "images/cell0001.png 1.0", "a.png 1.0 mono",
                                  "images/../../x.png 1.0 mono", "images/cell0001.png nan poly"])
def test_damaged_labels_are_named(package, tmp_path, refused, line):
    (package / "data/labels.csv").write_text(line)
    err = refused("--source=elpv", "--resolution=16x16", f"--dest={tmp_path}/a.zip")
    assert "damaged" in err and "labels.csv" in err


def test_a_missing_photograph_is_named(package, tmp_path, refused):
    (package / "data/images/cell0003.png").unlink()
    err = refused("--source=elpv", "--resolution=16x16", f"--dest={tmp_path}/a.zip")
    assert "cell0003.png" in err and "force-reinstall" in err
    assert not (tmp_path / "a.zip").exists()
