"""The plan of a run: inputs become work units (one file, one TPC) with their numbers; what is done is left out."""

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import larstore
from larstore.errors import ConfigError, InputError
from larstore.records import Failure
from preprocess.config import RunConfig
from preprocess.detector import Detector
from preprocess.sources import open_source
from preprocess.sources.names import ARCHIVE_SUFFIXES, HDF5_SUFFIXES, file_number, parse_name


@dataclass(frozen=True)
class Unit:
    """One piece of work: all events of one TPC in one file."""

    path: str
    file: int
    tpc: int
    size: int  # bytes of the file


@dataclass
class Plan:
    """Units still to do, biggest first; how many were done before; files that could not even be looked into."""

    units: list[Unit] = field(default_factory=list)
    done: int = 0
    failures: list[Failure] = field(default_factory=list)


def find_inputs(config: RunConfig) -> list[Path]:
    """Absolute paths of the input files, sorted. ConfigError for one that matches nothing."""
    found: dict[str, None] = {}
    for entry in config.inputs:
        place = Path(os.path.expandvars(entry)).expanduser()
        if place.is_dir():
            matches = sorted(str(path) for path in place.iterdir() if _is_read_out(path, config.product))
            if not matches:
                raise ConfigError(f"{entry}: holds no read-out files. Fix: give files, or --set product=NAME")
        else:
            matches = sorted(glob.glob(str(place)))
            if not matches:
                raise InputError(f"{entry}: no such file. Fix: check the path")
        found |= dict.fromkeys(os.path.abspath(match) for match in matches)
    return [Path(path) for path in sorted(found)]


def _is_read_out(path: Path, product: str) -> bool:
    if not path.is_file() or not path.name.endswith(ARCHIVE_SUFFIXES + HDF5_SUFFIXES):
        return False
    name = parse_name(path)
    # An npz or HDF5 file of another name may hold anything; it is read where it is named itself.
    return name.product == product if name is not None else not path.name.endswith((".npz", *HDF5_SUFFIXES))


def make_plan(config: RunConfig, detector: Detector, store: larstore.Store | None) -> Plan:
    """Find the inputs, number them, and keep what the store does not hold yet.

    Raises ConfigError for a TPC that the detector lacks, for two inputs with one key, and for an input that changed
    since it was tiled.
    """
    unknown = set(config.tpcs or ()) - set(detector.tpcs)
    if unknown:
        raise ConfigError(
            f"tpcs: {min(unknown)} is not a TPC of {config.detector}, which has {', '.join(map(str, detector.tpcs))}. "
            "Fix: ask for one of these"
        )
    plan = Plan()
    known = _known_inputs(store)
    owners = _owners(store)
    numbers = {path: number for path, (number, _) in known.items()}
    claimed, tiled = dict(owners), set(owners.values())
    for path, file in _numbered(find_inputs(config), config, numbers):
        if config.files is not None and not config.files[0] <= file <= config.files[1]:
            continue
        if str(path) in tiled:
            _refuse_changed([path], known)
        try:
            source = open_source(path)
            tpcs = source.tpcs(detector)
        except InputError as error:
            plan.failures.append(Failure(file, -1, str(path), str(error)))
            continue
        for tpc in tpcs:
            if config.tpcs is not None and tpc not in config.tpcs:
                continue
            owner = claimed.setdefault((file, tpc), str(path))
            if owner != str(path):
                raise ConfigError(
                    f"{path} and {owner} both are file {file}, TPC {tpc}. Fix: give --file-pattern, --first-file, or "
                    "another store"
                )
            if (file, tpc) in owners:
                _refuse_changed(source.inputs(tpc, config.truth), known)
                plan.done += 1
            else:
                plan.units.append(Unit(str(path), file, tpc, path.stat().st_size))
    plan.units.sort(key=lambda unit: (-unit.size, unit.file, unit.tpc))
    return plan


def _refuse_changed(paths: list[Path], known: dict[str, tuple[int, int]]) -> None:
    """ConfigError for a file of another size than when it was tiled; ``known``: path -> number and size."""
    for path in paths:
        size = path.stat().st_size
        before = known[str(path)][1] if str(path) in known else size
        if size != before:
            raise ConfigError(
                f"{path}: {size} bytes now, {before} when it was tiled. Fix: use a new store, or give the file another "
                "name"
            )


def _known_inputs(store: larstore.Store | None) -> dict[str, tuple[int, int]]:
    """path -> number and size of the inputs of earlier runs."""
    if store is None:
        return {}
    table = store.inputs
    pairs = zip(table["file"].tolist(), table["size"].tolist(), strict=True)
    return dict(zip(table["path"], pairs, strict=True))


def _owners(store: larstore.Store | None) -> dict[tuple[int, int], str]:
    """(file, tpc) of the images in the store -> path they were made from. A unit is committed whole or not at all."""
    if store is None or not len(store):
        return {}
    paths = list(store.inputs["path"])
    index = store.index.reset_index()[["file", "tpc", "input"]].drop_duplicates(["file", "tpc"])
    rows = zip(*(index[name].tolist() for name in index), strict=True)
    return {(file, tpc): paths[row] if row >= 0 else "" for file, tpc, row in rows}


def _numbered(paths: list[Path], config: RunConfig, numbers: dict[str, int]) -> Iterator[tuple[Path, int]]:
    """Each path with its number: the one it had before, the one in its name, else the next free one."""
    named = {path: numbers.get(str(path), file_number(path, config.file_pattern)) for path in paths}
    taken = {number for number in (*named.values(), *numbers.values()) if number is not None}
    following = config.first_file
    for path in paths:
        number = named[path]
        if number is None:
            while following in taken:
                following += 1
            number = following
            taken.add(number)
        yield path, number


def batches(units: list[Unit], task_bytes: int) -> list[tuple[Unit, ...]]:
    """Put small units together up to ``task_bytes``, so that blocks do not become tiny files."""
    tasks: list[tuple[Unit, ...]] = []
    current: list[Unit] = []
    for unit in units:
        if current and sum(u.size for u in current) + unit.size > task_bytes:
            tasks.append(tuple(current))
            current = []
        current.append(unit)
    return [*tasks, tuple(current)] if current else tasks
