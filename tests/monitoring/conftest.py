"""What the tests of metrics and the page share: a daemon that serves them, and patience."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import tomllib
import urllib.request
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from prometheus_client.openmetrics import parser

from models.data import digits
from tests.daemon.serving import Daemon, configuration, free_port, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray
    from prometheus_client import Metric

parse: Callable[[str], Iterator[Metric]] = parser.text_string_to_metric_families
T = TypeVar("T")
PATIENCE_SECONDS = 60.0
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
POLICIES = """
[policy.accurate]
strategy = "accuracy"
budget_watts = 100.0
[policy.frugal]
strategy = "saver"
budget_watts = 50.0
[policy.nothing]
strategy = "saver"
budget_watts = 0.0
"""


def eventually(look: Callable[[], T | None], seconds: float = PATIENCE_SECONDS) -> T:
    """Look again and again until there is something to see, and give it."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while (seen := look()) is None:
        assert time.monotonic() < deadline, f"nothing to see within {seconds} s"
        pause.wait(0.05)
    return seen


def fetch(url: str, **headers: str) -> str:
    """Get a page of this host."""
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 (an address of the tests' own)
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as response:  # noqa: S310
        return str(response.read().decode())


def fetch_json(url: str) -> Any:
    """Get JSON of this host."""
    return json.loads(fetch(url))


def families(base: str) -> dict[str, Metric]:
    """Scrape a daemon, as a strict reader of OpenMetrics does."""
    text = fetch(f"{base}/metrics", Accept=OPEN_METRICS)
    return {family.name: family for family in parse(text)}


def value(scraped: dict[str, Metric], family: str, sample: str, **labels: str) -> float:
    """Add up the samples of a family that have these labels."""
    return sum(
        each.value for each in scraped[family].samples if each.name == sample and labels.items() <= each.labels.items()
    )


def serving(control: bool) -> contextlib.AbstractContextManager[Daemon]:
    """Run a daemon with metrics and page."""
    metrics = f'[metrics]\naddress = "127.0.0.1:{free_port()}"\npage_control = {str(control).lower()}\n'
    return running(configuration(metrics + POLICIES, start="accurate"))


def address_of(daemon: Daemon) -> str:
    """Give the address at which a daemon serves metrics and page."""
    config = tomllib.loads((daemon.places.folder / "jouled.toml").read_text())
    return f"http://{config['metrics']['address']}"


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    """Run one daemon for the tests that leave it as it is."""
    with serving(control=False) as shared:
        yield shared


@pytest.fixture(scope="session")
def base(daemon: Daemon) -> str:
    """Give the address of the shared daemon."""
    return address_of(daemon)


@pytest.fixture(scope="session")
def controlled() -> Iterator[Daemon]:
    """Run a daemon whose page may switch policies."""
    with serving(control=True) as shared:
        yield shared


@pytest.fixture(scope="session")
def controlled_base(controlled: Daemon) -> str:
    """Give the address of the daemon whose page may switch policies."""
    return address_of(controlled)


@pytest.fixture(scope="session")
def image() -> NDArray[np.uint8]:
    """Give a digit."""
    first: NDArray[np.uint8] = digits.load()[1].images[0]
    return first
