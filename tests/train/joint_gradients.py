"""What two processes of `test_distributed` do: each works on its part of a batch, and knows the joint batch as well.

A module of its own: processes are started by spawn, and find it by name.
"""

import math
import os

import numpy as np
import pytest

import train  # noqa: F401 - before torch: it says how threads wait

import torch  # isort: skip
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from train.config import make_config
from train.fitting.module import ImageModule, TrainingError
from train.models import build_model
from train.objective.losses import make_loss
from train.objective.metrics import Metrics
from train.processes.distributed import all_sums, any_of, gather, set_batch_norm, share_losses
from train.schema import NamedSection
from train.sparse.layers import BatchNormReLU

NET = {"spatial_size": [32, 32, 32], "nChannels": 4, "nStrides": 2, "n_2D": 0, "downsample_t": [2, 2]}
NET |= {"nInputFeatures": 3, "momentum": 0.5}
LOSSES = {
    "cellnet_binary": [{"name": "BCELoss"}, {"name": "ChargeWeightedBCELoss", "negative_weight": 0.3}],
    "cellnet_multi": [{"name": "MultiTaskLoss", "charge_weight": 0.5}],
}


def start(rank, port):
    """Join the other process and do everything."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    everything(rank)
    distributed.destroy_process_group()


def batch(sizes, weights, seed=0):
    """Images of so many voxels, and a weight for all voxels of each: coords, features, target, weight."""
    random = np.random.default_rng(seed)
    coords, total = [], sum(sizes)
    for event, n in enumerate(sizes):
        cells = random.choice(12**3, n, replace=False)
        coords.append(np.column_stack([*np.unravel_index(cells, (12, 12, 12)), np.full(n, event)]))
    features = random.normal(size=(total, 3)).astype(np.float32)
    target = (random.uniform(0, 2, (total, 1)) * (random.random((total, 1)) < 0.4)).astype(np.float32)
    weight = np.repeat(np.float32(weights), sizes)[:, None]
    arrays = np.concatenate(coords).astype(np.int64), features, target, weight
    return [torch.from_numpy(array) for array in arrays]


def part_of(whole, sizes, images):
    """Only these consecutive images of a batch, numbered from 0."""
    bounds = np.cumsum([0, *sizes])
    part = [array[bounds[images.start] : bounds[images.stop]].clone() for array in whole]
    part[0][:, 3] -= images.start
    return part


def gradients(rank, split, weights):
    """Two processes give the gradients and running statistics of one that has the joint batch."""
    sizes, own = (70, 150, 40), range(split) if rank == 0 else range(split, 3)
    for name, blocks in LOSSES.items():
        for block in blocks:
            whole = batch(sizes, weights)
            if block["name"] == "BCELoss":
                whole[2] = (whole[2] > 0).float()
            mine = part_of(whole, sizes, own)
            for mode, recompute, dtype in (
                ("frozen", 0, torch.float32), ("sync", 0, torch.float32), ("sync", 1, torch.float32),
                ("sync", 1, torch.float64),  # torch's operations instead of the kernels
            ):  # fmt: skip
                compare(whole, mine, {"name": name, **NET, "recompute": recompute}, block, mode, dtype)


def compare(whole, mine, net, block, mode, dtype):
    torch.manual_seed(5)
    together = build_model(net).to(dtype)
    for module in together.modules():
        if isinstance(module, BatchNormReLU):  # as after some training
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
    alone = build_model(net).to(dtype)
    alone.load_state_dict(together.state_dict())
    set_batch_norm(alone, "frozen" if mode == "frozen" else "local")
    loss = make_loss(NamedSection.model_validate(block))
    coords, features, target, weight = (x.to(dtype) if x.is_floating_point() else x for x in whole)
    expected = loss(alone(coords, features), target, weight)
    expected.backward()

    set_batch_norm(together, mode)
    share_losses(loss)
    parallel = DistributedDataParallel(together, **({} if mode == "local" else {"broadcast_buffers": False}))
    coords, features, target, weight = (x.to(dtype) if x.is_floating_point() else x for x in mine)
    found = loss(parallel(coords, features), target, weight)
    found.backward()
    where = f"{block}, {mode}, recompute {net['recompute']}, {dtype}"
    joint = sum(row[0] for row in gather([float(found)])) / 2
    assert abs(joint - float(expected)) < 1e-6, where
    for (key, one), two in zip(alone.named_parameters(), together.parameters(), strict=True):
        scale = float(one.grad.abs().max())
        assert scale > 0, (key, where)
        assert float((two.grad - one.grad).abs().max()) <= 1e-5 * max(scale, 0.1), (key, where, one.grad, two.grad)
    for (key, one), two in zip(alone.named_buffers(), together.buffers(), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-6, msg=f"{key}, {where}")
    # In evaluation nobody waits for anybody: one process alone gets through.
    if distributed.get_rank() == 0:
        together.eval()
        with torch.no_grad():
            together(coords, features)


def recomputed_sums(rank):
    """Blocks that are computed twice add up their sums over the processes once, and in evaluation none does."""
    calls = []

    def counting(values):
        calls.append(values.shape)
        return all_sums(values)

    counts = []
    for recompute in (0, 2):
        model = build_model({"name": "cellnet_binary", **NET, "recompute": recompute})
        norms = [module for module in model.modules() if isinstance(module, BatchNormReLU)]
        for norm in norms:
            norm.all_sums = counting
        coords, features, *_ = batch((90,), (1,), seed=rank)
        calls.clear()
        model(coords, features).sum().backward()
        counts.append(len(calls))
    assert counts[0] == counts[1] == 2 * len(norms), (counts, len(norms))


class Numbers(torch.nn.Module):
    """A network that gives its first feature."""

    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.ones(1))

    def forward(self, coords, features):
        return features[:, :1] * self.factor


def module_of(**blocks):
    """A training module whose network is `Numbers`."""
    values = {
        "output_dir": "x",
        "data": {"data_path": "x.zarr", "threshold": 0},
        "model": {"name": "cellnet_binary", **NET},
        "loss": {"name": "BCELoss"},
        "optimizer": {"name": "SGD", "lr": 1.0},
        **blocks,
    }
    module = ImageModule(make_config(values), 1)
    module.model = Numbers()
    share_losses(module.loss)
    return module


def step_batch(rank, scores, labels, weight=1.0):
    scores = torch.tensor(scores, dtype=torch.float32)[:, None]
    return {
        "coords": torch.zeros((len(scores), 4), dtype=torch.int64),
        "features": scores,
        "target": torch.tensor(labels, dtype=torch.float32)[:, None],
        "weight": torch.full_like(scores, weight),
        "keys": [(rank, 0, 1)],
        "offsets": torch.tensor([0, len(scores)]),
        "number": rank,
    }


def decisions(rank):
    """A number that is not finite stops all with the keys of its images; summaries are of all that was seen."""
    scores, labels = [0.9, 0.2, 0.6, 0.3], [1, 0, 0, 1]
    metrics = {"acc": {"name": "BinAccuracy"}, "ap": {"name": "AveragePrecision"}, "mae": {"name": "MeanAbsoluteError"}}
    module = module_of(metrics=metrics, train={"max_minutes": 1})
    whole = step_batch(0, scores, labels)
    loss = make_loss(NamedSection(name="BCELoss"))
    mine = slice(0, 1) if rank == 0 else slice(1, 4)
    assert module.elapsed == 0
    module.training_step(step_batch(rank, scores[mine], labels[mine]), 0)
    assert len({row[0] for row in gather([module.elapsed])}) == 1, "the clocks differ"
    assert abs(module.summary("train")["loss"] - float(loss(whole["features"], whole["target"]))) < 1e-6
    # A step in which nothing counts, on either process, is left out, and so is one without voxels on one of them.
    module.training_step(step_batch(rank, scores[mine], labels[mine]), 1)
    for i, (several, weight) in enumerate([((), 1.0), (scores, 0.0)], 2):
        module.training_step(step_batch(rank, several, labels[: len(several)], weight), i)
    assert [math.isnan(value) for value in module.losses["train"]] == [False, True, True]
    assert abs(module.summary("train")["loss"] - float(loss(whole["features"], whole["target"]))) < 1e-6
    module.training_step(step_batch(rank, *((scores, labels) if rank == 0 else ((), ()))), 4)
    assert abs(module.summary("train")["loss"] - float(loss(whole["features"], whole["target"]))) < 1e-6
    assert module.emptied() == (3, 10)
    assert module.emptied() == (0, 0)
    # Validation: each batch for itself, and the one that only makes the ranks equal is none.
    module.eval()
    module.validation_step(step_batch(rank, scores[mine], labels[mine]), 0)
    module.validation_step(step_batch(rank, scores, labels, 1.0 - rank), 1)
    found = module.summary("valid")
    parts = [whole["features"][:1], whole["features"][1:], whole["features"]]
    truth = [whole["target"][:1], whole["target"][1:], whole["target"]]
    expected = [float(loss(p, t)) for p, t in zip(parts, truth, strict=True)]
    assert abs(found["loss"] - sum(expected) / 3) < 1e-6, (found, expected)
    reference = Metrics({name: NamedSection(**block) for name, block in metrics.items()})
    for p, t in zip(parts, truth, strict=True):
        reference.update(p, t, torch.ones_like(t))
    assert {name: found[name] for name in metrics} == {name: alone(m) for name, m in reference.metrics.items()}
    module.validation_step(step_batch(rank, (), ()), 0)
    assert math.isnan(module.summary("valid")["loss"])
    # One process has nothing but repeated images.
    module.validation_step(step_batch(rank, scores, labels, 1.0 - rank), 0)
    seen = module.summary("valid")
    assert seen["acc"] == 0.5
    assert abs(seen["loss"] - expected[2]) < 1e-6

    module.train()
    bad = [float("nan") if rank else 0.5]
    for step in (module.training_step, module.validation_step):
        with pytest.raises(TrainingError, match=r"not finite in epoch 0, batch 1, images .* \[\(1, 0, 1\)\]\. Fix"):
            step(step_batch(rank, bad, [1]), 0)
    assert any_of(rank == 1)
    assert not any_of(False)


def alone(metric):
    return float(metric.compute())


def everything(rank):
    """All of it in one start of the processes, which is what takes long."""
    gradients(rank, 2, (1.0, 1.0, 0.5))
    gradients(rank, 3, (1.0, 0.5, 1.0))  # nothing is left for the second process
    gradients(rank, 2, (1.0, 1.0, 0.0))  # what it has counts nothing
    recomputed_sums(rank)
    decisions(rank)
