# SPDX-License-Identifier: Apache-2.0
"""Teachers and students: published sizes, one interface, small and large images."""

import pytest
import torch

from gantransfer.networks.sizes import ImageSize
from gantransfer.networks.students import Student
from gantransfer.snapshot import NetRecord

# Millions of parameters with 100 classes, as published (CIFAR-100 zoo).
MILLIONS = {
    "resnet8": 0.084, "resnet14": 0.181, "resnet20": 0.278, "resnet32": 0.473, "resnet44": 0.667, "resnet56": 0.862,
    "resnet110": 1.737, "resnet8x4": 1.234, "resnet32x4": 7.434, "resnet18": 11.22, "resnet34": 21.33,
    "resnet50": 23.71, "wrn_16_1": 0.181, "wrn_16_2": 0.703, "wrn_40_1": 0.570, "wrn_40_2": 2.255, "vgg8": 3.965,
    "vgg11": 9.277, "vgg13": 9.462, "vgg16": 14.774, "vgg19": 20.087, "mobilenetv2_half": 0.813,
    "shufflenetv1": 0.949, "shufflenetv2": 1.356, "efficientnet_b0": 3.629, "densenet121": 7.049, "densenet161": 26.68}
# With 10 classes (first version), and regression with its 512-512 head.
CLASSES10 = {"mobilenetv2": 2.297, "vgg11": 9.231, "resnet18": 11.174, "densenet121": 6.956}
REGRESSION = {"resnet20": 0.571, "resnet56": 1.154, "resnet110": 2.029, "resnet8x4": 1.605, "resnet32x4": 7.805,
              "wrn_16_1": 0.473, "wrn_40_1": 0.862, "wrn_40_2": 2.574, "shufflenetv1": 1.611, "shufflenetv2": 2.044}
UNUSED = {"efficientnet_b0": 1088}  # the original makes, and never uses, an expansion of its first block


def millions(net):
    return (sum(p.numel() for p in net.parameters()) + UNUSED.get(net.arch, 0)) / 1e6


@pytest.mark.parametrize("table, kw", [(MILLIONS, dict(outputs=100)), (CLASSES10, dict(outputs=10)),
                                       (REGRESSION, dict(outputs=1, kind="value", head="mlp"))])
def test_sizes_are_the_published_ones(table, kw):
    with torch.device("meta"):
        for arch, published in table.items():
            assert millions(Student(arch, 32, 3, **kw)) == pytest.approx(published, rel=1.5e-3, abs=6e-4), arch


@pytest.mark.parametrize("arch", ["resnet8", "resnet8x4", "resnet50", "wrn_10_1", "vgg8", "mobilenetv2",
                                  "mobilenetv2_half", "shufflenetv1", "shufflenetv2", "efficientnet_b0", "conv4-8",
                                  "pool8-16"])
@pytest.mark.parametrize("resolution, channels", [(16, 1), (32, 3)])
def test_one_interface(arch, resolution, channels):
    torch.manual_seed(0)
    net = Student(arch, resolution, channels, 5, projection=True).eval()
    x = torch.rand(3, channels, resolution, resolution) * 2 - 1
    out = net(x, features=True)
    assert torch.equal(out.logits, net(x)) and out.logits.shape == (3, 5)
    *maps, pooled = out.features
    assert all(m.ndim == 4 for m in maps) and len(maps) >= 2 and pooled.ndim == 2
    assert [m.shape[-1] for m in maps] == sorted((m.shape[-1] for m in maps), reverse=True)
    assert net.project(pooled).shape == pooled.shape
    # What the snapshot keeps rebuilds it.
    again = NetRecord.of(net).build()
    assert torch.equal(again(x), out.logits)


@pytest.mark.parametrize("arch", ["resnet8", "vgg8", "mobilenetv2_half", "conv4-8", "pool8-16"])
def test_images_of_any_size(arch):
    for size in (28, (28, 20), (48, 32)):
        net = Student(arch, size, 1, 5).eval()
        assert NetRecord.of(net).build()(torch.zeros(2, 1, *ImageSize.of(size))).shape == (2, 5)
    with pytest.raises(ValueError, match="pixels"):
        Student(arch, (32, 3), 1, 5)


def test_dense_networks_run():
    net = Student("densenet121", 16, 1, 3).eval()
    with torch.no_grad():
        assert net(torch.zeros(1, 1, 16, 16)).shape == (1, 3)


def test_normalisation_is_stored():
    net = Student("conv4-8", 8, 3, 2, mean=[0.2, 0.4, 0.6], std=[0.1, 0.2, 0.4])
    x = torch.rand(2, 3, 8, 8)
    seen = []
    net.body.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    net(x * 2 - 1)
    expected = (x - torch.tensor([0.2, 0.4, 0.6])[:, None, None]) / torch.tensor([0.1, 0.2, 0.4])[:, None, None]
    assert torch.allclose(seen[0], expected, atol=1e-6)


def test_names():
    for bad in ("resnet21", "wrn_15_2", "conv4-", "conv4-8-8-8-8"):
        with pytest.raises(ValueError):
            Student(bad, 16, 1, 2)
