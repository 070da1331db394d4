"""What a store that is made from another one has to carry over: settings, inputs and failures."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import larstore
from larstore.errors import StoreError
from larstore.geometry import Geometry
from larstore.records import Failure, InputFile


def create_derived(
    source: larstore.Store,
    target: Path,
    how: str,
    origin: dict[str, Any],
    geometry: Geometry,
    downsample: tuple[int, int, int],
) -> None:
    """An empty store of another geometry or downsampling, with the source's settings and provenance.

    ``how``: the provenance's key for where the store comes from; ``origin``: what is said there beside the source.
    """
    a = source.attributes
    made = {"store": str(source.path.resolve()), "commit": a["commit"], "larstore": version("larstore")}
    larstore.create(
        target,
        geometry=geometry,
        downsample=downsample,
        units=a["units"],
        provenance=a["provenance"] | {how: made | origin},
        planes=a["planes"],
        shard_rows=a["shard_rows"],
        chunk_rows=a["chunk_rows"],
        truth_columns=source.root.truth_columns,
        charge_bits=source.root.charge_bits,
    )


def refuse_itself(source: larstore.Store, target: Path) -> None:
    """StoreError if a store is to be made from itself."""
    if target.resolve() == source.path.resolve():
        raise StoreError(f"{target}: is the source itself. Fix: write to another store")


def refuse_difference(target: Path, found: dict[str, Any], wanted: dict[str, Any], maker: str = "this makes") -> None:
    """StoreError, with both values, for the first setting in which a store is not as ``maker`` wants it."""
    for key in {**wanted, **found}:
        if found.get(key) != wanted.get(key):
            raise StoreError(
                f"{target}: holds images with {key} = {found.get(key)}, {maker} {wanted.get(key)}. "
                "Fix: write to another store, or use the same settings"
            )


def settings_of(store: larstore.Store) -> dict[str, Any]:
    """What all images of a store share, but for the downsampling and the geometry."""
    a = store.attributes
    settings: dict[str, Any] = dict(a["provenance"].get("tiling", {}))
    settings |= {name: a[name] for name in ("units", "planes")}
    return settings | {"truth_columns": list(store.root.truth_columns), "charge_bits": store.root.charge_bits}


def inputs_by_file(store: larstore.Store) -> dict[int, list[InputFile]]:
    """The input files by their number."""
    found: dict[int, list[InputFile]] = {}
    columns = ("path", "file", "size", "sha256", "sample")
    for path, file, size, sha256, sample in zip(*(store.inputs[name].tolist() for name in columns), strict=True):
        found.setdefault(file, []).append(InputFile(path, file, size, sha256, sample))
    return found


def failures_of(
    store: larstore.Store, files: tuple[int, int] | None = None, tpcs: Sequence[int] | None = None
) -> list[Failure]:
    """The failures of these files and TPCs; tpc -1 is of all TPCs."""
    columns = (store.failures[name].tolist() for name in ("file", "tpc", "input", "error"))
    first, last = files or (0, 2**63)
    found = (Failure(*values) for values in zip(*columns, strict=True))
    return [each for each in found if first <= each.file <= last and (tpcs is None or each.tpc in (-1, *tpcs))]
