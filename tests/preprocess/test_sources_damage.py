"""Seeded damage to archives: the reader says so in one line, or the values are untouched."""

import struct

import numpy as np
import pytest

from larstore.errors import InputError
from preprocess.simulation.write import Frame, write_arrays, write_frames
from preprocess.sources import open_source
from preprocess.sources.npy import parse_npy
from preprocess.testing import small_detector

N_EVENTS = 3


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return small_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def waveforms():
    rng = np.random.default_rng(1)
    return [
        np.where(rng.random((60, 210)) < 0.1, rng.normal(500, 100, (60, 210)), 0).astype(np.float32) for _ in range(3)
    ]


def whole(folder, suffix, detector, waveforms):
    path = folder / f"a_1_wire-TPC1{suffix}"
    if suffix == ".parsed.npz":
        path = folder / "a_1_wire-TPC1.npz"
        write_arrays(path, [w / np.float32(1000) for w in waveforms])
    else:
        channels = detector.tpc(1).channels
        mask = {"bad": np.array([[3, 0, 60]], np.int32)}
        write_frames(path, (Frame(i, w, channels, masks=mask) for i, w in enumerate(waveforms)))
    return path


def damage(data, rng):
    kind = rng.integers(4)
    data = bytearray(data)
    if kind == 0:  # truncated
        return bytes(data[: rng.integers(0, len(data))])
    if kind == 1:  # a flipped bit
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        return bytes(data)
    start = int(rng.integers(len(data)))
    length = int(rng.integers(1, 2000))
    if kind == 2:  # a piece overwritten
        piece = rng.bytes(min(length, len(data) - start))
        return bytes(data[:start]) + piece + bytes(data[start + len(piece) :])
    return bytes(data[:start] + data[start + length :])  # a piece missing


def read(path, detector):
    """The events' waveforms, or the message of the InputError."""
    try:
        return [e.waveform for e in open_source(path).events(detector.tpc(1))], ""
    except InputError as error:
        return [], str(error)


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.bz2", ".npz", ".parsed.npz"])
def test_checksummed_archives_never_give_wrong_values(tmp_path, detector, waveforms, suffix):
    """gzip, bzip2 and zip keep checksums: no damage may pass as a complete read with other values."""
    path = whole(tmp_path, suffix, detector, waveforms)
    data = path.read_bytes()
    refused = 0
    for seed in range(60):
        path.write_bytes(damage(data, np.random.default_rng(seed)))
        found, message = read(path, detector)
        if message:
            refused += 1
            assert message.startswith(str(path))
            assert "Fix: " in message
            assert "\n" not in message
        else:  # damage to bytes that nobody needs, such as a date
            assert len(found) == N_EVENTS
            np.testing.assert_allclose(found, waveforms, rtol=1e-6)
    assert refused > 45


def test_plain_tar_never_crashes(tmp_path, detector, waveforms):
    """A plain tar keeps checksums of its headers only; what else is noticed is an InputError; no event is lost."""
    path = whole(tmp_path, ".tar", detector, waveforms)
    data = path.read_bytes()
    refused = 0
    for seed in range(100):
        path.write_bytes(damage(data, np.random.default_rng(seed)))
        found, message = read(path, detector)
        assert len(found) == N_EVENTS or "Fix: " in message
        assert "\n" not in message
        refused += bool(message)
    assert refused > 30


def test_every_damaged_header_is_noticed(tmp_path, detector, waveforms):
    """tarfile alone takes a damaged member header for the end of the archive."""
    path = whole(tmp_path, ".tar", detector, waveforms)
    data = bytearray(path.read_bytes())
    headers = [i for i in range(0, len(data), 512) if data[i + 257 : i + 262] == b"ustar"]
    assert len(headers) == 4 * N_EVENTS
    for start in headers:
        broken = bytearray(data)
        broken[start + 1] ^= 0x10
        path.write_bytes(bytes(broken))
        assert "damaged" in read(path, detector)[1]
        path.write_bytes(bytes(data[:start]))  # cut between two members
        assert "damaged" in read(path, detector)[1]


@pytest.mark.parametrize(
    ("descr", "shape"),
    [
        ("'<f4'", f"({2**70}, 0)"),
        ("'<f4'", f"({'1, ' * 70})"),
        ("'<f4'", "5"),
        ("'<f4'", "'ab'"),
        ("'<f4'", "(-1, -1)"),
        ("'<f4'", "(True,)"),
        ("'3f4'", "(1,)"),
        ("[('a', '<f4')]", "(1,)"),
        ("'|O'", "(1,)"),
        ("'<c8'", "(1,)"),
        ("'|b1'", "(4,)"),
    ],
)
def test_npy_headers_that_numpy_cannot_hold(descr, shape):
    """Well-formed headers with senseless content; the 4 bytes of data fit most of them."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0\0\0\0"
    for body in (data, data[:-4]):
        with pytest.raises(InputError, match=r"^file: member: .*Fix: "):
            parse_npy(body, "file: member")
