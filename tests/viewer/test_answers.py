# SPDX-License-Identifier: Apache-2.0
"""What the page gets: sheets, nearest training images, scores and films, of the models as they are."""

import asyncio
import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

import gantransfer
from dnnlib.util import UserError
from gantransfer import snapshot
from gantransfer.data.dataset import ImageDataset
from gantransfer.metrics.neighbours import TrainingImages
from gantransfer.pictures import video
from gantransfer.sampler import one_hot
from gantransfer.viewer.abilities import abilities
from gantransfer.viewer.answers import Answers, Shown
from gantransfer.viewer.points import Point, image, walk
from tests.conftest import write_image_zip


@pytest.fixture
def ask():
    made = []

    def ask(sampler, name, training=None, **params):
        answers = Answers([Shown(sampler, abilities(sampler, "m", "f.pkl"), training)])
        made.append(answers.renderer)
        texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in params.items()}
        return asyncio.run(getattr(answers, name)(texts))

    yield ask
    for r in made:
        r.close()


def decoded(url):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))))


def test_a_sheet_has_the_classes_that_had_images_and_every_seed(sampler_of, ask):
    sampler = sampler_of("classes")
    got = json.loads(ask(sampler, "sheet", sheet=dict(seeds=["7", str(2**70)], trunc=0.7)).body)
    assert got["columns"] == 2 and got["row_labels"] == ["ash", "birch", "cedar"]
    assert got["cells"][3] == dict(seed=str(2**70), class_id=1, label=None) and len(got["cells"]) == 6
    sheet = decoded(got["images"])
    assert sheet.shape == (3 * 16, 2 * 16)
    for i, k in enumerate((0, 1, 2)):
        for j, s in enumerate((7, 2**70)):
            want = sampler([s], one_hot([k], 4), truncation_psi=0.7, noise_mode="const")[0, 0].numpy()
            assert np.abs(sheet[16 * i : 16 * i + 16, 16 * j : 16 * j + 16].astype(int) - want).max() <= 1
    one = json.loads(ask(sampler, "sheet", sheet=dict(seeds=[1, 2, 3], classes=[2])).body)
    assert one["columns"] == 2 and one["row_labels"] is None and {c["class_id"] for c in one["cells"]} == {2}
    with pytest.raises(UserError, match="class 4 does not exist"):
        ask(sampler, "sheet", sheet=dict(seeds=[1], classes=[4]))


def test_sheets_without_classes_and_of_values(sampler_of, ask, earlier_runs):
    free = json.loads(ask(sampler_of("uncond"), "sheet", sheet=dict(seeds=list(range(5)))).body)
    assert free["columns"] == 3 and free["row_labels"] is None and decoded(free["images"]).shape == (32, 48)
    ccgan = gantransfer.load(snapshot.find_snapshots(earlier_runs / "ccgan")[-1]).sampler()
    got = json.loads(ask(ccgan, "sheet", sheet=dict(seeds=[3, 4])).body)
    values = [c["label"][0] for c in got["cells"][::2]]
    assert values == sorted(values) and len(values) == 10 and float(got["row_labels"][0]) == pytest.approx(values[0])
    want = image(ccgan, Point(4, label=(values[6],)))
    assert np.abs(decoded(got["images"])[96:112, 16:32].astype(int) - want[0]).max() <= 1


def test_nearest_training_images_of_a_sheet_and_of_a_point(sampler_of, ask, digits, tmp_path):
    sampler = sampler_of("classes")
    images, labels = digits
    own = sampler([5], one_hot([2], 4), noise_mode="const")[0, 0].numpy()
    images = np.concatenate([images[labels < 3], own[None]])  # the model repeats an image of its training
    path = write_image_zip(tmp_path / "set.zip", images, [*map(int, labels[labels < 3]), 2])
    training = TrainingImages(ImageDataset(path, use_labels=True))
    one = json.loads(ask(sampler, "nearest", training, point=dict(seed=5, class_id=2)).body)
    assert one["distance"] == 0 and one["index"] == len(images) - 1 and one["usual"] > 0
    assert np.array_equal(decoded(one["image"]), own)
    assert json.loads(ask(sampler, "nearest", training, point=dict(seed=5, class_id=3)).body) is None
    got = json.loads(ask(sampler, "sheet", training, sheet=dict(seeds=[4, 5]), nearest="1").body)
    assert [n["distance"] < 0.01 for n in got["neighbours"]] == [False] * 5 + [True]
    found = decoded(got["nearest"])[32:48, 0:16]
    assert np.array_equal(found, images[got["neighbours"][4]["index"]])
    assert "nearest" not in json.loads(ask(sampler, "sheet", training, sheet=dict(seeds=[4])).body)
    walked = json.loads(ask(sampler, "nearest", training, point=dict(seed=5, class_id=0, to_class=2, blend=1)).body)
    assert walked["index"] == one["index"] and walked["distance"] < 0.01  # of both classes of a walk


def test_training_images_are_not_those_of_other_sets_of_classes(ask, earlier_runs):
    sampler = gantransfer.load(snapshot.find_snapshots(earlier_runs / "cgantransfer")[-1]).sampler()
    with pytest.raises(UserError, match="of the data's own classes"):
        ask(sampler, "nearest", object(), point=dict(class_id=0, label_set="new"))
    assert "nearest" not in json.loads(ask(sampler, "sheet", object(), nearest="1",
                                           sheet=dict(seeds=[1], label_set="new")).body)


def test_scores_are_those_of_explain(ask, earlier_runs):
    sampler = gantransfer.load(snapshot.find_snapshots(earlier_runs / "cgantransfer")[-1]).sampler()
    got = json.loads(ask(sampler, "scores").body)
    assert got == json.loads(json.dumps(sampler.scores())) and got["layers"] and got["old"]
    hostile = {"old": ["a\x1b[31m", "b\u202e"], "classes": [{"name": "c\n", "scores": [1.5]}]}
    sampler.scores = lambda: hostile
    got = json.loads(ask(sampler, "scores").body)
    assert got == {"old": ["a\\x1b[31m", "b\\u202e"], "classes": [{"name": "c\\n", "scores": [1.5]}]}


@pytest.mark.parametrize("ending", [".mp4", ".webp"])
def test_a_film_is_the_walk(sampler_of, ask, ending, monkeypatch):
    if ending == ".mp4":
        pytest.importorskip("imageio_ffmpeg")
    else:
        monkeypatch.setattr("gantransfer.viewer.answers.video_ending", lambda: ".webp")
    sampler = sampler_of("classes")
    got = ask(sampler, "film", point=dict(seed=5, class_id=1, to_class=2), frames="5")
    assert got.name == f"walk{ending}"
    if ending == ".webp":
        film = Image.open(io.BytesIO(got.body))
        assert film.n_frames == 5 and film.size == (256, 256) and film.info["loop"] == 0
        for k, p in enumerate(walk(Point(5, class_id=1, to_class=2), 5)):
            film.seek(k)
            assert np.array_equal(np.asarray(film.convert("L"))[8::16, 8::16], image(sampler, p)[0])
    else:
        assert got.body[4:8] == b"ftyp" and got.kind == "video/mp4"
    assert video.video_ending() in (".mp4", ".webp")
