"""docs/howto-reader.md: its reader is found, reads what its builder writes, and stands damage."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import preprocess.sources.readers as package
from larstore.errors import InputError
from preprocess.sources import open_source
from preprocess.sources.registry import known_readers
from preprocess.testing import small_detector, small_waveforms
from tests.preprocess.fuzzing import fuzz

PAGE = (Path(__file__).parents[2] / "docs" / "howto-reader.md").read_text(encoding="utf-8")


@pytest.fixture
def builder(tmp_path, monkeypatch):
    """The page's reader among the others, and its builder of files."""
    code, build = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "stand.py").write_text(code)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / "more")])
    known_readers.cache_clear()
    names: dict[str, Any] = vars(import_module("preprocess.testing.frames")).copy()
    exec(compile(build, "howto-reader.md", "exec"), names)  # noqa: S102 - our own page
    yield names["write_stand"]
    known_readers.cache_clear()


def test_it_reads_what_was_written(tmp_path, builder):
    detector = small_detector(tmp_path)
    tpc = detector.tpc(1)
    waveforms = small_waveforms(tpc, 3, 40)
    path = builder(tmp_path / "stand_7.npz", tpc, waveforms)
    assert "stand" in [reader.name for reader in known_readers()]
    source = open_source(path)
    assert (type(source).__name__, source.n_events, source.tpcs(detector)) == ("StandSource", 3, [1])
    events = list(source.events(tpc))
    assert [event.event for event in events] == [0, 1, 2]
    for event, waveform in zip(events, waveforms, strict=True):
        np.testing.assert_array_equal(event.waveform, waveform)
    with pytest.raises(InputError, match=r"ticks of 0\.5 us"):
        list(open_source(path).events(small_detector_of_other_ticks(tmp_path).tpc(1)))


def small_detector_of_other_ticks(folder):
    from preprocess.detector import load_detector

    path = folder / "slow.yaml"
    path.write_text("extends: small.yaml\nname: slow\ntick_us: 2.0\n")
    return load_detector(path)


def test_it_stands_damage(tmp_path, builder):
    detector = small_detector(tmp_path)
    path = builder(tmp_path / "stand_7.npz", detector.tpc(1), small_waveforms(detector.tpc(1), 2, 30))

    def read(path):
        for event in open_source(path).events(detector.tpc(1)):
            assert np.isfinite(event.waveform).all()

    assert fuzz(path, read, 40, 1) > 8


def test_what_the_page_names_is_there(builder):
    readme = Path(package.__path__[0])
    for name in re.findall(r"`preprocess/sources/readers/(\w+\.py)`", PAGE):
        assert name == "stand.py" or (readme / name).is_file()
