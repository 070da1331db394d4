"""Where a store's content came from: versions, configuration, commits, inputs and the checkpoints of predictions."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import yaml

from larstore.store import Store

LISTED = 20  # inputs that the text lists; JSON has them all


def provenance_of(store: Store) -> dict[str, Any]:
    """All of it as JSON-like values.

    Keys: ``provenance`` (software versions, resolved configuration, history, as recorded), ``geometry_hash``,
    ``commits`` (number of images that each commit made and that still exist), ``input_files`` (path, file, size in
    bytes, sha256, sample, images), ``prediction_attributes`` (name -> checkpoint_sha256, config, …).
    """
    part = store.select()
    commits, n_images = np.unique(part.column("commit"), return_counts=True)
    known = (part.column("input") >= 0) & (part.column("input") < len(store.inputs))
    of_input = np.bincount(part.column("input")[known], minlength=len(store.inputs))
    inputs = store.inputs.to_dict("records")
    return {
        "provenance": store.attributes["provenance"],
        "geometry_hash": store.attributes["geometry_hash"],
        "commits": dict(zip((str(number) for number in commits), n_images.tolist(), strict=True)),
        "input_files": [row | {"images": n} for row, n in zip(inputs, of_input.tolist(), strict=False)],
        "prediction_attributes": store.predictions,
    }


def lines_of(origin: dict[str, Any]) -> Iterator[str]:
    """``provenance_of`` as text: YAML, with a line for each of the first inputs."""
    shown = {key: value for key, value in origin.items() if key != "input_files"}
    if shown:
        yield yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=120).rstrip()
    inputs = origin.get("input_files", [])
    if inputs:
        yield f"input_files:  # {len(inputs)}; images made from it, bytes, sha256, path"
    for row in inputs[:LISTED]:
        yield f"- {row['images']:>6} {row['size']:>14,} {row['sha256']} {row['path']}"
    if len(inputs) > LISTED:
        yield f"# {len(inputs) - LISTED} more: --json lists all"
