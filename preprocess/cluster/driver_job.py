"""The driver itself as a job, for sites where login nodes may not run schedulers."""

import asyncio
import os
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from larstore.errors import ClusterError
from preprocess.cluster.batch_script import SCHEDULER, as_batch, checked_skips, job_class, job_options
from preprocess.cluster.commands import complaint
from preprocess.cluster.config import ClusterConfig


def submit_driver(config: ClusterConfig, command: list[str], log: Path) -> str:
    """Submit a job that runs ``command`` here, with its output in ``log``; its id.

    Raises ClusterError if it is refused.
    """
    config = as_batch(config)
    driver = config.driver
    keys = ("cores", "memory", "walltime", "queue", "account", "directives", "skip_directives")
    given = {key: value for key in keys if (value := getattr(driver, key)) is not None}
    own = config.model_copy(update=given | {"name": f"{config.name}-driver"})
    options = job_options(own)
    options["job_directives_skip"] = checked_skips(own, options)
    if config.kind == "slurm":
        # sbatch takes the surrounding job's variables for options, and they contradict the workers' own.
        options["job_script_prologue"] += ["for name in ${!SLURM_@}; do [ $name = SLURM_CONF ] || unset $name; done"]
    job = job_class(config.kind)(SCHEDULER, name=own.name, **options)
    line = f"cd {shlex.quote(os.getcwd())} && {shlex.join(command)} > {shlex.quote(str(log.absolute()))} 2>&1"
    job._command_template = line if config.kind != "htcondor" else "; ".join([*options["job_script_prologue"], line])
    try:
        with ThreadPoolExecutor(1) as aside:  # a notebook's own event loop runs already
            aside.submit(asyncio.run, job.start()).result()
    except (RuntimeError, OSError, ValueError) as error:
        said = complaint(str(error).partition("stderr:\n")[2] or str(error))
        raise ClusterError(
            f"{job.submit_command} refuses the driver's job: {said}. Fix: the keys of driver in the cluster's profile"
        ) from error
    return str(job.job_id)
