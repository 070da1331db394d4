"""TPCs 1, 5 and 9 joined as the research code joined them: its own golden file, from its files and from ours."""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import larstore
from larstore.testing import add_images
from preprocess import join, load_detector
from preprocess.config import RunConfig
from preprocess.exchange.import_xy import import_xy
from preprocess.pipeline import process_unit
from preprocess.plan import Unit

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "tiling"
TPCS = (1, 5, 9)
JOINED = GOLDEN / "batch0-reco_BeamCosmic_201_xy-TPC159.npz"


def by_place(rows):
    return rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))]


def imported(path):
    """Their images of the single TPCs."""
    return import_xy([GOLDEN / f"batch0-reco_BeamCosmic_201_xy-TPC{n}.npz" for n in TPCS], path, "protodune-sp-2021")


def tiled(path):
    """Ours, of their read-outs."""
    detector = load_detector("protodune-sp-2021")
    names = {n: str(GOLDEN / f"reco_BeamCosmic_201_wire-TPC{n}.npz") for n in TPCS}
    config = RunConfig(inputs=tuple(names.values()), output=path, detector=detector.name, min_live_planes=1)
    larstore.create(path, geometry=detector.geometry(), provenance={"tiling": config.tiling()})
    for n in TPCS:
        result = process_unit(Unit(names[n], 201, n, 1), config, detector.geometry().hash)
        add_images(path, result.images, result.inputs)
    return larstore.open(path)


@pytest.mark.parametrize("made", [imported, pytest.param(tiled, marks=pytest.mark.slow)])
def test_the_golden_join(made, tmp_path, monkeypatch):
    monkeypatch.setenv("LARSTORE_CACHE", str(tmp_path / "cache"))
    source = made(tmp_path / "run.zarr")
    done = join(source.path, tmp_path / "joined.zarr", TPCS)
    assert (done.images, done.shared, done.incomplete) == (2, 0, [])
    store = larstore.open(tmp_path / "joined.zarr")
    golden = np.load(JOINED, allow_pickle=True)  # our own copy of a file that we trust
    assert len(golden["starts"]) == 2
    for event in range(2):
        image = store.image(201, event, 1)
        here = golden["X"][:, 3] == event
        rows = by_place(np.column_stack([golden["X"][here][:, [0, 1, 2, 4, 5, 6]], golden["Y"][here]]))
        assert_array_equal(image.coords, rows[:, :3])
        u, x, v = 1000.0 * rows[:, 3:6].astype(np.float64).T  # on these TPCs
        assert_allclose(image.charge, np.stack([u, v, x], axis=1), rtol=1e-6, atol=1e-6)
        assert_array_equal(image.truth, rows[:, 6])
        truth = by_place(np.array(golden["Y_truth"][event]))
        assert_array_equal(image.truth_voxels[0], truth[:, :3])
        assert_array_equal(image.truth_voxels[1], truth[:, 3])
        parts = [source.image(201, event, n) for n in TPCS]
        assert len(image) == sum(map(len, parts))
        assert image.summary("truth_sum") == pytest.approx(sum(part.summary("truth_sum") for part in parts))
    assert larstore.verify(store.path).ok
    assert store.attributes["joined"] == [1, 5, 9]
    assert [store.geometry.tpcs[n].joined_origin for n in TPCS] == [(0, 0, 0), (0, 0, 290), (0, 0, 580)]
