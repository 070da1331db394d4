"""What every reader yields: one event's waveforms of one TPC, with the truth that belongs to it."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass
class Event:
    """One event of one TPC, as a reader hands it to the pipeline.

    Attributes:
        event: position in the file, from 0.
        waveform: (ticks, channels) float32, electrons; columns are the TPC's ``channels``, in that order.
        first_tick: tick number of row 0 (frames may start late); coordinates count from tick 0.
        bad: (n, 3) int32 rows [column, first tick, end tick): channels that are dead for these ticks.
        truth: (m, 4) float64 rows tick, y pixel, z pixel (full resolution, floats are rounded down), electrons;
            None where the input has no truth.
        run, subrun, event_id: numbers of the frame, -1 where unknown.
        notes: things the reader left out, with a count each (mask rows of channels outside this frame, …).
    """

    event: int
    waveform: npt.NDArray[np.float32]
    first_tick: int = 0
    bad: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty((0, 3), np.int32))
    truth: npt.NDArray[np.float64] | None = None
    run: int = -1
    subrun: int = -1
    event_id: int = -1
    notes: dict[str, int] = field(default_factory=dict)
