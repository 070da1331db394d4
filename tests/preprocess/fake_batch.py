"""Batch systems that run their jobs on this host at once, behind commands that print as the real ones do.

Run as a command: fake_batch.py FOLDER KIND COMMAND ARGUMENT…
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

COMMANDS = {
    "pbs": ("qsub", "qdel", "qstat"),
    "sge": ("qsub", "qdel", "qstat"),
    "lsf": ("bsub", "bkill", "bjobs"),
    "htcondor": ("condor_submit", "condor_rm", "condor_q"),
    "oar": ("oarsub", "oardel", "oarstat"),
}


def install(folder: Path, kind: str) -> Path:
    """Make the commands of a batch system; the folder to put into PATH."""
    programs = folder / "bin"
    programs.mkdir(parents=True)
    for command in COMMANDS[kind]:
        path = programs / command
        path.write_text(
            f'#!/bin/sh\nexec {sys.executable} {__file__} {folder} {kind} {command} "$@"\n', encoding="utf-8"
        )
        path.chmod(0o755)
    return programs


def alive(folder: Path) -> list[str]:
    """Numbers of the jobs that run."""
    return [number for number, job in jobs(folder).items() if is_running(job)]


def jobs(folder: Path) -> dict[str, dict[str, int]]:
    """Number -> process id, and whether it was deleted."""
    found = sorted(folder.glob("*.job"), key=lambda path: int(path.stem))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in found}


def is_running(job: dict[str, int]) -> bool:
    try:
        status = Path(f"/proc/{job['pid']}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def submit(folder: Path, script: str, log_name: str = "larstore-{}.err") -> int:
    number = 101
    while True:  # several are submitted at once
        try:
            (folder / f"{number}.taken").open("x").close()
            break
        except FileExistsError:
            number += 1
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    with (logs / log_name.format(number)).open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            ["bash", "-c", script], start_new_session=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    note(folder, str(number), {"pid": process.pid, "deleted": 0})
    return number


def note(folder: Path, number: str, job: dict[str, int]) -> None:
    new = folder / f"{number}.new"
    new.write_text(json.dumps(job), encoding="utf-8")
    new.rename(folder / f"{number}.job")


def delete(folder: Path, number: str) -> None:
    job = jobs(folder)[number]
    note(folder, number, job | {"deleted": 1})
    try:
        os.killpg(job["pid"], signal.SIGKILL)
    except ProcessLookupError:
        sys.exit(1)


def submitted(folder: Path, kind: str, arguments: list[str]) -> str:
    if kind == "lsf":
        return f"Job <{submit(folder, sys.stdin.read())}> is submitted to default queue <normal>."
    if kind == "oar":
        return f"[ADMISSION RULE] Set default walltime\nOAR_JOB_ID={submit(folder, arguments[-1])}"
    script = Path(arguments[-1]).read_text(encoding="utf-8")
    if kind == "htcondor":
        (quoted,) = re.findall(r"^Arguments = \"-c '(.*)'\"$", script, flags=re.MULTILINE)
        script = quoted.replace("''", "'").replace('""', '"')
        number = submit(folder, script, "worker-{}.0.err")
        return f"Submitting job(s).\n1 job(s) submitted to cluster {number}."
    number = submit(folder, script)
    return f"{number}.server" if kind == "pbs" else f'Your job {number} ("larstore") has been submitted'


def pbs(number: str, job: dict[str, int]) -> str:
    state = "R" if is_running(job) else "F"
    end = f"    Exit_status = {271 if job['deleted'] else 1}\n" if state == "F" else ""
    return (
        f"Job Id: {number}.server\n    Job_Name = larstore\n    job_state = {state}\n{end}"
        "    comment = Job run at Tue Nov 24 at 10:00 on (node:ncpus=1:mem=1048\n\t576kb)\n\n"
    )


def with_history(asked: dict[str, dict[str, int]], arguments: list[str]) -> dict[str, dict[str, int]]:
    """The jobs that PBS knows: those that have ended only if its site keeps a history of them."""
    if os.environ.get("FAKE_PBS_HISTORY") != "no":
        return asked
    if "-x" in arguments:
        sys.exit("qstat: PBS is not configured to maintain job history")
    running = {number: job for number, job in asked.items() if is_running(job)}
    for number in asked.keys() - running.keys():
        print(f"qstat: Unknown Job Id {number}.server", file=sys.stderr)
    if not running:
        sys.exit(153)
    return running


def lsf(number: str, job: dict[str, int]) -> str:
    if is_running(job):
        return f"{number}|RUN|-|-\n"
    return f"{number}|EXIT|{'TERM_OWNER: job killed by owner' if job['deleted'] else '-'}|-\n"


def listed(folder: Path, kind: str, arguments: list[str]) -> str:
    known = jobs(folder)
    if kind == "pbs":
        asked = {n: job for n, job in known.items() if f"{n}.server" in arguments or n in arguments}
        return "".join(pbs(number, job) for number, job in with_history(asked, arguments).items())
    if kind == "lsf":
        return "".join(lsf(number, job) for number, job in known.items())
    running = [number for number, job in known.items() if is_running(job)]
    if kind == "htcondor":
        return "".join(f"{number} 0 2 undefined\n" for number in running)
    if kind == "oar":
        return json.dumps({number: {"state": "Running", "message": "R=1,W=1:0:0"} for number in running})
    head = "job-ID  prior   name       user         state submit/start at     queue      slots ja-task-ID\n" + "-" * 99
    rows = (f"    {n} 0.55500 larstore   me           r     11/24/2026 10:00:00 all.q@node     1" for n in running)
    return "\n".join([head, *rows]) if running else ""


def main(folder: Path, kind: str, command: str, arguments: list[str]) -> None:
    first, second, _ = COMMANDS[kind]
    if command == first:
        print(submitted(folder, kind, arguments))
    elif command == second:
        for argument in arguments:
            delete(folder, argument.partition(".")[0])
    else:
        print(listed(folder, kind, arguments), end="")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])
