"""A small detector, and simulated events of it."""

from pathlib import Path

import yaml

from preprocess.detector import Detector, load_detector
from preprocess.simulation import SimulationConfig, simulate

PLANES = ((-35.7, -174.0, 80), (35.7, 1.0, 80), (0.0, 2.0, 50))  # angle in degrees, offset in mm, wires
# Two anodes side by side along z with one face each (TPC 1 and 3); 80 + 80 + 50 wires, 0.8 m of drift.
SMALL_DETECTOR = {
    "name": "small",
    "drift_speed_mm_us": 1.565,
    "tick_us": 0.5,
    "t0_us": -50.0,
    "n_ticks": 1400,
    "cathode_x_mm": [800.0],
    "pixel_mm": 2.0,
    "lattice": {
        "channels_per_anode": 210,
        "anodes": [{"x_mm": 0.0, "z_mm": 0.0}, {"x_mm": 0.0, "z_mm": 240.0}],
        "faces": [
            {
                "ident": 0,
                "y_mm": [0.0, 300.0],
                "z_mm": [0.0, 240.0],
                "planes": [
                    {
                        "x_mm": 10.0 - 5.0 * index,
                        "angle_deg": angle,
                        "pitch_mm": 4.669 if angle else 4.79,
                        "offset_mm": offset,
                        "wires": wires,
                        "channels": [[0, 80 * index, 1]],
                        "y_mm": [0.0, 300.0],
                        "z_mm": [0.0, 240.0],
                    }
                    for index, (angle, offset, wires) in enumerate(PLANES)
                ],
            }
        ],
    },
}  # fmt: skip

# A few tracks that all lie in the small detector's read-out window.
SMALL_SIMULATION = SimulationConfig(muons=4.0, times_us=(-20.0, 120.0), beam_tracks=1.0, showers=0.0)


def write_small_detector(folder: str | Path) -> Path:
    """Write the small detector's YAML into a folder; for command lines and configurations."""
    path = Path(folder) / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL_DETECTOR, sort_keys=False), encoding="utf-8")
    return path


def small_detector(folder: str | Path) -> Detector:
    """The small detector, loaded from its YAML in ``folder``."""
    return load_detector(write_small_detector(folder))


def make_inputs(
    folder: str | Path,
    detector: Detector,
    tpcs: tuple[int, ...] = (1,),
    n_files: int = 2,
    n_events: int = 2,
    seed: int = 0,
    config: SimulationConfig = SMALL_SIMULATION,
) -> list[Path]:
    """Simulated frame archives with truth beside them; ``detector`` from ``small_detector``."""
    return simulate(folder, detector, tpcs, n_files, n_events, seed, config)
