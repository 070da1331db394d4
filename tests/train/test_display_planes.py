"""Wire planes of an event's page: the voxels' charges on wires, beside the waveforms that they were made from."""

import numpy as np
import pytest

import larstore
from larstore.testing import make_store
from tests.train.small_planes import STEP, small_tpc, straight_tracks, tracks_store
from train.results.display.payload import event_payload
from train.results.display.projections import NONE, plane_images, refusal
from train.results.wire_shares import plane_wires, voxel_shares

BAD = (30, 77, 140, 250)  # columns


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return larstore.open(tracks_store(tmp_path_factory.mktemp("planes") / "run.zarr", files=1))


def dense(plane, slices):
    image = np.zeros((slices, len(plane.channels)))
    np.add.at(image, (plane.x, plane.column), plane.charge)
    return image


def test_the_planes_are_the_waveforms_again(store):
    image, tpc = store.select()[0], small_tpc()
    waveform, _ = straight_tracks(tpc, 0)
    ticks = waveform.reshape(-1, STEP[0], waveform.shape[1]).sum(axis=1)
    for p, (plane, original) in enumerate(zip(plane_images(image, image.coords, 1), tpc.planes, strict=True)):
        columns = np.searchsorted(tpc.channels, plane.channels)
        assert set(plane.channels) == set(np.asarray(tpc.channels)[original.column])
        found, real = dense(plane, len(ticks)), ticks[:, columns]
        assert found.sum() == pytest.approx(image.charge[:, p].sum(), rel=1e-6)
        assert np.abs(found.sum(axis=1) - real.sum(axis=1)).max() < 1e-3 * real.sum(axis=1).max()
        assert np.corrcoef(found.ravel(), real.ravel())[0, 1] > 0.9
        elsewhere = np.roll(found, 3, axis=1)
        assert np.corrcoef(elsewhere.ravel(), real.ravel())[0, 1] < 0.6, "each channel at its place"


def test_a_voxel_lies_most_on_its_channel(store):
    image = store.select()[0]
    geometry = store.geometry
    planes = plane_wires(geometry, 1)
    shares = voxel_shares(planes, geometry.tpcs[1], STEP, image.coords)
    for plane, share in zip(plane_images(image, image.coords, 1), shares, strict=True):
        table = share.toarray()
        on = plane.main != NONE
        assert (on == (table.sum(axis=1) > 0)).all()
        rows = np.flatnonzero(on)
        assert (table[rows, plane.main[rows]] == table[rows].max(axis=1)).all()
        assert plane.reach >= 1
    coarse = np.unique(image.coords.astype(int) // 2, axis=0)
    assert all(len(plane.main) == len(coarse) for plane in plane_images(image, coarse, 2))


def test_a_bad_channel_is_left_out(tmp_path):
    store = larstore.open(tracks_store(tmp_path / "run.zarr", files=1, bad=BAD))
    image = store.select()[0]
    planes = plane_images(image, image.coords, 1)
    charges = {n: c for plane in planes for n, c in zip(plane.channels, dense(plane, 20).sum(axis=0), strict=True)}
    assert all(charges[n] == 0 for n in np.asarray(small_tpc().channels)[list(BAD)])
    assert sum(value > 0 for value in charges.values()) > 100


def test_what_has_no_planes_says_so(store, tmp_path):
    assert refusal(store, 1) is None
    other = larstore.open(tracks_store(tmp_path / "run.zarr", files=1))
    other.geometry.tpcs[1] = other.geometry.tpcs[1].model_copy(update={"joined_origin": (0, 0, 0)})
    event = event_payload(other.select()[0], None)
    assert event["wires"] is None
    assert any("joined" in note for note in event["notes"])
    other.geometry.wires["plane"][:] = 0
    other.geometry.tpcs[1] = other.geometry.tpcs[1].model_copy(update={"joined_origin": None})
    assert "no wires of plane" in refusal(other, 1)


def test_an_image_without_voxels_has_empty_planes(tmp_path):
    from larstore.testing import add_images, make_image

    path = make_store(tmp_path / "run.zarr", n_files=1)
    add_images(path, [make_image(5, n_voxels=0)])
    image = larstore.open(path).image(file=5, event=0, tpc=1)
    assert [len(plane.charge) for plane in plane_images(image, image.coords, 1)] == [0, 0, 0]
