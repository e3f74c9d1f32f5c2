"""The HTTP server of metrics and page, for this host only.

It answers only to the names by which this host calls itself: a page of another site whose name was made to point here
(DNS rebinding) sends its own name and gets nothing. A policy is switched only by the page itself: a browser says where
a request comes from, and asks before it sends JSON from elsewhere.
"""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from daemon.config import MetricsConfig
from daemon.errors import RequestError
from daemon.view import View

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler, Middleware

PAGE = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# Whoever does not read what it asked for is let go after so long, when the daemon ends.
SHUTDOWN_SECONDS = 1.0
BODY_BYTES_LIMIT = 4096
# Each open page holds a connection and costs a message a second.
STREAMS_LIMIT = 32
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "jouled",
    "X-Content-Type-Options": "nosniff",
}


class Switch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the page sends to put a policy in force."""

    policy: str


async def start(config: MetricsConfig, view: View) -> web.AppRunner:
    """Begin to serve; `cleanup` of what this gives ends it. Raises `OSError` when the address cannot be bound."""
    host, _, port = config.address.rpartition(":")
    app = web.Application(middlewares=[_guard({config.address, f"localhost:{port}"})], client_max_size=BODY_BYTES_LIMIT)
    site = _Site(config, view)
    app.router.add_get("/metrics", site.metrics)
    if config.page:
        for file in PAGE.iterdir():
            if file.suffix in TYPES:
                app.router.add_get("/" if file.name == "index.html" else f"/{file.name}", _serve(file))
        app.router.add_get("/events", site.events)
        app.router.add_post("/policy", site.switch)
    app.on_response_prepare.append(_finish)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, host.strip("[]"), int(port)).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner


class _Site:
    def __init__(self, config: MetricsConfig, view: View) -> None:
        self._control = config.page_control
        self._view = view
        self._streams = 0

    async def metrics(self, request: web.Request) -> web.Response:
        """Give the metrics."""
        text, content_type = self._view.exposition.render(request.headers.get("Accept", ""))
        return web.Response(body=text, headers={"Content-Type": content_type})

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Tell the past, then each second the present, until the reader leaves or the daemon drains.

        Who is slow misses samples and gets the newest one.
        """
        if self._streams >= STREAMS_LIMIT:
            raise web.HTTPServiceUnavailable(text=f"{STREAMS_LIMIT} pages are open already\n")
        self._streams += 1
        try:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            control = b"true" if self._control else b"false"
            await response.write(b"retry: 500\nevent: control\ndata: %b\n\n" % control)
            await response.write(b"event: past\ndata: %b\n\n" % self._view.past())
            pulse, told = self._view.pulse, 0.0
            while not pulse.ended:
                present, told = self._view.present(told), pulse.latest.unix_seconds
                await response.write(b"event: present\ndata: %b\n\n" % present)
                await pulse.next()
        except ConnectionError:
            pass
        finally:
            self._streams -= 1
        return response

    async def switch(self, request: web.Request) -> web.Response:
        """Put a policy in force, for the page."""
        if not self._control:
            raise web.HTTPForbidden(text="the configuration does not let the page switch policies\n")
        if request.headers.get("Origin") != f"http://{request.headers['Host']}":
            raise web.HTTPForbidden(text="only the page itself switches policies\n")
        if request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(text="JSON is wanted\n")
        try:
            self._view.switch(msgspec.json.decode(await request.read(), type=Switch).policy)
        except msgspec.DecodeError as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from None
        except RequestError as error:
            raise web.HTTPConflict(text=f"{error}\n") from None
        return web.Response(status=HTTPStatus.NO_CONTENT)


def _serve(file: Path) -> Handler:
    """Give a file of the page, as it was when the daemon started."""
    body, content_type = file.read_bytes(), TYPES[file.suffix]

    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type=content_type, charset="utf-8")

    return handler


def _guard(names: set[str]) -> Middleware:
    """Refuse requests that were meant for another host."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.headers.get("Host", "") not in names:
            raise web.HTTPMisdirectedRequest(text=f"this is {' and '.join(sorted(names))}\n")
        return await handler(request)

    return guard


async def _finish(_: web.Request, response: web.StreamResponse) -> None:
    """Add the headers that every answer has."""
    response.headers.update(HEADERS)
