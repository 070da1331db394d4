"""A run: inputs that the store does not hold yet are planned, tiled by workers, and committed."""

import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pandas as pd
from distributed import Client

import larstore
from larstore.errors import ConfigError, StoreError
from larstore.format import TRUTH_COLUMNS
from larstore.geometry import Geometry
from preprocess.config import RunConfig
from preprocess.coordinator import Coordinator
from preprocess.derived import refuse_difference
from preprocess.detector import Detector, load_detector
from preprocess.interrupts import listening
from preprocess.notebook_progress import in_notebook, notebook_display
from preprocess.plan import Plan, Unit, make_plan
from preprocess.run_log import reported
from preprocess.run_state import RunState, Summary

LISTED_INPUTS = 100
PACKAGES = ("larstore", "numpy", "numba", "zarr", "dask")


def open_output(config: RunConfig, geometry: Geometry | None = None) -> larstore.Store | None:
    """The store to continue, None where there is none yet. StoreError if it is of another geometry or other settings.

    ``geometry``: of the config's detector, if it is loaded already.
    """
    if not config.output.exists():
        return None
    geometry = geometry or load_detector(config.detector).geometry()
    store = larstore.open(config.output)
    held = store.attributes["provenance"].get("tiling", {})
    wanted: dict[str, Any] = config.tiling() | {
        "downsample": list(config.downsample),
        "geometry": geometry.hash,
        "save_pix": config.save_pix,
        "charge_bits": config.charge_bits,
    }
    found = held | {
        "downsample": list(store.attributes["downsample"]),
        "geometry": store.attributes["geometry_hash"],
        "save_pix": store.root.pixels,
        "charge_bits": store.root.charge_bits,
    }
    refuse_difference(config.output, {key: found.get(key) for key in wanted}, wanted, "this run has")
    return store


def _create_output(config: RunConfig, detector: Detector, geometry: Geometry) -> None:
    planes = next(iter(detector.tpcs.values())).planes
    larstore.create(
        config.output,
        geometry=geometry,
        downsample=config.downsample,
        provenance={
            "versions": {name: version(name) for name in PACKAGES},
            "config": _recorded(config),
            "tiling": config.tiling(),
        },
        planes=[plane.name for plane in planes],
        shard_rows=config.shard_rows,
        chunk_rows=config.chunk_rows,
        truth_columns=list(TRUTH_COLUMNS) if config.truth else (),  # a column that no input knows costs nothing
        pixels=config.save_pix,
        charge_bits=config.charge_bits,
    )


def _recorded(config: RunConfig) -> dict[str, Any]:
    """The configuration for the root, which is read whole: of many inputs the first few, as ``inputs/`` lists all."""
    recorded = config.model_dump(mode="json")
    if len(config.inputs) > LISTED_INPUTS:
        more = f"… and {len(config.inputs) - LISTED_INPUTS} more"
        recorded["inputs"] = [*config.inputs[:LISTED_INPUTS], more]
    return recorded


def plan_run(config: RunConfig, redo: bool = False) -> Plan:
    """What a run would do now; changes nothing, and refuses what a run would refuse."""
    detector = load_detector(config.detector)
    return _plan(config, detector, open_output(config, detector.geometry()), redo)


def _plan(config: RunConfig, detector: Detector, store: larstore.Store | None, redo: bool) -> Plan:
    """As ``make_plan``; ConfigError where the filters leave nothing of the inputs."""
    n_planes = min(len(tpc.planes) for tpc in detector.tpcs.values())
    if config.min_live_planes > n_planes:
        raise ConfigError(
            f"min_live_planes {config.min_live_planes}: {config.detector} has {n_planes} planes. Fix: no more than that"
        )
    plan = make_plan(config, detector, store, redo)
    if not (plan.units or plan.done or plan.failures):
        filters = [f"files {config.files[0]}:{config.files[1]}"] if config.files else []
        filters += [f"tpcs {', '.join(map(str, config.tpcs))}"] if config.tpcs else []
        raise ConfigError(
            f"{config.inputs[0]}{' …' if len(config.inputs) > 1 else ''}: nothing is left by {' and '.join(filters)}. "
            "Fix: ask for files and TPCs that the inputs have (larstore inspect shows them)"
        )
    return plan


def run(
    config: RunConfig,
    client: Client,
    progress: Callable[[RunState], None] | None = None,
    break_lock: bool = False,
    redo: bool = False,
) -> Summary:
    """Tile everything that the store does not hold yet.

    Args:
        config: the settings.
        client: of the cluster whose workers see the same files.
        progress: called with the state of the run every second or so; None shows it in a notebook, and nowhere else.
        break_lock: take over a lock of another host whose heartbeat stands still.
        redo: make the images of all these inputs again, also of such as have changed. The old ones stay until the new
            ones take their place, unit by unit; those of a unit that fails now stay altogether.

    Failed units are in ``failures/`` of the store and in the summary; they do not stop the rest. Ctrl-C lets what is in
    flight come to its end, a second one does not; either way everything that came back is committed, and the summary
    tells how many units are left. ``larstore status`` and the log (``config.log``) tell how it goes.

    Raises:
        StoreError: the store is of other settings, is being written to, or cannot be written: a full disk.
        ClusterError: no worker is there, and none can be hoped for.
        ConfigError, InputError: inputs or settings that cannot be used.
    """
    started = time.perf_counter()
    if progress is None and in_notebook():
        progress = notebook_display()
    detector = load_detector(config.detector)
    geometry = detector.geometry()
    store = open_output(config, geometry)
    plan = _plan(config, detector, store, redo)
    if store is None:  # only now: wrong inputs leave no store behind
        try:
            _create_output(config, detector, geometry)
            store = larstore.open(config.output)
        except StoreError:
            store = open_output(config, geometry)
            if store is None:
                raise  # else another run has just made it: its lock says who
            plan = _plan(config, detector, store, redo)
    with larstore.StoreWriter(config.output, break_lock=break_lock) as writer:
        if writer.attributes["commit"] != store.attributes["commit"]:  # somebody else's, before the lock was ours
            store = larstore.open(config.output)
            plan = make_plan(config, detector, store, redo)
        summary = Summary(units_before=plan.done)
        state = RunState(
            config.output, summary, len(plan.units) + len(plan.failures), sum(unit.size for unit in plan.units)
        )
        with reported(config, state, progress) as show:
            coordinator = Coordinator(config, geometry.hash, client, writer, state, _held(store, plan.units), show)
            coordinator.take(plan.failures)
            with listening(coordinator.ask_to_stop):
                coordinator.drain(plan.units)
    summary.seconds["wall"] = time.perf_counter() - started  # type: ignore[assignment]
    return summary


def _held(store: larstore.Store, units: list[Unit]) -> dict[tuple[int, int], set[tuple[int, int, int]]]:
    """(file, tpc) of units that are to be made again -> keys of the images that the store has of them."""
    again = pd.MultiIndex.from_tuples([(unit.file, unit.tpc) for unit in units], names=["file", "tpc"])
    keys = store.index.reset_index()[["file", "event", "tpc"]]
    found: dict[tuple[int, int], set[tuple[int, int, int]]] = {}
    if len(again):
        chosen = keys[pd.MultiIndex.from_frame(keys[["file", "tpc"]]).isin(again)]
        for file, event, tpc in chosen.itertuples(index=False):
            found.setdefault((file, tpc), set()).add((file, event, tpc))
    return found
