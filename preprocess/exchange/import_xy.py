"""The research code's `xy` files, and its `yinf` predictions, into a new store."""

import secrets
import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

import larstore
from larstore import fs
from larstore.block import shards_needed
from larstore.errors import ConfigError, InputError
from larstore.geometry import Geometry
from preprocess.detector import load_detector
from preprocess.exchange.research import (
    ELECTRONS_PER_UNIT,
    XyEvent,
    XyName,
    charge_order,
    parse_xy_name,
    read_xy,
    read_yinf,
)
from preprocess.joining.frame import joined_frame, joined_geometry
from preprocess.pipeline import input_file
from preprocess.sources.names import file_number

LIVE = 0b1111111  # which planes were bad is not in these files


def import_xy(
    files: Iterable[Path],
    output: Path,
    detector: str,
    downsample: tuple[int, int, int] = (8, 4, 4),
    truth_units: str = "electrons",
    prediction: str = "yinf",
    joined: Sequence[int] = (),
) -> larstore.Store:
    """Make a store of `xy` files; `yinf` files among them become its prediction of that name.

    Charges become electrons, planes u, v, w. All bits of ``live`` are set: the files do not tell. Events of later
    batches of an input follow those of the earlier ones. ``joined``: the files are of these TPCs joined to one, as in
    1, 5, 9 for TPC159; the store is like one that `larstore join` makes. The store appears when it is complete.

    Raises:
        InputError: a file that is damaged, is none of these, or does not fit the detector or ``joined``.
        ConfigError: the output exists, or a batch is missing.
    """
    if output.exists():
        raise ConfigError(f"{output}: exists already. Fix: choose another output, or remove it")
    model = load_detector(detector)
    geometry = model.geometry()
    numbers = {number: number for number in geometry.tpcs}  # in the file's name -> ours
    if joined:
        frame = joined_frame(geometry, joined, downsample)
        geometry = joined_geometry(geometry, frame)
        numbers = {int("".join(map(str, joined))): frame.tpcs[0]}
    groups, scores = _grouped(files, geometry, numbers)
    planes = next(iter(geometry.tpcs.values())).planes
    scratch = output.with_name(f".{output.name}.{secrets.token_hex(8)}.tmp")
    settings = {"detector": detector, "downsample": list(downsample), "truth_units": truth_units, "live": "not known"}
    provenance = {"made by": "larstore import-xy", "versions": {"larstore": version("larstore")}, "config": settings}
    larstore.create(scratch, geometry=geometry, downsample=downsample, provenance=provenance, planes=planes)
    try:
        origin = _append(scratch, groups, numbers, geometry, downsample)
        if scores:
            _predict(scratch, prediction, origin, scores)
        fs.move_directory(scratch, output)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return larstore.open(output)


Groups = dict[tuple[str, int], dict[int, Path]]
Origin = dict[tuple[int, int, int], tuple[Path, int]]  # image -> its file, and its event in there


def _grouped(files: Iterable[Path], geometry: Geometry, numbers: dict[int, int]) -> tuple[Groups, dict[XyName, Path]]:
    """(head, TPC as in the name) -> batch -> `xy` file; and the `yinf` files by name."""
    groups: Groups = defaultdict(dict)
    scores: dict[XyName, Path] = {}
    names: dict[XyName, Path] = {}
    for path in sorted(files):
        name, product = parse_xy_name(path)
        if name.tpc not in numbers:
            raise InputError(
                f"{path}: TPC {name.tpc} is not one of {', '.join(map(str, numbers))}; joined TPCs (159 is 1, 5 and 9) "
                "cannot be imported with others. Fix: --joined 1,5,9, or give the files of the single TPCs."
            )
        known = names if product == "xy" else scores
        if name in known:
            raise InputError(f"{path}: has the name of {known[name]}. Fix: import them into two stores.")
        known[name] = path
        if product == "xy":
            groups[name.head, name.tpc][name.batch] = path
    for name in scores:
        if name not in names:
            raise InputError(f"{scores[name]}: its {name.file('xy')} is not given. Fix: give both.")
    for (head, tpc), batches in groups.items():
        if sorted(batches) != list(range(len(batches))):
            missing = min(set(range(len(batches))) - set(batches))
            raise ConfigError(
                f"batch{missing}-{head}_xy-TPC{tpc}.npz is missing: events are numbered through all batches. "
                "Fix: give all batches of an input"
            )
    if not groups:
        raise ConfigError("no xy files. Fix: give batch<n>-…_xy-TPC<n>.npz files")
    return groups, scores


def _append(
    store: Path, groups: Groups, tpcs: dict[int, int], geometry: Geometry, downsample: tuple[int, int, int]
) -> Origin:
    """Append all files, a commit each; returns where each image comes from."""
    numbers = _numbers(groups)
    origin: Origin = {}
    with larstore.StoreWriter(store) as writer:
        for (head, named), batches in sorted(groups.items(), key=lambda item: (numbers[item[0][0]], item[0][1])):
            first_event, tpc = 0, tpcs[named]
            for _, path in sorted(batches.items()):
                events = read_xy(path, len(geometry.tpcs[tpc].planes))
                images = []
                for index, event in enumerate(events):
                    key = (numbers[head], first_event + index, tpc)
                    images.append(_image(event, key, path, geometry, downsample))
                    origin[key] = path, index
                spec = writer.reserve(shards_needed(writer.attributes["shard_rows"], images))
                info = input_file(path, numbers[head], "")
                writer.commit([larstore.write_block(store, spec, images, [info])])
                first_event += len(events)
    return origin


def _numbers(groups: Groups) -> dict[str, int]:
    """File number of each head: the one in its name, else the next free one."""
    heads = sorted({head for head, _ in groups})
    found = {head: file_number(Path(f"{head}_xy-TPC0.npz"), None) for head in heads}
    taken = [number for number in found.values() if number is not None]
    if len(set(taken)) < len(taken):
        double = next(n for n in taken if taken.count(n) > 1)
        both = ", ".join(head for head in heads if found[head] == double)
        raise InputError(f"{both}: all are file {double}. Fix: import them into separate stores.")
    free = iter(n for n in range(1, len(heads) + len(taken) + 1) if n not in taken)
    return {head: next(free) if number is None else number for head, number in found.items()}


def _image(
    event: XyEvent, key: tuple[int, int, int], path: Path, geometry: Geometry, downsample: tuple[int, int, int]
) -> larstore.ImageRecord:
    size = _size(geometry, key[2], downsample)
    for coords in (event.coords, event.truth_coords):
        if coords is not None and len(coords) and (coords[:, 1:].max(axis=0) >= size).any():
            y, z = coords[:, 1:].max(axis=0).tolist()
            raise InputError(
                f"{path}: voxels reach y = {y}, z = {z}; TPC {key[2]} of {geometry.detector} has {size[0]} and "
                f"{size[1]} at downsample {','.join(map(str, downsample))}. Fix: choose the detector and --downsample."
            )
    charge = np.empty_like(event.charge)
    charge[:, charge_order(geometry, key[2])] = event.charge.astype(np.float64) * ELECTRONS_PER_UNIT
    return larstore.ImageRecord(
        *key,
        coords=event.coords,
        charge=charge,
        live=np.full(len(charge), LIVE & ((1 << charge.shape[1]) - 1), np.uint8),
        truth=event.truth,
        truth_coords=event.truth_coords,
        truth_value=event.truth_value,
        input=str(path),
    )


def _size(geometry: Geometry, tpc: int, downsample: tuple[int, int, int]) -> list[int]:
    """Voxels of an image in y and z."""
    frames = [geometry.tpcs[n] for n in geometry.joined or [tpc]]
    _, at_y, at_z = zip(*(frame.joined_origin or (0, 0, 0) for frame in frames), strict=True)
    y = max(at + -(-frame.n_y // downsample[1]) for at, frame in zip(at_y, frames, strict=True))
    z = max(at + -(-frame.n_z // downsample[2]) for at, frame in zip(at_z, frames, strict=True))
    return [y, z]


def _predict(store: Path, name: str, origin: Origin, files: dict[XyName, Path]) -> None:
    """Write the scores of all images whose `yinf` file is there."""

    @lru_cache(maxsize=1)
    def scores_of(path: Path, n_planes: int) -> list[npt.NDArray[np.float32]]:
        events = read_xy(path, n_planes)
        values = read_yinf(files[parse_xy_name(path)[0]], sum(len(event.coords) for event in events))
        return [values[event.order] for event in events]

    opened = larstore.open(store)
    selection = opened.select()
    with_scores = [i for i, image in enumerate(selection) if parse_xy_name(origin[image.key][0])[0] in files]
    chosen = larstore.Selection(opened, selection.row_numbers[with_scores])
    attributes = {"checkpoint_sha256": "not known", "made by": "the research code, yinf files"}
    with larstore.PredictionWriter(store, name, attributes) as writer:
        for shard, images in writer.groups(chosen):
            scored = []
            for image in images:
                path, index = origin[image.key]
                scored.append((image, scores_of(path, image.charge.shape[1])[index]))
            writer.write(shard, scored)
        writer.commit()
