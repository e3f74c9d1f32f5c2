"""A real Prometheus scrapes the daemon, evaluates the alerts and answers what the dashboard asks."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import urllib.error
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from daemon.clock import NANO
from tests.conftest import program
from tests.daemon.serving import Daemon, free_port
from tests.monitoring.conftest import eventually, fetch, fetch_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

MONITORING = Path(__file__).parents[2] / "systemd" / "monitoring"
DASHBOARD = json.loads((MONITORING / "grafana.json").read_text())
# What Grafana fills in.
VARIABLES = {"$instance": ".*", "$__rate_interval": "10s"}
EXPRESSIONS = [
    *(target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]),
    *(annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]),
]
# It shows nothing as long as nobody switches policies.
QUIET = "changes("


@pytest.mark.parametrize(
    "command",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts.test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_accepts(command: tuple[str, ...]) -> None:
    """The shipped configuration is valid, and each alert fires when it should, and only then."""
    said = subprocess.run([program("promtool"), *command], cwd=MONITORING, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr


def test_promtool_accepts_the_metrics(daemon: Daemon, base: str, image: NDArray[np.uint8]) -> None:
    """Names, units and help keep to the conventions."""
    daemon.classify(image)
    said = subprocess.run(
        [program("promtool"), "check", "metrics"], input=fetch(f"{base}/metrics"), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


@pytest.fixture(scope="module")
def prometheus(base: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run Prometheus with the shipped files, pointed to the shared daemon."""
    folder, address = tmp_path_factory.mktemp("prometheus"), f"127.0.0.1:{free_port()}"
    config = (MONITORING / "prometheus.yml").read_text().replace("127.0.0.1:9464", base.removeprefix("http://"))
    (folder / "prometheus.yml").write_text(config.replace(": 5s", ": 1s"))
    (folder / "alerts.yml").write_text((MONITORING / "alerts.yml").read_text())
    command = [
        program("prometheus"), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}", "--enable-feature=exemplar-storage", "--log.level=warn",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stderr=log)
    try:
        eventually(lambda: _ready(f"http://{address}/-/ready"))
        yield f"http://{address}/api/v1"
    finally:
        server.terminate()
        server.wait()


def _ready(url: str) -> str | None:
    with contextlib.suppress(urllib.error.URLError):
        return fetch(url)
    return None


def ask(prometheus: str, expression: str) -> list[Any]:
    """Evaluate an expression now."""
    for name, replacement in VARIABLES.items():
        expression = expression.replace(name, replacement)
    answer = fetch_json(f"{prometheus}/query?{urllib.parse.urlencode({'query': expression})}")
    assert answer["status"] == "success"
    rows: list[Any] = answer["data"]["result"]
    return rows


def test_energy_in_prometheus_is_that_of_the_journal(daemon: Daemon, prometheus: str, image: NDArray[np.uint8]) -> None:
    """What Prometheus stored of the requests' joules is what the journal sums up."""
    for _ in range(10):
        daemon.classify(image)
    rows = [row for row in daemon.rows() if row.status == "ok"]
    joules = sum(row.dynamic_nanojoules for row in rows) / NANO

    def stored() -> float | None:
        found = ask(prometheus, "sum(jouled_request_energy_joules_sum)")
        reached = float(found[0]["value"][1]) if found else 0.0
        return reached if reached >= joules * (1 - 1e-9) else None

    assert eventually(stored) == pytest.approx(joules, rel=1e-9)


def test_exemplars_arrive(daemon: Daemon, prometheus: str, image: NDArray[np.uint8]) -> None:
    """Prometheus keeps the number of a request beside the bucket that it fell into."""
    daemon.classify(image)
    asked = {"query": "jouled_request_duration_seconds_bucket", "start": "0", "end": "9e9"}

    def exemplars() -> list[Any] | None:
        answer = fetch_json(f"{prometheus}/query_exemplars?{urllib.parse.urlencode(asked)}")
        return [each for series in answer["data"] for each in series["exemplars"]] or None

    assert all(int(each["labels"]["request_id"]) > 0 for each in eventually(exemplars))


def test_alerts_are_loaded_and_quiet(prometheus: str) -> None:
    """Prometheus evaluates every alert without an error, and none fires for a daemon that fares well."""

    def evaluated() -> list[Any] | None:
        (group,) = fetch_json(f"{prometheus}/rules")["data"]["groups"]
        rules: list[Any] = group["rules"]
        return rules if all(rule["health"] != "unknown" for rule in rules) else None

    rules = eventually(evaluated)
    assert {rule["health"] for rule in rules} == {"ok"}
    assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_the_dashboard_shows_something(
    daemon: Daemon, prometheus: str, image: NDArray[np.uint8], expression: str
) -> None:
    """Every expression of the dashboard is valid and finds series of the daemon."""
    if QUIET in expression:
        assert ask(prometheus, expression) == []
        return

    def rows() -> list[Any] | None:
        daemon.classify(image)
        with pytest.raises(grpc.RpcError):
            daemon.classify(image, min_accuracy=1.0)
        return ask(prometheus, expression) or None

    assert eventually(rows)


def test_the_dashboard_fits_together() -> None:
    """Panels have numbers of their own, lie side by side, and refer to variables that exist."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    known = {variable["name"] for variable in DASHBOARD["templating"]["list"]} | {"__rate_interval", "__all"}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD))) <= known
