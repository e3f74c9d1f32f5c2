"""A network taken apart and put together again, and what is refused on the way."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hal.errors import ArtifactError
from hal.snn import parts, reference
from hal.snn.network import Accumulator, Dense, Encoder, Layer, Lif, Network
from tests.snn import random_networks

if TYPE_CHECKING:
    from numpy.typing import NDArray

CASES = [random_networks.spiking(seed) for seed in range(12)] + [random_networks.sigma_delta(seed) for seed in range(6)]
ODD_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 70000),
    st.sampled_from([10**12, 10**5000, -(10**5000)]),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(-2, 10**6), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
ODD_ARRAYS: st.SearchStrategy[NDArray[Any]] = st.sampled_from(
    [
        np.zeros((0, 3), np.int16),
        np.zeros((2, 3), np.int16),
        np.full((2, 3), -128, np.int8),
        np.full((2, 3), 300, np.int16),
        np.zeros((2, 3), np.float32),
        np.full((1, 1, 1), np.nan),
        np.zeros((1, 1, 3, 3), np.int16),
        np.zeros((), np.int32),
        np.array(["x"]),
    ]
)


def same(first: Network, second: Network) -> bool:
    """Tell whether two networks are equal, weights and biases included."""
    structure, arrays = parts.take_apart(first)
    other_structure, other_arrays = parts.take_apart(second)
    equal = all(np.array_equal(arrays[name], other_arrays[name]) for name in arrays)
    return structure == other_structure and arrays.keys() == other_arrays.keys() and equal


@pytest.mark.parametrize("case", CASES)
def test_a_network_survives_its_parts(case: random_networks.Case) -> None:
    """What is taken apart and goes through JSON comes back equal."""
    structure, arrays = parts.take_apart(case.network)
    assert same(parts.put_together(json.loads(json.dumps(structure)), arrays, "net"), case.network)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the paths to all values in a JSON structure."""
    found = [path] if path else []
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        found += _places(inner, (*path, key))
    return found


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_damage_is_refused_or_harmless(data: st.DataObject) -> None:
    """A structure with values and arrays replaced, removed or added raises ArtifactError, or is a network that runs."""
    case = data.draw(st.sampled_from(CASES))
    structure, arrays = copy.deepcopy(parts.take_apart(case.network))
    for _ in range(data.draw(st.integers(1, 3))):
        places = _places(structure)
        if not places:
            break
        place = data.draw(st.sampled_from(places))
        holder = structure
        for key in place[:-1]:
            holder = holder[key]
        if isinstance(holder, dict) and data.draw(st.booleans()):
            holder.pop(place[-1], None)
            continue
        holder[place[-1]] = data.draw(ODD_VALUES)
    if len(arrays) > 0 and data.draw(st.booleans()):
        arrays[data.draw(st.sampled_from(sorted(arrays)))] = data.draw(ODD_ARRAYS)
    try:
        network = parts.put_together(structure, arrays, "net")
    except ArtifactError as error:
        assert error.subject.startswith("net")  # noqa: PT017
        return
    if network.layers[0].shape == case.network.layers[0].shape:
        reference.run(network, case.bias, 2)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("layers", 1, "neuron", "kind"), "hodgkin", "layer 1, neuron: unknown neuron kind 'hodgkin'"),
        (("layers", 1, "neuron", "threshold"), -1, "threshold -1 is outside 0 to 131071"),
        (("layers", 0, "shape"), [10**6, 10**6, 1], "layer 0: shape 1000000 is outside 1 to 65536"),
        (("layers", 0, "shape"), [65536, 65536, 1], "4294967296 neurons exceed the limit of 4194304"),
        (("layers", 1, "synapse", "kind"), "sparse", "unknown synapse kind 'sparse'"),
        (("layers", 1, "name"), "00-input", "two layers have the same name"),
        (("layers", 0, "neuron"), {"kind": "accumulator"}, "kind accumulator sends nothing, only the last layer"),
        (("layers", 1, "delay"), 63, "delay 63 is outside 0 to 62"),
    ],
)  # fmt: skip
def test_an_error_names_layer_figure_and_limit(path: tuple[Any, ...], value: Any, reason: str) -> None:
    """The message says which layer, what it has and what it may have."""
    structure, arrays = parts.take_apart(CASES[1].network)
    *way, last = path
    holder: Any = structure
    for key in way:
        holder = holder[key]
    holder[last] = value
    with pytest.raises(ArtifactError, match=reason):
        parts.put_together(structure, arrays, "net")


def test_padding_is_no_way_to_ask_for_memory() -> None:
    """A padding that would blow an input up is refused, even where the outputs stay few."""
    layer = {"name": "in", "shape": [1, 4, 4], "neuron": {"kind": "delta", "threshold": 1, "spike_exponent": 6}}
    layer["neuron"]["state_exponent"] = 6  # type: ignore[index]
    synapse = {"kind": "conv", "stride": [65536] * 2, "padding": [65536] * 2, "dilation": [1, 1], "groups": 1}
    second = {"name": "out", "shape": [1, 3, 3], "neuron": {"kind": "sigma"}, "synapse": synapse}
    structure = {"encoder": {"scale": 1.0, "offset": 0.0}, "layers": [layer, second]}
    with pytest.raises(ArtifactError, match="17180917776 inputs with their padding exceed the limit of 4194304"):
        parts.put_together(structure, {"1.weight": np.ones((1, 1, 1, 1), np.int16)}, "net")


def _two_layers(weight: NDArray[np.int16], bias: NDArray[np.int32]) -> Network:
    outputs, inputs = weight.shape
    layers = (
        Layer("in", (1, 1, inputs), Lif(100)),
        Layer("out", (outputs, 1, 1), Accumulator(), Dense(weight), bias.reshape(-1, 1, 1)),
    )
    return Network(Encoder(50.0, 50.5), layers)


@pytest.mark.parametrize(
    ("weights", "stored", "exponent"),
    [
        ((-128, 127), "int8", 0),
        ((-128, 128), "int8", 1),
        ((-256, 254), "int8", 1),
        ((-256, 255), "int16", 0),
        ((-3, 200), "int16", 0),
    ],
)
def test_weights_take_the_narrowest_type(weights: tuple[int, int], stored: str, exponent: int) -> None:
    """Weights that fit a byte, all of them or all their halves, are stored in one, and come back as they were."""
    network = _two_layers(np.array([weights], np.int16), np.array([-4096], np.int32))
    structure, arrays = parts.take_apart(network)
    assert [str(arrays[name].dtype) for name in ("1.weight", "1.bias")] == [stored, "int16"]
    assert structure["layers"][1]["synapse"].get("weight_exponent", 0) == exponent
    layer = parts.put_together(structure, arrays, "net").layers[1]
    assert isinstance(layer.synapse, Dense)
    assert layer.bias is not None
    assert [str(array.dtype) for array in (layer.synapse.weight, layer.bias)] == ["int16", "int32"]
    assert (layer.synapse.weight.tolist(), layer.bias.tolist()) == ([list(weights)], [[[-4096]]])


def test_an_older_artifact_is_read() -> None:
    """Weights in two bytes and biases in four, without an exponent, are what releases up to 0.1 wrote."""
    network = _two_layers(np.array([[-256, 254]], np.int16), np.array([7], np.int32))
    structure, _ = parts.take_apart(network)
    del structure["layers"][1]["synapse"]["weight_exponent"]
    arrays: parts.Arrays = {"1.weight": np.array([[-256, 254]], np.int16)}
    arrays["1.bias"] = np.array([7], np.int32).reshape(1, 1, 1)
    assert same(parts.put_together(structure, arrays, "net"), network)


@pytest.mark.parametrize(
    ("weight", "exponent", "reason"),
    [
        (np.array([[127, -129]], np.int16), 1, "weight reaches from -129 to 127, the limit is -128 to 127"),
        (np.array([[255, -257]], np.int16), 0, "weight reaches from -257 to 255, the limit is -256 to 255"),
        (np.array([[32767, 0]], np.int16), 1, "weight reaches from 0 to 32767, the limit is -128 to 127"),
        (np.array([[1, 2]], np.int8), 2, "weight_exponent 2 is outside 0 to 1"),
        (np.array([[1, 2]], np.int8), -1, "weight_exponent -1 is outside 0 to 1"),
        (np.array([[1, 2]], np.int32), 0, "weight is int32, int8 or int16 is needed"),
        (np.array([[1, 2]], np.uint8), 0, "weight is uint8, int8 or int16 is needed"),
    ],
)
def test_no_exponent_leads_out_of_the_range(weight: NDArray[Any], exponent: int, reason: str) -> None:
    """What a stored number and its exponent give stays a weight of the chip, in a type that is known."""
    structure, _ = parts.take_apart(_two_layers(np.array([[2, 4]], np.int16), np.zeros(1, np.int32)))
    structure["layers"][1]["synapse"]["weight_exponent"] = exponent
    with pytest.raises(ArtifactError, match=f"layer 1, synapse: {reason}"):
        parts.put_together(structure, {"1.weight": weight}, "net")
