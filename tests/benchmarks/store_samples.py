"""Images that the store's benchmarks read and write: tiled from the simulator's events and from recorded frames."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import larstore
from larstore.block import shards_needed
from larstore.records import ImageRecord
from preprocess.config import RunConfig
from preprocess.detector import load_detector
from preprocess.pipeline import process_unit
from preprocess.plan import Unit
from preprocess.simulation import SimulationConfig, simulate

PLANES = ("u", "v", "w")
RECORDED = (  # file, detector, TPC, its options
    ("frames/pdsp-sim-sp-0.29.3.tar.bz2", "protodune-sp", 1, {}),
    ("frames/protodunehd-sp-frames-anode1.tar.bz2", "protodune-hd", 2, {"tag": "gauss1"}),
)


EVENTS = 50  # of a unit: files of simulated ProtoDUNE events mostly hold 50 or 100


def simulated(folder: Path, n_files: int = 2, n_events: int = EVENTS, muons: float = 8.0) -> list[list[ImageRecord]]:
    """Units of ProtoDUNE-SP events as a run tiles them, with truth; about 10^5 voxels an event."""
    detector = load_detector("protodune-sp")
    config = SimulationConfig(muons=muons)
    paths = simulate(folder, detector, n_files=n_files, events_per_file=n_events, config=config)
    run = RunConfig(
        inputs=tuple(map(str, paths)), output=folder / "x.zarr", detector=detector.name, threshold=300.0, threads=2
    )
    units = [
        Unit(str(path), number, 1, path.stat().st_size) for number, path in enumerate(paths) if "wire" in path.name
    ]
    return [process_unit(unit, run, detector.geometry().hash).images for unit in units]


def recorded(data: Path, copies: int = EVENTS // 2) -> list[list[ImageRecord]]:
    """Units of real frames at two thresholds; the frames are few, so each comes ``copies`` times as other events."""
    units = []
    for number, (name, detector_name, tpc, options) in enumerate(RECORDED):
        detector = load_detector(detector_name)
        images: list[ImageRecord] = []
        for threshold in (1.0, 2000.0):
            run = RunConfig(
                inputs=(str(data / name),), output=Path("x.zarr"), detector=detector_name, threshold=threshold,
                truth=(), threads=2, **options,
            )  # fmt: skip
            unit = Unit(str(data / name), number, tpc, (data / name).stat().st_size)
            images += process_unit(unit, run, detector.geometry().hash).images
        units.append([replace(image, event=event) for event, image in enumerate(images * copies)])
    return units


def recorded_data() -> Path | None:
    """Where the recorded frames lie, or None."""
    given = os.environ.get("LARSTORE_TEST_DATA")
    return Path(given) if given else None


def plain(images: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Images without what the baselines do not hold."""
    return [replace(image, truth_columns={}, truth_coords=None, truth_value=None, input="") for image in images]


def new_store(path: Path, charge_bits: int | None = None) -> Path:
    """An empty store; with wires and frames of ProtoDUNE-SP, whatever the images will be of."""
    geometry = load_detector("protodune-sp").geometry()
    larstore.create(path, geometry=geometry, provenance={}, planes=PLANES, charge_bits=charge_bits)
    return path


def write_store(path: Path, units: Sequence[Sequence[ImageRecord]], charge_bits: int | None = None) -> Path:
    """A store with a commit a unit."""
    with larstore.StoreWriter(new_store(path, charge_bits)) as writer:
        for images in units:
            spec = writer.reserve(shards_needed(writer.attributes["shard_rows"], images))
            writer.commit([larstore.write_block(path, spec, plain(images))])
    return path
