"""Images and batches that are left without voxels: they train nothing, count in no mean, and are told."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import larstore
from larstore.errors import ConfigError
from tests.train.small_runs import run_values
from train.config import make_config
from train.fitting.fit import fit
from train.fitting.learning_rate import find_learning_rate
from train.resuming.checkpoint import load_checkpoint


class Logistic(torch.nn.Module):
    """A score of each voxel's charges alone, also of a single voxel."""

    def __init__(self, n_inputs):
        super().__init__()
        self.layer = torch.nn.Linear(n_inputs, 1)

    def forward(self, coords, features):
        return torch.sigmoid(self.layer(features))


@pytest.fixture(autouse=True)
def logistic(monkeypatch):
    monkeypatch.setattr("train.fitting.module.build_model", lambda block: Logistic(block["nInputFeatures"]))


@pytest.fixture(scope="module")
def store(tmp_path_factory, copy_of_store):
    return copy_of_store(tmp_path_factory.mktemp("empty") / "s.zarr", n_files=8, n_events=1, n_voxels=4)


def settings(store, out, limits, lr=0.0, **train):
    """Eight images, one a batch, with a box along x; a learning rate of 0 keeps the network as it was drawn."""
    values = run_values(store, out, [0, 7], None, lr=lr, **train)
    values["data"]["coord_lim"] = [limits, None, None]
    return make_config(values)


def box_that_empties(store, n):
    """Limits along x that leave ``n`` of the images without a voxel."""
    first = sorted(int(image.coords[:, 0].min()) for image in larstore.open(store).select())
    high = first[-n]
    assert first[-n - 1] < high
    return [0, high]


def gap(store):
    """Limits along x between which no image has a voxel."""
    taken = np.unique(np.concatenate([image.coords[:, 0] for image in larstore.open(store).select()]))
    free = int(np.setdiff1d(np.arange(taken.max()), taken)[0])
    return [free, free + 1]


def losses_by_hand(store, limits, state):
    """Key -> mean binary cross-entropy of the image's voxels inside the box, for images that have any."""
    weight, bias = (state[f"model.layer.{name}"].double().numpy() for name in ("weight", "bias"))
    found = {}
    for image in larstore.open(store).select():
        inside = (image.coords[:, 0] >= limits[0]) & (image.coords[:, 0] < limits[1])
        if inside.any():
            score = 1 / (1 + np.exp(-(np.arcsinh(image.charge[inside] * 0.001) @ weight[0] + bias[0])))
            found[image.key] = -np.log(np.where(image.truth[inside] > 0, score, 1 - score)).mean()
    return found


def test_the_epochs_loss_is_the_mean_of_batches_with_voxels(store, tmp_path):
    limits = box_that_empties(store, 3)
    result = fit(settings(store, tmp_path, limits), progress=False)
    by_hand = losses_by_hand(store, limits, load_checkpoint(result.checkpoint)["state_dict"])
    assert len(by_hand) == 5
    assert result.summaries[0]["train_loss"] == pytest.approx(np.mean(list(by_hand.values())), rel=1e-5)
    table = pd.read_csv(tmp_path / "steps_0.csv", sep="\t")
    assert len(table) == 8
    assert (table["loss"].isna() == (table["voxels"] == 0)).all()
    assert sorted(table["loss"].dropna()) == pytest.approx(sorted(by_hand.values()), rel=1e-5)


def test_an_epoch_without_any_has_no_loss(store, tmp_path):
    (row,) = fit(settings(store, tmp_path, gap(store)), progress=False).summaries
    assert math.isnan(row["train_loss"])


def test_find_lr_passes_over_batches_without_voxels(store, tmp_path):
    config = settings(store, tmp_path, box_that_empties(store, 3), lr=0.1)
    test = find_learning_rate(config, 1e-3, 1.0, 40)
    assert len(test.losses) == 5 * 5  # in 5 times 8 images
    assert np.isfinite(test.losses).all()
    with pytest.raises(ConfigError, match=r"find-lr: in 0 of 40 steps a voxel counted\. Fix: look at data\.coord_lim"):
        find_learning_rate(settings(store, tmp_path, gap(store), lr=0.1), 1e-3, 1.0, 40)
