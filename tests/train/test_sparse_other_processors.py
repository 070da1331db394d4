"""The native kernels as they are compiled for other processors: smaller tiles, narrower vectors, the same results."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
import llvmlite.binding
features = dict.fromkeys(sys.argv[2:], True)
llvmlite.binding.get_host_cpu_features = lambda: features
import numpy as np, torch
from train.sparse import kernels, native, rulebook
from train.sparse.tensor import sort_sites
assert f"{kernels.ROWS},{kernels.CHANNELS}" == sys.argv[1], (kernels.ROWS, kernels.CHANNELS)
rng = np.random.default_rng(0)
cells = np.sort(rng.choice(12**3, 900, replace=False))
coords = np.column_stack([*np.unravel_index(cells, (12, 12, 12)), np.zeros(900, np.int64)]).astype(np.int64)
sites, _ = sort_sites(torch.from_numpy(coords), (12, 12, 12))
rules = rulebook.submanifold(sites, (3, 3, 3))
for c_in, c_out in ((3, 16), (16, 21), (33, 8)):
    torch.manual_seed(0)
    results = []
    for dtype in (torch.float32, torch.float64):  # the latter goes by torch's operations
        torch.manual_seed(0)
        x, w = torch.randn(900, c_in).to(dtype), torch.randn(27, 1, c_in, c_out).to(dtype)
        leaves = [x.requires_grad_(), w.requires_grad_()]
        out = native.convolve(x, w, rules)
        results.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for fused, plain in zip(*results):
        torch.testing.assert_close(fused.double(), plain, rtol=1e-4, atol=1e-3)
print("equal")
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names of x86 processors")
@pytest.mark.parametrize(("processor", "tile", "features"), [("haswell", "6,4", ["avx2"]), ("nehalem", "4,4", [])])
def test_other_processors(processor, tile, features, tmp_path):
    settings = {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": ""}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, tile, *features],
        env=os.environ | settings, cwd=Path(__file__).parents[2], capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "equal\n", done.stderr
