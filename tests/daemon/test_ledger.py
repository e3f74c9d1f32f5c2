"""A request's joules are whole nanojoules, and those of a batch add up."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from daemon.clock import NANO
from daemon.ledger import Energy, provisional
from hal.device import Inference
from tests.daemon.builders import make_point


def _inference(images: int, joules: float, seconds: float = 0.5) -> Inference:
    return Inference(np.zeros((images, 2), np.float32), 4, seconds, joules, joules / 4, 0.0)


def test_alone() -> None:
    """All of a batch of its own is the request's, with the labels of its operating point."""
    energy = provisional(make_point(), _inference(3, 8e-9), 0.5, 0, 3)
    assert energy == Energy(8, NANO // 4, 2, "simulated", "accelerator", "exclusive", "provisional")
    assert energy.total_nanojoules == 8 + NANO // 4


@given(
    st.lists(st.integers(1, 8), min_size=2, max_size=10),
    st.floats(0, 1e-3, allow_subnormal=False),
    st.floats(0, 10),
    st.floats(0, 1),
)
def test_shares_add_up(images: list[int], joules: float, watts: float, seconds: float) -> None:
    """Requests that share a batch get parts by their images, to the nanojoule and without one lost."""
    batch = sum(images)
    inference = _inference(batch, joules, seconds)
    shares = [provisional(make_point(), inference, watts, sum(images[:n]), count) for n, count in enumerate(images)]
    assert sum(share.dynamic_nanojoules for share in shares) == round(joules * NANO)
    assert sum(share.static_nanojoules for share in shares) == round(watts * seconds * NANO)
    assert sum(share.uncertainty_nanojoules for share in shares) == round(joules / 4 * NANO)
    assert all(abs(s.dynamic_nanojoules - joules * NANO * n / batch) <= 2 for s, n in zip(shares, images, strict=True))
    assert {share.sharing for share in shares} == {"shared"}
