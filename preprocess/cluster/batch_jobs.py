"""Jobs of a batch system: how they are submitted, asked for and cancelled."""

import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Any

from larstore.errors import ClusterError
from preprocess.cluster.batch_script import job_class, make_job, worker_script
from preprocess.cluster.commands import ask, ask_aside, complaint
from preprocess.cluster.config import BatchConfig, HtcondorConfig
from preprocess.cluster.queues import PLAIN_QUERIES, UNKNOWN, Entries, query_command, read_answer


def refusal(config: BatchConfig, slots: int) -> str | None:
    """What the batch system has against the job, before anything is submitted; None if nothing is known."""
    command = str(job_class(config.kind).submit_command)
    if shutil.which(command) is None:
        return f"{command} is not a command of this machine. Fix: start the run where jobs are submitted from"
    if config.kind != "slurm":
        return None
    with tempfile.NamedTemporaryFile("w", suffix=".sh", encoding="utf-8") as file:
        file.write(worker_script(config, slots))
        file.flush()
        answer = ask([command, "--test-only", file.name])
    if answer.ok:
        return None
    return f"{command} refuses the job: {answer.complaint}. Fix: the cluster's profile; --dry-run shows the job script"


def log_files(directory: Path, job_id: str) -> list[Path]:
    """The logs of a job, newest last; their names hold its number, each batch system has its own rule for the rest."""
    number = job_id.partition(".")[0] if not job_id.replace(".", "").isdigit() else job_id
    found = []
    for path in directory.glob(f"*{number}*"):
        before, _, after = path.name.partition(number)
        if not before[-1:].isdigit() and not after[:1].isdigit():
            found.append(path)
    return sorted(found, key=lambda path: path.stat().st_mtime)


class BatchJobs:
    """Submits, asks for and cancels the jobs of workers. All methods but ``cancel_now`` belong to the event loop."""

    def __init__(self, config: BatchConfig, slots: int, scheduler: str, security: Any) -> None:
        self._config, self.slots, self._scheduler, self._security = config, slots, scheduler, security
        kind = job_class(config.kind)
        self._cancel = shlex.split(str(kind.cancel_command))
        if isinstance(config, HtcondorConfig):
            self._cancel += config.cancel_options
        self.command = str(kind.submit_command)

    async def start(self, name: str) -> str:
        """Submit a job whose worker gets that name; its id. Raises ClusterError with the reason if it is refused."""
        job = make_job(self._config, self.slots, self._scheduler, name, self._security)
        try:
            await job
        except RuntimeError as error:  # dask-jobqueue's, with all that the command printed
            said = str(error).partition("stderr:\n")[2] or str(error)
            raise ClusterError(f"{self.command} refused a job: {complaint(said)}") from error
        except (OSError, ValueError) as error:
            raise ClusterError(f"{self.command} gave no job number: {complaint(str(error))}") from error
        return str(job.job_id)

    async def query(self, ids: list[str]) -> Entries | None:
        """What the queue says of the jobs; None if it does not answer."""
        answer = await ask_aside(query_command(self._config.kind, ids))
        if not answer.ok and not answer.output and self._config.kind in PLAIN_QUERIES:
            answer = await ask_aside(query_command(self._config.kind, ids, plain=True))
            if any(text in answer.complaint for text in UNKNOWN):
                return read_answer(self._config.kind, answer.output)
        if not answer.ok and not answer.output:
            return None
        try:
            return read_answer(self._config.kind, answer.output)
        except ValueError:
            return None

    async def cancel(self, ids: list[str]) -> str:
        """End jobs; what went wrong, "" if nothing."""
        return (await ask_aside([*self._cancel, *ids])).complaint

    def cancel_now(self, ids: list[str]) -> str:
        """The same from any thread, and done when it returns; what went wrong, "" if nothing."""
        return ask([*self._cancel, *ids]).complaint

    def log(self, job_id: str) -> Path | None:
        """The log that tells most: the last one that holds anything."""
        files = [path for path in log_files(self._config.log_directory, job_id) if path.stat().st_size]
        return files[-1] if files else None
