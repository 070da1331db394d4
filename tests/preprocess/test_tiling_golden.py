"""The research code's own results: coordinates equal, charges to 1e-6, truth equal."""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from preprocess.detector import load_detector
from preprocess.truth import truth_at, voxelise_truth
from preprocess.voxels import Tiler

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "tiling"
UXV = [0, 2, 1]  # its columns on odd TPCs are U, X, V; X is w
RULE = {"threshold": 1e-3, "min_live_planes": 1}  # its unit is 1000 electrons
SAMPLES = [("singleMu_101", 1), ("BeamCosmic_201", 1), ("BeamCosmic_201", 5), ("BeamCosmic_201", 9)]


@pytest.fixture(scope="module")
def tilers():
    detector = load_detector("protodune-sp-2021")
    return {number: Tiler(detector.tpc(number)) for number in (1, 5, 9)}


def in_order(rows):
    """Rows x, y, z, event, three charges sorted by x, y, z: coordinates and charges u, v, w."""
    rows = rows[np.lexsort(rows[:, 2::-1].T)]
    return rows[:, :3], rows[:, 4:][:, UXV]


@pytest.mark.parametrize(("sample", "number"), SAMPLES)
def test_every_file_gives_the_research_codes_voxels(tilers, sample, number):
    golden = np.load(GOLDEN / f"batch0-reco_{sample}_xy-TPC{number}.npz")
    waveforms = np.load(GOLDEN / f"reco_{sample}_wire-TPC{number}.npz")
    depos = np.load(GOLDEN / f"reco_{sample}_depoElectron-TPC{number}.npz")
    frame = tilers[number].tpc.frame
    assert len(waveforms.files) == len(golden["starts"])
    for event, name in enumerate(waveforms.files):
        here = golden["X"][:, 3] == event
        coords, charge = in_order(golden["X"][here])
        voxels = tilers[number](waveforms[name], **RULE)
        assert_array_equal(voxels.coords, coords)
        assert_allclose(voxels.charge, charge, rtol=1e-6, atol=1e-9)
        order = np.lexsort(golden["X"][here][:, 2::-1].T)
        truth = voxelise_truth(depos[name], (8, 4, 4), (6000, frame.n_y, frame.n_z))
        assert_array_equal(truth_at(voxels.coords, *truth), golden["Y"][here][order, 0])


def test_sparse_events_with_all_their_truth(tilers):
    golden = np.load(GOLDEN / "events_tpc1_face2.npz")
    frame = tilers[1].tpc.frame
    for event in range(3):
        begin, end = golden["wire_offsets"][event : event + 2]
        waveform = np.zeros((6000, 2560), np.float32)
        waveform[golden["tick"][begin:end], golden["chan"][begin:end]] = golden["val"][begin:end]
        coords, charge = in_order(golden["X"][golden["X"][:, 3] == event])
        voxels = tilers[1](waveform, **RULE)
        assert_array_equal(voxels.coords, coords)
        assert_allclose(voxels.charge, charge, rtol=1e-6, atol=1e-9)
        depo = golden["depo"][slice(*golden["depo_offsets"][event : event + 2])]
        expected = golden["Y_truth"][slice(*golden["Y_truth_offsets"][event : event + 2])]
        expected = expected[np.lexsort(expected[:, 2::-1].T)]
        truth_coords, truth_value = voxelise_truth(depo, (8, 4, 4), (6000, frame.n_y, frame.n_z))
        assert_array_equal(truth_coords, expected[:, :3])
        assert_allclose(truth_value, expected[:, 3], rtol=1e-6)


def test_full_resolution(tilers):
    golden = np.load(GOLDEN / "events_tpc1_face2.npz")
    waveforms = np.load(GOLDEN / "reco_singleMu_101_wire-TPC1.npz")
    for event, name in enumerate(waveforms.files):
        here = golden["pix_coord"][:, 3] == event
        rows = golden["pix_coord"][here][:, [0, 2, 1]]  # tick, py, px
        order = np.lexsort(rows[:, ::-1].T)
        voxels = tilers[1](waveforms[name], downsample=(1, 1, 1), **RULE)
        assert_array_equal(voxels.coords, rows[order])
        assert_allclose(voxels.charge, golden["pix_val_f32"][here][order][:, UXV], rtol=1e-6, atol=1e-9)


def test_default_rule_only_drops_what_one_wire_lights(tilers):
    waveform = np.load(GOLDEN / "reco_singleMu_101_wire-TPC1.npz")["arr_1"]
    every = tilers[1](waveform, **RULE)
    default = tilers[1](waveform, threshold=1e-3)
    assert set(map(tuple, default.coords.tolist())) <= set(map(tuple, every.coords.tolist()))
