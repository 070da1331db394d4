"""Ctrl-C in a run: once, it finishes and commits what is in flight; twice, it stops now, as at SIGTERM and SIGHUP."""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType

ENDS = (signal.SIGTERM, signal.SIGHUP)  # from outside, or as the terminal or the connection to it is closed
Handler = Callable[[int, FrameType | None], None]


class Stop(IntEnum):
    """How far a run was asked to stop."""

    NO = 0
    FINISH = 1
    NOW = 2


@contextmanager
def listening(ask: Callable[[Stop], None]) -> Iterator[None]:
    """Hand requests to stop to ``ask``; a third Ctrl-C is a KeyboardInterrupt as ever, in case that nobody listens.

    Outside the main thread, where signals cannot be had, nothing happens.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    presses = 0

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal presses
        presses += 1
        if presses > Stop.NOW:
            raise KeyboardInterrupt
        ask(Stop(presses))

    def terminate(number: int, frame: FrameType | None) -> None:
        nonlocal presses
        presses = Stop.NOW
        ask(Stop.NOW)

    with _handling({signal.SIGINT: interrupt} | dict.fromkeys(ENDS, terminate)):
        yield


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM, or the end of the terminal, ends what is inside like Ctrl-C, so that it cleans up."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handling(dict.fromkeys(ENDS, interrupt)):
        yield


@contextmanager
def held_back() -> Iterator[None]:
    """A first Ctrl-C is raised at the end: what is half started could not be ended in order. A second one, at once."""
    pressed = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _handling({signal.SIGINT: interrupt}):
        yield
    if pressed:
        raise KeyboardInterrupt


@contextmanager
def _handling(handlers: Mapping[signal.Signals, Handler]) -> Iterator[None]:
    """Handle signals so, but for one that is ignored, as nohup has it."""
    before = {number: signal.getsignal(number) for number in handlers}
    chosen = [number for number in handlers if before[number] is not signal.SIG_IGN]
    for number in chosen:
        signal.signal(number, handlers[number])
    try:
        yield
    finally:
        for number in chosen:
            signal.signal(number, before[number])
