"""Predictions: aligned with the images, resumable, not predicted = NaN."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import larstore
from larstore.errors import DamageError, LockedError, StoreError
from larstore.predictions import ranges
from larstore.testing import add_images, make_geometry, make_image

ATTRIBUTES = {"checkpoint_sha256": "abc", "config": {"model": "net"}}
SIZES = [20, 30, 0, 100, 8, 24, 5]  # shards of 32 rows


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("predictions") / "a.zarr"
    larstore.create(path, geometry=make_geometry(n_wires=1), provenance={}, shard_rows=32, chunk_rows=8)
    add_images(path, [make_image(0, e, 1, n) for e, n in enumerate(SIZES)])
    add_images(path, [make_image(1, 0, 1, 40)])
    return path


@pytest.fixture
def path(made, tmp_path):
    return shutil.copytree(made, tmp_path / "a.zarr")


def expected(image):
    return (image.coords.sum(axis=1) + image.key[1]).astype(np.float32)


def predict(writer, selection, at_most=None):
    groups = writer.groups(selection)[:at_most]
    for shard, images in groups:
        writer.write(shard, [(image, expected(image)) for image in images])
    return groups


def test_scores_are_aligned(path):
    part = larstore.open(path).select()
    with larstore.PredictionWriter(path, "net", ATTRIBUTES) as writer:
        groups = predict(writer, part)
        assert "net" not in larstore.open(path).predictions
        writer.commit()
        assert writer.groups(part) == []
    assert [[i.key[1] for i in images] for _, images in groups] == [[0, 1, 3, 4, 5, 6], [0]]
    store = larstore.open(path)
    for image in store.select():
        np.testing.assert_array_equal(image.score("net"), expected(image))
    for image in store.select().read(0, len(store), "net"):
        np.testing.assert_array_equal(image.score("net"), expected(image))
    attributes = store.predictions["net"]
    assert attributes["config"] == {"model": "net"}
    assert attributes["done"] == [[0, 7]]
    assert larstore.verify(path).to_dict()["problems"] == []
    with pytest.raises(StoreError, match=r"no prediction 'other', known: net\. Fix:"):
        store.image(0, 0, 1).score("other")


def test_a_run_is_resumed_from_its_last_commit(path):
    part = larstore.open(path).select()
    with larstore.PredictionWriter(path, "net", ATTRIBUTES) as writer:
        predict(writer, part, 1)
        writer.commit()
        first, second = larstore.open(path).image(0, 0, 1), larstore.open(path).image(1, 0, 1)
        assert np.isfinite(first.score("net")).all()
        assert np.isnan(second.score("net")).all()
        predict(writer, part, 1)  # written, never committed: debris
        assert writer.groups(part) == []
    assert (path / "predictions/net/score/c/6").is_file()
    with larstore.PredictionWriter(path, "net", ATTRIBUTES | {"run": 2}) as writer:
        assert not (path / "predictions/net/score/c/6").exists()
        assert [shard for shard, _ in writer.groups(part)] == [6]
        predict(writer, part)
        writer.commit()
    store = larstore.open(path)
    for image in store.select():
        np.testing.assert_array_equal(image.score("net"), expected(image))
    assert larstore.verify(path).ok


def test_images_that_come_later_are_not_predicted_yet(path):
    with larstore.PredictionWriter(path, "net", ATTRIBUTES) as writer:
        predict(writer, larstore.open(path).select())
        writer.commit()
    add_images(path, [make_image(2, 0, 1, 50)])
    store = larstore.open(path)
    assert np.isnan(store.image(2, 0, 1).score("net")).all()
    np.testing.assert_array_equal(store.image(1, 0, 1).score("net"), expected(store.image(1, 0, 1)))
    with larstore.PredictionWriter(path, "net", ATTRIBUTES) as writer:
        assert [[i.key for i in images] for _, images in predict(writer, store.select())] == [[(2, 0, 1)]]
        writer.commit()
    store = larstore.open(path)
    np.testing.assert_array_equal(store.image(2, 0, 1).score("net"), expected(store.image(2, 0, 1)))


def test_images_that_come_while_a_writer_is_open(path):
    with larstore.PredictionWriter(path, "net", ATTRIBUTES) as writer:
        add_images(path, [make_image(2, 0, 1, 50)])
        predict(writer, larstore.open(path).select())
        writer.commit()
    for image in larstore.open(path).select():
        np.testing.assert_array_equal(image.score("net"), expected(image))


def test_a_selection_of_another_store_is_refused(path, tmp_path):
    other = shutil.copytree(path, tmp_path / "b.zarr")
    with (
        larstore.PredictionWriter(path, "net", ATTRIBUTES) as writer,
        pytest.raises(StoreError, match=r"the selection is of .*b\.zarr\. Fix:"),
    ):
        writer.groups(larstore.open(other).select())


def test_images_and_predictions_are_committed_side_by_side(path):
    with larstore.StoreWriter(path) as images, larstore.PredictionWriter(path, "net", ATTRIBUTES) as writer:
        predict(writer, larstore.open(path).select())
        images.commit([larstore.write_block(path, images.reserve(), [make_image(3, 0, 1, 10)])])
        writer.commit()
        images.commit([larstore.write_block(path, images.reserve(), [make_image(4, 0, 1, 10)])])
    store = larstore.open(path)
    assert len(store) == 10
    assert np.isnan(store.image(3, 0, 1).score("net")).all()
    assert np.isfinite(store.image(0, 0, 1).score("net")).all()
    assert larstore.verify(path).to_dict()["notes"] == []


def test_another_checkpoint_needs_another_name(path):
    with larstore.PredictionWriter(path, "net", ATTRIBUTES) as writer:
        writer.commit()
    with pytest.raises(StoreError, match=r"'net' is of checkpoint abc.*Fix: choose another name"):
        larstore.PredictionWriter(path, "net", {"checkpoint_sha256": "other"}).__enter__()
    with larstore.PredictionWriter(path, "net2", {"checkpoint_sha256": "other"}) as writer:
        writer.commit()
    assert sorted(larstore.open(path).predictions) == ["net", "net2"]


def test_a_name_belongs_to_one_selection(path):
    store = larstore.open(path)
    with larstore.PredictionWriter(path, "net", ATTRIBUTES) as writer:
        predict(writer, store.select(files=(0, 0), events=(0, 0)))
        writer.commit()
        assert writer.groups(store.select(files=(1, 1)))[0][0] == 6
        with pytest.raises(StoreError, match=r"shard 0 is done without image \(0, 1, 1\)\. Fix: choose another name"):
            writer.groups(store.select())
    again = larstore.open(path)
    assert np.isnan(again.image(0, 4, 1).score("net")).all()
    assert larstore.verify(path).ok


def test_wrong_scores_are_refused(path):
    image = larstore.open(path).image(0, 0, 1)
    with larstore.PredictionWriter(path, "net", ATTRIBUTES) as writer:
        for score in (np.zeros(19, np.float32), np.full(20, np.nan, np.float32)):
            with pytest.raises(StoreError, match=r"score of image \(0, 0, 1\).*one finite float per voxel \(20\)"):
                writer.write(0, [(image, score)])
        with pytest.raises(StoreError, match="as groups"):
            writer.write(1, [(image, np.zeros(20, np.float32))])


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "x" * 65, "a b"])
def test_wrong_names_are_refused(made, name):
    with pytest.raises(StoreError, match="prediction name"):
        larstore.PredictionWriter(made, name, ATTRIBUTES)


@pytest.mark.parametrize("attributes", [{}, {"checkpoint_sha256": "a", "done": []}])
def test_wrong_attributes_are_refused(made, attributes):
    with pytest.raises(StoreError, match="attributes hold checkpoint_sha256"):
        larstore.PredictionWriter(made, "net", attributes)


def test_two_writers_of_one_name(path):
    with larstore.PredictionWriter(path, "net", ATTRIBUTES):
        with pytest.raises(LockedError, match="lock predictions/net is held"):
            larstore.PredictionWriter(path, "net", ATTRIBUTES).__enter__()
        with larstore.PredictionWriter(path, "other", ATTRIBUTES) as other:
            other.commit()


def test_a_missing_score_shard_is_damage(path):
    with larstore.PredictionWriter(path, "net", ATTRIBUTES) as writer:
        predict(writer, larstore.open(path).select())
        writer.commit()
    (path / "predictions/net/score/c/6").unlink()
    with pytest.raises(DamageError, match=r"predictions/net/score, shard 6 is missing; images .*\(1, 0, 1\)"):
        larstore.open(path).image(1, 0, 1).score("net")
    assert not larstore.verify(path).ok


KILLED = """
import os, sys
import numpy as np
import larstore
path = sys.argv[1]
part = larstore.open(path).select()
writer = larstore.PredictionWriter(path, "net", {"checkpoint_sha256": "abc"}).__enter__()
(shard, images), (other, others) = writer.groups(part)
writer.write(shard, [(i, (i.coords.sum(axis=1) + i.key[1]).astype(np.float32)) for i in images])
writer.commit()
writer.write(other, [(i, np.zeros(len(i), np.float32)) for i in others])
os.kill(os.getpid(), 9)
"""


def test_a_killed_run_is_resumed(path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == -9
    part = larstore.open(path).select()
    assert np.isfinite(part[0].score("net")).all()
    with larstore.PredictionWriter(path, "net", ATTRIBUTES) as writer:
        assert [shard for shard, _ in predict(writer, part)] == [6]
        writer.commit()
    for image in larstore.open(path).select():
        np.testing.assert_array_equal(image.score("net"), expected(image))


def test_ranges():
    assert ranges([]) == []
    assert ranges({7, 1, 3, 2}) == [[1, 3], [7, 7]]
