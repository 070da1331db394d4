"""A store with all that one can have, and every way through a store."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

import larstore
from larstore.errors import LarstoreError
from larstore.provenance import lines_of, provenance_of
from larstore.testing import make_store


def make_good(path: Path) -> Path:
    """A store with everything that a store can have."""
    make_store(path, tpcs=(1, 5), n_voxels=40, shard_rows=64, chunk_rows=16, truth_columns=("pdg",), pixels=True)
    return add_scores(path, lambda image: np.zeros(len(image), np.float32))


def add_scores(path: Path, score: Callable[[larstore.Image], np.ndarray]) -> Path:
    """Predict all images as ``net``, each with its ``score``; returns the path."""
    with larstore.PredictionWriter(path, "net", {"checkpoint_sha256": "a"}) as writer:
        for shard, images in writer.groups(larstore.open(path).select()):
            writer.write(shard, [(image, score(image)) for image in images])
        writer.commit()
    return path


def use_everything(path: Path) -> list[str]:
    """Go every way that there is through a store; the errors in one line each. Any other exception is let through."""
    errors: list[str] = []

    def attempt(name: str, action: Callable[[], object]) -> None:
        try:
            action()
        except LarstoreError as error:
            errors.append(str(error))
        except Exception as error:
            error.add_note(f"while trying: {name}")
            raise

    attempt("verify", lambda: errors.extend(map(str, larstore.verify(path).problems)))
    attempt("verify --fast", lambda: larstore.verify(path, fast=True))
    try:
        store = larstore.open(path)
        part = store.select()
    except LarstoreError as error:
        return [*errors, str(error)]
    for name in ("index", "inputs", "failures", "geometry", "predictions"):
        attempt(name, lambda name=name: getattr(store, name))
    attempt("repr", lambda: (repr(store), store._repr_html_(), part._repr_html_()))
    attempt("provenance", lambda: list(lines_of(provenance_of(store))))
    attempt("query", lambda: store.select(query="voxel_count > 1", sample="testing"))
    attempt("read", lambda: part.read(0, len(part), "net"))
    for rows in ("images", "voxels", "truth"):
        attempt(rows, lambda rows=rows: part.to_pandas(rows))
    attempt("xarray", lambda: part.to_xarray().load())
    attempt("sel", lambda: part.to_xarray().sel(file=0, tpc=1).load())
    attempt("split", lambda: part.split(0.5, 0))
    for image in part[:3]:
        for name in ("coords", "charge", "live", "truth", "truth_voxels", "truth_columns", "pixels", "_repr_html_"):
            attempt(name, lambda image=image, name=name: getattr(image, name))
        attempt("score", lambda image=image: image.score("net"))
        attempt("position", lambda image=image: image.position())
        attempt("repr", lambda image=image: (repr(image), image._repr_html_()))
        attempt("pieces", lambda image=image: list(image.pixel_pieces(8)))
    return errors
