"""Pages of single events: what they hold, that they need no network, what is refused."""

import base64
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest

import larstore
from larstore.errors import StoreError
from larstore.report import Page
from larstore.testing import make_store
from train.results.cloud import find_image, make_cloud, not_tiled
from train.results.comparison import comparison_figure
from train.results.display.browsing import Browser
from train.results.display.cuts import cut_table
from train.results.display.outlines import box_line, tpc_box
from train.results.display.page import images_from, view, view_images
from train.results.display.payload import event_payload
from train.results.evaluation import evaluate
from train.results.scene import axes_of, scene


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


def events_of(page):
    texts = re.findall(r'<script type="application/json" id="event-\d+">(.*?)</script>', page)
    return [json.loads(text) for text in texts]


def column(event, name):
    kind, text = event["columns"][name]
    return np.frombuffer(base64.b64decode(text), f"<{kind}")


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
    (event,) = events_of(page)
    position = np.stack([column(event, axis) for axis in "xyz"], axis=1)
    assert position == pytest.approx(image.position(), abs=1e-3)
    assert column(event, "charge_w") == pytest.approx(image.charge[:, 2])
    assert column(event, "truth") == pytest.approx(image.truth)
    assert column(event, "score") == pytest.approx(image.score("net"))
    assert column(event, "difference") == pytest.approx(image.score("net") - (image.truth > 0))
    assert (column(event, "slice") == image.coords[:, 0]).all()
    assert event["unit"] == "cm"
    assert event["cut"]["values"][event["cut"]["start"]] == 0.25
    names = ["charge", "charge_u", "charge_v", "charge_w", "truth", "score", "difference", "category"]
    assert [colour["name"] for colour in event["colours"]] == names
    for text in ("file 1 · event 0 · TPC 1", "sample testing", "100 voxels", "30 true (30.0%)", "prediction net"):
        assert text in page


def test_several_images_on_one_page(store, tmp_path):
    part = larstore.open(store).select()
    some = images_from(part, (0, 1, 1), 2)
    assert [image.key for image in some] == [(0, 1, 1), (1, 0, 1)]
    page = view_images(some, tmp_path / "events.html").read_text(encoding="utf-8")
    assert [event["key"] for event in events_of(page)] == [[0, 1, 1], [1, 0, 1]]
    assert page.count("plotly.js v") == 1
    assert [image.key for image in images_from(part, (1, 0, 1), 50)] == [(1, 0, 1), (1, 1, 1)]
    with pytest.raises(StoreError, match=r"201 images, and a page takes 200\. Fix: choose fewer, or larstore browse"):
        view_images(some[:1] * 201, tmp_path / "many.html")
    with pytest.raises(StoreError, match="no image to show"):
        view_images([], tmp_path / "none.html")


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
    (event,) = events_of(page)
    assert {"truth", "score", "difference"}.isdisjoint(event["columns"])
    assert event["cut"] is None
    assert "no truth" in page
    assert "no prediction" in page


def test_truth_without_prediction_and_prediction_without_truth(store, tmp_path):
    path = make_store(tmp_path / "run.zarr", truth=False)
    with larstore.PredictionWriter(path, "net", {"checkpoint_sha256": "a" * 64}) as writer:
        for shard, images in writer.groups(larstore.open(path).select()):
            writer.write(shard, [(image, np.full(len(image), 0.5, np.float32)) for image in images])
        writer.commit()
    event = event_payload(larstore.open(path).select()[0], "net")
    assert [colour["name"] for colour in event["colours"]][-1] == "score"
    assert "kept_true" not in event["cut"]
    event = event_payload(larstore.open(store).select()[0], None)
    assert [colour["name"] for colour in event["colours"]][-1] == "truth"
    assert "Predictions not shown: net." in event["notes"]


def test_many_voxels_are_drawn_as_coarser_ones_and_said_so(store, tmp_path):
    image = larstore.open(store).image(file=0, event=0, tpc=1)
    cloud = make_cloud(image, "net", 99)
    assert cloud.side > 1
    assert len(cloud) <= 99
    key = image.coords.astype(int) // cloud.side
    for i in (0, len(cloud) // 2, len(cloud) - 1):
        inside = (key == cloud.coords[i]).all(axis=1)
        assert cloud.charge[i] == pytest.approx(image.charge[inside].sum(axis=0), rel=1e-5)
        assert cloud.truth[i] == pytest.approx(image.truth[inside].sum(), rel=1e-5)
        assert cloud.score[i] == image.score("net")[inside].max()
        if inside.sum() == 1:
            size = np.abs(cloud.position[i] - image.position()[inside][0])
            assert (size <= cloud.side * np.array([0.64, 0.8, 0.8]) / 2 + 1e-3).all()
    assert cloud.charge.sum() == pytest.approx(image.charge.sum(), rel=1e-5)
    page = view(store, 0, 0, 1, tmp_path / "event.html", max_points=99).read_text(encoding="utf-8")
    (event,) = events_of(page)
    side = cloud.side
    assert f"100 voxels are drawn as {len(cloud)} points of up to {side} × {side} × {side} voxels" in page
    assert event["cut"]["kept"][0] == 100, "the cut counts voxels"


def test_what_a_cut_keeps():
    score = np.array([0.1, 0.5, 0.5, 0.9, np.nan, 0.3], np.float32)
    truth = np.array([0.0, 10.0, 0.0, 10.0, 10.0, np.nan], np.float32)
    table = cut_table(score, truth, all_true=7, start=None, charge=False)
    at = table["start"]
    assert table["values"][at] == 0.5
    assert (table["kept"][at], table["kept_true"][at], table["kept_ghost"][at]) == (3, 2, 1)
    assert (table["kept"][0], table["kept"][-1]) == (5, 0)
    assert (table["true"], table["all_true"]) == (3, 7)
    for value, kept in zip(table["values"], table["kept"], strict=True):
        assert kept == int((score >= np.float32(value)).sum())
    charges = cut_table(score * 1e5, None, None, start=None, charge=True)
    assert charges["values"][charges["start"]] == 1000.0
    assert charges["values"][0] == 0.0
    assert charges["values"][-1] == pytest.approx(9e4)
    assert "kept_true" not in charges


def test_charges_are_compared_with_what_is_collected(tmp_path):
    path = make_store(tmp_path / "run.zarr", n_files=1, truth_columns=("collected",))
    scale = 3e-5
    about = {"checkpoint_sha256": "a" * 64, "output": "charge", "config": {"data": {"scale": [scale, scale]}}}
    with larstore.PredictionWriter(path, "net", about) as writer:
        for shard, images in writer.groups(larstore.open(path).select()):
            writer.write(shard, [(image, scale * image.charge[:, 2]) for image in images])
        writer.commit()
    image = larstore.open(path).select()[0]
    event = event_payload(image, "net")
    assert column(event, "score") == pytest.approx(image.charge[:, 2], rel=1e-5)
    assert column(event, "difference") == pytest.approx(image.charge[:, 2] - image.collected, rel=1e-4, abs=1)
    labels = {colour["name"]: colour["label"] for colour in event["colours"]}
    assert labels["score"] == "predicted charge"
    assert labels["difference"] == "predicted − collected"
    assert event["cut"]["charge"]
    coarse = make_cloud(image, "net", 50)
    assert coarse.score.sum() == pytest.approx(image.charge[:, 2].sum(), rel=1e-4), "charges are sums"
    about["config"]["data"]["scale"] = [1.0, 2.0]
    with larstore.PredictionWriter(path, "mixed", about) as writer:
        for shard, images in writer.groups(larstore.open(path).select()):
            writer.write(shard, [(each, each.charge[:, 2]) for each in images])
        writer.commit()
    with pytest.raises(StoreError, match=r"several scales \[1\.0, 2\.0\]: the unit of its charges is not known"):
        make_cloud(larstore.open(path).select()[0], "mixed")


def test_charges_in_other_units_are_labelled_so(store, tmp_path):
    path = shutil.copytree(store, tmp_path / "run.zarr")
    image = larstore.open(path).select()[0]
    for name, units in (("points", {"units": "file units"}), ("calibrated", {"units": "electrons"}), ("solved", {})):
        with larstore.PredictionWriter(
            path, name, {"checkpoint_sha256": "a" * 64, "output": "charge"} | units
        ) as writer:
            for shard, images in writer.groups(larstore.open(path).select()):
                writer.write(shard, [(each, each.charge[:, 2]) for each in images])
            writer.commit()
        event = event_payload(larstore.open(path).image(*image.key), name)
        colours = {colour["name"]: colour for colour in event["colours"]}
        wanted = units.get("units", "electrons")
        assert (event["predicted_unit"], colours["score"]["unit"]) == (wanted, wanted)
        assert (event["charge_unit"], colours["truth"]["unit"]) == ("electrons", "electrons")
        assert ("difference" in colours) == (wanted == "electrons")  # apples from apples
    assert event_payload(image, None)["predicted_unit"] == ""


@pytest.mark.parametrize("side", [1, 4])
def test_true_voxels_that_were_not_tiled(store, side):
    image = larstore.open(store).select()[0]
    tiled = set(map(tuple, image.coords.tolist()))
    lost = [voxel for voxel in image.truth_voxels[0].tolist() if tuple(voxel) not in tiled]
    assert lost
    points = np.unique(np.array(lost) // side, axis=0)
    found = not_tiled(image, side)
    assert found == pytest.approx(image.position_of(points * side + (side - 1) / 2), abs=1e-3)
    _, text = event_payload(image, None, max_points=100)["lost"]["x"]
    assert len(base64.b64decode(text)) == 4 * len(lost)


def test_outlines_are_the_drift_volumes(store):
    frame = larstore.open(store).geometry.tpcs[1]
    assert tpc_box(frame) == pytest.approx(np.array([[-10.0, 0, 0], [90.0, 51.2, 51.2]]))
    other = frame.model_copy(update={"drift_sign": -1, "drift_length_mm": None})
    assert tpc_box(other)[:, 0] == pytest.approx([-10, -10])
    line = box_line([tpc_box(frame), tpc_box(other)])
    points = list(zip(*line.values(), strict=True))
    assert points.count((None, None, None)) == 2
    first = points[: points.index((None, None, None))]
    assert len({frozenset(pair) for pair in pairwise(first)}) == 12, "every edge of a box"
    assert all(sum(a != b for a, b in zip(*pair, strict=True)) == 1 for pair in pairwise(first))
    event = event_payload(larstore.open(store).select()[0], None)
    assert list(event["frames"]) == ["event", "TPC"]
    low, high = event["frames"]["TPC"]["yaxis"]["range"]
    assert low < -10
    assert high > 90


def test_voxel_numbers_where_the_geometry_does_not_tell(store):
    opened = larstore.open(store)
    frame = opened.geometry.tpcs[1]
    opened.geometry.tpcs[1] = frame.model_copy(update={"drift_speed_mm_us": None})
    image = opened.image(file=0, event=0, tpc=1)
    cloud = make_cloud(image, None, 1000)
    assert cloud.unit == "voxel"
    assert (cloud.position == image.coords).all()
    event = event_payload(image, None)
    assert event["frames"]["TPC"]["yaxis"]["title"]["text"] == "x, drift [voxel]"
    assert max(v for v in event["outlines"]["own"]["x"] if v is not None) == 159.5


@pytest.mark.parametrize("threshold", [np.nan, np.inf, 1e39, -1e300])
def test_a_threshold_that_no_page_can_hold_is_refused(store, tmp_path, threshold):
    images = larstore.open(store).select()[:1]
    with pytest.raises(StoreError, match=r"^threshold .*: is no score. Fix: a finite number"):
        view_images(list(images), tmp_path / "e.html", threshold=threshold)
    with pytest.raises(StoreError, match="is no score"):
        Browser(images, threshold=threshold)


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
    assert events_of(page)[0]["facts"][1] == f"sample {evil}"
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
    assert len(column(events_of(page)[0], "x")) == 0


@pytest.mark.parametrize(("up", "names"), [(1, ["z", "x, drift", "y, up"]), (0, ["z", "y", "x, drift, up"])])
def test_up_is_up_on_the_page(store, up, names):
    cloud = replace(make_cloud(larstore.open(store).image(file=1, event=0, tpc=1), "net", 50), up=up)
    place = scene(cloud)
    assert [place[axis]["title"]["text"] for axis in ("xaxis", "yaxis", "zaxis")] == [f"{name} [cm]" for name in names]
    assert ["xyz"[number] for _, number, _ in axes_of(up)] == [name[0] for name in names]
    figure = comparison_figure(cloud, 0.5)
    assert figure.data[0].z == pytest.approx(np.round(cloud.position[:, up], 1))
