# SPDX-License-Identifier: Apache-2.0
"""A planted run, for `report`."""

from tests.report.conftest import planted, planted_once  # noqa: F401
