"""Builders of small stores for tests: deterministic, with truth that the charge tells something about."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore.block import shards_needed, write_block
from larstore.creation import create
from larstore.geometry import WIRE_COLUMNS, Geometry, TpcGeometry
from larstore.records import ImageRecord, InputFile, Pixels
from larstore.writer import StoreWriter

SIZE = (160, 64, 64)  # voxels of a TPC along x, y, z
TRUE_SHARE = 0.3  # of the voxels of an image


def make_geometry(tpcs: Sequence[int] = (1,), n_wires: int = 8) -> Geometry:
    """A made-up detector: ``n_wires`` vertical wires per plane and TPC, 5 mm apart; drift 1.6 mm/µs, tick 0.5 µs."""
    rows = [(tpc, plane, wire) for tpc in tpcs for plane in range(3) for wire in range(n_wires)]
    tpc, plane, wire = (np.array(column) for column in zip(*rows, strict=True))
    z, x = 5.0 * wire, -100.0 - 5.0 * plane
    wires: dict[str, Any] = {
        "tpc": tpc,
        "plane": plane,
        "channel": np.arange(len(rows)),
        "segment": np.zeros(len(rows)),
        "tail": np.stack([x, np.zeros(len(rows)), z], axis=1),
        "head": np.stack([x, np.full(len(rows), 512.0), z], axis=1),
    }
    frames = {
        number: TpcGeometry(
            number=number,
            planes=("u", "v", "w"),
            anode_x_mm=-100.0,
            drift_sign=1,
            drift_length_mm=1000.0,
            drift_speed_mm_us=1.6,
            tick_us=0.5,
            tick_zero_drift=20.0,
            n_ticks=8 * SIZE[0],
            origin_y_mm=0.0,
            origin_z_mm=0.0,
            n_y=4 * SIZE[1],
            n_z=4 * SIZE[2],
            pixel_mm=2.0,
        )
        for number in tpcs
    }
    columns = {name: np.ascontiguousarray(wires[name], dtype=dtype) for name, dtype in WIRE_COLUMNS.items()}
    return Geometry("testing", columns, frames)


def make_image(
    file: int = 0,
    event: int = 0,
    tpc: int = 1,
    n_voxels: int = 100,
    seed: int = 0,
    truth: bool = True,
    input: str = "",
    truth_columns: Sequence[str] = (),
    pixels: bool = False,
) -> ImageRecord:
    """An image with sorted unique voxels. 30 % are true, and there the planes' charges agree and follow the truth.

    A few truth voxels are not tiled. Plane 0 of one voxel in ten is not live. ``truth_columns``: which of collected
    (80 % of the truth), pdg and track it has. ``pixels``: keep two pixels for each voxel, and two points for each
    truth voxel.
    """
    rng = np.random.default_rng([seed, file, event, tpc])
    n_true = round(TRUE_SHARE * n_voxels)
    n_lost = n_true // 10
    places = np.sort(rng.choice(SIZE[0] * SIZE[1] * SIZE[2], n_voxels + n_lost, replace=False))
    lost = np.zeros(len(places), dtype=bool)
    lost[rng.choice(len(places), n_lost, replace=False)] = True
    x, yz = np.divmod(places, SIZE[1] * SIZE[2])
    coords = np.stack([x, *np.divmod(yz, SIZE[2])], axis=1).astype(np.uint16)
    value = np.zeros(len(places), dtype=np.float32)
    is_true = lost.copy()
    is_true[rng.choice(np.flatnonzero(~lost), n_true, replace=False)] = True
    value[is_true] = rng.gamma(4.0, 2500.0, int(is_true.sum())).astype(np.float32)
    spread = np.where(is_true, 0.1, 0.8)[:, None]
    base = np.where(is_true, value, rng.gamma(2.0, 1500.0, len(places)))[:, None]
    charge = (base * np.exp(spread * rng.standard_normal((len(places), 3)))).astype(np.float32)
    about = {
        "collected": np.float32(0.8) * value[is_true],
        "pdg": np.where(value[is_true] > 10_000, 13, 11).astype(np.int32),
        "track": np.arange(int(is_true.sum()), dtype=np.int32),
    }
    live = np.where(rng.random(len(places)) < 0.1, 0b110, 0b111).astype(np.uint8)
    image = ImageRecord(
        file=file,
        event=event,
        tpc=tpc,
        coords=coords[~lost],
        charge=charge[~lost],
        live=live[~lost],
        truth=value[~lost] if truth else None,
        truth_coords=coords[is_true] if truth else None,
        truth_value=value[is_true] if truth else None,
        truth_columns={name: about[name] for name in truth_columns} if truth else {},
        input=input,
        run=27409,
        subrun=1,
        event_id=100 + event,
    )
    return replace(image, pixels=_pixels_of(image)) if pixels else image


def _pixels_of(image: ImageRecord) -> Pixels:
    """A quarter of each voxel in its first pixel, the rest in its last, for voxels of (8, 4, 4); points likewise."""

    def halves(coords: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
        first = coords * np.array([8, 4, 4], np.uint16)
        return np.concatenate([first, first + np.array([7, 3, 3], np.uint16)])

    def shares(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.concatenate([values * values.dtype.type(0.25), values * values.dtype.type(0.75)])

    coords = halves(image.coords)
    order = np.lexsort(coords[:, ::-1].T)
    places = (coords[order], shares(image.charge)[order], np.tile(image.live, 2)[order])
    if image.truth_coords is None or image.truth_value is None:
        return Pixels(*places)
    columns = {
        name: shares(values.astype(np.float64)) if name == "collected" else np.tile(values, 2)
        for name, values in image.truth_columns.items()
    }
    return Pixels(*places, halves(image.truth_coords), shares(image.truth_value.astype(np.float64)), columns)


def add_images(path: Path, images: Sequence[ImageRecord], inputs: Sequence[InputFile] = ()) -> None:
    """Write images into one block and commit them."""
    with StoreWriter(path) as writer:
        spec = writer.reserve(shards_needed(writer.attributes["shard_rows"], images))
        writer.commit([write_block(path, spec, images, inputs)])


def make_store(
    path: str | Path,
    n_files: int = 2,
    n_events: int = 2,
    tpcs: Sequence[int] = (1,),
    n_voxels: int = 100,
    seed: int = 0,
    shard_rows: int = 4096,
    chunk_rows: int = 256,
    truth: bool = True,
    provenance: dict[str, Any] | None = None,
    truth_columns: Sequence[str] = (),
    pixels: bool = False,
) -> Path:
    """A store with one image of ``n_voxels`` per file, event and TPC; a commit per file. Returns its path."""
    target = Path(path)
    create(
        target,
        geometry=make_geometry(tpcs),
        provenance={"made by": "larstore.testing"} if provenance is None else provenance,
        shard_rows=shard_rows,
        chunk_rows=chunk_rows,
        truth_columns=truth_columns,
        pixels=pixels,
    )
    for file in range(n_files):
        name = f"input-{file}.npz"
        images = [
            make_image(file, e, t, n_voxels, seed, truth, name, truth_columns, pixels)
            for e in range(n_events)
            for t in tpcs
        ]
        add_images(target, images, [InputFile(name, file, 1000 + file, f"{file:064x}", "testing")])
    return target
