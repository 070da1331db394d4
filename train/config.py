"""Read a configuration file, apply `--set`, expand environment variables; every mistake is one line with its fix."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from larstore.errors import ConfigError
from larstore.settings import apply_overrides, check, read_yaml
from train.schema import Config

__all__ = ["Config", "doubtful_units", "load_config", "make_config", "naming_file", "with_inputs", "with_planes"]

EXAMPLE = "'larstore examples ghost3d'"
FEW = 10.0  # electrons of noise a voxel that no read-out has so little of
# Blocks that may be written as their name alone.
SHORT = ("trainer", "trainer.scheduler", "metrics.*", "loss.score", "loss.charge")


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Read and check a YAML configuration.

    Args:
        path: the file.
        overrides: ``"a.b=value"`` entries, values in YAML, applied over the file.

    Raises:
        ConfigError: the file is missing or no YAML, a key is unknown, or a value is wrong; one line that says which.
    """
    values = read_yaml(path, EXAMPLE)
    apply_overrides(values, overrides, by_name=SHORT)
    config = make_config(values, str(path))
    config._origin = str(path)
    return config


def make_config(values: dict[str, Any], origin: str = "config") -> Config:
    """Check the values of a configuration; ``origin`` (its file) is named in errors. Raises ConfigError."""
    config = check(Config, values, origin, EXAMPLE)
    config.output_dir = _expand(config.output_dir, origin, "output_dir")
    config.data.data_path = [_expand(path, origin, "data.data_path") for path in config.data.data_path]
    if config.train.transfer is not None:
        config.train.transfer.path = _expand(config.train.transfer.path, origin, "train.transfer.from")
    return config


def doubtful_units(config: Config) -> list[str]:
    """Charges that look as if they were in thousands of electrons, the research code's unit: a line each."""
    data, found = config.data, []
    where = f"{config._origin}: " if config._origin else ""
    for name, number in (("mean", data.noise.mean), ("sd", data.noise.sd)) if data.noise else ():
        if 0 < abs(number) < FEW:
            found.append(
                f"{where}data.noise.{name} = {number:g} electrons changes nothing. "
                f"Fix: {1000 * number:g}, if thousands of electrons are meant, as in the research code"
            )
    if data.round is not None and data.round >= 0:
        found.append(
            f"{where}data.round = {data.round} keeps {10.0**-data.round:g} electrons, so all of a charge. "
            f"Fix: {data.round - 3}, if decimals of thousands of electrons are meant, as in the research code"
        )
    return found


@contextmanager
def naming_file(config: Config) -> Iterator[None]:
    """Put the file that ``config`` was read from before the ConfigErrors raised inside."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{config._origin}: {error}" if config._origin else str(error)) from error


def with_inputs(config: Config, n_planes: int) -> Config:
    """A copy whose model has as many inputs as the data. Raises ConfigError where it asks for another number."""
    n_inputs = config.data.n_inputs(n_planes)
    given = config.model.arguments.get("nInputFeatures", n_inputs)
    if given != n_inputs:
        raise ConfigError(
            f"model.nInputFeatures is {given}, the data have {n_inputs} inputs per voxel ({n_planes} planes and "
            f"{n_inputs - n_planes} z_segments). Fix: leave it out, or {n_inputs}"
        )
    model = config.model.model_copy(update={"nInputFeatures": n_inputs})
    return config.model_copy(update={"model": model})


def with_planes(config: Config, planes: Sequence[str]) -> Config:
    """A copy that says which planes its network takes, in which order."""
    return config.model_copy(update={"data": config.data.model_copy(update={"input_planes": list(planes)})})


def _expand(text: str, origin: str, key: str) -> str:
    expanded = os.path.expanduser(os.path.expandvars(text))
    missing = re.search(r"\$(\w+|\{[^}]*\})", expanded)
    if missing:
        raise ConfigError(f"{origin}: {key}: {missing[0]} is not set. Fix: export it, or write the path out")
    return expanded
