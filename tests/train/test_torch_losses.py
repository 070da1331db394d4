"""Every loss of torch.nn: against plain Python voxel by voxel and against torch itself, or refused with the reason."""

import math

import pytest
import torch

from larstore.errors import ConfigError
from train.config import make_config
from train.fitting.module import ImageModule
from train.objective.losses import make_loss
from train.objective.torch_losses import NOT_PER_VOXEL, OF_CLASSES, torch_losses
from train.schema import NamedSection

EVERY = sorted(name for name in dir(torch.nn) if name.endswith("Loss"))


def section(**values):
    return NamedSection.model_validate(values)


def some(n=40, seed=0):
    """Scores, labels with more ghosts than real voxels, weights 0 and 1."""
    torch.manual_seed(seed)
    score = torch.sigmoid(torch.randn(n, 1)).requires_grad_()
    return score, (torch.rand(n, 1) < 0.3).float(), (torch.rand(n, 1) < 0.7).float()


def softplus(x):
    return math.log1p(math.exp(x))


def huber(d, size):
    return d * d / 2 if abs(d) < size else size * (abs(d) - size / 2)


# name, arguments, loss of one voxel with output p and label y
NAIVE = [
    ("BCELoss", {}, lambda p, y: -math.log(p if y else 1 - p)),
    ("BCELoss", {"weight": 3}, lambda p, y: -3 * math.log(p if y else 1 - p)),
    ("BCEWithLogitsLoss", {}, lambda p, y: softplus(-p if y else p)),
    ("BCEWithLogitsLoss", {"pos_weight": 20}, lambda p, y: 20 * softplus(-p) if y else softplus(p)),
    ("CrossEntropyLoss", {}, lambda p, y: -math.log(p if y else 1 - p)),
    ("CrossEntropyLoss", {"weight": [1, 20]}, lambda p, y: -20 * math.log(p) if y else -math.log(1 - p)),
    (
        "CrossEntropyLoss",
        {"label_smoothing": 0.2},
        lambda p, y: -0.9 * math.log(p if y else 1 - p) - 0.1 * math.log(1 - p if y else p),
    ),
    ("HingeEmbeddingLoss", {"margin": 0.7}, lambda p, y: max(0, 0.7 - p) if y else p),
    ("HuberLoss", {"delta": 0.3}, lambda p, y: huber(p - y, 0.3)),
    ("KLDivLoss", {}, lambda p, y: -math.log(p if y else 1 - p)),
    ("L1Loss", {}, lambda p, y: abs(p - y)),
    ("MSELoss", {"reduction": "mean"}, lambda p, y: (p - y) ** 2),
    ("MultiLabelSoftMarginLoss", {}, lambda p, y: softplus(-p if y else p)),
    ("MultiMarginLoss", {"margin": 0.5}, lambda p, y: max(0, 0.5 - (2 * p - 1 if y else 1 - 2 * p)) / 2),
    ("NLLLoss", {"weight": [0.5, 2]}, lambda p, y: -2 * math.log(p) if y else -0.5 * math.log(1 - p)),
    ("PoissonNLLLoss", {}, lambda p, y: math.exp(p) - y * p),
    ("SmoothL1Loss", {"beta": 0.3}, lambda p, y: huber(p - y, 0.3) / 0.3),
    ("SoftMarginLoss", {}, lambda p, y: softplus(-p if y else p)),
]


def test_the_table_holds_every_loss():
    assert {name for name, _, _ in NAIVE} == set(torch_losses())
    assert set(EVERY) == set(torch_losses()) | (set(NOT_PER_VOXEL) & set(EVERY))


@pytest.mark.parametrize(("name", "arguments", "naive"), NAIVE)
@pytest.mark.parametrize("weighted", [False, True])
def test_against_plain_python(name, arguments, naive, weighted):
    score, label, weight = some()
    weights = weight[:, 0].tolist() if weighted else [1.0] * len(score)
    rows = list(zip(score[:, 0].tolist(), label[:, 0].tolist(), weights, strict=True))
    expected = sum(w * naive(p, y) for p, y, w in rows) / sum(weights)
    loss = make_loss(section(name=name, **arguments))(score, label, weight if weighted else None)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert (score.grad[torch.tensor(weights) == 0] == 0).all()
    # A step against the gradient brings real voxels up and ghosts down: no loss has the labels upside down.
    pulled = [g for g, (_, y, _) in zip(score.grad[:, 0].tolist(), rows, strict=True) if g and y]
    pushed = [g for g, (_, y, _) in zip(score.grad[:, 0].tolist(), rows, strict=True) if g and not y]
    assert pulled
    assert pushed
    if name != "PoissonNLLLoss" and "label_smoothing" not in arguments:  # a logarithm; labels that are not 0 and 1
        assert max(pulled) < 0 < min(pushed)


@pytest.mark.parametrize("name", [name for name in torch_losses() if name not in OF_CLASSES])
def test_on_what_torch_takes_it_is_torchs_mean(name):
    score, label, _ = some()
    signs = {"SoftMarginLoss": 2 * label - 1, "HingeEmbeddingLoss": 1 - 2 * label}
    expected = getattr(torch.nn, name)()(score, signs.get(name, label))
    assert make_loss(section(name=name))(score, label).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", torch_losses())
def test_a_saturated_score_has_a_finite_loss(name):
    score = torch.tensor([[0.0], [1.0], [0.0], [1.0]], requires_grad=True)
    loss = make_loss(section(name=name))(score, torch.tensor([[0.0], [1.0], [1.0], [0.0]]))
    loss.backward()
    assert math.isfinite(loss.item())
    assert torch.isfinite(score.grad).all()


@pytest.mark.parametrize("name", torch_losses())
def test_processes_share_the_denominator(name):
    score, label, weight = some()
    joint = make_loss(section(name=name))(score, label, weight)
    loss = make_loss(section(name=name))
    loss.share = lambda total: weight.sum() / 2
    halves = [loss(score[part], label[part], weight[part]) for part in (slice(0, 11), slice(11, None))]
    assert sum(halves).item() / 2 == pytest.approx(joint.item(), rel=1e-5)


@pytest.mark.parametrize("name", sorted(set(EVERY) & set(NOT_PER_VOXEL)))
def test_what_is_no_loss_of_a_voxel_says_why(name):
    with pytest.raises(ConfigError, match=rf"loss: {name} (\w.*)\. Fix: (\w.*)") as caught:
        make_loss(section(name=name))
    assert "\n" not in str(caught.value)


def module(loss, model="cellnet_binary", **data):
    net = {"name": model, "spatial_size": 32, "nChannels": 2, "nStrides": 1, "n_2D": 0}
    return ImageModule(
        make_config(
            {
                "output_dir": "out",
                "data": {"data_path": "s.zarr", "train_i": [0, 1], **data},
                "model": net,
                "loss": loss,
                "optimizer": {"name": "Adam"},
            }
        ),
        n_steps=10,
    )


@pytest.mark.parametrize(
    ("loss", "model", "data", "message"),
    [
        ("BCELoss", "cellnet_binary", {}, "data.threshold is missing: BCELoss compares with labels 0 and 1"),
        ("LabelWeightedBCELoss", "cellnet_binary", {}, "data.threshold is missing"),
        ("BCELoss", "cellnet_charge", {"threshold": 0}, "BCELoss takes scores from 0 to 1, cellnet_charge gives any"),
        ("CrossEntropyLoss", "cellnet_charge", {}, "CrossEntropyLoss takes scores from 0 to 1"),
        ("DownsampleMSELoss", "cellnet_charge", {}, "data.full_y is false, DownsampleMSELoss needs all truth voxels"),
        ("DownsampleMSELoss", "cellnet_charge", {"full_y": True, "threshold": 0}, "leaves no charge to sum"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(loss, model, data, message):
    arguments = {"LabelWeightedBCELoss": {"positive_weight": 3}, "DownsampleMSELoss": {"downsample": [5, 5, 5]}}
    with pytest.raises(ConfigError) as caught:
        module({"name": loss, **arguments.get(loss, {})}, model, **data)
    assert message in str(caught.value)
    assert "Fix: " in str(caught.value)


def test_two_sigmoids_are_warned_of(caplog):
    module({"name": "BCEWithLogitsLoss"}, "cellnet_charge", threshold=0)
    assert not caplog.text
    module({"name": "BCEWithLogitsLoss"}, threshold=0)
    assert "BCEWithLogitsLoss is made for outputs of any size, cellnet_binary gives scores from 0 to 1" in caplog.text
