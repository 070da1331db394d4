"""Batches through shared memory: nothing is overwritten while somebody holds it, and nothing waits for room."""

import gc
import pickle

import numpy as np
import pytest
import torch

import larstore
from train.streaming.slots import Parcel, Slots
from train.streaming.stream import ImageStream, StreamLoader


def batch_of(value, n=10):
    return {
        "coords": torch.full((n, 4), value, dtype=torch.int64),
        "features": torch.full((n, 3), float(value)),
        "weight": torch.empty((0, 1)),
        "keys": [(value, 0, 1)],
        "number": value,
    }


def same(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == b[name].dtype
            assert value.shape == b[name].shape
            assert torch.equal(value, b[name])
        else:
            assert value == b[name]


def test_a_slot_is_free_again_when_all_tensors_are_gone():
    slots = Slots(2, 1, 1000)
    parcel = slots.filled(slots.room(1), batch_of(7))
    assert isinstance(parcel, Parcel)
    assert slots.taken.tolist() == [0, 1]
    parcel = pickle.loads(pickle.dumps(parcel))  # noqa: S301 - as it arrives
    opened = parcel.open()
    del parcel
    same(opened, batch_of(7))
    kept = opened["features"][2:4]
    del opened
    gc.collect()
    assert slots.taken.tolist() == [0, 1]
    assert slots.room(1) is None
    assert kept.tolist() == [[7.0] * 3] * 2
    del kept
    gc.collect()
    assert slots.taken.tolist() == [0, 0]
    parcel = pickle.loads(pickle.dumps(slots.filled(slots.room(1), batch_of(9))))  # noqa: S301 - ours
    same(parcel.open(), batch_of(9))
    del parcel  # whether it was opened or not
    gc.collect()
    assert slots.taken.tolist() == [0, 0]


def test_what_does_not_fit_goes_as_it_is():
    slots = Slots(1, 2, 128)
    assert not isinstance(slots.filled(slots.room(0), batch_of(1)), Parcel)
    assert slots.taken.tolist() == [0, 0]
    assert isinstance(slots.filled(slots.room(0), batch_of(1, 1)), Parcel)


def test_what_was_made_in_a_slot_is_not_copied_and_never_overwritten():
    slots = Slots(1, 1, 1000)
    room = slots.room(0)
    coords, features = room.empty((10, 4), np.int64), room.empty((10, 3), np.float32)
    batch = {"coords": torch.from_numpy(coords), "features": torch.from_numpy(features), "offsets": torch.tensor([3])}
    for value in batch.values():
        value.fill_(5)
    parcel = pickle.loads(pickle.dumps(slots.filled(room, batch)))  # noqa: S301 - ours
    opened = parcel.open()
    assert [first for *_, first in parcel.tensors] == [0, 320, 448]
    same(opened, batch)
    coords[:] = 6
    assert (opened["coords"] == 6).all()
    del parcel, opened
    gc.collect()
    assert not slots.taken.any()

    room = slots.room(0)
    partly = torch.from_numpy(room.empty((10, 4), np.int64))
    turned = torch.from_numpy(room.empty((3, 10), np.float32)).T
    partly.fill_(1)
    turned.fill_(2)
    batch = {"coords": partly, "features": turned, "more": torch.zeros(1000)}
    sent = slots.filled(room, batch)  # it does not fit
    assert not isinstance(sent, Parcel)
    room = slots.room(0)
    room.empty(1000, np.uint8).fill(9)
    assert (sent["coords"] == 1).all()
    assert (sent["features"] == 2).all()


@pytest.mark.parametrize("ahead", [1e-6, 100.0])
def test_batches_that_are_all_kept_stay_what_they_are(tmp_path, copy_of_store, ahead):
    """More than there are slots, from two workers, over two epochs."""
    store = larstore.open(copy_of_store(tmp_path / "s.zarr", 12, 2, n_voxels=40))
    stream = ImageStream(store.select(), seed=3)
    alone = StreamLoader(ImageStream(store.select(), seed=3))
    expected = [b for _ in range(2) for b in alone]
    loader = StreamLoader(stream, 2, "fork", read_ahead_mb=ahead)
    kept = [b for _ in range(2) for b in loader]
    assert len(kept) == 48 > 2 * 7
    for a, b in zip(kept, expected, strict=True):
        same(a, b)
    del kept
    gc.collect()
    assert not loader.stream.slots.taken.any()


def test_a_broken_off_epoch_gives_its_slots_back(tmp_path, copy_of_store):
    store = larstore.open(copy_of_store(tmp_path / "s.zarr", 12, 2, n_voxels=40))
    loader = StreamLoader(ImageStream(store.select(), shuffle=False), 2, "fork")
    for i in range(4):  # what waited when the loop ended was never opened
        batches = iter(loader)
        assert [next(batches)["number"], next(batches)["number"]] == [2 * i, 2 * i + 1]
        del batches
    seen = [b["number"] for b in loader]
    gc.collect()
    assert seen == list(range(8, 24))
    assert not loader.stream.slots.taken.any()
