"""What `larstore browse` answers: a list of a selection's images, and the page and the numbers of each."""

import html
import json
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import urlencode

from larstore.errors import StoreError
from larstore.image import Image
from larstore.index import KEYS
from larstore.report import document, plotly_script
from larstore.selection import Selection
from train.results.cloud import MAX_POINTS, find_image
from train.results.display.listing import Listing, whole_number
from train.results.display.page import check_threshold, default_prediction, json_text, page_body, static
from train.results.display.payload import event_payload

HTML, JSON, SCRIPT = ("text/html", "application/json", "text/javascript")
ICON = '<link rel="icon" href="data:,">'  # none: browsers would ask for one
NO_PREDICTION = "-"  # in an address: show no scores


class Answer(NamedTuple):
    """What a request gets; ``lasting``: it does not change while the program runs."""

    kind: str
    text: str
    lasting: bool = False


class Browser:
    """Answers the requests for a selection's pages; safe to use from threads, writes nothing.

    Args:
        selection: the images that are shown.
        prediction, threshold, max_points: as in `train.results.display.page.view_images`.
    """

    def __init__(
        self,
        selection: Selection,
        prediction: str | None = None,
        threshold: float | None = None,
        max_points: int = MAX_POINTS,
    ) -> None:
        self.listing = Listing(selection)
        self.store = selection.store
        self.name = str(self.store.path).rstrip("/").rpartition("/")[2]
        self.prediction = default_prediction(self.store, prediction)
        check_threshold(threshold)
        self.threshold, self.max_points = threshold, max_points
        self._answers: dict[str, Callable[[Mapping[str, str]], Answer]] = {
            "": self._list,
            "images.json": self._images,
            "view": self._view,
            "event.json": self._event,
            "plotly.js": lambda asked: Answer(SCRIPT, plotly_script(), lasting=True),
        }

    def answer(self, path: str, asked: Mapping[str, str]) -> Answer | None:
        """The answer to a path without the token, exactly one of those that there are, else None.

        Raises:
            LarstoreError: what is asked for makes no sense, or the store is damaged there.
        """
        found = self._answers.get(path)
        return None if found is None else found(asked)

    def _list(self, asked: Mapping[str, str]) -> Answer:
        about, total = self.store.attributes, len(self.listing.all)
        predictions = ", ".join(sorted(self.store.predictions)) or "none"
        facts = " · ".join((about["detector"], f"{total:,} images", f"predictions: {predictions}"))
        boxes = "".join(
            f'<label>{label}<input type="text" id="{name}" placeholder="{hint}" autocomplete="off"></label>'
            for name, label, hint in zip(KEYS, ("file", "event", "TPC"), ("7 or 1:20", "0", "1"), strict=True)
        )
        buttons = "".join(
            f'<button id="{name}">{label}</button>'
            for name, label in (("first", "« first"), ("back", "‹ back"), ("on", "next ›"), ("last", "last »"))
        )
        body = (
            f'<header><h1>{html.escape(self.name)}</h1><div class="facts">{html.escape(facts)}</div></header>'
            f'<main><form id="search">{boxes}<button>search</button></form><div id="error"></div>'
            f'<div class="row" id="pages"><div class="group">{buttons}</div><div class="faint" id="total"></div></div>'
            '<table><thead><tr id="head"></tr></thead><tbody id="rows"></tbody></table>'
            f"</main><script>{static('list.js')}</script>"
        )
        return Answer(HTML, document(self.name, static("page.css") + static("list.css"), ICON, body))

    def _images(self, asked: Mapping[str, str]) -> Answer:
        return Answer(JSON, json.dumps(self.listing.rows(asked)))

    def _view(self, asked: Mapping[str, str]) -> Answer:
        """The page of an image by its position among those that fit, or of the one with file, event and tpc alone."""
        chosen = {name: asked[name] for name in KEYS if name in asked}
        if "position" in asked:
            part = self.listing.part(chosen)
            position = whole_number(asked["position"], "position")
            self._image(part, position)
        else:
            key = [whole_number(asked.get(name, ""), name) for name in KEYS]
            chosen, part = {}, self.listing.all
            found = self.listing.position(find_image(self.store, *key).row)
            if found is None:
                raise StoreError(f"{self.store.path}: image {tuple(key)} is not served. Fix: browse without a choice")
            position = found
        name = self._prediction(asked)
        address = {**chosen, "prediction": name or NO_PREDICTION}
        page = {"total": len(part), "start": position, "address": f"event.json?{urlencode(address)}"}
        places = f'<input type="number" id="position" min="1" max="{len(part)}"><span>of {len(part):,}</span>'
        home = f'<a href="./?{urlencode(chosen)}" id="home">≡ all images</a>'
        head = ICON + '<script src="plotly.js"></script>'
        body = page_body(page, places, home, self._choice(chosen, name))
        return Answer(HTML, document(self.name, static("page.css"), head, body))

    def _choice(self, chosen: Mapping[str, str], current: str | None) -> str:
        """The element that chooses between the store's predictions."""
        names = sorted(self.store.predictions)
        if not names or names == [current]:
            return ""
        options = "".join(
            f'<option value="{html.escape(value)}"{" selected" if value == (current or NO_PREDICTION) else ""}>'
            f"{html.escape(text)}</option>"
            for value, text in [(NO_PREDICTION, "none"), *((name, name) for name in names)]
        )
        chooser = f'<select id="prediction">{options}</select>'
        return f'<div class="group"><label for="prediction">prediction</label>{chooser}</div>'

    def _event(self, asked: Mapping[str, str]) -> Answer:
        part = self.listing.part(asked)
        image = self._image(part, whole_number(asked.get("position", ""), "position"))
        return Answer(JSON, json_text(event_payload(image, self._prediction(asked), self.threshold, self.max_points)))

    def _image(self, part: Selection, position: int) -> Image:
        if position >= len(part):
            raise StoreError(f"{self.store.path}: no image {position + 1} of {len(part)}. Fix: take one of them")
        return part[position]

    def _prediction(self, asked: Mapping[str, str]) -> str | None:
        name = asked.get("prediction")
        if name is None:
            return self.prediction
        return None if name == NO_PREDICTION else default_prediction(self.store, name)
