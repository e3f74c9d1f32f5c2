"""Take the pictures of docs/page.md: `python -m tests.monitoring.screenshots`, with Chromium (make packages)."""

from __future__ import annotations

import io
import random
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from PIL import Image
from playwright.sync_api import sync_playwright

from daemon.cli.demo import reference_configuration
from models.data import digits
from tests.daemon.serving import Daemon, free_port, running

if TYPE_CHECKING:
    from playwright.sync_api import Page

DOCS = Path(__file__).parents[2] / "docs"
# Seconds under each policy before the pictures are taken.
CHAPTERS = (("balanced", 20), ("generous", 15), ("tight", 20), ("balanced", 12))
RATE = 40.0


def load(daemon: Daemon, ended: threading.Event) -> None:
    """Send held-out digits at random moments until the end."""
    chances, images = random.Random(1), digits.load()[1].images  # noqa: S311 (nobody guesses these)
    number = 0
    while not ended.wait(chances.expovariate(RATE)):
        daemon.classify(images[number % len(images)])
        number += 1


def take(page: Page, name: str) -> None:
    """Write a picture of what the window shows, in few colours and therefore small."""
    picture = Image.open(io.BytesIO(page.screenshot()))
    picture.convert("RGB").quantize(128, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        DOCS / f"page-{name}.png", optimize=True
    )


def main() -> None:
    """Run a daemon through some policies and take its page in light, dark, and as a phone shows it."""
    config = reference_configuration().read_text()
    config = config.replace("127.0.0.1:9464", address := f"127.0.0.1:{free_port()}")
    ended, pause = threading.Event(), threading.Event()
    with running(config.replace("# page_control = false", "page_control = true")) as daemon, sync_playwright() as play:
        threading.Thread(target=load, args=(daemon, ended), daemon=True).start()
        for policy, seconds in CHAPTERS:
            daemon.set_policy(policy)
            pause.wait(seconds)
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for name, scheme, width, height, scale, first in (
            ("light", "light", 1280, 1330, 1, "header"), ("dark", "dark", 1280, 1330, 1, "header"),
            ("phone", "light", 360, 1240, 2, "header"), ("phone-tables", "dark", 360, 1240, 2, "#latest-title"),
        ):  # fmt: skip
            page = browser.new_page(
                color_scheme=cast("Any", scheme), viewport={"width": width, "height": height}, device_scale_factor=scale
            )
            page.goto(f"http://{address}")
            page.wait_for_selector("[data-request]")
            page.locator(first).evaluate("(element) => element.scrollIntoView()")
            take(page, name)
        ended.set()
        browser.close()


if __name__ == "__main__":
    main()
