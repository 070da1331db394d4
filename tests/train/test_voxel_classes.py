"""Classes of voxels and coarser voxels against twins that look at one voxel at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import larstore
from larstore.errors import ConfigError
from larstore.image import pack
from larstore.testing import make_store
from train.results.voxel_classes import Level, VoxelClasses, touches, truth_levels
from train.results.voxels import Voxels, check_factors, voxels_of

LEVELS = (Level("all", "truth > 0", 1e-30), Level("5ke", "truth ≥ 5 ke", 5000.0))
place = st.tuples(*[st.sampled_from([0, 1, 2, 3, 4, 65534, 65535])] * 3)
pictures = st.dictionaries(
    place,
    st.tuples(
        st.booleans(),  # tiled
        st.sampled_from([0.0, 0.0, 100.0, 4999.0, 5000.0, 9000.0]),
        st.floats(0, 1, width=32),
        st.integers(0, 7),
    ),
    max_size=25,
)


def voxels_from(picture, known=True):
    """Voxels of {place: (tiled, truth, score, live)}."""
    places = sorted(picture)
    tiled = [p for p in places if picture[p][0]]
    true = [p for p in places if picture[p][1] > 0]
    coords = np.array(tiled, np.uint16).reshape(-1, 3)
    score = np.array([picture[p][2] for p in tiled], np.float32)
    return Voxels(
        coords=coords,
        charge=np.stack([score, 2 * score, 3 * score], axis=1),
        live=np.array([picture[p][3] for p in tiled], np.uint8),
        truth=np.array([picture[p][1] for p in tiled], np.float32),
        truth_coords=np.array(true, np.uint16).reshape(-1, 3) if known else None,
        truth_columns={"truth": np.array([picture[p][1] for p in true], np.float32)} if known else {},
        predictions={"score": score, "charge": 1000 * score},
    )


def near(a, b):
    return max(abs(i - j) for i, j in zip(a, b, strict=True)) <= 1


@settings(max_examples=25, deadline=None)
@given(pictures)
def test_touching_is_being_one_of_26_neighbours(picture):
    found = voxels_from(picture)
    expected = [any(near(p, q) for q in found.truth_coords.tolist()) for p in found.coords.tolist()]
    assert touches(found.coords, found.truth_coords).tolist() == expected


@settings(max_examples=25, deadline=None)
@given(pictures)
def test_classes_at_both_levels(picture):
    found, classes = voxels_from(picture), VoxelClasses(LEVELS)
    kind = classes.of(found.coords, found.truth, found.truth_coords, found.truth_columns["truth"])
    for number, level in enumerate(LEVELS):
        true = [p for p, v in picture.items() if v[1] >= level.least]
        for p, k in zip(map(tuple, found.coords.tolist()), kind, strict=True):
            expected = "true" if p in true else "halo" if any(near(p, q) for q in true) else "ghost"
            assert [
                name
                for name, of in (("true", classes.true), ("halo", classes.halo), ("ghost", classes.ghost))
                if of(number)[k]
            ] == [expected]


def test_unknown_truth_is_a_class_of_its_own():
    classes = VoxelClasses(LEVELS)
    coords = np.array([[5, 5, 5], [5, 5, 6]], np.uint16)
    assert classes.of(coords, None, None, None).tolist() == [classes.unknown] * 2
    truth = np.array([np.nan, 7000.0], np.float32)
    kind = classes.of(coords, truth, coords[1:], truth[1:])
    assert kind[0] == classes.unknown
    for level in (0, 1):
        assert classes.true(level)[kind[1]]
        assert not any(of(level)[classes.unknown] for of in (classes.true, classes.halo, classes.ghost))
    # Without truth voxels of their own, those that were tiled count.
    assert classes.of(coords, np.array([0, 7000.0], np.float32), None, None)[0] != 0


def test_levels():
    assert [level.name for level in truth_levels("electrons")] == ["all", "5ke"]
    (first, second) = truth_levels("electrons", 1000.0)
    assert np.float32(1000.0) < np.float32(first.least) < np.float32(1000.1)
    assert second.least == 5000.0
    assert [level.name for level in truth_levels("electrons", 5000.0)] == ["all"]
    assert [level.name for level in truth_levels("electrons", 9000.0)] == ["all"]
    assert truth_levels("MeV")[1].least == pytest.approx(0.17)
    assert len(truth_levels("adc")) == 1


@settings(max_examples=25, deadline=None)
@given(pictures, st.tuples(*[st.integers(1, 3)] * 3), st.booleans())
def test_coarser_voxels(picture, factors, known):
    found = voxels_from(picture, known)
    coarse = found.coarser(factors, {"charge"})
    keys = pack(coarse.coords)
    assert (np.diff(keys) > 0).all()
    members: dict[tuple[int, ...], list[int]] = {}
    for i, p in enumerate(found.coords.tolist()):
        members.setdefault(tuple(c // f for c, f in zip(p, factors, strict=True)), []).append(i)
    assert sorted(members) == [tuple(p) for p in coarse.coords.tolist()]
    for i, p in enumerate(map(tuple, coarse.coords.tolist())):
        at = members[p]
        assert coarse.charge[i] == pytest.approx(found.charge[at].sum(axis=0), rel=1e-5)
        assert coarse.live[i] == np.bitwise_and.reduce(found.live[at])
        assert coarse.predictions["score"][i] == found.predictions["score"][at].max()
        assert coarse.predictions["charge"][i] == pytest.approx(found.predictions["charge"][at].sum(), rel=1e-5)
        inside = [v[1] for q, v in picture.items() if tuple(c // f for c, f in zip(q, factors, strict=True)) == p]
        expected = sum(inside) if known else found.truth[at].sum()
        assert coarse.truth[i] == pytest.approx(expected)


def test_coarser_voxels_keep_what_is_not_known():
    coords = np.array([[0, 0, 0], [0, 0, 1], [0, 0, 2]], np.uint16)
    truth = np.array([np.nan, 5.0, 7.0], np.float32)
    charge, live = np.ones((3, 3), np.float32), np.full(3, 7, np.uint8)
    coarse = Voxels(coords, charge, live, truth, coords[1:], {"truth": truth[1:]}, {}).coarser((1, 1, 2))
    assert np.isnan(coarse.truth[0])
    assert coarse.truth[1] == 7.0
    assert Voxels(coords, charge, live, None, None, {}, {}).coarser((2, 2, 2)).truth is None


def test_voxels_of_an_image_and_their_references(tmp_path):
    store = larstore.open(make_store(tmp_path / "run.zarr", truth_columns=("collected",)))
    image = store.select()[0]
    found = voxels_of(image, [])
    assert found.reference("truth") == pytest.approx(image.truth)
    assert found.reference("collected") == pytest.approx(image.collected)
    assert found.reference("pdg") is None
    assert len(found) == len(image)
    whole = found.coarser((1, 1, 2)).reference("collected")
    lost = set(pack(image.truth_voxels[0])) - set(pack(image.coords))
    assert 0 < image.collected.sum() <= whole.sum() <= image.truth_columns["collected"].sum() * 1.0001
    assert lost


def test_factors():
    assert check_factors([2, 2, 2]) == (2, 2, 2)
    for wrong in ((1, 1, 1), (2, 2), (2, 0, 2), (2, 2, -1)):
        with pytest.raises(ConfigError, match=r"Fix: voxels in x, y and z that become one, for example 2,2,2"):
            check_factors(wrong)
