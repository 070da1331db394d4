"""What a notebook shows of a store, a selection and an image: small tables of escaped text, from the index alone."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from larstore.image import Image
    from larstore.selection import Selection
    from larstore.store import Store

LONGEST = 200  # characters of a cell
SHOWN_IMAGES = 5


def store_html(store: "Store") -> str:
    """The table of a store: how it was made, what it holds."""
    a, part = store.attributes, store.select()
    size = [f"{length:.4g}" if length is not None else "?" for length in a["voxel_mm"]]
    facts = {
        "detector": a["detector"],
        **_contents(part),
        "planes": f"{', '.join(store.root.planes)}, in {a['units']}",
        "voxel": f"{' × '.join(size)} mm ({' × '.join(map(str, a['downsample']))} ticks and pixels)",
        "samples": _listed(name or "not named" for name in sorted(set(store.inputs["sample"]))),
        "truth columns": _listed(store.root.truth_columns),
        "pixels": "kept" if store.root.pixels else "not kept",
        "predictions": _listed(sorted(store.predictions)),
        "failures": f"{len(store.failures):,}",
        "commit": f"{a['commit']} (format version {a['format_version']})",
    }
    return _table(f"Store {store.path}", facts)


def selection_html(selection: "Selection") -> str:
    """The table of a selection: how it was chosen, what it holds, its first images."""
    facts = {"store": str(selection.store.path), "chosen by": "; ".join(selection.conditions) or "everything"}
    rows = selection[:SHOWN_IMAGES].rows[["voxel_count", "truth_count"]].reset_index()
    more = f"and {len(selection) - len(rows):,} more" if len(selection) > len(rows) else ""
    first = _grid(list(rows.columns), rows.itertuples(index=False), more) if len(rows) else ""
    return _table(f"Selection of {len(selection):,} images", facts | _contents(selection)) + first


def image_html(image: "Image") -> str:
    """The table of an image: its key, its sums, where it comes from."""
    store, (file, event, tpc) = image.store, image.key
    number, truth = image.summary("input"), image.summary("truth_sum")
    known = 0 <= number < len(store.inputs)
    made_from = store.inputs.iloc[number] if known else {"path": "not known", "sample": ""}
    units = store.attributes["units"]
    sums = (f"{plane} {image.summary(f'charge_sum_{plane}'):.6g}" for plane in store.root.planes)
    facts = {
        "store": str(store.path),
        "voxels": f"{len(image):,}",
        "charge": f"{', '.join(sums)} {units}",
        "truth": "not known" if np.isnan(truth) else f"{truth:.6g} {units} in {image.summary('truth_count'):,} voxels",
        "bad channels": f"{image.summary('n_bad_channels'):,}",
        "run, subrun, id": ", ".join(str(image.summary(name)) for name in ("run", "subrun", "event_id")),
        "made from": str(made_from["path"]),
        "sample": str(made_from["sample"]),
    }
    return _table(f"Image of file {file}, event {event}, TPC {tpc}", facts)


def _contents(part: "Selection") -> dict[str, str]:
    files, tpcs = np.unique(part.column("file")), np.unique(part.column("tpc"))
    return {
        "images": f"{len(part):,}",
        "files": f"{len(files):,}" + (f", from {files[0]} to {files[-1]}" if len(files) else ""),
        "TPCs": _listed(tpcs.tolist()),
        "voxels": f"{part.column('voxel_count').sum(dtype=np.int64):,}",
        "truth voxels": f"{part.column('truth_count').sum(dtype=np.int64):,}",
    }


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values)) or "none"


def _text(value: Any) -> str:
    text = str(value)
    return escape(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")


def _table(title: str, facts: Mapping[str, str]) -> str:
    rows = "".join(
        f'<tr><th style="text-align:left">{_text(name)}</th><td style="text-align:left">{_text(value)}</td></tr>'
        for name, value in facts.items()
    )
    return f"<table><thead><tr><th colspan=2>{_text(title)}</th></tr></thead><tbody>{rows}</tbody></table>"


def _grid(names: list[str], rows: Iterable[Iterable[Any]], more: str) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{_text(value)}</td>" for value in row) + "</tr>" for row in rows)
    foot = f"<tfoot><tr><td colspan={len(names)}>{_text(more)}</td></tr></tfoot>" if more else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody>{foot}</table>"
