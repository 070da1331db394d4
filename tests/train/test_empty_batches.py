"""Images and batches that are left without voxels: they train nothing, count in no mean, and are told."""

import math
import os
import signal

import numpy as np
import pandas as pd
import pytest
import torch

import larstore
from larstore import create, testing
from larstore.errors import ConfigError
from tests.train.small_runs import run_values
from train.config import make_config
from train.fitting.fit import fit
from train.fitting.learning_rate import find_learning_rate
from train.fitting.module import ImageModule
from train.resuming.checkpoint import load_checkpoint
from train.streaming.extents import check_limits
from train.streaming.stream import ImageStream


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


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize(("n", "warned"), [(4, False), (5, True)])
def test_an_epoch_in_which_most_images_are_emptied_is_told(store, tmp_path, caplog, n, warned):
    limits = box_that_empties(store, n)
    fit(settings(store, tmp_path, limits, n_epochs=2), progress=False)
    expected = [
        f"epoch {epoch}: 5 of 8 training images had no voxel inside data.coord_lim = [[0, {limits[1]}], null, null], "
        "and trained nothing. Fix: larger limits"
        for epoch in range(2)
    ]
    assert warnings_of(caplog) == (expected if warned else [])


def test_images_of_an_interrupted_epoch_are_counted_once(store, tmp_path, caplog, monkeypatch):
    config = settings(store, tmp_path, box_that_empties(store, 5))
    step, count = ImageModule.training_step, [0]

    def stopped(self, batch, i):
        count[0] += 1
        if count[0] == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, i)

    monkeypatch.setattr(ImageModule, "training_step", stopped)
    with pytest.raises(SystemExit):
        fit(config, progress=False)
    assert not warnings_of(caplog)
    fit(config, resume=True, progress=False)
    (said,) = warnings_of(caplog)
    assert "epoch 0: 5 of 8 training images" in said


def test_a_store_of_empty_images(tmp_path, caplog):
    create(tmp_path / "s.zarr", geometry=testing.make_geometry(), provenance={})
    testing.add_images(tmp_path / "s.zarr", [testing.make_image(i, 0, 1, 0 if i else 9) for i in range(3)])
    fit(make_config(run_values(tmp_path / "s.zarr", tmp_path / "run", [0, 7], None)), progress=False)
    (said,) = warnings_of(caplog)
    assert "2 of 3 training images had no voxel in the store, and trained nothing. Fix: leave them out" in said


def test_a_repeated_batch_says_so(store):
    streams = [ImageStream(larstore.open(store).select(), batch_size=3, rank=rank, n_ranks=2) for rank in range(2)]
    assert [[batch["repeated"] for batch in stream] for stream in streams] == [[False, False], [False, True]]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            [[5, 5], None, None],
            r"data\.coord_lim\.0\S* \[5, 5\]: no voxel lies there: lo is kept.* Fix: ",
        ),
        ([None, [-9, 0], None], r"\[-9, 0\]: no voxel lies there.* Fix: "),
        (
            [[0, 9], [512, 600], None],
            r"data\.coord_lim keeps y from 512, where model\.spatial_size ends at 512.*Fix",
        ),
        (
            [[160, 200], None, [70, 71]],
            r"s\.zarr: data\.coord_lim keeps x from 160, where images end at 160 and z from 70, where images end at "
            r"64: no voxel is left to train on\. Fix: limits in voxels inside of \[160, 64, 64\]",
        ),
    ],
)
def test_limits_that_can_keep_nothing_are_refused(store, tmp_path, limits, message):
    values = run_values(store, tmp_path / "run", [0, 7], None)
    values["data"]["coord_lim"] = limits
    values["model"]["spatial_size"] = [256, 512, 256]
    with pytest.raises(ConfigError, match=message) as caught:
        fit(make_config(values), progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    values["data"] |= {"train_i": None, "inference_i": [0, 7], "coord_lim": [None, [512, 600], None]}
    make_config(values)  # limits are for training


def test_limits_reach_into_the_images_of_one_tpc(tmp_path):
    geometry = testing.make_geometry((1, 2))
    geometry.tpcs[2] = geometry.tpcs[2].model_copy(update={"n_z": 4 * geometry.tpcs[2].n_z})
    create(tmp_path / "s.zarr", geometry=geometry, provenance={})
    store = larstore.open(tmp_path / "s.zarr")
    check_limits([None, None, (64, 90)], store, [1, 2])
    with pytest.raises(ConfigError, match="z from 64, where images end at 64"):
        check_limits([None, None, (64, 90)], store, [1])


def test_find_lr_passes_over_batches_without_voxels(store, tmp_path):
    config = settings(store, tmp_path, box_that_empties(store, 3), lr=0.1)
    test = find_learning_rate(config, 1e-3, 1.0, 40)
    assert len(test.losses) == 40  # all rates, in 8 times 8 images of which 3 are empty
    assert np.isfinite(test.losses).all()
    with pytest.raises(ConfigError, match=r"find-lr: in 0 of 160 steps a voxel counted\. Fix: look at data\.coord_lim"):
        find_learning_rate(settings(store, tmp_path, gap(store), lr=0.1), 1e-3, 1.0, 40)
