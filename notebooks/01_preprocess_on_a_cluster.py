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
# # Pre-processing on a cluster, from a notebook
#
# Starts a cluster, tiles read-outs on it, watches the run, queries and draws what comes out. As it stands, the cluster
# is worker processes of this machine. The same cells run on Slurm or another batch system: start Jupyter with
# `LARSTORE_CLUSTER=my-slurm.yaml jupyter lab`, in a folder that all nodes share. The page `docs/running.md` does the
# same from the command line.

# %%
import os
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

import larstore
import preprocess
from larstore.status import run_status
from preprocess.cluster import job_script, load_cluster
from preprocess.config import RunConfig
from preprocess.runner import plan_run
from preprocess.simulation import SimulationConfig

profile = os.environ.get("LARSTORE_CLUSTER", "local")
folder = Path("cluster-example").absolute()

# %% [markdown]
# ## Inputs
#
# Six small files: a beam pion, a shower and about one cosmic muon in each event of TPC 1 of ProtoDUNE-SP. Your own
# read-outs take their place: `docs/inputs.md` lists the formats, and `larstore inspect` shows what is in a file.

# %%
files = preprocess.simulate(
    folder / "raw", preprocess.load_detector("protodune-sp"), tpcs=(1,), n_files=6, events_per_file=2, seed=1,
    config=SimulationConfig(muons=1, beam_tracks=1, showers=1),
)  # fmt: skip
[f"{path.name}: {path.stat().st_size / 1e6:.1f} MB" for path in files]

# %% [markdown]
# ## A cluster's profile
#
# A batch system is described by a YAML file of a few keys; copy one from `configs/clusters/` and put in your queue,
# account, cores, memory and walltime. This is the script of each job that would be submitted for it; nothing is
# submitted here.

# %%
example = Path(preprocess.__file__).parents[1] / "configs" / "clusters" / "slurm.yaml"
print(job_script(load_cluster(example if profile == "local" else profile)))

# %% [markdown]
# ## Plan
#
# What a run would do: units, each a TPC of a file, biggest first. Nothing is written. A filter that leaves nothing, a
# wrong key or a damaged detector file is an error in one line here already.

# %%
config = RunConfig(
    inputs=(str(folder / "raw"),),
    output=folder / "run.zarr",
    detector="protodune-sp",
    threshold=2000,  # electrons a tick
    task_bytes=1,  # a task for each unit: six units are to keep two workers busy. Leave it out for your own files
)
plan = plan_run(config)
print(f"{plan.done} units are done, {len(plan.units)} to do")
pd.DataFrame([(Path(unit.path).name, unit.file, unit.tpc, unit.size) for unit in plan.units],
             columns=["input", "file", "TPC", "bytes"])  # fmt: skip

# %% [markdown]
# ## Start the cluster
#
# Between one and two workers, as many as are of use (`workers` are jobs on a batch system). It lives until
# `cluster.close()` below, or until this notebook's kernel ends: then its jobs end by themselves.

# %%
cluster = ExitStack()
client = cluster.enter_context(preprocess.make_cluster(profile, workers=(1, 2)))
client.keeper.state()

# %% [markdown]
# ## Run
#
# The display below the cell is renewed as the run goes on. **Interrupt the kernel** (■) to stop: once, and what is in
# flight is finished and committed; twice, and the run stops now. What was committed stays, and the same cell goes on
# from there.

# %%
summary = preprocess.run(config, client)
print(f"{summary.units_done} units done, {summary.units_before} before, {summary.units_failed} failed, "
      f"{summary.units_left} left: {summary.images} images, {summary.voxels:,} voxels")  # fmt: skip

# %% [markdown]
# A second run does only what is missing, here nothing.

# %%
again = preprocess.run(config, client)
print(f"{again.units_done} units done, {again.units_before} before")

# %% [markdown]
# What the last run told of itself, also readable from another notebook or by `larstore status` while it goes on:

# %%
status = run_status(config.output)
print(status.verdict)
pd.DataFrame(status.lines(), columns=["what", "value"])

# %% [markdown]
# All jobs end here, and no files of the cluster stay but their logs.

# %%
cluster.close()

# %% [markdown]
# ## Query
#
# The index is a pandas table with a row for each image; failures are a table too. `docs/selecting.md` has all
# conditions.

# %%
store = larstore.open(config.output)
assert store.failures.empty
store.index[["voxel_count", "truth_count", "charge_sum_w", "truth_sum"]]

# %%
part = store.select(files=(2, 5), tpcs=[1], query="voxel_count > 500")
voxels = part.to_pandas()
print(part)
voxels.groupby(level=["file", "event", "tpc"])[["charge_u", "charge_v", "charge_w", "truth"]].sum()

# %% [markdown]
# ## Plot
#
# Voxels of each image, and those among them that are true.

# %%
counts = store.index[["voxel_count", "truth_count"]].reset_index()
counts["image"] = "file " + counts["file"].astype(str) + ", event " + counts["event"].astype(str)
px.bar(counts, x="image", y=["voxel_count", "truth_count"], barmode="group", labels={"value": "voxels"})

# %% [markdown]
# The image with the most voxels, in centimetres. For a page that opens without a network: `larstore view run.zarr FILE
# EVENT TPC`.

# %%
image = store.select(query="voxel_count == voxel_count.max()")[0]
x, y, z = image.position().T
charge = image.charge.mean(axis=1)
markers = {
    "size": 1.5,
    "color": charge,
    "cmax": float(pd.Series(charge).quantile(0.95)),
    "colorbar": {"title": "electrons"},
}
figure = go.Figure(go.Scatter3d(x=z, y=x, z=y, mode="markers", marker=markers))
axes = {"xaxis_title": "z [cm]", "yaxis_title": "x [cm]", "zaxis_title": "y [cm]", "aspectmode": "data"}
figure.update_layout(title=f"file, event, TPC {image.key}", height=600, scene=axes)

# %% [markdown]
# ## Check
#
# Every checksum, every sum, and that nothing overlaps.

# %%
report = larstore.verify(config.output)
assert report.ok, report.problems
print(f"{report.images} images, {report.voxels:,} voxels: no damage")

# %% [markdown]
# ## On Slurm
#
# 1. `cp configs/clusters/slurm.yaml my-slurm.yaml`; edit `queue`, `account`, `cores` and `memory`.
# 2. Start Jupyter where jobs can be submitted and where they can reach you (a login node that lets it, or a job of its
#    own), in a folder that the nodes share.
# 3. `LARSTORE_CLUSTER=my-slurm.yaml jupyter lab`, or set `profile = "my-slurm.yaml"` above, and `workers=(1, 20)`.
#
# What befell jobs is below the bar, with the queue's reason, and in `cluster-example/run.log`. `docs/clusters.md`
# explains the other keys, batch systems, and what happens when something fails.
