"""What a run's directory tells of itself: its page, about.json, its table; none of them ever ends a training."""

import html
import json
import logging
import math
import re
import shlex
import subprocess
from xml.etree import ElementTree

import pandas as pd
import pytest

import larstore
from tests.train.small_runs import run_values
from train.config import make_config
from train.fitting.fit import fit
from train.fitting.module import ImageModule, TrainingError
from train.records.folder import RunFolder, column_order
from train.records.git_state import git_state, in_words
from train.records.line_charts import Line, chart, make_axis
from train.records.run_page import run_page
from train.resuming.checkpoint import load_checkpoint, write_checkpoint

pytestmark = pytest.mark.usefixtures("point_net")


@pytest.fixture(scope="module")
def store(tmp_path_factory, copy_of_store):
    return copy_of_store(tmp_path_factory.mktemp("page") / "s <b>&.zarr", n_files=3, n_voxels=60)


def settings(store, out, **train):
    values = run_values(store, out, [0, 1], [2, 2], lr=1e-7, **{"n_epochs": 2, **train})
    return make_config(values | {"metrics": {"acc": "BinAccuracy"}})


def drawings(text):
    """The SVG elements of a page, parsed."""
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text)]


def points(drawing):
    """Points of each line of a chart."""
    return [len(line.get("points").split()) for line in drawing.iter() if line.tag.endswith("polyline")]


def test_the_page_follows_the_run(store, tmp_path, monkeypatch):
    out, pages = tmp_path / "my run", []
    step = ImageModule.training_step

    def watched(self, batch, i):
        if i == 0:
            pages.append((out / "index.html").read_text())
        return step(self, batch, i)

    monkeypatch.setattr(ImageModule, "training_step", watched)
    fit(settings(store, out))
    first, second = pages
    assert 'http-equiv="refresh"' in first
    assert "The first epoch is not over yet." in first
    assert [points(drawing) for drawing in drawings(second)] == [[1, 1], [1, 1], [1], [1, 1, 1]]
    last = (out / "index.html").read_text()
    assert [points(drawing) for drawing in drawings(last)] == [[2, 2], [2, 2], [2], [2, 2, 2]]
    assert "refresh" not in last
    assert "finished · as of" in last
    assert "<script" not in last
    assert len(last) < 100_000
    assert "s &lt;b&gt;&amp;.zarr" in last
    assert "s <b>" not in last
    assert larstore.open(store).attributes["sha256"] in last
    said = html.unescape(last)
    assert shlex.join(["larstore", "train", str(out / "configs" / "0.yaml"), "--resume"]) in said
    assert shlex.join(["--store", str(store), "--name", "my run", "--files", "2:2"]) in said


def test_about_keeps_earlier_starts(store, tmp_path):
    fit(settings(store, tmp_path, n_epochs=1))
    fit(settings(store, tmp_path), resume=True)
    about = json.loads((tmp_path / "about.json").read_text())
    attributes = larstore.open(store).attributes
    assert about["stores"][0]["sha256"] == attributes["sha256"]
    assert about["stores"][0]["commit"] == attributes["commit"]
    assert about["first_epoch"] == 1
    assert about["config"] == str(tmp_path / "configs" / "1.yaml")
    assert [start["first_epoch"] for start in about["earlier"]] == [0]
    assert about["versions"]["zarr"]
    assert about["host"]["cores"] >= 1
    assert set(about["git"]) >= {"current directory"}
    (tmp_path / "about.json").write_text("[1, 2")
    fit(settings(store, tmp_path, n_epochs=3), resume=True)
    assert json.loads((tmp_path / "about.json").read_text())["earlier"] == []
    assert "earlier starts are not kept" in (tmp_path / "out_0.log").read_text()


def test_the_table_has_the_research_codes_columns_first(store, tmp_path):
    fit(settings(store, tmp_path))
    table = pd.read_csv(RunFolder(tmp_path).summary_file, sep="\t")
    assert table.columns.tolist() == [
        *("epoch", "train_loss", "train_acc", "train_time", "valid_loss", "valid_acc", "valid_time", "lr", "wait_time")
    ]
    assert table["lr"].tolist() == pytest.approx([1e-7, 1e-7])
    assert (table["wait_time"] > 0).all()
    assert (table["wait_time"] < table["train_time"]).all()
    rows = [
        {"epoch": 0, "train_loss": 1, "train_score_loss": 2, "train_acc": 3, "train_time": 4, "lr": 5},
        {"epoch": 1, "train_loss": 1, "valid_loss": 6, "valid_time": 7},
    ]
    assert column_order(rows) == [
        *("epoch", "train_loss", "train_acc", "train_time", "valid_loss", "valid_time", "train_score_loss", "lr")
    ]


def test_an_older_table_is_continued(store, tmp_path):
    fit(settings(store, tmp_path, n_epochs=1))
    folder = RunFolder(tmp_path)
    old = pd.read_csv(folder.summary_file, sep="\t").drop(columns="wait_time")
    old.to_csv(folder.summary_file, sep="\t", index=False, float_format="%.6f")
    content = load_checkpoint(folder.last)
    del content["larstore"]["summaries"]  # older checkpoints have none: the table tells
    write_checkpoint(content, folder.last)
    rows = fit(settings(store, tmp_path), resume=True).summaries
    assert [row["epoch"] for row in rows] == [0, 1]
    table = pd.read_csv(folder.summary_file, sep="\t")
    assert table["wait_time"].isna().tolist() == [True, False]
    assert [points(drawing) for drawing in drawings((tmp_path / "index.html").read_text())][-1] == [2, 2, 1]


def test_a_page_that_cannot_be_written_is_a_warning(store, tmp_path, caplog):
    for name in ("index.html", "about.json"):
        (tmp_path / name / "in the way").mkdir(parents=True)
    with caplog.at_level(logging.WARNING, "larstore.train"):
        assert len(fit(settings(store, tmp_path)).summaries) == 2
    told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert sum(line.startswith(f"{tmp_path / 'index.html'}: cannot replace (") for line in told) == 4
    assert sum(line.startswith(f"{tmp_path / 'about.json'}: cannot replace (") for line in told) == 1
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def test_the_page_says_why_a_run_ended(store, tmp_path):
    config = settings(store, tmp_path)
    config.optimizer = config.optimizer.model_copy(update={"name": "SGD", "lr": 1e38})
    with pytest.raises(TrainingError):
        fit(config)
    text = (tmp_path / "index.html").read_text()
    assert "stopped: the train" in text
    assert "not finite in epoch 0" in text
    assert "refresh" not in text


def test_a_run_of_many_epochs_is_a_small_page(store, tmp_path):
    rows = [
        {
            "epoch": e,
            "train_loss": 10.0 / (e + 1),
            "valid_loss": math.nan,
            "valid_<i>": "x",
            "lr": 0.1,
            "train_time": 1.0,
        }
        for e in range(5000)
    ]
    start = {
        "started": "now", "command": "</pre><b>", "directory": "/<i>", "config": None, "first_epoch": 0, "threads": 1,
        "stores": [], "frozen": 0, "versions": {}, "git": {},
        "host": {"name": "h", "system": "s", "cores": 1, "gpus": []},
    }  # fmt: skip
    text = run_page(settings(store, tmp_path), rows, start, "training", True).text()
    assert len(text) < 150_000
    assert "<i>" not in text
    assert "</pre><b>" not in text
    assert points(drawings(text)[0])[0] <= 602
    assert "The last 100 of 5000 epochs" in text


@pytest.mark.parametrize(
    ("values", "log", "labels"),
    [
        ([0.0, 1.0], False, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        ([1e-5, 1e-1], True, ["1e-5", "1e-4", "1e-3", "1e-2", "1e-1"]),
        ([2.0, 5.0], True, ["2", "3", "4", "5"]),
    ],
)
def test_axes(values, log, labels):
    axis = make_axis(values, log, most=6)
    assert [label for _, label in axis.ticks] == labels
    assert all(axis.low <= place <= axis.high for place, _ in axis.ticks)
    assert 0 <= axis.place(values[0]) < axis.place(values[1]) <= 1


@pytest.mark.parametrize("log", [False, True])
def test_charts_of_little(log):
    for y in ([], [math.nan], [3.0], [3.0, 3.0], [0.0, -1.0], [1e300, 1e-300]):
        drawing = ElementTree.fromstring(chart([Line("a <&> b", range(len(y)), y)], "x", "y", log_y=log))
        numbers = [float(n) for line in drawing.iter() for n in re.split("[ ,]", line.get("points", "0"))]
        assert all(math.isfinite(n) for n in numbers)


def git(folder, *arguments):
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_git_states(tmp_path, monkeypatch):
    repository = tmp_path / "repository"
    (repository / "below").mkdir(parents=True)
    git(repository, "init", "-q", "-b", "main")
    assert "unknown" in git_state(repository)  # no commit yet
    (repository / "a.py").write_text("1")
    git(repository, "add", "a.py")
    git(repository, "commit", "-qm", "first")
    commit = git(repository, "rev-parse", "HEAD")
    clean = git_state(repository / "below")
    assert clean == {"path": str(repository), "commit": commit, "branch": "main", "dirty": False, "changed": []}
    assert in_words(clean) == f"{repository}: commit {commit[:12]} (main), clean"
    (repository / "a.py").write_text("2")
    (repository / "new.py").write_text("not tracked")
    git(repository, "checkout", "-q", "--detach")
    changed = git_state(repository)
    assert (changed["dirty"], changed["changed"], changed["branch"]) == (True, ["a.py"], None)
    assert "1 file changed since" in in_words(changed)
    assert "not a git repository" in git_state(tmp_path)["unknown"]
    assert git_state(tmp_path / "nowhere")["unknown"]
    assert "did not answer" in git_state(repository, seconds=0.0)["unknown"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(repository) == {"path": str(repository), "unknown": "git is not installed"}
