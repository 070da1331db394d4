"""Inverse calibration of charges: no median bias at any true charge, what is told where it cannot be had."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import larstore
from larstore.errors import ConfigError, StoreError
from larstore.testing import add_images, make_geometry, make_image, make_store
from train.calibrate_cli import calibrate_command
from train.results.calibrate_run import calibrate
from train.results.calibration import BINS, FEWEST, Calibration, FitVoxels, fit_calibration


def drawn_to_the_middle(truth, rng, spread=0.3):
    """What a network gives: in logarithms, 0.7 of the way from the mean, with a scatter."""
    logs = np.log(truth)
    return np.exp(logs.mean() + 0.7 * (logs - logs.mean()) + spread * rng.normal(size=len(truth)))


def biases(estimate, truth, parts=10):
    """Median bias in each decile of the truth."""
    order = np.array_split(np.argsort(truth), parts)
    return np.array([np.median(estimate[part] / truth[part]) - 1 for part in order])


def test_no_bias_in_any_decile_of_the_truth():
    rng = np.random.default_rng(1)
    fit, test = (np.exp(rng.normal(9.5, 1.0, 200_000)) for _ in range(2))
    estimate = drawn_to_the_middle(test, rng)
    assert np.abs(biases(estimate, test)).max() > 0.4
    calibration = fit_calibration(drawn_to_the_middle(fit, rng), fit, "it")
    assert np.abs(biases(calibration(estimate), test)).max() < 0.02


def naive(calibration, estimate):
    """Knot by knot."""
    e, c = calibration.estimate.tolist(), calibration.charge.tolist()
    if estimate <= 0:
        return 0.0
    if estimate < e[0]:
        return estimate * c[0] / e[0]
    if estimate > e[-1]:
        return estimate * c[-1] / e[-1]
    for k in range(len(e) - 1):
        if e[k] <= estimate <= e[k + 1]:
            return c[k] + (c[k + 1] - c[k]) * (estimate - e[k]) / (e[k + 1] - e[k])
    return c[-1]


@settings(max_examples=60, deadline=None)
@given(st.integers(40, 400), st.integers(0, 2**32 - 1), st.floats(0, 2))
@example(56, 56, 2.0)  # two bins, the second one's median below the first one's
def test_knots_ascend_and_the_way_back_is_that_between_them(n, seed, spread):
    rng = np.random.default_rng(seed)
    truth = rng.gamma(1.0, 1e4, n) + 1
    estimate = drawn_to_the_middle(truth, rng, spread)
    parts = np.array_split(estimate[np.argsort(truth)], min(BINS, n // FEWEST))
    median = np.array([np.median(part) for part in parts])
    if all(median[:k].mean() >= median[k:].mean() for k in range(1, len(median))):  # one level fits best
        with pytest.raises(StoreError, match="do not grow"):
            fit_calibration(estimate, truth, "it")
        return
    calibration = fit_calibration(estimate, truth, "it")
    assert (np.diff(calibration.estimate) > 0).all()
    assert (np.diff(calibration.charge) > 0).all()
    asked = np.concatenate([rng.uniform(-1e3, 1e5, 30), calibration.estimate])
    np.testing.assert_allclose(calibration(asked), [naive(calibration, float(e)) for e in asked], rtol=1e-9)
    assert (np.diff(calibration(np.sort(asked))) >= 0).all()


@pytest.mark.parametrize(
    ("n", "estimate", "said"),
    [(39, 1.0, "39 voxels with truth are too few"), (400, -1.0, "do not grow with the true charge")],
)
def test_what_cannot_be_fitted_is_said(n, estimate, said):
    truth = np.arange(1.0, n + 1)
    with pytest.raises(StoreError, match=f"^here: .*{said}.*Fix: "):
        fit_calibration(estimate * truth, truth, "here")


def added(most, images):
    voxels = FitVoxels(most)
    for number, (estimate, truth) in images:
        voxels.add((number, 0, 1), estimate, truth)
    return voxels


def test_of_many_voxels_all_images_have_a_share():
    """The response grows from image to image: who looks at the first ones alone is wrong."""
    rng = np.random.default_rng(2)
    truths = [np.exp(rng.normal(9.5, 1.0, 1000)) for _ in range(64)]
    grown = np.exp(np.linspace(0, 1, 64)[:, None] + 0.3 * rng.normal(size=(64, 1000)))
    images = [(n, (truth * factor, truth)) for n, (truth, factor) in enumerate(zip(truths, grown, strict=True))]
    some, every = added(10_000, images), added(10**6, images)
    assert (every.kept, every.share) == (64_000, 1.0)
    assert some.share == 1 / 8
    assert 7000 < some.kept < 9000
    asked = np.exp(np.linspace(9, 11, 20))
    wanted = every.fit("it")(asked)
    assert (added(10**6, images[:10]).fit("it")(asked) > 1.3 * wanted).all()
    np.testing.assert_allclose(some.fit("it")(asked), wanted, rtol=0.15)
    # The order of the images, and how often it was thinned out on the way, choose nothing.
    back = added(10_000, images[::-1])
    assert (back.kept, back.share) == (some.kept, some.share)
    np.testing.assert_allclose(back.fit("it")(asked), some.fit("it")(asked), rtol=1e-12)


@pytest.fixture
def store(tmp_path):
    """Four images with truth; predictions: charges of them all, in electrons × 1e-3, and scores."""
    path = make_store(tmp_path / "s.zarr", n_files=4, n_events=1, n_voxels=300)
    predict(path, "charge", range(4), output="charge")
    predict(path, "score", range(4), output="score")
    return path


def predict(path, name, files, output, sha="ab", scale=1e-3):
    store = larstore.open(path)
    attributes = {"checkpoint_sha256": sha * 32, "output": output, "config": {"data": {"scale": scale}}}
    with larstore.PredictionWriter(path, name, attributes) as writer:
        for shard, group in writer.groups(store.select(files=(min(files), max(files)))):
            writer.write(shard, [(image, (image.truth * 2 * scale + 1).astype(np.float32)) for image in group])
            writer.commit()


def test_a_prediction_in_electrons_of_its_own(store):
    result = calibrate(store, "charge", "good", truth="truth", fit_files=(0, 1), files=(2, 3))
    assert (result.fit_images, result.images, result.done_before) == (2, 2, 0)
    opened = larstore.open(store)
    about = opened.predictions["good"]
    assert about["output"] == "charge"
    assert about["calibrated"] == "charge"
    knots = Calibration(*(np.array(about["calibration"][name]) for name in ("estimate", "charge")))
    image = opened.image(file=2, event=0, tpc=1)
    np.testing.assert_array_equal(image.score("good"), knots(image.score("charge") / 1e-3).astype(np.float32))
    true = image.truth > 0
    assert np.abs(np.median(image.score("good")[true] / image.truth[true]) - 1) < 0.1
    assert np.isnan(opened.image(file=0, event=0, tpc=1).score("good")).all()
    again = calibrate(store, "charge", "good", truth="truth", fit_files=(0, 1), files=(2, 3))
    assert (again.images, again.done_before) == (0, 2)


def test_fitted_with_another_store(store, tmp_path):
    data = make_store(tmp_path / "data.zarr", n_files=2, n_events=1, n_voxels=100)
    predict(data, "charge", range(2), output="charge")
    calibrate(data, "charge", "good", truth="truth", fit_store=store)
    calibrate(store, "charge", "good", truth="truth")
    knots = [larstore.open(path).predictions["good"]["calibration"]["charge"] for path in (data, store)]
    assert knots[0] == knots[1]


def test_the_most_voxels_bound_a_fit(store, monkeypatch):
    monkeypatch.setattr(FitVoxels.__init__, "__defaults__", (150,))
    result = calibrate(store, "charge", "good", truth="truth")
    assert result.fit_images == 4
    assert result.fit_voxels <= 150
    about = larstore.open(store).predictions["good"]["calibration"]
    assert (about["voxels"], about["share"]) == (result.fit_voxels, result.fit_share)
    assert result.fit_share < 1
    assert calibrate(store, "charge", "good", truth="truth").done_before == 4


def test_other_units_and_taken_names_are_refused_before_the_fit(store, tmp_path, monkeypatch):
    monkeypatch.setattr(FitVoxels, "add", None)
    path = tmp_path / "mev.zarr"
    larstore.create(path, geometry=make_geometry((1,)), provenance={"made by": "test"}, units="MeV")
    add_images(path, [make_image(0, 0, 1, 300)])
    predict(path, "charge", [0], output="charge")
    with pytest.raises(StoreError, match=r"mev.zarr: charges are in MeV, those of .*s.zarr in electrons. Fix: --fit-s"):
        calibrate(store, "charge", "x", truth="truth", fit_store=path)
    for name in ("score", "charge"):
        with pytest.raises(StoreError, match=f"prediction '{name}' is there, and is no calibration of 'charge'. Fix: "):
            calibrate(store, "charge", name, truth="truth")
    with pytest.raises(ConfigError, match="no image is chosen by"):
        calibrate(store, "charge", "x", truth="truth", files=(7, 9))


def test_ctrl_c_keeps_what_is_done(tmp_path, monkeypatch, caplog):
    path = make_store(tmp_path / "s.zarr", n_files=4, n_events=1, n_voxels=300, shard_rows=256, chunk_rows=256)
    predict(path, "charge", range(4), output="charge")
    write, calls = larstore.PredictionWriter.write, []

    def stopped(self, *args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(self, *args)

    monkeypatch.setattr(larstore.PredictionWriter, "write", stopped)
    with pytest.raises(KeyboardInterrupt):
        calibrate(path, "charge", "good", truth="truth")
    assert "s.zarr: stopped. What is done is kept, the same command does the rest" in caplog.text
    result = calibrate(path, "charge", "good", truth="truth")
    assert (result.done_before, result.images) == (1, 3)


def test_what_does_not_fit_is_refused(store):
    with pytest.raises(StoreError, match=r"scores, not charges, in prediction 'score'. Fix: one of charge,"):
        calibrate(store, "score", "x", truth="truth")
    with pytest.raises(StoreError, match=r"^memory://x: a URL can only be read. Fix: "):
        calibrate("memory://x", "charge", "x")
    with pytest.raises(StoreError, match="no prediction 'none'"):
        calibrate(store, "none", "x", truth="truth")
    predict(store, "other", range(4), output="charge", sha="cd")
    with pytest.raises(StoreError, match="'other' is of another network or solver than 'charge'"):
        calibrate(store, "charge", "x", truth="truth", fit_prediction="other")
    with pytest.raises(StoreError, match=r"image \(0, 0, 1\) has no collected charge.*or --truth truth"):
        calibrate(store, "charge", "x")
    predict(store, "part", range(2), output="charge")
    with pytest.raises(StoreError, match=r"'part' has no charges of image \(2, 0, 1\)"):
        calibrate(store, "part", "x", truth="truth", fit_files=(0, 1))


def test_truth_is_needed_to_fit(tmp_path):
    path = tmp_path / "s.zarr"
    larstore.create(path, geometry=make_geometry((1,)), provenance={"made by": "test"})
    add_images(path, [make_image(0, 0, 1, 300, truth=False)])
    store = larstore.open(path)
    with larstore.PredictionWriter(path, "charge", {"checkpoint_sha256": "a" * 64, "output": "charge"}) as writer:
        for shard, group in writer.groups(store.select()):
            writer.write(shard, [(image, np.ones(len(image), np.float32)) for image in group])
            writer.commit()
    with pytest.raises(StoreError, match=r"image \(0, 0, 1\) has no truth charge to calibrate with. Fix: --fit-files"):
        calibrate(path, "charge", "x", truth="truth")


def test_the_command(store):
    import typer

    app = typer.Typer()
    app.command()(calibrate_command)
    words = [str(store), "--prediction", "charge", "--name", "good", "--truth", "truth", "--fit-files", "0:1"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "fit_images\t2\n" in done.output
    assert "good" in larstore.open(store).predictions
