"""The operator's commands: status, devices, policies, the level of the log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from daemon.cli.options import CALL_SECONDS, AsJson, Runtime
from daemon.cli.output import as_dict, daemon_errors, fail, joules, print_json, print_table
from daemon.client import control, default_runtime
from hal.names import near
from protos import jouled_pb2 as pb

policy = typer.Typer(no_args_is_help=True, help="Show and switch power-budget policies.")


def status(runtime: Runtime = None, json: AsJson = False) -> None:
    """Show the policy in force and how much of its budget is used."""
    place = runtime or default_runtime()
    with daemon_errors(place):
        reply = control(place).Status(pb.StatusRequest(), timeout=CALL_SECONDS)
    if json:
        print_json(as_dict(reply))
        return
    budget = reply.budget
    window = budget.window_seconds
    print(f"jouled {reply.version}, up {reply.uptime_seconds:.0f} s, policy {reply.policy}")
    print(
        f"budget {joules(budget.limit_nanojoules)} in any {window:g} s: static {joules(budget.static_nanojoules)}, "
        f"spent {joules(budget.spent_nanojoules)}, reserved {joules(budget.reserved_nanojoules)}"
    )
    if reply.journal_gaps:
        print(f"the journal lost {reply.journal_gaps} records")
    if reply.budget_overruns:
        print(f"the meters counted more than the budget allowed, {reply.budget_overruns} times")
    for meter in reply.meters:
        if not meter.up:
            print(f"meter {meter.name} is down, a model stands in for it: {meter.detail}")


def devices(runtime: Runtime = None, json: AsJson = False) -> None:
    """List the devices, their health and what they draw."""
    place = runtime or default_runtime()
    with daemon_errors(place):
        reply = control(place).Devices(pb.DevicesRequest(), timeout=CALL_SECONDS)
    if json:
        print_json(as_dict(reply)["devices"])
        return
    rows = [
        (
            device.name, device.driver, "simulated" if device.simulated else "real", device.health, device.power,
            f"{device.static_watts:.3f}", device.queued, ", ".join(device.programs), _remarks(device),
        )
        for device in reply.devices
    ]  # fmt: skip
    columns = ("device", "driver", "kind", "health", "power", "static [W]", "queued", "programs", "detail")
    print_table("devices", columns, rows)
    for reason in reply.frontier:
        print(reason)


def _remarks(device: pb.DeviceState) -> str:
    """Say what else there is to say of a device: why it is not up, whom it stands in for, what it tells of itself."""
    stands_in = [f"stands in for {device.fallback_of}"] if device.fallback_of else []
    told = [f"{name} {value:g}" for name, value in sorted(device.telemetry.items())]
    return ", ".join([*([device.detail] if device.detail else []), *stands_in, *told])


def log_level(
    level: Annotated[str, typer.Argument(help="debug, info, warning or error.")],
    runtime: Runtime = None,
    json: AsJson = False,
) -> None:
    """Let the daemon log from this level on, until it ends."""
    place = runtime or default_runtime()
    with daemon_errors(place):
        reply = control(place).SetLogLevel(pb.SetLogLevelRequest(level=level), timeout=CALL_SECONDS)
    if json:
        print_json({"level": level, "previous": reply.previous})
    else:
        print(f"log level {level}, before it was {reply.previous}")


@policy.command("list")
def policy_list(runtime: Runtime = None, json: AsJson = False) -> None:
    """List the policies; the one in force is marked."""
    _print_policies(_policies(runtime), json)


@policy.command("show")
def policy_show(
    name: Annotated[str, typer.Argument(help="A policy; the one in force where left out.")] = "",
    runtime: Runtime = None,
    json: AsJson = False,
) -> None:
    """Show one policy."""
    known = _policies(runtime)
    chosen = [each for each in known if each.name == name or (not name and each.in_force)]
    if not chosen:
        fail(f"no policy {name!r}{near(name, [each.name for each in known])}")
    _print_policies(chosen, json)


@policy.command("set")
def policy_set(name: str, runtime: Runtime = None, json: AsJson = False) -> None:
    """Put a policy in force at once."""
    place = runtime or default_runtime()
    with daemon_errors(place):
        reply = control(place).SetPolicy(pb.SetPolicyRequest(name=name), timeout=CALL_SECONDS)
    if json:
        print_json({"policy": name, "previous": reply.previous})
    else:
        print(f"policy {name} is in force, before it was {reply.previous}")


def _policies(runtime: Path | None) -> list[pb.Policy]:
    place = runtime or default_runtime()
    with daemon_errors(place):
        return list(control(place).Policies(pb.PoliciesRequest(), timeout=CALL_SECONDS).policies)


def _print_policies(policies: list[pb.Policy], json: bool) -> None:
    if json:
        print_json([as_dict(each) for each in policies])
        return
    rows = [
        (
            "*" if each.in_force else "", each.name, each.strategy, f"{each.budget_watts:g}",
            f"{each.window_seconds:g}", f"{each.min_accuracy:g}", each.pin, ", ".join(each.power_down),
        )
        for each in policies
    ]  # fmt: skip
    columns = ("", "policy", "strategy", "budget [W]", "window [s]", "least accuracy", "pin", "may be off")
    print_table("policies", columns, rows)
