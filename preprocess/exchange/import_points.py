"""Other programs' point clouds as a prediction of a store: 1 (or the charge) in the tiled voxels that hold points."""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import larstore
from larstore.errors import ConfigError, InputError, StoreError
from larstore.geometry import Geometry
from larstore.image import Image
from larstore.locations import local_path
from larstore.selection import expect_tpcs
from preprocess.exchange.clouds import Cloud, CloudFile, open_cloud
from preprocess.exchange.events import event_numbers
from preprocess.exchange.placing import BELOW, ELSEWHERE, Placing
from preprocess.sources.names import file_number, parse_name

Key = tuple[int, int]  # file, event
SHOWN = 5  # events of the store that a message names
LARGEST_T0_US = 1e9  # far beyond any read-out
UNITS = "file units"  # of imported charges: formats do not tell which


@dataclass
class PointCounts:
    """Where points and their charge ended: in tiled voxels, in others of the images, in none of the chosen images.

    ``outside`` and ``charge_outside`` are the parts of what lies in the images that no tiled voxel holds: what tiling
    has lost for the cloud, and no score can bring back. NaN where there is nothing. Charges are 0 in files without.
    """

    tiled: int = 0
    untiled: int = 0
    elsewhere: int = 0
    charge_tiled: float = 0.0
    charge_untiled: float = 0.0
    charge_elsewhere: float = 0.0

    @property
    def outside(self) -> float:
        """Part of the points in the images that lie in no tiled voxel."""
        return _part(self.untiled, self.tiled)

    @property
    def charge_outside(self) -> float:
        """Part of the charge in the images that lies in no tiled voxel."""
        return _part(self.charge_untiled, self.charge_tiled)


@dataclass
class ImportedPoints:
    """What a call did: images and voxels with points of all events, images it wrote now, and where points ended."""

    store: str
    name: str
    events: int = 0
    images: int = 0
    images_written: int = 0
    images_without_points: int = 0
    voxels: int = 0
    voxels_hit: int = 0
    events_unknown: int = 0
    counts: PointCounts = field(default_factory=PointCounts)


def import_points(
    store: str | os.PathLike[str],
    files: Iterable[Path],
    name: str,
    *,
    chosen_set: str | None = None,
    file: int | None = None,
    tpcs: Sequence[int] | None = None,
    t0: float = 0.0,
    window: bool = False,
    charge: bool = False,
    skip_unknown: bool = False,
) -> ImportedPoints:
    """Write ``predictions/NAME``: 1 where a point lies in a tiled voxel and 0 elsewhere, or the charge of its points.

    All images of the events that the files hold are predicted, the others stay without. Which event a cloud is of:
    the file number of a name as the research code's, else ``file``, and its position in the file; without either the
    run, subrun and event that the file tells, which must be those that `larstore export --to bee` would write. Several
    clouds of one event are put together. Shards that an earlier, interrupted call has written are kept.

    Args:
        store: path of the store, of single TPCs or joined ones.
        files: as `preprocess.exchange.clouds.open_cloud` reads them.
        name: of the prediction; one name belongs to one choice of files and settings.
        chosen_set: the set of a Bee zip.
        file: file number in the store of all clouds.
        tpcs: only images of these TPCs.
        t0: time in µs at which the charge was freed.
        window: place points in all of the read-out window, also beyond the drift volume.
        charge: write the points' summed charge in a voxel instead of 1.
        skip_unknown: leave out events that the store lacks, and count them.

    Raises:
        InputError: a damaged file, numbers that are not finite, no charge where it is asked for.
        StoreError: an event that the store lacks, no image, a name that is taken, a store at a URL.
        ConfigError: no files, or one twice; a TPC without images; a time that is none.
    """
    opened = larstore.open(local_path(store))
    part = opened.select(tpcs=tpcs)
    expect_tpcs(opened, tpcs, "--tpcs")
    clouds = _Clouds(opened.geometry, files, chosen_set, window)
    events, unknown = _matched(part, clouds, file, skip_unknown)
    rows = [i for i, image in enumerate(part) if image.key[:2] in events]
    selection = larstore.Selection(opened, part.row_numbers[rows])
    if not len(selection):
        raise StoreError(f"{opened.path}: no image of the clouds' events. Fix: other --tpcs, or other files")
    result = ImportedPoints(str(opened.path), name, len(events), len(selection), events_unknown=unknown)
    voxels = _Voxels(clouds, events, t0, charge)
    _count(voxels, selection, result)
    settings: dict[str, Any] = {"set": chosen_set, "file": file, "t0_us": t0, "window": window, "charge": charge}
    if tpcs is not None:
        settings["tpcs"] = sorted(tpcs)
    attributes = {
        # Whoever resumes a prediction tells it by this: here it stands for the files and settings.
        "checkpoint_sha256": _digest(settings, clouds.sources),
        "made by": "larstore import-points",
        "output": "charge" if charge else "score",
        **({"units": UNITS} if charge else {}),
        "sources": clouds.sources,
        "settings": settings,
        "points": asdict(result.counts),
        "versions": {"larstore": version("larstore")},
    }
    with larstore.PredictionWriter(opened.path, name, attributes) as writer:
        groups = writer.groups(selection)
        for shard, images in groups:
            writer.write(shard, [(image, voxels(_fresh(image))[0]) for image in images])
            writer.commit()
            result.images_written += len(images)
        if not groups:
            writer.commit()
    return result


class _Clouds:
    """The clouds of some files, all opened and checked; a cloud is (number of its file, event in there)."""

    def __init__(self, geometry: Geometry, files: Iterable[Path], chosen_set: str | None, window: bool) -> None:
        self.sources: list[dict[str, Any]] = []
        self.readers: list[CloudFile] = []
        self.window = window
        for path in sorted(files):
            reader = open_cloud(path, geometry, chosen_set)
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            same = next((source["name"] for source in self.sources if source["sha256"] == digest), None)
            if same is not None:
                raise ConfigError(f"{path}: is the same as {same}. Fix: give each file once")
            self.sources.append({"name": path.name, "size": path.stat().st_size, "sha256": digest})
            self.readers.append(reader)
        if not self.readers:
            raise ConfigError("no files. Fix: give Bee's .json or .zip, or .npz files")
        if len({reader.at_read_out for reader in self.readers}) > 1:
            raise ConfigError("points at the read-out and at their own places. Fix: two commands, two names")

    def all(self) -> Iterable[tuple[int, int]]:
        """Every cloud."""
        return ((i, event) for i, reader in enumerate(self.readers) for event in range(reader.n_events))

    def placing(self, t0: float) -> Placing:
        """How their points are placed."""
        if not abs(t0) <= LARGEST_T0_US:
            raise ConfigError(f"--t0 {t0:g}. Fix: a finite number of µs, up to {LARGEST_T0_US:g}")
        at_read_out = self.readers[0].at_read_out
        if at_read_out and t0:
            raise ConfigError(f"--t0 {t0:g}: {self.readers[0].path} holds ticks of the read-out. Fix: leave --t0 out")
        return Placing(t0, self.window or at_read_out)

    def together(self, wanted: Sequence[tuple[int, int]]) -> Cloud:
        """The points of some clouds."""
        parts = [self.readers[i].read(event) for i, event in wanted]
        charges = [np.zeros(len(p.position)) if p.charge is None else p.charge for p in parts]
        return Cloud(np.concatenate([p.position for p in parts]), np.concatenate(charges))


def _matched(
    part: larstore.Selection, clouds: _Clouds, file: int | None, skip_unknown: bool
) -> tuple[dict[Key, list[tuple[int, int]]], int]:
    """(file, event) in the store -> its clouds; and the number of events that the store lacks."""
    keys = list(zip(part.column("file").tolist(), part.column("event").tolist(), strict=True))
    by_number = dict(zip(map(tuple, event_numbers(part).tolist()), keys, strict=True)) if keys else {}
    there = set(keys)
    found: dict[Key, list[tuple[int, int]]] = defaultdict(list)
    unknown = 0
    for i, event in clouds.all():
        reader = clouds.readers[i]
        cloud = reader.read(event)  # also tells of damage before anything is written
        name = parse_name(reader.path)
        number = file if file is not None or name is None else file_number(reader.path, None)
        key: Key | None
        if number is not None:
            key, words = (number, event), f"file {number}, event {event}"
        elif cloud.numbers is not None:
            key, words = by_number.get(cloud.numbers), "run, subrun, event {}, {}, {}".format(*cloud.numbers)
        else:
            raise InputError(f"{reader.path}: does not tell which event of the store it is. Fix: --file N")
        if key in there:
            found[key].append((i, event))
        elif skip_unknown:
            unknown += 1
        else:
            shown = "; ".join(
                f"{words[0]}, {words[1]}, {words[2]} (file {at[0]}, event {at[1]})"
                for words, at in list(by_number.items())[:SHOWN]
            )
            raise StoreError(
                f"{reader.path}: cloud {event} is of {words}, which {part.store.path} lacks; it has {shown or 'none'}"
                f"{' …' if len(by_number) > SHOWN else ''}. Fix: --file N for the n-th cloud as event n of file N, "
                "or --skip-unknown"
            )
    return dict(found), unknown


class _Voxels:
    """Scores of an image from the clouds of its event."""

    def __init__(self, clouds: _Clouds, events: dict[Key, list[tuple[int, int]]], t0: float, charge: bool) -> None:
        self.placing, self.charge = clouds.placing(t0), charge
        self.read = lru_cache(maxsize=1)(lambda key: clouds.together(events[key]))
        if charge:
            for i, event in clouds.all():
                reader = clouds.readers[i]
                cloud = reader.read(event)
                if cloud.charge is None and len(cloud.position):
                    raise InputError(f"{reader.path}: has no charges. Fix: leave --charge out")

    def __call__(self, image: Image) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], Cloud]:
        """(n,) scores, and for each point of the event its voxel, ``BELOW`` or ``ELSEWHERE``."""
        cloud = self.read(image.key[:2])
        rows = self.placing.rows(image, cloud.position)
        there = rows >= 0
        if self.charge and cloud.charge is not None:
            sums = np.bincount(rows[there], weights=cloud.charge[there], minlength=len(image))
            return sums.astype(np.float32), rows, cloud
        score = np.zeros(len(image), np.float32)
        score[rows[there]] = 1.0
        return score, rows, cloud


def _count(voxels: _Voxels, selection: larstore.Selection, result: ImportedPoints) -> None:
    """Fill in where all points of all images end; images of an event follow each other in a selection."""
    counts, counted = result.counts, set[Key]()
    left: npt.NDArray[np.bool_] | None = None
    images = list(selection)
    for i, stored in enumerate(images):
        image = _fresh(stored)
        _, rows, cloud = voxels(image)
        charge = np.zeros(len(rows)) if cloud.charge is None else cloud.charge
        result.voxels += len(image)
        result.voxels_hit += len(np.unique(rows[rows >= 0]))
        result.images_without_points += not (rows != ELSEWHERE).any()
        counts.tiled += int((rows >= 0).sum())
        counts.untiled += int((rows == BELOW).sum())
        counts.charge_tiled += float(charge[rows >= 0].sum())
        counts.charge_untiled += float(charge[rows == BELOW].sum())
        key = image.key[:2]
        left = rows == ELSEWHERE if key not in counted or left is None else left & (rows == ELSEWHERE)
        counted.add(key)
        if i + 1 == len(images) or images[i + 1].key[:2] != key:
            counts.elsewhere += int(left.sum())
            counts.charge_elsewhere += float(charge[left].sum())


def _fresh(image: Image) -> Image:
    """The same image, whose arrays are let go of with it."""
    return Image(image.store, image.row)


def _digest(settings: dict[str, Any], sources: list[dict[str, Any]]) -> str:
    text = json.dumps({"points": settings, "files": sorted(source["sha256"] for source in sources)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _part(one: float, other: float) -> float:
    return one / (one + other) if one + other else float("nan")
