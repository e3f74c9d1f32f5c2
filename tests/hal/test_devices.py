"""The contract of every device, held by each of them with the shipped digits."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from hal import artifact, ncs2_sim
from hal.artifact import Artifact, TensorSpec
from hal.device import Boundary, Kind, Provenance
from hal.energy import ncs2
from hal.errors import ArtifactError, CapacityError, DeviceUnavailable, HalError, InputError, Reason
from hal.loihi_sim import LoihiSim
from hal.ncs2_sim import Ncs2Sim
from hal.open import DRIVERS, boundary_of, model_provenance_of, open_device, simulated_by
from hal.simulation import occupy
from hal.snn import reader
from hal.snn.placement import CORES_PER_CHIP, place
from tests.hal.ways import IN_PROCESS, IN_WORKER, VENDORS, open_way, shipped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from hal.device import Device, Program

    Opening = Callable[[str, str], Device]

SHIPPED = Path(artifact.__file__).parents[1] / "models" / "zoo" / "digits" / "1"
TIME_LIMIT_SECONDS = 0.5


@pytest.fixture(scope="module")
def device(way: str) -> Iterator[Device]:
    """Give a device of each driver, in this process and behind a worker."""
    opened = open_way(way, "one", TIME_LIMIT_SECONDS)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def resident(device: Device) -> Artifact:
    """Give the artifact of the device's kind."""
    return shipped(device)


@pytest.fixture(scope="module")
def program(device: Device, resident: Artifact) -> Program:
    """Give the artifact as the device runs it."""
    return device.load(resident)


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    """Give some images, the darkest and the brightest among them."""
    noise = np.random.default_rng(5).integers(0, 256, (6, 8, 8), np.uint8)
    noise[0], noise[1] = 0, 255
    return noise


def _ways(resident: Artifact) -> list[tuple[int, int]]:
    """List steps and margin of every operating point."""
    return [(point.steps, point.margin) for point in resident.manifest.operating_points]


def test_says_what_it_is(device: Device) -> None:
    """A device tells its name, its driver, what it runs and whose energy it tells, truthfully."""
    assert (device.name, device.driver) == ("one", device.driver)
    assert device.driver in DRIVERS or device.driver in VENDORS
    assert (
        device.simulated
        == device.driver.endswith(("-sim", "-lava", "-cpu"))
        == (device.provenance is Provenance.SIMULATED)
    )
    assert (boundary_of(device.driver), model_provenance_of(device.driver)) == (device.boundary, device.provenance)
    assert device.boundary is (Boundary.HOST if device.driver == "cpu" else Boundary.ACCELERATOR)
    assert device.kind in (Kind.SNN, Kind.DNN)
    assert device.batch_limit >= 1


@pytest.mark.parametrize("driver", sorted({*DRIVERS, *VENDORS}))
def test_provenance_is_known_before_a_device_is_opened(driver: str) -> None:
    """The figures of a model are modelled where the hardware itself runs, and else simulated."""
    expected = Provenance.MODELLED if driver in {"cpu", "loihi", "ncs2"} else Provenance.SIMULATED
    assert model_provenance_of(driver) is expected


def test_answer(program: Program, resident: Artifact, images: NDArray[np.uint8]) -> None:
    """An answer has a score for each image and label, and joules, seconds and uncertainty above nothing."""
    for steps, margin in _ways(resident):
        inference = program(images, steps, margin)
        assert inference.scores.shape == (len(images), len(resident.manifest.labels))
        assert inference.scores.dtype == np.float32
        assert np.isfinite(inference.scores).all()
        assert 1 <= inference.steps <= steps
        assert margin or inference.steps == steps
        assert inference.seconds > 0
        assert 0 < inference.uncertainty_joules < inference.dynamic_joules
        assert inference.simulation_seconds >= 0


def test_bounds_hold(device: Device, program: Program, resident: Artifact, images: NDArray[np.uint8]) -> None:
    """The cost told before a run is positive, below its bound, and no image exceeds the bound."""
    for steps, margin in _ways(resident):
        cost = program.cost(steps, margin)
        assert 0 < cost.dynamic_joules <= cost.upper_joules < math.inf
        assert cost.seconds > 0
        for image in images:
            inference = program(image[np.newaxis], steps, margin)
            if device.driver != "cpu" or inference.seconds <= TIME_LIMIT_SECONDS:
                assert inference.dynamic_joules <= cost.upper_joules * (1 + 1e-12)


def test_batch_equals_singles(device: Device, program: Program, resident: Artifact, images: NDArray[np.uint8]) -> None:
    """A batch gives the scores of its images, and on a simulator the sum of their joules and seconds."""
    steps, margin = _ways(resident)[-1]
    batch = program(images, steps, margin)
    singles = [program(image[np.newaxis], steps, margin) for image in images]
    scores = np.concatenate([single.scores for single in singles])
    if device.kind is Kind.SNN:
        assert np.array_equal(batch.scores, scores)
    else:
        assert np.allclose(batch.scores, scores, rtol=1e-3, atol=1e-4)
    if device.simulated:
        assert batch.dynamic_joules == pytest.approx(sum(single.dynamic_joules for single in singles))
        assert batch.seconds == pytest.approx(sum(single.seconds for single in singles))


def test_repeats(program: Program, resident: Artifact, images: NDArray[np.uint8]) -> None:
    """The same images give the same scores; their input is left as it was."""
    before, (steps, _) = images.copy(), _ways(resident)[0]
    assert np.array_equal(program(images, steps).scores, program(images, steps).scores)
    assert np.array_equal(images, before)


def test_earlier_scores_stay(program: Program, resident: Artifact, images: NDArray[np.uint8]) -> None:
    """The scores of one run are not overwritten by the next one's."""
    steps, _ = _ways(resident)[0]
    first = program(images, steps)
    kept = first.scores.copy()
    program(images[::-1].copy(), steps)
    assert np.array_equal(first.scores, kept)


def test_life(opening: Opening, way: str) -> None:
    """A device loads, unloads and loads again, and may be closed twice; static power never falls below nothing."""
    opened = opening(way, "brief")
    resident = shipped(opened)
    idle = opened.static_watts()
    opened.load(resident)
    loaded = opened.static_watts()
    opened.unload(resident)
    assert 0 <= idle <= loaded
    assert opened.static_watts() == idle
    assert opened.load(resident).cost(*_ways(resident)[0]).seconds > 0
    opened.close()
    opened.close()
    assert opened.static_watts() == idle


def test_wrong_kind(opening: Opening, way: str) -> None:
    """An artifact of the other kind is refused by what it lacks."""
    opened = opening(way, "picky")
    other = artifact.read(SHIPPED / ("dnn" if opened.kind is Kind.SNN else "snn"))
    with pytest.raises(ArtifactError, match=rf"digits/{other.variant}: .*(missing|needed)"):
        opened.load(other)


@pytest.mark.parametrize(
    "changes", [{"labels": ("no", "yes")}, {"input": TensorSpec("image", "uint8", (8, 9))}], ids=["labels", "input"]
)
def test_manifest_that_lies(opening: Opening, way: str, changes: dict[str, object]) -> None:
    """A network that is not what the manifest says is refused."""
    opened = opening(way, "careful")
    honest = shipped(opened)
    lying = replace(honest, manifest=msgspec.structs.replace(honest.manifest, **changes))
    with pytest.raises(ArtifactError, match=r"the manifest says|scores for 2 labels"):
        opened.load(lying)


@pytest.mark.parametrize("way", ["cpu", "ncs2-sim", "cpu in a worker", "ncs2-openvino-cpu in a worker"])
def test_network_that_openvino_refuses(opening: Opening, way: str) -> None:
    """What OpenVINO cannot read is refused in one line, without its own exceptions."""
    opened = opening(way, "careful")
    honest = artifact.read(SHIPPED / "dnn")
    broken = replace(honest, files={**honest.files, "model.xml": b"<net", "model.onnx": b"<net"})
    with pytest.raises(ArtifactError, match="OpenVINO refuses the network") as caught:
        opened.load(broken)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("driver", IN_PROCESS)
def test_worker_gives_equal_bits(opening: Opening, driver: str, images: NDArray[np.uint8]) -> None:
    """A device answers the same behind a worker as in process: scores, steps and what is modelled of it, to the bit."""
    here, there = opening(driver, "twin"), opening(driver + IN_WORKER, "twin")
    resident = artifact.read(SHIPPED / here.kind.value)
    program, remote = here.load(resident), there.load(resident)
    described = ("name", "driver", "simulated", "provenance", "boundary", "kind", "batch_limit")
    assert [getattr(here, each) for each in described] == [getattr(there, each) for each in described]
    assert here.simulated == simulated_by(driver)
    assert (here.static_watts(), here.reopening()) == (there.static_watts(), there.reopening())
    for steps, margin in _ways(resident):
        local, distant = program(images, steps, margin), remote(images, steps, margin)
        assert local.scores.tobytes() == distant.scores.tobytes()
        assert local.steps == distant.steps
        if here.simulated:
            assert program.cost(steps, margin) == remote.cost(steps, margin)
            assert (local.seconds, local.dynamic_joules) == (distant.seconds, distant.dynamic_joules)


def test_unknown_driver() -> None:
    """An unknown driver is refused with the nearest known one, or with all of them."""
    options = {"threads": 1, "core_watts": 1.0, "time_limit_seconds": 1.0}
    with pytest.raises(ValueError, match=r"unknown driver 'lohi-sim'; did you mean 'loihi-sim'\?"):
        open_device("lohi-sim", "x", **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown driver 'toaster'; known are cpu, loihi, loihi-lava, loihi-sim"):
        open_device("toaster", "x", **options)  # type: ignore[arg-type]


def test_stick_takes_one_network() -> None:
    """A second network on the stick is refused; the same one again is not, nor another after unloading."""
    stick = Ncs2Sim("stick", threads=1)
    first = artifact.read(SHIPPED / "dnn")
    second = replace(first, digest="0" * 64, variant="other")
    stick.load(first)
    assert stick.load(first).cost(1).seconds > 0
    with pytest.raises(CapacityError, match="digits/other on stick: 2 networks exceed the limit of 1") as caught:
        stick.load(second)
    assert (caught.value.figure, caught.value.limit, caught.value.unit) == (2, ncs2_sim.NETWORKS_LIMIT, "networks")
    stick.unload(first)
    assert stick.load(second).cost(1).seconds > 0


def test_chip_is_full() -> None:
    """When all cores are taken another network is refused with its figure; what is loaded goes on."""
    chip = LoihiSim("chip")
    first = artifact.read(SHIPPED / "snn")
    cores = place(reader.read_network(first)).cores
    fitting = CORES_PER_CHIP // cores
    for number in range(fitting):
        chip.load(replace(first, digest=str(number)))
    needed = (fitting + 1) * cores
    with pytest.raises(CapacityError, match=f"digits/snn on chip: {needed} cores exceed the limit of 128"):
        chip.load(replace(first, digest="one more"))
    chip.load(replace(first, digest="0"))
    chip.unload(replace(first, digest="1"))
    assert chip.load(replace(first, digest="one more")).cost(4).seconds > 0


def test_power(opening: Opening, way: str) -> None:
    """Where a device can be powered down it draws nothing and runs nothing then, and afterwards all is as before."""
    opened = opening(way, "sleeper")
    resident = shipped(opened)
    program, images = opened.load(resident), np.zeros((1, 8, 8), np.uint8)
    point, reopening, watts = _ways(resident)[0], opened.reopening(), opened.static_watts()
    before = program(images, *point)
    opened.power(False)
    if reopening is None:
        assert opened.static_watts() == watts
    else:
        assert 0 < reopening.dynamic_joules <= reopening.upper_joules < math.inf
        assert reopening.seconds > 0
        assert opened.static_watts() == 0.0
        with pytest.raises(DeviceUnavailable, match="sleeper: lost"):
            program(images, *point)
    opened.power(True)
    assert opened.static_watts() == watts
    assert np.array_equal(program(images, *point).scores, before.scores)
    opened.close()


def test_power_up_takes_its_time() -> None:
    """The stick is occupied while its firmware boots, and only when it was down."""
    pauses: list[float] = []
    stick = Ncs2Sim("stick", threads=1, pause=pauses.append)
    stick.power(True)
    assert pauses == []
    stick.power(False)
    stick.power(True)
    assert pauses == [ncs2.REOPENING_SECONDS]


def test_pause_fills_the_modelled_time() -> None:
    """A simulator keeps its device occupied for what the modelled time exceeds the computing, and no less."""
    pauses: list[float] = []
    chip = LoihiSim("chip", pause=pauses.append)
    stick = Ncs2Sim("stick", threads=1, pause=pauses.append)
    seconds = stick.load(artifact.read(SHIPPED / "dnn"))(np.zeros((50, 8, 8), np.uint8), 1).seconds
    assert len(pauses) == 1
    assert 0 < pauses[0] < seconds
    chip.load(artifact.read(SHIPPED / "snn"))(np.zeros((1, 8, 8), np.uint8), 1)
    computed = occupy(0.0, -1.0, pauses.append)
    assert computed > 0


def test_float_images() -> None:
    """A float32 picture in 0 to 1 scores as the uint8 picture in 0 to 255 that it is."""
    images = np.random.default_rng(2).integers(0, 256, (4, 8, 8), np.uint8)
    for driver, variant in (("loihi-sim", "snn"), ("cpu", "dnn")):
        opened = open_device(driver, "x", threads=1, core_watts=8.0, time_limit_seconds=1.0)
        whole = artifact.read(SHIPPED / variant)
        scores = opened.load(whole)(images, 1).scores
        spec = msgspec.structs.replace(whole.manifest.input, dtype="float32")
        manifest = msgspec.structs.replace(whole.manifest, input=spec)
        fractions = np.multiply(images, 1 / 255, dtype=np.float32 if driver == "cpu" else np.float64)
        assert np.allclose(opened.load(replace(whole, manifest=manifest))(fractions, 1).scores, scores, atol=1e-4)


def test_errors_carry_their_data() -> None:
    """The layer's errors form one tree and say object, figure, limit, reason."""
    unavailable = DeviceUnavailable("stick", Reason.HUNG, "no answer")
    wrong = InputError("image", "is empty")
    assert str(unavailable) == "stick: hung (no answer)"
    assert (unavailable.device, unavailable.reason, unavailable.detail) == ("stick", Reason.HUNG, "no answer")
    assert str(DeviceUnavailable("stick", Reason.LOST)) == "stick: lost"
    assert (str(wrong), wrong.field, wrong.reason) == ("image: is empty", "image", "is empty")
    assert all(isinstance(error, HalError) for error in (unavailable, wrong, CapacityError("x", 2, 1, "cores")))
