"""The daemon as a process: open everything in order, serve, drain, close in reverse."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import gc
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from daemon import calibration, logs, oip, supervisor
from daemon.background import repeat
from daemon.classifier import Classifier
from daemon.clock import NANO, Clock, boot_id, boot_nanoseconds
from daemon.config import Config, MetricsConfig, Server, TlsConfig
from daemon.control import Control
from daemon.dispatcher import Dispatcher
from daemon.exposition import Exposition
from daemon.fleet import Fleet
from daemon.health_service import SERVING, Health
from daemon.http2.limits import Limits
from daemon.journal import Journal
from daemon.listener import Listener, tls_context
from daemon.load_report import LoadReports
from daemon.metering import open_metering
from daemon.model_control import ModelControl
from daemon.pulse import PULSE_SECONDS, Pulse
from daemon.reach import Unreachable, until_told_or_lost
from daemon.reload import Reload
from daemon.repository import SHIPPED, scan
from daemon.statistics import Statistics
from daemon.streams import Streams
from daemon.tally import Tally
from daemon.triggers import TriggerWatch
from daemon.view import View
from protos import jouled_pb2, jouled_pb2_grpc, orca_service_pb2, orca_service_pb2_grpc

CLASSIFIER = jouled_pb2.DESCRIPTOR.services_by_name["Classifier"].full_name
LOAD_REPORTS = orca_service_pb2.DESCRIPTOR.services_by_name["OpenRcaService"].full_name
CONTROL = jouled_pb2.DESCRIPTOR.services_by_name["Control"].full_name

# Sockets are for their owner and group; the modes of their directories decide who is let in.
SOCKET_UMASK = 0o007
DRAIN_SECONDS = 10.0

log = structlog.get_logger()


@dataclass(frozen=True)
class Places:
    """Where the daemon keeps its journal and its sockets."""

    state: Path
    runtime: Path

    @property
    def inference_socket(self) -> Path:
        """Where local clients connect."""
        return self.runtime / "jouled.sock"

    @property
    def control_socket(self) -> Path:
        """Where the operator connects."""
        return self.runtime / "control" / "control.sock"


class StartError(Exception):
    """The daemon cannot start: the message says why."""


class _Stopped(Exception):
    """The daemon was told to stop before it was ready."""


async def serve(read: Callable[[], Config], places: Places, *, clock: Clock = boot_nanoseconds) -> None:
    """Serve until SIGTERM or SIGINT, then answer what was accepted and close. SIGHUP reloads.

    `read` gives the configuration, at the start and for a reload.

    Raises `ConfigError`, `PolicyRefused`, `JournalError`, `ArtifactError`, `FrontierError` or `StartError` when
    it cannot start, and `Unreachable`, once accepted requests are answered, where clients lost it before it was told.
    """
    config, stop, hangup = read(), asyncio.Event(), asyncio.Event()
    logs.configure(config.log.format, config.log.level)
    for number, event in ((signal.SIGTERM, stop), (signal.SIGINT, stop), (signal.SIGHUP, hangup)):
        asyncio.get_running_loop().add_signal_handler(number, event.set)
    os.umask(SOCKET_UMASK)
    async with AsyncExitStack() as stack:
        stack.enter_context(suppress(_Stopped))
        stack.enter_context(own(places.runtime))
        dispatcher, control, reload, view = await stack.enter_async_context(_core(config, read, places, clock, stop))
        statuses = Health()
        limits = Limits(config.server.message_bytes_limit)
        inference, operator = Listener(limits, config.tls.allow if config.tls else None), Listener(limits)
        streams = Streams()
        reports = LoadReports(dispatcher, clock) if config.server.load_reports else None
        services = _add_services(inference, config.server, dispatcher, control, streams, reports, clock)
        _offer(inference, statuses, services[1:])
        jouled_pb2_grpc.add_ControlServicer_to_server(control, operator)
        _offer(operator, statuses, [CONTROL])
        await statuses.set(CONTROL, SERVING)
        _beside(stack, statuses.follow(dispatcher.fleet, services))
        if config.server.tcp_address:
            _bind(inference, config.server.tcp_address, config.tls)
        _bind_socket(inference, places.inference_socket)
        _bind_socket(operator, places.control_socket)
        if config.metrics.address:
            await stack.enter_async_context(_web(config.metrics, view))
        # What was made until now lives as long as the process: no collection need look at it again.
        gc.freeze()
        inference.start()
        operator.start()
        supervisor.notify(f"READY=1\nSTATUS={_summary(dispatcher, clock)}")
        _beside(stack, supervisor.watch(lambda: _summary(dispatcher, clock)))
        _beside(stack, repeat("reload", partial(reload.when, hangup)))
        log.info("ready", address=config.server.tcp_address, policy=dispatcher.router.name)
        lost = await until_told_or_lost(stop, [inference, operator])
        if lost:
            log.error("clients do not reach the daemon any more", reason=lost)
        supervisor.notify("STOPPING=1")
        log.info("draining")
        statuses.draining = True
        await statuses.enter_graceful_shutdown()
        streams.drain()
        if reports:
            reports.end()
        await inference.stop(DRAIN_SECONDS)
        await control.end_streams()
        view.pulse.end()
        await operator.stop(DRAIN_SECONDS)
        if lost:
            raise Unreachable(lost)
    log.info("stopped")


def _add_services(
    inference: Listener, config: Server, dispatcher: Dispatcher, control: Control, streams: Streams,
    reports: LoadReports | None, clock: Clock,
) -> list[str]:  # fmt: skip
    """Add what clients call; give the names of the services, that of the server as a whole first."""
    statistics = Statistics()
    dispatcher.listeners.append(statistics.ended)
    open_inference = oip.OpenInference(dispatcher, config, control.models, statistics, streams, reports, clock)
    oip.add_to_server(open_inference, inference)
    jouled_pb2_grpc.add_ClassifierServicer_to_server(Classifier(dispatcher, config, streams, reports, clock), inference)
    if reports is None:
        return ["", CLASSIFIER, oip.SERVICE]
    orca_service_pb2_grpc.add_OpenRcaServiceServicer_to_server(reports, inference)
    return ["", CLASSIFIER, oip.SERVICE, LOAD_REPORTS]


def _beside(stack: AsyncExitStack, work: Coroutine[object, object, None]) -> None:
    """Let something go on until the stack is left."""
    stack.callback(asyncio.create_task(work).cancel)


def _summary(dispatcher: Dispatcher, clock: Clock) -> str:
    """Say in a line how the daemon fares."""
    budget, lanes = dispatcher.budget, dispatcher.fleet.lanes.values()
    window = budget.limit.window_nanoseconds
    used = budget.used_nanojoules(clock()) / window
    return (
        f"policy {dispatcher.router.name}, {used:.3g} W of {budget.limit.nanojoules / window:.3g} W over the last "
        f"{window / NANO:g} s, {sum(not lane.lost for lane in lanes)} of {len(lanes)} devices up"
    )


@asynccontextmanager
async def _core(
    config: Config, read: Callable[[], Config], places: Places, clock: Clock, stop: asyncio.Event
) -> AsyncIterator[tuple[Dispatcher, Control, Reload, View]]:
    """Open journal, repository and devices; close them when the servers have stopped."""
    boot = boot_id()
    calibrated = calibration.load(Path(config.calibration), config.device) if config.calibration else calibration.NONE
    _make_folder(places.state)
    journal = Journal(places.state, boot, clock, time.time_ns, config.journal.retention_days)
    try:
        if journal.lost:
            log.warning("requests of a daemon that died are charged in full", requests=journal.lost)
        if journal.unsettled:
            log.warning("figures of a daemon that died stay provisional", requests=journal.unsettled)
        folder = Path(config.repository) if config.repository else SHIPPED
        repository = scan(folder, trusted=config.trusted_keys)
        for refused in repository.refused:
            log.error("artifact refused", artifact=refused.subject, reason=refused.reason)
        fleet = Fleet(config.device, clock, calibrated)
        fleet.register = journal.register
        metering = await open_metering(config.meters, fleet.lanes, journal, clock)
        metering.start()
        supervisor.starting("opening the devices")
        fleet.waits = supervisor.starting
        try:
            await _unless_stopped(stop, fleet.start(repository.artifacts))
            fleet.complete = fleet.complete and not repository.refused
            dispatcher = Dispatcher(fleet, journal, metering, config.policy, config.start_policy, clock, time.time_ns)
            dispatcher.recover(journal.store, boot)
            if journal.set_aside:
                dispatcher.fill()
            tally = Tally(time.time_ns)
            dispatcher.listeners += [tally.ended, logs.ended]
            metering.feed.heard = tally.final
            # What loading took is closed before the first request.
            await metering.sample()
            pulse = Pulse(dispatcher, metering, journal, tally, clock, time.time_ns)
            view = View(pulse, tally, dispatcher, Exposition(pulse, tally, dispatcher, metering))
            models = ModelControl(folder, dispatcher, repository.refused, config.trusted_keys)
            triggers = TriggerWatch(dispatcher.set_policy)
            await triggers.replace(config.trigger, config.start_policy)
            watches = [
                asyncio.create_task(watch)
                for watch in (dispatcher.watch_power(), triggers.watch(), repeat("pulse", pulse.take, PULSE_SECONDS))
            ]
            try:
                reload = Reload(config, read, dispatcher, triggers)
                yield dispatcher, Control(dispatcher, journal, metering, models, reload, clock), reload, view
            finally:
                for watch in watches:
                    watch.cancel()
        finally:
            await fleet.close()
            await metering.close()
    finally:
        journal.close()


async def _unless_stopped(stop: asyncio.Event, starting: Coroutine[Any, Any, None]) -> None:
    """Await what may take minutes, and give it up when the daemon is told to stop. Raises `_Stopped`."""
    start, stopping = asyncio.create_task(starting), asyncio.create_task(stop.wait())
    await asyncio.wait({start, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        log.info("told to stop before it was ready")
        start.cancel()
        await asyncio.wait({start})
        raise _Stopped
    stopping.cancel()
    await start


@asynccontextmanager
async def _web(config: MetricsConfig, view: View) -> AsyncIterator[None]:
    """Serve metrics and page over HTTP. The library is loaded only where they are wanted."""
    from daemon import web

    try:
        runner = await web.start(config, view)
    except OSError as error:
        raise StartError(f"metrics: {config.address}: cannot be bound: {os.strerror(error.errno or 0)}") from None
    place = f"http://{config.address}/"
    log.info("serving over HTTP", page=place if config.page else "", metrics=f"{place}metrics")
    try:
        yield
    finally:
        await runner.cleanup()


def _offer(server: Listener, statuses: Health, services: list[str]) -> None:
    """Add health and reflection for the services."""
    health_pb2_grpc.add_HealthServicer_to_server(statuses, server)
    reflected = reflection.aio.ReflectionServicer(  # type: ignore[attr-defined]
        [*services, health.SERVICE_NAME, reflection.SERVICE_NAME]
    )
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflected, server)


def _bind(server: Listener, address: str, tls: TlsConfig | None) -> None:
    """Bind or say why not. What `tls` is given for is reached by mutual TLS only."""
    try:
        context = tls_context(tls) if tls else None
    except ValueError as error:
        raise StartError(f"tls: {error}") from None
    try:
        server.bind(address, context)
    except OSError as error:
        another = "; is another daemon running?" if error.errno == errno.EADDRINUSE else ""
        raise StartError(f"{address}: cannot be bound: {error.strerror}{another}") from None


def _bind_socket(server: Listener, path: Path) -> None:
    _make_folder(path.parent)
    if len(str(path).encode()) > 107:
        raise StartError(f"{path}: {len(str(path).encode())} bytes exceed the 107 of a Unix socket's path")
    try:
        server.bind_unix(path)
    except OSError as error:
        raise StartError(f"{path}: cannot be bound: {error.strerror}") from None


@contextmanager
def own(folder: Path) -> Iterator[None]:
    """Keep the folder of the sockets to this process: binding would take them from a daemon that serves on them.

    Raises `StartError` when another process has it.
    """
    _make_folder(folder)
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise StartError(f"{error.filename}: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise StartError(f"{folder}: another daemon has its sockets here") from None
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"{folder}: {error.strerror}") from None
