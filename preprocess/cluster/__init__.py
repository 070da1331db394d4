"""The Dask cluster that a run uses: processes of this machine, jobs of a batch system, hosts by SSH, or a scheduler."""

from preprocess.cluster.clients import ClusterClient
from preprocess.cluster.config import ClusterConfig, load_cluster
from preprocess.cluster.driver_job import submit_driver
from preprocess.cluster.keeper import ClusterState, Keeper, keeper_of
from preprocess.cluster.starting import job_script, make_cluster, tasks_at_once, worker_bounds

__all__ = [
    "ClusterClient",
    "ClusterConfig",
    "ClusterState",
    "Keeper",
    "job_script",
    "keeper_of",
    "load_cluster",
    "make_cluster",
    "submit_driver",
    "tasks_at_once",
    "worker_bounds",
]
