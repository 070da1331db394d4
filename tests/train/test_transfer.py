"""Weights from another run: what fits is taken over and told, what is frozen stays as it is, also after a resume."""

import pytest
import torch

import larstore
from larstore.errors import ConfigError
from train.config import load_config, make_config
from train.fitting.fit import fit
from train.fitting.module import ImageModule
from train.models import build_model
from train.records.folder import RunFolder
from train.resuming.checkpoint import load_checkpoint, model_weights
from train.sparse.layers import BatchNormReLU

TRUNK = "sparseModel.*"


@pytest.fixture(scope="module")
def store(tmp_path_factory, copy_of_store):
    return copy_of_store(tmp_path_factory.mktemp("transfer") / "s.zarr", n_files=4, n_voxels=60)


def settings(store, out, name="cellnet_binary", n_channels=4, **train):
    binary = name == "cellnet_binary"
    model = {"name": name, "spatial_size": [256, 64, 64], "nChannels": n_channels, "nStrides": 2, "n_2D": 0}
    return make_config(
        {
            "output_dir": str(out),
            "data": {
                "data_path": str(store),
                "train_i": [0, 3],
                "inference_i": [0, 0],
                "threshold": 0 if binary else None,
                "scale": 1 if binary else 0.0001,
                "charge": {"transform": "asinh"},
                "batch_size": 4,
            },
            "model": model | {"downsample_t": [2, 2], "momentum": 0.5},
            "loss": {"name": "BCELoss" if binary else "MSELoss"},
            "optimizer": {"name": "Adam", "lr": 0.01, "weight_decay": 0.1},
            "train": {"n_epochs": 1, "threads": 1, "accelerator": "cpu", **train},
        }
    )


@pytest.fixture(scope="module")
def ghost(store, tmp_path_factory):
    """The directory of a finished deghosting run."""
    return fit(settings(store, tmp_path_factory.mktemp("ghost") / "run")).checkpoint.parents[1]


def weights_of(run):
    return model_weights(load_checkpoint(RunFolder(run).find_checkpoint()))


def test_a_charge_net_on_the_frozen_trunk_of_a_deghosting_run(store, ghost, tmp_path, capsys):
    out = tmp_path / "charge"
    config = settings(store, out, "cellnet_charge", transfer={"from": str(ghost), "freeze": TRUNK})
    result = fit(config)
    before, after = weights_of(ghost), weights_of(out)
    trunk = [name for name in before if name.startswith("sparseModel.")]
    assert any(name.endswith("running_var") for name in trunk)
    assert all(torch.equal(before[name], after[name]) for name in trunk)
    head = [name for name in after if name.startswith("linear.")]
    n_trained = sum(after[name].numel() for name in head)
    said, log = capsys.readouterr().err, (out / "out_0.log").read_text()
    counts = (
        f"{len(trunk)} of {len(after)} tensors taken over, {len(head)} missing in the checkpoint, 2 left over there"
    )
    for text in (said, log):
        assert counts in text
        assert f"; {n_trained} are trained" in text
    assert f"transfer: taken over: {trunk[0]}" in log
    assert "transfer: missing in the checkpoint: linear.2.bias" in log
    assert "transfer: left over in the checkpoint: linear.weight" in log
    assert "transfer: " not in said.replace("train.transfer", "")
    content = load_checkpoint(result.checkpoint)
    assert len(content["optimizer_states"][0]["state"]) == len(head)

    more = settings(store, out, "cellnet_charge", n_epochs=2, transfer={"from": "gone", "freeze": TRUNK})
    fit(more, resume=True)
    resumed = weights_of(out)
    assert all(torch.equal(before[name], resumed[name]) for name in trunk)
    assert not torch.equal(after["linear.0.weight"], resumed["linear.0.weight"])
    for changed in ({"freeze": False}, {"freeze": ["sparseModel.1.*"]}):
        wanted = settings(store, out, "cellnet_charge", n_epochs=3, transfer={"from": "gone", **changed})
        with pytest.raises(ConfigError, match=rf"was trained with {content_frozen(content)} frozen tensors.*Fix: "):
            fit(wanted, resume=True)


def content_frozen(content):
    return len(content["larstore"]["frozen"])


def test_what_is_not_frozen_is_trained_and_its_statistics_move(store, ghost, tmp_path):
    fit(settings(store, tmp_path / "all", transfer=str(ghost)))
    before, after = weights_of(ghost), weights_of(tmp_path / "all")
    assert not any(torch.equal(before[name], after[name]) for name in before if "running" not in name)
    assert not any(torch.equal(before[name], after[name]) for name in before if "running_mean" in name)


def test_other_shapes_and_excluded_tensors_stay_as_they_were_drawn(store, ghost, tmp_path, caplog, monkeypatch):
    started = []
    monkeypatch.setattr(
        ImageModule,
        "on_train_start",
        lambda self: started.append({k: v.clone() for k, v in self.model.state_dict().items()}),
    )
    transfer = {"from": str(ghost), "exclude": ["linear.*"], "freeze": True}
    config = settings(store, tmp_path, transfer=transfer)
    config.model = config.model.model_copy(update={"reps": 1})
    fit(config)
    (own,) = started
    source = weights_of(ghost)
    torch.manual_seed(0)
    drawn = build_model(config.model.model_dump() | {"nInputFeatures": 3}).state_dict()
    assert torch.equal(own["linear.weight"], drawn["linear.weight"])
    assert not torch.equal(own["linear.weight"], source["linear.weight"])
    log = (tmp_path / "out_0.log").read_text()
    assert "2 excluded" in log
    assert "transfer: excluded: linear.weight" in log
    differing = [name for name in own if name in source and own[name].shape != source[name].shape]
    assert differing
    for name in differing:
        shapes = f"{tuple(own[name].shape)} here, {tuple(source[name].shape)} there"
        assert f"transfer: of another shape: {name}, {shapes}" in log
        assert torch.equal(own[name], drawn[name])
    taken = [name for name in own if name in source and name not in differing and not name.startswith("linear")]
    assert all(torch.equal(own[name], source[name]) for name in taken)
    frozen = load_checkpoint(RunFolder(tmp_path).find_checkpoint())["larstore"]["frozen"]
    assert set(frozen) == {name for name in taken if "running" not in name}


def test_freezing_what_was_not_taken_over_is_told(store, ghost, tmp_path):
    fit(settings(store, tmp_path, transfer={"from": str(ghost), "exclude": "linear.bias", "freeze": "linear.*"}))
    assert "frozen, but not taken over: 1 tensors stay as they were drawn (linear.bias …)" in (
        tmp_path / "out_0.log"
    ).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("transfer", "message"),
    [
        ({"freeze": ["sparsemodel.*"]}, r"freeze: 'sparsemodel\.\*' matches nothing in the model\. Fix: .*sparseModel"),
        ({"exclude": ["head.*"]}, r"exclude: 'head\.\*' matches nothing in the model\. Fix: "),
        ({"freeze": ["*"]}, r"freeze: no parameter is left to train\. Fix: "),
        ({"freeze": True}, r"freeze: no parameter is left to train\. Fix: "),
        ({"exclude": ["*"]}, r"none of its filters fits the model\. Fix: "),
    ],
)
def test_mistakes_are_one_line(store, ghost, tmp_path, transfer, message):
    with pytest.raises(ConfigError, match=message):
        fit(settings(store, tmp_path / "run", transfer={"from": str(ghost), **transfer}))
    assert not (tmp_path / "run").exists()


def test_another_network_of_which_a_bias_alone_fits_is_refused(store, ghost, tmp_path):
    config = settings(store, tmp_path / "run", transfer={"from": str(ghost)})
    config.model.nChannels *= 2
    with pytest.raises(ConfigError, match=r"none of its filters fits the model\. Fix: "):
        fit(config)
    assert not (tmp_path / "run").exists()


def test_other_inputs_are_refused_with_the_fix(store, ghost, tmp_path):
    config = settings(store, tmp_path, "cellnet_charge", transfer={"from": str(ghost)})
    config.data.charge.transform = "linear"
    with pytest.raises(ConfigError, match=r"Fix: .*data\.charge: \{transform: asinh, scale: 0\.001\}"):
        fit(config)


def test_the_block_in_a_configuration(tmp_path, monkeypatch):
    monkeypatch.setenv("LARSTORE_TESTED", "/scratch")
    text = "output_dir: o\ndata: {data_path: a, train_i: [0, 1]}\nmodel: {name: cellnet_binary}\n"
    path = tmp_path / "c.yaml"
    path.write_text(text + "train: {transfer: {from: $LARSTORE_TESTED/run, freeze: 'linear.*'}}\n")
    config = load_config(path)
    assert config.plain()["train"]["transfer"] == {"from": "/scratch/run", "exclude": [], "freeze": ["linear.*"]}
    assert make_config(config.plain()).train.transfer == config.train.transfer
    path.write_text(text + "train: {transfer: $LARSTORE_TESTED/run}\n")
    assert load_config(path).plain()["train"]["transfer"] == {"from": "/scratch/run", "exclude": [], "freeze": False}
    for block, message in (
        ("{form: a}", r"train\.transfer\.form is not .*did you mean from\?"),
        (
            "{from: a, frezee: true}",
            r"train\.transfer\.frezee is not .*did you mean freeze\? valid here: exclude, freeze, from",
        ),
        ("3", r"train\.transfer 3: .*give keys: from, exclude, freeze"),
    ):
        path.write_text(text + f"train: {{transfer: {block}}}\n")
        with pytest.raises(ConfigError, match=message):
            load_config(path)


def test_half_frozen_residual_blocks_compute_what_unfused_ones_do(store):
    """The fused function of a block has one mode for both of its normalisations."""
    torch.manual_seed(1)
    block = {"name": "cellnet_binary", "spatial_size": [256, 64, 64], "nChannels": 4, "nStrides": 2, "n_2D": 0}
    model = build_model(block | {"downsample_t": [2, 2], "momentum": 0.5})
    image = larstore.open(store).select()[0]
    coords = torch.nn.functional.pad(torch.from_numpy(image.coords.astype("int64")), (0, 1))
    features = torch.asinh(torch.from_numpy(image.charge) / 1000)
    norms = [module for module in model.modules() if isinstance(module, BatchNormReLU)]
    with torch.no_grad():
        for norm in norms:
            norm.running_mean += 0.1
    start = {name: value.clone() for name, value in model.state_dict().items()}
    results = []
    for hooked in (False, True):
        model.load_state_dict(start)
        model.train()
        for norm in norms[::2]:
            norm.eval()
        hooks = [norm.register_forward_hook(lambda *_: None) for norm in norms if hooked]
        model.zero_grad()
        output = model(coords, features)
        output.square().mean().backward()
        for hook in hooks:
            hook.remove()
        results.append((output.detach(), [p.grad.clone() for p in model.parameters()], model.state_dict()))
        results[-1] = (*results[-1][:2], {name: value.clone() for name, value in results[-1][2].items()})
    (a, grads_a, state_a), (b, grads_b, state_b) = results
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(grads_a, grads_b, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(state_a, state_b)
    still = [name for name, value in start.items() if "running" in name and torch.equal(value, state_a[name])]
    assert len(still) == 2 * len(norms[::2])
