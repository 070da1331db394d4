"""Damaged wires files and detector YAMLs: a detector, or one line that names the file."""

import bz2
import gzip
import json

import pytest

from larstore.errors import ConfigError, InputError
from preprocess.detector import load_detector
from preprocess.testing import SMALL_DETECTOR, write_small_detector
from tests.preprocess.fuzzing import fuzz


def wires_document():
    """Two planes of four wires each."""
    points, wires, planes = [], [], []
    for ident, (dy, dz) in enumerate([(20.0, 10.0), (20.0, 0.0)]):
        for k in range(4):
            ends = [(-10.0, 5.0 * k), (-10.0 + dy, 5.0 * k + dz)]
            points += [{"Point": {"x": -5.0 * ident, "y": y, "z": z}} for y, z in ends]
            n = len(wires)
            wires.append({"Wire": {"ident": n, "channel": n, "segment": 0, "tail": 2 * n, "head": 2 * n + 1}})
        planes.append({"Plane": {"ident": ident, "wires": list(range(4 * ident, 4 * ident + 4))}})
    anodes, faces = [{"Anode": {"ident": 0, "faces": [0]}}], [{"Face": {"ident": 0, "planes": [0, 1]}}]
    return {"Store": {"anodes": anodes, "faces": faces, "planes": planes, "wires": wires, "points": points}}


def read(path):
    try:
        detector = load_detector(path)
    except ConfigError as error:  # a face that is too large for the coordinates, a key that does not exist
        raise InputError(str(error)) from error
    return detector.geometry().hash


@pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".bz2", bz2.compress), (".gz", gzip.compress)])
def test_damaged_wires_files(tmp_path, suffix, pack):
    path = tmp_path / f"wires.json{suffix}"
    path.write_bytes(pack(json.dumps(wires_document()).encode()))
    assert fuzz(path, read) > 100


def test_damaged_yamls(tmp_path):
    assert SMALL_DETECTOR["name"] == "small"
    assert fuzz(write_small_detector(tmp_path), read, n=200) > 50
