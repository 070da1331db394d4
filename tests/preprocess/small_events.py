"""Random waveforms for tests of the Tiler, when two images are equal, and many threads that call one Tiler."""

import itertools
import threading

import numpy as np
from numpy.testing import assert_array_equal

from preprocess.voxels import Tiler

CALLS = [
    {"downsample": downsample, "threads": threads, "min_live_planes": live, "bad_channels": bad}
    for (downsample, threads), (live, bad) in itertools.product(
        [((8, 4, 4), 1), ((1, 1, 1), 2), ((4, 2, 2), 1), ((3, 5, 7), 3)],
        [(2, ()), (1, [5, 100]), (3, [[7, 40, 90]])],
    )
]


def random_waveform(tpc, ticks, seed, share=0.1):
    """(ticks, channels) float32 of which a share is lit, in quarters up to 100: exact in every type, and as int16."""
    random = np.random.default_rng(seed)
    shape = ticks, len(tpc.channels)
    return np.where(random.random(shape) < share, random.integers(5, 401, shape) * 0.25, 0).astype(np.float32)


def assert_same(found, expected):
    """Equal to the last bit."""
    for name in ("coords", "charge", "live"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert ours.dtype == theirs.dtype
        assert_array_equal(ours, theirs, err_msg=name)
    assert found.lit_samples == expected.lit_samples


def call_from_many_threads(tiler, n_threads):
    """Each thread makes all of ``CALLS``, each in another order, of a waveform of its own; returns what differs."""
    waveforms = [random_waveform(tiler.tpc, 150, seed) for seed in range(n_threads)]
    alone = [[Tiler(tiler.tpc)(waveform, **call) for call in CALLS] for waveform in waveforms]
    begin, wrong = threading.Barrier(n_threads), []

    def calls(me):
        begin.wait()
        for i in np.random.default_rng(me).permutation(len(CALLS)).tolist():
            try:
                assert_same(tiler(waveforms[me], **CALLS[i]), alone[me][i])
            except Exception as error:  # noqa: BLE001 - to be told by the caller
                wrong.append(f"thread {me}, {CALLS[i]}: {error!r}")

    workers = [threading.Thread(target=calls, args=(me,)) for me in range(n_threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return wrong
