"""The store that joined images go to: made for one source, frame and settings, and refused for any other."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import larstore
from larstore.errors import StoreError
from larstore.geometry import Geometry
from larstore.records import Failure
from preprocess.derived import create_derived, failures_of, refuse_difference, refuse_itself, settings_of
from preprocess.joining.bridge import Bridge
from preprocess.joining.frame import JoinedFrame
from preprocess.joining.plan import Events


@dataclass(frozen=True)
class Plan:
    """A join that may be made: the source, its events, the frame, and the geometry of the output.

    ``predictions``: names of those that are joined, too; ``bridge``: how gaps are bridged, None if they are not.
    """

    store: larstore.Store
    events: Events
    frame: JoinedFrame
    geometry: Geometry
    predictions: tuple[str, ...] = ()
    bridge: Bridge | None = None


def create(plan: Plan, target: Path) -> None:
    """The empty output, whose settings and provenance are the source's."""
    origin: dict[str, Any] = {"tpcs": list(plan.frame.tpcs), "shape": list(plan.frame.shape)}
    if plan.bridge is not None:
        origin["bridge"] = plan.bridge.settings
    create_derived(plan.store, target, "joined", origin, plan.geometry, plan.store.attributes["downsample"])


def refuse_other_settings(plan: Plan, target: Path) -> None:
    """StoreError, with the setting and both values, for an output that holds something else."""
    refuse_itself(plan.store, target)
    output = larstore.open(target)
    wanted, found = settings_of(plan.store), settings_of(output)
    for settings, store, geometry in (
        (wanted, plan.store, plan.geometry),
        (found, output, output.geometry),
    ):
        settings["downsample"] = store.attributes["downsample"]
        settings["joined TPCs"] = geometry.joined
        settings["their origins"] = [geometry.tpcs[number].joined_origin for number in geometry.joined]
        settings["geometry_hash"] = geometry.hash
    wanted["bridge"] = None if plan.bridge is None else plan.bridge.settings
    found["bridge"] = output.attributes["provenance"].get("joined", {}).get("bridge")
    refuse_difference(target, found, wanted)


def joined_before(plan: Plan, output: larstore.Store) -> npt.NDArray[np.bool_]:
    """(events,) whether the output has the event's image; StoreError where that was made from other inputs."""
    part, events = output.select(), plan.events
    there = part.column("file").astype(np.int64) << 32 | part.column("event").astype(np.int64)
    before = np.isin(events.keys, there)
    known = set(zip(output.inputs["path"], output.inputs["sha256"], strict=True))
    names = list(zip(plan.store.inputs["path"], plan.store.inputs["sha256"], strict=True))
    rows = events.rows[before]
    used = np.where(rows >= 0, plan.store.index_columns.column("input")[rows], -1) if len(rows) else rows
    for number in np.unique(used).tolist():
        if number >= 0 and names[number] not in known:
            i = np.flatnonzero((used == number).any(axis=1))[0]
            key = int(events.file[before][i]), int(events.event[before][i]), plan.frame.tpcs[0]
            path = names[number][0]
            how = "another content of" if path in set(output.inputs["path"]) else "other inputs than"
            raise StoreError(f"{output.path}: image {key} was made from {how} {path}. Fix: write to another store")
    return before


def new_failures(plan: Plan, output: larstore.Store, files: tuple[int, int] | None) -> list[Failure]:
    """The source's failures of these TPCs that the output does not know yet, as failures of the joined TPC."""
    known, first = set(failures_of(output)), plan.frame.tpcs[0]
    found = failures_of(plan.store, files, plan.frame.tpcs)
    joined = [Failure(each.file, min(each.tpc, first), each.input, each.error) for each in found]
    last = {(each.file, each.tpc, each.input): each for each in joined}  # as a store keeps them
    return [each for each in last.values() if each not in known]
