"""All that a page draws of one image, as JSON: `static/` holds the scripts that draw it."""

import base64
from typing import Any

import numpy as np
import numpy.typing as npt

from train.results.cloud import MAX_POINTS, Cloud, make_cloud, not_tiled, predicted
from train.results.display.cuts import cut_table
from train.results.display.outlines import box_line, outlines, voxel_box
from train.results.display.projections import PlaneImage, plane_images, refusal
from train.results.scene import SCALES, axes_of, scene

PLACE: dict[str, Any] = {"width": 1.15, "fill": 1.3}  # of the page's 3D picture


def event_payload(
    image: Any, prediction: str | None, threshold: float | None = None, max_points: int = MAX_POINTS
) -> dict[str, Any]:
    """One image for the page's script: numbers, and columns as pairs of a type and base64.

    Args:
        image: of a store.
        prediction: whose scores are shown, or None.
        threshold: where the slider starts.
        max_points: above it voxels are drawn 2 × 2 × 2 at a time, and so on; see `train.results.cloud.make_cloud`.

    Raises:
        StoreError: no such prediction, or a damaged store.
    """
    store = image.store
    cloud = make_cloud(image, prediction, max_points)
    own, others = _boxes(image, cloud)
    refused = refusal(store, image.key[2])
    planes = [] if refused else plane_images(image, cloud.coords, cloud.side)
    columns, colours = _coloured(cloud)
    columns |= {axis: cloud.position[:, i] for i, axis in enumerate("xyz")}
    columns["slice"] = (cloud.coords[:, 0] * cloud.side).astype(np.uint16)
    columns |= {f"channel_{plane.name}": plane.main.astype(np.uint16) for plane in planes}
    lost = not_tiled(image, cloud.side)
    frames = {"event": scene(cloud, **PLACE)}
    if own:
        frames["TPC"] = scene(cloud, boxes=own, **PLACE)
    if others:
        frames["detector"] = scene(cloud, boxes=[*own, *others], **PLACE)
    cut = None
    if prediction is not None:
        values, charge = predicted(image, prediction)
        assert values is not None
        all_true = image.summary("truth_count") if image.summary("truth_start") >= 0 else None
        cut = cut_table(values, image.truth, all_true, threshold, charge) | {"charge": charge}
    file, event, tpc = image.key
    return {
        "key": list(image.key),
        "title": f"file {file} · event {event} · TPC {tpc}",
        "facts": _facts(image, cloud, prediction),
        "notes": _notes(image, cloud, prediction, refused),
        "columns": {name: _packed(values) for name, values in columns.items()},
        "lost": {axis: _packed(lost[:, i]) for i, axis in enumerate("xyz")},
        "colours": colours,
        "frames": frames,
        "outlines": {"own": box_line(own), "others": box_line(others)},
        "axes": ["xyz"[column] for _, column, _ in axes_of(cloud.up)],
        "unit": cloud.unit,
        "charge_unit": cloud.charge_unit,
        "predicted_unit": cloud.predicted_unit,
        "planes": list(cloud.planes),
        "side": cloud.side,
        "voxels": cloud.n_voxels,
        "cut": cut,
        "wires": None if refused else _wires(image, planes),
    }


def _boxes(image: Any, cloud: Cloud) -> tuple[list[Any], list[Any]]:
    """Outlines of the image's own TPCs and of all others, in the cloud's unit."""
    store, frame = image.store, image.store.geometry.tpcs.get(image.key[2])
    if frame is None:
        return [], []
    if cloud.unit == "voxel":
        return [voxel_box(frame, store.attributes["downsample"])], []
    return outlines(store.geometry, image.key[2])


def _coloured(cloud: Cloud) -> tuple[dict[str, npt.NDArray[Any]], list[dict[str, Any]]]:
    """Columns of values, and how the points are coloured by each; the truth's label is −1 where it is not known."""
    unit = cloud.charge_unit
    fields = [("charge", "charge", unit, "charge", cloud.mean_charge)]
    fields += [(f"charge_{p}", p, unit, "charge", cloud.charge[:, i]) for i, p in enumerate(cloud.planes)]
    if cloud.truth is not None:
        fields.append(("truth", "truth", unit, "truth", cloud.truth))
    if cloud.score is not None:
        label = "predicted charge" if cloud.predicts_charge else "score"
        scale = "charge" if cloud.predicts_charge else "score"
        fields.append(("score", label, cloud.predicted_unit, scale, cloud.score))
    if (difference := _difference(cloud)) is not None:
        label, values = difference
        fields.append(("difference", label, cloud.predicted_unit, "difference", values))
    columns, colours = {}, []
    for name, label, of, scale, values in fields:
        log = scale in ("charge", "truth")
        columns[name] = values
        low, high = _symmetric(values) if scale == "difference" else colour_limits(values, log)
        colour = {"name": name, "label": label, "unit": of, "log": log, "scale": SCALES[scale]}
        colours.append(colour | {"low": low, "high": high})
    if cloud.score is not None and cloud.truth is not None:
        colours.append({"name": "category", "label": "category"})
    return columns, colours


def _difference(cloud: Cloud) -> tuple[str, npt.NDArray[Any]] | None:
    """Score − true label, or predicted − true charge: what arrives at the wires where that is known.

    None without both, and for charges in another unit than the truth.
    """
    if cloud.score is None or cloud.truth is None:
        return None
    if not cloud.predicts_charge:
        label = np.where(np.isnan(cloud.truth), np.nan, cloud.truth > 0)
        return "score − truth", (cloud.score - label).astype(np.float32)
    if cloud.predicted_unit != cloud.charge_unit:
        return None
    if cloud.collected is not None:
        return "predicted − collected", cloud.score - cloud.collected
    return "predicted − truth", cloud.score - cloud.truth


def colour_limits(values: Any, log: bool) -> tuple[float, float]:
    """Ends of a colour scale: 0 to 1 for scores within, else between the 1st and 99.5th percentile (of log10)."""
    values = values[np.isfinite(values)]
    if log:
        values = np.log10(values[values > 0])
    elif not len(values) or (values.min() >= 0 and values.max() <= 1):
        return 0.0, 1.0
    if not len(values):
        return 0.0, 1.0
    low, high = np.percentile(values, [1, 99.5])
    return float(low), float(max(high, low + 0.1))


def _symmetric(values: Any) -> tuple[float, float]:
    size = np.abs(values[np.isfinite(values) & (values != 0)])
    end = 1.0 if not len(size) or size.max() <= 1 else float(np.percentile(size, 98))
    return -end, end


def _wires(image: Any, planes: list[PlaneImage]) -> dict[str, Any]:
    """The wire planes: entries of their images, and one colour scale for all of them."""
    charges = np.concatenate([plane.charge for plane in planes])
    low, high = colour_limits(charges, log=True)
    x = image.coords[:, 0]
    return {
        "ticks": int(image.store.attributes["downsample"][0]),
        "slices": [int(x.min()), int(x.max())] if len(x) else [0, 0],
        "low": max(low, high - 3.0),
        "high": high,
        "scale": SCALES["charge"],
        "planes": [
            {
                "name": plane.name,
                "channels": plane.channels.tolist(),
                "reach": plane.reach,
                "slice": _packed(plane.x.astype(np.uint16)),
                "column": _packed(plane.column.astype(np.uint16)),
                "charge": _packed(plane.charge.astype(np.float32)),
            }
            for plane in planes
        ],
    }


def _facts(image: Any, cloud: Cloud, prediction: str | None) -> list[str]:
    store = image.store
    samples, number = store.inputs["sample"], image.summary("input")
    sample = str(samples.iloc[number]) if 0 <= number < len(samples) else ""
    facts = [store.attributes["detector"], *([f"sample {sample}"] if sample else [])]
    run, subrun, ident = (image.summary(name) for name in ("run", "subrun", "event_id"))
    if min(run, subrun, ident) >= 0:
        facts.append(f"run {run} / {subrun} / {ident}")
    facts.append(f"{cloud.n_voxels:,} voxels")
    if cloud.n_true is not None:
        facts.append(f"{cloud.n_true:,} true ({cloud.n_true / max(cloud.n_voxels, 1):.1%})")
    else:
        facts.append("no truth")
    facts.append("no prediction" if prediction is None else f"prediction {prediction}")
    return facts


def _notes(image: Any, cloud: Cloud, prediction: str | None, refused: str | None) -> list[str]:
    notes = []
    if cloud.side > 1:
        rule = "sums of charges" if cloud.predicts_charge or cloud.score is None else "sums of charges, largest scores"
        notes.append(
            f"{cloud.n_voxels:,} voxels are drawn as {len(cloud):,} points of up to {cloud.side} × {cloud.side} × "
            f"{cloud.side} voxels ({rule}); the counts of the cut are of the voxels."
        )
    if cloud.score is not None and np.isnan(cloud.score).any():
        notes.append(f"{int(np.isnan(cloud.score).sum()):,} points have no score: they are not kept.")
    if cloud.truth is not None and np.isnan(cloud.truth).any():
        notes.append(f"{int(np.isnan(cloud.truth).sum()):,} points have no known truth.")
    if prediction is None and (names := sorted(image.store.predictions)):
        notes.append(f"Predictions not shown: {', '.join(names)}.")
    if refused:
        notes.append(refused)
    return notes


def _packed(values: npt.NDArray[Any]) -> list[str]:
    """[type, base64 of little-endian values]; types are uint16 ("u2") and float32 ("f4")."""
    kind = "u2" if values.dtype.kind == "u" else "f4"
    return [kind, base64.b64encode(np.ascontiguousarray(values, dtype=f"<{kind}").tobytes()).decode("ascii")]
