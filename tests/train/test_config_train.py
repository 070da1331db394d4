"""Configurations of a training: the research code's forms are accepted, every mistake is one line with its fix."""

from pathlib import Path

import pytest
import yaml

from larstore.errors import ConfigError
from larstore.settings import read_yaml
from train.config import doubtful_units, load_config, make_config, with_inputs
from train.fitting.module import ImageModule

CONFIGS = Path(__file__).parents[2] / "configs"
MINIMAL = {
    "output_dir": "out",
    "data": {"data_path": "run.zarr", "train_i": [1, 5]},
    "model": {"name": "cellnet_binary", "nChannels": 4},
}


def changed(key, value):
    """MINIMAL with one nested key set."""
    values = yaml.safe_load(yaml.safe_dump(MINIMAL))
    *parents, last = key.split(".")
    block = values
    for parent in parents:
        block = block.setdefault(parent, {})
    block[last] = value
    return values


@pytest.mark.parametrize("name", ["ghost3d.yaml", "charge.yaml", "multi_task.yaml"])
def test_shipped_configurations_load(name):
    config = load_config(CONFIGS / name)
    assert config.loss is not None
    assert config.optimizer is not None
    assert make_config(config.plain()).plain() == config.plain()


def test_one_value_stands_for_all_stores():
    values = changed(
        "data", {"data_path": ["a", "b"], "train_i": [1, 5], "tpcs": [1, 5], "scale": 2, "inference_i": [6, 7]}
    )
    sources = make_config(values).data.sources("train")
    assert [(s.path, s.files, s.tpcs, s.scale) for s in sources] == [
        ("a", (1, 5), [1, 5], 2),
        ("b", (1, 5), [1, 5], 2),
    ]


NUMBERS = """
output_dir: out
data: {data_path: [a, b], train_i: [[1, 5], ["6", "7"]], scale: SCALE, noise: {sd: RATE}, max_voxels: 3e5,
       threshold: "0"}
model: {name: cellnet_binary, spatial_size: [64, 64, FOUR], nChannels: FOUR, nStrides: 2, n_2D: 0}
loss: {name: BCEL1Loss, L1_lambda: RATE}
optimizer: {name: Adam, lr: RATE, betas: [RATE, "0.99"], eps: "1.e-8"}
trainer: {name: schedule, scheduler: {name: ExponentialLR, gamma: ".9"}}
metrics: {acc: {name: BinAccuracy, threshold: "0.5"}}
train: {n_epochs: FOUR, checkpoint_every: {minutes: RATE}}
loggers: [{name: CSVLogger, version: "1"}]
"""


@pytest.mark.parametrize("mark", ["", "'", '"'])
@pytest.mark.parametrize("rate", ["1e-3", "1E-3", "1.0e-3", "+1.e-3", "0.001"])
def test_numbers_are_numbers_in_quotation_marks_too(tmp_path, rate, mark):
    text = NUMBERS
    for word, number in (("RATE", rate), ("FOUR", "4"), ("SCALE", rate)):
        text = text.replace(word, f"{mark}{number}{mark}")
    (tmp_path / "c.yaml").write_text(text)
    config = load_config(tmp_path / "c.yaml", [f"train.gradient_clip={mark}1e2{mark}"])
    assert config.optimizer.arguments == {"lr": 0.001, "betas": [0.001, 0.99], "eps": 1e-8}
    assert config.model.arguments == {"spatial_size": [64, 64, 4], "nChannels": 4, "nStrides": 2, "n_2D": 0}
    assert isinstance(config.model.arguments["nChannels"], int)
    assert config.data.scale == [0.001, 0.001]
    assert config.data.train_i == [(1, 5), (6, 7)]
    assert (config.data.noise.sd, config.data.max_voxels, config.train.gradient_clip) == (0.001, 300_000, 100)
    assert config.trainer.scheduler.arguments == {"gamma": 0.9}
    assert config.metrics["acc"].arguments == {"threshold": 0.5}
    assert config.loggers[0].arguments == {"version": "1"}, "text of a logger is text"
    ImageModule(with_inputs(config, 3), 1)


@pytest.mark.parametrize("key", ["metrics", "loggers", "trainer", "train", "store_inference", "seed"])
def test_a_key_with_nothing_behind_it_is_left_out(key):
    assert make_config(changed(key, None)).plain() == make_config(MINIMAL).plain()


def test_a_key_that_is_there_twice_is_refused(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("data:\n  train_i: [1, 2]\n  data_path: a\n  train_i: [3, 4]\n")
    with pytest.raises(ConfigError, match=r"c.yaml: no valid YAML in line 4 \(the key train_i is there twice\)"):
        load_config(path)
    path.write_text("a: &a {lr: 1, eps: 2}\nb: &b {<<: *a, lr: 3}\nc: {<<: *b, lr: 4}\nd: {<<: *b}\n")
    assert read_yaml(path) == {
        "a": {"lr": 1, "eps": 2}, "b": {"lr": 3, "eps": 2}, "c": {"lr": 4, "eps": 2}, "d": {"lr": 3, "eps": 2},
    }  # fmt: skip


def test_a_needed_key_with_nothing_behind_it_is_missing():
    with pytest.raises(ConfigError, match=r"^config: model is missing\. Fix: add it"):
        make_config(changed("model", None))


def test_a_word_in_place_of_a_block_is_told_in_plain_words():
    with pytest.raises(ConfigError) as caught:
        make_config(changed("optimizer", "Adam"))
    assert str(caught.value).startswith("config: optimizer 'Adam': should be a block of keys. Fix: ")
    assert str(caught.value).endswith("; give keys: name")


def test_text_that_is_no_number_is_refused_in_a_line():
    values = changed("optimizer", {"name": "Adam", "lr": "1e-3x"}) | {"loss": {"name": "BCELoss"}}
    values["data"]["threshold"] = 0
    values["model"] |= {"spatial_size": 64, "nStrides": 2, "n_2D": 0}
    with pytest.raises(ConfigError, match=r"^optimizer: Adam: .*Fix: correct its arguments \(lr = '1e-3x'\)$"):
        ImageModule(with_inputs(make_config(values), 3), 1)


def test_a_left_out_store_does_not_shift_the_others():
    data = {
        "data_path": ["a", "b", "c"],
        "train_i": [None, [1, 5], [2, 6]],
        "inference_i": [[8, 9], None, None],
        "tpcs": [[1], None, [5]],
        "scale": [1, 2, 3],
    }
    data = make_config(changed("data", data)).data
    assert [(s.path, s.tpcs, s.scale) for s in data.sources("train")] == [("b", None, 2), ("c", [5], 3)]
    assert [(s.path, s.tpcs, s.scale) for s in data.sources("inference")] == [("a", [1], 1)]


def test_short_forms_of_the_research_code():
    values = changed("trainer", "basic")
    values |= {
        "metrics": {"acc": "BinAccuracy"},
        "store_inference": True,
        "loss": {"name": "BCEL1Loss", "L1_lambda": 1},
    }
    values["train"] = {"n_epochs": 3, "transfer": False}
    config = make_config(values)
    assert config.trainer.name == "basic"
    assert config.metrics["acc"].name == "BinAccuracy"
    assert config.store_inference.everyNepoch == 1
    assert config.loss.arguments == {"L1_lambda": 1}
    assert config.train.transfer is None
    plateau = make_config(
        values | {"trainer": {"name": "schedule_plateau", "metric": "acc", "patience": 2, "factor": 0.2}}
    )
    assert plateau.trainer.patience == 2


def test_environment_variables_are_expanded(monkeypatch):
    monkeypatch.setenv("LARSTORE_TESTED", "/scratch/x")
    values = changed("data.data_path", ["$LARSTORE_TESTED/a.zarr", "${LARSTORE_TESTED}/b.zarr"])
    values["output_dir"] = "$LARSTORE_TESTED/out"
    config = make_config(values)
    assert config.output_dir == "/scratch/x/out"
    assert config.data.data_path == ["/scratch/x/a.zarr", "/scratch/x/b.zarr"]
    monkeypatch.delenv("LARSTORE_TESTED")
    with pytest.raises(ConfigError, match=r"c\.yaml: output_dir: \$LARSTORE_TESTED is not set\. Fix: "):
        make_config(values, "c.yaml")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "data.trian_i",
            [1, 2],
            "data.trian_i is not a known key. Fix: did you mean train_i? valid here: batch_size,",
        ),
        ("datas", {}, "datas is not a known key. Fix: did you mean data?"),
        ("train.epochs", 3, "train.epochs is not a known key. Fix: did you mean n_epochs?"),
        ("data.charge", {"kind": 1}, "data.charge.kind is not a known key. Fix: valid here: scale, transform"),
        (
            "trainer",
            {"name": "one_cycle", "warmpu": 0},
            "trainer.warmpu is not a known key. Fix: did you mean warmup?",
        ),
        ("trainer", "adaptive", "'basic', 'schedule_plateau', 'one_cycle'"),
        ("trainer", {"name": "schedule_plateau"}, "trainer.metric is missing. Fix: add it"),
        (
            "trainer",
            {"name": "schedule_plateau", "metric": "acc"},
            "trainer.metric 'acc' is not among the metrics []",
        ),
        ("data.threshold", "high", "data.threshold 'high': should be a valid number"),
        ("data.batch_size", 0, "data.batch_size 0: should be greater than or equal to 1"),
        ("data.train_i", [5, 1], "the range [5, 1] ends before it starts"),
        ("data.train_i", [1, 2, 3], "data.train_i.0 [1, 2, 3]"),
        ("data.tpcs", [[1], [5]], "tpcs has 2 entries, data_path 1"),
        ("data.scale", [1.0, 2.0], "scale has 2 entries, data_path 1"),
        ("data.data_path", [], "data_path is empty"),
        ("data.z_segments", [9, 5], "the upper bounds must ascend"),
        ("data.noise", 3, "give keys: mean, sd"),
        ("model", "cellnet_binary", "give keys: name"),
        ("model", {}, "model.name is missing. Fix: add it"),
        ("train.transfer", True, "name the checkpoint or the run directory"),
        ("seed", -1, "seed -1: should be greater than or equal to 0"),
    ],
)
def test_mistakes_are_one_line(key, value, message):
    with pytest.raises(ConfigError) as caught:
        make_config(changed(key, value), "c.yaml")
    text = str(caught.value)
    assert message in text
    assert text.startswith("c.yaml: ")
    assert "Fix: " in text
    assert "\n" not in text


def test_missing_blocks_are_named():
    with pytest.raises(ConfigError, match=r"c\.yaml: output_dir is missing \(and 2 more\)\. Fix: "):
        make_config({}, "c.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read (No such file or directory)"),
        (b"\xff\xfe\x00", "cannot be read (not text)"),
        (b"a: [1, 2\nb: 3\n", "no valid YAML in line 2"),
        (b"", "holds no keys"),
        (b"- 1\n", "holds no keys"),
        (b"output_dir: !!python/object/apply:os.system ['true']\n", "no valid YAML in line 1"),
    ],
)
def test_files_that_are_no_configuration(tmp_path, content, message):
    path = tmp_path / "c.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert message in text
    assert "Fix: " in text
    assert "\n" not in text


def test_set_overrides_the_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(MINIMAL | {"trainer": "basic"}))
    config = load_config(
        path,
        [
            "data.batch_size=7",
            "data.tpcs=[1, 5]",
            "train.n_epochs=3",
            "optimizer.name=Adam",
            "optimizer.lr=1e-2",
            "model.n_2D=1",
        ],
    )
    assert (config.data.batch_size, config.data.tpcs, config.train.n_epochs) == (7, [[1, 5]], 3)
    assert config.optimizer.name == "Adam"
    assert config.optimizer.arguments == {"lr": 0.01}
    assert config.model.arguments == {"nChannels": 4, "n_2D": 1}
    config = load_config(path, ["trainer.name=one_cycle", "trainer.warmup=0.5"])
    assert config.trainer.warmup == 0.5


def test_set_goes_into_blocks_that_are_names_alone(tmp_path):
    path = tmp_path / "c.yaml"
    loss = {"name": "MultiTaskLoss", "score": "BCELoss"}
    path.write_text(yaml.safe_dump(MINIMAL | {"metrics": {"acc": "BinAccuracy"}, "trainer": "basic", "loss": loss}))
    changes = ["metrics.acc.threshold=0.3", "loss.score.weight=2", "trainer.name=schedule"]
    config = load_config(path, [*changes, "trainer.scheduler=StepLR", "trainer.scheduler.step_size=3"])
    assert config.metrics["acc"].model_dump() == {"name": "BinAccuracy", "threshold": 0.3}
    assert config.loss.arguments["score"] == {"name": "BCELoss", "weight": 2}
    assert config.trainer.scheduler.model_dump() == {"name": "StepLR", "step_size": 3}
    with pytest.raises(ConfigError, match=r"--set data\.data_path\.x=1: data_path holds 'run\.zarr', not keys\. Fix: "):
        load_config(path, ["data.data_path.x=1"])


# As the 2021 research code's files are written: every key that it knew, at its place.
RESEARCH = """
output_dir: $SCRATCH/results/ghost3d
trainer:
  name: schedule_plateau
  metric: acc
  patience: 3
  factor: 0.2
store_inference:
  everyNepoch: 5
  everyNsample: 10
  outdir: inference
data:
  name: sparse
  data_path: [$SCRATCH/larsim/Electron/xy, $SCRATCH/larsim/BeamCosmic/xy]
  train_i: [[701, 950], [101, 840]]
  inference_i: [[951, 1000], null]
  tpcs: [null, [1]]
  threshold: 0
  coord_lim: [null, [0, 500], null]
  z_segments: [100, 200, 300]
  noise: {mean: 0, sd: 0.1}
  round: 2
  scale: [1, 0.5]
  full_y: false
  batch_size: 1
model:
  name: cellnet_binary
  spatial_size: [1024, 1024, 512]
  nChannels: 16
  nStrides: 5
  n_2D: 0
  nInputFeatures: 6
  reps: 2
  conv_kernel: 3
  downsample: [2, 2]
  downsample_t: [2, 2]
  momentum: 0.99
loss:
  name: BCELoss
optimizer:
  name: Adam
  lr: 0.001
train:
  n_epochs: 20
  start_epoch: 7
  transfer: false
metrics:
  acc: BinAccuracy
"""


def test_every_key_of_the_research_code(tmp_path, monkeypatch):
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    path = tmp_path / "c.yaml"
    path.write_text(RESEARCH)
    config = load_config(path)
    assert config.output_dir == "/scratch/me/results/ghost3d"
    assert [(s.path[-7:-3], s.files, s.tpcs, s.scale) for s in config.data.sources("train")] == [
        ("tron", (701, 950), None, 1),
        ("smic", (101, 840), [1], 0.5),
    ]
    assert [s.path[-7:-3] for s in config.data.sources("inference")] == ["tron"]
    assert (config.train.start_epoch, config.train.transfer) == (7, None)
    written = yaml.safe_load(RESEARCH)
    assert all(key in config.plain() for key in written)
    for block in ("data", "train", "trainer", "store_inference", "model"):
        assert set(written[block]) <= set(config.plain()[block])
    ImageModule(with_inputs(config, 3), 10)  # network, loss, optimiser, scheduler, metrics


@pytest.mark.parametrize(
    ("model", "loss", "data"),
    [
        ("cellnet_charge", {"name": "MSELoss"}, {}),
        ("cellnet_charge", {"name": "DownsampleMSELoss", "downsample": [5, 5, 5], "weight": 1}, {"full_y": True}),
        ("cellnet_binary", {"name": "BCEL1Loss", "L1_lambda": 0.1}, {"threshold": 0}),
        ("cellnet_binary", {"name": "ChargeWeightedBCELoss", "negative_weight": 1}, {}),
        ("cellnet_binary", {"name": "LabelWeightedBCELoss", "positive_weight": 10}, {"threshold": 0}),
        ("BinarySparseCellNet", {"name": "WeightedBCELoss", "negative_weight": 1}, {"threshold": 0}),  # ghost3d_3.yaml
    ],
)
def test_models_and_losses_of_the_research_code(model, loss, data):
    values = yaml.safe_load(RESEARCH.replace("$SCRATCH", ""))
    values["data"] = {"data_path": "s.zarr", "train_i": [0, 1], "inference_i": [2, 3], **data}
    values["model"] |= {"name": model, "nInputFeatures": 3} | ({"nHiddenLayers": 2} if "charge" in model else {})
    ImageModule(make_config(values | {"loss": loss}), 10)


def test_without_training_files_what_concerns_training_is_not_needed(monkeypatch):
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    values = yaml.safe_load(RESEARCH)
    values["data"]["train_i"] = None
    for key in ("loss", "optimizer", "metrics"):
        del values[key]
    config = make_config(values)
    assert config.trainer.name == "schedule_plateau"  # of a metric that is not there: nothing is trained
    assert not config.data.sources("train")
    assert config.loss is config.optimizer is None
    values["data"]["train_i"] = [[1, 2], None]
    with pytest.raises(ConfigError, match=r"trainer\.metric 'acc' is not among the metrics \[\]"):
        make_config(values)


@pytest.mark.parametrize("override", ["train.n_epochs", "=3", "data..x=1", "output_dir.x=1", "train.n_epochs=[1"])
def test_set_mistakes(tmp_path, override):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    with pytest.raises(ConfigError, match=r"--set .*Fix: "):
        load_config(path, [override])


def test_powers_of_ten_are_numbers(tmp_path):
    path = tmp_path / "c.yaml"
    text = "optimizer: {name: Adam, lr: 1e-3, a: 2E5, b: -1.5e+3, c: '1e-3', d: 1e, e: 1e-3s, f: 1_0e2}\n"
    path.write_text(yaml.safe_dump(MINIMAL) + text)
    arguments = load_config(path).optimizer.arguments
    assert arguments == {"lr": 0.001, "a": 2e5, "b": -1500.0, "c": 0.001, "d": "1e", "e": "1e-3s", "f": 1000.0}


def test_the_number_of_network_inputs_follows_from_the_data():
    config = make_config(changed("data.z_segments", [50, 100]))
    assert with_inputs(config, 3).model.arguments["nInputFeatures"] == 5
    assert "nInputFeatures" not in config.model.arguments
    with pytest.raises(ConfigError, match=r"nInputFeatures is 3, the data have 4 inputs.*Fix: "):
        with_inputs(make_config(changed("model", {"name": "cellnet_binary", "nInputFeatures": 3})), 4)


def test_thousands_of_electrons_are_doubted():
    def told(noise, decimals):
        values = changed("data.noise", noise)
        values["data"]["round"] = decimals
        return doubtful_units(make_config(values))

    mean, sd, rounding = told({"mean": -0.5, "sd": 0.1}, 2)
    assert mean == (
        "data.noise.mean = -0.5 electrons changes nothing. "
        "Fix: -500, if thousands of electrons are meant, as in the research code"
    )
    assert "data.noise.sd = 0.1 " in sd
    assert "Fix: 100," in sd
    assert rounding.startswith("data.round = 2 keeps 0.01 electrons")
    assert "Fix: -1, if" in rounding
    assert "Fix: -3, if" in told(None, 0)[0]
    assert told({"mean": 0, "sd": 100}, -1) == told(None, None) == []
