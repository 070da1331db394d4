"""What batch systems print about jobs, as recorded or as their manuals show it, and how it is read."""

import pytest

from preprocess.cluster.jobs import Job, tail, waiting_reasons
from preprocess.cluster.queues import QUERIES, Entry, State, query_command, read_answer

SLURM = """\
12|PENDING|Resources
13|PENDING|QOSMaxJobsPerUserLimit
14|PENDING|JobHeldUser
15|PENDING|launch failed requeued held
16|RUNNING|None
17|COMPLETING|None
18|CANCELLED|None
19|TIMEOUT|TimeLimit
20|NODE_FAIL|None
21|OUT_OF_MEMORY|OutOfMemory
22|FAILED|NonZeroExitCode
23|COMPLETED|None
24|PREEMPTED|None
25|CANCELLED by 1000|None
"""
PBS = """\
Job Id: 101.server
    Job_Name = larstore
    job_state = Q
    comment = Not Running: Insufficient amount of resource: ncpus (R: 64 A: 0 T:
\t 64)

Job Id: 102.server
    Job_Name = larstore
    job_state = F
    Exit_status = 271
    comment = Job run at Tue Nov 24 at 10:00 on (node:ncpus=4) and finished

Job Id: 103.server
    job_state = F
    Exit_status = -29
    comment = Job run and exceeded walltime

Job Id: 104.server
    job_state = H

Job Id: 105.server
    job_state = F
    Exit_status = 1
"""
SGE = """\
job-ID  prior   name       user         state submit/start at     queue                          slots ja-task-ID
-----------------------------------------------------------------------------------------------------------------
    101 0.55500 larstore   me           r     11/24/2026 10:00:00 all.q@node1                        4
    102 0.00000 larstore   me           qw    11/24/2026 10:00:01                                    4
    103 0.00000 larstore   me           Eqw   11/24/2026 10:00:02                                    4
    104 0.55500 larstore   me           dr    11/24/2026 10:00:03 all.q@node1                        4
    105 0.00000 larstore   me           hqw   11/24/2026 10:00:04                                    4
"""
LSF = """\
101|RUN|-|-
102|PEND|-|Job slot limit reached;
103|EXIT|TERM_OWNER: job killed by owner|-
104|EXIT|TERM_RUNLIMIT: job killed after reaching LSF run time limit|-
105|EXIT|TERM_MEMLIMIT: job killed after reaching LSF memory usage limit|-
106|EXIT|-|-
107|DONE|-|-
No unfinished job found
"""
HTCONDOR = """\
101 0 2 undefined
102 0 1 undefined
103 0 5 Error from slot1@node: Failed to execute '/bin/sh': No such file
104 0 3 undefined
"""
OAR = '{"101": {"state": "Running", "message": "R=1"}, "102": {"state": "Waiting"}, "103": {"state": "Error"}}'


@pytest.mark.parametrize(
    ("kind", "answer", "expected"),
    [
        ("slurm", SLURM, "PENDING PENDING HELD HELD RUNNING ENDING CANCELLED TIMEOUT NODE_FAIL OUT_OF_MEMORY FAILED "
                         "DONE PREEMPTED CANCELLED"),
        ("pbs", PBS, "PENDING CANCELLED TIMEOUT HELD FAILED"),
        ("sge", SGE, "RUNNING PENDING HELD ENDING HELD"),
        ("lsf", LSF, "RUNNING PENDING CANCELLED TIMEOUT OUT_OF_MEMORY FAILED DONE"),
        ("htcondor", HTCONDOR, "RUNNING PENDING HELD CANCELLED"),
        ("oar", OAR, "RUNNING PENDING FAILED"),
    ],
)  # fmt: skip
def test_states(kind, answer, expected):
    entries = read_answer(kind, answer)
    numbers = sorted({number for number in entries if number.replace(".", "").isdigit()})
    assert [entries[number].state.name for number in numbers] == expected.split()
    assert read_answer(kind, "") == {}


def test_reasons():
    assert read_answer("slurm", SLURM)["13"].reason == "QOSMaxJobsPerUserLimit"
    assert read_answer("slurm", SLURM)["16"].reason == ""
    assert read_answer("pbs", PBS)["101.server"].reason.endswith("(R: 64 A: 0 T: 64)")
    assert "qstat -j 103" in read_answer("sge", SGE)["103"].reason
    assert read_answer("lsf", LSF)["102"].reason == "Job slot limit reached;"
    assert read_answer("lsf", LSF)["103"].reason == "TERM_OWNER: job killed by owner"
    assert read_answer("htcondor", HTCONDOR)["103.0"].reason.endswith("'/bin/sh': No such file")


def test_an_answer_of_something_else_is_no_answer():
    with pytest.raises(ValueError, match="Expecting value"):
        read_answer("oar", "oarstat: cannot connect to the database")


@pytest.mark.parametrize("kind", sorted(QUERIES))
def test_one_command_asks_for_all_jobs(kind, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "me")
    command = query_command(kind, ["101", "102"])
    assert ("me" in " ".join(command)) != (command[-2:] == ["101", "102"])
    assert "{" not in " ".join(command)


def test_a_job_is_gone_when_the_queue_has_missed_it_twice_and_it_is_not_new():
    job = Job("worker", "1", submitted=0.0)
    job.hear(None, 1.0)
    job.hear(None, 2.0)
    assert job.is_live, "the queue may not know it yet"
    job.hear(None, 40.0)
    assert job.is_live
    job.hear(Entry(State.RUNNING), 41.0)
    job.hear(None, 42.0)
    job.hear(None, 43.0)
    assert job.state is State.GONE
    assert (job.running, job.ended) == (41.0, 43.0)


@pytest.mark.parametrize(
    ("state", "reason", "connected", "hopeless"),
    [
        (State.PENDING, "Resources", None, False),
        (State.PENDING, "QOSMaxJobsPerUserLimit", None, False),
        (State.PENDING, "PartitionTimeLimit", None, True),
        (State.PENDING, "BadConstraints", None, True),
        (State.HELD, "launch failed requeued held", None, True),
        (State.HELD, "JobHeldUser", None, False),
        (State.HELD, "error state Eqw", None, True),
        (State.HELD, "JobHeldAdmin", 5.0, False),
    ],
)
def test_which_jobs_will_never_start(state, reason, connected, hopeless):
    job = Job("worker", "1", submitted=0.0, state=state, reason=reason, connected=connected)
    assert job.will_never_start is hopeless


def test_only_reasons_out_of_the_ordinary_are_told():
    jobs = [
        Job(f"worker-{number}", str(number), 0.0, state, reason)
        for number, (state, reason) in enumerate(
            [(State.PENDING, "Priority"), (State.PENDING, "PartitionDown"), (State.PENDING, "PartitionDown"),
             (State.RUNNING, "x")]
        )
    ]  # fmt: skip
    assert waiting_reasons(jobs) == {"PartitionDown": 2}


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("", "empty"),
        ("\n \n", "empty"),
        ("one\ntwo\n\n", "two"),
        ("x" * 10_000 + "\nlast", "last"),
        ("a" * 999, "a" * 200),
    ],
)
def test_the_last_line_of_a_log(tmp_path, text, last):
    path = tmp_path / "log"
    path.write_text(text, encoding="utf-8")
    assert tail(path) == last
