"""From a store to a trained network and back: streaming, sparse layers, models, training, inference, evaluation."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from train.config import load_config
    from train.fitting.fit import fit
    from train.inference.infer import infer
    from train.models import build_model
    from train.models.description import describe
    from train.results.display.page import view
    from train.results.evaluation import evaluate
    from train.results.solve_run import solve
    from train.resuming.importing import import_checkpoint
    from train.streaming.stream import ImageStream

# Read when torch is loaded. OpenMP threads of torch and of numba that wait awake take the cores from each other (10 ×
# slower); to be woken for every kernel costs 15 %. So they wait awake for some 0.1 ms, from one kernel to the next.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
os.environ.setdefault("KMP_BLOCKTIME", "1")

# Loaded on first use: `larstore --help` must not import torch.
_PUBLIC = {
    "ImageStream": "train.streaming.stream",
    "load_config": "train.config",
    "build_model": "train.models",
    "describe": "train.models.description",
    "fit": "train.fitting.fit",
    "infer": "train.inference.infer",
    "evaluate": "train.results.evaluation",
    "import_checkpoint": "train.resuming.importing",
    "solve": "train.results.solve_run",
    "view": "train.results.display.page",
}
__all__ = [
    "ImageStream",
    "build_model",
    "describe",
    "evaluate",
    "fit",
    "import_checkpoint",
    "infer",
    "load_config",
    "solve",
    "view",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'train' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
