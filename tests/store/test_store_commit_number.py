"""Before each rename of a commit the root must still be the one that it began with, whatever the locks say."""

import pytest

from larstore import fs
from larstore.errors import LockedError
from larstore.root import read_root
from tests.store.test_store_commit import append, small_store


@pytest.fixture
def before(tmp_path):
    return small_store(tmp_path / "a.zarr")


@pytest.mark.parametrize(
    "name",
    [
        "inputs/path/c/0",
        "index/file/c/0",
        "index/truth_sum/c/0",
        "voxels/coords/zarr.json",
        "zarr.json",
        "inputs/file/zarr.json",
        "index/voxel_count/zarr.json",
    ],
)
def test_before_each_rename_the_commit_must_be_ours(before, name):
    """The root is replaced by somebody who holds no lock, just before one of the renames: that one does not happen."""
    root, old = read_root(before), (before / name).read_bytes()
    root.attributes["commit"] += 7

    def replace_root(operation):
        file = before / name
        if operation.kind == "write" and str(operation.path).startswith(f"{file.parent}/.{file.name}."):
            (before / "zarr.json").write_bytes(root.sealed())

    with fs.observed(replace_root), pytest.raises(LockedError, match=r"commit 8 was made by somebody else\. Fix: run"):
        append(before)
    assert (before / name).read_bytes() == (root.sealed() if name == "zarr.json" else old)
    assert not list(before.rglob("*.tmp"))
