"""The deposits of others: six Bee events of ProtoDUNE-SP, and edep-sim segments of larnd-sim."""

import os
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest

from preprocess.detector import load_detector
from preprocess.simulation import SimulationConfig
from preprocess.simulation.particles import box_of
from preprocess.sources import Place, open_depos
from preprocess.testing import DEPO_BUILDERS, small_deposits, write_depo_file

DATA = Path(os.environ.get("LARSTORE_TEST_DATA", "nowhere"))
BEE = DATA / "depos/protodune-sp-truthDepo-6evt-bee.zip"
LARND = DATA / "larnd_edep/examples_module0_corsika.h5"
CONFIG = SimulationConfig()
needs = {path: pytest.mark.skipif(not path.is_file(), reason=f"LARSTORE_TEST_DATA has no {path.name}")
         for path in (BEE, LARND)}  # fmt: skip


@needs[BEE]
def test_six_bee_events():
    """Counts of the archive; 23 to 43 thousand of the points in TPC 1; times at 0."""
    box = box_of(load_detector("protodune-sp").tpc(1))
    source = open_depos(BEE)
    events = list(source.events(CONFIG))
    assert source.n_events == 6
    assert [event.event_id for event in events] == [1, 2, 3, 4, 5, 6]
    assert [len(event.deposits) for event in events] == [36499, 44864, 52630, 28065, 40717, 35347]
    inside = [int(box.contains(event.deposits[:, :3]).sum()) for event in events]
    assert inside == [30152, 29264, 42741, 23271, 37670, 29303]
    for event in events:
        n = len(event.deposits)
        assert event.notes == {"times unknown, taken as 0": n, "positions rounded to 1 mm": n}
        assert not event.deposits[:, 3].any()
        assert event.deposits[:, 4].min() == 1000
        # A pion of 7 GeV/c: up to its energy over W, after recombination.
        assert 0.8e8 < event.deposits[:, 4].sum() < 1.2e8
        assert (event.pdg == 0).all()
        assert (event.track == -1).all()


@needs[LARND]
def test_larnd_segments():
    """25 cosmic events of a module of ±31 × −84…40 × ±31 cm; the charge is 0.4 to 0.75 of the energy over W."""
    with h5py.File(LARND) as file:
        rows = file["segments"][:]
    place = Place(1800.0, 3000.0, 1000.0, 90.0)
    source = open_depos(LARND, place)
    events = list(source.events(CONFIG))
    assert source.n_events == len(events) == 25
    assert [event.event_id for event in events] == np.unique(rows["eventID"]).tolist()
    points = np.concatenate([event.deposits for event in events])
    low, high = points.min(axis=0)[:3] - [1800, 3000, 1000], points.max(axis=0)[:3] - [1800, 3000, 1000]
    assert (low > [-310, -840, -305]).all()
    assert (high < [311, 403, 305]).all()
    for event in events:
        ours = rows[rows["eventID"] == event.event_id]
        assert set(event.track) <= set(ours["trackID"].tolist())
        assert set(event.pdg) <= set(ours["pdgId"].tolist())
    ratio = points[:, 4].sum() / (rows["dE"].sum() * 1e6 / CONFIG.w_ion_ev)
    assert 0.4 < ratio < 0.75
    assert sum(event.notes.get("segments without length or dE/dx", 0) for event in events) == 6


@pytest.mark.slow
@pytest.mark.parametrize("reader", list(DEPO_BUILDERS))
def test_100_events_are_read_one_at_a_time(tmp_path, reader):
    """100 events of 4000 deposits: the peak stays that of a few events."""
    path = write_depo_file(tmp_path, reader, small_deposits(100, 4000))
    next(open_depos(path).events(CONFIG))  # compiles and imports
    tracemalloc.start()
    n = sum(len(event.deposits) for event in open_depos(path).events(CONFIG))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"{reader}: peak {peak / 1e6:.0f} MB")
    assert n == 400_000
    assert peak < 6e6  # all deposits take 19 MB
