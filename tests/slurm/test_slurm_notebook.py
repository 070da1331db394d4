"""The notebook of clusters on a real Slurm: the same cells, and no job is left."""

from pathlib import Path

import pytest

import larstore
from tests.notebook_runs import FOLDER, execute, outputs, printed
from tests.slurm.small_slurm import SmallSlurm, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


# pyzmq's and jupyter_client's event loops warn of their own clean-up.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::RuntimeWarning")
def test_the_cluster_notebook_runs_on_slurm(slurm: SmallSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    profile = slurm.profile(memory="3 GiB", account="neutrinos")
    monkeypatch.setenv("LARSTORE_CLUSTER", str(profile))
    done = execute(FOLDER / "01_preprocess_on_a_cluster.ipynb", tmp_path)
    said = printed(done)
    assert "#SBATCH -A neutrinos" in said, "the script of the profile that was given"
    assert "6 units done, 0 before, 0 failed, 0 left: 12 images" in said
    log = (tmp_path / "cluster-example" / "run.log").read_text(encoding="utf-8")
    assert "started job" in log
    assert any("6 of 6 units" in html for html in outputs(done, "text/html"))
    assert list((profile.parent / "logs").iterdir()), "workers were jobs"
    assert len(larstore.open(tmp_path / "cluster-example" / "run.zarr")) == 12
    until(slurm.is_empty, "an empty queue")
