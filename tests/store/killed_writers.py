"""Processes that write to a store until they are killed, and tell before and after each step what they do."""

import contextlib
import multiprocessing
import os
import random

import numpy as np

import larstore
from larstore.records import InputFile
from larstore.testing import make_image
from tests.store.crash_scenarios import predict

SMALLEST = 10  # voxels; how many an image has tells its version
context = multiprocessing.get_context("forkserver")  # a new process takes milliseconds
context.set_forkserver_preload(
    ["larstore.testing", "larstore.writer", "larstore.predictions", "tests.store.crash_scenarios"]
)


def image_of(key, version):
    """The image that a key has in one version."""
    return make_image(*key, n_voxels=SMALLEST + version, seed=version, input=f"{key[0]}.npz")


def write(path, told, seed):
    """Append, replace, delete and predict at random, for ever; the lock of images is taken anew now and then."""
    os.fsync = lambda descriptor: None  # what a killed process has handed over is in sight without it
    rng = random.Random(seed)
    while True:
        if rng.random() < 0.3:
            tell(told, ("predict", None, None), predict, path)
        with larstore.StoreWriter(path) as writer:
            for _ in range(rng.randrange(1, 4)):
                keys = sorted(writer.keys)
                version = rng.randrange(30)
                if keys and rng.random() < 0.25:
                    key = rng.choice(keys)
                    tell(told, ("delete", key, None), writer.delete, [key])
                else:
                    key = rng.choice(keys) if keys and rng.random() < 0.3 else (seed, rng.randrange(5), 1)
                    tell(told, ("write", key, version), commit, path, writer, key, version)


def commit(path, writer, key, version):
    inputs = [InputFile(f"{key[0]}.npz", key[0], 1, f"{key[0]:064x}")]
    writer.commit([larstore.write_block(path, writer.reserve(2), [image_of(key, version)], inputs)])


def tell(told, step, action, *arguments):
    told.send(step)
    action(*arguments)
    told.send("done")


class Expected:
    """What a store holds after the steps that were told as done; the last one may have been made or not."""

    def __init__(self):
        self.images = {}
        self.predicted = {}

    def after(self, steps):
        """Apply the steps that were done; returns the one that was not, if any."""
        for step, done in zip(steps, [*steps[1:], None], strict=True):
            if done == "done":
                self.apply(step)
        return steps[-1] if steps and steps[-1] != "done" else None

    def apply(self, step):
        kind, key, version = step
        if kind == "write":
            self.images[key] = version
        elif kind == "delete":
            del self.images[key]
        else:
            self.predicted = dict(self.images)

    def check(self, path, flying):
        """Compare with the store, with or without the step that was in flight; takes over what it finds."""
        store = larstore.open(path)
        found = {image.key: len(image) - SMALLEST for image in store.select()}
        if found != self.images and flying is not None and flying[0] != "predict":
            self.apply(flying)
        assert found == self.images, flying
        scored = store.predictions
        for image in store.select():
            expected = image_of(image.key, found[image.key])
            np.testing.assert_array_equal(image.coords, expected.coords)
            np.testing.assert_array_equal(image.charge, expected.charge)
            np.testing.assert_array_equal(image.truth_voxels[1], expected.truth_value)
            scores = image.score("p") if scored else np.full(len(image), np.nan, np.float32)
            if self.predicted.get(image.key) == found[image.key] or np.isfinite(scores).any():
                np.testing.assert_array_equal(scores, expected.charge[:, 0] / 2)


def received(pipe):
    """All that a process told before it was killed."""
    steps = []
    with contextlib.suppress(EOFError):
        while pipe.poll():
            steps.append(pipe.recv())
    return steps
