"""Cores of this process, also where the system does not tell which it is bound to."""

import os
from pathlib import Path

import pytest

import larstore
from larstore import reading
from larstore.cores import cores
from larstore.testing import make_store

HOUSE = Path(larstore.__file__).parents[1]


@pytest.fixture
def macos(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    reading._cores.cache_clear()
    yield
    reading._cores.cache_clear()


def test_those_that_it_is_bound_to():
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("the system does not tell")
    assert cores() == len(os.sched_getaffinity(0))


def test_a_store_is_read_without_that_call(macos, monkeypatch, tmp_path):
    assert cores() == os.cpu_count()
    assert len(larstore.open(make_store(tmp_path / "a.zarr")).select().to_pandas()) > 0
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1


def test_nobody_else_makes_that_call():
    files = [file for package in ("larstore", "preprocess", "train") for file in (HOUSE / package).rglob("*.py")]
    assert [file.name for file in files if "sched_getaffinity" in file.read_text(encoding="utf-8")] == ["cores.py"]
