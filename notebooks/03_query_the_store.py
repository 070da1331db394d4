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
# # Query the store
#
# What one asks of a store of images: what is in it, which images, their voxels as arrays and tables, sums, samples for
# a training. The store is a made-up one that a test builder writes in a second; put the path of yours, or a URL, in its
# place. `docs/selecting.md` has the conditions, `docs/format.md` what lies on disk.

# %%
import tempfile
from pathlib import Path

import numpy as np
import plotly.express as px
import xarray as xr

import larstore
from larstore.testing import make_store
from train import ImageStream

folder = Path(tempfile.mkdtemp())
path = make_store(folder / "run.zarr", n_files=8, n_events=3, tpcs=(1, 5), n_voxels=400,
                  truth_columns=("collected", "pdg", "track"))  # fmt: skip

# %% [markdown]
# ## What is in it
#
# Opening reads the root document alone, and takes no lock. A notebook shows a store as a table.

# %%
store = larstore.open(path)
store

# %%
print(store.attributes["detector"], store.attributes["planes"], "voxels of", store.attributes["downsample"])
print("units:", store.attributes["units"], "· commit", store.attributes["commit"])
store.inputs.head(3)

# %% [markdown]
# The index: a row for each image, indexed by (file, event, TPC). Sums and counts are there without reading a voxel.

# %%
index = store.index
index[["voxel_count", "truth_count", "truth_sum", "charge_sum_u", "charge_sum_v", "charge_sum_w"]].head()

# %%
px.scatter(index.reset_index(), x="truth_sum", y="charge_sum_w", color="tpc", hover_data=["file", "event"])

# %% [markdown]
# ## Choosing images
#
# By ranges (both ends belong to them), TPCs, an expression over the index's columns, the sample, a mask or a function.
# Nothing but the index is read. Selections are selected from again, and tell how they were chosen.

# %%
part = store.select(files=(2, 6), events=(0, 1), tpcs=[1], query="truth_sum > 1e6")
print(part)
print(store.select(sample="testing"))
print(store.select(where=lambda table: table.truth_sum > table.truth_sum.median()))
print(part.select(where=np.arange(len(part)) % 2 == 0))

# %% [markdown]
# Two parts for training and testing: no event is on both sides, and which side it is on follows from the keys.

# %%
training, testing = store.select().split(0.75, seed=1)
print(
    len(training), "+", len(testing), "images; files of the second part:", sorted(set(testing.column("file").tolist()))
)

# %% [markdown]
# ## One image
#
# Arrays in numpy: voxels (x, y, z), the planes' charges, the truth, and the way to centimetres.

# %%
image = store.image(file=2, event=0, tpc=1)  # or part[0]
print(image.key, image.coords.shape, image.charge.shape, image.live.dtype)
print("purity after tiling:", float((image.truth > 0).mean()))
coords, value = image.truth_voxels  # all true voxels, tiled or not
print("tiled true voxels:", int((image.truth > 0).sum()), "of", len(coords))
image.position(t0=0.0)[:3]  # cm, in the detector's frame

# %% [markdown]
# Many images: iterate, or read neighbours in one go.

# %%
largest = max(part, key=lambda image: image.truth.sum())
print(largest.key, [len(each) for each in part.read(0, 3)])

# %% [markdown]
# ## As tables
#
# A row for each voxel, with the image as index: everything pandas can do.

# %%
voxels = part.to_pandas()
voxels.head(3)

# %%
true = voxels[voxels["truth"] > 0]
(true[["charge_u", "charge_v", "charge_w"]].div(true["truth"], axis=0)).describe().loc[["mean", "50%", "std"]]

# %%
part.to_pandas("truth").groupby("truth_pdg")["truth_value"].agg(["count", "sum"])  # true voxels by particle

# %% [markdown]
# ## In xarray
#
# Lazy, with dimensions: `image` for the index, `voxel` for the voxels of all images one behind the other. By a
# selection, or by xarray itself, which knows the engine once larstore is installed.

# %%
ds = part.to_xarray()
ds

# %%
ds = xr.open_dataset(path, engine="larstore")
one = ds.sel(file=2, tpc=1)
one.charge.sel(plane="w").groupby("image_of_voxel").sum().values  # a sum for each image

# %% [markdown]
# With `chunks={}` the arrays are Dask's: sums over stores that no memory holds, in parallel.

# %%
lazy = xr.open_dataset(path, engine="larstore", chunks={})
print(type(lazy.charge.data), lazy.charge.data.npartitions, "chunks")
true_charge = lazy.charge.where(lazy.truth > 0).sum("voxel")
print(dict(zip(lazy.plane.values.tolist(), true_charge.compute().values.round().tolist(), strict=True)))

# %% [markdown]
# The rest of the store (inputs, failures, geometry, predictions), as a tree. Plain `zarr.open(path)` reads it too.

# %%
tree = xr.open_datatree(path, engine="larstore")
print(list(tree.children))

# %% [markdown]
# ## As a stream for training
#
# Batches of a selection, shuffled, the same in each run with the same seed, whatever the number of workers.

# %%
stream = ImageStream(training, batch_size=4, max_voxels=2000, seed=1)
batch = next(iter(stream))
print(len(stream), "batches; the first:", batch["keys"])
{name: tuple(values.shape) for name, values in batch.items() if hasattr(values, "shape")}

# %% [markdown]
# A mixture: three of four draws from TPC 1, the fourth from TPC 5, 40 images an epoch. Stores are mixed alike.

# %%
samples = [training.select(tpcs=[1]), training.select(tpcs=[5])]
mixture = ImageStream([(sample, ()) for sample in samples], batch_size=4, seed=1, weights=[3, 1], epoch_images=40)
drawn = [source for batch in mixture for source in batch["sources"]]
print({f"TPC {tpc}": drawn.count(i) for i, tpc in enumerate((1, 5))})

# %% [markdown]
# ## Is it whole?
#
# Every checksum, every sum, that nothing overlaps; and whether two stores hold the same images, bit by bit.

# %%
report = larstore.verify(path)
assert report.ok, report.problems
print(f"{report.images} images, {report.voxels:,} voxels: no damage")
