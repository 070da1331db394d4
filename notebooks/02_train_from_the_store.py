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
# # Train from the store
#
# Simulates and tiles a few events, trains a small network to tell true voxels from ghosts, looks at the run, resumes
# it, writes predictions back into the store, draws a curve and an event. The same on the command line: `larstore
# simulate`, `preprocess`, `find-lr`, `overfit`, `train`, `train --resume`, `infer`, `evaluate`, `view`. A network that
# is worth something takes more events and more time: `configs/ghost3d.yaml`, `docs/networks.md`.

# %%
import base64
import tempfile
from pathlib import Path

import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
from IPython.display import IFrame

import larstore
from preprocess import load_detector, make_cluster, run, simulate
from preprocess.config import RunConfig
from preprocess.simulation import SimulationConfig
from train import ImageStream, build_model, describe, evaluate, fit, infer
from train.config import make_config
from train.fitting.learning_rate import find_learning_rate, write_rate_test
from train.fitting.overfitting import overfit

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## A store
#
# Eight files of two events: a beam pion, and every second time about a cosmic muon, in TPC 1 of ProtoDUNE-SP. Files 1
# to 6 are to be trained on, 7 and 8 are held out.

# %%
detector = load_detector("protodune-sp")
settings = SimulationConfig(muons=0.5, beam_tracks=1, showers=0)
simulate(folder / "raw", detector, tpcs=(1,), n_files=8, events_per_file=2, first_file=1, seed=1, config=settings)
tiling = RunConfig(inputs=(str(folder / "raw"),), output=folder / "run.zarr", detector="protodune-sp", threshold=2750)
with make_cluster("local", workers=2) as client:
    run(tiling, client)
store = larstore.open(folder / "run.zarr")
images = store.index
print(f"{len(images)} images, {images.voxel_count.sum():,} voxels, {images.truth_count.sum():,} true ones")

# %% [markdown]
# ## What the network gets
#
# A batch is images one behind the other: voxels with the number of their image in the batch as fourth coordinate, their
# charges, whether they are true, the weight they have in the loss, and the keys of the images. Its order follows from
# the index, the seed and the epoch alone.

# %%
stream = ImageStream(store.select(files=(1, 6)), batch_size=2, seed=1)
batch = next(iter(stream))
print(len(stream), "batches an epoch; the first one:", batch["keys"])
{name: tuple(values.shape) for name, values in batch.items() if hasattr(values, "shape")}

# %% [markdown]
# ## A configuration
#
# The same blocks as in a YAML file of `configs/`; a wrong key or value is an error of one line. The network is small:
# it has to train while you wait.

# %%
config = make_config({
    "output_dir": str(folder / "first run"),
    "seed": 1,
    "trainer": "one_cycle",
    "data": {
        "data_path": str(store.path),
        "train_i": [1, 6],
        "inference_i": [7, 8],
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
        "momentum": 0.8,
    },
    "loss": {"name": "BCELoss"},
    "optimizer": {"name": "Adam", "lr": 0.03},
    "train": {"n_epochs": 5, "accelerator": "cpu"},
    "metrics": {"acc": "BinAccuracy", "ap": "AveragePrecision"},
})  # fmt: skip
print(describe(build_model(config.model.model_dump()), batch["coords"]))

# %% [markdown]
# ## Before a long training
#
# Which learning rate? The loss while the rate grows from step to step; the suggestion is where it falls fastest.

# %%
rates = find_learning_rate(config, low=1e-4, high=1.0, n_steps=30)
write_rate_test(rates, config, folder / "find-lr.html")
print(f"suggested: {rates.suggestion:.2g}, least loss at {rates.least:.2g}")
px.line(x=rates.rates, y=rates.smoothed, log_x=True, labels={"x": "learning rate", "y": "loss, smoothed"})

# %% [markdown]
# Can the network learn one batch by heart? If not, no training will help.

# %%
heart = overfit(config, n_steps=40)
print(f"from {heart.losses[0]:.3f} to {heart.last:.3f}; the best answer that is the same for all: {heart.constant:.3f}")

# %% [markdown]
# ## Train
#
# An epoch is a line of the log below the cell, a row of `summaries_0.csv`, and a checkpoint.

# %%
result = fit(config, progress=False)
pd.DataFrame(result.summaries).set_index("epoch")

# %% [markdown]
# The run's directory explains itself. Its page shows losses, metrics, times, the configuration, versions, the state of
# the source, and the store; it is rewritten after each epoch and reloads itself while the training runs.

# %%
print(*sorted(str(path.relative_to(folder)) for path in (folder / "first run").rglob("*") if path.is_file()), sep="\n")
page = base64.b64encode((folder / "first run" / "index.html").read_bytes()).decode()
IFrame(f"data:text/html;base64,{page}", width="100%", height=700)

# %% [markdown]
# ## Resume
#
# Two more epochs, from the last checkpoint. A run that was killed goes on in the same way.

# %%
longer = config.model_copy(update={"train": config.train.model_copy(update={"n_epochs": 7})})
result = fit(longer, resume=True, progress=False)
rows = pd.DataFrame(result.summaries)
px.line(rows, x="epoch", y=["train_loss", "valid_loss"], markers=True, labels={"value": "loss"})

# %% [markdown]
# ## Predict
#
# A score for each voxel of the held-out files, written into the store beside the voxels, with the checkpoint's hash.

# %%
done = infer(config, None, store.path, "first", files=(7, 8), progress=False)
store = larstore.open(store.path)
print(done.images, "images; predictions in the store:", sorted(store.predictions))
voxels = store.select(files=(7, 8)).to_pandas()
voxels[["charge_w", "truth", "score_first"]].describe().loc[["count", "mean", "min", "max"]]

# %% [markdown]
# ## How good is it?
#
# Purity against efficiency, beside cuts that need no network; the whole page is `evaluation/evaluate.html`.

# %%
summary = evaluate(store.path, "first", folder / "evaluation", files=(7, 8))
names = ("average_precision", "average_precision_smallest_charge", "average_precision_no_cut")
print({name: round(summary[name], 3) for name in names})
curves = pd.read_csv(folder / "evaluation" / "curves.csv")
px.line(curves, x="efficiency", y="purity", color="method", range_y=[0, 1])

# %% [markdown]
# One held-out event in 3D: what was tiled, and what the network keeps. For a page of its own: `larstore view`.

# %%
image = store.select(files=(7, 8), query="truth_count == truth_count.max()")[0]
score, position = image.score("first"), image.position()
figure = go.Figure()
for name, kept, colour in (("ghosts, as the network says", score < 0.5, "#c2c9d1"), ("kept", score >= 0.5, "#1f5fa8")):
    x, y, z = position[kept].T
    figure.add_scatter3d(x=z, y=x, z=y, mode="markers", name=name, marker={"size": 1.5, "color": colour})
axes = {"xaxis_title": "z [cm]", "yaxis_title": "x [cm]", "zaxis_title": "y [cm]", "aspectmode": "data"}
figure.update_layout(title=f"file, event, TPC {image.key}", height=600, scene=axes)

# %% [markdown]
# ## Go on from here
#
# Another network on the same trunk, for example one of charge: `train.transfer: {from: RUN, freeze: "sparseModel.*"}`.
# `docs/runs.md` has that, loggers such as TensorBoard, and what lies in a run's directory.
