"""Timing of alternatives side by side in one run: what the benchmarks share."""

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np

from larstore.cores import cores


def machine_line(*packages: str) -> str:
    """One line that names the processor, its cores in use and the versions of the packages measured."""
    model = "unknown processor"
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            model = next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), model)
    versions = ", ".join(f"{name} {version(name)}" for name in ("larstore", "numpy", *packages))
    return f"{model}, {cores()} cores, Python {platform.python_version()}, {versions}"


def side_by_side(alternatives: dict[str, Callable[[], object]], rounds: int = 5) -> dict[str, float]:
    """Median seconds of each alternative, called in turn (A B A B …) after one round that is not counted.

    Taking turns lets a drift of the machine's speed hit all of them alike, so that ratios hold.
    """
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for count in range(rounds + 1):
        for name, call in alternatives.items():
            start = time.perf_counter()
            call()
            if count:
                seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def print_table(title: str, seconds: dict[str, float], reference: str, unit: str = "", amount: float = 0.0) -> None:
    """Print seconds, the ratio to the reference and, where an amount is given, amount per second in ``unit``."""
    print(title)
    for name, value in seconds.items():
        rate = f"  {amount / value:10.3g} {unit}/s" if amount else ""
        print(f"  {name:40s} {value * 1e3:10.2f} ms  {value / seconds[reference]:6.2f} × {reference}{rate}")


def markdown(titles: list[str], rows: list[list[str]]) -> str:
    """A table for a page."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
