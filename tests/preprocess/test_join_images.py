"""A joined image equals what a dictionary of places makes of its TPCs: charges, live, truth and its columns."""

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import larstore
from larstore.records import ImageRecord
from larstore.testing import add_images, make_geometry
from preprocess import join
from preprocess.joining.frame import joined_frame
from tests.preprocess.joined_frames import of_tpcs

COLUMNS = ("collected", "pdg", "track")
SIZE = (12, 6, 6)  # voxels of a TPC in x, y, z
EVENTS = 12
RANDOM = settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Nothing here outlives its test."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def small_geometry(drifts, distances):
    """TPCs 1, 2, … of 12 × 6 × 6 voxels; drift signs, and mm along z from the first one."""
    tpcs = make_geometry(range(1, len(drifts) + 1)).tpcs
    for number, drift, z in zip(tpcs, drifts, distances, strict=True):
        size = {"n_ticks": 8 * SIZE[0], "n_y": 4 * SIZE[1], "n_z": 4 * SIZE[2]}
        place = {"drift_sign": drift, "anode_x_mm": -20.0 * drift, "origin_z_mm": z}
        tpcs[number] = tpcs[number].model_copy(update=size | place)
    return of_tpcs(tpcs)


def random_voxels(rng, share):
    places = np.flatnonzero(rng.random(np.prod(SIZE)) < share)
    return np.stack(np.unravel_index(places, SIZE), axis=1).astype(np.uint16)


def random_image(rng, event, tpc, knows):
    """Few different values, so that equals meet; ``knows``: of "t" truth, "v" truth voxels, "c", "p", "k" columns."""
    coords, truth_coords = random_voxels(rng, rng.choice([0, 0.1, 0.5])), random_voxels(rng, rng.choice([0, 0.1, 0.5]))
    value = rng.integers(1, 4, len(truth_coords)).astype(np.float32)
    n, m = len(coords), len(truth_coords)
    known = dict(zip(map(tuple, truth_coords.tolist()), value.tolist(), strict=True))
    columns = {
        "collected": value * np.float32(0.5),
        "pdg": rng.integers(-3, 3, m).astype(np.int32),
        "track": rng.integers(-1, 9, m).astype(np.int32),
    }
    voxels = "v" in knows and "t" in knows
    return ImageRecord(
        file=0,
        event=event,
        tpc=tpc,
        coords=coords,
        charge=rng.normal(0, 1e4, (n, 3)).astype(np.float32),
        live=rng.integers(0, 8, n).astype(np.uint8),
        truth=np.array([known.get(tuple(c), 0.0) for c in coords.tolist()], np.float32) if "t" in knows else None,
        truth_coords=truth_coords if voxels else None,
        truth_value=value if voxels else None,
        truth_columns={name: columns[name] for name in COLUMNS if voxels and name[0] in knows},
        event_id=int(rng.choice([-1, 7])),
        n_bad_channels=tpc,
    )


def by_dictionary(images, frame):
    """Place -> entries of all TPCs there, in their order: of the voxels, and of the truth voxels."""
    voxels, truths = {}, {}
    for image in images:
        for i, place in enumerate(frame.places(image.tpc, image.coords).tolist()):
            truth = np.nan if image.truth is None else image.truth[i]
            voxels.setdefault(tuple(place), []).append((image.charge[i], image.live[i], truth))
        if image.truth_coords is not None:
            for i, place in enumerate(frame.places(image.tpc, image.truth_coords).tolist()):
                about = {name: values[i] for name, values in image.truth_columns.items()}
                truths.setdefault(tuple(place), []).append((image.truth_value[i], about))
    return voxels, truths


def assert_equals_dictionary(found, images, frame):
    voxels, truths = by_dictionary(images, frame)
    places = sorted(voxels)
    assert [tuple(c) for c in found.coords.tolist()] == places
    sums = [np.sum([entry[0] for entry in voxels[p]], axis=0, dtype=np.float64) for p in places]
    assert_array_equal(found.charge, np.array(sums, np.float64).reshape(-1, 3).astype(np.float32))
    assert found.live.tolist() == [np.bitwise_and.reduce([entry[1] for entry in voxels[p]]) for p in places]
    if all(image.truth is None for image in images):
        assert found.truth is None
        return
    all_voxels = all(image.truth_coords is not None for image in images)
    for place, value in zip(places, found.truth, strict=True):
        own = sum(entry[2] for entry in voxels[place])
        expected = sum(v for v, _ in truths.get(place, [])) if all_voxels else own
        assert_array_equal(value, np.nan if np.isnan(own) else expected)
    assert (found.truth_voxels is not None) == all_voxels
    if not all_voxels:
        assert found.truth_columns == {}
        return
    assert [tuple(c) for c in found.truth_voxels[0].tolist()] == sorted(truths)
    assert found.truth_voxels[1].tolist() == [sum(v for v, _ in truths[p]) for p in sorted(truths)]
    names = [name for name in COLUMNS if all(name in image.truth_columns for image in images)]
    assert list(found.truth_columns) == names
    for name in names:
        for place, value in zip(sorted(truths), found.truth_columns[name].tolist(), strict=True):
            entries = truths[place]
            largest = max(range(len(entries)), key=lambda i: entries[i][0])  # the first one of equals
            assert value == (
                sum(about[name] for _, about in entries) if name == "collected" else entries[largest][1][name]
            )


@RANDOM
@given(
    seed=st.integers(0, 2**32 - 1),
    drifts=st.lists(st.sampled_from([-1, 1]), min_size=2, max_size=3),
    distances=st.lists(st.sampled_from([-51.0, 0.0, 8.0, 20.0, 33.0, 48.0]), min_size=3, max_size=3),
)
def test_joined_images_equal_a_dictionary(tmp_path_factory, seed, drifts, distances):
    folder, rng = tmp_path_factory.mktemp("join"), np.random.default_rng(seed)
    geometry = small_geometry(drifts, distances[: len(drifts)])
    sizes = {"shard_rows": 512, "chunk_rows": 64}
    larstore.create(folder / "a.zarr", geometry=geometry, provenance={}, truth_columns=COLUMNS, **sizes)
    knows = ("", "t", "tv", "tvcp", "tvcpt", "tvpt")
    images = []
    for event in range(EVENTS):
        words = rng.choice(knows, 3) if event % 2 else [rng.choice(knows)] * 3
        images += [random_image(rng, event, n, word) for n, word in zip(geometry.tpcs, words, strict=False)]
    add_images(folder / "a.zarr", images)
    done = join(folder / "a.zarr", folder / "b.zarr", list(geometry.tpcs)[::-1], threads=1)
    store = larstore.open(folder / "b.zarr")
    assert larstore.verify(store.path).ok
    frame = joined_frame(geometry, list(geometry.tpcs), (8, 4, 4))
    assert done.failures == []
    for event in range(EVENTS):
        mine = [image for image in images if image.event == event]
        found = store.image(0, event, 1)
        assert_equals_dictionary(found, mine, frame)
        assert found.summary("event_id") == max(image.event_id for image in mine)
        assert found.summary("n_bad_channels") == sum(image.tpc for image in mine)
    assert done.voxels + done.shared == sum(len(image.coords) for image in images)


def test_nothing_is_lost_where_boxes_overlap(tmp_path):
    geometry = small_geometry([1, 1], [0.0, 20.0])  # 2.5 voxels of 6
    larstore.create(tmp_path / "a.zarr", geometry=geometry, provenance={}, truth_columns=COLUMNS)
    rng = np.random.default_rng(1)
    full = [random_image(rng, 0, number, "tvcpt") for number in (1, 2)]
    add_images(tmp_path / "a.zarr", full)
    done = join(tmp_path / "a.zarr", tmp_path / "b.zarr", [1, 2])
    assert done.shared > 0
    image = larstore.open(tmp_path / "b.zarr").image(0, 0, 1)
    assert_allclose(image.charge.sum(axis=0), sum(i.charge.sum(axis=0, dtype=np.float64) for i in full), rtol=1e-5)
    assert image.truth_voxels[1].sum() == sum(i.truth_value.sum() for i in full)
    assert image.summary("truth_sum") == sum(i.truth_value.sum() for i in full)
    assert (image.truth > 0).sum() > 0
