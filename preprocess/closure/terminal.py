"""A closure table on the terminal."""

from collections.abc import Sequence

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from preprocess.closure.show import cells, head, main_lines, title
from preprocess.closure.table import groups

WIDTH = 170  # characters: a line of the table is not broken, whatever the terminal


def print_table(table: pd.DataFrame, planes: Sequence[str]) -> None:
    """Print the main lines of a pooled table to stdout, one block a sample, response, threshold and dead fraction."""
    console = Console(width=WIDTH, highlight=False, markup=False)
    for key, lines in groups(table):
        shown = Table(title=title(key), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        for name in head(planes, voxels=False):
            shown.add_column(name, justify="left" if name in ("tracks", "bar") else "right", no_wrap=True)
        for _, line in main_lines(lines).iterrows():
            shown.add_row(*cells(line, planes, voxels=False))
        console.print(shown)
