"""`Strata` on a simulated store against a plain Python twin, straight tracks in known directions, no truth."""

import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import typer
from numpy.testing import assert_array_equal
from typer.testing import CliRunner

import larstore
from larstore.errors import ConfigError, StoreError
from larstore.geometry import Geometry
from larstore.records import InputFile
from larstore.testing import add_images, make_geometry, make_image, make_store
from preprocess.closure.angles import theta_xz
from preprocess.testing import small_detector
from tests.train import strata_twin as twin
from tests.train.test_evaluate import predict
from train.cli import evaluate as evaluate_command
from train.results.strata import ALL, Strata
from train.results.strata.surroundings import DEAD, IMAGE_VOXELS, OCCUPANCY
from train.results.strata.tracks import ANGLES

CLUSTERED = ("particle", "energy", "drift_angle", "theta_xz_max", "theta_xz_u", "theta_xz_v", "theta_xz_w")
ORIGINS = {13: "cosmic", -13: "cosmic", 211: "beam"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("strata")


@pytest.fixture(scope="module")
def simulated(folder):
    return larstore.open(twin.simulated_store(folder))


@pytest.mark.parametrize("threshold", [0.0, 5000.0])
def test_all_strata_are_those_of_the_twin(simulated, folder, threshold):
    strata = Strata(simulated, truth_threshold=threshold, origins=ORIGINS)
    assert not strata.missing
    assert set(strata.labels) == set(strata.definitions)
    assert set(strata.labels) == {*CLUSTERED, "sample", "tpc", "segment", "origin", "dead", "occupancy", "image_voxels"}
    planes = small_detector(folder).tpc(1).planes
    seen = {name: set() for name in strata.labels}
    for image in simulated.select():
        for coords, codes in ((image.coords, strata.codes(image)), (image.truth_voxels[0], strata.true_codes(image))):
            assert set(codes) == set(strata.labels)
            for name, each in codes.items():
                assert each.dtype == np.int16
                assert each.shape == (len(coords),)
                seen[name] |= {strata.labels[name][code] if code >= 0 else None for code in each.tolist()}
            check(image, coords, codes, strata, threshold, [plane.normal for plane in planes])
    assert seen["sample"] == {"of-tpc-1", "of-tpc-3"}
    assert seen["tpc"] == {"TPC 1", "TPC 3"}
    assert {"muon", "electron, gamma", "small (< 50 voxels)"} <= seen["particle"]
    assert {"beam", "cosmic", None} <= seen["origin"]
    assert {"0 mm", "12–30 mm"} <= seen["dead"]
    for name in ("segment", "energy", "theta_xz_u", "occupancy"):
        assert len(seen[name]) >= 3


def check(image, coords, codes, strata, threshold, normals):
    """Some voxels of an image one by one."""
    (step_x, step_y, step_z), frame = simulated_steps(image)
    sides = (step_x * frame.drift_speed_mm_us * frame.tick_us, step_y * frame.pixel_mm, step_z * frame.pixel_mm)
    true = [i for i, value in enumerate(image.truth_voxels[1].tolist()) if value > threshold]
    truth = image.truth_voxels[0][true].tolist()
    columns = [image.truth_columns[name][true].tolist() for name in ("track", "pdg")]
    clusters = twin.tracks_of(truth, image.truth_voxels[1][true].tolist(), *columns, sides)
    tiled, all_coords = set(map(tuple, image.coords.tolist())), image.coords.tolist()
    dead = {(y, z) for (_, y, z), live in zip(all_coords, image.live.tolist(), strict=True) if live != 7}
    rng = np.random.default_rng(len(coords))
    for i in rng.choice(len(coords), min(len(coords), 120), replace=False).tolist():
        voxel = coords[i].tolist()
        _, y, z = voxel
        found = {name: int(each[i]) for name, each in codes.items()}
        assert strata.labels["sample"][found["sample"]] == f"of-tpc-{image.key[2]}"
        assert strata.labels["tpc"][found["tpc"]] == f"TPC {image.key[2]}"
        half = (y + 0.5) * step_y >= frame.n_y / 2
        assert found["segment"] == 12 * half + int((z + 0.5) * step_z * 12 / frame.n_z)
        assert found["dead"] == twin.code(twin.dead_distance((y, z), dead, sides[1:]), DEAD.edges)
        assert found["occupancy"] == twin.code(twin.neighbours(voxel, tiled), OCCUPANCY.edges)
        assert found["image_voxels"] == twin.code(len(image), IMAGE_VOXELS.edges)
        options = []
        for row in twin.nearest(voxel, truth, sides):
            size, charge, pdg, axis = clusters[columns[0][row]]
            option = {"particle": twin.particle(size, pdg), "energy": twin.code(charge, twin.ENERGIES)}
            option["origin"] = {13: 1, -13: 1, 211: 0}.get(pdg, -1)
            degrees = twin.angles(axis, normals)
            options.append(
                option | {n: twin.code(a, ANGLES.edges) for n, a in zip(CLUSTERED[2:], degrees, strict=True)}
            )
        options = options or [dict.fromkeys((*CLUSTERED, "origin"), -1)]
        assert {name: found[name] for name in options[0]} in options


def simulated_steps(image):
    return image.store.attributes["downsample"], image.store.geometry.tpcs[image.key[2]]


def store_of(path, images, geometry, columns=("pdg", "track"), **settings):
    larstore.create(
        path, geometry=geometry, provenance={}, truth_columns=columns, shard_rows=4096, chunk_rows=256, **settings
    )
    add_images(path, images, [InputFile("input.npz", 0, 1, "0" * 64, "made")])
    return larstore.open(path)


def tracks_image(places, pdg, file=0):
    """An image whose truth voxels, all tiled, are those of places (k, 3) in voxels, a track each."""
    coords, owner = [], []
    for number, place in enumerate(places):
        each = np.unique(np.asarray(place).round().astype(np.uint16), axis=0)
        coords.append(each)
        owner.append(np.full(len(each), number, np.int32))
    coords, first = np.unique(np.concatenate(coords), axis=0, return_index=True)
    owner, value = np.concatenate(owner)[first], np.full(len(coords), 3e4, np.float32)
    image = make_image(file, 0, 1, 10, input="input.npz")
    return replace(
        image, coords=coords, charge=np.ones((len(coords), 3), np.float32), live=np.full(len(coords), 7, np.uint8),
        truth=value, truth_coords=coords, truth_value=value,
        truth_columns={"pdg": np.asarray(pdg, np.int32)[owner], "track": owner},
    )  # fmt: skip


def test_angles_are_those_of_the_closure_test(tmp_path):
    """Straight tracks in known directions of a detector with tilted wires, in the middle of bins of angle."""
    detector = small_detector(tmp_path)
    tpc = detector.tpc(1)
    sides = np.array([8 * 0.5 * 1.565, 8.0, 8.0])
    rng, tested = np.random.default_rng(3), 0
    images, directions = [], []
    while len(images) < 30:
        direction = rng.standard_normal(3)
        direction /= np.linalg.norm(direction)
        directions.append(direction)
        places = 200 + np.linspace(-1000, 1000, 4000)[:, None] * direction / sides
        images.append(tracks_image([places], [13], file=len(images)))
    store = store_of(tmp_path / "s.zarr", images, detector.geometry())
    strata = Strata(store, ["angle"])
    for image, direction in zip(store.select(), directions, strict=True):
        expected = {f"theta_xz_{plane.name}": theta_xz(direction, plane) for plane in tpc.planes}
        expected["theta_xz_max"] = max(expected.values())
        expected["drift_angle"] = np.degrees(np.arccos(abs(direction[0])))
        codes = strata.codes(image)
        for name, angle in expected.items():
            if 1 < angle % 15 < 14:  # voxels blur a track's direction a little
                assert (codes[name] == int(angle / 15)).all()
                tested += 1
    assert tested > 80


def test_classes_of_particles(tmp_path):
    """Each of its own track, and a voxel that has no track near it."""
    line = np.linspace(0, 60, 400)[:, None] * [1, 0, 0]
    pdg = [13, -13, 11, 22, 2212, -211, 321, 0, 13]
    places = [line + np.array([5, 40 * k, 5]) for k in range(len(pdg))]
    places[-1] = places[-1][:300]  # 46 voxels
    strata = Strata(store_of(tmp_path / "s.zarr", [tracks_image(places, pdg)], make_geometry()), ["particle", "energy"])
    (image,) = strata.store.select()
    found = strata.codes(image)
    labels = [*strata.labels["particle"], None]
    of_track = {row: {labels[c] for c in found["particle"][image.truth_columns["track"] == row]} for row in range(9)}
    expected = ["muon", "muon", "electron, gamma", "electron, gamma", "proton", "charged pion", "other", None]
    assert of_track == {k: {label} for k, label in enumerate([*expected, "small (< 50 voxels)"])}
    assert {strata.labels["energy"][code] for code in found["energy"]} == {"1 Me (33 MeV) – 3 Me (100 MeV)"}


@pytest.mark.parametrize("strata", [None, "tpc"])
def test_the_command_is_told_origins(tmp_path, strata):
    path = predict(make_store(tmp_path / "run.zarr", n_voxels=200, truth_columns=("pdg", "track")))
    app = typer.Typer()
    app.command()(evaluate_command)
    words = [str(path), "--prediction", "net", "-o", str(tmp_path / "out"), "--bootstrap", "0"]
    words += ["--origins", "13=cosmic,-13=cosmic,11=beam", *(["--strata", strata] if strata else [])]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    table = pd.read_parquet(tmp_path / "out" / "metrics.parquet")
    assert set(table["stratum_kind"]) == {"", "origin", *([strata] if strata else [])}
    assert set(table.loc[table["stratum_kind"] == "origin", "stratum"]) <= {"beam", "cosmic"}
    for wrong in ("13", "13=cosmic,13=beam", "=beam"):
        refused = CliRunner().invoke(app, [*words, "--origins", wrong])
        assert refused.exit_code == 2
        assert "NAME=VALUE" in refused.output


def test_origins_are_as_told(tmp_path):
    line = np.linspace(0, 60, 400)[:, None] * [1, 0, 0]
    image = tracks_image([line + np.array([5, y, 5]) for y in (5, 60, 120)], [13, 211, 11])
    store = store_of(tmp_path / "s.zarr", [image], make_geometry())
    (image,) = store.select()
    track = image.truth_columns["track"]
    strata = Strata(store, ["origin"], origins={13: "cosmic", 211: "beam"})
    assert strata.labels == {"origin": ["beam", "cosmic"]}
    assert "PDG 13 is cosmic, PDG 211 is beam" in strata.definitions["origin"]
    assert_array_equal(strata.codes(image)["origin"], np.array([1, 0, -1])[track])
    strata = Strata(store, ["origin"], origins={13: "cosmic", "made": "beam"})
    assert not strata.codes(image)["origin"].any()
    assert "stores do not record it" in Strata(store).missing["origin"]
    with pytest.raises(ConfigError, match=r"origin of 13: 'muon'. Fix: one of beam, cosmic"):
        Strata(store, origins={13: "muon"})
    with pytest.raises(StoreError, match=r"origin of sample 'other', which no input has. Fix: "):
        Strata(store, origins={"other": "beam"})


def test_boxes_of_joined_tpcs(tmp_path):
    """TPC 3 lies beside TPC 1 in z: the boxes are those of both together."""
    geometry = make_geometry((1, 3))
    frames = {1: geometry.tpcs[1].model_copy(update={"joined_origin": (0, 0, 0)})}
    frames[3] = geometry.tpcs[3].model_copy(update={"joined_origin": (0, 0, 80), "origin_z_mm": 640.0})
    image = make_image(0, 0, 1, 300, truth_columns=("pdg", "track"))
    store = store_of(tmp_path / "s.zarr", [image], Geometry("testing", geometry.wires, frames))
    strata = Strata(store, ["segment", "angle"])
    assert not strata.missing  # the wires are alike
    (image,) = store.select()
    expected = [12 * (y >= 32) + int((z + 0.5) * 12 / 144) for _, y, z in image.coords.tolist()]
    assert_array_equal(strata.codes(image)["segment"], expected)
    assert strata.labels["segment"][13] == "y 2/2, z 2/12"


def test_joined_tpcs_with_other_wires_have_no_angles(tmp_path):
    geometry = make_geometry((1, 3))
    wires = {name: column.copy() for name, column in geometry.wires.items()}
    tilted = (wires["tpc"] == 3) & (wires["plane"] == 0)
    wires["head"][tilted, 2] += 300.0
    frames = {n: f.model_copy(update={"joined_origin": (0, 0, 80 * (n > 1))}) for n, f in geometry.tpcs.items()}
    image = tracks_image([np.linspace(0, 60, 400)[:, None] * [1, 0, 0] + 5], [13])
    store = store_of(tmp_path / "s.zarr", [image], Geometry("testing", wires, frames))
    assert "different directions" in Strata(store, ["angle"]).missing["angle"]


def test_what_a_store_cannot_give(tmp_path):
    one = {"n_files": 1, "n_events": 1}
    bare = larstore.open(make_store(tmp_path / "bare.zarr", truth=False, **one))
    strata = Strata(bare)
    assert set(strata.labels) == {"sample", "tpc", "segment", "dead", "occupancy", "image_voxels"}
    assert set(strata.missing) == {"particle", "origin", "energy", "angle"}
    assert strata.missing["particle"] == "no image has truth voxels"
    (image,) = bare.select()
    assert all(len(each) == 0 for each in strata.true_codes(image).values())
    assert all(len(each) == 100 for each in strata.codes(image).values())
    for columns in ((), ("pdg", "track")):  # what the store has, of which the image has nothing
        values = store_of(tmp_path / f"values-{len(columns)}.zarr", [make_image(0, 0, 1, 50)], make_geometry(), columns)
        assert Strata(values).missing["energy"] == "no image has the truth columns pdg and track"
    geometry = make_geometry()
    frame = geometry.tpcs[1].model_copy(update={"drift_speed_mm_us": None})
    image = make_image(0, 0, 1, 50, truth_columns=("pdg", "track"))
    slow = store_of(tmp_path / "slow.zarr", [image], Geometry("testing", geometry.wires, {1: frame}), units="MeV")
    for kind in ("particle", "angle"):
        assert Strata(slow).missing[kind] == "geometry/ has no drift speed or tick length of TPC 1"
    assert Strata(slow).missing["energy"] == "truth is in MeV, not electrons"
    assert Strata(slow).missing["sample"] == "no image's input has a sample name"
    empty = larstore.open(make_store(tmp_path / "empty.zarr", n_files=0))
    assert set(Strata(empty).labels) == {"segment", "dead", "occupancy", "image_voxels"}


def test_images_without_what_others_have(tmp_path):
    """Neither truth nor columns, no dead channel, no voxels at all: in no stratum, or that of none."""
    whole = make_image(0, 0, 1, 80, truth_columns=("pdg", "track"), input="input.npz")
    whole = replace(whole, n_bad_channels=1)
    plain = make_image(1, 0, 1, 80, input="other.npz")
    none = replace(make_image(2, 0, 1, 80, truth=False), live=np.full(80, 7, np.uint8), n_bad_channels=2)
    empty = replace(
        make_image(3, 0, 1, 1, truth_columns=("pdg", "track")), coords=np.empty((0, 3), np.uint16),
        charge=np.empty((0, 3), np.float32), live=np.empty(0, np.uint8), truth=np.empty(0, np.float32),
    )  # fmt: skip
    store = store_of(tmp_path / "s.zarr", [whole, plain, none, empty], make_geometry())
    strata = Strata(store, origins=ORIGINS)
    codes = [strata.codes(image) for image in store.select()]
    assert (codes[0]["particle"] >= 0).any()
    for found in codes[1:]:
        for name in (*CLUSTERED, "origin", "sample"):
            assert (found[name] == -1).all()
    assert ((codes[0]["dead"] == 0) >= (whole.live != 7)).all()
    for found in codes[1:3]:  # no channel is bad (what is not live lacks wires), or all voxels are live
        assert (found["dead"] == len(DEAD.labels) - 1).all()
    assert [len(found["dead"]) for found in codes] == [80, 80, 80, 0]
    lost = strata.true_codes(store.select()[3])
    assert {len(each) for each in lost.values()} == {store.select()[3].summary("truth_count")}
    assert (lost["occupancy"] == 0).all()


def test_wrong_use_is_refused(tmp_path, simulated):
    with pytest.raises(ConfigError, match=r"no kind 'colour'. Fix: some of sample, tpc, "):
        Strata(simulated, ["tpc", "colour"])
    other = larstore.open(make_store(tmp_path / "s.zarr", n_files=1, n_events=1))
    with pytest.raises(StoreError, match=r"its images are not those of .*Fix: "):
        Strata(simulated).codes(other.select()[0])


def test_order_of_kinds_and_processes_do_not_matter(simulated):
    """Any selection of kinds gives the same codes, also after a pickle, as in a worker."""
    strata = Strata(simulated)
    image, later = simulated.select()[0], simulated.select()[3]
    expected = strata.codes(image)
    some = pickle.loads(pickle.dumps(Strata(simulated, ["occupancy", "particle", "particle"])))  # noqa: S301
    assert list(some.labels) == ["occupancy", "image_voxels", "particle"]
    for name, codes in some.codes(some.store.select()[0]).items():
        assert_array_equal(codes, expected[name])
    strata.codes(later)
    for name, codes in strata.codes(image).items():
        assert_array_equal(codes, expected[name])
    assert tuple(dict.fromkeys(ALL)) == ALL
