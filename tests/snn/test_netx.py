"""The reader of `.net` files: what it reads, and how it refuses what is malformed."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hal.errors import ArtifactError
from hal.snn.network import Accumulator, Conv, Delta, Dense, Lif, Sigma, SigmaDelta
from models import netx

if TYPE_CHECKING:
    from pathlib import Path

Content = dict[str, Any]
CUBA = {"type": b"CUBA", "iDecay": 4096, "vDecay": 1024, "vThMant": 25, "refDelay": 1}


def neuron(layer: int, fields: Content) -> Content:
    """Give the datasets of a layer's neuron."""
    return {f"layer/{layer}/neuron/{name}": value for name, value in fields.items()}


def small() -> Content:
    """Give the datasets of a small file: input, conv, flatten, dense, dense without neuron."""
    rng = np.random.default_rng(4)
    kernel = 2.0 * rng.integers(-20, 20, (4, 1, 3, 2, 1))
    return {
        "layer/0/type": [b"input"], "layer/0/shape": [2, 6, 5], "layer/0/weight": [36.0], "layer/0/bias": [34.0],
        **neuron(0, CUBA),
        "layer/1/type": [b"conv"], "layer/1/shape": [4, 2, 4], "layer/1/weight": kernel.astype(np.float32),
        "layer/1/bias": np.array([1.0, -2.0, 3.0, 4.0], np.float32), "layer/1/stride": [2, 1],
        "layer/1/padding": [0, 0], "layer/1/dilation": [1, 1], "layer/1/groups": 2, **neuron(1, CUBA),
        "layer/2/type": [b"flatten"], "layer/2/shape": [32],
        "layer/3/type": [b"dense"], "layer/3/shape": [3], "layer/3/weight": 2.0 * rng.integers(-9, 9, (3, 32)),
        "layer/3/bias": [5.0], "layer/3/delay": [2.0, 2.0, 2.0], **neuron(3, CUBA),
        "layer/4/type": [b"dense"], "layer/4/shape": [1], "layer/4/weight": np.array([3.0, -5.0, 255.0]),
        "simulation/tSample": 16,
    }  # fmt: skip


def write(path: Path, content: Content) -> Path:
    """Write datasets by their paths."""
    with h5py.File(path, "w") as file:
        for name, value in content.items():
            file[name] = value
    return path


def test_every_kind_of_layer_is_read(tmp_path: Path) -> None:
    """Shapes, orders and numbers of each layer kind are as lava-dl defines them."""
    content = small()
    file = netx.read_file(write(tmp_path / "small.net", content))
    first, conv, dense, output = file.network.layers
    assert file.steps == 16
    assert (file.network.encoder.scale, file.network.encoder.offset) == (36.0, 34.0)
    assert [layer.name for layer in file.network.layers] == ["00-input", "01-conv", "02-dense", "03-dense"]
    assert first.neuron == Lif(25, 4096, 1024, bias_exponent=6)
    assert first.shape == (2, 6, 5)
    assert isinstance(conv.synapse, Conv)
    np.testing.assert_array_equal(conv.synapse.weight, content["layer/1/weight"][..., 0])
    assert (conv.synapse.stride, conv.synapse.groups, conv.shape) == ((2, 1), 2, (4, 2, 4))
    assert conv.bias is not None
    np.testing.assert_array_equal(conv.bias[:, 1, 3], [1, -2, 3, 4])
    assert dense.bias is not None
    assert (dense.bias.ravel().tolist(), dense.delay) == ([5, 5, 5], 2)
    assert isinstance(output.synapse, Dense)
    assert isinstance(output.neuron, Accumulator)
    # Signs are mixed: the low bit is lost.
    assert output.synapse.weight.tolist() == [[2, -6, 254]]


def test_sigma_delta_layers_are_read(tmp_path: Path) -> None:
    """SDNN neurons become Delta in the input, Sigma where the output is summed, and SigmaDelta elsewhere."""
    content = small()
    sdnn = {"type": b"SDNN", "vThMant": 7, "activation": b"relu"}
    for layer in (0, 1, 3):
        content = {name: value for name, value in content.items() if not name.startswith(f"layer/{layer}/neuron")}
        content |= neuron(layer, sdnn)
    content |= neuron(4, {**sdnn, "sigma_output": True})
    neurons = [layer.neuron for layer in netx.read(write(tmp_path / "sdnn.net", content)).layers]
    assert neurons == [Delta(7, 6, 6), SigmaDelta(7, 6, 6), SigmaDelta(7, 6, 6), Sigma()]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [([3, 255], [3, 255]), ([-3, -256], [-3, -255]), ([-256, 255], [-256, 254]), ([0, 0], [0, 0])],
)  # fmt: skip
def test_weights_are_as_on_the_chip(weights: list[int], expected: list[int]) -> None:
    """Signed weights lose their low bit; weights of one sign have eight bits of magnitude."""
    assert netx.as_on_chip(np.array([weights])).tolist() == [expected]


BAD: list[tuple[Content, str]] = [
    ({"layer/1/type": [b"average"]}, "layer, 1: type 'average' has no meaning here, known types are input, flatten,"),
    ({"layer/1/type": [b"dense_comp"]}, "type 'dense_comp' has no meaning"),
    ({"layer/1/type": 5}, "layer, 1: type is not a text"),
    ({"layer/0/type": [b"dense"]}, "layer, 0: type 'dense', the first layer must be of type 'input'"),
    ({"layer/0/shape": [2, -6, 5]}, "layer, 0: shape reaches from -6 to 5, the limit is 1 to 65536"),
    ({"layer/0/shape": [2.5, 6, 5]}, "layer, 0: shape holds 2.5, whole numbers are needed"),
    ({"layer/0/shape": [65536, 65536, 65536]}, "281474976710656 neurons exceed the limit of 4194304"),
    ({"layer/0/shape": [1] * 9}, "shape declares 9 elements, the limit is 3"),
    ({"layer/1/shape": [4, 3, 3]}, r"layer, 1: shape \(4, 3, 3\), weight and stride give \(4, 2, 4\)"),
    ({"layer/3/weight": np.full((3, 32), 1000.0)}, "layer, 3: weight reaches from 1000.0 to 1000.0, the limit is -256"),
    ({"layer/3/weight": np.full((3, 32), np.nan)}, "layer, 3: weight reaches from nan to nan"),
    ({"layer/3/weight": np.full((3, 32), 0.5)}, "layer, 3: weight holds 0.5, whole numbers are needed"),
    ({"layer/3/weight": np.zeros((3, 31))}, "layer, 3: weights for 31 inputs, the layer before has 32 neurons"),
    ({"layer/3/weight": np.zeros((4, 32))}, r"layer, 3: weight of shape \(4, 32\), \(3, 32\) is needed"),
    ({"layer/3/weight": np.zeros((3, 32), "S3")}, r"layer, 3: weight is of type \|S3, numbers are needed"),
    ({"layer/3/weight/imag": np.zeros((3, 32))}, "layer, 3: weight is not an array"),
    ({"layer/1/bias": np.full(4, 4096.0)}, "layer, 1: bias reaches from 4096.0 to 4096.0, the limit is -4096 to 4095"),
    ({"layer/1/bias": np.zeros(3)}, r"layer, 1: bias of shape \(3,\) for neurons of shape \(4, 2, 4\)"),
    ({"layer/1/stride": [0, 1]}, "layer, 1: stride reaches from 0 to 1, the limit is 1 to 65536"),
    ({"layer/1/groups": 3}, "layer, 1: 4 output channels do not divide into 3 groups"),
    ({"layer/1/neuron/type": b"ADRF_PHASE"}, "layer, 1, neuron: type 'ADRF_PHASE' has no meaning here"),
    ({"layer/1/neuron/vThMant": 1 << 17}, "layer, 1, neuron: vThMant reaches from 131072 to 131072, the limit is 0"),
    ({"layer/1/neuron/iDecay": -1}, "iDecay reaches from -1 to -1, the limit is 0 to 4096"),
    ({"layer/3/delay": [0.0, 1.0, 2.0]}, "layer, 3: 3 different delays, one for all synapses of a layer"),
    ({"layer/3/delay": 63.0}, "layer, 3: delay reaches from 63.0 to 63.0, the limit is 0 to 62"),
    ({"layer/4/bias": [3.0]}, "layer, 4: bias without neuron"),
    ({"layer/6/type": [b"dense"]}, "layer: 5 is missing"),
    ({"simulation/tSample": -4}, "simulation: tSample reaches from -4 to -4, the limit is 1 to 65536"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "reason"), BAD)
def test_a_malformed_file_is_refused(tmp_path: Path, damage: Content, reason: str) -> None:
    """The error names file, layer, figure and limit."""
    content = {
        name: value for name, value in small().items()
        if name not in damage and not any(other.startswith(f"{name}/") for other in damage)
    }  # fmt: skip
    with pytest.raises(ArtifactError, match=r"^bad\.net.*" + reason):
        netx.read(write(tmp_path / "bad.net", content | damage))


@pytest.mark.parametrize("name", ["layer/0/neuron", "layer/1/shape", "layer/1/weight", "layer/3/shape", "layer/3/type"])
def test_what_is_missing_is_named(tmp_path: Path, name: str) -> None:
    """A file without a needed part is refused."""
    content = {other: value for other, value in small().items() if not other.startswith(name)}
    with pytest.raises(ArtifactError, match=r"missing|input layer without neurons"):
        netx.read(write(tmp_path / "bad.net", content))


@pytest.mark.parametrize(
    ("dtype", "shape", "reason"),
    [
        ("f4", (10**6, 10**6), "weight declares 1000000000000 elements, the limit is 16777216"),
        (np.dtype(("f4", (10**8,))), (1,), "weight has elements of 400000000 bytes, the limit is 8"),
        ("S1000000000", (1,), "weight has elements of 1000000000 bytes, the limit is 8"),
    ],
)  # fmt: skip
def test_an_absurd_size_is_refused_before_it_is_allocated(
    tmp_path: Path, dtype: Any, shape: tuple[int, ...], reason: str
) -> None:
    """A small file that declares terabytes costs no memory."""
    path = write(tmp_path / "bad.net", {name: value for name, value in small().items() if name != "layer/3/weight"})
    space = h5py.h5s.create_simple(shape)
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((1,) * len(shape))
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    with h5py.File(path, "r+") as file:
        h5py.h5d.create(file.id, b"layer/3/weight", h5py.h5t.py_create(np.dtype(dtype)), space, properties)
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError, match=reason):
            netx.read(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_link_out_of_the_file_is_not_followed(tmp_path: Path) -> None:
    """An external link is refused, whatever it leads to."""
    content = {name: value for name, value in small().items() if name != "layer/3/weight"}
    path = write(tmp_path / "bad.net", content | {"layer/3/weight": h5py.ExternalLink("other.net", "/weight")})
    write(tmp_path / "other.net", {"weight": np.zeros((3, 32))})
    with pytest.raises(ArtifactError, match="layer, 3: weight is missing"):
        netx.read(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Give the bytes of a valid file."""
    return write(tmp_path_factory.mktemp("netx") / "small.net", small()).read_bytes()


@pytest.mark.parametrize("length", [0, 1, 8, 100, 2000, 5000])
def test_a_truncated_file_is_refused(tmp_path: Path, whole: bytes, length: int) -> None:
    """A file that ends too early is not read."""
    path = tmp_path / "cut.net"
    path.write_bytes(whole[:length])
    with pytest.raises(ArtifactError, match=r"^cut\.net: cannot be read as HDF5"):
        netx.read(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A path that leads nowhere is an error like any other."""
    with pytest.raises(ArtifactError, match=r"^none\.net: cannot be read"):
        netx.read(tmp_path / "none.net")


ODD = st.one_of(
    st.integers(-(2**40), 2**40),
    st.floats(),
    # HDF5 has no string that holds a zero byte; opaque data may.
    st.binary(max_size=12).filter(lambda value: b"\0" not in value),
    st.binary(min_size=1, max_size=12).map(np.void),
    st.lists(st.integers(-3, 70000), max_size=5),
    st.sampled_from([np.zeros((0, 4)), np.zeros((3, 3, 3, 3, 3, 3)), np.array([np.inf]), np.array([1j]), True]),
)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_odd_content_is_refused_or_read(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever a dataset holds, or if it is missing: a network, or ArtifactError."""
    content = small()
    for name in data.draw(st.lists(st.sampled_from(sorted(content)), min_size=1, max_size=3, unique=True)):
        content[name] = data.draw(ODD)
        if data.draw(st.booleans()):
            del content[name]
    path = write(tmp_path / "odd.net", content)
    try:
        assert len(netx.read(path).layers) == 4
    except ArtifactError as error:
        assert error.subject.startswith("odd.net")  # noqa: PT017


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bytes_are_refused_or_read(tmp_path: Path, whole: bytes, data: st.DataObject) -> None:
    """A file with some bytes changed gives a network or ArtifactError."""
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "flipped.net"
    path.write_bytes(damaged)
    try:
        assert len(netx.read(path).layers) >= 2
    except ArtifactError as error:
        assert error.subject.startswith("flipped.net")  # noqa: PT017
