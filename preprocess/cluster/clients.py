"""Clients of clusters that need no jobs: processes of this machine, and schedulers that run already."""

import json
import logging
import multiprocessing
import queue
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from distributed import Client, LocalCluster
from distributed.security import Security

from larstore.errors import ClusterError, ConfigError
from preprocess.cluster.config import SCHEMES, ExistingConfig, LocalConfig
from preprocess.cluster.keeper import Keeper, SchedulerKeeper
from preprocess.cluster.values import seconds
from preprocess.interrupts import held_back

# Workers hold receipts alone: there is nothing to spill, and one that pauses would never go on.
MEMORY: dict[str, object] = {f"distributed.worker.memory.{name}": False for name in ("target", "spill", "pause")}
# A dying worker takes its task's first and only execution with it: `run` decides what happens then, in a new block.
SETTINGS = MEMORY | {
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.work-stealing": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.logging.distributed": "error",
}
GREETING_SECONDS = 5.0  # beyond the time in which a scheduler must answer


class ClusterClient(Client):  # type: ignore[misc]
    """A client of Dask with the keeper of its workers."""

    keeper: Keeper


def _leave_to_coordinator() -> None:
    """On a worker in our terminal: Ctrl-C is for the coordinator, who ends the workers and tells what befell them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("distributed").setLevel(logging.CRITICAL)


def _refuse_unguarded_script() -> None:
    """ConfigError in a worker process that is just importing the user's script, which would start workers itself."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ConfigError(
            "make_cluster: called by a worker process as it imports this script. Fix: put what the script does below "
            'the line `if __name__ == "__main__":`'
        )


@contextmanager
def local_client(config: LocalConfig, least: int, most: int, options: dict[str, Any]) -> Iterator[ClusterClient]:
    """Of worker processes on this machine; ``options``: further arguments of ``distributed.LocalCluster``."""
    _refuse_unguarded_script()
    arguments: dict[str, Any] = {
        "n_workers": least,
        "threads_per_worker": 1,
        "processes": True,
        "silence_logs": logging.CRITICAL,
    }
    arguments |= options
    if config.memory:
        arguments["memory_limit"] = config.memory
    address = arguments.get("dashboard_address")
    if address is None and config.dashboard is not False:
        address = f":{0 if config.dashboard is True else config.dashboard}"
    if address is None:
        # The scheduler's web server listens even without a dashboard: on a free port, as a taken one gives a warning.
        arguments |= {"dashboard_address": "127.0.0.1:0", "scheduler_kwargs": {"dashboard": False}}
    else:
        arguments["dashboard_address"] = f"127.0.0.1{address}" if str(address).startswith(":") else address
    with ExitStack() as stack:
        with held_back():
            cluster = stack.enter_context(LocalCluster(host="127.0.0.1", **arguments))
            client = stack.enter_context(ClusterClient(cluster))
            if arguments["processes"]:
                client.register_worker_callbacks(_leave_to_coordinator)
        client.keeper = Keeper(cluster, least, most, dashboard=cluster.dashboard_link if address else None)
        yield client


@contextmanager
def existing_client(config: ExistingConfig) -> Iterator[ClusterClient]:
    """Of a scheduler that somebody else has started, and will end. Raises ClusterError if it does not answer."""
    security = None
    if config.ca_file is not None:
        files = {"tls_ca_file": str(config.ca_file), "tls_client_cert": str(config.cert)}
        security = Security(require_encryption=True, tls_client_key=str(config.key), **files)
    address = config.address if config.address.startswith(SCHEMES) else _address_in(Path(config.address))
    if address.startswith("tls://") and security is None:
        raise ClusterError(
            f"{config.address}: the scheduler wants TLS. Fix: a profile (kind: existing) with ca_file, cert and key"
        )
    with _connected(config, address, security) as client:
        client.keeper = SchedulerKeeper(client, config.address)
        yield client


def _address_in(path: Path) -> str:
    """The scheduler's address in the file that it has written."""
    try:
        address = json.loads(path.read_text(encoding="utf-8"))["address"]
    except FileNotFoundError as error:  # Dask would wait for it for ever
        raise ClusterError(f"{path}: no scheduler has written it. Fix: start one, or correct the path") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClusterError(
            f"{path}: holds no scheduler's address. Fix: give the file that `dask scheduler --scheduler-file` wrote"
        ) from error
    return str(address)


def _connected(config: ExistingConfig, address: str, security: Security | None) -> ClusterClient:
    """A client, within the time that the profile gives: Dask waits for ever for the greeting of another program."""
    limit = seconds(config.connect_timeout)
    made: queue.SimpleQueue[ClusterClient | Exception] = queue.SimpleQueue()

    def connect() -> None:
        try:
            made.put(ClusterClient(address, security=security, timeout=limit))
        except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
            made.put(error)

    threading.Thread(target=connect, name="larstore-connect", daemon=True).start()
    try:
        client = made.get(timeout=limit + GREETING_SECONDS)
    except queue.Empty:
        client = OSError(f"what listens there is no scheduler of Dask, or is stuck: no word for {limit} s")
    if isinstance(client, ClusterClient):
        return client
    if not isinstance(client, (OSError, ValueError)):
        raise client
    reason = " ".join(str(client).split())
    raise ClusterError(
        f"{config.address}: no scheduler answers there ({reason}). Fix: start one (dask scheduler), or correct the "
        "address"
    ) from client
