"""Commands of the machine that the cluster needs answers of, with a limit of time."""

import asyncio
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

SECONDS = 60.0  # that a queue may take to answer


@dataclass(frozen=True)
class Answer:
    """What a command said; ``complaint``: the last line on stderr that says something, "" if it went well."""

    ok: bool
    output: str
    complaint: str = ""


def ask(command: Sequence[str], limit: float = SECONDS) -> Answer:
    """Run a command to its end. One that is missing or too slow is an answer, too."""
    try:
        # In a session of its own: a second Ctrl-C must not stop the cancelling of jobs.
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
            check=False,
            start_new_session=True,
        )
    except FileNotFoundError:
        return Answer(False, "", f"{command[0]}: no such command here")
    except subprocess.TimeoutExpired:
        return Answer(False, "", f"{command[0]}: no answer for {limit:.0f} s")
    except OSError as error:
        return Answer(False, "", f"{command[0]}: {error.strerror}")
    if done.returncode == 0:
        return Answer(True, done.stdout)
    return Answer(False, done.stdout, complaint(done.stderr) or f"{command[0]} exited {done.returncode}")


async def ask_aside(command: Sequence[str]) -> Answer:
    """The same from an event loop, which goes on meanwhile."""
    return await asyncio.to_thread(ask, command)


def complaint(text: str) -> str:
    """The last line of an error output that says something, without the command's own name."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("sbatch: error: ").removeprefix("sbatch: ") if lines else ""
