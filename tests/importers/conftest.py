# SPDX-License-Identifier: Apache-2.0
"""The module that published pickles refer to."""

import sys

import pytest

from tests.importers.pickles import persistence_module


@pytest.fixture
def persistence(monkeypatch):
    module = persistence_module()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module
