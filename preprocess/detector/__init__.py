"""Detectors: built-in ones, Wire-Cell wires files, and detector YAMLs."""

import os
from pathlib import Path

from larstore.errors import ConfigError
from preprocess.detector.build import build_detector
from preprocess.detector.config import BUILT_IN, YAML_SUFFIXES, DetectorConfig, read_config
from preprocess.detector.lattice import lattice_wires
from preprocess.detector.model import Detector, Plane, Tpc
from preprocess.detector.wires import read_wires

__all__ = ["Detector", "Plane", "Tpc", "detector_names", "load_detector"]

WIRES_SUFFIXES = (".json", ".bz2", ".gz")
SEARCH_VARIABLES = ("LARSTORE_WIRES_PATH", "WIRECELL_PATH")


def detector_names() -> list[str]:
    """Names of the built-in detectors."""
    return sorted(path.stem for path in BUILT_IN.glob("*.yaml"))


def load_detector(name_or_path: str | Path) -> Detector:
    """A built-in detector by name, a Wire-Cell wires file (.json, .bz2, .gz) or a detector YAML by path.

    A bare wires file tiles; drift and ticks are then not known.

    Raises:
        ConfigError: an unknown name, a YAML with wrong keys.
        InputError: a wires file that cannot be used.
    """
    text = str(name_or_path)
    path = Path(os.path.expandvars(text)).expanduser()
    if text in detector_names():
        path = BUILT_IN / f"{text}.yaml"
    if path.suffix in YAML_SUFFIXES:
        config = read_config(path)
        if config.lattice is not None:
            return build_detector(config, lattice_wires(config.lattice), path)
        wires = _find_wires(str(config.wires), path)
        return build_detector(config, read_wires(wires), wires)
    if path.suffix in WIRES_SUFFIXES:
        config = DetectorConfig(name=path.name.partition(".")[0], wires=str(path))
        return build_detector(config, read_wires(path), path)
    raise ConfigError(
        f"Unknown detector {text!r}. Fix: use one of {', '.join(detector_names())}, "
        "or the path of a Wire-Cell wires file (.json, .json.bz2, .json.gz) or of a detector YAML."
    )


def _find_wires(wires: str, config_path: Path) -> Path:
    expanded = os.path.expandvars(wires)
    if "$" in expanded:
        raise ConfigError(f"{config_path}: wires: {wires}: a variable in it is not set. Fix: export it.")
    path = config_path.parent / Path(expanded).expanduser()
    folders = [Path(f) for key in SEARCH_VARIABLES for f in os.environ.get(key, "").split(os.pathsep) if f]
    for candidate in (path, *(folder / expanded for folder in folders)):
        if candidate.is_file():
            return candidate
    raise ConfigError(
        f"{config_path}: wires: {wires} is neither beside it nor in a folder of {' or '.join(SEARCH_VARIABLES)}. "
        f"Fix: get it from github.com/WireCell/wire-cell-data (protodunevd: github.com/DUNE/dunereco) and "
        f"export {SEARCH_VARIABLES[0]}=FOLDER."
    )
