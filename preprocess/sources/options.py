"""How a file is read where its own words are missing or wrong: unit, sign, tick, orientation, tag."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Orientation = Literal["auto", "channels_first", "ticks_first"]
MissingChannels = Literal["refuse", "bad"]


class ReadOptions(BaseModel):
    """Options of all readers; those that a format has no use for are refused by its reader.

    Attributes:
        truth: truth products to look for beside the file, in order of preference; the first one that exists is read.
            None: no truth.
        scale: factor from the file's unit to electrons; None: the format's own (1 for Wire-Cell frames, 1000 for the
            research code's).
        sign: −1 for files whose charge is negative.
        tick_us: length of the file's ticks, where its own label is wrong; it must be the detector's.
        orientation: of a frame's rows; auto: by the number of channels.
        tag: frames of which tag, for files that hold several.
        missing_channels: what to do with a frame whose number of channels in a plane is not the detector's: refuse
            it (the detector may be another one), or take the channels that it lacks as bad.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    truth: tuple[str, ...] | None = None
    scale: Annotated[float | None, Field(description="not 0")] = None
    sign: Literal[1, -1] = 1
    tick_us: Annotated[float | None, Field(gt=0)] = None
    orientation: Orientation = "auto"
    tag: str | None = None
    missing_channels: MissingChannels = "refuse"
