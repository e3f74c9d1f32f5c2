"""The spiking engines on the same networks in the same run: the project's, Lava 0.10, snnTorch and SpikingJelly.

    python -m tests.bench.snn --json FILE [--lava-python PYTHON] [--torch-python PYTHON] [--rounds N]

The networks are `mnist` and `pilotnet_lif` of `$JOULED_VECTORS/netx` at 16 steps, the pictures those of
`$JOULED_DATA/mnist` and the one beside pilotnet_lif, shifted. Each engine is a process of its own; they take turns,
the first call of each is not counted. All run on one thread except Lava, which has a process for each layer, and whose
time is that of its `run` alone, without setting inputs and clearing state. Lava has no batches. `spikes_equal` tells
whether the last layer's state after a picture, which every spike has changed, is the reference engine's; it is null
for snnTorch and SpikingJelly, which compute in floating point without the chip's rounding.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hal.snn import reference
from hal.snn.parts import take_apart
from models import netx

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hal.snn.network import Network

STEPS = 16
BATCH = 64
TURN_SECONDS = 0.5
# A batch that takes longer is not measured.
BATCH_LIMIT_SECONDS = 30.0
EXACT = ("fast", "reference", "lava")
ENGINES_FILE = Path(__file__).with_name("snn_engines.py")


class Engine:
    """One engine with one network, in a process of its own."""

    def __init__(self, name: str, python: str, folder: Path) -> None:
        self.name = name
        self.times: dict[int, list[float]] = {1: [], BATCH: []}
        arguments = [str(ENGINES_FILE), name, str(folder / "network.json"), str(folder / "arrays.npz"), str(STEPS)]
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [python, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | threads
        )
        self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with status {self._process.wait()}")
        return line

    def _order(self, **order: float) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._read())

    def take_turn(self, batch: int) -> None:
        """Run for a while, unless a batch would take too long."""
        if batch == 1 or (self.name != "lava" and statistics.median(self.times[1]) * batch < BATCH_LIMIT_SECONDS):
            self.times[batch] += self._order(batch=batch, seconds=TURN_SECONDS)

    def state(self) -> Any:
        """Give the state of the last layer after the first picture."""
        return self._order(state=True)

    def row(self, net: str, batch: int, *, spikes_equal: bool | None) -> dict[str, Any]:
        """Give the figures."""
        times = self.times[batch]
        found: dict[str, Any] = {"net": net, "engine": self.name, "batch": batch}
        found["p50_seconds"] = statistics.median(times) / batch if times else None
        found["p99_seconds"] = float(np.percentile(times, 99)) / batch if times else None
        found["images_per_second"] = batch * len(times) / sum(times) if times else None
        return found | {"spikes_equal": spikes_equal}

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def networks() -> dict[str, tuple[Network, NDArray[np.int64]]]:
    """Give the networks with the input biases of their pictures."""
    vectors, data = Path(os.environ["JOULED_VECTORS"]) / "netx", Path(os.environ["JOULED_DATA"])
    mnist = netx.read(vectors / "mnist" / "network.net")
    with gzip.open(data / "mnist" / "test-even-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16)
    digits = images.reshape(-1, *mnist.layers[0].shape)[:BATCH] / 255
    road = np.load(vectors / "pilotnet_lif" / "image.npy").astype(np.int64).transpose(2, 1, 0)
    return {
        "mnist": (mnist, reference.encode(mnist.encoder, digits)),
        "pilotnet": (
            netx.read(vectors / "pilotnet_lif" / "network.net"),
            np.stack([np.roll(road, shift, axis=2) for shift in range(BATCH)]),
        ),
    }


def write(folder: Path, network: Network, bias: NDArray[np.int64]) -> None:
    """Write a network and its input for the engines to read."""
    structure, arrays = take_apart(network)
    (folder / "network.json").write_text(json.dumps(structure))
    np.savez(folder / "arrays.npz", allow_pickle=False, bias=bias, **arrays)


def compare(net: str, folder: Path, pythons: dict[str, str], rounds: int) -> list[dict[str, Any]]:
    """Measure all engines with one network."""
    engines = [Engine(name, python, folder) for name, python in pythons.items()]
    for _ in range(rounds):
        for batch in (1, BATCH):
            for engine in engines:
                engine.take_turn(batch)
    truth = next(engine for engine in engines if engine.name == "reference").state()
    rows = []
    for engine in engines:
        equal = engine.state() == truth if engine.name in EXACT else None
        rows += [engine.row(net, batch, spikes_equal=equal) for batch in (1, BATCH)]
        engine.close()
    return rows


def ratios(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Tell how many times faster than each peer the fast engine is at batch 1."""
    median = {(row["net"], row["engine"]): row["p50_seconds"] for row in rows if row["batch"] == 1}
    found: dict[str, float | None] = {}
    for peer in ("lava", "snntorch", "spikingjelly", "reference"):
        for net in ("mnist", "pilotnet"):
            theirs = median.get((net, peer))
            found[f"{net}_vs_{peer}"] = theirs / median[net, "fast"] if theirs else None
    return found


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.snn", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("--lava-python", help="the interpreter of an environment with lava-nc 0.10")
    parser.add_argument("--torch-python", help="the interpreter of an environment with torch, snntorch, spikingjelly")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    pythons = {"fast": sys.executable, "reference": sys.executable}
    if arguments.lava_python:
        pythons["lava"] = arguments.lava_python
    if arguments.torch_python:
        pythons |= {"snntorch": arguments.torch_python, "spikingjelly": arguments.torch_python}
    rows = []
    for net, (network, bias) in networks().items():
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), network, bias)
            rows += compare(net, Path(folder), pythons, arguments.rounds)
    result = {"rows": rows, "ratios": ratios(rows)}
    for row in rows:
        print(row)
    print(result["ratios"])
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
