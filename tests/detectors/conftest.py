# SPDX-License-Identifier: Apache-2.0
"""The fixtures of metrics, which detectors serve."""

from tests.metrics.conftest import empty_home, no_network, reference  # noqa: F401
