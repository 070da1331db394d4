"""Bad channels as users give them, from the configuration to the voxels of a store: lists, files, silent channels."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import larstore
from larstore.errors import ConfigError, InputError, StoreError
from preprocess.bad_channels import FOR_EVER, MOST_ENTRIES, fingerprint, resolve, rows_of, zero_columns, zero_rows
from preprocess.cluster import make_cluster
from preprocess.config import RunConfig, load_run_config
from preprocess.detector import load_detector
from preprocess.pipeline import process_unit
from preprocess.plan import Unit
from preprocess.runner import open_output, run
from preprocess.testing.frames import write_wirecell

NAME = "protodune-sp-2021"
N_TICKS = 40
NO_ROWS = np.empty((0, 3), np.int32)
# Columns of the ProtoDUNE-HD frame that its mask names.
MASKED = [17, 20, 380, 784, 787, 1195, 1198, 1242, 1245, 1303, 1306, 2078, 2079, 2162, 2559]
SPOT = (3000.0, 1000.0)  # y, z in mm: somewhere in the middle of TPC 1


@pytest.fixture(scope="module")
def detector():
    return load_detector(NAME)


@pytest.fixture(scope="module")
def tpc(detector):
    return detector.tpc(1)


def crossing(tpc):
    """For each plane, the column of the wire nearest to SPOT."""
    return [
        int(plane.column[np.argmin(np.abs(plane.offset_mm - np.array(SPOT) @ plane.normal))]) for plane in tpc.planes
    ]


def one_spot(tpc):
    """A waveform that lights SPOT, and only that, in ticks 8 and 32."""
    waveform = np.zeros((N_TICKS, len(tpc.channels)), np.float32)
    waveform[np.ix_([8, 32], crossing(tpc))] = 1000.0
    return waveform


# The list


rows = st.tuples(st.integers(0, 5), st.integers(0, 12), st.integers(1, 6)).map(lambda r: (r[0], r[1], r[1] + r[2]))


@given(given_rows=st.lists(st.one_of(st.integers(0, 5), rows), max_size=12))
def test_merged_rows_mean_the_same_and_are_canonical(detector, given_rows):
    def dead(entries):
        whole = {entry for entry in entries if isinstance(entry, int)}
        parts = {(c, t) for c, first, end in (e for e in entries if not isinstance(e, int)) for t in range(first, end)}
        return whole, {(c, t) for c, t in parts if c not in whole}

    entries = resolve(given_rows, detector)
    assert dead(entries) == dead(given_rows)
    assert resolve(given_rows[::-1], detector) == entries == resolve(list(entries), detector)
    times = [entry for entry in entries if not isinstance(entry, int)]
    for (channel, _, end), (following, first, _) in pairwise(times):
        assert channel < following or end < first  # no two rows touch


def test_a_file_and_numbers_make_one_list(detector, tmp_path):
    path = tmp_path / "bad.txt"
    path.write_text("# dead since June\n12\n\n40 100 200 # noisy\n40 200 300\n2559\t0\t5\n")
    expected = (7, 12, (40, 100, 300), (2559, 0, 5))
    assert resolve([str(path), 7], detector) == expected
    assert resolve([str(path), "7,12"], detector) == expected
    assert resolve(path, detector) == expected[1:]
    assert resolve("3,1", detector) == (1, 3)
    assert resolve(5, detector) == (5,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1\n99999\n", "bad.txt: line 2: protodune-sp-2021 has no channel 99999; its 15,360 channels are 0 … 15359"),
        ("1\n2 5\n", "bad.txt: line 2: '2 5' is no bad channel"),
        ("U12\n", "bad.txt: line 1: 'U12' is no bad channel"),
        ("-4\n", "bad.txt: line 1: '-4' is no bad channel"),
        ("3 10 10\n", "bad.txt: line 1: channel 3 is bad from tick 10 to 10"),
        ("3 0 2147483648\n", "bad.txt: line 1: channel 3 is bad from tick 0 to 2147483648"),
        (b"\xff\xfe\x00", "bad.txt: cannot be read (not text)"),
        (None, "bad.txt: cannot be read (No such file or directory)"),
    ],
    ids=["unknown", "two words", "name", "negative", "no tick", "too late", "binary", "missing"],
)
def test_a_wrong_file_is_said_with_its_line(detector, tmp_path, text, words):
    path = tmp_path / "bad.txt"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        resolve(str(path), detector)
    assert words in str(caught.value)
    assert "Fix: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("entry", [True, 1.5, [1, 2], [1, 2, "3"], "", {"a": 1}, -1, [1, -5, 3]])
def test_wrong_entries_are_refused(detector, entry):
    with pytest.raises(ConfigError, match=r"bad_channels: .*Fix: "):
        resolve([entry], detector)


def test_a_list_without_end_is_refused(detector):
    many = [(channel, 2 * i, 2 * i + 1) for channel in range(11) for i in range(MOST_ENTRIES // 10)]
    with pytest.raises(ConfigError, match="22,000 rows, more than 20,000"):
        resolve(many, detector)


def test_the_settings_hold_the_list_and_not_the_file(tmp_path):
    path = tmp_path / "bad.txt"
    path.write_text("40 0 9\n12\n")
    values = {"inputs": ["raw"], "output": "run.zarr", "detector": NAME}
    config = load_run_config(None, values | {"bad_channels": str(path)})
    assert config.bad_channels == (12, (40, 0, 9))
    by_option = load_run_config(None, values, [f"bad_channels=[12, {path}]"])
    assert by_option == config
    path.unlink()
    assert RunConfig(**config.model_dump(mode="json")) == config
    with pytest.raises(ConfigError, match="has no channel 15360"):
        load_run_config(None, values, ["bad_channels=15360"])
    with pytest.raises(ConfigError, match="zero_channels 'drop'"):
        load_run_config(None, values, ["zero_channels=drop"])


def test_the_fingerprint_is_that_of_the_list(detector):
    assert fingerprint(()) is None
    one, other = (fingerprint(resolve(given, detector)) for given in ([3, (4, 0, 8), (4, 8, 9)], [(4, 0, 9), 3]))
    assert one == other
    assert one != fingerprint(resolve([3, (4, 0, 10)], detector))
    # Stores hold this string: it must stay the same.
    assert fingerprint((3,)) == "1 rows, sha256 " + "4079e4af87d7d813c698db35d58eab6fd13988b0ab8eeb87523f8eccae2d2e98"


# Rows of a TPC


def test_rows_are_the_columns_of_the_tpcs_wires(detector):
    tpc, other = detector.tpc(1), detector.tpc(5)
    mine = int(tpc.channels[crossing(tpc)[0]])
    behind = int(detector.tpc(0).channels[detector.tpc(0).planes[2].column[0]])  # same anode, other face only
    elsewhere = int(other.channels[0])
    entries = resolve([mine, behind, elsewhere], detector)
    assert rows_of(entries, tpc, 0, 10).tolist() == [[crossing(tpc)[0], 0, FOR_EVER]]
    assert rows_of(entries, other, 0, 10).tolist() == [[0, 0, FOR_EVER]]
    assert rows_of((), tpc, 0, 10).shape == (0, 3)


def test_rows_beside_the_event_are_left_out(detector, tpc):
    columns = np.unique(tpc.planes[0].column)[:4]
    channels = tpc.channels[columns].tolist()
    ticks = [(90, 100), (90, 101), (109, 120), (110, 120)]  # the event has ticks 100 … 109
    entries = resolve([(c, *t) for c, t in zip(channels, ticks, strict=True)], detector)
    assert rows_of(entries, tpc, 100, 10)[:, 0].tolist() == columns[1:3].tolist()


# Channels without signal


@settings(deadline=None)
@given(
    n_ticks=st.integers(1, 200),
    lit=st.lists(st.tuples(st.integers(0, 199), st.integers(0, 8), st.sampled_from([1.0, -1.0, 1e-30])), max_size=12),
    looked_at=st.sets(st.integers(0, 8)),
    dtype=st.sampled_from([np.float32, np.float16, np.int16]),
)
def test_zero_columns_are_those_of_zeros(n_ticks, lit, looked_at, dtype):
    waveform = np.zeros((n_ticks, 9), dtype)
    waveform[:, 4] = -0.0
    for tick, column, value in lit:
        waveform[tick % n_ticks, column] = value
    expected = [c for c in sorted(looked_at) if all(value == 0 for value in waveform[:, c].tolist())]
    assert zero_columns(waveform, np.array(sorted(looked_at), np.intp)).tolist() == expected


def test_silent_channels_are_bad_while_the_event_lasts(tpc):
    waveform = np.full((N_TICKS, len(tpc.channels)), -0.5, np.float32)
    silent = sorted(crossing(tpc))
    waveform[:, silent] = 0.0
    other_face = np.setdiff1d(np.arange(len(tpc.channels)), np.concatenate([p.column for p in tpc.planes]))
    waveform[:, other_face] = 0.0
    assert zero_rows(waveform, 100, tpc, NO_ROWS).tolist() == [[column, 100, 100 + N_TICKS] for column in silent]
    # One of them is known to be bad throughout, another one only in some ticks.
    known = np.array([[silent[1], 0, FOR_EVER], [silent[2], 100, 120]], np.int32)
    assert zero_rows(waveform, 100, tpc, known)[:, 0].tolist() == [silent[0], silent[2]]


def test_a_plane_without_signal_is_refused(tpc):
    columns = np.unique(tpc.planes[1].column)
    waveform = np.ones((N_TICKS, len(tpc.channels)), np.float32)
    waveform[:, columns[:400]] = 0.0
    assert len(zero_rows(waveform, 0, tpc, NO_ROWS)) == 400  # half of them
    waveform[:, columns[400]] = 0.0
    with pytest.raises(InputError, match=r"401 of the 800 channels of plane v as bad.*Fix: set zero_channels to keep"):
        zero_rows(waveform, 0, tpc, NO_ROWS)


# The whole run


@pytest.fixture(scope="module")
def client():
    with make_cluster("local", 1) as client:
        yield client


@pytest.fixture
def raw(tmp_path, tpc):
    return write_wirecell(tmp_path / "raw_1_wire-TPC1.tar", tpc, [one_spot(tpc)])


def stored(raw, client, name="run.zarr", **options):
    config = RunConfig(inputs=(str(raw),), output=raw.parent / name, detector=NAME, tpcs=(1,), truth=None, **options)
    summary = run(config, client)
    assert not summary.failures, summary.failures
    return larstore.open(config.output).image(file=1, event=0, tpc=1), summary, config


def test_a_bad_channel_clears_live_bits_in_the_store(raw, client, tpc):
    good = stored(raw, client, "good.zarr")[0]
    assert set(good.live.tolist()) == {7}
    assert good.summary("n_bad_channels") == 0
    u, v, w = (int(tpc.channels[column]) for column in crossing(tpc))
    listed = raw.parent / "bad.txt"
    listed.write_text(f"{u} 0 16 # tick 8, not 32\n{v} 100 200 # behind the event\n{w + 2560} # another TPC's\n")
    image = stored(raw, client, bad_channels=[str(listed), (u, 4, 12)])[0]
    assert image.summary("n_bad_channels") == 1
    early, late = image.coords[:, 0] == 1, image.coords[:, 0] == 4
    assert early.sum() + late.sum() == len(image)
    # U stands in where its channel is bad: all pixels along the crossing of V and W, and perhaps more than before.
    assert early.sum() >= late.sum() == (good.coords[:, 0] == 4).sum() > 0
    assert set(image.live[early].tolist()) == {6}
    assert not image.charge[early, 0].any()
    np.testing.assert_allclose(image.charge[early].sum(axis=0), [0, 1000, 1000], rtol=1e-6)
    assert set(image.live[late].tolist()) == {7}
    np.testing.assert_allclose(image.charge[late].sum(axis=0), [1000, 1000, 1000], rtol=1e-6)


def test_silent_channels_are_bad_if_asked_for(tmp_path, client, tpc):
    u, v, w = crossing(tpc)
    noise = np.full((N_TICKS, len(tpc.channels)), -0.5, np.float32)
    noise[:, v] = 0.0
    noise[8, [u, w]] = 1000.0
    raw = write_wirecell(tmp_path / "raw_1_wire-TPC1.tar", tpc, [noise])
    keep = stored(raw, client, "keep.zarr")[0]
    assert len(keep) == 0  # V is dark there
    image, summary, _ = stored(raw, client, zero_channels="bad")
    assert len(image) > 0
    assert set(image.live.tolist()) == {5}
    assert image.summary("n_bad_channels") == 1
    assert summary.notes["channels without signal, taken as bad"] == 1


def test_an_event_of_zeros_fails_with_the_numbers(raw, client, tpc, geometry_hash):
    config = RunConfig(inputs=(str(raw),), output="none.zarr", detector=NAME, truth=None, zero_channels="bad")
    with pytest.raises(InputError, match=r"TPC1.tar: event 0: zero_channels = bad would take 799 of the 800"):
        process_unit(Unit(str(raw), 1, 1, 1), config, geometry_hash)


def test_the_command_line_takes_numbers_or_a_file(raw, tmp_path):
    (tmp_path / "bad.txt").write_text("# none\n77777\n")
    command = [sys.executable, "-m", "larstore.cli", "preprocess", raw, "-o", tmp_path / "run.zarr", "--detector", NAME]
    options = ["--bad-channels", tmp_path / "bad.txt"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert f"{tmp_path / 'bad.txt'}: line 2: {NAME} has no channel 77777" in done.stderr
    assert "Traceback" not in done.stderr
    options = ["--bad-channels", "1,2", "--zero-channels", "bad", "--dry-run"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "run.zarr").exists()


@pytest.fixture(scope="module")
def geometry_hash(detector):
    return detector.geometry().hash


def test_a_store_keeps_to_its_list(raw, client, monkeypatch):
    listed = raw.parent / "bad.txt"
    listed.write_text("5\n6\n")
    _, _, config = stored(raw, client, bad_channels=[str(listed)])
    again = RunConfig(**config.model_dump() | {"bad_channels": [6, 5]})  # the same channels
    assert open_output(again) is not None
    listed.write_text("5\n7\n")
    edited = RunConfig(**config.model_dump() | {"bad_channels": [str(listed)]})
    with pytest.raises(StoreError, match=r"bad_channels = 2 rows, sha256 \w+, this run has 2 rows, sha256"):
        open_output(edited)
    with pytest.raises(StoreError, match="this run has None"):
        open_output(RunConfig(**config.model_dump() | {"bad_channels": []}))
    with pytest.raises(StoreError, match="zero_channels = None, this run has bad"):
        open_output(RunConfig(**config.model_dump() | {"zero_channels": "bad"}))


def test_a_store_from_before_these_settings_is_continued(raw, client, monkeypatch):
    tiling = RunConfig.tiling

    def without(self):
        return {key: value for key, value in tiling(self).items() if key not in ("bad_channels", "zero_channels")}

    with monkeypatch.context() as patch:
        patch.setattr(RunConfig, "tiling", without)
        image, _, config = stored(raw, client)
    assert "bad_channels" not in image.store.attributes["provenance"]["tiling"]
    assert open_output(config) is not None
    with pytest.raises(StoreError, match="bad_channels = None, this run has 1 rows"):
        open_output(RunConfig(**config.model_dump() | {"bad_channels": [5]}))


@pytest.mark.slow
@pytest.mark.skipif("LARSTORE_TEST_DATA" not in os.environ, reason="LARSTORE_TEST_DATA is not set")
def test_the_mask_of_real_data_is_where_bits_are_cleared():
    """The ProtoDUNE-HD frame masks 15 of its channels, and a list adds one more and one of them once more."""
    folder = Path(os.environ["LARSTORE_TEST_DATA"])
    archive = folder / "frames" / "protodunehd-sp-frames-anode1.tar.bz2"
    wires = folder / "geometry" / "protodunehd-wires-larsoft-v1.json.bz2"
    tpc = load_detector(wires).tpc(2)
    values = {"inputs": [str(archive)], "output": "none.zarr", "detector": str(wires), "truth": None, "tag": "gauss1"}
    unit, geometry_hash = Unit(str(archive), 1, 2, 1), load_detector(wires).geometry().hash
    columns = [*MASKED, crossing(tpc)[0]]
    listed = tpc.channels[[MASKED[3], crossing(tpc)[0]]].tolist()
    config = RunConfig(**values, bad_channels=listed, downsample=(16, 1, 1))
    (image,) = process_unit(unit, config, geometry_hash).images
    assert image.n_bad_channels == 16
    assert len(image.coords) > 10_000
    frame = tpc.frame
    y = frame.origin_y_mm + frame.pixel_mm * (image.coords[:, 1] + 0.5)
    z = frame.origin_z_mm + frame.pixel_mm * (image.coords[:, 2] + 0.5)
    for p, plane in enumerate(tpc.planes):
        at = np.array([y, z]).T @ plane.normal
        dead = plane.offset_mm[np.isin(plane.column, columns)]
        distance = np.abs(at - dead[:, None]).min(axis=0)
        reach = frame.pixel_mm / 2 * np.abs(plane.normal).sum()
        touch = plane.pitch_mm / 2 + reach
        no_wire = (at < plane.offset_mm[0] - touch + 2 * reach) | (at > plane.offset_mm[-1] + touch - 2 * reach)
        cleared = (image.live >> p & 1) == 0
        assert cleared.any()
        assert (no_wire | (distance < touch + 1e-6))[cleared].all()
        assert cleared[distance < touch - 0.2].all()  # a corner of 0.2 mm is more than a thousandth of a pixel
    # Two channels of U are silent that the mask does not name.
    (image,) = process_unit(unit, RunConfig(**values, zero_channels="bad"), geometry_hash).images
    assert image.n_bad_channels == 17
    # The anode's other face looks at the wall: 438 of its collection channels hold zeros, beside 2 masked ones.
    with pytest.raises(InputError, match="438 of the 480 channels of plane w"):
        process_unit(Unit(str(archive), 1, 3, 1), RunConfig(**values, zero_channels="bad"), geometry_hash)
