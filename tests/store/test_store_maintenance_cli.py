"""copy, compact and delete from the command line: what they print, refuse and leave behind."""

import os
import shutil

import pytest
import typer
from typer.testing import CliRunner

import larstore
from larstore import fs, maintenance_cli
from larstore.errors import LockedError, StoreError
from larstore.records import Failure, InputFile
from larstore.testing import add_images, make_image, make_store

app = typer.Typer()
maintenance_cli.register(app)


def run(*arguments, input=None):
    return CliRunner().invoke(app, [str(a) for a in arguments], input=input)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = make_store(tmp_path_factory.mktemp("maintenance") / "a.zarr", 3, 2, (1, 2), 40)
    with larstore.StoreWriter(path) as writer:
        writer.commit([], [Failure(f, t, f"{f}.npz", "broken") for f, t in ((1, 5), (2, 1), (7, -1), (8, 5))])
    return path


@pytest.fixture
def path(made, tmp_path):
    return shutil.copytree(made, tmp_path / "a.zarr")


def keys(path):
    return larstore.open(path).index.index.tolist()


def test_copy(path, tmp_path):
    done = run("copy", path, "-o", tmp_path / "b.zarr")
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path}/b.zarr: 12 images, 480 voxels, 3 inputs\n")
    assert larstore.diff(path, tmp_path / "b.zarr") == []
    assert len(larstore.open(tmp_path / "b.zarr").failures) == 4


def test_copy_of_a_part_with_its_failures(path, tmp_path):
    options = ["--files", "1:7", "--events", "0", "--tpcs", "1", "--query", "voxel_count > 1"]
    assert run("copy", path, "-o", tmp_path / "b.zarr", *options).exit_code == 0
    assert keys(tmp_path / "b.zarr") == [(1, 0, 1), (2, 0, 1)]
    failures = larstore.open(tmp_path / "b.zarr").failures
    assert failures[["file", "tpc"]].to_numpy().tolist() == [[2, 1], [7, -1]]


def test_samples(path, tmp_path):
    add_images(path, [make_image(5, 0, 1, 30, input="other")], [InputFile("other", 5, 1, "5", "beam")])
    assert run("copy", path, "-o", tmp_path / "b.zarr", "--sample", "beam").exit_code == 0
    assert keys(tmp_path / "b.zarr") == [(5, 0, 1)]
    assert "1 of 13 images" in run("delete", path, "--sample", "beam", "--dry-run").stdout
    assert isinstance(run("copy", path, "-o", tmp_path / "c.zarr", "--sample", "bean").exception, StoreError)


def test_a_selection_of_nothing_is_an_empty_store(path, tmp_path):
    done = run("copy", path, "-o", tmp_path / "b.zarr", "--files", "99")
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path}/b.zarr: 0 images, 0 voxels, 0 inputs\n")
    assert larstore.verify(tmp_path / "b.zarr").ok


def test_compact_prints_bytes(path, tmp_path):
    assert run("delete", path, "--files", "0", "--yes").exit_code == 0
    done = run("compact", path, "-o", tmp_path / "b.zarr")
    sizes = [sum(f.stat().st_size for f in p.rglob("*") if f.is_file()) for p in (path, tmp_path / "b.zarr")]
    assert done.stdout.splitlines()[1].startswith(f"{sizes[0]:,} bytes before, {sizes[1]:,} now (")
    assert larstore.diff(path, tmp_path / "b.zarr") == []


def test_delete_asks(path):
    what = "4 of 12 images, of 1 files, with 160 voxels"
    done = run("delete", path, "--files", "1", input="n\n")
    assert done.exit_code == 1
    assert f"delete {what}?" in done.stderr
    assert "deleted" not in done.stdout
    done = run("delete", path, "--files", "1")  # nobody there to answer
    assert done.exit_code == 1
    done = run("delete", path, "--files", "1", "--dry-run")
    assert (done.exit_code, done.stdout) == (0, f"{path}: would delete {what}\n")
    assert len(keys(path)) == 12
    done = run("delete", path, "--files", "1", input="y\n")
    assert done.exit_code == 0
    assert done.stdout.endswith(f"{path}: deleted {what}\n")
    assert {file for file, _, _ in keys(path)} == {0, 2}
    report = larstore.verify(path)
    assert (report.ok, report.images) == (True, 8)


def test_delete_by_query_and_again(path):
    assert run("delete", path, "--query", "tpc == 2", "--events", "1", "--yes").exit_code == 0
    assert len(keys(path)) == 9
    before = larstore.open(path).attributes["commit"]
    done = run("delete", path, "--query", "tpc == 2", "--events", "1", "--yes")
    assert done.stdout == f"{path}: would delete 0 of 9 images, of 0 files, with 0 voxels\n"
    assert larstore.open(path).attributes["commit"] == before


def test_delete_needs_a_selection(path):
    for options in ([], ["--yes"], ["--dry-run"]):
        done = run("delete", path, *options)
        assert done.exit_code == 2
        assert "say which images" in done.stderr
    assert len(keys(path)) == 12


def test_delete_refuses_what_changed_while_it_asked(path, monkeypatch):
    def confirm(*arguments, **options):
        add_images(path, [make_image(0, 0, 1, 7, seed=3)])

    monkeypatch.setattr(typer, "confirm", confirm)
    done = run("delete", path, "--files", "0")
    assert isinstance(done.exception, LockedError)
    assert len(keys(path)) == 12


@pytest.mark.parametrize("command", ["copy", "compact", "merge", "repair"])
def test_an_interrupt_leaves_nothing(path, tmp_path, command):
    def interrupt(operation):
        if operation.kind == "write" and operation.path.name.startswith(".0.") and "voxels" in operation.path.parts:
            raise KeyboardInterrupt

    sources = [path, path] if command == "merge" else [path]
    with fs.observed(interrupt):
        done = run(command, *sources, "-o", tmp_path / "b.zarr")
    assert (done.exit_code, done.stdout) == (130, "")
    assert done.stderr == f"larstore: stopped. {tmp_path}/b.zarr was not made, and nothing is left of it\n"
    assert os.listdir(tmp_path) == ["a.zarr"]


@pytest.mark.parametrize("command", ["copy", "compact"])
def test_what_cannot_be(path, tmp_path, command):
    for source, target, says in [
        (tmp_path / "nothing.zarr", tmp_path / "b.zarr", "no such directory"),
        (tmp_path, tmp_path / "b.zarr", "not a larstore store"),
        (path, path, "exists already"),
        (path, path / "b.zarr", "lies inside the store"),
    ]:
        done = run(command, source, "-o", target)
        assert isinstance(done.exception, StoreError)
        assert says in str(done.exception)
        assert "Fix:" in str(done.exception)
        assert done.stdout == ""
    assert run(command, path).exit_code == 2
    assert os.listdir(tmp_path) == ["a.zarr"]


@pytest.mark.parametrize("options", [["--files", "x"], ["--events", "1:x"], ["--tpcs", "1;2"]])
def test_wrong_values_are_wrong_usage(path, tmp_path, options):
    assert run("copy", path, "-o", tmp_path / "b.zarr", *options).exit_code == 2
    assert run("delete", path, "--yes", *options).exit_code == 2
    assert os.listdir(tmp_path) == ["a.zarr"]
