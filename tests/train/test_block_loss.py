"""The loss on block sums against loops over dictionaries: value, gradient, what counts, and what several share."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import larstore
from larstore.errors import ConfigError
from train.objective.block_loss import find_blocks
from train.objective.losses import make_loss
from train.schema import NamedSection


def loss_of(downsample=(2, 2, 2), weight=1):
    block = {"name": "DownsampleMSELoss", "downsample": list(downsample), "weight": weight}
    return make_loss(NamedSection.model_validate(block))


def naive(voxels, truth, downsample, weight=1.0, denominators=None):
    """By loops. voxels: ((x, y, z, image), output, target, weight); truth: ((x, y, z, image), value).

    Returns the loss, its parts, its gradient by output and both denominators.
    """

    def block(place):
        return (*(c // d for c, d in zip(place[:3], downsample, strict=True)), place[3])

    sums, members = {}, {}
    for place, value in truth:
        sums[block(place)] = sums.get(block(place), 0.0) + value
    for i, (place, *_) in enumerate(voxels):
        members.setdefault(block(place), []).append(i)
    alone = [i for i, (place, _, target, _) in enumerate(voxels) if target > 0 or block(place) not in sums]
    shared = [key for key in sums if key in members]
    block_weight = {key: min(voxels[i][3] for i in members[key]) for key in shared}
    totals = sum(voxels[i][3] for i in alone), sum(block_weight.values())
    n_voxels, n_blocks = denominators or totals
    gradient = [0.0] * len(voxels)
    single = coarse = 0.0
    for i in alone if n_voxels else []:
        _, output, target, w = voxels[i]
        single += w * (output - target) ** 2 / n_voxels
        gradient[i] += 2 * w * (output - target) / n_voxels
    for key in shared if n_blocks else []:
        gap = sum(voxels[i][1] for i in members[key]) - sums[key]
        coarse += block_weight[key] * gap**2 / n_blocks
        for i in members[key]:
            gradient[i] += weight * 2 * block_weight[key] * gap / n_blocks
    return single + weight * coarse, (single, coarse), gradient, totals


def tensors(voxels, truth):
    coords = torch.tensor([v[0] for v in voxels], dtype=torch.int64).reshape(-1, 4)
    output, target, weight = (torch.tensor([v[k] for v in voxels]).reshape(-1, 1) for k in (1, 2, 3))
    batch = {
        "coords": coords,
        "truth_coords": torch.tensor([t[0] for t in truth], dtype=torch.int64).reshape(-1, 4),
        "truth_value": torch.tensor([t[1] for t in truth]).reshape(-1, 1),
    }
    return output.float().requires_grad_(), target.float(), weight.float(), batch


PLACES = st.tuples(*[st.integers(0, 5)] * 3, st.integers(0, 2))
NUMBERS = st.integers(-20, 20).map(lambda n: n / 4)
VOXELS = st.lists(
    st.tuples(PLACES, NUMBERS, st.sampled_from([0.0, 0.0, 0.5, 3.0]), st.sampled_from([0.0, 0.5, 1.0])),
    max_size=25,
    unique_by=lambda v: v[0],
)
TRUTH = st.lists(st.tuples(PLACES, st.integers(1, 20).map(lambda n: n / 4)), max_size=15)
SIZES = st.tuples(*[st.integers(1, 4)] * 3)


@settings(max_examples=60, deadline=None)
@given(VOXELS, TRUTH, SIZES, st.sampled_from([0, 1, 2.5]))
def test_against_loops(voxels, truth, downsample, weight):
    output, target, weights, batch = tensors(voxels, truth)
    loss = loss_of(downsample, weight)
    value = loss(output, target, weights, batch)
    expected, parts, gradient, totals = naive(voxels, truth, downsample, weight)
    assert value.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    for name, part, total in zip(("voxels", "blocks"), parts, totals, strict=True):
        found = loss.parts[name].item()
        assert math.isnan(found) if not total else found == pytest.approx(part, rel=1e-4, abs=1e-6)
    value.backward()
    assert output.grad[:, 0].tolist() == pytest.approx(gradient, rel=1e-4, abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(VOXELS, TRUTH, SIZES, st.sets(st.integers(0, 2)))
def test_two_processes_have_the_joint_loss_and_gradient(voxels, truth, downsample, mine):
    expected, _, gradient, totals = naive(voxels, truth, downsample)
    if not all(totals):
        return
    losses, gradients = [], {}
    for here in (mine, {0, 1, 2} - mine):
        own = [v for v in voxels if v[0][3] in here]
        output, target, weights, batch = tensors(own, [t for t in truth if t[0][3] in here])
        loss, asked = loss_of(downsample), iter(totals)
        loss.share = lambda total, asked=asked: torch.tensor(next(asked) / 2)
        value = loss(output, target, weights, batch)
        assert next(asked, None) is None  # both denominators are asked for, whatever a process has
        value.backward()
        losses.append(value.item())
        gradients |= {v[0]: g / 2 for v, g in zip(own, output.grad[:, 0].tolist(), strict=True)}
    assert sum(losses) / 2 == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert [gradients[v[0]] for v in voxels] == pytest.approx(gradient, rel=1e-4, abs=1e-5)


def test_misplacement_within_a_block_costs_nothing_beyond_it_does():
    # The truth of 8 lies in a voxel that is not tiled; two voxels of its block are, one further away.
    voxels = [((0, 0, 0, 0), 0.0, 0.0, 1.0), ((4, 4, 4, 0), 0.0, 0.0, 1.0), ((5, 0, 0, 0), 0.0, 0.0, 1.0)]
    truth = [((2, 2, 2, 0), 8.0)]

    def value(*outputs):
        output, target, weight, batch = tensors(
            [(v[0], o, *v[2:]) for v, o in zip(voxels, outputs, strict=True)], truth
        )
        return loss_of((5, 5, 5))(output, target, weight, batch).item()

    assert value(8.0, 0.0, 0.0) == value(0.0, 8.0, 0.0) == value(3.0, 5.0, 0.0) == 0
    assert value(0.0, 0.0, 0.0) == 64
    assert value(0.0, 0.0, 8.0) == 128


def test_an_image_never_shares_a_block_with_another():
    voxels = [((0, 0, 0, 0), 1.0, 0.0, 1.0), ((0, 0, 0, 1), 2.0, 0.0, 1.0)]
    output, target, weight, batch = tensors(voxels, [((1, 1, 1, 1), 2.0)])
    loss = loss_of()
    loss(output, target, weight, batch)
    assert [loss.parts[name].item() for name in ("voxels", "blocks")] == [1.0, 0.0]


def test_a_repeated_batch_of_weight_0_is_a_connected_zero():
    layer = torch.nn.Linear(1, 1)
    loss = loss_of()
    batch = {"coords": torch.tensor([[1, 1, 1, 0]]), "truth_coords": torch.tensor([[1, 1, 1, 0]])}
    batch["truth_value"] = torch.ones(1, 1)
    value = loss(layer(torch.ones(1, 1)), torch.ones(1, 1), torch.zeros(1, 1), batch)
    assert value.item() == 0
    assert all(math.isnan(part) for part in loss.parts.values())
    value.backward()
    assert (layer.weight.grad == 0).all()


def test_the_blocks_are_those_of_the_store():
    generator = torch.Generator().manual_seed(0)
    coords, truth = (torch.randint(0, 60_000, (n, 3), generator=generator) for n in (4000, 900))
    truth[:500] = coords[:500] + torch.randint(0, 3, (500, 3), generator=generator)
    values = torch.rand(900, generator=generator)
    ours = find_blocks(
        torch.nn.functional.pad(coords, (0, 1)), torch.nn.functional.pad(truth, (0, 1)), values, (5, 6, 7)
    )
    theirs = larstore.truth_blocks(coords.numpy(), truth.numpy(), values.numpy(), (5, 6, 7))
    assert ((ours.row >= 0).numpy() == (theirs.row >= 0)).all()
    found = ours.row >= 0
    assert found.sum() > 200
    assert ours.truth[ours.row[found]].tolist() == pytest.approx(theirs.sums[theirs.row[found.numpy()]].tolist())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"downsample": [5, 5]}, "loss.downsample = (5, 5). Fix: give three whole numbers"),
        ({"downsample": [5, 5, 0]}, "Fix: give three whole numbers"),
        ({"downsample": 5}, "DownsampleMSELoss: "),
        ({"downsample": None}, "DownsampleMSELoss: "),
        ({"weight": -1}, "loss.weight: -1 is no finite number from 0 up"),
        ({"weight": "1"}, "loss.weight: '1' is no finite number"),
        ({"wieght": 1}, "did you mean weight?"),
    ],
)
def test_wrong_blocks(change, message):
    block = {"name": "DownsampleMSELoss", "downsample": [5, 5, 5], **change}
    with pytest.raises(ConfigError) as caught:
        make_loss(NamedSection.model_validate(block))
    assert message in str(caught.value)
    assert "Fix: " in str(caught.value)


def test_without_all_truth_it_says_so():
    with pytest.raises(ConfigError, match=r"needs all truth voxels of a batch\. Fix: data\.full_y: true"):
        loss_of()(torch.zeros(1, 1), torch.zeros(1, 1))
    with pytest.raises(ConfigError, match=r"takes 1 outputs per voxel, the model gives 2"):
        loss_of()(torch.zeros(1, 2), torch.zeros(1, 1))
