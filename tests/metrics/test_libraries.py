# SPDX-License-Identifier: Apache-2.0
"""calc_metrics beside torch-fidelity and clean-fid: the same weights file, the same image files.

    python -m pip install --no-deps -r requirements-compare.txt

The network has random weights in the published layout, with batch norms calibrated on the images, so that features vary
between them as those of a trained network do.
"""

import json

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

from gantransfer.detectors.inception import InceptionV3
from gantransfer.detectors.input_path import PRESETS
from tests.conftest import write_image_zip
from tests.golden.test_metrics_inception import recipe_state
from tests.metrics.other_libraries import libraries

N = 24
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def library():
    """import by name. Skips where the library is absent."""

    def load(name):
        pytest.importorskip(name.split(".")[0], reason=f"needs {name.split('.')[0]} (requirements-compare.txt)")
        return pytest.importorskip(name)

    with libraries():
        yield load


@pytest.fixture(scope="module")
def case(library, digits, tmp_path_factory):
    """Folder with `real` and `fake` as PNG files and zips, and the weights."""
    library("torch_fidelity")  # or skip, before a network is made
    folder = tmp_path_factory.mktemp("libraries")
    grey = digits[0]
    rng = np.random.RandomState(0)
    tinted = (grey[:, :, :, None] * np.array([1, 0.7, 0.4]) + rng.randint(0, 40, (*grey.shape, 3))).clip(0, 255)
    both = tinted.astype(np.uint8)[rng.permutation(40)]
    for name, images in (("real", both[:N]), ("fake", both[40 - N:, :, ::-1])):
        (folder / name).mkdir()
        for i, x in enumerate(images):
            PIL.Image.fromarray(np.ascontiguousarray(x)).save(folder / name / f"{i:03d}.png")
        write_image_zip(folder / f"{name}.zip", [np.ascontiguousarray(x) for x in images])
    net = InceptionV3("fid")
    net.load_state_dict(recipe_state({k: tuple(v.shape) for k, v in net.state_dict().items()}, "libraries"))
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = 1.0  # statistics of the one batch
    with torch.no_grad():
        net.train()(PRESETS["tf1"].prepare(torch.from_numpy(both.transpose(0, 3, 1, 2).copy())))
        net.fc.weight.mul_(10)
    torch.save(net.state_dict(), folder / "inception.pt")
    return folder


@pytest.fixture(scope="module")
def theirs(library, case):
    """torch-fidelity's network with these weights."""
    extractor = library("torch_fidelity.feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    return extractor("inception", ["2048"], feature_extractor_weights_path=str(case / "inception.pt"))


def ours(call, case, *names):
    done = call("calc_metrics", f"--network={case / 'fake.zip'}", f"--data={case / 'real.zip'}", "--no-cache",
                f"--metrics={','.join(names)}", f"--detector=inception={case / 'inception.pt'}")
    results: dict[str, float] = {}
    for text in done.stdout.splitlines():
        line = json.loads(text)
        results |= line["results"]
    return results


def test_torch_fidelity(library, theirs, case, call):
    expected = library("torch_fidelity").calculate_metrics(
        input1=str(case / "fake"), input2=str(case / "real"), cuda=False, cache=False, verbose=False, isc=True,
        fid=True, kid=True, prc=True, kid_subset_size=N, feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(case / "inception.pt"))
    fid, kid, score, pr = f"fid{N}_fidelity", f"kid{N}_fidelity", f"is{N}_fidelity", f"pr_inception_{N}_k3"
    got = ours(call, case, fid, kid, score, pr)
    names = {fid: "frechet_inception_distance", kid: "kernel_inception_distance_mean",
             f"{score}_mean": "inception_score_mean", f"{score}_std": "inception_score_std",
             f"{pr}_precision": "precision", f"{pr}_recall": "recall"}
    assert got == pytest.approx({k: expected[v] for k, v in names.items()}, rel=1e-4)


@pytest.mark.parametrize("mode,suffix", [("clean", "clean"), ("legacy_pytorch", "pytorch")])
def test_clean_fid(library, theirs, case, call, mode, suffix):
    fid = library("cleanfid.fid")
    body = nn.Sequential(*list(theirs.children())[:-1])
    low, scale = {"clean": (128, 128), "legacy_pytorch": (127.5, 127.5)}[mode]
    features = [fid.get_folder_features(str(case / name), lambda x: body((x - low) / scale).flatten(1), num_workers=0,
                                        device="cpu", mode=mode, verbose=False) for name in ("real", "fake")]
    np.random.seed(2020)  # theirs are drawn from the global generator, the second set first
    expected = {f"kid{N}_{suffix}": fid.kernel_distance(*features)}
    if mode == "clean":  # theirs takes half a minute for the root of a matrix, and the formula is the same
        expected[f"fid{N}_{suffix}"] = fid.fid_from_feats(*features)
    got = ours(call, case, *expected)
    assert got == pytest.approx(expected, rel=1e-4)
