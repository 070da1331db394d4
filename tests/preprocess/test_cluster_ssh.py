"""Workers started by SSH, from a server on this host: they come by TLS, are replaced, and are gone at the end."""

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest
import yaml
from distributed import KilledWorker

from larstore.errors import ClusterError, ConfigError
from preprocess.cluster import make_cluster

pytestmark = pytest.mark.slow
SECONDS = 120.0


class Server:
    """An SSH server of one user, who logs in by key; ``tests/preprocess/ssh_server.py`` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        host, user = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
        self.key = folder / "user_key"
        user.write_private_key(str(self.key))
        user.write_public_key(str(folder / "user_key.pub"))
        host.write_private_key(str(folder / "host_key"))
        script = Path(__file__).with_name("ssh_server.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), str(folder / "host_key"), str(folder / "user_key.pub")],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.known_hosts = folder / "known_hosts"
        public = host.export_public_key().decode().strip()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {public}\n", encoding="utf-8")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.close()
    gc.collect()  # a connection that was left open warns here, and not in another test


def profile(folder: Path, server: Server, **keys) -> Path:
    values = {
        "kind": "ssh",
        "hosts": ["127.0.0.1"],
        "ssh_port": server.port,
        "ssh_key": str(server.key),
        "known_hosts": str(server.known_hosts),
        "tasks": 2,
        "memory": "1 GiB",
        "log_directory": str(folder / "logs"),
        "keys_directory": str(folder / "keys"),
        "dashboard": False,
    }
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(values | keys), encoding="utf-8")
    return path


def until(true, what: str) -> None:
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end, f"{what}: not in {SECONDS} s"
        time.sleep(0.1)


def pids() -> tuple[int, int]:
    """Of the worker's process and of its nanny's."""
    return os.getpid(), os.getppid()


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_workers_come_are_replaced_and_go(tmp_path: Path, server: Server):
    with make_cluster(profile(tmp_path, server)) as client:
        keeper = client.keeper
        until(lambda: keeper.check() or keeper.state().workers == 1, "a worker")
        assert keeper.state().slots == 2
        assert client.scheduler.address.startswith("tls://")
        assert all(address.startswith("tls://") for address in client.nthreads())
        first, nanny = client.submit(pids, pure=False).result(timeout=SECONDS)
        future = client.submit(time.sleep, 300, pure=False)
        time.sleep(1)
        os.kill(nanny, signal.SIGKILL)
        os.kill(first, signal.SIGKILL)
        assert isinstance(future.exception(timeout=SECONDS), KilledWorker)
        second, _ = client.submit(pids, pure=False).result(timeout=SECONDS)
        assert second != first
        assert any("worker larstore-0 lost: job 127.0.0.1/larstore-0" in note for note in keeper.notes())
        assert list((tmp_path / "logs").iterdir())
    until(lambda: is_gone(second), "the worker's end")
    assert not list((tmp_path / "keys").iterdir())


def test_an_unknown_host_key_is_refused(tmp_path: Path, server: Server):
    server.known_hosts.write_text("", encoding="utf-8")
    with make_cluster(profile(tmp_path, server, max_failed_starts=1)) as client:

        def is_over() -> bool:
            client.keeper.check()
            return False

        with pytest.raises(ClusterError, match=r"127\.0\.0\.1: no worker could be started by SSH \(Host key"):
            until(is_over, "an error")


def test_a_worker_that_cannot_start_is_an_error_in_a_line(tmp_path: Path, server: Server):
    """As of a host without the package: its process ends before it says where it is."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'no module named distributed' >&2\nexit 1\n", encoding="utf-8")
    python.chmod(0o755)
    with make_cluster(profile(tmp_path, server, max_failed_starts=2, python=str(python))) as client:

        def is_over() -> bool:
            client.keeper.check()
            return False

        with pytest.raises(ClusterError, match=r"127\.0\.0\.1: no worker could be started by SSH \(.*\)\. Fix:"):
            until(is_over, "an error")


def test_more_workers_than_hosts_are_refused(tmp_path: Path, server: Server):
    with pytest.raises(ConfigError, match="name hosts more than once"), make_cluster(profile(tmp_path, server), 2):
        raise AssertionError("it must not get here")
