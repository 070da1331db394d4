"""Start the processes of a node that train together, watch over them, and end all when one ends badly.

Each is ``python -m train.processes.launch SHEET RANK PARENT`` with torchrun's variables, so that a training may be
started from the command line, a script or a notebook alike; whoever starts them does not train itself. A sheet is an
open file without a name, which no kill can leave behind: its first line is what to do, a second one what went wrong.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import IO, Any

from larstore import errors
from larstore.errors import LarstoreError
from train.config import make_config
from train.processes.ranks import Ranks, cores_of
from train.records.folder import FitResult, RunFolder
from train.schema import Config

GRACE = 5.0  # seconds that the others have to end by themselves when one has ended badly
STOPPING = 60.0  # the same when all are asked to stop: a checkpoint may have to be written
FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class LostProcessError(LarstoreError):
    """Another process of the training is gone; what happened is told there."""


def launch(ranks: Ranks, config: Config, **arguments: Any) -> FitResult:
    """Train with the processes of this node, by `fit` with these ``arguments``; returns what they left behind.

    Raises:
        LarstoreError: of the process that failed first, in its own class where that is known here.
        KeyboardInterrupt: on Ctrl-C, SystemExit with their exit code at another signal; when all have ended.
    """
    if not ranks.port:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ranks = replace(ranks, port=free.getsockname()[1])
    task = {"config": config.plain(), "origin": config._origin, "arguments": arguments}
    with ExitStack() as stack:
        sheets = [stack.enter_context(_sheet(task)) for _ in range(ranks.n_local)]
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for i, sheet in enumerate(sheets):
                processes.append(_start(sheet, ranks, i))
            with _forwarding(processes):
                killed = _watch(processes)
        except KeyboardInterrupt:
            _ask(processes, signal.SIGINT)
            _end(processes, STOPPING)
            raise
        finally:
            _end(processes, 0.0)
        _raise_failure(sheets, processes, killed, ranks)
    run = RunFolder(config.output_dir)
    return FitResult(run.find_checkpoint(), run.read_summaries())


def _sheet(task: dict[str, Any]) -> IO[bytes]:
    """A file that has no name from its beginning, with a task in it."""
    sheet = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    sheet.write(json.dumps(task).encode() + b"\n")
    sheet.seek(0)  # for the process that gets it, which shares the place
    return sheet


def _start(sheet: IO[bytes], ranks: Ranks, local_rank: int) -> subprocess.Popen[bytes]:
    """One process; in a session of its own, so that Ctrl-C reaches it once and through this one."""
    rank = ranks.node * ranks.n_local + local_rank
    variables = {
        "RANK": rank,
        "WORLD_SIZE": ranks.n,
        "LOCAL_RANK": local_rank,
        "LOCAL_WORLD_SIZE": ranks.n_local,
        "GROUP_RANK": ranks.node,
        "MASTER_ADDR": ranks.address,
        "MASTER_PORT": ranks.port,
    }
    environ = os.environ | {name: str(value) for name, value in variables.items()}
    environ.setdefault("OMP_NUM_THREADS", str(cores_of(ranks)))
    home = str(Path(__file__).parents[2])
    if "site-packages" not in home:  # run from a checkout
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, [environ.get("PYTHONPATH"), home]))
    words = map(str, (sheet.fileno(), rank, os.getpid()))
    command = [sys.executable, "-m", "train.processes.launch", *words]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *FORWARDED})  # it inherits this, see `_hear`
    try:
        return subprocess.Popen(command, env=environ, start_new_session=True, pass_fds=(sheet.fileno(),))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watch(processes: list[subprocess.Popen[bytes]]) -> set[int]:
    """Wait for all; when one ends badly, the others follow. Returns the positions of those that were killed here."""
    while True:
        codes = [process.poll() for process in processes]
        if all(code is not None for code in codes):
            return set()
        if any(codes):
            asked = not any(code and code < 128 for code in codes)  # 128 + a signal: it ended as it was told to
            return _end(processes, STOPPING if asked else GRACE)
        time.sleep(0.05)


def _end(processes: list[subprocess.Popen[bytes]], seconds: float) -> set[int]:
    """Give them some time, then kill those that are left, and say which."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(process.poll() is None for process in processes):
        time.sleep(0.05)
    left = {i for i, process in enumerate(processes) if process.poll() is None}
    for i in left:
        processes[i].kill()
    for process in processes:
        process.wait()
    return left


def _ask(processes: list[subprocess.Popen[bytes]], number: int) -> None:
    for process in processes:
        process.send_signal(number)


@contextmanager
def _forwarding(processes: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Hand on the signals of a queue or a closing terminal; only the main thread may."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def forward(number: int, frame: FrameType | None) -> None:
        _ask(processes, number)

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(sheet: IO[bytes]) -> dict[str, Any] | None:
    """What a process that has ended wrote down, if it did."""
    sheet.seek(0)
    written = sheet.read().split(b"\n")
    if len(written) < 3:  # task, report, and nothing behind its end
        return None
    report: dict[str, Any] = json.loads(written[1])
    return report


def _raise_failure(
    sheets: list[IO[bytes]], processes: list[subprocess.Popen[bytes]], killed: set[int], ranks: Ranks
) -> None:
    """Raise what happened first: an error of ours, then a kill, then any other; nothing if all went well.

    A process that lost its partner in the middle of a sum fails as well, which is not what happened first.
    """
    codes = [process.returncode for process in processes]
    if not any(codes):
        return
    reports = [report for report in map(_report, sheets) if report is not None]
    reports.sort(key=lambda report: (report["class"] == LostProcessError.__name__, bool(report["trace"]), report["at"]))
    first = reports[0] if reports else None
    struck = [i for i, code in enumerate(codes) if code < 0 and i not in killed]
    if struck and (first is None or first["trace"] or first["class"] == LostProcessError.__name__):
        rank, name = ranks.node * ranks.n_local + struck[0], signal.Signals(-codes[struck[0]]).name
        raise LostProcessError(
            f"rank {rank} was ended by {name}, the others with it. Fix: find out who sent it (out of memory?), then "
            "go on with --resume"
        )
    if first is None:
        code = next(code for code in codes if code)
        if code == 130:
            raise KeyboardInterrupt
        raise SystemExit(code)
    if first["trace"]:
        print(first["trace"], file=sys.stderr)
        raise LostProcessError(f"rank {first['rank']} failed: {first['message']}. Fix: see the traceback above")
    kind = getattr(sys.modules.get(first["module"], errors), first["class"], LarstoreError)
    raise kind(first["message"])


def _work(sheet: IO[bytes], rank: int, parent: int) -> int:
    """Be one of the processes; returns its exit code. A failure is written down before the others can notice it."""
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    from train.fitting.fit import fit

    content = json.loads(sheet.readline())
    report: dict[str, Any] = {"rank": rank, "trace": ""}
    try:
        _hear()
        config = make_config(content["config"])
        config._origin = content["origin"]
        fit(config, **content["arguments"])
        return 0
    except KeyboardInterrupt:
        return 130
    except LarstoreError as error:
        report |= {"module": type(error).__module__, "class": type(error).__name__, "message": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever it is, the one that started this process tells it
        lines = str(error).strip().splitlines() or [""]
        report |= {"module": "", "class": "", "message": f"{type(error).__name__}: {lines[0]}"}
        report["trace"] = traceback.format_exc()
    report["at"] = time.time()
    sheet.seek(0, os.SEEK_END)
    sheet.write(json.dumps(report).encode() + b"\n")
    sheet.flush()
    return 1


def _hear() -> None:
    """Take signals from here on, those that came while the modules were loaded too: the training notes them later."""
    for number in FORWARDED:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup does
            signal.signal(number, lambda number, frame: os._exit(128 + number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, *FORWARDED})


def _follow(parent: int) -> None:
    """End this process when the one that started it is gone."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    # Run again under its real name: an error raised by `train.fitting.fit` must be of the class known here.
    from train.processes import launch as module

    os.set_inheritable(int(sys.argv[1]), False)  # not for what the training starts
    with open(int(sys.argv[1]), "r+b") as sheet:
        code = module._work(sheet, int(sys.argv[2]), int(sys.argv[3]))
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        os._exit(code)  # threads of a broken connection must not hold it up
