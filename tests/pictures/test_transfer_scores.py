# SPDX-License-Identifier: Apache-2.0
"""The picture of scores: every score has its colour, every name its place."""

import numpy as np
import pytest
from PIL import Image

from dnnlib.util import UserError
from gantransfer.pictures import text, transfer_scores
from gantransfer.pictures.transfer_scores import CELL, draw

LAYERS = ["blocks.0.bn1", "blocks.0.bn2", "bn_out"]


def report(old, new, value=lambda k, part, layer, j: 0.0):
    classes = [dict(name=f"new {k}", scores=[0.0] * old, layers=[
        {"layer": name, **{f"scores_{part}": [value(k, part, n, j) for j in range(old)] for part in ("gain", "bias")}}
        for n, name in enumerate(LAYERS)]) for k in range(new)]
    return dict(old=[f"source {j}" for j in range(old)], new=[], layers=LAYERS, classes=classes)


def where(picture, colour):
    """Left upper corners of the cells of a colour."""
    hit = (np.asarray(picture) == colour).all(2)
    side = CELL - 1
    return [(x, y) for y, x in zip(*np.nonzero(hit)) if hit[y : y + side, x : x + side].all()
            and hit[y : y + side, x : x + side].shape == (side, side) and not hit[y - 1, x] and not hit[y, x - 1]]


def test_a_score_is_in_the_row_of_its_source_and_the_column_of_its_layer():
    strong = {(1, "gain", 2, 4): 0.5, (1, "bias", 0, 9): -0.5, (0, "gain", 0, 0): 0.5}
    picture = draw(report(10, 2, lambda *at: strong.get(at, 0.0)))
    red, blue = (tuple(transfer_scores._colours(np.array(v)).tolist()) for v in (1.0, -1.0))
    (first, second), (third,) = sorted(where(picture, red)), where(picture, blue)
    block = 2 * (len(LAYERS) * CELL + transfer_scores.PAD) + transfer_scores.PAD
    assert second == (first[0] + block + 2 * CELL, first[1] + 4 * CELL)
    assert third == (first[0] + block + len(LAYERS) * CELL + transfer_scores.PAD, first[1] + 9 * CELL)


@pytest.mark.parametrize("old, new", [(10, 1), (10, 12), (100, 3)])
def test_all_names_are_written_apart(old, new, monkeypatch):
    written = []
    monkeypatch.setattr(text, "draw", lambda pen, x, y, words, size, right=False, fill="": written.append(
        (id(pen), x - right * text.width(words, size), y, words, size)))
    picture = draw(report(old, new))
    words = [w[3] for w in written]
    bands = words.count("source 0")
    assert bands >= 1 and all(words.count(f"source {j}") == bands for j in range(old))
    assert {f"new {k}" for k in range(new)} <= set(words) and words.count("bn_out") == 2 * new
    main = [w for w in written if w[0] == written[0][0]]
    boxes = [(x, y, x + text.width(t, s), y + CELL) for _, x, y, t, s in main]
    for i, (a, b, c, d) in enumerate(boxes):
        assert 0 <= a and c <= picture.width and 0 <= b and d <= picture.height, main[i]
        for e, f, g, h in boxes[:i]:
            assert c <= e or g <= a or d <= f or h <= b, "words over words"


def test_of_a_thousand_classes_the_strongest_are_shown(monkeypatch):
    written = []
    monkeypatch.setattr(text, "draw", lambda pen, x, y, words, size, *a, **k: written.append(words))
    draw(report(1000, 1, lambda k, part, layer, j: 1.0 if j % 10 == 3 else 0.001 * (j % 2)))
    assert {w for w in written if w.startswith("source")} == {f"source {j}" for j in range(3, 1000, 10)}
    assert any("the 100 of 1000 source classes with the largest scores" in w for w in written)


def test_nothing_to_draw():
    nothing = report(3, 1)
    nothing["classes"][0]["scores"] = None
    with pytest.raises(UserError, match="without scores"):
        draw(nothing)
    assert isinstance(draw(report(3, 1)), Image.Image)
