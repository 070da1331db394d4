"""A damaged checkpoint is never gone on with: the error names the file and the epoch to go back to."""

import re

import numpy as np
import pytest
import torch

from larstore.errors import InputError
from tests.train.small_runs import assert_same, run_values
from train.config import make_config
from train.fitting.fit import fit
from train.records.folder import RunFolder
from train.resuming.checkpoint import load_checkpoint, write_checkpoint


@pytest.fixture(scope="module")
def store(tmp_path_factory, copy_of_store):
    return copy_of_store(tmp_path_factory.mktemp("damaged") / "s.zarr", n_files=3, n_events=1, n_voxels=40)


def settings(store, out, **train):
    """Two images an epoch, one of validation; a checkpoint after each step."""
    return make_config(run_values(store, out, [0, 1], [2, 2], **{"n_epochs": 2, **train}))


def damage(path, how):
    """Another file under the same name, so that hard links keep the whole one."""
    whole = path.read_bytes()
    weight = load_checkpoint(path)["state_dict"]["model.layers.0.weight"].numpy().tobytes()
    path.unlink()
    broken = bytearray(whole)
    if how == "flipped":
        broken[whole.index(weight) + 3] ^= 0x40  # another number, which torch reads as well
    path.write_bytes(broken[: len(whole) // 2] if how == "cut short" else broken)


def contents(folder):
    return {entry.name: entry.read_bytes() for entry in (folder.path / "checkpoints").iterdir()}


@pytest.mark.usefixtures("point_net")
@pytest.mark.parametrize("how", ["cut short", "flipped"])
def test_the_error_names_the_epoch_to_go_back_to(store, tmp_path, how, monkeypatch):
    folder = RunFolder(tmp_path)
    whole = fit(settings(store, tmp_path), progress=False)
    damage(folder.last, how)
    before = contents(folder)
    refused = rf"^{re.escape(str(folder.last))}: cannot be read as a checkpoint \(.*\)\. Fix: "
    longer = settings(store, tmp_path, n_epochs=3)
    for start in ({"resume": True}, {"auto": True}):
        with pytest.raises(InputError, match=refused + "--resume 1 goes on from the end of epoch 1$"):
            fit(longer, **start, progress=False)
    damage(folder.checkpoint(1), how)
    folder.checkpoint(7).write_bytes(folder.checkpoint(0).read_bytes())  # left over from another course
    before |= contents(folder)
    with pytest.raises(InputError, match=refused + "--resume 0 goes on from the end of epoch 0$"):
        fit(longer, auto=True, progress=False)
    with pytest.raises(InputError, match=r"checkpoint_001.*Fix: train\.start_epoch: 0 goes on"):
        fit(settings(store, tmp_path, start_epoch=1), resume=True, progress=False)
    with monkeypatch.context() as patch:
        patch.setenv("SLURM_JOB_ID", "77")
        patch.setenv("SLURM_RESTART_COUNT", "1")  # where any command line goes on with the newest one
        with pytest.raises(InputError, match="Fix: --resume 0 in a new job goes on"):
            fit(longer, resume=True, epoch=0, progress=False)
    folder.checkpoint(7).unlink()
    folder.summary_file.write_bytes(b"")
    with pytest.raises(InputError, match="Fix: --resume 0 goes on"):
        fit(longer, auto=True, progress=False)
    del before["checkpoint_007.pth.tar"]
    assert contents(folder) == before
    again = fit(settings(store, tmp_path), resume=True, epoch=0, progress=False)  # as told
    assert [row["train_loss"] for row in again.summaries] == [row["train_loss"] for row in whole.summaries]


@pytest.mark.usefixtures("point_net")
def test_without_a_whole_epoch_it_tells_how_to_begin_again(store, tmp_path, caplog):
    folder = RunFolder(tmp_path)
    fit(settings(store, tmp_path, checkpoint_every={"epochs": 2}), progress=False)
    assert folder.epochs() == [1]
    best = folder.best.read_bytes()
    for path in (folder.last, folder.checkpoint(1)):
        damage(path, "cut short")
    folder.best.unlink()
    folder.best.write_bytes(best)
    before = contents(folder)
    again = (
        rf"no epoch's checkpoint can be read: begin again in another output_dir, or move {tmp_path}/checkpoints away"
    )
    with pytest.raises(InputError, match=rf"Fix: {again}, with the weights of train\.transfer\.from: {folder.best}$"):
        fit(settings(store, tmp_path), auto=True, progress=False)
    assert contents(folder) == before
    damage(folder.best, "cut short")
    with pytest.raises(InputError, match=f"Fix: {again}$"):
        fit(settings(store, tmp_path), auto=True, progress=False)
    (tmp_path / "checkpoints").rename(tmp_path / "old")
    assert len(fit(settings(store, tmp_path), auto=True, progress=False).summaries) == 2


@pytest.mark.usefixtures("point_net")
def test_a_damaged_best_one_does_not_stop_a_resumed_run(store, tmp_path, caplog):
    folder = RunFolder(tmp_path)
    fit(settings(store, tmp_path, n_epochs=2), progress=False)
    content = load_checkpoint(folder.checkpoint(1))
    content["larstore"]["best"] |= {"epoch": 0, "value": -1.0}
    write_checkpoint(content, folder.checkpoint(1))
    folder.checkpoint(0).unlink()
    damage(folder.best, "cut short")
    fit(settings(store, tmp_path, n_epochs=3), resume=True, epoch=1, progress=False)
    assert "best.pth.tar: cannot be read; epoch 0's is gone" in caplog.text


def test_any_flipped_byte_is_an_error_or_changes_nothing(tmp_path):
    path = tmp_path / "c.pth.tar"
    content = {"state_dict": {"model.w": torch.arange(200.0)}, "larstore": {"versions": {"torch": "2"}}, "epoch": 3}
    write_checkpoint(content, path)
    whole, errors = path.read_bytes(), []
    for place in np.random.default_rng(0).choice(len(whole), 300, replace=False).tolist():
        broken = bytearray(whole)
        broken[place] ^= 1 << (place % 8)
        path.write_bytes(broken)
        try:
            assert_same(load_checkpoint(path), content)
        except InputError as error:
            errors.append(str(error))
    assert len(errors) > 100
    assert not [said for said in errors if "\n" in said or "Fix: " not in said or "it holds" in said]


def test_a_file_of_another_kind_is_told_without_torchs_advice(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("optimizer: {name: Adam}\n")
    with pytest.raises(InputError) as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: cannot be read as a checkpoint (no file of torch.save). Fix: ")
