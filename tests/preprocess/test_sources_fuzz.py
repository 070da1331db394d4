"""Damaged and senseless files of every reader of frames: data or a one-line error, never a traceback or a hang."""

import h5py
import numpy as np
import pytest

from preprocess.inspection import inspect
from preprocess.simulation.write import npy_bytes, write_members
from preprocess.sources import open_source
from preprocess.testing import FRAME_BUILDERS, small_detector, small_waveforms, write_frame_file
from tests.preprocess.fuzzing import fuzz, mutations, outcome

FILES = [(reader, suffix) for reader, (suffixes, _) in FRAME_BUILDERS.items() for suffix in suffixes]
FAST_ARRAYS = ("nan", "text")


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return small_detector(tmp_path_factory.mktemp("detector"))


def reading(detector, **options):
    """Reads all that the pipeline reads of a file."""

    def read(path):
        source = open_source(path)
        assert source.n_events >= 0
        for number in source.tpcs(detector):
            for event in source.events(detector.tpc(number), **options):
                assert event.waveform.dtype == np.float32
                assert event.waveform.shape[1] == 210
                assert np.isfinite(event.waveform).all()
                assert event.bad.shape[1] == 3
                if hasattr(source, "hits"):
                    assert len({len(column) for column in source.hits(event).values()}) <= 1

    return read


@pytest.mark.parametrize(("reader", "suffix"), FILES)
@pytest.mark.parametrize(("n", "seed"), [(25, 1), pytest.param(500, 0, marks=pytest.mark.slow)])
def test_damaged_bytes(tmp_path, detector, reader, suffix, n, seed):
    tpc = detector.tpc(1)
    path = write_frame_file(tmp_path, reader, tpc, small_waveforms(tpc, 2, 30), suffix)
    assert fuzz(path, reading(detector, missing_channels="bad"), n, seed) > 0.2 * n


@pytest.mark.parametrize(("reader", "suffix"), FILES)
@pytest.mark.parametrize("n", [20, pytest.param(500, marks=pytest.mark.slow)])
def test_damaged_bytes_inspected(tmp_path, detector, reader, suffix, n, monkeypatch):
    """`larstore inspect` keeps the promise too."""
    monkeypatch.setattr("preprocess.inspection.look.built_in", lambda: ([detector], []))
    tpc = detector.tpc(1)
    path = write_frame_file(tmp_path, reader, tpc, small_waveforms(tpc, 2, 30), suffix)
    assert fuzz(path, inspect, n, seed=2) >= 0.05 * n


ARRAYS = {
    "float": np.linspace(0, 1, 7),
    "nan": np.full((30, 210), np.nan, np.float32),
    "inf": np.full((30, 210), np.inf),
    "huge": np.full((210, 30), 1e300),
    "empty": np.empty((0, 210)),
    "no channels": np.empty((30, 0)),
    "scalar": np.array(3.0),
    "deep": np.zeros((1,) * 12),
    "bool": np.zeros((30, 210), bool),
    "complex": np.zeros((30, 210), complex),
    "text": np.full((30, 210), "a"),
    "int64": np.full(210, np.iinfo(np.int64).min),
    "uint64": np.arange(210, dtype=np.uint64) + np.uint64(2**63),
    "negative": -np.arange(210),
    "bytes": np.zeros((30, 210), np.uint8),
    "square": np.zeros((210, 210), np.float16),
    "three": np.array([1e308, -1e308, 1e308]),
    "zeros": np.zeros(3),
    "pairs": np.array([[0, 2**62], [1, 2**62]]),
    "triples": np.array([[1, 2, 3]] * 420),
    "column": np.zeros((420, 1)),
}


@pytest.mark.parametrize("array", ARRAYS)
def test_wrong_arrays_in_archives(tmp_path, detector, array):
    """Each member of a valid archive in turn replaced by another array, or left out."""
    tpc = detector.tpc(1)
    frame = small_waveforms(tpc, 1, 30)[0]
    names = {"frame_a_0": frame.T, "channels_a_0": tpc.channels, "tickinfo_a_0": np.array([0.0, 500.0, 0.0])}
    names["chanmask_bad_0"] = np.array([[3, 0, 9]], np.int32)
    read = reading(detector, missing_channels="bad")
    for wrong in names:
        members = [(f"{n}.npy", npy_bytes(ARRAYS[array] if n == wrong else a)) for n, a in names.items()]
        path = tmp_path / f"x_{wrong}.tar"
        write_members(path, members)
        outcome(path, read)
        write_members(path, [member for member in members if member[0] != f"{wrong}.npy"])
        assert outcome(path, read) or wrong == "chanmask_bad_0"
    path = tmp_path / "x_1_wire-TPC1.npz"
    np.savez(path, ARRAYS[array])
    outcome(path, read)


@pytest.mark.parametrize("array", [a if a in FAST_ARRAYS else pytest.param(a, marks=pytest.mark.slow) for a in ARRAYS])
@pytest.mark.parametrize("reader", ["wirecell-hdf5", "numl"])
def test_wrong_arrays_in_hdf5(tmp_path, detector, reader, array):
    tpc = detector.tpc(1)
    path = write_frame_file(tmp_path, reader, tpc, small_waveforms(tpc, 2, 30))
    whole = path.read_bytes()
    read = reading(detector, missing_channels="bad")
    names = []
    with h5py.File(path) as file:
        file.visititems(lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None)
    for name in names:
        path.write_bytes(whole)
        with h5py.File(path, "r+") as file:
            del file[name]
            values = ARRAYS[array]
            file[name] = values.astype(bytes) if values.dtype.kind == "U" else values
        outcome(path, read)
        with h5py.File(path, "r+") as file:
            del file[name]
        outcome(path, read)


def huge(shape, descr="<f4", fortran=False):
    header = f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 64


@pytest.mark.parametrize("shape", ["(100000000000, 210)", "(210, 2**40)", "(18446744073709551616,)", "(0, 10**12)"])
def test_huge_claims_in_archives(tmp_path, detector, shape):
    for name, member in (("x.tar", "frame_a_0.npy"), ("x_1_wire-TPC1.npz", "arr_0.npy")):
        path = tmp_path / name
        write_members(path, [(member, huge(shape))])
        assert outcome(path, reading(detector))


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.bz2", ".npz"])
def test_bombs(tmp_path, detector, suffix, monkeypatch):
    """A small archive that unpacks to more than an event may take is refused before it is unpacked."""
    monkeypatch.setattr("preprocess.sources.members.LARGEST_MEMBER", 1_000_000)
    path = tmp_path / f"bomb{suffix}"
    write_members(path, [("frame_a_0.npy", npy_bytes(np.zeros((210, 6000), np.float32)))])
    assert path.stat().st_size < 30_000
    message = outcome(path, lambda path: list(open_source(path).events(detector.tpc(1))))
    assert "frame_a_0.npy claims 5040128 bytes" in message


def test_mutations_are_seeded_and_differ():
    data = bytes(range(256)) * 40
    first = list(mutations(data, 50, 3))
    assert first == list(mutations(data, 50, 3))
    assert first != list(mutations(data, 50, 4))
    assert sum(each != data for each in first) > 45
