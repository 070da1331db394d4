"""From wire read-outs to images in a store: geometry, readers, simulation, tiling kernels and the Dask run."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from preprocess.arrays import tile, tile_events
    from preprocess.cluster import make_cluster
    from preprocess.detector import load_detector
    from preprocess.downsampling import redownsample
    from preprocess.joining.joining import join
    from preprocess.runner import run
    from preprocess.simulation import simulate
    from preprocess.sources import open_depos, open_source
    from preprocess.voxels import Tiler

# Loaded on first use: `larstore --help` must import neither numba nor dask.
_PUBLIC = {
    "load_detector": "preprocess.detector",
    "Tiler": "preprocess.voxels",
    "tile": "preprocess.arrays",
    "tile_events": "preprocess.arrays",
    "simulate": "preprocess.simulation",
    "run": "preprocess.runner",
    "redownsample": "preprocess.downsampling",
    "join": "preprocess.joining.joining",
    "make_cluster": "preprocess.cluster",
    "open_source": "preprocess.sources",
    "open_depos": "preprocess.sources",
}
__all__ = [
    "Tiler",
    "join",
    "load_detector",
    "make_cluster",
    "open_depos",
    "open_source",
    "redownsample",
    "run",
    "simulate",
    "tile",
    "tile_events",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'preprocess' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
