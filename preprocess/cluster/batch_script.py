"""The script of a worker's job, by way of dask-jobqueue, for every batch system that it knows."""

import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from larstore.errors import ConfigError
from preprocess.cluster.clients import MEMORY
from preprocess.cluster.config import (
    BatchConfig,
    ClusterConfig,
    HtcondorConfig,
    LsfConfig,
    OarConfig,
    PbsConfig,
    SgeConfig,
    SlurmConfig,
)
from preprocess.cluster.values import in_bytes, seconds

JOB_CLASSES = {
    "slurm": "SLURMJob",
    "pbs": "PBSJob",
    "sge": "SGEJob",
    "lsf": "LSFJob",
    "htcondor": "HTCondorJob",
    "oar": "OARJob",
}
SCHEDULER = "tls://SCHEDULER:PORT"  # in a script that is only shown
# What other workers are told by Dask's configuration, jobs are told by their environment.
WORKER_SETTINGS = [f"export DASK_{key.upper().replace('.', '__')}={value}" for key, value in MEMORY.items()]
# A job that starts again under its old number would come beside the one that took its place.
NO_RESTART = {"slurm": ("--no-requeue",), "pbs": ("-r n",), "sge": ("-r n", "-S /bin/bash"), "lsf": ("-rn",)}


def job_class(kind: str) -> Any:
    """dask-jobqueue's class of a batch system's jobs."""
    return getattr(import_module(f"dask_jobqueue.{kind}"), JOB_CLASSES[kind])


def job_options(config: BatchConfig) -> dict[str, Any]:
    """Arguments of dask-jobqueue's job that all workers of a profile share, but for the kind's own."""
    options: dict[str, Any] = {
        "job_name": config.name,
        "cores": config.cores,
        "memory": config.memory,
        "processes": 1,
        "nanny": True,
        "interface": config.interface,
        "death_timeout": seconds(config.connect_timeout),
        "local_directory": config.local_directory,
        "job_extra_directives": [*NO_RESTART.get(config.kind, ()), *config.directives],
        "job_script_prologue": list(config.prologue),
        "python": config.python,
        "log_directory": str(config.log_directory),
    }
    if not isinstance(config, HtcondorConfig):
        options |= {"queue": config.queue, "walltime": config.walltime}
    match config:
        case SlurmConfig():
            options["account"] = config.account
        case PbsConfig():
            options |= {"account": config.account, "resource_spec": config.resources}
        case SgeConfig():
            options |= {"project": config.account, "resource_spec": config.resources}
        case LsfConfig():
            minutes = -(-seconds(config.walltime) // 60)
            options |= {"project": config.account, "lsf_units": config.units, "ncpus": config.cores}
            options |= {"walltime": f"{minutes // 60:02d}:{minutes % 60:02d}", "mem": in_bytes(config.memory)}
        case HtcondorConfig():
            options |= {
                "disk": config.disk,
                "job_extra_directives": dict(config.directives) if isinstance(config.directives, dict) else {},
                "submit_command_extra": list(config.submit_options),
                "cancel_command_extra": list(config.cancel_options),
            }
        case OarConfig():
            options |= {"project": config.account, "resource_spec": config.resources}
            options["memory_per_core_property_name"] = config.memory_property or "not_applicable"
            logs = config.log_directory / f"{config.name}-%jobid%"
            options["job_extra_directives"] += [f"-O {logs}.out", f"-E {logs}.err"]
    return options


def checked_skips(config: BatchConfig, options: dict[str, Any]) -> list[str]:
    """``skip_directives``, each of which leaves out exactly one line: dask-jobqueue drops every line that holds it."""
    job = job_class(config.kind)(SCHEDULER, name="worker", **options | {"job_extra_directives": []})
    if isinstance(config, HtcondorConfig):
        lines = list(job.job_header_dict)
        hits = {skip: [line for line in lines if line == skip] for skip in config.skip_directives}
    else:
        lines = job.job_header.splitlines()
        hits = {skip: [line for line in lines if skip in line] for skip in config.skip_directives}
    for skip, found in hits.items():
        if len(found) != 1:
            what = f"leaves out {len(found)} lines: {'; '.join(found)}" if found else "is in none of the script's lines"
            raise ConfigError(f"skip_directives: {skip!r} {what}. Fix: one text for each line of {'; '.join(lines)}")
    return list(config.skip_directives)


def _knock(scheduler: str) -> str:
    """A line of shell that ends a job at once whose scheduler is gone, however long workers may wait for theirs."""
    host, _, port = scheduler.rpartition("://")[2].rpartition(":")
    gone = f"larstore: no scheduler at {scheduler}, its run has ended"
    return f"timeout 60 bash -c 'exec 3<>/dev/tcp/{host.strip('[]')}/{port}' || {{ echo {gone!r} >&2; exit 1; }}"


def make_job(config: BatchConfig, slots: int, scheduler: str, name: str, security: Any = None) -> Any:
    """dask-jobqueue's job of a worker, not submitted yet.

    Raises ConfigError for ``skip_directives`` that leave out anything but one line each.
    """
    options = job_options(config)
    options["job_directives_skip"] = checked_skips(config, options)
    # Workers' web servers would listen on all interfaces.
    options["worker_extra_args"] = ["--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
    if slots != config.cores:
        options["worker_extra_args"] += ["--nthreads", str(slots)]  # the last one of two holds
    if security is not None:
        options |= {"protocol": "tls://", "security": security}
    options["job_script_prologue"] += [*WORKER_SETTINGS, _knock(scheduler)]
    return job_class(config.kind)(scheduler, name=name, **options)


def worker_script(config: BatchConfig, slots: int) -> str:
    """The script of a worker's job; nothing is submitted or made for it."""
    from distributed.security import Security

    folder = config.keys_directory / "cluster-…"
    files = {"tls_ca_file": f"{folder}/certificate.pem", "tls_worker_cert": f"{folder}/certificate.pem"}
    security = Security(require_encryption=True, tls_worker_key=f"{folder}/key.pem", **files) if config.tls else None
    scheduler = SCHEDULER if config.tls else SCHEDULER.replace("tls", "tcp")
    # dask-jobqueue makes the log folder, also for a script that is only shown.
    with tempfile.TemporaryDirectory(prefix="larstore-") as place:
        shown = config.model_copy(update={"log_directory": Path(place)})
        script: str = make_job(shown, slots, scheduler, f"{config.name}-0", security).job_script()
    return script.replace(place, str(config.log_directory))


def as_batch(config: ClusterConfig) -> BatchConfig:
    """The profile, if it is of a batch system; else ConfigError."""
    if isinstance(config, BatchConfig):
        return config
    raise ConfigError(f"kind {config.kind}: has no jobs. Fix: a profile of {', '.join(JOB_CLASSES)}")
