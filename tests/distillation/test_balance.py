# SPDX-License-Identifier: Apache-2.0
"""Rare classes filled up with generated images, by the shipped model of digits."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from gantransfer.data import sources
from gantransfer.data.dataset import ImageDataset
from gantransfer.detectors import features
from gantransfer.distillation import balance
from tests.conftest import write_image_zip

ASSETS = Path(features.__file__).parents[1] / "assets"
KEPT = {7: 6, 1: 3, 4: 4}  # images of each digit


def digits_set(path, ids: dict[int, int], names: list[str]):
    """KEPT real digits, with the class ids and names given."""
    items = list(sources.open_source("sklearn:digits", sources.SourceOptions()).items())[:120]
    chosen = [i for k, n in KEPT.items() for i in [i for i in items if i.label == k][:n]]
    return write_image_zip(path, [np.asarray(i.load()) for i in chosen], [ids[i.label] for i in chosen],
                           class_names=names)


@pytest.fixture(scope="module")
def rare(tmp_path_factory):
    return digits_set(tmp_path_factory.mktemp("rare") / "rare.zip", {k: k for k in KEPT}, [str(k) for k in range(10)])


def test_what_is_missing():
    assert balance.missing((5, 0, 2, 4), None) == {2: 3, 3: 1} and balance.missing((5, 0, 2), 6) == {0: 1, 2: 4}
    for counts, target in (((3, 3, 0), None), ((5, 2), 2)):
        with pytest.raises(UserError, match="or more already"):
            balance.missing(counts, target)


def generated(path) -> tuple[ImageDataset, list[int], list[int]]:
    """(the set, positions of generated images, which digit the shipped judge sees in each)."""
    made = ImageDataset(path, use_labels=True)
    ids = [i for i in range(len(made)) if made.get_details(i).name.startswith("generated/")]
    return made, ids, features.load("digits32")(torch.from_numpy(made.images_uint8(ids))).logits.argmax(1).tolist()


def test_a_set_is_filled_up(rare, tmp_path, call):
    words = ("generate", "--network=digits", "--balance", f"--data={rare}", "--judge=digits32", "--kernels=ref")
    said = call(*words, f"--outdir={tmp_path}/more.zip").stdout
    made, ids, seen = generated(tmp_path / "more.zip")
    assert [n for n in made.spec.label.counts if n] == [6, 6, 6] and seen == made.class_ids[ids].tolist()
    assert "class 1 (3): 3 generated, of " in said and "18 images, 5 of them generated" in said
    real, before = (ImageDataset(p, fname=f, use_labels=True) for p, f in (
        (tmp_path / "more.zip", "real.json"), (rare, None)))
    assert real.spec.label.counts == before.spec.label.counts
    assert np.array_equal(real.images_uint8(range(13)), before.images_uint8(range(13)))
    with zipfile.ZipFile(tmp_path / "more.zip") as z:
        info = json.loads(z.read("dataset.json"))
    assert info["attributes"]["generated"] == [int(n.startswith("generated/")) for n, _ in info["labels"]]
    assert info["meta"]["balance"]["generated"] == {"1": 3, "4": 2}
    call(*words, f"--outdir={tmp_path}/again.zip")
    assert (tmp_path / "again.zip").read_bytes() == (tmp_path / "more.zip").read_bytes()


def test_classes_are_known_by_their_names(tmp_path, call):
    """Where the set numbers them otherwise than the model: class 0 is the digit 7."""
    path = digits_set(tmp_path / "named.zip", {7: 0, 1: 1, 4: 2}, ["7", "1", "4"])
    call("generate", "--network=digits", "--balance", f"--data={path}", f"--outdir={tmp_path}/a.zip", "--per-class=8",
         "--kernels=ref")
    made, ids, seen = generated(tmp_path / "a.zip")
    assert made.spec.label.counts == (8, 8, 8) and made.spec.label.names == ("7", "1", "4") and len(ids) == 11
    assert np.mean([(7, 1, 4)[made.class_ids[i]] == k for i, k in zip(ids, seen)]) > 0.8


def test_copies_are_not_taken(rare):
    """A model that repeats a training image gives none; one that is as far from it as images are usually, does."""
    data = ImageDataset(rare, use_labels=True)
    own = data.images_uint8(np.flatnonzero(data.class_ids == 1))
    other = np.flip(own, 2).copy()

    def repeat(seeds, c, **kw):
        return torch.from_numpy(own[[s % 3 for s in seeds]])

    with pytest.raises(UserError, match=r"class 1: of \d+ images only 0 of 2 may be taken .*0 are judged.*\d+ are too"):
        balance.fill(repeat, data, {1: 2}, batch=4)
    own = other
    (made,) = balance.fill(repeat, data, {1: 2}, batch=4)
    assert made.seeds == [0, 1] and made.copies == 0


@pytest.mark.parametrize("words, said", [
    (["--outdir=a"], "--outdir=FILE.zip"), (["--outdir=a.zip", "--class=1"], "omit --class"),
    (["--outdir=a.zip", "--seeds=0-3"], "a single number"), (["--outdir=a.zip", "--per-class=2"], "more already"),
    (["--outdir=a.zip", "--judge=none-such"], "none-such")])
def test_what_cannot_be_is_one_line(rare, tmp_path, call, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    done = call("generate", "--network=digits", "--balance", f"--data={rare}", *words, check=2)
    (line,) = [x for x in done.stderr.strip().splitlines() if x.startswith("Error")]
    assert said in line and not list(tmp_path.iterdir())


def test_a_judge_of_another_size_and_a_zip_of_others_are_one_line(rare, tmp_path, call):
    own = json.loads((ASSETS / "digits32.detector.json").read_text())
    own["input"]["size"] = 32
    (tmp_path / "j.detector.json").write_text(json.dumps(own))
    weights = shutil.copy(ASSETS / own["file"], tmp_path)
    bare = shutil.copy(weights, tmp_path / "bare.pt")
    other = Path(shutil.copy(rare, tmp_path / "photos.zip"))
    for flags, said in ((f"--judge={tmp_path}/j.detector.json", "judges 32x32 images, the data set has 16x16"),
                        (f"--judge={bare}", f"--judge={bare}: say which detector it is: there is no "),
                        (f"--outdir={other}", "exists, and `generate` did not make it")):
        words = "--network=digits", "--balance", f"--data={rare}", f"--outdir={tmp_path}/a.zip", flags
        done = call("generate", *words, check=2)
        (line,) = [x for x in done.stderr.strip().splitlines() if x.startswith("Error")]
        assert said in line and other.read_bytes() == Path(rare).read_bytes() and not (tmp_path / "a.zip").exists()


def test_the_flags_need_balance(tmp_path, refused):
    words = ("--network=digits", "--judge=digits32", f"--outdir={tmp_path}/a.zip", "--per-class=1")
    assert "--judge belongs to --balance" in refused(*words, command="generate")
