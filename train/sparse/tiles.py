"""Register tiles for the native backend: LLVM vectors that hold partial sums while numbers are multiplied into them.

Loops alone do not do it: with 16 channels or fewer, the compiler keeps a short row of sums in memory.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

FLOAT = ir.FloatType()
WORD = ir.IntType(64)
ROW = ir.IntType(32)
CONTRACT = ("contract",)  # a multiplication and an addition may become one instruction


def _pointer(builder: Any, address: Any, offset: Any, kind: Any) -> Any:
    """Typed pointer to element ``offset`` of the float array at ``address``."""
    floats = builder.inttoptr(address, FLOAT.as_pointer())
    return builder.bitcast(builder.gep(floats, [offset]), kind.as_pointer())


def _load(builder: Any, address: Any, offset: Any, kind: Any) -> Any:
    value = builder.load(_pointer(builder, address, offset, kind))
    value.align = 4
    return value


def _spread(builder: Any, scalar: Any, kind: Any) -> Any:
    """A vector with the scalar in every lane."""
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(
        one, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), kind.count), None)
    )


def _multiply_add(builder: Any, a: Any, b: Any, into: Any) -> None:
    product = builder.fmul(a, b, flags=CONTRACT)
    builder.store(builder.fadd(builder.load(into), product, flags=CONTRACT), into)


def _pair(builder: Any, pairs: Any, number: Any) -> tuple[Any, Any]:
    """Input and output row of a pair."""
    table = builder.inttoptr(pairs, ROW.as_pointer())
    at = builder.shl(number, ir.Constant(WORD, 1))
    places = (at, builder.add(at, ir.Constant(WORD, 1)))
    i, o = (builder.sext(builder.load(builder.gep(table, [place])), WORD) for place in places)
    return i, o


def make_row_tile(rows: int, width: int) -> Any:
    """A tile of ``rows`` × ``width`` sums: out[o_r, d:d + width] += Σ_c x[i_r, c] · w[c, d:d + width]."""
    kind = ir.VectorType(FLOAT, width)

    @intrinsic
    def row_tile(typing_context, x, w, out, pairs, first, stop, c_in, c_out, column):  # type: ignore[no-untyped-def]
        """``pairs`` (…, 2) int32 input and output rows, used from ``first`` up to ``stop``; addresses as integers.

        Where fewer than ``rows`` are left, the last one is done several times, and written as often with equal bits.
        """

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            x_, w_, out_, pairs_, first_, stop_, c_in_, c_out_, column_ = arguments
            last = builder.sub(stop_, ir.Constant(WORD, 1))
            inputs, places, sums = [], [], []
            for r in range(rows):
                number = builder.add(first_, ir.Constant(WORD, r))
                number = builder.select(builder.icmp_signed("<", number, last), number, last)
                i, o = _pair(builder, pairs_, number)
                inputs.append(builder.mul(i, c_in_))
                places.append(_pointer(builder, out_, builder.add(builder.mul(o, c_out_), column_), kind))
                total = cgutils.alloca_once(builder, kind)
                start = builder.load(places[r])
                start.align = 4
                builder.store(start, total)
                sums.append(total)
            with cgutils.for_range(builder, c_in_) as loop:
                c = loop.index
                row = _load(builder, w_, builder.add(builder.mul(c, c_out_), column_), kind)
                for r in range(rows):
                    value = _load(builder, x_, builder.add(inputs[r], c), FLOAT)
                    _multiply_add(builder, _spread(builder, value, kind), row, sums[r])
            for r in range(rows):
                builder.store(builder.load(sums[r]), places[r]).align = 4
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), generate

    return row_tile


def make_outer_tile(rows: int, width: int) -> Any:
    """A tile of ``rows`` × ``width`` sums: out[c + r, d:d + width] += Σ_pairs x[i, c + r] · g[o, d:d + width]."""
    kind = ir.VectorType(FLOAT, width)

    @intrinsic
    def outer_tile(typing_context, x, g, out, pairs, first, stop, c_in, c_out, channel, column):  # type: ignore[no-untyped-def]
        """``pairs`` (…, 2) int32 input and output rows, from ``first`` up to ``stop``; addresses as integers."""

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            x_, g_, out_, pairs_, first_, stop_, c_in_, c_out_, channel_, column_ = arguments
            places, sums = [], []
            for r in range(rows):
                c = builder.add(channel_, ir.Constant(WORD, r))
                places.append(_pointer(builder, out_, builder.add(builder.mul(c, c_out_), column_), kind))
                total = cgutils.alloca_once(builder, kind)
                start = builder.load(places[r])
                start.align = 4
                builder.store(start, total)
                sums.append(total)
            with cgutils.for_range(builder, stop_, start=first_) as loop:
                i, o = _pair(builder, pairs_, loop.index)
                row = _load(builder, g_, builder.add(builder.mul(o, c_out_), column_), kind)
                base = builder.add(builder.mul(i, c_in_), channel_)
                for r in range(rows):
                    value = _load(builder, x_, builder.add(base, ir.Constant(WORD, r)), FLOAT)
                    _multiply_add(builder, _spread(builder, value, kind), row, sums[r])
            for r in range(rows):
                builder.store(builder.load(sums[r]), places[r]).align = 4
            return context.get_dummy_value()

        return types.void(*[types.int64] * 10), generate

    return outer_tile
