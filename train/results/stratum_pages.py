"""Sections of an evaluation's page that show strata: figures of scores and of charges, at full and coarser voxels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from larstore.report import Page

Row = dict[Any, Any]  # of the table of metrics
Rows = Mapping[tuple[str, ...], Row]
OF_SCORES = (("", "average_precision"), ("best", "purity"), ("best", "efficiency"), ("best", "efficiency_all"))
SCORE_HEAD = ("AP", "purity", "efficiency", "efficiency (all)")
OF_CHARGES = (  # the others are in metrics.csv
    ("", "charge_bias (voxel, true)"),
    ("", "charge_bias (voxel, true, with charge)"),
    ("", "charge_half_width (voxel, true, with charge)"),
    ("", "charge_total"),
)
CHARGE_HEAD = ("bias", "bias, with charge", "half width, with charge", "kept / all true")


def add_stratum(
    page: Page, summary: dict[str, Any], rows: Rows, stratum: tuple[str, Sequence[str]], cells: Callable[..., list[str]]
) -> None:
    """The tables of one kind of strata: (kind, labels). ``cells`` makes value and interval of a row, or dashes."""
    kind, labels = stratum
    page.heading(f"By {kind.replace('_', ' ')}")
    page.paragraph(summary["strata"].get(kind, ""), note=True)
    level, (full, *coarser) = summary["levels"][0]["name"], summary["voxel_sizes"]
    scores = {name: summary["methods"][name]["label"] for name in summary["predictions"]}
    charges = {name: each["label"] for name, each in summary["charges"].items()}
    parts = (("", scores, "ghosts", OF_SCORES, SCORE_HEAD), ("Charge", charges, "", OF_CHARGES, CHARGE_HEAD))

    def lines(
        size: str, names: Mapping[str, str], halo: str, figures: Sequence[tuple[str, str]]
    ) -> list[tuple[str, str, list[str]]]:
        found = []
        for label in labels:
            for name, words in names.items():
                each = [rows.get((size, kind, label, level, halo, name, *figure)) for figure in figures]
                if any(row is not None for row in each):
                    found.append((label, words, [cell for row in each for cell in cells(row)]))
        return found

    for title, names, halo, figures, words in parts:
        head = [text for word in words for text in (word, "95 %")]
        shown = [[label, name, *found] for label, name, found in lines(full, names, halo, figures)]
        if shown:
            page.table([title, "", *head], shown)
        shown = [
            [label, size.replace(",", " × "), name, *found]
            for size in coarser
            for label, name, found in lines(size, names, halo, figures)
        ]
        if shown:
            folded = f"{title or 'Scores'} at coarser voxels"
            page.table([title, "voxels taken as one", "", *head], shown, summary=folded)
