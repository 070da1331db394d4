"""Building the pixel areas of a face of 12,000 wires: seconds, and the most memory of a process that does only that."""

import json
import math
import os
import subprocess
import sys
import tempfile

from tests.benchmarks.side_by_side import machine_line

BARS = {"seconds": 30.0, "gigabytes": 2.0}
WIRES = 4000  # of each plane
BUILD = """
import json, resource, sys, time
from preprocess.cache import overlaps_of
from preprocess.detector.build import build_detector
from preprocess.detector.config import DetectorConfig
from preprocess.detector.lattice import lattice_wires
from preprocess.testing import small_detector
import tempfile
with tempfile.TemporaryDirectory() as folder:
    overlaps_of(small_detector(folder).tpc(1))  # compiles the kernels
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
config = DetectorConfig.model_validate(json.loads(sys.stdin.read()))
start = time.perf_counter()
tpc = build_detector(config, lattice_wires(config.lattice), "large").tpc(1)
overlaps = overlaps_of(tpc)
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({
    "wires": sum(len(p.column) for p in tpc.planes), "n_y": tpc.frame.n_y, "n_z": tpc.frame.n_z, "seconds": seconds,
    "areas": len(overlaps.area), "file": sum(a.nbytes for a in overlaps) / 1e9,
    "peak": peak / 1e6, "before": before / 1e6,
}))
"""


def large_detector(pitch_mm: float) -> dict[str, object]:
    """A face of three planes at +60°, −60° and 0° with ``WIRES`` wires each."""
    width = WIRES * pitch_mm
    height = (width - 0.5 * width) / math.sin(math.radians(60))
    planes = []
    for index, angle in enumerate((60.0, -60.0, 0.0)):
        low = min(0.0, math.sin(math.radians(angle)) * height)
        planes.append(
            {
                "x_mm": 10.0 - 5 * index,
                "angle_deg": angle,
                "pitch_mm": pitch_mm,
                "offset_mm": low + pitch_mm / 2,
                "wires": WIRES,
                "channels": [[0, index * WIRES, 1]],
                "y_mm": [0.0, height],
                "z_mm": [0.0, width],
            }
        )
    face = {"ident": 0, "planes": planes, "y_mm": [0.0, height], "z_mm": [0.0, width]}
    anodes = [{"x_mm": 0.0, "z_mm": 0.0}]
    return {"name": "large", "lattice": {"channels_per_anode": 3 * WIRES, "anodes": anodes, "faces": [face]}}


def main() -> None:
    """Print a line for a dense face (MicroBooNE's pitch) and a large one (ProtoDUNE's)."""
    print(machine_line("numba"))
    for pitch in (3.0, 4.7):
        with tempfile.TemporaryDirectory() as cache:
            done = subprocess.run(
                [sys.executable, "-c", BUILD],
                input=json.dumps(large_detector(pitch)),
                capture_output=True,
                text=True,
                check=True,
                env=os.environ | {"LARSTORE_CACHE": cache},
            )
        found = json.loads(done.stdout)
        size = f"{found['wires']:,} wires, pitch {pitch} mm, {found['n_y']} × {found['n_z']} pixels"
        peak = f"peak {found['peak']:.2f} GB, {found['before']:.2f} before (bar {BARS['gigabytes']:.0f})"
        print(f"{size}: {found['seconds']:.1f} s (bar {BARS['seconds']:.0f}), {peak}")
        print(f"  {found['areas']:,} areas, {found['file']:.2f} GB on disk")


if __name__ == "__main__":
    main()
