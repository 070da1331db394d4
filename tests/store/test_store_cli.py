"""info, index, verify and diff: what they print, where, and their exit codes."""

import json
import shutil
from importlib.metadata import version

import pytest
import typer
from typer.testing import CliRunner

import larstore
from larstore import cli, store_cli
from larstore.errors import StoreError
from larstore.index import Index
from larstore.notebook_views import store_html
from larstore.records import Failure
from larstore.testing import add_images, make_image, make_store

app = typer.Typer()
store_cli.register(app)


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "a.zarr"
    return make_store(path, n_files=2, n_events=2, n_voxels=40, provenance={"larstore": "1.2.3"})


@pytest.fixture
def path(made, tmp_path):
    return shutil.copytree(made, tmp_path / "a.zarr")


def test_version():
    done = CliRunner().invoke(cli.app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"larstore {version('larstore')}\n")


def test_info(path):
    done = run("info", path)
    assert done.exit_code == 0
    for text in ("testing", "electrons", "160"):
        assert text in done.stdout
    assert "1.2.3" not in done.stdout
    found = json.loads(run("info", path, "--json", "--provenance").stdout)
    assert (found["images"], found["voxels"], found["files"]) == (4, 160, 2)
    assert found["provenance"] == {"larstore": "1.2.3"}


def test_info_tells_failures_apart(path):
    """Two units with one error, as after a repair."""
    with larstore.StoreWriter(path) as writer:
        failed = [Failure(5, 1, "a", "broken"), Failure(5, 2, "a", "broken"), Failure(7, -1, "b", "broken")]
        writer.commit([], [*failed, *(Failure(file, 1, "c", "no wires") for file in range(10, 20))])
    lines = [line for line in run("info", path).stdout.splitlines() if line.startswith(("failed", "…"))]
    assert lines[:3] == ["failed: file 5, TPC 1: broken", "failed: file 5, TPC 2: broken", "failed: file 7: broken"]
    assert lines[10].startswith("… and 3 more in ")


def test_failures_never_make_a_table_of_the_index(path, monkeypatch):
    """Of 10^7 images it would have gigabytes; only images of files that failed count."""
    with larstore.StoreWriter(path) as writer:
        writer.commit([], [Failure(1, 1, "a", "x"), Failure(1, 9, "a", "x"), Failure(0, -1, "a", "x")])
    add_images(path, [make_image(1, 7, 1, 5)])
    monkeypatch.setattr(Index, "frame", lambda *_: pytest.fail("the whole index as a table"))
    store = larstore.open(path)
    assert store.failures[["file", "tpc"]].to_numpy().tolist() == [[1, 9], [0, -1]]
    assert "2" in store_html(store)
    assert run("info", path).exit_code == 0


def test_index(path):
    done = run("index", path, "--files", "1:1", "--tpcs", "1", "--query", "voxel_count > 5", "--csv")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("file,event,tpc,")
    assert [line.split(",")[:3] for line in lines[1:]] == [["1", "0", "1"], ["1", "1", "1"]]
    done = run("index", path, "--limit", "3")
    assert "1 more images" in done.stderr
    assert "more images" not in done.stdout


@pytest.mark.parametrize("option", [["--files", "a:b"], ["--tpcs", "x"], ["--no-such"]])
def test_wrong_usage(path, option):
    done = run("index", path, *option)
    assert done.exit_code == 2
    assert done.stdout == ""


def test_verify(path):
    done = run("verify", path)
    assert done.exit_code == 0
    assert "4 images, 160 voxels, everything as it should be" in done.stdout
    (path / "voxels/live/c/1").unlink()
    assert run("verify", path, "--fast").exit_code == 0
    done = run("verify", path)
    assert done.exit_code == 1
    assert "array voxels/live, shard 1 is missing; images (file, event, tpc) (1, 0, 1), (1, 1, 1)" in done.stdout
    done = run("verify", path, "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["problems"][0]["images"] == [[1, 0, 1], [1, 1, 1]]


def test_diff(path, tmp_path):
    other = make_store(tmp_path / "b.zarr", n_files=1, n_events=2, n_voxels=40)
    add_images(other, [make_image(1, 1, 1, 40), make_image(1, 0, 1, 40)])  # in another order, elsewhere
    assert larstore.diff(path, other) == []
    done = run("diff", path, other)
    assert (done.exit_code, done.stdout) == (0, "equal\n")
    changed = make_image(1, 0, 1, 40)
    changed.charge[3, 1] += 1
    add_images(other, [changed, make_image(2, 0, 1, 5)])
    done = run("diff", path, other)
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [f"(2, 0, 1): in {other}, not in {path}", "(1, 0, 1): charge differs"]
    assert done.stderr == "2 difference(s)\n"


@pytest.mark.parametrize("name", ["coords", "live", "truth", "truth_value"])
def test_diff_sees_every_array(path, tmp_path, name):
    other = shutil.copytree(path, tmp_path / "b.zarr")
    record = make_image(0, 1, 1, 40)
    getattr(record, name)[-1] += 1
    if name == "live":
        record.live[-1] &= 1
    add_images(other, [record])
    expected = "truth_voxels" if name == "truth_value" else name
    assert larstore.diff(path, other) == [f"(0, 1, 1): {expected} differs"]


def test_diff_tells_no_truth_from_unknown_truth(tmp_path):
    one = make_store(tmp_path / "a.zarr", n_files=1, n_events=1)
    two = make_store(tmp_path / "b.zarr", n_files=1, n_events=1, truth=False)
    assert larstore.diff(one, two) == ["(0, 0, 1): truth differs", "(0, 0, 1): truth_voxels differs"]


def test_what_is_no_store(tmp_path):
    for arguments in (["info"], ["index"], ["verify"], ["diff", tmp_path]):
        done = run(arguments[0], tmp_path, *arguments[1:])
        assert isinstance(done.exception, StoreError)  # `main` prints its one line and exits 1
        assert done.stdout == ""


def test_reading_leaves_no_trace(path):
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    for command in ("info", "index", "verify"):
        assert run(command, path).exit_code == 0
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before
