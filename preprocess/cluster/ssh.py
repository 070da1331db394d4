"""Workers started by SSH, by way of Dask's own; a host is the job of its worker."""

import asyncio
from collections import Counter
from concurrent.futures import TimeoutError as NoAnswer
from contextlib import suppress
from pathlib import Path
from typing import Any

from larstore.errors import ClusterError
from preprocess.cluster.config import SshConfig
from preprocess.cluster.queues import Entries, Entry, State
from preprocess.cluster.values import seconds

CLOSE_SECONDS = 10.0


def inherited(security: Any) -> dict[str, Any]:
    """Settings of Dask that workers inherit: the certificate's files, and a log that says when they are there."""
    settings: dict[str, Any] = {"distributed.logging.distributed": "info"}
    if security is not None:
        settings |= {
            "distributed.comm.require-encryption": True,
            "distributed.comm.tls.ca-file": security.tls_ca_file,
            "distributed.comm.tls.worker.cert": security.tls_worker_cert,
            "distributed.comm.tls.worker.key": security.tls_worker_key,
        }
    return settings


async def _disconnect(worker: Any) -> None:
    """Close a worker's connection, if it got that far; a host that does not answer is not waited for."""
    connection = getattr(worker, "connection", None)
    if connection is None:
        return
    connection.close()
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await connection.wait_closed()
    except TimeoutError:
        connection.abort()


class SshJobs:
    """Starts a worker on each host that has none. All methods but ``cancel_now`` belong to the event loop."""

    def __init__(self, config: SshConfig, slots: int, scheduler: str, loop: asyncio.AbstractEventLoop) -> None:
        self._config, self.slots, self._scheduler, self._loop = config, slots, scheduler, loop
        self._busy: Counter[str] = Counter()  # workers on each host, also such as are being started
        self._workers: dict[str, Any] = {}
        self._reading: dict[str, asyncio.Task[None]] = {}
        self._over: dict[str, Entry] = {}
        config.log_directory.mkdir(parents=True, exist_ok=True)

    def connect_options(self) -> dict[str, Any]:
        """Arguments of asyncssh.connect; what is None is as ``ssh`` itself does it."""
        config = self._config
        options: dict[str, Any] = {"username": config.user, "port": config.ssh_port}
        options["client_keys"] = None if config.ssh_key is None else [str(config.ssh_key)]
        options["known_hosts"] = None if config.known_hosts is None else str(config.known_hosts)
        return {key: value for key, value in options.items() if value is not None}

    def worker_options(self, name: str) -> dict[str, Any]:
        """Arguments of the worker's nanny, over there."""
        options: dict[str, Any] = {
            "name": name,
            "nthreads": self.slots,
            "death_timeout": seconds(self._config.connect_timeout),
            "dashboard": False,
            "dashboard_address": "127.0.0.1:0",
        }
        if self._config.memory:
            options["memory_limit"] = self._config.memory
        if self._config.local_directory:
            options["local_directory"] = self._config.local_directory
        return options

    async def start(self, name: str) -> str:
        """Start a worker on a free host; "HOST/NAME". Raises ClusterError with the reason if that fails."""
        from distributed.core import Status
        from distributed.deploy.ssh import Worker

        wanted = Counter(self._config.hosts)
        host = next(host for host in self._config.hosts if self._busy[host] < wanted[host])
        self._busy[host] += 1
        worker = Worker(
            self._scheduler, host, self.connect_options(), self.worker_options(name),
            remote_python=self._config.python, name=name,
        )  # fmt: skip
        try:
            async with asyncio.timeout(seconds(self._config.connect_timeout)):
                await worker
        except Exception as error:  # distributed raises just that for a worker that ends at once
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ClusterError(f"{host}: no worker could be started by SSH ({reason})") from error
        finally:
            if worker.status is not Status.running:
                self._busy[host] -= 1
                await _disconnect(worker)
        job = f"{host}/{name}"
        self._workers[job] = worker
        self._reading[job] = asyncio.create_task(self._read(job, host, worker))
        return job

    async def _read(self, job: str, host: str, worker: Any) -> None:
        """Keep a worker's log, and note its end."""
        with self._path(job).open("a", encoding="utf-8") as file:
            async for line in worker.proc.stderr:
                file.write(line)
                file.flush()
        await worker.proc.wait_closed()
        status = worker.proc.exit_status
        # Without a status the connection broke: the host, or the network, and not the worker.
        state = State.NODE_FAIL if status is None else State.DONE if status == 0 else State.FAILED
        self._over[job] = Entry(state, "" if status is None else f"exit {status}")
        self._busy[host] -= 1
        worker.connection.close()

    def _path(self, job: str) -> Path:
        return self._config.log_directory / f"{job.replace('/', '-')}.log"

    async def query(self, ids: list[str]) -> Entries | None:
        """What is known of the workers."""
        return {job: self._over.get(job, Entry(State.RUNNING)) for job in ids if job in self._workers}

    async def cancel(self, ids: list[str]) -> str:
        """End workers; nothing can go wrong that would be known here."""
        for job in ids:
            if (worker := self._workers.get(job)) is not None:
                await worker.close()
                await _disconnect(worker)
                with suppress(TimeoutError):
                    async with asyncio.timeout(CLOSE_SECONDS):
                        await self._reading[job]
        return ""

    def cancel_now(self, ids: list[str]) -> str:
        """The same from any thread, and done when it returns; what went wrong, "" if nothing."""
        ending = asyncio.run_coroutine_threadsafe(self.cancel(ids), self._loop)
        try:
            ending.result(CLOSE_SECONDS * (1 + len(ids)))
        except NoAnswer:
            return "no answer by SSH"
        return ""

    def log(self, job_id: str) -> Path | None:
        """The worker's log."""
        path = self._path(job_id)
        return path if path.exists() and path.stat().st_size else None
