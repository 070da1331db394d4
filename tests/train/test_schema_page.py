"""docs/configuration.md is what the schema says now, and says it of every key."""

import re
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from train.schema import Config, NamedSection, Section
from train.schema_page import RESEARCH, comments, page, type_text, walk

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page(), "Fix: python -m train.schema_page > docs/configuration.md"


def test_every_key_has_a_row():
    text = page()
    paths = [path for path, _, _ in walk(Config)]
    assert {"data.charge.scale", "train.n_epochs", "trainer.scheduler", "output_dir"} <= set(paths)
    for path in paths:
        assert f"\n| `{path.rpartition('.')[2]}` | " in text
    assert set(RESEARCH) <= set(paths)


class Inner(Section):
    """What the block is for. And more.

    Much more.
    """


class Example(Section):
    """A block."""

    plain: int = 3  # what it is
    bounded: float | None = Field(default=None, gt=0.0, le=1.0)
    # Said above,
    # in two lines.
    of_two: Literal["a", "b"] = "a"
    long: tuple[int | None, int | None, int | None] | list[int] | None = Field(
        default=None, title="what makes the line too long for one"
    )  # behind a bracket
    many: list[list[int] | None] | None = None  # None = all
    named: dict[str, NamedSection] = Field(default={})
    inner: Inner = Inner()


def test_meanings_are_the_comments():
    assert comments(Example) == {
        "plain": "what it is",
        "bounded": "",
        "of_two": "Said above, in two lines.",
        "long": "behind a bracket",
        "many": "None = all",
        "named": "",
        "inner": "What the block is for",
    }


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("plain", "whole number"),
        ("bounded", "number > 0, ≤ 1 or null"),
        ("of_two", "`a`, `b`"),
        ("long", "3 × (whole number or null) or list of whole number or null"),
        ("many", "list of (list of whole number or null) or null"),
        ("named", "names and blocks"),
    ],
)
def test_types_in_words(key, words):
    assert type_text(Example.model_fields[key]) == words


def test_links_and_files_exist():
    text = page()
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (PAGE.parent / target).exists()
    for path in re.findall(r"`(configs/[\w./]+)`", text):
        assert (PAGE.parents[1] / path).exists()
