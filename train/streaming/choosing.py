"""The images that a configuration, or an option, chooses of a store; what is not there is told with what is."""

from typing import Any

import numpy as np

from larstore.errors import ConfigError
from larstore.selection import Selection, expect_tpcs
from train.schema import SourceConfig


def choose(store: Any, source: SourceConfig, key: str) -> Selection:
    """The images of a source of ``data.KEY``. Raises ConfigError where there is none, or none of one of its TPCs."""
    selection: Selection = store.select(files=source.files, tpcs=source.tpcs)
    if not len(selection):
        raise ConfigError(_nothing(store, source, key))
    expect_tpcs(store, source.tpcs, "data.tpcs")
    return selection


def expect_images(selection: Selection) -> None:
    """ConfigError if nothing is selected."""
    if not len(selection):
        path, how = selection.store.path, ", ".join(selection.conditions)
        raise ConfigError(
            f"{path}: no image is chosen{f' by {how}' if how else ''}. "
            f"Fix: choose among those that 'larstore index {path}' lists"
        )


def _nothing(store: Any, source: SourceConfig, key: str) -> str:
    """What is wrong with a source that holds no image: its TPCs, or its files."""
    index = store.index_columns
    there = {name: np.unique(index.column(name)[index.live]) for name in ("file", "tpc")}
    listed = f"'larstore index {source.path}' lists what there is"
    if not len(there["file"]):
        return f"{source.path}: the store holds no image. Fix: preprocess into it, or leave it out of data.data_path"
    unknown = sorted(set(source.tpcs or ()) - set(there["tpc"].tolist()))
    if unknown and len(unknown) == len(set(source.tpcs or ())):
        known = ", ".join(map(str, there["tpc"][:20]))
        return f"{source.path}: no image of TPCs {unknown}, the store has {known}. Fix: correct data.tpcs; {listed}"
    reach = f"{there['file'][0]} to {there['file'][-1]}"
    return (
        f"{source.path}: no image in files {list(source.files)}, TPCs {source.tpcs or 'all'}; the store has files "
        f"{reach}. Fix: correct data.{key} or data.tpcs; {listed}"
    )
