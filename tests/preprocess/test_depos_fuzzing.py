"""Damaged files of deposits: an InputError that names the file, or data; nothing else, in bounded time and memory."""

import json
import subprocess
import sys
import zipfile
from contextlib import nullcontext
from functools import partial

import h5py
import numpy as np
import pytest

from larstore.errors import InputError
from preprocess.simulation import SimulationConfig
from preprocess.simulation.write import npy_bytes, write_members
from preprocess.sources import open_depos
from preprocess.sources.depos import MOST_DEPOSITS
from preprocess.testing import small_deposits, write_depo_file, write_edepsim
from preprocess.testing.depos import EDEPSIM_ROW
from tests.preprocess.fuzzing import mutations

CONFIG = SimulationConfig()
FILES = [("bee", ".zip"), ("wirecell-depos", ".tar"), ("wirecell-depos", ".tar.gz"), ("wirecell-depos", ".tar.bz2"),
         ("wirecell-depos", ".npz"), ("edepsim", ".h5")]  # fmt: skip
AXES = ("x", "y", "z")


def refused(path):
    """Whether reading all of a file ends in a proper InputError; the data are sound otherwise."""
    try:
        source = open_depos(path)
        events = list(source.events(CONFIG))
        assert source.n_events == len(events)
    except InputError as error:
        message = str(error)
        assert message.startswith(str(path)), message
        assert "Fix: " in message
        assert "\n" not in message
        assert len(message) < 1000
        return True
    for event in events:
        n = len(event.deposits)
        assert event.deposits.shape == (n, 5)
        assert np.isfinite(event.deposits).all()
        assert (event.deposits[:, 4] > 0).all()
        assert event.pdg.shape == event.track.shape == (n,)
        assert event.pdg.dtype == event.track.dtype == np.int32
    return False


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("reader", "suffix"), FILES)
def test_500_mutations(tmp_path, reader, suffix):
    """Seeded damage of all kinds; most of it must be noticed where the format has checksums."""
    path = write_depo_file(tmp_path, reader, small_deposits(3, 20), suffix)
    data, count = path.read_bytes(), 0
    assert not refused(path)
    for damaged in mutations(data, 500, seed=4):
        path.write_bytes(damaged)
        count += refused(path)
    assert count > (150 if suffix in (".tar", ".h5") else 350)


def bee(path, document):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data/0/0-truthDepo.json", document if isinstance(document, str) else json.dumps(document))


GOOD = {"x": [1.0, 2.0], "y": [1.0, 2.0], "z": [1, 2], "q": [1000, 2000]}


@pytest.mark.parametrize(
    ("document", "word"),
    [
        ({**GOOD, "x": [1.0]}, "unequal lengths"),
        ({key: GOOD[key] for key in "xyq"}, "'z'"),
        ({**GOOD, "q": "1000"}, "'q'"),
        ({**GOOD, "q": ["1000", "2000"]}, "'q'"),
        ({**GOOD, "q": [True, 2]}, "'q'"),
        ({**GOOD, "q": [None, 2]}, "'q'"),
        ({**GOOD, "q": [[1], [2]]}, "'q'"),
        ({**GOOD, "q": [10**400, 2]}, "too large"),
        ({**GOOD, "q": [float("nan"), 2]}, "electrons nan in row 0"),
        ({**GOOD, "x": [float("inf"), 2]}, "x inf in row 0"),
        ({**GOOD, "x": [1e308, 2]}, "x inf in row 0"),
        ([GOOD], "holds no x"),
        ("[" * 100_000, "no JSON"),
        ('{"x": ' + "1" * 5000 + "}", "no JSON"),
        ('{"x": [1.0', "no JSON"),
        ("\ud83d".encode("utf-16-le", "surrogatepass").decode("latin1"), "no JSON"),
        ("", "no JSON"),
    ],
)
def test_hostile_bee(tmp_path, document, word):
    path = tmp_path / "a.zip"
    bee(path, document)
    with pytest.raises(InputError, match=rf"^{path}: .*{word}.*Fix: "):
        list(open_depos(path).events(CONFIG))


def depo_archive(path, data, info, names=("depo_data_0", "depo_info_0")):
    write_members(path, ((f"{name}.npy", npy_bytes(array)) for name, array in zip(names, (data, info), strict=True)))


DATA, INFO = np.full((3, 7), -1.0, np.float32), np.zeros((3, 4), np.int32)


def changed(array, index, value):
    array = array.copy()
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("data", "info", "word"),
    [
        (DATA[:2], INFO, "do not fit"),
        (DATA[:, :6], INFO, "do not fit"),
        (DATA, INFO[:, :3], "do not fit"),
        (DATA, INFO.T, "do not fit"),
        (DATA[0], INFO[0], "do not fit"),
        (DATA[0, 0], INFO[0, 0], "do not fit"),
        (DATA[None], INFO[None], "do not fit"),
        (DATA, INFO.astype(np.float32), "do not fit"),
        (DATA, INFO.astype(bool), "dtype bool"),
        (DATA.astype(complex), INFO, "dtype complex128"),
        (DATA.astype("S4"), INFO, "dtype |S4"),
        (changed(DATA, (1, 0), np.nan), INFO, "time nan in row 1"),
        (changed(DATA, (1, 2), -np.inf), INFO, "x -inf in row 1"),
        (changed(DATA.astype(np.longdouble), (1, 2), np.longdouble("1e4000")), INFO, "x inf in row 1"),
        (changed(DATA, (1, 1), 5.0), INFO, "both signs"),
        (DATA, changed(INFO.astype(np.int64), (1, 1), 2**31), "pdg 2147483648, beyond 32 bits"),
        (DATA, changed(INFO.astype(np.uint64), (1, 0), 2**64 - 1), "track 18446744073709551615, beyond"),
        (np.zeros((7, MOST_DEPOSITS + 1), np.float16), np.zeros((4, MOST_DEPOSITS + 1), np.int8), "more than"),
    ],
)  # fmt: skip
def test_hostile_wirecell_depos(tmp_path, data, info, word):
    path = tmp_path / "a.npz"
    depo_archive(path, data, info)
    with pytest.raises(InputError) as caught:
        list(open_depos(path).events(CONFIG))
    assert str(caught.value).startswith(f"{path}: ")
    assert word in str(caught.value)


@pytest.mark.parametrize("names", [("depo_data_0", "depo_info_1"), ("depo_data_0", "depo_data_0"),
                                   ("depo_data_0", "other"), ("other", "depo_info_0")])  # fmt: skip
@pytest.mark.parametrize("suffix", [".tar", ".npz"])
def test_missing_and_doubled_members(tmp_path, names, suffix):
    path = tmp_path / f"a{suffix}"
    with pytest.warns(UserWarning, match="Duplicate") if names[0] == names[1] and suffix == ".npz" else nullcontext():
        depo_archive(path, DATA, INFO, names)
    assert refused(path)


def rows_without(*names):
    return np.dtype([(name, EDEPSIM_ROW[name]) for name in EDEPSIM_ROW.names if name not in names])


def rows_with(name, dtype, shape=()):
    return np.dtype([(each, dtype, shape) if each == name else (each, EDEPSIM_ROW[each]) for each in EDEPSIM_ROW.names])


def segments(file, rows, **options):
    file.create_dataset("segments", data=rows, **options)


def one_row(**values):
    row = np.zeros(3, EDEPSIM_ROW)
    row["dE"], row["dEdx"], row["x_end"] = 1.0, 2.0, 0.5
    for name, value in values.items():
        row[name][1] = value
    return row


def claims(file, shape, dtype=EDEPSIM_ROW, **options):
    file.create_dataset("segments", shape, dtype, **options)


def soft_link(file):
    file["segments"] = h5py.SoftLink("/elsewhere")


def external(file):
    file["segments"] = h5py.ExternalLink("/etc/passwd", "/segments")


def raw_outside(file):
    file.create_dataset("segments", (3,), EDEPSIM_ROW, external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)])


@pytest.mark.parametrize(
    ("write", "word"),
    [
        *((partial(segments, rows=np.zeros(3, rows_without(name))), f"lacks {name}")
          for name in ("x_start", "z_end", "dE", "eventID", "trackID", "pdgId")),
        *((partial(segments, rows=np.zeros(3, rows_with(*wrong))), "has dtype")
          for wrong in (("dE", "S4"), ("dE", "f4", (2,)), ("eventID", "f4"), ("x_end", "?"))),
        (partial(segments, rows=np.zeros(3, rows_with("t_start", EDEPSIM_ROW))), "no known kind"),
        (partial(segments, rows=np.zeros((3, 1), EDEPSIM_ROW)), "has shape (3, 1)"),
        (partial(segments, rows=np.zeros((), EDEPSIM_ROW)), "has shape ()"),
        (partial(segments, rows=np.zeros(3)), "float64"),
        (partial(segments, rows=one_row(dE=np.nan)), "event 0 has dE nan in row 1"),
        (partial(segments, rows=one_row(x_end=np.inf)), "event 0 has x_end inf in row 1"),
        (partial(segments, rows=one_row(t_end=-np.inf)), "event 0 has t_end -inf in row 1"),
        (partial(segments, rows=one_row(dEdx=1e30)), "in row 1, 1 such rows"),
        (partial(segments, rows=one_row(x_end=1e9)), "deposits, more than"),
        (partial(segments, rows=one_row(trackID=2**31)), "track 2147483648, beyond 32 bits"),
        (partial(segments, rows=one_row(eventID=1)), "rows of event 0 lie apart"),
        (partial(claims, shape=(2**55,), chunks=(1000,)), "claims 36028797018963968 rows"),
        (partial(claims, shape=(2**40,), chunks=(2**25,)), "claims"),
        (soft_link, "is a link"),
        (external, "is a link"),
        (raw_outside, "outside the file"),
        (lambda file: file.create_group("segments"), "is missing"),
        (lambda file: file.create_group("other"), "holds other"),
    ],
)  # fmt: skip
def test_hostile_edepsim(tmp_path, write, word):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        write(file)
    with pytest.raises(InputError) as caught:
        list(open_depos(path).events(CONFIG))
    assert str(caught.value).startswith(f"{path}: ")
    assert word in str(caught.value)
    assert "Fix: " in str(caught.value)


def test_numbers_at_the_edge_of_doubles(tmp_path):
    """No warning, no NaN: tiny lengths and energies are left out, and noted."""
    rows = np.zeros(6, np.dtype([(name, "f8" if EDEPSIM_ROW[name].kind == "f" else EDEPSIM_ROW[name])
                                 for name in EDEPSIM_ROW.names]))  # fmt: skip
    rows["dE"] = [1.0, 1e-320, 5e-324, 1.0, 1e12, -1.0]
    rows["dEdx"] = [0.0, 1e12, 1e-300, 1e-300, 1e12, 2.0]
    rows["x_end"] = [1e-320, 0.1, 0.1, 0.1, 0.1, 0.1]
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["segments"] = rows
    (event,) = open_depos(path).events(CONFIG)
    assert event.notes["segments without energy"] == 3
    assert event.notes["segments without length or dE/dx"] == 2
    assert np.isfinite(event.deposits).all()


LIMITED = """
import resource, sys
from larstore.errors import InputError
from preprocess.simulation import SimulationConfig
from preprocess.simulation.particles import electrons
from preprocess.sources import open_depos
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2_000_000_000,) * 2)
for path in sys.argv[1:]:
    try:
        n = sum(len(event.deposits) for event in open_depos(path).events(SimulationConfig()))
        print(path, n)
    except InputError as error:
        assert str(error).startswith(path), error
        print(path, "refused")
"""


@pytest.mark.slow
def test_2_gb_are_enough_for_anything(tmp_path):
    """The largest files that are accepted, and bombs, with 2 GB of address space to allocate from."""
    n = MOST_DEPOSITS
    largest, bomb, nested, wide = (tmp_path / name for name in ("largest.tar.gz", "bomb.npz", "nested.zip", "wide.h5"))
    depo_archive(largest, np.full((n, 7), -1.0, np.float32), np.zeros((n, 4), np.int32))
    depo_archive(bomb, np.zeros((7, n * 4), np.float32), np.zeros((4, n * 4), np.int32))
    bee(nested, '{"x": [' + "{}," * 22_000_000 + "{}]}")
    rows = one_row()[:2]
    rows["x_end"] = 0.9 * MOST_DEPOSITS * CONFIG.step_mm / 20.0  # two long segments: many pieces
    with h5py.File(wide, "w") as file:
        segments(file, rows)
    paths = [str(path) for path in (largest, bomb, nested, wide)]
    done = subprocess.run([sys.executable, "-c", LIMITED, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [f"{largest} {n}", f"{bomb} refused", f"{nested} refused",
                                        f"{wide} {int(2 * np.ceil(0.9 * n / 2))}"]  # fmt: skip


def test_a_float_that_hdf5_would_write_out_of_bounds(tmp_path):
    """32 bits, 9 of them exponent, as damage leaves them: h5py takes 8 bytes for 4, and writes over the neighbours."""
    odd = h5py.h5t.IEEE_F32LE.copy()
    odd.set_fields(31, 22, 9, 0, 22)
    row = h5py.h5t.py_create(EDEPSIM_ROW)
    damaged = h5py.h5t.create(h5py.h5t.COMPOUND, EDEPSIM_ROW.itemsize)
    for i in range(row.get_nmembers()):
        name = row.get_member_name(i)
        damaged.insert(name, row.get_member_offset(i), odd if name == b"dE" else row.get_member_type(i))
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        h5py.h5d.create(file.id, b"segments", damaged, h5py.h5s.create_simple((3,)))
        assert file["segments"].dtype["dE"].itemsize == 8
    with pytest.raises(InputError, match=rf"^{path}: /segments has numbers of no known kind"):
        list(open_depos(path).events(CONFIG))


CRASHES = """
import sys
from pathlib import Path
from tests.preprocess.fuzzing import mutations
from tests.preprocess.test_depos_fuzzing import refused
path = Path(sys.argv[1])
for number, damaged in enumerate(mutations(path.read_bytes(), 2000, seed=int(sys.argv[2]))):
    print(number, flush=True)
    path.write_bytes(damaged)
    refused(path)
"""


@pytest.mark.slow
@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("seed", [11, 12])
def test_hdf5_library_survives_2000_mutations(tmp_path, compression, seed):
    """libhdf5 in a process of its own: no signal, no hang."""
    path = write_edepsim(tmp_path / "depos.h5", small_deposits(3, 20))
    if compression:
        with h5py.File(path) as file:
            rows = file["segments"][:]
        with h5py.File(path, "w") as file:
            segments(file, rows, compression=compression, shuffle=True, fletcher32=True)
    command = [sys.executable, "-c", CRASHES, str(path), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, (done.stdout.splitlines()[-1:], done.stderr[-1000:])
