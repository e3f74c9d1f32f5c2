"""A client of the project's own service gets labels and joules for images, over a real socket."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest
from PIL import Image

from hal import artifact
from protos import jouled_pb2 as pb
from protos.jouled_pb2_grpc import ClassifierStub
from tests.daemon.serving import CALL_SECONDS, Daemon, best, cheapest, digit_request, may_take

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from models.data import digits


def encode(pixels: NDArray[np.uint8], kind: str) -> bytes:
    """Encode (H, W) grey or (H, W, 3) coloured pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"quality": 100} if kind == "JPEG" else {}))
    return buffer.getvalue()


def test_tensor_gets_an_answer_with_all_its_labels(daemon: Daemon, repository: Path, image: NDArray[np.uint8]) -> None:
    """A reply says what the image is, who found out and how, and what it cost, each figure with its labels."""
    reply, point = daemon.classify(image, tag="first"), best(daemon.points())
    assert [(label.name, label.index) for label in reply.labels] == [("0", 0)]
    assert (reply.model, reply.version, reply.variant) == ("digits", "1", point.variant)
    assert (reply.device, reply.simulated) == (point.device, point.device != "cpu")
    assert may_take(point, reply.steps)
    assert reply.policy == "roomy"
    assert reply.artifact_digest == artifact.read(repository / "digits" / "1" / point.variant).digest
    energy = reply.energy
    assert min(energy.dynamic_nanojoules, energy.static_nanojoules, energy.uncertainty_nanojoules) > 0
    labels = (energy.provenance, energy.sharing, energy.state, energy.boundary)
    assert labels == (point.provenance, "exclusive", "provisional", "accelerator")
    assert reply.device_seconds > 0
    assert reply.queue_seconds >= 0
    assert (reply.journaled, reply.tag) == (True, "first")


def test_batch_of_one_is_one_image(daemon: Daemon, image: NDArray[np.uint8]) -> None:
    """A tensor may have a batch dimension of one in front."""
    assert daemon.classify(image[np.newaxis]).labels == daemon.classify(image).labels


def test_held_out_digits_are_mostly_right(daemon: Daemon, held_out: digits.Part) -> None:
    """What the manifest says of accuracy holds over the wire as well."""
    calls = [daemon.classifier.Classify.future(digit_request(each), timeout=CALL_SECONDS) for each in held_out.images]
    found = np.array([int(call.result().labels[0].name) for call in calls])
    assert np.mean(found == held_out.labels) == pytest.approx(best(daemon.points()).accuracy, abs=0.003)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_encoded_image_gets_the_same_answer(daemon: Daemon, image: NDArray[np.uint8], kind: str) -> None:
    """The daemon decodes PNG and JPEG."""
    request = pb.ClassifyRequest(model="digits", image=encode(image, kind))
    assert daemon.classifier.Classify(request, timeout=CALL_SECONDS).labels[0].name == "0"


def test_lossless_image_is_the_tensor(daemon: Daemon, image: NDArray[np.uint8]) -> None:
    """A PNG of the model's size has exactly the scores of its pixels sent as a tensor."""
    request = pb.ClassifyRequest(model="digits", image=encode(image, "PNG"), top_k=10)
    reply = daemon.classifier.Classify(request, timeout=CALL_SECONDS)
    assert reply.labels == daemon.classify(image, top_k=10).labels


def test_larger_image_is_resized(daemon: Daemon, image: NDArray[np.uint8]) -> None:
    """An image of another size than the model's is brought to it."""
    request = pb.ClassifyRequest(model="digits", image=encode(np.kron(image, np.ones((8, 8), np.uint8)), "PNG"))
    assert daemon.classifier.Classify(request, timeout=CALL_SECONDS).labels[0].name == "0"


def test_five_megabytes_of_noise_within_the_limits_get_an_answer(daemon: Daemon) -> None:
    """A large image is no error as long as its pixels are below the limit: there is an answer, if a vain one."""
    noise = np.random.default_rng(0).integers(0, 256, (1300, 1300, 3), np.uint8)
    request = pb.ClassifyRequest(model="digits", image=encode(noise, "PNG"))
    assert len(request.image) > 5_000_000
    assert daemon.classifier.Classify(request, timeout=CALL_SECONDS).labels[0].name in "0123456789"


@pytest.mark.parametrize(("colour", "name"), [((255, 0, 0), "red"), ((0, 200, 0), "green"), ((9, 9, 90), "blue")])
def test_colours_reach_a_model_of_three_channels(daemon: Daemon, colour: tuple[int, int, int], name: str) -> None:
    """An image becomes (C, H, W) numbers from 0 to 1 where the model takes those."""
    pixels = np.full((4, 4, 3), colour, np.uint8)
    reply = daemon.classifier.Classify(
        pb.ClassifyRequest(model="tint", image=encode(pixels, "PNG"), top_k=3), timeout=CALL_SECONDS
    )
    assert reply.labels[0].name == name
    expected = np.array(colour) * 16 / 255
    np.testing.assert_allclose([label.score for label in reply.labels], sorted(expected, reverse=True), rtol=1e-5)
    assert (reply.device, reply.simulated, reply.energy.provenance) == ("cpu", False, "modelled")
    assert reply.energy.boundary == "host"


def test_top_k_labels_come_best_first(daemon: Daemon, image: NDArray[np.uint8]) -> None:
    """As many labels as asked for, in the order of their scores."""
    labels = daemon.classify(image, top_k=3).labels
    scores = [label.score for label in labels]
    assert len(labels) == 3
    assert scores == sorted(scores, reverse=True)


def test_top_k_beyond_the_labels_gives_all(daemon: Daemon, image: NDArray[np.uint8]) -> None:
    """A model has only so many labels; each comes once."""
    names = [label.name for label in daemon.classify(image, top_k=1000).labels]
    assert sorted(names) == [str(digit) for digit in range(10)]


def test_named_version_is_served(daemon: Daemon, image: NDArray[np.uint8]) -> None:
    """A client may insist on a version."""
    assert daemon.classify(image, version="1").version == "1"


def test_unix_socket_serves_as_tcp_does(daemon: Daemon, image: NDArray[np.uint8]) -> None:
    """Local clients reach the same service through a Unix socket."""
    channel = daemon.channel(f"unix:{daemon.places.runtime / 'jouled.sock'}")
    reply = ClassifierStub(channel).Classify(digit_request(image), timeout=CALL_SECONDS)
    assert reply.labels == daemon.classify(image).labels


def test_allowed_energy_rules_costlier_points_out(daemon: Daemon, image: NDArray[np.uint8]) -> None:
    """Under a policy that takes the most accurate point, a request may forbid its price."""
    points = daemon.points()
    allowed = best(points).dynamic_joules * 0.999
    expected = best(points, at_most_joules=allowed)
    reply = daemon.classify(image, max_energy_joules=allowed)
    assert reply.device == expected.device
    assert may_take(expected, reply.steps)


def test_needed_accuracy_rules_cheaper_points_out(saving: Daemon, image: NDArray[np.uint8]) -> None:
    """Under a policy that takes the cheapest point, a request may ask for an accuracy."""
    points = saving.points()
    for accuracy in (0.0, cheapest(points).accuracy + 1e-6, best(points).accuracy):
        expected = cheapest(points, at_least=accuracy)
        reply = saving.classify(image, min_accuracy=accuracy)
        assert reply.device == expected.device
    assert may_take(expected, reply.steps)


@pytest.fixture
def saving(daemon: Daemon) -> Iterator[Daemon]:
    """Give the shared daemon under the policy that saves."""
    previous = daemon.set_policy("spare")
    yield daemon
    daemon.set_policy(previous)


def test_stream_answers_every_request_with_its_tag(daemon: Daemon, held_out: digits.Part) -> None:
    """More requests than a stream serves at a time are each answered once; one device answers them in order."""
    requests = [digit_request(each, tag=str(number)) for number, each in enumerate(held_out.images[:200])]
    replies = list(daemon.classifier.ClassifyStream(iter(requests), timeout=CALL_SECONDS))
    assert [each.reply.tag for each in replies] == [str(number) for number in range(200)]
    right = [each.reply.labels[0].name == str(held_out.labels[int(each.reply.tag)]) for each in replies]
    assert np.mean(right) >= 0.97


def test_error_within_a_stream_does_not_end_it(daemon: Daemon, image: NDArray[np.uint8]) -> None:
    """A refused request is answered with its error and its tag, those around it with labels."""
    requests = [
        digit_request(image, tag="before"),
        digit_request(image[:7], tag="short"),
        pb.ClassifyRequest(model="letters", tag="unknown"),
        digit_request(image, tag="after"),
    ]
    replies = list(daemon.classifier.ClassifyStream(iter(requests), timeout=CALL_SECONDS))
    answered = {each.reply.tag for each in replies if each.HasField("reply")}
    errors = {each.error.tag: each.error for each in replies if each.HasField("error")}
    assert len(replies) == 4
    assert answered == {"before", "after"}
    assert errors["short"].code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "takes [-1, 8, 8]" in errors["short"].message
    assert errors["unknown"].code == grpc.StatusCode.NOT_FOUND.value[0]


def test_empty_stream_ends_well(daemon: Daemon) -> None:
    """A client that has nothing to ask gets nothing."""
    assert list(daemon.classifier.ClassifyStream(iter([]), timeout=CALL_SECONDS)) == []
