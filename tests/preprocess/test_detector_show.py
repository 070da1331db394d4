"""`larstore detector`: the list, the table, the picture, and what it refuses."""

import json
import os
import re

import pytest
from typer.testing import CliRunner

from larstore.cli import build_app
from larstore.errors import ConfigError
from preprocess.detector import detector_names, load_detector
from preprocess.detector.picture import draw_face
from preprocess.testing import write_small_detector

runner = CliRunner()
app = build_app()
needs_data = pytest.mark.skipif("LARSTORE_TEST_DATA" not in os.environ, reason="LARSTORE_TEST_DATA is not set")


def shown(*arguments):
    result = runner.invoke(app, ["detector", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_list_names_all_and_says_what_is_missing(monkeypatch):
    monkeypatch.delenv("LARSTORE_WIRES_PATH", raising=False)
    monkeypatch.delenv("WIRECELL_PATH", raising=False)
    text = shown()
    for name in detector_names():
        assert name in text
    assert re.search(r"protodune-sp +│ 12 \(6\) +│ 15,360 +│ 33,312", text)
    assert "LARSTORE_WIRES_PATH" in text  # the fix for those whose wires file is not there


def test_a_table_groups_equal_faces():
    text = shown("protodune-sp")
    assert "1, 5, 9" in text
    assert "from +x, 3584.6 mm" in text
    assert "not live" in text
    assert "800, 348 wrapped" not in text
    assert "800, 800 wrapped" in text
    assert "2992 × 1150" in text
    assert "-35.71°" in text
    only = shown("protodune-sp", "--tpc", "2")
    assert "1, 5, 9" not in only
    assert "from −x" in only


@needs_data
def test_strips_that_go_on_in_the_other_face_are_wrapped():
    assert len(re.findall(r"28[67], 9[78] wrapped", shown("protodune-vd", "--tpc", "0"))) == 2


def test_a_picture_shows_every_channel(tmp_path):
    out = tmp_path / "wires.html"
    text = shown(str(write_small_detector(tmp_path)), "--tpc", "3", "-o", str(out))
    assert text.rstrip().endswith(str(out))
    page = out.read_text(encoding="utf-8")
    texts = [json.loads(each) for each in re.findall(r'"text":(\[.*?\])', page)]
    some, every = ({int(re.search(r"channel (\d+)", text)[1]) for text in each} for each in texts[:2])
    assert some == set(range(210, 290, 2))  # plane u of the second anode, about 40 of 80
    assert every == set(range(210, 290))
    assert 'src="http' not in page
    with pytest.raises(ConfigError, match="no TPC 2"):
        draw_face(load_detector(tmp_path / "small.yaml"), 2, out)


def test_a_bare_wires_file_shows_what_it_does_not_tell(tmp_path):
    text = "name: bare\nextends: small.yaml\n"
    write_small_detector(tmp_path)
    (tmp_path / "bare.yaml").write_text(text + "tick_us: null\nt0_us: null\ncathode_x_mm: []\n", encoding="utf-8")
    output = shown(str(tmp_path / "bare.yaml"))
    assert "tick ? µs" in output
    assert "from +x, ?" in output


@pytest.mark.parametrize("arguments", [["--tpc", "1"], ["-o", "x.html"]])
def test_options_need_a_name(arguments):
    assert runner.invoke(app, ["detector", *arguments]).exit_code == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("extends: no-such", r"extends: 'no-such' is neither"),
        ("extends: loop.yaml", r"extends this one again"),
        ("extends: protodune-sp\nup: [0, 0, 0]", r"up.*direction against gravity"),
        ("extends: protodune-sp\ndrift_sped_mm_us: 1", r"did you mean drift_speed_mm_us"),
    ],
)
def test_wrong_yamls_are_one_line(tmp_path, text, says):
    path = tmp_path / "loop.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=says) as caught:
        load_detector(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_detector_that_extends_another_changes_only_what_it_says(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: protodune-sp\nname: mine\nup: [0, 3, 4]\ndrift_speed_mm_us: 1.6\n", encoding="utf-8")
    mine, base = load_detector(path), load_detector("protodune-sp")
    assert mine.name == "mine"
    assert mine.tpc(1).up == (0.0, 0.6, 0.8)
    changed = {"drift_speed_mm_us": 1.6, "up": (0.0, 0.6, 0.8)}
    assert mine.tpc(1).frame.model_dump() == base.tpc(1).frame.model_dump() | changed


def test_up_does_not_change_the_geometry_hash(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: protodune-sp\nup: [1, 0, 0]\n", encoding="utf-8")
    assert load_detector(path).geometry().hash == load_detector("protodune-sp").geometry().hash
