"""Every optimiser of torch.optim and every scheduler: trains and goes on bit for bit, or is refused in one line."""

import math

import pytest
import torch

from larstore.errors import ConfigError
from tests.train.small_runs import assert_same, run_values
from train.config import make_config
from train.fitting.fit import fit
from train.objective.optimisers import NOT_FOR_US, make_optimiser, optimiser_names
from train.objective.schedules import OF_FUNCTIONS, make_schedule, scheduler_names
from train.processes.distributed import check_devices
from train.processes.ranks import Ranks
from train.records.folder import RunFolder
from train.resuming.checkpoint import load_checkpoint
from train.schema import NamedSection, ScheduleTrainer

pytestmark = pytest.mark.usefixtures("point_net")
EVERY = sorted(n for n, k in vars(torch.optim).items() if isinstance(k, type) and issubclass(k, torch.optim.Optimizer))
# Arguments without which a scheduler cannot be made.
SCHEDULERS = {
    "ChainedScheduler": {"schedulers": [{"name": "ConstantLR"}, {"name": "ExponentialLR", "gamma": 0.9}]},
    "ConstantLR": {"total_iters": 2},
    "CosineAnnealingLR": {},
    "CosineAnnealingWarmRestarts": {"T_0": 3},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.03, "step_size_up": 4, "cycle_momentum": False},
    "ExponentialLR": {"gamma": 0.9},
    "LinearLR": {},
    "MultiStepLR": {"milestones": [2, 5]},
    "OneCycleLR": {"max_lr": 0.02},
    "PolynomialLR": {"total_iters": 9},
    "ReduceLROnPlateau": {"mode": "max", "patience": 0, "threshold": 10.0},
    "SequentialLR": {
        "schedulers": [{"name": "LinearLR", "total_iters": 2}, {"name": "CosineAnnealingLR", "T_max": 9}],
        "milestones": [2],
    },
    "StepLR": {"step_size": 3},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory, copy_of_store):
    return copy_of_store(tmp_path_factory.mktemp("optim") / "s.zarr", n_files=3, n_voxels=60)


def settings(store, out, optimizer, trainer="basic", n_epochs=1, loss="BCELoss"):
    values = run_values(store, out, [0, 1], [2, 2], n_epochs=n_epochs)
    values["data"]["batch_size"] = 2
    return make_config(values | {"seed": 1, "trainer": trainer, "loss": {"name": loss}, "optimizer": optimizer})


def state_of(result):
    content = load_checkpoint(result.checkpoint)
    return content["state_dict"], content["optimizer_states"], content["larstore"]["schedule"]


def resumed(first, whole, config, tmp_path):
    """Copy the first epoch of a whole run into another folder and go on there."""
    RunFolder(tmp_path).start({})
    for name in (f"checkpoints/{RunFolder(whole).checkpoint(first).name}", "summaries_0.csv"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    return fit(config, resume=True)


def test_the_names_are_torchs():
    assert set(EVERY) == {*optimiser_names(), "Optimizer"} | (set(NOT_FOR_US) & set(EVERY))
    assert set(scheduler_names()) == set(SCHEDULERS)


FAST = ("AdamW", "LBFGS", "SGD")


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in optimiser_names()]
)
def test_every_optimiser_trains_and_goes_on(name, store, tmp_path):
    optimizer = {"name": name, "lr": 0.05}
    whole = fit(settings(store, tmp_path / "a", optimizer, n_epochs=2), progress=False)
    again = resumed(0, tmp_path / "a", settings(store, tmp_path / "b", optimizer, n_epochs=2), tmp_path / "b")
    assert_same(state_of(whole), state_of(again))
    first = load_checkpoint(RunFolder(tmp_path / "a").checkpoint(0))["state_dict"]
    moved = [not torch.equal(first[k], v) for k, v in state_of(whole)[0].items() if k.endswith("layers.0.weight")]
    assert moved == [True]
    assert all(math.isfinite(row["train_loss"]) for row in whole.summaries)


def test_an_optimiser_that_asks_again_counts_each_batch_once(store, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "train.fitting.module.ImageModule.summary", lambda self, part: seen.append(len(self.losses[part])) or {}
    )
    fit(settings(store, tmp_path, {"name": "LBFGS", "max_iter": 5}), progress=False)
    assert seen[0] == 2


@pytest.mark.parametrize("name", sorted({*NOT_FOR_US} & set(EVERY)))
def test_what_cannot_train_says_why(name, store, tmp_path):
    with pytest.raises(ConfigError, match=rf"optimizer: {name} (\w.*)\. Fix: \w+$"):
        fit(settings(store, tmp_path / "run", {"name": name}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"name": "adamw"}, "'adamw' is not in torch.optim. Fix: did you mean AdamW? one of ASGD,"),
        ({"name": "Optimizer"}, "'Optimizer' is not in torch.optim"),
        ({"name": "lr_scheduler"}, "'lr_scheduler' is not in torch.optim"),
        ({"name": "AdamW", "weight_decy": 0.1}, "weight_decy is no argument of AdamW. Fix: did you mean weight_decay?"),
        ({"name": "AdamW", "params": []}, "params is no argument of AdamW"),
        ({"name": "Adam", "lr": -1}, "optimizer: Adam: Invalid learning rate: -1. Fix: correct its arguments"),
        ({"name": "Adam", "lr": "fast"}, "optimizer: Adam: "),
        ({"name": "SGD", "nesterov": True}, "optimizer: SGD: Nesterov momentum requires"),
    ],
)
def test_wrong_optimisers(block, message):
    with pytest.raises(ConfigError) as caught:
        make_optimiser(NamedSection.model_validate(block), [torch.nn.Parameter(torch.zeros(2))])
    text = str(caught.value)
    assert message in text
    assert "Fix: " in text
    assert "\n" not in text


def test_arguments_reach_the_optimiser():
    parameters = [torch.nn.Parameter(torch.zeros(2))]
    block = {"name": "Adam", "lr": 0.1, "betas": [0.8, 0.9], "weight_decay": 0.2}
    group = make_optimiser(NamedSection.model_validate(block), parameters).param_groups[0]
    assert (group["lr"], list(group["betas"]), group["weight_decay"], group["fused"]) == (0.1, [0.8, 0.9], 0.2, True)
    plain = make_optimiser(NamedSection.model_validate({"name": "Adam", "differentiable": True}), parameters)
    assert not plain.param_groups[0]["fused"]


def trainer_of(name, interval="epoch"):
    return {"name": "schedule", "scheduler": {"name": name, **SCHEDULERS[name]}, "interval": interval}


def expected_rates(name, n_steps):
    """The rates before each step, from torch alone."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    kinds, arguments = torch.optim.lr_scheduler, dict(SCHEDULERS[name])
    parts = [
        getattr(kinds, part["name"])(optimizer, **{k: v for k, v in part.items() if k != "name"})
        for part in arguments.pop("schedulers", [])
    ]
    if name == "ChainedScheduler":
        scheduler = kinds.ChainedScheduler(parts)
    elif name == "SequentialLR":
        scheduler = kinds.SequentialLR(optimizer, parts, **arguments)
    else:
        length = {"CosineAnnealingLR": {"T_max": n_steps}, "OneCycleLR": {"total_steps": n_steps}}.get(name, {})
        scheduler = getattr(kinds, name)(optimizer, **arguments, **length)
    rates = []
    for _ in range(n_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) < n_steps:
            scheduler.step(0.0) if name == "ReduceLROnPlateau" else scheduler.step()
    return rates


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_the_rates_are_torchs(name, interval):
    if (name, interval) == ("ReduceLROnPlateau", "step"):
        return
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    trainer = ScheduleTrainer.model_validate(trainer_of(name, interval))
    n = 12
    schedule = make_schedule(trainer, optimizer, n if interval == "step" else 99, n if interval == "epoch" else 99)
    rates = []
    for i in range(n + 3):  # more than were expected, as the number of steps is an estimate
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if i == 4:  # go on from a checkpoint, with a new optimiser
            state, groups = schedule.state_dict(), optimizer.state_dict()
            optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
            schedule = make_schedule(trainer, optimizer, *([n, 99] if interval == "step" else [99, n]))
            schedule.load_state_dict(state)
            optimizer.load_state_dict(groups)
            optimizer.step()
        schedule.after_step()
        schedule.after_epoch({"loss": 0.0})
    assert rates[:n] == pytest.approx(expected_rates(name, n))
    assert len(set(rates[:n])) > 1


@pytest.mark.parametrize(
    "trainer",
    [
        trainer_of("SequentialLR", "step"),
        trainer_of("ReduceLROnPlateau"),
        *(
            pytest.param(trainer, marks=pytest.mark.slow)
            for trainer in (
                trainer_of("MultiStepLR"),
                trainer_of("CyclicLR", "step"),
                {"name": "schedule", "scheduler": "CosineAnnealingLR", "interval": "step"},
                trainer_of("OneCycleLR", "step"),
            )
        ),
    ],
)
def test_a_scheduled_run_goes_on_bit_for_bit(trainer, store, tmp_path):
    optimizer = {"name": "Adam", "lr": 0.01}
    whole = fit(settings(store, tmp_path / "a", optimizer, trainer, n_epochs=3), progress=False)
    again = resumed(1, tmp_path / "a", settings(store, tmp_path / "b", optimizer, trainer, n_epochs=3), tmp_path / "b")
    assert_same(state_of(whole), state_of(again))
    assert len({row["lr"] for row in whole.summaries}) > 1


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ("StepLr", "'StepLr' is not in torch.optim.lr_scheduler. Fix: did you mean StepLR? one of ChainedScheduler,"),
        *((name, f"{name} takes a function, which no file can hold. Fix: StepLR") for name in OF_FUNCTIONS),
        ("LRScheduler", "'LRScheduler' is not in torch.optim.lr_scheduler"),
        ("StepLR", "trainer.scheduler: step_size is missing for StepLR. Fix: add it"),
        ({"name": "StepLR", "step_szie": 3}, "step_szie is no argument of StepLR. Fix: did you mean step_size?"),
        ({"name": "StepLR", "step_size": 3, "last_epoch": 3}, "last_epoch is no argument of StepLR"),
        (
            {"name": "CyclicLR", "base_lr": 1, "max_lr": 2, "mode": "zigzag"},
            "trainer.scheduler: CyclicLR: mode is invalid",
        ),
        ({"name": "SequentialLR", "milestones": [1]}, "schedulers of SequentialLR is None. Fix: a list of blocks"),
        (
            {"name": "SequentialLR", "schedulers": [{"name": "StepLR"}], "milestones": []},
            "trainer.scheduler.schedulers.0: step_size is missing",
        ),
        (
            {"name": "ChainedScheduler", "schedulers": [{"name": "ReduceLROnPlateau"}]},
            "ReduceLROnPlateau is no part of ChainedScheduler",
        ),
        ("ReduceLROnPlateau", "trainer.interval: step: validation comes once an epoch"),
    ],
)
def test_wrong_schedulers(scheduler, message):
    trainer = ScheduleTrainer.model_validate({"name": "schedule", "scheduler": scheduler, "interval": "step"})
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    with pytest.raises(ConfigError) as caught:
        make_schedule(trainer, optimizer, 10, 10)
    text = str(caught.value)
    assert message in text
    assert "Fix: " in text
    assert "\n" not in text


def test_a_plateau_needs_validation(store, tmp_path):
    config = settings(store, tmp_path, {"name": "Adam"}, trainer_of("ReduceLROnPlateau"))
    config = config.model_copy(update={"data": config.data.model_copy(update={"inference_i": None})})
    with pytest.raises(ConfigError, match=r"a plateau needs validation\. Fix: set data\.inference_i"):
        fit(config, progress=False)
    assert not any(tmp_path.glob("*.csv")), "an epoch was trained before"


def test_lbfgs_does_not_accumulate(store, tmp_path):
    config = settings(store, tmp_path, {"name": "LBFGS"})
    config.train.accumulate = 2
    with pytest.raises(ConfigError, match=r"train\.accumulate: LBFGS .* Fix: 1, and larger batches"):
        fit(config, progress=False)


def test_lbfgs_trains_in_one_process(store, tmp_path):
    with pytest.raises(ConfigError, match=r"LBFGS trains in one process\. Fix: --devices 1"):
        check_devices(settings(store, tmp_path, {"name": "LBFGS"}), Ranks(n=2, n_local=2))


def test_a_gpu_that_is_not_there(store, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = settings(store, tmp_path, {"name": "Adam"})
    config.train.accelerator = "gpu"
    with pytest.raises(ConfigError, match=r"train\.accelerator = gpu: torch finds no GPU here\. Fix: auto, or cpu"):
        fit(config, progress=False)
