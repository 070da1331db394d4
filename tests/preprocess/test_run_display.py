"""What is shown of a run: rates, a line, HTML, and a bar that fits into 80 columns."""

import pytest

from larstore.records import Failure
from preprocess.notebook_progress import html_of, in_notebook
from preprocess.progress import details, short, shown
from preprocess.run_log import duration, line_of
from preprocess.run_state import RunState, Summary


def make_state(tmp_path, **changes):
    state = RunState(tmp_path / "run<1>.zarr", Summary(), n_units=40, n_bytes=4000, phase="working", workers=12)
    state.note_progress(0.0)
    state.summary.units_done, state.summary.units_failed, state.summary.voxels = 9, 1, 1_234_567
    state.summary.failures = [Failure(1, 1, "a", "b")]
    state.bytes_done = 1000
    for name, value in changes.items():
        setattr(state, name, value)
    state.note_progress(50.0)
    return state


def test_rates_and_what_is_left(tmp_path):
    state = make_state(tmp_path)
    assert state.units_over == 10
    assert state.units_per_second == pytest.approx(0.2)
    assert state.voxels_per_second == pytest.approx(1_234_567 / 50)
    assert state.seconds_left == pytest.approx(150)
    state.note_progress(1000.0)
    state.note_progress(1001.0)  # nothing was done for long: rates are those of late
    assert state.units_per_second == 0
    assert state.seconds_left is None


def test_nothing_is_left_of_a_run_that_is_done(tmp_path):
    state = make_state(tmp_path, phase="done", bytes_done=4000)
    assert "0:00:00 left" in line_of(state)


def test_a_line(tmp_path):
    line = line_of(make_state(tmp_path, pending_jobs=3))
    assert line == (
        "working: 10/40 units, 1 failed, 1,234,567 voxels, 0.20 units/s, 24,691 voxels/s, 0:02:30 left, 12 workers, "
        "3 jobs pending"
    )
    assert (duration(None), duration(3671.4)) == ("?", "1:01:11")


def test_html_is_escaped(tmp_path):
    html = html_of(make_state(tmp_path, dashboard="http://127.0.0.1:8787/status", news=["job <7> lost"]))
    assert "run&lt;1&gt;.zarr" in html
    assert "job &lt;7&gt; lost" in html
    assert 'max="40" value="10"' in html
    assert 'href="http://127.0.0.1:8787/status"' in html
    assert not in_notebook()


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (999.7, "1k"), (1_234_567, "1.23M"), (2e9, "2G"), (5e15, "5e+03T")]
)
def test_short_numbers(number, text):
    assert short(number) == text


def test_what_stands_beside_the_bar_leaves_it_room(tmp_path):
    assert details(make_state(tmp_path)) == "1.23M voxels · 24.7k/s · 12 workers · 1 failed"
    assert len(details(make_state(tmp_path, pending_jobs=38))) <= 64


def test_without_a_terminal_a_line_for_each_phase(tmp_path, capsys):
    state = make_state(tmp_path)
    with shown() as show:
        show(state)
        show(state)
        state.phase = "done"
        show(state)
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == ["working", "done"]
