"""An evaluation by the workers of a Dask cluster: events stay whole, figures are those of one process."""

import json
import pickle

import numpy as np
import pandas as pd
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import larstore
from larstore.clusters import cluster_client
from larstore.errors import StoreError
from larstore.testing import add_images, make_image, make_store
from preprocess import make_cluster
from tests.train.test_evaluate import predict
from tests.train.test_evaluate_compare import write
from train.cli import evaluate as evaluate_command
from train.results import parts
from train.results.evaluation import evaluate


class Chosen:
    """Stands in for a selection: columns of images, and slices of it."""

    def __init__(self, file, event, count):
        self.columns = {"file": file, "event": event, "voxel_count": count}

    def __len__(self):
        return len(self.columns["file"])

    def __getitem__(self, part):
        return Chosen(*(values[part] for values in self.columns.values()))

    def column(self, name):
        return self.columns[name]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 50)), max_size=40), st.integers(1, 120))
def test_parts_hold_whole_events_and_enough_voxels(images, voxels):
    file, event, count = np.array(sorted(images), np.int64).reshape(-1, 3).T
    found = [part.columns for part in parts.event_parts(Chosen(file, event, count), voxels)]
    joined = [(f, e, n) for part in found for f, e, n in zip(*part.values(), strict=True)]
    assert joined == list(zip(file, event, count, strict=True))
    keys = [set(zip(part["file"].tolist(), part["event"].tolist(), strict=True)) for part in found]
    for i, one in enumerate(keys):
        assert one
        assert not any(one & other for other in keys[i + 1 :])
    for part in found[:-1]:
        last = (part["file"] == part["file"][-1]) & (part["event"] == part["event"][-1])
        # Enough, and with one event fewer it would not be.
        assert part["voxel_count"].sum() >= voxels > part["voxel_count"][~last].sum()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = make_store(
        tmp_path_factory.mktemp("cluster") / "run.zarr",
        n_files=5,
        n_events=3,
        tpcs=(1, 2),
        n_voxels=300,
        truth_columns=("collected", "pdg", "track"),
    )
    add_images(path, [make_image(9, n_voxels=300)])  # does not tell what was collected
    write(path, "solved", lambda image: np.nan_to_num(0.83 * image.collected), output="charge")
    return predict(predict(path), "other", score=lambda image: np.random.default_rng(1).random(len(image)))


def leaves(value, name=""):
    """(name, number or text) of all that nested lists and dictionaries hold."""
    if isinstance(value, (dict, list)):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(each, f"{name}.{key}")
    else:
        yield name, value


@pytest.mark.slow
def test_the_figures_of_a_cluster_are_those_of_one_process(store, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART_VOXELS", 1500)
    chosen = {"coarsen": [(2, 2, 2)], "bootstrap": 50, "figures": False, "strata": ["tpc", "particle", "dead"]}
    names = ["net", "other", "solved"]
    alone = evaluate(store, names, tmp_path / "alone", **chosen)
    with make_cluster("local", workers=2) as client:
        together = evaluate(store, names, tmp_path / "together", client=client, **chosen)
    assert together["images_without_collected"] == 1
    table = pd.read_parquet(tmp_path / "together" / "metrics.parquet")
    charges = table[table["metric"].str.startswith("charge_") & (table["method"] == "solved")]
    assert set(charges["voxels"]) == {"1,1,1", "2,2,2"}
    assert {"", "tpc", "particle"} <= set(charges["stratum_kind"])
    for name in ("metrics", "differences", "images", "curves", "mean_curves", "reliability", "charges"):
        one, other = (pd.read_parquet(tmp_path / who / f"{name}.parquet") for who in ("alone", "together"))
        assert len(one)
        pd.testing.assert_frame_equal(one, other, rtol=1e-9)
    one, other = (dict(leaves(json.loads(json.dumps(summary)))) for summary in (alone, together))
    numbers = {name for name, value in one.items() if isinstance(value, float) and np.isfinite(value)}
    assert len(numbers) > 100
    assert {name: one[name] for name in one.keys() - numbers} == {name: other[name] for name in other.keys() - numbers}
    assert [one[name] for name in sorted(numbers)] == pytest.approx([other[name] for name in sorted(numbers)], rel=1e-9)


@pytest.mark.slow
def test_the_command_with_workers(store, tmp_path):
    app = typer.Typer()
    app.command()(evaluate_command)
    words = [str(store), "--prediction", "net", "-o", str(tmp_path), "--workers", "2", "--bootstrap", "0"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "images\t31\n" in done.output


class Failing:
    """A client whose second part fails; remembers what it was given, and what was cancelled."""

    def __init__(self):
        self.given, self.cancelled = 0, []

    def nthreads(self):
        return {"one": 1, "two": 1}

    def submit(self, function, *args, pure):
        number, self.given = self.given, self.given + 1
        outer = self

        class Future:
            def result(self):
                if number == 1:
                    raise StoreError("broken")
                return function(*args)

            def cancel(self):
                outer.cancelled.append(number)

        return Future()


def test_few_parts_are_in_hand_and_none_is_left_behind(store, monkeypatch, tmp_path):
    monkeypatch.setattr(parts, "PART_VOXELS", 1)
    client = Failing()
    with pytest.raises(StoreError, match="broken"):
        evaluate(store, "net", tmp_path, figures=False, bootstrap=0, client=client)
    assert client.given == 5  # of 16: four in hand, and one more for the first that came back
    assert client.cancelled == [2, 3, 4]


def test_no_package_that_starts_clusters(monkeypatch):
    monkeypatch.setattr("larstore.clusters.entry_points", lambda **_: ())
    with pytest.raises(StoreError, match=r"nothing here starts clusters. Fix: pip install"), cluster_client("local"):
        pass


def test_selections_reach_workers(store):
    """As they are: pickled, and cut."""
    selection = larstore.open(store).select(tpcs=[1])[2:5]
    again = pickle.loads(pickle.dumps(selection))  # noqa: S301 - ours
    assert [image.key for image in again] == [image.key for image in selection]
    np.testing.assert_array_equal(again[0].score("net"), selection[0].score("net"))
