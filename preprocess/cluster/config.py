"""Profiles of clusters: one model for each kind, read from YAML; `configs/clusters/` holds some to copy."""

import difflib
import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from larstore.errors import ConfigError
from larstore.settings import check, read_yaml
from preprocess.cluster.values import Duration, Lines, Memory, Workers, in_bytes, seconds

Count = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=0, le=65535)]
Directives = Lines | dict[str, str | int]
EXAMPLE = "configs/clusters/slurm.yaml"
SCHEMES = ("tcp://", "tls://")
LEAST_MEMORY = 512 * 2**20


class ClusterConfig(BaseModel):
    """What all kinds share.

    Attributes:
        kind: what starts the workers.
        workers: worker processes: a number, or MIN and MAX between which a run asks for as many as it can use.
            None: the kind's own default.
        dashboard: Dask's dashboard, on this host's own address only: a port, true for any free one, false for none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    kind: str
    workers: Workers | None = None
    dashboard: bool | Port = True


class LocalConfig(ClusterConfig):
    """Processes of this machine. ``memory``: of each, by default an equal share of the machine's."""

    kind: Literal["local"] = "local"
    dashboard: bool | Port = False
    memory: Memory | None = None

    @field_validator("memory")
    @classmethod
    def _a_worker_fits(cls, value: Memory | None) -> Memory | None:
        if value is not None and in_bytes(value) < LEAST_MEMORY:
            raise ValueError("a worker's process takes 512 MiB before it has read anything")
        return value


class ExistingConfig(ClusterConfig):
    """A scheduler that runs already; its workers are its owner's.

    Attributes:
        address: tcp://HOST:PORT or tls://HOST:PORT, or the path of the file that `dask scheduler` wrote.
        ca_file, cert, key: PEM files, for tls.
        connect_timeout: so long the scheduler may take to answer.
    """

    kind: Literal["existing"]
    address: str
    ca_file: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    connect_timeout: Duration = "00:00:30"

    @field_validator("address")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if not value.startswith(SCHEMES) and not value.endswith(".json"):
            raise ValueError("an address is tcp://HOST:PORT, tls://HOST:PORT or the path of a scheduler's .json file")
        return value

    @model_validator(mode="after")
    def _keys_come_together(self) -> Self:
        given = [self.ca_file, self.cert, self.key]
        if any(given) and not all(given):
            raise ValueError("ca_file, cert and key are needed together")
        if self.address.startswith("tls://") and not all(given):
            raise ValueError("a tls:// scheduler needs ca_file, cert and key")
        return self


class RemoteConfig(ClusterConfig):
    """What all kinds share whose workers run on other hosts.

    Attributes:
        tasks: tasks that a worker does at once, as threads of one process; by default 1.
        python: the interpreter there; by default this one, which they must then see at the same path.
        interface: network interface of the scheduler (ib0, …), where the host has several.
        host, port: of the scheduler, instead of the interface's address and any free port.
        local_directory: where workers may put temporary files; by default their working directory.
        log_directory: of the logs of the jobs, on a file system that all hosts share.
        connect_timeout: so long a worker may take from its job's start until it is there (imports over a busy network
            file system take minutes), and so long it looks for its scheduler.
        tls: encrypt, and let nobody else in, by a temporary certificate. Whoever reaches a Dask worker without it can
            make it run anything.
        keys_directory: on a file system that all hosts share; holds the certificate while the cluster lives.
        max_failed_starts: so many workers in a row that never came end the run, if there is no other.
    """

    tasks: Count | None = None
    python: str | None = None
    interface: str | None = None
    host: str | None = None
    port: Port = 0
    local_directory: str | None = None
    log_directory: Path = Path("larstore-logs")
    connect_timeout: Duration = "00:10:00"
    tls: bool = True
    keys_directory: Path = Path("~/.larstore/keys")
    max_failed_starts: Count = 5

    @field_validator("log_directory", "keys_directory")
    @classmethod
    def _paths_are_whole(cls, value: Path) -> Path:
        whole = Path(os.path.expandvars(value)).expanduser().absolute()
        if "$" in str(whole):
            raise ValueError("a path of it holds a variable that is not set here")
        if any(character.isspace() for character in str(whole)):
            raise ValueError("a path of it holds a space, which job scripts cannot quote")
        return whole


class SshConfig(RemoteConfig):
    """Workers started by SSH, one on each entry of ``hosts``.

    Attributes:
        hosts: names; a host may be named more than once.
        user, ssh_port, ssh_key: how to get there; by default as `ssh` does. Host keys are checked against known_hosts.
        known_hosts: another file of them.
        memory: of a worker; by default all that its host has.
    """

    kind: Literal["ssh"]
    hosts: Annotated[Lines, Field(min_length=1)]
    user: str | None = None
    ssh_port: Port | None = None
    ssh_key: Path | None = None
    known_hosts: Path | None = None
    memory: Memory | None = None


class DriverConfig(BaseModel):
    """The job that runs the driver itself (`--driver-job`); what is None is as for a worker's job.

    ``skip_directives``: of its own script, none of those of the workers' one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    cores: Count = 2
    memory: Memory = "8 GiB"
    walltime: Duration | None = None
    queue: str | None = None
    account: str | None = None
    directives: Directives | None = None
    skip_directives: Lines = ()


class BatchConfig(RemoteConfig):
    """Jobs of a batch system. A job is one worker: one process, which does ``tasks`` tasks at once.

    Attributes:
        name: of the jobs.
        cores, memory: of a job.
        tasks: by default one for each core, or for each ``threads`` cores.
        walltime: of a job, HH:MM:SS.
        lifetime: after so much of it a worker takes no more tasks, ends those it has, and leaves for a new job.
            None: the walltime cuts off what runs, which is done again.
        queue, account: as the site names them.
        directives: further ones, as the site wants them, without the #SBATCH or the like.
        skip_directives: those of the script to leave out, each by a text that only it holds.
        prologue: lines of shell before the worker starts.
        query_seconds: between questions to the queue.
        processes: always 1: Dask's scaling miscounts jobs of several processes.
        driver: the job of `--driver-job`.
    """

    name: str = Field("larstore", pattern=r"^[A-Za-z][\w.-]*$")
    cores: Count
    memory: Memory
    walltime: Duration | None
    lifetime: Duration | None = None
    queue: str | None = None
    account: str | None = None
    directives: Directives = ()
    skip_directives: Lines = ()
    prologue: Lines = ()
    query_seconds: Annotated[float, Field(gt=0)] = 10.0
    processes: int = 1
    driver: DriverConfig = DriverConfig()

    @field_validator("processes")
    @classmethod
    def _is_one_process(cls, value: int) -> int:
        if value != 1:
            raise ValueError(
                "a job is one worker process: with several, Dask ends healthy jobs and does not replace dead ones. "
                "Use tasks: for more at once, or more jobs"
            )
        return value

    @field_validator("directives")
    @classmethod
    def _directives_fit_the_kind(cls, value: Directives, info: ValidationInfo) -> Directives:
        if value and isinstance(value, dict) != (info.data.get("kind") == "htcondor"):
            raise ValueError("is a list of lines; of HTCondor, and there only, keys with values")
        return value

    @model_validator(mode="after")
    def _times_fit(self) -> Self:
        if self.lifetime and self.walltime and seconds(self.lifetime) >= seconds(self.walltime):
            raise ValueError(
                f"lifetime {self.lifetime} is not below walltime {self.walltime}: leave at least the time of the "
                "longest unit between them"
            )
        return self


class SlurmConfig(BatchConfig):
    """Slurm: ``queue`` is the partition (-p), ``account`` -A; other choices (-q, -C) go into ``directives``."""

    kind: Literal["slurm"]
    walltime: Duration = "01:00:00"


class PbsConfig(BatchConfig):
    """PBS Pro, OpenPBS. ``resources``: what -l selects, instead of select=1:ncpus=CORES:mem=MEMORY."""

    kind: Literal["pbs"]
    walltime: Duration = "01:00:00"
    resources: str | None = None


class SgeConfig(BatchConfig):
    """Grid Engine; ``account`` is the project (-P), ``resources`` what -l asks for beside the time."""

    kind: Literal["sge"]
    walltime: Duration = "01:00:00"
    resources: str | None = None

    @model_validator(mode="after")
    def _cores_are_asked_for(self) -> Self:
        if self.cores > 1 and not any(line.startswith("-pe ") for line in self.directives):
            raise ValueError(
                f"cores {self.cores}: Grid Engine gives one unless directives hold its parallel environment, "
                f'such as "-pe smp {self.cores}" (qconf -spl lists them)'
            )
        return self


class LsfConfig(BatchConfig):
    """LSF; ``account`` is the project (-P). ``units``: the site's LSF_UNIT_FOR_LIMITS, by default as lsf.conf says."""

    kind: Literal["lsf"]
    walltime: Duration = "01:00:00"
    units: Literal["kb", "mb", "gb", "tb"] | None = None


class HtcondorConfig(BatchConfig):
    """HTCondor; ``directives`` are keys of the submit file. Workers must see the driver's files at the same paths.

    Attributes:
        disk: of a job.
        submit_options, cancel_options: further arguments of condor_submit and condor_rm, such as ["-name", "SCHEDD"].
    """

    kind: Literal["htcondor"]
    walltime: Duration | None = None
    disk: Memory = "2 GiB"
    submit_options: Lines = ()
    cancel_options: Lines = ()

    @model_validator(mode="after")
    def _has_no_queues(self) -> Self:
        if self.queue or self.account:
            raise ValueError("HTCondor has no queues; an account is the key accounting_group of directives")
        if self.walltime:
            raise ValueError("HTCondor has no walltime of its own: sites have keys for it, which go into directives")
        return self


class OarConfig(BatchConfig):
    """OAR; ``resources``: instead of /nodes=1/core=CORES. ``memory_property``: the site's property of it per core."""

    kind: Literal["oar"]
    walltime: Duration = "01:00:00"
    resources: str | None = None
    memory_property: str | None = None


KINDS: dict[str, type[ClusterConfig]] = {
    "local": LocalConfig,
    "slurm": SlurmConfig,
    "pbs": PbsConfig,
    "sge": SgeConfig,
    "lsf": LsfConfig,
    "htcondor": HtcondorConfig,
    "oar": OarConfig,
    "ssh": SshConfig,
    "existing": ExistingConfig,
}


def load_cluster(name_or_path: str | Path) -> ClusterConfig:
    """The profile of a YAML file; "local"; or a scheduler's address (tcp://…, tls://…) or its .json file.

    Raises ConfigError, in one line, for whatever is wrong in it.
    """
    name = str(name_or_path)
    if name == "local":
        return LocalConfig()
    if name.startswith(SCHEMES) or name.endswith(".json"):
        return check(ExistingConfig, {"kind": "existing", "address": name}, f"--cluster {name}")
    if not name.endswith((".yaml", ".yml")):
        raise ConfigError(
            f"--cluster {name}: unknown. Fix: local, the path of a profile (FILE.yaml; configs/clusters/ holds some to "
            "copy), tcp://HOST:PORT, or a scheduler's .json file"
        )
    values = read_yaml(name, EXAMPLE)
    kind = values.get("kind")
    if kind not in KINDS:
        close = difflib.get_close_matches(str(kind), KINDS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(f"{name}: kind {kind!r} is unknown. Fix: {hint}valid here: {', '.join(KINDS)}")
    return check(KINDS[kind], values, name, EXAMPLE)
