"""Compare predictions with the truth, and with cuts that need no network: figures, intervals, tables, a page."""

import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import larstore
from larstore.errors import ConfigError, StoreError
from train.results.charge_units import units_of
from train.results.collecting import Collector
from train.results.grain import Strata
from train.results.merits import (
    charge_table,
    difference_table,
    mean_curve_table,
    merit_table,
    merits_of,
    reliability_table,
)
from train.results.parts import collect
from train.results.prediction_kinds import prediction_kinds
from train.results.strata import Strata as KnownStrata
from train.results.summarising import curve_table, summary_of
from train.results.tables import write_json, write_table
from train.results.tallies import REPLICAS, EventWeights
from train.results.voxel_classes import truth_levels
from train.results.voxels import check_factors

if TYPE_CHECKING:
    from distributed import Client


def evaluate(
    store_path: str | os.PathLike[str],
    prediction: str | Sequence[str],
    out_dir: str | os.PathLike[str],
    *,
    files: tuple[int, int] | None = None,
    tpcs: Sequence[int] | None = None,
    truth_threshold: float = 0.0,
    coarsen: Sequence[Sequence[int]] = (),
    bootstrap: int = REPLICAS,
    seed: int = 0,
    strata: str | Sequence[str] | Strata | None = None,
    origins: Mapping[str | int, str] | None = None,
    figures: bool = True,
    max_voxels: int = 4_000_000,
    client: "Client | None" = None,
) -> dict[str, Any]:
    """Write summary.json, tables, figures and evaluate.html into ``out_dir``; returns the summary.

    What is computed, and how the intervals are made, is in docs/evaluating.md. A voxel is true where truth >
    ``truth_threshold`` (the truth's unit), and at a second level from 5,000 electrons up. Images without a complete
    prediction are counted and left out; those without truth count for voxels, kept and the histogram only.

    Args:
        prediction: name of a prediction of the store, or several to compare.
        files, tpcs: which images, as in `Store.select`; all by default.
        coarsen: also with so many voxels (x, y, z) taken as one.
        bootstrap: replicas for the intervals; 0 for none.
        seed: of the replicas.
        strata: a kind or kinds of `train.results.strata` (or an object like it): parts of the voxels that get the same
            figures, at full and at coarser voxels.
        origins: sample or PDG code -> "beam" or "cosmic", for the kind ``origin`` among ``strata``.
        figures: also draw PNG and SVG files.
        max_voxels: voxels read at a time; a larger image is read alone.
        client: of a Dask cluster (`preprocess.make_cluster`) whose workers take parts of the images.

    Raises:
        StoreError: no such prediction, nothing selected, nothing predicted, or ``out_dir`` cannot be written.
        ConfigError: settings that make no sense.
    """
    if not 0 <= truth_threshold < math.inf:
        raise ConfigError(f"truth_threshold = {truth_threshold:g}. Fix: a number from 0 up, in the truth's unit")
    strata = [strata] if isinstance(strata, str) else strata
    store = larstore.open(store_path)
    kinds = prediction_kinds(store, [prediction] if isinstance(prediction, str) else list(prediction))
    grains = [check_factors(factors) for factors in dict.fromkeys(map(tuple, coarsen))]
    parts = KnownStrata(store, strata, truth_threshold, origins) if isinstance(strata, Sequence) else strata
    units = units_of(store)
    levels = truth_levels(units.truth, truth_threshold)
    empty = partial(Collector, kinds, levels, EventWeights(bootstrap, seed), grains, parts, units)
    selection = store.select(files=files, tpcs=tpcs)
    if not len(selection):
        raise StoreError(
            f"{store.path}: no image in files {files or 'all'}, TPCs {tpcs or 'all'}. "
            f"Fix: choose among those that 'larstore index {store.path}' lists"
        )
    folder = Path(out_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}. Fix: another output directory") from error
    collected = collect(selection, empty, max_voxels, client)
    if not collected.n_images:
        names = ", ".join(repr(kind.name) for kind in kinds)
        raise StoreError(
            f"{store.path}: prediction {names} covers none of the {len(selection)} selected images. "
            "Fix: run larstore infer on them"
        )
    merits = merits_of(collected)
    summary: dict[str, Any] = {
        "store": str(store.path),
        "sample": ", ".join(sorted({str(name) for name in store.inputs["sample"]} - {""})),
        "detector": store.attributes["detector"],
        "units": units.charge,
        "truth_units": units.truth,
        "downsample": list(store.attributes["downsample"]),
        "prediction": kinds[0].name,
        "checkpoint_sha256": store.predictions[kinds[0].name]["checkpoint_sha256"],
        "files": list(files) if files else None,
        "tpcs": list(tpcs) if tpcs else None,
        "truth_threshold": truth_threshold,
        "strata": dict(getattr(parts, "definitions", {})),
        "strata_missing": dict(getattr(parts, "missing", {})),
    }
    summary |= summary_of(collected, merits, len(selection))
    tables = {
        "images": collected.images(),
        "curves": curve_table(collected),
        "mean_curves": mean_curve_table(collected),
        "metrics": merit_table(merits),
        "differences": difference_table(merits, collected),
        "reliability": reliability_table(collected),
        "charges": charge_table(collected),
        "lit_charge": collected.lit.table(),
    }
    for name, table in tables.items():
        write_table(table, folder, name)
    write_json(summary, folder / "summary.json")
    from train.results.evaluation_page import evaluation_page  # plotly, which the figures alone need

    evaluation_page(summary, tables).write(folder / "evaluate.html")
    if figures:
        from train.results.slides import draw_figures

        draw_figures(summary, tables, folder / "figures")
    return summary
