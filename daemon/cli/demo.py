"""`jouled demo`: the main job end to end, on real images, in about a minute."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Annotated, Any

import grpc
import typer
from PIL import Image
from rich.progress import Progress

from daemon.cli.options import AsJson
from daemon.cli.output import daemon_errors, fail, joules, print_json, print_table
from daemon.client import control
from daemon.history import History, read_journal
from daemon.windows import energies_nanojoules, worst_windows
from protos import jouled_pb2 as pb
from protos import jouled_pb2_grpc

POLICIES = ("generous", "balanced", "tight")
MODEL = "digits"
START_SECONDS = 180.0
STOP_SECONDS = 30.0


@dataclass
class Phase:
    """What happened under one policy."""

    policy: pb.Policy
    requests: int = 0
    correct: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    replies: list[pb.ClassifyReply] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def reference_configuration() -> Path:
    """Find the shipped configuration, in an installation or in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "jouled.toml"
    return installed if installed.exists() else package.parent / "systemd" / "jouled.toml"


def demo(
    out: Annotated[Path, typer.Option(help="Where the result is written.")] = Path("demo.json"),
    rate: Annotated[float, typer.Option(min=1, max=200, help="Requests per second.")] = 20.0,
    json: AsJson = False,
) -> None:
    """Classify 360 held-out digits under each of three budgets and show what each answer cost."""
    images, labels = _held_out_digits()
    with tempfile.TemporaryDirectory(prefix="jouled-demo-") as folder:
        place = Path(folder)
        started = time.monotonic()
        with _daemon(place):
            phases, sums = asyncio.run(_drive(place, images, labels, rate))
        history = read_journal(place / "state" / "journal.db")
        result = _result(phases, history, sums, time.monotonic() - started)
    out.write_text(_to_json(result))
    if json:
        print_json(result)
    else:
        _print(result, out)


def _held_out_digits() -> tuple[list[bytes], list[str]]:
    """Give every fifth of the UCI digits as PNG, 8 x 8 pixels, with its label: none of them was trained on."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        fail("the demo needs scikit-learn, which brings the images: pip install 'jouled[demo]'")
    digits = load_digits()
    pictures = (digits.images[::5] * (255 / 16)).round().astype("uint8")
    encoded = []
    for picture in pictures:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    return encoded, [str(label) for label in digits.target[::5]]


@contextlib.contextmanager
def _daemon(place: Path) -> Iterator[None]:
    """Run a daemon of the shipped configuration, with its journal and sockets in `place`."""
    command = [
        sys.executable, "-m", "daemon.cli.main", "serve", "--config", str(reference_configuration()),
        "--tcp-address", "", "--metrics-address", "",
        "--state-directory", str(place / "state"), "--runtime-directory", str(place / "run"),
    ]  # fmt: skip
    log = place / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stderr=stderr, env=dict(os.environ))
    try:
        deadline = time.monotonic() + START_SECONDS
        with daemon_errors(place / "run"):
            channel = grpc.insecure_channel(f"unix:{place / 'run' / 'control' / 'control.sock'}")
            ready = grpc.channel_ready_future(channel)
            while time.monotonic() < deadline and process.poll() is None:
                with contextlib.suppress(grpc.FutureTimeoutError):
                    ready.result(timeout=0.2)
                    break
            else:
                fail(f"the daemon did not start:\n{log.read_text()}")
            channel.close()
        yield
        process.send_signal(signal.SIGTERM)
        if process.wait(STOP_SECONDS) != 0:
            fail(f"the daemon ended with status {process.returncode}:\n{log.read_text()}")
    finally:
        process.kill()
        process.wait()


async def _drive(
    place: Path, images: list[bytes], labels: list[str], rate: float
) -> tuple[list[Phase], list[pb.EnergyRow]]:
    """Send every image under each policy; give what came back, and the journal's sums over what was answered."""
    operator = control(place / "run")
    known = {policy.name: policy for policy in operator.Policies(pb.PoliciesRequest()).policies}
    phases = []
    with Progress(transient=True) as progress:
        bar = progress.add_task("classifying", total=len(images) * len(POLICIES))
        async with grpc.aio.insecure_channel(f"unix:{place / 'run' / 'jouled.sock'}") as channel:
            stub = jouled_pb2_grpc.ClassifierStub(channel)
            begin = time.monotonic()
            for number, name in enumerate(POLICIES):
                operator.SetPolicy(pb.SetPolicyRequest(name=name))
                progress.update(bar, description=f"policy {name}")
                phase = Phase(known[name])
                phases.append(phase)
                calls = []
                for index, (image, label) in enumerate(zip(images, labels, strict=True)):
                    due = begin + (number * len(images) + index) / rate
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                    calls.append(asyncio.create_task(_classify(stub, image, label, phase)))
                    progress.advance(bar)
                await asyncio.gather(*calls)
    summary = operator.EnergySummary(pb.EnergySummaryRequest())
    return phases, [row for row in summary.rows if row.status == "ok"]


async def _classify(stub: Any, image: bytes, label: str, phase: Phase) -> None:
    phase.requests += 1
    started = time.perf_counter()
    try:
        # The daemon's own deadline ends it: a client that gave up first would miss an answer that the journal has.
        reply = await stub.Classify(pb.ClassifyRequest(model=MODEL, image=image))
    except grpc.aio.AioRpcError as error:
        phase.rejected[error.code().name] += 1
        return
    phase.seconds.append(time.perf_counter() - started)
    phase.replies.append(reply)
    phase.correct += reply.labels[0].name == label


def _result(phases: list[Phase], history: History, sums: list[pb.EnergyRow], seconds: float) -> dict[str, Any]:
    worst = worst_windows(history.reigns, history.spending)
    drawn = energies_nanojoules(history.reigns, history.spending)[-len(phases) :]
    replies = [reply for phase in phases for reply in phase.replies]
    return {
        "policies": [
            _phase_result(phase, nanojoules, worst) | _final(phase.policy.name, sums)
            for phase, nanojoules in zip(phases, drawn, strict=True)
        ],
        "reply_nanojoules": sum(_total(reply) for reply in replies),
        "journal_nanojoules": sum(
            row.provisional_dynamic_nanojoules + row.provisional_static_nanojoules for row in sums
        ),
        "seconds": round(seconds, 3),
    }


def _total(reply: pb.ClassifyReply) -> int:
    return reply.energy.dynamic_nanojoules + reply.energy.static_nanojoules


def _phase_result(phase: Phase, drawn_nanojoules: float, worst: dict[str, float]) -> dict[str, Any]:
    answered = len(phase.replies)
    share = Counter(reply.device for reply in phase.replies)
    dynamic = sum(reply.energy.dynamic_nanojoules for reply in phase.replies)
    percentiles = quantiles(phase.seconds, n=100) if answered > 1 else [0.0] * 99
    return {
        "policy": phase.policy.name,
        "budget_watts": phase.policy.budget_watts,
        "window_seconds": phase.policy.window_seconds,
        "requests": phase.requests,
        "answered": answered,
        "rejected": sum(phase.rejected.values()),
        "accuracy": phase.correct / max(answered, 1),
        "devices": {device: count / answered for device, count in sorted(share.items())},
        "dynamic_joules_per_request": dynamic * 1e-9 / max(answered, 1),
        "total_joules_per_request": sum(_total(reply) for reply in phase.replies) * 1e-9 / max(answered, 1),
        "device_joules": drawn_nanojoules * 1e-9,
        "p50_seconds": percentiles[49],
        "p99_seconds": percentiles[98],
        "worst_window_fraction": worst[phase.policy.name],
    }


def _final(policy: str, sums: list[pb.EnergyRow]) -> dict[str, Any]:
    """Put the final joules of a policy's answers beside those that left with the replies."""
    rows = [row for row in sums if row.policy == policy]
    static = sum(row.static_nanojoules for row in rows)
    final = static + sum(row.dynamic_nanojoules for row in rows)
    replied = sum(row.provisional_dynamic_nanojoules + row.provisional_static_nanojoules for row in rows)
    return {
        "provisional_joules": replied * 1e-9,
        "final_joules": final * 1e-9,
        "final_static_share": static / max(final, 1),
        "not_final": sum(row.provisional_requests for row in rows),
    }


def _to_json(result: dict[str, Any]) -> str:
    import json

    return json.dumps(result, indent=2) + "\n"


def _print(result: dict[str, Any], out: Path) -> None:
    cells: dict[str, Callable[[dict[str, Any]], str]] = {
        "budget": lambda row: f"{row['budget_watts']:g} W over {row['window_seconds']:g} s",
        "requests": lambda row: str(row["requests"]),
        "rejected": lambda row: str(row["rejected"]),
        "accuracy": lambda row: f"{row['accuracy']:.2%}",
        "devices": lambda row: ", ".join(f"{device} {share:.0%}" for device, share in row["devices"].items()),
        "dynamic energy per request": lambda row: joules(row["dynamic_joules_per_request"] * 1e9),
        "total energy per request": lambda row: joules(row["total_joules_per_request"] * 1e9),
        "all answers: provisional": lambda row: joules(row["provisional_joules"] * 1e9),
        "all answers: final": lambda row: joules(row["final_joules"] * 1e9),
        "static share of that": lambda row: f"{row['final_static_share']:.2%}",
        "energy of the devices, idle included": lambda row: joules(row["device_joules"] * 1e9),
        "latency p50": lambda row: f"{row['p50_seconds'] * 1e3:.2f} ms",
        "latency p99": lambda row: f"{row['p99_seconds'] * 1e3:.2f} ms",
        "worst window, of the budget": lambda row: f"{row['worst_window_fraction']:.2%}",
    }
    columns = ["policy", *(row["policy"] for row in result["policies"])]
    rows = [[name, *(cell(row) for row in result["policies"])] for name, cell in cells.items()]
    print_table(f"{result['policies'][0]['requests']} held-out digits under each policy", columns, rows)
    print("The joules of loihi-sim and ncs2-sim are simulated, those of cpu modelled: nothing here is measured.")
    print(f"Sum of the replies {result['reply_nanojoules']} nJ, of the journal {result['journal_nanojoules']} nJ.")
    print(f"The same is in {out}.")
