"""The standard health service: of the daemon and its services, and beyond that of each device and each model.

`device/NAME` is SERVING while requests may go to the device, `model/NAME` while any operating point of any version can
be used. The services themselves are NOT_SERVING when there are models and none can be answered.
"""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer

from daemon.background import repeat
from daemon.fleet import Fleet

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class _Told(Exception):
    """Who watches the health has been told of the drain."""


class Health(HealthServicer):  # type: ignore[misc]
    """The statuses by name. Watches end with the news of the drain, which would wait for them in vain."""

    draining = False

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: N802
        """Tell the status of a service, and each change of it until the drain."""

        async def write(reply: health_pb2.HealthCheckResponse) -> None:
            await context.write(reply)
            if self.draining and reply.status == NOT_SERVING:
                raise _Told

        with suppress(_Told):
            await super().Watch(request, SimpleNamespace(write=write))

    async def follow(self, fleet: Fleet, services: list[str]) -> None:
        """Set the statuses of the services, of devices and of models whenever one changes, for ever.

        A model that was unloaded is not served.
        """
        told: dict[str, bool] = {}

        async def tell() -> None:
            fleet.changed.clear()
            told.update({**dict.fromkeys(told, False), **_statuses(fleet, services)})
            for name, serving in told.items():
                await self.set(name, SERVING if serving else NOT_SERVING)
            await fleet.changed.wait()

        await repeat("health", tell)


def _statuses(fleet: Fleet, services: list[str]) -> dict[str, bool]:
    models = {
        f"model/{name}": any(fleet.serves(model) for model in versions.values())
        for name, versions in fleet.models.items()
    }
    devices = {f"device/{name}": lane.health.usable and not lane.shed for name, lane in fleet.lanes.items()}
    return {**dict.fromkeys(services, any(models.values()) or not models), **models, **devices}
