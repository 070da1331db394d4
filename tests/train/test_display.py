"""Pages of single events: what they hold, that they need no network, what is refused."""

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

import larstore
from larstore.errors import StoreError
from larstore.report import Page
from larstore.testing import make_store
from train.results.cloud import find_image, make_cloud
from train.results.comparison import comparison_figure
from train.results.display import payload, view
from train.results.evaluation import evaluate


class References(HTMLParser):
    """Everything that a browser would load from elsewhere."""

    def __init__(self):
        super().__init__()
        self.found, self.tags = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        values = dict(attributes)
        if tag in ("script", "img", "iframe", "link", "source"):
            self.found += [values[key] for key in ("src", "href") if key in values]


def references(page):
    parser = References()
    parser.feed(page)
    assert "html" in parser.tags
    return parser.found


def event_of(page):
    return json.loads(re.search(r"const EVENT = (\{.*?\});\n", page)[1].replace("<\\/", "</"))


def column(event, name):
    return np.frombuffer(base64.b64decode(event["columns"][name]), "<f4")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = make_store(tmp_path_factory.mktemp("display") / "run.zarr")
    with larstore.PredictionWriter(path, "net", {"checkpoint_sha256": "a" * 64}) as writer:
        for shard, images in writer.groups(larstore.open(path).select()):
            writer.write(shard, [(image, np.linspace(0, 1, len(image), dtype=np.float32)) for image in images])
        writer.commit()
    return path


def test_the_page_holds_the_image(store, tmp_path):
    out = view(store, 1, 0, 1, tmp_path / "new/event.html", threshold=0.25)
    page = out.read_text(encoding="utf-8")
    image = larstore.open(store).image(file=1, event=0, tpc=1)
    event = event_of(page)
    position = np.stack([column(event, axis) for axis in "xyz"], axis=1)
    assert position == pytest.approx(image.position(), abs=1e-3)
    assert column(event, "charge_w") == pytest.approx(image.charge[:, 2])
    assert column(event, "truth") == pytest.approx(image.truth)
    assert column(event, "score") == pytest.approx(image.score("net"))
    assert event["unit"] == "cm"
    assert event["threshold"] == 0.25
    assert [colour["name"] for colour in event["colours"]] == [
        "charge",
        "charge_u",
        "charge_v",
        "charge_w",
        "truth",
        "score",
    ]
    for text in ("file 1 · event 0 · TPC 1", "sample testing", "100 voxels", "30 true (30.0%)", "prediction net"):
        assert text in page


def test_no_page_loads_anything(store, tmp_path):
    event = view(store, 0, 0, 1, tmp_path / "event.html")
    evaluate(store, "net", tmp_path)
    for path in (event, tmp_path / "evaluate.html"):
        page = path.read_text(encoding="utf-8")
        assert references(page) == []
        assert page.count("plotly.js v") == 1, "the script is there, once"


def test_without_truth_and_prediction(tmp_path):
    path = make_store(tmp_path / "run.zarr", truth=False)
    page = view(path, 0, 1, 1, tmp_path / "event.html").read_text(encoding="utf-8")
    event = event_of(page)
    assert {"truth", "score"}.isdisjoint(event["columns"])
    assert event["scores"] is None
    assert "no truth" in page
    assert "no prediction" in page


def test_faint_voxels_are_left_out_and_said_so(store, tmp_path):
    page = view(store, 0, 0, 1, tmp_path / "event.html", max_points=40).read_text(encoding="utf-8")
    charge = larstore.open(store).image(file=0, event=0, tpc=1).charge.mean(axis=1)
    drawn = column(event_of(page), "charge")
    assert sorted(drawn) == pytest.approx(sorted(charge)[-40:])
    assert f"60 of 100 voxels, those with a charge below {drawn.min():,.0f} electrons, are not drawn" in page


def test_voxel_numbers_where_the_geometry_does_not_tell(store):
    opened = larstore.open(store)
    frame = opened.geometry.tpcs[1]
    opened.geometry.tpcs[1] = frame.model_copy(update={"drift_speed_mm_us": None})
    image = opened.image(file=0, event=0, tpc=1)
    cloud = make_cloud(image, None, 1000)
    assert cloud.unit == "voxel"
    assert (cloud.position == image.coords).all()


def test_what_is_refused(store, tmp_path):
    with pytest.raises(
        StoreError, match=r"no image with file 1 event 7 TPC 1\. Fix: take one that there is, e\.g\. 1 1 1, 1 0 1"
    ):
        view(store, 1, 7, 1, tmp_path / "event.html")
    with pytest.raises(StoreError, match="no prediction 'other', known: net"):
        view(store, 1, 0, 1, tmp_path / "event.html", prediction="other")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Fix: another output path"):
        view(store, 1, 0, 1, tmp_path / "file" / "event.html")
    assert not (tmp_path / "event.html").exists()


def test_text_from_a_store_cannot_become_markup(tmp_path):
    from larstore.records import InputFile
    from larstore.testing import add_images, make_image

    path = make_store(tmp_path / "run.zarr", n_files=1)
    evil = "</script><script src='http://example.org/x.js'></script>"
    add_images(path, [make_image(5, input="in.npz")], [InputFile("in.npz", 5, 1, "0" * 64, evil)])
    page = view(path, 5, 0, 1, tmp_path / "event.html").read_text(encoding="utf-8")
    assert references(page) == []
    assert "sample &lt;/script>" in page
    report = Page(evil)
    report.table(["a"], [[evil]])
    report.code(evil, evil)
    report.links([(evil, evil)])
    assert references(report.text()) == []


def test_side_by_side(store):
    cloud = make_cloud(find_image(larstore.open(store), 0, 0, 1), "net", 1000)
    figure = comparison_figure(cloud, 0.5)
    assert [len(trace.x) for trace in figure.data] == [100, 50, 30]
    assert figure.data[0].x == pytest.approx(np.round(cloud.position[:, 2], 1))
    assert figure.layout.scene.yaxis.range == figure.layout.scene3.yaxis.range


def test_an_image_without_voxels(tmp_path):
    from larstore.testing import add_images, make_image

    path = make_store(tmp_path / "run.zarr", n_files=1)
    add_images(path, [make_image(5, n_voxels=0)])
    page = view(path, 5, 0, 1, tmp_path / "event.html").read_text(encoding="utf-8")
    assert len(column(event_of(page), "x")) == 0


@pytest.mark.parametrize(("up", "names"), [(1, ["z", "x, drift", "y, up"]), (0, ["z", "y", "x, drift, up"])])
def test_up_is_up_on_the_page(store, up, names):
    cloud = replace(make_cloud(larstore.open(store).image(file=1, event=0, tpc=1), "net", 50), up=up)
    data = payload(cloud, 0.5)
    assert [data["scene"][axis]["title"]["text"] for axis in ("xaxis", "yaxis", "zaxis")] == [
        f"{name} [cm]" for name in names
    ]
    assert data["axes"] == [name[0] for name in names]
    figure = comparison_figure(cloud, 0.5)
    assert figure.data[0].z == pytest.approx(np.round(cloud.position[:, up], 1))
