"""Where the wires of detectors lie, for all tests that use real data."""

import os
from pathlib import Path


def pytest_configure() -> None:
    if data := os.environ.get("LARSTORE_TEST_DATA"):
        os.environ.setdefault("LARSTORE_WIRES_PATH", str(Path(data).resolve() / "geometry"))
