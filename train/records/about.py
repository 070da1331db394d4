"""RUN/about.json: by whom, where and from what a run was made; earlier starts of it are kept."""

import json
import logging
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from larstore.cores import cores
from larstore.errors import StoreError
from larstore.fs import replace
from train.records.folder import RunFolder
from train.records.git_state import git_states
from train.runtime import versions

log = logging.getLogger("larstore.train")
NAME = "about.json"
OTHERS = ("zarr", "numba", "torchmetrics", "pandas", "spconv")  # beside those a checkpoint keeps
JOB = ("SLURM_JOB_ID", "SLURM_JOB_NODELIST", "PBS_JOBID", "LSB_JOBID", "JOB_ID", "CONDOR_ID")


def describe_start(config_copy: Path | None, first_epoch: int, about: dict[str, Any]) -> dict[str, Any]:
    """This start of a run as JSON-like values.

    Args:
        config_copy: the configuration's copy in the run's directory.
        first_epoch: that it trains.
        about: what checkpoints keep too (``threads``, ``stores``, ``n_planes``, ``frozen``).
    """
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "directory": str(Path.cwd()),
        "config": str(config_copy) if config_copy else None,
        "first_epoch": first_epoch,
        "threads": about["threads"],
        "stores": about["stores"],
        "frozen": len(about.get("frozen", ())),
        "versions": {**versions(), **_installed()},
        "git": git_states(),
        "host": _host(),
    }


def keep(folder: RunFolder, start: dict[str, Any]) -> None:
    """Write ``start`` into the run's directory; what lies there becomes the last of its ``earlier`` starts.

    A file that cannot be read is told and begun anew; one that cannot be written is told.
    """
    path = folder.path / NAME
    earlier: list[Any] = []
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        earlier = [*before.pop("earlier", []), before]
    except FileNotFoundError:
        pass
    except (OSError, ValueError, AttributeError) as error:
        log.warning("%s: cannot be read (%s): earlier starts are not kept", path, error)
    try:
        replace(path, (json.dumps({**start, "earlier": earlier}, indent=1) + "\n").encode())
    except StoreError as error:
        log.warning("%s", error)


def _installed() -> dict[str, str]:
    found = {}
    for name in OTHERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _host() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "name": platform.node(),
        "system": f"{platform.system()} {platform.release()} ({platform.machine()})",
        "cores": cores(),
        "gpus": gpus,
        "pid": os.getpid(),
        **{name: os.environ[name] for name in JOB if name in os.environ},
    }
