"""Splits: groups stay whole, sizes come near, and only seed and keys decide."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import larstore
from larstore.errors import StoreError
from larstore.splitting import first_side
from larstore.testing import make_store

GROUPS = st.lists(st.integers(1, 9), min_size=2, max_size=30)  # the number of images of each group
FRACTIONS = st.floats(0.001, 0.999)
SEEDS = st.integers(-(2**70), 2**70)


def columns(sizes):
    """(file, event) of the images of groups with these sizes, a few files to an event number."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    return [(group // 3).astype(np.int32), (group % 3 * 1000).astype(np.int32)], group


@given(GROUPS, FRACTIONS, SEEDS)
def test_groups_stay_whole_and_the_first_side_comes_near(sizes, fraction, seed):
    keys, group = columns(sizes)
    first = first_side(keys, fraction, seed)
    sides = [set(group[~first].tolist()), set(group[first].tolist())]
    assert not sides[0] & sides[1]
    assert sides[0]
    assert sides[1]
    wanted, found = fraction * len(group), int(first.sum())
    of_second, of_first = ([sizes[g] for g in side] for side in sides)
    assert (
        abs(found - wanted) <= min(of_second) / 2 + 1e-9  # nothing of the second side would help by more
        or (len(of_first) == 1 and found > wanted)  # the smallest group is too much, but there must be one
        or (len(of_second) == 1 and found < wanted)
    )


@given(st.integers(2, 40), st.integers(1, 4), FRACTIONS, SEEDS)
def test_equal_groups_are_rounded_to_the_nearest_number(n, size, fraction, seed):
    keys, _ = columns([size] * n)
    found = first_side(keys, fraction, seed).sum() / size
    assert 1 <= found <= n - 1
    assert abs(found - np.clip(fraction * n, 1, n - 1)) <= 0.5 + 1e-9


@given(GROUPS, FRACTIONS, SEEDS, st.randoms(use_true_random=False))
def test_the_order_of_the_images_does_not_matter(sizes, fraction, seed, random):
    keys, _ = columns(sizes)
    order = list(range(len(keys[0])))
    random.shuffle(order)
    shuffled = first_side([column[order] for column in keys], fraction, seed)
    np.testing.assert_array_equal(shuffled, first_side(keys, fraction, seed)[order])


def hash_by_hand(key, seed):
    """SplitMix64 in Python's own numbers."""
    state = seed
    for part in (0, *key):
        state = (state ^ part) + 0x9E3779B97F4A7C15 & 2**64 - 1
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & 2**64 - 1
        state = (state ^ state >> 27) * 0x94D049BB133111EB & 2**64 - 1
        state ^= state >> 31
    return state


@given(GROUPS, FRACTIONS, st.integers(0, 2**64 - 1))
def test_groups_join_in_the_order_of_their_hashes(sizes, fraction, seed):
    keys, group = columns(sizes)
    room, first = fraction * len(group), set()
    shuffled = sorted(range(len(sizes)), key=lambda g: hash_by_hand((g // 3, g % 3 * 1000), seed))
    for g in shuffled:
        if sizes[g] <= room:
            first.add(g)
            room -= sizes[g]
    smallest = min((g for g in shuffled if g not in first), key=lambda g: sizes[g])
    if len(first) < len(sizes) - 1 and (not first or sizes[smallest] - room < room):
        first.add(smallest)
    assert set(group[first_side(keys, fraction, seed)].tolist()) == first


def test_the_split_is_for_ever():
    """A training that is resumed with a later version must see the same images."""
    files = [np.arange(701, 721, dtype=np.int32)]
    assert files[0][~first_side(files, 0.8, 3)].tolist() == [704, 705, 717, 720]
    assert (first_side(files, 0.8, 3) == first_side(files, 0.8, 3 + 2**64)).all()


def test_seeds_differ_and_every_file_is_chosen_as_often():
    files = [np.arange(100)]
    sides = np.array([first_side(files, 0.3, seed) for seed in range(2000)])
    assert len(np.unique(sides, axis=0)) == 2000
    share = sides.mean(axis=0)  # 0.3 ± 0.0102
    assert abs(share - 0.3).max() < 5 * 0.0102
    together = (sides.T.astype(float) @ sides) / 2000 - 0.3 * 29 / 99  # pairs too: 0.0879 ± 0.0063
    assert abs(together[~np.eye(100, dtype=bool)]).max() < 5.5 * 0.0063


def test_few_files_change_sides_when_others_are_added():
    before = first_side([np.arange(1000)], 0.8, 1)
    after = first_side([np.arange(1100)], 0.8, 1)
    assert (before != after[:1000]).sum() < 30  # a new shuffle would change 320


def test_nothing_to_split():
    assert first_side([np.empty(0, np.int32)], 0.5, 0) is None
    assert first_side([np.full(3, 7)], 0.5, 0) is None


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("splitting") / "a.zarr"
    return larstore.open(make_store(path, n_files=5, n_events=2, tpcs=(1, 5), n_voxels=10))


def test_a_selection_is_split_in_its_own_order(store):
    part = store.select(files=(1, 4))[::-1]
    first, second = part.split(0.75, seed=2)
    assert [len(first), len(second)] == [12, 4]
    files = [image.key[0] for image in first]
    assert files == sorted(files, reverse=True)
    ordered = store.select(files=(1, 4)).split(0.75, seed=2)[0]
    assert {image.key for image in ordered} == {image.key for image in first}


@pytest.mark.parametrize("fraction", [0, 1, 1.5, -0.2, float("nan"), np.inf])
def test_a_fraction_outside_is_refused(store, fraction):
    with pytest.raises(StoreError, match=r"Fix: 0 < fraction < 1"):
        store.select().split(fraction, 0)


@pytest.mark.parametrize(("seed", "by"), [("a", "file"), (0.5, "file"), (0, "tpc")])
def test_a_wrong_seed_or_group_is_refused(store, seed, by):
    with pytest.raises(StoreError, match="a whole number as seed, and by = one of file, event, image") as error:
        store.select().split(0.5, seed, by)
    assert len(str(error.value).splitlines()) == 1
