"""What travels between a worker that makes images and the store: plain, picklable records."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Pixels:
    """An image at full resolution, and the truth points of its event: all that another downsampling needs.

    Attributes:
        coords: (n, 3) uint16 tick, y pixel, z pixel, unique and sorted.
        charge, live: (n, planes) float32 and (n,) uint8, as for the voxels.
        truth_coords: (m, 3) uint16 tick, y pixel, z pixel of the truth points, in the order of the input; None where
            it had no truth. Only points inside the grid.
        truth_value: (m,) float64 electrons.
        truth_columns: ``collected`` (m,) float64, ``pdg`` and ``track`` (m,) int32, as far as they are known.
    """

    coords: npt.NDArray[np.uint16]
    charge: npt.NDArray[np.float32]
    live: npt.NDArray[np.uint8]
    truth_coords: npt.NDArray[np.uint16] | None = None
    truth_value: npt.NDArray[np.float64] | None = None
    truth_columns: dict[str, npt.NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageRecord:
    """One image as a worker hands it to the writer.

    Voxels are unique and sorted by (x, y, z); truth voxels likewise.

    Attributes:
        file, event, tpc: the key.
        coords: (n, 3) uint16, downsampled x (drift), y, z.
        charge: (n, planes) float32, electrons, planes in drift order u, v, w.
        live: (n,) uint8, bit p set where plane p's charge comes from real wires only; a bit that is not set
            means that a bad channel or a part without wires stood in.
        truth: (n,) float32 electrons at the tiled voxels, NaN where no truth is known; None = no truth at all.
        truth_coords, truth_value: (m, 3) uint16 and (m,) float32: all truth voxels, tiled or not; None likewise.
        truth_columns: more about each truth voxel, as far as it is known: ``collected`` (m,) float32 electrons that
            reach the wires, ``pdg`` and ``track`` (m,) int32 of the particle that gave most (0, -1: unknown). A store
            that was created without a column leaves it out.
        input: path of the file it was made from.
        run, subrun, event_id: numbers of the frame, -1 where unknown.
        n_bad_channels: bad channels of this TPC in this event.
        pixels: the same image at full resolution; a store that was created without pixels leaves it out.
    """

    file: int
    event: int
    tpc: int
    coords: npt.NDArray[np.uint16]
    charge: npt.NDArray[np.float32]
    live: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.float32] | None = None
    truth_coords: npt.NDArray[np.uint16] | None = None
    truth_value: npt.NDArray[np.float32] | None = None
    truth_columns: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    input: str = ""
    run: int = -1
    subrun: int = -1
    event_id: int = -1
    n_bad_channels: int = 0
    pixels: Pixels | None = None

    @property
    def key(self) -> tuple[int, int, int]:
        """(file, event, tpc)."""
        return self.file, self.event, self.tpc


@dataclass(frozen=True)
class InputFile:
    """An input file as provenance records it: its number, size in bytes, sha256 and sample name."""

    path: str
    file: int
    size: int
    sha256: str
    sample: str = ""


@dataclass(frozen=True)
class Failure:
    """A work unit that could not be processed."""

    file: int
    tpc: int
    input: str
    error: str


@dataclass(frozen=True)
class BlockSpec:
    """Rows that one worker may write: shards [first_shard, first_shard + n_shards) of all voxel-like arrays.

    ``truth_columns``: the optional truth columns that the store can hold. ``pixels``: whether it keeps pixels.
    """

    first_shard: int
    n_shards: int
    shard_rows: int
    chunk_rows: int
    n_planes: int
    token: str
    truth_columns: tuple[str, ...] = ()
    pixels: bool = False


@dataclass(frozen=True)
class ImageRows:
    """Where an image lies and its summaries: one row of the index, without the columns that the commit adds."""

    file: int
    event: int
    tpc: int
    voxel_start: int
    voxel_count: int
    truth_start: int
    truth_count: int
    run: int
    subrun: int
    event_id: int
    input: str
    charge_sum: tuple[float, ...]
    truth_sum: float
    n_bad_channels: int
    truth_columns: tuple[str, ...] = ()
    pixel_start: int = -1
    pixel_count: int = 0
    point_start: int = -1
    point_count: int = 0


@dataclass(frozen=True)
class Receipt:
    """What a worker returns for a block it has written durably: the coordinator checks it, then commits.

    Attributes:
        spec: the block.
        images: one entry per image.
        files: path relative to the store's root -> (size in bytes, sha256).
        inputs: the input files these images were made from.
    """

    spec: BlockSpec
    images: tuple[ImageRows, ...]
    files: dict[str, tuple[int, str]]
    inputs: tuple[InputFile, ...] = field(default=())
