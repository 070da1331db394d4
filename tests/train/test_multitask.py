"""Score and charge from one trunk: the loss against plain Python, what trains what, and the way into the store."""

import math

import numpy as np
import pytest
import torch

import larstore
from larstore.errors import ConfigError, StoreError
from train.config import make_config
from train.fitting.fit import fit
from train.fitting.module import ImageModule
from train.inference.infer import infer
from train.models import build_model
from train.objective.losses import make_loss
from train.objective.metrics import Metrics
from train.resuming.checkpoint import load_checkpoint, model_weights
from train.schema import NamedSection

NET = {"name": "cellnet_multi", "spatial_size": [256, 64, 64], "nChannels": 4, "nStrides": 2, "n_2D": 0}
LOSS = {"name": "MultiTaskLoss", "charge": {"name": "L1Loss"}}


def section(**values):
    return NamedSection.model_validate(values)


def some(n=60, seed=0):
    """Outputs (n, 2), truth with values below and above 1, weights 0 and 1."""
    torch.manual_seed(seed)
    output = torch.cat([torch.sigmoid(torch.randn(n, 1)), torch.randn(n, 1)], dim=1).requires_grad_()
    truth = torch.where(torch.rand(n, 1) < 0.5, torch.rand(n, 1) * 3, torch.zeros(n, 1))
    return output, truth, (torch.rand(n, 1) < 0.7).float()


def mean(values):
    return sum(values) / len(values)


def bce(p, label):
    return -math.log(p if label else 1 - p)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ghosts", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_loss_against_plain_python(weighted, ghosts, threshold):
    output, truth, weight = some()
    options = {"threshold": threshold, "charge_of_ghosts": ghosts, "score_weight": 2, "charge_weight": 0.5}
    loss = make_loss(section(**LOSS, **options))
    value = loss(output, truth, weight if weighted else None)
    rows = zip(*output.T.tolist(), truth[:, 0].tolist(), weight[:, 0].tolist(), strict=True)
    rows = [(p, q, t) for p, q, t, w in rows if w or not weighted]
    score = mean([bce(p, t > threshold) for p, _, t in rows])
    charge = mean([abs(q - t) for _, q, t in rows if ghosts or t > threshold])
    assert value.item() == pytest.approx(2 * score + 0.5 * charge, rel=1e-5)
    assert {name: part.item() for name, part in loss.parts.items()} == pytest.approx(
        {"score": score, "charge": charge}, rel=1e-5
    )
    value.backward()
    counted = weight[:, 0] > 0 if weighted else torch.ones(len(truth), dtype=bool)
    assert ((output.grad[:, 0] != 0) == counted).all()
    assert ((output.grad[:, 1] != 0) == (counted if ghosts else counted & (truth[:, 0] > threshold))).all()


def test_a_score_loss_that_weighs_by_charge_gets_the_charge():
    output, truth, _ = some()
    settings = {"name": "ChargeWeightedBCELoss", "negative_weight": 0.5}
    value = make_loss(section(**LOSS, score=settings, threshold=1, charge_weight=0))(output, truth)
    rows = zip(output[:, 0].tolist(), truth[:, 0].tolist(), strict=True)
    expected = mean([bce(p, t > 1) * (t if t > 1 else 0.5) for p, t in rows])
    assert value.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("n", "truth", "weight"), [(0, 0, 1), (5, 0, 1), (5, 3, 0)])
def test_where_nothing_counts_the_part_is_a_connected_zero(n, truth, weight):
    layer = torch.nn.Linear(3, 2)
    output = torch.sigmoid(layer(torch.ones(n, 3)))
    loss = make_loss(section(**LOSS))
    value = loss(output, torch.full((n, 1), float(truth)), torch.full((n, 1), float(weight)))
    assert math.isnan(loss.parts["charge"].item())
    assert math.isnan(loss.parts["score"].item()) == (not n * weight)
    value.backward()
    assert (layer.weight.grad[1] == 0).all()
    assert (layer.weight.grad[0] == 0).all() == (not n * weight)


@pytest.mark.parametrize("ghosts", [False, True])
def test_metrics_look_at_the_output_that_they_are_about(ghosts):
    output, truth, weight = some(200)
    loss = make_loss(section(**LOSS, threshold=1, charge_of_ghosts=ghosts))
    names = {"acc": "BinAccuracy", "ap": "AveragePrecision", "mae": "MeanAbsoluteError"}
    metrics = Metrics({key: section(name=name) for key, name in names.items()}, loss=loss)
    for part in (slice(0, 60), slice(60, 60), slice(60, 200)):
        metrics.update(output[part], truth[part], weight[part])
    rows = zip(*output.T.tolist(), truth[:, 0].tolist(), weight[:, 0].tolist(), strict=True)
    rows = [(p, q, t) for p, q, t, w in rows if w]
    values = metrics.compute()
    assert values["acc"] == pytest.approx(mean([(p > 0.5) == (t > 1) for p, _, t in rows]))
    assert values["mae"] == pytest.approx(mean([abs(q - t) for _, q, t in rows if ghosts or t > 1]), rel=1e-5)
    ranked = [t > 1 for _, _, t in sorted(rows, reverse=True)]
    expected = mean([sum(ranked[: i + 1]) / (i + 1) for i, true in enumerate(ranked) if true])
    assert values["ap"] == pytest.approx(expected, rel=1e-5)
    metrics.update(output, torch.zeros_like(truth), weight)
    assert math.isnan(metrics.compute()["mae"]) != ghosts  # no true voxel: no charge to compare, unless of ghosts


def test_both_heads_reach_the_trunk():
    model = build_model(NET)
    coords = torch.tensor([[x, y, 0, 0] for x in range(6) for y in range(6)])
    output = model(coords, torch.randn(36, 3))
    assert output.shape == (36, 2)
    assert ((output[:, 0] > 0) & (output[:, 0] < 1)).all()
    trunk = dict(model.sparseModel.named_parameters())
    for column, head, other in ((0, model.linear, model.linear_charge), (1, model.linear_charge, model.linear)):
        model.zero_grad()
        output[:, column].square().sum().backward(retain_graph=True)
        assert all(p.grad.abs().sum() > 0 for name, p in trunk.items() if name.endswith("weight"))
        assert any(p.grad.abs().sum() > 0 for p in head.parameters())
        assert all((p.grad == 0).all() for p in other.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"score": {"name": "MultiTaskLoss"}},
            "loss.score: 'MultiTaskLoss' is no loss of a score. Fix: name: one of BCE",
        ),
        ({"score": "BCEWithLogitsLoss"}, "'BCEWithLogitsLoss' is no loss of a score"),
        ({"charge": {"name": "BCELoss"}}, "loss.charge: 'BCELoss' is no loss of a charge. Fix: name: one of HuberLoss"),
        ({"charge": {"beta": 2}}, "loss.charge: None is no loss of a charge"),
        ({"charge": 3}, "loss.charge: 3 is no loss of a charge"),
        ({"charge": {"name": "HuberLoss", "size": 2}}, "loss.charge: size is no argument of HuberLoss"),
        ({"score": {"name": "BCEL1Loss"}}, "loss.score: L1_lambda is missing for BCEL1Loss"),
        ({"threshold": -1}, "loss.threshold: -1 is no finite number from 0 up"),
        ({"charge_weight": "1e-3"}, "loss.charge_weight: '1e-3' is no finite number"),
        ({"score_weight": math.nan}, "loss.score_weight: nan is no finite number"),
        ({"score_weight": 0, "charge_weight": 0.0}, "score_weight and charge_weight are both 0"),
        ({"charge_of_ghosts": "no"}, "loss.charge_of_ghosts: 'no'. Fix: true or false"),
        ({"lambda": 2}, "lambda"),
    ],
)
def test_wrong_loss_blocks(change, message):
    with pytest.raises(ConfigError) as caught:
        make_loss(section(**(LOSS | change)))
    assert message in str(caught.value)
    assert "Fix: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("n_hidden", [-1, 1.5, "2"])
def test_wrong_hidden_layers(n_hidden):
    for name in ("cellnet_multi", "cellnet_charge"):
        with pytest.raises(ConfigError, match=f"nHiddenLayers = {n_hidden!r} makes no net. Fix: "):
            build_model(NET | {"name": name, "nHiddenLayers": n_hidden})


@pytest.fixture(scope="module")
def store(tmp_path_factory, copy_of_store):
    """Two shards of images; the second file spans both."""
    path = tmp_path_factory.mktemp("multi") / "s.zarr"
    return copy_of_store(path, n_files=4, n_voxels=300, shard_rows=512, chunk_rows=64)


def settings(store, out, loss=LOSS, data=None, name="cellnet_multi", **train):
    return make_config(
        {
            "output_dir": str(out),
            "seed": 3,
            "trainer": {"name": "one_cycle"},
            "data": {
                "data_path": str(store),
                "train_i": [0, 3],
                "inference_i": [0, 3],
                "scale": 0.001,
                "charge": {"transform": "asinh"},
                "batch_size": 2,
                **(data or {}),
            },
            "model": {**NET, "name": name, "downsample_t": [2, 2], "momentum": 0.5},
            "loss": loss,
            "optimizer": {"name": "Adam", "lr": 0.03},
            "train": {"n_epochs": 10, "threads": 1, "accelerator": "cpu", **train},
            "metrics": {"ap": "AveragePrecision", "mae": "MeanAbsoluteError"} if name == "cellnet_multi" else {},
        }
    )


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    """A finished run: its configuration and result."""
    config = settings(store, tmp_path_factory.mktemp("run"), LOSS | {"charge_weight": 0.1})
    return config, fit(config)


def test_both_parts_learn(trained):
    first, last = trained[1].summaries[0], trained[1].summaries[-1]
    assert last["valid_ap"] > max(0.8, first["valid_ap"])
    assert last["valid_mae"] < 0.7 * first["valid_mae"]
    for part in ("train", "valid"):
        assert last[f"{part}_score_loss"] < 0.8 * first[f"{part}_score_loss"]
        assert last[f"{part}_charge_loss"] < 0.8 * first[f"{part}_charge_loss"]
        for row in (first, last):
            expected = row[f"{part}_score_loss"] + 0.1 * row[f"{part}_charge_loss"]
            assert row[f"{part}_loss"] == pytest.approx(expected, rel=1e-5)
    assert last["valid_mae"] == pytest.approx(last["valid_charge_loss"], rel=0.05)  # L1Loss; over voxels, not batches


def expected_outputs(trained, image):
    """(n, 2) worked out from the last checkpoint."""
    config, result = trained
    model = build_model(config.model.model_dump() | {"nInputFeatures": 3}).eval()
    model.load_state_dict(model_weights(load_checkpoint(result.checkpoint)))
    coords = np.column_stack([image.coords.astype(np.int64), np.zeros(len(image), np.int64)])
    with torch.no_grad():
        return model(torch.from_numpy(coords), torch.from_numpy(np.arcsinh(image.charge * np.float32(0.001)))).numpy()


def test_score_and_charge_are_two_predictions(trained, tmp_path, copy_of_store):
    store = copy_of_store(tmp_path / "s.zarr", n_files=4, n_voxels=300, shard_rows=512, chunk_rows=64)
    result = infer(trained[0], None, store, "net")
    assert (result.name, result.images, result.done_before) == ("net", 8, 0)
    opened = larstore.open(store)
    assert {name: values["output"] for name, values in opened.predictions.items()} == {
        "net": "score",
        "net-charge": "charge",
    }
    for image in opened.select():
        outputs = expected_outputs(trained, image)
        np.testing.assert_allclose(image.score("net"), outputs[:, 0], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(image.score("net-charge"), outputs[:, 1], rtol=1e-4, atol=1e-4)
    assert larstore.verify(store).ok
    with pytest.raises(StoreError, match=r"name 'n{60}-charge'.*Fix: "):
        infer(trained[0], None, store, "n" * 60)
    assert set(larstore.open(store).predictions) == {"net", "net-charge"}


@pytest.mark.parametrize("killed", range(1, 5))
def test_an_interrupted_inference_is_continued(killed, trained, tmp_path, copy_of_store, monkeypatch):
    store = copy_of_store(tmp_path / "s.zarr", n_files=4, n_voxels=300, shard_rows=512, chunk_rows=64, blocks=True)
    write, calls = larstore.PredictionWriter.write, []

    def killed_at(self, shard, scores):
        calls.append(shard)
        if len(calls) == killed:
            raise RuntimeError("killed")
        write(self, shard, scores)

    monkeypatch.setattr(larstore.PredictionWriter, "write", killed_at)
    with pytest.raises(RuntimeError, match="killed"):
        infer(trained[0], None, store, "net")
    monkeypatch.setattr(larstore.PredictionWriter, "write", write)
    infer(trained[0], None, store, "net")
    for image in larstore.open(store).select():
        assert np.isfinite(image.score("net")).all()
        assert np.isfinite(image.score("net-charge")).all()
    assert infer(trained[0], None, store, "net").images == 0
    assert larstore.verify(store).ok


def test_a_deghosting_run_transfers_trunk_and_score(store, tmp_path, monkeypatch):
    binary = settings(store, tmp_path / "binary", {"name": "BCELoss"}, {"threshold": 0}, "cellnet_binary", n_epochs=1)
    known = model_weights(load_checkpoint(fit(binary).checkpoint))
    started = []
    monkeypatch.setattr(
        ImageModule,
        "on_train_start",
        lambda self: started.append({k: v.clone() for k, v in self.model.state_dict().items()}),
    )
    fit(settings(store, tmp_path / "multi", n_epochs=1, transfer=str(tmp_path / "binary")))
    (own,) = started
    assert all(torch.equal(own[name], value) for name, value in known.items())
    assert {name.partition(".")[0] for name in own.keys() - known.keys()} == {"linear_charge"}
    assert "tensors taken over" in (tmp_path / "multi" / "out_0.log").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"threshold": 0}}, r"data\.threshold = 0 leaves no charge to learn.*Fix: remove it, and set loss\."),
        ({"name": "cellnet_binary"}, r"takes 2 outputs per voxel, the model gives 1\. Fix: MultiTaskLoss with cellnet"),
        ({"loss": {"name": "MSELoss"}}, r"takes 1 outputs per voxel, the model gives 2\. Fix: MultiTaskLoss with"),
    ],
)
def test_what_does_not_fit_is_refused(store, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        fit(settings(store, tmp_path, **changes))
