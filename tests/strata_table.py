"""Writes the table of docs/strata.md from what `Strata` says: python -m tests.strata_table"""

import re
import tempfile
from pathlib import Path

import larstore
from larstore.testing import make_store
from train.results.strata import Strata

PAGE = Path(__file__).parents[1] / "docs" / "strata.md"
BLOCK = re.compile(r"(?<=<!-- strata -->\n).*?(?=<!-- /strata -->)", re.DOTALL)
OWN = {"sample": "one each", "tpc": "one each", "segment": "y 1/2, z 1/12 · … · y 2/2, z 12/12"}


def table() -> str:
    """A row for each name of a store that can give all."""
    with tempfile.TemporaryDirectory() as folder:
        store = larstore.open(make_store(Path(folder) / "s.zarr", 1, 1, truth_columns=("pdg", "track")))
        strata = Strata(store, origins={13: "cosmic"})
    assert not strata.missing
    rows = ["| name | strata | by |", "|---|---|---|"]
    for name, text in strata.definitions.items():
        if name == "origin":
            text = text.replace("PDG 13 is cosmic", "of samples and PDG codes")
        rows.append(f"| `{name}` | {OWN.get(name, ' · '.join(strata.labels[name]))} | {text} |")
    return "\n".join(rows) + "\n"


def page() -> str:
    """The whole page with the table as it is now."""
    return BLOCK.sub(lambda _: table(), PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
