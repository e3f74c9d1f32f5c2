"""The documented clients, each as it is printed, and what the Python client does beyond its examples."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest
from PIL import Image

from daemon.client import AsyncClient, Client, Refused, default_address
from protos import jouled_pb2 as pb
from tests.daemon.serving import CALL_SECONDS, configuration, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from numpy.typing import NDArray

    from tests.daemon.conftest import StartDaemon
    from tests.daemon.serving import Daemon

ROOT = Path(__file__).parents[2]
EXAMPLE = re.compile(r"<!-- example: (\w+) -->\n```\w+\n(.*?)```", re.DOTALL)
EXAMPLES = dict(EXAMPLE.findall((ROOT / "README.md").read_text() + (ROOT / "docs" / "clients.md").read_text()))
NODE_FOLDER = ROOT / ".cache" / "node-client"
NODE_PACKAGES = [
    "@bufbuild/protobuf@2.17.0", "@bufbuild/protoc-gen-es@2.13.0", "@connectrpc/connect@2.1.2",
    "@connectrpc/connect-node@2.1.2",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, image: NDArray[np.uint8]) -> Path:
    """Give a folder with the picture that the examples send."""
    Image.fromarray(image).save(tmp_path / "seven.png")
    return tmp_path


def _run(daemon: Daemon, name: str, folder: Path, *command: str | Path) -> str:
    """Run an example against a daemon; give the line that it prints."""
    source = EXAMPLES[name].replace("127.0.0.1:8001", daemon.address)
    file = folder / ("example.mjs" if name == "node" else "example.py")
    file.write_text(source)
    ended = subprocess.run(
        [*command, file], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False, timeout=CALL_SECONDS,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """Give a folder with the generated stubs and what they need, made on first use and kept; skips where npm cannot."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed; see make packages")
    complete = NODE_FOLDER / ".complete"
    if not complete.exists():
        shutil.rmtree(NODE_FOLDER, ignore_errors=True)
        NODE_FOLDER.mkdir(parents=True)
        command = ["npm", "install", "--silent", "--ignore-scripts", *NODE_PACKAGES]
        installed = subprocess.run(command, cwd=NODE_FOLDER, check=False, capture_output=True, text=True)
        if installed.returncode != 0:
            pytest.skip(f"npm cannot install the client: {(installed.stderr.splitlines() or ['?'])[-1]}")
        complete.touch()
    return NODE_FOLDER


@pytest.mark.parametrize("name", ["client", "python"])
def test_python(daemon: Daemon, folder: Path, name: str) -> None:
    """The client of the README and that of the documentation print label, device and joules."""
    label, device, nanojoules, unit, provenance = _run(daemon, name, folder, sys.executable).split()
    assert (label, unit) == ("0", "nJ")
    assert device in {"cpu", "loihi-sim", "ncs2-sim"}
    assert int(nanojoules) > 0
    assert provenance in {"modelled", "simulated"}


def test_asyncio(daemon: Daemon, folder: Path) -> None:
    """Three pictures over a stream give three labels, each with its place."""
    assert sorted(_run(daemon, "asyncio", folder, sys.executable).splitlines()) == ["0 0", "1 0", "2 0"]


def test_tritonclient(daemon: Daemon, folder: Path, tritonclient: Path) -> None:
    """NVIDIA's client gets the label and the joules."""
    label, joules, unit = _run(daemon, "tritonclient", folder, tritonclient).split()
    assert (label, unit) == ("0", "J")
    assert float(joules) > 0


def test_node(daemon: Daemon, folder: Path, node_modules: Path) -> None:
    """Stubs that another language generates get label, device and joules."""
    plugin = node_modules / "node_modules" / ".bin" / "protoc-gen-es"
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--plugin={plugin}", f"--es_out={folder}",
         "--es_opt=target=js", "protos/jouled.proto"],
        cwd=ROOT, check=True,
    )  # fmt: skip
    (folder / "node_modules").symlink_to(node_modules / "node_modules")
    (folder / "package.json").write_text(json.dumps({"type": "module"}))
    label, _, nanojoules, unit, _ = _run(daemon, "node", folder, "node").split()
    assert (label, unit) == ("0", "nJ")
    assert int(nanojoules) > 0


def test_arrays_and_wishes(daemon: Daemon, image: NDArray[np.uint8]) -> None:
    """An array goes as a tensor, whatever its order in memory, and wishes are fields of the request."""
    with Client(daemon.address) as client:
        reply = client.classify("digits", np.asfortranarray(image), top_k=2, min_accuracy=0.9, version="1")
        assert (reply.labels[0].name, len(reply.labels)) == ("0", 2)
        with pytest.raises(Refused, match=r"INVALID_ARGUMENT: tensor\.dtype") as refused:
            client.classify("digits", image.astype(np.float32))
        assert (refused.value.code, refused.value.retry_seconds) == (grpc.StatusCode.INVALID_ARGUMENT, None)


def test_many_over_a_stream(daemon: Daemon, image: NDArray[np.uint8]) -> None:
    """Every image of a stream has its answer or its refusal, and each its place."""
    with Client(daemon.address) as client:
        answers = dict(client.classify_each("digits", [image, image[:4], image]))
    assert sorted(answers) == [0, 1, 2]
    refused = answers.pop(1)
    assert isinstance(refused, Refused)
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    for answer in answers.values():
        assert isinstance(answer, pb.ClassifyReply)
        assert answer.labels[0].name == "0"


def test_refused_for_power(start_daemon: StartDaemon, image: NDArray[np.uint8]) -> None:
    """Who is refused for want of power is told when to try again, in threads and with asyncio alike."""
    policy = '[policy.nothing]\nstrategy = "accuracy"\nbudget_watts = 0.0\n'
    daemon = start_daemon(configuration(policy, start="nothing", devices='[device.cpu]\ndriver = "cpu"\n'))

    async def ask() -> None:
        async with AsyncClient(daemon.address) as client:
            await client.classify("digits", image)

    with Client(daemon.address) as client, pytest.raises(Refused) as refused:
        client.classify("digits", image)
    with pytest.raises(Refused) as refused_too:
        asyncio.run(ask())
    for each in (refused.value, refused_too.value):
        assert each.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert each.retry_seconds == 10.0


def test_nobody_there(image: NDArray[np.uint8]) -> None:
    """Where no daemon is, every call says so in the same way."""

    async def images() -> AsyncIterator[NDArray[np.uint8]]:
        yield image

    async def stream(address: str) -> None:
        async with AsyncClient(address) as client:
            async for _ in client.classify_each("digits", images()):
                pass

    address = f"127.0.0.1:{free_port()}"
    with Client(address) as client:
        with pytest.raises(Refused, match="UNAVAILABLE"):
            client.classify("digits", image)
        with pytest.raises(Refused, match="UNAVAILABLE"):
            list(client.classify_each("digits", [image]))
    with pytest.raises(Refused, match="UNAVAILABLE"):
        asyncio.run(stream(address))


def test_default_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an address a client connects to the socket of this host's daemon."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/there")
    assert default_address() == "unix:/run/there/jouled.sock"


def test_it_loads_little() -> None:
    """The client loads neither the other protocol, whose messages tritonclient has as well, nor the daemon."""
    code = "import sys, daemon.client; print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    loaded = ended.stdout.split()
    assert "protos.jouled_pb2" in loaded
    assert {name for name in loaded if name.startswith(("daemon.", "protos.", "hal", "openvino"))} == {
        "daemon.client", "protos.jouled_pb2", "protos.jouled_pb2_grpc",
    }  # fmt: skip
