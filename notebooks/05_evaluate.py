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
# # Evaluate
#
# How good is a network, how sure can one be of that, and where does it fail? Two stages of one training and a cut that
# needs no network are compared on events that were held out: with intervals, as paired differences, by particle; then
# charges, by the classical solver on what the network keeps. On the command line: `larstore evaluate` and `larstore
# solve`; `docs/evaluating.md` defines every figure.

# %%
import tempfile
from pathlib import Path

import pandas as pd
import plotly.express as px

import larstore
from preprocess import load_detector, make_cluster, run, simulate
from preprocess.config import RunConfig
from preprocess.simulation import SimulationConfig
from train import evaluate, fit, infer, solve
from train.config import make_config

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## Events, and a network
#
# Files 1 to 5 are trained on, 6 to 11 are held out: each an event of two beam pions and about a muon in TPC 1 of
# ProtoDUNE-SP. `00_quickstart` explains these steps. Real figures take hundreds of events and an hour; here a few must
# do, and the intervals will say so.

# %%
settings = SimulationConfig(muons=1, beam_tracks=2, showers=0)
detector = load_detector("protodune-sp")
simulate(folder / "raw", detector, tpcs=(1,), n_files=11, events_per_file=1, first_file=1, seed=5, config=settings)
tiling = RunConfig(inputs=(str(folder / "raw"),), output=folder / "run.zarr", detector="protodune-sp", threshold=2750)
with make_cluster("local", workers=2) as client:
    run(tiling, client)
config = make_config({
    "output_dir": str(folder / "training"),
    "seed": 1,
    "data": {
        "data_path": str(tiling.output),
        "train_i": [1, 5],
        "threshold": 0,
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
for epoch, name in ((1, "early"), (7, "late")):
    infer(config, epoch, tiling.output, name, files=(6, 11), progress=False)
print("predictions:", sorted(larstore.open(tiling.output).predictions))

# %% [markdown]
# ## One table
#
# `evaluate` writes a page, tables and figures for slides, and returns what one asks for first. An event may have been
# another one: in each of 200 replicas it counts Poisson(1) times, and the interval holds 95 % of what comes out.

# %%
out = folder / "evaluation"
summary = evaluate(tiling.output, ["early", "late"], out, files=(6, 11), strata=["particle"])
table = pd.read_parquet(out / "metrics.parquet")
whole = table.query("stratum == 'all' and halo == 'ghosts' and level == 'all' and voxels == '1,1,1'")
shown = whole[whole["metric"].isin(["average_precision", "purity", "efficiency", "efficiency_all"])]
shown = shown[shown["cut"].isin(["best", ""])]
shown.pivot(index="method", columns="metric", values="value").round(3)

# %%
figure = px.scatter(
    shown, x="value", y="method", facet_col="metric", error_x=shown["high"] - shown["value"],
    error_x_minus=shown["value"] - shown["low"], range_x=[0, 1.05],
)  # fmt: skip
figure.for_each_annotation(lambda title: title.update(text=title.text.split("=")[-1]))

# %% [markdown]
# ## Is the later one better?
#
# Both intervals overlap, as the same events are hard for both. The paired difference is what counts: both predictions
# get the same weights in each replica, and what they have in common cancels.

# %%
differences = pd.read_parquet(out / "differences.parquet")
chosen = differences.query("metric == 'average_precision' and stratum == 'all' and level == 'all' and halo == 'ghosts'")
for row in chosen.itertuples():
    sure = "differs" if row.low > 0 or row.high < 0 else "may be the same"
    print(f"{row.method} than {row.than}: {row.difference:+.3f} ({row.low:+.3f} to {row.high:+.3f}), {sure}")

# %% [markdown]
# ## Where does it fail?
#
# A voxel belongs to the particle whose true voxel is nearest to it (`docs/strata.md`).

# %%
parts = table.query("stratum_kind == 'particle' and metric == 'average_precision' and level == 'all'")
parts = parts[(parts["halo"] == "ghosts") & parts["method"].isin(["early", "late"])].dropna(subset=["value"])
px.bar(
    parts, x="stratum", y="value", color="method", barmode="group", error_y=parts["high"] - parts["value"],
    error_y_minus=parts["value"] - parts["low"], labels={"value": "average precision", "stratum": ""},
)  # fmt: skip

# %% [markdown]
# ## Charges
#
# The charge of a voxel is not its planes' mean: they share a wire's charge among all voxels along it, ghosts too. The
# classical solver finds charges of the kept voxels that explain those of the wires; `summary` has bias and width of
# their ratio to the true charge.

# %%
solve(tiling.output, "solved", kept_by="late", threshold=0.35, files=(6, 11), progress=False)
evaluate(tiling.output, "solved", folder / "charges", files=(6, 11))
charges = pd.read_parquet(folder / "charges" / "metrics.parquet")
names = ["charge_total", "charge_bias (voxel, true, with charge)", "charge_half_width (voxel, true, with charge)"]
charges = charges[charges["metric"].isin(names) & (charges["level"] == "5ke")]
print("charges of:", *charges["method"].unique())
charges.pivot_table(index="method", columns="metric", values="value").round(3)

# %% [markdown]
# ## The page
#
# Everything of it in one file, which opens without a network: send it to who asks.

# %%
page = out / "evaluate.html"
figures = sorted(path.name for path in (out / "figures").glob("*.svg"))
print(page.name, f"{page.stat().st_size / 1e6:.0f} MB, figures:", *figures)
