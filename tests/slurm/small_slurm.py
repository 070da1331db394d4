"""A Slurm of two virtual nodes on this host, for as long as a test session lasts."""

import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
PORTS = 20
SECONDS = 120.0  # for whatever is waited for: only a test that fails takes so long


class NoSlurmError(Exception):
    """Why there is none here."""


def until(true: Callable[[], Any], what: str, limit: float = SECONDS) -> Any:
    """Wait for something to become true; its value."""
    end = time.monotonic() + limit
    while not (value := true()):
        assert time.monotonic() < end, f"{what}: not in {limit} s"
        time.sleep(0.1)
    return value


def _free_ports() -> int:
    """The first of some ports in a row that nobody listens on."""
    for _ in range(100):
        first = random.randrange(20_000, 30_000)
        try:
            for port in range(first, first + PORTS):
                with socket.socket() as each:
                    each.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise NoSlurmError("no free ports")


class SmallSlurm:
    """Commands of the queue, and profiles for `make_cluster`. ``folder``: of its state, and for tests to use."""

    def __init__(self) -> None:
        path = f"{os.environ['PATH']}:/usr/sbin"
        missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
        if missing:
            raise NoSlurmError(f"no {', '.join(missing)} here: apt-get install munge slurmctld slurmd slurm-client")
        # munged wants a folder that all may enter, which pytest's own is not.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.folder.chmod(0o755)
        self._env = {"SLURM_BASE": str(self.folder), "SLURM_PORT": str(_free_ports())}
        done = self._script("up.sh")
        if done.returncode:
            self.down()
            raise NoSlurmError(f"Slurm did not start: {done.stderr.strip().splitlines()[-1:]}")
        os.environ["SLURM_CONF"] = str(self.folder / "slurm.conf")
        self._number = 0

    def _script(self, name: str) -> subprocess.CompletedProcess[str]:
        # Daemons keep stdout open: a pipe would never end.
        with tempfile.TemporaryFile("w+") as errors:
            done = subprocess.run(
                ["bash", str(HERE / name)], env=os.environ | self._env | {"CLEAN": "1"}, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=errors, check=False, timeout=SECONDS,
            )  # fmt: skip
            errors.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, "", errors.read())

    def down(self) -> None:
        """End all of it."""
        self._script("down.sh")
        shutil.rmtree(self.folder, ignore_errors=True)
        os.environ.pop("SLURM_CONF", None)

    def ask(self, *command: str, check: bool = True) -> str:
        """What a command of Slurm prints."""
        return subprocess.run(command, capture_output=True, text=True, check=check).stdout.strip()

    def queue(self, states: str = "PENDING,RUNNING,COMPLETING,CONFIGURING,SUSPENDED") -> list[str]:
        """Ids of the jobs in the queue."""
        return self.ask("squeue", "--noheader", f"--states={states}", "--format=%i").split()

    def profile(self, **keys: Any) -> Path:
        """A profile of small jobs, with ``keys`` instead of its own."""
        self._number += 1
        folder = self.folder / f"profile-{self._number}"
        folder.mkdir()
        values = {
            "kind": "slurm",
            "cores": 1,
            "memory": "1 GiB",
            "walltime": "00:10:00",
            "query_seconds": 1,
            "log_directory": str(folder / "logs"),
            "keys_directory": str(folder / "keys"),
            "dashboard": False,
        }
        path = folder / "cluster.yaml"
        path.write_text(yaml.safe_dump(values | keys), encoding="utf-8")
        return path

    def is_empty(self) -> bool:
        """Whether no job is left in the queue."""
        return not self.queue()
