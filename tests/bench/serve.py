"""Serving speed: the daemon beside a bare grpc.aio echo and other inference servers, the same network, the same run.

    python -m tests.bench.serve [--json FILE] [--peers SCRIPT FOLDER] [--rounds N] [--seconds S]

Every server is a process of its own on loopback and is driven in turn by the same client with ModelInfer of the Open
Inference Protocol, one picture of 28 x 28 bytes a request, for a network of one layer:

- closed loop with 1, 8 and 32 requests under way, and over one ModelStreamInfer where the server has it;
- open loop at rising rates, until a server falls behind; a latency counts from when its request was to be sent.

The client of the closed loop and the stream is `tests.bench.http2`, which takes about as little as h2load does.

Figures are medians over the rounds. The processor time of a request is that of the server and all that it started; for
`cpu_vs_echo` the time that the daemon's program runs is left out.

`SCRIPT triton|mlserver|kserve FOLDER PORT` serves the model `tiny`; who has no folder of its name in FOLDER is left
out. JOULED_BENCH_PEERS may give SCRIPT and FOLDER as well, with a blank between the two.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from protos import open_inference_pb2 as pb
from tests.bench import drive, servers, tiny
from tests.daemon.serving import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psutil

SERVICE = "/inference.GRPCInferenceService"
PEERS = ("triton", "mlserver", "kserve")
STREAMING = ("jouled", "triton")
CONCURRENCIES = (1, 8, 32)
# Requests per second of the open loop. A server that answers less than this part of them has fallen behind.
RATES = (250, 500, 1000, 2000, 3000, 4000, 5000, 6000)
KEEPS_UP = 0.9
# The concurrency at which servers are compared.
COMPARED = 8
BARS = {"vs_mlserver": 2.0, "vs_kserve": 1.4, "vs_triton": 0.7, "cpu_vs_echo": 1.6, "stream_vs_unary": 1.8}
# The key of a row: a server, a mode, and how many requests are under way or sent in a second.
Key = tuple[str, str, int]


class Server(NamedTuple):
    """A server that runs, and how long it took from its start to its first answer."""

    process: psutil.Process
    address: str
    start_up_seconds: float


class Sample(NamedTuple):
    """One drive of one server, per request."""

    driven: drive.Driven
    cpu_seconds: float
    program_seconds: float


def _request() -> bytes:
    image = np.random.default_rng(0).integers(0, 256, tiny.SHAPE, np.uint8)
    request = pb.ModelInferRequest(model_name=tiny.NAME, raw_input_contents=[image.tobytes()])
    request.inputs.add(name=tiny.INPUT, datatype="UINT8", shape=[1, *tiny.SHAPE])
    return request.SerializeToString()


@contextlib.contextmanager
def _running(folder: Path, peers: tuple[Path, Path] | None) -> Iterator[dict[str, Server]]:
    """Start every server that there is, one after the other."""
    ports = {name: free_port() for name in ("echo", "jouled", *PEERS)}
    addresses = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    commands = {
        "echo": servers.echo_command(addresses["echo"]),
        "jouled": servers.daemon_command(tiny.configuration(folder), folder, addresses["jouled"]),
    }
    if peers:
        script, installed = peers
        for name in PEERS:
            if (installed / name).is_dir():
                commands[name] = [str(script), name, str(installed), str(ports[name])]
    found = {}
    with contextlib.ExitStack() as stack:
        for name, command in commands.items():
            began = time.monotonic()
            process = stack.enter_context(servers.started(command))
            servers.wait_until_it_answers(process, target_of(addresses[name], "ModelInfer"))
            found[name] = Server(process, addresses[name], time.monotonic() - began)
        yield found


def target_of(address: str, method: str) -> drive.Target:
    """Name a server's method, and the request that all servers get."""
    return drive.Target(address, f"{SERVICE}/{method}", _request())


def is_error(answer: bytes) -> bool:
    """Tell whether an answer of a stream is an error."""
    return bool(pb.ModelStreamInferResponse.FromString(answer).error_message)


class Bench:
    """Samples of all servers, by row."""

    def __init__(self, running: dict[str, Server], folder: Path, seconds: float) -> None:
        self._running = running
        self._folder = folder
        self._seconds = seconds
        self._rates: dict[str, float] = {}
        self._behind: dict[str, int] = {}
        self.samples: dict[Key, list[Sample]] = {}

    def warm_up(self) -> None:
        """Drive each server for the first time; find how many requests it takes to fill the seconds of a sample."""
        for name, server in self._running.items():
            target = target_of(server.address, "ModelInfer")
            for requests in (100, 1000):
                self._rates[name] = drive.closed(target, requests, COMPARED).requests_per_second

    def round(self) -> None:
        """Sample every row once, the servers in turn."""
        for concurrency in CONCURRENCIES:
            for name, server in self._running.items():
                target = target_of(server.address, "ModelInfer")
                requests = round(self._rates[name] * self._seconds / (2 if concurrency == 1 else 1))
                self._sample((name, "closed", concurrency), drive.closed, target, requests, concurrency)
        for name, server in self._running.items():
            if name in STREAMING:
                requests = round(self._rates[name] * self._seconds)
                target = target_of(server.address, "ModelStreamInfer")
                how = partial(drive.stream, refused=is_error)
                self._sample((name, "stream", COMPARED), how, target, requests, COMPARED)
        for rate in RATES:
            for name, server in self._running.items():
                if rate <= self._behind.get(name, rate):
                    target = target_of(server.address, "ModelInfer")
                    driven = self._sample(
                        (name, "open", rate), drive.steady, target, round(rate * self._seconds), float(rate)
                    )
                    if driven.requests_per_second < KEEPS_UP * rate:
                        self._behind[name] = rate

    def _sample(self, key: Key, how: Any, target: drive.Target, requests: int, load: float) -> drive.Driven:
        process = self._running[key[0]].process
        cpu, program = servers.cpu_seconds(process), servers.program_seconds(self._folder)
        driven: drive.Driven = how(target, requests, load)
        own = servers.program_seconds(self._folder) - program if key[0] == "jouled" else 0.0
        sample = Sample(driven, (servers.cpu_seconds(process) - cpu) / requests, own / requests)
        self.samples.setdefault(key, []).append(sample)
        return driven

    def rows(self) -> list[dict[str, Any]]:
        """Give the medians of each row."""
        rows = []
        for (name, mode, load), samples in sorted(self.samples.items(), key=lambda each: PLACES[each[0][1]]):
            rows.append(
                {
                    "server": name,
                    "mode": mode,
                    "concurrency": None if mode == "open" else load,
                    "offered_per_second": load if mode == "open" else None,
                    "requests_per_second": statistics.median(each.driven.requests_per_second for each in samples),
                    "p50_seconds": statistics.median(each.driven.percentile_seconds(50) for each in samples),
                    "p99_seconds": statistics.median(each.driven.percentile_seconds(99) for each in samples),
                    "cpu_seconds_per_request": statistics.median(each.cpu_seconds for each in samples),
                    "program_seconds_per_request": statistics.median(each.program_seconds for each in samples),
                    "failed_requests": sum(each.driven.failed for each in samples),
                    "rss_bytes": servers.rss_bytes(self._running[name].process),
                }
            )
        return rows

    def ratios(self) -> dict[str, float | None]:
        """Compare the daemon with the others at the same concurrency: medians of the rounds' ratios."""

        def ratio(over: Key, under: Key, figure: Any) -> float | None:
            pairs = zip(self.samples.get(over, []), self.samples.get(under, []), strict=False)
            found = [figure(above) / figure(below) for above, below in pairs]
            return statistics.median(found) if found else None

        def rate(sample: Sample) -> float:
            return sample.driven.requests_per_second

        unary: Key = ("jouled", "closed", COMPARED)
        return {
            **{
                f"vs_{peer}": ratio(unary, (peer, "closed", COMPARED), rate)
                for peer in ("mlserver", "kserve", "triton")
            },
            "cpu_vs_echo": ratio(
                unary, ("echo", "closed", COMPARED), lambda each: each.cpu_seconds - each.program_seconds
            ),
            "stream_vs_unary": ratio(("jouled", "stream", COMPARED), unary, rate),
        }


PLACES = {"closed": 0, "stream": 1, "open": 2}


def measure(peers: tuple[Path, Path] | None, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure everything; give rows, ratios and start-up times."""
    with tempfile.TemporaryDirectory() as name, _running(Path(name), peers) as running:
        bench = Bench(running, Path(name), seconds)
        bench.warm_up()
        for _ in range(rounds):
            bench.round()
        return {
            "rows": bench.rows(),
            "ratios": bench.ratios(),
            "start_up_seconds": {name: server.start_up_seconds for name, server in running.items()},
            "load_average": os.getloadavg()[0],
        }


def _print(result: dict[str, Any]) -> None:
    for row in result["rows"]:
        load = f"{row['offered_per_second']}/s" if row["mode"] == "open" else f"{row['concurrency']} at a time"
        failed = f", {row['failed_requests']} failed" if row["failed_requests"] else ""
        print(
            f"{row['mode']:6} {load:12} {row['server']:8} {row['requests_per_second']:6.0f} requests/s, "
            f"p50 {row['p50_seconds'] * 1e3:7.2f} ms, p99 {row['p99_seconds'] * 1e3:7.2f} ms, "
            f"{row['cpu_seconds_per_request'] * 1e6:5.0f} us of CPU each, {row['rss_bytes'] / 1e6:5.0f} MB{failed}"
        )
    for name, seconds in result["start_up_seconds"].items():
        print(f"{name} answers {seconds:.1f} s after its start")
    for name, ratio in result["ratios"].items():
        bound = "at most" if name == "cpu_vs_echo" else "at least"
        print(f"{name:16} {'not installed' if ratio is None else f'{ratio:.2f}'} (bar: {bound} {BARS[name]})")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--peers", type=Path, nargs=2, metavar=("SCRIPT", "FOLDER"), help="what starts the peers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="about how long one sample takes")
    options = parser.parse_args()
    named = options.peers or [Path(part) for part in os.environ.get("JOULED_BENCH_PEERS", "").split()]
    result = measure((named[0], named[1]) if named else None, options.rounds, options.seconds)
    _print(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
