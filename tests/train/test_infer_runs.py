"""Inference as a configuration without `train_i` says, what is refused, full and read-only disks, yinf files."""

import os
import shutil

import numpy as np
import pytest
import torch
import typer
import yaml
from typer.testing import CliRunner

import larstore
from larstore.errors import ConfigError, DamageError, LarstoreError, LockedError, StoreError
from larstore.testing import add_images, make_geometry, make_image
from preprocess.exchange.cli import export_command
from tests.small_disks import fill, remount, small_disk
from tests.train.small_networks import inference_values, run_of
from train import cli
from train.config import make_config
from train.fitting.fit import fit
from train.inference import predictor
from train.inference.infer import InferenceError, infer
from train.inference.run import infer_configured, prediction_name, refuse_copies
from train.resuming.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("point_net")


@pytest.fixture
def store(tmp_path, copy_of_store):
    return copy_of_store(tmp_path / "s.zarr", n_files=4, n_voxels=300, shard_rows=512, chunk_rows=64, blocks=True)


@pytest.fixture(autouse=True)
def _net(point_net, monkeypatch):
    monkeypatch.setattr("tests.train.small_networks.build_model", lambda block: point_net(block["nInputFeatures"]))


def app():
    made = typer.Typer()
    for command in (cli.train, cli.infer):
        made.command()(command)
    made.command("export")(export_command)
    return made


def call(*arguments):
    return CliRunner().invoke(app(), [str(argument) for argument in arguments])


def predicted(store, name):
    return {i.key[0] for i in larstore.open(store).select() if np.isfinite(i.score(name)).all()}


def test_a_configuration_without_train_i_predicts_in_all_its_stores(store, tmp_path, copy_of_store, caplog):
    other = copy_of_store(tmp_path / "o.zarr", n_files=4, n_voxels=300, shard_rows=512, chunk_rows=64, blocks=True)
    last = copy_of_store(tmp_path / "l.zarr")
    # The first store twice, with two ranges; the last one takes no part.
    paths, ranges = [str(store), str(other), str(store), str(last)], [[0, 1], [1, 2], [3, 3], None]
    values = inference_values(
        store, tmp_path / "my run", data__data_path=paths, data__inference_i=ranges, data__tpcs=[[1], None, None, [1]]
    )
    run_of(store, tmp_path / "my run", epochs=(0, 3, 4))
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(values))
    done = call("train", file, "--resume", 3)
    assert done.exit_code == 0, done.output
    assert done.stdout.count("name\tmy_run-003\n") == 2
    assert f"no data.train_i: inference only, of 10 images with {tmp_path}" in caplog.text
    assert (tmp_path / "my run" / "configs" / "0.yaml").is_file()
    assert "inference only" in (tmp_path / "my run" / "out_0.log").read_text()
    assert predicted(store, "my_run-003") == {0, 1, 3}
    assert predicted(other, "my_run-003") == {1, 2}
    assert larstore.open(last).predictions == {}
    # Again, with the last one, and with that of train.start_epoch, which wins.
    (first, second) = infer_configured(make_config(values))
    assert (first.name, first.images, second.images) == ("my_run-004", 6, 4)
    (first, _) = infer_configured(make_config(values | {"train": values["train"] | {"start_epoch": 0}}), 3)
    assert (first.name, first.done_before) == ("my_run-000", 0)
    (first, _) = infer_configured(make_config(values), 3)
    assert (first.images, first.done_before) == (0, 6)


def test_an_inference_run_of_another_runs_network(store, tmp_path):
    run_of(store, tmp_path / "trained", epochs=(7,))
    values = inference_values(store, tmp_path / "inference")
    with pytest.raises(ConfigError, match=r"inference: holds no checkpoint to predict with\. Fix: .*train\.transfer"):
        infer_configured(make_config(values))
    values["train"]["transfer"] = str(tmp_path / "trained")
    (result,) = infer_configured(make_config(values))
    assert result.name == "inference-007"
    assert predicted(store, "inference-007") == {0, 1, 2, 3}
    values["data"]["inference_i"] = [50, 60]
    with pytest.raises(ConfigError, match=r"no image in files \[50, 60\].*Fix: correct data\.inference_i"):
        infer_configured(make_config(values))
    values["data"] |= {"inference_i": [0, 3], "tpcs": [[1, 9]]}
    with pytest.raises(ConfigError, match=r"has no image of TPC 9\. Fix: data\.tpcs among 1"):
        infer_configured(make_config(values))


def test_names_of_predictions(tmp_path):
    assert prediction_name(tmp_path / "a b", "out", "003") == "a_b-out-003"
    long = prediction_name(tmp_path / ("x" * 100), "003")
    assert long.endswith("x-003")
    assert len(long + "-charge") == 64


def test_copies_that_a_launcher_starts_are_refused(store, tmp_path, monkeypatch):
    run_of(store, tmp_path / "run")
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(inference_values(store, tmp_path / "run")))
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    for command in (["infer", file, "--store", store, "--name", "x"], ["train", file]):
        done = call(*command)
        assert isinstance(done.exception, ConfigError)
        assert "Fix: srun -n 1 larstore … --workers 4" in str(done.exception)
    assert larstore.open(store).predictions == {}
    refuse_copies({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"})  # a batch script, which runs once


def test_what_is_refused(store, tmp_path):
    config = run_of(store, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"has no image of TPC 5, 7\. Fix: --tpcs among 1"):
        infer(config, None, store, "net", tpcs=[7, 1, 5])
    with pytest.raises(StoreError, match=r"query='voxels > 3'.*Fix: use the columns "):
        infer(config, None, store, "net", query="voxels > 3")
    with pytest.raises(ConfigError, match=r"0 workers cannot predict\. Fix: "):
        infer(config, None, store, "net", workers=0)
    with pytest.raises(ConfigError, match=r"no image is chosen by query='voxel_count > 1000'\. Fix: "):
        infer(config, None, store, "net", query="voxel_count > 1000")
    with larstore.PredictionWriter(store, "net", {"checkpoint_sha256": "0"}):
        with pytest.raises(LockedError, match=f"predictions/net is held by process {os.getpid()}.*Fix: "):
            infer(config, None, store, "net")
        assert infer(config, None, store, "beside").images == 8
    content = load_checkpoint(tmp_path / "run" / "checkpoints" / "checkpoint_000.pth.tar")
    content["state_dict"]["model.layers.3.bias"][:] = torch.nan
    torch.save(content, tmp_path / "nan.pth")
    with pytest.raises(InferenceError, match=r"image \(file, event, tpc\) \(0, 0, 1\): the network gives NaN.*Fix: "):
        infer(config, tmp_path / "nan.pth", store, "net")
    for value in ("3x", "worst", "-1"):
        assert call("infer", tmp_path / "c.yaml", "--store", store, "--name", "x", "--epoch", value).exit_code == 2
    assert call("infer", tmp_path / "c.yaml", "--store", store, "--name", "x", "--export", "yinf").exit_code == 2
    assert "net" not in larstore.open(store).predictions


def test_charges_that_are_no_numbers(store, tmp_path, monkeypatch):
    config = run_of(store, tmp_path / "run")
    read = larstore.Store.read_arrays

    def spoilt(self, paths, start, stop, out=None):
        arrays = read(self, paths, start, stop, out)
        arrays["voxels/charge"][5] = np.nan
        return arrays

    monkeypatch.setattr(larstore.Store, "read_arrays", spoilt)
    with pytest.raises(DamageError, match=r"image \(0, 0, 1\): charge holds NaN or infinity. Fix: "):
        infer(config, None, store, "net")


def test_images_beyond_the_budget_go_alone_and_that_is_said(store, tmp_path, caplog):
    config = run_of(store, tmp_path / "run", data__max_voxels=299)
    assert infer(config, None, store, "net").voxels == 2400
    assert "8 images have more than data.max_voxels = 299 voxels, the largest 300" in caplog.text


def test_too_little_memory_names_the_images(store, tmp_path, monkeypatch):
    config = run_of(store, tmp_path / "run")

    def fail(*arguments):
        raise MemoryError

    monkeypatch.setattr(predictor, "read_voxels", fail)
    with pytest.raises(InferenceError, match=r"\(0, 0, 1\), \(0, 1, 1\): 600 voxels do not fit.*max_voxels below"):
        infer(config, None, store, "net")


def test_a_full_disk_keeps_what_was_committed(store, tmp_path):
    config = run_of(store, tmp_path / "run")
    with small_disk(tmp_path / "disk", "size=4m") as disk:
        own = shutil.copytree(store, disk / "s.zarr")
        infer(config, None, own, "part", files=(0, 0))
        write = larstore.PredictionWriter.write
        written = []
        with pytest.MonkeyPatch.context() as patch:

            def counted(self, shard, scores):
                if written:
                    fill(disk, 0)
                write(self, shard, scores)
                written.append(shard)

            patch.setattr(larstore.PredictionWriter, "write", counted)
            with pytest.raises(StoreError, match=r"No space left on device\). Fix: check free space"):
                infer(config, None, own, "net")
        assert len(written) == 1
        assert predicted(own, "net") == {0}
        (disk / "ballast").unlink()
        assert infer(config, None, own, "net").done_before == 2
        assert predicted(own, "net") == {0, 1, 2, 3}
        assert larstore.verify(own).ok


def training(store, out, **changes):
    values = inference_values(store, out, **changes)
    values["data"] |= {"train_i": [0, 2], "inference_i": [3, 3], "threshold": 0}
    return make_config(values | {"loss": {"name": "BCELoss"}, "optimizer": {"name": "Adam"}})


def test_a_training_does_not_notice_its_predictions(store, tmp_path, caplog):
    plain = fit(training(store, tmp_path / "a", train__n_epochs=3))
    with small_disk(tmp_path / "disk", "size=4m") as disk:
        own = shutil.copytree(store, disk / "s.zarr")
        shutil.copytree(store, tmp_path / "w.zarr")
        remount(disk, "ro")
        paths = {"data__data_path": [str(own), str(tmp_path / "w.zarr")]}
        both = training(own, tmp_path / "b", store_inference=True, train__n_epochs=3, **paths)
        both.data.train_i, both.data.inference_i = [(0, 2), None], [(3, 3), (0, 0)]
        result = fit(both)
        remount(disk, "rw")
        assert larstore.open(own).predictions == {}
    assert caplog.text.count("store_inference: ") == 3
    assert "Read-only file system" in caplog.text
    assert set(larstore.open(tmp_path / "w.zarr").predictions) == {f"b-inference-00{n}" for n in range(3)}
    assert [row["train_loss"] for row in result.summaries] == [row["train_loss"] for row in plain.summaries]
    one, other = (load_checkpoint(run.checkpoint)["state_dict"] for run in (plain, result))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_yinf_files_have_the_rows_of_the_xy_files(tmp_path):
    path = tmp_path / "s.zarr"
    larstore.create(path, geometry=make_geometry((1, 3)), provenance={}, shard_rows=4096, chunk_rows=256)
    names = ["reco_Mu_4_wire-TPC1.npz", "sim_Electron_7_wire-TPC1.npz"]
    inputs = [larstore.InputFile(f"in/{name}", n, 1, str(n), "") for n, name in enumerate(names)]
    keys = [(0, 1, 1), (0, 0, 1), (0, 0, 3), (1, 0, 1)]  # committed in another order than exported
    add_images(path, [make_image(f, e, t, 40 + 10 * e, input=inputs[f].path) for f, e, t in keys], inputs)
    run_of(path, tmp_path / "run")
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(inference_values(path, tmp_path / "run")))
    export = ["--export", "yinf", "-o", tmp_path / "y"]
    done = call("infer", file, "--store", path, "--name", "net", "--epoch", "last", *export)
    assert done.exit_code == 0, done.output
    for to, folder in (("xy", "x"), ("yinf", "z")):
        done = call("export", path, "--to", to, "--prediction", "net", "-o", tmp_path / folder)
        assert done.exit_code == 0, done.output
    wanted = {
        f"batch0-{head}_yinf-TPC{t}.npz" for head, t in [("reco_Mu_4", 1), ("reco_Mu_4", 3), ("sim_Electron_7", 1)]
    }
    assert {each.name for each in (tmp_path / "y").iterdir()} == wanted
    opened = larstore.open(path)
    for name in wanted:
        files = [(tmp_path / folder / name).read_bytes() for folder in "xyz"]
        assert files[0] == files[1] == files[2]
        scores = np.load(tmp_path / "y" / name)["arr_0"]
        X = np.load(tmp_path / "x" / name.replace("yinf", "xy"))["X"]
        assert scores.shape == (len(X), 1)
        assert scores.dtype == np.float32
        number, tpc = name == "batch0-sim_Electron_7_yinf-TPC1.npz", int(name[-5])
        for event in np.unique(X[:, 3]):
            image = opened.image(int(number), int(event), tpc)
            rows = X[:, 3] == event
            at = {tuple(xyz): score for xyz, score in zip(image.coords.tolist(), image.score("net"), strict=True)}
            assert [at[tuple(xyz)] for xyz in X[rows, :3].astype(int).tolist()] == scores[rows, 0].tolist()
    done = call("infer", file, "--store", path, "--name", "net", *export)
    assert isinstance(done.exception, LarstoreError)
    assert "exists already" in str(done.exception)
    assert call("export", path, "--to", "yinf", "-o", tmp_path / "n").exit_code == 2
