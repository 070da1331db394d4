"""What a run leaves behind of itself: a log with a line a minute, and the file that `larstore status` reads."""

import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from larstore import fs
from larstore.errors import StoreError
from larstore.status import status_file
from preprocess.config import RunConfig
from preprocess.run_state import RunState

LINE_SECONDS = 60.0
STATUS_SECONDS = 5.0
LOGGERS = ("preprocess", "larstore")

log = logging.getLogger(__name__)
Show = Callable[[RunState], None]


def duration(seconds: float | None) -> str:
    """Hours, minutes and seconds as h:mm:ss; "?" for None."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def line_of(state: RunState) -> str:
    """The state of a run in a line."""
    summary = state.summary
    jobs = f", {state.pending_jobs} jobs pending" if state.pending_jobs else ""
    return (
        f"{state.phase}: {state.units_over}/{state.n_units} units, {summary.units_failed} failed, "
        f"{summary.voxels:,} voxels, {state.units_per_second:.2f} units/s, {state.voxels_per_second:,.0f} voxels/s, "
        f"{duration(state.seconds_left)} left, {state.workers} workers{jobs}"
    )


def log_path(config: RunConfig) -> Path:
    """Where a run logs: where it is told to, else beside the store."""
    return config.log or config.output.with_suffix(".log")


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Append what is logged to a file, beside where it goes anyway."""
    try:
        file = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{path}: cannot write the log ({error.strerror}). Fix: choose another with --log") from error
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    file.addFilter(lambda record: record.levelno >= logging.INFO)
    added: list[tuple[logging.Logger, logging.Handler, int]] = []
    for name in LOGGERS:
        logger = logging.getLogger(name)
        handlers: list[logging.Handler] = [file]
        if not logger.hasHandlers() and logging.lastResort is not None:
            handlers.append(logging.lastResort)  # a handler of ours takes its place otherwise
        for handler in handlers:
            added.append((logger, handler, logger.level))
            logger.addHandler(handler)
        logger.setLevel(min(logger.getEffectiveLevel(), logging.INFO))
    try:
        yield
    finally:
        for logger, handler, level in added:
            logger.removeHandler(handler)
            logger.setLevel(level)
        file.close()


class _Reporter:
    """Writes lines and the status file when it is time to."""

    def __init__(self, config: RunConfig, progress: Show | None) -> None:
        self._file = status_file(config.output)
        self._log = str(log_path(config).absolute())
        self._progress = progress
        self._line = self._status = -float("inf")
        self._phase = ""

    def show(self, state: RunState) -> None:
        now = time.monotonic()
        changed = state.phase != self._phase
        self._phase = state.phase
        if changed or now - self._line >= LINE_SECONDS:
            self._line = now
            log.info("%s", line_of(state))
        if changed or now - self._status >= STATUS_SECONDS:
            self._status = now
            self._write(state)
        if self._progress is not None:
            self._progress(state)

    def _write(self, state: RunState) -> None:
        content = state.to_dict() | {
            "updated": time.time(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "log": self._log,
        }
        try:
            fs.replace(self._file, json.dumps(content, indent=1).encode())
        except StoreError as error:  # a full disk is told where data are at stake
            log.info("%s", error)


@contextmanager
def reported(config: RunConfig, state: RunState, progress: Show | None) -> Iterator[Show]:
    """A function to call with the state of the run now and then, which tells whoever wants to know."""
    with _logging_to(log_path(config)):
        reporter = _Reporter(config, progress)
        log.info("%s: %d units to do, %d done before", config.output, state.n_units, state.summary.units_before)
        if state.dashboard:
            log.info("dashboard %s", state.dashboard)
        try:
            yield reporter.show
        except BaseException as error:
            state.phase = "failed"
            log.info("failed: %s: %s", type(error).__name__, " ".join(str(error).split()))
            reporter.show(state)
            raise
