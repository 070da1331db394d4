"""All that shapes the figures of `bench_training`: samples, response, networks, limits. Fixed before the training."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

DETECTOR, TPC = "protodune-sp", 1
DOWNSAMPLE = (8, 4, 4)
COUNTED_VOXELS = 50  # a particle counts where its truth fills so many voxels, as the clusters of the 2021 sample did
TRUE_ELECTRONS = 5000.0  # a voxel is true from here on: 0.17 MeV in 2021

# One response for everything. Values and sources: preprocess.simulation.config.
RESPONSE: dict[str, Any] = {
    "lifetime_us": 10400.0,
    "diffusion_l_cm2_s": 4.0,
    "diffusion_t_cm2_s": 8.8,
    # Of u, v, w:
    "smear_ticks": [2.69, 2.68, 2.71],
    "smear_pitches": [0.74, 0.72, 0.14],
    "gains": [1.0, 1.0, 1.0],
    "noise": [215.0, 220.0, 138.0],  # electrons a tick, rms
    "noise_ticks": 2.65,
    "induction_us": 3.04,
    "noise_low_mhz": 0.016,
    "roi_threshold": [3.0, 3.0, 5.0],  # in rms
    "roi_sure": [4.5, 4.5, 5.0],
    "roi_padding": 5,
    "gaps": 0.5,
    "gap_ticks": 50,
    "gap_piece": 25,
    "gap_peak": 6.0,
    "dead_channels": 0.0,
}
THRESHOLD = 500.0  # electrons a tick above which a sample is lit: 2.3 rms of u and v, 3.6 of w


@dataclass(frozen=True)
class Sample:
    """One simulated sample: an event a file, files counted from 1; the last ``held_out`` are never trained on.

    Attributes:
        name: of the sample and its store.
        title: for tables.
        particles: simulation settings beside the response.
        pdg, wanted: fewest and most particles of this kind (`COUNTED_VOXELS`) in the TPC; files with others are passed
            over.
        train, held_out: events.
        seed: of the simulation.
    """

    name: str
    title: str
    particles: dict[str, Any]
    pdg: int
    wanted: tuple[int, int]
    train: int
    held_out: int
    seed: int

    @property
    def events(self) -> int:
        """All events."""
        return self.train + self.held_out


BEAM = Sample(
    "beam",
    "beam + cosmics",
    {"muons": 18.0, "times_us": [-3325.0, 3125.0], "beam_tracks": 1.0, "beam_energy_gev": [0.3, 7.0], "showers": 0.0},
    pdg=13,
    wanted=(8, 16),
    train=400,
    held_out=80,
    seed=9001,
)
ELECTRONS = Sample(
    "electrons",
    "1 GeV electrons",
    {"muons": 0.0, "beam_tracks": 0.0, "showers": 1.0, "shower_energy_gev": [1.0, 1.0]},
    pdg=11,
    wanted=(1, 1),
    train=640,
    held_out=80,
    seed=9002,
)

# What the same network is asked about beside: (name, title, changes of the response, share of induction regions lost).
VARIATIONS: tuple[tuple[str, str, dict[str, Any], float], ...] = (
    ("diffusion", "diffusion 7.2 / 12.0 cm²/s", {"diffusion_l_cm2_s": 7.2, "diffusion_t_cm2_s": 12.0}, 0.0),
    (
        "smear",
        "smear × 1.2",
        {
            "smear_ticks": [round(1.2 * s, 4) for s in RESPONSE["smear_ticks"]],
            "smear_pitches": [round(1.2 * s, 4) for s in RESPONSE["smear_pitches"]],
        },
        0.0,
    ),
    ("gain", "V gain × 0.93", {"gains": [1.0, 0.93, 1.0]}, 0.0),
    ("lost", "5 % of induction regions lost", {}, 0.05),
)

# The rate was chosen by trainings of seven minutes on one core: 360 + 600 of the events trained on here, compared on
# 40 + 40 others of them; those held out were not looked at.
GHOST: dict[str, Any] = {
    "seed": 1,
    "trainer": {"name": "one_cycle", "warmup": 0.05, "final": 0.005},
    "data": {
        "threshold": TRUE_ELECTRONS,
        "charge": {"transform": "asinh", "scale": 0.001},
        "flips": ["y", "z"],
        "batch_size": 2,
        "max_voxels": 400_000,
        "over_budget": "fail",
    },
    "model": {
        "name": "cellnet_binary",
        "spatial_size": [1024, 1024, 512],
        "nChannels": 16,
        "nStrides": 4,
        "n_2D": 0,
        "downsample_t": [2, 2],
        "momentum": 0.99,
    },
    "loss": {"name": "BCELoss"},
    "optimizer": {"name": "Adam", "lr": 0.02},
    "train": {"n_epochs": 100, "max_minutes": 60.0},  # the time ends it
    "metrics": {"acc": "BinAccuracy"},
}

# Scores and charges at once: the charge is learnt on true voxels alone, of what reaches the wires.
CHARGE: dict[str, Any] = {
    "seed": 1,
    "trainer": {"name": "one_cycle", "warmup": 0.05, "final": 0.005},
    "data": {
        "truth": "collected",
        "scale": 3e-5,  # a voxel that a muon crosses holds about 1: the head starts near 0
        "charge": {"transform": "asinh", "scale": 0.001},
        "flips": ["y", "z"],
        "batch_size": 2,
        "max_voxels": 400_000,
        "over_budget": "fail",
    },
    "model": {**GHOST["model"], "name": "cellnet_multi", "nHiddenLayers": 2},
    "loss": {
        "name": "MultiTaskLoss",
        "score": "BCELoss",
        "charge": {"name": "SmoothL1Loss", "beta": 0.03},  # 1,000 electrons
        "score_weight": 1.0,
        "charge_weight": 1.0,
        "threshold": 0.09,  # 3,000 electrons
    },
    "optimizer": {"name": "Adam", "lr": 0.003},
    "train": {"n_epochs": 100, "max_minutes": 30.0},  # starts from the weights of the ghost net
}


@dataclass(frozen=True)
class Settings:
    """One run of the benchmark; as JSON it is kept beside the results, and another run's are refused."""

    samples: tuple[Sample, ...] = (BEAM, ELECTRONS)
    response: dict[str, Any] = field(default_factory=lambda: dict(RESPONSE))
    threshold: float = THRESHOLD
    variations: tuple[str, ...] = tuple(name for name, *_ in VARIATIONS)
    varied: int = 40  # held-out events of each sample that are simulated again with another response
    frames: tuple[str, ...] = ("sp", "hd", "vd")  # of `training_frames`
    ghost: dict[str, Any] = field(default_factory=lambda: dict(GHOST))
    charge: dict[str, Any] = field(default_factory=lambda: dict(CHARGE))

    def plain(self) -> dict[str, Any]:
        """As JSON keeps it."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values


FULL = Settings()


def _small(config: dict[str, Any], minutes: float) -> dict[str, Any]:
    model = {**config["model"], "nChannels": 4, "nStrides": 2}
    return {**config, "model": model, "train": {"n_epochs": 1, "max_minutes": minutes}}


# To see that all steps run; its figures mean nothing.
TINY = Settings(
    samples=(
        dataclasses.replace(BEAM, particles={**BEAM.particles, "muons": 2.0}, wanted=(1, 4), train=2, held_out=2),
        dataclasses.replace(ELECTRONS, train=2, held_out=2),
    ),
    threshold=1500.0,
    variations=("lost",),
    varied=1,
    frames=("sp",),
    ghost=_small(GHOST, 1.0),
    charge=_small(CHARGE, 1.0),
)
