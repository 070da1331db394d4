"""The index against a plain-Python oracle; selections; splits."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import larstore
from larstore.errors import StoreError
from larstore.index import CommittedKeys, newest, sorted_rows
from larstore.records import Failure
from larstore.testing import add_images, make_geometry, make_image, make_store

small = st.integers(0, 3)
rows = st.lists(st.tuples(small, small, small, st.booleans()), max_size=40)


def newest_by_hand(table):
    found = {}
    for number, (file, event, tpc, deleted) in enumerate(table):
        found[file, event, tpc] = (number, deleted)
    return [found[key][0] for key in sorted(found) if not found[key][1]]


@given(rows)
def test_newest_row_of_each_key(table):
    columns = np.array(table, dtype=np.int64).reshape(-1, 4).T
    found = newest(columns[0], columns[1], columns[2], columns[3].astype(bool))
    assert found.tolist() == newest_by_hand(table)
    assert found.dtype == np.int64


wide = st.sampled_from([-(2**62), -(2**31), -1, 0, 1, 2**31 - 1, 2**61])


@given(st.lists(st.tuples(small | wide, small, small | wide), max_size=30), st.sampled_from(["int32", "int64"]))
@example([(2**62, 0, 0), (2**62 - 1, 1, 0)], "int64")
def test_rows_sorted_by_columns(table, dtype):
    table = [row for row in table if dtype == "int64" or all(-(2**31) <= x < 2**31 for x in row)]
    columns = np.array(table, dtype=dtype).reshape(-1, 3).T
    order, starts = sorted_rows(list(columns))
    expected = sorted(range(len(table)), key=lambda row: (table[row], row))
    assert order.tolist() == expected
    before = [None, *(table[row] for row in expected)]
    assert starts.tolist() == [table[row] != last for row, last in zip(expected, before, strict=False)]
    assert order.dtype == np.int64


class FakeIndex:
    """The columns of an index without files."""

    def __init__(self, table):
        columns = np.array(table, dtype=np.int64).reshape(-1, 4).T
        self._columns = dict(zip(("file", "event", "tpc"), columns, strict=False))
        self.live = newest(columns[0], columns[1], columns[2], columns[3].astype(bool))

    def column(self, name):
        return self._columns[name]

    find = larstore.index.Index.find
    keys = larstore.index.Index.keys
    _bisect = larstore.index.Index._bisect


@given(rows, st.lists(st.tuples(small, small, small, st.booleans()), max_size=8))
def test_lookup_and_committed_keys(table, later):
    index = FakeIndex(table)
    expected = {tuple(table[row][:3]): row for row in newest_by_hand(table)}
    every = [(f, e, t) for f in range(4) for e in range(4) for t in range(4)]
    assert {key: row for key in every if (row := index.find(*key)) is not None} == expected
    keys, known = CommittedKeys(index), set(expected)
    for file, event, tpc, there in later:
        keys.note([(file, event, tpc)], there)
        known = known | {(file, event, tpc)} if there else known - {(file, event, tpc)}
    assert set(keys) == known
    assert len(keys) == len(known)
    assert sorted(keys) == sorted(known)
    assert all((key in keys) == (key in known) for key in every)
    assert "x" not in keys


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "a.zarr"
    return larstore.open(make_store(path, n_files=4, n_events=3, tpcs=(1, 5), n_voxels=20))


def keys(selection):
    return [image.key for image in selection]


@settings(max_examples=30, deadline=None)
@given(
    st.none() | st.tuples(st.integers(-1, 5), st.integers(-1, 5)),
    st.none() | st.tuples(st.integers(-1, 4), st.integers(-1, 4)),
    st.none() | st.lists(st.sampled_from([1, 5, 9])),
)
def test_select(store, files, events, tpcs):
    expected = [
        (f, e, t)
        for f in range(4)
        for e in range(3)
        for t in (1, 5)
        if (files is None or files[0] <= f <= files[1])
        and (events is None or events[0] <= e <= events[1])
        and (tpcs is None or t in tpcs)
    ]
    chosen = store.select(files=files, events=events, tpcs=tpcs)
    assert keys(chosen) == expected
    assert len(chosen) == len(expected)
    assert [tuple(key) for key in chosen.rows.index] == expected
    assert keys(store.select(files=files).select(events=events).select(tpcs=tpcs)) == expected


def test_query(store):
    limit = float(np.median(store.index["charge_sum_u"]))
    chosen = store.select(query=f"charge_sum_u > {limit} and tpc == 5 and file > 0")
    frame = store.index.reset_index()
    expected = frame[(frame.charge_sum_u > limit) & (frame.tpc == 5) & (frame.file > 0)]
    assert keys(chosen) == list(zip(expected.file, expected.event, expected.tpc, strict=True))
    assert 0 < len(chosen) < len(store)


@pytest.mark.parametrize("query", ["no_such_column > 1", "voxel_count >", "voxel_count + 1", "voxel_count ="])
def test_a_wrong_query_is_one_line(store, query):
    with pytest.raises(StoreError, match=r"Fix: use the columns file, event, tpc") as error:
        store.select(query=query)
    assert len(str(error.value).splitlines()) == 1


def test_a_wrong_range_is_one_line(store):
    with pytest.raises(StoreError, match=r"files=7.*Fix: give an inclusive range"):
        store.select(files=7)


@pytest.mark.parametrize("by", ["file", "event", "image"])
def test_split(store, by):
    part = store.select(files=(0, 3))
    first, second = part.split(0.5, seed=1, by=by)
    width = {"file": 1, "event": 2, "image": 3}[by]
    assert not {key[:width] for key in keys(first)} & {key[:width] for key in keys(second)}
    assert sorted(keys(first) + keys(second)) == keys(part)
    assert len(first) == len(second) == 12
    assert keys(part.split(0.5, seed=1, by=by)[0]) == keys(first)
    assert any(keys(part.split(0.5, seed=s, by=by)[0]) != keys(first) for s in range(2, 8))
    assert len(part.split(0.01, seed=0, by=by)[0]) > 0
    assert len(part.split(0.99, seed=0, by=by)[1]) > 0


def test_what_cannot_be_split(store):
    with pytest.raises(StoreError, match=r"files=\(2, 2\)>: cannot split fewer than two files"):
        store.select(files=(2, 2)).split(0.5, 0)
    with pytest.raises(StoreError, match="0 < fraction < 1"):
        store.select().split(1.0, 0)


def test_the_table_is_the_readers_own(store):
    table = store.index
    table["mine"] = 1
    assert "mine" not in store.index


def test_negative_and_far_positions(store):
    part = store.select()
    assert part[-1].key == (3, 2, 5)
    assert keys(part[2:5]) == keys(part)[2:5]
    with pytest.raises(IndexError):
        _ = part[24]


def test_the_root_does_not_grow_with_images(tmp_path):
    image, sizes = make_image(n_voxels=2), []
    for count in (10, 10_000):
        path = tmp_path / f"{count}.zarr"
        larstore.create(path, geometry=make_geometry(), provenance={}, shard_rows=4096, chunk_rows=1024)
        with larstore.StoreWriter(path) as writer:
            images = [replace(image, file=number // 100, event=number % 100) for number in range(count)]
            writer.commit([larstore.write_block(path, writer.reserve(5), images)])
        assert len(larstore.open(path)) == count
        sizes.append((path / "zarr.json").stat().st_size)
    assert abs(sizes[1] - sizes[0]) < 200


def test_failures_are_settled_without_reading_the_whole_index(tmp_path):
    path = make_store(tmp_path / "a.zarr", 3, 2)
    with larstore.StoreWriter(path) as writer:
        writer.commit(
            [], [Failure(1, 1, "1.npz", "died"), Failure(7, -1, "7.npz", "no file"), Failure(2, 5, "2.npz", "x")]
        )
    add_images(path, [make_image(1, 0), make_image(7, 3)])
    store = larstore.open(path)
    assert store.failures[["file", "tpc"]].to_numpy().tolist() == [[2, 5]]
    assert set(store.index_columns._columns) == {"file", "event", "tpc", "deleted", "commit"}
