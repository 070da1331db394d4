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
# # Quick start: from wires to a network's answer
#
# The whole way in a few minutes: simulated wire read-outs are tiled to 3D images, most voxels of which are ghosts; a
# small network learns to find the real ones, and is compared with the truth. On the command line, and with enough
# events for a result: `docs/tutorial.md`.

# %%
import tempfile
from pathlib import Path

import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

import larstore
from preprocess import load_detector, make_cluster, run, simulate
from preprocess.config import RunConfig
from preprocess.simulation import SimulationConfig
from train import evaluate, fit, infer, view
from train.config import make_config

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## Wires
#
# Six files with an event each: about two beam pions and a cosmic muon, in TPC 1 of ProtoDUNE-SP. A file holds the
# charge of each channel in each tick of 0.5 µs, and a file beside it the true electrons.

# %%
settings = SimulationConfig(muons=1, beam_tracks=2, showers=0)
files = simulate(
    folder / "raw", load_detector("protodune-sp"), tpcs=(1,), n_files=6, events_per_file=1, first_file=1, seed=5,
    config=settings,
)  # fmt: skip
print(len(files), "files:", files[0].name, "…")

# %% [markdown]
# ## Images
#
# Where lit wires of all three planes cross, there may be charge. `run` tiles what the store does not hold yet, on a
# Dask cluster: here two processes of this machine.

# %%
tiling = RunConfig(inputs=(str(folder / "raw"),), output=folder / "run.zarr", detector="protodune-sp", threshold=2750)
with make_cluster("local", workers=2) as client:
    done = run(tiling, client)
print(done.images, "images,", f"{done.voxels:,} voxels")

# %% [markdown]
# The store has a table of its images, and each image has its arrays.

# %%
store = larstore.open(folder / "run.zarr")
store.index[["voxel_count", "truth_count", "truth_sum"]]

# %%
image = store.image(file=6, event=0, tpc=1)
print("charges of the planes:", image.charge.shape, "true electrons:", image.truth.shape)
print(f"{(image.truth > 0).mean():.1%} of the voxels are true; the others are ghosts")


# %%
def show(parts):
    """3D points in cm, one colour for each (name, mask, colour)."""
    figure, position = go.Figure(), image.position()
    for name, chosen, colour in parts:
        x, y, z = position[chosen].T
        marker = {"size": 1.5, "color": colour}
        figure.add_scatter3d(x=z, y=x, z=y, mode="markers", name=name, marker=marker)
    axes = {"xaxis_title": "z [cm]", "yaxis_title": "x [cm]", "zaxis_title": "y [cm]", "aspectmode": "data"}
    return figure.update_layout(title=f"file, event, TPC {image.key}", height=600, scene=axes)


show([("ghosts", image.truth == 0, "#c2c9d1"), ("true", image.truth > 0, "#1f5fa8")])

# %% [markdown]
# ## Train
#
# A small sparse U-Net, for eight epochs on files 1 to 5. `02_train_from_the_store` explains all of this.

# %%
config = make_config({
    "output_dir": str(folder / "training"),
    "seed": 1,
    "data": {
        "data_path": str(store.path),
        "train_i": [1, 5],
        "threshold": 0,  # electrons: any truth makes a voxel true
        "charge": {"transform": "asinh", "scale": 0.001},
        "batch_size": 1,
    },
    "model": {
        "name": "cellnet_binary",
        "spatial_size": [1024, 1024, 512],
        "nChannels": 4,
        "nStrides": 3,
        "n_2D": 0,
        "downsample_t": [2, 2],
        "momentum": 0.6,
    },
    "loss": {"name": "BCELoss"},
    "optimizer": {"name": "Adam", "lr": 0.03},
    "train": {"n_epochs": 8, "accelerator": "cpu"},
})  # fmt: skip
result = fit(config, progress=False)
pd.DataFrame(result.summaries)[["epoch", "train_loss", "train_time"]]

# %% [markdown]
# ## Predict
#
# A score from 0 (ghost) to 1 (real) for each voxel of file 6, which the network has not seen. It is written into the
# store, beside the voxels.

# %%
infer(config, None, store.path, "quick", files=(6, 6), progress=False)
image = larstore.open(store.path).image(file=6, event=0, tpc=1)
score = image.score("quick")
print(f"{(score >= 0.5).sum()} of {len(score)} voxels are kept, {(image.truth > 0).sum()} are true")
show([("ghosts, as the network says", score < 0.5, "#c2c9d1"), ("kept", score >= 0.5, "#1f5fa8")])

# %% [markdown]
# ## How good is it?
#
# Purity against efficiency, beside cuts that need no network. Five events teach little; the tutorial has more.

# %%
summary = evaluate(store.path, "quick", folder / "evaluation", files=(6, 6))
print(
    f"average precision: {summary['average_precision']:.2f}, without any cut {summary['average_precision_no_cut']:.2f}"
)
curves = pd.read_csv(folder / "evaluation" / "curves.csv")
px.line(curves, x="efficiency", y="purity", color="method", range_y=[0, 1])

# %% [markdown]
# The same event as a page of its own, which opens without a network: `larstore view` writes it, too.

# %%
page = view(store.path, *image.key, folder / "event.html", prediction="quick")
print(page.name, f"{page.stat().st_size / 1e6:.0f} MB")
