"""What the tests of meters share."""

from __future__ import annotations

import pytest

from tests.energy.trees import Time


@pytest.fixture
def time() -> Time:
    """Give a clock that stands still."""
    return Time()
