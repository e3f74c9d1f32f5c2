"""The HTTP server of the metrics, for this host only.

It answers only to the names by which this host calls itself: a page of another site whose name was made to point here
(DNS rebinding) sends its own name and gets nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from daemon.config import MetricsConfig
from daemon.exposition import Observed

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler, Middleware

# Whoever does not read what it asked for is let go after so long, when the daemon ends.
SHUTDOWN_SECONDS = 1.0
BODY_BYTES_LIMIT = 4096
HEADERS = {
    "Cache-Control": "no-cache",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


async def start(config: MetricsConfig, observed: Observed) -> web.AppRunner:
    """Begin to serve; `cleanup` of what this gives ends it. Raises `OSError` when the address cannot be bound."""
    host, _, port = config.address.rpartition(":")
    app = web.Application(middlewares=[_guard({config.address, f"localhost:{port}"})], client_max_size=BODY_BYTES_LIMIT)

    async def metrics(request: web.Request) -> web.Response:
        text, content_type = observed.exposition.render(request.headers.get("Accept", ""))
        return web.Response(body=text, headers={"Content-Type": content_type})

    app.router.add_get("/metrics", metrics)
    app.on_response_prepare.append(_finish)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, host.strip("[]"), int(port)).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner


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
    response.headers["Server"] = "jouled"
