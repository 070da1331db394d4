"""dQ/dx along muons: known charge at known angles is found again, stopping muons stop, the command writes it all."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import typer
from numpy.testing import assert_allclose
from scipy import stats
from typer.testing import CliRunner

import larstore
from larstore.errors import ConfigError, StoreError
from larstore.image import pack
from larstore.records import ImageRecord
from larstore.testing import add_images, make_geometry, make_store
from tests.small_disks import fill, small_disk
from train.dqdx_cli import dqdx_command
from train.results.dqdx import dqdx as bounded_dqdx
from train.results.dqdx_segments import Settings
from train.results.landau import MODE
from train.results.tracks import muon_tracks, voxel_size_cm

SIZE_CM = np.array([0.64, 0.8, 0.8])  # of make_geometry's voxels
BOX = (160, 64, 64)
UNIT = 3e-5  # of predicted charges
RATE = 60_000.0  # electrons/cm


@pytest.fixture(autouse=True, scope="module")
def no_waiting_for_the_disk():
    """Nothing here outlives its test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def line(start, direction, length, charge=None, step=0.02):
    """Points (n, 3) in cm along a line, and their electrons; ``charge``: electrons/cm at distances from the start."""
    direction = np.array(direction) / np.linalg.norm(direction)
    s = np.arange(step / 2, length, step)
    rate = np.full(len(s), RATE) if charge is None else charge(s)
    return np.array(start) + s[:, None] * direction, rate * step


def voxelised(tracks):
    """Truth voxels of tracks [(points, electrons)]: coords, value, and the track (from 1) that gave most."""
    sums = {}
    for number, (points, electrons) in enumerate(tracks, 1):
        voxels = np.floor(points / SIZE_CM).astype(int)
        inside = ((voxels >= 0) & (voxels < BOX)).all(axis=1)
        for voxel, q in zip(map(tuple, voxels[inside].tolist()), electrons[inside], strict=True):
            sums.setdefault(voxel, {}).setdefault(number, 0.0)
            sums[voxel][number] += q
    coords = np.array(sorted(sums), np.uint16)
    shares = [sums[tuple(c)] for c in coords.tolist()]
    value = np.array([sum(s.values()) for s in shares], np.float32)
    return coords, value, np.array([max(s, key=s.get) for s in shares], np.int32)


def image_of(file, tracks, pdg=13, collected=0.8):
    """Planes that see 0.9, 0.9 and 1 of what arrives, on the true voxels; and ghosts beside each of them."""
    coords, value, track = voxelised(tracks)
    arrived = (value * collected).astype(np.float32)
    ghosts = np.unique(coords + np.array([0, 1, 1]), axis=0)
    ghosts = ghosts[(ghosts < BOX).all(axis=1) & ~np.isin(pack(ghosts), pack(coords))]
    every = np.concatenate([coords.astype(int), ghosts])
    charge = np.concatenate([arrived[:, None] * [0.9, 0.9, 1.0], np.full((len(ghosts), 3), 5000.0)])
    truth = np.concatenate([value, np.zeros(len(ghosts), np.float32)])
    order = np.lexsort(every[:, ::-1].T)
    return ImageRecord(
        file, 0, 1, every[order].astype(np.uint16), charge[order].astype(np.float32),
        np.full(len(every), 7, np.uint8), truth[order], coords, value,
        {"collected": arrived, "pdg": np.full(len(coords), pdg, np.int32), "track": track}, input="made",
    )  # fmt: skip


def store_of(path, images, charge=True):
    """A store of these images with the predictions "net" (1 on the true voxels) and "charge" (half the truth)."""
    larstore.create(path, geometry=make_geometry(), provenance={}, shard_rows=4096, chunk_rows=256,
                    truth_columns=("collected", "pdg", "track"))  # fmt: skip
    add_images(path, images)
    for name, output in (("net", "score"), *((("charge", "charge"),) if charge else ())):
        about = {"checkpoint_sha256": "0" * 64, "output": output, "config": {"data": {"scale": [UNIT, UNIT]}}}
        with larstore.PredictionWriter(path, name, about) as writer:
            for shard, group in writer.groups(larstore.open(path).select()):
                values = [(i, (i.truth > 0) * 1.0 if output == "score" else i.truth * 0.5 * UNIT) for i in group]
                writer.write(shard, [(i, v.astype(np.float32)) for i, v in values])
            writer.commit()
    return larstore.open(path)


def dqdx(selection, prediction, settings=None):
    """All results, with the rows of all segments and tracks."""
    rows = []
    tables = bounded_dqdx(selection, prediction, settings, lambda *both: rows.append(both))
    segments, tracks = (pd.concat(parts, ignore_index=True) for parts in zip(*rows, strict=True))
    return SimpleNamespace(**vars(tables), segments=segments, tracks=tracks)


DIRECTIONS = {
    "drift": (1, 0, 0), "y": (0, 1, 0), "z": (0, 0, 1), "slow": (1, 0.13, -0.07), "diagonal": (1, 1, 1),
    "back": (-0.8, 0.5, 0.6), "in the face": (0.05, 1, -0.9),
}  # fmt: skip


@pytest.mark.parametrize(
    "direction",
    [
        pytest.param(d, id=name, marks=[pytest.mark.slow] * (name in ("y", "z", "back")))
        for name, d in DIRECTIONS.items()
    ],
)
def test_known_charge_at_known_angles(tmp_path, direction):
    unit = np.array(direction) / np.linalg.norm(direction)
    image = image_of(0, [line(np.array([51.0, 25.7, 25.3]) - 30 * unit, direction, 60.0)])
    store = store_of(tmp_path / "run.zarr", [image])
    (track,) = muon_tracks(store.select()[0], SIZE_CM, piece_cm=15.0)
    for piece in track.pieces:
        assert abs(piece.direction @ unit) > 0.999
        assert abs(piece.direction[piece.axis]) / SIZE_CM[piece.axis] == max(abs(piece.direction) / SIZE_CM)
    tables = dqdx(store.select(), "net", Settings(charge="charge", bootstraps=0))
    found = tables.segments
    assert len(found) > 20
    assert found["length_cm"].between(0.6, 1.4).all()
    expected = {"truth": 1, "collected": 0.8, "kept": 0.8 * 2.8 / 3, "kept_w": 0.8, "predicted": 0.5}
    for name, share in expected.items():
        assert_allclose(found[name], share * RATE, rtol=0.02, err_msg=name)
    assert (found["tiled_w"] > 0.8 * RATE * 1.02).any()  # ghosts
    again = dqdx(store.select(), "net", Settings(lifetime="truth", bootstraps=0)).segments
    assert_allclose(again["kept_w"], RATE, rtol=0.02)
    assert_allclose(again["truth"], found["truth"])


def test_the_lifetime_that_is_given(tmp_path):
    store = store_of(tmp_path / "run.zarr", [image_of(0, [line((1.0, 20.0, 20.0), (1, 0.1, 0.1), 90.0)])])
    plain = dqdx(store.select(), "net", Settings(bootstraps=0)).segments
    found = dqdx(store.select(), "net", Settings(lifetime=0.5, bootstraps=0)).segments
    drift_us = (plain["x_cm"] * 10 + 100) / 1.6  # make_geometry's anode and speed
    assert_allclose(found["kept_w"] / plain["kept_w"], np.exp(drift_us.clip(lower=0) / 500), rtol=1e-6)
    assert_allclose(found["truth"], plain["truth"])


def test_places_of_segments_are_on_the_line(tmp_path):
    start, direction = np.array([5.0, 10.0, 12.0]), np.array([1.0, 0.4, 0.2])
    store = store_of(tmp_path / "run.zarr", [image_of(0, [line(start, direction, 60.0)])])
    image = store.select()[0]
    found = dqdx(store.select(), "net", Settings(bootstraps=0)).segments
    corner = image.position_of(np.array([[-0.5, -0.5, -0.5]]))[0]
    apart = found[["x_cm", "y_cm", "z_cm"]].to_numpy() - corner - start
    unit = direction / np.linalg.norm(direction)
    off = np.linalg.norm(apart - (apart @ unit)[:, None] * unit, axis=1)
    assert off.max() < 0.15


def bragg(end):
    """Electrons/cm that rise towards ``end`` cm, as ranges do."""
    return lambda s: RATE * (1 + 1.5 * np.exp(-np.maximum(end - s, 0) / 3.0))


def test_stopping_muons_and_their_residual_range(tmp_path):
    stops = line((30.0, 45.0, 25.0), (0.9, -0.8, 0.2), 34.0, bragg(34.0))
    passes = line((2.0, 30.0, 2.0), (1.0, 0.0, 0.5), 108.0)
    rises_at_the_edge = line((50.0, 1.0, 15.0), (0.1, 1.0, 0.1), 60.0, bragg(50.7))
    ends_without = line((60.0, 20.0, 40.0), (0.9, 0.5, -0.6), 30.0)
    store = store_of(tmp_path / "run.zarr", [image_of(i, [t]) for i, t in enumerate(
        (stops, passes, rises_at_the_edge, ends_without))])  # fmt: skip
    tables = dqdx(store.select(), "net", Settings(bootstraps=0, piece_cm=15.0))
    assert tables.tracks["stops"].tolist() == [True, False, False, False]
    assert tables.counts["stopping"] == 1
    found = tables.segments[tables.segments["residual_cm"].notna()]
    assert set(found["file"]) == {0}
    left = found["residual_cm"]  # right to half a layer
    assert (found["truth"] < 1.02 * bragg(34.0)(34.0 - left + 0.5)).all()
    assert (found["truth"] > 0.98 * bragg(34.0)(34.0 - left - 0.5)).all()
    assert found["residual_cm"].between(0, 34).all()
    assert found["residual_cm"].max() > 31
    table = tables.residual
    assert table["segments"].sum() == len(found)
    assert table["truth"].iloc[0] > 1.3 * table["truth"].iloc[-1]
    near = found[found["residual_cm"].between(3.0, 5.0, inclusive="left")]
    row = table[table["low_cm"] == 3.0].iloc[0]
    assert row["truth"] == pytest.approx(near["truth"].median(), rel=0.003)  # bins of half a percent
    assert row["kept_w_over_truth"] == pytest.approx(0.8, rel=0.02)
    without = dqdx(store.select(files=(1, 3)), "net", Settings(bootstraps=0)).residual
    assert without.empty
    assert "truth" in without


def test_bent_short_and_other_tracks_are_left_out(tmp_path):
    angle = np.arange(0.0, 1.5, 0.0005)
    arc = np.stack([30 + 20 * np.sin(angle), 45 - 20 * (1 - np.cos(angle)), np.full(len(angle), 20.0)], axis=1)
    bent = arc, np.full(len(angle), 600.0)
    short = line((10.0, 10.0, 40.0), (0, 1, 1), 12.0)
    straight = line((2.0, 5.0, 30.0), (1, 0.3, 0), 90.0)
    image = image_of(0, [bent, short, straight])
    store = store_of(tmp_path / "run.zarr", [image, image_of(1, [straight], pdg=211), image_of(2, [straight], pdg=-13)])
    tables = dqdx(store.select(), "net", Settings(bootstraps=0))
    assert tables.tracks[["file", "track", "pdg"]].to_numpy().tolist() == [[0, 3, 13], [2, 1, -13]]
    pieces = dqdx(store.select(), "net", Settings(bootstraps=0, piece_cm=6.0))
    assert 1 in pieces.tracks["track"].tolist()  # short pieces of the arc are straight
    strict = dqdx(store.select(), "net", Settings(bootstraps=0, piece_cm=12.0, straight_cm=0.31))
    assert strict.counts["pieces_bent"] > 0


def test_interrupted_and_dead_segments_are_left_out(tmp_path):
    image = image_of(0, [line((2.0, 25.0, 25.0), (1, 0.05, 0.05), 95.0)])
    gone = np.isin(image.truth_coords[:, 0], [50, 51])
    dead = np.isin(image.coords[:, 0], [80, 81, 82])
    image.live[dead] = 0b011
    columns = {name: values[~gone] for name, values in image.truth_columns.items()}
    image = type(image)(**(vars(image) | {
        "truth_coords": image.truth_coords[~gone], "truth_value": image.truth_value[~gone], "truth_columns": columns,
    }))  # fmt: skip
    store = store_of(tmp_path / "run.zarr", [image])
    tables = dqdx(store.select(), "net", Settings(bootstraps=0))
    assert tables.counts["segments_interrupted"] in (1, 2)
    assert 2 <= tables.counts["segments_dead"] <= 3
    assert_allclose(tables.segments["kept_w"], 0.8 * RATE, rtol=0.02)


def fluctuating(seed):
    """A line with Landau-distributed charge in each 0.3 cm."""
    rng = np.random.default_rng(seed)
    unit = rng.normal(size=3) * [2.0, 1.0, 1.0]
    rates = stats.landau.rvs(RATE - MODE * 5000, 5000, size=400, random_state=rng).clip(0, 4 * RATE)
    start = np.array([50.0, 25.0, 25.0]) - 45 * unit / np.linalg.norm(unit)
    return line(start, unit, 90.0, lambda s: rates[(s / 0.3).astype(int)])


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return store_of(tmp_path_factory.mktemp("dqdx") / "run.zarr", [image_of(i, [fluctuating(i)]) for i in range(6)])


def test_the_command_writes_tables_figures_and_a_page(many, tmp_path):
    app = typer.Typer()
    app.command()(dqdx_command)
    call = [
        str(many.path),
        "--prediction",
        "net",
        "--charge",
        "charge",
        "-o",
        str(tmp_path / "out"),
        "--bootstraps",
        "2",
    ]
    run = CliRunner().invoke(app, call)
    assert run.exit_code == 0, run.output
    told = dict(line.split("\t") for line in run.stdout.splitlines())
    assert (told["images"], told["tracks"], told["images_not_predicted"]) == ("6", "6", "0")
    out = tmp_path / "out"
    names = {"segments.csv", "tracks.csv", "fits.csv", "residual_range.csv", "dqdx.png", "dqdx.svg", "summary.json",
             "dqdx.html"}  # fmt: skip
    assert {path.name for path in out.iterdir()} >= names
    fits = pd.read_csv(out / "fits.csv").set_index("method")
    assert fits.loc["kept_w", "mpv_over_truth"] == pytest.approx(0.8, rel=0.02)
    assert fits.loc["predicted", "mpv_over_truth"] == pytest.approx(0.5, rel=0.02)
    assert float(told["mpv_truth"]) == pytest.approx(fits.loc["truth", "mpv"], rel=1e-5)
    assert len(pd.read_csv(out / "segments.csv")) == int(told["segments"])
    assert (out / "dqdx.png").read_bytes()[:4] == b"\x89PNG"
    page = (out / "dqdx.html").read_text()
    assert page.count("<svg") == 1 + (int(told["stopping"]) > 0)
    assert "predicted charge of the kept voxels" in page
    assert "https://" not in page.replace("http://www.w3.org", "").split("<svg")[0]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["settings"]["charge"] == "charge"
    assert summary["fits"][0]["method"] == "truth"
    svg = (out / "dqdx.svg").read_bytes()
    assert CliRunner().invoke(app, [*call, "--bootstraps", "0"]).exit_code == 0
    assert (out / "dqdx.svg").read_bytes() == svg
    for wrong in (["--files", "2:1"], ["--lifetime", "long"], ["--tpcs", "x"]):
        assert CliRunner().invoke(app, [*call, *wrong]).exit_code == 2


def test_stopped_or_on_a_full_disk_no_rows_are_left(many, tmp_path, monkeypatch):
    app = typer.Typer()
    app.command()(dqdx_command)
    out = tmp_path / "out"
    call = [str(many.path), "--prediction", "net", "--bootstraps", "0", "-o"]

    def stop(*_):
        assert len(list(out.iterdir())) == 2
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("train.results.dqdx_tally.RateTally.residual", stop)
        assert CliRunner().invoke(app, [*call, str(out)]).exit_code == 130
    assert list(out.iterdir()) == []
    for inside in (many.path, many.path / "voxels"):
        run = CliRunner().invoke(app, [*call, str(inside)])
        assert str(run.exception) == f"{inside}: is a store, or a part of one. Fix: another output directory"
    (out / "residual_range.png").touch()  # of an earlier call, whose muons stopped
    run = CliRunner().invoke(app, [*call, str(out)])
    assert run.exit_code == 0, run.output
    assert ("residual_range.svg" in os.listdir(out)) == ("residual_range.png" in os.listdir(out))
    with small_disk(tmp_path / "disk") as disk:
        fill(disk, 8192)
        run = CliRunner().invoke(app, [*call, str(disk / "out")])
        assert isinstance(run.exception, StoreError)
        assert str(run.exception) == f"{disk / 'out'}: No space left on device. Fix: another output directory"
        assert list((disk / "out").iterdir()) == []


def test_what_makes_no_sense_is_refused(many, tmp_path, monkeypatch):
    with pytest.raises(StoreError, match=r"no prediction 'nets'. Fix: one of charge, net"):
        dqdx(many.select(), "nets")
    with pytest.raises(StoreError, match=r"'charge' holds no scores. Fix: --prediction with one that does \(net\)"):
        dqdx(many.select(), "charge")
    with pytest.raises(StoreError, match=r"'net' holds no charges. Fix: --charge with one that does \(charge\)"):
        dqdx(many.select(), "net", Settings(charge="net"))
    with pytest.raises(ConfigError, match=r"tube_cm = 0. Fix: give a number from 0.001"):
        dqdx(many.select(), "net", Settings(tube_cm=0))
    half = dqdx(many.select(), "net", Settings(charge="charge", charge_scale=2 * UNIT, bootstraps=0)).segments
    assert half["predicted"].mean() == pytest.approx(0.25 * half["truth"].mean(), rel=0.02)
    about = {"checkpoint_sha256": "0" * 64, "output": "charge", "config": {"data": {"scale": [1.0, 0.001]}}}
    with larstore.PredictionWriter(many.path, "mixed", about) as writer:
        writer.commit()
    with pytest.raises(StoreError, match=r"'mixed': a network .* scales \[0.001, 1.0\].* Fix: --charge-scale"):
        dqdx(larstore.open(many.path).select(), "net", Settings(charge="mixed"))
    with pytest.raises(ConfigError, match=r"lifetime -1. Fix: a number of ms from 0.01 on, or truth"):
        dqdx(many.select(), "net", Settings(lifetime=-1))
    for wrong in (
        Settings(lifetime=np.inf), Settings(lifetime=1e-9), Settings(threshold=np.nan), Settings(tube_cm=1e200),
        Settings(piece_cm=1e-300), Settings(charge="charge", charge_scale=1e-300), Settings(charge_scale=2.0),
        Settings(bootstraps=-1), Settings(bootstraps=100_000),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="Fix: "):
            dqdx(many.select(), "net", wrong)
    monkeypatch.setattr(type(many.geometry), "joined", (1, 2))
    with pytest.raises(StoreError, match=r"are joined, so one drift time does not hold.*Fix: --lifetime truth"):
        dqdx(many.select(), "net", Settings(lifetime=10.0))
    monkeypatch.undo()
    plain = make_store(tmp_path / "plain.zarr", 1, 1)
    with larstore.PredictionWriter(plain, "net", {"checkpoint_sha256": "0" * 64}) as writer:
        for shard, images in writer.groups(larstore.open(plain).select()):
            writer.write(shard, [(image, np.ones(len(image), np.float32)) for image in images])
        writer.commit()
    with pytest.raises(
        StoreError, match=r"no segment of a muon in 0 images .* \(1 more images without pdg and track, 0"
    ):
        dqdx(larstore.open(plain).select(), "net")
    assert_allclose(voxel_size_cm(many), SIZE_CM)
