"""What the training benchmark measures, against slow twins and by hand; and that all its steps run."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from preprocess.detector import load_detector
from preprocess.overlap import grid_of
from preprocess.simulation import Deposits
from preprocess.testing import small_detector
from preprocess.voxels import Tiler
from tests.benchmarks.training_charge import compare, mean_of_planes, spread
from tests.benchmarks.training_frames import best_scores, explained, lit_charge
from tests.benchmarks.training_samples import count_particles, lose_regions
from tests.benchmarks.training_scores import interval
from tests.benchmarks.training_settings import BEAM, FULL, TINY
from tests.benchmarks.training_steps import Bench, StepError


@pytest.fixture(scope="module")
def tpc(tmp_path_factory):
    """A small face of three planes."""
    return small_detector(tmp_path_factory.mktemp("detector")).tpc(1)


@pytest.fixture(scope="module")
def tiled(tpc):
    """Its tiler, a waveform with some crossings, and the voxels."""
    waveform = np.zeros((32, len(tpc.channels)), np.float32)
    random = np.random.default_rng(3)
    for tick in (3, 4, 21):
        for plane in tpc.planes:
            columns = random.choice(np.unique(plane.column), 8)
            waveform[tick, columns] = random.uniform(600, 4000, 8)
    waveform[10, :3] = 100.0  # below the threshold
    tiler = Tiler(tpc)
    return tiler, waveform, tiler(waveform, 500.0)


def test_explained_charge_equals_a_walk_through_pixels(tiled):
    tiler, waveform, voxels = tiled
    tpc = tiler.tpc
    assert len(voxels) > 20
    score = np.random.default_rng(1).random(len(voxels), dtype=np.float32)
    lit = lit_charge(waveform, 500.0)
    assert lit.sum() == pytest.approx(waveform[waveform > 500].sum())
    best = best_scores(tiler.overlaps, grid_of(tpc).patches[1], lit.shape, voxels.coords, score)
    for cut in (0.0, 0.5, 0.9):
        crossed = set()
        for (x, y, z), s in zip(voxels.coords.tolist(), score, strict=True):
            for pixel in np.ndindex(4, 4):
                at = 4 * y + pixel[0], 4 * z + pixel[1]
                if s >= cut and at[0] < tpc.frame.n_y and at[1] < tpc.frame.n_z:
                    crossed |= {(x, column) for _, column, _ in tiler.overlaps.pixel(tpc.frame.n_z, *at)}
        for p, plane in enumerate(tpc.planes):
            columns = set(np.unique(plane.column).tolist())
            slow = sum(
                waveform[t, c]
                for t, c in np.argwhere(waveform > 500).tolist()
                if c in columns and (t // 8, c) in crossed
            )
            total = sum(waveform[t, c] for t, c in np.argwhere(waveform > 500).tolist() if c in columns)
            (fast,) = explained(lit, best, tiler.overlaps.column_plane == p, [cut])
            assert fast == pytest.approx(slow / total)


def test_all_voxels_explain_what_made_them(tiled):
    tiler, waveform, voxels = tiled
    lit = lit_charge(waveform, 500.0)
    best = best_scores(
        tiler.overlaps, grid_of(tiler.tpc).patches[1], lit.shape, voxels.coords, np.ones(len(voxels), np.float32)
    )
    for p in range(len(tiler.tpc.planes)):
        assert 0 < explained(lit, best, tiler.overlaps.column_plane == p, [0.5])[0] <= 1


def test_a_late_frame_counts_from_tick_0():
    lit = lit_charge(np.array([[600.0], [700.0], [800.0]], np.float32), 650.0, first_tick=6)
    assert lit.tolist() == [[700.0], [800.0]]


def test_bias_and_resolution():
    found = spread(2 * np.array([0.9] * 16 + [1.0] * 68 + [1.1] * 16))
    assert found["bias"] == pytest.approx(1.0)
    assert found["resolution"] == pytest.approx(0.0, abs=0.05)
    random = np.random.default_rng(2)
    reference = random.uniform(5e3, 6e4, 50_000)
    shrunk = compare(0.1 * reference * random.normal(1, 0.3, len(reference)), reference)
    assert shrunk["bias"] == pytest.approx(-0.9, abs=0.01)
    assert shrunk["resolution"] == pytest.approx(0.3, abs=0.01)  # as sharp as one that is not shrunk
    assert len(shrunk["deciles"]) == 10
    assert shrunk["deciles"][0]["low"] == reference.min()
    assert shrunk["deciles"][9]["high"] == reference.max()
    # A bias in the lowest tenth alone is seen there, and not in the others.
    estimate = np.where(reference < shrunk["deciles"][0]["high"], 1.2, 1.0) * reference
    assert [round(row["bias"], 6) for row in compare(estimate, reference)["deciles"]] == [0.2] + 9 * [0.0]
    assert spread(np.array([-1.0, 0.0, 0.0]))["resolution"] == np.inf
    # Whoever reads so much, and is right in the median, is drawn to the middle where the truth is high or low.
    estimate = random.uniform(1e4, 3e4, 200_000)
    drawn = compare(estimate, estimate * random.lognormal(0, 0.3, len(estimate)))
    assert max(abs(row["bias"]) for row in drawn["estimated"]) < 0.02
    assert drawn["deciles"][0]["bias"] > 0.2
    assert drawn["deciles"][9]["bias"] < -0.2


def test_mean_of_planes_leaves_out_what_is_not_live():
    charge = np.array([[1, 2, 3], [1, 2, 3], [1, 2, 3]], np.float32)
    assert mean_of_planes(charge, np.array([0b111, 0b101, 0], np.uint8)).tolist() == [2.0, 2.0, 0.0]
    assert mean_of_planes(charge[:1], np.array([0b011], np.uint8)).tolist() == [1.5]


def test_bootstrap_interval_covers_as_often_as_it_says():
    random, hits = np.random.default_rng(0), 0
    for _ in range(60):
        values = random.normal(0, 1, 50)
        low, high = interval(50, lambda chosen, v=values: float(v[chosen].mean()), rounds=300)
        hits += low <= 0 <= high
        assert high - low == pytest.approx(4 * values.std() / 50**0.5, rel=0.25)
    assert hits >= 50


def test_lost_regions_are_whole_and_of_induction_planes_only(tpc):
    waveform = np.zeros((400, len(tpc.channels)), np.float32)
    for start in range(0, 400, 20):
        waveform[start : start + 7] = 900.0
    before = waveform.copy()
    lost = lose_regions(waveform, tpc, 0.05, np.random.default_rng(1))
    np.testing.assert_array_equal(waveform, before)
    collected = np.unique(tpc.planes[-1].column)
    np.testing.assert_array_equal(lost[:, collected], waveform[:, collected])
    induced = np.unique(np.concatenate([plane.column for plane in tpc.planes[:-1]]))
    regions = lost[:, induced].reshape(20, 20, -1).sum(axis=1) / 900.0
    assert set(np.unique(regions)) == {0.0, 7.0}
    assert (regions == 0).mean() == pytest.approx(0.05, abs=0.02)


def test_particles_are_counted_by_the_voxels_they_fill():
    tpc = load_detector("protodune-sp").tpc(1)
    frame = tpc.frame
    x = frame.anode_x_mm + frame.drift_sign * 1000.0
    long = np.column_stack([np.full(500, x), 3000.0 + np.zeros(500), 200.0 + np.arange(500.0)])
    short, outside = long[:50], long - np.array([2000.0 * frame.drift_sign, 0.0, 0.0])
    points = np.vstack([long, short, outside, long])
    n = [len(part) for part in (long, short, outside, long)]
    deposits = Deposits(
        np.column_stack([points, np.zeros(len(points)), np.full(len(points), 1000.0)]),
        np.repeat(np.array([13, -13, 13, 11], np.int32), n),
        np.repeat(np.arange(4, dtype=np.int32), n),
    )
    assert count_particles(tpc, deposits, 13) == 1  # 500 mm are 62 voxels, 50 mm are 6
    assert count_particles(tpc, deposits, 11) == 1
    assert count_particles(tpc, deposits, 211) == 0


def test_a_directory_of_other_settings_is_refused(tmp_path):
    bench = Bench(tmp_path / "work", TINY, None)
    assert [step.name for step in bench.steps()][:3] == ["simulate beam", "preprocess beam", "simulate electrons"]
    bench.done["simulate beam"] = {"seconds": 1.0, "load": [0.0, 0.0], "result": {"files": [1], "counted": [1]}}
    bench._save()
    assert Bench(tmp_path / "work", TINY, None).done == bench.done
    with pytest.raises(StepError, match=r"holds a run with other settings\. Fix: "):
        Bench(tmp_path / "work", FULL, None)


def test_one_response_for_all_samples():
    """It is no sample's own: what a sample sets are particles alone."""
    for sample in FULL.samples:
        assert not set(sample.particles) & set(FULL.response)
    assert sum(sample.events for sample in FULL.samples) >= 600
    assert BEAM.wanted == (8, 16)
    assert FULL.ghost["train"]["max_minutes"] <= 60


@pytest.mark.slow
@pytest.mark.timeout(900)  # a minute on a quiet machine, in many processes
def test_all_steps_run_once(tmp_path):
    data = os.environ.get("LARSTORE_TEST_DATA")
    bench = Bench(tmp_path / "work", TINY, Path(data) if data else None)
    bench.run()
    from tests.benchmarks.training_page import FIGURES, write_page

    docs = tmp_path / "docs"
    docs.mkdir()
    write_page(json.loads(json.dumps(bench.results())), docs)
    text = (docs / "network-quality.md").read_text(encoding="utf-8")
    for words in (
        "sp_area | beam + cosmics | ≥ 0.945",
        "agreement of the planes",
        "5 % of induction regions lost",
        "ke |",
    ):
        assert words in text
    assert {path.name for path in docs.glob("*.svg")} == {
        name for name in FIGURES if data or name != "quality-frames.svg"
    }
    before = (tmp_path / "work/state.json").stat().st_mtime_ns
    Bench(tmp_path / "work", TINY, bench.data).run()  # nothing is left to do
    assert (tmp_path / "work/state.json").stat().st_mtime_ns == before
    held_out = bench.done["score beam"]["result"]
    assert held_out["images"] + held_out["images_without_truth"] == TINY.samples[0].held_out
