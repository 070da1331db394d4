"""The disk cache of pixel areas: keyed by content, mended when damaged, safe with several builders."""

import logging
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from preprocess import cache
from preprocess.detector import load_detector
from preprocess.detector.build import build_detector
from preprocess.detector.config import DetectorConfig, read_config
from preprocess.detector.wires import FaceWires, PlaneWires


def tiny(pixel=2.0, shift=0.0):
    planes = []
    for ident, (dy, dz) in enumerate([(20.0, 20.0), (20.0, -20.0), (30.0, 0.0)]):
        start = np.array([[5.0 * (2 - ident), 0.0, 4.0 * k + shift] for k in range(6)])
        channel = np.arange(6, dtype=np.int32) + 6 * ident
        planes.append(PlaneWires(ident, channel, np.zeros(6, np.int32), start, start + np.array([0.0, dy, dz])))
    face = FaceWires(0, 0, tuple(planes), ((0.0, 24.0), (0.0, 20.0)))
    return build_detector(DetectorConfig(name="tiny", wires="-", pixel_mm=pixel), [face], "tiny").tpc(1)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LARSTORE_CACHE", str(tmp_path / "cache"))
    cache._remembered.cache_clear()
    yield tmp_path / "cache"
    cache._remembered.cache_clear()


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_second_time_it_is_mapped_from_disk(folder, monkeypatch):
    first = cache.overlaps_of(tiny())
    cache._remembered.cache_clear()
    monkeypatch.setattr(cache, "build_overlaps", None)  # must not be called again
    second = cache.overlaps_of(tiny())
    assert equal(first, second)
    assert not second.area.flags.writeable
    assert isinstance(second.area.base, np.memmap | np.ndarray)
    assert len(list(folder.iterdir())) == 1


def test_what_matters_is_in_the_key(folder, monkeypatch):
    cache.overlaps_of(tiny())
    cache.overlaps_of(tiny(pixel=1.0))
    cache.overlaps_of(tiny(shift=0.5))
    monkeypatch.setattr(cache, "_code_digest", lambda: b"another version of the code")
    cache.overlaps_of(tiny())
    assert len(list(folder.iterdir())) == 4


def test_equal_anodes_share_a_file(folder):
    for name in ("protodune-sp-2021", "protodune-sp"):
        detector = load_detector(name)
        keys = {
            cache.overlaps_key(
                [cache.strips_of(plane, tpc.shift_z_mm) for plane in tpc.planes], cache.grid_of(tpc), 2560
            )
            for tpc in map(detector.tpc, (1, 5, 9))
        }
        assert len(keys) == 1


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other"])
def test_a_damaged_file_is_rebuilt_with_a_log_line(folder, caplog, damage):
    expected = [np.array(a) for a in cache.overlaps_of(tiny())]
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-3] ^= 4
    elif damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "empty":
        content.clear()
    else:
        content[:4] = b"PK\3\4"
    path.unlink()
    path.write_bytes(content)
    cache._remembered.cache_clear()
    with caplog.at_level(logging.WARNING):
        found = cache.overlaps_of(tiny())
    assert equal(found, expected)
    assert str(path) in caplog.text
    assert equal(cache.read_overlaps(path), expected)


def test_without_a_place_for_it_it_stays_in_memory(tmp_path, monkeypatch, caplog):
    expected = [np.array(a) for a in cache.overlaps_of(tiny())]
    cache._remembered.cache_clear()
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("LARSTORE_CACHE", str(blocked / "sub"))
    with caplog.at_level(logging.WARNING):
        found = cache.overlaps_of(tiny())
    assert equal(found, expected)
    assert "stay in memory" in caplog.text


def test_processes_that_build_at_once_leave_one_good_file(folder):
    script = (
        "from preprocess.detector import load_detector; from preprocess.cache import overlaps_of;"
        "print(len(overlaps_of(load_detector('protodune-sp').tpc(1)).area))"
    )
    running = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    counts = {process.communicate(timeout=200)[0].strip() for process in running}
    assert len(counts) == 1
    (path,) = folder.iterdir()
    assert len(cache.read_overlaps(path).area) == int(counts.pop())


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("LARSTORE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "larstore"


def test_built_in_yamls_give_whole_numbers_of_pixels():
    for name in ("protodune-sp-2021", "protodune-sp"):
        config = read_config(cache.Path(cache.__file__).parent / "detector" / f"{name}.yaml")
        for face in config.lattice.faces:
            assert_array_equal(np.ceil((np.diff([face.y_mm, face.z_mm]) / 2 - 0.1).ravel()), [2992, 1150])
