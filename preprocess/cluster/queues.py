"""What batch systems say about jobs: one command for all of a user's jobs, and how its answer is read."""

import getpass
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """Of a job; ``GONE``: the queue no longer knows it."""

    PENDING = "pending"
    HELD = "held"
    RUNNING = "running"
    ENDING = "ending"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "out of walltime"
    PREEMPTED = "preempted"
    NODE_FAIL = "node failed"
    OUT_OF_MEMORY = "out of memory"
    GONE = "no longer in the queue"


LIVE = {State.PENDING, State.HELD, State.RUNNING, State.ENDING}
# A worker's own process may die and is started again within its job; a job that ended like this took it along. Jobs of
# which the queue says no more are among them, and those that ended in order, as they do after a SIGTERM.
FROM_OUTSIDE = {State.CANCELLED, State.TIMEOUT, State.PREEMPTED, State.NODE_FAIL, State.DONE, State.GONE}


@dataclass(frozen=True)
class Entry:
    """A job in the queue; ``reason``: in the queue's words, why it waits or ended, "" if it gives none."""

    state: State
    reason: str = ""


Entries = dict[str, Entry]

_SLURM = {
    "PENDING": State.PENDING,
    "CONFIGURING": State.PENDING,
    "REQUEUED": State.PENDING,
    "REQUEUE_HOLD": State.HELD,
    "SPECIAL_EXIT": State.HELD,
    "RESV_DEL_HOLD": State.HELD,
    "RUNNING": State.RUNNING,
    "SUSPENDED": State.RUNNING,
    "STOPPED": State.RUNNING,
    "SIGNALING": State.RUNNING,
    "COMPLETING": State.ENDING,
    "STAGE_OUT": State.ENDING,
    "COMPLETED": State.DONE,
    "CANCELLED": State.CANCELLED,
    "TIMEOUT": State.TIMEOUT,
    "DEADLINE": State.TIMEOUT,
    "PREEMPTED": State.PREEMPTED,
    "REVOKED": State.PREEMPTED,
    "NODE_FAIL": State.NODE_FAIL,
    "BOOT_FAIL": State.NODE_FAIL,
    "OUT_OF_MEMORY": State.OUT_OF_MEMORY,
}


def _slurm(answer: str) -> Entries:
    entries = {}
    for line in answer.splitlines():
        job, word, reason = [*line.split("|", 2), "", ""][:3]
        state = _SLURM.get(word.split()[0] if word else "", State.FAILED)
        if state is State.PENDING and ("Held" in reason or "held" in reason):
            state = State.HELD
        entries[job] = Entry(state, "" if reason == "None" else reason)
    return entries


_PBS = {
    "Q": State.PENDING, "W": State.PENDING, "T": State.PENDING, "H": State.HELD, "R": State.RUNNING, "B": State.RUNNING,
    "S": State.RUNNING, "U": State.RUNNING, "E": State.ENDING,
}  # fmt: skip
# Codes of PBS itself, and 256 + signal of a job that was deleted or ran out of time.
_PBS_EXITS = {
    0: State.DONE, -29: State.TIMEOUT, -27: State.OUT_OF_MEMORY, 265: State.CANCELLED, 271: State.CANCELLED,
    -3: State.NODE_FAIL, -4: State.NODE_FAIL, -13: State.NODE_FAIL,
}  # fmt: skip


def _pbs(answer: str) -> Entries:
    entries = {}
    for block in re.split(r"^Job Id: ", answer.replace("\n\t", ""), flags=re.MULTILINE)[1:]:
        name, *lines = block.splitlines()
        keys = dict(line.strip().split(" = ", 1) for line in lines if " = " in line)
        state = _PBS.get(keys.get("job_state", ""))
        if state is None:
            state = _PBS_EXITS.get(int(keys.get("Exit_status", 1)), State.FAILED)
        entries[name.strip()] = Entry(state, keys.get("comment", ""))
    return {number: entry for name, entry in entries.items() for number in (name, name.partition(".")[0])}


def _sge(answer: str) -> Entries:
    entries = {}
    for line in answer.splitlines():
        fields = line.split()
        if len(fields) < 5 or not fields[0].isdigit():
            continue
        word = fields[4]
        if "E" in word:
            entries[fields[0]] = Entry(State.HELD, f"error state {word} (qstat -j {fields[0]} tells why)")
        elif "d" in word:
            entries[fields[0]] = Entry(State.ENDING, "deleted")
        elif "h" in word:
            entries[fields[0]] = Entry(State.HELD, word)
        else:
            entries[fields[0]] = Entry(State.PENDING if "w" in word else State.RUNNING)
    return entries


_LSF = {
    "PEND": State.PENDING, "WAIT": State.PENDING, "PSUSP": State.HELD, "RUN": State.RUNNING, "PROV": State.RUNNING,
    "USUSP": State.RUNNING, "SSUSP": State.RUNNING, "UNKWN": State.RUNNING, "DONE": State.DONE,
    "ZOMBI": State.NODE_FAIL,
}  # fmt: skip
_LSF_EXITS = {
    "TERM_OWNER": State.CANCELLED, "TERM_FORCE_OWNER": State.CANCELLED, "TERM_ADMIN": State.CANCELLED,
    "TERM_FORCE_ADMIN": State.CANCELLED, "TERM_RUNLIMIT": State.TIMEOUT, "TERM_CPULIMIT": State.TIMEOUT,
    "TERM_DEADLINE": State.TIMEOUT, "TERM_WINDOW": State.TIMEOUT, "TERM_PREEMPT": State.PREEMPTED,
    "TERM_REQUEUE_OWNER": State.PREEMPTED, "TERM_REQUEUE_ADMIN": State.PREEMPTED, "TERM_MEMLIMIT": State.OUT_OF_MEMORY,
    "TERM_SWAP": State.OUT_OF_MEMORY, "TERM_ZOMBI": State.NODE_FAIL, "TERM_SLURM": State.NODE_FAIL,
}  # fmt: skip


def _lsf(answer: str) -> Entries:
    entries = {}
    for line in answer.splitlines():
        job, word, exit_reason, pend_reason = [*(part.strip() for part in line.split("|", 3)), "", "", ""][:4]
        if not job.isdigit():
            continue
        reason = exit_reason if word == "EXIT" else pend_reason
        state = _LSF.get(word, State.FAILED)
        if word == "EXIT":
            state = _LSF_EXITS.get(re.split(r"\W", exit_reason)[0], State.FAILED)
        entries[job] = Entry(state, "" if reason == "-" else reason)
    return entries


_CONDOR = {
    "1": State.PENDING, "2": State.RUNNING, "3": State.CANCELLED, "4": State.DONE, "5": State.HELD,
    "6": State.ENDING, "7": State.RUNNING,
}  # fmt: skip


def _htcondor(answer: str) -> Entries:
    entries = {}
    for line in answer.splitlines():
        cluster, process, word, reason = [*line.split(None, 3), "", "", "", ""][:4]
        if cluster.isdigit():
            state = _CONDOR.get(word, State.FAILED)
            entries[f"{cluster}.{process}"] = Entry(state, "" if reason == "undefined" else reason)
    return entries


_OAR = {
    "Waiting": State.PENDING, "toLaunch": State.PENDING, "toAckReservation": State.PENDING, "Hold": State.HELD,
    "Launching": State.PENDING, "Running": State.RUNNING, "Suspended": State.RUNNING, "Resuming": State.RUNNING,
    "Finishing": State.ENDING, "toError": State.ENDING, "Terminated": State.DONE,
}  # fmt: skip


def _oar(answer: str) -> Entries:
    jobs = json.loads(answer) if answer.strip() else {}
    return {
        str(number): Entry(_OAR.get(job.get("state", ""), State.FAILED), str(job.get("message") or ""))
        for number, job in jobs.items()
    }


# {user}: the user's name; {ids}: the jobs' numbers, each an argument.
QUERIES: dict[str, tuple[tuple[str, ...], Callable[[str], Entries]]] = {
    "slurm": (("squeue", "--noheader", "--states=all", "--user={user}", "--format=%i|%T|%r"), _slurm),
    "pbs": (("qstat", "-x", "-f", "{ids}"), _pbs),
    "sge": (("qstat", "-u", "{user}"), _sge),
    "lsf": (
        ("bjobs", "-a", "-u", "{user}", "-noheader", "-o", "jobid stat exit_reason pend_reason delimiter='|'"),
        _lsf,
    ),
    "htcondor": (
        ("condor_q", "{user}", "-nobatch", "-af", "ClusterId", "ProcId", "JobStatus", "HoldReason"),
        _htcondor,
    ),
    "oar": (("oarstat", "-J", "-u", "{user}"), _oar),
}


# Where a batch system refuses the first question: PBS keeps no history of jobs unless its site has said so.
PLAIN_QUERIES = {"pbs": ("qstat", "-f", "{ids}")}
UNKNOWN = ("Unknown Job",)  # a complaint that is an answer: none of these jobs is in the queue


def query_command(kind: str, ids: Iterable[str], plain: bool = False) -> list[str]:
    """The command that asks for the jobs ``ids``; ``plain``: that of ``PLAIN_QUERIES``, if the kind has one."""
    command: list[str] = []
    for part in PLAIN_QUERIES.get(kind, QUERIES[kind][0]) if plain else QUERIES[kind][0]:
        command += ids if part == "{ids}" else [part.format(user=getpass.getuser())]
    return command


def read_answer(kind: str, answer: str) -> Entries:
    """Job id -> what the queue says. Raises ValueError if it is not what that batch system prints."""
    return QUERIES[kind][1](answer)
