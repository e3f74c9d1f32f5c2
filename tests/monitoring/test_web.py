"""Who may ask what of the HTTP server."""

from __future__ import annotations

import http.client
import socket

import pytest

from daemon.web import STREAMS_LIMIT
from tests.daemon.serving import CALL_SECONDS, Daemon, configuration, free_port, places, refuses_to_start, running
from tests.monitoring.conftest import POLICIES, eventually

JSON = {"Content-Type": "application/json"}
GOOD = '{"policy": "frugal"}'


def ask(address: str, method: str, path: str, body: str = "", **headers: str) -> tuple[int, str, dict[str, str]]:
    """Send a request; give status, text and headers of the answer."""
    connection = http.client.HTTPConnection(address, timeout=CALL_SECONDS)
    connection.request(method, path, body or None, {name.replace("_", "-"): text for name, text in headers.items()})
    response = connection.getresponse()
    answer = response.status, response.read().decode(), dict(response.getheaders())
    connection.close()
    return answer


@pytest.mark.parametrize(
    ("origin", "content_type", "body", "status", "said"),
    [
        ("", "application/json", GOOD, 403, "only the page itself"),
        ("http://evil.example", "application/json", GOOD, 403, "only the page itself"),
        ("null", "application/json", GOOD, 403, "only the page itself"),
        ("own", "text/plain", GOOD, 415, "JSON is wanted"),
        ("own", "application/json", "{", 400, "truncated"),
        ("own", "application/json", '{"policy": 7}', 400, "Expected `str`"),
        ("own", "application/json", '{"policy": "frugl"}', 409, "did you mean 'frugal'?"),
        ("own", "application/json", f'{{"policy": "{"x" * 5000}"}}', 413, ""),
    ],
)
def test_what_does_not_come_from_the_page_switches_nothing(
    controlled: Daemon, controlled_base: str, origin: str, content_type: str, body: str, status: int, said: str
) -> None:
    """Another site's form or script is refused, and so is what is no policy."""
    daemon, address = controlled, controlled_base.removeprefix("http://")
    headers = {"Content_Type": content_type}
    if origin:
        headers["Origin"] = f"http://{address}" if origin == "own" else origin
    found, text, _ = ask(address, "POST", "/policy", body, **headers)
    assert found == status
    assert said in text
    assert daemon.status().policy == "accurate"


def test_the_page_switches(controlled: Daemon, controlled_base: str) -> None:
    """With its own origin the policy is in force when the answer is there, and the log says who did it."""
    daemon, address = controlled, controlled_base.removeprefix("http://")
    status, _, _ = ask(address, "POST", "/policy", GOOD, Content_Type="application/json", Origin=f"http://{address}")
    assert (status, daemon.status().policy) == (204, "frugal")
    assert any("policy switched" in line and "on the page" in line for line in daemon.log)
    daemon.set_policy("accurate")


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css", "/uPlot.iife.min.js", "/metrics"])
def test_every_answer_forbids_what_the_page_does_not_need(controlled_base: str, path: str) -> None:
    """No script but its own, in nobody's frame, no guessing of types."""
    status, _, headers = ask(controlled_base.removeprefix("http://"), "GET", path)
    assert status == 200
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Server"] == "jouled"


@pytest.mark.parametrize("path", ["/../config.py", "/%2e%2e/config.py", "/uPlot.LICENSE", "/page", "/etc/passwd"])
def test_only_the_page_is_served(controlled_base: str, path: str) -> None:
    """There is no way out of the folder, and nothing else in it."""
    assert ask(controlled_base.removeprefix("http://"), "GET", path)[0] == 404


def test_without_the_page_there_are_only_metrics() -> None:
    """The configuration turns it off."""
    address = f"127.0.0.1:{free_port()}"
    config = configuration(f'[metrics]\naddress = "{address}"\npage = false\n{POLICIES}', start="accurate")
    with running(config):
        found = {path: ask(address, "GET", path)[0] for path in ("/metrics", "/", "/events", "/page.js")}
    assert found == {"/metrics": 200, "/": 404, "/events": 404, "/page.js": 404}


def test_a_taken_address_is_named() -> None:
    """Two daemons do not share it: the second one says which and ends."""
    with socket.socket() as taken, places() as place:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = refuses_to_start(configuration(f'[metrics]\naddress = "{address}"\n{POLICIES}', start="accurate"), place)
    assert said == f"jouled: metrics: {address}: cannot be bound: Address already in use"


def test_pages_beyond_the_limit_are_refused(controlled_base: str) -> None:
    """Each open page costs something: one too many is told so, and one that leaves makes room."""
    address = controlled_base.removeprefix("http://")
    host, port = address.split(":")
    opened = []
    for _ in range(STREAMS_LIMIT):
        stream = socket.create_connection((host, int(port)), CALL_SECONDS)
        stream.sendall(f"GET /events HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
        assert b"200 OK" in stream.recv(100)
        opened.append(stream)
    assert ask(address, "GET", "/events")[0] == 503
    for stream in opened:
        stream.close()

    def room() -> bool | None:
        stream = socket.create_connection((host, int(port)), CALL_SECONDS)
        stream.sendall(f"GET /events HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
        with stream:
            return b"200 OK" in stream.recv(100) or None

    assert eventually(room)
