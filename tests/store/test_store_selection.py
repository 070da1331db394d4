"""Selections: every condition against a plain-Python oracle, together and one after the other; lazy, printable."""

import pickle
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import larstore
from larstore.errors import DamageError, StoreError
from larstore.records import InputFile
from larstore.testing import add_images, make_geometry, make_image, make_store

SAMPLES = ["electron", "cosmic", "electron", "run 27409"]  # of files 0 … 3; file 4 is of an input that nobody named


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Five files of three events in two TPCs, committed out of order, with 4 to 33 voxels an image."""
    path = tmp_path_factory.mktemp("selection") / "a.zarr"
    larstore.create(path, geometry=make_geometry((1, 5)), provenance={}, shard_rows=256, chunk_rows=64)
    for file in (3, 0, 4, 1, 2):
        images = [
            make_image(file, e, t, 4 + file + 10 * e + t, input=f"{file}.npz" if file < 4 else "")
            for e in range(3)
            for t in (1, 5)
        ]
        inputs = [InputFile(f"{file}.npz", file, 1, "0" * 64, SAMPLES[file])] if file < 4 else []
        add_images(path, images, inputs)
    return path


@pytest.fixture(scope="module")
def store(path):
    return larstore.open(path)


def keys(selection):
    return [image.key for image in selection]


EVERY = [(f, e, t) for f in range(5) for e in range(3) for t in (1, 5)]
LIMITS = st.none() | st.tuples(st.integers(-1, 5), st.integers(-1, 5))
CONDITIONS = {
    "files": LIMITS,
    "events": LIMITS,
    "tpcs": st.none() | st.lists(st.sampled_from([1, 5, 9]), max_size=3),
    "query": st.none() | st.integers(0, 40),
    "sample": st.none() | st.sampled_from(SAMPLES) | st.lists(st.sampled_from(SAMPLES), max_size=2),
    "where": st.none() | st.integers(0, 40),
}


def fits(key, c):
    """The oracle; ``query`` and ``where`` stand for the least and the greatest number of voxels."""
    file, event, tpc = key
    voxels = 4 + file + 10 * event + tpc
    wanted = [c["sample"]] if isinstance(c["sample"], str) else c["sample"]
    return (
        (c["files"] is None or c["files"][0] <= file <= c["files"][1])
        and (c["events"] is None or c["events"][0] <= event <= c["events"][1])
        and (c["tpcs"] is None or tpc in c["tpcs"])
        and (c["sample"] is None or (file < 4 and SAMPLES[file] in wanted))
        and (c["query"] is None or voxels >= c["query"])
        and (c["where"] is None or voxels <= c["where"])
    )


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries(CONDITIONS),
    st.sampled_from(["mask", "series", "function"]),
    st.permutations(list(CONDITIONS)),
)
def test_conditions_together_and_one_after_the_other(store, conditions, form, order):
    asked = dict(conditions)
    if asked["query"] is not None:
        asked["query"] = f"voxel_count >= {asked['query']}"
    if (limit := asked["where"]) is not None:
        table = store.index["voxel_count"] <= limit
        forms = {"series": table, "mask": table.to_numpy(), "function": lambda rows: rows.voxel_count <= limit}
        asked["where"] = forms[form]
    expected = [key for key in EVERY if fits(key, conditions)]
    assert keys(store.select(**asked)) == expected
    part = store.select()
    for name in order:
        condition = asked[name]
        if name == "where" and limit is not None:
            condition = lambda rows: rows.voxel_count <= limit  # noqa: E731 - a mask is of the images that are left
        part = part.select(**{name: condition})
    assert keys(part) == expected
    assert keys(pickle.loads(pickle.dumps(part))) == expected  # noqa: S301 - our own


def test_query_and_function_see_what_the_other_conditions_leave(store):
    part = store.select(files=(1, 1), where=lambda rows: rows.voxel_count == rows.voxel_count.max())
    assert keys(part) == [(1, 2, 5)]
    assert keys(store.select(files=(1, 1), query="voxel_count == voxel_count.max()")) == [(1, 2, 5)]


@pytest.mark.parametrize("name", ["index", "ilevel_0", "columns", "level_0", "nothing"])
def test_a_query_knows_columns_only(store, name):
    with pytest.raises(StoreError, match=rf"name '{name}' is not defined\. Fix: use the columns file, event, tpc"):
        store.select(query=f"{name} > 3")
    with pytest.raises(StoreError, match="Fix: use the columns"):
        store.select(query=f"voxel_count > 0 and {name} > 3")


def test_a_mask_is_of_the_images_that_are_selected_from(store):
    part = store.select(tpcs=[5])
    mask = np.arange(len(part)) % 2 == 0
    assert keys(part.select(where=mask)) == keys(part)[::2]
    assert keys(store.select(tpcs=[5], where=np.ones(30, bool))) == keys(part)
    assert keys(part.select(where=pd.Series(mask))) == keys(part)[::2]


def test_only_the_named_columns_are_read_and_no_voxel(path, monkeypatch):
    seen = []
    real = larstore.index.read_column
    monkeypatch.setattr(larstore.index, "read_column", lambda p, name, node: seen.append(name) or real(p, name, node))
    monkeypatch.setattr(larstore.Store, "reader", lambda store, path: pytest.fail(f"{path} is read"))
    store = larstore.open(path)
    assert seen == []
    part = store.select(query="charge_sum_u > 0 and event < 2", files=(0, 2), sample="electron")
    first, second = part.split(0.5, seed=0)
    assert len(first) == len(second) == 4
    assert set(seen) == {f"index/{name}" for name in ("file", "event", "tpc", "deleted", "charge_sum_u", "input")}
    assert len(seen) == 6
    repr(part)


def test_the_repr_tells_how_it_was_chosen(store):
    def loud(rows):
        return rows.charge_sum_u > 0

    part = store.select(files=(0, 3), tpcs=[5], query="voxel_count > 3").select(sample=["electron", "cosmic"])
    shown = "files=(0, 3), tpcs=[5], query='voxel_count > 3'; sample=['electron', 'cosmic']"
    assert repr(part) == f"<Selection of 9 images of {store.path}; {shown}>"
    assert repr(part.select(where=loud)[2:]) == f"<Selection of 7 images of {store.path}; {shown}; where=loud; [2:]>"
    masked = store.select(where=np.ones(30, bool))
    assert repr(masked) == f"<Selection of 30 images of {store.path}; where=<30 bool>>"
    first, second = store.select().split(0.4, 7)
    assert repr(first) == f"<Selection of 12 images of {store.path}; first of split(0.4, 7, by='file')>"
    assert repr(second) == f"<Selection of 18 images of {store.path}; second of split(0.4, 7, by='file')>"
    assert repr(store.select()) == f"<Selection of 30 images of {store.path}>"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"sample": "muon"}, r"no input of sample 'muon'. Fix: use any of 'cosmic', 'electron', 'run 27409'$"),
        ({"sample": 3}, r"select\(sample=3\).*Fix: use any of 'cosmic'"),
        ({"where": [True]}, r"shape \(1,\) and type bool. Fix: give 30 booleans"),
        ({"where": np.arange(30)}, r"shape \(30,\) and type int64. Fix: give 30 booleans"),
        ({"where": lambda rows: rows.voxel_count}, r"type int32. Fix: give 30 booleans"),
        ({"where": lambda rows: None}, r"type object. Fix: give 30 booleans"),
        ({"files": (0, 1), "where": lambda rows: np.ones(30, bool)}, r"shape \(30,\).*Fix: give 12 booleans"),
        ({"tpcs": 1}, r"select\(tpcs=1\): Fix: give a list of whole numbers"),
        ({"tpcs": ["a"]}, r"select\(tpcs=\['a'\]\): Fix: give a list"),
        ({"tpcs": [1.5]}, r"select\(tpcs=\[1.5\]\): Fix: give a list"),
        ({"events": ("a", "b")}, r"select\(events=\('a', 'b'\)\): Fix: give an inclusive range"),
        ({"files": (1, 2, 3)}, r"select\(files=\(1, 2, 3\)\): Fix: give an inclusive range"),
        ({"query": 3}, r"select\(query=3\): int is no text. Fix: use the columns file"),
        ({"query": "1 > 0"}, r"is not true or false for each image. Fix: use the columns"),
        ({"query": "tpc == @np.int64(5)"}, r"select\(query='tpc == @np.*prefix is not allowed.*Fix: use the columns"),
        ({"query": "file = 3"}, r"select\(query='file = 3'\): .*Fix: use the columns"),
        ({"query": ""}, r"select\(query=''\): .*Fix: use the columns"),
    ],
)
def test_a_condition_that_makes_no_sense_is_one_line(store, asked, message):
    with pytest.raises(StoreError, match=message) as error:
        store.select(**asked)
    assert len(str(error.value).splitlines()) == 1


def test_a_mask_of_other_images_is_refused(store):
    other = store.select(files=(0, 1)).rows["voxel_count"] > 0
    with pytest.raises(StoreError, match=r"a Series of other images. Fix: give 12 booleans.*in their order"):
        store.select(files=(3, 4)).select(where=other)
    with pytest.raises(StoreError, match="a Series of other images"):
        store.select(files=(0, 1)).select(where=other[::-1])


def test_a_store_without_inputs_has_no_samples(tmp_path):
    larstore.create(tmp_path / "a.zarr", geometry=make_geometry(), provenance={})
    empty = larstore.open(tmp_path / "a.zarr")
    assert keys(empty.select(files=(0, 9), query="voxel_count > 3", sample=[], where=np.ones(0, bool))) == []
    with pytest.raises(StoreError, match="Fix: use any of none, the store has no inputs"):
        empty.select(sample="electron")


def test_the_page_about_it_is_right(tmp_path, monkeypatch, capsys):
    """The examples of docs/selecting.md run, one after the other."""
    make_store(tmp_path / "run.zarr", n_files=5, n_events=2, tpcs=(1, 5), n_voxels=60)
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs" / "selecting.md").read_text(encoding="utf-8")
    names = {}
    for example in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(example, "docs/selecting.md", "exec"), names)  # noqa: S102 - our own page
    kept = names["store"].index.truth_sum > 1.8e5
    assert 0 < len(names["part"]) == kept.sum() < 20
    assert (
        capsys.readouterr().out == f"<Selection of {kept.sum()} images of run.zarr; sample='testing'; where=<lambda>>\n"
    )
    files = [{key[0] for key in keys(names[side])} for side in ("training", "validation")]
    assert not files[0] & files[1]
    assert len(names["voxels"]) == 60 * kept.sum()
    assert len(names["truth"]) == names["part"].column("truth_count").sum()
    assert names["one"].sizes["image"] == 2


@pytest.mark.parametrize("number", [4, -2])
def test_an_input_that_is_not_there_is_damage(path, number):
    store = larstore.open(path)
    store.index_columns.column("input")[7] = number
    with pytest.raises(DamageError, match=rf"index/input has {number}, of 4 inputs\. Fix: restore"):
        store.select(sample="cosmic")
