"""Real daemons for the tests: each a process of its own, on real sockets, in a folder of its own."""

from __future__ import annotations

import contextlib
import math
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from daemon.repository import SHIPPED
from hal import artifact
from hal.energy import ncs2
from protos import jouled_pb2 as pb
from protos.jouled_pb2_grpc import ClassifierStub, ControlStub
from protos.open_inference_pb2_grpc import GRPCInferenceServiceStub

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

START_SECONDS = 60.0
STOP_SECONDS = 60.0
# For calls that are expected to end long before; only a daemon that hangs comes near it.
CALL_SECONDS = 60.0

# gRPC's own log, such as `E1123 23:39:13.534000    7460 add_port.cc:83] ...`.
GRPC_LOG = re.compile(r"[A-Z]\d{4} ")

DEVICES = """
[device.loihi-sim]
driver = "loihi-sim"
[device.ncs2-sim]
driver = "ncs2-sim"
[device.cpu]
driver = "cpu"
"""


def configuration(policies: str, *, start: str, devices: str = DEVICES, repository: Path | None = None) -> str:
    """Write a configuration: the text of its policies and devices, and the policy to start with."""
    folder = f'repository = "{repository}"\n' if repository else ""
    return f'start_policy = "{start}"\n{folder}{devices}{policies}'


@dataclass
class Places:
    """Where one daemon listens and keeps its journal. Paths are short: a Unix socket's has 107 bytes at most."""

    folder: Path
    port: int
    state: Path
    runtime: Path
    host: str = "127.0.0.1"
    program: str = "daemon.cli.main"

    def command(self, config: str) -> list[str]:
        """Write the configuration and give the command that serves with it."""
        file = self.folder / "jouled.toml"
        file.write_text(config)
        return [
            sys.executable, "-m", self.program, "serve", "--config", str(file),
            "--tcp-address", f"{self.host}:{self.port}",
            "--state-directory", str(self.state), "--runtime-directory", str(self.runtime),
        ]  # fmt: skip


@contextlib.contextmanager
def places(*, port: int | None = None, state: Path | None = None, runtime: Path | None = None) -> Iterator[Places]:
    """Give a folder, a free port, and below the folder what is not given otherwise."""
    with tempfile.TemporaryDirectory(prefix="jouled-") as name:
        folder = Path(name)
        yield Places(folder, port or free_port(), state or folder / "state", runtime or folder / "run")


def free_port() -> int:
    """Find a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@dataclass
class Daemon:
    """A daemon that is ready, and the ways to reach it."""

    places: Places
    process: subprocess.Popen[bytes]
    supervisor: socket.socket
    ready: str
    _channels: list[grpc.Channel] = field(default_factory=list)

    @property
    def address(self) -> str:
        """Give where the daemon serves TCP clients."""
        return f"127.0.0.1:{self.places.port}"

    @property
    def log(self) -> list[str]:
        """Give the lines that the daemon has logged."""
        return (self.places.folder / "log").read_text().splitlines()

    def channel(self, target: str) -> grpc.Channel:
        """Open a channel that is closed with the daemon."""
        channel = grpc.insecure_channel(target)
        self._channels.append(channel)
        return channel

    @cached_property
    def inference_channel(self) -> grpc.Channel:
        """Reach the inference services over TCP."""
        return self.channel(self.address)

    @cached_property
    def control_channel(self) -> grpc.Channel:
        """Reach the operator's service over its Unix socket."""
        return self.channel(f"unix:{self.places.runtime / 'control' / 'control.sock'}")

    @cached_property
    def classifier(self) -> Any:
        """Give the project's own inference service."""
        return ClassifierStub(self.inference_channel)

    @cached_property
    def inference(self) -> Any:
        """Give the Open Inference Protocol."""
        return GRPCInferenceServiceStub(self.inference_channel)

    @cached_property
    def control(self) -> Any:
        """Give the operator's service."""
        return ControlStub(self.control_channel)

    def classify(self, image: NDArray[np.uint8], **options: Any) -> pb.ClassifyReply:
        """Classify one digit."""
        reply: pb.ClassifyReply = self.classifier.Classify(digit_request(image, **options), timeout=CALL_SECONDS)
        return reply

    def set_policy(self, name: str) -> str:
        """Put a policy in force and give the name of the one before."""
        return str(self.control.SetPolicy(pb.SetPolicyRequest(name=name), timeout=CALL_SECONDS).previous)

    def status(self) -> pb.StatusReply:
        """Ask how the daemon is."""
        reply: pb.StatusReply = self.control.Status(pb.StatusRequest(), timeout=CALL_SECONDS)
        return reply

    def rows(self) -> list[pb.EnergyRow]:
        """Give the journal's sums."""
        return list(self.control.EnergySummary(pb.EnergySummaryRequest(), timeout=CALL_SECONDS).rows)

    def points(self, model: str = "digits") -> list[pb.PointState]:
        """Ask for the operating points of a model."""
        models = self.control.Models(pb.ModelsRequest(), timeout=CALL_SECONDS).models
        return [point for each in models if each.name == model for point in each.points]

    def stop(self, may_log: Sequence[str] = ()) -> None:
        """Stop the daemon as a supervisor does; it ends well, without a complaint but those named in `may_log`."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(STOP_SECONDS)
        complaints = [
            line for line in self.log if "level=info" not in line and not any(word in line for word in may_log)
        ]
        assert (status, complaints) == (0, []), f"status {status}, complaints {complaints}"

    def kill(self) -> None:
        """Kill the daemon, which cannot defend itself."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Let go of the channels."""
        for channel in self._channels:
            channel.close()
        self.supervisor.close()


def digit_request(image: NDArray[np.uint8], **options: Any) -> pb.ClassifyRequest:
    """Ask for the label of one image of 8 x 8 pixels, sent as a tensor."""
    tensor = pb.Tensor(dtype="uint8", shape=image.shape, data=image.tobytes())
    return pb.ClassifyRequest(model="digits", tensor=tensor, **options)


def best(points: Sequence[pb.PointState], *, at_most_joules: float = math.inf) -> pb.PointState:
    """Give the most accurate point, the cheapest one of equals."""
    allowed = [point for point in points if point.dynamic_joules <= at_most_joules]
    return max(allowed, key=lambda point: (point.accuracy, -point.dynamic_joules))


def cheapest(points: Sequence[pb.PointState], *, at_least: float = 0.0) -> pb.PointState:
    """Give the point of the least energy among those that are accurate enough."""
    return min((point for point in points if point.accuracy >= at_least), key=lambda point: point.dynamic_joules)


def stick_joules() -> float:
    """Give what a digit costs on the simulated Neural Compute Stick, where every image costs the same."""
    return ncs2.dynamic_joules(ncs2.seconds(artifact.read(SHIPPED / "digits" / "1" / "dnn").manifest.multiplies))


@contextlib.contextmanager
def running(
    config: str,
    *,
    may_log: Sequence[str] = (),
    port: int | None = None,
    state: Path | None = None,
    runtime: Path | None = None,
    program: str = "daemon.cli.main",
) -> Iterator[Daemon]:
    """Run a daemon until the end of the block. Whoever did not kill it learns whether it ended well."""
    with places(port=port, state=state, runtime=runtime) as place:
        place.program = program
        daemon = _start(config, place)
        try:
            yield daemon
            if daemon.process.poll() is None:
                daemon.stop(may_log)
        finally:
            daemon.kill()
            daemon.close()


def _start(config: str, place: Places) -> Daemon:
    """Start a daemon and wait until it tells its supervisor that it is ready."""
    supervisor = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    supervisor.bind(str(place.folder / "notify"))
    environment = {**os.environ, "NOTIFY_SOCKET": str(place.folder / "notify")}
    with (place.folder / "log").open("wb") as log:
        process = subprocess.Popen(place.command(config), stderr=log, env=environment)
    ended = os.pidfd_open(process.pid)
    said = _wait_for_ready(supervisor, ended)
    os.close(ended)
    if not said:
        process.kill()
        process.wait()
        supervisor.close()
        raise AssertionError(f"the daemon did not start:\n{(place.folder / 'log').read_text()}")
    return Daemon(place, process, supervisor, said)


def _wait_for_ready(supervisor: socket.socket, ended: int) -> str:
    """Give what a daemon says when it is ready, or nothing where it ended or took too long."""
    while True:
        readable, _, _ = select.select([supervisor.fileno(), ended], [], [], START_SECONDS)
        if supervisor.fileno() not in readable:
            return ""
        said = supervisor.recv(4096).decode()
        if said.startswith("READY=1\n"):
            return said


def refuses_to_start(config: str, place: Places, *, prefix: Sequence[str] = ()) -> str:
    """Start a daemon that is expected to end by itself with status 1; give what it says, which is one sentence."""
    command = [*prefix, *place.command(config)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=START_SECONDS)
    said = [line for line in ended.stderr.splitlines() if "level=" not in line and not GRPC_LOG.match(line)]
    assert (ended.returncode, ended.stdout, len(said)) == (1, "", 1), ended.stderr
    return said[0]


def may_take(point: pb.PointState, steps: int) -> bool:
    """Tell whether an image may take so many steps at an operating point, which may let it end early."""
    return steps == point.steps or (point.margin > 0 and 1 <= steps < point.steps)
