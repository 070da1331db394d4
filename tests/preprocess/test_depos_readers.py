"""Readers of deposits: every builder is read back as it was, places, choices between formats, and an oracle."""

import json
import math
import tarfile
import zipfile

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from larstore.errors import ConfigError, InputError
from preprocess.simulation import Deposits, SimulationConfig
from preprocess.sources import Place, open_depos, open_source
from preprocess.sources.registry import find_reader, probe
from preprocess.testing import (
    DEPO_BUILDERS,
    small_deposits,
    small_detector,
    small_waveforms,
    write_bee,
    write_depo_file,
    write_edepsim,
    write_wirecell,
    write_wirecell_depos,
)
from preprocess.testing.depos import EDEPSIM_ROW

CONFIG = SimulationConfig()
EVERY = [(reader, suffix) for reader, (suffixes, _) in DEPO_BUILDERS.items() for suffix in suffixes]


def read(path, place=None, config=CONFIG):
    return list(open_depos(path, place).events(config))


@pytest.mark.parametrize(("reader", "suffix"), EVERY)
def test_builders_are_read_back(tmp_path, reader, suffix):
    given = small_deposits(3, 30, seed=5)
    path = write_depo_file(tmp_path, reader, given, suffix)
    assert find_reader(path, "depos").name == reader
    source = open_depos(path)
    assert source.n_events == 3
    found = list(source.events(CONFIG))
    for number, (event, true) in enumerate(zip(found, given, strict=True)):
        assert event.event == number
        assert event.event_id == {"bee": number + 1, "wirecell-depos": number, "edepsim": 90 + number}[reader]
        assert event.deposits.dtype == np.float64
        points = true.points.copy()
        if reader == "bee":
            points[:, 3] = 0.0
        assert_allclose(event.deposits, points, rtol=3e-6, atol=1e-4)
        unknown = reader == "bee"
        assert_array_equal(event.pdg, np.zeros(30) if unknown else true.pdg)
        assert_array_equal(event.track, np.full(30, -1) if unknown else true.track)
    with pytest.raises(InputError, match="larstore simulate --depos"):
        open_source(path)


@pytest.mark.parametrize(("reader", "suffix"), EVERY)
def test_a_place_moves_every_format_alike(tmp_path, reader, suffix):
    path = write_depo_file(tmp_path, reader, small_deposits(1, 9), suffix)
    (plain,), (moved,) = read(path), read(path, Place(1000.0, -20.0, 3.0, 90.0))
    x, y, z, t, q = plain.deposits.T
    assert_allclose(moved.deposits, np.column_stack([1000.0 + z, y - 20.0, 3.0 - x, t, q]), atol=1e-9)


@given(
    st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3),
    st.floats(-720.0, 720.0),
    st.lists(st.lists(st.floats(-1e4, 1e4), min_size=5, max_size=5), min_size=2, max_size=5),
)
def test_places_keep_distances_and_heights(origin, turn, rows):
    """A rigid motion that turns about y; the file's origin lands on the place; turning back undoes it."""
    deposits, place = np.array(rows), Place(*origin, turn)
    moved = place.move(deposits)
    assert_allclose(
        np.linalg.norm(np.diff(moved[:, :3], axis=0), axis=1),
        np.linalg.norm(np.diff(deposits[:, :3], axis=0), axis=1), atol=1e-6,
    )  # fmt: skip
    assert_allclose(moved[:, 1] - origin[1], deposits[:, 1], atol=1e-6)
    assert_array_equal(moved[:, 3:], deposits[:, 3:])
    assert_allclose(place.move(np.zeros((1, 5)))[0, :3], origin, atol=1e-9)
    back = Place(0.0, 0.0, 0.0, -turn).move(Place(*(-value for value in origin)).move(moved))
    assert_allclose(back, deposits, atol=1e-6)


def test_place_from_text():
    assert Place.parse("1,-2.5,3e2") == Place(1.0, -2.5, 300.0, 0.0)
    assert Place.parse(" 1, 2 ,3,45") == Place(1.0, 2.0, 3.0, 45.0)


@pytest.mark.parametrize(
    "text", ["", "1,2", "1,2,3,4,5", "a,b,c", "1,2,nan", "1,2,inf", "1 2 3", "1,2,3,", "1e300,0,0"]
)
def test_wrong_places_are_refused(text):
    with pytest.raises(ConfigError, match=r"^place .*Fix: give mm"):
        Place.parse(text)


@pytest.mark.parametrize("suffix", [".tar", ".npz"])
@pytest.mark.parametrize("columns_first", [False, True])
@pytest.mark.parametrize(("n", "earlier"), [(0, 0), (1, 3), (4, 0), (4, 3), (7, 0), (30, 5)])
def test_wirecell_depos_of_both_orientations(tmp_path, suffix, columns_first, n, earlier):
    """Also where the number of deposits equals that of columns; earlier generations are left out and counted."""
    given = small_deposits(2, n)
    path = write_wirecell_depos(tmp_path / f"a{suffix}", given, columns_first, earlier)
    found = read(path)
    for event, true in zip(found, given, strict=True):
        assert_allclose(event.deposits, true.points, rtol=1e-6)
        assert event.notes == ({"deposits of earlier generations": earlier} if earlier else {})


def test_wirecell_depos_where_all_charges_are_positive(tmp_path):
    points = np.array([[1.0, 2.0, 3.0, 4.0, -500.0], [1.0, 2.0, 3.0, 4.0, 0.0]])
    one = Deposits(points, np.zeros(2, np.int32), np.zeros(2, np.int32))
    (event,) = read(write_wirecell_depos(tmp_path / "a.npz", [one]))
    assert_allclose(event.deposits, [[1.0, 2.0, 3.0, 4.0, 500.0]])
    assert event.notes == {"deposits without electrons": 1}


def test_tars_are_told_apart_by_their_first_member(tmp_path):
    """A large archive is not read to find its reader: all behind the first header may be missing."""
    detector = small_detector(tmp_path)
    frames = write_wirecell(tmp_path / "f.tar", detector.tpc(1), small_waveforms(detector.tpc(1)))
    depos = write_wirecell_depos(tmp_path / "d.tar", small_deposits())
    for path, name, kind in ((frames, "wirecell", "frames"), (depos, "wirecell-depos", "depos")):
        path.write_bytes(path.read_bytes()[:600])
        assert find_reader(path, kind).name == name
    assert probe(depos).first_name == "depo_data_0"
    with pytest.raises(InputError, match="larstore preprocess"):
        open_depos(frames)
    with pytest.raises(InputError, match="simulate --depos"):
        open_source(depos)


def test_an_npz_with_both_is_read_as_either(tmp_path):
    detector = small_detector(tmp_path)
    both = write_wirecell(tmp_path / "both.npz", detector.tpc(1), small_waveforms(detector.tpc(1)))
    depos = write_wirecell_depos(tmp_path / "d.npz", small_deposits())
    with zipfile.ZipFile(both, "a") as archive, zipfile.ZipFile(depos) as others:
        for name in others.namelist():
            archive.writestr(name, others.read(name))
    assert len(read(both)) == 2
    assert len(list(open_source(both).events(detector.tpc(1)))) == 2


def test_events_before_damage_are_yielded(tmp_path):
    path = write_wirecell_depos(tmp_path / "a.tar", small_deposits(3))
    with tarfile.open(path) as archive:
        third = archive.getmember("depo_data_2.npy").offset
    path.write_bytes(path.read_bytes()[:third])
    events = open_depos(path).events(CONFIG)
    assert [next(events).event, next(events).event] == [0, 1]
    with pytest.raises(InputError, match="damaged"):
        next(events)


@pytest.mark.parametrize("path", ["nowhere.zip", "."])
def test_no_file(tmp_path, path):
    with pytest.raises(InputError, match=r"no such file|is a folder"):
        open_depos(tmp_path / path)


def test_bee_events_are_in_the_order_of_their_numbers(tmp_path):
    """Numbers, not names: 2 comes before 10."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in (10, 2):
            document = {"x": [float(number)], "y": [0.0], "z": [0.25], "q": [5], "eventNo": f"{number}00"}
            archive.writestr(f"data/{number}/{number}-mc.json", "[]")
            archive.writestr(f"data/{number}/{number}-depos.json", json.dumps(document))
    first, second = read(path)
    assert_allclose(first.deposits, [[20.0, 0.0, 2.5, 0.0, 5.0]])
    assert (first.event, first.event_id, second.event, second.event_id) == (0, 200, 1, 1000)
    assert first.notes == {"times unknown, taken as 0": 1}  # 2.5 mm: not rounded to 1 mm


@pytest.mark.parametrize(
    ("sets", "chosen"),
    [
        (("mc", "truth"), "truth"),
        (("truth", "truthDepo", "cluster"), "truthDepo"),
        (("simDepoSet", "tiled"), "simDepoSet"),
    ],
)
def test_bee_sets(tmp_path, sets, chosen):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for charge, name in enumerate(sets, start=1):
            document = {"x": [0.0], "y": [0.0], "z": [0.0], "q": [charge]}
            archive.writestr(f"data/0/0-{name}.json", json.dumps(document))
        archive.writestr("data/1/1-mc.json", "[]")
    events = read(path)
    assert events[0].deposits[0, 4] == sets.index(chosen) + 1
    assert events[1].notes == {"events without deposits in the file": 1}
    assert len(events[1].deposits) == 0


@pytest.mark.parametrize(
    ("sets", "word"), [(("mc", "clustering"), "holds the sets clustering, mc"), (("depoA", "depoB"), "several sets")]
)
def test_bee_without_one_set_of_deposits(tmp_path, sets, word):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in sets:
            archive.writestr(f"data/0/0-{name}.json", "{}")
    with pytest.raises(InputError, match=word):
        read(path)


def slow_edepsim(row, config):
    """The deposits of one segment, by the definitions, in plain Python."""
    start, end = ([float(row[f"{axis}_{end}"]) for axis in "xyz"] for end in ("start", "end"))
    length_mm = 10.0 * math.dist(start, end)
    xi = config.box_beta * float(row["dEdx"]) / (config.density_g_cm3 * config.field_kv_cm)
    recombination = min(max(math.log(config.box_alpha + xi) / xi, 0.0), 1.0)
    electrons = float(row["dE"]) * 1e6 / config.w_ion_ev * recombination
    n = max(1, math.ceil(length_mm / config.step_mm))
    for i in range(n):
        part = (i + 0.5) / n
        place = [10.0 * (a + part * (b - a)) for a, b in zip(start, end, strict=True)]
        time = float(row["t_start"]) + part * (float(row["t_end"]) - float(row["t_start"]))
        yield [*place, time, electrons / n]


@pytest.mark.parametrize("step_mm", [0.5, 2.0, 20.0])
def test_edepsim_against_an_oracle(tmp_path, step_mm):
    rng = np.random.default_rng(3)
    config = SimulationConfig(step_mm=step_mm, field_kv_cm=0.3, w_ion_ev=20.0)
    rows = np.zeros(40, EDEPSIM_ROW)
    for name in EDEPSIM_ROW.names:
        if EDEPSIM_ROW[name].kind == "f":
            rows[name] = rng.uniform(-20, 20, 40)
    rows["dE"], rows["dEdx"] = rng.uniform(0.01, 5, 40), rng.uniform(0.5, 50, 40)
    rows["eventID"], rows["trackID"] = np.repeat([7, 3], 20), rng.integers(0, 5, 40)
    rows["pdgId"] = rng.choice([11, -13, 2212], 40)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["segments"] = rows
    events = read(path, config=config)
    assert [(event.event, event.event_id) for event in events] == [(0, 7), (1, 3)]
    for event, part in zip(events, (rows[:20], rows[20:]), strict=True):
        expected = [list(slow_edepsim(row, config)) for row in part]
        assert_allclose(event.deposits, np.concatenate(expected), rtol=1e-9, atol=1e-9)
        counts = [len(one) for one in expected]
        assert_array_equal(event.track, np.repeat(part["trackID"], counts))
        assert_array_equal(event.pdg, np.repeat(part["pdgId"], counts))


def test_edepsim_by_hand(tmp_path):
    """2.1 MeV in 1 cm: 62.7 ke (the model's reference value), in five steps of 2 mm."""
    row = np.zeros(1, EDEPSIM_ROW)
    row["dE"], row["dEdx"], row["z_end"], row["t_end"] = 2.1, 2.1, 1.0, 10.0
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["segments"] = row
    (event,) = read(path)
    assert_allclose(event.deposits[:, 2], [1, 3, 5, 7, 9])
    assert_allclose(event.deposits[:, 3], [1, 3, 5, 7, 9])
    assert event.deposits[:, 4].sum() == pytest.approx(62_700, rel=2e-3)


def test_edepsim_without_dedx_and_with_newer_names(tmp_path):
    """dE over the length stands in for dEdx; event_id, traj_id and pdg_id for the older names."""
    path = write_edepsim(tmp_path / "old.h5", small_deposits(2))
    with h5py.File(path) as file:
        rows = file["segments"][:]
    new = {"eventID": "event_id", "trackID": "traj_id", "pdgId": "pdg_id"}
    rows["dE"] = 2.1 * 0.1  # as dEdx and the length say
    names = [name for name in rows.dtype.names if name != "dEdx"]
    other = np.zeros(len(rows), [(new.get(name, name), rows.dtype[name]) for name in names])
    for name in names:
        other[new.get(name, name)] = rows[name]
    for target, values in (("old.h5", rows), ("new.h5", other)):
        with h5py.File(tmp_path / target, "w") as file:
            file["segments"] = values
    for old, young in zip(read(path), read(tmp_path / "new.h5"), strict=True):
        assert_allclose(young.deposits, old.deposits, rtol=1e-4)
        assert_array_equal(young.track, old.track)
        assert_array_equal(young.pdg, old.pdg)


def test_events_across_blocks_of_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("preprocess.sources.readers.edepsim.BLOCK_ROWS", 7)
    given = small_deposits(5, 7) + small_deposits(4, 10, seed=1)
    found = read(write_edepsim(tmp_path / "a.h5", given))
    assert [len(event.deposits) for event in found] == [7] * 5 + [10] * 4
    for event, true in zip(found, given, strict=True):
        assert_allclose(event.deposits, true.points, rtol=3e-6, atol=1e-4)


@pytest.mark.parametrize("write", [write_bee, write_wirecell_depos, write_edepsim])
def test_no_events(tmp_path, write):
    path = write(tmp_path / {"write_bee": "a.zip", "write_edepsim": "a.h5"}.get(write.__name__, "a.npz"), [])
    if write is write_edepsim:
        assert read(path) == []
    else:
        with pytest.raises(InputError, match="no known format"):
            open_depos(path)
