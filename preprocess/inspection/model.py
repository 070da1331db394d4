"""What an inspection finds."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass
class Waveforms:
    """The waveforms of one tag, array or table, over the events that were looked at; values in the file's unit.

    Attributes:
        name: the tag, or the name of the array.
        n_events: how many events were looked at.
        shapes: (channels, ticks), each one that occurs.
        dtype: of the values.
        low, high: smallest and largest value.
        total: sum of the values.
        n_samples, n_lit, n_bad: all samples, those above 1 electron with the format's own scale, and NaN or infinite
            ones.
        channels: first, last and number of channels; None where the file does not number them.
        tick_us: lengths of a tick, each one that occurs.
        first_tick: the first tick of the first event.
        transposed, ambiguous: the frames are (ticks, channels); either axis may be the channels.
        spread: robust standard deviation of all samples (1.4826 × median of |value − median|) of the first event.
        charge: charge per collection wire along tracks; None where nothing is lit, or no collection plane is known.
        n_regions: regions it was found from.
    """

    name: str
    n_events: int = 0
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    dtype: str = ""
    low: float = float("inf")
    high: float = float("-inf")
    total: float = 0.0
    n_samples: int = 0
    n_lit: int = 0
    n_bad: int = 0
    channels: tuple[int, int, int] | None = None
    tick_us: list[float] = field(default_factory=list)
    first_tick: float = 0.0
    transposed: bool = False
    ambiguous: bool = False
    spread: float = 0.0
    charge: float | None = None
    n_regions: int = 0

    @property
    def lit(self) -> float:
        """Fraction of the samples that are lit."""
        return self.n_lit / self.n_samples if self.n_samples else 0.0


@dataclass
class Deposits:
    """The deposits of one event: number, box in mm, times in µs, electrons, and how many points have a particle."""

    event: int
    n_points: int
    low_mm: tuple[float, float, float]
    high_mm: tuple[float, float, float]
    times_us: tuple[float, float]
    electrons: float
    n_pdg: int
    n_track: int


@dataclass
class Fit:
    """How the file's channels go with a built-in detector.

    Attributes:
        detector: its name.
        tpcs: the live faces that the channels belong to; empty where they belong to none.
        counts: channels per plane, in the file and of the detector, or why there are none.
        complete: whether every channel is there, and no other.
        named: whether the file's name names the detector.
    """

    detector: str
    tpcs: list[int]
    counts: str
    complete: bool
    named: bool = False


@dataclass
class Inspection:
    """What is in a file.

    Attributes:
        path, kind, what: the file, and its format in a few words.
        n_events, n_looked_at: events in the file, and those that were looked at; None where nobody can say.
        product, named_tpc: of the file's name ``<head>_<product>-TPC<n>``.
        scale: the format's own factor to electrons.
        waveforms, deposits: one for each tag, or event.
        remarks: what else is inside.
        fits: how the channels go with the built-in detectors, complete fits first.
        warnings: what looks wrong, and what to do.
        command: reads the file, as far as the file tells.
    """

    path: Path
    kind: Literal["frames", "depos", "unknown"]
    what: str
    n_events: int | None = None
    n_looked_at: int = 0
    product: str = ""
    named_tpc: int | None = None
    scale: float = 1.0
    waveforms: list[Waveforms] = field(default_factory=list)
    deposits: list[Deposits] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    fits: list[Fit] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    command: str | None = None
