"""docs/architecture.md names rooms that exist, and leaves out none of several files; so does its picture."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
NO_ROOMS = {"testing"}  # of preprocess: builders for tests


def rooms(package: str) -> str:
    """The table of a package, from its heading to the next one."""
    (table,) = re.findall(rf"^\| `{package}/` \| \|\n(.*?)\n\n", PAGE, re.DOTALL | re.MULTILINE)
    return table


@pytest.mark.parametrize("package", ["larstore", "preprocess", "train"])
def test_rooms(package):
    folder, table = ROOT / package, rooms(package)
    for name in re.findall(r"`([\w/]+\.py)`", table):
        assert (folder / name.removeprefix(f"{package}/")).is_file(), name
    named = set(re.findall(rf"`{package}/(\w+)/`", table))
    assert named == {path.parent.name for path in folder.glob("*/__init__.py")} - NO_ROOMS


def test_the_picture_shows_all_packages():
    picture = (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    for package in ("larstore/", "preprocess/", "train/"):
        assert f">{package}<" in picture
    words = set(re.findall(r"\w+", " ".join(re.findall(r'font-weight="600"[^>]*>([^<]+)<', picture))))
    for word in words:
        places = [*ROOT.glob(f"*/{word}"), *ROOT.glob(f"*/{word}.py"), *ROOT.glob(f"*/*/{word}.py")]
        assert places, f"{word} in the picture is no room"
