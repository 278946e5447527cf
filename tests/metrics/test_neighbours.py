# SPDX-License-Identifier: Apache-2.0
"""The nearest training image: by class, mirrored ones, distances, and the data set that a snapshot was trained on."""

import numpy as np
import pytest

from gantransfer.data.dataset import ImageDataset, training_dataset
from gantransfer.metrics.neighbours import TrainingImages, _usual
from tests.conftest import write_image_zip


@pytest.fixture(scope="module")
def images():
    return np.random.RandomState(0).randint(0, 256, [12, 8, 8]).astype(np.uint8)


@pytest.fixture(scope="module")
def path(images, tmp_path_factory):
    return write_image_zip(tmp_path_factory.mktemp("set") / "set.zip", images, [k % 3 for k in range(11)] + [3])


def test_it_is_the_nearest_of_the_same_class(path, images):
    training = TrainingImages(ImageDataset(path, use_labels=True))
    for k in (0, 4, 8):
        asked = np.clip(images[k].astype(int) + 9, 0, 255).astype(np.uint8)[None, None]
        (found,) = training.of(asked, k % 3)
        assert found.index == k and np.array_equal(found.image[0], images[k]) and not found.mirrored
        want = np.sqrt(np.mean((asked[0, 0] / 255.0 - images[k] / 255.0) ** 2))
        assert found.distance == pytest.approx(want, rel=1e-4)
        (other,) = training.of(asked, (k + 1) % 3)
        assert other.index % 3 == (k + 1) % 3 and other.distance > 3 * found.distance
    rows = images[0:11:3].reshape(-1, 64) / 255.0
    apart = np.sqrt(((rows[:, None] - rows) ** 2).mean(2)) + 9 * np.eye(4)
    assert training.of(images[:1, None], 0)[0].usual == pytest.approx(np.sort(apart.min(1))[1], rel=1e-4)


def test_images_that_are_not_square(tmp_path):
    """Reduced in their own shape: 64 x 48 to 32 x 24, where a pixel is the mean of four."""
    images = np.random.RandomState(1).randint(0, 256, [4, 64, 48]).astype(np.uint8)
    data = ImageDataset(write_image_zip(tmp_path / "set.zip", images))
    asked = np.clip(images[2:3, None].astype(int) + 20, 0, 255).astype(np.uint8)
    (found,) = TrainingImages(data).of(asked, None)
    assert found.index == 2 and found.image.shape == (1, 64, 48)
    small = [x.reshape(32, 2, 24, 2).mean((1, 3)) / 255 for x in (asked[0, 0].astype(float), images[2].astype(float))]
    assert found.distance == pytest.approx(np.sqrt(np.mean((small[0] - small[1]) ** 2)), rel=1e-4)


def test_a_class_of_one_image_has_no_usual_distance(path, images):
    training = TrainingImages(ImageDataset(path, use_labels=True))
    (found,) = training.of(images[:1, None], 3)
    assert found.index == 11 and found.usual is None and _usual is not None


def test_a_class_without_images_has_no_neighbour(path, images):
    training = TrainingImages(ImageDataset(path, use_labels=True, label_dim=6))
    assert training.of(images[:2, None], 5) == [None, None]


def test_without_classes_all_images_count(path, images):
    training = TrainingImages(ImageDataset(path))
    assert [n.index for n in training.of(images[:, None], None)] == list(range(12))


def test_a_mirrored_copy_is_found_where_training_mirrored(path, images):
    mirrored = images[4][:, ::-1][None, None].copy()
    assert TrainingImages(ImageDataset(path, use_labels=True)).of(mirrored, 1)[0].distance > 0.1
    (found,) = TrainingImages(ImageDataset(path, use_labels=True, xflip=True)).of(mirrored, 1)
    assert found.mirrored and found.index == 4 and found.distance == 0 and np.array_equal(found.image, mirrored[0])


def test_large_classes_are_reduced_not_refused(path, images, monkeypatch):
    from gantransfer.metrics import neighbours

    monkeypatch.setattr(neighbours, "MOST", 4 * 16)
    training = TrainingImages(ImageDataset(path, use_labels=True))
    assert training.of(images[4:5, None], 1)[0].index == 4 and training._class(1)[1].shape == (4, 16)


def test_the_training_set_is_the_recorded_selection(path):
    whole = ImageDataset(path, use_labels=True)
    held = ImageDataset(path, use_labels=True, max_size=5, seed=4, xflip=True)
    again = training_dataset(held.spec)
    assert [again.get_details(k) for k in range(10)] == [held.get_details(k) for k in range(10)]
    assert again.spec == held.spec and training_dataset(whole.spec).spec == whole.spec
