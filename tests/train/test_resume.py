"""A run that was stopped or killed goes on as if nothing had happened, to the last bit."""

import errno
import os
import random
import shutil
import signal
import threading
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from typer.testing import CliRunner

from larstore.cli import build_app
from larstore.errors import ConfigError
from tests.train.small_runs import run_values
from train.config import make_config, with_inputs
from train.fitting.fit import fit
from train.fitting.module import ImageModule, TrainingError
from train.records.folder import RunFolder
from train.resuming.checkpoint import load_checkpoint
from train.resuming.unfinished import sums, take_sums


class NoisyNet(torch.nn.Module):
    """Draws random numbers of all kinds in each training step."""

    def __init__(self, n_inputs):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(n_inputs, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 1)
        )

    def forward(self, coords, features):
        if self.training:
            features = features + 0.01 * (random.random() + np.random.random())  # noqa: NPY002 - the global one is meant
        return torch.sigmoid(self.layers(features))


@pytest.fixture(autouse=True)
def noisy_net(monkeypatch):
    for module in ("fitting.module", "inference.predictor"):
        monkeypatch.setattr(f"train.{module}.build_model", lambda block: NoisyNet(block["nInputFeatures"]))
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002


@pytest.fixture(scope="module")
def store(tmp_path_factory, copy_of_store):
    return copy_of_store(tmp_path_factory.mktemp("resume") / "s.zarr", n_voxels=60)


def settings(store, out, **train):
    """12 images in 6 batches an epoch, 4 for validation."""
    trainer = train.pop("trainer", {"name": "one_cycle"})
    data, store_inference = train.pop("data", {}), train.pop("store_inference", None)
    values = run_values(store, out, [0, 5], [6, 7], lr=0.02, **{"n_epochs": 3, **train})
    values["data"] |= {"batch_size": 2, "noise": {"sd": 50.0}, **data}
    values |= {"seed": 1, "trainer": trainer, "store_inference": store_inference}
    return make_config(values | {"metrics": {"acc": "BinAccuracy", "ap": "AveragePrecision"}})


def steps(out):
    return (out / "steps_0.csv").read_text()


def untimed(rows):
    return [{k: v for k, v in row.items() if not k.endswith("_time")} for row in rows]


def assert_equal_runs(a, b, first, second):
    assert steps(a) == steps(b)
    assert untimed(first.summaries) == untimed(second.summaries)
    left, right = (load_checkpoint(result.checkpoint) for result in (first, second))
    for name, value in left["state_dict"].items():
        assert torch.equal(value, right["state_dict"][name])
    for key in ("epoch", "global_step"):
        assert left[key] == right[key]
    tables = [pd.read_csv(out / "summaries_0.csv", sep="\t") for out in (a, b)]
    times = [name for name in tables[0] if name.endswith("_time")]
    pd.testing.assert_frame_equal(*(table.drop(columns=times) for table in tables))


def signals_at(monkeypatch, moments, number=signal.SIGTERM, step="training_step"):
    """Send a signal within these calls, counted over all starts, of a module's step."""
    original, count = getattr(ImageModule, step), [0]

    def with_signal(self, batch, i):
        count[0] += 1
        if count[0] in moments:
            os.kill(os.getpid(), number)
        return original(self, batch, i)

    monkeypatch.setattr(ImageModule, step, with_signal)


PLATEAU = {"name": "schedule_plateau", "metric": "acc", "patience": 0, "factor": 0.5}


@pytest.mark.parametrize(
    ("changes", "accumulate"),
    [
        ({}, 1),
        ({"trainer": PLATEAU, "early_stopping": {"metric": "ap", "patience": 2}}, 1),
        ({"data": {"num_workers": 2, "start_method": "fork"}}, 1),
        ({}, 4),  # 6 batches are two steps
    ],
    ids=["one-cycle", "plateau", "workers", "accumulate"],
)
def test_stopped_by_signals_and_resumed_equals_undisturbed(store, tmp_path, monkeypatch, changes, accumulate):
    changes = {**changes, "accumulate": accumulate}
    a, b = tmp_path / "a", tmp_path / "b"
    whole = fit(settings(store, a, **changes), progress=False)
    table = pd.read_csv(a / "steps_0.csv", sep="\t")
    assert table["step"].tolist() == [i // 6 * -(-6 // accumulate) + i % 6 // accumulate for i in range(18)]
    assert table["batch"].tolist() == list(range(6)) * 3
    assert table["loss"][:6].mean() == pytest.approx(whole.summaries[0]["train_loss"], rel=1e-12)
    with monkeypatch.context() as patch:
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002
        signals_at(patch, {2, 6, 9})  # in the middle, in the last batch, and in the middle again
        for _ in range(3):
            with pytest.raises(SystemExit) as stop:
                fit(settings(store, b, **changes), auto=True, progress=False)
            assert stop.value.code == 143
            random.seed()
            np.random.seed()  # noqa: NPY002
    assert RunFolder(b).epochs() == [0]
    again = fit(settings(store, b, **changes), resume=True, progress=False)
    assert_equal_runs(a, b, whole, again)
    log = (b / "out_0.log").read_text()
    assert log.count("SIGTERM: stopped in epoch") == 3
    assert "SIGTERM: stopped in epoch 0 after batch 5" in log


def test_a_signal_in_the_validation_repeats_only_that(store, tmp_path, monkeypatch):
    a, b = tmp_path / "a", tmp_path / "b"
    whole = fit(settings(store, a), progress=False)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    with monkeypatch.context() as patch:
        signals_at(patch, {1, 2, 5}, signal.SIGUSR1, "validation_step")
        for _ in range(3):
            with pytest.raises(SystemExit) as stop:
                fit(settings(store, b), auto=True, progress=False)
            assert stop.value.code == 138
    again = fit(settings(store, b), auto=True, progress=False)
    assert_equal_runs(a, b, whole, again)
    assert (b / "out_0.log").read_text().count("at its validation") == 3


def test_ctrl_c_stops_after_the_step_and_twice_at_once(store, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        signals_at(patch, {3}, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            fit(settings(store, tmp_path), progress=False)
    assert steps(tmp_path).count("\n") == 4
    assert load_checkpoint(RunFolder(tmp_path).last)["larstore"]["stream"]["batches"] == 3
    with monkeypatch.context() as patch:
        signals_at(patch, {1}, signal.SIGINT)
        original = ImageModule.training_step

        def twice(self, batch, i):
            original(self, batch, i)
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("went on")

        patch.setattr(ImageModule, "training_step", twice)
        with pytest.raises(KeyboardInterrupt):
            fit(settings(store, tmp_path), resume=True, progress=False)
    assert load_checkpoint(RunFolder(tmp_path).last)["larstore"]["stream"]["batches"] == 3
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("answer", ["ok", "refused"])
def test_slurm_requeues_the_job(store, tmp_path, monkeypatch, answer):
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n[ {answer} = ok ] || {{ echo no >&2; exit 1; }}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(scontrol.parent), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")  # Lightning takes it for an interactive one, and looks no further
    with monkeypatch.context() as patch:
        signals_at(patch, {2}, signal.SIGUSR2)
        with pytest.raises(SystemExit) as stop:
            fit(settings(store, tmp_path / "run"), progress=False)
    assert stop.value.code == 140
    assert (tmp_path / "called").read_text() == "requeue 77\n"
    log = (tmp_path / "run" / "out_0.log").read_text()
    assert ("job 77 is requeued" if answer == "ok" else "is not requeued (no). Fix: ") in log
    with pytest.raises(ConfigError, match="holds a run already"):
        fit(settings(store, tmp_path / "run"), progress=False)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # the same command line in the requeued job
    result = fit(settings(store, tmp_path / "run"), progress=False)
    assert [row["epoch"] for row in result.summaries] == [0, 1, 2]


def test_killed_while_anything_is_written(store, tmp_path, monkeypatch):
    """Copies of the directory as a kill would leave it before each change of a file's name."""
    a = tmp_path / "a"
    config = partial(settings, store, n_epochs=2, keep=1, checkpoint_every={"steps": 4})
    copies = []

    def copying(change):
        def changed(*args, **kwargs):
            if threading.current_thread() is threading.main_thread() and (a / "checkpoints").exists():
                copies.append(tmp_path / f"copy{len(copies)}")
                os.sync()
                shutil.copytree(a, copies[-1])
            return change(*args, **kwargs)

        return changed

    with monkeypatch.context() as patch:
        for name in ("replace", "link"):
            patch.setattr(f"train.resuming.checkpoint.os.{name}", copying(getattr(os, name)))
        patch.setattr("train.records.folder.Path.replace", copying(type(a).replace))
        whole = fit(config(a), progress=False)
    assert len(copies) >= 12
    assert any(list(copy.glob("checkpoints/*.partial")) for copy in copies)
    for copy in copies:
        for partial_file in copy.glob("checkpoints/*.partial"):
            partial_file.write_bytes(partial_file.read_bytes()[:500])
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002
        again = fit(config(copy), auto=True, progress=False)
        assert_equal_runs(a, copy, whole, again)
        assert not list(copy.rglob("*.partial"))
        names = {entry.name for entry in (copy / "checkpoints").iterdir()}
        assert names == {"best.pth.tar", "checkpoint_001.pth.tar", "last.pth.tar"}


def test_early_stopping_and_the_best_epoch(store, tmp_path):
    rule = {"metric": "train_loss", "patience": 2, "min_delta": 10.0}  # nothing gets better by so much
    config = settings(store, tmp_path, n_epochs=9, early_stopping=rule, best={"metric": "ap"})
    result = fit(config, progress=False)
    assert [row["epoch"] for row in result.summaries] == [0, 1, 2]
    log = (tmp_path / "out_0.log").read_text()
    assert "early stopping: train_loss has not got better for 2 epochs" in log
    scores = [row["valid_ap"] for row in result.summaries]
    folder = RunFolder(tmp_path)
    assert folder.find_checkpoint("best").samefile(folder.checkpoint(int(np.argmax(scores))))
    assert folder.find_checkpoint("last").samefile(folder.checkpoint(2))
    assert fit(config, auto=True, progress=False).summaries == result.summaries  # it is over, and stays so
    patient = settings(store, tmp_path, n_epochs=9, early_stopping={**rule, "patience": 4}, best={"metric": "ap"})
    assert len(fit(patient, resume=True, progress=False).summaries) == 5


def test_a_run_whose_time_is_over_is_over(store, tmp_path):
    first = fit(settings(store, tmp_path, max_minutes=1e-9), progress=False)
    table = steps(tmp_path)
    assert len(first.summaries) == 1
    assert table.count("\n") == 2
    assert fit(settings(store, tmp_path, max_minutes=1e-9), auto=True, progress=False).summaries == first.summaries
    assert steps(tmp_path) == table
    # With more time it goes on within the stream's epoch, whose rest is an epoch of its own, with a validation.
    longer = fit(settings(store, tmp_path, n_epochs=2), resume=True, progress=False)
    assert pd.read_csv(tmp_path / "steps_0.csv", sep="\t")["batch"].tolist() == list(range(6))
    assert "valid_loss" in longer.summaries[1]


def test_which_checkpoints_are_kept(store, tmp_path):
    config = settings(store, tmp_path, n_epochs=6, checkpoint_every={"epochs": 2}, keep=2)
    fit(config, progress=False)
    folder = RunFolder(tmp_path)
    assert folder.epochs() == [3, 5]
    assert folder.last.samefile(folder.checkpoint(5))
    # From an older epoch: what came after it is of another course.
    longer = settings(store, tmp_path, n_epochs=5, checkpoint_every={"epochs": 2}, keep=2)
    result = fit(longer, resume=True, epoch=3, progress=False)
    assert [row["epoch"] for row in result.summaries] == [0, 1, 2, 3, 4]
    assert folder.last.samefile(folder.checkpoint(4))
    assert pd.read_csv(folder.step_file, sep="\t")["epoch"].tolist() == [i // 6 for i in range(30)]


def test_periodic_checkpoints_that_cannot_be_written(store, tmp_path, monkeypatch):
    from train.resuming import saving

    original, count = saving.write_checkpoint, [0]

    def full_for_a_while(content, path):
        count[0] += 1
        if count[0] in (2, 3):
            raise OSError(28, "No space left on device")
        original(content, path)

    monkeypatch.setattr(saving, "write_checkpoint", full_for_a_while)
    result = fit(settings(store, tmp_path, n_epochs=1, checkpoint_every={"steps": 2}), progress=False)
    assert result.checkpoint.exists()
    log = (tmp_path / "out_0.log").read_text()
    assert "last.pth.tar: could not be written (No space left on device); the last good one is" in log
    count[0] = 1
    with pytest.raises(TrainingError, match=r"checkpoint_001.*No space left on device.*Fix: free space"):
        fit(settings(store, tmp_path, n_epochs=2), resume=True, progress=False)


def test_another_number_of_threads_is_told(store, tmp_path, monkeypatch, caplog):
    fit(settings(store, tmp_path, n_epochs=1), progress=False)
    monkeypatch.setattr("train.runtime.llvmlite.binding.get_host_cpu_name", lambda: "abacus")
    fit(settings(store, tmp_path, n_epochs=2, threads=2), resume=True, progress=False)
    assert "threads: 2 now, 1 when the checkpoint was made" in caplog.text
    assert "CPU: abacus" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"best": {"metric": "auc"}},
            r"best\.metric: 'auc' is not in the summaries\. Fix: one of loss, acc, ap",
        ),
        ({"early_stopping": {"metric": "train_ap"}}, "Fix: one of train_loss, train_acc"),
        ({"best": {"metric": "loss"}, "data": {"inference_i": None}}, r"is of the validation\. Fix: "),
        ({"keep": 0}, "keep the checkpoint of one epoch or more"),
        ({"checkpoint_every": {"hours": 1}}, "hours"),
    ],
)
def test_mistakes_are_refused_before_a_run_is_made(store, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        fit(settings(store, tmp_path / "run", **changes), progress=False)
    assert not (tmp_path / "run").exists()


def test_another_optimiser_or_schedule_is_refused(store, tmp_path):
    schedule = {"name": "schedule", "scheduler": {"name": "StepLR", "step_size": 1}}
    before = settings(store, tmp_path / "run", n_epochs=1, trainer=schedule)
    fit(before, progress=False)
    for name, lr in (("Adam", 0.5), ("SGD", 0.02)):
        changed = settings(store, tmp_path / "run", n_epochs=2, trainer=schedule)
        changed.optimizer = before.optimizer.model_validate({"name": name, "lr": lr})
        with pytest.raises(ConfigError, match=r"optimizer: .*'lr': 0\.02.*goes on with.* Fix: restore it"):
            fit(changed, resume=True, progress=False)
    other = {"name": "schedule", "scheduler": {"name": "ExponentialLR", "gamma": 0.9}}
    with pytest.raises(ConfigError, match=r"trainer: .*StepLR.*goes on with.*ExponentialLR"):
        fit(settings(store, tmp_path / "run", n_epochs=2, trainer=other), resume=True, progress=False)


def test_a_folder_that_takes_no_file(store, tmp_path, monkeypatch):
    def full(path, *args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(ConfigError, match=r"run: No space left on device\. Fix: another output_dir, or free space"):
        fit(settings(store, tmp_path / "run"), progress=False)


def test_auto_resume_excludes_start_epoch(store, tmp_path):
    with pytest.raises(ConfigError, match=r"train\.start_epoch = 0: --auto-resume .*Fix: "):
        fit(settings(store, tmp_path / "run", start_epoch=0), auto=True)


def test_other_batches_in_the_middle_of_an_epoch_are_refused(store, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        signals_at(patch, {2})
        with pytest.raises(SystemExit):
            fit(settings(store, tmp_path), progress=False)
    with pytest.raises(ConfigError, match="batch_size, max_voxels, weights or seed changed since the checkpoint"):
        fit(settings(store, tmp_path, data={"batch_size": 3}), resume=True, progress=False)


def test_command_line(store, tmp_path, monkeypatch):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(settings(store, tmp_path / "run", n_epochs=1).plain()))

    def call(*arguments):
        return CliRunner().invoke(build_app(), ["train", str(path), *arguments])

    refused = call("--resume")
    assert isinstance(refused.exception, ConfigError)
    assert "--auto-resume, which begins the run then" in str(refused.exception)
    with monkeypatch.context() as patch:
        signals_at(patch, {2})
        assert call("--auto-resume").exit_code == 143
    with monkeypatch.context() as patch:
        signals_at(patch, {1}, signal.SIGINT)
        assert call("--auto-resume").exit_code == 130
    done = call("--auto-resume")
    assert done.exit_code == 0
    assert "checkpoint_000.pth.tar" in done.stdout
    assert call("--auto-resume", "--resume").exit_code == 2


def test_sums_of_several_processes_are_taken_over_by_another_number(store, tmp_path):
    def module():
        torch.manual_seed(0)
        return ImageModule(with_inputs(settings(store, tmp_path), 3), 1)

    def batch(seed):
        draw = torch.Generator().manual_seed(seed)
        return torch.rand(50, 1, generator=draw), (torch.rand(50, 1, generator=draw) > 0.5).float(), torch.ones(50, 1)

    one = module()
    two = [module(), module()]
    for seed in range(4):
        one.metrics["train"].update(*batch(seed))
        two[seed % 2].metrics["train"].update(*batch(seed))
        for each in (one, *two):
            each.losses["train"].append(seed / 3)
    states = [sums(each) for each in two]
    joined = module()
    take_sums(joined, states, 0, 1)
    assert joined.summary("train") == one.summary("train")
    three = [module() for _ in range(3)]
    for rank, each in enumerate(three):
        take_sums(each, states, rank, 3)
    assert [each.metrics["train"].metrics["acc"].update_count for each in three] == [2, 2, 0]
    assert three[2].losses["train"] == [0, 1 / 3, 2 / 3, 1]
