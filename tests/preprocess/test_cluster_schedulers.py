"""Clusters without jobs: processes of this machine, and a scheduler that somebody else started."""

import json
import socket
import subprocess
import sys

import pytest
from distributed import LocalCluster

from larstore.errors import ClusterError, ConfigError
from preprocess.cluster import load_cluster, make_cluster, worker_bounds


def test_a_local_cluster_grows_with_what_is_wanted():
    with make_cluster("local", (1, 2), processes=False, protocol="tcp://") as client:
        keeper = client.keeper
        assert keeper.state().workers == 1
        assert keeper.state().dashboard is None
        keeper.wanted(5)
        client.wait_for_workers(2, timeout=60)
        state = keeper.state()
        assert (state.workers, state.slots, state.wanted) == (2, 2, 2)
        keeper.check()
        assert keeper.notes() == []
        assert not keeper.ended_from_outside("0").result(0)


def pause_fraction() -> object:
    import dask

    return [dask.config.get(f"distributed.worker.memory.{name}") for name in ("target", "spill", "pause", "terminate")]


def test_workers_do_not_pause_for_memory_but_are_ended():
    """A worker that pauses takes no more tasks and is never started again: a run would wait for it for ever."""
    with make_cluster("local", 1) as client:
        assert client.submit(pause_fraction).result(timeout=60) == [False, False, False, 0.95]


@pytest.mark.parametrize("workers", [0, (0, 0), (3, 2), (-1, 2)])
def test_no_workers_are_refused(workers):
    with pytest.raises(ConfigError, match=r"--workers .*Fix:"), make_cluster("local", workers):
        raise AssertionError("it must not get here")


@pytest.fixture
def other():
    """Somebody's cluster of two workers."""
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, protocol="tcp://", host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
    ) as cluster:  # fmt: skip
        yield cluster


def test_an_existing_scheduler_is_used_and_left_as_it_is(other):
    with make_cluster(other.scheduler_address) as client:
        assert client.submit(abs, -2).result(timeout=60) == 2
        state = client.keeper.state()
        assert (state.workers, state.slots, state.pending_jobs) == (2, 2, 0)
        client.keeper.wanted(100)
        client.keeper.check()
    assert len(other.scheduler.workers) == 2


def test_a_scheduler_that_is_gone_or_without_workers_is_an_error(other, monkeypatch):
    with make_cluster(other.scheduler_address) as client:
        other.scale(0)
        monkeypatch.setattr("preprocess.cluster.keeper.PATIENCE_SECONDS", -1.0)
        monkeypatch.setattr("preprocess.cluster.keeper.LOOK_SECONDS", -1.0)
        while client.keeper.state().workers:
            pass
        with pytest.raises(ClusterError, match=r"no worker for .*Fix:"):
            client.keeper.check()


def test_nobody_answers(tmp_path):
    profile = tmp_path / "cluster.yaml"
    profile.write_text("kind: existing\naddress: tcp://127.0.0.1:1\nconnect_timeout: '00:00:01'\n", encoding="utf-8")
    with pytest.raises(ClusterError, match=r"tcp://127.0.0.1:1: no scheduler answers.*Fix:"), make_cluster(profile):
        raise AssertionError("it must not get here")


def test_a_missing_scheduler_file(tmp_path):
    path = tmp_path / "scheduler.json"
    with pytest.raises(ClusterError, match=r"scheduler\.json: no scheduler has written it"), make_cluster(path):
        raise AssertionError("it must not get here")


def test_a_tls_scheduler_without_certificates(tmp_path):
    path = tmp_path / "scheduler.json"
    path.write_text(json.dumps({"address": "tls://127.0.0.1:1", "type": "Scheduler", "workers": {}}), encoding="utf-8")
    with pytest.raises(ClusterError, match=r"wants TLS\. Fix: .*ca_file, cert and key"), make_cluster(path):
        raise AssertionError("it must not get here")


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"id": 3}'])
def test_a_file_that_holds_no_scheduler(tmp_path, text):
    path = tmp_path / "scheduler.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ClusterError, match=r"scheduler\.json: holds no scheduler's address\. Fix:"), make_cluster(path):
        raise AssertionError("it must not get here")


def test_a_port_of_another_program(tmp_path, monkeypatch):
    """It takes the connection and says nothing: Dask waits for its greeting for ever."""
    monkeypatch.setattr("preprocess.cluster.clients.GREETING_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        profile = tmp_path / "cluster.yaml"
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        profile.write_text(f"kind: existing\naddress: {address}\nconnect_timeout: 00:00:01\n", encoding="utf-8")
        with pytest.raises(ClusterError, match=r"no scheduler answers there .*Fix:"), make_cluster(profile):
            raise AssertionError("it must not get here")


def test_a_script_that_starts_its_workers_unguarded(tmp_path):
    """Each worker imports it, and would start workers itself."""
    script = tmp_path / "script.py"
    script.write_text(
        "from preprocess.cluster import make_cluster\n"
        "with make_cluster('local', 1) as client:\n    print(client.submit(abs, -3).result())\n",
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert 'Fix: put what the script does below the line `if __name__ == "__main__":`' in done.stderr


@pytest.mark.parametrize(("workers", "bounds"), [("2", (2, 2)), ("0:3", (0, 3)), (2, (2, 2)), ((1, 2), (1, 2))])
def test_workers_may_be_text(workers, bounds):
    assert worker_bounds(load_cluster("local"), workers, 1) == bounds


def test_text_that_is_no_number_of_workers():
    with pytest.raises(ConfigError, match=r"workers 'many': Fix:"):
        worker_bounds(load_cluster("local"), "many", 1)


def test_a_scheduler_is_found_by_its_file(other, tmp_path):
    path = tmp_path / "scheduler.json"
    path.write_text(json.dumps(other.scheduler.identity()), encoding="utf-8")
    with make_cluster(path) as client:
        assert client.keeper.state().workers == 2
