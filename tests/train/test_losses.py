"""Losses against plain Python, voxel by voxel, and what happens where nothing counts."""

import math

import pytest
import torch

from larstore.errors import ConfigError
from train.objective.losses import make_loss
from train.objective.metrics import Metrics
from train.schema import NamedSection


def section(**values):
    return NamedSection.model_validate(values)


def some(n=30, seed=0):
    torch.manual_seed(seed)
    score = torch.sigmoid(torch.randn(n, 1)).requires_grad_()
    charge = torch.where(torch.rand(n, 1) < 0.4, torch.rand(n, 1) * 5, torch.zeros(n, 1))
    weight = (torch.rand(n, 1) < 0.7).float()
    return score, charge, weight


def bce(p, label):
    return -math.log(p) if label else -math.log(1 - p)


def mean(losses, weights):
    return sum(a * w for a, w in zip(losses, weights, strict=True)) / sum(weights)


@pytest.mark.parametrize(
    ("settings", "binary", "naive"),
    [
        ({"name": "BCELoss"}, True, lambda p, y: bce(p, y)),
        ({"name": "MSELoss"}, False, lambda p, y: (p - y) ** 2),
        ({"name": "L1Loss"}, False, lambda p, y: abs(p - y)),
        ({"name": "BCEL1Loss", "L1_lambda": 0.3}, True, lambda p, y: bce(p, y) + 0.3 * p),
        ({"name": "LabelWeightedBCELoss", "positive_weight": 7}, True, lambda p, y: bce(p, y) * (7 if y else 1)),
        (
            {"name": "ChargeWeightedBCELoss", "negative_weight": 0.5},
            False,
            lambda p, y: bce(p, y > 0) * (y if y > 0 else 0.5),
        ),
        ({"name": "WeightedBCELoss", "negative_weight": 2}, False, lambda p, y: bce(p, y > 0) * (y if y > 0 else 2)),
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_against_plain_python(settings, binary, naive, weighted):
    score, target, weight = some()
    target = (target > 0).float() if binary else target
    weights = weight[:, 0].tolist() if weighted else [1.0] * len(score)
    pairs = zip(score[:, 0].tolist(), target[:, 0].tolist(), strict=True)
    expected = mean([naive(p, y) for p, y in pairs], weights)
    loss = make_loss(section(**settings))(score, target, weight if weighted else None)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert (score.grad[torch.tensor(weights) == 0] == 0).all()


@pytest.mark.parametrize("n", [0, 5])
def test_where_nothing_counts_the_loss_is_a_connected_zero(n):
    layer = torch.nn.Linear(2, 1)
    output = torch.sigmoid(layer(torch.ones(n, 2)))
    loss = make_loss(section(name="BCELoss"))(output, torch.zeros(n, 1), torch.zeros(n, 1))
    assert loss.item() == 0
    loss.backward()
    assert (layer.weight.grad == 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "Nothing"}, "'Nothing' is not a loss per voxel. Fix: one of BCEL1Loss,"),
        ({"name": "BCELos"}, "Fix: did you mean BCELoss? one of"),
        ({"name": "smoothl1loss"}, "did you mean SmoothL1Loss?"),
        ({"name": "DownsampelMSELoss"}, "did you mean DownsampleMSELoss?"),
        ({"name": "Linear"}, "is not a loss per voxel"),
        ({"name": "BCEL1Loss"}, "loss: L1_lambda is missing for BCEL1Loss. Fix: add it"),
        ({"name": "BCEL1Loss", "L1_lamda": 1}, "L1_lamda is no argument of BCEL1Loss. Fix: did you mean L1_lambda?"),
        ({"name": "MSELoss", "power": 3}, "loss: power is no argument of MSELoss. Fix: it takes none"),
        (
            {"name": "HuberLoss", "detla": 3},
            "detla is no argument of HuberLoss. Fix: did you mean delta? valid here: delta",
        ),
        ({"name": "HuberLoss", "delta": "big"}, "loss: HuberLoss: "),
        ({"name": "MSELoss", "reduction": "sum"}, "reduction 'sum': losses are means over voxels. Fix: remove it"),
        ({"name": "KLDivLoss", "log_target": True}, "log_target: labels have no logarithm. Fix: remove it"),
        ({"name": "CrossEntropyLoss", "weight": [1, 2, 3]}, "Fix: two, of ghosts and of real voxels"),
        ({"name": "CTCLoss"}, "loss: CTCLoss aligns sequences. Fix: BCELoss or MSELoss"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(ConfigError) as caught:
        make_loss(section(**settings))
    assert message in str(caught.value)
    assert "Fix: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_metrics_against_plain_python():
    score, charge, weight = some(200)
    metrics = Metrics(
        {
            "acc": section(name="BinAccuracy"),
            "ap": section(name="AveragePrecision"),
            "mae": section(name="MeanAbsoluteError"),
        }
    )
    for part in (slice(0, 60), slice(60, 60), slice(60, 200)):
        metrics.update(score[part], charge[part], weight[part])
    counted = [
        (p, y)
        for p, y, w in zip(score[:, 0].tolist(), charge[:, 0].tolist(), weight[:, 0].tolist(), strict=True)
        if w > 0
    ]
    values = metrics.compute()
    assert values["acc"] == pytest.approx(sum((p > 0.5) == (y > 0) for p, y in counted) / len(counted))
    assert values["mae"] == pytest.approx(sum(abs(p - y) for p, y in counted) / len(counted), rel=1e-5)
    ranked = [y > 0 for _, y in sorted(counted, reverse=True)]
    precisions = [sum(ranked[: i + 1]) / (i + 1) for i, true in enumerate(ranked) if true]
    assert values["ap"] == pytest.approx(sum(precisions) / len(precisions), rel=1e-5)
    assert all(math.isnan(value) for value in metrics.compute().values())
    metrics.update(score, torch.zeros_like(charge), weight)
    values = metrics.compute()
    assert math.isnan(values["ap"])
    assert 0 < values["acc"] < 1


def test_metrics_that_keep_every_score_are_for_validation():
    sections = {"acc": section(name="BinAccuracy"), "ap": section(name="AveragePrecision")}
    assert set(Metrics(sections, constant_memory=True).metrics) == {"acc"}
    sections["ap"] = section(name="AveragePrecision", thresholds=100)
    assert set(Metrics(sections, constant_memory=True).metrics) == {"acc", "ap"}
    with pytest.raises(ConfigError, match=r"'Best' is unknown\. Fix: "):
        Metrics({"x": section(name="Best")})
