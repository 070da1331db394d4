"""Checkpoints of the 2021 research code: imported with the order and scale of their inputs, and never without."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
import yaml
from typer.testing import CliRunner

import larstore
from larstore import create, testing
from larstore.errors import ConfigError, InputError, LarstoreError
from train import cli
from train.checkpoint_cli import import_checkpoint_command
from train.config import make_config
from train.fitting.fit import fit
from train.inference.infer import infer
from train.models import build_model
from train.records.folder import RunFolder
from train.resuming.checkpoint import load_checkpoint, model_weights, sha256
from train.resuming.importing import import_checkpoint
from train.resuming.research_checkpoint import check_tpcs, research_planes
from train.schema import TransferConfig
from train.streaming.transforms import make_transforms

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "sparseconvnet"
NET = {
    "name": "cellnet_binary",
    "spatial_size": [256, 64, 64],
    "nChannels": 4,
    "nStrides": 2,
    "n_2D": 0,
    "downsample_t": [2, 2],
}


@pytest.fixture(scope="module")
def net():
    """A network whose running statistics are not the initial ones."""
    torch.manual_seed(5)
    model = build_model(NET)
    coords = torch.cat([torch.randint(0, 64, (200, 3)), torch.zeros(200, 1, dtype=torch.int64)], 1)
    model(coords, torch.randn(200, 3))
    return model.eval()


@pytest.fixture
def store(tmp_path, copy_of_store):
    return copy_of_store(tmp_path / "s.zarr", n_files=2, n_events=1, n_voxels=200)


def values(store, **data):
    return {
        "output_dir": str(Path(store).parent / "run"),
        "data": {"data_path": str(store), "charge": {"transform": "asinh", "scale": 0.5}, **data},
        "model": dict(NET),
        "train": {"n_epochs": 1, "threads": 1, "accelerator": "cpu"},
    }


@pytest.fixture
def config(store):
    return make_config(values(store))


def training(store, **changes):
    block = values(store, train_i=[0, 1], threshold=0, **changes.pop("data", {}))
    block |= {"loss": {"name": "BCELoss"}, "optimizer": {"name": "SGD", "lr": 0.0}}
    block["train"] |= changes
    return make_config(block)


def weights(net, before=""):
    return {before + name: tensor for name, tensor in net.state_dict().items()}


def research_file(path, net, legacy=False, **content):
    """What its trainer wrote: the state dicts of network and optimiser; before PyTorch 1.6 not a zip."""
    optimizer = torch.optim.Adam(net.parameters())
    content = content or {"model": weights(net), "optimizer": optimizer.state_dict()}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.fixture
def old(tmp_path, net):
    return research_file(tmp_path / "checkpoint_019.pth.tar", net)


@pytest.fixture
def imported(old, config):
    """A checkpoint of a net trained on an odd TPC."""
    return import_checkpoint(old, old.with_name("new.ckpt"), config, input_planes=("u", "w", "v")).checkpoint


def by_hand(net, image, columns, scale=0.001):
    """The network's answer to an image whose charges are put in order and scaled here."""
    coords = np.column_stack([image.coords.astype(np.int64), np.zeros(len(image), np.int64)])
    features = image.charge[:, columns] * np.float32(scale)
    with torch.no_grad():
        return net(torch.from_numpy(coords), torch.from_numpy(np.ascontiguousarray(features)))[:, 0].numpy()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict", None])
@pytest.mark.parametrize("before", ["", "module."])
def test_every_spelling_gives_the_same_weights(tmp_path, net, config, key, before, legacy):
    held = weights(net, before)
    old = research_file(tmp_path / "net.pth", net, legacy, **({key: held, "epoch": 7} if key else held))
    done = import_checkpoint(old, tmp_path / "new.ckpt", config, tpc=1)
    assert done.epoch == (7 if key else None)
    assert done.tensors == len(held)
    taken, own = model_weights(load_checkpoint(done.checkpoint)), net.state_dict()
    assert taken.keys() == own.keys()
    assert all(torch.equal(taken[name], own[name]) for name in own)


def test_a_net_in_a_net(tmp_path, net, config):
    """The later wrappers hold a SparseCellNet, which holds the layers."""
    held = {name.replace("sparseModel.", "module.sparseModel.sparseModel.", 1): t for name, t in weights(net).items()}
    old = research_file(tmp_path / "checkpoint_003.pth.tar", net, model=held)
    done = import_checkpoint(old, tmp_path / "new.ckpt", config, tpc=1)
    assert done.epoch == 3
    assert torch.equal(
        model_weights(load_checkpoint(done.checkpoint))["sparseModel.1.weight"],
        net.state_dict()["sparseModel.1.weight"],
    )


@pytest.mark.parametrize("name", ["a_binary", "a_charge", "c_binary"])
def test_weights_of_sparseconvnet_itself(tmp_path, store, name):
    with np.load(GOLDEN / f"{name}.npz") as archive:
        golden = {key: torch.from_numpy(value) for key, value in archive.items() if key != "meta"}
        meta = json.loads(str(archive["meta"]))
    held = {"module." + key[2:]: value for key, value in golden.items() if key.startswith("p:")}
    torch.save({"model": held}, tmp_path / "checkpoint_000.pth.tar")
    block = values(store) | {"model": {"name": f"cellnet_{meta['kind']}"} | meta["model_args"]}
    config = make_config(block)
    done = import_checkpoint(tmp_path / "checkpoint_000.pth.tar", tmp_path / "new.ckpt", config, tpc=1)
    content = load_checkpoint(done.checkpoint)
    model = build_model(content["larstore"]["config"]["model"]).eval()
    model.load_state_dict(model_weights(content))
    with torch.no_grad():
        out = model(golden["coords"], golden["features"])
    np.testing.assert_allclose(out.numpy(), golden["out_eval"].numpy(), rtol=0, atol=2e-6)  # as test_sparse_golden


def test_the_checkpoint_explains_itself(old, imported):
    about = load_checkpoint(imported)["larstore"]
    assert about["imported"] == {
        "file": str(old),
        "sha256": sha256(old),
        "input_planes": ["u", "w", "v"],
        "input_scale": 0.001,
        "tpc": None,
    }
    data = about["config"]["data"]
    assert data["input_planes"] == ["u", "w", "v"]
    assert data["charge"] == {"transform": "linear", "scale": 0.001}
    assert about["versions"]["torch"] == torch.__version__
    assert about["config"]["loss"] is None


@pytest.mark.parametrize(
    ("chosen", "columns"),
    [
        ({"tpc": 1}, [0, 2, 1]),
        ({"tpc": 2}, [1, 2, 0]),
        ({"input_planes": ("u", "w", "v")}, [0, 2, 1]),
        ({"input_planes": ("u", "v", "w"), "input_scale": 0.01}, [0, 1, 2]),
    ],
)
def test_inference_puts_the_planes_in_order_and_scales(store, old, net, config, tmp_path, chosen, columns, capsys):
    new = import_checkpoint(old, tmp_path / "new.ckpt", config, **chosen).checkpoint
    infer(config, new, store, "old")
    opened = larstore.open(store)
    scale = chosen.get("input_scale", 0.001)
    for image in opened.select():
        score = image.score("old")
        np.testing.assert_allclose(score, by_hand(net, image, columns, scale), atol=1e-6)
        for other in ([0, 1, 2], [0, 2, 1], [1, 2, 0]):
            if other != columns:
                assert np.abs(score - by_hand(net, image, other, scale)).max() > 1e-3
    assert opened.predictions["old"]["config"]["data"]["charge"]["transform"] == "linear"
    assert opened.predictions["old"]["epoch"] == 19
    assert "data.charge and data.z_segments are the checkpoint's" in capsys.readouterr().err


def test_a_store_with_its_planes_in_another_order(old, net, config, imported, tmp_path):
    path = tmp_path / "wuv.zarr"
    create(path, geometry=testing.make_geometry(), provenance={}, planes=("w", "u", "v"))
    testing.add_images(path, [testing.make_image(n_voxels=100)])
    infer(config, imported, path, "old")
    image = larstore.open(path).select()[0]
    np.testing.assert_allclose(image.score("old"), by_hand(net, image, [1, 0, 2]), atol=1e-6)


def test_a_store_that_lacks_a_plane(config, imported, tmp_path):
    path = tmp_path / "uvx.zarr"
    create(path, geometry=testing.make_geometry(), provenance={}, planes=("u", "v", "x"))
    testing.add_images(path, [testing.make_image(n_voxels=100)])
    with pytest.raises(ConfigError, match=r"uvx\.zarr: has planes u, v, x, the network takes u, w, v: no 'w'\. Fix: "):
        infer(config, imported, path, "old")
    with pytest.raises(ConfigError, match=r"uvx\.zarr: has planes u, v, x, the network takes v, w: no 'w'\. Fix: "):
        fit(training(path, data={"input_planes": ["v", "w"]}), progress=False)
    assert not larstore.open(path).predictions


def test_without_the_order_nothing_is_imported(old, config, tmp_path):
    new = tmp_path / "new.ckpt"
    with pytest.raises(ConfigError, match=r"neither of input_planes and tpc given\. Fix: one of them.*u,w,v"):
        import_checkpoint(old, new, config)
    with pytest.raises(ConfigError, match=r"both of input_planes and tpc given"):
        import_checkpoint(old, new, config, input_planes=("u", "w", "v"), tpc=1)
    assert not new.exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"input_planes": ("u", "x", "v")}, r"input_planes 'u,x,v': not planes.*Fix: for example u,w,v"),
        ({"input_planes": ("u", "u", "v")}, r"input_planes 'u,u,v': .*Fix: "),
        ({"input_planes": ()}, r"input_planes '': .*Fix: "),
        ({"input_planes": ("u", "v")}, r"1 tensors differ \(sparseModel\.1\.weight.*Fix: "),
        ({"tpc": 12}, r"tpc 12: ProtoDUNE-SP has 0 to 11\. Fix: "),
        ({"tpc": -1}, r"tpc -1: .*Fix: "),
        ({"tpc": 1, "input_scale": 0.0}, r"input_scale 0: not above 0\. Fix: 0\.001"),
        ({"tpc": 1, "input_scale": float("inf")}, r"input_scale inf: .*Fix: "),
    ],
)
def test_wrong_planes_and_scales(old, config, tmp_path, wrong, message):
    with pytest.raises(ConfigError, match=message) as caught:
        import_checkpoint(old, tmp_path / "new.ckpt", config, **wrong)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new.ckpt").exists()


def test_the_configuration_must_not_say_another_order(old, store, tmp_path):
    config = make_config(values(store, input_planes=["u", "v", "w"]))
    with pytest.raises(ConfigError, match=r"data\.input_planes is \[u, v, w\], the import is told u,w,v\. Fix: "):
        import_checkpoint(old, tmp_path / "new.ckpt", config, tpc=1)
    same = make_config(values(store, input_planes=["u", "w", "v"]))
    assert import_checkpoint(old, tmp_path / "new.ckpt", same, tpc=1).input_planes == ("u", "w", "v")


class Code:
    """Executed by a careless reader."""

    def __reduce__(self):
        return os.mkdir, (str(Path(os.environ["MARK"])),)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_is_not_run(net, config, tmp_path, monkeypatch, legacy):
    monkeypatch.setenv("MARK", str(tmp_path / "was run"))
    old = research_file(tmp_path / "old.pth.tar", net, legacy, model=weights(net), config=Code())
    for refused in (lambda: import_checkpoint(old, tmp_path / "new.ckpt", config, tpc=1), lambda: load_checkpoint(old)):
        with pytest.raises(
            InputError, match=r"old\.pth\.tar: cannot be read .*mkdir.*Fix: .*state dict alone"
        ) as caught:
            refused()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "was run").exists()
    assert not (tmp_path / "new.ckpt").exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_a_truncated_file(net, config, tmp_path, legacy):
    whole = research_file(tmp_path / "old.pth.tar", net, legacy).read_bytes()
    for size in (0, 1, 40, 150, 1000, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.pth.tar").write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"cut\.pth\.tar: cannot be read as a checkpoint .*Fix: ") as caught:
            import_checkpoint(tmp_path / "cut.pth.tar", tmp_path / "new.ckpt", config, tpc=1)
        assert "\n" not in str(caught.value)


def test_what_is_no_checkpoint_of_the_research_code(net, config, imported, tmp_path):
    def refused(content):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(InputError, match=r"other\.pth: ") as caught:
            import_checkpoint(tmp_path / "other.pth", tmp_path / "x.ckpt", config, tpc=1)
        assert "\n" not in str(caught.value)
        assert "Fix: " in str(caught.value)
        return str(caught.value)

    assert "(found: optimizer, nets)" in refused({"optimizer": {}, "nets": weights(net)})
    assert "(found: Tensor)" in refused(torch.zeros(3))
    assert "no network of the research code" in refused({"model": {"conv1.weight": torch.zeros(3)}})
    assert "holds networks under 'model', 'state_dict'" in refused({"model": weights(net), "state_dict": weights(net)})
    nan = {name: torch.full_like(t, float("nan")) for name, t in weights(net).items()}
    assert "holds NaN or infinity" in refused({"model": nan})
    assert "is a checkpoint of larstore already" in refused(load_checkpoint(imported))
    with pytest.raises(InputError, match=r"nothing\.pth: no such checkpoint"):
        import_checkpoint(tmp_path / "nothing.pth", tmp_path / "x.ckpt", config, tpc=1)


@pytest.mark.parametrize(
    "change", [{"nChannels": 8}, {"name": "cellnet_charge"}, {"reps": 1}, {"n_2D": 1}, {"nStrides": 1}]
)
def test_another_model_block(old, store, tmp_path, change):
    block = values(store)
    block["model"] |= change
    with pytest.raises(ConfigError, match=r"checkpoint_019.*made for another network, \d+ tensors differ \(.*Fix: "):
        import_checkpoint(old, tmp_path / "new.ckpt", make_config(block), tpc=1)


def test_nothing_is_overwritten(old, config, imported, tmp_path):
    before = imported.read_bytes()
    with pytest.raises(ConfigError, match=r"new\.ckpt: exists, and is not overwritten\. Fix: "):
        import_checkpoint(old, imported, config, tpc=2)
    assert imported.read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"new\.ckpt: cannot be written \(.*Fix: "):
        import_checkpoint(old, tmp_path / "file" / "new.ckpt", config, tpc=2)


def test_a_raw_checkpoint_is_refused_with_the_command(old, store, config, tmp_path):
    command = rf"Fix: larstore import-checkpoint {old} -o NEW\.ckpt --config CONFIG\.yaml --input-planes u,w,v"
    with pytest.raises(InputError, match=command) as caught:
        infer(config, old, store, "old")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=command):
        fit(training(store, transfer=str(old)), progress=False)
    folder = RunFolder(tmp_path / "run")
    folder.start({})
    folder.checkpoint(19).write_bytes(old.read_bytes())
    with pytest.raises(InputError, match=r"import-checkpoint .*checkpoint_019\.pth\.tar"):
        fit(training(store), resume=True, progress=False)
    assert not larstore.open(store).predictions


LINEAR = {"transform": "linear", "scale": 0.001}


def test_transfer_feeds_the_planes_in_its_order(store, imported, net, monkeypatch):
    seen = []
    config = training(store, data={"input_planes": ["u", "w", "v"], "charge": LINEAR}, transfer=str(imported))
    monkeypatch.setattr("train.fitting.module.ImageModule.training_step", _keep_first(seen))
    result = fit(config, progress=False)
    image = larstore.open(store).image(*seen[0]["keys"][0])
    np.testing.assert_allclose(seen[0]["features"], image.charge[:, [0, 2, 1]] * np.float32(0.001), rtol=1e-6)
    content = load_checkpoint(result.checkpoint)
    assert torch.equal(content["state_dict"]["model.linear.weight"], net.state_dict()["linear.weight"])
    assert content["larstore"]["config"]["data"]["input_planes"] == ["u", "w", "v"]
    infer(config, result.checkpoint, store, "after")  # its own checkpoint takes the planes alike
    taken = build_model(NET).eval()
    taken.load_state_dict(model_weights(content))
    np.testing.assert_allclose(image_score(store, "after"), by_hand(taken, first(store), [0, 2, 1]), atol=1e-6)


def _keep_first(seen):
    from train.fitting.module import ImageModule

    step = ImageModule.training_step
    return lambda self, batch, i: (seen.append(batch), step(self, batch, i))[1]


def first(store):
    return larstore.open(store).select()[0]


def image_score(store, name):
    return first(store).score(name)


@pytest.mark.parametrize(
    "data",
    [
        {"charge": LINEAR},
        {"input_planes": ["v", "w", "u"], "charge": LINEAR},
        {"input_planes": ["u", "w", "v"]},
        {"input_planes": ["u", "w", "v"], "charge": {"transform": "linear", "scale": 0.002}},
    ],
)
def test_transfer_to_other_inputs_is_refused(store, imported, data):
    fix = r"Fix: data\.input_planes: \[u, w, v\] and data\.charge: \{transform: linear, scale: 0\.001\}"
    with pytest.raises(ConfigError, match=rf"new\.ckpt: its weights take planes u, w, v as .*{fix}") as caught:
        fit(training(store, data=data, transfer=str(imported)), progress=False)
    assert "\n" not in str(caught.value)
    assert not (Path(store).parent / "run").exists()


def test_our_checkpoints_record_the_order_and_older_ones_have_the_stores(store, tmp_path):
    config = training(store)
    result = fit(config, progress=False)
    content = load_checkpoint(result.checkpoint)
    assert content["larstore"]["config"]["data"]["input_planes"] == ["u", "v", "w"]
    del content["larstore"]["config"]["data"]["input_planes"]
    torch.save(content, tmp_path / "older.ckpt")
    infer(config, result.checkpoint, store, "now")
    infer(config, tmp_path / "older.ckpt", store, "older")
    np.testing.assert_array_equal(image_score(store, "now"), image_score(store, "older"))
    again = config.model_copy(update={"output_dir": str(tmp_path / "again")})
    again.train.transfer = TransferConfig.model_validate({"from": str(tmp_path / "older.ckpt")})
    fit(again, progress=False)
    changed = training(store, data={"input_planes": ["w", "v", "u"]}, n_epochs=2)
    with pytest.raises(ConfigError, match=r"its weights take planes u, v, w .* this run has planes w, v, u .*Fix: "):
        fit(changed, resume=True, progress=False)


def test_no_run_is_resumed_from_imported_weights(store, imported):
    config = training(store, data={"input_planes": ["u", "w", "v"], "charge": LINEAR})
    folder = RunFolder(config.output_dir)
    folder.start({})
    folder.checkpoint(0).write_bytes(imported.read_bytes())
    with pytest.raises(ConfigError, match=r"imported weights alone.*Fix: a new output_dir, and train\.transfer: "):
        fit(config, resume=True, progress=False)


def test_some_of_the_planes(store):
    config = training(store, data={"input_planes": ["w", "u"]})
    checkpoint = fit(config, progress=False).checkpoint
    infer(config, checkpoint, store, "two")
    taken = build_model(NET | {"nInputFeatures": 2}).eval()
    taken.load_state_dict(model_weights(load_checkpoint(checkpoint)))
    image, coords = first(store), first(store).coords.astype(np.int64)
    features = torch.from_numpy(np.arcsinh(image.charge[:, [2, 0]] * np.float32(0.5)))
    with torch.no_grad():
        expected = taken(torch.from_numpy(np.column_stack([coords, np.zeros(len(coords), np.int64)])), features)
    np.testing.assert_allclose(image.score("two"), expected[:, 0].numpy(), atol=1e-6)


def test_stores_with_other_orders_need_the_key(store, tmp_path):
    path = tmp_path / "wuv.zarr"
    create(path, geometry=testing.make_geometry(), provenance={}, planes=("w", "u", "v"))
    testing.add_images(path, [testing.make_image(n_voxels=100)])
    both = {"data_path": [str(store), str(path)], "train_i": [[0, 1], [0, 0]]}
    block = training(store).plain()
    block["data"] = {"charge": LINEAR, "threshold": 0, **both}
    with pytest.raises(ConfigError, match=r"the stores have different planes.*Fix: data\.input_planes: \[u, v, w\]"):
        fit(make_config(block), progress=False)
    block["data"]["input_planes"] = ["u", "v", "w"]
    fit(make_config(block), progress=False)


@pytest.mark.parametrize("planes", [[], ["u", "u"]])
def test_wrong_keys(store, planes):
    with pytest.raises(ConfigError, match=r"data\.input_planes \[.*name one plane or more, each once.*Fix: "):
        make_config(values(store, input_planes=planes))


def test_the_planes_of_the_store_must_be_known(store):
    with pytest.raises(ConfigError, match=r"no 'u'"):
        make_transforms(make_config(values(store, input_planes=["u"])).data, training=False)


def test_orders_of_2021():
    assert {research_planes(tpc) for tpc in (1, 3, 5, 7, 9, 11)} == {("u", "w", "v")}
    assert {research_planes(tpc) for tpc in (0, 2, 4, 6, 8, 10)} == {("v", "w", "u")}


def test_images_of_the_other_side(store, old, config, tmp_path, monkeypatch):
    odd = {"tpc": 1}
    check_tpcs(odd, "protodune-sp", [1, 5, 9], "x")
    check_tpcs(odd, "microboone", [0], "x")
    check_tpcs({"tpc": None}, "protodune-sp", [0, 1], "x")
    with pytest.raises(ConfigError, match=r"imported for TPC 1, planes u, w, v; TPCs 2, 6 had v, w, u\. Fix: --tpcs"):
        check_tpcs(odd, "protodune-sp-2021", [1, 2, 6, 2], "x")
    new = import_checkpoint(old, tmp_path / "even.ckpt", config, tpc=2).checkpoint
    monkeypatch.setattr("train.resuming.research_checkpoint.DETECTOR", larstore.open(store).attributes["detector"])
    with pytest.raises(ConfigError, match=r"even\.ckpt: imported for TPC 2, .*TPCs 1 had u, w, v\. Fix: "):
        infer(config, new, store, "old")


def test_command_line(store, old, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(values(store)))
    app = typer.Typer()
    app.command("import-checkpoint")(import_checkpoint_command)
    app.command("infer")(cli.infer)

    def call(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    start = ("import-checkpoint", old, "--config", path, "-o")
    assert call(*start, tmp_path / "a.ckpt").exit_code == 2
    assert call(*start, tmp_path / "a.ckpt", "--tpc", 1, "--input-planes", "u,w,v").exit_code == 2
    assert not (tmp_path / "a.ckpt").exists()
    done = call(*start, tmp_path / "a.ckpt", "--input-planes", "u, w,v", "--input-scale", "0.001")
    assert done.exit_code == 0, done.output
    assert f"checkpoint\t{tmp_path / 'a.ckpt'}\ninput_planes\tu,w,v\ninput_scale\t0.001\nepoch\t19\n" in done.stdout
    assert f"data.charge of {path} is asinh, 0.5; the checkpoint's is linear, 0.001" in done.stderr
    done = call(*start, tmp_path / "b.ckpt", "--tpc", 2, "--set", "data.charge={transform: linear}")
    assert "input_planes\tv,w,u\n" in done.stdout
    assert done.stderr == ""
    wrong = call(*start, tmp_path / "c.ckpt", "--tpc", 2, "--set", "model.nChannels=8").exception
    assert isinstance(wrong, LarstoreError)
    assert str(wrong).startswith(f"{path}: {old}: made for another network")
    done = call("infer", path, "--store", store, "--name", "old", "--checkpoint", tmp_path / "a.ckpt")
    assert done.exit_code == 0, done.output
    assert "Example: larstore import-checkpoint" in call("import-checkpoint", "--help").stdout
