"""Threads: the image does not depend on them, one Tiler serves many at once, and errors leave it usable."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from distributed import Client, LocalCluster
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import larstore
from larstore.errors import ConfigError, InputError
from preprocess import threads as threads_module
from preprocess import voxels as voxels_module
from preprocess.cluster import make_cluster
from preprocess.config import RunConfig
from preprocess.detector import load_detector
from preprocess.runner import run
from preprocess.testing import make_inputs, small_detector, write_small_detector
from preprocess.threads import default_threads, fair_share, in_order
from preprocess.voxels import KEPT_SCRATCH, Tiler, TooManyVoxelsError
from tests.preprocess.random_detectors import tpcs
from tests.preprocess.small_events import assert_same, call_from_many_threads, random_waveform

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "tiling"
SLOW = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def tpc(tmp_path_factory):
    return small_detector(tmp_path_factory.mktemp("small")).tpc(1)


@pytest.fixture
def tiler(tpc):
    return Tiler(tpc)


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LARSTORE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize(("sample", "number"), [("singleMu_101", 1), ("BeamCosmic_201", 5)])
@pytest.mark.parametrize("order", "CF")
def test_golden_events_to_the_last_bit(sample, number, order):
    tiler = Tiler(load_detector("protodune-sp-2021").tpc(number))
    rule = {"threshold": 1e-3, "min_live_planes": 1}
    with np.load(GOLDEN / f"reco_{sample}_wire-TPC{number}.npz") as file:
        waveforms = [np.asarray(file[name], order=order) for name in file.files]
    for waveform in waveforms:
        expected = tiler(waveform, threads=1, **rule)
        assert len(expected) > 100
        for threads in (2, 3, 7):
            assert_same(tiler(waveform, threads=threads, **rule), expected)


@SLOW
@given(
    tpc=tpcs(),
    ticks=st.integers(0, 400),
    seed=st.integers(0, 99),
    first_tick=st.integers(0, 20),
    slab=st.integers(1, 9),
    order=st.sampled_from("CF"),
)
def test_small_detectors_to_the_last_bit(own_cache, tpc, ticks, seed, first_tick, slab, order):
    waveform = np.asarray(random_waveform(tpc, ticks, seed, share=0.3), order=order)
    n = len(tpc.channels)
    bad = [(seed % n, 0, first_tick + ticks // 2), ((seed + 1) % n, ticks // 3, ticks)]
    options = {"downsample": (slab, 2, 3), "first_tick": first_tick, "bad_channels": bad}
    tiler = Tiler(tpc)
    expected = tiler(waveform, threads=1, **options)
    for threads in (2, 3, 7):
        assert_same(tiler(waveform, threads=threads, **options), expected)


def test_one_tiler_called_by_many_threads(tiler):
    assert call_from_many_threads(tiler, 6) == []
    assert len(tiler._free) <= KEPT_SCRATCH


def test_also_with_the_threading_layer_that_two_threads_must_not_enter(tmp_path):
    code = (
        "import sys\n"
        "from preprocess.testing import small_detector\n"
        "from preprocess.voxels import Tiler\n"
        "from tests.preprocess.small_events import call_from_many_threads\n"
        "print(call_from_many_threads(Tiler(small_detector(sys.argv[1]).tpc(1)), 4))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"NUMBA_THREADING_LAYER": "workqueue", "NUMBA_NUM_THREADS": "4"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_working_memory_is_shared_out_safely(tiler):
    """Threads that come and go with other downsamplings; Python switches between them as often as it can."""
    errors = []

    def visits(me):
        try:
            for i in range(4000):
                steps = (1 + me, 1 + i % 5, 1)
                tiler.give_back(steps, object())
                tiler._free.get(steps)
        except RuntimeError as error:
            errors.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=visits, args=(me,)) for me in range(6)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(before)
    assert errors == []
    assert len(tiler._free) <= KEPT_SCRATCH


def test_a_copy_in_another_process_is_a_tiler(tiler):
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    waveform = random_waveform(tiler.tpc, 60, seed=1)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert_same(pool.submit(tiler, waveform, threads=2).result(), tiler(waveform))


def test_results_come_in_order_and_none_waits_for_a_slow_one():
    running, most, done = set(), [], []
    lock, late = threading.Lock(), threading.Event()

    def work(i):
        with lock:
            running.add(i)
            most.append(len(running))
        if i == 0:
            assert late.wait(60)  # till another thread has done nearly all
        elif i == 45:
            late.set()
        with lock:
            running.discard(i)
        return i

    before = threading.active_count()
    for place, i in enumerate(in_order(work, 50, 3)):
        assert i == place
        done.append(i)
    assert len(done) == 50
    assert max(most) <= 3
    assert threading.active_count() == before
    assert list(in_order(work, 0, 3)) == []
    assert list(in_order(work, 5, 1)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_ends_the_work(threads):
    begun = []

    def work(i):
        begun.append(i)
        if i == 4:
            raise ZeroDivisionError
        time.sleep(0.002)
        return i

    before, found = threading.active_count(), []
    with pytest.raises(ZeroDivisionError):
        found.extend(in_order(work, 1000, threads))
    assert len(begun) < 500
    assert threading.active_count() == before


def test_the_number_of_threads_is_numbas(tiler, monkeypatch):
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    assert default_threads() == 1
    monkeypatch.setenv("NUMBA_NUM_THREADS", "3")
    assert default_threads() == 3
    used = []
    real = voxels_module.in_order
    monkeypatch.setattr(voxels_module, "in_order", lambda w, n, threads: used.append(threads) or real(w, n, threads))
    waveform = random_waveform(tiler.tpc, 60, seed=2)
    assert_same(tiler(waveform), tiler(waveform, threads=2))
    assert used == [3, 2]
    for wrong in ("0", "-1", "many", "1.5", ""):
        monkeypatch.setenv("NUMBA_NUM_THREADS", wrong)
        with pytest.raises(ConfigError, match=r"NUMBA_NUM_THREADS = .*Fix:"):
            tiler(waveform)


@pytest.mark.parametrize("threads", [0, -1, 4097])
def test_threads_out_of_range_are_refused(tiler, threads):
    with pytest.raises(ConfigError, match=f"threads = {threads}"):
        tiler(np.zeros((1, 210), np.float32), threads=threads)


def test_tasks_share_threads_and_it_is_said_once(monkeypatch, caplog):
    monkeypatch.setattr(threads_module, "_said", set())
    assert [fair_share(threads, tasks) for threads, tasks in ((4, 1), (1, 1), (1, 4))] == [4, 1, 1]
    assert caplog.text == ""
    assert [fair_share(8, 3), fair_share(8, 3), fair_share(2, 4)] == [2, 2, 1]
    assert caplog.text.count("a worker has 3 tasks at once: each tiles with 2 of 8 threads") == 1


def make_run(tmp_path, name, **options):
    path = write_small_detector(tmp_path)
    if not (tmp_path / "raw").exists():
        make_inputs(tmp_path / "raw", small_detector(tmp_path), n_files=4)
    settings = {"inputs": (str(tmp_path / "raw"),), "detector": str(path), "threshold": 500.0, "task_bytes": 1}
    return RunConfig(output=tmp_path / f"{name}.zarr", **settings, **options)


def test_a_dask_worker_with_threads_writes_the_same_store(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(threads_module, "_said", set())
    alone = make_run(tmp_path, "alone")
    with make_cluster("local", 1) as client:
        assert run(alone, client).failures == []
    shared = make_run(tmp_path, "shared", threads=8)
    with (
        LocalCluster(processes=False, n_workers=1, threads_per_worker=4, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        assert run(shared, client).failures == []
    assert larstore.diff(alone.output, shared.output) == []
    assert larstore.verify(shared.output).ok
    assert len(larstore.open(shared.output).select()) > 4
    assert caplog.text.count("each tiles with 2 of 8 threads") == 1


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("order", ["C", "strided"])
def test_a_wrong_sample_leaves_the_tiler_usable(tiler, threads, order):
    waveform = random_waveform(tiler.tpc, 900, seed=3)
    wrong = waveform.copy()
    wrong[700, 5] = np.nan
    wrong = wrong if order == "C" else np.repeat(wrong, 2, axis=0)[::2]
    for _ in range(3):
        with pytest.raises(InputError, match="tick 700, channel 5"):
            tiler(wrong, threads=threads)
        assert_same(tiler(waveform, threads=threads), Tiler(tiler.tpc)(waveform))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", [MemoryError, KeyboardInterrupt])
def test_an_error_between_kernels_drops_their_memory(tiler, threads, kind, monkeypatch):
    """When room for a slab that the kernels have finished cannot be had, they hold that slab half written."""
    waveform = random_waveform(tiler.tpc, 900, seed=4)
    expected = Tiler(tiler.tpc)(waveform)
    tiler(waveform, threads=threads)  # so that there is memory to reuse
    resized = itertools.count()  # the first time is before there is anything
    real = voxels_module._Piece.resize

    def resize(piece, rows):
        if next(resized) == 1:
            raise kind("planted")
        real(piece, rows)

    with monkeypatch.context() as patch:
        patch.setattr(voxels_module._Piece, "resize", resize)
        with pytest.raises(kind, match="planted"):
            tiler(waveform, threads=threads)
    for _ in range(threads + 1):
        assert_same(tiler(waveform, threads=threads), expected)


@pytest.mark.parametrize("threads", [1, 3])
def test_too_many_voxels_leave_the_tiler_usable(tiler, threads):
    waveform = random_waveform(tiler.tpc, 900, seed=5)
    expected = Tiler(tiler.tpc)(waveform)
    for most in (1, len(expected) // 2, len(expected) - 1):
        with pytest.raises(TooManyVoxelsError):
            tiler(waveform, max_voxels=most, threads=threads)
        assert_same(tiler(waveform, threads=threads), expected)


INTERRUPTED = """
import signal, sys
import numpy as np
from preprocess.testing import small_detector
from preprocess.voxels import Tiler
from tests.preprocess.small_events import assert_same, random_waveform
tpc, threads = small_detector(sys.argv[2]).tpc(1), int(sys.argv[1])
waveform = random_waveform(tpc, 900, seed=6)
expected, tiler = Tiler(tpc)(waveform), Tiler(tpc)
print("begin", flush=True)
try:
    while True:
        tiler(waveform, threads=threads)
except KeyboardInterrupt:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
for _ in range(threads + 1):
    assert_same(tiler(waveform, threads=threads), expected)
print("equal")
"""


@pytest.mark.parametrize("threads", [1, 3])
def test_an_interrupt_leaves_the_tiler_usable(threads, tmp_path):
    command = [sys.executable, "-c", INTERRUPTED, str(threads), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "begin\n"
        while child.poll() is None:  # Python drops an interrupt that hits it in a callback: so more than one
            time.sleep(0.2)
            child.send_signal(signal.SIGINT)
        assert child.stdout.read() == "equal\n"
    assert child.returncode == 0
