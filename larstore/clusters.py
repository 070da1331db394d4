"""Clusters for commands of packages that know nothing of Dask: whoever offers them does so by an entry point."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any

from larstore.errors import StoreError

GROUP = "larstore.clusters"


@contextmanager
def cluster_client(profile: str, workers: int | None = None) -> Iterator[Any]:
    """A client of a new Dask cluster, closed at the end.

    Args:
        profile: "local", or the path of a cluster's YAML file, as `preprocess.make_cluster` takes it.
        workers: processes; None = as the profile says, on this machine one a core.

    Raises:
        StoreError: no installed package offers clusters; else whatever `make_cluster` raises.
    """
    found = next(iter(entry_points(group=GROUP, name="dask")), None)
    if found is None:
        raise StoreError(f"cluster {profile!r}: nothing here starts clusters. Fix: pip install 'larstore[preprocess]'")
    with found.load()(profile, workers) as client:
        yield client
