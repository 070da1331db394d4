"""All numbers of `larstore demo`, in one place: how much is simulated, what the network is and how long it trains."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

PREDICTION = "network"  # its name in the store


@dataclass(frozen=True)
class DemoSettings:
    """One demo. Files are numbered from 1; the last ``held_out`` of them are never trained on.

    Attributes:
        files, events_per_file: what is simulated, ``files`` × ``events_per_file`` events.
        held_out: files kept for the evaluation.
        simulation: settings of `larstore simulate`; what it makes and the response decide how hard the task is.
        preprocessing: further options of `larstore preprocess`.
        training: the configuration of `larstore train`, without paths and file ranges.
    """

    detector: str = "protodune-sp"
    tpc: int = 1
    files: int = 40
    events_per_file: int = 4
    held_out: int = 5
    seed: int = 1
    simulation: dict[str, Any] = field(default_factory=lambda: dict(SIMULATION))
    preprocessing: tuple[str, ...] = ("--threshold", "2750")  # electrons a tick
    training: dict[str, Any] = field(default_factory=lambda: dict(TRAINING))

    @property
    def train_files(self) -> tuple[int, int]:
        """First and last file to train on."""
        return 1, self.files - self.held_out

    @property
    def held_out_files(self) -> tuple[int, int]:
        """First and last file to evaluate on."""
        return self.files - self.held_out + 1, self.files

    def with_events(self, events: int) -> "DemoSettings":
        """As many files as ``events`` need, two at least, a sixth of them held out."""
        files = max(2, -(-events // self.events_per_file))
        return dataclasses.replace(self, files=files, held_out=max(1, round(files / 6)))


# All that shapes the result is written out here, as a report must tell it; the rest are constants of argon.
SIMULATION: dict[str, Any] = {
    "muons": 1.0,  # a TPC in times_us; ProtoDUNE-SP has about 20
    "times_us": [-3325.0, 3125.0],
    "beam_tracks": 1.0,
    "beam_energy_gev": [0.3, 7.0],
    "showers": 0.5,
    "shower_energy_gev": [0.3, 2.0],
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
    "gaps": 0.5,  # probability that a piece of a prolonged region of u or v is lost
    "gap_ticks": 50,
    "gap_piece": 25,
    "gap_peak": 6.0,
    "dead_channels": 0.0,
}

TRAINING: dict[str, Any] = {
    "seed": 1,
    "trainer": {"name": "one_cycle", "warmup": 0.1, "final": 0.01},
    "data": {
        "threshold": 0,  # electrons: any truth makes a voxel true
        "charge": {"transform": "asinh", "scale": 0.001},
        "batch_size": 2,
        "max_voxels": 150_000,
        "over_budget": "skip",
    },
    "model": {
        "name": "cellnet_binary",
        "spatial_size": [1024, 1024, 512],
        "nChannels": 8,
        "nStrides": 4,
        "n_2D": 0,
        "downsample_t": [2, 2],
    },
    "loss": {"name": "BCELoss"},
    "optimizer": {"name": "Adam", "lr": 0.005},
    # 60 epochs overfit its 140 images; the time limit ends it earlier on slow machines, wherever it is.
    "train": {"n_epochs": 30, "max_minutes": 6.5},
    "metrics": {"acc": "BinAccuracy"},
}

QUICK_TRAINING: dict[str, Any] = {
    **TRAINING,
    "model": {**TRAINING["model"], "nChannels": 4, "nStrides": 2},
    "train": {"n_epochs": 1, "max_minutes": 1.0},
}

FULL = DemoSettings()
QUICK = DemoSettings(files=2, events_per_file=1, held_out=1, training=QUICK_TRAINING)
