"""Weighted mixtures: shares, passes without replacement, the same draws wherever they are computed."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import larstore
from larstore.errors import ConfigError
from train.config import make_config
from train.streaming.loaders import make_loader
from train.streaming.plans import EpochPlanner, shares
from train.streaming.stream import ImageStream, StreamLoader

sizes = st.lists(st.integers(1, 30), min_size=1, max_size=4)


def planner(n_images, weights, epoch_images, seed=0, **changes):
    options = {"batch_size": 4, "max_voxels": None, "over_budget": "fail", "shuffle": True, "window": 2}
    counts = [np.full(n, 6000, np.int64) for n in n_images]
    names = [f"s{i}.zarr" for i in range(len(counts))]
    return EpochPlanner(counts, **options | changes, seed=seed, weights=weights, epoch_images=epoch_images, names=names)


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=5), st.integers(5, 5000))
def test_shares_are_whole_and_nearly_exact(weights, n):
    found = shares(weights, n)
    assert sum(found) == n
    assert min(found) >= 1
    exact = [weight / sum(weights) * n for weight in weights]
    if min(exact) >= 1:
        assert all(abs(share - value) < 1 for share, value in zip(found, exact, strict=True))
    assert all(share <= max(1, value + 1) for share, value in zip(found, exact, strict=True))


@settings(deadline=None, max_examples=50)
@given(sizes, st.data())
def test_a_source_repeats_an_image_only_after_all_its_others(n_images, data):
    weights = data.draw(st.lists(st.floats(0.1, 10), min_size=len(n_images), max_size=len(n_images)))
    n = data.draw(st.integers(len(n_images), 60))
    plan = planner(n_images, weights, n, data.draw(st.integers(0, 5)))
    firsts = plan.first
    drawn = [[] for _ in n_images]
    for epoch in range(4):
        order, passes = plan._drawn(epoch)
        assert len(order) == n
        found = Counter((np.searchsorted(firsts, order, side="right") - 1).tolist())
        assert [found[s] for s in range(len(n_images))] == plan.draws
        for position, turn in zip(order.tolist(), passes.tolist(), strict=True):
            drawn[int(np.searchsorted(firsts, position, side="right")) - 1].append((position, turn))
        batches = plan(epoch)
        assert sorted(zip(batches.order, batches.passes, strict=True)) == sorted(zip(order, passes, strict=True))
    for source, size in zip(drawn, n_images, strict=True):
        assert len(set(source)) == len(source)  # once a pass
        for turn in range(len(source) // size):
            whole = source[turn * size : (turn + 1) * size]
            assert {t for _, t in whole} == {turn}
            assert len({position for position, _ in whole}) == size


@settings(deadline=None, max_examples=50)
@given(sizes, st.integers(0, 3), st.integers(0, 3))
def test_without_weights_every_image_comes_once_and_sources_are_mixed(n_images, seed, epoch):
    plan = planner(n_images, None, None, seed)(epoch)
    assert sorted(plan.order.tolist()) == list(range(sum(n_images)))
    assert set(plan.passes.tolist()) == {epoch}
    for b in range(len(plan)):
        assert plan[b].tolist() == sorted(plan[b].tolist())


def test_sources_take_turns_in_batches():
    plan = planner([40, 40], [1.0, 1.0], 80, batch_size=8)(0)
    mixed = [len(np.unique(plan[b] // 40)) == 2 for b in range(len(plan))]
    assert sum(mixed) >= 9


@pytest.mark.parametrize(
    ("weights", "epoch_images", "changes", "message"),
    [
        ([1.0], 9, {}, r"weights \[1.0\]: Fix: a number above 0 for each of 2"),
        ([1.0, 0.0], 9, {}, "a number above 0"),
        ([1.0, float("nan")], 9, {}, "a number above 0"),
        ([1.0, 2.0], 1, {}, "epoch_images = 1 is less than one a store"),
        (None, 9, {}, "epoch_images = 9 needs weights"),
        ([1.0, 2.0], 9, {"shuffle": False}, "weights are for shuffled streams"),
        ([1.0, 2.0], 9, {"max_voxels": 10, "over_budget": "skip"}, "s0.zarr: every image exceeds max_voxels = 10"),
    ],
)
def test_weights_that_make_no_sense(weights, epoch_images, changes, message):
    with pytest.raises(ConfigError, match=message):
        planner([3, 3], weights, epoch_images, **changes)


@pytest.fixture(scope="module")
def stores(tmp_path_factory, copy_of_store):
    folder = tmp_path_factory.mktemp("mixed")
    return [
        copy_of_store(folder / f"{name}.zarr", n_files=n, n_events=1, n_voxels=30)
        for name, n in (("rare", 2), ("left_out", 1), ("common", 6))
    ]


def config_of(stores, **data):
    return make_config(
        {
            "output_dir": "out",
            "data": {
                "data_path": [str(path) for path in stores],
                "train_i": [[0, 9], None, [0, 9]],
                "inference_i": [[0, 1], None, [0, 1]],
                **data,
            },
            "model": {"name": "cellnet_binary"},
        }
    )


def test_a_mixture_from_a_configuration(stores):
    config = config_of(stores, weights=[3, None, 1], epoch_images=12, batch_size=4)
    loader = make_loader(config, "train")
    epochs = [[s for b in loader for s in b["sources"]] for _ in range(2)]
    assert [Counter(epoch) for epoch in epochs] == [{0: 9, 1: 3}] * 2
    validation = make_loader(config, "valid")
    assert [k for b in validation for k in b["keys"]] == [(0, 0, 1), (1, 0, 1)] * 2
    # A null of train_i leaves its weight out, too.
    assert config_of(stores, weights=[3, 7, 1]).data.sources("train")[1].weight == 1
    for wrong, message in (
        ({"weights": [None, 1, 2]}, "weights has none for .*rare.zarr, which train_i names"),
        ({"weights": [1, 2]}, "weights has 2 entries, data_path 3"),
        ({"weights": [1, None, 0]}, "greater than 0"),
        ({"epoch_images": 4}, "epoch_images needs weights"),
    ):
        with pytest.raises(ConfigError, match=message):
            config_of(stores, **wrong)


def test_a_mixture_continues_exactly(stores):
    def loader():
        pairs = [(larstore.open(path).select(), []) for path in stores]
        stream = ImageStream(pairs, batch_size=3, seed=2, weights=[1, 1, 2], epoch_images=20)
        return StreamLoader(stream)

    one = loader()
    whole = [b["keys"] for _ in range(3) for b in one]
    first, seen = loader(), []
    while len(seen) < 10:
        for batch in first:
            seen.append(batch["keys"])
            if len(seen) == 10:
                break
    second = loader()
    second.load_state_dict(first.state_dict())
    while len(seen) < len(whole):
        seen += [b["keys"] for b in second]
    assert seen == whole
    other = ImageStream([(larstore.open(path).select(), []) for path in stores], batch_size=3, seed=2)
    with pytest.raises(ConfigError, match="weights or seed changed"):
        other.load_state_dict(first.state_dict())
