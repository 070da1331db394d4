"""Training on a small store: it learns, it can be interrupted anywhere, and it says what is wrong."""

import math
import os
import shutil
import signal
import stat

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import larstore
from larstore.errors import ConfigError, InputError
from tests.train.small_runs import assert_same, run_values
from train.config import make_config
from train.fitting.fit import fit
from train.fitting.module import ImageModule, TrainingError
from train.objective.schedules import one_cycle
from train.records.folder import RunFolder
from train.resuming.checkpoint import load_checkpoint, model_weights

pytestmark = pytest.mark.usefixtures("point_net")


@pytest.fixture(scope="module")
def store(tmp_path_factory, copy_of_store):
    return copy_of_store(tmp_path_factory.mktemp("fit") / "s.zarr")


def settings(store, out, **changes):
    """A configuration for six training files and two for validation; changes by dotted keys, dots written __."""
    values = run_values(store, out, [0, 5], [6, 7], lr=0.02, n_epochs=4)
    values |= {"seed": 1, "trainer": {"name": "one_cycle"}}
    values["data"]["batch_size"] = 2
    values["metrics"] = {"acc": "BinAccuracy", "ap": "AveragePrecision"}
    for key, value in changes.items():
        *parents, last = key.split("__")
        block = values
        for parent in parents:
            block = block[parent]
        block[last] = value
    return make_config(values)


@pytest.fixture
def finished(undisturbed, store, point_net):
    """A run of four epochs that nothing disturbed; made once."""
    out = store.parent / "undisturbed"
    if not undisturbed:
        undisturbed.append(fit(settings(store, out)))
    return out, undisturbed[0]


@pytest.fixture(scope="module")
def undisturbed():
    return []


def trained_keys(monkeypatch):
    """The images of each training step, in order, filled while a training runs."""
    seen = []
    step = ImageModule.training_step
    monkeypatch.setattr(
        ImageModule, "training_step", lambda self, batch, i: (seen.append(batch["keys"]), step(self, batch, i))[1]
    )
    return seen


def test_learns_and_leaves_a_run_behind(finished, store):
    out, result = finished
    rows = result.summaries
    assert rows[-1]["train_loss"] < 0.8 * rows[0]["train_loss"]
    assert rows[-1]["valid_ap"] > max(0.8, rows[0]["valid_ap"])
    assert result.checkpoint == out / "checkpoints" / "checkpoint_003.pth.tar"
    assert RunFolder(out).epochs() == [0, 1, 2, 3]
    table = pd.read_csv(out / "summaries_0.csv", sep="\t")
    assert table.columns.tolist() == [
        "epoch",
        *("train_loss", "train_acc", "train_time"),
        *("valid_loss", "valid_acc", "valid_ap", "valid_time"),
        *("lr", "wait_time"),
    ]
    np.testing.assert_allclose(table["valid_ap"], [row["valid_ap"] for row in rows], atol=1e-6)
    copy = yaml.safe_load((out / "configs" / "0.yaml").read_text())
    assert make_config(copy).plain() == copy
    assert "epoch 3: train_loss" in (out / "out_0.log").read_text()


def test_a_checkpoint_explains_itself(finished, store):
    about = load_checkpoint(finished[1].checkpoint)["larstore"]
    attributes = larstore.open(store).attributes
    assert about["config"]["model"]["nInputFeatures"] == 3
    assert about["versions"]["torch"] == torch.__version__
    assert about["threads"] == 1
    assert about["stores"] == [
        {"path": str(store), **{name: attributes[name] for name in ("commit", "sha256", "geometry_hash", "units")}}
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_equals_undisturbed_bit_for_bit(finished, store, tmp_path, workers):
    undisturbed = finished[0]
    RunFolder(tmp_path).start({})
    for name in ("checkpoints/checkpoint_001.pth.tar", "summaries_0.csv"):
        (tmp_path / name).write_bytes((undisturbed / name).read_bytes())
    config = settings(store, tmp_path, data__num_workers=workers, data__start_method="fork")
    result = fit(config, resume=True)
    first, second = (load_checkpoint(RunFolder(out).find_checkpoint()) for out in (undisturbed, tmp_path))
    for part in ("state_dict", "optimizer_states", "epoch", "global_step"):
        assert_same(first[part], second[part])
    assert first["larstore"]["stream"] == second["larstore"]["stream"]
    for a, b in zip(finished[1].summaries, result.summaries, strict=True):
        names = [name for name in a if not name.endswith("_time")]
        assert [a[name] for name in names] == pytest.approx([b[name] for name in names], abs=1e-6)


def test_goes_on_in_the_middle_of_an_epoch(finished, store, tmp_path, monkeypatch):
    whole_run, stopped = tmp_path / "a", tmp_path / "b"
    seen = trained_keys(monkeypatch)
    fit(settings(store, whole_run, train__n_epochs=2))
    whole = list(seen)
    assert len(whole) == 12
    seen.clear()
    fit(settings(store, stopped, train__max_minutes=1e-9))  # over after the first batch
    assert seen == whole[:1]
    assert load_checkpoint(RunFolder(stopped).find_checkpoint())["larstore"]["stream"]["batches"] == 1
    fit(settings(store, stopped, train__n_epochs=3), resume=True)
    assert seen == whole


def test_resume_chooses_the_checkpoint(store, finished, tmp_path):
    RunFolder(tmp_path).start({})
    for epoch in range(4):
        name = f"checkpoints/checkpoint_{epoch:03d}.pth.tar"
        (tmp_path / name).write_bytes((finished[0] / name).read_bytes())
    result = fit(settings(store, tmp_path), resume=True, epoch=2)
    assert result.summaries[:3] == finished[1].summaries[:3]
    assert [row["epoch"] for row in result.summaries] == [0, 1, 2, 3]
    result = fit(settings(store, tmp_path, train__start_epoch=1), resume=True)
    assert result.summaries[:2] == finished[1].summaries[:2]
    assert [row["epoch"] for row in result.summaries] == [0, 1, 2, 3]
    assert sorted(entry.name for entry in (tmp_path / "configs").iterdir()) == ["0.yaml", "1.yaml", "2.yaml"]
    assert RunFolder(tmp_path).find_checkpoint().name == "checkpoint_003.pth.tar"
    fit(settings(store, tmp_path, train__n_epochs=2), resume=True, epoch=0)
    assert RunFolder(tmp_path).find_checkpoint().name == "checkpoint_001.pth.tar"  # 2 and 3 are of another course
    with pytest.raises(ConfigError, match=r"no checkpoint of epoch 7\. Fix: one of 0 to 3, best or last"):
        fit(settings(store, tmp_path), resume=True, epoch=7)


def test_transfer_takes_matching_weights(store, finished, tmp_path, capsys):
    fit(settings(store, tmp_path / "a", train__transfer=str(finished[0]), train__n_epochs=1, optimizer__lr=0.0))
    assert "9 of 9 tensors taken over" in capsys.readouterr().err
    taken, source = (
        model_weights(load_checkpoint(RunFolder(out).find_checkpoint())) for out in (tmp_path / "a", finished[0])
    )
    assert torch.equal(taken["layers.0.weight"], source["layers.0.weight"])
    wider = settings(store, tmp_path / "b", train__transfer=str(finished[1].checkpoint), data__z_segments=[32])
    fit(wider.model_copy(update={"train": wider.train.model_copy(update={"n_epochs": 1})}))
    assert "8 of 9 tensors taken over" in capsys.readouterr().err


def test_plateau_lowers_the_rate_and_remembers(store, tmp_path):
    trainer = {"name": "schedule_plateau", "metric": "acc", "patience": 0, "factor": 0.5}
    changes = {"trainer": trainer, "optimizer__lr": 0.1, "data__threshold": 1e9}  # no true voxel
    whole = fit(settings(store, tmp_path / "a", **changes, train__n_epochs=6))
    rates = [row["lr"] for row in whole.summaries]
    best = -1.0
    for i, row in enumerate(whole.summaries):
        if i:
            fell = row["valid_acc"] <= best * (1 + 1e-4)
            assert rates[i] == pytest.approx(rates[i - 1] * (0.5 if fell else 1.0))
        best = max(best, row["valid_acc"])
    assert rates[-1] < rates[0]
    RunFolder(tmp_path / "b").start({})
    for name in ("checkpoints/checkpoint_003.pth.tar", "summaries_0.csv"):
        (tmp_path / "b" / name).write_bytes((tmp_path / "a" / name).read_bytes())
    again = fit(settings(store, tmp_path / "b", **changes, train__n_epochs=6), resume=True)
    assert [row["lr"] for row in again.summaries[4:]] == rates[4:]
    with pytest.raises(ConfigError, match="needs validation"):
        fit(settings(store, tmp_path / "n", **changes, data__inference_i=None))


def test_ctrl_c_is_ctrl_c(store, tmp_path, monkeypatch):
    def interrupt(self, batch, i):
        raise KeyboardInterrupt

    monkeypatch.setattr(ImageModule, "training_step", interrupt)
    before = signal.getsignal(signal.SIGINT)  # as Lightning would not leave it
    with pytest.raises(KeyboardInterrupt):
        fit(settings(store, tmp_path))
    assert signal.getsignal(signal.SIGINT) is before


def test_predictions_while_training(finished, tmp_path, copy_of_store):
    own = copy_of_store(tmp_path / "own.zarr")
    wanted = {"everyNepoch": 3, "everyNsample": 2}
    result = fit(settings(own, tmp_path / "my run", store_inference=wanted))
    store = larstore.open(own)
    assert set(store.predictions) == {"my_run-inference-000", "my_run-inference-003"}
    chosen = store.select(files=(6, 7))
    for name in store.predictions:
        predicted = [bool(np.isfinite(image.score(name)).all()) for image in chosen]
        assert predicted == [True, False, True, False]
    # The training itself does not notice.
    assert_same(*(load_checkpoint(run.checkpoint)["state_dict"] for run in (finished[1], result)))


def test_a_store_that_cannot_be_written_does_not_stop_the_training(tmp_path, caplog, copy_of_store):
    own = copy_of_store(tmp_path / "own.zarr")
    for _ in range(2):  # the second run has the same name but other checkpoints
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        result = fit(settings(own, tmp_path / "run", store_inference=True, train__n_epochs=1))
    assert len(result.summaries) == 1
    assert "store_inference: " in caplog.text
    assert "Fix: choose another name" in caplog.text


def test_one_cycle_rises_and_falls():
    curve = [one_cycle(p, warmup=0.2, final=0.01) for p in np.linspace(0, 1, 101)]
    assert curve[0] == pytest.approx(0.1)
    assert max(curve) == pytest.approx(curve[20]) == pytest.approx(1.0)
    assert curve[-1] == pytest.approx(0.01)
    assert all(np.diff(curve[:21]) > 0)
    assert all(np.diff(curve[20:]) < 0)
    assert one_cycle(0.0, warmup=0.0, final=0.5) == 1.0


def test_trains_without_validation_and_with_empty_images(store, tmp_path):
    config = settings(
        store, tmp_path, data__inference_i=None, data__coord_lim=[[0, 1]] * 3, train__n_epochs=1, metrics={}
    )
    rows = fit(config).summaries
    assert math.isnan(rows[0]["train_loss"])
    assert "valid_loss" not in rows[0]


def test_a_loss_that_is_not_finite_names_the_images(store, tmp_path):
    config = settings(store, tmp_path, optimizer__name="SGD", optimizer__lr=1e38, trainer={"name": "basic"})
    with pytest.raises(TrainingError, match=r"not finite in epoch 0, batch \d+, images .*\[\(\d, \d, 1\), .*Fix: "):
        fit(config)
    assert RunFolder(tmp_path).epochs() == []


def test_a_failed_write_keeps_the_older_checkpoint(store, tmp_path, monkeypatch):
    first = fit(settings(store, tmp_path, train__n_epochs=1))
    before = first.checkpoint.read_bytes()

    def full(descriptor):
        file = os.readlink(f"/proc/self/fd/{descriptor}")
        if stat.S_ISREG(os.fstat(descriptor).st_mode) and "/checkpoints/" in file:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("train.resuming.checkpoint.os.fsync", full)
    with pytest.raises(TrainingError, match=r"checkpoint_001.*No space left .*last good one is .*last\.pth.*Fix: "):
        fit(settings(store, tmp_path, train__n_epochs=2), resume=True)
    assert first.checkpoint.read_bytes() == before
    assert {entry.name for entry in first.checkpoint.parent.iterdir()} == {
        "best.pth.tar",
        "checkpoint_000.pth.tar",
        "last.pth.tar",
    }
    assert RunFolder(tmp_path).find_checkpoint("last").samefile(first.checkpoint)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__train_i": None}, "data.train_i is missing"),
        ({"data__train_i": [50, 60]}, "no image in files [50, 60]"),
        ({"data__tpcs": [7]}, "no image of TPCs [7], the store has 1"),
        ({"data__data_path": "nowhere.zarr"}, "nowhere.zarr"),
        ({"data__max_voxels": 100}, "exceed max_voxels = 100"),
        ({"loss": None}, "loss is missing"),
        ({"optimizer": None}, "optimizer is missing"),
        ({"loss": {"name": "Loss"}}, "'Loss' is not a loss"),
        ({"optimizer": {"name": "Adams"}}, "'Adams' is not in torch.optim. Fix: did you mean Adam?"),
        ({"optimizer": {"name": "Adam", "speed": 1}}, "optimizer: speed is no argument of Adam"),
        ({"metrics": {"x": "Best"}}, "'Best' is unknown"),
        ({"train__transfer": "nothing.pth.tar"}, "no such checkpoint"),
        ({"output_dir": "/proc/nothing"}, "/proc/nothing"),
    ],
)
def test_mistakes_are_one_line(store, tmp_path, changes, message):
    with pytest.raises(larstore.errors.LarstoreError) as caught:
        fit(settings(store, tmp_path / "run", **changes))
    text = str(caught.value)
    assert message in text
    assert "Fix: " in text
    assert "\n" not in text
    assert not (tmp_path / "run" / "checkpoints").exists() or not list((tmp_path / "run" / "checkpoints").iterdir())


def test_a_used_directory_needs_resume(finished, store, tmp_path):
    with pytest.raises(ConfigError, match=r"holds a run already\. Fix: --resume, or another output_dir"):
        fit(settings(store, finished[0]))
    with pytest.raises(ConfigError, match=r"holds no checkpoint\. Fix: "):
        fit(settings(store, tmp_path), resume=True)


def test_a_checkpoint_of_another_network(finished, store, tmp_path):
    RunFolder(tmp_path).start({})
    path = RunFolder(tmp_path).checkpoint(0)
    path.write_bytes(finished[1].checkpoint.read_bytes())
    with pytest.raises(ConfigError, match=r"made for another network, 1 tensors differ \(layers\.0\.weight.*Fix: "):
        fit(settings(store, tmp_path, data__z_segments=[32]), resume=True)
    for content in (b"", path.read_bytes()[:2000], b"no checkpoint at all"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"cannot be read as a checkpoint.*Fix: "):
            fit(settings(store, tmp_path), resume=True)
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(InputError, match=r"not a checkpoint of larstore.*Fix: "):
        fit(settings(store, tmp_path), resume=True)
    torch.save({"state_dict": {}, "larstore": math.sqrt}, path)
    with pytest.raises(InputError, match=r"cannot be read as a checkpoint.*Fix: "):
        fit(settings(store, tmp_path), resume=True)


def test_trains_with_every_choice_of_the_stream(store, tmp_path):
    """Crops, flips, weights, all truth voxels, batches that are cropped to the budget and dropped."""
    stream = {
        "crop": [120, None, 60],
        "flips": ["x", "y", "z"],
        "weights": [1],
        "epoch_images": 9,
        "full_y": True,
        "max_voxels": 140,
        "over_budget": "crop",
        "last": "drop",
        "read_ahead_mb": 1,
    }
    config = settings(store, tmp_path, train__n_epochs=2)
    config = make_config(config.plain() | {"data": config.plain()["data"] | stream})
    rows = fit(config).summaries
    assert len(rows) == 2
    log = (tmp_path / "out_0.log").read_text()
    assert "epoch 0: 9 images of more than max_voxels = 140 voxels are cropped" in log
    assert "epoch 0: 4 images of more than max_voxels = 140 voxels are cropped" in log  # of the validation
