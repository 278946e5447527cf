# SPDX-License-Identifier: Apache-2.0
"""A point's picture is what `generate` and `interpolate` make, of every method that makes images."""

import numpy as np
import pytest
import torch

import gantransfer
from dnnlib.util import UserError
from gantransfer import snapshot
from gantransfer.pictures.mixing import mixing_sheet
from gantransfer.pictures.walks import Walk, sheet
from gantransfer.viewer import points
from gantransfer.viewer.abilities import abilities
from gantransfer.viewer.points import Point, image, parse, walk
from tests.test_earlier_versions import RUNS
from torch_utils.interpolation import slerp


def label_of(sampler):
    """The label of a point, as the page gives it."""
    label = sampler.spec.label
    return dict(label=[label.meta["min"]]) if label.kind == "value" else dict(class_id=1) if sampler.label_dim else {}


@pytest.mark.parametrize("run", RUNS)
def test_every_method_is_shown_and_every_ability_makes_a_picture(earlier_runs, run):
    model = gantransfer.load(snapshot.find_snapshots(earlier_runs / run)[-1])
    sampler = model.sampler()
    can, given = abilities(sampler, model.method, "x.pkl"), label_of(sampler)
    c = points.labels(sampler, parse(given, sampler))[0]

    def picture(**more):
        made = image(sampler, parse({"seed": 5, **given, **more}, sampler)).astype(int)
        assert made.shape[0] == 1 and made.std() > 0
        return made

    plain = picture()
    want = sampler([5], c, truncation_psi=1, noise_mode="const")[0].numpy()
    assert np.array_equal(plain, want) and plain.shape == (1, 16, 16)
    assert (picture(seed=6) != plain).any() and (picture(trunc=0.3) != plain).any()
    for center in can["centers"]:
        assert np.array_equal(picture(trunc=0.3, center=center),
                              sampler([5], c, truncation_psi=0.3, truncation_center=center, noise_mode="const")[0])
    for space in can["spaces"]:
        assert np.abs(picture(to_seed=6, space=space) - plain).max() <= 1
        assert (picture(to_seed=6, space=space, at=0.5) != plain).any()
    if can["label"]["kind"] == "class":
        halfway = picture(to_class=0, blend=0.5)
        assert np.abs(picture(to_class=0) - plain).max() <= 1
        assert np.abs(picture(to_class=0, blend=1) - picture(class_id=0)).max() <= 1
        assert (halfway != plain).any() or (picture(class_id=0) == plain).all()
    if can["layers"]:
        everything = list(range(can["layers"]))
        assert np.abs(picture(mix_seed=6, mix_layers=everything, noise="none") - picture(
            seed=6, noise="none")).max() <= 1
        assert np.abs(picture(mix_seed=6, mix_layers=[]) - plain).max() == 0
    for view in can["beside"]:
        assert picture(view=view).shape[1] == (4 if view == "uc" and run == "utlo" else 16)
        if can["layers"]:
            assert np.abs(picture(view=view, mix_seed=5, mix_layers=[0]) - picture(view=view)).max() <= 1
    for name, known in can["sets"].items():
        assert known["kind"] == "class" and len(known["classes"]) == known["dim"]
        picture(label_set=name, class_id=known["dim"] - 1)
    if can["scores"]:
        scores = sampler.scores()
        assert [len(c["scores"]) for c in scores["classes"]] == [len(scores["old"])] * len(scores["new"])


def test_what_a_method_is_about_is_shown(earlier_runs):
    can = {run: gantransfer.load(snapshot.find_snapshots(earlier_runs / run)[-1]).sampler() for run in (
        "utlo", "hypermod", "cgantransfer", "styletransfer", "mind2mind", "ccgan", "biggan")}
    assert list(can["utlo"].beside) == ["uc"] and list(can["hypermod"].beside) == ["source"]
    assert can["cgantransfer"].scores is not None and can["biggan"].scores is None
    assert abilities(can["ccgan"], "", "")["label"].keys() >= {"min", "max", "unit"}
    assert abilities(can["mind2mind"], "", "")["spaces"] == ["z", "w"]
    assert abilities(can["biggan"], "", "") | dict(noise=False, spaces=["z"], layers=0, truncation="z") == abilities(
        can["biggan"], "", "")
    assert set(can["styletransfer"].label_sets) == {"new", "old"}


def test_the_source_beside_a_hypermodulated_image(earlier_runs):
    """Without class modulation all classes are one picture; mixing and truncation act on it as on the image."""
    sampler = gantransfer.load(snapshot.find_snapshots(earlier_runs / "hypermod")[-1]).sampler()

    def source(**more):
        return image(sampler, parse({"seed": 3, "class_id": 0, "view": "source", **more}, sampler))

    G = sampler.network.G
    z = torch.from_numpy(np.random.RandomState(3).randn(1, sampler.z_dim)).float()
    base = G.synthesis(G.styles(z, truncation_psi=0.5), classes=None, noise_mode="const")
    assert np.array_equal(source(trunc=0.5), (base * 127.5 + 128).clamp(0, 255).to(torch.uint8)[0])
    assert np.array_equal(source(), source(class_id=1))
    assert (image(sampler, Point(3, class_id=0)) != source()).any()


def test_walks_are_those_of_interpolate(sampler_of):
    sampler = sampler_of("classes")
    for kind, moving in (("class", dict(to_class=2)), ("noise", dict(to_seed=6))):
        want = sheet(Walk(sampler, 0.7, "const", torch.device("cpu")), kind, [5, 6], 1, 2, 4, slerp
                     if kind == "noise" else torch.lerp)[0]
        way = walk(Point(5, class_id=1, trunc=0.7, **moving), 4)
        assert np.abs(np.stack([image(sampler, p) for p in way]).astype(int) - want).max() <= 1
    with pytest.raises(UserError, match="nothing moves"):
        walk(Point(), 4)


def test_mixing_is_that_of_generate(sampler_of):
    sampler = sampler_of("classes")
    for center in ("global", "class"):
        want = mixing_sheet(sampler, [5], [6], [1, 2], torch.eye(4)[[1]], psi=0.6, center=center)[3]
        p = Point(5, class_id=1, trunc=0.6, center=center, mix_seed=6, mix_layers=(1, 2))
        assert np.abs(image(sampler, p).astype(int) - want).max() <= 1
        assert np.abs(image(sampler, p).astype(int) - image(sampler, Point(5, class_id=1, trunc=0.6,
                                                                           center=center))).max() > 1


def test_mixing_of_an_unfinished_alae_is_of_its_working_resolution(earlier_runs):
    """Its later layers are not trained yet, and would show."""
    model = gantransfer.load(snapshot.find_snapshots(earlier_runs / "alae")[-1])
    model.extra["level"] = [1, 0.5]
    sampler = model.sampler()
    own = sampler([5, 6], noise_mode="none").numpy().astype(int)
    assert np.array_equal(own[:, :, ::2, ::2].repeat(2, 2).repeat(2, 3), own)  # enlarged from 8 pixels
    sheet = mixing_sheet(sampler, [5], [6], [0], noise_mode="none").astype(int)
    assert np.abs(sheet[1] - own[1]).max() <= 1 and np.abs(sheet[2] - own[0]).max() <= 1
    mixed = image(sampler, Point(5, noise="none", mix_seed=6, mix_layers=(0,)))
    assert np.abs(mixed.astype(int) - sheet[3]).max() <= 1


def test_seeds_may_be_of_any_length(sampler_of):
    sampler = sampler_of("uncond")
    assert parse({"seed": str(2**70)}, sampler).seed == 2**70 and parse({"seed": "-5"}, sampler).seed == -5
    assert np.array_equal(image(sampler, parse({"seed": str(2**70)}, sampler)), sampler([2**70], noise_mode="const")[0])


@pytest.mark.parametrize("given, line", [
    ([], "an object"), ({"seed": 1.5}, "seed is not a whole number"), ({"seed": True}, "seed is not"),
    ({"seed": "1e3"}, "seed is not"), ({"seed": "9" * 1001}, "seed is not"), ({"trunc": float("nan")}, "trunc is not"),
    ({"trunc": "1"}, "trunc is not"), ({"at": 1.01}, "at is between"), ({"blend": -1}, "blend is between"),
    ({"space": "x"}, "space is one of z, w"), ({"noise": []}, "noise is one of"),
    ({"center": "y"}, "truncation_center"), ({"trunc": 10**400}, "trunc is not a number"),
    ({"at": float("nan")}, "at is not a number"),
    ({"view": "uc"}, "view is one of image"), ({"label_set": "old"}, "label_set is one of"),
    ({"mix_seed": 1, "mix_layers": [99]}, "layers 0 to"), ({"mix_layers": 3}, "not a list"),
    ({"mix_layers": [-1]}, "layers 0 to"), ({"class_id": 4}, "class 4 does not exist"), ({"class_id": -1}, "class -1"),
    ({"to_class": 9}, "class 9 does not exist"), ({"class_id": None}, "choose a class"), ({"file": "x"}, "unknown")])
def test_anything_else_is_refused_in_one_line(sampler_of, given, line):
    if isinstance(given, dict):
        given = {"class_id": 1, **given}
    with pytest.raises(UserError, match=line) as e:
        parse(given, sampler_of("classes"))
    assert "\n" not in str(e.value) and len(str(e.value)) < 200
