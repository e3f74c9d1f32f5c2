"""Ask for every page elsewhere that the documents link to: `make links`. Those within are checked by `test_links`."""

from __future__ import annotations

import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from tests.repository.test_links import DOCUMENTS, links

LIMIT_SECONDS = 20
# Some servers refuse who does not say what they are.
HEADERS = {"User-Agent": "Mozilla/5.0 (the links of jouled's documents)"}


def elsewhere() -> list[str]:
    """List the links that lead out of the repository, but for those to a daemon of the reader's own."""
    found = {target for document in DOCUMENTS for target in links(document.read_text())}
    return sorted(
        target for target in found if target.startswith(("http://", "https://")) and "127.0.0.1" not in target
    )


def complaint(target: str) -> str:
    """Ask for a page; give what is wrong with it, nothing if it is there."""
    request = urllib.request.Request(target, headers=HEADERS)  # noqa: S310 (its scheme is http or https)
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_SECONDS):  # noqa: S310
            return ""
    except OSError as error:
        return str(error)


def main() -> None:
    """Tell of each link that leads nowhere; the exit status is 1 if there is any."""
    targets = elsewhere()
    with ThreadPoolExecutor(8) as pool:
        wrong = {target: why for target, why in zip(targets, pool.map(complaint, targets), strict=True) if why}
    for target, why in wrong.items():
        print(f"{target}: {why}")
    print(f"{len(targets) - len(wrong)} of {len(targets)} links lead somewhere")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
