"""The plan of a run: inputs become work units (one file, one TPC) with their numbers; what is done is left out."""

import glob
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path

import larstore
from larstore.errors import ConfigError, InputError
from larstore.records import Failure
from preprocess.config import RunConfig
from preprocess.detector import Detector
from preprocess.sources import open_source
from preprocess.sources.frames import named_tpc
from preprocess.sources.names import ARCHIVE_SUFFIXES, HDF5_SUFFIXES, file_number, parse_name, truth_path
from preprocess.sources.registry import probe

LOOKERS = 8  # files that are looked into at once: on a file system of a computing centre each look is a wait
LOOK_AHEAD = 1024
TOGETHER = 32  # of them by one thread in a go
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2")


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


def make_plan(config: RunConfig, detector: Detector, store: larstore.Store | None, redo: bool = False) -> Plan:
    """Find the inputs, number them, and keep what the store does not hold yet; with ``redo`` all of them.

    Raises ConfigError for a TPC that the detector lacks, for two inputs with one key, and, without ``redo``, for an
    input that changed since it was tiled.
    """
    unknown = set(config.tpcs or ()) - set(detector.tpcs)
    if unknown:
        raise ConfigError(
            f"tpcs: {min(unknown)} is not a TPC of {config.detector}, which has {', '.join(map(str, detector.tpcs))}. "
            "Fix: ask for one of these"
        )
    plan = Plan()
    known = _known_inputs(store)
    owners, failed = _owners(store), _failed(store)
    numbers = {path: number for path, (number, _) in known.items()}
    claimed, tiled = dict(owners), set(owners.values())
    numbered = _numbered(find_inputs(config), config, numbers)
    if config.files is not None:
        first, last = config.files
        numbered = ((path, file) for path, file in numbered if first <= file <= last)
    for path, file, found in _looked_into(numbered, detector):
        if str(path) in tiled and not redo:
            _refuse_changed([path], known)
        if isinstance(found, InputError):
            plan.failures.append(Failure(file, -1, str(path), str(found)))
            continue
        for tpc in found.tpcs:
            if config.tpcs is not None and tpc not in config.tpcs:
                continue
            owner = claimed.setdefault((file, tpc), str(path))
            if owner != str(path):
                raise ConfigError(
                    f"{path} and {owner} both are file {file}, TPC {tpc}. Fix: give --file-pattern, --first-file, or "
                    "another store"
                )
            if (file, tpc) in owners and not redo:
                _refuse_changed([path, *_truth_of(path, tpc, config)], known)
            if (file, tpc) in owners and (file, tpc) not in failed and not redo:
                plan.done += 1
            else:
                plan.units.append(Unit(str(path), file, tpc, found.size))
    plan.units.sort(key=lambda unit: (-unit.size, unit.file, unit.tpc))
    return plan


@dataclass(frozen=True)
class _Found:
    """What a look into a file tells."""

    tpcs: tuple[int, ...]
    size: int


def _looked_into(
    numbered: Iterable[tuple[Path, int]], detector: Detector
) -> Iterator[tuple[Path, int, _Found | InputError]]:
    """Each input with what is in it, or why that cannot be told; in order, many of them looked into at once."""
    numbered = iter(numbered)
    with ThreadPoolExecutor(LOOKERS) as pool:
        while some := list(islice(numbered, LOOK_AHEAD)):
            parts = [[path for path, _ in some[i : i + TOGETHER]] for i in range(0, len(some), TOGETHER)]
            found = chain.from_iterable(pool.map(partial(_look_at_all, detector=detector), parts))
            for (path, file), each in zip(some, found, strict=True):
                yield path, file, each


def _look_at_all(paths: list[Path], detector: Detector) -> list[_Found | InputError]:
    return [_look(path, detector) for path in paths]


def _look(path: Path, detector: Detector) -> _Found | InputError:
    """What a file has. A tar that is named after its TPC is left to the worker: its first name may cost a block."""
    try:
        if path.name.endswith(TAR_SUFFIXES) and (tpc := named_tpc(path, detector)) is not None:
            tpcs = [tpc] if probe(path).container == "tar" else open_source(path).tpcs(detector)
        else:
            tpcs = open_source(path).tpcs(detector)
        return _Found(tuple(tpcs), path.stat().st_size)
    except InputError as error:
        return error


def _truth_of(path: Path, tpc: int, config: RunConfig) -> list[Path]:
    sibling = truth_path(path, tpc, config.truth)
    return [] if sibling is None else [sibling]


def _refuse_changed(paths: list[Path], known: dict[str, tuple[int, int]]) -> None:
    """ConfigError for a file of another size than when it was tiled; ``known``: path -> number and size."""
    for path in paths:
        size = path.stat().st_size
        before = known[str(path)][1] if str(path) in known else size
        if size != before:
            raise ConfigError(
                f"{path}: {size} bytes now, {before} when it was tiled. Fix: make its images again with --redo, or use "
                "a new store"
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


def _failed(store: larstore.Store | None) -> set[tuple[int, int]]:
    """(file, tpc) of failures that stand; beside images of such a unit, 'larstore repair' left out others of it."""
    if store is None:
        return set()
    return set(zip(store.failures["file"].tolist(), store.failures["tpc"].tolist(), strict=True))


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


def next_batch(units: deque[Unit], n_bytes: float) -> tuple[Unit, ...]:
    """Take units off the left, at least one, and more while all of them have no more than ``n_bytes``."""
    batch = [units.popleft()]
    total = batch[0].size
    while units and total + units[0].size <= n_bytes:
        batch.append(units.popleft())
        total += batch[-1].size
    return tuple(batch)
