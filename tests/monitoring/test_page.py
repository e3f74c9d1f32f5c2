"""The page in a real browser: it shows what the daemon says, switches policies where it may, and survives a restart."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from daemon.clock import NANO
from tests.daemon.serving import Daemon, configuration, free_port, running
from tests.monitoring.conftest import PATIENCE_SECONDS, POLICIES, eventually, families, value

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from playwright.sync_api import Browser, Page

REQUESTS = 30
# What the page shows, as numbers, with the moment of the sample that they are from.
SHOWN = """() => {
  const data = (selector, name, value) =>
    Object.fromEntries([...document.querySelectorAll(selector)].map((each) => [each.dataset[name], value(each)]));
  return {
    sample: Number(document.body.dataset.sample),
    window: Number(document.getElementById("window").dataset.value),
    limit: Number(document.getElementById("window-note").dataset.value),
    points: data("[data-point]", "point", (row) => Number(row.lastChild.dataset.value)),
    energies: data("[data-energy]", "energy", (row) => [Number(row.dataset.finals), Number(row.dataset.joules)]),
    devices: data("[data-device]", "device", (row) => [
      row.dataset.health, Number(row.querySelector("[data-joules]").dataset.joules)]),
    text: document.body.innerText,
  };
}"""


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Open a tab that complains of nothing and asks nobody but the daemon."""
    context = browser.new_context()
    context.set_default_timeout(PATIENCE_SECONDS * 1000)
    tab = context.new_page()
    complaints: list[str] = []
    hosts: set[str] = set()
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: hosts.add(request.url.split("/")[2].split(":")[0]))
    yield tab
    context.close()
    assert complaints == []
    assert hosts == {"127.0.0.1"}


def show(page: Page, base: str) -> None:
    """Open the page and wait for the first figures."""
    page.goto(base)
    page.wait_for_selector("body[data-sample]")


def point_name(labels: dict[str, str]) -> str:
    """Write the labels of a metric as the page names the operating point."""
    margin = f", margin {labels['margin']}" if labels["margin"] != "0" else ""
    steps = f", {labels['steps']} steps{margin}" if labels["variant"] == "snn" else ""
    return f"{labels['model']}/{labels['variant']} on {labels['device']}{steps}"


def test_the_page_shows_the_numbers_of_the_metrics(
    page: Page, daemon: Daemon, base: str, image: NDArray[np.uint8]
) -> None:
    """Counts, joules, budget and health on the page are those that a scrape of the same second gives."""
    show(page, base)
    for _ in range(REQUESTS):
        daemon.classify(image)
    requests = "jouled_requests"
    total = value(families(base), requests, f"{requests}_total", status="ok")

    def same_second() -> tuple[dict[str, Any], dict[str, Any]] | None:
        before: dict[str, Any] = page.evaluate(SHOWN)
        scraped = families(base)
        moment = value(scraped, "jouled_sample_timestamp_seconds", "jouled_sample_timestamp_seconds")
        finals = value(scraped, "jouled_request_energy_joules", "jouled_request_energy_joules_count")
        counts = sum(before["points"].values()), sum(each[0] for each in before["energies"].values()), finals
        same = before["sample"] == moment and set(counts) == {total}
        return (before, scraped) if same else None

    shown, scraped = eventually(same_second)
    assert shown["points"] == {
        point_name(each.labels): each.value for each in scraped[requests].samples if each.labels["status"] == "ok"
    }
    for name, (finals, joules) in shown["energies"].items():
        variant, device = name.split("/")[1].split(" on ")
        family, labels = "jouled_request_energy_joules", {"variant": variant, "device": device}
        assert finals == value(scraped, family, f"{family}_count", **labels)
        assert joules == pytest.approx(value(scraped, family, f"{family}_sum", **labels), rel=1e-9)
    assert shown["energies"]
    family = "jouled_device_energy_joules"
    for name, (health, joules) in shown["devices"].items():
        assert joules == pytest.approx(value(scraped, family, f"{family}_total", device=name), abs=1e-9)
        labels = {"device": name, "jouled_device_health": health}
        assert value(scraped, "jouled_device_health", "jouled_device_health", **labels) == 1.0
    assert set(shown["devices"]) == {"cpu", "loihi-sim", "ncs2-sim"}
    assert shown["window"] == value(scraped, "jouled_budget_window_joules", "jouled_budget_window_joules")
    assert shown["limit"] == value(scraped, "jouled_budget_limit_joules", "jouled_budget_limit_joules")
    assert f"{total:.0f} since the start" in shown["text"]


def test_the_latest_request_has_its_final_joules(
    page: Page, daemon: Daemon, base: str, image: NDArray[np.uint8]
) -> None:
    """The row of a request shows the figure that the journal calls final."""
    show(page, base)
    number = daemon.classify(image).request_id
    row = page.wait_for_selector(f"[data-request='{number}']")
    assert row is not None
    from protos import jouled_pb2 as pb

    energy = daemon.control.RequestEnergy(pb.RequestEnergyRequest(request_id=number)).energy
    assert energy.state == "final"
    assert row.get_attribute("data-nanojoules") == str(energy.dynamic_nanojoules)
    assert energy.provenance in row.inner_text()


def test_the_page_follows_a_policy_switch(page: Page, controlled: Daemon, controlled_base: str) -> None:
    """Two seconds after a switch at the latest the page shows the policy in force, and tells of the event."""
    daemon, base = controlled, controlled_base
    show(page, base)
    for policy in ("frugal", "nothing", "accurate"):
        daemon.set_policy(policy)
        page.wait_for_selector(f"body[data-policy='{policy}']", timeout=2000)
        pressed = page.locator("#policies [aria-pressed='true']")
        assert pressed.get_attribute("data-policy") == policy
    assert "policy accurate is in force, before it was nothing" in page.locator("#events").inner_text()


def test_the_page_switches_policies_by_keyboard(page: Page, controlled: Daemon, controlled_base: str) -> None:
    """The keys alone lead from the address to the switch, and the focus stays on it."""
    daemon, base = controlled, controlled_base
    show(page, base)
    focused = "document.activeElement.dataset.policy ?? document.activeElement.className"
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "skip"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "frugal"
    page.keyboard.press("Enter")
    page.wait_for_selector("body[data-policy='frugal']", timeout=2000)
    assert daemon.status().policy == "frugal"
    assert page.evaluate(focused) == "frugal"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")
    page.wait_for_selector("body[data-policy='accurate']", timeout=2000)
    assert daemon.status().policy == "accurate"


def test_without_control_the_page_only_shows(page: Page, daemon: Daemon, base: str) -> None:
    """The buttons are dead, and so is what is behind them."""
    show(page, base)
    assert page.locator("#policies button:disabled").count() == 3
    assert "--page-control" in page.locator("#locked").inner_text()
    status = page.evaluate(
        "fetch('policy', {method: 'POST', headers: {'Content-Type': 'application/json'}, "
        "body: JSON.stringify({policy: 'frugal'})}).then((answer) => answer.status)"
    )
    assert (status, daemon.status().policy) == (403, "accurate")


def test_the_page_survives_a_restart(page: Page, image: NDArray[np.uint8], tmp_path: Path) -> None:
    """It says that nobody answers, finds the next daemon by itself, and goes on with its figures."""
    address = f"127.0.0.1:{free_port()}"
    config = configuration(f'[metrics]\naddress = "{address}"\n{POLICIES}', start="frugal")
    with running(config, state=tmp_path) as first:
        show(page, f"http://{address}")
        page.evaluate("document.body.dataset.mark = 'not loaded again'")
        first.classify(image)
    page.wait_for_selector("#link.lost")
    with running(config.replace('"frugal"', '"accurate"', 1), state=tmp_path) as second:
        page.wait_for_selector("#link.live")
        page.wait_for_selector("body[data-policy='accurate']")
        number = second.classify(image).request_id
        page.wait_for_selector(f"[data-request='{number}']")
        assert page.evaluate("document.body.dataset.mark") == "not loaded again"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 360, 768, 1440])
def test_the_page_fits(
    browser: Browser, daemon: Daemon, base: str, image: NDArray[np.uint8], scheme: Any, width: int
) -> None:
    """Nothing is wider than the window, no table scrolls sideways, and the ground follows what the user prefers."""
    replies = [daemon.classify(image), daemon.classify(image, max_energy_joules=1e-3)]
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
    tab = context.new_page()
    show(tab, base)
    for reply in replies:
        row = tab.wait_for_selector(f"[data-request='{reply.request_id}']")
        assert row is not None
        assert all(told in row.inner_text() for told in ("ok", f"digits/{reply.variant}", reply.energy.provenance))
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate(
        "[...document.querySelectorAll('.scroll')].map((each) => each.scrollWidth - each.clientWidth)"
    ) == [0, 0]
    red = int(tab.evaluate("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0])
    assert (red > 128) == (scheme == "light")
    assert tab.locator("#power-chart canvas").count() == 1
    context.close()


def test_the_page_tells_why_a_policy_is_refused(page: Page, controlled_base: str) -> None:
    """What the daemon answers stands on the page."""
    show(page, controlled_base)
    page.route("**/policy", lambda route: route.continue_(post_data=json.dumps({"policy": "frugl"})))
    page.locator("[data-policy='frugal']").click()
    page.wait_for_selector("#notice:not([hidden])")
    assert "no policy 'frugl'; did you mean 'frugal'?" in page.locator("#notice").inner_text()


def test_joules_of_the_page_are_those_of_the_command(
    page: Page, daemon: Daemon, base: str, image: NDArray[np.uint8]
) -> None:
    """Energy of a variant on the page is what the journal sums up for it."""
    show(page, base)
    daemon.classify(image, max_energy_joules=1e-3)
    rows = [row for row in daemon.rows() if row.status == "ok" and row.variant == "snn"]
    joules = sum(row.dynamic_nanojoules for row in rows) / NANO

    def shown() -> float | None:
        energies: dict[str, list[float]] = page.evaluate(SHOWN)["energies"]
        found = sum(each[1] for name, each in energies.items() if "/snn" in name)
        return found if found == pytest.approx(joules, rel=1e-9) else None

    assert eventually(shown) > 0
