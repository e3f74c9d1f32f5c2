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
from tests.snn import random_networks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hal.snn.network import Network

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
        place = data.draw(st.sampled_from(_places(structure)))
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
