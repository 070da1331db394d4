"""The configurations that are shipped: the small ones train on a small store, the large ones take a step."""

import math
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

import larstore
from larstore.cli import app
from larstore.errors import ConfigError
from train.cli import infer, train
from train.config import load_config, make_config, with_inputs
from train.config_cli import config_command
from train.fitting.module import ImageModule

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = [
    "charge",
    "charge_downsample",
    "ghost2",
    "ghost3d",
    "ghost_downsample",
    "ghost_inf",
    "ghost_schedule",
    "multi_task",
]
ALL = [*NAMES, *(f"small/{name}" for name in NAMES)]


@pytest.fixture(autouse=True)
def stores(monkeypatch):
    monkeypatch.setenv("LARSTORE_STORES", "/data/stores")


@pytest.fixture(scope="module")
def store(tmp_path_factory, copy_of_store):
    return copy_of_store(tmp_path_factory.mktemp("configs") / "run.zarr", n_files=10, n_events=1)


@pytest.fixture
def all_truth(monkeypatch, store):
    """The truth of each batch is all that the store has, after data.scale; it is added where the stream does not."""
    step, seen = ImageModule._step, []

    def with_truth(self, batch, *args):
        parts = []
        for i, (file, event, tpc) in enumerate(batch["keys"]):
            coords, value = larstore.open(store).image(file=file, event=event, tpc=tpc).truth_voxels
            coords = torch.from_numpy(coords.astype("int64"))
            parts.append((torch.nn.functional.pad(coords, (0, 1), value=i), torch.from_numpy(value) * 0.001))
        coords, value = (torch.cat(each) for each in zip(*parts, strict=True))
        batch.setdefault("truth_coords", coords)
        batch.setdefault("truth_value", value[:, None])
        assert torch.equal(batch["truth_coords"], coords)
        torch.testing.assert_close(batch["truth_value"], value[:, None])
        seen.append(len(coords))
        return step(self, batch, *args)

    monkeypatch.setattr(ImageModule, "_step", with_truth)
    return seen


def run(command, *arguments):
    """A subcommand as the command line calls it; its output."""
    import typer

    one = typer.Typer()
    one.command()(command)
    done = CliRunner().invoke(one, [str(each) for each in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def sets(store, out, **more):
    """Options for a run of two steps."""
    values = {"output_dir": out, "train.n_epochs": 1, "train.threads": 1, "data.batch_size": 4, **more}
    values["data.data_path"] = store
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


def test_nothing_is_shipped_that_is_not_tested():
    assert sorted(path.relative_to(CONFIGS).as_posix()[:-5] for path in CONFIGS.glob("*.yaml")) == NAMES
    assert sorted(path.stem for path in (CONFIGS / "small").glob("*.yaml")) == NAMES


@pytest.mark.parametrize("name", ALL)
def test_every_file_is_right_and_explained(name):
    text = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
    assert "To change first: output_dir" in text or "To change first: LARSTORE_STORES" in text
    assert len([line for line in text.splitlines() if "#" in line]) >= 6
    config = load_config(CONFIGS / f"{name}.yaml")
    assert make_config(config.plain()).plain() == config.plain()
    printed = yaml.safe_load(run(config_command, CONFIGS / f"{name}.yaml", "--set", "seed=7"))
    assert printed == config.plain() | {"seed": 7}


FAST = ("ghost3d", "ghost_schedule")


@pytest.mark.parametrize(
    "name",
    [
        name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
        for name in NAMES
        if name not in ("ghost_inf", "charge_downsample")
    ],
)
def test_the_small_ones_train(name, store, tmp_path):
    out = run(train, CONFIGS / f"small/{name}.yaml", *sets(store, tmp_path / "run"))
    values = dict(line.split("\t") for line in out.splitlines())
    assert math.isfinite(float(values["train_loss"]))
    assert math.isfinite(float(values["valid_loss"]))
    assert (tmp_path / "run" / "summaries_0.csv").exists()


def test_the_small_one_of_block_sums_trains_on_all_truth(store, tmp_path, all_truth):
    out = run(train, CONFIGS / "small/charge_downsample.yaml", *sets(store, tmp_path / "run"))
    values = dict(line.split("\t") for line in out.splitlines())
    assert len(all_truth) == 3  # batches of four, four and two images
    parts = [float(values[f"train_{part}_loss"]) for part in ("voxels", "blocks")]
    assert min(parts) > 0
    assert float(values["train_loss"]) == pytest.approx(sum(parts), rel=1e-4)


def test_the_small_one_of_inference_predicts(store, tmp_path, copy_of_store):
    own = copy_of_store(tmp_path / "run.zarr", n_files=10, n_events=1)
    trained = tmp_path / "ghost3d-small"
    run(train, CONFIGS / "small/ghost3d.yaml", *sets(own, trained))
    options = ["--set", f"output_dir={trained}", "--store", own, "--name", "net", "--files", "8:9"]
    assert "images\t2" in run(infer, CONFIGS / "small/ghost_inf.yaml", *options)
    image = larstore.open(own).image(file=8, event=0, tpc=1)
    assert (image.score("net") >= 0).all()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "ghost_inf"])
def test_the_large_ones_take_a_step(name):
    """Network, loss and optimiser as shipped, on a line of voxels."""
    config = with_inputs(load_config(CONFIGS / f"{name}.yaml"), 3)
    torch.manual_seed(0)
    module = ImageModule(config, 10)
    n = 12
    coords = torch.stack(
        [torch.arange(n) + 300, torch.arange(n) * 2, torch.full((n,), 40), torch.zeros(n)], dim=1
    ).long()
    truth = torch.where(torch.arange(n)[:, None] % 3 == 0, 5.0, 0.0)
    target = truth if config.data.threshold is None else (truth > 0).float()
    batch = {"coords": coords, "features": torch.rand(n, 3), "target": target, "weight": torch.ones(n, 1)}
    batch |= {"truth_coords": coords[::3], "truth_value": truth[::3], "keys": [(0, 0, 1)], "number": 0}
    batch["offsets"] = torch.tensor([0, n])
    optimizer = module.configure_optimizers()
    before = [p.detach().clone() for p in module.model.parameters()]
    loss = module.training_step(batch, 0)
    loss.backward()
    optimizer.step()
    assert loss.item() > 0
    changed = [not torch.equal(a, b) for a, b in zip(before, module.model.parameters(), strict=True)]
    assert sum(changed) > 0.8 * len(changed)


def test_the_large_one_of_inference_is_the_network_of_its_training():
    blocks = [load_config(CONFIGS / folder / f"{name}.yaml").model for folder in ("", "small") for name in NAMES[3:6:2]]
    assert blocks[0] == blocks[1]
    assert blocks[2] == blocks[3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["data.trian_i=[1, 2]"], "data.trian_i is not a known key. Fix: did you mean train_i?"),
        (["data.charge.scal=1"], "data.charge.scal is not a known key. Fix: did you mean scale?"),
        (["model.nChanels=3"], "model: nChanels is no argument of cellnet_binary. Fix: did you mean nChannels?"),
        (["model.name=cellnet_binry"], "did you mean cellnet_binary?"),
        (["loss.name=BCElos"], "did you mean BCELoss?"),
        (["optimizer.weight_decy=1"], "did you mean weight_decay?"),
        (["metrics.acc=BinAcuracy"], "did you mean BinAccuracy?"),
        (["metrics.acc.treshold=0.3"], "did you mean threshold?"),
        (["trainer={name: schedule, scheduler: StepLr}"], "did you mean StepLR?"),
        (["trainer={name: schedule, scheduler: {name: StepLR, step_szie: 3}}"], "did you mean step_size?"),
        (["trainer={name: schedule, schedular: StepLR}"], "did you mean scheduler?"),
        (["trainer.name=shedule"], "'one_cycle', 'schedule'. Fix: did you mean schedule?"),
        (["trainer=one_cicle"], "did you mean one_cycle?"),
        (
            ["train.accelerator=gup"],
            "train.accelerator 'gup': should be 'auto', 'cpu' or 'gpu'. Fix: did you mean gpu?",
        ),
        (["store_inference={everyNepochs: 3}"], "did you mean everyNepoch?"),
        (["data.noise={mean: 3, std: 1}"], "data.noise.std is not a known key (and 1 more). Fix: did you mean sd?"),
    ],
)
def test_a_slip_of_the_hand_is_told_without_any_data(options, message):
    path = CONFIGS / "ghost3d.yaml"
    with pytest.raises(ConfigError) as caught:
        run(config_command, path, *(word for option in options for word in ("--set", option)))
    text = str(caught.value)
    assert text.startswith(str(path))
    assert message in text
    assert "Fix: " in text
    assert "\n" not in text


def test_doubts_are_told_beside_what_is_printed():
    import typer

    one = typer.Typer()
    one.command()(config_command)
    done = CliRunner().invoke(one, [str(CONFIGS / "ghost3d.yaml"), "--set", "data.round=2"])
    assert yaml.safe_load(done.stdout)["data"]["round"] == 2
    assert done.stderr.startswith(f"{CONFIGS / 'ghost3d.yaml'}: data.round = 2 keeps 0.01 electrons")


def test_the_command_is_installed_under_its_name():
    from importlib.metadata import entry_points

    assert app.info.name == "larstore"
    project = (CONFIGS.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert 'config = "train.config_cli:config_command"' in project
    assert {"train", "infer"} <= {entry.name for entry in entry_points(group="larstore.commands")}
