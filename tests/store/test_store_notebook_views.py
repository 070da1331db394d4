"""What a notebook shows: well-formed, small, escaped, true; and no voxel is read for it."""

from html.parser import HTMLParser

import pytest

import larstore
from larstore.records import Failure, InputFile
from larstore.testing import add_images, make_geometry, make_image

HOSTILE = "<script>alert('&')</script>.npz"


class Page(HTMLParser):
    """The texts of the cells by row; fails where tags are not closed in order, or are none of a table."""

    def __init__(self, text):
        super().__init__()
        self.open, self.rows = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert tag in ("table", "thead", "tbody", "tfoot", "tr", "th", "td")
        assert {name for name, _ in attrs} <= {"style", "colspan"}
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.rows[-1][-1] += data

    @property
    def facts(self):
        return {row[0]: row[1] for row in self.rows if len(row) == 2}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("<i>&amp;") / "a.zarr"
    geometry = make_geometry((1, 5))
    larstore.create(path, geometry=geometry, provenance={}, shard_rows=64, chunk_rows=16, truth_columns=("pdg",))
    inputs = [InputFile(HOSTILE, 7, 10, "0" * 64, "<b>cosmic</b>"), InputFile("b", 8, 10, "1" * 64, "")]
    images = [make_image(7, e, 1, 500 * e, input=HOSTILE) for e in range(6)] + [make_image(8, 0, 5, 20, truth=False)]
    add_images(path, images, inputs)
    with larstore.StoreWriter(path) as writer:
        writer.commit([], [Failure(9, 1, "c.npz", "broken")])
    return larstore.open(path)


@pytest.fixture(autouse=True)
def no_voxel_is_read(monkeypatch):
    monkeypatch.setattr(larstore.Store, "reader", lambda store, path: pytest.fail(f"{path} is read"))


def test_a_store(store):
    page = Page(store._repr_html_())
    assert page.rows[0] == [f"Store {store.path}"]
    assert page.facts == {
        "detector": "testing",
        "images": "7",
        "files": "2, from 7 to 8",
        "TPCs": "1, 5",
        "voxels": "7,520",
        "truth voxels": f"{store.index.truth_count.sum():,}",
        "planes": "u, v, w, in electrons",
        "voxel": "6.4 × 8 × 8 mm (8 × 4 × 4 ticks and pixels)",
        "samples": "not named, <b>cosmic</b>",
        "truth columns": "pdg",
        "pixels": "not kept",
        "predictions": "none",
        "failures": "1",
        "commit": "2 (format version 1)",
    }


def test_a_selection(store):
    part = store.select(tpcs=[1], query="voxel_count < 9999 and file < 9")
    page = Page(part._repr_html_())
    assert page.rows[0] == ["Selection of 6 images"]
    assert page.facts["chosen by"] == "tpcs=[1], query='voxel_count < 9999 and file < 9'"
    assert page.facts["voxels"] == "7,500"
    at = page.rows.index(["file", "event", "tpc", "voxel_count", "truth_count"])
    shown = part.rows.reset_index()[page.rows[at]].head(5)
    assert page.rows[at + 1 :] == [*shown.astype(str).to_numpy().tolist(), ["and 1 more"]]
    assert "more" not in Page(part[:5]._repr_html_()).rows[-1]


def test_an_empty_selection_and_an_empty_store(store, tmp_path):
    page = Page(store.select(files=(0, 0))._repr_html_())
    assert [page.facts[name] for name in ("images", "files", "TPCs", "voxels")] == ["0", "0", "none", "0"]
    assert len(page.rows) == 8
    larstore.create(tmp_path / "b.zarr", geometry=make_geometry(), provenance={})
    assert Page(larstore.open(tmp_path / "b.zarr")._repr_html_()).facts["images"] == "0"


def test_an_image(store):
    image = store.image(7, 3, 1)
    page = Page(image._repr_html_())
    row = store.index.loc[7, 3, 1]
    sums = ", ".join(f"{plane} {row[f'charge_sum_{plane}']:.6g}" for plane in "uvw")
    assert page.rows[0] == ["Image of file 7, event 3, TPC 1"]
    assert page.facts == {
        "store": str(store.path),
        "voxels": "1,500",
        "charge": f"{sums} electrons",
        "truth": f"{row.truth_sum:.6g} electrons in {int(row.truth_count):,} voxels",
        "bad channels": "0",
        "run, subrun, id": "27409, 1, 103",
        "made from": HOSTILE,
        "sample": "<b>cosmic</b>",
    }
    other = Page(store.image(8, 0, 5)._repr_html_()).facts
    assert [other[name] for name in ("truth", "made from", "sample")] == ["not known", "not known", ""]


def test_it_stays_small(store):
    part = store.select()
    for n in range(200):
        part = part.select(query=f"voxel_count < {10_000 + n}")
    page = Page(part._repr_html_())
    assert page.facts["chosen by"].startswith("query='voxel_count < 10000'; ")
    assert page.facts["chosen by"].endswith("…")
    assert len(page.facts["chosen by"]) == 200
    assert len(part._repr_html_()) < 5000
