"""Every notebook is the same as its text, holds no outputs, runs from top to bottom, and lets a run be interrupted."""

import re
import time
from pathlib import Path

import jupytext
import nbformat
import pytest
from jupyter_client.manager import start_new_kernel

import larstore
from larstore.status import run_status, status_file
from tests.notebook_runs import TEXTS, execute, outputs, printed
from tests.preprocess.small_runs import make_config

pytestmark = pytest.mark.timeout(600)
CLUSTER = "01_preprocess_on_a_cluster"
# What the others print, beside being run to their end.
SAID = {
    "00_quickstart": ("6 images, ", "the others are ghosts", "average precision: 0.", "event.html"),
    "02_train_from_the_store": ("resuming: 12 images", "epoch 6: train_loss", "predictions in the store: ['first']"),
    "03_query_the_store": ("{'TPC 1': 30, 'TPC 5': 10}", "48 images, 19,200 voxels: no damage"),
    "05_evaluate": (
        "predictions: ['early', 'late']",
        "early than late: -0.",
        "differs",
        "charges of: network",
        "curves.svg",
    ),
    "04_look_at_events": ("predictions: ['agreement']", "events.html: 4 events", "2 images, ", "plane w: 1.000"),
}
# pyzmq's and jupyter_client's event loops warn of their own clean-up.
quiet_kernels = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::RuntimeWarning"
)


def cells(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.stem)
def test_a_notebook_is_its_text_without_outputs(text):
    notebook = nbformat.read(text.with_suffix(".ipynb"), as_version=4)
    sync = f"jupytext --sync notebooks/{text.name}"
    assert cells(notebook) == cells(jupytext.read(text)), f"they differ. Fix: {sync}"
    assert notebook.metadata.jupytext.formats == "ipynb,py:percent"
    for cell in notebook.cells:
        assert not cell.get("outputs"), "Fix: clear the outputs before you save"
        assert cell.get("execution_count") is None
    assert {path.stem for path in text.parent.glob("*.ipynb")} == {path.stem for path in TEXTS}


@pytest.mark.slow
@quiet_kernels
@pytest.mark.parametrize("text", [text for text in TEXTS if text.stem != CLUSTER], ids=lambda path: path.stem)
def test_a_notebook_runs(text, tmp_path):
    said = printed(execute(text.with_suffix(".ipynb"), tmp_path))
    for each in SAID.get(text.stem, ()):
        assert each in said


@pytest.mark.slow
@quiet_kernels
def test_the_cluster_notebook_runs_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.delenv("LARSTORE_CLUSTER", raising=False)
    (text,) = (text for text in TEXTS if text.stem == CLUSTER)
    done = execute(text.with_suffix(".ipynb"), tmp_path)
    said = printed(done)
    assert "#SBATCH -p regular" in said
    assert "6 units done, 0 before, 0 failed, 0 left: 12 images" in said
    assert "0 units done, 6 before" in said
    assert "the last run is done" in said
    first, second = (html for html in outputs(done, "text/html") if "<progress" in html)
    assert "6 of 6 units" in first
    assert "0 of 0 units" in second
    assert len(outputs(done, "application/vnd.plotly.v1+json")) == 2
    assert len(larstore.open(tmp_path / "cluster-example" / "run.zarr")) == 12


RUN = """
import sys
sys.path.insert(0, {root!r})
from preprocess import make_cluster, run
from preprocess.config import RunConfig
from tests.preprocess.small_runs import fault

config = RunConfig.model_validate_json({config!r})
with make_cluster("local", 1) as client:
    client.register_worker_callbacks(fault("a_", "0.3"))
    summary = run(config, client)
print("came back:", summary.units_done, "done,", summary.units_left, "left")
"""


@pytest.mark.slow
@quiet_kernels
def test_interrupting_the_kernel_finishes_what_is_in_flight(tmp_path):
    """As the button ■ does it, in the middle of 60 units of half a second."""
    config = make_config(tmp_path, 60)
    root = str(Path(__file__).parents[1])
    manager, client = start_new_kernel()
    try:
        client.execute(RUN.format(root=root, config=config.model_dump_json()))
        end = time.monotonic() + 200
        while not (status_file(config.output).is_file() and len(larstore.open(config.output))):
            assert time.monotonic() < end, "no image in 200 s"
            time.sleep(0.05)
        manager.interrupt_kernel()
        said, reply = "", client.get_shell_msg(timeout=200)
        while (message := client.get_iopub_msg(timeout=60))["content"].get("execution_state") != "idle":
            said += message["content"].get("text", "")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert reply["content"]["status"] == "ok", reply["content"]
    (numbers,) = re.findall(r"came back: (\d+) done, (\d+) left", said)
    done, left = map(int, numbers)
    assert done >= 1
    assert left >= 1
    assert done + left == 60
    assert len(larstore.open(config.output)) == done
    assert run_status(config.output).verdict == "the last run is stopped"
    assert larstore.verify(config.output).ok
