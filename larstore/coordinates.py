"""Voxel coordinates: which downsampling is one, and how far coordinates reach."""

from collections.abc import Sequence

from larstore.errors import ConfigError, InputError

LARGEST = 65_534  # coordinates are uint16, and 65535 is the store's fill value


def check_downsample(downsample: Sequence[int]) -> tuple[int, int, int]:
    """Three whole numbers of 1 or more, or a ConfigError."""
    steps = tuple(downsample)
    if len(steps) != 3 or any(int(step) != step or step < 1 for step in steps):
        raise ConfigError(f"downsample = {steps}. Fix: give three whole numbers of 1 or more, as in 8,4,4.")
    return int(steps[0]), int(steps[1]), int(steps[2])


def check_axis(what: str, length: int, step: int) -> None:
    """InputError if an axis of that length at full resolution is too long for the coordinates' type."""
    largest = (length - 1) // step
    if largest > LARGEST:
        raise InputError(
            f"{length} {what} / {step} reach coordinate {largest}, more than {LARGEST}. Fix: downsample further."
        )
