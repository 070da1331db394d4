"""Which samples of a waveform are lit: one pass at the speed of memory, whichever way the waveform lies there."""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

LOWEST = np.float32(np.finfo(np.float32).min)
LANES = 8  # float32 values of a vector register
HIGHEST = np.float32(np.finfo(np.float32).max)


@intrinsic
def lowest_bit(typing_context, value):  # type: ignore[no-untyped-def]
    """Position of the lowest set bit of a uint64 that is not 0."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), generate


@intrinsic
def outside(typing_context, flat, start, lower, upper):  # type: ignore[no-untyped-def]
    """Mask of those of ``flat[start : start + 64]``, float32, that are NaN, above upper or below lower."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        values = context.make_array(signature.args[0])(context, builder, args[0])
        first = builder.gep(values.data, [args[1]])
        vector, index, word = ir.VectorType(ir.FloatType(), LANES), ir.IntType(32), ir.IntType(64)
        nothing = ir.Constant(vector, ir.Undefined)
        everywhere = ir.Constant(ir.VectorType(index, LANES), None)
        lower, upper = (
            builder.shuffle_vector(builder.insert_element(nothing, level, index(0)), nothing, everywhere)
            for level in args[2:]
        )
        mask = word(0)
        for lane in range(0, 64, LANES):
            place = builder.bitcast(builder.gep(first, [word(lane)]), vector.as_pointer())
            loaded = builder.load(place, align=4)
            above = builder.fcmp_unordered(">", loaded, upper)  # true for NaN
            either = builder.or_(above, builder.fcmp_ordered("<", loaded, lower))
            part = builder.zext(builder.bitcast(either, ir.IntType(LANES)), word)
            mask = builder.or_(mask, builder.shl(part, word(lane)))
        return mask

    return types.uint64(flat, types.int64, types.float32, types.float32), generate


@njit(cache=True, nogil=True)
def scan(flat, offset, stride, length, first_line, end_line, threshold, out_bits, out_any):  # type: ignore[no-untyped-def]
    """Bit maps of the samples above the threshold, in lines of ``length`` values that begin ``stride`` apart.

    ``out_bits``: (lines, words) uint64; ``out_any``: (lines,) bool, whether there is one at all. Returns the flat
    position of a NaN or infinity, else -1.
    """
    whole = length >> 6
    for line in range(first_line, end_line):
        base = offset + line * stride
        together = np.uint64(0)
        for word in range(whole):
            bits = outside(flat, base + 64 * word, LOWEST, threshold)
            if bits and outside(flat, base + 64 * word, LOWEST, HIGHEST):
                return first_not_finite(flat, base + 64 * word, base + 64 * word + 64)
            out_bits[line, word] = bits
            together |= bits
        if length & 63:
            bits = np.uint64(0)
            for place in range(64 * whole, length):
                if flat[base + place] > threshold:
                    bits |= np.uint64(1) << np.uint64(place & 63)
            out_bits[line, whole] = bits
            together |= bits
            wrong = first_not_finite(flat, base + 64 * whole, base + length)
            if wrong >= 0:
                return wrong
        out_any[line] = together != 0
    return -1


@njit(cache=True, nogil=True)
def first_not_finite(flat, begin, end):  # type: ignore[no-untyped-def]
    """Position of the first NaN or infinity, else -1."""
    for i in range(begin, end):
        if flat[i] - flat[i] != 0.0:
            return i
    return -1


@njit(cache=True, nogil=True)
def count_by_row(bits, some, lines_are_rows, out_counts):  # type: ignore[no-untyped-def]
    """Add each row's set bits to ``out_counts``; the other arguments are as for ``list_rows`` and ``list_columns``."""
    one = np.uint64(1)
    for line in range(bits.shape[0]):
        if not some[line]:
            continue
        for word in range(bits.shape[1]):
            rest = bits[line, word]
            while rest:
                row = line if lines_are_rows else 64 * word + np.int64(lowest_bit(rest))
                out_counts[row] += 1
                rest &= rest - one


@njit(cache=True, nogil=True)
def list_rows(bits, some, begin, end, out_start, out_column):  # type: ignore[no-untyped-def]
    """Columns of rows begin … end, of bit maps (row, column words): ``out_column[out_start[i] : out_start[i + 1]]``.

    ``some``: (rows,) bool, rows with a set bit. Returns the number of columns; where it is more than ``out_column``
    holds, call again with more room.
    """
    one = np.uint64(1)
    n = 0
    for row in range(begin, end):
        out_start[row - begin] = n
        if not some[row]:
            continue
        for word in range(bits.shape[1]):
            rest = bits[row, word]
            while rest:
                if n < out_column.shape[0]:
                    out_column[n] = 64 * word + np.int64(lowest_bit(rest))
                n += 1
                rest &= rest - one
    out_start[end - begin] = n
    return n


@njit(cache=True, nogil=True)
def list_columns(bits, some, begin, end, out_start, out_column):  # type: ignore[no-untyped-def]
    """As ``list_rows``, of bit maps (column, row words); ``some``: (columns,) bool."""
    one = np.uint64(1)
    out_start[: end - begin + 1] = 0
    words = range(begin >> 6, (end + 63) >> 6)
    for column in range(bits.shape[0]):
        if not some[column]:
            continue
        for word in words:
            rest = bits[column, word] & between(64 * word, begin, end)
            while rest:
                out_start[64 * word + np.int64(lowest_bit(rest)) - begin + 1] += 1
                rest &= rest - one
    for i in range(end - begin):
        out_start[i + 1] += out_start[i]
    n = out_start[end - begin]
    if n > out_column.shape[0]:
        return n
    for column in range(bits.shape[0]):
        if not some[column]:
            continue
        for word in words:
            rest = bits[column, word] & between(64 * word, begin, end)
            while rest:
                i = 64 * word + np.int64(lowest_bit(rest)) - begin
                rest &= rest - one
                out_column[out_start[i]] = column
                out_start[i] += 1
    for i in range(end - begin, 0, -1):  # each start has moved to the next one
        out_start[i] = out_start[i - 1]
    out_start[0] = 0
    return n


@njit(cache=True, nogil=True)
def between(first, begin, end):  # type: ignore[no-untyped-def]
    """Mask of those of the 64 numbers from ``first`` on that lie in begin … end."""
    mask = ~np.uint64(0)
    if begin > first:
        mask &= ~np.uint64(0) << np.uint64(begin - first)
    if end < first + 64:
        mask &= ~(~np.uint64(0) << np.uint64(end - first))
    return mask
