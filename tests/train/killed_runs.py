"""Trains one configuration undisturbed, and another starting and killing it again and again, for `test_resume_kills`.

A process of its own: it imports everything once and forks for each start, before any thread exists.

    python -m tests.train.killed_runs UNDISTURBED.yaml KILLED.yaml KILLS SEED

Prints how many kills there were and how many came after a checkpoint of the same start.
"""

import os
import random
import signal
import sys
import time
import traceback

from train.config import load_config
from train.fitting.fit import fit
from train.records.folder import RunFolder
from train.resuming.checkpoint import load_checkpoint

PATIENCE = 120.0  # seconds for any one start


def start(config):
    """A child that trains on where the run stands; its exit status is fit's."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        fit(config, auto=True, progress=False)
        status = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stderr.flush()
        os._exit(status)


def state(folder):
    """Changes with each checkpoint."""
    try:
        found = folder.last.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def ended(pid):
    """The exit status of a child, None while it runs."""
    done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def undisturbed(config):
    """Train to the end. Returns seconds from the start to the first checkpoint, and from one checkpoint to the next."""
    folder = RunFolder(config.output_dir)
    pid, began, first = start(config), time.monotonic(), None
    while (status := ended(pid)) is None:
        if first is None and state(folder) is not None:
            first = time.monotonic() - began
        time.sleep(0.001)
    assert status == 0, f"fit ended with {status}"
    steps = len(folder.step_file.read_text().splitlines()) - 1
    return first, (time.monotonic() - began - first) / steps


def kill_once(config, draw, first, pace):
    """Start, kill at a random moment. Returns (was killed, after it had written a checkpoint).

    Moments count in what an undisturbed run takes, so that no machine is so fast that a few starts are the whole run.
    """
    folder = RunFolder(config.output_dir)
    before = state(folder)
    pid, began, saved = start(config), time.monotonic(), False
    until = began + draw.uniform(0.0, first) if draw.random() < 0.3 else None  # else soon after its first checkpoint
    while time.monotonic() - began < PATIENCE:
        status = ended(pid)
        if status is not None:
            assert status == 0, f"fit ended with {status}"
            return False, True
        if not saved and state(folder) != before:
            saved = True
            soon = time.monotonic() + draw.uniform(0.0, 2.0) * pace
            until = soon if until is None else min(until, soon)
        if until is not None and time.monotonic() >= until:
            break
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    if folder.last.exists():
        load_checkpoint(folder.last)
    return True, state(folder) != before


def finish(config):
    """Start, and let it end."""
    status = os.waitstatus_to_exitcode(os.waitpid(start(config), 0)[1])
    assert status == 0, f"fit ended with {status}"


def main(left_alone, killed, n_kills, seed):
    """Let one run end, kill the other so many times, then let it end."""
    first, pace = undisturbed(load_config(left_alone))
    config, draw = load_config(killed), random.Random(seed)
    kills = [kill_once(config, draw, first, pace) for _ in range(n_kills)]
    finish(config)
    print(sum(killed for killed, _ in kills), sum(killed and saved for killed, saved in kills))


if __name__ == "__main__":
    if os.environ.get("LARSTORE_TEST_POINT_NET"):
        import train.fitting.module
        from tests.train.conftest import PointNet

        train.fitting.module.build_model = lambda block: PointNet(block["nInputFeatures"])
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
