"""`ImageStream` on a small store: right arrays, right order under any number of workers, exact continuation."""

import numpy as np
import pytest
import torch

import larstore
from larstore import testing
from larstore.errors import ConfigError
from train.samples import join
from train.stream import ImageStream, StreamLoader
from train.transforms import Noise, Threshold

N_IMAGES = 14


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("stream") / "s.zarr"
    return larstore.open(testing.make_store(path, n_files=7, n_events=1, tpcs=(1, 5), n_voxels=120))


def keys_of(loader, epochs=1):
    return [[batch["keys"] for batch in loader] for _ in range(epochs)]


def test_a_batch_holds_the_images_as_stored(store):
    stream = ImageStream(store.select(), batch_size=4, max_voxels=400, seed=2)
    seen = 0
    for number, batch in enumerate(stream):
        assert batch["number"] == number
        assert len(batch["keys"]) <= 3  # 4 images would exceed the voxel budget
        offsets = batch["offsets"].tolist()
        assert offsets[0] == 0
        assert offsets[-1] == len(batch["coords"])
        for i, key in enumerate(batch["keys"]):
            image = store.image(*key)
            part = slice(offsets[i], offsets[i + 1])
            np.testing.assert_array_equal(batch["coords"][part, :3], image.coords)
            assert (batch["coords"][part, 3] == i).all()
            np.testing.assert_array_equal(batch["features"][part], image.charge)
            np.testing.assert_array_equal(batch["target"][part, 0], image.truth)
            seen += 1
        assert batch["coords"].dtype == torch.int64
        assert {batch[name].dtype for name in ("features", "target", "weight")} == {torch.float32}
        assert (batch["weight"] == 1).all()
    assert seen == N_IMAGES


def test_epochs_differ_and_hold_every_image_once(store):
    stream = ImageStream(store.select(), batch_size=3)
    epochs = keys_of(StreamLoader(stream), 3)
    for epoch in epochs:
        assert sorted(key for batch in epoch for key in batch) == sorted(store.index.index.tolist())
    ordered = keys_of(ImageStream(store.select(), batch_size=3, shuffle=False), 2)
    assert ordered[0] == ordered[1]
    assert [key for batch in ordered[0] for key in batch] == store.index.index.tolist()


def test_large_images_are_shuffled_from_epoch_to_epoch(store, monkeypatch):
    monkeypatch.setattr("train.stream.epoch_order", lambda counts, **k: order(counts, **k, run_voxels=100))
    from train.batches import epoch_order as order

    first, second = keys_of(ImageStream(store.select(), batch_size=3), 2)
    assert first != second


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_change_nothing(store, method):
    def loader(workers):
        return StreamLoader(ImageStream(store.select(), batch_size=2, seed=5), workers, method)

    alone, shared = loader(0), loader(2)
    for _ in range(2):  # workers stay for the second epoch
        for a, b in zip(alone, shared, strict=True):
            assert a["keys"] == b["keys"]
            for name in ("coords", "features", "target", "weight", "offsets"):
                assert torch.equal(a[name], b[name])
    assert alone.state_dict() == shared.state_dict()


@pytest.mark.parametrize(("stop", "workers"), [(0, (0, 0)), (3, (0, 2)), (3, (2, 0)), (7, (2, 1)), (11, (0, 0))])
def test_continues_exactly_with_another_number_of_workers(store, stop, workers):
    def loader(n):
        return StreamLoader(ImageStream(store.select(), batch_size=2, seed=1), n, "fork")

    whole = [keys for epoch in keys_of(loader(0), 3) for keys in epoch]
    first = loader(workers[0])
    seen: list = []
    while len(seen) < stop:
        for batch in first:
            seen.append(batch["keys"])
            if len(seen) == stop:
                break
    state = first.state_dict()
    second = loader(workers[1])
    second.load_state_dict(state)
    assert len(second) == 7
    while len(seen) < len(whole):
        seen += [batch["keys"] for batch in second]
    assert seen == whole


def test_ranks_see_the_order_of_one(store):
    def stream(rank, n):
        return ImageStream(store.select(), batch_size=2, seed=1, rank=rank, n_ranks=n)

    one = [b["keys"] for b in stream(0, 1)]
    ranks = [list(stream(rank, 3)) for rank in range(3)]
    assert [len(batches) for batches in ranks] == [3, 3, 3]
    together = [ranks[rank][row] for row in range(3) for rank in range(3)]
    assert [b["keys"] for b in together] == one + one[:2]
    assert [bool((b["weight"] == 0).all()) for b in together] == [False] * 7 + [True] * 2


def test_another_set_of_images_is_refused_in_mid_epoch(store):
    stream = ImageStream(store.select(), batch_size=2)
    next(iter(stream))
    other = ImageStream(store.select(tpcs=[1]), batch_size=2)
    with pytest.raises(ConfigError, match=r"changed since the checkpoint.*Fix:"):
        other.load_state_dict(stream.state_dict())
    other.load_state_dict({**stream.state_dict(), "batches": 0, "epoch": 4})
    assert other.epoch == 4


def test_several_stores_keep_their_own_transforms(store, tmp_path):
    real = larstore.open(testing.make_store(tmp_path / "r.zarr", n_files=1, n_events=3, n_voxels=50, truth=False))
    stream = ImageStream([(store.select(), [Threshold(0.0)]), (real.select(), [])], batch_size=4, shuffle=False)
    batches = list(stream)
    assert sum(len(b["keys"]) for b in batches) == N_IMAGES + 3
    for batch in batches:
        for i, source in enumerate(batch["sources"]):
            part = slice(batch["offsets"][i], batch["offsets"][i + 1])
            assert bool((batch["weight"][part] == 1).all()) == (source == 0)
            assert set(batch["target"][part].unique().tolist()) == ({0.0, 1.0} if source == 0 else {0.0})
    with pytest.raises(ConfigError, match=r"r\.zarr: image \(0, \d, 1\) has no truth.*Fix:"):
        list(ImageStream(real.select(), need_truth=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_is_one_line(tmp_path, workers):
    real = larstore.open(testing.make_store(tmp_path / "r.zarr", n_files=1, n_events=1, n_voxels=50, truth=False))
    loader = StreamLoader(ImageStream(real.select(), need_truth=True), workers, "fork")
    with pytest.raises(ConfigError) as caught:
        list(loader)
    assert str(caught.value).startswith(f"{real.path}: image (0, 0, 1) has no truth")
    assert "\n" not in str(caught.value)


def test_noise_depends_on_image_seed_and_epoch_only(store):
    def features(**options):
        stream = ImageStream(store.select(), transforms=[Noise(0.0, 100.0)], **options)
        found = {}
        for batch in stream:
            for i, key in enumerate(batch["keys"]):
                found[key] = batch["features"][batch["offsets"][i] : batch["offsets"][i + 1]]
        return found

    small, large = features(batch_size=1, seed=3), features(batch_size=5, seed=3, shuffle=False)
    assert all(torch.equal(small[key], large[key]) for key in small)
    other = features(batch_size=1, seed=4)
    assert not any(torch.equal(small[key], other[key]) for key in small)


def test_budget_and_empty_selections(store, caplog):
    with pytest.raises(ConfigError, match=r"s\.zarr: 14 of 14 images exceed max_voxels = 100 \(the largest has 120\)"):
        ImageStream(store.select(), max_voxels=100)
    with pytest.raises(ConfigError, match="every image exceeds max_voxels"):
        ImageStream(store.select(), max_voxels=100, over_budget="skip")
    with pytest.raises(ConfigError, match="the selection is empty"):
        ImageStream(store.select(files=(99, 100)))


def test_skipped_images_are_logged(store, tmp_path, caplog):
    small = larstore.open(testing.make_store(tmp_path / "small.zarr", n_files=1, n_events=2, n_voxels=40))
    stream = ImageStream([(store.select(), []), (small.select(), [])], max_voxels=100, over_budget="skip")
    assert "14 images of more than 100 voxels are skipped" in caplog.text
    assert sorted(key for b in stream for key in b["keys"]) == [(0, 0, 1), (0, 1, 1)]


def test_charge_that_is_no_number_names_the_image(store):
    from train.samples import to_sample

    image = store.select()[0]
    broken = image.charge.copy()
    broken[3, 1] = np.nan
    image._loaded["voxels/charge"] = broken
    with pytest.raises(larstore.errors.DamageError, match="image 7: charge holds NaN"):
        to_sample(image, "image 7")


def test_images_without_voxels_stay_in_the_batch(store):
    from train.samples import to_sample
    from train.transforms import CoordLimits

    image = store.select()[0]
    nothing = CoordLimits([(0, 0), None, None])(to_sample(image, ""), np.random.default_rng(0))
    batch = join([nothing, to_sample(image, ""), nothing], [image.key] * 3)
    assert batch["offsets"].tolist() == [0, 0, 120, 120]
    assert (batch["coords"][:, 3] == 1).all()
