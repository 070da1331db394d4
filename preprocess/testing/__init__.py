"""Small detectors and valid files of every format, for tests and tutorials: seconds, not minutes."""

from preprocess.testing.depos import (
    DEPO_BUILDERS,
    small_deposits,
    write_bee,
    write_depo_file,
    write_edepsim,
    write_wirecell_depos,
)
from preprocess.testing.detector import (
    SMALL_DETECTOR,
    SMALL_SIMULATION,
    make_inputs,
    small_detector,
    write_small_detector,
)
from preprocess.testing.frames import (
    FRAME_BUILDERS,
    small_waveforms,
    write_frame_file,
    write_numl,
    write_parsed,
    write_wirecell,
    write_wirecell_hdf5,
)

__all__ = [
    "DEPO_BUILDERS",
    "FRAME_BUILDERS",
    "SMALL_DETECTOR",
    "SMALL_SIMULATION",
    "make_inputs",
    "small_deposits",
    "small_detector",
    "small_waveforms",
    "write_bee",
    "write_depo_file",
    "write_edepsim",
    "write_frame_file",
    "write_numl",
    "write_parsed",
    "write_small_detector",
    "write_wirecell",
    "write_wirecell_depos",
    "write_wirecell_hdf5",
]
