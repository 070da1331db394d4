"""Signals that end a training at its next step: noted by a handler, answered where the state can be kept."""

import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

log = logging.getLogger("larstore.train")

REQUEUE = (signal.SIGUSR1, signal.SIGUSR2)  # as `sbatch --signal` sends them some time before the end
NOTED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, *REQUEUE)


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """The training ends here, with its state kept, because of a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Signals:
    """Which signal has come while a training runs, None = none. A second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.received: int | None = None

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note them for a while; outside of the main thread, which alone gets signals, nothing is done."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in NOTED}
        self.listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def listen(self) -> None:
        """Set the handlers, again where Lightning has put its own in their place: those stop within a step."""
        if threading.current_thread() is threading.main_thread():
            for number in NOTED:
                if signal.getsignal(number) != signal.SIG_IGN:  # as nohup does
                    signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self.received == signal.SIGINT:
                signal.default_int_handler(number, frame)
            # Not by the log, which may be in the middle of a line.
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"stopping after this step; Ctrl-C: at once\n")
        self.received = number


def leave_to_parent(worker: int) -> None:
    """In a loader's worker: ignore what a terminal or Slurm sends to all processes; the trainer's SIGTERM ends it."""
    for number in (signal.SIGINT, signal.SIGHUP, *REQUEUE):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_for_parent, daemon=True).start()


def _end_for_parent() -> None:
    parent = multiprocessing.parent_process()
    while parent is not None:
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == parent.pid:
            os._exit(0)


def requeue(number: int) -> None:
    """Put the Slurm job that this process runs in back into its queue, if ``number`` is a signal that asks for it."""
    if number not in REQUEUE or "SLURM_JOB_ID" not in os.environ:
        return
    job = slurm_job()
    try:
        answer = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60, check=False)
        reason = answer.stderr.strip() if answer.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    if reason:
        log.warning("Slurm job %s is not requeued (%s). Fix: submit it again, with --auto-resume", job, reason)
    else:
        log.info("Slurm job %s is requeued", job)


def slurm_job() -> str:
    """The job as `scontrol` names it: an array's task by both numbers."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}") for part in ("JOB_ID", "TASK_ID"))
    job = f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]
    return re.sub(r"[^0-9_]", "", job)


def requeued() -> bool:
    """Whether this is a Slurm job that was requeued, or restarted after a node failed."""
    count: Any = os.environ.get("SLURM_RESTART_COUNT", "0")
    return bool("SLURM_JOB_ID" in os.environ and count.isdigit() and int(count))
