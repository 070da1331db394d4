"""Which tasks of a run are tried again, and how they are taken apart to find the unit that is to blame."""

from types import SimpleNamespace

import pytest
from distributed import KilledWorker

from preprocess import attempts
from preprocess.attempts import Attempts, Task
from preprocess.coordinator import _outcome
from preprocess.plan import Unit


def task(n: int, **state: int) -> Task:
    return Task(tuple(Unit(f"/raw/a_{i}.npz", i, 1, 10) for i in range(n)), 4, **state)


def waiting(found: Attempts) -> list[Task]:
    return list(iter(found.due, None))


@pytest.mark.parametrize("culprit", [0, 17, 4999])
@pytest.mark.parametrize("n", [1, 2, 32, 33, 5000])
def test_a_culprit_among_many_is_found_alone(n, culprit):
    """Each task that holds it takes its worker along; no other unit is given up, and few blocks are needed."""
    culprit = min(culprit, n - 1)
    found, done, deaths, blocks = Attempts(0.0), set(), 0, 0
    given_up: list[Task] = []
    found.again(task(n))
    while found:
        each = found.due() or found.suspect()
        assert each is not None
        blocks += 1
        if any(unit.file == culprit for unit in each.units):
            deaths += 1
            if not found.died(each):
                given_up.append(each)
        else:
            done |= {unit.file for unit in each.units}
    assert [[unit.file for unit in each.units] for each in given_up] == [[culprit]]
    assert done == set(range(n)) - {culprit}
    assert deaths <= 6
    assert blocks <= 3 * attempts.PARTS + 6


def test_a_suspect_waits_until_nothing_else_does():
    found = Attempts(60.0)
    found.again(task(1, tries=1))
    assert found.died(task(1, deaths=1))
    assert len(found) == 2
    assert found.due() is None
    assert found.suspect() is None, "something waits for its time"


def test_jobs_that_end_from_outside_are_borne_for_long():
    found = Attempts(0.0)
    each, times = task(1), 0
    while found.lost(each):
        (each,) = waiting(found)
        times += 1
    assert times == attempts.LOST_JOBS - 1
    assert found.lost(task(3)), "the first time as it is"
    assert [len(part.units) for part in waiting(found)] == [3]
    assert found.lost(task(3, lost=1)), "then each unit by itself"
    assert [len(part.units) for part in waiting(found)] == [1, 1, 1]


def test_further_tries_wait_longer(monkeypatch):
    now = 0.0
    monkeypatch.setattr(attempts, "time", SimpleNamespace(monotonic=lambda: now))
    found = Attempts(5.0)
    for tries, seconds in ((1, 5), (2, 20), (3, 80)):
        now = 0.0
        found.again(task(1, tries=tries))
        now = seconds - 0.1
        assert waiting(found) == []
        now = seconds
        assert len(waiting(found)) == 1


class Future:
    """One whose result is there, or not, as it is fetched."""

    def __init__(self, status: str, raises: BaseException | None = None) -> None:
        self.status, self._raises = status, raises

    def result(self, timeout: float) -> str:
        if self._raises is not None:
            raise self._raises
        return "a result"

    def exception(self, timeout: float) -> BaseException | None:
        return self._raises


@pytest.mark.parametrize(
    ("future", "result", "error"),
    [
        (Future("finished"), "a result", None),
        (Future("error", ValueError("its own")), None, ValueError),
        (Future("lost"), None, None),
        (Future("pending"), None, None),
        (Future("cancelled"), None, None),
        (Future("finished", TimeoutError()), None, None),
        (Future("finished", KilledWorker("unit-1", None, 0)), None, KilledWorker),
    ],
)
def test_a_result_that_is_lost_on_its_way_is_no_end(future, result, error):
    """Its worker may die between the end of a task and the fetching of its result."""
    found, raised = _outcome(future)
    assert found == result
    assert raised is None if error is None else isinstance(raised, error)
