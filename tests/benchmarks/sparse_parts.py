"""Where the time and the memory of a training step go."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.benchmarks.sparse_yardstick import Calls, best
from train.models import build_model
from train.sparse import kernels, layers, native, residual, rulebook
from train.sparse.native import multiply, weight_gradient

PARTS: dict[str, list[tuple[Any, str]]] = {
    "convolutions, forward and inputs' gradients": [(native, "multiply"), (residual, "multiply")],
    "convolutions, weights' gradients": [(native, "weight_gradient"), (residual, "weight_gradient")],
    "normalisation and ReLU": [
        (kernels, name) for name in ("channel_sums", "scale_and_rectify", "rectified_sums", "rectified_gradient")
    ],
    "sites and rules": [(layers, "sort_sites"), (rulebook, "submanifold"), (rulebook, "strided")],
    "optimiser": [(torch.optim.Adam, "step")],
}


@contextmanager
def timers() -> Iterator[dict[str, float]]:
    """Seconds spent in each part while this lasts."""
    seconds = dict.fromkeys(PARTS, 0.0)
    originals = [(owner, name, getattr(owner, name)) for places in PARTS.values() for owner, name in places]

    def watched(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = call(*args, **options)
            seconds[part] += time.perf_counter() - start
            return result

        return run

    for part, places in PARTS.items():
        for owner, name in places:
            setattr(owner, name, watched(part, getattr(owner, name)))
    try:
        yield seconds
    finally:
        for owner, name, call in originals:
            setattr(owner, name, call)


def split(step: Callable[[], object], rounds: int = 5) -> dict[str, float]:
    """Seconds of the parts of a step, the median of each; "the rest" is autograd, Python, sums and the loss."""
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        with timers() as seconds:
            start = time.perf_counter()
            step()
            seconds["the rest"] = time.perf_counter() - start - sum(seconds.values())
        for part, value in seconds.items():
            found.setdefault(part, []).append(value)
    return {part: float(np.median(values)) for part, values in found.items()}


def convolution_seconds(calls: Calls, inputs: int) -> float:
    """Seconds of all convolutions of a training step by themselves, forward and backward."""
    total = 0.0
    for (_, c_in, c_out), (rules, times) in calls.items():
        x, g = torch.randn(len(rules.input_coords), c_in), torch.randn(len(rules.output_coords), c_out)
        w = torch.randn(rules.forward.volume, c_in, c_out)
        opposite, back = w.transpose(1, 2).contiguous(), rules.backward or rules.forward
        seconds = best(lambda x=x, w=w, rules=rules: multiply(x, w, rules.forward))
        seconds += best(lambda x=x, g=g, rules=rules: weight_gradient(x, g, rules.forward))
        if c_in != inputs:
            seconds += best(lambda g=g, w=opposite, back=back: multiply(g, w, back))
        total += times * seconds
    return total


def status(key: str) -> int:
    """A figure of this process in bytes, as Linux has it."""
    with open("/proc/self/status", encoding="utf-8") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def memory(net: dict[str, Any], file: str, train: bool) -> dict[str, float]:
    """Bytes of activations that a step keeps, and the peak of this process beside what it had before."""
    batch = np.load(file)
    coords, features = torch.from_numpy(batch["coords"]), torch.from_numpy(batch["features"])
    model = build_model(net)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def run(coords: torch.Tensor, features: torch.Tensor) -> None:
        with torch.set_grad_enabled(train), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            score = model(coords, features)
            if train:
                torch.nn.functional.binary_cross_entropy(score, (features[:, :1] > 0).float()).backward()

    run(coords[:300], features[:300])  # whatever is loaded once
    kept.clear()
    before = status("VmRSS")
    run(coords, features)
    return {"kept": sum(kept.values()), "peak": status("VmHWM") - before, "process": status("VmHWM")}


def memory_apart(net: dict[str, Any], file: Path, train: bool, exact: bool) -> dict[str, float]:
    """`memory` in a process of its own; ``exact``: one that gives back what it frees, so that no room is reused."""
    settings = {"MALLOC_MMAP_THRESHOLD_": "100000", "MALLOC_TRIM_THRESHOLD_": "100000"} if exact else {}
    command = f"from tests.benchmarks.sparse_parts import *; print(json.dumps(memory({net!r}, {str(file)!r}, {train})))"
    done = subprocess.run(
        [sys.executable, "-c", command], env=os.environ | settings, check=True, capture_output=True, text=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found
