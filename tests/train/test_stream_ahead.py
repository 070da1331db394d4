"""Reading ahead: bounded in bytes, in order, gone on break, on errors and at the end of the process."""

import gc
import subprocess
import sys
import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import larstore
from train.streaming.ahead import ReadAhead, batch_bytes
from train.streaming.stream import ImageStream, StreamLoader


def reading_ahead(n, limit, made, size=100, error=None):
    """n batches of ``size`` bytes; each is noted in ``made``. Then an error, if there is one."""

    def make(number):
        if number == n:
            raise error
        made.append(number)
        return {"coords": torch.zeros(size, dtype=torch.uint8), "number": number}

    return ReadAhead(range(n + (error is not None)), make, limit, batch_bytes)


def wait_until(what, seconds=30.0):
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.005)
    assert what()


def threads():
    return [t for t in threading.enumerate() if t.name == "larstore-read-ahead"]


@pytest.mark.parametrize(("limit", "ahead"), [(1, 1), (100, 1), (101, 2), (250, 3), (10_000, 8)])
def test_no_more_bytes_wait_than_allowed(limit, ahead):
    made = []
    reading = reading_ahead(8, limit, made)
    for taken in range(1, 9):
        wait_until(lambda taken=taken: len(made) >= min(8, taken - 1 + ahead))
        assert reading._held <= limit - 1 + 100
        assert len(made) <= taken - 1 + ahead
        assert next(reading)["number"] == taken - 1
    with pytest.raises(StopIteration):
        next(reading)
    assert made == list(range(8))
    wait_until(lambda: not threads())


def test_an_error_comes_where_its_batch_would_have_and_is_the_same():
    error = KeyError("the very one")
    with pytest.raises(KeyError) as caught:
        list(reading_ahead(3, 1000, [], error=error))
    assert caught.value is error
    reading = reading_ahead(2, 1000, [], error=error)
    assert [next(reading)["number"], next(reading)["number"]] == [0, 1]
    for _ in range(2):
        with pytest.raises(KeyError):
            next(reading)
    wait_until(lambda: not threads())


def makers(n, wait, limit=10_000):
    """An iterator over n numbers of 1 byte each, and the names of the threads that made them, by number."""
    by = {}

    def make(number):
        by[number] = threading.current_thread().name
        wait(number)
        return number

    return ReadAhead(range(n), make, limit, lambda _: 1), by


def test_whoever_asks_for_more_than_is_ready_helps():
    """The thread is held at one; all that follow it are made by the one who asks, and none is given out before it."""
    go_on, here = threading.Event(), threading.current_thread().name

    def wait(number):
        if number == 0:
            go_on.wait(60)
        elif number == 9:
            go_on.set()

    reading, by = makers(10, wait)
    wait_until(lambda: by)
    assert list(reading) == list(range(10))
    assert by == {0: "larstore-read-ahead"} | dict.fromkeys(range(1, 10), here)


def test_helping_keeps_to_the_limit():
    """One of 1 byte is in the making and none is ready: with a limit of 3, two more may be made, and no third."""
    go_on, made = threading.Event(), []

    def wait(number):
        made.append(number)
        if number == 1:
            go_on.wait(60)

    reading, _ = makers(10, wait, limit=3)
    assert next(reading) == 0
    wait_until(lambda: 1 in made)
    found = []
    asking = threading.Thread(target=lambda: found.append(next(reading)))
    asking.start()
    wait_until(lambda: len(made) == 4)
    time.sleep(0.05)
    assert sorted(made) == [0, 1, 2, 3]
    go_on.set()
    asking.join()
    assert found == [1]
    assert list(reading) == list(range(2, 10))


@given(st.lists(st.floats(0, 2e-3), min_size=1, max_size=25), st.integers(1, 6), st.integers(0, 30))
@settings(max_examples=30, deadline=None)
def test_all_come_once_and_in_order_whoever_made_them(seconds, limit, wrong):
    def wait(number):
        time.sleep(seconds[number])
        if number == wrong:
            raise KeyError(number)

    reading, by = makers(len(seconds), wait, limit)
    seen = []
    if wrong < len(seconds):
        with pytest.raises(KeyError, match=str(wrong)):
            seen.extend(reading)  # extend keeps what came before the error
    else:
        seen.extend(reading)
    assert seen == list(range(min(wrong, len(seconds))))
    assert set(seen) <= set(by)
    reading.close(10)


def test_tasks_that_have_to_be_waited_for_hold_nobody_up():
    """The second task comes only when the first one's result has been used: nobody waits for it with that in hand."""
    used = threading.Event()

    def tasks():
        yield 0
        assert used.wait(60)
        yield 1

    here = threading.current_thread().name
    reading = ReadAhead(tasks(), lambda task: (task, threading.current_thread().name), 10, lambda _: 1, helped=False)
    assert next(reading) == (0, "larstore-read-ahead")
    threading.Timer(0.05, used.set).start()
    assert next(reading) == (1, "larstore-read-ahead")
    assert list(reading) == []
    assert here not in [thread.name for thread in threads()]


def test_an_error_of_the_tasks_comes_after_those_before_it():
    def tasks():
        yield from range(3)
        raise KeyError("no more")

    for helped in (True, False):
        reading, seen = ReadAhead(tasks(), lambda task: task, 10, lambda _: 1, helped=helped), []
        with pytest.raises(KeyError, match="no more"):
            seen.extend(reading)
        assert seen == [0, 1, 2]
    wait_until(lambda: not threads())


def test_an_interrupt_while_helping_does_not_wait_for_its_turn():
    go_on = threading.Event()

    def wait(number):
        if number == 0:
            go_on.wait(60)
        raise KeyboardInterrupt

    reading, by = makers(5, wait)
    wait_until(lambda: by)
    with pytest.raises(KeyboardInterrupt):
        next(reading)  # number 1, while number 0 is still in the making
    assert set(by) == {0, 1}
    go_on.set()
    reading.close(10)


@pytest.fixture(scope="module")
def store(tmp_path_factory, copy_of_store):
    return larstore.open(copy_of_store(tmp_path_factory.mktemp("ahead") / "s.zarr", 9, 1, n_voxels=60))


@pytest.mark.parametrize("how", ["break", "error", "interrupt"])
def test_the_thread_ends_with_the_loop(store, how):
    loader = StreamLoader(ImageStream(store.select(), shuffle=False), read_ahead_mb=1e-3)
    wrong = {"error": ValueError, "interrupt": KeyboardInterrupt}.get(how)
    try:
        for i, _ in enumerate(loader):
            assert threads()
            if i == 2:
                if wrong is None:
                    break
                raise wrong
    except (ValueError, KeyboardInterrupt) as error:
        error.__traceback__ = None
    gc.collect()
    wait_until(lambda: not threads())
    assert loader.state_dict()["batches"] == 3  # handed out, whatever was read ahead
    assert [b["keys"][0][0] for b in loader] == [3, 4, 5, 6, 7, 8]


def test_reading_ahead_changes_nothing(store):
    def seen(ahead):
        loader = StreamLoader(ImageStream(store.select(), batch_size=2, seed=4), read_ahead_mb=ahead)
        return [(b["keys"], b["coords"].tolist(), loader.state_dict()["batches"]) for _ in range(2) for b in loader]

    assert seen(0) == seen(1e-6) == seen(100)


def test_workers_keep_as_many_batches_as_the_bytes_allow(store):
    stream = ImageStream(store.select(), batch_size=2)
    size = max(batch_bytes(b) for b in stream)
    assert size <= 64 * 120
    for waiting in (1, 2, 3):
        loader = StreamLoader(stream, 2, "fork", read_ahead_mb=2 * 64 * 120 * waiting / 1e6)
        assert loader.prefetch_factor == waiting


SCRIPT = """
import os, sys, threading, time
import larstore
from train.streaming.stream import ImageStream, StreamLoader
how, path = sys.argv[1:]
stream = ImageStream(larstore.open(path).select())
loader = StreamLoader(stream, read_ahead_mb=1e-3)
if how == "hanging":
    load = stream.load
    stream.load = lambda positions, passes, number: time.sleep(600) if number == 3 else load(positions, passes, number)
batches = iter(loader)
next(batches)
if how == "interrupt":
    stream.load = lambda *a: time.sleep(600)
    threading.Timer(0.3, lambda: os.kill(os.getpid(), 2)).start()
    try:
        for batch in batches:
            pass
    except KeyboardInterrupt:
        print("interrupted")
        sys.exit(0)
print("left", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["waiting", "hanging", "interrupt"])
def test_the_process_ends(store, how):
    """While the thread waits for room, hangs in a read, or the main thread waits for it and Ctrl-C comes."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how, str(store.path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ("interrupted" if how == "interrupt" else "left")
    assert done.stderr == ""
