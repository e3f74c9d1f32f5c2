"""Vectors of integers as values that numba compiles, so that a kernel says what runs in parallel.

LLVM maps a vector to whatever the processor has (AVX2, AVX-512, NEON). Loads and stores take a one-dimensional array
and the index of the first element; nothing checks that so many elements are there.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import models, overload, register_model

from hal.snn.fast_compile import intrinsic


class LanesType(types.Type):
    """`count` integers of `bits` bits."""

    def __init__(self, bits: int, count: int) -> None:
        self.bits = bits
        self.count = count
        super().__init__(name=f"Lanes({bits}, {count})")

    @property
    def vector(self) -> ir.VectorType:
        """Give the vector of LLVM."""
        return ir.VectorType(ir.IntType(self.bits), self.count)


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: LanesType) -> None:
        super().__init__(manager, lanes, lanes.vector)


def _repeat(builder: Any, scalar: Any, lanes: LanesType) -> Any:
    undefined = ir.Constant(lanes.vector, ir.Undefined)
    single = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    order = ir.Constant(ir.VectorType(ir.IntType(32), lanes.count), [0] * lanes.count)
    return builder.shuffle_vector(single, undefined, order)


def _address(context: Any, builder: Any, signature: Any, arguments: Any, lanes: LanesType) -> Any:
    """Give where `lanes` begin; the first two arguments are the array and the index."""
    data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
    return builder.bitcast(builder.gep(data, [arguments[1]]), lanes.vector.as_pointer())


def _load(count: int) -> Any:
    def load_lanes(typing_context: Any, array: Any, index: Any) -> Any:
        lanes = LanesType(array.dtype.bitwidth, count)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            address = _address(context, builder, signature, arguments, lanes)
            return builder.load(address, align=lanes.bits // 8)

        return lanes(array, types.uint64), generate

    return intrinsic(load_lanes)


load8, load16, load32, load64 = _load(8), _load(16), _load(32), _load(64)


@intrinsic
def store(typing_context: Any, array: Any, index: Any, lanes: Any) -> Any:
    """Write all lanes, keeping the low bits where the array's elements are narrower."""
    kept = LanesType(array.dtype.bitwidth, lanes.count)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = arguments[2] if kept.bits == lanes.bits else builder.trunc(arguments[2], kept.vector)
        builder.store(value, _address(context, builder, signature, arguments, kept), align=kept.bits // 8)
        return context.get_dummy_value()

    return types.void(array, types.uint64, lanes), generate


def _splat(count: int) -> Any:
    def splat_lanes(typing_context: Any, scalar: Any) -> Any:
        lanes = LanesType(scalar.bitwidth, count)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return _repeat(builder, arguments[0], lanes)

        return lanes(scalar), generate

    return intrinsic(splat_lanes)


splat8, splat32 = _splat(8), _splat(32)


@intrinsic
def widen(typing_context: Any, lanes: Any, array: Any) -> Any:
    """Extend signed lanes to the width of an array's elements."""
    wide = LanesType(array.dtype.bitwidth, lanes.count)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return arguments[0] if lanes.bits == wide.bits else builder.sext(arguments[0], wide.vector)

    return wide(lanes, array), generate


def _lanewise(name: str, emit: Any) -> Any:
    """Make a function of two vectors of one kind from what it emits for them."""

    def operate(typing_context: Any, left: Any, right: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return emit(builder, *arguments)

        return left(left, right), generate

    operate.__name__ = name
    return intrinsic(operate)


def _emit_greater(builder: Any, left: Any, right: Any) -> Any:
    return builder.sext(builder.icmp_signed(">", left, right), left.type)


def _emit_smaller(builder: Any, left: Any, right: Any) -> Any:
    return builder.select(builder.icmp_signed("<", left, right), left, right)


def _emit_larger(builder: Any, left: Any, right: Any) -> Any:
    return builder.select(builder.icmp_signed(">", left, right), left, right)


# All bits of a lane are set where the left one is greater.
greater = _lanewise("greater", _emit_greater)
smaller = _lanewise("smaller", _emit_smaller)
larger = _lanewise("larger", _emit_larger)


def _define(symbol: Any, instruction: str) -> None:
    """Give vectors of one kind the operator `symbol`."""

    def emit(builder: Any, left: Any, right: Any) -> Any:
        return getattr(builder, instruction)(left, right)

    lanewise = _lanewise(instruction, emit)

    def operation(left: Any, right: Any) -> Any:
        return lanewise(left, right)

    @overload(symbol)
    def choose(left: Any, right: Any) -> Any:
        return operation if isinstance(left, LanesType) and left == right else None


for _symbol, _instruction in (
    (operator.add, "add"),
    (operator.sub, "sub"),
    (operator.mul, "mul"),
    (operator.and_, "and_"),
    (operator.or_, "or_"),
    (operator.lshift, "shl"),
    (operator.rshift, "ashr"),
):
    _define(_symbol, _instruction)


@intrinsic
def _inverted(typing_context: Any, lanes: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.not_(arguments[0])

    return lanes(lanes), generate


@overload(operator.invert)
def _invert(lanes: Any) -> Any:
    def operation(lanes: Any) -> Any:
        return _inverted(lanes)

    return operation if isinstance(lanes, LanesType) else None


@intrinsic
def differing(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """Give a word whose bit i tells whether element `index + i` of 64 differs from `value`."""
    lanes = LanesType(array.dtype.bitwidth, 64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, signature, arguments, lanes)
        elements = builder.load(address, align=lanes.bits // 8)
        differ = builder.icmp_unsigned("!=", elements, _repeat(builder, arguments[2], lanes))
        return builder.bitcast(differ, ir.IntType(64))

    return types.uint64(array, types.uint64, array.dtype), generate


@intrinsic
def lowest(typing_context: Any, word: Any) -> Any:
    """Give the position of the lowest bit that is set; the word must not be zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], cgutils.true_bit)

    return types.uint64(types.uint64), generate


@intrinsic
def ones(typing_context: Any, word: Any) -> Any:
    """Count the bits that are set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate
