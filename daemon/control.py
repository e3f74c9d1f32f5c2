"""The operator's service: `jouled.v1.Control`, on its own Unix socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict

import grpc

from daemon import logs
from daemon.attribution import Final
from daemon.classifier import energy_report
from daemon.clock import NANO, Clock
from daemon.dispatcher import Dispatcher
from daemon.errors import InvalidRequest, NotFound
from daemon.http2.call import Call
from daemon.http2.refused import Refused
from daemon.journal import Journal
from daemon.journal_store import RequestRow
from daemon.journal_sums import EVER, FINAL, SummaryRow
from daemon.ledger import split_row_id
from daemon.metering import Metering
from daemon.model_control import ModelControl
from daemon.points import Model, Point
from daemon.power import Supply
from daemon.reload import Reload
from daemon.version import VERSION
from hal.names import near
from hal.open import simulated_by
from protos import jouled_pb2 as pb
from protos import jouled_pb2_grpc


class Control(jouled_pb2_grpc.ControlServicer):
    """Shows the daemon's state and switches policies."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        journal: Journal,
        metering: Metering,
        models: ModelControl,
        reload: Reload,
        clock: Clock,
    ) -> None:
        self._dispatcher = dispatcher
        self._metering = metering
        self._journal = journal
        self.models = models
        self._reload = reload
        self._clock = clock
        self._started = clock()

    async def Status(self, request: pb.StatusRequest, call: Call) -> pb.StatusReply:  # noqa: N802
        """Tell the policy in force, the budget and how the journal fares."""
        now, budget = self._clock(), self._dispatcher.budget
        return pb.StatusReply(
            version=VERSION,
            policy=self._dispatcher.router.name,
            uptime_seconds=(now - self._started) / NANO,
            budget=pb.BudgetState(
                window_seconds=budget.limit.window_nanoseconds / NANO,
                limit_nanojoules=budget.limit.nanojoules,
                static_nanojoules=budget.static_nanojoules,
                spent_nanojoules=budget.spent_nanojoules(now),
                reserved_nanojoules=budget.reserved_nanojoules,
            ),
            journal_gaps=self._journal.gaps,
            meters=[pb.MeterState(**meter._asdict()) for meter in self._metering.states],
            budget_overruns=self._dispatcher.settlement.overruns,
        )

    async def Devices(self, request: pb.DevicesRequest, call: Call) -> pb.DevicesReply:  # noqa: N802
        """List the devices."""
        fleet, now = self._dispatcher.fleet, self._clock()
        points = fleet.points()
        meters = self._metering.states
        reply = pb.DevicesReply(frontier=self._metering.choice.reasons)
        for lane in fleet.lanes.values():
            supply = self._dispatcher.power.supplies[lane.name]
            programs = {
                f"{point.model}/{point.version}/{point.variant}" for point in points if point.device == lane.name
            }
            reply.devices.add(
                name=lane.name,
                driver=lane.config.driver,
                simulated=simulated_by(lane.config.driver),
                health="shed" if lane.shed else lane.state.value,
                static_watts=lane.static_watts,
                queued=lane.queued,
                programs=sorted(programs),
                detail=str(lane.health.failure) if lane.health.failure else "",
                health_seconds=(now - lane.health.since) / NANO,
                telemetry=lane.telemetry,
                fallback_of=fleet.principals.get(lane.name, ""),
                power=supply.state.value,
                break_even_seconds=supply.break_even_nanoseconds / NANO if supply.reopening else 0.0,
                meters=[meter.name for meter in meters if lane.name in meter.devices],
                powered_watts=supply.watts,
                **_reopening(supply),
            )
        return reply

    async def Models(self, request: pb.ModelsRequest, call: Call) -> pb.ModelsReply:  # noqa: N802
        """List the models with their operating points, and what was refused."""
        reply = pb.ModelsReply(models=[_model(model) for model in self._dispatcher.fleet.versions()])
        if self.models.refused:
            reply.models.add(problems=[str(refused) for refused in self.models.refused])
        return reply

    async def LoadModel(self, request: pb.LoadModelRequest, call: Call) -> pb.LoadModelReply:  # noqa: N802
        """Serve a model as the repository has it now."""
        await self.models.load(request.name)
        versions = self._dispatcher.fleet.models.get(request.name, {})
        return pb.LoadModelReply(models=[_model(model) for model in versions.values()])

    async def UnloadModel(self, request: pb.UnloadModelRequest, call: Call) -> pb.UnloadModelReply:  # noqa: N802
        """Take a model off the devices."""
        await self.models.unload(request.name)
        return pb.UnloadModelReply()

    async def Policies(self, request: pb.PoliciesRequest, call: Call) -> pb.PoliciesReply:  # noqa: N802
        """List the policies."""
        reply = pb.PoliciesReply()
        for name, policy in self._dispatcher.policies.items():
            reply.policies.add(
                name=name,
                strategy=policy.strategy,
                budget_watts=policy.budget_watts,
                window_seconds=policy.window_seconds,
                min_accuracy=policy.min_accuracy,
                pin=policy.pin,
                in_force=name == self._dispatcher.router.name,
                power_down=policy.power_down,
            )
        return reply

    async def SetPolicy(self, request: pb.SetPolicyRequest, call: Call) -> pb.SetPolicyReply:  # noqa: N802
        """Put a policy in force."""
        return pb.SetPolicyReply(previous=self._dispatcher.set_policy(request.name))

    async def SetLogLevel(  # noqa: N802
        self, request: pb.SetLogLevelRequest, call: Call
    ) -> pb.SetLogLevelReply:
        """Log from another level on."""
        if request.level not in logs.LEVELS:
            known = near(request.level, logs.LEVELS)
            raise InvalidRequest("level", f"unknown level {request.level!r}{known}")
        previous, logs.threshold.level = logs.threshold.level, request.level
        return pb.SetLogLevelReply(previous=previous)

    async def Reload(self, request: pb.ReloadRequest, call: Call) -> pb.ReloadReply:  # noqa: N802
        """Read the configuration again."""
        done = await self._reload()
        return pb.ReloadReply(policy=self._dispatcher.router.name, **done._asdict())

    async def EnergySummary(  # noqa: N802
        self, request: pb.EnergySummaryRequest, call: Call
    ) -> pb.EnergySummaryReply:
        """Sum what requests cost, those that have just ended as well."""
        if request.step_nanoseconds and request.step_nanoseconds < NANO:
            wrong = f"{request.step_nanoseconds} is neither 0 nor a second at least"
            raise InvalidRequest("step_nanoseconds", wrong)
        await self._metering.sample()
        await asyncio.to_thread(self._journal.move)
        since, until = request.since_unix_nanoseconds, request.until_unix_nanoseconds or EVER
        rows = await asyncio.to_thread(self._journal.store.summary, since, until, request.step_nanoseconds)
        return pb.EnergySummaryReply(rows=[_row(row) for row in rows])

    async def RequestEnergy(  # noqa: N802
        self, request: pb.RequestEnergyRequest, call: Call
    ) -> pb.RequestEnergyReply:
        """Look one request up, even one that has just ended."""
        await self._metering.sample()
        await asyncio.to_thread(self._journal.move)
        row = await asyncio.to_thread(self._journal.store.request, request.request_id)
        if row is None:
            raise NotFound(await asyncio.to_thread(self._journal.why_missing, request.request_id))
        return pb.RequestEnergyReply(
            row=_request(row),
            energy=energy_report(row.energy),
            accepted_unix_nanoseconds=row.accepted_unix,
            failed=[energy_report(energy) for energy in row.failed],
        )

    async def EnergyStream(  # noqa: N802
        self, request: pb.EnergyStreamRequest, call: Call
    ) -> AsyncIterator[pb.FinalEnergy]:
        """Tell final figures as they become known, until the daemon drains."""
        with self._metering.feed.reading() as finals:
            async for final in finals:
                yield _final(final)
        if finals.overrun:
            raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "figures became final faster than they were read")

    async def end_streams(self) -> None:
        """End the streams with what became final by now: they would hold up the drain."""
        await self._metering.sample()
        self._metering.feed.end()


def _reopening(supply: Supply) -> dict[str, float]:
    """Tell what powering a device up costs, nothing of one that always stays on."""
    cost = supply.reopening
    if cost is None:
        return {}
    return {
        "reopening_joules": cost.dynamic_joules,
        "reopening_upper_joules": cost.upper_joules,
        "reopening_seconds": cost.seconds,
    }


def _model(model: Model) -> pb.ModelState:
    return pb.ModelState(
        name=model.name,
        version=model.version,
        points=[_point(point) for point in model.points],
        problems=model.problems,
    )


def _point(point: Point) -> pb.PointState:
    return pb.PointState(
        variant=point.variant,
        device=point.device,
        steps=point.steps,
        margin=point.margin,
        accuracy=point.accuracy,
        dynamic_joules=point.dynamic_nanojoules / NANO,
        upper_joules=point.upper_nanojoules / NANO,
        seconds=point.seconds,
        provenance=point.provenance,
        artifact_digest=point.digest,
        kind=point.kind.value,
    )


def _row(row: SummaryRow) -> pb.EnergyRow:
    return pb.EnergyRow(**asdict(row))


def _request(row: RequestRow) -> pb.EnergyRow:
    """Give a request as a summary of itself."""
    final = row.energy.state == FINAL
    return pb.EnergyRow(
        policy=row.policy,
        model=row.model,
        variant=row.variant,
        device=row.device,
        provenance=row.energy.provenance,
        status=row.status,
        requests=1,
        dynamic_nanojoules=row.energy.dynamic_nanojoules if final else 0,
        static_nanojoules=row.energy.static_nanojoules if final else 0,
        device_seconds=row.device_seconds,
        provisional_requests=0 if final else 1,
        provisional_dynamic_nanojoules=row.provisional_dynamic_nanojoules,
        provisional_static_nanojoules=row.provisional_static_nanojoules,
    )


def _final(final: Final) -> pb.FinalEnergy:
    request_id, attempt = split_row_id(final.row_id)
    return pb.FinalEnergy(
        request_id=request_id,
        failed_attempt=attempt,
        energy=pb.EnergyReport(
            dynamic_nanojoules=final.dynamic_nanojoules,
            static_nanojoules=final.static_nanojoules,
            uncertainty_nanojoules=final.uncertainty_nanojoules,
            provenance=final.provenance.value,
            sharing=final.sharing,
            state=FINAL,
        ),
    )
