"""What befalls a unit without its own fault is tried again; what stays wrong is recorded, or stops the run."""

from concurrent.futures import Future

import pytest

import larstore
from larstore.errors import ClusterError, StoreError
from larstore.locks import Lock
from preprocess.cluster import make_cluster
from preprocess.runner import run
from tests.preprocess.small_runs import fault, make_config


def files_of(path):
    return {key[0] for key in larstore.open(path).index.index}


@pytest.mark.fault(
    "a fault that passes: the program, an input or the store's file system fails once",
    "the log tells, the unit is tried again, nothing is recorded",
)
@pytest.mark.parametrize("what", ["raise", "stumble", "refuse to write"])
def test_a_fault_that_passes_leaves_no_trace(tmp_path, what, caplog):
    config = make_config(tmp_path, 3)
    with make_cluster("local", 1) as client:
        client.register_worker_callbacks(fault("a_1_", what, once=str(tmp_path / "struck")))
        summary = run(config, client)
    assert (tmp_path / "struck").exists()
    assert "it is tried again" in caplog.text
    assert (summary.units_done, summary.units_failed) == (3, 0)
    assert files_of(config.output) == {0, 1, 2}
    assert larstore.open(config.output).failures.empty


@pytest.mark.fault(
    "an input cannot be read on any try",
    "after `retries` further tries it is recorded in `failures/`; all others are done",
)
def test_an_input_that_cannot_be_read_is_recorded_in_the_end(tmp_path):
    config = make_config(tmp_path, 3, retries=1)
    with make_cluster("local", 1) as client:
        client.register_worker_callbacks(fault("a_1_", "stumble"))
        summary = run(config, client)
    assert [failure.file for failure in summary.failures] == [1]
    assert "cannot be read" in summary.failures[0].error
    assert files_of(config.output) == {0, 2}


@pytest.mark.fault(
    "workers cannot write the store, or find its disk full",
    "the run ends in one line; no input is recorded as failed, what came back before is kept, the lock is free; "
    "the same run completes later",
)
@pytest.mark.parametrize("what", ["refuse to write", "full disk"])
def test_a_store_that_cannot_be_written_stops_the_run_in_a_line(tmp_path, what):
    """No input is to blame: nothing is recorded of them, and what came back before is kept."""
    config = make_config(tmp_path, 4, retries=1)
    with make_cluster("local", 1) as client:
        client.register_worker_callbacks(fault("a_2_", what))
        with pytest.raises(StoreError, match=r"a/store: cannot write \(planted\)"):
            run(config, client)
        store = larstore.open(config.output)
        assert store.failures.empty
        assert files_of(config.output) <= {0, 1, 3}
        assert not Lock(config.output, "images").state().held
    with make_cluster("local", 1) as client:
        run(config, client)
    assert files_of(config.output) == {0, 1, 2, 3}
    assert larstore.verify(config.output).ok


@pytest.mark.fault(
    "jobs are ended from outside while they hold a unit",
    "it is tried again; these ends do not count among the three deaths after which a unit is given up",
)
def test_jobs_that_are_ended_from_outside_are_not_their_units_fault(tmp_path):
    """As where a walltime is over: not given up after three deaths, as a unit is that kills its worker."""
    config = make_config(tmp_path, 2)
    with make_cluster("local", 1) as client:
        deaths = []

        def ended_from_outside(worker, address):
            deaths.append(address)
            answer = Future()
            answer.set_result(len(deaths) <= 5)
            return answer

        client.keeper.ended_from_outside = ended_from_outside
        client.register_worker_callbacks(fault("a_1_", "kill"))
        summary = run(config, client)
    assert len(set(deaths)) == 5 + 3
    assert [failure.file for failure in summary.failures] == [1]
    assert files_of(config.output) == {0}


@pytest.mark.fault(
    "no worker is there, and none can be hoped for",
    "the run ends in one line with the reason; the lock is free, and the store holds what is committed",
)
def test_a_local_worker_that_does_not_come_back_is_replaced(tmp_path):
    """As where Dask lets go of a worker that died twice in a quarter of a minute."""
    config = make_config(tmp_path, 2)
    with make_cluster("local", 1) as client:
        client.register_worker_callbacks(fault("a_", "0"))
        (nanny,) = client.cluster.workers.values()
        client.cluster.sync(nanny.close)
        client.cluster.workers.clear()
        notes = []
        summary = run(config, client, lambda state: notes.extend(state.news))
    assert summary.units_done == 2
    assert notes == ["1 worker processes did not come back; started others"]


def test_a_run_without_workers_ends_in_a_line(tmp_path):
    config = make_config(tmp_path, 2)
    with make_cluster("local", 1) as client:
        looks = []

        def check():
            looks.append(1)
            if len(looks) > 2:
                raise ClusterError("no job starts. Fix: ask why")

        client.keeper.check = check
        client.register_worker_callbacks(fault("a_", "30"))
        with pytest.raises(ClusterError, match="no job starts"):
            run(config, client)
    assert not Lock(config.output, "images").state().held
    assert larstore.verify(config.output).ok
