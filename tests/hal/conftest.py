"""What the tests of devices share: the ways to open one, the hardware that `--hardware` names among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.hal.ways import IN_WORKER, WAYS, open_way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hal.device import Device


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for a `way` in all of them, unless it names its own."""
    named = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "way" in metafunc.fixturenames and "way" not in named:
        hardware = metafunc.config.getoption("--hardware")
        drivers = [driver for driver in hardware.split(",") if driver]
        metafunc.parametrize("way", [*WAYS, *(driver + IN_WORKER for driver in drivers)], scope="module")


@pytest.fixture
def opening() -> Iterator[Callable[[str, str], Device]]:
    """Open devices that are closed with the test."""
    opened: list[Device] = []

    def open_one(way: str, name: str) -> Device:
        opened.append(open_way(way, name))
        return opened[-1]

    yield open_one
    for device in opened:
        device.close()
