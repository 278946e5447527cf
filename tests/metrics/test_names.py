# SPDX-License-Identifier: Apache-2.0
"""What values are called for people."""

import pytest

from gantransfer.metrics import names


@pytest.mark.parametrize("metric, key, title", [
    ("report_digits32", "report_digits32_class_fd", "per-class FD"),
    ("report_j0_16", "report_j0_16_accuracy_few", "label accuracy, rare classes"),
    ("report_digits32", "report_digits32_fd_pix64", "pixel FD"), ("fid50k_full", "fid50k_full", "fid50k_full"),
    ("pr50k3_full", "pr50k3_full_precision", "pr50k3_full_precision"), ("fid_shots", "fid_few", "fid_few"),
    ("alae", "psnr", "psnr")])
def test_a_report_has_the_names_of_the_readme_and_others_their_own(metric, key, title):
    assert names.title(metric, key) == title
