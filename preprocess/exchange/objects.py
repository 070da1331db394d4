"""Object arrays of npy files without unpickling: the opcodes are interpreted, and nothing but numbers comes out.

NumPy writes an object array as a pickle, and a pickle is a program. Here its opcodes (listed by ``pickletools``, which
runs nothing) move inert records on a stack. Only the handful of opcodes and the three names that NumPy's own arrays
need are known; anything else is an InputError that names it.
"""

import math
import pickletools
import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore.errors import InputError

Array = npt.NDArray[Any]
# The header as NumPy writes it; a format this narrow leaves nothing to interpret.
HEADER = re.compile(rb"\{'descr': '\|O', 'fortran_order': False, 'shape': \((\d{1,9}),\), \}\s*")
NAMES = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("numpy.core.multiarray", "_reconstruct"): "reconstruct",
    ("numpy._core.multiarray", "_reconstruct"): "reconstruct",
}
OPCODES_PER_ARRAY = 100  # NumPy needs 30
OPCODES_PER_ROW = 30  # that a row earns which is there; NumPy needs 22
BYTES_PER_ROW = 32  # of a list of rows, at least: NumPy needs 70 for a row of four numbers
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
# The argument is the value.
LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BINUNICODE",
            "SHORT_BINUNICODE"}  # fmt: skip
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
IGNORED = {"PROTO", "FRAME"}
NUMBERS = re.compile(r"[fiu][1248]")


class _RefusedError(ValueError):
    """The pickle does something that a numeric array does not need."""


@dataclass
class _Name:
    what: str


class _Mark:
    pass


@dataclass
class _Dtype:
    kind: str
    order: str = "|"


@dataclass
class _Array:
    state: tuple[Any, ...] = ()


def is_object_npy(data: bytes) -> bool:
    """Whether these are the bytes of an npy file with an object array."""
    return b"'descr': '|O'" in data[:128]


def read_objects(data: bytes, where: str) -> list[Array]:
    """The numeric arrays in an npy file's one-dimensional object array; a list of equally long rows is one too.

    Raises:
        InputError: not such a file, or a pickle that does anything but to hold numeric arrays. Nothing is executed.
    """
    (length,) = struct.unpack_from("<H", data, 8) if len(data) >= 10 else (0,)
    match = HEADER.fullmatch(data[10 : 10 + length])
    if data[:8] != b"\x93NUMPY\x01\x00" or match is None:
        raise InputError(f"{where}: is not a one-dimensional object array. Fix: write it again with numpy.save.")
    n = int(match[1])
    body = data[10 + length :]
    if n > len(body):
        raise InputError(f"{where}: {len(body)} bytes cannot hold {n} arrays. Fix: copy or write the file again.")
    try:
        most_rows = len(body) // BYTES_PER_ROW
        top = _run(body, OPCODES_PER_ARRAY * (n + 2))
        return _elements(top, n, most_rows)
    except (ValueError, TypeError, LookupError, OverflowError, struct.error, MemoryError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(
            f"{where}: its pickle holds more than numeric arrays, or is damaged ({reason}). Fix: write it again, one "
            "array of numbers for each event; pickles are not executed."
        ) from error


def _run(body: bytes, limit: int) -> Any:
    """Interpret the opcodes; returns what the pickle stands for, as our records."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    argument: Any
    for count, (opcode, argument, _) in enumerate(pickletools.genops(body)):
        name = opcode.name
        if count > limit:
            raise _RefusedError(f"more than {limit} opcodes")
        if name == "STOP":
            (top,) = stack
            return top
        if name in IGNORED:
            continue
        if name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in LITERALS:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            stack.append(_Mark())
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name in TUPLES:
            _tuple(stack, TUPLES[name])
        elif name == "TUPLE":
            stack.append(tuple(_to_mark(stack)))
        elif name == "APPENDS":
            items = _to_mark(stack)
            _expect_list(stack[-1]).extend(items)
        elif name == "APPEND":
            item = stack.pop()
            _expect_list(stack[-1]).append(item)
        elif name == "GLOBAL":
            stack.append(_name(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_name(module, attribute))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_reduce(function, arguments))
        elif name == "BUILD":
            state = stack.pop()
            _build(stack[-1], state)
            limit += OPCODES_PER_ROW * isinstance(stack[-1], _Array)
        else:
            raise _RefusedError(f"opcode {name}")
    raise _RefusedError("no end")


def _tuple(stack: list[Any], n: int) -> None:
    if len(stack) < n:
        raise _RefusedError("a tuple of nothing")
    items = tuple(stack[-n:])
    del stack[-n:]
    stack.append(items)


def _to_mark(stack: list[Any]) -> list[Any]:
    items: list[Any] = []
    while not isinstance(item := stack.pop(), _Mark):
        items.append(item)
    return items[::-1]


def _expect_list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _RefusedError("appends to what is no list")
    return value


def _name(module: Any, attribute: Any) -> _Name:
    if (module, attribute) not in NAMES:
        raise _RefusedError(f"asks for {str(module)[:40]}.{str(attribute)[:40]}")
    return _Name(NAMES[module, attribute])


def _reduce(function: Any, arguments: Any) -> _Array | _Dtype:
    if function == _Name("reconstruct") and arguments == (_Name("ndarray"), (0,), b"b"):
        return _Array()
    if function == _Name("dtype") and isinstance(arguments, tuple) and len(arguments) == 3:
        kind = arguments[0]
        if kind == "O8" or (isinstance(kind, str) and NUMBERS.fullmatch(kind)):
            return _Dtype(kind)
    raise _RefusedError("a call that makes no array")


def _build(target: Any, state: Any) -> None:
    if not isinstance(state, tuple):
        raise _RefusedError("a state that is no tuple")
    if isinstance(target, _Dtype):
        version, order, *rest = state
        if version != 3 or order not in ("<", ">", "|") or rest[:3] != [None, None, None]:
            raise _RefusedError("a compound dtype")
        target.order = order
    elif isinstance(target, _Array) and not target.state:
        version, shape, dtype, fortran, payload = state
        if version != 1 or not isinstance(dtype, _Dtype) or not isinstance(fortran, bool):
            raise _RefusedError("an array of another version")
        if not isinstance(shape, tuple) or not all(type(i) is int and i >= 0 for i in shape):
            raise _RefusedError("an array without shape")
        # What it is now: a dtype that is built again later does not change it.
        target.state = (shape, dtype.kind, dtype.order, fortran, payload)
    else:
        raise _RefusedError("a state for what is no array")


def _elements(top: Any, n: int, most_rows: int) -> list[Array]:
    if not isinstance(top, _Array) or not top.state:
        raise _RefusedError("no array")
    shape, kind, _, _, payload = top.state
    if kind != "O8" or shape != (n,) or not isinstance(payload, list) or len(payload) != n:
        raise _RefusedError(f"not {n} objects")
    # One list may be named many times: what is made of it must not outgrow the file.
    if sum(len(item) for item in payload if isinstance(item, list)) > most_rows:
        raise _RefusedError(f"more than {most_rows} rows")
    return [_rows(item) if isinstance(item, list) else _numbers(item) for item in payload]


def _rows(items: list[Any]) -> Array:
    """The research code's joined truth: a list with an array of numbers for each row."""
    rows = [_numbers(item) for item in items]
    if not rows or len({row.shape for row in rows}) > 1 or rows[0].ndim != 1 or len({row.dtype for row in rows}) > 1:
        raise _RefusedError("a list that is no table")
    return np.array(rows)


def _numbers(item: Any) -> Array:
    if not isinstance(item, _Array) or not item.state:
        raise _RefusedError("an element that is no array")
    shape, kind, order, fortran, payload = item.state
    if kind == "O8" or not isinstance(payload, bytes):
        raise _RefusedError("an element that is no numeric array")
    dtype = np.dtype(("" if order == "|" else order) + kind)
    if math.prod(shape) * dtype.itemsize != len(payload):
        raise _RefusedError(f"{len(payload)} bytes for shape {shape}")
    return np.frombuffer(payload, dtype).reshape(shape, order="F" if fortran else "C")


def write_objects(arrays: list[npt.NDArray[np.float64]]) -> bytes:
    """An npy file with an object array of float64 arrays, for ``numpy.load(…, allow_pickle=True)`` of any version.

    The pickle is written here, opcode by opcode: NumPy 2 would name modules that NumPy 1 does not have.
    """
    items = b"".join(_pickled(a.shape, b"cnumpy\ndtype\n" + _DOUBLE, _bytes(a)) for a in arrays)
    payload = b"](" + items + b"e" if arrays else b"]"
    pickle = b"\x80\x03" + _pickled((len(arrays),), b"cnumpy\ndtype\n" + _OBJECT, payload) + b"."
    text = f"{{'descr': '|O', 'fortran_order': False, 'shape': ({len(arrays)},), }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + pickle


_NEW_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
_STATE_TAIL = b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
_DOUBLE = b"X\x02\x00\x00\x00f8K\x00K\x01\x87R(K\x03X\x01\x00\x00\x00<" + _STATE_TAIL + b"K\x00tb"
_OBJECT = b"X\x02\x00\x00\x00O8K\x00K\x01\x87R(K\x03X\x01\x00\x00\x00|" + _STATE_TAIL + b"K\x3ftb"


def _pickled(shape: tuple[int, ...], dtype: bytes, payload: bytes) -> bytes:
    sizes = b"(" + b"".join(b"J" + struct.pack("<i", size) for size in shape) + b"t"
    return _NEW_ARRAY + b"(K\x01" + sizes + dtype + b"\x89" + payload + b"tb"


def _bytes(array: npt.NDArray[np.float64]) -> bytes:
    data = np.ascontiguousarray(array, "<f8").tobytes()
    return b"B" + struct.pack("<I", len(data)) + data
