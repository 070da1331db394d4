"""Merging: the union of images, predictions, inputs and failures; whatever does not belong together is refused."""

import os

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import larstore
from larstore import maintenance_cli
from larstore.errors import StoreError
from larstore.merging import merge
from larstore.records import Failure, InputFile
from larstore.testing import add_images, make_geometry, make_image

SMALL = {"shard_rows": 256, "chunk_rows": 64}


def make(path, keys, seed=0, inputs=(), failures=(), tiling=None, tpcs=(1, 2), **options):
    """A store with small images of these keys."""
    provenance = {"tiling": {"threshold": 3.0} | (tiling or {}), "made": path.name}
    columns = options.get("truth_columns", ())
    larstore.create(path, geometry=make_geometry(tpcs), provenance=provenance, **SMALL | options)
    names = {item.file: item.path for item in inputs}
    images = [make_image(f, e, t, 20 + 7 * f, seed, input=names.get(f, ""), truth_columns=columns) for f, e, t in keys]
    if images:
        add_images(path, images, inputs)
    with larstore.StoreWriter(path) as writer:
        writer.commit([], failures)
    return path


def file(number, path=None, sha256=None):
    return InputFile(path or f"{number}.npz", number, 10, sha256 or f"{number:064x}", "s")


def predict(path, name, attributes=None):
    with larstore.PredictionWriter(path, name, {"checkpoint_sha256": "c"} | (attributes or {})) as writer:
        for shard, images in writer.groups(larstore.open(path).select()):
            writer.write(shard, [(i, np.arange(len(i), dtype=np.float32) + i.key[0]) for i in images])
        writer.commit()


def expect_union(new, parts):
    """Each image is that of the store that is named for it."""
    assert new.index.index.tolist() == sorted(parts)
    assert larstore.verify(new.path).ok
    for key, path in parts.items():
        store = larstore.open(path)
        a, b = new.image(*key), store.image(*key)
        for name in ("coords", "charge", "live", "truth"):
            assert getattr(a, name).tobytes() == getattr(b, name).tobytes()
        rows = [
            s.inputs["path"][i.summary("input")] if i.summary("input") >= 0 else "" for s, i in ((new, a), (store, b))
        ]
        assert rows[0] == rows[1]


def test_stores_of_other_files(tmp_path):
    a = make(tmp_path / "a.zarr", [(0, 0, 1), (2, 0, 1)], inputs=[file(0), file(2)])
    b = make(tmp_path / "b.zarr", [(1, 0, 2), (3, 0, 2)], inputs=[file(1), file(3)], shard_rows=64)
    predict(a, "net")
    predict(b, "net")
    predict(b, "other", {"checkpoint_sha256": "d"})
    new = merge([a, b], tmp_path / "c.zarr")
    expect_union(new, {(0, 0, 1): a, (1, 0, 2): b, (2, 0, 1): a, (3, 0, 2): b})
    for image in new.select():
        source = larstore.open(a if image.key[0] % 2 == 0 else b).image(*image.key)
        assert image.score("net").tobytes() == source.score("net").tobytes()
        assert np.isnan(image.score("other")).all() == (image.key[0] % 2 == 0)
    assert new.inputs["file"].tolist() == [0, 2, 1, 3]
    assert new.attributes["shard_rows"] == 256
    history = new.attributes["provenance"]["history"]
    assert [source["store"] for source in history[0]["sources"]] == [str(a), str(b)]
    assert history[0]["sources"][1]["provenance"] == larstore.open(b).attributes["provenance"]
    other_way = merge([b, a], tmp_path / "d.zarr")
    assert larstore.diff(new, other_way) == []


@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_any_shares_of_one_store_make_it_again(tmp_path_factory, data):
    """Shares may overlap: equal images count once."""
    place = tmp_path_factory.mktemp("shares")
    keys = [(f, e, t) for f in range(3) for e in range(2) for t in (1, 2)]
    whole = make(place / "whole.zarr", keys, inputs=[file(f) for f in range(3)])
    shares = data.draw(st.lists(st.sets(st.sampled_from(keys)), min_size=1, max_size=3))
    shares.append(set(keys).difference(*shares))
    paths = [
        make(place / f"{i}.zarr", sorted(share), inputs=[file(f) for f in sorted({key[0] for key in share})])
        for i, share in enumerate(shares)
    ]
    new = merge(paths, place / "new.zarr")
    assert larstore.diff(whole, new) == []
    assert sorted(new.inputs["path"]) == sorted(larstore.open(whole).inputs["path"])
    assert len(new.index_columns.column("file")) == len(keys)


def test_truth_columns_of_either(tmp_path):
    a = make(tmp_path / "a.zarr", [(0, 0, 1)], truth_columns=("track",))
    b = make(tmp_path / "b.zarr", [(1, 0, 1)], truth_columns=("collected",))
    c = make(tmp_path / "c.zarr", [(2, 0, 1)])
    new = merge([a, b, c], tmp_path / "d.zarr")
    assert new.root.truth_columns == ("collected", "track")
    assert [list(image.truth_columns) for image in new.select()] == [["track"], ["collected"], []]
    for path in (a, b, c):
        key = larstore.open(path).select()[0].key
        for name, values in larstore.open(path).image(*key).truth_columns.items():
            np.testing.assert_array_equal(new.image(*key).truth_columns[name], values, strict=True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tiling": {"threshold": 4.0}}, r"tiling\.threshold = 4\.0, .*a\.zarr has 3\.0"),
        ({"tiling": {"new": 1}}, r"tiling\.new = 1, .*a\.zarr has None"),
        ({"downsample": (4, 4, 4)}, r"voxel_mm = \[3\.2"),
        ({"units": "adc"}, r"units = adc, .*a\.zarr has electrons"),
        ({"tpcs": (1,)}, r"b\.zarr: has another geometry than .*a\.zarr: TPCs: \[1\], \[1, 2\]\."),
        ({"planes": ("a", "b", "w")}, r"planes = \['a', 'b', 'w'\]"),
        ({"pixels": True}, r"pixels kept = True, .*a\.zarr has False"),
    ],
)
def test_other_settings_are_refused(tmp_path, options, says):
    a = make(tmp_path / "a.zarr", [])
    b = make(tmp_path / "b.zarr", [], **options)
    with pytest.raises(StoreError, match=says + r".*Fix:"):
        merge([a, a, b], tmp_path / "c.zarr")
    assert sorted(os.listdir(tmp_path)) == ["a.zarr", "b.zarr"]


def wire(name, row, value):
    def change(geometry):
        geometry.wires[name][row] = value

    return change


def frame(**values):
    def change(geometry):
        geometry.tpcs[2] = geometry.tpcs[2].model_copy(update=values)

    return change


def fewer_wires(geometry):
    for name, column in geometry.wires.items():
        geometry.wires[name] = column[:-1]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (frame(anode_x_mm=-99.5), r"anode_x_mm of TPC 2: -99\.5, -100\.0"),
        (frame(drift_speed_mm_us=None), r"drift_speed_mm_us of TPC 2: None, 1\.6"),
        (fewer_wires, "number of wire segments: 47, 48"),
        (wire("channel", 5, 99), "channel of wire segment 5: 99, 5"),
        (wire("tail", (7, 2), 1.5), r"tail of wire segment 7: \[-100\.0, 0\.0, 1\.5\], \[-100\.0, 0\.0, 35\.0\]"),
    ],
)
def test_another_geometry_is_told(tmp_path, change, says):
    a = make(tmp_path / "a.zarr", [])
    geometry = make_geometry((1, 2))
    assert geometry.difference(make_geometry((1, 2))) is None
    change(geometry)
    b = tmp_path / "b.zarr"
    larstore.create(b, geometry=geometry, provenance={"tiling": {"threshold": 3.0}}, **SMALL)
    with pytest.raises(
        StoreError, match=rf"b\.zarr: has another geometry than \S+a\.zarr: {says}\. Fix: merge"
    ) as error:
        merge([a, b], tmp_path / "c.zarr")
    assert "hash" not in str(error.value)


def test_charges_of_other_rounding_are_refused(tmp_path):
    a, b = make(tmp_path / "a.zarr", []), make(tmp_path / "b.zarr", [])
    root = larstore.open(b).root.copy()
    root.nodes["voxels/charge"]["attributes"]["rounded"] = 9
    (b / "zarr.json").write_bytes(root.sealed())
    with pytest.raises(StoreError, match=r"attributes of voxels/charge = .*'rounded': 9.*a\.zarr has"):
        merge([a, b], tmp_path / "c.zarr")


def test_predictions_of_other_checkpoints_are_refused(tmp_path):
    a = make(tmp_path / "a.zarr", [(0, 0, 1)])
    b = make(tmp_path / "b.zarr", [(1, 0, 1)])
    c = make(tmp_path / "c.zarr", [(2, 0, 1)])
    predict(b, "net")
    predict(c, "net", {"checkpoint_sha256": "other"})
    with pytest.raises(StoreError, match=r"prediction 'net' has checkpoint_sha256 = other, in .*b\.zarr c\. Fix:"):
        merge([a, b, c], tmp_path / "d.zarr")


def test_images_of_one_key(tmp_path):
    a = make(tmp_path / "a.zarr", [(0, 0, 1), (1, 0, 1)])
    b = make(tmp_path / "b.zarr", [(1, 0, 1), (2, 0, 1)])
    expect_union(merge([a, b], tmp_path / "equal.zarr"), {(0, 0, 1): a, (1, 0, 1): a, (2, 0, 1): b})
    c = make(tmp_path / "c.zarr", [(1, 0, 1), (3, 0, 1)], seed=1)
    with pytest.raises(
        StoreError, match=r"image \(1, 0, 1\): coords, .* differs between .*a\.zarr and .*c\.zarr\. Fix: --prefer"
    ):
        merge([a, b, c], tmp_path / "no.zarr")
    assert not (tmp_path / "no.zarr").exists()
    parts = {(0, 0, 1): a, (1, 0, 1): a, (2, 0, 1): b, (3, 0, 1): c}
    expect_union(merge([a, b, c], tmp_path / "first.zarr", "first"), parts)
    expect_union(merge([a, b, c], tmp_path / "last.zarr", "last"), parts | {(1, 0, 1): c})


def test_inputs_of_one_number(tmp_path):
    a = make(tmp_path / "a.zarr", [(5, 0, 1)], inputs=[file(5, "x-TPC1.npz"), file(5, "truth.npz", "t")])
    b = make(tmp_path / "b.zarr", [(5, 0, 2)], inputs=[file(5, "y-TPC2.npz", "2")])
    with pytest.raises(
        StoreError, match=r"b\.zarr: its file 5 is y-TPC2\.npz, that of .*a\.zarr is x-TPC1\.npz, .*Fix: --same-files"
    ):
        merge([a, b], tmp_path / "no.zarr")
    new = merge([a, b], tmp_path / "c.zarr", same_files=True)
    expect_union(new, {(5, 0, 1): a, (5, 0, 2): b})
    assert new.inputs["path"].tolist() == ["x-TPC1.npz", "truth.npz", "y-TPC2.npz"]
    fewer = make(tmp_path / "d.zarr", [(5, 1, 1)], inputs=[file(5, "moved/x-TPC1.npz")])  # one content, another place
    expect_union(merge([fewer, a], tmp_path / "e.zarr"), {(5, 0, 1): a, (5, 1, 1): fewer})


def test_failures_are_those_that_nobody_settled(tmp_path):
    broken = [Failure(0, 2, "0.npz", "died"), Failure(1, 1, "1.npz", "died"), Failure(3, -1, "3.npz", "no file")]
    a = make(tmp_path / "a.zarr", [(0, 0, 1)], failures=broken)
    b = make(tmp_path / "b.zarr", [(0, 0, 2), (3, 0, 1)], failures=[Failure(0, 2, "0.npz", "redo failed")])
    failures = merge([a, b], tmp_path / "c.zarr", same_files=True).failures
    assert failures[["file", "tpc", "error"]].to_numpy().tolist() == [[1, 1, "died"], [0, 2, "redo failed"]]


def test_from_the_command_line(tmp_path):
    app = typer.Typer()
    maintenance_cli.register(app)
    a = make(tmp_path / "a.zarr", [(0, 0, 1)])
    b = make(tmp_path / "b.zarr", [(0, 0, 1)], seed=2)

    def run(*arguments):
        return CliRunner().invoke(app, ["merge", *map(str, arguments), "-o", str(tmp_path / "c.zarr")])

    assert run(a, b, "--prefer", "best").exit_code == 2
    assert "Fix: give two or more" in str(run(a).exception)
    assert "no such directory" in str(run(a, tmp_path / "no.zarr").exception)
    assert "--prefer" in str(run(a, b).exception)
    done = run(a, b, "--prefer", "last")
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path}/c.zarr: 1 images, 20 voxels, 0 inputs\n")
    assert "exists already" in str(run(a, b).exception)
    assert larstore.diff(b, tmp_path / "c.zarr") == []
