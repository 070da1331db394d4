"""NuML/pynuml HDF5: waveforms by plane and wire, and the truth of hits beside them."""

import h5py
import numpy as np
import pytest

from larstore.errors import InputError
from preprocess.sources import open_source
from preprocess.testing import small_detector, small_waveforms, write_numl


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return small_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture
def path(tmp_path, detector):
    return write_numl(tmp_path / "data.h5", detector.tpc(3), small_waveforms(detector.tpc(3), 3))


@pytest.mark.parametrize("counts", [True, False])
def test_events_with_and_without_counts(tmp_path, detector, counts):
    tpc = detector.tpc(3)
    waveforms = small_waveforms(tpc, 3)
    source = open_source(write_numl(tmp_path / "data.h5", tpc, waveforms, counts))
    assert source.n_events == 3
    assert source.tpcs(detector) == [3]
    for i, (e, waveform) in enumerate(zip(source.events(tpc), waveforms, strict=True)):
        np.testing.assert_allclose(e.waveform, waveform, rtol=1e-6)
        assert (e.event, e.run, e.subrun, e.event_id) == (i, 1, 2, 10 + i)
        assert e.truth is None
        assert e.notes == {"hit-level truth rows (see NumlSource.hits)": 5}
    (first, *_) = source.events(tpc, ("depo",), scale=1.0)
    np.testing.assert_allclose(first.waveform * 200, waveforms[0], rtol=1e-6)
    assert first.notes["no truth voxels in this format"] == 1


def test_hits_of_an_event(path, detector):
    """edep rows with what hit_table knows of their hits; the builder writes them in opposite orders."""
    source = open_source(path)
    hits = source.hits(1)
    assert list(hits) == ["energy", "g4_id", "hit_id", "hit_local_plane", "hit_local_time"]
    assert hits["hit_id"].tolist() == [4, 3, 2, 1, 0]
    assert hits["g4_id"].tolist() == [100, 101, 102, 103, 104]
    assert hits["energy"].tolist() == [1, 2, 3, 4, 5]
    assert hits["hit_local_plane"].tolist() == [1, 0, 2, 1, 0]
    assert hits["hit_local_time"].tolist() == [10, 7.5, 5, 2.5, 0]
    event = next(source.events(detector.tpc(3)))
    assert source.hits(event)["hit_id"].tolist() == hits["hit_id"].tolist()
    with pytest.raises(InputError, match=r"has no event 3. Fix: choose one of 0 … 2"):
        source.hits(3)
    with h5py.File(path, "r+") as file:
        file["hit_table/hit_id"][5] = 77
    with pytest.raises(InputError, match="edep_table names hits of event 1 that hit_table lacks"):
        source.hits(1)
    assert len(source.hits(0)["hit_id"]) == 5
    with h5py.File(path, "r+") as file:
        del file["hit_table"]
    assert list(source.hits(1)) == ["energy", "g4_id", "hit_id"]
    with h5py.File(path, "r+") as file:
        del file["edep_table"]
    with pytest.raises(InputError, match="edep_table is not a group"):
        source.hits(1)
    assert next(source.events(detector.tpc(3))).notes == {}


def test_wires_in_any_order_and_missing_ones(path, detector):
    tpc = detector.tpc(3)
    with h5py.File(path, "r+") as file:
        table = file["wire_table"]
        order = np.random.default_rng(0).permutation(210)
        for name in ("local_plane", "local_wire", "adc"):
            table[name][:210] = table[name][:210][order]
        table["tpc"][:3] = 8  # three wires of another TPC
    source = open_source(path)
    with pytest.raises(InputError, match=r"event 0 lacks channels of TPC 3 of small: u \d+/80.*Fix: "):
        next(source.events(tpc))
    event = next(source.events(tpc, missing_channels="bad"))
    expected = small_waveforms(tpc, 1)[0]
    missing = np.sort(order[:3])
    expected[:, missing] = 0
    np.testing.assert_allclose(event.waveform, expected, rtol=1e-6)
    assert event.bad.tolist() == [[column, 0, 60] for column in missing]
    assert event.notes["channels that the frame lacks"] == 3
    with pytest.raises(InputError, match="wire_table holds TPC 8, small has 1, 3"):
        source.tpcs(detector)


def replaced(name, values):
    def change(file):
        del file[name]
        file[name] = values

    return change


def written(name, row, value):
    def change(file):
        file[name][row] = value

    return change


BAD = {
    "no wires": (lambda file: file["wire_table"].pop("adc"), "wire_table/adc is missing"),
    "flat adc": (replaced("wire_table/adc", np.zeros(630)), r"wire_table/adc has shape \(630,\)"),
    "short adc": (replaced("wire_table/adc", np.zeros((600, 60))), r"shape \(600, 60\). Fix: write \(630, 60\)"),
    "text": (replaced("wire_table/adc", np.full((630, 60), b"a")), "dtype |S1"),
    "event ids": (replaced("wire_table/event_id", np.zeros((630, 2), int)), r"event_id has shape \(630, 2\)"),
    "float ids": (replaced("wire_table/event_id", np.zeros((630, 3))), "dtype float64"),
    "counts": (written("wire_table/event_id.seq_cnt", 1, [1, 211]), "counts 631 rows .smallest 210.*table has 630"),
    "no count": (replaced("wire_table/event_id.seq_cnt", [[0, 630], [1, 0]]), "smallest 0"),
    "flat counts": (replaced("wire_table/event_id.seq_cnt", [210, 210, 210]), r"seq_cnt has shape \(3,\)"),
    "negative": (replaced("wire_table/event_id.seq_cnt", [[0, 1000], [1, -370]]), "smallest -370"),
    "twice": (written("wire_table/event_id", slice(210, 420), [1, 2, 10]), "event 10 of run 1, subrun 2 twice"),
    "apart": (written("wire_table/event_id", 100, [1, 2, 11]), "rows of event 0 in wire_table lie apart"),
    "plane": (written("wire_table/local_plane", 3, 3), "event 0 holds an unknown wire.*u 0/80, v 0/80, w 0/50"),
    "wire": (written("wire_table/local_wire", 3, 80.0), "event 0 holds an unknown wire"),
    "negative wire": (written("wire_table/local_wire", 3, -1.0), "event 0 holds an unknown wire"),
    "half wire": (written("wire_table/local_wire", 3, 2.5), "local_wire holds other than whole numbers"),
    "nan wire": (written("wire_table/local_wire", 3, np.nan), "local_wire holds other than whole numbers"),
    "wire twice": (written("wire_table/local_wire", 3, 4.0), "event 0 holds channel 214 twice"),
    "nan": (written("wire_table/adc", (3, 4), np.nan), "event 0 is nan in row 4, column 3"),
    "edep ids": (replaced("edep_table/event_id", np.zeros((15, 2), int)), "edep_table/event_id has shape"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_content(path, detector, case):
    change, message = BAD[case]
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(InputError, match=message) as caught:
        list(open_source(path).events(detector.tpc(3)))
    assert str(caught.value).startswith(str(path))
    assert "Fix: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_that_mean_nothing_here(path, detector):
    source = open_source(path)
    with pytest.raises(InputError, match="no tags"):
        next(source.events(detector.tpc(3), tag="gauss"))
    with pytest.raises(InputError, match="orientation"):
        next(source.events(detector.tpc(3), orientation="ticks_first"))
    with pytest.raises(InputError, match="tick_us says ticks of 2 us"):
        next(source.events(detector.tpc(3), tick_us=2.0))


def test_an_empty_file(tmp_path, detector):
    with h5py.File(tmp_path / "none.h5", "w") as file:
        file["wire_table/event_id"] = np.empty((0, 3), np.int32)
    source = open_source(tmp_path / "none.h5")
    assert source.n_events == 0
    assert list(source.events(detector.tpc(3))) == []
    with pytest.raises(InputError, match=r"holds TPC \(none\)"):
        source.tpcs(detector)
