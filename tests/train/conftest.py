"""What the tests of training and inference share: small stores, a network that trains in no time."""

import itertools
import shutil

import pytest

import train  # noqa: F401 - before torch: it says how threads wait

import torch  # isort: skip

from larstore import create, testing


class PointNet(torch.nn.Module):
    """Looks at each voxel alone: a stand-in for a sparse network."""

    def __init__(self, n_inputs):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(n_inputs, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Linear(16, 1)
        )

    def forward(self, coords, features):
        return torch.sigmoid(self.layers(features))


@pytest.fixture
def point_net(monkeypatch):
    """`build_model` gives a PointNet, whose class this is."""
    for module in ("fitting.module", "inference.predictor"):
        monkeypatch.setattr(f"train.{module}.build_model", lambda block: PointNet(block["nInputFeatures"]))
    return PointNet


@pytest.fixture(scope="session")
def copy_of_store(tmp_path_factory):
    """copy_of_store(path, …) -> path: a store of n_files × n_events images, made once and copied.

    All in one commit; with ``blocks`` a commit and a block for each file.
    """
    made = {}

    def copy(path, n_files=8, n_events=2, n_voxels=150, shard_rows=4096, chunk_rows=256, blocks=False):
        size = (n_files, n_events, n_voxels, shard_rows, chunk_rows, blocks)
        if size not in made:
            original = tmp_path_factory.mktemp("original") / "s.zarr"
            provenance = {"made by": "larstore.testing"}
            geometry = testing.make_geometry((1,))
            create(original, geometry=geometry, provenance=provenance, shard_rows=shard_rows, chunk_rows=chunk_rows)
            files = [[testing.make_image(f, e, 1, n_voxels) for e in range(n_events)] for f in range(n_files)]
            for images in files if blocks else [list(itertools.chain(*files))]:
                testing.add_images(original, images)
            made[size] = original
        shutil.copytree(made[size], path)
        return path

    return copy
