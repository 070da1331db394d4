"""Joining on the workers of a Dask client: the same store as in threads, also where workers die."""

import os
import signal

import pytest

import larstore
from preprocess import join, make_cluster
from preprocess.joining import plan as planning
from tests.preprocess.commands import larstore_command
from tests.preprocess.test_join_store import TPCS, make_source


def kill(key, folder, times):
    """For every worker, also restarted ones: joining the event of an image kills its process, so many times.

    Nested, so that it travels by value: workers cannot import a test.
    """

    def install() -> None:
        import preprocess.joining.task

        unpatched = preprocess.joining.task.joined_image

        def patched(images, *arguments):
            if images[0].key == key:
                deaths = len(list(folder.glob("death-*")))
                if deaths < times:
                    (folder / f"death-{deaths}").touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            return unpatched(images, *arguments)

        preprocess.joining.task.joined_image = patched

    return install


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "MOST_EVENTS", 4)
    return make_source(tmp_path / "run.zarr", n_files=2, n_events=4)


@pytest.mark.slow
def test_workers_make_the_store_that_threads_make(source, tmp_path):
    join(source, tmp_path / "threads.zarr", TPCS)
    with make_cluster("local", 2) as client:
        done = join(source, tmp_path / "workers.zarr", TPCS, client=client)
        assert (done.images, done.failures) == (8, [])
        assert join(source, tmp_path / "workers.zarr", TPCS, client=client).images_before == 8
    assert larstore.diff(tmp_path / "threads.zarr", tmp_path / "workers.zarr") == []
    assert larstore.verify(tmp_path / "workers.zarr").ok


@pytest.mark.slow
@pytest.mark.parametrize("times", [2, 99])
def test_an_event_that_kills_workers_takes_no_other_along(source, tmp_path, times):
    join(source, tmp_path / "threads.zarr", TPCS)
    target = tmp_path / "workers.zarr"
    with make_cluster("local", 2) as client:
        client.register_worker_callbacks(kill((1, 2, 1), tmp_path, times))
        done = join(source, target, TPCS, client=client)
    if times == 99:
        (failure,) = done.failures
        assert (failure.file, failure.tpc, failure.input) == (1, 1, "in-1-TPC1.npz")
        assert "event 2: its worker died 3 times. Fix: give workers more memory" in failure.error
        assert done.images == 7
        assert list(larstore.open(target).failures["error"]) == [failure.error]
        assert join(source, target, TPCS).images == 1
    assert larstore.diff(tmp_path / "threads.zarr", target) == []
    assert larstore.verify(target).ok


@pytest.mark.slow
def test_workers_as_a_user_asks_for_them(source, tmp_path):
    done = larstore_command("join", source, "-o", tmp_path / "out.zarr", "--tpcs", "1,5,9", "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert "out.zarr: 8 images" in " ".join(done.stdout.split())
    assert larstore.verify(tmp_path / "out.zarr").ok
