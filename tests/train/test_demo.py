"""The demo: its directory and its stages. tests/test_wheel.py goes the whole way with few events."""

import dataclasses
import re
from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest
import yaml

import larstore
from larstore.errors import ConfigError, LarstoreError
from larstore.testing import make_store
from train.config import make_config
from train.demo import Demo, run_commands, typed
from train.demo_report import write_report
from train.demo_settings import FULL, PREDICTION, QUICK
from train.results.evaluation import evaluate


@pytest.mark.parametrize("settings", [FULL, QUICK, FULL.with_events(30), FULL.with_events(1)])
def test_held_out_files_are_never_trained_on(settings):
    first, last = settings.train_files
    assert (first, settings.held_out_files[1]) == (1, settings.files)
    assert 1 <= last < settings.held_out_files[0] <= settings.held_out_files[1]


@pytest.mark.parametrize("settings", [FULL, QUICK])
def test_training_settings_are_a_valid_configuration(settings, tmp_path):
    this = Demo(tmp_path, settings)
    train = next(stage for stage in this.stages if stage.name == "train")
    assert train.commands() == [["train", str(tmp_path / "train.yaml"), "--auto-resume"]]
    config = make_config(yaml.safe_load(this.config.read_text(encoding="utf-8")))
    assert [tuple(source.files) for source in config.data.sources("train")] == [settings.train_files]
    assert config.output_dir == str(tmp_path / "run")


def test_number_of_events():
    assert FULL.with_events(120).files * FULL.events_per_file >= 120
    assert FULL.with_events(1).files == 2


def test_a_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match=r"is not empty and holds no demo\. Fix: another directory"):
        Demo(tmp_path, QUICK).open()
    with pytest.raises(ConfigError, match="Fix: another directory"):
        Demo(tmp_path / "thesis.tex" / "x", QUICK).open()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_demo_is_taken_up_where_it_stopped(tmp_path):
    this = Demo(tmp_path / "demo", QUICK)
    this.open()
    this.finish(this.stages[0], [["simulate", "-o", "a b"]], 1.5)
    again = Demo(tmp_path / "demo", QUICK)
    again.open()
    assert again.done == {"simulate": {"commands": ["larstore simulate -o 'a b'"], "seconds": 1.5}}
    with pytest.raises(ConfigError, match="holds a demo with other settings"):
        Demo(tmp_path / "demo", dataclasses.replace(QUICK, seed=2)).open()


def test_the_event_that_is_shown_is_the_median_one(tmp_path):
    this = Demo(tmp_path, QUICK)
    this.evaluation.mkdir()
    columns = ("file", "event", "tpc", "true_tiled", "ap_network")
    rows = [(8, 0, 1, 5, 0.9), (8, 1, 1, 5, 0.2), (9, 0, 1, 5, 0.7), (9, 1, 1, 0, None)]
    pd.DataFrame(rows, columns=columns).to_csv(this.evaluation / "images.csv", index=False)
    assert this.median_event() == (9, 0, 1)
    pd.DataFrame(rows[3:], columns=columns).to_csv(this.evaluation / "images.csv", index=False)
    with pytest.raises(LarstoreError, match="no image has true voxels"):
        this.median_event()


def test_a_command_that_fails_is_one_line_with_its_log(tmp_path):
    log = tmp_path / "logs" / "1-info.log"
    with pytest.raises(LarstoreError) as caught:
        run_commands([["info", str(tmp_path / "no.zarr")], ["--help"]], log, "info")
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert re.search(r"info ended with exit 1 \(larstore: .*no\.zarr.*\)\. Fix: see .*1-info\.log", message)
    text = log.read_text(encoding="utf-8")
    assert text.startswith("$ " + typed(["info", str(tmp_path / "no.zarr")]))
    assert "$ larstore --help" not in text, "what comes after a failure is not run"


def test_report_of_what_was_done(tmp_path):
    this = Demo(tmp_path / "demo", dataclasses.replace(FULL, files=3, held_out=1))
    this.open()
    make_store(this.store, n_files=4, n_voxels=300)
    with larstore.PredictionWriter(this.store, PREDICTION, {"checkpoint_sha256": "a" * 64}) as writer:
        for shard, images in writer.groups(larstore.open(this.store).select(files=(3, 3))):
            writer.write(shard, [(image, (image.truth > 3000).astype(np.float32)) for image in images])
        writer.commit()
    summary = evaluate(this.store, PREDICTION, this.evaluation, files=this.settings.held_out_files)
    for stage in this.stages:
        this.finish(stage, stage.commands(), 10.0)
    this.run.mkdir()
    (this.run / "summaries_0.csv").write_text("epoch\ttrain_loss\ttrain_time\n0\t0.5\t3.0\n1\t0.25\t4.0\n")
    assert write_report(this)["average_precision"] == pytest.approx(summary["average_precision"])
    page = (this.folder / "report.html").read_text(encoding="utf-8")
    for stage in this.stages:
        assert f"larstore {stage.name} " in page
    for text in (
        "average precision of no cut: 0.300",
        "2 epochs, 7 s",
        ">60.0<",
        "one_cycle",
        f"larstore {version('larstore')}",
    ):
        assert text in page, text
    assert "Tiling found 90.9% of the true voxels, and only 30.0%" in page
