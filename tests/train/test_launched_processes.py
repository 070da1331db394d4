"""What passes between a training's processes and the one that started them, which may be killed at any moment."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from larstore.errors import ConfigError
from tests.train.small_runs import run_values
from train.config import make_config
from train.processes import launch
from train.processes.ranks import Ranks

TWO = Ranks(n=2, n_local=2, started=False)
STARTS = """
import sys, time
from train.config import load_config
from train.processes import launch
from train.processes.ranks import Ranks
launch._watch = lambda processes: (print(*(p.pid for p in processes), flush=True), time.sleep(600))
launch.launch(Ranks(n=2, n_local=2, started=False), load_config(sys.argv[1]))
"""


def test_no_name_in_the_temporary_directory_at_any_time(tmp_path, monkeypatch):
    """What has no name while the processes run, no kill of the one that started them can leave behind."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    seen = []

    def watch(processes):
        seen.append([process.poll() for process in processes])
        seen.extend((tmp_path / "tmp").iterdir())
        raise RuntimeError("seen enough")

    monkeypatch.setattr(launch, "_watch", watch)
    with pytest.raises(RuntimeError, match="seen enough"):
        launch.launch(TWO, make_config(run_values("s.zarr", tmp_path / "run", [0, 1], None)))
    assert seen == [[None, None]]


def test_processes_of_a_checkout_find_its_packages(tmp_path, monkeypatch):
    """Where nothing is installed: the folder that holds ``train`` comes last on their path."""
    seen = []

    def popen(command, env, **_):
        seen.append((command[command.index("-m") + 1], env["PYTHONPATH"].split(os.pathsep)))
        raise RuntimeError("seen enough")

    monkeypatch.setenv("PYTHONPATH", "first")
    monkeypatch.setattr(launch.subprocess, "Popen", popen)
    with pytest.raises(RuntimeError, match="seen enough"):
        launch.launch(TWO, make_config(run_values("s.zarr", tmp_path / "run", [0, 1], None)))
    (module, path), *_ = seen
    assert path[0] == "first"
    assert Path(path[-1], *module.split(".")).with_suffix(".py").samefile(launch.__file__)


@pytest.mark.slow
def test_the_error_of_a_process_is_raised_in_its_class(tmp_path):
    """The task reaches the processes, and what went wrong comes back."""
    config = make_config(run_values(tmp_path / "nowhere.zarr", tmp_path / "run", [0, 1], None))
    config._origin = "my.yaml"
    with pytest.raises(ConfigError, match=r"^my\.yaml: .*holds no checkpoint\. Fix: "):
        launch.launch(TWO, config, resume=True)


@pytest.mark.slow
def test_a_killed_parent_leaves_neither_files_nor_processes(tmp_path):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    config = tmp_path / "c.yaml"
    config.write_text("output_dir: run\ndata: {data_path: s.zarr, train_i: [0, 1]}\nmodel: {name: cellnet_binary}\n")
    parent = subprocess.Popen(
        [sys.executable, "-c", STARTS, str(config)],
        stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=os.environ | {"TMPDIR": str(temporary)},
    )  # fmt: skip
    try:
        assert parent.stdout is not None
        ids = parent.stdout.readline().split()
        assert len(ids) == 2
        assert not list(temporary.iterdir())
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        end = time.monotonic() + 120
        while any(Path(f"/proc/{pid}/cmdline").exists() for pid in ids):
            assert time.monotonic() < end
            time.sleep(0.1)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    assert not list(temporary.iterdir())
