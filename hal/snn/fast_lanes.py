"""Vectors of sixteen integers as values that numba compiles, so that kernels say what runs in parallel.

LLVM maps a vector to whatever the processor has (AVX2, AVX-512, NEON). Loads and stores take a one-dimensional array
and the index of the first element; nothing checks that sixteen elements are there.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

LANES = 16


class LanesType(types.Type):
    """Sixteen integers of `bits` bits."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        super().__init__(name=f"Lanes({bits})")


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: LanesType) -> None:
        super().__init__(manager, lanes, _vector(lanes.bits))


def _vector(bits: int) -> ir.VectorType:
    return ir.VectorType(ir.IntType(bits), LANES)


def _splat(builder: Any, scalar: Any) -> Any:
    vector = ir.VectorType(scalar.type, LANES)
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    order = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(single, ir.Constant(vector, ir.Undefined), order)


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any, vector: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


@intrinsic
def load(typing_context: Any, array: Any, index: Any) -> Any:
    """Read sixteen elements."""
    lanes = LanesType(array.dtype.bitwidth)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, array, arguments[0], arguments[1], _vector(lanes.bits))
        return builder.load(address, align=array.dtype.bitwidth // 8)

    return lanes(array, types.uint64), generate


@intrinsic
def store(typing_context: Any, array: Any, index: Any, lanes: Any) -> Any:
    """Write sixteen elements, keeping the low bits where the array's are narrower."""
    bits = array.dtype.bitwidth

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, array, arguments[0], arguments[1], _vector(bits))
        value = arguments[2] if bits == lanes.bits else builder.trunc(arguments[2], _vector(bits))
        builder.store(value, address, align=bits // 8)
        return context.get_dummy_value()

    return types.void(array, types.uint64, lanes), generate


@intrinsic
def splat(typing_context: Any, scalar: Any) -> Any:
    """Repeat an integer in all lanes of its width."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _splat(builder, arguments[0])

    return LanesType(scalar.bitwidth)(scalar), generate


@intrinsic
def fit(typing_context: Any, lanes: Any, array: Any) -> Any:
    """Extend signed lanes to the width of an array's elements."""
    bits = array.dtype.bitwidth

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return arguments[0] if lanes.bits == bits else builder.sext(arguments[0], _vector(bits))

    return LanesType(bits)(lanes, array), generate


@intrinsic
def widen(typing_context: Any, lanes: Any) -> Any:
    """Extend the signed lanes to 32 bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return arguments[0] if lanes.bits == 32 else builder.sext(arguments[0], _vector(32))

    return LanesType(32)(lanes), generate


def _compare(name: str, sign: str) -> Any:
    """Make a function of two vectors whose lanes are all ones where `left sign right` holds, else zero."""

    def compare(typing_context: Any, left: Any, right: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.sext(builder.icmp_signed(sign, *arguments), _vector(left.bits))

        return left(left, right), generate

    compare.__name__ = name
    return intrinsic(compare)


def _extreme(name: str, sign: str) -> Any:
    """Make a function of two vectors that takes the left lane where `left sign right` holds, else the right one."""

    def extreme(typing_context: Any, left: Any, right: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.select(builder.icmp_signed(sign, *arguments), *arguments)

        return left(left, right), generate

    extreme.__name__ = name
    return intrinsic(extreme)


greater = _compare("greater", ">")
smaller = _extreme("smaller", "<")
larger = _extreme("larger", ">")


def _define(symbol: Any, instruction: str) -> None:
    """Give vectors the operator `symbol`, lane by lane, on two vectors of one width."""

    def operate(typing_context: Any, left: Any, right: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return getattr(builder, instruction)(*arguments)

        return left(left, right), generate

    operate.__name__ = instruction
    lanewise = intrinsic(operate)

    def compiled(left: Any, right: Any) -> Any:
        return lanewise(left, right)

    @overload(symbol)
    def _operator(left: Any, right: Any) -> Any:
        return compiled if isinstance(left, LanesType) and left == right else None


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
def differing(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """Give a word whose bit i tells whether element `index + i` of 64 differs from `value`."""
    bits = array.dtype.bitwidth
    vector = ir.VectorType(ir.IntType(bits), 64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        elements = builder.load(_address(context, builder, array, arguments[0], arguments[1], vector), align=bits // 8)
        single = builder.insert_element(ir.Constant(vector, ir.Undefined), arguments[2], ir.Constant(ir.IntType(32), 0))
        order = ir.Constant(ir.VectorType(ir.IntType(32), 64), [0] * 64)
        same = builder.shuffle_vector(single, ir.Constant(vector, ir.Undefined), order)
        return builder.bitcast(builder.icmp_unsigned("!=", elements, same), ir.IntType(64))

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
