"""Profiles of clusters: the job script of each that is shipped, and every trap caught in one line that explains it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from larstore.errors import ConfigError
from preprocess.cluster import job_script, load_cluster
from preprocess.cluster.config import KINDS, BatchConfig, ClusterConfig

CLUSTERS = Path(__file__).parents[2] / "configs" / "clusters"
SLURM = {"kind": "slurm", "cores": 4, "memory": "8 GiB", "walltime": "02:00:00"}


def written(folder: Path, values: Any) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values), encoding="utf-8")
    return path


def shipped(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[ClusterConfig, list[str]]:
    """A profile of `configs/clusters/`, and the lines of its job script."""
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    config = load_cluster(CLUSTERS / name)
    script = job_script(config) if isinstance(config, BatchConfig) else ""
    return config, script.splitlines()


def test_every_shipped_profile_is_tested_here(monkeypatch):
    names = {path.name for path in CLUSTERS.glob("*.yaml")}
    assert names == {
        "existing.yaml", "fnal-htcondor.yaml", "local.yaml", "perlmutter.yaml", "slurm-few-jobs.yaml", "slurm.yaml",
        "ssh.yaml",
    }  # fmt: skip
    for name in names:
        shipped(name, monkeypatch)


def directives(lines: list[str]) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]


def test_script_of_slurm(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config, lines = shipped("slurm.yaml", monkeypatch)
    assert config.workers == (1, 20)
    logs = tmp_path / "larstore-logs" / "larstore-%J"
    assert directives(lines) == [
        "-J larstore", f"-e {logs}.err", f"-o {logs}.out", "-p regular", "-n 1", "--cpus-per-task=8", "--mem=16G",
        "-t 02:00:00", "--no-requeue",
    ]  # fmt: skip
    command = lines[-1]
    assert " -m distributed.cli.dask_worker tls://" in command
    assert " --nthreads 8 " in command
    assert " --memory-limit 16.00GiB --nanny " in command
    assert " --nworkers" not in command
    assert " --death-timeout 600 " in command
    assert " --tls-key " in command
    assert " --dashboard-address 127.0.0.1:0" in command
    assert "/dev/tcp/" in lines[-2]
    assert not list(tmp_path.iterdir()), "a script that is only shown makes no folder"


def test_script_of_perlmutter(monkeypatch):
    _, lines = shipped("perlmutter.yaml", monkeypatch)
    assert directives(lines) == [
        "-J larstore", "-e /scratch/me/larstore-logs/larstore-%J.err", "-o /scratch/me/larstore-logs/larstore-%J.out",
        "-A m0000", "-n 1", "--cpus-per-task=256", "-t 04:00:00", "--no-requeue", "-q regular", "-C cpu", "-N 1",
        "--exclusive",
    ]  # fmt: skip
    assert "module load python" in lines
    assert lines[-1].index("--nthreads 256") < lines[-1].index("--nthreads 64")
    assert " --interface hsn0 " in lines[-1]


def test_script_of_few_whole_nodes(monkeypatch):
    config, lines = shipped("slurm-few-jobs.yaml", monkeypatch)
    assert config.workers == (1, 4)
    assert {"--nodes=1", "--exclusive", "--cpus-per-task=48", "--mem=180G"} <= set(directives(lines))
    assert " --nthreads 48 " in lines[-1]


def test_script_of_htcondor(monkeypatch):
    _, lines = shipped("fnal-htcondor.yaml", monkeypatch)
    keys = dict(line.split(" = ", 1) for line in lines if " = " in line)
    assert keys["+JOB_EXPECTED_MAX_LIFETIME"] == "28800"
    assert keys["accounting_group"] == "group_dune"
    assert keys["MY.DaskWorkerCores"] == "4"
    assert keys["MY.DaskWorkerMemory"] == str(8 * 2**30)
    assert keys["MY.DaskWorkerDisk"] == str(10 * 2**30)
    assert keys["Arguments"].startswith("\"-c '. /cvmfs/")
    assert " --nthreads 4 " in keys["Arguments"]


@pytest.mark.parametrize(
    ("kind", "keys", "lines"),
    [
        ("pbs", {}, ["#PBS -N larstore", "#PBS -q q", "#PBS -A a", "#PBS -l select=1:ncpus=4:mem=8192MB",
                     "#PBS -l walltime=02:00:00", "#PBS -r n"]),
        ("sge", {"directives": ["-pe smp 4"], "resources": "h_vmem=2G"},
         ["#$ -N larstore", "#$ -q q", "#$ -P a", "#$ -l h_vmem=2G", "#$ -l h_rt=02:00:00", "#$ -r n",
          "#$ -S /bin/bash", "#$ -pe smp 4"]),
        ("lsf", {"units": "mb"}, ["#BSUB -J larstore", "#BSUB -q q", '#BSUB -P "a"', "#BSUB -n 4", "#BSUB -M 8590",
                                  "#BSUB -W 02:00", "#BSUB -rn"]),
        ("oar", {"memory_property": "mem_core"},
         ["#OAR -n larstore", "#OAR -q q", "#OAR --project a", "#OAR -l /nodes=1/core=4,walltime=02:00:00",
          "#OAR -p mem_core>=2048"]),
    ],
)  # fmt: skip
def test_scripts_of_other_batch_systems(tmp_path, kind, keys, lines):
    values = SLURM | {"kind": kind, "queue": "q", "account": "a", "prologue": ["module load x"]} | keys
    script = job_script(load_cluster(written(tmp_path, values))).splitlines()
    assert set(lines) <= set(script)
    assert script.index("module load x") < len(script) - 2
    assert " --nthreads 4 " in script[-1]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (SLURM | {"walltime": 600}, "HH:MM:SS.*perhaps you mean 00:10:00"),
        (SLURM | {"walltime": "30 minutes"}, "HH:MM:SS"),
        (SLURM | {"walltime": "00:00:00"}, "nothing"),
        (SLURM | {"memory": "1GB"}, "GB and G are not taken.*954"),
        (SLURM | {"memory": 8}, "MiB, GiB or TiB"),
        (SLURM | {"prologue": "module load python"}, "a line per letter"),
        (SLURM | {"directives": "-C cpu"}, "directives '-C cpu': is a list"),
        (SLURM | {"dashboard": 99999999}, "dashboard 99999999: "),
        (SLURM | {"directives": {"+X": 1}}, "HTCondor"),
        (SLURM | {"processes": 2}, "one worker process.*tasks"),
        (SLURM | {"lifetime": "02:00:00"}, "cluster.yaml: lifetime 02:00:00 is not below walltime"),
        (SLURM | {"workers": 0}, "at least 1"),
        (SLURM | {"workers": "5:2"}, "MIN"),
        (SLURM | {"workers": "many"}, "or MIN:MAX"),
        (SLURM | {"wall_time": "01:00:00"}, "did you mean walltime"),
        (SLURM | {"driver": {"core": 1}}, "driver.core.*did you mean cores"),
        (SLURM | {"name": "my job"}, "name"),
        (SLURM | {"log_directory": "my logs"}, "space"),
        (SLURM | {"log_directory": "$NO_SUCH_VARIABLE/logs"}, "not set here"),
        ({"kind": "slurm", "memory": "1 GiB"}, "cores is missing.*slurm.yaml"),
        ({"kind": "slrum"}, "did you mean slurm"),
        ({"cores": 4}, "kind None is unknown"),
        (SLURM | {"kind": "sge"}, "-pe smp 4"),
        (SLURM | {"kind": "htcondor"}, "no walltime of its own"),
        ({"kind": "htcondor", "cores": 1, "memory": "1 GiB", "queue": "q"}, "accounting_group"),
        ({"kind": "existing", "address": "somewhere:8786"}, "tcp://HOST:PORT"),
        ({"kind": "existing", "address": "tls://somewhere:8786"}, "needs ca_file"),
        ({"kind": "ssh", "hosts": []}, "hosts"),
        ({"kind": "ssh", "hosts": "node1"}, "a line per letter"),
    ],
)
def test_traps_are_caught_and_explained(tmp_path, values, said):
    path = written(tmp_path, values)
    with pytest.raises(ConfigError, match=said) as caught:
        load_cluster(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    assert "Fix:" in message


def test_times_and_ranges_need_no_quotes(tmp_path):
    """YAML 1.1 would make 36000 and 110 of them."""
    keys = "kind: slurm\ncores: 1\nmemory: 1 GiB\nwalltime: 10:00:00\nlifetime: 09:30:00\nworkers: 1:50\n"
    config = load_cluster(written(tmp_path, keys))
    assert (config.walltime, config.lifetime, config.workers) == ("10:00:00", "09:30:00", (1, 50))


@pytest.mark.parametrize("name", ["slurm", "nowhere.yaml", "tls://host:8786"])
def test_what_is_no_profile_is_said(name):
    with pytest.raises(ConfigError, match="Fix:") as caught:
        load_cluster(name)
    assert name in str(caught.value)


def test_names_that_are_no_files(tmp_path):
    assert load_cluster("local").kind == "local"
    assert load_cluster("tcp://host:8786").address == "tcp://host:8786"
    assert load_cluster(str(tmp_path / "scheduler.json")).kind == "existing"


@pytest.mark.parametrize("skip", ["-n", "--mem-per-cpu", "SBATCH"])
def test_a_skip_leaves_out_one_line_or_is_refused(tmp_path, skip):
    """`-n` is in `-n 1`, and in the name of this job."""
    values = SLURM | {"name": "a-name", "skip_directives": [skip]}
    with pytest.raises(ConfigError, match="one text for each line"):
        job_script(load_cluster(written(tmp_path, values)))


def test_a_skip_that_is_exact(tmp_path):
    kept = directives(job_script(load_cluster(written(tmp_path, SLURM))).splitlines())
    values = SLURM | {"skip_directives": ["-n 1", "--mem="]}
    left = directives(job_script(load_cluster(written(tmp_path, values))).splitlines())
    assert [line for line in kept if line not in left] == ["-n 1", "--mem=8G"]


def test_threads_of_a_task_make_fewer_tasks(tmp_path):
    config = load_cluster(written(tmp_path, SLURM))
    assert job_script(config, threads=2).rstrip().rpartition("--nthreads ")[2].startswith("2")
    own = load_cluster(written(tmp_path, SLURM | {"tasks": 3}))
    assert job_script(own, threads=2).rstrip().rpartition("--nthreads ")[2].startswith("3")


def test_without_tls_no_key_is_named(tmp_path):
    script = job_script(load_cluster(written(tmp_path, SLURM | {"tls": False})))
    assert "--tls" not in script
    assert " tcp://" in script


def test_every_kind_is_documented():
    page = (CLUSTERS.parents[1] / "docs" / "clusters.md").read_text(encoding="utf-8")
    for kind, model in KINDS.items():
        assert f"`{kind}`" in page
        for key in model.model_fields:
            assert f"`{key}`" in page, f"{key} of {kind}"
