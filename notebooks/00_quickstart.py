# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From wires to images, from a notebook
#
# Simulates a few events, tiles them on a Dask cluster that this notebook starts, and looks at the store. The same steps
# on the command line: `larstore simulate`, `larstore preprocess`, `larstore view`.

# %%
import tempfile
from pathlib import Path

import larstore
from preprocess import load_detector, make_cluster, run, simulate
from preprocess.config import RunConfig
from preprocess.simulation import SimulationConfig
from train import view

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# Two files with two events each: a beam pion and about one cosmic muon in TPC 1 of ProtoDUNE-SP.

# %%
settings = SimulationConfig(muons=1, beam_tracks=1, showers=0)
files = simulate(
    folder / "raw", load_detector("protodune-sp"), tpcs=(1,), n_files=2, events_per_file=2, seed=1, config=settings
)
[path.name for path in files]

# %% [markdown]
# A cluster of two worker processes. `run` tiles what the store does not hold yet and returns what it did; a second run
# has nothing left to do.

# %%
config = RunConfig(inputs=(str(folder / "raw"),), output=folder / "run.zarr", detector="protodune-sp", threshold=2000)
with make_cluster("local", workers=2) as client:
    first = run(config, client)
    second = run(config, client)
print(first.units_done, "units,", first.images, "images,", f"{first.voxels:,} voxels; then", second.units_done, "units")

# %% [markdown]
# The store: an index in pandas, images as arrays, positions in centimetres.

# %%
store = larstore.open(folder / "run.zarr")
store.index[["voxel_count", "truth_count", "truth_sum"]]

# %%
image = store.select(query="voxel_count > 100")[0]
print(image.key, image.coords.shape, image.charge.shape)
print("purity after tiling:", float((image.truth > 0).mean()))
image.position()[:3]

# %% [markdown]
# One event in 3D, as a page that opens without a network.

# %%
page = view(folder / "run.zarr", *image.key, folder / "event.html")
print(page.name, page.stat().st_size > 1_000_000)
