"""Tiling as a pure function, and of arrays of events: numpy, xarray or dask in, an xarray Dataset out."""

import functools
import hashlib
import pickle
import threading
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from larstore.coordinates import check_downsample
from larstore.errors import ConfigError, InputError
from larstore.format import voxel_size_mm
from preprocess.detector.model import Tpc
from preprocess.voxels import Tiler, Voxels

DIMENSIONS = ("event", "tick", "channel")
OURS = ("tpc", "plane", "axis", "tick", "channel")  # coordinates of waveforms that the result does not take over


@dataclass(frozen=True)
class _Face:
    """A TPC that can be looked up; compared by its digest."""

    digest: bytes
    tpc: Tpc = field(compare=False)


_building = threading.Lock()


@functools.lru_cache(maxsize=16)
def _remembered(face: _Face) -> Tiler:
    return Tiler(face.tpc)


def tile(waveform: Any, tpc: Tpc, **settings: Any) -> Voxels:
    """Tile one event: ``Tiler(tpc)(waveform, **settings)``, with one Tiler kept for each TPC in each process.

    A pure function of arguments that travel between processes, as for ``dask.delayed(tile)(waveform, tpc)``; there
    give ``threads=1``, so that dask alone decides how many there are.

    Raises:
        InputError, TooManyVoxelsError, ConfigError: as ``Tiler`` does.
    """
    face = _Face(hashlib.sha256(pickle.dumps(tpc)).digest(), tpc)
    with _building:  # else all tasks that begin together would build it
        tiler = _remembered(face)
    return tiler(waveform, **settings)


def tile_events(
    waveforms: Any,
    tpc: Tpc,
    *,
    threshold: float = 1.0,
    downsample: Sequence[int] = (8, 4, 4),
    bad_channels: npt.ArrayLike | Mapping[Any, npt.ArrayLike] = (),
    min_live_planes: int = 2,
    first_tick: int | None = None,
    scale: float = 1.0,
    max_voxels: int | None = None,
    threads: int | None = None,
) -> xr.Dataset:
    """Tile many events of one TPC.

    Args:
        waveforms: (event, tick, channel) numpy or dask array, or an xarray.DataArray of either with these dimensions
            in any order. A coordinate ``channel`` must be the TPC's channels. Of a dask array each event is a task,
            so that never more of it is in memory than dask works on (chunk it by event); of a file that xarray has
            opened, one event is in memory at a time.
        tpc: the face that the channels are read out from.
        bad_channels: a list for all events, as for ``Tiler``; or lists by event number ({7: [12, 13]}), and an event
            without one has none. The numbers are the coordinate ``event``, else the position.
        first_tick: tick of row 0; None = where the coordinate ``tick`` begins, else 0.
        threads: of an event. None = 1 with dask, which has its own; else as for ``Tiler``.
        threshold, downsample, min_live_planes, scale, max_voxels: as for ``Tiler``.

    Returns:
        The form of a store's ``to_xarray()``, a CF contiguous ragged array: ``coords`` (voxel, axis), ``charge``
        (voxel, plane) and ``live`` (voxel), one image after the other; ``voxel_count`` and ``lit_samples`` (image).
        Coordinates of the events stay, along ``image``, beside ``tpc``. All is in memory, from dask too: an event's
        number of voxels is not known before it is tiled.

    Raises:
        InputError: other dimensions, other channels, ticks that do not follow each other; and, with the event's
            number, a waveform that cannot be tiled or has too many voxels.
        ConfigError: a setting out of range, bad channels of an event that is not there.
    """
    events = _as_dataarray(waveforms, tpc)
    numbers = events["event"].to_numpy().tolist()  # without a coordinate: the positions
    bad = _bad_by_event(bad_channels, numbers)
    steps = check_downsample(downsample)
    settings: dict[str, Any] = {
        "threshold": threshold,
        "downsample": steps,
        "min_live_planes": min_live_planes,
        "first_tick": _first_tick(events) if first_tick is None else first_tick,
        "scale": scale,
        "max_voxels": max_voxels,
    }
    if events.chunks is not None:
        import dask

        settings["threads"] = 1 if threads is None else threads
        face = dask.delayed(tpc, traverse=False)
        task = dask.delayed(_tile_event)
        images = dask.compute(*(task(events.data[i], face, numbers[i], bad[i], settings) for i in range(len(events))))
    else:
        settings["threads"] = threads
        # By index of the DataArray, so that of a file that xarray has open one event is read at a time.
        images = tuple(
            _tile_event(event.to_numpy(), tpc, number, bad_here, settings)
            for event, number, bad_here in zip(events, numbers, bad, strict=True)
        )
    known = scale == 1 and "units" in events.attrs
    return _dataset(images, tpc, events, steps, {"units": events.attrs["units"]} if known else {})


def _as_dataarray(waveforms: Any, tpc: Tpc) -> xr.DataArray:
    """Waveforms with dimensions ``DIMENSIONS``, whose channels are the TPC's."""
    if isinstance(waveforms, xr.DataArray):
        if set(waveforms.dims) != set(DIMENSIONS):
            raise InputError(
                f"The waveforms have the dimensions {waveforms.dims}. Fix: rename them to {', '.join(DIMENSIONS)}."
            )
        events = waveforms.transpose(*DIMENSIONS)
    else:
        given = waveforms if hasattr(waveforms, "dask") else np.asarray(waveforms)
        if given.ndim != 3:
            raise InputError(
                f"The waveforms have shape {given.shape}. Fix: give (event, tick, channel), or use Tiler for one event."
            )
        events = xr.DataArray(given, dims=DIMENSIONS)
    if not all(isinstance(length, int | np.integer) for length in events.shape):
        raise InputError(
            f"The dask array has an unknown shape {events.shape}. Fix: call its compute_chunk_sizes() first."
        )
    n = len(tpc.channels)
    if events.shape[2] != n:
        raise InputError(
            f"The waveforms have {events.shape[2]} channels, TPC {tpc.number} of {tpc.detector} has {n}. "
            f"Fix: give (event, tick, {n}), columns as tpc.channels."
        )
    if "channel" in events.coords and not np.array_equal(events["channel"], tpc.channels):
        raise InputError(
            f"The coordinate channel is not that of TPC {tpc.number} of {tpc.detector}. "
            "Fix: select waveforms.sel(channel=tpc.channels)."
        )
    return events


def _first_tick(events: xr.DataArray) -> int:
    """The first of the coordinate ``tick``, whose values must be whole numbers that follow each other; else 0."""
    if "tick" not in events.coords or events.sizes["tick"] == 0:
        return 0
    ticks = events["tick"].to_numpy()
    if ticks.dtype.kind not in "iuf" or ticks[0] % 1 != 0 or not (np.diff(ticks) == 1).all():
        raise InputError(
            f"The coordinate tick ({ticks[0]} … {ticks[-1]}) does not count ticks. "
            "Fix: give whole numbers in steps of 1, or drop_vars('tick') and say first_tick."
        )
    return int(ticks[0])


def _bad_by_event(bad_channels: Any, numbers: list[Hashable]) -> list[Any]:
    if not isinstance(bad_channels, Mapping):
        return [bad_channels] * len(numbers)
    missing = sorted(set(bad_channels) - set(numbers), key=str)
    if missing:
        raise ConfigError(f"bad_channels names event {missing[0]}, which the waveforms lack. Fix: name one of theirs.")
    return [bad_channels.get(number, ()) for number in numbers]


def _tile_event(waveform: Any, tpc: Tpc, number: Any, bad_channels: Any, settings: dict[str, Any]) -> Voxels:
    try:
        return tile(waveform, tpc, bad_channels=bad_channels, **settings)
    except (ConfigError, InputError) as error:
        kind = ConfigError if isinstance(error, ConfigError) else InputError
        raise kind(f"event {number}: {error}") from error


def _dataset(
    images: Sequence[Voxels],
    tpc: Tpc,
    events: xr.DataArray,
    downsample: tuple[int, int, int],
    attributes: dict[str, Any],
) -> xr.Dataset:
    """Images one after the other, named and described as in ``larstore.xarray.dataset``; ``attributes`` of charge."""
    frame, n_planes = tpc.frame, len(tpc.planes)
    none = Voxels(np.empty((0, 3), np.uint16), np.empty((0, n_planes), np.float32), np.empty(0, np.uint8), 0)
    joined = {
        name: np.concatenate([getattr(image, name) for image in (none, *images)])
        for name in ("coords", "charge", "live")
    }
    voxel_mm = voxel_size_mm(frame.tick_us, frame.drift_speed_mm_us, frame.pixel_mm, downsample)
    variables: dict[str, Any] = {
        "coords": (("voxel", "axis"), joined["coords"], {"units": "voxel", "voxel_mm": str(voxel_mm)}),
        "charge": (("voxel", "plane"), joined["charge"], attributes),
        "live": ("voxel", joined["live"], {"long_name": "bit p: charge of plane p comes from real wires"}),
        "voxel_count": ("image", np.array([len(i) for i in images], np.int32), {"sample_dimension": "voxel"}),
        "lit_samples": ("image", np.array([image.lit_samples for image in images], np.int64)),
    }
    coordinates: dict[str, Any] = {
        str(name): (("image",) if coordinate.dims else (), coordinate.to_numpy())
        for name, coordinate in {"event": events["event"], **events.coords}.items()
        if name not in OURS and coordinate.dims in ((), ("event",))
    }
    coordinates["tpc"] = ("image", np.full(len(images), tpc.number, np.int32))
    coordinates["plane"] = ("plane", [plane.name for plane in tpc.planes])
    coordinates["axis"] = ("axis", ["x", "y", "z"])
    return xr.Dataset(variables, coordinates, {"Conventions": "CF-1.11", "detector": tpc.detector})
