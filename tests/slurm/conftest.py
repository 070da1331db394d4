"""The Slurm that all tests of a session share; without it they are skipped, with the reason."""

from collections.abc import Iterator

import pytest

from tests.slurm.small_slurm import NoSlurmError, SmallSlurm, until


@pytest.fixture(scope="session")
def _slurm_of_session() -> Iterator[SmallSlurm]:
    try:
        slurm = SmallSlurm()
    except NoSlurmError as reason:
        pytest.skip(str(reason))
    yield slurm
    slurm.down()


@pytest.fixture
def slurm(_slurm_of_session: SmallSlurm) -> Iterator[SmallSlurm]:
    """A Slurm with an empty queue; each test has to leave it so."""
    until(_slurm_of_session.is_empty, "an empty queue before the test")
    yield _slurm_of_session
    until(_slurm_of_session.is_empty, "an empty queue after the test")
