"""What all tests share: the folders of data and vectors, a browser, and `--no-skip`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from playwright.sync_api import Browser


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--no-skip`, for hosts that have all that the tests need, and `--hardware`, for those with a device."""
    parser.addoption("--no-skip", action="store_true", help="count a skipped test as failed, unless marked needs_host")
    parser.addoption("--hardware", default="", help="drivers whose devices are attached, such as loihi,ncs2")
    parser.addoption("--e2e", action="store_true", help="run the tests that boot a container; see make e2e")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what boots a container, unless asked for."""
    return True if collection_path.name == "e2e" and not config.getoption("--e2e") else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under `--no-skip`, let a test fail that skips."""
    report = yield
    expected_to_fail = hasattr(report, "wasxfail")
    if not expected_to_fail and item.get_closest_marker("needs_host") is None:
        _refuse_skip(report, item.config)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Under `--no-skip`, let a module fail that skips as a whole."""
    report = yield
    _refuse_skip(report, collector.config)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport, config: pytest.Config) -> None:
    if report.skipped and config.getoption("--no-skip"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped under --no-skip: {reason}"


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Give the folder of data sets that JOULED_DATA names; the test skips without it."""
    return _folder("JOULED_DATA")


@pytest.fixture(scope="session")
def vectors_folder() -> Path:
    """Give the folder of networks and ground truths that JOULED_VECTORS names; the test skips without it."""
    return _folder("JOULED_VECTORS")


def _folder(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"{variable} names {value}, which is not a folder")
    return folder


def program(name: str) -> str:
    """Find a program that `make packages` installs; the test skips without it."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: make packages")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Run the Chromium of this host, without a window."""
    executable = program("chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # As root, in a container, Chromium has no sandbox of its own.
        chromium = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield chromium
        chromium.close()
