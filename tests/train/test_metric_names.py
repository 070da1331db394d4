"""Every binary and regression metric of torchmetrics: accepted and equal to torchmetrics, or refused in one line."""

import math

import pytest
import torch
from torchmetrics import classification, regression

from larstore.errors import ConfigError
from train.config import make_config
from train.objective.metrics import REFUSED, Metrics, make_metric, metric_names
from train.schema import NamedSection

EVERY = sorted([name for name in classification.__all__ if name.startswith("Binary")] + regression.__all__)
NEEDED = {
    "BinaryFBetaScore": {"beta": 2.0},
    "BinaryPrecisionAtFixedRecall": {"min_recall": 0.5},
    "BinaryRecallAtFixedPrecision": {"min_precision": 0.5},
    "BinarySensitivityAtSpecificity": {"min_specificity": 0.5},
    "BinarySpecificityAtSensitivity": {"min_sensitivity": 0.5},
    "CriticalSuccessIndex": {"threshold": 0.5},
    "MinkowskiDistance": {"p": 3},
}


def section(**values):
    return NamedSection.model_validate(values)


def metrics(name, **arguments):
    return Metrics({"x": section(name=name, **(NEEDED.get(name, {}) | arguments))})


def test_every_one_is_known():
    assert set(EVERY) == set(metric_names()) | set(REFUSED)


@pytest.mark.filterwarnings("ignore:.*save all targets and predictions:UserWarning")  # of torchmetrics alone, below
@pytest.mark.parametrize("name", metric_names())
def test_accepted_and_equal_to_torchmetrics(name):
    torch.manual_seed(0)
    score, charge = torch.rand(90, 1), torch.where(torch.rand(90, 1) < 0.4, torch.rand(90, 1) * 3, torch.zeros(90, 1))
    weight = (torch.rand(90, 1) < 0.8).float()
    ours = metrics(name)
    for part in (slice(0, 50), slice(50, 50), slice(50, 90)):
        ours.update(score[part], charge[part], weight[part])
    counts = weight[:, 0] > 0
    kind = getattr(classification if name.startswith("Binary") else regression, name)
    theirs = kind(**NEEDED.get(name, {}))
    reference = (charge > 0).long() if name.startswith("Binary") else charge
    expected = theirs(score[counts, 0], reference[counts, 0])
    expected = expected[0] if isinstance(expected, tuple) else expected
    found = ours.compute()["x"]
    assert math.isfinite(found)
    assert found == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("name", metric_names())
@pytest.mark.parametrize(("n", "charge"), [(0, 0.0), (1, 0.0), (1, 2.0), (5, 0.0), (5, 2.0)])
def test_few_voxels_and_one_class_do_not_stop_a_training(name, n, charge):
    ours = metrics(name)
    ours.update(torch.full((n, 1), 0.7), torch.full((n, 1), charge), torch.ones(n, 1))
    assert isinstance(ours.compute()["x"], float)


@pytest.mark.parametrize("name", [*sorted(REFUSED), "ROC", "ConfusionMatrix", "StatScores"])
def test_what_is_no_number_says_why(name):
    with pytest.raises(ConfigError, match=rf"metrics: {name} \w.*\. Fix: \w") as caught:
        make_metric(section(name=name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"name": "BinAcuracy"}, "'BinAcuracy' is unknown. Fix: did you mean BinAccuracy?"),
        ({"name": "AveragePrecison"}, "did you mean AveragePrecision?"),
        ({"name": "meanabsoluteerror"}, "did you mean MeanAbsoluteError?"),
        ({"name": "MulticlassAccuracy"}, "'MulticlassAccuracy' is unknown"),
        ({"name": "FBetaScore"}, "metrics: beta is missing for FBetaScore. Fix: add it"),
        ({"name": "AveragePrecision", "threshold": 10}, "did you mean thresholds?"),
        ({"name": "Accuracy", "treshold": 0.3}, "did you mean threshold?"),
        ({"name": "Accuracy", "nothing": 0.3}, "metrics: Accuracy: "),
        ({"name": "Accuracy", "threshold": 3}, "metrics: Accuracy: "),
    ],
)
def test_mistakes(block, message):
    with pytest.raises(ConfigError) as caught:
        make_metric(section(**block))
    assert message in str(caught.value)
    assert "Fix: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["loss", "time", "score_loss"])
def test_a_column_is_not_taken_twice(name):
    values = {
        "output_dir": "o",
        "data": {"data_path": "s"},
        "model": {"name": "cellnet"},
        "metrics": {name: "Accuracy"},
    }
    with pytest.raises(ConfigError, match=rf"metrics\.{name}: the summaries have a column of this name.*Fix: "):
        make_config(values)
