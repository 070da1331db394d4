"""Two coordinators, two attempts of one task, a worker that outlives its coordinator; readers beside all of them."""

import itertools
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import connection

import numpy as np
import pytest

import larstore
from larstore import fs
from larstore.errors import LockedError
from larstore.records import InputFile
from larstore.testing import add_images, make_image
from tests.store.crash_replay import tree_of, without_debris
from tests.store.crash_scenarios import CHECKPOINT, new_store
from tests.store.killed_writers import context

IMAGES = [make_image(1, 0, 1, 20, input="b"), make_image(1, 1, 1, 30, input="b")]
INPUTS = [InputFile("b", 1, 1, "1" * 64)]


@pytest.fixture
def path(tmp_path):
    new_store(tmp_path / "a.zarr")
    add_images(tmp_path / "a.zarr", [make_image(0, 0, 1, 20, input="a")], [InputFile("a", 0, 1, "0" * 64)])
    return tmp_path / "a.zarr"


def coordinate(path, pipe):
    """Hand out a block, and hold the lock for ever."""
    with larstore.StoreWriter(path) as writer:
        pipe.send(writer.reserve(3))
        pipe.recv()


def work(path, spec, images, pause, pipe):
    """A worker that stands still before operation ``pause``, and goes on when it is told to; sends its receipt."""
    count = iter(range(1000))

    def wait(operation):
        if next(count) == pause:
            pipe.send("paused")
            pipe.recv()

    with fs.observed(wait):
        try:
            pipe.send(larstore.write_block(path, spec, images, INPUTS))
        except fs.ExistsError as error:
            pipe.send(str(error))


def started(function, *arguments):
    """A process and our end of its pipe."""
    ours, theirs = context.Pipe()
    process = context.Process(target=function, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours


@pytest.mark.parametrize("pause", [0, 2, 9, 20])
def test_a_worker_outlives_its_coordinator(pause, path):
    """Killed while a worker writes; the next one takes over and commits, then the worker comes to its end."""
    first, pipe = started(coordinate, path)
    spec = pipe.recv()
    worker, told = started(work, path, spec, IMAGES, pause)
    assert told.recv() == "paused"
    with pytest.raises(LockedError, match=f"held by process {first.pid}"):
        larstore.StoreWriter(path).__enter__()
    first.kill()
    first.join()
    with larstore.StoreWriter(path) as writer:
        other = writer.reserve(3)
        assert other.first_shard >= spec.first_shard + spec.n_shards
        writer.commit([larstore.write_block(path, other, [make_image(2, 0, 1, 40)])])
        before = without_debris(tree_of(path))
        told.send("go on")
        late = told.recv()
        worker.join()
        assert tree_of(path).items() >= before.items()  # nothing that was there is touched
        with pytest.raises(LockedError, match="of another run"):
            writer.commit([late])
        again = larstore.write_block(path, writer.reserve(3), IMAGES, INPUTS)
        writer.commit([again])
    store = larstore.open(path)
    assert store.index.index.tolist() == [(0, 0, 1), (1, 0, 1), (1, 1, 1), (2, 0, 1)]
    assert larstore.verify(path).ok


@pytest.mark.parametrize("pause", [0, 3, 10, 21])
def test_a_task_runs_twice_at_once(pause, path):
    """Both attempts make the same receipt, whichever of them wrote a file; committing it twice changes nothing."""
    with larstore.StoreWriter(path) as writer:
        spec = writer.reserve(2)
        one, told = started(work, path, spec, IMAGES, pause)
        assert told.recv() == "paused"
        other, heard = started(work, path, spec, IMAGES, None)
        told.send("go on")
        receipts = [told.recv(), heard.recv()]
        one.join(), other.join()
        assert receipts[0] == receipts[1]
        writer.commit([receipts[0]])
        once = larstore.open(path)
        writer.commit([receipts[1]])
    assert larstore.diff(path, once) == []
    assert len(larstore.open(path).inputs) == 2
    assert larstore.verify(path).ok
    assert larstore.verify(path).notes == []


def test_two_attempts_that_differ(path):
    """One of them is told so, unless it was first; nothing is mixed."""
    with larstore.StoreWriter(path) as writer:
        spec = writer.reserve(2)
        attempts = [started(work, path, spec, images, None) for images in (IMAGES, [make_image(1, 0, 1, 25, seed=1)])]
        results = [pipe.recv() for _, pipe in attempts]
        for process, _ in attempts:
            process.join()
        assert any(isinstance(result, str) and "exists already" in result for result in results)
        good = [result for result in results if not isinstance(result, str)]
        spec = spec if good else writer.reserve(2)
        writer.commit(good or [larstore.write_block(path, spec, IMAGES, INPUTS)])
    assert larstore.verify(path).ok


def append_images(path, n, pipe):
    """``n`` commits of an image each, each when it is told to."""
    os.fsync = lambda descriptor: None
    with larstore.StoreWriter(path) as writer:
        pipe.send("open")
        for event in range(n):
            pipe.recv()
            writer.commit([larstore.write_block(path, writer.reserve(2), [make_image(5, event, 1, 33)])])
            pipe.send(event)


def predict_images(path, n, pipe):
    """Commits of scores of whatever is there, until there are scores of all; begins when it is told to."""
    os.fsync = lambda descriptor: None
    with larstore.PredictionWriter(path, "p", CHECKPOINT) as writer:
        pipe.send("open")
        pipe.recv()
        done = 0
        while done < n:
            groups = writer.groups(larstore.open(path).select())
            for shard, images in groups:
                writer.write(shard, [(image, image.charge[:, 0] / 2) for image in images])
                done += len(images)
            writer.commit()
            pipe.send(done)


def side_by_side(path, n):
    """Writers of images and of scores at once; how often it changed who committed."""
    writers = [started(append_images, path, n), started(predict_images, path, n + 1)]
    order, pipes = [], {pipe: number for number, (_, pipe) in enumerate(writers)}
    assert [pipe.recv() for pipe in pipes] == ["open", "open"]
    for (_, pipe), times in zip(writers, (n, 1), strict=True):
        for _ in range(times):
            pipe.send("go on")
    while pipes:
        for pipe in connection.wait(list(pipes)):
            try:
                pipe.recv()
                order.append(pipes[pipe])
            except EOFError:
                del pipes[pipe]
    for process, _ in writers:
        process.join()
        assert process.exitcode == 0
    store = larstore.open(path)
    assert len(store) == n + 1
    for image in store.select():
        np.testing.assert_array_equal(image.score("p"), image.charge[:, 0] / 2)
    assert store.attributes["commit"] == 1 + len(order)  # no commit took another's place
    assert larstore.verify(path).ok
    return sum(a != b for a, b in itertools.pairwise(order))


def test_images_and_predictions_are_written_side_by_side(path):
    side_by_side(path, 6)  # on a busy machine, so few may come one writer after the other


@pytest.mark.slow
def test_a_hundred_commits_side_by_side(path):
    assert side_by_side(path, 100) >= 2


def read_all(path, stop, seen):
    """Open and read the store again and again: always what one commit held; the commits seen go into ``seen``."""
    while not stop.is_set():
        store = larstore.open(path)
        n = store.attributes["commit"]
        assert store.index.index.tolist() == [(0, 0, 1), *((5, event, 1) for event in range(n - 1))]
        part = store.select()
        for image in part.read(0, len(part)):
            expected = make_image(*image.key, 33 if image.key[0] else 20)
            np.testing.assert_array_equal(image.coords, expected.coords)
            np.testing.assert_array_equal(image.charge, expected.charge)
            np.testing.assert_array_equal(image.truth_voxels[1], expected.truth_value)
        seen.append(n)


@pytest.mark.parametrize("n", [10, pytest.param(30, marks=pytest.mark.slow)])
def test_eight_readers_never_see_a_torn_view(n, path):
    stop = threading.Event()
    views = [[] for _ in range(8)]
    writer, pipe = started(append_images, path, n)
    assert pipe.recv() == "open"
    with ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(read_all, path, stop, seen) for seen in views]
        try:
            for _ in range(n):
                before = sum(map(len, views))
                pipe.send("go on")
                pipe.recv()
                while sum(map(len, views)) <= before + len(views) and not any(reader.done() for reader in readers):
                    time.sleep(0.001)  # until one has begun after this commit
        finally:
            stop.set()
        for reader in readers:
            reader.result()
    writer.join()
    for view in views:
        assert view == sorted(view)  # commits never go back
    assert len({number for view in views for number in view}) >= n
    assert larstore.open(path).attributes["commit"] == n + 1
