"""`data.truth: collected`: the target is what reaches the wires, and a store that does not tell is refused."""

import numpy as np
import pytest

import larstore
from larstore.errors import ConfigError
from larstore.testing import add_images, make_geometry, make_image
from train.schema import Config
from train.streaming.loaders import make_loader


@pytest.fixture
def store(tmp_path):
    """Image 0 tells what is collected; image 1 knows its truth alone."""
    path = tmp_path / "run.zarr"
    larstore.create(path, geometry=make_geometry(), provenance={}, truth_columns=("collected",))
    images = [make_image(file, 0, 1, 200, truth_columns=kind) for file, kind in enumerate([("collected",), ()])]
    add_images(path, images)
    return path


def loader(store, truth, files):
    data = {"data_path": str(store), "train_i": files, "truth": truth, "scale": 0.001}
    return make_loader(
        Config.model_validate({"output_dir": "unused", "data": data, "model": {"name": "cellnet"}}), "train"
    )


def test_the_target_is_the_column_that_was_asked_for(store):
    (image,) = larstore.open(store).select(files=(0, 0))
    for kind, expected in (("truth", image.truth), ("collected", image.collected)):
        (batch,) = loader(store, kind, [0, 0])
        np.testing.assert_allclose(batch["target"][:, 0], 0.001 * expected, rtol=1e-6)
        assert batch["weight"].all()
    assert not np.array_equal(image.truth, image.collected)


def test_voxels_whose_truth_is_not_known_have_no_weight(tmp_path):
    """As those that bridge two faces of a joined image, though the image does tell."""
    path = tmp_path / "run.zarr"
    larstore.create(path, geometry=make_geometry(), provenance={}, truth_columns=("collected",))
    image = make_image(0, 0, 1, 200, truth_columns=("collected",))
    image.truth[5:9] = np.nan
    add_images(path, [image])
    (stored,) = larstore.open(path).select()
    assert np.flatnonzero(np.isnan(stored.collected)).tolist() == [5, 6, 7, 8]
    for kind in ("truth", "collected"):
        (batch,) = loader(path, kind, [0, 0])
        assert np.flatnonzero(batch["weight"] == 0).tolist() == [5, 6, 7, 8]
        assert not batch["target"][5:9].any()


def test_an_image_that_does_not_tell_is_refused(store):
    with pytest.raises(ConfigError, match=r"\(1, 0, 1\) has no collected truth to train on. Fix: .*data.truth: truth"):
        list(loader(store, "collected", [1, 1]))
    assert len(list(loader(store, "truth", [1, 1]))) == 1


def test_other_columns_are_refused(store):
    with pytest.raises(ValueError, match="truth"):
        loader(store, "energy", [0, 0])
