"""The page of faults says what the tests of runs show, each row once."""

from tests.fault_table import HEADINGS, PAGE, ROOT, faults, page


def test_the_page_is_made_from_the_tests():
    assert PAGE.read_text(encoding="utf-8") == page(), "docs/faults.md is old. Fix: python -m tests.fault_table"


def test_rows_are_one_line_and_of_real_tests():
    rows = list(faults())
    assert len({row.what for row in rows}) == len(rows) >= 20
    for row in rows:
        assert row.test.startswith("test_")
        assert row.file in HEADINGS
        for text in (row.what, row.then):
            assert "|" not in text
            assert "\n" not in text
            assert text[0].islower() or text.startswith("Ctrl-C"), text
            assert not text.endswith("."), text


def test_every_scenario_on_slurm_has_a_row():
    """But for those where nothing goes wrong."""
    text = (ROOT / "tests" / "slurm" / "test_slurm_runs.py").read_text(encoding="utf-8")
    quiet = {"test_a_run_by_the_command_line", "test_the_driver_as_a_job"}
    tests = {line.split("(")[0].removeprefix("def ") for line in text.splitlines() if line.startswith("def test_")}
    assert tests - quiet == {row.test for row in faults() if row.file.endswith("test_slurm_runs.py")}
