"""Settings of a pre-processing run: which inputs, how they are tiled, and how the work is cut."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from larstore.coordinates import LARGEST
from larstore.format import CHUNK_ROWS, SHARD_ROWS
from larstore.locations import local_path
from larstore.settings import apply_overrides, check, read_yaml
from preprocess.bad_channels import Entry, ZeroChannels, fingerprint, resolve
from preprocess.detector import load_detector
from preprocess.sources.names import TRUTH_PRODUCTS
from preprocess.sources.options import MissingChannels, Orientation, ReadOptions
from preprocess.threads import default_threads

PositiveInt = Annotated[int, Field(ge=1)]
Downsample = Annotated[int, Field(ge=1, le=LARGEST)]
MOST_THREADS = 1024
Workers = int | tuple[int, int]


def parse_workers(value: Any) -> Any:
    """A number as it is, the text MIN:MAX as a pair. Raises ValueError for other text, none, and an empty range."""
    if isinstance(value, str):
        parts = value.split(":")
        if len(parts) > 2 or not all(part.strip().isdecimal() for part in parts):
            raise ValueError(f"{value!r}: write a number, or MIN:MAX")
        value = int(parts[0]) if len(parts) == 1 else tuple(map(int, parts))
    bounds = [value] if isinstance(value, int) else list(value) if isinstance(value, (tuple, list)) else []
    if bounds and not (bounds[-1] >= 1 and 0 <= bounds[0] <= bounds[-1]):
        raise ValueError(f"{':'.join(map(str, bounds))}: at least 1, or MIN:MAX with MIN not above MAX")
    return value


class RunConfig(BaseModel):
    """Everything that `larstore preprocess` can be told; the command line's options are these keys.

    Attributes:
        inputs: files, folders or glob patterns; of a folder, the files of ``product``.
        output: the store, created or continued.
        detector: name of a built-in detector, or path of a wires file or detector YAML.
        tpcs: TPC numbers to tile; None = all that the inputs hold.
        truth: truth products in order of preference; None = none (real data).
        files: first and last file number, inclusive; None = all.
        product: product name of read-out files in folders (``<head>_<product>-TPC<n>``); other archives count too.
        first_file: number of the first file whose name holds none.
        file_pattern: regular expression whose first group is the file number.
        sample: name of the sample, recorded with each input.
        downsample: ticks, y pixels and z pixels of a voxel.
        threshold: electrons a tick above which a sample is lit.
        min_live_planes: planes that a real signal must light; bad channels stand in for the others.
        bad_channels: the detector's channels that are bad, beside those that the inputs mark: numbers, rows
            [channel, first tick, end tick), paths of files with such rows. Files are read once, here, and the list is
            kept sorted and merged.
        zero_channels: "bad": a channel with nothing but zeros in an event is bad there; "keep": it is not lit.
        max_voxels: the most that an image may have; a unit with a larger one fails, and the error has the number.
        threads: threads that tile an event, in each worker; by default NUMBA_NUM_THREADS, else 1.
        save_pix: keep each image at full resolution too, for `larstore redownsample`.
        charge_bits: round the mantissas of charges to so many bits: 9 keep 1e-3 of each in two thirds of the room.
        max_pixels: the most that an image may then have, as max_voxels; each takes 19 bytes of memory.
        scale, sign, tick_us, orientation, tag, missing_channels: how files are read, see ``ReadOptions``.
        shard_rows, chunk_rows: layout of a new store (see the format page).
        task_bytes: small units are put together up to so many input bytes a task; by default up to a shard of voxels,
            or a minute's work.
        retries: tries after the first one of a unit that something unforeseen befell: a file system that stumbles,
            a fault of the program. What is wrong with a file itself is not tried again.
        retry_seconds: before the first of them; each further one waits four times as long.
        cluster: "local", the YAML of a cluster, or the address of a Dask scheduler.
        workers: workers, or jobs, as a number or as "MIN:MAX"; by default one for each core of this machine, or for
            each ``threads`` cores, and what the cluster's YAML says elsewhere.
        log: file that gets a line a minute, and what goes wrong; by default the output's name with ".log".
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    inputs: tuple[str, ...] = Field(min_length=1)
    output: Path
    detector: str
    tpcs: tuple[int, ...] | None = None
    truth: tuple[str, ...] | None = TRUTH_PRODUCTS
    files: tuple[int, int] | None = None
    product: str = "wire"
    first_file: Annotated[int, Field(ge=0)] = 1
    file_pattern: str | None = None
    sample: str = ""
    downsample: tuple[Downsample, Downsample, Downsample] = (8, 4, 4)
    threshold: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    min_live_planes: PositiveInt = 2
    bad_channels: tuple[Entry, ...] = ()
    zero_channels: ZeroChannels = "keep"
    max_voxels: PositiveInt = 20_000_000
    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)] = Field(default_factory=default_threads)
    save_pix: bool = False
    charge_bits: Annotated[int | None, Field(ge=1, le=22)] = None
    max_pixels: PositiveInt = 100_000_000
    scale: Annotated[float | None, Field(allow_inf_nan=False)] = None
    sign: Literal[1, -1] = 1
    tick_us: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    orientation: Orientation = "auto"
    tag: str | None = None
    missing_channels: MissingChannels = "refuse"
    shard_rows: PositiveInt = SHARD_ROWS
    chunk_rows: PositiveInt = CHUNK_ROWS
    task_bytes: PositiveInt | None = None
    retries: Annotated[int, Field(ge=0)] = 2
    retry_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5.0
    cluster: str = "local"
    workers: Annotated[Workers | None, BeforeValidator(parse_workers)] = None
    log: Path | None = None

    @field_validator("truth", mode="before")
    @classmethod
    def _none_is_no_truth(cls, value: Any) -> Any:
        if value in ("none", ["none"], ("none",)):
            return None
        return (value,) if isinstance(value, str) else value

    @field_validator("inputs", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("tpcs", "downsample", mode="before")
    @classmethod
    def _numbers_are_lists(cls, value: Any) -> Any:
        if isinstance(value, str) and re.fullmatch(r"\d+(, ?\d+)*", value):  # of --set tpcs=1,5
            return tuple(map(int, value.split(",")))
        return (value,) if isinstance(value, int) else value

    @field_validator("files", mode="before")
    @classmethod
    def _range_is_a_pair(cls, value: Any) -> Any:
        match = re.fullmatch(r"(\d+)(?::(\d+))?", value) if isinstance(value, str) else None
        if match is not None:
            return int(match[1]), int(match[2] or match[1])
        return (value, value) if isinstance(value, int) else value

    @field_validator("scale")
    @classmethod
    def _scale_is_not_nothing(cls, value: float | None) -> float | None:
        if value == 0:
            raise ValueError("makes nothing of every charge; give the factor from the file's unit to electrons")
        return value

    @field_validator("output")
    @classmethod
    def _output_is_local(cls, value: Path) -> Path:
        return local_path(value)

    @field_validator("bad_channels", mode="before")
    @classmethod
    def _channels_are_the_detectors(cls, value: Any, info: ValidationInfo) -> tuple[Entry, ...]:
        nothing = value is None or (isinstance(value, (list, tuple)) and not value)
        if nothing or "detector" not in info.data:  # a wrong detector is said on its own
            return ()
        return resolve(value, load_detector(info.data["detector"]))

    @model_validator(mode="after")
    def _range_is_ordered(self) -> Self:
        if self.files is not None and self.files[0] > self.files[1]:
            raise ValueError(f"files {self.files[0]}:{self.files[1]} is empty; write first:last, both inclusive")
        return self

    @model_validator(mode="after")
    def _shards_are_of_whole_chunks(self) -> Self:
        if self.shard_rows % self.chunk_rows:
            raise ValueError(f"shard_rows {self.shard_rows} is no multiple of chunk_rows {self.chunk_rows}")
        return self

    @property
    def reading(self) -> ReadOptions:
        """How files are read."""
        return ReadOptions(**self.model_dump(include=set(ReadOptions.model_fields)))

    def tiling(self) -> dict[str, Any]:
        """What changes the voxels: all images of a store share these settings."""
        keys = {"threshold", "min_live_planes", *ReadOptions.model_fields}
        return self.model_dump(mode="json", include=keys) | {
            # None for the defaults: a store from before these settings holds neither.
            "bad_channels": fingerprint(self.bad_channels),
            "zero_channels": None if self.zero_channels == "keep" else self.zero_channels,
        }


def load_run_config(path: str | Path | None, options: dict[str, Any], overrides: list[str] | None = None) -> RunConfig:
    """A YAML file, then the command line's options over it, then its `--set` entries. Raises ConfigError."""
    values = {} if path is None else read_yaml(path, "configs/preprocess/protodune-sp.yaml")
    values |= {key: value for key, value in options.items() if value is not None}
    apply_overrides(values, overrides or [])
    return check(RunConfig, values, str(path or "options"))
