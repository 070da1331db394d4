"""`larstore view`: one or several events in 3D as a page that opens without a network."""

import html
import json
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

import larstore
from larstore.errors import StoreError
from larstore.image import Image
from larstore.report import document, plotly_script, write_page
from larstore.selection import Selection
from train.results.cloud import MAX_POINTS, find_image
from train.results.display.payload import event_payload

MOST_IMAGES = 200  # of a page; some MB each
SCRIPTS = ("event.js", "space.js", "planes.js", "page.js")
BODY = """<header>
<div class="row">{home}<h1 id="title"></h1>
<div class="group" id="steps"><button id="previous" title="left arrow">‹ previous</button>{position}
<button id="next" title="right arrow">next ›</button></div>{more}
<div class="facts" id="facts"></div></div>
<div class="row"><div class="group" id="colour"><span>colour</span></div>
<div class="group" id="show"><span>show</span></div><div class="group" id="frame"><span>frame</span></div></div>
<div class="row"><div class="group" id="cut"><label for="slider"><span id="of"></span> <b id="value"></b></label>
<input type="range" id="slider" min="0" step="1"></div><div id="counts"></div><div class="faint" id="drawn"></div></div>
<div class="notes" id="notes"></div><div id="error"></div></header>
<main><div id="left"><div id="space"></div><div id="legend"></div><div id="info"></div></div>
<div id="right"><div id="planes"></div><div id="wave"></div><div class="faint" id="says"></div></div></main>
"""


def view(
    store_path: str | os.PathLike[str],
    file: int,
    event: int,
    tpc: int,
    out: str | os.PathLike[str],
    prediction: str | None = None,
    threshold: float | None = None,
    max_points: int = MAX_POINTS,
) -> Path:
    """Write the page of one image to ``out``; see `view_images`. StoreError also for an image that there is not."""
    image = find_image(larstore.open(store_path), file, event, tpc)
    return view_images([image], out, prediction, threshold, max_points)


def images_from(selection: Selection, key: Sequence[int], count: int) -> list[Image]:
    """The image with this (file, event, TPC) and those behind it in the selection, ``count`` in all if there are.

    Raises StoreError, with the nearest keys, if there is no such image.
    """
    first = find_image(selection.store, *key)
    start = int(np.flatnonzero(selection.row_numbers == first.row)[0])
    return list(selection[start : start + count])


def check_threshold(threshold: float | None) -> None:
    """StoreError for one that no page can hold."""
    if threshold is not None and not abs(threshold) <= float(np.finfo(np.float32).max):
        raise StoreError(f"threshold {threshold:g}: is no score. Fix: a finite number, as 0.5")


def view_images(
    images: Sequence[Image],
    out: str | os.PathLike[str],
    prediction: str | None = None,
    threshold: float | None = None,
    max_points: int = MAX_POINTS,
) -> Path:
    """Write a page of one or several images of a store to ``out``, to step through; returns its path.

    Voxels are coloured by charge, truth, score, their difference, or by what they are by truth and score; a slider
    cuts on the score; beside it are the wire planes (ticks × channels) and the charge along ticks.

    Args:
        images: in the order in which one steps.
        out: an HTML file; all of it is in there, also plotly.js.
        prediction: its scores are shown; None takes the store's only prediction, if there is exactly one.
        threshold: where the slider starts: 0.5 by default, 1,000 electrons for a prediction of charges.
        max_points: of an image with more voxels, 2 × 2 × 2 of them are drawn as one point, and so on.

    Raises:
        StoreError: no image or too many, no such prediction or threshold, or ``out`` cannot be written.
    """
    if not images:
        raise StoreError(f"{out}: no image to show. Fix: choose images that there are, 'larstore index' lists them")
    if len(images) > MOST_IMAGES:
        raise StoreError(
            f"{out}: {len(images):,} images, and a page takes {MOST_IMAGES}. Fix: choose fewer, or larstore browse"
        )
    check_threshold(threshold)
    name = default_prediction(images[0].store, prediction)
    parts, titles = [], []
    for i, image in enumerate(images):
        # Of its own, so that its arrays are let go of.
        payload = event_payload(Image(image.store, image.row), name, threshold, max_points)
        parts.append(f'<script type="application/json" id="event-{i}">{json_text(payload)}</script>')
        titles.append(payload["title"])
    options = "".join(f'<option value="{i}">{html.escape(title)}</option>' for i, title in enumerate(titles))
    body = page_body({"total": len(titles), "start": 0, "titles": titles}, f'<select id="position">{options}</select>')
    head = f"<script>{plotly_script()}</script>"
    return write_page(out, document(titles[0], static("page.css"), head, "".join(parts) + body))


def default_prediction(store: Any, prediction: str | None) -> str | None:
    """The prediction that was asked for, or the store's only one. StoreError for one that it does not have."""
    names = sorted(store.predictions)
    if prediction is None:
        return names[0] if len(names) == 1 else None
    if prediction not in names:
        raise StoreError(
            f"{store.path}: no prediction {prediction!r}, known: {', '.join(names) or 'none'}. "
            f"Fix: run 'larstore infer --name {prediction}'"
        )
    return prediction


def page_body(page: dict[str, Any], position: str, home: str = "", more: str = "") -> str:
    """The body of an event's page: what ``PAGE`` is for its script, the element to choose a position, further HTML."""
    script = "\n".join(static(name) for name in SCRIPTS)
    body = BODY.format(position=position, home=home, more=more)
    return f"{body}<script>const PAGE = {json_text(page)};\n{script}</script>"


def static(name: str) -> str:
    """The text of a style or script of the page."""
    return resources.files(__package__).joinpath("static", name).read_text(encoding="utf-8")


def json_text(value: Any) -> str:
    """JSON that cannot end the script it stands in."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
