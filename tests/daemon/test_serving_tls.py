"""Over the network: mutual TLS, and each name calls what it may call and nothing else."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from protos import jouled_pb2 as pb
from protos import open_inference_pb2 as oip
from protos.jouled_pb2_grpc import ClassifierStub, ControlStub
from protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.daemon.certificates import Authority, Pair, channel, write_server
from tests.daemon.conftest import ROOMY
from tests.daemon.refusals import refusal
from tests.daemon.serving import CALL_SECONDS, Daemon, configuration, digit_request, places, refuses_to_start, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

Dial = Callable[["Pair | None"], grpc.Channel]

CHIP = '[device.loihi-sim]\ndriver = "loihi-sim"\n'
ALLOW = {
    "camera": ["jouled.v1.Classifier/Classify"],
    "watcher": ["grpc.health.v1.Health/*", "grpc.reflection.*"],
    "all.example.org": ["*"],
}
HEALTH = health_pb2.HealthCheckRequest()


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Make who signs the daemon's certificate and its clients'."""
    return Authority("authority")


@pytest.fixture(scope="module")
def tls(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write the daemon's certificate and the section that names it."""
    return write_server(tmp_path_factory.mktemp("tls"), authority, authority, ALLOW)


@pytest.fixture(scope="module")
def guarded(tls: str) -> Iterator[Daemon]:
    """Run a daemon that is reached by mutual TLS."""
    with running(
        configuration(ROOMY, start="roomy", devices=CHIP) + tls, may_log=["call denied", "Handshake failed"]
    ) as daemon:
        yield daemon


@pytest.fixture
def dial(guarded: Daemon, authority: Authority) -> Iterator[Dial]:
    """Open channels with a client's certificate, or with none; they are closed with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda client: stack.enter_context(channel(guarded.address, authority, client))


def _denied(daemon: Daemon, method: str, certificate: str) -> bool:
    """Tell whether a denied call stands in the log."""
    return any(
        "call denied" in line and f"method={method} " in line and f"certificate={certificate} " in line
        for line in daemon.log
    )


@pytest.mark.parametrize(("common", "alternatives"), [("camera", ()), ("x", ("camera",)), ("x", ("y", "camera"))])
def test_allowed(
    dial: Dial,
    authority: Authority,
    image: NDArray[np.uint8],
    common: str,
    alternatives: tuple[str, ...],
) -> None:
    """Who is named by the common name, or by one of the alternative names, calls what it may call."""
    stub = ClassifierStub(dial(authority.issue(common, *alternatives)))
    assert stub.Classify(digit_request(image), timeout=CALL_SECONDS).labels[0].name == "0"


@pytest.mark.parametrize(("common", "alternatives", "known_as"), [
    ("stranger", (), "stranger"), ("camera", ("stranger",), "stranger"), ("watcher", (), "watcher"), ("*", (), "*"),
])  # fmt: skip
def test_denied(
    guarded: Daemon, dial: Dial, authority: Authority, image: NDArray[np.uint8], common: str,
    alternatives: tuple[str, ...], known_as: str,
) -> None:  # fmt: skip
    """Who is not named for a method is denied it, in the log with the name; a common name beside others is none."""
    stub = ClassifierStub(dial(authority.issue(common, *alternatives)))
    answer = refusal(lambda: stub.Classify(digit_request(image), timeout=CALL_SECONDS))
    assert answer.code is grpc.StatusCode.PERMISSION_DENIED
    assert answer.message == "the certificate's names do not allow Classify"
    assert _denied(guarded, "jouled.v1.Classifier/Classify", known_as)


def test_denied_whatever_the_kind_of_method(
    guarded: Daemon, dial: Dial, authority: Authority, image: NDArray[np.uint8]
) -> None:
    """Streams in both directions, in one, and methods of libraries are denied before they read anything."""
    opened = dial(authority.issue("camera"))
    reflect = reflection_pb2_grpc.ServerReflectionStub(opened).ServerReflectionInfo
    calls = {
        "jouled.v1.Classifier/ClassifyStream": lambda: next(
            ClassifierStub(opened).ClassifyStream(iter([digit_request(image)]), timeout=CALL_SECONDS)
        ),
        "inference.GRPCInferenceService/ServerLive": lambda: GRPCInferenceServiceStub(opened).ServerLive(
            oip.ServerLiveRequest(), timeout=CALL_SECONDS
        ),
        "grpc.health.v1.Health/Check": lambda: health_pb2_grpc.HealthStub(opened).Check(HEALTH, timeout=CALL_SECONDS),
        "grpc.health.v1.Health/Watch": lambda: next(
            health_pb2_grpc.HealthStub(opened).Watch(HEALTH, timeout=CALL_SECONDS)
        ),
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": lambda: next(
            reflect(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=CALL_SECONDS)
        ),
    }
    for method, call in calls.items():
        assert refusal(call).code is grpc.StatusCode.PERMISSION_DENIED
        assert _denied(guarded, method, "camera")


def test_patterns(dial: Dial, authority: Authority) -> None:
    """A pattern allows all methods that it matches, streams included; the control service is not there for anyone."""
    opened = dial(authority.issue("watcher"))
    health = health_pb2_grpc.HealthStub(opened)
    assert health.Check(HEALTH, timeout=CALL_SECONDS).status == health_pb2.HealthCheckResponse.SERVING
    watch = health.Watch(HEALTH, timeout=CALL_SECONDS)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()
    reflect = reflection_pb2_grpc.ServerReflectionStub(opened).ServerReflectionInfo
    (listed,) = reflect(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=CALL_SECONDS)
    assert "jouled.v1.Classifier" in [service.name for service in listed.list_services_response.service]
    control = ControlStub(dial(authority.issue("all", "all.example.org")))
    answer = refusal(lambda: control.SetPolicy(pb.SetPolicyRequest(name="spare"), timeout=CALL_SECONDS))
    assert answer.code is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("client", ["nobody", "of another authority", "expired"])
def test_nothing_answers(dial: Dial, authority: Authority, client: str) -> None:
    """Without a certificate that is good now, no connection comes about, whatever is called."""
    pair = {
        "nobody": None,
        "of another authority": Authority("authority").issue("all", "all.example.org"),
        "expired": authority.issue("all", "all.example.org", days=-1),
    }[client]
    check = health_pb2_grpc.HealthStub(dial(pair)).Check
    with pytest.raises(grpc.RpcError) as caught:
        check(HEALTH, timeout=CALL_SECONDS)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_nothing_answers_in_the_clear(guarded: Daemon) -> None:
    """Neither gRPC without TLS nor a plain byte gets anything but the end of the connection."""
    with pytest.raises(grpc.RpcError) as caught:
        health_pb2_grpc.HealthStub(guarded.channel(guarded.address)).Check(HEALTH, timeout=CALL_SECONDS)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    with socket.create_connection(("127.0.0.1", guarded.places.port), CALL_SECONDS) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        # At most the alert of TLS.
        assert b"HTTP" not in plain.recv(4096)


def test_unix_socket_needs_no_certificate(guarded: Daemon, image: NDArray[np.uint8]) -> None:
    """Those on this host are let in by the mode of the socket's folder, as before."""
    stub = ClassifierStub(guarded.channel(f"unix:{guarded.places.runtime / 'jouled.sock'}"))
    assert stub.Classify(digit_request(image), timeout=CALL_SECONDS).labels[0].name == "0"
    assert guarded.status().policy == "roomy"


@pytest.mark.parametrize(("file", "content", "complaint"), [
    ("server.key", None, "server.key: No such file or directory"),
    ("server.key", b"a shopping list", "no certificate with its key"),
    ("server.pem", b"", "no certificate with its key"),
    ("clients.pem", b"a shopping list", "clients.pem: no certificate"),
])  # fmt: skip
def test_unusable_files(authority: Authority, tmp_path: Path, file: str, content: bytes | None, complaint: str) -> None:
    """A certificate or key that cannot be used is named, and nothing is served without it."""
    section = write_server(tmp_path, authority, authority, ALLOW)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with places() as place:
        said = refuses_to_start(configuration(ROOMY, start="roomy", devices=CHIP) + section, place)
    assert said.startswith("jouled: tls: ")
    assert complaint in said


def test_key_of_another_certificate(authority: Authority, tmp_path: Path) -> None:
    """A key that does not belong to the certificate is told as such."""
    section = write_server(tmp_path, authority, authority, ALLOW)
    (tmp_path / "server.key").write_bytes(authority.issue("other").key)
    with places() as place:
        said = refuses_to_start(configuration(ROOMY, start="roomy", devices=CHIP) + section, place)
    assert "KEY_VALUES_MISMATCH" in said
