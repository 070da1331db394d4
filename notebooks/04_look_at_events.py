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
# # Look at events
#
# Simulates and tiles a few events, looks at them in 3D and on the wire planes, with truth and without, with predictions
# of scores and of charges; steps from event to event; saves a page for somebody else. On the command line: `larstore
# view` and `larstore browse`; `docs/looking.md` says what is on the page.

# %%
import base64
import tempfile
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from IPython.display import IFrame

import larstore
from preprocess import load_detector, make_cluster, run, simulate
from preprocess.config import RunConfig
from preprocess.simulation import SimulationConfig
from train import solve, view
from train.results.cloud import make_cloud
from train.results.comparison import comparison_figure
from train.results.display.page import view_images
from train.results.display.projections import plane_images

folder = Path(tempfile.mkdtemp())


def show(page, height=760):
    """A page below the cell, whatever folder the notebook is in."""
    data = base64.b64encode(Path(page).read_bytes()).decode()
    return IFrame(f"data:text/html;base64,{data}", width="100%", height=height)


# %% [markdown]
# ## Events
#
# Two files of two events in TPC 1 of ProtoDUNE-SP: a beam pion and about three cosmic muons each.

# %%
detector = load_detector("protodune-sp")
settings = SimulationConfig(muons=3, beam_tracks=1, showers=0)
simulate(folder / "raw", detector, tpcs=(1,), n_files=2, events_per_file=2, first_file=1, seed=4, config=settings)
tiling = RunConfig(inputs=(str(folder / "raw"),), output=folder / "run.zarr", detector="protodune-sp", threshold=2750)
with make_cluster("local", workers=2) as client:
    run(tiling, client)
store = larstore.open(folder / "run.zarr")
store.index[["voxel_count", "truth_count", "charge_sum_w", "truth_sum"]]

# %% [markdown]
# ## Without a prediction
#
# The page of one image, that with the most truth: turn it, colour it by a plane's charge or by the truth, show the true
# voxels alone. Point at a voxel: its tick and its channels are marked on the wire planes, and below them stands the
# charge of these channels along ticks. Click at a place of a plane: the voxels that its channel crosses there light up.

# %%
image = store.select(query="truth_count == truth_count.max()")[0]
show(view(store.path, *image.key, folder / "event.html"))

# %% [markdown]
# ## With scores
#
# A network's scores come from `larstore infer`. Here something simpler stands in for it: how well the charges of the
# three planes agree. It is written beside the voxels like any prediction, and is no match for a network.

# %%
with larstore.PredictionWriter(store.path, "agreement", {"checkpoint_sha256": "0" * 64}) as writer:
    for shard, images in writer.groups(store.select()):
        scores = []
        for each in images:
            charge = np.maximum(each.charge, 1.0)
            scores.append((each, (charge.min(axis=1) / charge.max(axis=1)).astype(np.float32)))
        writer.write(shard, scores)
    writer.commit()
store = larstore.open(store.path)
print("predictions:", sorted(store.predictions))

# %% [markdown]
# Now there is a slider for the cut, with purity and efficiency beside it, and two more colours: the difference of score
# and truth, and what each voxel is: kept or not, true or a ghost. All events of the store are on this page; step with
# the buttons or the arrow keys.

# %%
page = view_images(list(store.select()), folder / "events.html", prediction="agreement", threshold=0.6)
print(f"{page.name}: {len(store)} events, {page.stat().st_size / 1e6:.0f} MB, opens without a network")
show(page)

# %% [markdown]
# ## With charges
#
# The classical solver finds a charge for each kept voxel from the wires alone. On the page of a prediction of charges
# the slider is in electrons, and the difference is that to the electrons which arrive at the wires.

# %%
done = solve(store.path, "solved", kept_by="agreement", threshold=0.6, files=(image.key[0],) * 2, progress=False)
print(f"{done.images} images, {done.kept:,} of {done.voxels:,} voxels kept")
show(view(store.path, *image.key, folder / "charges.html", prediction="solved"))

# %% [markdown]
# ## Figures of one's own
#
# What the page draws is there in Python, too. Before, after and truth side by side:

# %%
image = larstore.open(store.path).image(*image.key)  # as it is now, with its predictions
comparison_figure(make_cloud(image, "agreement"), threshold=0.6)

# %% [markdown]
# The collection plane: the charge on each channel in each slice of eight ticks, found again from the voxels.

# %%
plane = plane_images(image, image.coords, side=1)[2]
wires = np.zeros((len(plane.channels), int(plane.x.max()) + 1))
wires[plane.column, plane.x] = plane.charge
print(
    f"plane {plane.name}: {wires.sum() / image.charge[:, 2].sum():.3f} of the voxels' charge on {len(wires)} channels"
)
figure = go.Figure(go.Heatmap(z=np.log10(np.maximum(wires, 1)), y=plane.channels, dx=8, zmin=2))
figure.update_layout(xaxis_title="tick", yaxis_title="channel", height=420)

# %% [markdown]
# ## A whole store
#
# `larstore browse run.zarr` shows all events of a store in the browser, with search by file, event and TPC. It serves
# them on this machine alone, under an address that only you are told. On a remote machine: start it there with
# `--no-open --port 8000`, and forward the port with `ssh -L 8000:127.0.0.1:8000 MACHINE`.
