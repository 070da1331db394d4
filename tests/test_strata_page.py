"""The table of docs/strata.md says what `Strata` says."""

from tests.strata_table import BLOCK, PAGE, page


def test_the_table_is_made_from_the_definitions():
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(), "docs/strata.md is old. Fix: python -m tests.strata_table"
    rows = BLOCK.search(text)[0].splitlines()
    assert len(rows) == 2 + 14
    assert all(row.count("|") == 4 for row in rows)
