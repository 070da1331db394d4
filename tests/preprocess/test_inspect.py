"""`larstore inspect`: contents, fitting detectors, warnings and the command, on files made for each case."""

import shlex
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from larstore.errors import InputError
from preprocess.config import load_run_config
from preprocess.detector.model import Detector
from preprocess.inspection import inspect
from preprocess.inspection.charge import region_charges, scale_for, typical_charge
from preprocess.sources import open_source
from preprocess.testing import (
    small_detector,
    write_frame_file,
    write_numl,
    write_parsed,
    write_wirecell,
    write_wirecell_hdf5,
)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return small_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture(autouse=True)
def only_the_small_detector(monkeypatch, detector):
    """The built-in ones need seconds to load, and wires files that nobody may copy."""
    monkeypatch.setattr("preprocess.inspection.look.built_in", lambda: ([detector], []))


def tracks(n_events=2, electrons=30_000.0, n_ticks=1400):
    """Each channel has one region of 10 ticks that sums to ``electrons``."""
    waveform = np.zeros((n_ticks, 210), np.float32)
    for column in range(210):
        start = 7 * column % (n_ticks - 10)
        waveform[start : start + 10, column] = electrons / 10
    return [waveform] * n_events


def test_a_good_archive(tmp_path, detector):
    masks = {"bad": np.array([[3, 0, 9], [4, 0, 9]], np.int32)}
    path = write_wirecell(tmp_path / "run.tar.gz", detector.tpc(1), tracks(3), masks=masks)
    found = inspect(path)
    assert (found.kind, found.n_events, found.n_looked_at) == ("frames", 3, 3)
    (waves,) = found.waveforms
    assert (waves.name, waves.shapes, waves.dtype) == ("gauss", [(210, 1400)], "float32")
    assert (waves.low, waves.high, waves.channels, waves.tick_us) == (0, 3000, (0, 209, 210), [0.5])
    assert waves.lit == pytest.approx(10 / 1400)
    assert waves.charge == pytest.approx(30_000, rel=1e-6)
    assert waves.n_regions == 3 * 50
    (fit,) = found.fits
    assert (fit.detector, fit.tpcs, fit.complete) == ("small", [1], True)
    assert fit.counts == "u 80/80, v 80/80, w 50/50"
    assert found.remarks == ["chanmask: 2 rows [channel, first tick, end tick) (3 events)"]
    assert found.warnings == []
    assert found.command == f"larstore preprocess {path} -o run.zarr --detector small"
    assert inspect(path, n_events=2).n_looked_at == 2


@pytest.mark.parametrize(
    ("reader", "suffix"), [("wirecell", ".npz"), ("wirecell-hdf5", ".h5"), ("numl", ".h5"), ("parsed", ".npz")]
)
def test_every_format_gives_the_same_charge(tmp_path, detector, reader, suffix):
    path = write_frame_file(tmp_path, reader, detector.tpc(3), tracks(), suffix)
    found = inspect(path)
    assert found.n_events == found.n_looked_at == 2
    assert found.product == "wire"
    assert found.waveforms[0].charge * found.scale == pytest.approx(30_000, rel=1e-5)
    assert [fit.tpcs for fit in found.fits] == [[3]]
    assert found.warnings == []


@pytest.mark.parametrize(("factor", "scale"), [(0.001, 1000), (0.005, 200), (1000.0, None), (0.21, None), (4.9, None)])
def test_the_wrong_unit_is_noticed(tmp_path, detector, factor, scale):
    path = write_wirecell(tmp_path / "run.tar", detector.tpc(1), [w * factor for w in tracks()])
    found = inspect(path)
    if 0.2 < factor < 5:
        assert found.warnings == []
        return
    assert any(f"{30_000 * factor:,.0f} electrons a collection wire" in text for text in found.warnings)
    assert any("wrong unit? --scale" in text for text in found.warnings)
    assert scale is None or found.command.endswith(f"--scale {scale}")
    if scale is not None:
        (event, _) = open_source(path).events(detector.tpc(1), scale=float(scale))
        assert event.waveform[:, 200].sum() == pytest.approx(30_000, rel=1e-5)


def test_noise_everywhere_is_noticed(tmp_path, detector):
    rng = np.random.default_rng(0)
    noisy = [(w + rng.normal(0, 100, w.shape)).astype(np.float32) for w in tracks()]
    found = inspect(write_wirecell(tmp_path / "run.tar", detector.tpc(1), noisy))
    (text,) = [text for text in found.warnings if "not zero-suppressed" in text]
    threshold = float(text.split("as ")[1].split()[0])
    assert 400 < threshold < 600
    assert np.mean(noisy[0] > threshold) < 0.01


def test_sign_nan_ticks_and_window(tmp_path, detector):
    tpc = detector.tpc(1)
    found = inspect(write_wirecell(tmp_path / "a.tar", tpc, [-w for w in tracks()]))
    assert any("sign=-1" in text for text in found.warnings)
    assert "--set sign=-1" in found.command
    broken = tracks(1)[0].copy()
    broken[3, 4] = np.nan
    broken[3, 5] = np.inf
    found = inspect(write_wirecell(tmp_path / "b.tar", tpc, [broken]))
    assert any("2 samples are NaN or infinite" in text for text in found.warnings)
    found = inspect(write_wirecell(tmp_path / "c.tar", tpc, tracks(), tick_ns=512.0))
    assert any("label says ticks of 0.512 us, small has 0.5: --set tick_us=0.5" in text for text in found.warnings)


def test_square_and_transposed_frames(tmp_path, detector):
    tpc = detector.tpc(1)
    found = inspect(write_wirecell(tmp_path / "a.tar", tpc, tracks(n_ticks=210)))
    assert found.waveforms[0].ambiguous
    assert "--set orientation=channels_first" in found.command
    path = write_wirecell_hdf5(tmp_path / "b.h5", tpc, tracks())
    with h5py.File(path, "r+") as file:
        values = file["0/frame_gauss"][()].T
        del file["0/frame_gauss"]
        file["0/frame_gauss"] = values
    found = inspect(path)
    assert found.waveforms[0].transposed
    assert found.waveforms[0].shapes == [(210, 1400)]


def test_the_window(tmp_path, detector):
    found = inspect(write_wirecell(tmp_path / "a.tar", detector.tpc(1), tracks(1, n_ticks=300)))
    assert found.warnings == ["300 ticks, the window of small has 1400: cut, or rebinned? Then its t0_us or tick_us is "
                              "another: a detector YAML with `extends: small`"]  # fmt: skip


def test_several_tags(tmp_path, detector):
    tpc = detector.tpc(1)
    path = write_wirecell_hdf5(tmp_path / "a.h5", tpc, tracks(), tag="wiener")
    with h5py.File(path, "r+") as file:
        for ident in ("0", "1"):
            file[ident]["frame_gauss"] = file[ident]["frame_wiener"][()]
            file[ident]["channels_gauss"] = tpc.channels
            file[ident]["tickinfo_gauss"] = np.array([0.0, 500.0, 0.0])
            file[ident]["frame_label"] = np.zeros((210, 1400), np.int8)
    found = inspect(path)
    assert [waves.name for waves in found.waveforms] == ["gauss", "wiener"]
    assert found.remarks == ["label: has no channels or no tickinfo: not a frame (2 events)"]
    assert found.command.endswith("--detector small --tag gauss")


def test_detectors_that_do_not_fit(tmp_path, detector, monkeypatch):
    tpc = detector.tpc(1)
    path = write_wirecell(tmp_path / "a.tar", tpc, tracks())
    fewer = write_wirecell_hdf5(tmp_path / "b.h5", tpc, tracks())
    with h5py.File(fewer, "r+") as file:
        for group in file.values():
            values, channels = group["frame_gauss"][:200], group["channels_gauss"][:200]
            del group["frame_gauss"], group["channels_gauss"]
            group["frame_gauss"], group["channels_gauss"] = values, channels
    found = inspect(fewer)
    assert (found.fits[0].complete, found.fits[0].counts) == (False, "u 80/80, v 80/80, w 40/50")
    assert any("no built-in detector fits" in text for text in found.warnings)
    assert "--detector DETECTOR" in found.command
    twins = [Detector(name, detector.tpcs) for name in ("protodune-hd", "protodune-sp")]
    monkeypatch.setattr("preprocess.inspection.look.built_in", lambda: (twins, ["not compared with x"]))
    found = inspect(path)
    assert any("several detectors fit" in text for text in found.warnings)
    assert "--detector DETECTOR" in found.command
    assert "not compared with x" in found.remarks
    for name, expected in (("pdsp-3.tar", "protodune-sp"), ("ProtoDUNE_HD-1.tar", "protodune-hd")):
        found = inspect(write_wirecell(tmp_path / name, tpc, tracks()))
        assert not any("several" in text for text in found.warnings)
        assert found.command.endswith(f"--detector {expected}")


def test_the_command_reads_the_file(tmp_path, detector):
    """What inspect prints is a valid command line: its options are the configuration's keys."""
    path = write_wirecell(tmp_path / "a b.tar", detector.tpc(1), [w * np.float32(-0.005) for w in tracks()])
    program, subcommand, file, dash_o, store, *rest = shlex.split(inspect(path).command)
    assert (program, subcommand, file, dash_o) == ("larstore", "preprocess", str(path), "-o")
    pairs = dict(zip(rest[::2], rest[1::2], strict=True))
    overrides = [pairs.pop("--set")]
    options = {key.removeprefix("--"): value for key, value in pairs.items()}
    config = load_run_config(None, {"inputs": (file,), "output": store, **options}, overrides)
    assert config.reading.sign == -1


def test_numl_and_parsed_have_no_labels(tmp_path, detector):
    found = inspect(write_numl(tmp_path / "a.h5", detector.tpc(1), tracks()))
    assert found.waveforms[0].tick_us == []
    assert found.waveforms[0].channels is None
    assert found.remarks == ["other tables: edep_table, hit_table"]
    assert found.fits[0].counts == "u 80/80, v 80/80, w 50/50"
    found = inspect(write_parsed(tmp_path / "a_1_hit-TPC3.npz", detector.tpc(3), tracks()))
    assert (found.product, found.named_tpc, found.scale) == ("hit", 3, 1000.0)
    assert found.fits[0].tpcs == [3]
    found = inspect(write_parsed(tmp_path / "a_1_hit-TPC1.npz", detector.tpc(1), [w[:, :99] for w in tracks()]))
    assert found.fits[0].counts == "99/210 channels, not numbered"
    assert not found.fits[0].complete


def test_truth_and_unknown_files(tmp_path):
    np.savez(tmp_path / "a_1_depo-TPC1.npz", np.array([[1, 2, 3, 5.0], [1, 2, 3, 6.0]]), np.zeros((3, 3)))
    found = inspect(tmp_path / "a_1_depo-TPC1.npz")
    assert found.kind == "unknown"
    assert found.remarks == ["event 0: 2 points, sum 11"]
    assert "event 1 is not (points, 4 or more columns)" in found.warnings
    with h5py.File(tmp_path / "map.h5", "w") as file:
        file["1/mcpart/pids"] = np.arange(3)
        file["2"] = h5py.ExternalLink("/etc/passwd", "/x")
    found = inspect(tmp_path / "map.h5")
    assert "mcpart: simulated particles (pids by track_ids, momenta, start and end points)" in found.remarks
    assert "truth by track id" in found.warnings[0]
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match=r"is of no known format\. Fix: give one of"):
        inspect(tmp_path / "notes.txt")
    with pytest.raises(InputError, match="no such file"):
        inspect(tmp_path / "none.tar")


@given(st.lists(st.lists(st.integers(-2, 5), min_size=1, max_size=12), min_size=1, max_size=4), st.integers(0, 3))
def test_regions_against_a_loop(rows, above):
    width = max(len(row) for row in rows)
    values = np.array([row + [0] * (width - len(row)) for row in rows], np.float32)
    expected = []
    for row in values:
        total, inside = 0.0, False
        for value in [*row, -1]:
            if value > above:
                total, inside = total + value, True
            elif inside:
                expected.append(total)
                total, inside = 0.0, False
    assert region_charges(values, above).tolist() == expected


@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=50), st.floats(1e-3, 1e3))
def test_the_typical_charge_scales_and_lies_between(charges, factor):
    array = np.array(charges)
    typical = typical_charge(array)
    assert array.min() * (1 - 1e-9) <= typical <= array.max() * (1 + 1e-9)
    assert typical_charge(factor * array) == pytest.approx(factor * typical, rel=1e-9)
    assert typical_charge(np.concatenate([array, [-5.0, 0.0]])) == pytest.approx(typical, rel=1e-12)
    assert typical_charge(np.empty(0)) is None


def test_specks_do_not_decide():
    """As in the frames at hand: most regions are noise, most of the charge is in a few showers."""
    charges = np.concatenate([np.full(3000, 800.0), np.full(1000, 30_000.0), np.full(20, 2_000_000.0)])
    assert 10_000 < typical_charge(charges) < 90_000
    assert [scale_for(charge) for charge in (25_000, 140, 31)] == [1.0, 200.0, 1000.0]


def test_the_command_line(tmp_path, detector):
    import typer

    from preprocess.inspection_cli import inspect_command

    app = typer.Typer()
    app.command()(inspect_command)
    path = write_wirecell(tmp_path / "a.tar", detector.tpc(1), [w * np.float32(0.001) for w in tracks()])
    result = CliRunner().invoke(app, [str(path), "--events", "1"])
    assert result.exit_code == 0, result.output
    for words in (
        "2 events (the first 1 looked at)",
        "gauss",
        "210 × 1400",
        "u 80/80",
        "wrong unit? --scale 1000",
        "30 e",
    ):
        assert words in result.output
    assert result.output.rstrip().endswith("--detector small --scale 1000")
    assert "Example:" in CliRunner().invoke(app, ["--help"]).output


def test_images_of_the_research_code_lead_to_their_import():
    found = inspect(Path(__file__).parents[1] / "data/golden/tiling/batch0-reco_singleMu_101_xy-TPC1.npz")
    assert found.command.startswith("larstore import-xy ")
