"""Object arrays are read without unpickling: whatever else a pickle holds is one line, and nothing runs."""

import io
import os
import pickle
import re
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from larstore.errors import InputError
from preprocess.exchange.objects import is_object_npy, read_objects, write_objects
from preprocess.exchange.research import read_xy

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "tiling"
MUTATIONS = 500


def objects_of(values):
    objects = np.empty(len(values), object)
    for i, value in enumerate(values):
        objects[i] = value
    return objects


def saved(values, protocol=None):
    """The npy file of an object array; ``protocol``: pickled anew."""
    objects = objects_of(values)
    stream = io.BytesIO()
    np.save(stream, objects)
    return stream.getvalue() if protocol is None else with_pickle(pickle.dumps(objects, protocol), len(values))


def with_pickle(body, n=1):
    head = write_objects([])
    head = head[: head.index(b"\x80\x03")]
    spare = b" " * (len(str(n)) - 1)  # the header keeps its length
    return head.replace(b"(0,), }" + spare, f"({n},), }}".encode()) + body


@settings(max_examples=60, deadline=None)
@given(st.lists(arrays(st.sampled_from(["f8", "<f4", ">f8", "i8", "u2"]), st.sampled_from([(3, 4), (0, 4), (5,)]))))
def test_what_numpy_writes_is_read(values):
    for protocol in (None, 3, 4):
        found = read_objects(saved([*values, np.ones(1)], protocol), "x")
        assert len(found) == len(values) + 1
        for a, b in zip(found, values, strict=False):
            assert (a.dtype, a.tobytes(), a.shape) == (b.dtype, b.tobytes(), b.shape)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 300)))
def test_what_we_write_is_read_by_numpy_and_by_us(lengths):
    values = [np.random.default_rng(n).normal(size=(n, 4)) for n in lengths]
    data = write_objects(values)
    assert is_object_npy(data)
    for found in (np.load(io.BytesIO(data), allow_pickle=True), read_objects(data, "x")):
        assert len(found) == len(values)
        for a, b in zip(found, values, strict=True):
            np.testing.assert_array_equal(a, b)
    assert b"numpy._core" not in data  # NumPy 1 has no such module


def test_fortran_order_is_kept():
    value = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    np.testing.assert_array_equal(read_objects(saved([value, np.ones(2)]), "x")[0], value)


class Runs:
    """Unpickling it runs a command."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


HOSTILE = {
    "os.system": (lambda path: pickle.dumps(Runs(os.system, f"touch {path}"), 2), "asks for posix.system"),
    "subprocess": (lambda path: pickle.dumps(Runs(subprocess.call, ["touch", path]), 4), "asks for subprocess.call"),
    "eval": (lambda path: pickle.dumps(Runs(eval, f"open({path!r}, 'w')"), 3), "asks for builtins.eval"),
    "open": (lambda path: pickle.dumps(Runs(open, path, "w"), 2), "asks for"),
    "array of it": (lambda path: saved_body([Runs(os.system, f"touch {path}")]), "asks for posix.system"),
    "frombuffer": (lambda path: pickle.dumps(np.ones(3), 5), "asks for numpy._core.numeric._frombuffer"),
    "memo bomb": (lambda path: b"\x80\x03]" + b"".join(b"q%c(h%ch%ce" % (i, i, i) for i in range(60)), "opcode|append"),
    "huge memo": (lambda path: b"\x80\x03Nr\xff\xff\xff\x7f" * 500 + b".", "more than 300 opcodes"),
    "huge bytes": (lambda path: b"\x80\x03B\xff\xff\xff\x7fxx", "expected 2147483647 bytes"),
    "huge text": (lambda path: b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f", "expected 9223372036854775807 bytes"),
    "deep": (lambda path: b"\x80\x03" + b"(" * 140 + b"t" * 140 + b".", "no array"),
    "endless": (lambda path: b"\x80\x03" + b"N0" * 10**6, "opcode POP"),
    "no end": (lambda path: b"\x80\x03N", "pickle exhausted|exhausted before"),
    "persistent": (lambda path: b"\x80\x03Pid\n.", "opcode PERSID"),
    "instance": (lambda path: b"(S'echo'\nios\nsystem\n.", "opcode"),
    "extension": (lambda path: b"\x80\x02\x82\x01.", "opcode EXT1"),
    "nothing": (lambda path: b"", "0 bytes cannot hold 1 arrays"),
    "empty stack": (lambda path: b"\x80\x03q\x00.", "list index out of range"),
    "none": (lambda path: b"\x80\x03N.", "no array"),
    "text array": (lambda path: saved_body([np.array(["a"])]), "a call that makes no array"),
    "record array": (lambda path: saved_body([np.zeros(2, "f4,i4")]), "makes no array|compound"),
    "nested": (lambda path: saved_body([np.array([1, None])]), "no numeric array"),
    "lists": (lambda path: saved_body([[1.0, 2.0], [3.0]]), "opcode BINFLOAT|no array"),
}


def saved_body(values):
    return pickle.dumps(objects_of(values), 4)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_and_run_nothing(tmp_path, name):
    trap = tmp_path / "trap"
    build, message = HOSTILE[name]
    data = with_pickle(build(str(trap)), 1)
    with pytest.raises(InputError, match=message) as caught:
        read_objects(data, "file.npz: Y_truth.npy")
    assert str(caught.value).startswith("file.npz: Y_truth.npy: ")
    assert "\n" not in str(caught.value)
    assert not trap.exists()


def test_counts_and_sizes_that_do_not_match():
    data = saved([np.ones((3, 4)), np.ones((2, 4))])
    for old, new in ((b"(2,)", b"(3,)"), (b"(2,)", b"(1,)")):
        with pytest.raises(InputError, match=r"not [13] objects"):
            read_objects(data.replace(old, new, 1), "x")
    with pytest.raises(InputError, match=re.escape("cannot hold 999999999 arrays")):
        read_objects(with_pickle(b".", 999_999_999), "x")
    with pytest.raises(InputError, match="is not a one-dimensional object array"):
        read_objects(b"\x93NUMPY\x01\x00", "x")


def check_line(error, path):
    assert str(path) in str(error)
    assert "\n" not in str(error)


def mutated(rng, data):
    """Truncated, bits flipped, a stretch overwritten or removed, or hostile opcodes put in."""
    kind, at = rng.integers(5), int(rng.integers(len(data)))
    if kind == 0:
        return data[:at]
    changed = bytearray(data)
    if kind == 1:
        for place in rng.integers(len(data), size=rng.integers(1, 6)):
            changed[place] ^= 1 << rng.integers(8)
    elif kind == 2:
        changed[at : at + 8] = rng.bytes(8)
    elif kind == 3:
        del changed[at : at + int(rng.integers(1, 40))]
    else:
        inserts = [
            b"cos\nsystem\n",
            b"(S'x'\ntR",
            b"\x8c\x02os\x8c\x06system\x93",
            b"B\xff\xff\xff\x7f",
            b"0" * 9,
            b"R",
            b"b",
        ]
        changed[at:at] = inserts[rng.integers(len(inserts))]
    return bytes(changed)


def test_mutated_object_arrays_are_read_right_or_refused(monkeypatch):
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("a command was run"))
    values = [np.arange(24.0).reshape(6, 4), np.ones((2, 4), np.float32), np.zeros((0, 4))]
    sound = [saved(values, 3), saved(values, 4), write_objects([v.astype(float) for v in values])]
    refused = 0
    for seed in range(MUTATIONS):
        rng = np.random.default_rng(seed)
        try:
            found = read_objects(mutated(rng, sound[seed % 3]), "x")
        except InputError:
            refused += 1
        else:
            assert len(found) == 3
            assert all(a.dtype.kind in "fiu" and a.nbytes <= 400 for a in found)
    assert refused > MUTATIONS / 3


def test_mutated_xy_files_are_read_right_or_refused(tmp_path):
    sound = (GOLDEN / "batch0-reco_BeamCosmic_201_xy-TPC5.npz").read_bytes()
    expected = read_xy(GOLDEN / "batch0-reco_BeamCosmic_201_xy-TPC5.npz", 3)
    path = tmp_path / "batch0-a_1_xy-TPC5.npz"
    refused = 0
    for seed in range(MUTATIONS):
        path.write_bytes(mutated(np.random.default_rng([7, seed]), sound))
        try:
            events = read_xy(path, 3)
        except InputError as error:
            check_line(error, path)
            refused += 1
        else:  # checksums leave only the names and dates of members to change unseen
            for ours, theirs in zip(events, expected, strict=True):
                np.testing.assert_array_equal(ours.coords, theirs.coords)
                np.testing.assert_array_equal(ours.charge, theirs.charge)
    assert refused > MUTATIONS / 2


def test_mutated_members_with_right_checksums(tmp_path):
    """A file whose zip is sound and whose arrays are not: wrong types, shapes, values."""
    with zipfile.ZipFile(GOLDEN / "batch0-reco_BeamCosmic_201_xy-TPC5.npz") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    path = tmp_path / "batch0-a_1_xy-TPC5.npz"
    refused = 0
    for seed in range(MUTATIONS):
        rng = np.random.default_rng([8, seed])
        name = sorted(members)[seed % len(members)]
        with zipfile.ZipFile(path, "w") as archive:
            for other, data in members.items():
                archive.writestr(other, mutated(rng, data) if other == name else data)
        try:
            events = read_xy(path, 3)
        except InputError as error:
            check_line(error, path)
            refused += 1
        else:
            for event in events:
                assert event.coords.dtype == np.uint16
                assert np.isfinite(event.charge).all()
                assert event.charge.shape == (len(event.coords), 3)
                assert len(event.truth_coords) == len(event.truth_value)
    assert refused > MUTATIONS / 3


def test_a_member_that_would_fill_the_memory_is_not_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "batch0-a_1_xy-TPC5.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("X.npy", bytes(2**20 + 1))
    assert path.stat().st_size < 2000
    monkeypatch.setattr("preprocess.exchange.research.LARGEST_BYTES", 2**20)
    with pytest.raises(InputError, match=r"X.npy: 1048577 bytes are too many"):
        read_xy(path, 3)
