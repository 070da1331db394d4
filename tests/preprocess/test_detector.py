"""Detectors: built-in ones, YAMLs, wires files, and what they refuse."""

import bz2
import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from larstore.errors import ConfigError, InputError
from preprocess.detector import detector_names, load_detector

CONFIGS = Path(__file__).parents[2] / "configs" / "detectors"
needs_data = pytest.mark.skipif("LARSTORE_TEST_DATA" not in os.environ, reason="LARSTORE_TEST_DATA is not set")


def geometry(name):
    return Path(os.environ["LARSTORE_TEST_DATA"]) / "geometry" / name


def small_wires(**changes):
    """A wires document: one anode, one face, planes u, v, w of three wires each."""
    points, wires, planes = [], [], []
    for ident, (dy, dz) in enumerate([(10.0, 10.0), (10.0, -10.0), (20.0, 0.0)]):
        for k in range(3):
            y, z = (0.0, 5.0 * k) if dz else (-10.0, 5.0 * k)
            points += [
                {"Point": {"x": -5.0 * ident, "y": y, "z": z}},
                {"Point": {"x": -5.0 * ident, "y": y + dy, "z": z + dz}},
            ]
            n = len(wires)
            wires.append({"Wire": {"ident": n, "channel": 7 + n, "segment": 0, "tail": 2 * n, "head": 2 * n + 1}})
        planes.append({"Plane": {"ident": ident, "wires": list(range(3 * ident, 3 * ident + 3))}})
    store = {
        "anodes": [{"Anode": {"ident": 3, "faces": [0]}}],
        "faces": [{"Face": {"ident": 0, "planes": [2, 0, 1]}}],
        "planes": planes,
        "wires": wires,
        "points": points,
    }
    return {"Store": store | changes}


@pytest.fixture
def wires_file(tmp_path):
    path = tmp_path / "tiny-wires.json"
    path.write_text(json.dumps(small_wires()))
    return path


@pytest.mark.parametrize("name", ["protodune-sp", "protodune-sp-2021"])
def test_built_in_detectors(name):
    detector = load_detector(name)
    assert name in detector_names()
    assert sorted(detector.tpcs) == list(range(12))
    for number, tpc in detector.tpcs.items():
        assert tpc.number == number == 2 * tpc.anode + 1 - tpc.face
        assert_array_equal(tpc.channels, np.arange(2560) + 2560 * tpc.anode)
        assert [(plane.name, len(plane.offset_mm)) for plane in tpc.planes] == [("u", 1148), ("v", 1148), ("w", 480)]
        assert (tpc.frame.n_y, tpc.frame.n_z, tpc.frame.n_ticks) == (2992, 1150, 6000)
        for plane in tpc.planes:
            assert_allclose(np.diff(plane.offset_mm), plane.pitch_mm, atol=1e-9)
            assert_array_equal(tpc.channels[plane.column], plane.channel)
            for end in (plane.tail, plane.head):
                assert_allclose(end[:, 1:] @ plane.normal, plane.offset_mm, atol=1e-8)
    # All wires of an anode together read out every channel.
    used = {c for n in (0, 1) for plane in detector.tpc(n).planes for c in plane.channel.tolist()}
    assert used == set(range(2560))


def test_planes_go_by_drift_order_not_by_angle():
    detector = load_detector("protodune-sp")
    angles = {n: [np.sign(plane.normal[0]) for plane in detector.tpc(n).planes] for n in (1, 2)}
    assert angles == {1: [-1, 1, 0], 2: [1, -1, 0]}


def test_the_frame_is_the_way_to_ticks_and_pixels():
    tpc = load_detector("protodune-sp-2021").tpc(1)
    assert float(tpc.to_ticks(-3587.0)) == 500.0
    assert_allclose(tpc.to_ticks(-3587.0 + 1.565 * 100, 3.0), 706.0)
    assert_allclose(load_detector("protodune-sp-2021").tpc(2).to_ticks(3587.0 - 1.565 * 100), 700.0)
    assert [float(v) for v in tpc.to_pixels(76.0 + 2 * 7.5, 3.0 + 2 * 4.5)] == [7.5, 4.5]
    assert tpc.frame.drift_length_mm == 3587.0
    assert load_detector("protodune-sp-2021").tpc(0).frame.drift_length_mm is None


def test_geometry_holds_every_wire_and_is_reproducible():
    first, second = (load_detector("protodune-sp").geometry() for _ in range(2))
    assert first.hash == second.hash != load_detector("protodune-sp-2021").geometry().hash
    assert len(first.wires["channel"]) == 33312
    assert first.wires["tail"].shape == (33312, 3)
    assert first.tpcs[5].number == 5


@needs_data
def test_protodune_sp_is_the_wires_file():
    built_in = load_detector("protodune-sp")
    for number, expected in load_detector(geometry("protodune-wires-larsoft-v4.json.bz2")).tpcs.items():
        tpc = built_in.tpc(number)
        assert_array_equal(tpc.channels, expected.channels)
        assert tpc.frame.anode_x_mm == pytest.approx(expected.frame.anode_x_mm, abs=0.01)
        assert tpc.frame.drift_sign == expected.frame.drift_sign
        assert (tpc.frame.n_y, tpc.frame.n_z) == (expected.frame.n_y, expected.frame.n_z)
        for ours, theirs in zip(tpc.planes, expected.planes, strict=True):
            assert_array_equal(ours.channel, theirs.channel)
            assert_allclose(ours.x_mm, theirs.x_mm, atol=0.01)
            # The line, at both ends of the file's wire.
            for point in (theirs.tail, theirs.head):
                assert_allclose(point[:, 1:] @ ours.normal, ours.offset_mm, atol=0.01)


@needs_data
@pytest.mark.parametrize(
    ("name", "tpcs", "planes"),
    [
        ("protodunehd-wires-larsoft-v1.json.bz2", 8, 3),
        ("protodunevd-wires-larsoft-v3.json.bz2", 16, 3),
        ("microboone-celltree-wires-v2.1.json.bz2", 1, 3),
    ],
)
def test_other_wires_files_load(name, tpcs, planes):
    detector = load_detector(geometry(name))
    assert len(detector.tpcs) == tpcs
    for tpc in detector.tpcs.values():
        assert len(tpc.planes) == planes
        for plane in tpc.planes:
            assert np.diff(plane.offset_mm).min() > 0.9 * plane.pitch_mm


@needs_data
def test_protodune_hd_yaml_finds_its_wires():
    tpc = load_detector(CONFIGS / "protodune-hd.yaml").tpc(2)
    assert (tpc.anode, tpc.face) == (1, 1)
    assert tpc.frame.drift_speed_mm_us == 1.576
    assert tpc.frame.drift_length_mm == pytest.approx(3520.19 - 1.5875)  # to the surface of the cathode


def test_missing_wires_say_where_they_were_looked_for(monkeypatch):
    monkeypatch.delenv("LARSTORE_WIRES_PATH", raising=False)
    monkeypatch.delenv("WIRECELL_PATH", raising=False)
    with pytest.raises(ConfigError, match=r"protodunehd-wires.*LARSTORE_WIRES_PATH"):
        load_detector(CONFIGS / "protodune-hd.yaml")


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ConfigError, match=r"'icarus'.*protodune-sp, protodune-sp-2021"):
        load_detector("icarus")


def test_unknown_tpcs_list_the_known_ones():
    with pytest.raises(ConfigError, match=r"no TPC 12\. Fix: choose one of 0, 1, 2"):
        load_detector("protodune-sp").tpc(12)


@pytest.mark.parametrize(("suffix", "opener"), [("", open), (".bz2", bz2.open), (".gz", gzip.open)])
def test_wires_files_plain_and_packed(tmp_path, suffix, opener):
    path = tmp_path / f"tiny.json{suffix}"
    with opener(path, "wb") as file:
        file.write(json.dumps(small_wires()).encode())
    detector = load_detector(path)
    tpc = detector.tpc(7)
    assert detector.name == "tiny"
    assert tpc.channels.tolist() == list(range(7, 16))
    assert [plane.x_mm for plane in tpc.planes] == [0.0, -5.0, -10.0]  # by ident, not as listed
    assert tpc.frame.drift_sign == 1
    assert (tpc.frame.n_y, tpc.frame.n_z) == (10, 8)  # plane w: 20 mm, two pitches and half a pitch at either side


def test_a_bare_wires_file_asks_for_the_missing_keys(wires_file):
    with pytest.raises(ConfigError, match="drift_speed_mm_us, tick_us, t0_us"):
        load_detector(wires_file).tpc(7).to_ticks(0.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: a\nwires: b.json\ndrift_velocity: 1", "drift_velocity"),
        ("name: a\nwires: b.json\npixel_mm: -1", "pixel_mm"),
        ("name: a", "either"),
        ("just text", "holds no keys"),
        ("a: [", "YAML"),
        ("name: a\nwires: $NO_SUCH_VARIABLE/b.json", "NO_SUCH_VARIABLE"),
    ],
)
def test_wrong_yamls_are_refused_with_file_and_key(tmp_path, text, says):
    path = tmp_path / "detector.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_detector(path)
    assert str(path) in str(error.value)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_tpc_numbers_can_be_given(tmp_path, wires_file):
    path = tmp_path / "own.yaml"
    path.write_text(f"name: own\nwires: {wires_file.name}\ntpcs: {{4: [3, 0]}}\n")
    assert list(load_detector(path).tpcs) == [4]
    path.write_text(f"name: own\nwires: {wires_file.name}\ntpcs: {{4: [3, 1]}}\n")
    with pytest.raises(ConfigError, match=r"\[3, 1\].*\[\[3, 0\]\]"):
        load_detector(path)


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"{}",
        b"\xff\xfe\x00",
        json.dumps({"Store": {}}).encode(),
        json.dumps(small_wires(points=[])).encode(),
        json.dumps(small_wires(wires=[])).encode(),
        json.dumps(small_wires(anodes=[])).encode(),
        json.dumps(small_wires(planes=[{"Plane": {"ident": 0, "wires": [99]}}])).encode(),
    ],
)
def test_damaged_wires_files_are_refused_with_their_name(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.json.*Fix:"):
        load_detector(path)


@pytest.mark.parametrize("suffix", [".json.bz2", ".json.gz"])
def test_truncated_packed_files_are_refused(tmp_path, suffix):
    packed = (bz2 if "bz2" in suffix else gzip).compress(json.dumps(small_wires()).encode())
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(InputError, match="cut"):
        load_detector(path)


def test_a_missing_file_is_named():
    with pytest.raises(InputError, match=r"no-such\.json"):
        load_detector("no-such.json")


def test_a_channel_in_two_planes_is_refused(tmp_path):
    document = small_wires()
    document["Store"]["wires"][3]["Wire"]["channel"] = 7
    path = tmp_path / "twice.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="channel 7 is in two planes"):
        load_detector(path)
