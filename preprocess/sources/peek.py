"""What `larstore inspect` shows of a file, as it lies in the file: no detector, no options, no unit applied."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from preprocess.sources.frames import RawFrame

Array = npt.NDArray[Any]


@dataclass
class Peek:
    """One array of waveforms in a file, or a remark about something else in it.

    Attributes:
        ident: number of the event, as the file calls it.
        name: the tag, or the name of the array or table.
        values: (channel, tick) values in the file's unit; None for what holds no waveforms.
        channels: (channel,) global channel numbers, where the file has them.
        plane: (channel,) index of the plane, where the file has it.
        tick_us: length of a tick, where the file tells.
        first_tick: number of the first tick.
        ambiguous: whether either axis may be the channels.
        transposed: whether the file has (tick, channel).
        remark: what it is, in a few words.
    """

    ident: int
    name: str
    values: Array | None = None
    channels: Array | None = None
    plane: Array | None = None
    tick_us: float | None = None
    first_tick: float = 0.0
    ambiguous: bool = False
    transposed: bool = False
    remark: str = ""

    @classmethod
    def of_frame(cls, raw: "RawFrame") -> Self:
        """The peek at a Wire-Cell frame; what is wrong with it shows up when it is read."""
        n = len(np.atleast_1d(raw.channels))
        values, square = raw.frame, raw.frame.shape == (n, n)
        transposed = values.ndim == 2 and values.shape[0] != n and values.shape[1] == n
        told = raw.tickinfo.shape == (3,)
        return cls(
            raw.ident, raw.tag, values.T if transposed else values, np.atleast_1d(raw.channels),
            tick_us=float(raw.tickinfo[1]) / 1000.0 if told else None,
            first_tick=float(raw.tickinfo[2]) if told else 0.0, ambiguous=square, transposed=transposed,
        )  # fmt: skip
